/*
 * Parallels: QEMU's own images, the older kind and odd block sizes built here from the layout, and
 * descriptors of folders.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "images.h"

TestSuite(parallels, .init = images_enter, .fini = images_leave, .timeout = 60);

struct shape {
	bool newer;
	uint32_t tracks, entries, data; /* data: in sectors, 0 for the older kind's default */
	uint64_t sectors;
	const uint8_t *map; /* block n of the file, from 1; 0 is none */
};

/* Block n of the file is filled with the letter '@' + n. */
static uint8_t *build(const struct shape *s, size_t *length)
{
	uint64_t data_at = s->data ? (uint64_t)s->data * 512 : hv_round_up(64 + s->entries * 4, 512);
	uint32_t block = s->tracks * 512, top = 0;
	uint8_t *f;

	for (uint32_t i = 0; i < s->entries; i++)
		if (s->map[i] > top)
			top = s->map[i];
	*length = (size_t)data_at + (size_t)top * block;
	f = calloc(1, *length);
	cr_assert(f != NULL);
	memcpy(f, s->newer ? "WithouFreSpacExt" : "WithoutFreeSpace", 16);
	hv_put_le32(f + 16, 2);
	hv_put_le32(f + 20, 16);
	hv_put_le32(f + 24, 100);
	hv_put_le32(f + 28, s->tracks);
	hv_put_le32(f + 32, s->entries);
	hv_put_le64(f + 36, s->sectors);
	hv_put_le32(f + 44, 0x312e3276);
	hv_put_le32(f + 48, s->data);
	for (uint32_t i = 0; i < s->entries; i++) {
		uint64_t at = data_at + (uint64_t)(s->map[i] - 1) * block;

		if (s->map[i])
			hv_put_le32(f + 64 + i * 4, (uint32_t)(s->newer ? at / block : at / 512));
	}
	for (uint32_t n = 0; n < top; n++)
		memset(f + data_at + (size_t)n * block, 'A' + (int)n, block);
	return f;
}

static void put(const char *name, const struct shape *s)
{
	size_t length;
	uint8_t *f = build(s, &length);

	images_put(name, f, length);
	free(f);
}

static void expect_letters(const char *name, const char *letters, size_t block, size_t size)
{
	uint8_t *bytes = malloc(size);

	for (size_t i = 0; i < size; i++)
		bytes[i] = letters[i / block] == '.' ? 0 : (uint8_t)letters[i / block];
	images_expect(name, NULL, bytes, size);
	free(bytes);
}

static const uint8_t usual_map[] = {2, 0, 1, 3, 0};
static const struct shape older = {false, 8, 5, 0, 38, usual_map}, newer = {true, 8, 5, 8, 38, usual_map};

Test(parallels, what_qemu_img_makes_is_read_to_the_same_bytes)
{
	struct images_random r = {21};

	if (!images_have("qemu-img"))
		cr_skip_test("qemu-img is not installed");
	for (unsigned i = 0; i < 6; i++) {
		size_t length = (size_t)(1 + images_below(&r, 12000)) * 512;
		uint8_t *bytes = malloc(length);
		struct hv_disk_check check;

		images_fill(&r, bytes, length);
		if (length > 3U << 20)
			memset(bytes + (1 << 20), 0, 1 << 20);
		images_put("raw", bytes, length);
		cr_assert_eq(
			images_run("qemu-img convert -f raw -O parallels -o cluster_size=%s raw image.hds",
				   i % 2 ? "64k" : "1M"),
			0);
		images_expect("image.hds", NULL, bytes, length);
		check = images_check("image.hds", NULL);
		cr_assert_eq(check.errors + check.leaks, 0);
		free(bytes);
	}
}

Test(parallels, both_kinds_and_odd_block_sizes_are_read)
{
	struct shape s = older;

	put("older.hds", &older);
	expect_letters("older.hds", "B.AC.", 4096, 38 * 512);
	put("newer.hds", &newer);
	expect_letters("newer.hds", "B.AC.", 4096, 38 * 512);
	s.tracks = 63;
	s.sectors = 63 * 5 - 7;
	put("odd.hdd", &s);
	expect_letters("odd.hdd", "B.AC.", 63 * 512, s.sectors * 512);
	s.data = 17;
	put("later.hdd", &s);
	expect_letters("later.hdd", "B.AC.", 63 * 512, s.sectors * 512);
	/* The older kind's high half of the size is of no meaning. */
	s.sectors |= 1ULL << 40;
	put("high.hdd", &s);
	expect_letters("high.hdd", "B.AC.", 63 * 512, (s.sectors & UINT32_MAX) * 512);
}

