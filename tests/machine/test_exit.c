/*
 * Every exit reason is handled or named. Most can't be had from a guest on one machine (the processor's
 * refusal to enter, events of other hypervisors), so the reason is written into the kvm_run area of a real,
 * unstarted vCPU, as the kernel would, and the handler is called.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "kvm/backend.h"
#include "machine/internal.h"

static char path[] = "/tmp/hv-exit-XXXXXX";
static struct hv_machine *m;
static struct kvm_run *run;
static char logged[512];

static void keep(void *ctx, enum hv_log_level level, const char *line)
{
	(void)ctx;
	(void)level;
	snprintf(logged, sizeof(logged), "%s", line);
}

static const struct hv_log log_to_test = {.level = HV_LOG_DEBUG, .sink = keep};

static void set_up_with(const char *irqchip)
{
	static const uint8_t code[] = {0xf4};
	struct hv_error err = {0};
	struct hv_config c;
	int fd = mkstemp(path);

	cr_assert(fd >= 0);
	cr_assert_eq(write(fd, code, sizeof(code)), (ssize_t)sizeof(code));
	close(fd);
	hv_config_init(&c);
	cr_assert_eq(hv_config_set(&c, "image", path, &err), 0, "%s", err.text);
	cr_assert_eq(hv_config_set(&c, "boot", "flat", &err), 0, "%s", err.text);
	cr_assert_eq(hv_config_set(&c, "irqchip", irqchip, &err), 0, "%s", err.text);
	cr_assert_eq(hv_config_finish(&c, &err), 0, "%s", err.text);
	cr_assert_eq(hv_machine_create(&c, NULL, &log_to_test, &m, &err), 0, "%s", err.text);
	hv_config_free(&c);
	run = m->cpus[0].vcpu.run;
}

static void set_up(void)
{
	set_up_with("none");
}

static void tear_down(void)
{
	hv_machine_destroy(m);
	unlink(path);
}

static void leave_by(uint32_t reason)
{
	run->exit_reason = reason;
	hv_exit_handle(&m->cpus[0]);
}

static void goes_on(void)
{
	cr_assert(!atomic_load(&m->ending), "%s", m->end.text);
}

static void ended_saying(enum hv_end_reason reason, int status, const char *what)
{
	cr_assert(atomic_load(&m->ending));
	cr_assert_eq(m->end.reason, reason);
	cr_assert_eq(m->end.status, status);
	cr_assert(strstr(m->end.text, what), "%s", m->end.text);
}

TestSuite(exit, .init = set_up, .fini = tear_down);

Test(exit, fail_entry_names_the_hardware_reason_and_its_usual_causes)
{
	run->fail_entry.hardware_entry_failure_reason = 0x80000021;
	leave_by(KVM_EXIT_FAIL_ENTRY);
	ended_saying(HV_END_ERROR, 1, "0x80000021");
	cr_assert(strstr(m->end.text, "invalid guest state"), "%s", m->end.text);
	cr_assert(strstr(m->end.text, "rip 0000000000001000"), "%s", m->end.text);
}

Test(exit, an_internal_error_shows_the_instruction)
{
	run->internal.suberror = KVM_INTERNAL_ERROR_EMULATION;
	run->internal.ndata = 1;
	run->internal.data[0] = 0x1234;
	leave_by(KVM_EXIT_INTERNAL_ERROR);
	ended_saying(HV_END_ERROR, 1, "emulation failure");
	cr_assert(strstr(m->end.text, "data[0] = 0x1234"), "%s", m->end.text);
	cr_assert(strstr(m->end.text, "hlt"), "%s", m->end.text);
}

/* 64-bit mode at CPL 0, as far as the register file goes; the exit brings the instruction along. */
static void leave_by_int3(void)
{
	struct kvm_sregs s;

	cr_assert_eq(hv_vcpu_get_sregs(&m->cpus[0].vcpu, &s, NULL), 0);
	s.cr0 = 0x80000011;
	s.cr4 = 0x20;
	s.efer = 0x500;
	s.cs.l = 1;
	s.cs.db = 0;
	cr_assert_eq(hv_vcpu_set_sregs(&m->cpus[0].vcpu, &s, NULL), 0);
	run->emulation_failure.suberror = KVM_INTERNAL_ERROR_EMULATION;
	run->emulation_failure.ndata = 4;
	run->emulation_failure.flags = KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES;
	run->emulation_failure.insn_size = 1;
	run->emulation_failure.insn_bytes[0] = 0xcc;
	leave_by(KVM_EXIT_INTERNAL_ERROR);
}

