/*
 * The rig's commands of lab 3: a vCPU enters long mode without any help of the files that are graded, and the
 * host's memory around a slot is probed.
 */
#include <unistd.h>

#include "rig.h"

/*
 * long_mode RIP CR3: the least that a 64-bit guest needs, on tables that were loaded. boot/longmode.c would
 * do it too, but reaches guest memory through the student's accessor.
 */
static int long_mode(struct rig *rig, int count, char **words)
{
	struct kvm_sregs sregs;
	struct kvm_regs regs;
	uint64_t rip, cr3;
	int rc;

	if (count != 3 || !rig_parse(words[1], &rip) || !rig_parse(words[2], &cr3))
		return RIG_USAGE;
	rc = hv_vcpu_get_sregs(&rig->vcpus[0], &sregs, &rig->err);
	if (rc)
		return rc;
	sregs.cs = (struct kvm_segment){
		.selector = 8, .limit = 0xffffffff, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1};
	sregs.ds = (struct kvm_segment){
		.selector = 16, .limit = 0xffffffff, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1};
	sregs.es = sregs.fs = sregs.gs = sregs.ss = sregs.ds;
	sregs.tr = (struct kvm_segment){.selector = 24, .limit = 0x67, .type = 11, .present = 1};
	sregs.ldt = (struct kvm_segment){.type = 2, .unusable = 1};
	sregs.cr0 = 0x80000011; /* PG, ET, PE */
	sregs.cr3 = cr3;
	sregs.cr4 = 0x20;   /* PAE */
	sregs.efer = 0x500; /* LMA, LME */
	rc = hv_vcpu_set_sregs(&rig->vcpus[0], &sregs, &rig->err);
	regs = (struct kvm_regs){.rip = rip, .rflags = 2};
	return rc ? rc : hv_vcpu_set_regs(&rig->vcpus[0], &regs, &rig->err);
}

/* A page is probed through the kernel, which answers EFAULT where this program would die. */
static bool can_read(const void *address)
{
	int ends[2];
	bool can;

	if (pipe(ends) < 0)
		return false;
	can = write(ends[1], address, 1) == 1;
	close(ends[0]);
	close(ends[1]);
	return can;
}

/* guard GPA SIZE: of a slot. Whether the bytes just before and just behind it can be read. */
static int guard(struct rig *rig, int count, char **words)
{
	uint64_t gpa, size;
	const uint8_t *host;

	if (count != 3 || !rig_parse(words[1], &gpa) || !rig_parse(words[2], &size))
		return RIG_USAGE;
	host = hv_memory_at(&rig->memory, gpa, 1);
	if (!host)
		return hv_fail(&rig->err, EFAULT, "no slot holds %#llx", (unsigned long long)gpa);
	rig_bool(rig, "before", can_read(host - 1));
	rig_bool(rig, "behind", can_read(host + size));
	return 0;
}

const struct rig_command rig_lab03[] = {
	{"long_mode", "RIP CR3", long_mode},
	{"guard", "GPA SIZE", guard},
	{NULL, NULL, NULL},
};
