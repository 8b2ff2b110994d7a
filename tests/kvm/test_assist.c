/*
 * The instructions that are completed for software back ends, proven by what a guest's registers hold after
 * them. Each case is a few bytes of 64-bit code at CPL 0 with paging on, run on /dev/kvm: where KVM is VT-x
 * or AMD-V the processor executes it and the assistance must never be asked for; where it is a software back
 * end, the assistance does, and the same is expected. Besides, each case is completed without being run, so
 * that the decoder is tested on every machine. An alarm is the watchdog.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/bytes.h"
#include "kvm/assist.h"
#include "kvm/backend.h"
#include "kvm/translate.h"

#define RAM     0x200000
#define PML4    0x2000
#define PDPT    0x3000
#define PD      0x4000
#define PT      0x5000 /* of the addresses from HIGH on */
#define PDPT2   0x6000
#define PD2     0x7000
#define IDT     0x8000
#define CODE    0x10000
#define STACK   0x20000
#define DATA    0x30000
#define HIGH    0xffff880000000000ull /* is mapped page by page, not one to one */
#define HANDLER 0x11000

#define ARITHMETIC 0x8d5ull
#define ZF         0x40ull
#define AC         0x40000ull

struct guest {
	struct hv_kvm kvm;
	struct hv_vm vm;
	struct hv_memory mem;
	struct hv_vcpu vcpu;
	unsigned assisted;
};

static void put64(struct guest *g, uint64_t gpa, uint64_t value)
{
	uint8_t raw[8];

	hv_put_le64(raw, value);
	cr_assert_eq(hv_memory_write(&g->mem, gpa, raw, sizeof(raw)), 0);
}

/* The first 2 MiB one to one; from HIGH on two pages that are DATA and, behind it, the one below DATA. */
static void make_tables(struct guest *g)
{
	put64(g, PML4, PDPT | 3);
	put64(g, PDPT, PD | 3);
	put64(g, PD, 0x83);
	put64(g, PML4 + (HIGH >> 39 & 511) * 8, PDPT2 | 3);
	put64(g, PDPT2 + (HIGH >> 30 & 511) * 8, PD2 | 3);
	put64(g, PD2 + (HIGH >> 21 & 511) * 8, PT | 3);
	put64(g, PT + (HIGH >> 12 & 511) * 8, DATA | 3);
	put64(g, PT + (HIGH >> 12 & 511) * 8 + 8, (DATA - 0x1000) | 3);
	/* Gate 3: HANDLER, which halts. */
	put64(g, IDT + 3 * 16, 0x00008e0000080000ull | (HANDLER & 0xffff) | (uint64_t)(HANDLER >> 16) << 48);
	put64(g, IDT + 3 * 16 + 8, 0);
	cr_assert_eq(hv_memory_write(&g->mem, HANDLER, "\xf4", 1), 0);
}

static void set_mode(struct guest *g, unsigned cpl)
{
	struct kvm_segment code = {
		.selector = 8, .limit = 0xffffffff, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1};
	struct kvm_segment data = {
		.selector = 16, .limit = 0xffffffff, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1};
	struct kvm_sregs s;

	cr_assert_eq(hv_vcpu_get_sregs(&g->vcpu, &s, NULL), 0);
	code.dpl = data.dpl = (uint8_t)cpl;
	code.selector |= (uint16_t)cpl;
	data.selector |= (uint16_t)cpl;
	s.cs = code;
	s.ds = s.es = s.fs = s.gs = s.ss = data;
	s.gs.base = HIGH;
	s.fs.base = DATA + 8;
	s.tr = (struct kvm_segment){.base = 0x1000, .limit = 0x67, .type = 11, .present = 1};
	s.gdt = (struct kvm_dtable){.base = 0x9000, .limit = 23};
	s.idt = (struct kvm_dtable){.base = IDT, .limit = 0xff};
	s.cr0 = 0x80050033; /* paging, write protection, protected mode */
	s.cr3 = PML4;
	s.cr4 = 0x620; /* PAE, SSE */
	s.efer = 0x500;
	cr_assert_eq(hv_vcpu_set_sregs(&g->vcpu, &s, NULL), 0);
	put64(g, 0x9008, 0x00af9b000000ffffull);
	put64(g, 0x9010, 0x00cf93000000ffffull);
}

