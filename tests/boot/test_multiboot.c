/*
 * The multiboot loader.
 */
#include "images.h"

#define HEADER (IMAGE_CODE + 0x40)

static struct hv_memory ram;
static struct hv_error err;

static void setup(void)
{
	ram_init(&ram, 4 << 20);
	memset(&err, 0, sizeof(err));
}

static void teardown(void)
{
	hv_memory_free(&ram);
}

TestSuite(multiboot, .init = setup, .fini = teardown);

static int load(const struct image *image, struct hv_entry *entry)
{
	struct hv_boot_request request = image_request(image);

	return hv_boot_multiboot(&request, &ram, entry, &err);
}

Test(multiboot, an_elf_kernel_gets_magic_and_information)
{
	struct hv_module modules[] = {{"initrd", 6, "initrd arg"}, {"m", 1, NULL}};
	struct image image = image_elf(false);
	struct hv_boot_request request = image_request(&image);
	struct hv_entry entry;
	const uint64_t info = HV_BOOT_INFO_ADDR;
	uint32_t mods, mmap;

	image_add_multiboot(&image, HEADER, 3, NULL);
	request.modules = modules;
	request.module_count = 2;
	request.cmdline = "root=none";
	cr_assert_eq(hv_boot_multiboot(&request, &ram, &entry, &err), 0, "%s", err.text);
	cr_expect_eq(entry.mode, HV_ENTRY_PROTECTED);
	cr_expect_eq(entry.rax, 0x2badb002);
	cr_expect_eq(entry.rbx, info);
	cr_expect_eq(entry.rip, IMAGE_BASE);
	cr_expect_eq(ram32(&ram, info), 0x24d, "memory, command line, modules, map, name");
	cr_expect_eq(ram32(&ram, info + 4), 640);
	cr_expect_eq(ram32(&ram, info + 8), 3 << 10);
	cr_expect_str_eq(ram_string(&ram, ram32(&ram, info + 16)), "root=none");
	cr_expect_eq(ram32(&ram, info + 20), 2);
	mods = ram32(&ram, info + 24);
	cr_expect_eq(ram32(&ram, mods) % HV_PAGE_SIZE, 0);
	cr_assert_arr_eq(hv_memory_at(&ram, ram32(&ram, mods), 6), "initrd", 6);
	cr_expect_eq(ram32(&ram, mods + 4) - ram32(&ram, mods), 6);
	cr_expect_str_eq(ram_string(&ram, ram32(&ram, mods + 8)), "initrd arg");
	cr_expect_str_eq(ram_string(&ram, ram32(&ram, mods + 24)), "");
	cr_expect_eq(ram32(&ram, info + 44), 4 * 24);
	mmap = ram32(&ram, info + 48);
	cr_expect_eq(ram32(&ram, mmap), 20);
	cr_expect_eq(ram64(&ram, mmap + 12), 0xa0000);
	cr_expect_eq(ram32(&ram, mmap + 20), 1);
	cr_expect(strncmp(ram_string(&ram, ram32(&ram, info + 64)), "hvkit ", 6) == 0);
}

Test(multiboot, a_64_bit_elf_kernel_is_entered_in_32_bit_mode)
{
	struct image image = image_elf(true);
	struct hv_entry entry;

	image_add_multiboot(&image, HEADER, 0, NULL);
	cr_assert_eq(load(&image, &entry), 0, "%s", err.text);
	cr_expect_eq(entry.mode, HV_ENTRY_PROTECTED);
}

/* A raw image: 64 bytes before the header at 64, then data, .bss to 0x200400. */
static struct image raw(const uint32_t addresses[5])
{
	struct image image = {.size = 0x300};

	memset(image.bytes, 0x90, image.size);
	image_add_multiboot(&image, 64, 1u << 16, addresses);
	return image;
}

Test(multiboot, the_addresses_of_the_header_place_an_image_that_is_not_elf)
{
	struct image image = raw((uint32_t[]){0x200020, 0x200000, 0x200100, 0x200400, 0x200080});
	struct hv_entry entry;
	uint8_t *at = hv_memory_at(&ram, 0x200000, 0x500);

	memset(at, 0xaa, 0x500);
	cr_assert_eq(load(&image, &entry), 0, "%s", err.text);
	cr_expect_eq(entry.rip, 0x200080);
	cr_expect_eq(ram32(&ram, 0x200020), 0x1badb002, "the file's first 32 bytes are not loaded");
	for (unsigned i = 0x80; i < 0x401; i++)
		cr_expect_eq(at[i], i < 0x100 ? 0x90 : i < 0x400 ? 0 : 0xaa, "byte 0x%x", i);
}

