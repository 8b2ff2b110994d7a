/*
 * A vCPU's and a VM's state, taken out and put back. The order of putting back matters: the special registers
 * decide what the others mean (EFER and CR4 before XSAVE and MSRs), the local APIC must stand before the TSC
 * deadline that it is armed with, and pending events come last, because setting registers clears them. It
 * calls the kernel, core/base and state_msr.c only. Rules: KVM API, the sections named in state.h.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>

#include "base/api.h"
#include "kvm/state_impl.h"

#define MSRS_AT_ONCE 256u /* what KVM takes in one call (MAX_IO_MSRS) */

static int get(const struct hv_vcpu *vcpu, unsigned long request, void *arg, const char *what,
	       struct hv_error *err)
{
	if (ioctl(vcpu->fd, request, arg) < 0)
		return hv_fail_errno(err, "vCPU %u: its %s cannot be read", vcpu->index, what);
	return 0;
}

static int set(const struct hv_vcpu *vcpu, unsigned long request, const void *arg, const char *what,
	       struct hv_error *err)
{
	if (ioctl(vcpu->fd, request, arg) < 0)
		return hv_fail_errno(err, "vCPU %u: KVM refuses its %s", vcpu->index, what);
	return 0;
}

/* KVM_GET_MSRS or KVM_SET_MSRS: how many went well, at most count, or -1 with errno. */
static int some_msrs(const struct hv_vcpu *vcpu, unsigned long request, struct kvm_msr_entry *entries,
		     uint32_t count)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entries[MSRS_AT_ONCE];
	} m = {.head = {.nmsrs = count < MSRS_AT_ONCE ? count : MSRS_AT_ONCE}};
	size_t size = m.head.nmsrs * sizeof(m.entries[0]);
	int done;

	memcpy(m.entries, entries, size);
	done = ioctl(vcpu->fd, request, &m);
	if (request == KVM_GET_MSRS)
		memcpy(entries, m.entries, size);
	return done;
}

/* A short count is the place of the MSR that this KVM, or this vCPU, hasn't got: it leaves the list. */
static int get_msrs(const struct hv_vm *vm, const struct hv_vcpu *vcpu, struct hv_vcpu_state *state,
		    struct hv_error *err)
{
	uint32_t at = 0;
	int rc = hv_msr_list(vm, vcpu, &state->msrs, &state->msr_count, err);

	while (!rc && at < state->msr_count) {
		uint32_t left = state->msr_count - at;
		int done = some_msrs(vcpu, KVM_GET_MSRS, state->msrs + at, left);

		if (done < 0)
			return hv_fail_errno(err, "vCPU %u: its MSRs cannot be read (KVM_GET_MSRS)",
					     vcpu->index);
		at += (uint32_t)done;
		if ((uint32_t)done < left && (uint32_t)done < MSRS_AT_ONCE) {
			state->msr_count--;
			memmove(state->msrs + at, state->msrs + at + 1,
				(state->msr_count - at) * sizeof(state->msrs[0]));
		}
	}
	return rc;
}

/* Whether the guest goes on unharmed without an MSR that KVM refuses: the rule is in state.h. */
static bool may_pass_over(const struct hv_vcpu *vcpu, const struct kvm_msr_entry *msr)
{
	uint64_t now;

	return !msr->data || hv_msr_is_fact(msr->index) ||
	       (hv_msr_get(vcpu, msr->index, &now) && now == msr->data);
}

/* KVM_SET_MSRS stops at the first MSR that it refuses and returns its place: that one is the error's name. */
static int set_msrs(const struct hv_vcpu *vcpu, struct kvm_msr_entry *msrs, uint32_t count,
		    struct hv_error *err)
{
	uint32_t at = 0;

	while (at < count) {
		int done = some_msrs(vcpu, KVM_SET_MSRS, msrs + at, count - at);

		if (done < 0)
			return hv_fail_errno(err, "vCPU %u: KVM cannot set its MSRs (KVM_SET_MSRS)",
					     vcpu->index);
		at += (uint32_t)done;
		if (at == count || (uint32_t)done == MSRS_AT_ONCE)
			continue;
		if (!may_pass_over(vcpu, &msrs[at]))
			return hv_fail(
				err, EIO,
				"vCPU %u: KVM refuses %s %#x = %#llx; this host's CPU or kernel lacks it",
				vcpu->index, hv_msr_name(msrs[at].index), msrs[at].index, msrs[at].data);
		at++;
	}
	return 0;
}

/* The TSC: its value, and where KVM tells, its distance from the host's. */
static struct kvm_device_attr tsc_offset_attr(const uint64_t *offset)
{
	return (struct kvm_device_attr){
		.group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)offset};
}

