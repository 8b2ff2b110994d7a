/*
 * A vCPU's state, taken out and put back. The order of putting back matters: the special registers decide
 * what the others mean (EFER and CR4 before XSAVE and MSRs), the local APIC must stand before the TSC
 * deadline that it is armed with, and pending events come last, because setting registers clears them. It
 * calls the kernel and core/base only. Rules: KVM API, the sections named in state.h.
 */
#include <string.h>
#include <sys/ioctl.h>

#include "base/api.h"
#include "kvm/state.h"

#define MSR_TSC_DEADLINE 0x6e0u

/* SDM vol. 4; the last group is KVM's own (Documentation/virt/kvm/x86/msr.rst). */
static const uint32_t msr_list[] = {
	0x174,
	0x175,
	0x176, /* SYSENTER_CS, _ESP, _EIP */
	0xc0000081,
	0xc0000082,
	0xc0000083,
	0xc0000084, /* STAR, LSTAR, CSTAR, FMASK */
	0xc0000102,
	0xc0000103, /* KERNEL_GS_BASE, TSC_AUX */
	0x277,
	0x2ff,
	0x1a0,            /* PAT, MTRR_DEF_TYPE, MISC_ENABLE */
	MSR_TSC_DEADLINE, /* with the local APIC in place */
	0x4b564d00,
	0x4b564d01,
	0x4b564d02,
	0x4b564d03,
	0x4b564d04, /* kvmclock, async faults, steal time, EOI */
};

/* One MSR: true when KVM has it. */
static bool get_msr(const struct hv_vcpu *vcpu, uint32_t index, uint64_t *value)
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

/* KVM_SET_MSRS stops at the first MSR that it refuses and returns its place: that one is the error's name. */
static int set_msrs(const struct hv_vcpu *vcpu, const struct hv_vcpu_state *state, struct hv_error *err)
{
	int done = ioctl(vcpu->fd, KVM_SET_MSRS, &state->msrs);

	if (done < 0)
		return hv_fail_errno(err, "vCPU %u: KVM cannot set its MSRs (KVM_SET_MSRS)", vcpu->index);
	if ((uint32_t)done < state->msrs.head.nmsrs)
		return hv_fail(err, EIO, "vCPU %u: KVM refuses MSR %#x = %#llx", vcpu->index,
			       state->msrs.entries[done].index, state->msrs.entries[done].data);
	return 0;
}

int hv_vcpu_get_state(const struct hv_vcpu *vcpu, struct hv_vcpu_state *state, struct hv_error *err)
{
	int rc;

	memset(state, 0, sizeof(*state));
	rc = hv_vcpu_get_regs(vcpu, &state->regs, err);
	if (!rc)
		rc = hv_vcpu_get_sregs(vcpu, &state->sregs, err);
	if (rc)
		return rc;
	if (ioctl(vcpu->fd, KVM_GET_XSAVE, &state->xsave) < 0)
		return hv_fail_errno(err, "vCPU %u: its FPU state cannot be read (KVM_GET_XSAVE)",
				     vcpu->index);
	if (ioctl(vcpu->fd, KVM_GET_DEBUGREGS, &state->debugregs) < 0)
		return hv_fail_errno(err, "vCPU %u: its debug registers cannot be read", vcpu->index);
	if (ioctl(vcpu->fd, KVM_GET_VCPU_EVENTS, &state->events) < 0)
		return hv_fail_errno(err, "vCPU %u: its pending events cannot be read", vcpu->index);
	/*
	 * These three depend on the CPU model and on the irqchip; ENXIO, EINVAL: there is none. On a host
	 * without XSAVE KVM reads no XCR, without an error, and then refuses to set none.
	 */
	state->has_xcrs = ioctl(vcpu->fd, KVM_GET_XCRS, &state->xcrs) == 0 && state->xcrs.nr_xcrs > 0;
	state->has_lapic = ioctl(vcpu->fd, KVM_GET_LAPIC, &state->lapic) == 0;
	state->has_mp_state = ioctl(vcpu->fd, KVM_GET_MP_STATE, &state->mp_state) == 0;
	for (unsigned i = 0; i < HV_ARRAY_SIZE(msr_list); i++) {
		struct kvm_msr_entry *e = &state->msrs.entries[state->msrs.head.nmsrs];
		uint64_t value;

		if (!get_msr(vcpu, msr_list[i], &value))
			continue;
		*e = (struct kvm_msr_entry){.index = msr_list[i], .data = value};
		state->msrs.head.nmsrs++;
	}
	return 0;
}

