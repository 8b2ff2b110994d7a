/*
 * Completes an instruction that a software back end's interpreter doesn't know: reads it, computes what it
 * does to registers and flags, moves RIP, and takes back the #UD that KVM has queued in the meantime. Calls
 * translate.c, memory.c and vcpu.c. Nothing is allocated: this is on the way of an exit.
 *
 * What the guest gave is hostile: no more bytes are looked at than are there, and an operand is read through
 * the guest's own page tables. An operand that isn't mapped, or isn't RAM, stays an error: a page fault would
 * have to be made up here. Where the guest single-steps itself the instruction stays an error too, for the
 * trap behind it is the processor's work.
 *
 * Rules: SDM vol. 2A, 2.1 and 2.2.1 (prefixes, ModRM, SIB), vol. 2B (INT3, POPCNT), vol. 2A (CLAC), vol. 2B
 * (STAC), vol. 3A, 6.8.3 (the shadow of sti); KVM API 4.31 (KVM_GET_VCPU_EVENTS), 5
 * (KVM_INTERNAL_ERROR_EMULATION).
 */
#include "kvm/assist.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/bytes.h"
#include "kvm/translate.h"

#define INSN_MAX 15 /* bytes of the longest instruction */

#define EFER_LMA   (1ull << 10)
#define RFLAGS_CF  (1ull << 0)
#define RFLAGS_PF  (1ull << 2)
#define RFLAGS_AF  (1ull << 4)
#define RFLAGS_ZF  (1ull << 6)
#define RFLAGS_SF  (1ull << 7)
#define RFLAGS_TF  (1ull << 8)
#define RFLAGS_OF  (1ull << 11)
#define RFLAGS_RF  (1ull << 16)
#define RFLAGS_AC  (1ull << 18)
#define ARITHMETIC (RFLAGS_CF | RFLAGS_PF | RFLAGS_AF | RFLAGS_ZF | RFLAGS_SF | RFLAGS_OF)
#define CR0_MP     (1ull << 1)
#define CR0_TS     (1ull << 3)
#define FSW_ES     (1u << 7) /* an unmasked x87 exception waits */

#define BP_VECTOR 3
#define UD_VECTOR 6

#define REX_W 8
#define REX_R 4
#define REX_X 2
#define REX_B 1

/* The instruction under the reader's finger, and the vCPU whose it is. */
struct insn {
	uint8_t bytes[INSN_MAX];
	unsigned size, at; /* how many there are; the next one */
	uint8_t rex;
	bool operand16, repeat; /* prefixes 0x66, 0xf3 */
	uint64_t segment;       /* base of fs or gs, where a prefix names it */
	struct kvm_regs *regs;
	const struct kvm_sregs *sregs;
};

const char *hv_assist_name(enum hv_assist_kind kind)
{
	static const char *const names[HV_ASSIST_KINDS] = {
		[HV_ASSIST_INT3] = "int3",     [HV_ASSIST_CLAC] = "clac", [HV_ASSIST_STAC] = "stac",
		[HV_ASSIST_POPCNT] = "popcnt", [HV_ASSIST_WAIT] = "wait",
	};

	return kind < HV_ASSIST_KINDS ? names[kind] : "unknown";
}

/* The bytes that KVM hands out with the exit, or else those at RIP. */
static void fetch(struct insn *in, const struct kvm_run *run, const struct hv_memory *mem)
{
	uint64_t got = 0;

	if (run->emulation_failure.ndata >= 3 &&
	    run->emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES &&
	    run->emulation_failure.insn_size > 0 && run->emulation_failure.insn_size <= INSN_MAX) {
		in->size = run->emulation_failure.insn_size;
		memcpy(in->bytes, run->emulation_failure.insn_bytes, in->size);
		return;
	}
	hv_virtual_read(mem, in->sregs, in->regs->rip, in->bytes, sizeof(in->bytes), &got);
	in->size = (unsigned)got;
}

/* The next byte; false at the end of what there is. */
static bool next(struct insn *in, uint8_t *byte)
{
	if (in->at >= in->size)
		return false;
	*byte = in->bytes[in->at++];
	return true;
}

/* Legacy prefixes in any order, then REX; leaves in *opcode the byte after them. Those that change nothing
 * here (cs, ds, es, ss, which have no base in 64-bit mode) are passed over; lock, repne and a 32-bit address
 * are refused. */
