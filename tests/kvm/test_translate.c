/*
 * The page walk, mode by mode, against tables that the test writes into guest memory. No KVM is needed: what
 * the CPU does is in the manual.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "base/bytes.h"
#include "kvm/translate.h"

#define CR0 0x80000001ull
#define PAE (1ull << 5)
#define PSE (1ull << 4)
#define LME 0x500ull
#define NXE (1ull << 11)

static struct hv_memory mem;
static struct kvm_sregs sregs;
static struct hv_walk walk;

static void setup(void)
{
	hv_memory_init(&mem, NULL);
	memset(&sregs, 0, sizeof(sregs));
	cr_assert_eq(hv_memory_add_ram(&mem, 4 << 20, NULL), 0);
}

static void teardown(void)
{
	hv_memory_free(&mem);
}

TestSuite(translate, .init = setup, .fini = teardown);

static void entry32(uint64_t table, unsigned index, uint32_t value)
{
	uint8_t raw[4];

	hv_put_le32(raw, value);
	cr_assert_eq(hv_memory_write(&mem, table + index * 4u, raw, 4), 0);
}

static void entry64(uint64_t table, unsigned index, uint64_t value)
{
	uint8_t raw[8];

	hv_put_le64(raw, value);
	cr_assert_eq(hv_memory_write(&mem, table + index * 8u, raw, 8), 0);
}

static void mode(uint64_t cr4, uint64_t efer)
{
	sregs.cr0 = CR0;
	sregs.cr3 = 0x1000;
	sregs.cr4 = cr4;
	sregs.efer = efer;
}

static void expect(uint64_t gva, uint64_t gpa, uint64_t page_size)
{
	cr_expect_eq(hv_translate(&mem, &sregs, gva, &walk), 0, "0x%llx: %s", (unsigned long long)gva,
		     walk.why ? walk.why : "");
	cr_expect(walk.mapped);
	cr_expect_eq(walk.gpa, gpa, "0x%llx -> 0x%llx", (unsigned long long)gva,
		     (unsigned long long)walk.gpa);
	cr_expect_eq(walk.page_size, page_size);
}

static void refused(uint64_t gva, const char *why)
{
	cr_expect_eq(hv_translate(&mem, &sregs, gva, &walk), -EFAULT);
	cr_expect_not(walk.mapped);
	cr_expect_str_eq(walk.why, why);
}

Test(translate, without_paging_an_address_is_itself)
{
	expect(0x1234, 0x1234, 1ull << 32);
	expect(0xffffffff80001000ull, 0x80001000, 1ull << 32);
	refused(0x100000000ull, "the address has more than 32 bits, and there is no paging");
}

Test(translate, two_levels_of_32_bit_paging)
{
	mode(0, 0);
	entry32(0x1000, 1, 0x2007);
	entry32(0x2000, 5, 0x30005); /* read-only */
	expect(0x405abc, 0x30abc, 4096);
	cr_expect_not(walk.writable);
	cr_expect(walk.user);
	cr_expect(walk.executable);
	cr_expect_eq(walk.count, 2u);
	cr_expect_str_eq(walk.steps[0].table, "PD");
	cr_expect_eq(walk.steps[0].entry_gpa, 0x1004u);
	cr_expect_str_eq(walk.steps[1].table, "PT");
	cr_expect_eq(walk.steps[1].index, 5u);
	cr_expect_eq(walk.steps[1].entry, 0x30005u);
	refused(0x406000, "PT entry not present");
	refused(0x800000, "PD entry not present");
}

Test(translate, pse36_gives_4_mib_pages_40_bits)
{
	mode(PSE, 0);
	entry32(0x1000, 2, 0x00c00083 | 5u << 13); /* address bits 39:32 = 5 */
	expect(0x812345, 0x500c12345ull, 4 << 20);
	entry32(0x1000, 2, 0x00c00083 | 1u << 21);
	refused(0x812345, "PD entry has a reserved bit set");
	/* Without CR4.PSE bit 7 means nothing. */
	mode(0, 0);
	entry32(0x1000, 2, 0x2083);
	entry32(0x2000, 0x12, 0x40003);
	expect(0x812345, 0x40345, 4096);
}

Test(translate, pae_has_three_levels_and_2_mib_pages)
{
	mode(PAE, NXE);
	sregs.cr3 = 0x1020; /* 32-byte aligned */
	entry64(0x1020, 3, 0x2001);
	entry64(0x2000, 1, 0x3007);
	entry64(0x3000, 2, 0x8000000000040007ull);
	entry64(0x2000, 4, 0x600087);
	expect(0xc0202010, 0x40010, 4096);
	cr_expect_not(walk.executable);
	cr_expect(walk.writable);
	expect(0xc0812345, 0x612345, 2 << 20);
	expect(0xffffffffc0812345ull, 0x612345, 2 << 20); /* sign-extended by a 64-bit debugger */
	refused(0x1c0812345ull, "the address has more than 32 bits, and the vCPU is not in long mode");
	entry64(0x1020, 3, 0x2003); /* R/W is reserved there */
	refused(0xc0202010, "PDPT entry has a reserved bit set");
}

