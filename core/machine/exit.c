/*
 * The exit loop's other half: KVM_RUN came back, and this file does what the guest wanted, reason by reason.
 * Port and MMIO accesses go to a bus and so to a device; what can't be gone on from ends the machine with a
 * diagnosis. On this way nothing is allocated, and no lock is taken but the device's own. It calls the buses,
 * kvm/ and, to end or to stop the machine, machine.c. Rules: KVM API 5 (struct kvm_run), SDM vol. 1, 19
 * (input/output).
 */
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#include "kvm/translate.h"
#include "machine/internal.h"

/* Newer than some distributions' linux/kvm.h. */
#define EXIT_NOTIFY       37
#define EXIT_MEMORY_FAULT 39

static void fail(struct hv_cpu *cpu, const char *headline)
{
	char text[sizeof(cpu->machine->end.text)];

	hv_diagnose(cpu, headline, text, sizeof(text));
	hv_machine_finish(cpu->machine, HV_END_ERROR, HV_EXIT_FAILED, text);
}

/* Nobody answered at this port or address: count it, and once say what the user can do. */
static void unclaimed(struct hv_cpu *cpu, struct hv_exit_record *rec, bool pio)
{
	struct hv_machine *m = cpu->machine;
	bool pic =
		pio && (rec->addr == 0x20 || rec->addr == 0x21 || (rec->addr >= 0x40 && rec->addr <= 0x43));
	bool apic = !pio && (rec->addr >> 12 == 0xfee00 || rec->addr >> 12 == 0xfec00);

	rec->unclaimed = true;
	atomic_fetch_add_explicit(&m->unclaimed, 1, memory_order_relaxed);
	if ((pic || apic) && m->irqchip == HV_IRQCHIP_NONE) {
		if (!atomic_exchange(&m->warned_irqchip, true))
			hv_log(m->log, HV_LOG_WARN,
			       "the guest uses the %s (%s %#llx), which this VM doesn't have; give --irqchip "
			       "full",
			       apic ? "APIC" : "PIC or PIT", pio ? "port" : "address",
			       (unsigned long long)rec->addr);
	} else if (!atomic_exchange(&m->warned_unclaimed, true)) {
		hv_log(m->log, HV_LOG_INFO,
		       "no device answers at %s %#llx (said once; `info exits` counts them)",
		       pio ? "port" : "address", (unsigned long long)rec->addr);
	}
}

/*
 * Port I/O. KVM puts the data behind the kvm_run structure, at data_offset: count units of size bytes (count
 * is more than one for ins and outs with rep). What `in` reads is stored there, and KVM takes it at the next
 * KVM_RUN.
 */
static void exit_io(struct hv_cpu *cpu, struct hv_exit_record *rec)
{
	struct kvm_run *run = cpu->vcpu.run;
	bool out = run->io.direction == KVM_EXIT_IO_OUT;
	int rc = 0;

	/* hv:solution lab=2 task=4 */
	uint8_t *data = (uint8_t *)run + run->io.data_offset;

	for (uint32_t i = 0; i < run->io.count; i++) {
		uint8_t *unit = data + (size_t)i * run->io.size;
		int one = out ? hv_bus_write(&cpu->machine->pio, run->io.port, unit, run->io.size)
			      : hv_bus_read(&cpu->machine->pio, run->io.port, unit, run->io.size);
		rc = one ? one : rc;
	}
	memcpy(&rec->value, data, run->io.size); /* what a trace shows: the first of them */
	/* hv:end */
	rec->addr = run->io.port;
	rec->size = run->io.size;
	rec->count = run->io.count;
	rec->write = out;
	if (rc)
		unclaimed(cpu, rec, true);
}

/* Memory-mapped I/O: an access to an address in no slot, or a write to a read-only one. */
static void exit_mmio(struct hv_cpu *cpu, struct hv_exit_record *rec)
{
	struct kvm_run *run = cpu->vcpu.run;
	unsigned size = run->mmio.len < 8 ? run->mmio.len : 8;
	int rc = 0;

	/* hv:solution lab=2 task=5 */
	rc = run->mmio.is_write ? hv_bus_write(&cpu->machine->mmio, run->mmio.phys_addr, run->mmio.data, size)
				: hv_bus_read(&cpu->machine->mmio, run->mmio.phys_addr, run->mmio.data, size);
	/* hv:end */
	rec->addr = run->mmio.phys_addr;
	rec->size = (uint8_t)size;
	rec->count = 1;
	rec->write = run->mmio.is_write;
	memcpy(&rec->value, run->mmio.data, size);
	if (rc)
		unclaimed(cpu, rec, false);
}

