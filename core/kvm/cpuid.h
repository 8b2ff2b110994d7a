/*
 * What CPU the guest sees.
 * Rules: KVM API 4.46 (KVM_GET_SUPPORTED_CPUID), 4.20 (KVM_SET_CPUID2); SDM vol. 2A, CPUID.
 */
#ifndef HV_KVM_CPUID_H
#define HV_KVM_CPUID_H

#include <stdbool.h>

#include "kvm/vcpu.h"

#define HV_CPU_MINUS_MAX 32

struct hv_cpu_model {
	bool baseline; /* only the features of x86-64-v2; else all that the host's KVM supports */
	unsigned minus_count;
	unsigned short minus[HV_CPU_MINUS_MAX]; /* indexes into the feature table */
};

HV_API_BEGIN
/* "host" or "baseline", then ",-feature" any number of times ("host,-avx2,-xsave"); names as in
 * /proc/cpuinfo. */
int hv_cpu_model_parse(struct hv_cpu_model *model, const char *text, struct hv_error *err);

/*
 * What the host's KVM can give to guests, malloc'd. Asking takes 0.4 ms on some hosts, where each CPUID
 * instruction is trapped, so it is asked once a VM; any thread.
 */
int hv_cpuid_supported(const struct hv_kvm *kvm, struct kvm_cpuid2 **out, struct hv_error *err);

/*
 * Gives vCPU `vcpu` of `cpus` its CPUID leaves: features, topology, APIC id, the hypervisor's signature.
 * supported is what hv_cpuid_supported said, or NULL to ask now.
 */
int hv_cpuid_apply(const struct hv_kvm *kvm, const struct hv_vcpu *vcpu, const struct hv_cpu_model *model,
		   unsigned cpus, const struct kvm_cpuid2 *supported, struct hv_error *err);

/* The leaves that hv_cpuid_apply would give, malloc'd. Some back ends overrule what they are given, so what a
 * guest sees may still differ. */
int hv_cpuid_leaves(const struct hv_kvm *kvm, const struct hv_vcpu *vcpu, const struct hv_cpu_model *model,
		    unsigned cpus, const struct kvm_cpuid2 *supported, struct kvm_cpuid2 **out,
		    struct hv_error *err);
HV_API_END

#endif
