/*
 * KVM's descriptors, KVM_RUN, slots in a real VM, injection without an irqchip, and state that is put back:
 * each by a few bytes of real-mode code on /dev/kvm. An alarm is the watchdog.
 */
#include <criterion/criterion.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kvm/irq.h"
#include "kvm/kvm.h"
#include "kvm/memory.h"
#include "kvm/state.h"
#include "kvm/vcpu.h"

#define CODE 0x1000

struct box {
	struct hv_kvm kvm;
	struct hv_vm vm;
	struct hv_memory mem;
	struct hv_vcpu vcpu;
};

static void boot(struct box *b, enum hv_irqchip irqchip, const void *code, size_t size)
{
	struct hv_error err = {0};
	struct kvm_sregs sregs;
	struct kvm_regs regs = {.rip = CODE, .rsp = 0x8000, .rflags = 2};

	alarm(20);
	cr_assert_eq(hv_kvm_open(&b->kvm, &err), 0, "%s", err.text);
	cr_assert_eq(hv_vm_create(&b->vm, &b->kvm, &err), 0, "%s", err.text);
	hv_memory_init(&b->mem, &b->vm);
	cr_assert_eq(hv_memory_add_ram(&b->mem, 0x10000, &err), 0, "%s", err.text);
	cr_assert_eq(hv_irqchip_create(&b->vm, irqchip, &err), 0, "%s", err.text);
	cr_assert_eq(hv_vcpu_create(&b->vcpu, &b->vm, 0, &err), 0, "%s", err.text);
	cr_assert_eq(hv_memory_write(&b->mem, CODE, code, size), 0);
	cr_assert_eq(hv_vcpu_get_sregs(&b->vcpu, &sregs, &err), 0);
	sregs.cs.base = sregs.cs.selector = 0;
	cr_assert_eq(hv_vcpu_set_sregs(&b->vcpu, &sregs, &err), 0);
	cr_assert_eq(hv_vcpu_set_regs(&b->vcpu, &regs, &err), 0);
}

static void unboot(struct box *b)
{
	hv_vcpu_destroy(&b->vcpu);
	hv_memory_free(&b->mem);
	hv_vm_destroy(&b->vm);
	hv_kvm_close(&b->kvm);
	alarm(0);
}

Test(kvm, a_missing_device_is_named_with_its_cure)
{
	struct hv_kvm kvm;
	struct hv_error err = {0};

	setenv("HV_KVM_DEVICE", "/nonexistent/kvm", 1);
	cr_assert_eq(hv_kvm_open(&kvm, &err), -ENOENT);
	cr_assert(strstr(err.text, "modprobe"), "%s", err.text);
}

Test(kvm, a_device_that_is_not_kvm_is_refused)
{
	struct hv_kvm kvm;
	struct hv_error err = {0};

	setenv("HV_KVM_DEVICE", "/dev/null", 1);
	cr_assert_lt(hv_kvm_open(&kvm, &err), 0);
	cr_assert(strstr(err.text, "not KVM"), "%s", err.text);
}

Test(vcpu, out_then_hlt_are_two_exits)
{
	static const uint8_t code[] = {0xb0, 'A', 0xe6, 0xe9, 0xf4}; /* mov al,'A'; out 0xe9,al; hlt */
	struct box b;

	boot(&b, HV_IRQCHIP_NONE, code, sizeof(code));
	cr_assert_eq(hv_vcpu_run(&b.vcpu), 0);
	cr_assert_eq(b.vcpu.run->exit_reason, KVM_EXIT_IO);
	cr_assert_eq(b.vcpu.run->io.port, 0xe9);
	cr_assert_eq(((uint8_t *)b.vcpu.run)[b.vcpu.run->io.data_offset], 'A');
	cr_assert_eq(hv_vcpu_run(&b.vcpu), 0);
	cr_assert_eq(b.vcpu.run->exit_reason, KVM_EXIT_HLT);
	unboot(&b);
}

