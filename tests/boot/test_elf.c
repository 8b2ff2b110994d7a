/*
 * The ELF loader: what it puts where, and what it refuses.
 */
#include "images.h"

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

TestSuite(elf, .init = setup, .fini = teardown);

static int load(const struct image *image, struct hv_entry *entry)
{
	struct hv_boot_request request = image_request(image);

	return hv_boot_elf(&request, &ram, entry, &err);
}

Test(elf, bytes_land_at_the_physical_address_and_bss_is_zeroed)
{
	struct image image = image_elf(true);
	struct hv_entry entry;
	uint8_t *at = hv_memory_at(&ram, IMAGE_BASE, IMAGE_MEM + 1);

	memset(at, 0xaa, IMAGE_MEM + 1);
	cr_assert_eq(load(&image, &entry), 0, "%s", err.text);
	for (unsigned i = 0; i < IMAGE_MEM; i++)
		cr_assert_eq(at[i], i < IMAGE_FILE ? 0x90 : 0, "byte %u", i);
	cr_expect_eq(at[IMAGE_MEM], 0xaa, "nothing above the segment changes");
}

Test(elf, a_64_bit_file_enters_long_mode_with_the_start_info_in_rdi)
{
	struct image image = image_elf(true);
	struct hv_entry entry;

	cr_assert_eq(load(&image, &entry), 0, "%s", err.text);
	cr_expect_eq(entry.mode, HV_ENTRY_LONG);
	cr_expect_eq(entry.rip, IMAGE_BASE);
	cr_expect_eq(entry.rdi, HV_BOOT_INFO_ADDR);
	cr_expect_eq(entry.rsp % 16, 0);
	cr_expect_eq(entry.rsp, HV_BOOT_STACK_TOP);
	cr_expect_eq(ram32(&ram, HV_BOOT_INFO_ADDR), 0x336ec578);
}

Test(elf, a_32_bit_file_enters_protected_mode_with_the_start_info_in_ebx)
{
	struct image image = image_elf(false);
	struct hv_entry entry;

	cr_assert_eq(load(&image, &entry), 0, "%s", err.text);
	cr_expect_eq(entry.mode, HV_ENTRY_PROTECTED);
	cr_expect_eq(entry.rip, IMAGE_BASE);
	cr_expect_eq(entry.rbx, HV_BOOT_INFO_ADDR);
	cr_expect_eq(entry.rdi, 0);
}

Test(elf, a_virtual_entry_point_is_translated_and_a_physical_one_kept)
{
	const uint64_t high = 0xffffffff80000000;
	struct hv_entry entry;

	for (int physical = 0; physical < 2; physical++) {
		struct image image = image_elf(true);
		hv_put_le64(image.bytes + 64 + 16, high);
		image_set_entry(&image, (physical ? IMAGE_BASE : high) + 0x10);
		cr_assert_eq(load(&image, &entry), 0, "%s", err.text);
		cr_expect_eq(entry.rip, IMAGE_BASE + 0x10);
	}
}

Test(elf, an_entry_point_outside_the_files_bytes_is_refused)
{
	const uint64_t wrong[] = {0, IMAGE_BASE - 1, IMAGE_BASE + IMAGE_FILE, IMAGE_BASE + IMAGE_MEM,
				  UINT64_MAX};
	struct hv_entry entry;

	for (size_t i = 0; i < HV_ARRAY_SIZE(wrong); i++) {
		struct image image = image_elf(true);
		image_set_entry(&image, wrong[i]);
		assert_refused(load(&image, &entry), err, EBADMSG, "entry point");
	}
}

