/*
 * The MP table, found and walked as a kernel does it.
 */
#include "boot/layout.h"
#include "images.h"

static struct hv_memory mem;
static struct hv_error err;

static void set_up(void)
{
	hv_memory_init(&mem, NULL);
	cr_assert_eq(hv_memory_add(&mem, 0, 2 << 20, false, NULL), 0);
}

static void tear_down(void)
{
	hv_memory_free(&mem);
}

static unsigned sum(const uint8_t *bytes, size_t size)
{
	unsigned s = 0;

	for (size_t i = 0; i < size; i++)
		s += bytes[i];
	return s & 0xff;
}

static const uint8_t *put(unsigned cpus, bool legacy)
{
	struct hv_acpi board = {.cpus = cpus, .legacy = legacy};
	struct hv_boot_request request = {.path = "x", .acpi = &board, .without_acpi = true};
	const uint8_t *pointer;
	uint64_t rsdp = 1;

	cr_assert_eq(hv_boot_put_acpi(&request, &mem, &rsdp, &err), 0, "%s", err.text);
	cr_assert_eq(rsdp, 0, "no ACPI tables");
	for (uint64_t gpa = 0xf0000; gpa < 0x100000; gpa += 16) {
		pointer = hv_memory_at(&mem, gpa, 16);
		if (!memcmp(pointer, "_MP_", 4)) {
			cr_assert_eq(sum(pointer, 16), 0);
			cr_assert_eq(pointer[11], 0, "a table, no default configuration");
			return hv_memory_at(&mem, hv_le32(pointer + 4), 44);
		}
	}
	cr_assert_fail("no pointer");
	return NULL;
}

static void walk(unsigned cpus, bool legacy)
{
	const uint8_t *table = put(cpus, legacy), *e = table + 44;
	unsigned counts[5] = {0}, entries = hv_le16(table + 34);

	cr_assert_arr_eq(table, "PCMP", 4);
	cr_assert_eq(table[6], 4);
	cr_assert_eq(sum(table, hv_le16(table + 4)), 0);
	cr_assert_eq(hv_le32(table + 36), 0xfee00000);
	for (unsigned i = 0; i < entries; i++) {
		cr_assert_leq(e[0], 4);
		if (e[0] == 0) {
			cr_expect_eq(e[1], counts[0]);
			cr_expect_eq(e[3], counts[0] ? 1 : 3, "enabled, and the first is the BSP");
		} else if (e[0] == 2) {
			cr_expect_eq(e[1], cpus, "an id that no CPU has");
			cr_expect_eq(hv_le32(e + 4), 0xfec00000);
		} else if (e[0] == 3) {
			cr_expect_eq(e[5], counts[3]);
			cr_expect_eq(e[7], counts[3], "line n at pin n");
			cr_expect_eq(e[6], cpus);
		}
		counts[e[0]]++;
		e += e[0] == 0 ? 20 : 8;
	}
	cr_expect_eq(e - table, hv_le16(table + 4));
	cr_expect_eq(counts[0], cpus);
	cr_expect_eq(counts[1], 1);
	cr_expect_eq(counts[2], 1);
	cr_expect_eq(counts[3], 24);
	cr_expect_eq(counts[4], legacy ? 2 : 1);
}

TestSuite(mptable, .init = set_up, .fini = tear_down);

Test(mptable, it_has_every_cpu_and_every_pin)
{
	walk(1, true);
	walk(1, false);
	walk(64, true);
	walk(254, false);
}

Test(mptable, more_cpus_than_apic_ids_are_refused)
{
	struct hv_acpi board = {.cpus = 255};
	struct hv_boot_request request = {.path = "x", .acpi = &board, .without_acpi = true};
	uint64_t rsdp;

	cr_assert_neq(hv_boot_put_acpi(&request, &mem, &rsdp, &err), 0);
}