static void boot(struct guest *g, const void *code, size_t size)
{
	struct hv_error err = {0};

	alarm(30);
	memset(g, 0, sizeof(*g));
	cr_assert_eq(hv_kvm_open(&g->kvm, &err), 0, "%s", err.text);
	cr_assert_eq(hv_vm_create(&g->vm, &g->kvm, &err), 0, "%s", err.text);
	hv_memory_init(&g->mem, &g->vm);
	cr_assert_eq(hv_memory_add_ram(&g->mem, RAM, &err), 0, "%s", err.text);
	cr_assert_eq(hv_vcpu_create(&g->vcpu, &g->vm, 0, &err), 0, "%s", err.text);
	make_tables(g);
	set_mode(g, 0);
	cr_assert_eq(hv_memory_write(&g->mem, CODE, code, size), 0);
}

static void unboot(struct guest *g)
{
	hv_vcpu_destroy(&g->vcpu);
	hv_memory_free(&g->mem);
	hv_vm_destroy(&g->vm);
	hv_kvm_close(&g->kvm);
	alarm(0);
}

/* CPUID as the host's, so that a real processor knows clac, stac and popcnt. */
static void give_cpuid(struct guest *g)
{
	struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + 256 * sizeof(c->entries[0]));

	cr_assert_not_null(c);
	c->nent = 256;
	cr_assert_eq(ioctl(g->kvm.fd, KVM_GET_SUPPORTED_CPUID, c), 0);
	cr_assert_eq(ioctl(g->vcpu.fd, KVM_SET_CPUID2, c), 0);
	free(c);
}

/* Runs to the hlt that ends each case, and helps where the back end is software. */
static void run(struct guest *g, struct kvm_regs *regs)
{
	enum hv_assist_kind kind;

	give_cpuid(g);
	cr_assert_eq(hv_vcpu_set_regs(&g->vcpu, regs, NULL), 0);
	for (;;) {
		cr_assert_eq(hv_vcpu_run(&g->vcpu), 0);
		if (g->vcpu.run->exit_reason != KVM_EXIT_INTERNAL_ERROR)
			break;
		cr_assert_eq(hv_backend(), HV_BACKEND_SOFTWARE, "only a software back end may need help");
		cr_assert_eq(g->vcpu.run->internal.suberror, KVM_INTERNAL_ERROR_EMULATION);
		cr_assert_eq(hv_assist(&g->vcpu, &g->mem, &kind), 0);
		g->assisted++;
	}
	cr_assert_eq(g->vcpu.run->exit_reason, KVM_EXIT_HLT, "exit reason %u", g->vcpu.run->exit_reason);
	cr_assert_eq(hv_vcpu_get_regs(&g->vcpu, regs, NULL), 0);
}

/* Completes the instruction at RIP without having run it. */
static int complete(struct guest *g, struct kvm_regs *regs, enum hv_assist_kind *kind)
{
	int rc;

	memset(&g->vcpu.run->emulation_failure, 0, sizeof(g->vcpu.run->emulation_failure));
	cr_assert_eq(hv_vcpu_set_regs(&g->vcpu, regs, NULL), 0);
	rc = hv_assist(&g->vcpu, &g->mem, kind);
	cr_assert_eq(hv_vcpu_get_regs(&g->vcpu, regs, NULL), 0);
	return rc;
}

/* --- popcnt ------------------------------------------------------------------------------------------------- */
#define VALUE                                                                                                \
	0xf0f0123480000001ull /* 8 + 5 + 2 bits set; 7 in its lower half, of which 1 in the lowest 16        \
			       */
#define DIRTY 0xaaaaaaaaaaaaaaaaull

struct form {
	const char *name;
	uint8_t code[16], size;
	uint64_t result;
	unsigned to; /* which of rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8 .. r15 */
};

/* clang-format off: one form a line. VALUE is in rcx and r9, and in memory at DATA + 0x40; rbx, r12, r13 and rsp-relative
 * operands point there in the way that each form needs. */