struct spoil {
	unsigned at;
	uint32_t value;
	int code;
};

Test(parallels, every_spoiled_field_is_refused)
{
	static const struct spoil spoils[] = {
		{0, 0, -EBADMSG},           {16, 1, -ENOTSUP},          {16, 3, -ENOTSUP},
		{28, 0, -EBADMSG},          {28, 0xffffffff, -EBADMSG}, {32, 0, -EBADMSG},
		{32, 4, -EBADMSG},          {32, 0xffffffff, -EBADMSG}, {36, 0xffffffff, -EBADMSG},
		{40, 0xffffffff, -EBADMSG}, {44, 0x12345678, -EBADMSG}, {48, 0, -EBADMSG},
		{48, 7, -EBADMSG},          {48, 0xffffffff, -EBADMSG}, {64, 0x7fffffff, -EBADMSG},
		{64, 4, -EBADMSG},          {48, 16, -EBADMSG},
	};
	struct hv_disk_options options = {.format = "parallels"};

	for (unsigned i = 0; i < HV_ARRAY_SIZE(spoils); i++) {
		struct hv_error err = {0};
		size_t length, size;
		uint8_t *f = build(&newer, &length), *bytes;

		hv_put_le32(f + spoils[i].at, spoils[i].value);
		images_put("bad.hds", f, length);
		cr_assert_eq(images_read("bad.hds", &options, &bytes, &size, &err), spoils[i].code,
			     "offset %u, value 0x%x: %s", spoils[i].at, spoils[i].value, err.text);
		cr_assert_eq(strncmp(err.text, "bad.hds: ", 9), 0, "%s", err.text);
		free(f);
	}
}

Test(parallels, an_image_in_use_is_read_and_said_to_be)
{
	struct hv_disk_info info;
	struct hv_error err = {0};
	struct hv_disk *d;
	size_t length;
	uint8_t *f = build(&newer, &length);

	hv_put_le32(f + 44, 0x746f6e59);
	images_put("used.hds", f, length);
	free(f);
	expect_letters("used.hds", "B.AC.", 4096, 38 * 512);
	cr_assert_eq(hv_disk_open("used.hds", NULL, &d, &err), 0, "%s", err.text);
	hv_disk_info(d, &info);
	cr_assert(info.notes[0] && strstr(info.notes[0], "not closed properly"));
	hv_disk_close(d);
}

Test(parallels, a_cut_image_never_reads_as_another_disk)
{
	size_t length;
	uint8_t *f = build(&newer, &length);
	struct hv_disk_options options = {.format = "parallels"};

	for (size_t cut = 0; cut < length; cut += 512) {
		struct hv_error err = {0};
		uint8_t *bytes;
		size_t size;

		images_put("cut.hds", f, cut);
		cr_assert_lt(images_read("cut.hds", &options, &bytes, &size, &err), 0, "cut at %zu", cut);
		cr_assert_eq(err.status, HV_EXIT_UNSAFE, "cut at %zu: %s", cut, err.text);
	}
	free(f);
}

Test(parallels, check_finds_double_blocks_and_blocks_that_nobody_has)
{
	static const uint8_t twice[] = {1, 1, 0, 0, 0}, lost[] = {3, 0, 0, 0, 0};
	struct shape s = newer;
	struct hv_disk_check check;

	s.map = twice;
	put("twice.hds", &s);
	check = images_check("twice.hds", NULL);
	cr_assert_eq(check.errors, 1);
	s.map = lost;
	put("lost.hds", &s);
	check = images_check("lost.hds", NULL);
	cr_assert_eq(check.errors, 0);
	cr_assert_eq(check.leaks, 1);
}

/* A descriptor; storages is what stands in StorageData. */
static void put_descriptor(uint64_t sectors, const char *head, const char *storages)
{
	char text[4096];
	int n = snprintf(
		text, sizeof(text),
		"%s<Parallels_disk_image Version=\"1.0\">\n<Disk_Parameters>\n<Disk_size>%llu</Disk_size>\n"
		"<Encryption><Engine>{00000000-0000-0000-0000-000000000000}</Engine></Encryption>\n"
		"</Disk_Parameters>\n<StorageData>\n%s</StorageData>\n<Snapshots/>\n"
		"</Parallels_disk_image>\n",
		head, (unsigned long long)sectors, storages);

	images_put("DiskDescriptor.xml", text, (size_t)n);
}

