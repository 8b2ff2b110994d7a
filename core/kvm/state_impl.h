/*
 * Which MSRs a vCPU's state holds: between state.c and state_msr.c.
 */
#ifndef HV_KVM_STATE_IMPL_H
#define HV_KVM_STATE_IMPL_H

#include "kvm/state.h"

#define HV_MSR_TSC          0x10u
#define HV_MSR_TSC_DEADLINE 0x6e0u

/* The MSRs to save in *out (malloc'd; the values are zero), the TSC deadline last. vm for KVM's own list. */
int hv_msr_list(const struct hv_vm *vm, const struct hv_vcpu *vcpu, struct kvm_msr_entry **out,
		uint32_t *count, struct hv_error *err);

/* One MSR: true when KVM has it. */
bool hv_msr_get(const struct hv_vcpu *vcpu, uint32_t index, uint64_t *value);

/* A fact about the CPU that KVM offers rather than something that a guest sets. */
bool hv_msr_is_fact(uint32_t index);

/* "IA32_PAT"; "MSR" for one that has no name here. */
const char *hv_msr_name(uint32_t index);

#endif