static const struct form forms[] = {
	{"eax, ecx", {0xf3, 0x0f, 0xb8, 0xc1}, 4, 2, 0},
	{"rax, rcx", {0xf3, 0x48, 0x0f, 0xb8, 0xc1}, 5, 15, 0},
	{"ax, cx", {0x66, 0xf3, 0x0f, 0xb8, 0xc1}, 5, DIRTY - 0xaaaa + 1, 0},
	{"r10, r9", {0xf3, 0x4d, 0x0f, 0xb8, 0xd1}, 5, 15, 10},
	{"r10d, r9d", {0xf3, 0x45, 0x0f, 0xb8, 0xd1}, 5, 2, 10},
	{"rdx, rdx (none set)", {0xf3, 0x48, 0x0f, 0xb8, 0xd2}, 5, 0, 2},
	{"rax, [rbx]", {0xf3, 0x48, 0x0f, 0xb8, 0x03}, 5, 15, 0},
	{"eax, [rbx + 4]", {0xf3, 0x0f, 0xb8, 0x43, 0x04}, 5, 13, 0},
	{"eax, [rbx - 8]", {0xf3, 0x0f, 0xb8, 0x43, 0xf8}, 5, 0, 0},
	{"ax, [rbx]", {0x66, 0xf3, 0x0f, 0xb8, 0x03}, 5, DIRTY - 0xaaaa + 1, 0},
	{"rax, [rbx + disp32]", {0xf3, 0x48, 0x0f, 0xb8, 0x83, 0x00, 0x00, 0x00, 0x00}, 9, 15, 0},
	{"rax, [r12]", {0xf3, 0x49, 0x0f, 0xb8, 0x04, 0x24}, 6, 15, 0},
	{"rax, [r13]", {0xf3, 0x49, 0x0f, 0xb8, 0x45, 0x00}, 6, 15, 0},
	{"rax, [rbx + r14*8]", {0xf3, 0x4a, 0x0f, 0xb8, 0x04, 0xf3}, 6, 15, 0},
	{"rax, [disp32 + r14*1], no base",
	 {0xf3, 0x4a, 0x0f, 0xb8, 0x04, 0x35, 0x40, 0x00, 0x03, 0x00},
	 10,
	 15,
	 0},
	{"rax, [disp32]", {0xf3, 0x48, 0x0f, 0xb8, 0x04, 0x25, 0x40, 0x00, 0x03, 0x00}, 10, 15, 0},
	{"rax, [rip + disp]", {0xf3, 0x48, 0x0f, 0xb8, 0x05, 0x37, 0x00, 0x02, 0x00}, 9, 15, 0},
	{"rax, gs:[disp32]", {0x65, 0xf3, 0x48, 0x0f, 0xb8, 0x04, 0x25, 0x40, 0x00, 0x00, 0x00}, 11, 15, 0},
	{"rax, fs:[disp32]", {0x64, 0xf3, 0x48, 0x0f, 0xb8, 0x04, 0x25, 0x38, 0x00, 0x00, 0x00}, 11, 15, 0},
	{"rax, ds:[rbx]", {0x3e, 0xf3, 0x48, 0x0f, 0xb8, 0x03}, 6, 15, 0},
	{"rax, [rdi], over two pages that aren't neighbours", {0xf3, 0x48, 0x0f, 0xb8, 0x07}, 5, 6 + 4, 0},
};
/* clang-format on */

static struct kvm_regs start_regs(void)
{
	return (struct kvm_regs){.rip = CODE,
				 .rsp = STACK,
				 .rflags = 2 | ARITHMETIC,
				 .rax = DIRTY,
				 .rcx = VALUE,
				 .r9 = VALUE,
				 .r10 = DIRTY,
				 .rbx = DATA + 0x40,
				 .r12 = DATA + 0x40,
				 .r13 = DATA + 0x40,
				 .rdi = HIGH + 0xffc};
}

static void prepare(struct guest *g, struct kvm_regs *r)
{
	*r = start_regs();
	put64(g, DATA + 0x40, VALUE);
	put64(g, DATA + 0xff8, 0x0000003f00000000ull); /* 6 bits at the end of the first page */
	put64(g, DATA - 0x1000, 0x0000000f);           /* 4 at the start of the second */
}

static uint64_t reg_of(const struct kvm_regs *r, unsigned n)
{
	const uint64_t all[] = {r->rax, r->rcx, r->rdx, r->rbx, r->rsp, r->rbp, r->rsi, r->rdi,
				r->r8,  r->r9,  r->r10, r->r11, r->r12, r->r13, r->r14, r->r15};

	return all[n];
}