Test(vcpu, immediate_exit_returns_eintr_without_running)
{
	static const uint8_t code[] = {0xeb, 0xfe}; /* jmp . */
	struct box b;

	boot(&b, HV_IRQCHIP_NONE, code, sizeof(code));
	b.vcpu.run->immediate_exit = 1;
	cr_assert_eq(hv_vcpu_run(&b.vcpu), -EINTR);
	unboot(&b);
}

Test(memory_in_kvm, a_write_to_a_read_only_slot_exits_as_mmio)
{
	/* mov ax,0x2000; mov ds,ax; mov byte [0],0x77; mov al,[1]; hlt */
	static const uint8_t code[] = {0xb8, 0x00, 0x20, 0x8e, 0xd8, 0xc6, 0x06,
				       0x00, 0x00, 0x77, 0xa0, 0x01, 0x00, 0xf4};
	struct kvm_regs regs;
	struct box b;

	boot(&b, HV_IRQCHIP_NONE, code, sizeof(code));
	cr_assert_eq(hv_memory_add(&b.mem, 0x20000, 0x1000, true, NULL), 0);
	((uint8_t *)hv_memory_at(&b.mem, 0x20000, 2))[1] = 0x42;
	cr_assert_eq(hv_vcpu_run(&b.vcpu), 0);
	cr_assert_eq(b.vcpu.run->exit_reason, KVM_EXIT_MMIO);
	cr_assert_eq(b.vcpu.run->mmio.phys_addr, 0x20000);
	cr_assert(b.vcpu.run->mmio.is_write);
	cr_assert_eq(b.vcpu.run->mmio.data[0], 0x77);
	cr_assert_eq(hv_vcpu_run(&b.vcpu), 0);
	cr_assert_eq(b.vcpu.run->exit_reason, KVM_EXIT_HLT);
	cr_assert_eq(hv_vcpu_get_regs(&b.vcpu, &regs, NULL), 0);
	cr_assert_eq(regs.rax & 0xff, 0x42, "the guest reads what the host put there");
	cr_assert_eq(*(uint8_t *)hv_memory_at(&b.mem, 0x20000, 1), 0, "the write went nowhere");
	unboot(&b);
}

Test(memory_in_kvm, what_lies_in_no_slot_exits_as_mmio)
{
	static const uint8_t code[] = {0xb8, 0x00, 0x20, 0x8e, 0xd8, 0xa0, 0x00, 0x00, 0xf4};
	struct box b;

	boot(&b, HV_IRQCHIP_NONE, code, sizeof(code));
	cr_assert_eq(hv_vcpu_run(&b.vcpu), 0);
	cr_assert_eq(b.vcpu.run->exit_reason, KVM_EXIT_MMIO);
	cr_assert_eq(b.vcpu.run->mmio.phys_addr, 0x20000);
	cr_assert(!b.vcpu.run->mmio.is_write);
	unboot(&b);
}

Test(irq, an_interrupt_waits_until_the_guest_takes_interrupts)
{
	/* cli; out 0x10,al; sti; nop; jmp .   handler at 0x1100: out 0x20,al; hlt */
	static const uint8_t code[] = {0xfa, 0xe6, 0x10, 0xfb, 0x90, 0xeb, 0xfe};
	static const uint8_t handler[] = {0xe6, 0x20, 0xf4};
	static const uint16_t vector[2] = {0x1100, 0};
	struct box b;

	boot(&b, HV_IRQCHIP_NONE, code, sizeof(code));
	hv_memory_write(&b.mem, 0x1100, handler, sizeof(handler));
	hv_memory_write(&b.mem, 0x21 * 4, vector, sizeof(vector));
	cr_assert_eq(hv_vcpu_run(&b.vcpu), 0);
	cr_assert_eq(b.vcpu.run->exit_reason, KVM_EXIT_IO);
	cr_assert_eq(hv_vcpu_interrupt(&b.vcpu, 0x21, NULL), -EAGAIN, "IF is clear");
	cr_assert_eq(hv_vcpu_run(&b.vcpu), 0);
	cr_assert_eq(b.vcpu.run->exit_reason, KVM_EXIT_IRQ_WINDOW_OPEN);
	cr_assert_eq(hv_vcpu_interrupt(&b.vcpu, 0x21, NULL), 0);
	cr_assert_eq(hv_vcpu_run(&b.vcpu), 0);
	cr_assert_eq(b.vcpu.run->exit_reason, KVM_EXIT_IO);
	cr_assert_eq(b.vcpu.run->io.port, 0x20);
	unboot(&b);
}

