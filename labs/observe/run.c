/*
 * One KVM_RUN: what the program left in the shared area when it entered, and what KVM left there at the exit.
 * Registers come with each exit because kvm_valid_regs is set from here (KVM_CAP_SYNC_REGS). Rules: KVM API 5
 * (struct kvm_run).
 */
#include <string.h>

#include "observe.h"

/* Newer than some distributions' linux/kvm.h; the names are hv_exit_name's. */
static const char *const exit_names[] = {
	[KVM_EXIT_UNKNOWN] = "unknown",
	[KVM_EXIT_EXCEPTION] = "exception",
	[KVM_EXIT_IO] = "io",
	[KVM_EXIT_HYPERCALL] = "hypercall",
	[KVM_EXIT_DEBUG] = "debug",
	[KVM_EXIT_HLT] = "hlt",
	[KVM_EXIT_MMIO] = "mmio",
	[KVM_EXIT_IRQ_WINDOW_OPEN] = "irq_window_open",
	[KVM_EXIT_SHUTDOWN] = "shutdown",
	[KVM_EXIT_FAIL_ENTRY] = "fail_entry",
	[KVM_EXIT_INTR] = "intr",
	[KVM_EXIT_SET_TPR] = "set_tpr",
	[KVM_EXIT_TPR_ACCESS] = "tpr_access",
	[KVM_EXIT_NMI] = "nmi",
	[KVM_EXIT_INTERNAL_ERROR] = "internal_error",
	[KVM_EXIT_WATCHDOG] = "watchdog",
	[KVM_EXIT_SYSTEM_EVENT] = "system_event",
	[KVM_EXIT_IOAPIC_EOI] = "ioapic_eoi",
	[KVM_EXIT_HYPERV] = "hyperv",
	[KVM_EXIT_X86_RDMSR] = "x86_rdmsr",
	[KVM_EXIT_X86_WRMSR] = "x86_wrmsr",
	[KVM_EXIT_DIRTY_RING_FULL] = "dirty_ring_full",
	[KVM_EXIT_AP_RESET_HOLD] = "ap_reset_hold",
	[KVM_EXIT_X86_BUS_LOCK] = "x86_bus_lock",
	[KVM_EXIT_XEN] = "xen",
	[37] = "notify",
	[39] = "memory_fault",
};

static const char *exit_name(uint32_t reason)
{
	return reason < ARRAY_SIZE(exit_names) && exit_names[reason] ? exit_names[reason] : "unknown";
}

#define WANTED_REGS (KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS)

/* The bytes [offset, offset + length) of the shared area; NULL when they aren't inside. */
static const void *area(const struct vcpu *v, uint64_t offset, uint64_t length)
{
	if (!v->run || offset > v->run_size || length > v->run_size - offset)
		return NULL;
	return (const uint8_t *)v->run + offset;
}

void run_entered(struct session *s, struct task *t)
{
	struct call *c = &t->call;
	struct vcpu *v = c->on.vcpu;
	const void *answer = area(v, v->awaited.offset, v->awaited.length);

	t->vcpu = v;
	c->immediate = state_immediate(v);
	c->request_window = v->run ? v->run->request_interrupt_window : 0;
	c->replied = v->awaited.length > 0 && v->awaited.length <= sizeof(c->reply) && answer;
	c->reply_length = v->awaited.length;
	if (c->replied)
		memcpy(c->reply, answer, c->reply_length);
	v->awaited.length = 0;
	s->kept = false;
	if (v->run)
		v->run->kvm_valid_regs |= WANTED_REGS & s->state.sync;
	if (!v->vm->ran) {
		v->vm->ran = true;
		dump_first(s, v->vm);
	}
}

static void begin(struct session *s, const struct task *t)
{
	const struct call *c = &t->call;
	struct out *o = &s->out;

	out_open(o, NULL, '{');
	out_text(o, "k", "run");
	out_u64(o, "t", c->entered);
	out_u64(o, "d", since(s) - c->entered);
	out_i64(o, "tid", t->tid);
	out_u64(o, "vm", c->on.vm->index);
	out_u64(o, "vcpu", c->on.vcpu->id);
	out_u64(o, "immediate", c->immediate);
	out_u64(o, "request_interrupt_window", c->request_window);
	if (c->replied)
		out_hex(o, "reply", c->reply, c->reply_length);
}

static void end(struct session *s)
{
	out_close(&s->out, '}');
	out_end_line(&s->out);
}

static void exit_io(struct out *o, struct vcpu *v, const struct kvm_run *run)
{
	uint64_t length = (uint64_t)run->io.size * run->io.count;
	const void *data = area(v, run->io.data_offset, length);

	out_open(o, "io", '{');
	out_u64(o, "port", run->io.port);
	out_bool(o, "out", run->io.direction == KVM_EXIT_IO_OUT);
	out_u64(o, "size", run->io.size);
	out_u64(o, "count", run->io.count);
	out_hex(o, "data", data, data ? length : 0);
	out_close(o, '}');
	if (data && run->io.direction == KVM_EXIT_IO_IN)
		v->awaited = (struct awaited){.length = (uint32_t)length, .offset = run->io.data_offset};
}

