/*
 * Interrupts: which controllers the kernel emulates, interrupt lines, messages and NMIs into the guest.
 * Rules: KVM API 4.24 (KVM_CREATE_IRQCHIP), 4.25 (KVM_IRQ_LINE), 4.71 (KVM_CREATE_PIT2), 4.70
 * (KVM_SIGNAL_MSI), 4.52 (KVM_SET_GSI_ROUTING), 4.64 (KVM_NMI), 7.5 (KVM_CAP_SPLIT_IRQCHIP).
 */
#ifndef HV_KVM_IRQ_H
#define HV_KVM_IRQ_H

#include <stdbool.h>
#include <stdint.h>

#include "kvm/vcpu.h"

enum hv_irqchip {
	HV_IRQCHIP_AUTO,  /* what the image needs; resolved before the VM is made */
	HV_IRQCHIP_NONE,  /* no local APIC, no PIC, no timer: hlt ends the VM */
	HV_IRQCHIP_SPLIT, /* local APICs in the kernel, the IOAPIC in core/device/ioapic.c, no PIC, no PIT */
	HV_IRQCHIP_FULL,  /* local APICs, IOAPIC, PIC and PIT in the kernel */
};

#define HV_IOAPIC_PINS 24

/* A line from a device to an interrupt controller. set may be called from any thread. */
struct hv_irq_line {
	void (*set)(void *ctx, unsigned gsi, bool level);
	void *ctx;
	unsigned gsi;
};

static inline void hv_irq_set(const struct hv_irq_line *line, bool level)
{
	if (line->set)
		line->set(line->ctx, line->gsi, level);
}

HV_API_BEGIN
/* Creates the controllers. Must come before the first vCPU (KVM API 4.24). AUTO is not allowed here. */
int hv_irqchip_create(const struct hv_vm *vm, enum hv_irqchip kind, struct hv_error *err);

/* Raises or lowers pin gsi of the in-kernel PIC and IOAPIC (FULL only). Any thread. */
int hv_irq_line(const struct hv_vm *vm, unsigned gsi, bool level);

/* Sends one message-signalled interrupt: address and data as in SDM vol. 3A, 11.11. Any thread. */
int hv_irq_msi(const struct hv_vm *vm, uint64_t address, uint32_t data);

/*
 * Which message each IOAPIC pin sends (SPLIT only), all pins at once: KVM learns from it which vectors' EOI
 * to report by KVM_EXIT_IOAPIC_EOI. Any thread.
 */
struct hv_irq_route {
	unsigned pin;
	uint64_t address;
	uint32_t data;
	bool masked;
};
int hv_irq_route_ioapic(const struct hv_vm *vm, const struct hv_irq_route *routes, unsigned count,
			struct hv_error *err);

/* An NMI for this vCPU. On the vCPU's thread. */
int hv_vcpu_nmi(const struct hv_vcpu *vcpu, struct hv_error *err);

/*
 * An external interrupt without an irqchip (KVM API 4.16). 0: the guest takes it at the next KVM_RUN, and
 * request_interrupt_window is clear. -EAGAIN: it can't take it now (IF clear, an instruction's shadow, one
 * that waits already); request_interrupt_window is set, so KVM_RUN comes back when it can. On the vCPU's
 * thread.
 */
int hv_vcpu_interrupt(struct hv_vcpu *vcpu, uint8_t vector, struct hv_error *err);
HV_API_END

#endif