/* One field of a sound 64-bit file, its new value, and what must be said. */
static const struct {
	unsigned at, width;
	uint64_t value;
	int errnum;
	const char *part;
} damage[] = {
	{0, 1, 'X', EBADMSG, "no magic"},
	{4, 1, 0, EBADMSG, "EI_CLASS at offset 4"},
	{4, 1, 3, EBADMSG, "EI_CLASS at offset 4"},
	{4, 1, ELFCLASS32, ENOEXEC, "e_machine at offset 18"},
	{5, 1, ELFDATA2MSB, ENOEXEC, "big-endian"},
	{5, 1, 7, EBADMSG, "EI_DATA at offset 5"},
	{6, 1, 0, EBADMSG, "EI_VERSION at offset 6"},
	{16, 2, ET_NONE, EBADMSG, "e_type at offset 16"},
	{16, 2, ET_REL, ENOEXEC, "link it first"},
	{16, 2, ET_CORE, ENOEXEC, "core dump"},
	{16, 2, 0xff00, EBADMSG, "e_type at offset 16"},
	{18, 2, EM_386, ENOEXEC, "e_machine at offset 18"},
	{18, 2, EM_AARCH64, ENOEXEC, "e_machine at offset 18"},
	{32, 8, 0, EBADMSG, "program header"},
	{32, 8, 0x10000, EBADMSG, "past the file's end"},
	{32, 8, UINT64_MAX - 8, EBADMSG, "past the file's end"},
	{54, 2, 0, EBADMSG, "e_phentsize at offset 54"},
	{54, 2, 32, EBADMSG, "e_phentsize at offset 54"},
	{56, 2, 0, EBADMSG, "e_phnum at offset 56"},
	{56, 2, 129, EBADMSG, "e_phnum at offset 56"},
	{56, 2, PN_XNUM, EBADMSG, "e_phnum at offset 56"},
	{64, 4, PT_INTERP, ENOEXEC, "interpreter"},
	{64, 4, PT_NULL, EBADMSG, "to be loaded"},
	{64 + 8, 8, 0x1201, EBADMSG, "program header 0 at offset 0x40"},
	{64 + 8, 8, UINT64_MAX, EBADMSG, "past the file's end"},
	{64 + 16, 8, UINT64_MAX - 16, EBADMSG, "p_vaddr"},
	{64 + 24, 8, UINT64_MAX - 16, EBADMSG, "p_paddr"},
	{64 + 24, 8, 0x3ff000, ENOMEM, "--mem"},
	{64 + 24, 8, 1ull << 40, ENOMEM, "no RAM"},
	{64 + 24, 8, 0, EBADMSG, "entry point"},
	{64 + 32, 8, UINT64_MAX, EBADMSG, "past the file's end"},
	{64 + 40, 8, IMAGE_FILE - 1, EBADMSG, "p_filesz > p_memsz"},
	{64 + 40, 8, 0, EBADMSG, "p_filesz > p_memsz"},
	{64 + 40, 8, UINT64_MAX, EBADMSG, "wraps"},
	{64 + 40, 8, 4 << 20, ENOMEM, "--mem"},
};

Test(elf, each_damaged_field_is_named_with_its_offset)
{
	struct hv_entry entry;

	for (size_t i = 0; i < HV_ARRAY_SIZE(damage); i++) {
		struct image image = image_elf(true);
		memcpy(image.bytes + damage[i].at, &damage[i].value, damage[i].width);
		if (damage[i].value == 0 &&
		    damage[i].at == 64 + 24) /* so that the entry isn't found virtually */
			hv_put_le64(image.bytes + 64 + 16, 0x40000000);
		assert_refused(load(&image, &entry), err, damage[i].errnum, damage[i].part);
	}
}

Test(elf, segments_that_share_memory_are_refused)
{
	struct image image = image_elf(true);
	struct hv_entry entry;

	image_add_phdr(&image, PT_LOAD, IMAGE_CODE, 0x40000000, IMAGE_BASE + IMAGE_MEM, 16, 16);
	cr_assert_eq(load(&image, &entry), 0, "adjacent segments are fine: %s", err.text);
	image_add_phdr(&image, PT_LOAD, IMAGE_CODE, 0x50000000, IMAGE_BASE + IMAGE_MEM + 15, 16, 16);
	assert_refused(
		load(&image, &entry), err, EBADMSG,
		"program headers 1 at offset 0x78 and 2 at offset 0xb0 load to the same memory, 0x10300f");
}

