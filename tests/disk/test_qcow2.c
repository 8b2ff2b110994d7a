/*
 * qcow2 beside QEMU's own: what qemu-img made is read as it meant it, what is made and changed here is found
 * in order by qemu-img check and read by it to the same bytes.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "images.h"

TestSuite(qcow2, .init = images_enter, .fini = images_leave, .timeout = 120);

static void need_qemu(void)
{
	if (!images_have("qemu-img"))
		cr_skip_test("qemu-img is not installed");
}

/* "raw" holds `length` bytes of all kinds; the same in memory. */
static uint8_t *make_raw(struct images_random *r, size_t length)
{
	uint8_t *bytes = malloc(length);

	cr_assert(bytes != NULL);
	images_fill(r, bytes, length);
	images_put("raw", bytes, length);
	return bytes;
}

static void expect_clean(const char *path)
{
	struct hv_disk_check check = images_check(path, "qcow2");

	cr_assert_eq(check.errors, 0, "%s", path);
	cr_assert_eq(check.leaks, 0, "%s", path);
	cr_assert_eq(images_run("qemu-img check -f qcow2 %s", path), 0, "%s", path);
}

Test(qcow2, what_qemu_img_makes_is_read_to_the_same_bytes)
{
	static const char *const options[] = {
		"compat=0.10",
		"compat=0.10,cluster_size=512",
		"compat=1.1,cluster_size=4096,refcount_bits=1",
		"compat=1.1,cluster_size=64k,refcount_bits=64",
		"compat=1.1,cluster_size=2M",
		"compat=1.1,preallocation=metadata",
		"compat=1.1,cluster_size=512,preallocation=full,lazy_refcounts=on",
		"compat=1.1,extended_l2=on",
		"compat=1.1,extended_l2=on,cluster_size=16k",
	};
	struct images_random r = {1};

	need_qemu();
	for (unsigned i = 0; i < HV_ARRAY_SIZE(options); i++) {
		size_t length = (size_t)(1 + images_below(&r, 8000)) * 512;
		uint8_t *bytes = make_raw(&r, length);

		cr_assert_eq(images_run("qemu-img convert -f raw -O qcow2 -o %s raw image", options[i]), 0,
			     "%s", options[i]);
		images_expect("image", NULL, bytes, length);
		expect_clean("image");
		free(bytes);
	}
}

Test(qcow2, compressed_clusters_are_read_zlib_and_zstd)
{
	static const char *const options[] = {
		"compat=0.10",
		"compat=1.1,cluster_size=512",
		"compat=1.1,cluster_size=4k,compression_type=zstd",
		"compat=1.1,compression_type=zstd",
		"compat=1.1,cluster_size=2M",
		"compat=1.1,extended_l2=on",
	};
	struct images_random r = {2};

	need_qemu();
	for (unsigned i = 0; i < HV_ARRAY_SIZE(options); i++) {
		size_t length = (size_t)(1 + images_below(&r, 8000)) * 512;
		uint8_t *bytes = make_raw(&r, length);

		cr_assert_eq(images_run("qemu-img convert -c -f raw -O qcow2 -o %s raw image", options[i]), 0,
			     "%s", options[i]);
		images_expect("image", NULL, bytes, length);
		expect_clean("image");
		free(bytes);
	}
}

/* Creates, writes in pieces and commits; the bytes are in "ours". */
static void write_ours(const uint8_t *bytes, size_t length, uint32_t cluster, struct images_random *r)
{
	struct hv_disk_create create = {.format = "qcow2", .size = length, .block_size = cluster};
	struct hv_disk_io *io = hv_disk_io_new();
	struct hv_error err = {0};
	struct hv_disk *d;

	cr_assert_eq(hv_disk_create("ours", &create, &d, &err), 0, "%s", err.text);
	for (size_t at = 0; at < length;) {
		size_t n = (size_t)images_below(r, 200000) + 1;

		if (n > length - at)
			n = length - at;
		if (images_below(r, 8) && memcmp(bytes + at, bytes + at, n) == 0)
			cr_assert_eq(hv_disk_write(d, io, bytes + at, n, at, &err), 0, "%s", err.text);
		else
			cr_assert_eq(hv_disk_write(d, io, bytes + at, n, at, &err), 0, "%s", err.text);
		if (images_below(r, 16) == 0)
			cr_assert_eq(hv_disk_flush(d, &err), 0, "%s", err.text);
		at += n;
	}
	cr_assert_eq(hv_disk_commit(d, &err), 0, "%s", err.text);
	hv_disk_close(d);
	hv_disk_io_free(io);
}

Test(qcow2, what_is_made_here_is_in_order_for_qemu_img)
{
	static const uint32_t clusters[] = {512, 1024, 4096, 65536, 2U << 20};
	struct images_random r = {3};

	need_qemu();
	for (unsigned i = 0; i < HV_ARRAY_SIZE(clusters); i++) {
		size_t length = (size_t)(1 + images_below(&r, 8000)) * 512;
		uint8_t *bytes = make_raw(&r, length);

		write_ours(bytes, length, clusters[i], &r);
		expect_clean("ours");
		images_expect("ours", "qcow2", bytes, length);
		cr_assert_eq(images_run("qemu-img compare -f qcow2 -F raw ours raw"), 0, "%u", clusters[i]);
		free(bytes);
	}
}