static void expect(const struct form *f, const struct kvm_regs *r, const char *how)
{
	const struct kvm_regs before = start_regs();
	const bool none = f->result == 0;

	cr_assert_eq(reg_of(r, f->to), f->result, "popcnt %s, %s: %#llx", f->name, how,
		     (unsigned long long)reg_of(r, f->to));
	cr_assert_eq(r->rflags & ARITHMETIC, none ? ZF : 0, "popcnt %s, %s: flags %#llx", f->name, how,
		     r->rflags);
	for (unsigned n = 0; n < 16; n++)
		cr_assert(n == f->to || reg_of(r, n) == reg_of(&before, n),
			  "popcnt %s, %s changes register %u", f->name, how, n);
}

Test(assist, popcnt_is_right_in_each_form)
{
	for (size_t i = 0; i < HV_ARRAY_SIZE(forms); i++) {
		uint8_t code[17] = {0};
		enum hv_assist_kind kind;
		struct kvm_regs regs;
		struct guest g;

		memcpy(code, forms[i].code, forms[i].size);
		code[forms[i].size] = 0xf4;
		boot(&g, code, forms[i].size + 1u);
		prepare(&g, &regs);
		run(&g, &regs);
		expect(&forms[i], &regs, "run");
		cr_assert_eq(regs.rip, CODE + (unsigned)forms[i].size + 1u, "popcnt %s", forms[i].name);
		prepare(&g, &regs);
		cr_assert_eq(complete(&g, &regs, &kind), 0, "popcnt %s", forms[i].name);
		cr_assert_eq(kind, HV_ASSIST_POPCNT);
		expect(&forms[i], &regs, "completed");
		cr_assert_eq(regs.rip, CODE + (unsigned)forms[i].size, "popcnt %s", forms[i].name);
		unboot(&g);
	}
}

/* --- clac, stac, int3 ----------------------------------------------------------------------------------------- */
static bool has_smap(void)
{
	return hv_backend() == HV_BACKEND_SOFTWARE || hv_backend_cpu_flag("smap");
}

Test(assist, clac_and_stac_change_ac_alone)
{
	static const uint8_t stac[] = {0x0f, 0x01, 0xcb, 0xf4}, clac[] = {0x0f, 0x01, 0xca, 0xf4};
	enum hv_assist_kind kind;
	struct kvm_regs regs;
	struct guest g;

	boot(&g, stac, sizeof(stac));
	regs = (struct kvm_regs){.rip = CODE, .rsp = STACK, .rflags = 2 | ARITHMETIC, .rax = DIRTY};
	if (has_smap()) {
		run(&g, &regs);
		cr_assert_eq(regs.rflags & ~0x10000ull, 2 | ARITHMETIC | AC, "%#llx", regs.rflags);
		cr_assert_eq(regs.rip, CODE + sizeof(stac));
	}
	regs = (struct kvm_regs){.rip = CODE, .rsp = STACK, .rflags = 2 | ARITHMETIC, .rax = DIRTY};
	cr_assert_eq(complete(&g, &regs, &kind), 0);
	cr_assert_eq(kind, HV_ASSIST_STAC);
	cr_assert_eq(regs.rflags, 2 | ARITHMETIC | AC, "%#llx", regs.rflags);
	cr_assert_eq(regs.rax, DIRTY);
	unboot(&g);

	boot(&g, clac, sizeof(clac));
	regs = (struct kvm_regs){.rip = CODE, .rsp = STACK, .rflags = 2 | ARITHMETIC | AC};
	if (has_smap()) {
		run(&g, &regs);
		cr_assert_eq(regs.rflags & ~0x10000ull, 2 | ARITHMETIC, "%#llx", regs.rflags);
	}
	regs = (struct kvm_regs){.rip = CODE, .rsp = STACK, .rflags = 2 | ARITHMETIC | AC};
	cr_assert_eq(complete(&g, &regs, &kind), 0);
	cr_assert_eq(kind, HV_ASSIST_CLAC);
	cr_assert_eq(regs.rflags, 2 | ARITHMETIC, "%#llx", regs.rflags);
	cr_assert_eq(regs.rip, CODE + 3);
	unboot(&g);
}

