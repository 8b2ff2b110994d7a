/*
 * One vCPU: its descriptor, the kvm_run area it shares with the kernel, KVM_RUN.
 * Rules: KVM API 4.7 (KVM_CREATE_VCPU), 4.10 (KVM_RUN), section 5 (the kvm_run structure).
 *
 * All functions are to be called on the thread that runs the vCPU, or before that thread starts; the vCPU
 * ioctls of another thread would wait until KVM_RUN returns.
 */
#ifndef HV_KVM_VCPU_H
#define HV_KVM_VCPU_H

#include <linux/kvm.h>

#include "kvm/kvm.h"

struct hv_vcpu {
	int fd; /* -1 when closed */
	unsigned index;
	struct kvm_run *run; /* shared with the kernel, kvm->run_size bytes */
	size_t run_size;
};

HV_API_BEGIN
int hv_vcpu_create(struct hv_vcpu *vcpu, const struct hv_vm *vm, unsigned index, struct hv_error *err);
void hv_vcpu_destroy(struct hv_vcpu *vcpu);

/*
 * Enters the guest until its next exit. 0: vcpu->run->exit_reason tells why it came back. -EINTR: a signal or
 * immediate_exit, nothing happened. -EAGAIN: not yet started by its BSP; try again. Else a negative errno:
 * the vCPU can't go on (-EFAULT: memory behind a slot is gone).
 */
int hv_vcpu_run(struct hv_vcpu *vcpu);

int hv_vcpu_get_regs(const struct hv_vcpu *vcpu, struct kvm_regs *regs, struct hv_error *err);
int hv_vcpu_set_regs(const struct hv_vcpu *vcpu, const struct kvm_regs *regs, struct hv_error *err);
int hv_vcpu_get_sregs(const struct hv_vcpu *vcpu, struct kvm_sregs *sregs, struct hv_error *err);
int hv_vcpu_set_sregs(const struct hv_vcpu *vcpu, const struct kvm_sregs *sregs, struct hv_error *err);

/*
 * Fills in real-address mode as a CPU has it after reset, but with CS base 0 instead of 0xffff0000, so that
 * RIP alone tells where the guest starts. CR2, CR8, the APIC base and waiting interrupts stay as they are.
 */
void hv_vcpu_real_mode(struct kvm_sregs *sregs);

/* "io", "mmio", "hlt", ... for a KVM_EXIT_ number; "unknown" for one that has no name here. Constant strings.
 */
const char *hv_exit_name(uint32_t exit_reason);
#define HV_EXIT_REASONS 64 /* all KVM_EXIT_ numbers are below it */
HV_API_END

#endif
