/*
 * The PVH loader. What its start_info holds is tested in layout.c.
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

TestSuite(pvh, .init = setup, .fini = teardown);

static int load(const struct image *image, struct hv_entry *entry)
{
	struct hv_boot_request request = image_request(image);

	return hv_boot_pvh(&request, &ram, entry, &err);
}

Test(pvh, the_note_names_the_entry_point)
{
	struct hv_entry entry;

	for (unsigned size = 4; size <= 8; size += 4) {
		struct image image = image_elf(true);
		image_add_note(&image, "Xen", 18, IMAGE_BASE + 0x20, size);
		image_add_note(&image, "hvkit", 1, HV_IRQCHIP_SPLIT, 4);
		cr_assert_eq(load(&image, &entry), 0, "%s", err.text);
		cr_expect_eq(entry.mode, HV_ENTRY_PROTECTED);
		cr_expect_eq(entry.rip, IMAGE_BASE + 0x20);
		cr_expect_eq(entry.rbx, HV_BOOT_INFO_ADDR);
		cr_expect_eq(entry.irqchip, HV_IRQCHIP_SPLIT);
		cr_expect_eq(ram32(&ram, HV_BOOT_INFO_ADDR), 0x336ec578);
	}
}

Test(pvh, the_elf_entry_point_does_not_matter)
{
	struct image image = image_elf(true);
	struct hv_entry entry;

	image_add_note(&image, "Xen", 18, IMAGE_BASE, 4);
	image_set_entry(&image, 0xdeadbeef);
	cr_expect_eq(load(&image, &entry), 0, "%s", err.text);
}

Test(pvh, a_missing_or_wrong_note_is_refused)
{
	struct image image = image_elf(true), odd;
	struct hv_entry entry;

	assert_refused(load(&image, &entry), err, ENOEXEC, "CONFIG_PVH");
	odd = image;
	image_add_note(&odd, "Xen", 18, IMAGE_BASE, 2);
	assert_refused(load(&odd, &entry), err, EBADMSG, "holds 2 bytes");
	odd = image;
	image_add_note(&odd, "Xen", 18, IMAGE_BASE + IMAGE_FILE, 4);
	assert_refused(load(&odd, &entry), err, EBADMSG, "entry point");
	odd = image;
	image_add_note(&odd, "Xen", 18, UINT64_MAX, 8);
	assert_refused(load(&odd, &entry), err, EBADMSG, "entry point");
}

Test(pvh, a_segment_above_4_gib_is_out_of_reach)
{
	struct image image = image_elf(true);
	struct hv_entry entry;

	cr_assert_eq(hv_memory_add(&ram, 1ull << 32, 1 << 20, false, &err), 0);
	image_add_note(&image, "Xen", 18, IMAGE_BASE, 4);
	image_add_phdr(&image, PT_LOAD, IMAGE_CODE, 0x40000000, 1ull << 32, 16, 16);
	assert_refused(load(&image, &entry), err, EFBIG, "32-bit code");
}