int hv_vcpu_set_state(const struct hv_vcpu *vcpu, const struct hv_vcpu_state *state, struct hv_error *err)
{
	int rc;

	if (state->has_mp_state && ioctl(vcpu->fd, KVM_SET_MP_STATE, &state->mp_state) < 0)
		return hv_fail_errno(err, "vCPU %u: KVM refuses its run state (KVM_SET_MP_STATE)",
				     vcpu->index);
	rc = hv_vcpu_set_sregs(vcpu, &state->sregs, err);
	if (!rc)
		rc = hv_vcpu_set_regs(vcpu, &state->regs, err);
	if (rc)
		return rc;
	if (state->has_xcrs && ioctl(vcpu->fd, KVM_SET_XCRS, &state->xcrs) < 0)
		return hv_fail_errno(err, "vCPU %u: KVM refuses XCR0 (KVM_SET_XCRS)", vcpu->index);
	if (ioctl(vcpu->fd, KVM_SET_XSAVE, &state->xsave) < 0)
		return hv_fail_errno(err, "vCPU %u: KVM refuses its FPU state (KVM_SET_XSAVE)", vcpu->index);
	if (ioctl(vcpu->fd, KVM_SET_DEBUGREGS, &state->debugregs) < 0)
		return hv_fail_errno(err, "vCPU %u: KVM refuses its debug registers", vcpu->index);
	if (state->has_lapic && ioctl(vcpu->fd, KVM_SET_LAPIC, &state->lapic) < 0)
		return hv_fail_errno(err, "vCPU %u: KVM refuses its local APIC (KVM_SET_LAPIC)", vcpu->index);
	rc = set_msrs(vcpu, state, err);
	if (rc)
		return rc;
	if (ioctl(vcpu->fd, KVM_SET_VCPU_EVENTS, &state->events) < 0)
		return hv_fail_errno(err, "vCPU %u: KVM refuses its pending events", vcpu->index);
	return 0;
}

int hv_irqchip_get_state(const struct hv_vm *vm, struct hv_irqchip_state *state, struct hv_error *err)
{
	memset(state, 0, sizeof(*state));
	for (uint32_t i = 0; i < HV_ARRAY_SIZE(state->chips); i++) {
		state->chips[i].chip_id = i; /* KVM_IRQCHIP_PIC_MASTER, _PIC_SLAVE, _IOAPIC */
		if (ioctl(vm->fd, KVM_GET_IRQCHIP, &state->chips[i]) < 0)
			return hv_fail_errno(err, "interrupt controller %u: its state cannot be read", i);
	}
	if (ioctl(vm->fd, KVM_GET_PIT2, &state->pit) < 0)
		return hv_fail_errno(err, "the timer's state cannot be read (KVM_GET_PIT2)");
	return 0;
}

int hv_irqchip_set_state(const struct hv_vm *vm, const struct hv_irqchip_state *state, struct hv_error *err)
{
	for (uint32_t i = 0; i < HV_ARRAY_SIZE(state->chips); i++)
		if (ioctl(vm->fd, KVM_SET_IRQCHIP, &state->chips[i]) < 0)
			return hv_fail_errno(err, "interrupt controller %u: KVM refuses its state", i);
	if (ioctl(vm->fd, KVM_SET_PIT2, &state->pit) < 0)
		return hv_fail_errno(err, "KVM refuses the timer's state (KVM_SET_PIT2)");
	return 0;
}
