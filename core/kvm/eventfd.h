/*
 * Events that the kernel passes on without an exit to user space: a guest's write to an address becomes a
 * write to an eventfd. Rules: KVM API 4.59 (KVM_IOEVENTFD).
 */
#ifndef HV_KVM_EVENTFD_H
#define HV_KVM_EVENTFD_H

#include <stdbool.h>
#include <stdint.h>

#include "kvm/kvm.h"

HV_API_BEGIN
/*
 * A 32-bit write of `value` to the MMIO address gpa adds 1 to fd instead of leaving KVM_RUN; other values,
 * and other sizes, come out as before. on false: no more. Any thread. 0 or a negative errno: -EEXIST when the
 * same is wanted already, -ENOSPC when KVM's bus is full.
 */
int hv_vm_notify_fd(const struct hv_vm *vm, uint64_t gpa, uint32_t value, int fd, bool on);
HV_API_END

#endif
