/*
 * Which MSRs belong to a vCPU's state: those that KVM lists (KVM_GET_MSR_INDEX_LIST), without some and with
 * some more. Whatever this KVM cannot read is left out later, by state.c. It calls the kernel and core/base
 * only. Rules: SDM vol. 4; AMD APM vol. 2, appendix A; Documentation/virt/kvm/x86/msr.rst.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "kvm/state_impl.h"

#define MSR_MTRR_CAP 0xfeu
#define MSR_MCG_CAP  0x179u
#define LISTED_MAX   3072u
#define EXTRA_MAX    1024u /* more than extras() adds; the sum is what state_codec.c loads (MSRS_MAX) */

struct range {
	uint32_t first, last;
};

/* What KVM lists and we do not save, each with its reason. */
static const struct range left_out[] = {
	{HV_MSR_TSC, HV_MSR_TSC}, /* by itself, in struct hv_vcpu_state: it never stands still */
	{HV_MSR_TSC_DEADLINE, HV_MSR_TSC_DEADLINE}, /* appended: it must come last */
	{0x11, 0x12},                               /* the old names of 0x4b564d00 and 01: kvmclock, twice */
	{0x480, 0x493},                             /* VMX's abilities: facts, and nested state isn't saved */
	{0x40000000, 0x400001ff}, /* Hyper-V's: never offered to our guests; TIME_REF_COUNT is a clock */
};

/* What KVM leaves out of its list, or did once, and a guest can set all the same. Counted ones: extras(). */
static const struct range left_out_by_kvm[] = {
	{0x250, 0x250},           {0x258, 0x259}, {0x268, 0x26f}, /* fixed MTRRs */
	{0x277, 0x277},           {0x2ff, 0x2ff},                 /* PAT, MTRR_DEF_TYPE */
	{0x174, 0x176},           {0x1a0, 0x1a0},                 /* SYSENTER_CS, _ESP, _EIP; MISC_ENABLE */
	{0x1d9, 0x1d9},                                           /* DEBUGCTL */
	{0xc0000102, 0xc0000103},                                 /* KERNEL_GS_BASE, TSC_AUX */
};

static const struct {
	uint32_t index;
	const char *name;
} names[] = {
	{0x10, "IA32_TSC"},
	{0x3b, "IA32_TSC_ADJUST"},
	{0x8b, "IA32_BIOS_SIGN_ID"},
	{0x10a, "IA32_ARCH_CAPABILITIES"},
	{0x174, "IA32_SYSENTER_CS"},
	{0x175, "IA32_SYSENTER_ESP"},
	{0x176, "IA32_SYSENTER_EIP"},
	{0x1a0, "IA32_MISC_ENABLE"},
	{0x277, "IA32_PAT"},
	{0x2ff, "IA32_MTRR_DEF_TYPE"},
	{0x345, "IA32_PERF_CAPABILITIES"},
	{0x6e0, "IA32_TSC_DEADLINE"},
	{0xda0, "IA32_XSS"},
	{0xc0000081, "STAR"},
	{0xc0000082, "LSTAR"},
	{0xc0000083, "CSTAR"},
	{0xc0000084, "SYSCALL_MASK"},
	{0xc0000102, "KERNEL_GS_BASE"},
	{0xc0000103, "TSC_AUX"},
	{0x4b564d00, "KVM_WALL_CLOCK_NEW"},
	{0x4b564d01, "KVM_SYSTEM_TIME_NEW"},
	{0x4b564d02, "KVM_ASYNC_PF_EN"},
	{0x4b564d03, "KVM_STEAL_TIME"},
	{0x4b564d04, "KVM_EOI_EN"},
};

const char *hv_msr_name(uint32_t index)
{
	for (size_t i = 0; i < HV_ARRAY_SIZE(names); i++)
		if (names[i].index == index)
			return names[i].name;
	return "MSR";
}

bool hv_msr_is_fact(uint32_t index)
{
	return index == 0x8b || index == 0x10a || index == 0x345 ||
	       index == 0xce; /* the last: PLATFORM_INFO */
}

bool hv_msr_get(const struct hv_vcpu *vcpu, uint32_t index, uint64_t *value)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} one = {.head = {.nmsrs = 1}, .entry = {.index = index}};

	if (ioctl(vcpu->fd, KVM_GET_MSRS, &one) != 1)
		return false;
	*value = one.entry.data;
	return true;
}

static bool is_left_out(uint32_t index)
{
	for (size_t i = 0; i < HV_ARRAY_SIZE(left_out); i++)
		if (index >= left_out[i].first && index <= left_out[i].last)
			return true;
	return false;
}

static void add(struct kvm_msr_entry *list, uint32_t *count, uint32_t first, uint32_t last)
{
	for (uint32_t index = first; index <= last; index++) {
		uint32_t i = 0;

		while (i < *count && list[i].index != index)
			i++;
		if (i == *count)
			list[(*count)++].index = index;
	}
}

/* A bank's number is the low byte of the register that says how many there are. */
static void extras(const struct hv_vcpu *vcpu, struct kvm_msr_entry *list, uint32_t *count)
{
	uint64_t mtrr = 0, mcg = 0;

	for (size_t i = 0; i < HV_ARRAY_SIZE(left_out_by_kvm); i++)
		add(list, count, left_out_by_kvm[i].first, left_out_by_kvm[i].last);
	if (hv_msr_get(vcpu, MSR_MTRR_CAP, &mtrr) && (mtrr & 0xff) && (mtrr & 0xff) <= 40)
		add(list, count, 0x200, 0x200 + 2 * (uint32_t)(mtrr & 0xff) - 1); /* PHYSBASE, PHYSMASK */
	if (hv_msr_get(vcpu, MSR_MCG_CAP, &mcg) && (mcg & 0xff) && (mcg & 0xff) <= 32)
		add(list, count, 0x400, 0x400 + 4 * (uint32_t)(mcg & 0xff) - 1); /* CTL, STATUS, ADDR, MISC */
	list[(*count)++].index = HV_MSR_TSC_DEADLINE;
}

int hv_msr_list(const struct hv_vm *vm, const struct hv_vcpu *vcpu, struct kvm_msr_entry **out,
		uint32_t *count, struct hv_error *err)
{
	struct kvm_msr_list *listed = calloc(1, sizeof(*listed) + LISTED_MAX * sizeof(listed->indices[0]));
	struct kvm_msr_entry *list = calloc(LISTED_MAX + EXTRA_MAX, sizeof(*list));
	int rc = 0;

	*count = 0;
	*out = NULL;
	if (!listed || !list) {
		free(listed);
		free(list);
		return hv_fail(err, ENOMEM, "no memory for the list of MSRs");
	}
	listed->nmsrs = LISTED_MAX;
	if (ioctl(vm->kvm->fd, KVM_GET_MSR_INDEX_LIST, listed) < 0) {
		rc = hv_fail_errno(err, "KVM doesn't list its MSRs (KVM_GET_MSR_INDEX_LIST)");
		free(list);
	} else {
		for (uint32_t i = 0; i < listed->nmsrs; i++)
			if (!is_left_out(listed->indices[i]))
				add(list, count, listed->indices[i], listed->indices[i]);
		extras(vcpu, list, count);
		*out = list;
	}
	free(listed);
	return rc;
}