static void exit_mmio(struct out *o, struct vcpu *v, const struct kvm_run *run)
{
	uint32_t length = run->mmio.len < sizeof(run->mmio.data) ? run->mmio.len : sizeof(run->mmio.data);

	out_open(o, "mmio", '{');
	out_u64(o, "gpa", run->mmio.phys_addr);
	out_bool(o, "write", run->mmio.is_write);
	out_u64(o, "size", run->mmio.len);
	out_hex(o, "data", run->mmio.data, length);
	out_close(o, '}');
	if (!run->mmio.is_write)
		v->awaited = (struct awaited){
			.mmio = true, .length = length, .offset = offsetof(struct kvm_run, mmio.data)};
}

/* What the rarer exits carry. */
static void exit_rest(struct out *o, const struct kvm_run *run)
{
	switch (run->exit_reason) {
	case KVM_EXIT_UNKNOWN:
		out_u64(o, "hardware_exit_reason", run->hw.hardware_exit_reason);
		break;
	case KVM_EXIT_FAIL_ENTRY:
		out_u64(o, "hardware_entry_failure_reason", run->fail_entry.hardware_entry_failure_reason);
		break;
	case KVM_EXIT_EXCEPTION:
		out_u64(o, "exception", run->ex.exception);
		out_u64(o, "error_code", run->ex.error_code);
		break;
	case KVM_EXIT_HYPERCALL:
		out_u64(o, "hypercall", run->hypercall.nr);
		break;
	case KVM_EXIT_DEBUG:
		out_open(o, "debug", '{');
		out_u64(o, "exception", run->debug.arch.exception);
		out_u64(o, "pc", run->debug.arch.pc);
		out_u64(o, "dr6", run->debug.arch.dr6);
		out_u64(o, "dr7", run->debug.arch.dr7);
		out_close(o, '}');
		break;
	case KVM_EXIT_INTERNAL_ERROR:
		out_u64(o, "suberror", run->internal.suberror);
		out_open(o, "internal", '[');
		for (uint32_t i = 0; i < run->internal.ndata && i < ARRAY_SIZE(run->internal.data); i++)
			out_u64(o, NULL, run->internal.data[i]);
		out_close(o, ']');
		break;
	case KVM_EXIT_SYSTEM_EVENT:
		out_u64(o, "system_event", run->system_event.type);
		break;
	case KVM_EXIT_X86_RDMSR:
	case KVM_EXIT_X86_WRMSR:
		out_open(o, "msr", '{');
		out_u64(o, "index", run->msr.index);
		out_u64(o, "data", run->msr.data);
		out_close(o, '}');
		break;
	default:
		break;
	}
}

static void events(struct out *o, const struct kvm_vcpu_events *e)
{
	out_open(o, "events", '{');
	out_open(o, "exception", '{');
	out_u64(o, "injected", e->exception.injected);
	out_u64(o, "nr", e->exception.nr);
	out_close(o, '}');
	out_open(o, "interrupt", '{');
	out_u64(o, "injected", e->interrupt.injected);
	out_u64(o, "nr", e->interrupt.nr);
	out_u64(o, "soft", e->interrupt.soft);
	out_u64(o, "shadow", e->interrupt.shadow);
	out_close(o, '}');
	out_open(o, "nmi", '{');
	out_u64(o, "injected", e->nmi.injected);
	out_u64(o, "pending", e->nmi.pending);
	out_u64(o, "masked", e->nmi.masked);
	out_close(o, '}');
	out_close(o, '}');
}

static void state_at_exit(const struct session *s, struct out *o, const struct kvm_run *run)
{
	out_u64(o, "ready_for_interrupt_injection", run->ready_for_interrupt_injection);
	out_u64(o, "if_flag", run->if_flag);
	if (s->state.sync & KVM_SYNC_X86_REGS)
		decode_regs(o, "regs", &run->s.regs.regs);
	if (s->state.sync & KVM_SYNC_X86_SREGS)
		decode_sregs(o, "sregs", &run->s.regs.sregs);
	if (s->state.sync & KVM_SYNC_X86_EVENTS)
		events(o, &run->s.regs.events);
}

static void note_exit(struct out *o, struct vcpu *v, const struct kvm_run *run)
{
	out_text(o, "reason", exit_name(run->exit_reason));
	out_u64(o, "nr", run->exit_reason);
	if (run->exit_reason == KVM_EXIT_IO)
		exit_io(o, v, run);
	else if (run->exit_reason == KVM_EXIT_MMIO)
		exit_mmio(o, v, run);
	else
		exit_rest(o, run);
}

void run_returned(struct session *s, struct task *t, int64_t ret)
{
	/* A copy: another thread of the program may write to the area while it is read. */
	static struct kvm_run run;
	struct vcpu *v = t->call.on.vcpu;
	struct out *o = &s->out;

	if (v->run)
		run = *v->run;
	begin(s, t);
	out_i64(o, "ret", ret);
	if (ret >= 0 && v->run)
		note_exit(o, v, &run);
	else
		out_null(o, "reason");
	if (v->run)
		state_at_exit(s, o, &run);
	end(s);
	if (s->opt->limit_runs && ++s->runs >= s->opt->limit_runs)
		trace_flood(s, "runs");
}

/* The program ended, or was ended, inside. */
void run_unreturned(struct session *s, struct task *t)
{
	begin(s, t);
	out_null(&s->out, "reason");
	end(s);
}
