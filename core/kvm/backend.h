/*
 * What does the work below /dev/kvm: VT-x, AMD-V, or a software back end, which interprets kernel code and
 * knows fewer instructions. Nothing may depend on it but speed, what the doctor says, and kvm/assist.h.
 */
#ifndef HV_KVM_BACKEND_H
#define HV_KVM_BACKEND_H

#include <stdbool.h>

#include "base/api.h"

enum hv_backend { HV_BACKEND_UNKNOWN, HV_BACKEND_VMX, HV_BACKEND_SVM, HV_BACKEND_SOFTWARE };

HV_API_BEGIN
/* Looks into /sys and, where that doesn't tell, /proc: before a sandbox closes. Any thread. */
enum hv_backend hv_backend(void);

/* Whether /proc/cpuinfo names this feature. Any thread. */
bool hv_backend_cpu_flag(const char *flag);

/* Whether the kernel has this module, loaded or built in (those with parameters). Any thread. */
bool hv_backend_module(const char *name);

/* The rule alone: which modules are there, which features the processor has. */
enum hv_backend hv_backend_of(bool software, bool intel, bool amd, bool vmx, bool svm);
HV_API_END

#endif