#define XML_HEAD                "<?xml version='1.0' encoding='UTF-8'?>\n"
#define IMAGE(type, file)       "<Image><GUID>{5fbaabe3}</GUID><Type>" type "</Type><File>" file "</File></Image>"
#define STORAGE(from, to, rest) "<Storage><Start>" from "</Start><End>" to "</End>" rest "</Storage>\n"

Test(parallels, a_descriptor_leads_to_its_image)
{
	uint8_t plain[10 * 512];

	put("disk.hds", &newer);
	put_descriptor(38, XML_HEAD, STORAGE("0", "38", IMAGE("Compressed", "disk.hds")));
	expect_letters("DiskDescriptor.xml", "B.AC.", 4096, 38 * 512);
	/* Split: an expanding part and a plain one. */
	memset(plain, 'Z', sizeof(plain));
	images_put("second.hds", plain, sizeof(plain));
	put_descriptor(42, "",
		       STORAGE("0", "32", IMAGE("Compressed", "disk.hds"))
			       STORAGE("32", "42", IMAGE("Plain", "second.hds")));
	expect_letters("DiskDescriptor.xml", "B.ACZZ", 4096, 42 * 512);
}

Test(parallels, a_bundle_is_opened_by_its_folder)
{
	put("disk.hds", &newer);
	put_descriptor(38, XML_HEAD, STORAGE("0", "38", IMAGE("Compressed", "disk.hds")));
	expect_letters(".", "B.AC.", 4096, 38 * 512);
}

Test(parallels, a_folder_without_a_descriptor_is_no_image)
{
	struct hv_error err = {0};
	struct hv_disk *d;

	put("disk.hds", &newer);
	cr_assert_eq(hv_disk_open(".", NULL, &d, &err), -EISDIR);
	cr_assert_eq(hv_disk_open("disk.hds", NULL, &d, &err), 0);
	hv_disk_close(d);
}

Test(parallels, descriptors_that_lie_or_ask_for_too_much_are_refused)
{
	static const struct {
		uint64_t sectors;
		const char *head, *storages;
		int code;
	} bad[] = {
		{38, "", STORAGE("0", "37", IMAGE("Compressed", "disk.hds")), -EBADMSG},
		{39, "", STORAGE("0", "39", IMAGE("Compressed", "disk.hds")), -EBADMSG},
		{38, "", STORAGE("1", "38", IMAGE("Compressed", "disk.hds")), -EBADMSG},
		{38, "", STORAGE("0", "x", IMAGE("Compressed", "disk.hds")), -EBADMSG},
		{38, "", STORAGE("0", "38", IMAGE("Compressed", "../disk.hds")), -ENOENT},
		{38, "", STORAGE("0", "38", IMAGE("Compressed", "/etc/passwd")), -EBADMSG},
		{38, "", STORAGE("0", "38", IMAGE("Odd", "disk.hds")), -ENOTSUP},
		{38, "", STORAGE("0", "38", ""), -EBADMSG},
		{38, "", STORAGE("0", "38", IMAGE("Compressed", "disk.hds") IMAGE("Compressed", "b.hds")),
		 -ENOTSUP},
		{38, "", "", -EBADMSG},
		{38, "", "<Storage>", -EBADMSG},
		{4000, "", STORAGE("0", "4000", IMAGE("Plain", "disk.hds")), -EBADMSG},
		{38, "<!DOCTYPE x [<!ENTITY a 'b'>]>", STORAGE("0", "38", IMAGE("Compressed", "disk.hds")),
		 -EBADMSG},
	};

	put("disk.hds", &newer);
	for (unsigned i = 0; i < HV_ARRAY_SIZE(bad); i++) {
		struct hv_disk_options options = {.format = "parallels"};
		struct hv_error err = {0};
		uint8_t *bytes;
		size_t size;

		put_descriptor(bad[i].sectors, bad[i].head, bad[i].storages);
		cr_assert_eq(images_read("DiskDescriptor.xml", &options, &bytes, &size, &err), bad[i].code,
			     "descriptor %u: %s", i, err.text);
	}
}