Test(elf, an_empty_segment_loads_nothing_wherever_it_points)
{
	struct image image = image_elf(true);
	struct hv_entry entry;

	image_add_phdr(&image, PT_LOAD, 0, IMAGE_BASE, IMAGE_BASE, 0, 0);
	image_add_phdr(&image, PT_LOAD, 0, 0, 1ull << 50, 0, 0);
	cr_expect_eq(load(&image, &entry), 0, "%s", err.text);
}

Test(elf, the_areas_hvkit_fills_are_not_for_the_image)
{
	const struct {
		uint64_t gpa;
		bool free64, free32;
	} cases[] = {
		{0x5000, true, true},          {HV_BOOT_INFO_ADDR - 8, false, false},
		{HV_BOOT_STACK, false, false}, {0x9000, false, false},
		{0xa000, false, true},         {0xfff0, false, true},
		{0x10000, true, true},         {HV_BOOT_CMDLINE, false, false},
		{0x3fff8, false, false},       {0x40000, true, true},
	};
	struct hv_entry entry;

	for (size_t i = 0; i < HV_ARRAY_SIZE(cases); i++) {
		for (int is64 = 0; is64 < 2; is64++) {
			struct image image = image_elf(is64);
			image_add_phdr(&image, PT_LOAD, IMAGE_CODE, 0x40000000, cases[i].gpa, 16, 16);
			int rc = load(&image, &entry);
			bool fine = is64 ? cases[i].free64 : cases[i].free32;
			cr_expect_eq(rc, fine ? 0 : -EADDRINUSE, "0x%lx in a %d-bit file: %s",
				     (unsigned long)cases[i].gpa, is64 ? 64 : 32, err.text);
		}
	}
}

Test(elf, a_32_bit_segment_cannot_wrap_at_4_gib)
{
	struct image image = image_elf(false);
	struct hv_entry entry;

	image_add_phdr(&image, PT_LOAD, IMAGE_CODE, 0x40000000, 0xfffff000, 16, 0x2000);
	assert_refused(load(&image, &entry), err, EBADMSG, "wraps");
}

Test(elf, a_file_cut_anywhere_is_refused)
{
	struct hv_entry entry;

	for (int is64 = 0; is64 < 2; is64++) {
		struct image image = image_elf(is64);
		size_t whole = image.size;
		for (image.size = 0; image.size < whole; image.size++)
			cr_expect_neq(load(&image, &entry), 0, "%zu bytes", image.size);
	}
}

Test(elf, a_refused_file_leaves_memory_as_it_was)
{
	struct image image = image_elf(true);
	struct hv_entry entry;

	image_add_phdr(&image, PT_LOAD, IMAGE_CODE, 0x40000000, 1ull << 40, 16, 16);
	assert_refused(load(&image, &entry), err, ENOMEM, "program header 1 at offset 0x78");
	cr_expect_eq(ram64(&ram, IMAGE_BASE), 0);
}

Test(elf, a_position_independent_file_is_loaded_where_it_was_linked)
{
	struct image image = image_elf(true);
	struct hv_entry entry;

	hv_put_le16(image.bytes + 16, ET_DYN);
	cr_assert_eq(load(&image, &entry), 0, "%s", err.text);
	cr_expect_eq(entry.rip, IMAGE_BASE);
}

Test(elf, a_note_that_lies_about_its_size_is_refused)
{
	struct hv_entry entry;

	for (unsigned field = 0; field < 8; field += 4) {
		struct image image = image_elf(true);
		image_add_note(&image, "Xen", 18, 0, 4);
		hv_put_le32(image.bytes + IMAGE_NOTES + 0x40 + field, 0xffffffff);
		assert_refused(load(&image, &entry), err, EBADMSG, "note at offset 0x840");
	}
}

Test(elf, ram_too_small_for_the_boot_areas_is_refused)
{
	struct image image = image_elf(true);
	struct hv_entry entry;

	hv_memory_free(&ram);
	ram_init(&ram, 0x20000);
	hv_put_le64(image.bytes + 64 + 24, 0x10000);
	assert_refused(load(&image, &entry), err, ENOMEM, "--mem");
}