static bool prefixes(struct insn *in, uint8_t *opcode)
{
	while (next(in, opcode)) {
		switch (*opcode) {
		case 0x66:
			in->operand16 = true;
			continue;
		case 0xf3:
			in->repeat = true;
			continue;
		case 0x64:
			in->segment = in->sregs->fs.base;
			continue;
		case 0x65:
			in->segment = in->sregs->gs.base;
			continue;
		case 0x26:
		case 0x2e:
		case 0x36:
		case 0x3e:
			continue;
		case 0x67:
		case 0xf0:
		case 0xf2:
			return false;
		default:
			break;
		}
		if ((*opcode & 0xf0) == 0x40) {
			in->rex = *opcode;
			return next(in, opcode);
		}
		return true;
	}
	return false;
}

/* General register n (0 to 15) in the order of their encoding. */
static __u64 *reg(struct kvm_regs *r, unsigned n)
{
	__u64 *const order[] = {&r->rax, &r->rcx, &r->rdx, &r->rbx, &r->rsp, &r->rbp, &r->rsi, &r->rdi,
				&r->r8,  &r->r9,  &r->r10, &r->r11, &r->r12, &r->r13, &r->r14, &r->r15};

	return order[n & 15];
}

/* A displacement of 1 or 4 bytes, added to the address with its sign. */
static bool displace(struct insn *in, unsigned bytes, uint64_t *address)
{
	uint8_t raw[4];

	for (unsigned i = 0; i < bytes; i++)
		if (!next(in, &raw[i]))
			return false;
	if (bytes == 1)
		*address += (uint64_t)(int64_t)(int8_t)raw[0];
	else if (bytes == 4)
		*address += (uint64_t)(int64_t)(int32_t)hv_le32(raw);
	return true;
}

/* ModRM's memory operand in 64-bit mode; rip_relative: the address counts from the end of the instruction. */
static bool address_of(struct insn *in, uint8_t modrm, uint64_t *address)
{
	const unsigned mod = modrm >> 6, rm = modrm & 7;
	unsigned bytes = mod == 1 ? 1 : mod == 2 ? 4 : 0;
	bool rip_relative = false;
	uint8_t sib;

	*address = in->segment;
	if (rm == 4) {
		if (!next(in, &sib))
			return false;
		const unsigned index = (sib >> 3 & 7) | (in->rex & REX_X ? 8 : 0);
		const unsigned base = sib & 7;

		if (index != 4) /* rsp is no index */
			*address += *reg(in->regs, index) << (sib >> 6);
		if (base == 5 && mod == 0)
			bytes = 4;
		else
			*address += *reg(in->regs, base | (in->rex & REX_B ? 8 : 0));
	} else if (rm == 5 && mod == 0) {
		bytes = 4;
		rip_relative = true;
	} else {
		*address += *reg(in->regs, rm | (in->rex & REX_B ? 8 : 0));
	}
	if (!displace(in, bytes, address))
		return false;
	if (rip_relative) /* no instruction here has an immediate behind it */
		*address += in->regs->rip + in->at;
	return true;
}

/* popcnt r, r/m: 16, 32 or 64 bits. A 32-bit result clears the register's upper half, a 16-bit one leaves it.
 */
static int popcnt(struct insn *in, const struct hv_memory *mem)
{
	const unsigned width = in->rex & REX_W ? 8 : in->operand16 ? 2 : 4;
	uint8_t modrm, raw[8] = {0};
	uint64_t address, value;
	__u64 *to;

	if (!next(in, &modrm))
		return -ENOTSUP;
	if (modrm >> 6 == 3) {
		value = *reg(in->regs, (modrm & 7) | (in->rex & REX_B ? 8 : 0));
		hv_put_le64(raw, value);
	} else {
		if (!address_of(in, modrm, &address))
			return -ENOTSUP;
		if (hv_virtual_read(mem, in->sregs, address, raw, width, NULL))
			return -EFAULT;
	}
	value = hv_le64(raw);
	if (width < 8)
		value &= (1ull << width * 8) - 1;
	to = reg(in->regs, (modrm >> 3 & 7) | (in->rex & REX_R ? 8 : 0));
	*to = (width == 2 ? *to & ~0xffffull : 0) | (unsigned)__builtin_popcountll(value);
	in->regs->rflags = (in->regs->rflags & ~ARITHMETIC) | (value ? 0 : RFLAGS_ZF);
	return 0;
}

