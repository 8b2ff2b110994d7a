/*
 * /dev/kvm and one virtual machine: the first two levels of KVM's descriptors (system, VM, vCPU).
 * Rules: KVM API, Documentation/virt/kvm/api.rst, sections 2 to 4.5.
 */
#ifndef HV_KVM_KVM_H
#define HV_KVM_KVM_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* The system descriptor. */
struct hv_kvm {
	int fd;          /* of /dev/kvm; -1 when closed */
	size_t run_size; /* bytes of the shared kvm_run area of each vCPU (KVM_GET_VCPU_MMAP_SIZE) */
};

/* One virtual machine, empty: memory, interrupt controller and vCPUs are added by their own files. */
struct hv_vm {
	int fd; /* -1 when closed */
	const struct hv_kvm *kvm;
};

HV_API_BEGIN
/*
 * Opens /dev/kvm (or $HV_KVM_DEVICE, for tests) and checks that it speaks API version 12. The sentence tells
 * what to do when it is missing, forbidden or busy. Close with hv_kvm_close.
 */
int hv_kvm_open(struct hv_kvm *kvm, struct hv_error *err);
void hv_kvm_close(struct hv_kvm *kvm);

/* The value of KVM_CHECK_EXTENSION for a KVM_CAP_ number: 0 when the host lacks it. */
int hv_kvm_has(const struct hv_kvm *kvm, unsigned long cap);

/*
 * Makes an empty VM. Sets the TSS and identity-map addresses, which VT-x without unrestricted guest needs
 * (KVM API 4.36, 4.40), just below the BIOS area at the top of 4 GiB, where no RAM slot may lie. kvm must
 * outlive vm.
 */
int hv_vm_create(struct hv_vm *vm, const struct hv_kvm *kvm, struct hv_error *err);
void hv_vm_destroy(struct hv_vm *vm);
HV_API_END

/* Where KVM keeps its identity map (1 page) and TSS (3 pages). */
#define HV_IDENTITY_MAP_ADDR 0xfffbc000ull
#define HV_TSS_ADDR          0xfffbd000ull

#endif