Test(exit, a_software_back_end_is_helped_on_and_it_is_said_once)
{
	struct kvm_vcpu_events events;

	m->assist = true;
	leave_by_int3();
	goes_on();
	cr_assert_eq(atomic_load(&m->cpus[0].recorder.assisted[HV_ASSIST_INT3]), 1);
	cr_assert(strstr(logged, "int3"), "%s", logged);
	logged[0] = '\0';
	leave_by_int3();
	goes_on();
	cr_assert_eq(atomic_load(&m->cpus[0].recorder.assisted[HV_ASSIST_INT3]), 2);
	cr_assert_str_empty(logged, "%s", logged);
	cr_assert_eq(ioctl(m->cpus[0].vcpu.fd, KVM_GET_VCPU_EVENTS, &events), 0);
	cr_assert_eq(events.exception.nr, 3, "%u", events.exception.nr);
}

Test(exit, no_other_back_end_is)
{
	m->assist = false;
	leave_by_int3();
	ended_saying(HV_END_ERROR, 1, "emulation failure");
	cr_assert_eq(atomic_load(&m->cpus[0].recorder.assisted[HV_ASSIST_INT3]), 0);
	cr_assert(!strstr(logged, "int3"), "%s", logged);
}

/* And which one a machine takes this for follows from the back end alone. */
Test(exit, only_a_software_back_end_is_taken_for_one)
{
	cr_assert_eq(m->assist, hv_backend() == HV_BACKEND_SOFTWARE);
}

Test(exit, each_suberror_has_a_name)
{
	static const char *const names[] = {[KVM_INTERNAL_ERROR_SIMUL_EX] = "simultaneous exceptions",
					    [KVM_INTERNAL_ERROR_DELIVERY_EV] = "event was being delivered",
					    [KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON] = "didn't expect"};

	for (uint32_t i = KVM_INTERNAL_ERROR_SIMUL_EX; i < HV_ARRAY_SIZE(names); i++) {
		run->internal.suberror = i;
		run->internal.ndata = 0;
		leave_by(KVM_EXIT_INTERNAL_ERROR);
		ended_saying(HV_END_ERROR, 1, names[i]);
		atomic_store(&m->ending, false);
	}
}

Test(exit, a_shutdown_event_is_an_orderly_end)
{
	run->system_event.type = KVM_SYSTEM_EVENT_SHUTDOWN;
	leave_by(KVM_EXIT_SYSTEM_EVENT);
	ended_saying(HV_END_HALT, 0, "");
}

Test(exit, a_reset_event_asks_for_a_reset)
{
	run->system_event.type = KVM_SYSTEM_EVENT_RESET;
	leave_by(KVM_EXIT_SYSTEM_EVENT);
	goes_on();
	cr_assert(m->reset_wanted);
}

Test(exit, a_crash_event_is_told)
{
	run->system_event.type = KVM_SYSTEM_EVENT_CRASH;
	leave_by(KVM_EXIT_SYSTEM_EVENT);
	ended_saying(HV_END_ERROR, 1, "crashed");
}

Test(exit, an_unknown_event_is_told_with_its_number)
{
	run->system_event.type = 77;
	leave_by(KVM_EXIT_SYSTEM_EVENT);
	ended_saying(HV_END_ERROR, 1, "77");
}

Test(exit, a_shutdown_is_a_triple_fault)
{
	leave_by(KVM_EXIT_SHUTDOWN);
	ended_saying(HV_END_TRIPLE_FAULT, 1, "triple fault");
}

