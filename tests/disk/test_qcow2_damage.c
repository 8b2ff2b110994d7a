/*
 * qcow2 images that are damaged, or ask for what isn't supported: built here from the specification, so that
 * every field can be spoiled. Whatever is read with success is what the undamaged image holds.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "images.h"

TestSuite(qcow2_damage, .init = images_enter, .fini = images_leave, .timeout = 60);

/*
 * Clusters of 512 bytes: 0 header, 1 refcount table, 2 refcount block, 3 L1, 4 L2, 5 .. 7 data 'A' .. 'C', 8
 * snapshot table. The disk: 'A', hole, 'C' 'B', zeros, then nothing, 10 clusters in all.
 */
#define CLUSTER 512
#define COPIED  (1ULL << 63)
#define LENGTH  (8 * CLUSTER)
#define SIZE    (10 * CLUSTER)

static void build(uint8_t f[LENGTH + CLUSTER])
{
	static const uint64_t l2[] = {5, 0, 7, 6};

	memset(f, 0, LENGTH + CLUSTER);
	hv_put_be32(f, 0x514649fb);
	hv_put_be32(f + 4, 3);
	hv_put_be32(f + 20, 9);
	hv_put_be64(f + 24, SIZE);
	hv_put_be32(f + 36, 1);
	hv_put_be64(f + 40, 3 * CLUSTER);
	hv_put_be64(f + 48, 1 * CLUSTER);
	hv_put_be32(f + 56, 1);
	hv_put_be32(f + 96, 4);
	hv_put_be32(f + 100, 112);
	hv_put_be64(f + 1 * CLUSTER, 2 * CLUSTER);
	for (unsigned i = 0; i < 8; i++)
		hv_put_be16(f + 2 * CLUSTER + i * 2, 1);
	hv_put_be64(f + 3 * CLUSTER, 4 * CLUSTER | COPIED);
	for (unsigned i = 0; i < HV_ARRAY_SIZE(l2); i++)
		hv_put_be64(f + 4 * CLUSTER + i * 8, l2[i] ? l2[i] * CLUSTER | COPIED : 0);
	hv_put_be64(f + 4 * CLUSTER + 4 * 8, 1);
	for (unsigned i = 0; i < 3; i++)
		memset(f + (5 + i) * CLUSTER, 'A' + (int)i, CLUSTER);
}

static void expected(uint8_t bytes[SIZE])
{
	static const char letters[] = "A.CB......";

	for (size_t i = 0; i < SIZE; i++)
		bytes[i] = letters[i / CLUSTER] == '.' ? 0 : (uint8_t)letters[i / CLUSTER];
}

Test(qcow2_damage, the_sample_itself_is_in_order)
{
	uint8_t f[LENGTH + CLUSTER], bytes[SIZE];
	struct hv_disk_check check;

	build(f);
	images_put("good.qcow2", f, LENGTH);
	expected(bytes);
	images_expect("good.qcow2", NULL, bytes, SIZE);
	check = images_check("good.qcow2", NULL);
	cr_assert_eq(check.errors + check.leaks, 0);
	cr_assert_eq(check.used, 3);
	cr_assert_eq(check.blocks, 10);
	if (images_have("qemu-img"))
		cr_assert_eq(images_run("qemu-img check -f qcow2 good.qcow2"), 0);
}

struct spoil {
	unsigned at, bytes;
	uint64_t value;
	int code; /* of reading it all */
};

static void put(uint8_t *f, const struct spoil *s)
{
	if (s->bytes == 4)
		hv_put_be32(f + s->at, (uint32_t)s->value);
	else
		hv_put_be64(f + s->at, s->value);
}