/*
 * hlt comes out to us only without an in-kernel APIC. Then nothing can wake the CPU but an interrupt that
 * someone injected from outside; when none waits, the guest is done.
 */
static void exit_hlt(struct hv_cpu *cpu)
{
	struct hv_machine *m = cpu->machine;
	bool waiting;

	pthread_mutex_lock(&m->lock);
	waiting = cpu->vector_count > 0 && cpu->vcpu.run->if_flag;
	pthread_mutex_unlock(&m->lock);
	if (!waiting)
		hv_machine_finish(m, HV_END_HALT, HV_EXIT_OK, "");
}

static void exit_system_event(struct hv_cpu *cpu, struct hv_exit_record *rec)
{
	char line[128];

	rec->addr = cpu->vcpu.run->system_event.type;
	switch (cpu->vcpu.run->system_event.type) {
	case KVM_SYSTEM_EVENT_SHUTDOWN:
		hv_machine_power(cpu->machine, HV_POWER_OFF, 0);
		return;
	case KVM_SYSTEM_EVENT_RESET:
		hv_machine_power(cpu->machine, HV_POWER_RESET, 0);
		return;
	case KVM_SYSTEM_EVENT_CRASH:
		fail(cpu, "the guest says that it has crashed (system event)");
		return;
	default:
		snprintf(line, sizeof(line), "KVM reports system event %u, which hvkit doesn't know",
			 cpu->vcpu.run->system_event.type);
		fail(cpu, line);
	}
}

/* A stop that the debugger asked for is the debugger's; any other goes back into the guest as its own
 * exception. */
static void exit_debug(struct hv_cpu *cpu)
{
	struct kvm_debug_exit_arch info = cpu->vcpu.run->debug.arch;
	struct kvm_vcpu_events events;

	if (hv_machine_debug_event(cpu, &info))
		return;
	if (ioctl(cpu->vcpu.fd, KVM_GET_VCPU_EVENTS, &events) == 0) {
		events.exception.injected = 1;
		events.exception.nr = (uint8_t)info.exception;
		events.exception.has_error_code = 0;
		ioctl(cpu->vcpu.fd, KVM_SET_VCPU_EVENTS, &events);
	}
}

/* A software back end met one of the instructions that hvkit completes for it. */
static bool assisted(struct hv_cpu *cpu)
{
	struct hv_machine *m = cpu->machine;
	enum hv_assist_kind kind;

	if (!m->assist || hv_assist(&cpu->vcpu, &m->memory, &kind))
		return false;
	hv_count(&cpu->recorder.assisted[kind], 1);
	if (!atomic_exchange(&m->told_assist[kind], true))
		hv_log(m->log, HV_LOG_INFO,
		       "this KVM's software back end doesn't know %s; hvkit completes it (said once; `info "
		       "exits` "
		       "counts them)",
		       hv_assist_name(kind));
	return true;
}

/*
 * The kernel's emulator gave up. Some back ends emulate all of CPL 0 and don't know int3: with a debugger
 * attached that is how a breakpoint looks there. Without one the guest gets its own exception (assist.h).
 */
static void exit_internal_error(struct hv_cpu *cpu, struct hv_exit_record *rec)
{
	struct kvm_run *run = cpu->vcpu.run;
	struct kvm_sregs sregs;
	struct kvm_regs regs;
	uint8_t opcode = 0;
	char line[128];

	rec->addr = run->internal.suberror;
	if (run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION &&
	    !hv_vcpu_get_regs(&cpu->vcpu, &regs, NULL) && !hv_vcpu_get_sregs(&cpu->vcpu, &sregs, NULL) &&
	    !hv_virtual_read(&cpu->machine->memory, &sregs, sregs.cs.base + regs.rip, &opcode, 1, NULL) &&
	    opcode == 0xcc) {
		struct kvm_debug_exit_arch info = {.exception = 3, .pc = sregs.cs.base + regs.rip};

		if (hv_machine_debug_event(cpu, &info))
			return;
	}
	if (run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION && assisted(cpu))
		return;
	snprintf(line, sizeof(line), "KVM cannot go on with this guest (internal error, suberror %u)",
		 run->internal.suberror);
	fail(cpu, line);
}

