/*
 * What a kernel is told: modules, memory map, command line, in PVH's structure.
 */
#include "images.h"

static struct hv_memory ram;
static struct hv_error err;
static const struct hv_module modules[] = {
	{"first module", 12, "one arg"}, {"second", 6, "two"}, {"", 0, NULL}};

static void teardown(void)
{
	hv_memory_free(&ram);
}

TestSuite(layout, .fini = teardown);

static int load(uint64_t size, struct image *image, const struct hv_module *m, unsigned count,
		const char *cmdline)
{
	struct hv_boot_request request = image_request(image);
	struct hv_entry entry;

	request.modules = m;
	request.module_count = count;
	request.cmdline = cmdline;
	ram_init(&ram, size);
	return hv_boot_elf(&request, &ram, &entry, &err);
}

Test(layout, modules_lie_page_aligned_above_the_kernel)
{
	struct image image = image_elf(true);
	uint64_t list, next = IMAGE_BASE + IMAGE_MEM;

	cr_assert_eq(load(4 << 20, &image, modules, 3, ""), 0, "%s", err.text);
	cr_expect_eq(ram32(&ram, HV_BOOT_INFO_ADDR + 12), 3);
	list = ram64(&ram, HV_BOOT_INFO_ADDR + 16);
	for (unsigned i = 0; i < 3; i++, list += 32) {
		uint64_t at = ram64(&ram, list), size = ram64(&ram, list + 8);
		cr_expect_eq(at % HV_PAGE_SIZE, 0);
		cr_expect(at >= next);
		cr_expect_eq(size, modules[i].size);
		cr_assert_arr_eq(hv_memory_at(&ram, at, size), modules[i].data, size);
		cr_expect_str_eq(ram_string(&ram, ram64(&ram, list + 16)),
				 modules[i].name ? modules[i].name : "");
		next = at + size;
	}
}

Test(layout, modules_of_a_low_kernel_lie_above_1_mib)
{
	struct image image = image_elf(true);

	hv_put_le64(image.bytes + 64 + 16, 0x40000);
	hv_put_le64(image.bytes + 64 + 24, 0x40000);
	image_set_entry(&image, 0x40000);
	cr_assert_eq(load(4 << 20, &image, modules, 1, ""), 0, "%s", err.text);
	cr_expect_eq(ram64(&ram, ram64(&ram, HV_BOOT_INFO_ADDR + 16)), 0x100000);
}

Test(layout, a_module_larger_than_the_ram_left_is_refused)
{
	static uint8_t big[1 << 20];
	struct hv_module module = {big, sizeof(big), "initrd"};
	struct image image = image_elf(true);

	assert_refused(load(2 << 20, &image, &module, 1, ""), err, ENOMEM,
		       "module 0 (initrd, 1048576 bytes)");
	hv_memory_free(&ram);
	cr_expect_eq(load((2 << 20) + IMAGE_MEM, &image, &module, 1, ""), 0, "%s", err.text);
}

Test(layout, too_many_modules_are_refused)
{
	struct image image = image_elf(true);

	assert_refused(load(4 << 20, &image, modules, HV_BOOT_MODULES_MAX + 1, ""), err, EINVAL,
		       "at most 64");
}

Test(layout, module_strings_that_exceed_the_information_area_are_refused)
{
	static char name[HV_BOOT_INFO_SIZE];
	struct hv_module module = {"x", 1, name};
	struct image image = image_elf(true);

	memset(name, 'a', sizeof(name) - 1);
	assert_refused(load(4 << 20, &image, &module, 1, ""), err, ENOSPC, "command lines");
}

Test(layout, the_command_line_may_fill_its_area_and_no_more)
{
	static char line[HV_BOOT_CMDLINE_MAX + 1];
	struct image image = image_elf(true);

	memset(line, 'a', sizeof(line) - 1);
	assert_refused(load(4 << 20, &image, NULL, 0, line), err, EINVAL, "too long");
	hv_memory_free(&ram);
	line[HV_BOOT_CMDLINE_MAX - 1] = '\0';
	cr_assert_eq(load(4 << 20, &image, NULL, 0, line), 0, "%s", err.text);
	cr_expect_eq(ram64(&ram, HV_BOOT_INFO_ADDR + 24), HV_BOOT_CMDLINE);
	cr_assert_arr_eq(hv_memory_at(&ram, HV_BOOT_CMDLINE, sizeof(line) - 1), line, sizeof(line) - 1);
}

static void expect_region(uint64_t *at, uint64_t gpa, uint64_t end, uint32_t type)
{
	cr_expect_eq(ram64(&ram, *at), gpa, "0x%lx", (unsigned long)ram64(&ram, *at));
	cr_expect_eq(ram64(&ram, *at + 8), end - gpa);
	cr_expect_eq(ram32(&ram, *at + 16), type);
	*at += 24;
}

Test(layout, the_memory_map_is_a_pcs)
{
	struct image image = image_elf(true);
	uint64_t at;

	cr_assert_eq(load(4 << 20, &image, NULL, 0, ""), 0, "%s", err.text);
	cr_expect_eq(ram32(&ram, HV_BOOT_INFO_ADDR + 4), 1, "version");
	cr_expect_eq(ram32(&ram, HV_BOOT_INFO_ADDR + 48), 4, "entries");
	at = ram64(&ram, HV_BOOT_INFO_ADDR + 40);
	expect_region(&at, 0, 0xa0000, 1);
	expect_region(&at, 0xa0000, 0x100000, 2);
	expect_region(&at, 0x100000, 4 << 20, 1);
	expect_region(&at, HV_IDENTITY_MAP_ADDR, HV_TSS_ADDR + 0x3000, 2);
}

Test(layout, ram_above_4_gib_and_rom_are_in_the_map)
{
	struct image image = image_elf(true);
	struct hv_boot_request request = image_request(&image);
	struct hv_entry entry;
	uint64_t at;

	hv_memory_init(&ram, NULL);
	cr_assert_eq(hv_memory_add(&ram, 0, 2 << 20, false, &err), 0);
	cr_assert_eq(hv_memory_add(&ram, 0xff000000, 0x1000, true, &err), 0);
	cr_assert_eq(hv_memory_add(&ram, 1ull << 32, 1 << 20, false, &err), 0);
	cr_assert_eq(hv_boot_elf(&request, &ram, &entry, &err), 0, "%s", err.text);
	at = ram64(&ram, HV_BOOT_INFO_ADDR + 40) + 48;
	expect_region(&at, 0x100000, 2 << 20, 1);
	expect_region(&at, 0xff000000, 0xff001000, 2);
	expect_region(&at, HV_IDENTITY_MAP_ADDR, HV_TSS_ADDR + 0x3000, 2);
	expect_region(&at, 1ull << 32, (1ull << 32) + (1 << 20), 1);
}