static const struct spoil spoils[] = {
	{0, 4, 0, -EBADMSG},                     /* magic */
	{4, 4, 1, -ENOTSUP},                     /* version */
	{4, 4, 4, -ENOTSUP},                     /* */
	{8, 8, 40, -EBADMSG},                    /* backing file's name: in the header, length 0 is none */
	{20, 4, 8, -EBADMSG},                    /* cluster bits */
	{20, 4, 22, -EBADMSG},                   /* */
	{20, 4, 0xffffffff, -EBADMSG},           /* */
	{20, 4, 12, -EBADMSG},                   /* */
	{24, 8, SIZE + 1, -EBADMSG},             /* size: no whole sectors */
	{24, 8, UINT64_MAX, -EBADMSG},           /* */
	{24, 8, 1ULL << 62, -EBADMSG},           /* */
	{24, 8, 65 * CLUSTER, -EBADMSG},         /* more than the L1 table holds */
	{32, 4, 1, -ENOTSUP},                    /* encryption */
	{32, 4, 2, -ENOTSUP},                    /* */
	{32, 4, 77, -ENOTSUP},                   /* */
	{36, 4, 0, -EBADMSG},                    /* L1 entries */
	{36, 4, 0xffffffff, -EBADMSG},           /* */
	{36, 4, 4000, -EBADMSG},                 /* */
	{40, 8, 0, -EBADMSG},                    /* L1 table */
	{40, 8, 3 * CLUSTER + 8, -EBADMSG},      /* */
	{40, 8, 100 * CLUSTER, -EBADMSG},        /* */
	{40, 8, UINT64_MAX & ~511ULL, -EBADMSG}, /* */
	{48, 8, 0, -EBADMSG},                    /* refcount table */
	{48, 8, 513, -EBADMSG},                  /* */
	{48, 8, 100 * CLUSTER, -EBADMSG},        /* */
	{56, 4, 0, -EBADMSG},                    /* its clusters */
	{56, 4, 0xffffffff, -EBADMSG},           /* */
	{60, 4, 65537, -EBADMSG},                /* snapshots */
	{60, 4, 1, -EBADMSG},                    /* */
	{72, 8, 2, -EBADMSG},                    /* corrupt */
	{72, 8, 4, -EBADMSG},                    /* a data file without a name */
	{72, 8, 8, -EBADMSG},                    /* a compression type that isn't there */
	{72, 8, 16, -EBADMSG},                   /* subclusters of less than a sector */
	{72, 8, 32, -ENOTSUP},                   /* unknown */
	{72, 8, 1ULL << 63, -ENOTSUP},           /* */
	{96, 4, 7, -EBADMSG},                    /* refcount order */
	{100, 4, 103, -EBADMSG},                 /* header's length */
	{100, 4, 100, -EBADMSG},                 /* */
	{100, 4, 1024, -EBADMSG},                /* */
	{104, 4, 0x01000000, -EBADMSG},          /* compression type without its feature bit */
	{116, 4, 0x1000, -EBADMSG},              /* an extension's length; its type is set by the test */
	{3 * CLUSTER, 8, 4 * CLUSTER | 1, -EBADMSG}, /* L1 entry: reserved bits */
	{3 * CLUSTER, 8, 1ULL << 56 | 4 * CLUSTER, -EBADMSG},
	{3 * CLUSTER, 8, 8 * CLUSTER, -EBADMSG}, /* behind the end */
	{3 * CLUSTER, 8, COPIED, -EBADMSG},      /* the header */
	{3 * CLUSTER, 8, 1ULL << 55, -EBADMSG},
	{4 * CLUSTER, 8, 5 * CLUSTER | 2, -EBADMSG}, /* L2 entry */
	{4 * CLUSTER, 8, 5 * CLUSTER | 1ULL << 56, -EBADMSG},
	{4 * CLUSTER, 8, 8 * CLUSTER, -EBADMSG},
	{4 * CLUSTER, 8, COPIED, -EBADMSG},
	{4 * CLUSTER, 8, 1 * CLUSTER | COPIED, -EBADMSG},     /* the refcount table */
	{4 * CLUSTER, 8, 3 * CLUSTER | COPIED, -EBADMSG},     /* the L1 table */
	{4 * CLUSTER, 8, 1ULL << 62 | 5 * CLUSTER, -EBADMSG}, /* compressed, and isn't */
	{4 * CLUSTER, 8, 1ULL << 62 | 100 * CLUSTER, -EBADMSG},
	{4 * CLUSTER, 8, 1ULL << 62 | 3ULL << 61, -EBADMSG},
	{4 * CLUSTER + 24, 8, 1ULL << 55, -EBADMSG},
};

