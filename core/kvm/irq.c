/*
 * Interrupts: which controllers the kernel emulates, and the ways into them: lines, messages, NMIs, and a
 * bare external interrupt where there is no controller. It calls the kernel and core/base only. Rules: KVM
 * API 4.24 (KVM_CREATE_IRQCHIP), 4.71 (KVM_CREATE_PIT2), 4.25 (KVM_IRQ_LINE), 4.70 (KVM_SIGNAL_MSI), 4.52
 * (KVM_SET_GSI_ROUTING), 4.64 (KVM_NMI), 4.16 (KVM_INTERRUPT), 7.5 (KVM_CAP_SPLIT_IRQCHIP); SDM vol. 3A,
 * 11.11 (messages).
 */
#include <string.h>
#include <sys/ioctl.h>

#include "kvm/irq.h"

int hv_irqchip_create(const struct hv_vm *vm, enum hv_irqchip kind, struct hv_error *err)
{
	/* hv:solution lab=7 task=1 */
	/* SPEAKER_DUMMY: the kernel also answers port 0x61, where guests read the PIT's third channel. */
	struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
	struct kvm_enable_cap split = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args = {HV_IOAPIC_PINS}};

	switch (kind) {
	case HV_IRQCHIP_NONE:
		return 0;
	case HV_IRQCHIP_SPLIT:
		if (ioctl(vm->fd, KVM_ENABLE_CAP, &split) < 0)
			return hv_fail_errno(
				err, "KVM cannot split the interrupt controllers; try --irqchip full");
		return 0;
	case HV_IRQCHIP_FULL:
		if (ioctl(vm->fd, KVM_CREATE_IRQCHIP, 0) < 0)
			return hv_fail_errno(
				err, "KVM cannot create the interrupt controllers (KVM_CREATE_IRQCHIP)");
		if (ioctl(vm->fd, KVM_CREATE_PIT2, &pit) < 0)
			return hv_fail_errno(err, "KVM cannot create the timer (KVM_CREATE_PIT2)");
		return 0;
	case HV_IRQCHIP_AUTO:
		break;
	}
	return hv_fail(err, EINVAL, "the kind of interrupt controller has not been decided");
	/* hv:end */
}

int hv_irq_line(const struct hv_vm *vm, unsigned gsi, bool level)
{
	/* hv:solution lab=7 task=2 */
	struct kvm_irq_level line = {.irq = gsi, .level = level};

	return ioctl(vm->fd, KVM_IRQ_LINE, &line) < 0 ? -errno : 0;
	/* hv:end */
}

int hv_irq_msi(const struct hv_vm *vm, uint64_t address, uint32_t data)
{
	/* hv:solution lab=7 task=3 */
	struct kvm_msi msi = {
		.address_lo = (uint32_t)address,
		.address_hi = (uint32_t)(address >> 32),
		.data = data,
	};

	/* 0 means that the guest has it masked: delivered as far as anyone outside can tell. */
	return ioctl(vm->fd, KVM_SIGNAL_MSI, &msi) < 0 ? -errno : 0;
	/* hv:end */
}

int hv_irq_route_ioapic(const struct hv_vm *vm, const struct hv_irq_route *routes, unsigned count,
			struct hv_error *err)
{
	struct {
		struct kvm_irq_routing head;
		struct kvm_irq_routing_entry entries[HV_IOAPIC_PINS];
	} table;

	memset(&table, 0, sizeof(table));
	/* hv:solution lab=7 task=4 */
	if (count > HV_IOAPIC_PINS)
		return hv_fail(err, EINVAL, "%u interrupt routes; there are %d pins", count, HV_IOAPIC_PINS);
	for (unsigned i = 0; i < count; i++) {
		struct kvm_irq_routing_entry *e = &table.entries[table.head.nr];

		if (routes[i].masked)
			continue;
		e->gsi = routes[i].pin;
		e->type = KVM_IRQ_ROUTING_MSI;
		e->u.msi.address_lo = (uint32_t)routes[i].address;
		e->u.msi.address_hi = (uint32_t)(routes[i].address >> 32);
		e->u.msi.data = routes[i].data;
		table.head.nr++;
	}
	if (ioctl(vm->fd, KVM_SET_GSI_ROUTING, &table) < 0)
		return hv_fail_errno(err, "KVM refuses the interrupt routes (KVM_SET_GSI_ROUTING)");
	return 0;
	/* hv:end */
}

int hv_vcpu_nmi(const struct hv_vcpu *vcpu, struct hv_error *err)
{
	/* hv:solution lab=7 task=5 */
	if (ioctl(vcpu->fd, KVM_NMI, 0) < 0)
		return hv_fail_errno(err, "vCPU %u: KVM cannot inject an NMI (KVM_NMI)", vcpu->index);
	return 0;
	/* hv:end */
}

int hv_vcpu_interrupt(struct hv_vcpu *vcpu, uint8_t vector, struct hv_error *err)
{
	/* hv:solution lab=7 task=6 */
	struct kvm_interrupt interrupt = {.irq = vector};

	/*
	 * The kernel told at the last exit whether the guest can take an interrupt. When it can't, asking for
	 * the window makes KVM_RUN come back (KVM_EXIT_IRQ_WINDOW_OPEN) at the first instruction where it
	 * can.
	 */
	if (!vcpu->run->ready_for_interrupt_injection || !vcpu->run->if_flag) {
		vcpu->run->request_interrupt_window = 1;
		return -EAGAIN;
	}
	vcpu->run->request_interrupt_window = 0;
	if (ioctl(vcpu->fd, KVM_INTERRUPT, &interrupt) < 0)
		return hv_fail_errno(err, "vCPU %u: KVM cannot inject vector %#x (KVM_INTERRUPT)",
				     vcpu->index, vector);
	vcpu->run->ready_for_interrupt_injection = 0; /* it was, and a second vector would replace this one */
	return 0;
	/* hv:end */
}
