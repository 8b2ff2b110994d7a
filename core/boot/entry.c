/*
 * The first vCPU is told where to start: general registers, and the mode that they make sense in. Every field
 * that a mode depends on is set, not only those that differ from a fresh vCPU's: a reset comes here too, with
 * whatever state the guest had.
 *
 * May call longmode.c and kvm/vcpu.h.
 * Rules: SDM vol. 3A, 10.1.1 (state after reset); Linux's boot.rst, "64-bit Boot Protocol"; boot.h.
 */
#include <string.h>

#include "boot/layout.h"

#define RFLAGS_FIXED 0x2 /* bit 1 is always set; IF, TF, DF and the rest are clear */

static uint64_t memory_top(const struct hv_memory *mem)
{
	const struct hv_slot *last = mem->slots + mem->count;

	return mem->count ? last[-1].gpa + last[-1].size : 0;
}

/*
 * Linux's 64-bit protocol fixes two selectors, __BOOT_CS 0x10 and __BOOT_DS 0x18, which lie one place higher
 * than in our GDT. So all of it moves up by one; there is room before the TSS.
 */
static int raise_selectors(const struct hv_memory *mem, struct kvm_sregs *sregs, struct hv_error *err)
{
	struct kvm_segment *const segments[] = {&sregs->cs, &sregs->ds, &sregs->es, &sregs->fs,
						&sregs->gs, &sregs->ss, &sregs->tr};
	size_t size = sregs->gdt.limit + 1u;
	uint8_t *gdt = hv_memory_at(mem, sregs->gdt.base, size + 8);

	if (!gdt)
		return hv_fail(err, ENOMEM, "No RAM at 0x%llx for the GDT",
			       (unsigned long long)sregs->gdt.base);
	memmove(gdt + 8, gdt, size); /* the null descriptor twice: entry 1 is not used */
	sregs->gdt.limit = (uint16_t)(size + 8 - 1);
	for (size_t i = 0; i < HV_ARRAY_SIZE(segments); i++)
		segments[i]->selector = (uint16_t)(segments[i]->selector + 8);
	return 0;
}

static int set_mode(enum hv_entry_mode mode, struct hv_memory *mem, struct kvm_sregs *sregs,
		    struct hv_error *err)
{
	switch (mode) {
	case HV_ENTRY_REAL:
		hv_vcpu_real_mode(sregs);
		return 0;
	case HV_ENTRY_PROTECTED:
		return hv_protected_setup(mem, sregs, err);
	case HV_ENTRY_LONG:
		return hv_longmode_setup(mem, memory_top(mem), sregs, err);
	}
	return hv_fail(err, EINVAL, "Entry mode %d doesn't exist", (int)mode);
}

int hv_entry_apply(const struct hv_entry *entry, const struct hv_vcpu *vcpu, struct hv_memory *mem,
		   struct hv_error *err)
{
	struct kvm_sregs sregs;
	struct kvm_regs regs = {
		.rip = entry->rip,
		.rsp = entry->rsp,
		.rax = entry->rax,
		.rbx = entry->rbx,
		.rcx = entry->rcx,
		.rdx = entry->rdx,
		.rsi = entry->rsi,
		.rdi = entry->rdi,
		.rflags = RFLAGS_FIXED,
	};
	int rc = hv_vcpu_get_sregs(vcpu, &sregs, err);

	if (!rc)
		rc = set_mode(entry->mode, mem, &sregs, err);
	if (!rc && entry->kind == HV_BOOT_LINUX)
		rc = raise_selectors(mem, &sregs, err);
	if (rc)
		return rc;
	sregs.cr2 = sregs.cr8 = 0;
	memset(sregs.interrupt_bitmap, 0, sizeof(sregs.interrupt_bitmap));
	rc = hv_vcpu_set_sregs(vcpu, &sregs, err);
	if (!rc)
		rc = hv_vcpu_set_regs(vcpu, &regs, err);
	return rc;
}