/* Writes and zeros at random places of an open disk, and in its model. */
static void scribble(struct hv_disk *d, uint8_t *model, size_t length, struct images_random *r,
		     unsigned times)
{
	struct hv_disk_io *io = hv_disk_io_new();
	struct hv_error err = {0};
	static uint8_t buf[300000];

	while (times--) {
		uint64_t at = images_below(r, length),
			 n = images_below(r, 1U << (4 + images_below(r, 15))) + 1;

		if (n > length - at)
			n = length - at;
		if (images_below(r, 4) == 0) {
			memset(model + at, 0, n);
			cr_assert_eq(hv_disk_zero(d, io, at, n, &err), 0, "%s", err.text);
		} else {
			images_fill(r, buf, n);
			memcpy(model + at, buf, n);
			cr_assert_eq(hv_disk_write(d, io, buf, n, at, &err), 0, "%s", err.text);
		}
		if (images_below(r, 20) == 0)
			cr_assert_eq(hv_disk_flush(d, &err), 0, "%s", err.text);
	}
	hv_disk_io_free(io);
}

static void scribble_file(const char *path, uint8_t *model, size_t length, struct images_random *r)
{
	struct hv_disk_options options = {.format = "qcow2", .writable = true};
	struct hv_error err = {0};
	struct hv_disk *d;

	cr_assert_eq(hv_disk_open(path, &options, &d, &err), 0, "%s", err.text);
	scribble(d, model, length, r, 150);
	cr_assert_eq(hv_disk_flush(d, &err), 0, "%s", err.text);
	hv_disk_close(d);
}

Test(qcow2, images_of_qemu_are_changed_in_place_and_stay_in_order)
{
	static const char *const options[] = {
		"-o compat=0.10,cluster_size=512",
		"-o compat=1.1,cluster_size=4k,refcount_bits=1",
		"-o compat=1.1,cluster_size=64k",
		"-c -o compat=1.1,cluster_size=1k",
		"-c -o compat=1.1,compression_type=zstd,cluster_size=64k",
		"-o compat=1.1,cluster_size=512,preallocation=metadata,refcount_bits=2",
		"-o compat=1.1,cluster_size=1k,refcount_bits=64",
	};
	struct images_random r = {4};

	need_qemu();
	for (unsigned i = 0; i < HV_ARRAY_SIZE(options); i++) {
		size_t length = (size_t)(1 + images_below(&r, 8000)) * 512;
		uint8_t *bytes = make_raw(&r, length);

		cr_assert_eq(images_run("qemu-img convert -f raw -O qcow2 %s raw image", options[i]), 0, "%s",
			     options[i]);
		for (unsigned n = 0; n < 3; n++) {
			scribble_file("image", bytes, length, &r);
			expect_clean("image");
			images_expect("image", "qcow2", bytes, length);
		}
		images_put("raw", bytes, length);
		cr_assert_eq(images_run("qemu-img compare -f qcow2 -F raw image raw"), 0, "%s", options[i]);
		free(bytes);
	}
}

Test(qcow2, overlays_of_ours_and_of_qemu_keep_to_a_model)
{
	struct images_random r = {5};

	need_qemu();
	for (unsigned i = 0; i < 6; i++) {
		size_t length = (size_t)(1 + images_below(&r, 4000)) * 512, base = length;
		uint8_t *bytes = make_raw(&r, length), *more;
		struct hv_disk_create create = {.format = "qcow2",
						.backing = "raw",
						.backing_format = "raw",
						.block_size = 512U << i};
		struct hv_error err = {0};
		struct hv_disk *d;

		/* Longer than its backing file, and shorter, and as long. */
		length = i % 3 == 0 ? base + 77 * 512 : i % 3 == 1 && base > 51200 ? base - 51200 : base;
		create.size = length == base ? 0 : length;
		more = calloc(1, length);
		memcpy(more, bytes, length < base ? length : base);
		if (i < 4) {
			cr_assert_eq(hv_disk_create("over.qcow2", &create, &d, &err), 0, "%s", err.text);
			scribble(d, more, length, &r, 30);
			cr_assert_eq(hv_disk_commit(d, &err), 0, "%s", err.text);
			scribble(d, more, length, &r, 30);
			cr_assert_eq(hv_disk_flush(d, &err), 0, "%s", err.text);
			hv_disk_close(d);
		} else {
			cr_assert_eq(
				images_run(
					"qemu-img create -f qcow2 -o compat=%s -b raw -F raw over.qcow2 %zu",
					i == 4 ? "0.10" : "1.1", length),
				0);
		}
		expect_clean("over.qcow2");
		images_expect("over.qcow2", NULL, more, length);
		scribble_file("over.qcow2", more, length, &r);
		expect_clean("over.qcow2");
		images_expect("over.qcow2", NULL, more, length);
		images_put("model", more, length);
		cr_assert_eq(images_run("qemu-img compare -f qcow2 -F raw over.qcow2 model"), 0);
		unlink("over.qcow2");
		free(more);
		free(bytes);
	}
}
