/*
 * Every entry mode on a real vCPU: an image is loaded, the state applied, and a few instructions of the guest
 * use what they were promised: the information, the stack, the segments of the GDT, SSE. VT-x refuses a wrong
 * state before the first of them. An alarm is the watchdog.
 */
#include <stdio.h>
#include <unistd.h>

#include "images.h"
#include "kvm/cpuid.h"
#include "kvm/irq.h"

/* Each guest ends by `out %al, $0xe9` with its first finding in EAX, then hlt. */
extern const uint8_t guest16[], guest16_end[], guest32[], guest32_end[], guest64[], guest64_end[], linux64[],
	linux64_end[], high64[], high64_end[];

__asm__(".pushsection .rodata\n"
	".code16\n"
	"guest16:\n"
	"	push %cs\n"
	"	pop %ax\n"
	"	mov %ax, %ds\n"
	"	movw $0x1234, 0x600\n"
	"	movw 0x600, %ax\n"
	"	outb %al, $0xe9\n"
	"	hlt\n"
	"guest16_end:\n"
	".code32\n"
	"guest32:\n"
	"	mov (%ebx), %eax\n"
	"	push %eax\n" /* the stack */
	"	mov $0x10, %ecx\n"
	"	mov %ecx, %ds\n" /* the data descriptor */
	"	mov %ecx, %ss\n"
	"	push $0x8\n" /* the code descriptor */
	"	call 1f\n"
	"1:	pop %ecx\n"
	"	add $(2f - 1b), %ecx\n"
	"	push %ecx\n"
	"	lret\n"
	"2:	pop %eax\n"
	"	outb %al, $0xe9\n"
	"	hlt\n"
	"guest32_end:\n"
	".code64\n"
	"guest64:\n"
	"	mov (%rdi), %eax\n"
	"	push %rax\n"
	"	mov $0x10, %ecx\n"
	"	mov %ecx, %ds\n"
	"	mov %ecx, %ss\n"
	"	pushq $0x8\n"
	"	lea 1f(%rip), %rcx\n"
	"	push %rcx\n"
	"	lretq\n"
	"1:	pop %rax\n"
	"	movaps %xmm0, -16(%rsp)\n" /* SSE is on and the stack aligned, or this faults */
	"	outb %al, $0xe9\n"
	"	hlt\n"
	"guest64_end:\n"
	"linux64:\n" /* as guest64, by Linux's selectors */
	"	mov (%rdi), %eax\n"
	"	push %rax\n"
	"	mov $0x18, %ecx\n"
	"	mov %ecx, %ds\n"
	"	mov %ecx, %ss\n"
	"	pushq $0x10\n"
	"	lea 1f(%rip), %rcx\n"
	"	push %rcx\n"
	"	lretq\n"
	"1:	pop %rax\n"
	"	outb %al, $0xe9\n"
	"	hlt\n"
	"linux64_end:\n"
	"high64:\n"
	"	movabs $0x100000000, %rcx\n" /* the first byte above 4 GiB */
	"	movl $0x336ec578, (%rcx)\n"
	"	mov (%rcx), %eax\n"
	"	outb %al, $0xe9\n"
	"	hlt\n"
	"high64_end:\n"
	".popsection\n");

struct vm {
	struct hv_kvm kvm;
	struct hv_vm vm;
	struct hv_memory mem;
	struct hv_vcpu vcpu;
};

static struct vm box;
static struct hv_error err;

static void start_vm(uint64_t ram)
{
	struct hv_cpu_model model = {.baseline = false};

	alarm(60);
	cr_assert_eq(hv_kvm_open(&box.kvm, &err), 0, "%s", err.text);
	cr_assert_eq(hv_vm_create(&box.vm, &box.kvm, &err), 0, "%s", err.text);
	hv_memory_init(&box.mem, &box.vm);
	cr_assert_eq(hv_memory_add_ram(&box.mem, ram, &err), 0, "%s", err.text);
	cr_assert_eq(hv_irqchip_create(&box.vm, HV_IRQCHIP_NONE, &err), 0, "%s", err.text);
	cr_assert_eq(hv_vcpu_create(&box.vcpu, &box.vm, 0, &err), 0, "%s", err.text);
	cr_assert_eq(hv_cpuid_apply(&box.kvm, &box.vcpu, &model, 1, NULL, &err), 0, "%s", err.text);
}