/* The frame on the stack holds the RIP behind int3, as a trap's does. */
Test(assist, int3_goes_to_the_guests_own_handler_as_a_trap)
{
	static const uint8_t code[] = {0x90, 0xcc, 0x90};
	struct kvm_regs regs = {.rip = CODE, .rsp = STACK, .rflags = 2 | ZF};
	uint8_t frame[40];
	struct guest g;

	boot(&g, code, sizeof(code));
	run(&g, &regs);
	cr_assert_eq(regs.rip, HANDLER + 1, "%#llx", regs.rip);
	cr_assert_eq(regs.rsp, STACK - 40);
	cr_assert_eq(hv_memory_read(&g.mem, STACK - 40, frame, sizeof(frame)), 0);
	cr_assert_eq(hv_le64(frame), CODE + 2);
	cr_assert_eq(hv_le64(frame + 8), 8);
	cr_assert_eq(hv_le64(frame + 16) & ~0x10000ull, 2 | ZF);
	cr_assert_eq(hv_le64(frame + 24), STACK);
	unboot(&g);
}

Test(assist, wait_does_nothing_where_no_exception_waits)
{
	static const uint8_t code[] = {0x9b, 0xf4};
	struct kvm_regs regs = {.rip = CODE, .rsp = STACK, .rflags = 2 | ARITHMETIC, .rax = DIRTY};
	enum hv_assist_kind kind;
	struct kvm_sregs sregs;
	struct kvm_fpu fpu;
	struct guest g;

	boot(&g, code, sizeof(code));
	run(&g, &regs);
	cr_assert_eq(regs.rip, CODE + 2);
	cr_assert_eq(regs.rflags & ~0x10000ull, 2 | ARITHMETIC);
	regs.rip = CODE;
	cr_assert_eq(complete(&g, &regs, &kind), 0);
	cr_assert_eq(kind, HV_ASSIST_WAIT);
	cr_assert_eq(regs.rip, CODE + 1);
	/* #MF would come, then #NM. */
	cr_assert_eq(ioctl(g.vcpu.fd, KVM_GET_FPU, &fpu), 0);
	fpu.fcw &= (uint16_t)~1u;
	fpu.fsw = 0x81;
	cr_assert_eq(ioctl(g.vcpu.fd, KVM_SET_FPU, &fpu), 0);
	regs.rip = CODE;
	cr_assert_eq(complete(&g, &regs, &kind), -ENOTSUP);
	cr_assert_eq(regs.rip, CODE);
	fpu.fsw = 0;
	cr_assert_eq(ioctl(g.vcpu.fd, KVM_SET_FPU, &fpu), 0);
	cr_assert_eq(hv_vcpu_get_sregs(&g.vcpu, &sregs, NULL), 0);
	sregs.cr0 |= 8;
	cr_assert_eq(hv_vcpu_set_sregs(&g.vcpu, &sregs, NULL), 0);
	cr_assert_eq(complete(&g, &regs, &kind), -ENOTSUP);
	unboot(&g);
}

/* Many in a row, of all kinds: what KVM queued for one must not come with the next. */
Test(assist, a_row_of_all_kinds_runs_to_its_end)
{
	/* again: stac; popcnt rax, rcx; clac; add rdx, rax; dec esi; jnz again; hlt */
	static const uint8_t code[] = {0x0f, 0x01, 0xcb, 0xf3, 0x48, 0x0f, 0xb8, 0xc1, 0x0f, 0x01,
				       0xca, 0x48, 0x01, 0xc2, 0xff, 0xce, 0x75, 0xee, 0xf4};
	struct kvm_regs regs = {.rip = CODE, .rsp = STACK, .rflags = 2, .rcx = VALUE, .rsi = 100};
	struct guest g;

	if (!has_smap())
		cr_skip_test("this processor has no clac");
	boot(&g, code, sizeof(code));
	run(&g, &regs);
	cr_assert_eq(regs.rdx, 1500, "%llu", regs.rdx);
	cr_assert_eq(g.assisted, hv_backend() == HV_BACKEND_SOFTWARE ? 300 : 0, "%u", g.assisted);
	unboot(&g);
}

/* --- what stays an error -------------------------------------------------------------------------------------- */
struct refusal {
	const char *why;
	uint8_t code[16], size;
	int rc;
};