Test(multiboot, zero_for_the_ends_means_all_of_the_file_and_no_bss)
{
	struct image image = raw((uint32_t[]){0x200040, 0x200000, 0, 0, 0x2002ff});
	struct hv_entry entry;

	cr_assert_eq(load(&image, &entry), 0, "%s", err.text);
	cr_expect_eq(*(uint8_t *)hv_memory_at(&ram, 0x2002ff, 1), 0x90);
}

Test(multiboot, addresses_that_contradict_each_other_are_refused)
{
	const struct {
		uint32_t addresses[5];
		int errnum;
		const char *part;
	} cases[] = {
		{{0x1fffff, 0x200000, 0, 0, 0x200000}, EBADMSG, "header_addr"},
		{{0x200041, 0x200000, 0, 0, 0x200000}, EBADMSG, "header_addr"},
		{{0x200040, 0x200000, 0x1fffff, 0, 0x200000}, EBADMSG, "load_end_addr"},
		{{0x200040, 0x200000, 0x200301, 0, 0x200000}, EBADMSG, "past the file's end"},
		{{0x200040, 0x200000, 0x200100, 0x2000ff, 0x200000}, EBADMSG, "bss_end_addr"},
		{{0x200040, 0x200000, 0, 0x200000, 0x200000}, EBADMSG, "bss_end_addr"},
		{{0x200040, 0x200000, 0x200100, 0, 0x1fffff}, EBADMSG, "entry_addr"},
		{{0x200040, 0x200000, 0x200100, 0x200400, 0x200100}, EBADMSG, "entry_addr"},
		{{0x7fffffff, 0x7fffffff, 0, 0, 0x7fffffff}, ENOMEM, "--mem"},
		{{0xffffffff, 0xffffffff, 0, 0, 0xffffffff}, ENOMEM, "no RAM"},
		{{0x200040, 0x200000, 0, 0xffffffff, 0x200000}, ENOMEM, "header at offset 0x40"},
		{{0x6040, 0x6000, 0, 0, 0x6000}, EADDRINUSE, "boot information"},
	};
	struct hv_entry entry;

	for (size_t i = 0; i < HV_ARRAY_SIZE(cases); i++) {
		struct image image = raw(cases[i].addresses);
		assert_refused(load(&image, &entry), err, cases[i].errnum, cases[i].part);
	}
}

Test(multiboot, what_cannot_be_satisfied_is_refused_by_name)
{
	struct hv_entry entry;

	for (unsigned bit = 2; bit < 16; bit++) {
		struct image image = image_elf(false);
		image_add_multiboot(&image, HEADER, 1u << bit, NULL);
		assert_refused(load(&image, &entry), err, ENOTSUP, bit == 2 ? "video mode" : "flag bit");
	}
	for (unsigned bit = 17; bit < 32; bit++) {
		struct image image = image_elf(false);
		image_add_multiboot(&image, HEADER, 1u << bit, NULL);
		cr_expect_eq(load(&image, &entry), 0, "bit %u is optional: %s", bit, err.text);
	}
}

Test(multiboot, a_missing_broken_or_cut_header_is_told_apart)
{
	struct image image = image_elf(false);
	struct hv_entry entry;

	assert_refused(load(&image, &entry), err, ENOENT, "no multiboot header");
	image_add_multiboot(&image, HEADER, 0, NULL);
	image.bytes[HEADER + 4] = 1;
	assert_refused(load(&image, &entry), err, EBADMSG, "offset 0x1040 has a wrong checksum");
	image = (struct image){.size = 64 + 31};
	image_add_multiboot(&image, 64, 1u << 16, NULL);
	assert_refused(load(&image, &entry), err, EBADMSG, "ends before its address fields");
	image = (struct image){.size = 256};
	image_add_multiboot(&image, 64, 0, NULL);
	assert_refused(load(&image, &entry), err, ENOEXEC, "not ELF");
}
