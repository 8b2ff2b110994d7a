/*
 * Why a vCPU can't go on, told to a person: what KVM said, where the guest was and with which instruction,
 * its registers, what it did last, and a hint where the cause is known. Run on the vCPU's thread. Rules: KVM
 * API 5 (KVM_EXIT_FAIL_ENTRY, KVM_EXIT_INTERNAL_ERROR), SDM vol. 3A, 2.5 (CR0, CR4), vol. 3C, 27.3 (what VT-x
 * checks at entry).
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "kvm/translate.h"
#include "machine/disasm.h"
#include "machine/internal.h"

#define CR0_PE   (1ull << 0)
#define CR0_PG   (1ull << 31)
#define CR4_PAE  (1ull << 5)
#define EFER_LME (1ull << 8)
#define EFER_LMA (1ull << 10)

#define SVM_INVALID 0xffffffffu /* VMEXIT_INVALID (APM vol. 2, appendix C), of which KVM keeps 32 bits */

struct text {
	char *at;
	size_t left;
};

static void add(struct text *t, const char *fmt, ...) HV_PRINTF(2, 3);
static void add(struct text *t, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(t->at, t->left, fmt, ap);
	va_end(ap);
	if (n < 0)
		return;
	if ((size_t)n >= t->left)
		n = t->left > 0 ? (int)t->left - 1 : 0;
	t->at += n;
	t->left -= (size_t)n;
}

static const char *suberror_name(uint32_t suberror)
{
	switch (suberror) {
	case KVM_INTERNAL_ERROR_EMULATION:
		return "emulation failure: the kernel met an instruction that it would have to emulate and "
		       "can't";
	case KVM_INTERNAL_ERROR_SIMUL_EX:
		return "simultaneous exceptions";
	case KVM_INTERNAL_ERROR_DELIVERY_EV:
		return "an exit while an event was being delivered; the IDT or its stack may lie outside the "
		       "RAM";
	case KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON:
		return "an exit of the processor that KVM didn't expect";
	default:
		return "a kind that hvkit doesn't know";
	}
}

static const char *mode_name(const struct kvm_sregs *s)
{
	if (!(s->cr0 & CR0_PE))
		return "real mode";
	if (!(s->efer & EFER_LMA))
		return s->cr0 & CR0_PG ? "protected mode with paging" : "protected mode";
	return s->cs.l ? "64-bit mode" : "compatibility mode";
}

static void add_registers(struct text *t, const struct kvm_regs *r, const struct kvm_sregs *s)
{
	add(t, "  rip %016llx  rflags %08llx  %s, CPL %u\n", r->rip, r->rflags, mode_name(s), s->cs.dpl);
	add(t, "  rax %016llx  rbx %016llx  rcx %016llx  rdx %016llx\n", r->rax, r->rbx, r->rcx, r->rdx);
	add(t, "  rsi %016llx  rdi %016llx  rbp %016llx  rsp %016llx\n", r->rsi, r->rdi, r->rbp, r->rsp);
	add(t, "  r8  %016llx  r9  %016llx  r10 %016llx  r11 %016llx\n", r->r8, r->r9, r->r10, r->r11);
	add(t, "  r12 %016llx  r13 %016llx  r14 %016llx  r15 %016llx\n", r->r12, r->r13, r->r14, r->r15);
	add(t, "  cr0 %08llx  cr2 %016llx  cr3 %016llx  cr4 %08llx  efer %04llx\n", s->cr0, s->cr2, s->cr3,
	    s->cr4, s->efer);
	add(t,
	    "  cs %04x base %llx limit %x type %x s%u dpl%u p%u l%u db%u   ss %04x base %llx   tr %04x type "
	    "%x\n",
	    s->cs.selector, s->cs.base, s->cs.limit, s->cs.type, s->cs.s, s->cs.dpl, s->cs.present, s->cs.l,
	    s->cs.db, s->ss.selector, s->ss.base, s->tr.selector, s->tr.type);
	add(t, "  gdt base %llx limit %x   idt base %llx limit %x\n", s->gdt.base, s->gdt.limit, s->idt.base,
	    s->idt.limit);
}

/* The bytes at RIP and what they are. */
static void add_instruction(struct hv_cpu *cpu, struct text *t, const struct kvm_regs *r,
			    const struct kvm_sregs *s)
{
	uint64_t address = s->cs.base + r->rip, got = 0;
	uint8_t code[15];
	char line[160];

	hv_virtual_read(&cpu->machine->memory, s, address, code, sizeof(code), &got);
	if (got == 0) {
		struct hv_walk walk;

		if (hv_translate(&cpu->machine->memory, s, address, &walk))
			add(t, "  at rip: nothing; address %#llx is not mapped: %s\n",
			    (unsigned long long)address, walk.why ? walk.why : "");
		else
			add(t,
			    "  at rip: nothing; guest-physical %#llx is not RAM (the VM has %#llx bytes)\n",
			    (unsigned long long)walk.gpa, (unsigned long long)cpu->machine->config.mem);
		return;
	}
	add(t, "  at rip:");
	for (unsigned i = 0; i < got; i++)
		add(t, " %02x", code[i]);
	hv_disasm(code, got, r->rip, hv_code_bits(s), line, sizeof(line));
	add(t, "   %s\n", line);
}

