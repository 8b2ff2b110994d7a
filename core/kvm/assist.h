/*
 * First aid for software back ends. They interpret a guest's kernel code, and when their interpreter doesn't
 * know an instruction KVM_RUN returns KVM_EXIT_INTERNAL_ERROR, suberror 1. The few of them that a Linux
 * kernel can't do without are completed here; all others stay an error, with its diagnosis. VT-x and AMD-V
 * never need it.
 */
#ifndef HV_KVM_ASSIST_H
#define HV_KVM_ASSIST_H

#include <stdbool.h>

#include "kvm/memory.h"
#include "kvm/vcpu.h"

enum hv_assist_kind {
	HV_ASSIST_INT3,
	HV_ASSIST_CLAC,
	HV_ASSIST_STAC,
	HV_ASSIST_POPCNT,
	HV_ASSIST_WAIT,
	HV_ASSIST_KINDS,
};

HV_API_BEGIN
const char *hv_assist_name(enum hv_assist_kind kind); /* "int3", ...; a constant */

/*
 * After KVM_RUN returned KVM_EXIT_INTERNAL_ERROR: completes the instruction at RIP when it is one of the
 * above, executed at CPL 0 in 64-bit mode. 0: done, *kind tells which, and KVM_RUN goes on behind it.
 * Negative: it isn't
 * (-ENOTSUP), its operand is not in RAM (-EFAULT), or the vCPU's state can't be had; nothing was changed
 * then. On the vCPU's thread.
 */
int hv_assist(struct hv_vcpu *vcpu, const struct hv_memory *mem, enum hv_assist_kind *kind);
HV_API_END

#endif