static int set_tsc(const struct hv_vcpu *vcpu, const struct hv_vcpu_state *state, struct hv_error *err)
{
	struct kvm_device_attr attr = tsc_offset_attr(&state->tsc_offset);
	struct kvm_msr_entry tsc = {.index = HV_MSR_TSC, .data = state->tsc};

	if (state->keep_tsc_offset && state->has_tsc_offset)
		return set(vcpu, KVM_SET_DEVICE_ATTR, &attr, "TSC's offset", err);
	return set_msrs(vcpu, &tsc, 1, err);
}

/* As many bytes as this VM's XSAVE area has (KVM API, KVM_CAP_XSAVE2); 4096 before there was a call for it.
 */
static uint32_t xsave_size(const struct hv_vm *vm)
{
	int size = ioctl(vm->fd, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);

	return size > (int)sizeof(struct kvm_xsave) ? (uint32_t)size : (uint32_t)sizeof(struct kvm_xsave);
}

static int get_xsave(const struct hv_vm *vm, const struct hv_vcpu *vcpu, struct hv_vcpu_state *state,
		     struct hv_error *err)
{
	bool second = ioctl(vm->fd, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2) > 0;

	state->xsave_size = xsave_size(vm);
	state->xsave = calloc(1, state->xsave_size);
	if (!state->xsave)
		return hv_fail(err, ENOMEM, "vCPU %u: no memory for its FPU state", vcpu->index);
	return get(vcpu, second ? KVM_GET_XSAVE2 : KVM_GET_XSAVE, state->xsave, "FPU state (XSAVE)", err);
}

/* KVM reads as many bytes as this VM's area has: a smaller one is filled up with zeros, which are "unused".
 */
static int set_xsave(const struct hv_vm *vm, const struct hv_vcpu *vcpu, const struct hv_vcpu_state *state,
		     struct hv_error *err)
{
	uint32_t size = xsave_size(vm);
	void *area;
	int rc;

	if (state->xsave_size > size)
		return hv_fail(err, EINVAL, "vCPU %u: its FPU state has %u bytes, this host's CPU only %u",
			       vcpu->index, state->xsave_size, size);
	area = calloc(1, size);
	if (!area)
		return hv_fail(err, ENOMEM, "vCPU %u: no memory for its FPU state", vcpu->index);
	if (state->xsave)
		memcpy(area, state->xsave, state->xsave_size);
	rc = set(vcpu, KVM_SET_XSAVE, area, "FPU state (KVM_SET_XSAVE)", err);
	free(area);
	return rc;
}

void hv_vcpu_state_free(struct hv_vcpu_state *state)
{
	free(state->xsave);
	free(state->msrs);
	memset(state, 0, sizeof(*state));
}

/*
 * The run state is asked for first: KVM handles a waiting INIT or SIPI on that call, and the registers
 * change. XCRs, the local APIC and the run state depend on the CPU model and on the irqchip; ENXIO, EINVAL:
 * there is none. On a host without XSAVE KVM reads no XCR, without an error, and then refuses to set none.
 */
int hv_vcpu_get_state(const struct hv_vm *vm, const struct hv_vcpu *vcpu, struct hv_vcpu_state *state,
		      struct hv_error *err)
{
	struct kvm_device_attr attr = tsc_offset_attr(&state->tsc_offset);
	int rc;

	memset(state, 0, sizeof(*state));
	state->has_mp_state = ioctl(vcpu->fd, KVM_GET_MP_STATE, &state->mp_state) == 0;
	rc = get(vcpu, KVM_GET_REGS, &state->regs, "registers", err);
	state->has_sregs2 = ioctl(vcpu->fd, KVM_GET_SREGS2, &state->sregs2) == 0;
	if (!rc && !state->has_sregs2)
		rc = get(vcpu, KVM_GET_SREGS, &state->sregs, "special registers", err);
	if (!rc)
		rc = get_xsave(vm, vcpu, state, err);
	if (!rc)
		rc = get(vcpu, KVM_GET_DEBUGREGS, &state->debugregs, "debug registers", err);
	if (!rc)
		rc = get(vcpu, KVM_GET_VCPU_EVENTS, &state->events, "pending events", err);
	state->has_xcrs = ioctl(vcpu->fd, KVM_GET_XCRS, &state->xcrs) == 0 && state->xcrs.nr_xcrs > 0;
	state->has_lapic = ioctl(vcpu->fd, KVM_GET_LAPIC, &state->lapic) == 0;
	if (!rc)
		rc = get_msrs(vm, vcpu, state, err);
	state->has_tsc_offset = ioctl(vcpu->fd, KVM_GET_DEVICE_ATTR, &attr) == 0;
	if (!rc && !hv_msr_get(vcpu, HV_MSR_TSC, &state->tsc))
		rc = hv_fail(err, EIO, "vCPU %u: its TSC cannot be read", vcpu->index);
	if (rc)
		hv_vcpu_state_free(state);
	return rc;
}

