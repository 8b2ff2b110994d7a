/*
 * Ways into the guest that need an interrupt controller in the kernel: what KVM takes and what is refused
 * with a sentence.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "kvm/irq.h"

static struct hv_kvm kvm;
static struct hv_vm vm;
static struct hv_vcpu vcpu;

static void make(enum hv_irqchip kind)
{
	struct hv_error err = {0};

	cr_assert_eq(hv_kvm_open(&kvm, &err), 0, "%s", err.text);
	cr_assert_eq(hv_vm_create(&vm, &kvm, &err), 0, "%s", err.text);
	cr_assert_eq(hv_irqchip_create(&vm, kind, &err), 0, "%s", err.text);
	cr_assert_eq(hv_vcpu_create(&vcpu, &vm, 0, &err), 0, "%s", err.text);
}

static void unmake(void)
{
	hv_vcpu_destroy(&vcpu);
	hv_vm_destroy(&vm);
	hv_kvm_close(&kvm);
}

Test(irqchip, routes_of_the_split_kind_are_taken)
{
	struct hv_irq_route routes[HV_IOAPIC_PINS + 1] = {0};
	struct hv_error err = {0};

	make(HV_IRQCHIP_SPLIT);
	for (unsigned i = 0; i < HV_IOAPIC_PINS; i++)
		routes[i] = (struct hv_irq_route){
			.pin = i, .address = 0xfee00000, .data = 0x20 + i, .masked = i % 2};
	cr_assert_eq(hv_irq_route_ioapic(&vm, routes, HV_IOAPIC_PINS, &err), 0, "%s", err.text);
	cr_assert_eq(hv_irq_route_ioapic(&vm, routes, HV_IOAPIC_PINS + 1, &err), -EINVAL);
	cr_assert(strstr(err.text, "25"), "%s", err.text);
	unmake();
}

Test(irqchip, a_message_and_an_nmi_are_taken)
{
	struct hv_error err = {0};

	make(HV_IRQCHIP_SPLIT);
	cr_assert_geq(hv_irq_msi(&vm, 0xfee00000, 0x40), 0);
	cr_assert_eq(hv_vcpu_nmi(&vcpu, &err), 0, "%s", err.text);
	unmake();
}

Test(irqchip, must_come_before_the_first_vcpu)
{
	struct hv_error err = {0};

	make(HV_IRQCHIP_NONE);
	cr_assert_lt(hv_irqchip_create(&vm, HV_IRQCHIP_FULL, &err), 0);
	cr_assert(strstr(err.text, "KVM_CREATE_IRQCHIP"), "%s", err.text);
	cr_assert_lt(hv_irqchip_create(&vm, HV_IRQCHIP_SPLIT, &err), 0);
	cr_assert_eq(hv_irqchip_create(&vm, HV_IRQCHIP_AUTO, &err), -EINVAL);
	unmake();
}

Test(irqchip, a_line_without_a_controller_is_refused)
{
	make(HV_IRQCHIP_NONE);
	cr_assert_lt(hv_irq_line(&vm, 4, true), 0);
	unmake();
}

Test(irqchip, a_second_vector_waits_until_the_first_is_taken)
{
	struct hv_error err = {0};

	make(HV_IRQCHIP_NONE);
	cr_assert_eq(hv_vcpu_interrupt(&vcpu, 0x20, &err), -EAGAIN, "IF is clear in a new vCPU");
	cr_assert_eq(vcpu.run->request_interrupt_window, 1);
	vcpu.run->if_flag = vcpu.run->ready_for_interrupt_injection = 1; /* as after an exit with IF set */
	cr_assert_eq(hv_vcpu_interrupt(&vcpu, 0x20, &err), 0, "%s", err.text);
	cr_assert_eq(vcpu.run->request_interrupt_window, 0);
	cr_assert_eq(hv_vcpu_interrupt(&vcpu, 0x21, &err), -EAGAIN);
	cr_assert_eq(vcpu.run->request_interrupt_window, 1);
	unmake();
}
