/*
 * Long and protected mode: tables and registers, checked by the rules that VT-x applies at each entry, so
 * that the test says which one is broken where the CPU would only say "invalid guest state".
 */
#include <linux/kvm.h>

#include "images.h"

static struct hv_memory ram;
static struct hv_error err;

static void setup(void)
{
	ram_init(&ram, 1 << 20);
	memset(&err, 0, sizeof(err));
}

static void teardown(void)
{
	hv_memory_free(&ram);
}

TestSuite(longmode, .init = setup, .fini = teardown);

/* SDM vol. 3C, 27.3.1.2: limits and granularity agree. */
static void expect_granular(const struct kvm_segment *s, const char *name)
{
	cr_expect(s->g || !(s->limit & 0xfff00000), "%s: a limit above 1 MiB needs G", name);
	cr_expect(!s->g || (s->limit & 0xfff) == 0xfff, "%s: with G the low bits are ones", name);
}

static void expect_enterable(const struct kvm_sregs *s, bool long_mode)
{
	const struct kvm_segment *data[] = {&s->ds, &s->es, &s->fs, &s->gs, &s->ss};

	cr_expect(s->cs.type & 1 && s->cs.type & 8 && s->cs.s && s->cs.present && !s->cs.unusable);
	cr_expect_eq(s->cs.l, long_mode);
	cr_expect(!(s->cs.l && s->cs.db), "CS.L and CS.D exclude each other");
	expect_granular(&s->cs, "cs");
	for (size_t i = 0; i < HV_ARRAY_SIZE(data); i++) {
		cr_expect_eq(data[i]->type, 3, "writable and accessed");
		cr_expect(data[i]->s && data[i]->present && !data[i]->unusable && data[i]->dpl == 0);
		expect_granular(data[i], "data");
	}
	cr_expect_eq(s->ss.selector & 3, s->cs.selector & 3);
	cr_expect_eq(s->tr.type, 11, "a busy TSS");
	cr_expect(!s->tr.s && s->tr.present && !s->tr.unusable && !(s->tr.selector & 4));
	expect_granular(&s->tr, "tr");
	cr_expect(s->ldt.unusable && !s->ldt.present);
	cr_expect_eq(s->gdt.limit, 5 * 8 - 1);
	cr_expect_eq(!!(s->cr0 & (1u << 31)), long_mode, "paging");
	cr_expect_eq(s->efer, long_mode ? 0x500 : 0);
	cr_expect(!long_mode || (s->cr4 & 0x20), "long mode needs PAE");
}

/* What the descriptor at `index` of the GDT in guest memory says is what the register holds. */
static void expect_descriptor(unsigned index, const struct kvm_segment *s)
{
	uint64_t d = ram64(&ram, HV_BOOT_TABLES + index * 8);
	uint32_t limit = (uint32_t)((d & 0xffff) | (d >> 32 & 0xf0000));
	uint64_t base = (d >> 16 & 0xffffff) | (d >> 32 & 0xff000000);

	cr_expect_eq(s->selector, index * 8);
	cr_expect_eq(base, s->base);
	cr_expect_eq(s->g ? limit << 12 | 0xfff : limit, s->limit);
	cr_expect_eq(d >> 40 & 15, s->type);
	cr_expect_eq(d >> 44 & 1, s->s);
	cr_expect_eq(d >> 45 & 3, s->dpl);
	cr_expect_eq(d >> 47 & 1, s->present);
	cr_expect_eq(d >> 53 & 1, s->l);
	cr_expect_eq(d >> 54 & 1, s->db);
	cr_expect_eq(d >> 55 & 1, s->g);
}

Test(longmode, registers_pass_the_entry_checks_and_agree_with_the_gdt)
{
	struct kvm_sregs sregs = {0};

	cr_assert_eq(hv_longmode_setup(&ram, 1 << 20, &sregs, &err), 0, "%s", err.text);
	expect_enterable(&sregs, true);
	cr_expect_eq(ram64(&ram, HV_BOOT_TABLES), 0, "the null descriptor");
	expect_descriptor(1, &sregs.cs);
	expect_descriptor(2, &sregs.ds);
	expect_descriptor(3, &sregs.tr);
	cr_expect_eq(ram64(&ram, HV_BOOT_TABLES + 32), sregs.tr.base >> 32);
	cr_expect_eq(ram32(&ram, sregs.tr.base + 0x64) >> 16, 0x68, "no I/O bitmap");
}