int hv_vcpu_set_state(const struct hv_vm *vm, const struct hv_vcpu *vcpu, const struct hv_vcpu_state *state,
		      struct hv_error *err)
{
	int rc = 0;

	if (state->has_mp_state) /* before the events, which it may change */
		rc = set(vcpu, KVM_SET_MP_STATE, &state->mp_state, "run state (KVM_SET_MP_STATE)", err);
	if (!rc && state->has_sregs2) /* paging and EFER: what all that follows means */
		rc = set(vcpu, KVM_SET_SREGS2, &state->sregs2, "special registers", err);
	else if (!rc)
		rc = set(vcpu, KVM_SET_SREGS, &state->sregs, "special registers", err);
	if (!rc) /* clears a pending exception */
		rc = set(vcpu, KVM_SET_REGS, &state->regs, "registers", err);
	if (!rc && state->has_xcrs) /* before XSAVE: which parts there are */
		rc = set(vcpu, KVM_SET_XCRS, &state->xcrs, "XCR0 (KVM_SET_XCRS)", err);
	if (!rc)
		rc = set_xsave(vm, vcpu, state, err);
	if (!rc)
		rc = set(vcpu, KVM_SET_DEBUGREGS, &state->debugregs, "debug registers", err);
	if (!rc) /* before the deadline, which is a value of this counter */
		rc = set_tsc(vcpu, state, err);
	if (!rc &&
	    state->has_lapic) /* before the deadline, which KVM drops unless the APIC's timer has that mode */
		rc = set(vcpu, KVM_SET_LAPIC, &state->lapic, "local APIC (KVM_SET_LAPIC)", err);
	if (!rc) /* the deadline is the last of them */
		rc = set_msrs(vcpu, state->msrs, state->msr_count, err);
	if (!rc) /* last: setting registers clears what is pending */
		rc = set(vcpu, KVM_SET_VCPU_EVENTS, &state->events, "pending events", err);
	return rc;
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

/* ENXIO: no controllers in the kernel, or the local APICs only. */
int hv_vm_get_state(const struct hv_vm *vm, struct hv_vm_state *state, struct hv_error *err)
{
	struct timespec now;
	int rc = 0;

	memset(state, 0, sizeof(*state));
	state->has_chips = ioctl(vm->fd, KVM_GET_IRQCHIP, &state->chips.chips[0]) == 0;
	if (!state->has_chips && errno != ENXIO)
		return hv_fail_errno(err, "the interrupt controllers' state cannot be read");
	if (state->has_chips)
		rc = hv_irqchip_get_state(vm, &state->chips, err);
	if (rc)
		return rc;
	if (ioctl(vm->fd, KVM_GET_CLOCK, &state->clock) < 0)
		return hv_fail_errno(err, "the guest's clock cannot be read (KVM_GET_CLOCK)");
	if (!(state->clock.flags &
	      KVM_CLOCK_REALTIME)) { /* KVM pairs the two only while the host keeps time by its TSC */
		clock_gettime(CLOCK_REALTIME, &now);
		state->clock.realtime = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
	}
	return 0;
}

/* KVM_SET_CLOCK takes no flag but KVM_CLOCK_REALTIME, which asks it to catch up. */
int hv_vm_set_state(const struct hv_vm *vm, const struct hv_vm_state *state, bool catch_up,
		    struct hv_error *err)
{
	struct kvm_clock_data clock = {.clock = state->clock.clock, .realtime = state->clock.realtime};
	int flags = ioctl(vm->fd, KVM_CHECK_EXTENSION, KVM_CAP_ADJUST_CLOCK);
	int rc = state->has_chips ? hv_irqchip_set_state(vm, &state->chips, err) : 0;

	if (rc)
		return rc;
	if (catch_up && !(flags > 0 && flags & KVM_CLOCK_REALTIME))
		return hv_fail(err, ENOTSUP,
			       "this kernel's KVM cannot let a guest's clock catch up; Linux 5.16 can");
	if (catch_up)
		clock.flags = KVM_CLOCK_REALTIME;
	if (ioctl(vm->fd, KVM_SET_CLOCK, &clock) < 0)
		return hv_fail_errno(err, "KVM refuses the guest's clock (KVM_SET_CLOCK)");
	return 0;
}
