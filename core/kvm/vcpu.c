/*
 * One vCPU: its descriptor, the kvm_run area that it shares with the kernel, and KVM_RUN. It calls the kernel
 * and core/base only. Rules: KVM API 4.7 (KVM_CREATE_VCPU), 4.10 (KVM_RUN), 4.11 to 4.14 (registers), 5 (the
 * kvm_run structure); SDM vol. 3A, 10.1.4 (the first instruction), vol. 3B, 21.1 (real-address mode).
 */
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kvm/vcpu.h"

#define TYPE_DATA 3  /* a segment's type: read, write, accessed */
#define TYPE_CODE 11 /* execute, read, accessed */
#define TYPE_TSS  11 /* busy */
#define TYPE_LDT  2

#define CR0_ET (1ull << 4) /* always 1; all else clear: no protection, no paging */

int hv_vcpu_create(struct hv_vcpu *vcpu, const struct hv_vm *vm, unsigned index, struct hv_error *err)
{
	memset(vcpu, 0, sizeof(*vcpu));
	vcpu->fd = -1;
	vcpu->index = index;
	vcpu->run_size = vm->kvm->run_size;
	/* hv:solution lab=1 task=3 */
	vcpu->fd = ioctl(vm->fd, KVM_CREATE_VCPU, (unsigned long)index);
	if (vcpu->fd < 0)
		return hv_fail_errno(err, "vCPU %u: KVM cannot create it (KVM_CREATE_VCPU)", index);
	/* All of run_size: behind struct kvm_run lie the data of port I/O and the coalesced-MMIO ring. */
	vcpu->run = mmap(NULL, vcpu->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
	if (vcpu->run == MAP_FAILED) {
		int rc = hv_fail_errno(err, "vCPU %u: its kvm_run area cannot be mapped", index);
		vcpu->run = NULL;
		hv_vcpu_destroy(vcpu);
		return rc;
	}
	return 0;
	/* hv:end */
}

void hv_vcpu_destroy(struct hv_vcpu *vcpu)
{
	if (vcpu->run)
		munmap(vcpu->run, vcpu->run_size);
	if (vcpu->fd >= 0)
		close(vcpu->fd);
	vcpu->run = NULL;
	vcpu->fd = -1;
}

int hv_vcpu_run(struct hv_vcpu *vcpu)
{
	/* hv:solution lab=1 task=4 */
	return ioctl(vcpu->fd, KVM_RUN, 0) < 0 ? -errno : 0;
	/* hv:end */
}

int hv_vcpu_get_regs(const struct hv_vcpu *vcpu, struct kvm_regs *regs, struct hv_error *err)
{
	if (ioctl(vcpu->fd, KVM_GET_REGS, regs) < 0)
		return hv_fail_errno(err, "vCPU %u: its registers cannot be read (KVM_GET_REGS)",
				     vcpu->index);
	return 0;
}

int hv_vcpu_set_regs(const struct hv_vcpu *vcpu, const struct kvm_regs *regs, struct hv_error *err)
{
	if (ioctl(vcpu->fd, KVM_SET_REGS, regs) < 0)
		return hv_fail_errno(err, "vCPU %u: KVM refuses the registers (KVM_SET_REGS)", vcpu->index);
	return 0;
}

int hv_vcpu_get_sregs(const struct hv_vcpu *vcpu, struct kvm_sregs *sregs, struct hv_error *err)
{
	if (ioctl(vcpu->fd, KVM_GET_SREGS, sregs) < 0)
		return hv_fail_errno(err, "vCPU %u: its special registers cannot be read (KVM_GET_SREGS)",
				     vcpu->index);
	return 0;
}

int hv_vcpu_set_sregs(const struct hv_vcpu *vcpu, const struct kvm_sregs *sregs, struct hv_error *err)
{
	if (ioctl(vcpu->fd, KVM_SET_SREGS, sregs) < 0)
		return hv_fail_errno(err, "vCPU %u: KVM refuses the special registers (KVM_SET_SREGS)",
				     vcpu->index);
	return 0;
}

/* Base is sixteen times the selector, limits are 64 KiB, all segments can be read and written. */
static struct kvm_segment real_segment(uint8_t type)
{
	return (struct kvm_segment){.limit = 0xffff, .type = type, .present = 1, .s = 1};
}

void hv_vcpu_real_mode(struct kvm_sregs *sregs)
{
	/* hv:solution lab=1 task=5 */
	/* A CPU comes out of reset with CS base 0xffff0000, where the firmware is. We have none: CS starts at
	 * 0. */
	sregs->cs = real_segment(TYPE_CODE);
	sregs->ds = real_segment(TYPE_DATA);
	sregs->es = sregs->fs = sregs->gs = sregs->ss = sregs->ds;
	sregs->tr = (struct kvm_segment){.limit = 0xffff, .type = TYPE_TSS, .present = 1};
	sregs->ldt = (struct kvm_segment){.limit = 0xffff, .type = TYPE_LDT, .present = 1};
	sregs->gdt = (struct kvm_dtable){.limit = 0xffff};
	sregs->idt = (struct kvm_dtable){.limit = 0x3ff}; /* the interrupt vectors, at 0 */
	sregs->cr0 = CR0_ET;
	sregs->cr3 = sregs->cr4 = sregs->efer = 0;
	/* hv:end */
}

static const char *const exit_names[HV_EXIT_REASONS] = {
	[KVM_EXIT_UNKNOWN] = "unknown",
	[KVM_EXIT_EXCEPTION] = "exception",
	[KVM_EXIT_IO] = "io",
	[KVM_EXIT_HYPERCALL] = "hypercall",
	[KVM_EXIT_DEBUG] = "debug",
	[KVM_EXIT_HLT] = "hlt",
	[KVM_EXIT_MMIO] = "mmio",
	[KVM_EXIT_IRQ_WINDOW_OPEN] = "irq-window-open",
	[KVM_EXIT_SHUTDOWN] = "shutdown",
	[KVM_EXIT_FAIL_ENTRY] = "fail-entry",
	[KVM_EXIT_INTR] = "intr",
	[KVM_EXIT_SET_TPR] = "set-tpr",
	[KVM_EXIT_TPR_ACCESS] = "tpr-access",
	[KVM_EXIT_S390_SIEIC] = "s390-sieic",
	[KVM_EXIT_S390_RESET] = "s390-reset",
	[KVM_EXIT_DCR] = "dcr",
	[KVM_EXIT_NMI] = "nmi",
	[KVM_EXIT_INTERNAL_ERROR] = "internal-error",
	[KVM_EXIT_OSI] = "osi",
	[KVM_EXIT_PAPR_HCALL] = "papr-hcall",
	[KVM_EXIT_S390_UCONTROL] = "s390-ucontrol",
	[KVM_EXIT_WATCHDOG] = "watchdog",
	[KVM_EXIT_S390_TSCH] = "s390-tsch",
	[KVM_EXIT_EPR] = "epr",
	[KVM_EXIT_SYSTEM_EVENT] = "system-event",
	[KVM_EXIT_S390_STSI] = "s390-stsi",
	[KVM_EXIT_IOAPIC_EOI] = "ioapic-eoi",
	[KVM_EXIT_HYPERV] = "hyperv",
	[KVM_EXIT_ARM_NISV] = "arm-nisv",
	[KVM_EXIT_X86_RDMSR] = "rdmsr",
	[KVM_EXIT_X86_WRMSR] = "wrmsr",
	[KVM_EXIT_DIRTY_RING_FULL] = "dirty-ring-full",
	[KVM_EXIT_AP_RESET_HOLD] = "ap-reset-hold",
	[KVM_EXIT_X86_BUS_LOCK] = "bus-lock",
	[KVM_EXIT_XEN] = "xen",
	[KVM_EXIT_RISCV_SBI] = "riscv-sbi",
	[36] = "riscv-csr", /* the numbers from here on are newer than some distributions' linux/kvm.h */
	[37] = "notify",
	[38] = "loongarch-iocsr",
	[39] = "memory-fault",
	[40] = "tdx",
};

const char *hv_exit_name(uint32_t exit_reason)
{
	const char *name = exit_reason < HV_EXIT_REASONS ? exit_names[exit_reason] : NULL;

	return name ? name : "unknown";
}