static void setup(void)
{
	start_vm(4 << 20);
}

static void teardown(void)
{
	hv_vcpu_destroy(&box.vcpu);
	hv_memory_free(&box.mem);
	hv_vm_destroy(&box.vm);
	hv_kvm_close(&box.kvm);
}

TestSuite(entry, .init = setup, .fini = teardown);

static void log_segment(const char *name, const struct kvm_segment *s)
{
	cr_log_info("  %-4s %04x base %llx limit %x type %u s %u dpl %u p %u l %u db %u g %u unusable %u",
		    name, s->selector, s->base, s->limit, s->type, s->s, s->dpl, s->present, s->l, s->db,
		    s->g, s->unusable);
}

/* What the vCPU holds before its first instruction; shown by --verbose. */
static void log_state(const char *title)
{
	struct kvm_sregs s;
	struct kvm_regs r;

	cr_assert_eq(hv_vcpu_get_sregs(&box.vcpu, &s, &err), 0);
	cr_assert_eq(hv_vcpu_get_regs(&box.vcpu, &r, &err), 0);
	cr_log_info("%s: rip %llx rsp %llx rax %llx rbx %llx rdi %llx rflags %llx", title, r.rip, r.rsp,
		    r.rax, r.rbx, r.rdi, r.rflags);
	cr_log_info("  cr0 %llx cr3 %llx cr4 %llx efer %llx gdt %llx/%x idt %llx/%x", s.cr0, s.cr3, s.cr4,
		    s.efer, s.gdt.base, s.gdt.limit, s.idt.base, s.idt.limit);
	log_segment("cs", &s.cs);
	log_segment("ds", &s.ds);
	log_segment("ss", &s.ss);
	log_segment("tr", &s.tr);
	log_segment("ldt", &s.ldt);
}

/* Applies the state, runs to the guest's `out` and to its hlt; returns EAX at the former. */
static uint32_t run(const struct hv_entry *entry, const char *title)
{
	struct kvm_regs regs;

	cr_assert_eq(hv_entry_apply(entry, &box.vcpu, &box.mem, &err), 0, "%s: %s", title, err.text);
	log_state(title);
	cr_assert_eq(hv_vcpu_run(&box.vcpu), 0);
	cr_assert_eq(box.vcpu.run->exit_reason, KVM_EXIT_IO, "%s: %s, hardware reason 0x%llx, suberror %u",
		     title, hv_exit_name(box.vcpu.run->exit_reason), box.vcpu.run->hw.hardware_exit_reason,
		     box.vcpu.run->internal.suberror);
	cr_assert_eq(box.vcpu.run->io.port, 0xe9);
	cr_assert_eq(hv_vcpu_get_regs(&box.vcpu, &regs, &err), 0);
	cr_assert_eq(hv_vcpu_run(&box.vcpu), 0);
	cr_expect_eq(box.vcpu.run->exit_reason, KVM_EXIT_HLT, "%s", hv_exit_name(box.vcpu.run->exit_reason));
	return (uint32_t)regs.rax;
}

static struct hv_entry load(struct image *image, const uint8_t *code, const uint8_t *end)
{
	struct hv_boot_request request = image_request(image);
	struct hv_entry entry;

	image_set_code(image, code, (size_t)(end - code));
	cr_assert_eq(hv_boot_load(&request, &box.mem, &entry, &err), 0, "%s", err.text);
	return entry;
}

static struct hv_entry load_flat(void)
{
	struct hv_boot_request request = {.path = "guest16",
					  .data = guest16,
					  .size = (size_t)(guest16_end - guest16),
					  .load_addr = 0x1000};
	struct hv_entry entry;

	cr_assert_eq(hv_boot_load(&request, &box.mem, &entry, &err), 0, "%s", err.text);
	return entry;
}

static struct hv_entry load_kind(enum hv_boot_kind kind, bool is64)
{
	struct image image = image_elf(is64);