static const struct refusal refusals[] = {
	{"hlt", {0xf4}, 1, -ENOTSUP},
	{"int n", {0xcd, 0x03}, 2, -ENOTSUP},
	{"xgetbv", {0x0f, 0x01, 0xd0}, 3, -ENOTSUP},
	{"bsf, which is popcnt without f3", {0x0f, 0xb8, 0xc1}, 3, -ENOTSUP},
	{"clac with f3", {0xf3, 0x0f, 0x01, 0xca}, 4, -ENOTSUP},
	{"stac with 66", {0x66, 0x0f, 0x01, 0xcb}, 4, -ENOTSUP},
	{"lock popcnt", {0xf0, 0xf3, 0x0f, 0xb8, 0xc1}, 5, -ENOTSUP},
	{"a 32-bit address", {0x67, 0xf3, 0x0f, 0xb8, 0x03}, 5, -ENOTSUP},
	{"REX before the prefix", {0x48, 0xf3, 0x0f, 0xb8, 0xc1}, 5, -ENOTSUP},
	{"prefixes without an end",
	 {0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66},
	 15,
	 -ENOTSUP},
	{"an operand that isn't mapped", {0xf3, 0x0f, 0xb8, 0x00}, 4, -EFAULT},
};

Test(assist, anything_else_stays_an_error_and_changes_nothing)
{
	for (size_t i = 0; i < HV_ARRAY_SIZE(refusals); i++) {
		enum hv_assist_kind kind;
		struct kvm_regs regs, before;
		struct guest g;

		boot(&g, refusals[i].code, refusals[i].size);
		prepare(&g, &regs);
		before = regs;
		cr_assert_eq(complete(&g, &regs, &kind), refusals[i].rc, "%s", refusals[i].why);
		cr_assert_eq(memcmp(&regs, &before, sizeof(regs)), 0, "%s", refusals[i].why);
		unboot(&g);
	}
}

Test(assist, user_code_other_modes_and_single_steps_stay_an_error)
{
	static const uint8_t code[] = {0xf3, 0x0f, 0xb8, 0xc1};
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	enum hv_assist_kind kind;
	struct guest g;

	boot(&g, code, sizeof(code));
	prepare(&g, &regs);
	regs.rflags |= 0x100; /* TF */
	cr_assert_eq(complete(&g, &regs, &kind), -ENOTSUP);
	set_mode(&g, 3);
	prepare(&g, &regs);
	cr_assert_eq(complete(&g, &regs, &kind), -ENOTSUP);
	set_mode(&g, 0);
	cr_assert_eq(hv_vcpu_get_sregs(&g.vcpu, &sregs, NULL), 0);
	sregs.cs.l = 0;
	sregs.cs.db = 1;
	cr_assert_eq(hv_vcpu_set_sregs(&g.vcpu, &sregs, NULL), 0);
	prepare(&g, &regs);
	cr_assert_eq(complete(&g, &regs, &kind), -ENOTSUP);
	unboot(&g);
}

/* The instruction ends at the end of what KVM handed out, however long it looks. */
Test(assist, the_exits_own_bytes_come_first_and_no_more_are_read)
{
	static const uint8_t there[] = {0xf4}, given[] = {0xf3, 0x48, 0x0f, 0xb8, 0x83, 0, 0, 0, 0};
	struct kvm_regs regs;
	enum hv_assist_kind kind;
	struct guest g;

	boot(&g, there, sizeof(there));
	for (uint8_t size = 1; size <= sizeof(given); size++) {
		prepare(&g, &regs);
		cr_assert_eq(hv_vcpu_set_regs(&g.vcpu, &regs, NULL), 0);
		g.vcpu.run->emulation_failure.ndata = 4;
		g.vcpu.run->emulation_failure.flags = KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES;
		g.vcpu.run->emulation_failure.insn_size = size;
		memcpy(g.vcpu.run->emulation_failure.insn_bytes, given, sizeof(given));
		cr_assert_eq(hv_assist(&g.vcpu, &g.mem, &kind), size == sizeof(given) ? 0 : -ENOTSUP,
			     "%u bytes", size);
	}
	unboot(&g);
}

Test(backend, one_that_is_used_is_told_from_one_that_is_only_there)
{
	cr_assert_eq(hv_backend_of(true, false, false, false, false), HV_BACKEND_SOFTWARE);
	cr_assert_eq(hv_backend_of(false, true, false, true, false), HV_BACKEND_VMX);
	cr_assert_eq(hv_backend_of(false, false, true, false, true), HV_BACKEND_SVM);
	cr_assert_eq(hv_backend_of(true, true, true, false, false), HV_BACKEND_SOFTWARE,
		     "built in, without a processor");
	cr_assert_eq(hv_backend_of(true, true, true, false, true), HV_BACKEND_SVM);
	cr_assert_eq(hv_backend_of(false, true, true, false, false), HV_BACKEND_UNKNOWN);
}