Test(exit, a_hypercall_is_not_offered)
{
	run->hypercall.nr = 5;
	leave_by(KVM_EXIT_HYPERCALL);
	goes_on();
	cr_assert_eq(run->hypercall.ret, (uint64_t)-1000);
}

Test(exit, an_msr_exit_gives_the_guest_its_fault)
{
	run->msr.index = 0x1234;
	run->msr.error = 0;
	leave_by(KVM_EXIT_X86_WRMSR);
	goes_on();
	cr_assert_eq(run->msr.error, 1);
}

Test(exit, harmless_reasons_go_on)
{
	static const uint32_t harmless[] = {KVM_EXIT_IRQ_WINDOW_OPEN, KVM_EXIT_INTR, KVM_EXIT_SET_TPR,
					    KVM_EXIT_X86_BUS_LOCK, KVM_EXIT_IOAPIC_EOI};

	for (unsigned i = 0; i < HV_ARRAY_SIZE(harmless); i++) {
		leave_by(harmless[i]);
		goes_on();
	}
}

Test(exit, every_other_reason_ends_with_its_name_or_number)
{
	for (uint32_t reason = 0; reason < 70; reason++) {
		char number[16];

		switch (reason) {
		case KVM_EXIT_IO:
		case KVM_EXIT_MMIO:
		case KVM_EXIT_HLT:
		case KVM_EXIT_DEBUG:
		case KVM_EXIT_SHUTDOWN:
		case KVM_EXIT_SYSTEM_EVENT:
		case KVM_EXIT_HYPERCALL:
		case KVM_EXIT_X86_RDMSR:
		case KVM_EXIT_X86_WRMSR:
		case KVM_EXIT_X86_BUS_LOCK:
		case KVM_EXIT_IRQ_WINDOW_OPEN:
		case KVM_EXIT_INTR:
		case KVM_EXIT_SET_TPR:
		case KVM_EXIT_IOAPIC_EOI:
			continue; /* each has its own test */
		}
		memset((char *)run + offsetof(struct kvm_run, hw), 0, 256);
		leave_by(reason);
		ended_saying(HV_END_ERROR, 1, "vCPU 0");
		snprintf(number, sizeof(number), "%u", reason);
		cr_assert(strstr(m->end.text, number) || reason == KVM_EXIT_UNKNOWN ||
				  reason == KVM_EXIT_EXCEPTION || reason == KVM_EXIT_FAIL_ENTRY ||
				  reason == KVM_EXIT_INTERNAL_ERROR || reason == 37 || reason == 39,
			  "%u: %s", reason, m->end.text);
		atomic_store(&m->ending, false);
	}
}

Test(exit, who_uses_an_interrupt_controller_that_is_not_there_is_told_what_to_give)
{
	run->io.port = 0x21;
	run->io.size = 1;
	run->io.count = 1;
	run->io.direction = KVM_EXIT_IO_OUT;
	run->io.data_offset = 4096;
	leave_by(KVM_EXIT_IO);
	goes_on();
	cr_assert(strstr(logged, "--irqchip full"), "%s", logged);
	cr_assert_eq(atomic_load(&m->unclaimed), 1);
}

Test(exit, an_eoi_reaches_the_ioapic)
{
	tear_down();
	strcpy(path, "/tmp/hv-exit-XXXXXX");
	set_up_with("split");
	run->eoi.vector = 0x30;
	leave_by(KVM_EXIT_IOAPIC_EOI);
	goes_on();
}

Test(exit, hints_name_contradictions_in_the_control_registers)
{
	struct kvm_sregs s;

	cr_assert_eq(hv_vcpu_get_sregs(&m->cpus[0].vcpu, &s, NULL), 0);
	s.cr0 |= 1;
	s.cs.db = 1;
	cr_assert_eq(hv_vcpu_set_sregs(&m->cpus[0].vcpu, &s, NULL), 0);
	leave_by(KVM_EXIT_SHUTDOWN);
	cr_assert(strstr(m->end.text, "protected mode"), "%s", m->end.text);
}
