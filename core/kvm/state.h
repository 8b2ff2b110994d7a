/*
 * A vCPU's state, taken out and put back.
 * Rules: KVM API 4.11 to 4.14, 4.18, 4.19, 4.22, 4.23, 4.31 to 4.34, 4.38, 4.39, 4.57, 4.58 and 4.84 to 4.87.
 */
#ifndef HV_KVM_STATE_H
#define HV_KVM_STATE_H

#include <stdbool.h>

#include "kvm/vcpu.h"

#define HV_STATE_MSRS_MAX 64

struct hv_vcpu_state {
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_xsave xsave;
	struct kvm_xcrs xcrs;
	struct kvm_debugregs debugregs;
	struct kvm_vcpu_events events;
	struct kvm_mp_state mp_state;
	struct kvm_lapic_state lapic;
	bool has_xcrs, has_lapic, has_mp_state;
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entries[HV_STATE_MSRS_MAX];
	} msrs;
};

/* The in-kernel controllers of HV_IRQCHIP_FULL: two PICs, the IOAPIC, the PIT. */
struct hv_irqchip_state {
	struct kvm_irqchip chips[3];
	struct kvm_pit_state2 pit;
};

HV_API_BEGIN
/* While no vCPU runs. */
int hv_irqchip_get_state(const struct hv_vm *vm, struct hv_irqchip_state *state, struct hv_error *err);
int hv_irqchip_set_state(const struct hv_vm *vm, const struct hv_irqchip_state *state, struct hv_error *err);

/* Both on the vCPU's thread, between two exits. */
int hv_vcpu_get_state(const struct hv_vcpu *vcpu, struct hv_vcpu_state *state, struct hv_error *err);
int hv_vcpu_set_state(const struct hv_vcpu *vcpu, const struct hv_vcpu_state *state, struct hv_error *err);
HV_API_END

#endif
