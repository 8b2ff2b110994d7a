/*
 * The firmware configuration device, as a guest walks it.
 */
#include <stdio.h>

#include "base/bytes.h"
#include "drive.h"

static struct hv_device *dev;

static const struct hv_fwcfg_item files[] = {
	{.file = "opt/org.hvkit/cmdline", .data = "quiet", .size = 5},
	{.file = "opt/org.hvkit/empty", .data = NULL, .size = 0},
};

static void set_up(void)
{
	cr_assert_eq(hv_fwcfg_create(3, 5ull << 30, files, 2, &dev, NULL), 0);
}

static void tear_down(void)
{
	hv_device_destroy(dev);
}

static void fetch(unsigned key, void *out, size_t size)
{
	drive_write(dev, 0, key, 2);
	for (uint8_t *p = out; size > 0; size--)
		*p++ = in8(dev, 1);
}

TestSuite(fwcfg, .init = set_up, .fini = tear_down, .timeout = 30);

Test(fwcfg, signature_and_an_id_without_dma)
{
	uint8_t b[8];

	fetch(0x00, b, 8);
	cr_assert_arr_eq(b, "QEMU\0\0\0\0", 8);
	fetch(0x01, b, 4);
	cr_assert_eq(hv_le32(b), 1);
}

Test(fwcfg, cpus_and_memory_are_the_vms)
{
	uint8_t b[8];

	fetch(0x05, b, 2);
	cr_assert_eq(hv_le16(b), 3);
	fetch(0x0f, b, 2);
	cr_assert_eq(hv_le16(b), 3);
	fetch(0x03, b, 8);
	cr_assert_eq(hv_le64(b), 5ull << 30);
}

Test(fwcfg, the_directory_leads_to_the_files)
{
	uint8_t dir[4 + 2 * 64], b[6];

	fetch(0x19, dir, sizeof(dir));
	cr_assert_eq(hv_be32(dir), 2);
	cr_assert_eq(hv_be32(dir + 4), 5);
	cr_assert_str_eq((char *)dir + 12, "opt/org.hvkit/cmdline");
	cr_assert_eq(hv_be32(dir + 68), 0);
	cr_assert_str_eq((char *)dir + 76, "opt/org.hvkit/empty");
	fetch(hv_be16(dir + 8), b, 6);
	cr_assert_arr_eq(b, "quiet\0", 6);
	fetch(hv_be16(dir + 72), b, 1);
	cr_assert_eq(b[0], 0);
}

Test(fwcfg, selecting_starts_over_and_unknown_keys_are_empty)
{
	uint8_t b[2];

	fetch(0x00, b, 2);
	fetch(0x4000, b, 2); /* the write channel's bit doesn't count */
	cr_assert_arr_eq(b, "QE", 2);
	fetch(0x7777, b, 2);
	cr_assert_arr_eq(b, "\0\0", 2);
}

Test(fwcfg, items_cannot_be_written_and_the_selector_takes_words_only)
{
	uint8_t b[4];

	drive_write(dev, 0, 0x00, 2);
	out8(dev, 1, 0xff);
	out8(dev, 0, 0x05);
	cr_assert_eq(in8(dev, 1), 'Q');
	cr_assert_eq(in8(dev, 0), 0);
	cr_assert_eq(drive_read(dev, 0, 2), 0);
	cr_assert_eq(in8(dev, 1), 'E');
	fetch(0x00, b, 4);
	cr_assert_arr_eq(b, "QEMU", 4);
}

Test(fwcfg, saved_state_carries_the_place_in_an_item)
{
	struct hv_device *first = dev;
	uint8_t b[2];

	fetch(0x00, b, 2);
	set_up();
	drive_move(first, dev);
	cr_assert_eq(in8(dev, 1), 'M');
	hv_device_destroy(first);
}

Test(fwcfg, a_place_outside_its_item_is_refused)
{
	uint8_t b;

	fetch(0x00, &b, 1);
	drive_refused(dev, 2, 5);
	fetch(0x00, &b, 1);
	drive_refused(dev, 5, 0xff);
	fetch(0x00, &b, 1);
	drive_refused(dev, 1, 0x40);
	cr_assert_eq(in8(dev, 1), 0, "a refused load leaves nothing selected");
}

Test(fwcfg, bad_file_names_and_too_many_files_are_refused)
{
	static const struct hv_fwcfg_item twice[] = {{.file = "a"}, {.file = "a"}};
	static const struct hv_fwcfg_item empty[] = {{.file = ""}};
	struct hv_fwcfg_item one = {.file = "0123456789012345678901234567890123456789012345678901234"};
	struct hv_fwcfg_item many[65];
	char names[65][4];
	struct hv_device *other;
	struct hv_error err;

	for (unsigned i = 0; i < 65; i++) {
		snprintf(names[i], sizeof(names[i]), "%u", i);
		many[i] = (struct hv_fwcfg_item){.file = names[i]};
	}
	cr_assert_eq(hv_fwcfg_create(1, 0, twice, 2, &other, &err), -EINVAL);
	cr_assert_eq(hv_fwcfg_create(1, 0, empty, 1, &other, &err), -EINVAL);
	cr_assert_eq(hv_fwcfg_create(1, 0, many, 65, &other, &err), -EINVAL);
	cr_assert_eq(hv_fwcfg_create(1, 0, many, 64, &other, &err), 0);
	hv_device_destroy(other);
	cr_assert_eq(hv_fwcfg_create(1, 0, &one, 1, &other, &err), 0); /* 55 bytes are the most */
	hv_device_destroy(other);
	one.file = "01234567890123456789012345678901234567890123456789012345";
	cr_assert_eq(hv_fwcfg_create(1, 0, &one, 1, &other, &err), -EINVAL);
	one = (struct hv_fwcfg_item){.file = "big", .data = names, .size = 1ull << 32};
	cr_assert_eq(hv_fwcfg_create(1, 0, &one, 1, &other, &err), -EINVAL);
}