Test(longmode, protected_mode_passes_them_too)
{
	struct kvm_sregs sregs = {0};

	cr_assert_eq(hv_protected_setup(&ram, &sregs, &err), 0, "%s", err.text);
	expect_enterable(&sregs, false);
	cr_expect_eq(sregs.cs.db, 1);
	cr_expect_eq(sregs.tr.base, 0);
	cr_expect_eq(sregs.tr.limit, 0x67);
	expect_descriptor(1, &sregs.cs);
	expect_descriptor(2, &sregs.ds);
	expect_descriptor(3, &sregs.tr);
}

/* The walk that the CPU does. Returns UINT64_MAX when the address isn't mapped. */
static uint64_t walk(uint64_t cr3, uint64_t va)
{
	const uint64_t frame = 0xffffffffff000;
	uint64_t entry = ram64(&ram, cr3 + (va >> 39 & 511) * 8);

	if (!(entry & 1))
		return UINT64_MAX;
	entry = ram64(&ram, (entry & frame) + (va >> 30 & 511) * 8);
	if (!(entry & 1))
		return UINT64_MAX;
	cr_expect_eq(entry & 0x80, 0, "no 1 GiB pages: the guest's CPU may lack them");
	entry = ram64(&ram, (entry & frame) + (va >> 21 & 511) * 8);
	if (!(entry & 1))
		return UINT64_MAX;
	cr_expect_eq(entry & 0x80, 0x80, "2 MiB pages");
	return (entry & frame & ~0x1fffffull) | (va & 0x1fffff);
}

Test(longmode, addresses_map_to_themselves_up_to_the_size_asked_for)
{
	const struct {
		uint64_t size, end;
	} cases[] = {
		{0, 4ull << 30},
		{4ull << 30, 4ull << 30},
		{(4ull << 30) + 1, 5ull << 30},
		{512ull << 30, 512ull << 30},
		{UINT64_MAX, 512ull << 30},
	};

	for (size_t i = 0; i < HV_ARRAY_SIZE(cases); i++) {
		struct kvm_sregs sregs = {0};
		hv_memory_free(&ram);
		ram_init(&ram, HV_PCI_HOLE_START);
		cr_assert_eq(hv_longmode_setup(&ram, cases[i].size, &sregs, &err), 0, "%s", err.text);
		for (uint64_t va = 0; va < cases[i].end; va += (1ull << 21) * (va < 5ull << 30 ? 1 : 255))
			cr_assert_eq(walk(sregs.cr3, va + 0x123), va + 0x123, "0x%lx", (unsigned long)va);
		cr_expect_eq(walk(sregs.cr3, cases[i].end - 1), cases[i].end - 1);
		cr_expect_eq(walk(sregs.cr3, cases[i].end), UINT64_MAX, "case %zu", i);
	}
}

Test(longmode, nothing_else_in_sregs_changes)
{
	struct kvm_sregs sregs;

	memset(&sregs, 0x5a, sizeof(sregs));
	cr_assert_eq(hv_longmode_setup(&ram, 0, &sregs, &err), 0, "%s", err.text);
	cr_expect_eq(sregs.apic_base, 0x5a5a5a5a5a5a5a5a);
	cr_expect_eq(sregs.interrupt_bitmap[0], 0x5a5a5a5a5a5a5a5a);
}

Test(longmode, ram_too_small_for_the_tables_is_refused)
{
	struct kvm_sregs sregs = {0};

	hv_memory_free(&ram);
	ram_init(&ram, 0x9000);
	assert_refused(hv_longmode_setup(&ram, 0, &sregs, &err), err, ENOMEM, "GDT");
	hv_memory_free(&ram);
	ram_init(&ram, 0xf000);
	assert_refused(hv_longmode_setup(&ram, 0, &sregs, &err), err, ENOMEM, "page tables");
}