Test(translate, four_levels_with_pages_of_three_sizes)
{
	mode(PAE, LME);
	entry64(0x1000, 256, 0x2007);
	entry64(0x2000, 0, 0x3007);
	entry64(0x2000, 1, 0x40000087);
	entry64(0x3000, 0, 0x4003);
	entry64(0x3000, 1, 0x200087);
	entry64(0x4000, 7, 0x55007);
	expect(0xffff800000007123ull, 0x55123, 4096);
	cr_expect_not(walk.user); /* the PD entry says supervisor */
	cr_expect_eq(walk.count, 4u);
	expect(0xffff800000234567ull, 0x234567, 2 << 20);
	expect(0xffff800040001000ull, 0x40001000, 1 << 30);
	refused(0x0000800000000000ull, "the address is not canonical");
	refused(0, "PML4 entry not present");
	entry64(0x2000, 1, 0x40002087); /* bit 13 of a 1 GiB page */
	refused(0xffff800040001000ull, "PDPT entry has a reserved bit set");
	entry64(0x1000, 256, 0x2087); /* PS in a PML4 entry */
	refused(0xffff800000007123ull, "PML4 entry has a reserved bit set");
}

Test(translate, nx_is_reserved_without_efer_nxe)
{
	mode(PAE, LME);
	entry64(0x1000, 0, 0x2007);
	entry64(0x2000, 0, 0x8000000000000087ull);
	refused(0x1000, "PDPT entry has a reserved bit set");
	sregs.efer |= NXE;
	expect(0x1000, 0x1000, 1 << 30);
	cr_expect_not(walk.executable);
}

Test(translate, five_levels)
{
	mode(PAE | 1ull << 12, LME);
	entry64(0x1000, 1, 0x2007);
	entry64(0x2000, 0, 0x3007);
	entry64(0x3000, 0, 0x87);
	expect(0x0001000000001234ull, 0x1234, 1 << 30);
	cr_expect_eq(walk.count, 3u);
	cr_expect_str_eq(walk.steps[0].table, "PML5");
	refused(0x0100000000000000ull, "the address is not canonical");
}

Test(translate, tables_outside_memory_are_told)
{
	mode(PAE, LME);
	sregs.cr3 = 0x10000000;
	refused(0, "PML4 outside memory");
	cr_expect_eq(walk.count, 0u);
	sregs.cr3 = 0x1000;
	entry64(0x1000, 0, 0xffffffffff007ull);
	refused(0, "PDPT outside memory");
	cr_expect_eq(walk.count, 1u);
}

Test(translate, a_table_that_points_to_itself_ends_all_the_same)
{
	mode(PAE, LME);
	entry64(0x1000, 0, 0x1007);
	expect(0x10, 0x1010, 4096);
	cr_expect_eq(walk.count, 4u);
}

Test(translate, virtual_copies_stop_at_the_first_hole)
{
	char text[] = "across two pages", back[sizeof(text)];
	uint64_t done;

	mode(0, 0);
	entry32(0x1000, 0, 0x2007);
	entry32(0x2000, 8, 0x20007);
	entry32(0x2000, 9, 0x10007); /* not behind the other in physical memory */
	cr_expect_eq(hv_virtual_write(&mem, &sregs, 0x8ff8, text, sizeof(text), NULL), 0);
	cr_expect_eq(hv_virtual_read(&mem, &sregs, 0x8ff8, back, sizeof(back), NULL), 0);
	cr_expect_str_eq(back, text);
	cr_expect_eq(memcmp(hv_memory_at(&mem, 0x10000, 8), text + 8, 8), 0);
	cr_expect_eq(hv_virtual_read(&mem, &sregs, 0x9ffc, back, 8, &done), -EFAULT);
	cr_expect_eq(done, 4u);
}

Test(translate, a_copy_does_not_wrap_round_the_address_space)
{
	uint8_t bytes[32];
	uint64_t done;

	mode(PAE, LME);
	entry64(0x1000, 511, 0x2007);
	entry64(0x1000, 0, 0x2007);
	entry64(0x2000, 511, 0x87);
	entry64(0x2000, 0, 0x87);
	sregs.cr3 = 0x1000;
	cr_assert_eq(hv_memory_write(&mem, 0x3ff000, bytes, 1), 0);
	entry64(0x2000, 511, 0x3007);
	entry64(0x3000, 511, 0x4007);
	entry64(0x4000, 511, 0x3ff007);
	cr_expect_eq(hv_virtual_read(&mem, &sregs, 0xfffffffffffffff0ull, bytes, 32, &done), -EFAULT);
	cr_expect_eq(done, 16u);
}