/* Two bytes after 0x0f: popcnt, clac, stac. */
static int two_bytes(struct insn *in, const struct hv_memory *mem, enum hv_assist_kind *kind)
{
	uint8_t second, third;

	if (!next(in, &second))
		return -ENOTSUP;
	if (second == 0xb8 && in->repeat) {
		*kind = HV_ASSIST_POPCNT;
		return popcnt(in, mem);
	}
	if (second != 0x01 || in->repeat || in->operand16 || !next(in, &third))
		return -ENOTSUP;
	if (third == 0xca) {
		*kind = HV_ASSIST_CLAC;
		in->regs->rflags &= ~RFLAGS_AC;
		return 0;
	}
	if (third == 0xcb) {
		*kind = HV_ASSIST_STAC;
		in->regs->rflags |= RFLAGS_AC;
		return 0;
	}
	return -ENOTSUP;
}

/*
 * wait (fwait) does nothing but let an x87 exception through that waits already: Linux has one where a task
 * lets go of its FPU. Where one would come, #MF or #NM, it stays an error (SDM vol. 2D, WAIT).
 */
static int wait_for_fpu(const struct insn *in, const struct hv_vcpu *vcpu)
{
	struct kvm_fpu fpu;

	if ((in->sregs->cr0 & (CR0_MP | CR0_TS)) == (CR0_MP | CR0_TS))
		return -ENOTSUP;
	if (ioctl(vcpu->fd, KVM_GET_FPU, &fpu) < 0)
		return -errno;
	return fpu.fsw & FSW_ES ? -ENOTSUP : 0;
}

/* Changes only the copy of the registers. */
static int execute(struct insn *in, const struct hv_vcpu *vcpu, const struct hv_memory *mem,
		   enum hv_assist_kind *kind)
{
	uint8_t opcode;
	int rc;

	if (!prefixes(in, &opcode))
		return -ENOTSUP;
	if (opcode == 0xcc) {
		*kind = HV_ASSIST_INT3;
		rc = 0;
	} else if (opcode == 0x9b) {
		*kind = HV_ASSIST_WAIT;
		rc = wait_for_fpu(in, vcpu);
	} else if (opcode == 0x0f) {
		rc = two_bytes(in, mem, kind);
	} else {
		rc = -ENOTSUP;
	}
	if (rc == 0) {
		in->regs->rip += in->at;
		in->regs->rflags &= ~RFLAGS_RF;
	}
	return rc;
}

/*
 * KVM has queued #UD for the instruction (its handle_emulation_failure); it is taken back. int3 has #BP
 * instead, with RIP behind it, as a trap has. What else waits, as an NMI, stays.
 */
static void set_events(struct kvm_vcpu_events *events, enum hv_assist_kind kind)
{
	events->exception.injected = kind == HV_ASSIST_INT3;
	events->exception.pending = 0;
	events->exception.nr = kind == HV_ASSIST_INT3 ? BP_VECTOR : 0;
	events->exception.has_error_code = 0;
	events->exception.error_code = 0;
	events->interrupt.shadow = 0; /* an instruction behind sti or mov ss has been executed */
	events->flags |= KVM_VCPUEVENT_VALID_SHADOW;
}

int hv_assist(struct hv_vcpu *vcpu, const struct hv_memory *mem, enum hv_assist_kind *kind)
{
	struct kvm_vcpu_events events;
	struct kvm_sregs sregs;
	struct kvm_regs regs, before;
	struct insn in = {.regs = &regs, .sregs = &sregs};
	int rc = hv_vcpu_get_regs(vcpu, &regs, NULL);

	if (!rc)
		rc = hv_vcpu_get_sregs(vcpu, &sregs, NULL);
	if (rc)
		return rc;
	if (ioctl(vcpu->fd, KVM_GET_VCPU_EVENTS, &events) < 0)
		return -errno;
	if (!(sregs.efer & EFER_LMA) || !sregs.cs.l || sregs.ss.dpl || regs.rflags & RFLAGS_TF)
		return -ENOTSUP;
	if ((events.exception.injected || events.exception.pending) && events.exception.nr != UD_VECTOR)
		return -ENOTSUP;
	before = regs;
	fetch(&in, vcpu->run, mem);
	rc = execute(&in, vcpu, mem, kind);
	if (rc)
		return rc;
	set_events(&events, *kind);
	/* Registers first: setting them makes KVM forget an exception that waits. */
	rc = hv_vcpu_set_regs(vcpu, &regs, NULL);
	if (!rc && ioctl(vcpu->fd, KVM_SET_VCPU_EVENTS, &events) < 0) {
		rc = -errno;
		hv_vcpu_set_regs(vcpu, &before, NULL);
	}
	return rc;
}