	if (kind == HV_BOOT_PVH)
		image_add_note(&image, "Xen", 18, IMAGE_BASE, 4);
	if (kind == HV_BOOT_MULTIBOOT)
		image_add_multiboot(&image, IMAGE_CODE + 0x100, 3, NULL);
	if (kind == HV_BOOT_ELF && is64)
		return load(&image, guest64, guest64_end);
	return load(&image, guest32, guest32_end);
}

Test(entry, a_flat_image_runs_in_real_mode)
{
	struct hv_entry entry = load_flat();

	cr_expect_eq(run(&entry, "flat"), 0x1234);
}

Test(entry, a_64_bit_elf_file_runs_in_long_mode)
{
	struct hv_entry entry = load_kind(HV_BOOT_ELF, true);

	cr_expect_eq(run(&entry, "elf64"), 0x336ec578);
}

Test(entry, a_32_bit_elf_file_runs_in_protected_mode)
{
	struct hv_entry entry = load_kind(HV_BOOT_ELF, false);

	cr_expect_eq(run(&entry, "elf32"), 0x336ec578);
}

Test(entry, a_pvh_kernel_runs_in_protected_mode)
{
	struct hv_entry entry = load_kind(HV_BOOT_PVH, true);

	cr_expect_eq(entry.kind, HV_BOOT_PVH);
	cr_expect_eq(run(&entry, "pvh"), 0x336ec578);
}

Test(entry, a_multiboot_kernel_runs_in_protected_mode)
{
	struct hv_entry entry = load_kind(HV_BOOT_MULTIBOOT, false);

	cr_expect_eq(entry.kind, HV_BOOT_MULTIBOOT);
	cr_expect_eq(run(&entry, "multiboot"), 0x24d, "the flags of its information");
}

/* boot.rst, "64-bit Boot Protocol": CS is __BOOT_CS, the other segments are __BOOT_DS, and the GDT has them.
 */
Test(entry, linux_finds_its_own_selectors)
{
	struct image image = image_elf(true);
	struct hv_entry entry = load(&image, linux64, linux64_end);
	const uint8_t *gdt = hv_memory_at(&box.mem, HV_BOOT_TABLES, 48);
	struct kvm_sregs sregs;

	entry.kind = HV_BOOT_LINUX;
	cr_expect_eq(run(&entry, "linux"), 0x336ec578);
	cr_assert_eq(hv_vcpu_get_sregs(&box.vcpu, &sregs, &err), 0);
	cr_expect_eq(sregs.cs.selector, 0x10);
	cr_expect_eq(sregs.ss.selector, 0x18);
	cr_expect_eq(sregs.tr.selector, 0x20);
	cr_expect_eq(sregs.gdt.limit, 47);
	cr_expect_eq(hv_le64(gdt + 0x10), 0x00af9b000000ffff);
	cr_expect_eq(hv_le64(gdt + 0x18), 0x00cf93000000ffff);
}

Test(entry, a_vcpu_that_ran_in_one_mode_starts_in_any_other)
{
	const enum hv_entry_mode order[] = {HV_ENTRY_REAL, HV_ENTRY_LONG,      HV_ENTRY_PROTECTED,
					    HV_ENTRY_REAL, HV_ENTRY_PROTECTED, HV_ENTRY_LONG,
					    HV_ENTRY_REAL};

	for (size_t i = 0; i < HV_ARRAY_SIZE(order); i++) {
		struct hv_entry entry = order[i] == HV_ENTRY_REAL
						? load_flat()
						: load_kind(HV_BOOT_ELF, order[i] == HV_ENTRY_LONG);
		cr_expect_eq(entry.mode, order[i]);
		run(&entry, hv_boot_kind_name(entry.kind));
	}
}

Test(high, long_mode_reaches_ram_above_4_gib)
{
	struct image image = image_elf(true);
	struct hv_entry entry;

	start_vm(HV_PCI_HOLE_START + (2 << 20));
	entry = load(&image, high64, high64_end);
	cr_expect_eq(run(&entry, "elf64 with high RAM"), 0x336ec578);
	teardown();
}
