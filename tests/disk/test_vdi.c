/*
 * VDI: QEMU's own images, and what QEMU doesn't make (VirtualBox's block sizes, extra data, differencing
 * images), built here from the layout.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "images.h"

TestSuite(vdi, .init = images_enter, .fini = images_leave, .timeout = 60);

#define FREE 0xffffffffU
#define ZERO 0xfffffffeU

/* What a VDI is made of; fields that a test spoils come from here. */
struct shape {
	uint32_t type, block, extra, blocks;
	uint64_t size;
	const uint32_t *map;
	uint8_t id, modified, parent, parent_modified; /* the UUIDs' first bytes */
};

/* Block n of the file is filled with the letter 'A' + n. *length is set. */
static uint8_t *build(const struct shape *s, size_t *length)
{
	uint32_t map_at = 512, data_at = (uint32_t)hv_round_up(map_at + s->blocks * 4, 512), top = 0;
	uint8_t *f;

	for (uint32_t i = 0; i < s->blocks; i++)
		if (s->map[i] < ZERO && s->map[i] >= top)
			top = s->map[i] + 1;
	*length = data_at + (size_t)top * (s->block + s->extra);
	f = calloc(1, *length);
	cr_assert(f != NULL);
	memcpy(f, "<<< Oracle VM VirtualBox Disk Image >>>\n", 40);
	hv_put_le32(f + 64, 0xbeda107f);
	hv_put_le32(f + 68, 0x00010001);
	hv_put_le32(f + 72, 400);
	hv_put_le32(f + 76, s->type);
	hv_put_le32(f + 340, map_at);
	hv_put_le32(f + 344, data_at);
	hv_put_le32(f + 360, 512);
	hv_put_le64(f + 368, s->size);
	hv_put_le32(f + 376, s->block);
	hv_put_le32(f + 380, s->extra);
	hv_put_le32(f + 384, s->blocks);
	hv_put_le32(f + 388, top);
	f[392] = s->id;
	f[408] = s->modified;
	f[424] = s->parent;
	f[440] = s->parent_modified;
	hv_put_le32(f + 456, 4); /* cylinders, heads, sectors of the BIOS's geometry */
	hv_put_le32(f + 460, 2);
	hv_put_le32(f + 464, 17);
	for (uint32_t i = 0; i < s->blocks; i++)
		hv_put_le32(f + map_at + i * 4, s->map[i]);
	for (uint32_t n = 0; n < top; n++) {
		uint8_t *block = f + data_at + (size_t)n * (s->block + s->extra);

		memset(block, 'x', s->extra);
		memset(block + s->extra, 'A' + (int)n, s->block);
	}
	return f;
}

static void put(const char *name, const struct shape *s)
{
	size_t length;
	uint8_t *f = build(s, &length);

	images_put(name, f, length);
	free(f);
}

static const uint32_t usual_map[] = {1, FREE, 0, ZERO, 2};
static const struct shape usual = {.type = 1,
				   .block = 4096,
				   .blocks = 5,
				   .size = 5 * 4096 - 1024,
				   .map = usual_map,
				   .id = 1,
				   .modified = 2};

static void expect_letters(const char *name, const char *letters, size_t block, size_t size)
{
	uint8_t *bytes = malloc(size);

	for (size_t i = 0; i < size; i++)
		bytes[i] = letters[i / block] == '.' ? 0 : (uint8_t)letters[i / block];
	images_expect(name, NULL, bytes, size);
	free(bytes);
}

Test(vdi, what_qemu_img_makes_is_read_to_the_same_bytes)
{
	struct images_random r = {11};

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
		cr_assert_eq(images_run("qemu-img convert -f raw -O vdi -o static=%s raw image.vdi",
					i % 2 ? "on" : "off"),
			     0);
		images_expect("image.vdi", NULL, bytes, length);
		check = images_check("image.vdi", NULL);
		cr_assert_eq(check.errors + check.leaks, 0);
		free(bytes);
	}
}

Test(vdi, blocks_of_any_size_with_extra_data_are_found)
{
	struct shape s = usual;

	put("usual.vdi", &s);
	expect_letters("usual.vdi", "B.A.C", 4096, s.size);
	s.extra = 512;
	put("extra.vdi", &s);
	expect_letters("extra.vdi", "B.A.C", 4096, s.size);
	s.block = 512;
	s.extra = 0;
	s.size = 5 * 512;
	s.type = 2;
	put("small.vdi", &s);
	expect_letters("small.vdi", "B.A.C", 512, s.size);
}

Test(vdi, blocks_side_by_side_are_one_run)
{
	static const uint32_t map[] = {3, 4, 5, 0, FREE, FREE};
	struct shape s = {.type = 1, .block = 4096, .blocks = 6, .size = 6 * 4096, .map = map};
	struct hv_error err = {0};
	struct hv_disk *d;
	struct hv_run run;

	put("runs.vdi", &s);
	cr_assert_eq(hv_disk_open("runs.vdi", NULL, &d, &err), 0, "%s", err.text);
	cr_assert_eq(hv_disk_map(d, 100, UINT64_MAX, &run, &err), 0);
	cr_assert_eq(run.length, 3 * 4096 - 100);
	cr_assert_eq(hv_disk_map(d, 3 * 4096, UINT64_MAX, &run, &err), 0);
	cr_assert_eq(run.length, 4096);
	cr_assert_eq(hv_disk_map(d, 4 * 4096, UINT64_MAX, &run, &err), 0);
	cr_assert_eq(run.length, 2 * 4096);
	cr_assert_eq(run.kind, HV_RUN_HOLE);
	hv_disk_close(d);
}