static void exit_shutdown(struct hv_cpu *cpu)
{
	char text[sizeof(cpu->machine->end.text)];

	hv_diagnose(cpu, "triple fault: the guest met an exception while it had no working handler for one",
		    text, sizeof(text));
	hv_machine_finish(cpu->machine, HV_END_TRIPLE_FAULT, HV_EXIT_FAILED, text);
}

void hv_exit_failed(struct hv_cpu *cpu, int error)
{
	char line[128];

	/* hv:solution lab=2 task=6 */
	if (error == -EINTR) { /* kicked; the loop's head looks why */
		hv_count(&cpu->recorder.signals, 1);
		return;
	}
	if (error == -EAGAIN) /* an AP that its BSP is just starting */
		return;
	/* hv:end */
	snprintf(line, sizeof(line), "KVM_RUN fails: %s", strerror(-error));
	fail(cpu, line);
}

void hv_exit_handle(struct hv_cpu *cpu)
{
	struct kvm_run *run = cpu->vcpu.run;
	struct hv_exit_record *rec = hv_recorder_add(&cpu->recorder, run->exit_reason);
	char line[160];

	cpu->record = rec;
	cpu->unfinished = true; /* harmless where the exit has nothing to complete */
	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		exit_io(cpu, rec);
		break;
	case KVM_EXIT_MMIO:
		exit_mmio(cpu, rec);
		break;
	/* hv:solution lab=2 task=7 */
	case KVM_EXIT_HLT:
		exit_hlt(cpu);
		break;
	case KVM_EXIT_SHUTDOWN:
		exit_shutdown(cpu);
		break;
	case KVM_EXIT_FAIL_ENTRY:
		rec->addr = run->fail_entry.hardware_entry_failure_reason;
		snprintf(line, sizeof(line),
			 "the processor refuses to enter the guest (hardware reason %#llx)",
			 (unsigned long long)run->fail_entry.hardware_entry_failure_reason);
		fail(cpu, line);
		break;
	case KVM_EXIT_INTERNAL_ERROR:
		exit_internal_error(cpu, rec);
		break;
	/* hv:end */
	case KVM_EXIT_IRQ_WINDOW_OPEN: /* smp.c injects what waits before the next KVM_RUN */
	case KVM_EXIT_INTR:            /* a signal, reported as an exit by old kernels */
	case KVM_EXIT_SET_TPR:
		break;
	case KVM_EXIT_IOAPIC_EOI:
		rec->addr = run->eoi.vector;
		if (cpu->machine->ioapic)
			hv_ioapic_eoi(cpu->machine->ioapic, run->eoi.vector);
		break;
	case KVM_EXIT_DEBUG:
		rec->addr = run->debug.arch.pc;
		exit_debug(cpu);
		break;
	case KVM_EXIT_SYSTEM_EVENT:
		exit_system_event(cpu, rec);
		break;
	case KVM_EXIT_HYPERCALL:
		rec->addr = run->hypercall.nr;
		run->hypercall.ret = (uint64_t)-1000; /* -KVM_ENOSYS: this VM offers none */
		break;
	case KVM_EXIT_X86_RDMSR:
	case KVM_EXIT_X86_WRMSR: /* only where asked for; the guest gets its #GP */
		rec->addr = run->msr.index;
		rec->value = run->msr.data;
		rec->write = run->exit_reason == KVM_EXIT_X86_WRMSR;
		run->msr.error = 1;
		break;
	case KVM_EXIT_X86_BUS_LOCK:
		break;
	case KVM_EXIT_UNKNOWN:
		rec->addr = run->hw.hardware_exit_reason;
		snprintf(line, sizeof(line), "an exit that KVM itself doesn't know (hardware reason %#llx)",
			 (unsigned long long)run->hw.hardware_exit_reason);
		fail(cpu, line);
		break;
	case KVM_EXIT_EXCEPTION:
		rec->addr = run->ex.exception;
		snprintf(line, sizeof(line), "KVM hands out exception %u (error code %#x)", run->ex.exception,
			 run->ex.error_code);
		fail(cpu, line);
		break;
	case EXIT_NOTIFY:
		fail(cpu, "the guest kept the processor from taking any interrupt (notify VM exit)");
		break;
	case EXIT_MEMORY_FAULT:
		fail(cpu, "KVM cannot resolve a page of the guest's memory (memory fault)");
		break;
	default:
		snprintf(line, sizeof(line), "exit reason %u (%s) is not one that this VM asked for",
			 run->exit_reason, hv_exit_name(run->exit_reason));
		fail(cpu, line);
	}
}
