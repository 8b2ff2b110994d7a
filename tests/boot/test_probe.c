/*
 * hv_boot_probe: an image's kind and needs by its content.
 */
#include "images.h"

static enum hv_boot_kind probe(const struct image *image, enum hv_irqchip *irqchip)
{
	struct hv_error err = {0};
	enum hv_boot_kind kind = HV_BOOT_AUTO;
	int rc = hv_boot_probe("image", image->bytes, image->size, &kind, irqchip, &err);

	cr_expect_eq(rc, 0, "%s", err.text);
	return kind;
}

Test(probe, bytes_without_a_header_are_flat_and_need_no_irqchip)
{
	struct image image = {.size = 1};
	enum hv_irqchip irqchip;

	cr_expect_eq(probe(&image, &irqchip), HV_BOOT_FLAT);
	cr_expect_eq(irqchip, HV_IRQCHIP_NONE);
}

Test(probe, elf_files_of_both_classes_are_elf)
{
	enum hv_irqchip irqchip;

	for (int is64 = 0; is64 < 2; is64++) {
		struct image image = image_elf(is64);
		cr_expect_eq(probe(&image, &irqchip), HV_BOOT_ELF);
		cr_expect_eq(irqchip, HV_IRQCHIP_FULL);
	}
}

Test(probe, a_xen_note_of_either_size_makes_it_pvh)
{
	enum hv_irqchip irqchip;

	for (unsigned size = 4; size <= 8; size += 4) {
		struct image image = image_elf(true);
		image_add_note(&image, "GNU", 18, 1, 4);
		image_add_note(&image, "Xen", 17, 1, 4);
		cr_expect_eq(probe(&image, &irqchip), HV_BOOT_ELF);
		image_add_note(&image, "Xen", 18, IMAGE_BASE, size);
		cr_expect_eq(probe(&image, &irqchip), HV_BOOT_PVH);
	}
}

Test(probe, a_multiboot_header_wins_over_elf)
{
	struct image image = image_elf(false);
	enum hv_irqchip irqchip;

	image_add_multiboot(&image, IMAGE_CODE, 0, NULL);
	cr_expect_eq(probe(&image, &irqchip), HV_BOOT_MULTIBOOT);
	cr_expect_eq(irqchip, HV_IRQCHIP_FULL);
	image.bytes[IMAGE_CODE + 8]++;
	cr_expect_eq(probe(&image, &irqchip), HV_BOOT_ELF, "with a wrong checksum it is no header");
}

Test(probe, a_multiboot_header_must_be_aligned_and_inside_8192_bytes)
{
	static uint8_t bytes[8192 + 64];
	enum hv_boot_kind kind;
	enum hv_irqchip irqchip;
	const struct {
		size_t at;
		enum hv_boot_kind kind;
	} cases[] = {
		{0, HV_BOOT_MULTIBOOT}, {2, HV_BOOT_FLAT}, {8180, HV_BOOT_MULTIBOOT}, {8184, HV_BOOT_FLAT}};

	for (size_t i = 0; i < HV_ARRAY_SIZE(cases); i++) {
		memset(bytes, 0, sizeof(bytes));
		hv_put_le32(bytes + cases[i].at, 0x1badb002);
		hv_put_le32(bytes + cases[i].at + 8, 0u - 0x1badb002u);
		cr_assert_eq(hv_boot_probe("image", bytes, sizeof(bytes), &kind, &irqchip, NULL), 0);
		cr_expect_eq(kind, cases[i].kind, "header at %zu", cases[i].at);
	}
}

Test(probe, the_hvkit_note_chooses_the_irqchip)
{
	for (unsigned want = HV_IRQCHIP_NONE; want <= HV_IRQCHIP_FULL; want++) {
		struct image image = image_elf(true);
		enum hv_irqchip irqchip;

		image_add_note(&image, "hvkit", 1, want, 4);
		cr_expect_eq(probe(&image, &irqchip), HV_BOOT_ELF);
		cr_expect_eq((unsigned)irqchip, want);
	}
}

Test(probe, an_hvkit_note_that_asks_for_the_impossible_is_refused)
{
	struct image image = image_elf(true);
	struct hv_error err = {0};
	enum hv_boot_kind kind;
	enum hv_irqchip irqchip;

	image_add_note(&image, "hvkit", 1, 9, 4);
	assert_refused(hv_boot_probe("image", image.bytes, image.size, &kind, &irqchip, &err), err, EBADMSG,
		       "hvkit note");
}

Test(probe, damaged_and_foreign_elf_files_are_not_taken_for_flat_ones)
{
	struct image image = image_elf(true);
	struct hv_error err = {0};
	enum hv_boot_kind kind;
	enum hv_irqchip irqchip;

	assert_refused(hv_boot_probe("image", image.bytes, 20, &kind, &irqchip, &err), err, EBADMSG,
		       "ELF header");
	cr_expect_eq(err.status, HV_EXIT_UNSAFE);
	hv_put_le16(image.bytes + 18, EM_AARCH64);
	assert_refused(hv_boot_probe("image", image.bytes, image.size, &kind, &irqchip, &err), err, ENOEXEC,
		       "another machine");
}

Test(probe, kinds_have_names_and_names_have_kinds)
{
	struct hv_error err = {0};
	enum hv_boot_kind kind;

	for (int i = HV_BOOT_AUTO; i <= HV_BOOT_LINUX; i++) {
		cr_assert_eq(hv_boot_kind_parse(&kind, hv_boot_kind_name((enum hv_boot_kind)i), &err), 0);
		cr_expect_eq((int)kind, i);
	}
	assert_refused(hv_boot_kind_parse(&kind, "grub", &err), err, EINVAL, "grub");
	cr_expect_eq(err.status, HV_EXIT_USAGE);
}