Test(qcow2_damage, every_spoiled_field_is_refused_by_name)
{
	struct hv_disk_options options = {.format = "qcow2"};
	uint8_t f[LENGTH + CLUSTER], *bytes;
	size_t size;

	for (unsigned i = 0; i < HV_ARRAY_SIZE(spoils); i++) {
		struct hv_error err = {0};

		build(f);
		put(f, &spoils[i]);
		if (spoils[i].at == 8)
			hv_put_be32(f + 16, 4);
		if (spoils[i].at == 116)
			hv_put_be32(f + 112, 0x12345678);
		if (spoils[i].at == 20 && spoils[i].value == 12)
			hv_put_be64(f + 40, 1); /* anything but a cluster of 4 KiB */
		images_put("bad.qcow2", f, LENGTH);
		cr_assert_eq(images_read("bad.qcow2", &options, &bytes, &size, &err), spoils[i].code,
			     "offset %u, value 0x%llx: %s", spoils[i].at, (unsigned long long)spoils[i].value,
			     err.text);
		cr_assert_eq(strncmp(err.text, "bad.qcow2: ", 11), 0, "%s", err.text);
		if (spoils[i].code == -EBADMSG)
			cr_assert_eq(err.status, HV_EXIT_UNSAFE);
	}
}

Test(qcow2_damage, an_unknown_feature_is_refused_by_the_name_that_the_image_gives_it)
{
	struct hv_disk_options options = {.format = "qcow2"};
	uint8_t f[LENGTH + CLUSTER], *bytes;
	struct hv_error err = {0};
	size_t size;

	build(f);
	hv_put_be64(f + 72, 1ULL << 40);
	hv_put_be32(f + 112, 0x6803f857);
	hv_put_be32(f + 116, 48);
	f[120] = 0;
	f[121] = 40;
	memcpy(f + 122, "time travel", 11);
	images_put("new.qcow2", f, LENGTH);
	cr_assert_eq(images_read("new.qcow2", &options, &bytes, &size, &err), -ENOTSUP);
	cr_assert(strstr(err.text, "\"time travel\"") != NULL, "%s", err.text);
}

Test(qcow2_damage, salvage_reads_what_is_there)
{
	struct hv_disk_options options = {.format = "qcow2", .salvage = true};
	uint8_t f[LENGTH + CLUSTER], want[SIZE], *bytes;
	size_t size;

	expected(want);
	for (unsigned i = 0; i < 4; i++) {
		struct hv_error err = {0};

		build(f);
		if (i == 0)
			hv_put_be64(f + 72, 2);
		else if (i == 1)
			hv_put_be64(f + 48, 7);
		else if (i == 2)
			hv_put_be32(f + 60, 9);
		else
			hv_put_be64(f + 4 * CLUSTER, 5 * CLUSTER | 2 | COPIED);
		images_put("bad.qcow2", f, LENGTH);
		cr_assert_eq(images_read("bad.qcow2", &options, &bytes, &size, &err), 0, "%u: %s", i,
			     err.text);
		cr_assert_arr_eq(bytes, want, SIZE);
		free(bytes);
	}
}

Test(qcow2_damage, a_cut_image_never_reads_as_another_disk)
{
	struct hv_disk_options options = {.format = "qcow2"};
	uint8_t f[LENGTH + CLUSTER];

	build(f);
	for (size_t cut = 0; cut < LENGTH; cut += 512) {
		struct hv_error err = {0};
		uint8_t *bytes;
		size_t size;

		images_put("cut.qcow2", f, cut);
		cr_assert_lt(images_read("cut.qcow2", &options, &bytes, &size, &err), 0, "cut at %zu", cut);
		cr_assert_eq(err.status, HV_EXIT_UNSAFE, "cut at %zu: %s", cut, err.text);
	}
}

