/*
 * The state of a vCPU and of a VM: taken out, put back, written and read through the codec.
 * Rules: KVM API 4.11 to 4.14, 4.18, 4.19, 4.22, 4.23, 4.25
 * to 4.34, 4.38, 4.39, 4.42, 4.43, 4.57, 4.58, 4.71, 4.72, 4.84 to 4.87 and KVM_GET_SREGS2;
 * Documentation/virt/kvm/devices/vcpu.rst for the TSC's offset.
 *
 * To put a whole VM back: its memory, then each vCPU (after its CPUID), then the VM's own state, all before
 * any vCPU runs. The VM comes after its vCPUs because the timer and the IOAPIC may deliver at once what was
 * pending, into local APICs that must not be overwritten any more. Not saved: a nested guest's state
 * (KVM_GET_NESTED_STATE), whatever CPUID and the machine's configuration say.
 */
#ifndef HV_KVM_STATE_H
#define HV_KVM_STATE_H

#include <stdbool.h>

#include "base/codec.h"
#include "kvm/vcpu.h"

struct hv_vcpu_state {
	struct kvm_regs regs;
	struct kvm_sregs sregs;   /* where there is no KVM_CAP_SREGS2 */
	struct kvm_sregs2 sregs2; /* else */
	struct kvm_xcrs xcrs;
	struct kvm_debugregs debugregs;
	struct kvm_vcpu_events events;
	struct kvm_mp_state mp_state;
	struct kvm_lapic_state lapic;
	bool has_sregs2, has_xcrs, has_lapic, has_mp_state, has_tsc_offset;
	/*
	 * The caller may set it before putting back: the TSC then keeps its offset to the host's, as if it
	 * had run on meanwhile. That holds on the same host since its boot only; else it goes on from `tsc`.
	 */
	bool keep_tsc_offset;
	uint64_t tsc, tsc_offset;
	void *xsave; /* owned */
	uint32_t xsave_size;
	struct kvm_msr_entry *msrs; /* owned; the TSC deadline is the last */
	uint32_t msr_count;
};

/* The in-kernel controllers of HV_IRQCHIP_FULL: two PICs, the IOAPIC, the PIT. */
struct hv_irqchip_state {
	struct kvm_irqchip chips[3];
	struct kvm_pit_state2 pit;
};

struct hv_vm_state {
	bool has_chips; /* HV_IRQCHIP_FULL */
	struct hv_irqchip_state chips;
	struct kvm_clock_data clock; /* .realtime is always filled */
};

HV_API_BEGIN
/* While no vCPU runs. */
int hv_irqchip_get_state(const struct hv_vm *vm, struct hv_irqchip_state *state, struct hv_error *err);
int hv_irqchip_set_state(const struct hv_vm *vm, const struct hv_irqchip_state *state, struct hv_error *err);

/*
 * The controllers and the guest's clock, while no vCPU runs. catch_up: the clock is put forward by the time
 * that has passed since it was taken, by the hosts' CLOCK_REALTIME; else it goes on from where it stood.
 */
int hv_vm_get_state(const struct hv_vm *vm, struct hv_vm_state *state, struct hv_error *err);
int hv_vm_set_state(const struct hv_vm *vm, const struct hv_vm_state *state, bool catch_up,
		    struct hv_error *err);

/*
 * Both on the vCPU's thread, between two exits. get fills all of *state, whatever was there, and the caller
 * frees it with hv_vcpu_state_free; when it fails there is nothing to free.
 *
 * An MSR that KVM refuses on the way back is passed over when nothing is lost by that: its value is 0 (never
 * used), the vCPU holds that value already, or it is a fact about the CPU that KVM offers and the guest can't
 * write. Any other is an error that names it; what precedes it has been set.
 */
int hv_vcpu_get_state(const struct hv_vm *vm, const struct hv_vcpu *vcpu, struct hv_vcpu_state *state,
		      struct hv_error *err);
int hv_vcpu_set_state(const struct hv_vm *vm, const struct hv_vcpu *vcpu, const struct hv_vcpu_state *state,
		      struct hv_error *err);
void hv_vcpu_state_free(struct hv_vcpu_state *state); /* zeroed or filled */

/*
 * One section each, "vcpu" and "vm", version 1, required. The encoder latches failures. load fills all of
 * *state from an untrusted section's body: 0, or a sentence and nothing to free.
 */
void hv_vcpu_state_save(const struct hv_vcpu_state *state, uint32_t index, struct hv_encoder *e);
int hv_vcpu_state_load(struct hv_section *s, struct hv_vcpu_state *state, uint32_t *index,
		       struct hv_error *err);
void hv_vm_state_save(const struct hv_vm_state *state, struct hv_encoder *e);
int hv_vm_state_load(struct hv_section *s, struct hv_vm_state *state, struct hv_error *err);
HV_API_END

#endif