Test(vdi, a_differencing_image_finds_its_parent_by_uuid)
{
	static const uint32_t child_map[] = {FREE, 0, FREE, FREE, ZERO};
	struct shape s = usual, child = usual;
	struct hv_disk_options salvage = {.salvage = true};
	struct hv_error err = {0};
	uint8_t *bytes;
	size_t length;

	put("base.vdi", &s);
	s.id = 9;
	put("another.vdi", &s);
	child.type = 4;
	child.map = child_map;
	child.id = 3;
	child.parent = 1;
	child.parent_modified = 2;
	put("child.vdi", &child);
	expect_letters("child.vdi", "BAA..", 4096, s.size);
	child.parent_modified = 7;
	put("child.vdi", &child);
	cr_assert_eq(images_read("child.vdi", NULL, &bytes, &length, &err), -EBADMSG,
		     "the parent was changed");
	cr_assert_eq(err.status, HV_EXIT_UNSAFE);
	cr_assert_eq(images_read("child.vdi", &salvage, &bytes, &length, &err), 0, "%s", err.text);
	free(bytes);
	child.parent = 5;
	put("child.vdi", &child);
	cr_assert_eq(images_read("child.vdi", NULL, &bytes, &length, &err), -ENOENT);
	child.parent = 3; /* itself */
	put("child.vdi", &child);
	cr_assert_lt(images_read("child.vdi", NULL, &bytes, &length, &err), 0);
}

/* A four-byte field of the header, and what it must not be. */
struct spoil {
	unsigned at;
	uint32_t value;
	int code;
};

Test(vdi, every_spoiled_field_is_refused)
{
	static const struct spoil spoils[] = {
		{64, 0, -EBADMSG},           {68, 0x00000001, -ENOTSUP},  {68, 0x00020001, -ENOTSUP},
		{72, 100, -EBADMSG},         {72, 0xffffffff, -EBADMSG},  {76, 0, -EBADMSG},
		{76, 3, -ENOTSUP},           {76, 5, -EBADMSG},           {340, 100, -EBADMSG},
		{340, 0xfffffff0, -EBADMSG}, {344, 512, -EBADMSG},        {344, 0xfffffe00, -EBADMSG},
		{360, 4096, -EBADMSG},       {368, 0xffffffff, -EBADMSG}, {372, 0xffffffff, -EBADMSG},
		{376, 0, -EBADMSG},          {376, 3000, -EBADMSG},       {376, 0x80000000, -EBADMSG},
		{380, 0xffffffff, -EBADMSG}, {384, 0, -EBADMSG},          {384, 4, -EBADMSG},
		{384, 0xffffffff, -EBADMSG}, {512, 3, -EBADMSG},          {512, 0xfffffffd, -EBADMSG},
	};
	struct hv_disk_options options = {.format = "vdi"};

	for (unsigned i = 0; i < HV_ARRAY_SIZE(spoils); i++) {
		struct hv_error err = {0};
		size_t length, size;
		uint8_t *f = build(&usual, &length), *bytes;

		hv_put_le32(f + spoils[i].at, spoils[i].value);
		images_put("bad.vdi", f, length);
		cr_assert_eq(images_read("bad.vdi", &options, &bytes, &size, &err), spoils[i].code,
			     "offset %u, value 0x%x: %s", spoils[i].at, spoils[i].value, err.text);
		cr_assert_eq(strncmp(err.text, "bad.vdi: ", 9), 0, "%s", err.text);
		free(f);
	}
}

Test(vdi, a_cut_image_never_reads_as_another_disk)
{
	size_t length;
	uint8_t *f = build(&usual, &length);
	struct hv_disk_options options = {.format = "vdi"};

	for (size_t cut = 0; cut < length; cut += 512) {
		struct hv_error err = {0};
		uint8_t *bytes;
		size_t size;

		images_put("cut.vdi", f, cut);
		if (images_read("cut.vdi", &options, &bytes, &size, &err) == 0) {
			free(bytes);
			/* Block 2 of the file is the disk's last, of which 1024 bytes are behind its end. */
			cr_assert_geq(cut, length - 1024, "cut at %zu", cut);
			expect_letters("cut.vdi", "B.A.C", 4096, usual.size);
		} else {
			cr_assert_eq(err.status, HV_EXIT_UNSAFE, "cut at %zu: %s", cut, err.text);
		}
	}
	free(f);
}

Test(vdi, check_finds_double_blocks_and_blocks_that_nobody_has)
{
	static const uint32_t twice[] = {0, 0, FREE}, lost[] = {2, FREE, FREE};
	struct shape s = {.type = 1, .block = 4096, .blocks = 3, .size = 3 * 4096, .map = twice};
	struct hv_disk_check check;

	put("twice.vdi", &s);
	check = images_check("twice.vdi", NULL);
	cr_assert_eq(check.errors, 1);
	s.map = lost;
	put("lost.vdi", &s);
	check = images_check("lost.vdi", NULL);
	cr_assert_eq(check.errors, 0);
	cr_assert_eq(check.leaks, 1);
	cr_assert_eq(check.used, 1);
}