Test(irq, a_line_of_the_in_kernel_pic_reaches_the_guest)
{
	/* The PIC's registers set for vectors 0x20, IRQ 4 alone unmasked; sti; hlt; handler: out 0xe9,al; jmp
	 * . */
	static const uint8_t code[] = {0xb0, 0x11, 0xe6, 0x20, 0xb0, 0x20, 0xe6, 0x21, 0xb0,
				       0x04, 0xe6, 0x21, 0xb0, 0x01, 0xe6, 0x21, 0xb0, 0xef,
				       0xe6, 0x21, 0xe6, 0x10, 0xfb, 0xf4, 0xeb, 0xfd};
	static const uint8_t handler[] = {0xe6, 0xe9, 0xeb, 0xfe};
	static const uint16_t vector[2] = {0x1100, 0};
	struct box b;

	boot(&b, HV_IRQCHIP_FULL, code, sizeof(code));
	hv_memory_write(&b.mem, 0x1100, handler, sizeof(handler));
	hv_memory_write(&b.mem, 0x24 * 4, vector, sizeof(vector));
	cr_assert_eq(hv_vcpu_run(&b.vcpu), 0);
	cr_assert_eq(b.vcpu.run->exit_reason, KVM_EXIT_IO);
	cr_assert_eq(b.vcpu.run->io.port, 0x10, "the PIC itself is the kernel's");
	cr_assert_eq(hv_irq_line(&b.vm, 4, true), 0);
	cr_assert_eq(hv_irq_line(&b.vm, 4, false), 0);
	cr_assert_eq(hv_vcpu_run(&b.vcpu), 0);
	cr_assert_eq(b.vcpu.run->exit_reason, KVM_EXIT_IO);
	cr_assert_eq(b.vcpu.run->io.port, 0xe9);
	unboot(&b);
}

Test(state, what_was_taken_out_can_be_put_back)
{
	/* inc bx; out 0x10,al; jmp to the inc */
	static const uint8_t code[] = {0x43, 0xe6, 0x10, 0xeb, 0xfb};
	struct hv_vcpu_state *before = malloc(sizeof(*before));
	struct hv_error err = {0};
	struct kvm_regs regs;
	struct box b;

	boot(&b, HV_IRQCHIP_FULL, code, sizeof(code));
	cr_assert_eq(hv_vcpu_get_state(&b.vm, &b.vcpu, before, &err), 0, "%s", err.text);
	for (int i = 0; i < 3; i++)
		cr_assert_eq(hv_vcpu_run(&b.vcpu), 0);
	cr_assert_eq(hv_vcpu_get_regs(&b.vcpu, &regs, NULL), 0);
	cr_assert_eq(regs.rbx, 3);
	b.vcpu.run->immediate_exit = 1;
	cr_assert_eq(hv_vcpu_run(&b.vcpu), -EINTR); /* completes the out */
	b.vcpu.run->immediate_exit = 0;
	cr_assert_eq(hv_vcpu_set_state(&b.vm, &b.vcpu, before, &err), 0, "%s", err.text);
	cr_assert_eq(hv_vcpu_run(&b.vcpu), 0);
	cr_assert_eq(hv_vcpu_get_regs(&b.vcpu, &regs, NULL), 0);
	cr_assert_eq(regs.rbx, 1, "it starts again from the beginning");
	unboot(&b);
	hv_vcpu_state_free(before);
	free(before);
}

Test(vcpu, every_exit_reason_has_a_name)
{
	for (uint32_t i = 1; i <= 40; i++)
		if (i != 13 && i != 22 &&
		    i != 19) /* numbers of other architectures that have left the header may differ */
			cr_assert_str_neq(hv_exit_name(i), "unknown", "%u", i);
	cr_assert_str_eq(hv_exit_name(4000), "unknown");
}