static void add_last_exits(struct hv_cpu *cpu, struct text *t)
{
	struct hv_exit_record last[8];
	unsigned n = hv_recorder_copy(&cpu->recorder, last, HV_ARRAY_SIZE(last));
	char line[160];

	add(t, "  last exits of vCPU %u, the newest at the end:\n", cpu->vcpu.index);
	for (unsigned i = 0; i < n; i++)
		add(t, "    %s\n", hv_exit_record_format(&last[i], line, sizeof(line)));
}

/* Mistakes that are made again and again. */
static void add_hints(struct text *t, const struct kvm_run *run, const struct kvm_regs *r,
		      const struct kvm_sregs *s)
{
	if (s->cr0 & CR0_PG && !(s->cr0 & CR0_PE))
		add(t, "  hint: CR0.PG is set without CR0.PE; paging needs protected mode (SDM 3A, 2.5)\n");
	if (s->efer & EFER_LME && s->cr0 & CR0_PG && !(s->cr4 & CR4_PAE))
		add(t, "  hint: long mode needs CR4.PAE (SDM 3A, 5.1.1)\n");
	if (s->efer & EFER_LME && s->cr0 & CR0_PG && !(s->efer & EFER_LMA))
		add(t, "  hint: EFER.LME and paging are on, but EFER.LMA is clear; set both when state is "
		       "set from outside\n");
	if (s->cs.l && s->cs.db)
		add(t, "  hint: CS has L and D/B both set, which processors refuse (SDM 3A, 5.2.1)\n");
	if (run->exit_reason == KVM_EXIT_SHUTDOWN && s->idt.limit == 0)
		add(t, "  hint: the IDT is empty, so the first exception of any kind ends like this\n");
	if (run->exit_reason == KVM_EXIT_FAIL_ENTRY &&
	    run->fail_entry.hardware_entry_failure_reason == 0x80000021)
		add(t, "  hint: VT-x says 'invalid guest state' (SDM 3C, 27.3.1): most often TR is unusable, "
		       "a segment's type or "
		       "limit contradicts its G bit, RFLAGS bit 1 is clear, or CS.L meets D/B\n");
	if (run->exit_reason == KVM_EXIT_FAIL_ENTRY &&
	    (uint32_t)run->fail_entry.hardware_entry_failure_reason == SVM_INVALID)
		add(t, "  hint: AMD-V says 'invalid' (APM vol. 2, 15.5.1): most often reserved bits in CR0, "
		       "CR4 or EFER, "
		       "paging without PE or PAE in long mode, or CS.L meets D/B\n");
	/* The registers of a CPU after INIT (SDM vol. 3A, table 10-1). */
	if (run->exit_reason == KVM_EXIT_SHUTDOWN && r->rip == 0xfff0 && s->cs.selector == 0xf000)
		add(t, "  hint: those are the registers of a CPU after INIT: AMD-V forgets at a triple fault "
		       "what they were; "
		       "the last exits tell how far the guest came\n");
	if (run->exit_reason == KVM_EXIT_INTERNAL_ERROR &&
	    run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION)
		add(t, "  hint: KVM emulates the instructions that touch memory where no RAM is; it knows "
		       "moves and "
		       "arithmetic there, but not the FPU, SSE or AVX\n");
	if (run->exit_reason == KVM_EXIT_INTERNAL_ERROR &&
	    run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION && (s->cs.dpl == 0))
		add(t, "  hint: where KVM has no VT-x or AMD-V (hvrun --doctor tells), kernel code is "
		       "emulated, and "
		       "int n, int3, clac, stac, xgetbv and others are not known to the emulator\n");
	if (r->rip == 0 && run->exit_reason != KVM_EXIT_IO)
		add(t, "  hint: RIP is 0; a call or jump went through an empty pointer\n");
}

void hv_diagnose(struct hv_cpu *cpu, const char *headline, char *buf, size_t size)
{
	const struct kvm_run *run = cpu->vcpu.run;
	struct text t = {.at = buf, .left = size};
	struct kvm_sregs sregs;
	struct kvm_regs regs;

	add(&t, "vCPU %u: %s\n", cpu->vcpu.index, headline);
	if (run->exit_reason == KVM_EXIT_INTERNAL_ERROR) {
		add(&t, "  suberror %u: %s\n", run->internal.suberror, suberror_name(run->internal.suberror));
		for (unsigned i = 0; i < run->internal.ndata && i < 4; i++)
			add(&t, "  data[%u] = %#llx\n", i, (unsigned long long)run->internal.data[i]);
	}
	if (hv_vcpu_get_regs(&cpu->vcpu, &regs, NULL) || hv_vcpu_get_sregs(&cpu->vcpu, &sregs, NULL)) {
		add(&t, "  its registers cannot be read\n");
	} else {
		add_instruction(cpu, &t, &regs, &sregs);
		add_registers(&t, &regs, &sregs);
		add_hints(&t, run, &regs, &sregs);
	}
	add_last_exits(cpu, &t);
	if (t.at > buf && t.at[-1] == '\n')
		t.at[-1] = '\0';
}