Test(qcow2_damage, cut_images_of_qemu_never_read_as_another_disk)
{
	static const char *const options[] = {"-o cluster_size=512", "-c -o cluster_size=4k",
					      "-c -o cluster_size=64k,compression_type=zstd",
					      "-o cluster_size=16k,extended_l2=on"};
	struct hv_disk_options open = {.format = "qcow2"};
	struct images_random r = {31};
	uint8_t raw[200 * 512];

	if (!images_have("qemu-img"))
		cr_skip_test("qemu-img is not installed");
	images_fill(&r, raw, sizeof(raw));
	images_put("raw", raw, sizeof(raw));
	for (unsigned i = 0; i < HV_ARRAY_SIZE(options); i++) {
		size_t length, size;
		uint8_t *f, *bytes;

		cr_assert_eq(images_run("qemu-img convert -f raw -O qcow2 %s raw image", options[i]), 0);
		f = images_get("image", &length);
		for (size_t cut = 0; cut < length; cut += 512) {
			struct hv_error err = {0};

			images_put("cut.qcow2", f, cut);
			if (images_read("cut.qcow2", &open, &bytes, &size, &err) < 0)
				continue;
			cr_assert_eq(size, sizeof(raw));
			cr_assert_arr_eq(bytes, raw, sizeof(raw));
			free(bytes);
		}
		free(f);
	}
}

Test(qcow2_damage, check_finds_what_reading_does_not)
{
	static const struct {
		struct spoil spoil;
		unsigned errors, leaks;
	} cases[] = {
		{{2 * CLUSTER + 8, 4, 0x00010002, -1}, 1, 1},  /* a count too high, and L2 says 1 */
		{{2 * CLUSTER + 12, 4, 0x00000001, -1}, 1, 0}, /* a count too low */
		{{1 * CLUSTER, 8, 2 * CLUSTER | 8, -1}, 1, 0}, /* a refcount block's place */
		{{4 * CLUSTER + 8, 8, 5 * CLUSTER, -1}, 2, 0}, /* two entries, one cluster */
		{{4 * CLUSTER + 8, 8, 4 * CLUSTER, -1}, 2, 0}, /* data in an L2 table */
		{{4 * CLUSTER, 8, 0, -1}, 0, 1},               /* a cluster that nobody uses */
		{{4 * CLUSTER + 63 * 8, 8, 2, -1}, 1, 0},      /* reserved bits behind the disk's end */
		{{4 * CLUSTER + 8, 8, 1ULL << 62 | 5 * CLUSTER, -1},
		 3,
		 0},                    /* compressed, and isn't; used twice */
		{{72, 8, 1, -1}, 0, 0}, /* dirty is a note */
	};
	uint8_t f[LENGTH + CLUSTER];

	for (unsigned i = 0; i < HV_ARRAY_SIZE(cases); i++) {
		struct hv_disk_check check;

		build(f);
		put(f, &cases[i].spoil);
		images_put("bad.qcow2", f, LENGTH);
		check = images_check("bad.qcow2", NULL);
		cr_assert_geq(check.errors, cases[i].errors, "case %u: %llu errors", i,
			      (unsigned long long)check.errors);
		cr_assert_eq(check.errors != 0, cases[i].errors != 0, "case %u", i);
		cr_assert_geq(check.leaks, cases[i].leaks, "case %u: %llu leaks", i,
			      (unsigned long long)check.leaks);
		cr_assert_leq(check.leaks, cases[i].leaks + (i == 2 ? 8 : 0), "case %u", i);
	}
}

Test(qcow2_damage, what_can_not_be_written_safely_is_not)
{
	static const struct spoil cases[] = {
		{72, 8, 1, -EBADMSG},
		{4 * CLUSTER, 8, 5 * CLUSTER, 0}, /* not said to be its own, and it is */
	};
	struct hv_disk_options options = {.format = "qcow2", .writable = true};
	uint8_t f[LENGTH + CLUSTER], buf[100] = {1};
	struct hv_disk_io *io = hv_disk_io_new();

	for (unsigned i = 0; i < 3; i++) {
		struct hv_error err = {0};
		struct hv_disk *d = NULL;
		int rc;

		build(f);
		put(f, &cases[i ? 1 : 0]);
		if (i == 2)
			hv_put_be16(f + 2 * CLUSTER + 5 * 2, 2); /* and it isn't */
		images_put("bad.qcow2", f, LENGTH);
		rc = hv_disk_open("bad.qcow2", &options, &d, &err);
		if (rc == 0)
			rc = hv_disk_write(d, io, buf, sizeof(buf), 10, &err);
		cr_assert_eq(rc, i == 2 ? -EBADMSG : cases[i].code, "case %u: %s", i, err.text);
		hv_disk_close(d);
	}
	hv_disk_io_free(io);
}
