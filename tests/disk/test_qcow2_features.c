/*
 * qcow2: chains, snapshots, data files, bitmaps; going on after a kill; crashes; several writers; size.
 */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "disk/format.h"
#include "disk/output.h"
#include "images.h"

TestSuite(qcow2_features, .init = images_enter, .fini = images_leave, .timeout = 120);

static void need_qemu(void)
{
	if (!images_have("qemu-img") || !images_have("qemu-io"))
		cr_skip_test("qemu-img is not installed");
}

static uint8_t *make_raw(struct images_random *r, size_t length)
{
	uint8_t *bytes = malloc(length);

	cr_assert(bytes != NULL);
	images_fill(r, bytes, length);
	images_put("raw", bytes, length);
	return bytes;
}

static void expect_as_qemu(const char *path)
{
	size_t length;
	uint8_t *bytes;

	cr_assert_eq(images_run("qemu-img convert -O raw %s qemu.raw", path), 0);
	bytes = images_get("qemu.raw", &length);
	images_expect(path, NULL, bytes, length);
	free(bytes);
}

static const char *property(const struct hv_disk_info *info, const char *key)
{
	for (const struct hv_disk_property *p = info->properties; p->key; p++)
		if (strcmp(p->key, key) == 0)
			return p->value;
	return "";
}

Test(qcow2_features, chains_of_all_shapes_read_as_qemu_reads_them)
{
	struct images_random r = {41};
	uint8_t *bytes;

	need_qemu();
	bytes = make_raw(&r, 300 * 512);
	free(bytes);
	cr_assert_eq(
		images_run("set -e; qemu-img convert -O qcow2 -c -o cluster_size=1k raw base.qcow2;"
			   "qemu-img create -f qcow2 -b base.qcow2 -F qcow2 mid.qcow2 100k;"
			   "qemu-io -c 'write -P 5 3k 9k' -c 'write -z 20k 7k' mid.qcow2;"
			   "qemu-img create -f qcow2 -o extended_l2=on -b mid.qcow2 -F qcow2 top.qcow2 200k;"
			   "qemu-io -c 'write -P 6 1k 1k' -c 'write -z 40k 20k' -c 'write -P 7 150k 1k' "
			   "top.qcow2"),
		0);
	expect_as_qemu("mid.qcow2");
	expect_as_qemu("top.qcow2");
	cr_assert_eq(images_run("qemu-img create -f qcow2 -u -b raw -F raw told.qcow2 150k"), 0);
	expect_as_qemu("told.qcow2");
}

/* The name of the backing file's format taken out of the header. */
static void forget_format(const char *path)
{
	static const uint8_t type[4] = {0xe2, 0x79, 0x2a, 0xca};
	size_t length;
	uint8_t *f = images_get(path, &length), *at = memmem(f, length < 512 ? length : 512, type, 4);

	cr_assert(at != NULL);
	memset(at, 0x11, 4);
	images_put(path, f, length);
	free(f);
}

Test(qcow2_features, a_backing_file_without_a_format_is_told_by_its_content)
{
	struct images_random r = {48};
	uint8_t *bytes;

	need_qemu();
	bytes = make_raw(&r, 300 * 512);
	cr_assert_eq(images_run("set -e; qemu-img convert -O qcow2 raw base.qcow2;"
				"qemu-img create -f qcow2 -b base.qcow2 -F qcow2 any.qcow2;"
				"qemu-img create -f qcow2 -b raw -F raw plain.qcow2"),
		     0);
	forget_format("any.qcow2");
	forget_format("plain.qcow2");
	images_expect("any.qcow2", NULL, bytes, 300 * 512);
	images_expect("plain.qcow2", NULL, bytes, 300 * 512);
	free(bytes);
}

Test(qcow2_features, a_raw_backing_file_is_never_taken_for_another_format)
{
	struct hv_error err = {0};
	uint8_t *image;
	size_t length;

	need_qemu();
	/* The base is a qcow2 image by its bytes, and the overlay says that it is raw. */
	cr_assert_eq(images_run("set -e; qemu-img create -f qcow2 -o cluster_size=512 base.qcow2 1M;"
				"qemu-img create -f qcow2 -u -b base.qcow2 -F raw over.qcow2 1k"),
		     0);
	image = images_get("base.qcow2", &length);
	images_expect("over.qcow2", NULL, image, 1024);
	free(image);
	/* Names that are no files. */
	cr_assert_eq(images_run("qemu-img create -f qcow2 -u -b nbd://host/x -F raw over.qcow2 1k"), 0);
	cr_assert_eq(images_read("over.qcow2", NULL, &image, &length, &err), -ENOTSUP, "%s", err.text);
	cr_assert_eq(images_run("qemu-img create -f qcow2 -u -b /etc/passwd -F raw over.qcow2 1k"), 0);
	cr_assert_eq(images_read("over.qcow2", NULL, &image, &length, &err), -EBADMSG, "%s", err.text);
	cr_assert_eq(images_run("qemu-img create -f qcow2 -u -b self.qcow2 -F qcow2 over.qcow2 1k;"
				"mv over.qcow2 self.qcow2"),
		     0);
	cr_assert_eq(images_read("self.qcow2", NULL, &image, &length, &err), -EBADMSG, "%s", err.text);
}

Test(qcow2_features, snapshots_bitmaps_and_data_files_are_told_of)
{
	struct images_random r = {42};
	struct hv_disk_options write = {.writable = true};
	struct hv_disk_info info;
	struct hv_disk_check check;
	struct hv_error err = {0};
	struct hv_disk *d;

	need_qemu();
	free(make_raw(&r, 300 * 512));
	cr_assert_eq(
		images_run("set -e; qemu-img convert -c -O qcow2 -o cluster_size=1k raw snap.qcow2;"
			   "qemu-img snapshot -c first snap.qcow2; qemu-io -c 'write -P 9 5k 30k' snap.qcow2;"
			   "qemu-img snapshot -c second snap.qcow2; qemu-io -c 'write -z 7k 9k' snap.qcow2"),
		0);
	expect_as_qemu("snap.qcow2");
	check = images_check("snap.qcow2", NULL);
	cr_assert_eq(check.errors + check.leaks, 0);
	cr_assert_eq(hv_disk_open("snap.qcow2", NULL, &d, &err), 0, "%s", err.text);
	hv_disk_info(d, &info);
	cr_assert_str_eq(property(&info, "snapshot"), "1 (first)");
	cr_assert(info.notes[0] && strstr(info.notes[0], "2 internal snapshots"));
	hv_disk_close(d);
	cr_assert_eq(hv_disk_open("snap.qcow2", &write, &d, &err), -ENOTSUP);

	cr_assert_eq(images_run("set -e; qemu-img convert -O qcow2 -o cluster_size=1k raw bits.qcow2;"
				"qemu-img bitmap --add -g 512 bits.qcow2 b0; qemu-io -c 'write -P 1 0 3k' "
				"bits.qcow2"),
		     0);
	expect_as_qemu("bits.qcow2");
	check = images_check("bits.qcow2", NULL);
	cr_assert_eq(check.errors + check.leaks, 0);

	cr_assert_eq(images_run("qemu-img convert -O qcow2 -o data_file=data raw out.qcow2"), 0);
	expect_as_qemu("out.qcow2");
	cr_assert_eq(images_run("qemu-img convert -O qcow2 -o data_file=data,data_file_raw=on raw out.qcow2"),
		     0);
	expect_as_qemu("out.qcow2");
	check = images_check("out.qcow2", NULL);
	cr_assert_eq(check.errors + check.leaks, 0);
	cr_assert_eq(hv_disk_open("out.qcow2", &write, &d, &err), -ENOTSUP);
}

/* Other tools' bitmaps don't fit any more once the data was changed: the image says so. */
Test(qcow2_features, a_change_takes_back_what_the_header_says_of_bitmaps)
{
	struct images_random r = {43};
	struct hv_disk_options write = {.writable = true};
	struct hv_disk_io *io = hv_disk_io_new();
	struct hv_error err = {0};
	struct hv_disk *d;
	size_t length;
	uint8_t *f;

	need_qemu();
	free(make_raw(&r, 300 * 512));
	cr_assert_eq(images_run("set -e; qemu-img convert -O qcow2 -o cluster_size=1k raw bits.qcow2;"
				"qemu-img bitmap --add -g 512 bits.qcow2 b0; qemu-io -c 'write -P 1 0 3k' "
				"bits.qcow2"),
		     0);
	cr_assert_eq(hv_disk_open("bits.qcow2", &write, &d, &err), 0, "%s", err.text);
	cr_assert_eq(hv_disk_zero(d, io, 100000, 20000, &err), 0, "%s", err.text);
	cr_assert_eq(hv_disk_flush(d, &err), 0, "%s", err.text);
	hv_disk_close(d);
	f = images_get("bits.qcow2", &length);
	cr_assert_eq(f[95], 0);
	free(f);
	expect_as_qemu("bits.qcow2");
	hv_disk_io_free(io);
}

/* --- going on --------------------------------------------------------------------------------------------- */

static struct hv_disk *begin(const struct hv_disk_create *create, bool resume, struct hv_error *err)
{
	struct hv_output *output;
	struct hv_disk *d;

	cr_assert_eq(hv_output_begin("ours", resume, &output, err), 0, "%s", err->text);
	cr_assert_eq(hv_disk_create_on(output, create, resume, &d, err), 0, "%s", err->text);
	return d;
}

Test(qcow2_features, a_killed_writer_is_gone_on_from_and_leaks_nothing)
{
	struct images_random r = {44};
	struct hv_disk_io *io = hv_disk_io_new();

	need_qemu();
	for (unsigned i = 0; i < 12; i++) {
		size_t length = (size_t)(1000 + images_below(&r, 6000)) * 512, kept, cut;
		uint8_t *bytes = make_raw(&r, length), *partial;
		struct hv_disk_create create = {
			.format = "qcow2", .size = length, .block_size = 512U << images_below(&r, 8)};
		struct hv_error err = {0};
		struct hv_disk *d = begin(&create, false, &err);

		/* The file as a kill after the flush leaves it: with more in it than the flush knew. */
		cut = (size_t)images_below(&r, length);
		cr_assert_eq(hv_disk_write(d, io, bytes, cut, 0, &err), 0, "%s", err.text);
		cr_assert_eq(hv_disk_flush(d, &err), 0, "%s", err.text);
		if (i % 3 != 0)
			cr_assert_eq(hv_disk_write(d, io, bytes + cut, length - cut, cut, &err), 0);
		if (i % 3 == 2)
			cr_assert_eq(d->format->finish(d, &err), 0, "%s", err.text);
		partial = images_get("ours.partial", &kept);
		hv_disk_close(d);
		images_put("ours.partial", partial, kept);
		free(partial);
		d = begin(&create, true, &err);
		cr_assert_eq(hv_disk_write(d, io, bytes + cut, length - cut, cut, &err), 0, "%s", err.text);
		cr_assert_eq(hv_disk_commit(d, &err), 0, "%s", err.text);
		hv_disk_close(d);
		cr_assert_eq(images_run("qemu-img check -f qcow2 ours"), 0, "round %u", i);
		cr_assert_eq(images_run("qemu-img compare -f qcow2 -F raw ours raw"), 0, "round %u", i);
		free(bytes);
	}
	hv_disk_io_free(io);
}

Test(qcow2_features, another_partial_image_is_not_gone_on_from)
{
	struct hv_disk_create create = {.format = "qcow2", .size = 1U << 20}, other = create;
	struct hv_error err = {0};
	struct hv_output *output;
	struct hv_disk *d = begin(&create, false, &err);
	uint8_t *partial;
	size_t length;

	partial = images_get("ours.partial", &length);
	hv_disk_close(d);
	images_put("ours.partial", partial, length);
	free(partial);
	other.size = 2U << 20;
	cr_assert_eq(hv_output_begin("ours", true, &output, &err), 0);
	cr_assert_eq(hv_disk_create_on(output, &other, true, &d, &err), -ESTALE, "%s", err.text);
}

/* --- crashes ---------------------------------------------------------------------------------------------- */

/*
 * A crash at any moment between two flushes: the file as it stands then. Every copy is free of errors (leaks
 * are allowed), and what was flushed and not touched since is there.
 */
Test(qcow2_features, what_a_crash_leaves_is_free_of_errors)
{
	struct images_random r = {45};
	struct hv_disk_options write = {.writable = true};
	struct hv_disk_io *io = hv_disk_io_new();
	size_t length = 2000 * 512, size;
	uint8_t *bytes, *flushed, *got;
	struct hv_error err = {0};
	struct hv_disk *d;

	need_qemu();
	bytes = make_raw(&r, length);
	flushed = malloc(length);
	cr_assert_eq(
		images_run("set -e; qemu-img convert -c -O qcow2 -o cluster_size=512 raw base.qcow2;"
			   "qemu-img create -f qcow2 -o cluster_size=512 -b base.qcow2 -F qcow2 over.qcow2"),
		0);
	cr_assert_eq(hv_disk_open("over.qcow2", &write, &d, &err), 0, "%s", err.text);
	for (unsigned i = 0; i < 60; i++) {
		size_t at = (size_t)images_below(&r, length), n = (size_t)images_below(&r, 60000) + 1;

		if (n > length - at)
			n = length - at;
		memcpy(flushed, bytes, length);
		memset(bytes + at, (int)i, i % 3 ? n : 0);
		if (i % 3)
			cr_assert_eq(hv_disk_write(d, io, bytes + at, n, at, &err), 0, "%s", err.text);
		else
			cr_assert_eq(hv_disk_zero(d, io, at, n, &err), 0, "%s", err.text);
		if (i % 3 == 0)
			memset(bytes + at, 0, n);
		cr_assert_eq(images_run("cp over.qcow2 crash.qcow2; qemu-img check -f qcow2 crash.qcow2; "
					"s=$?; test $s = 0 -o $s = 3"),
			     0, "round %u", i);
		cr_assert_eq(images_read("crash.qcow2", NULL, &got, &size, &err), 0, "%s", err.text);
		cr_assert_arr_eq(got, flushed, at);
		cr_assert_arr_eq(got + at + n, flushed + at + n, length - at - n);
		for (size_t k = at; k < at + n; k++)
			cr_assert(got[k] == flushed[k] || got[k] == bytes[k], "byte %zu", k);
		free(got);
		cr_assert_eq(hv_disk_flush(d, &err), 0, "%s", err.text);
	}
	hv_disk_close(d);
	cr_assert_eq(images_run("qemu-img check -f qcow2 over.qcow2"), 0);
	images_expect("over.qcow2", NULL, bytes, length);
	hv_disk_io_free(io);
	free(flushed);
	free(bytes);
}

/* --- several at once -------------------------------------------------------------------------------------- */

struct writer {
	struct hv_disk *d;
	uint8_t *bytes;
	size_t from, to;
	uint64_t seed;
};

static void *write_a_part(void *arg)
{
	struct writer *w = arg;
	struct images_random r = {w->seed};
	struct hv_disk_io *io = hv_disk_io_new();
	struct hv_error err = {0};

	for (size_t at = w->from; at < w->to;) {
		size_t n = (size_t)images_below(&r, 50000) + 1;

		if (n > w->to - at)
			n = w->to - at;
		cr_assert_eq(hv_disk_write(w->d, io, w->bytes + at, n, at, &err), 0, "%s", err.text);
		at += n;
	}
	hv_disk_io_free(io);
	return NULL;
}

Test(qcow2_features, writers_on_several_threads_keep_to_their_own)
{
	struct images_random r = {46};
	size_t length = 4 * 1000003;
	struct hv_disk_create create = {.format = "qcow2", .block_size = 4096};
	struct hv_error err = {0};
	uint8_t *bytes;
	struct hv_disk *d;

	length -= length % 512;
	create.size = length;
	bytes = make_raw(&r, length);
	cr_assert_eq(hv_disk_create("ours", &create, &d, &err), 0, "%s", err.text);
	/* Once into fresh room, once more into an image that is complete, in which half was given back. */
	for (unsigned round = 0; round < 2; round++) {
		pthread_t thread[4];
		struct writer w[4];

		for (unsigned i = 0; i < 4; i++) {
			w[i] = (struct writer){d, bytes, length / 4 * i,
					       i == 3 ? length : length / 4 * (i + 1), i};
			cr_assert_eq(pthread_create(&thread[i], NULL, write_a_part, &w[i]), 0);
		}
		for (unsigned i = 0; i < 4; i++)
			pthread_join(thread[i], NULL);
		if (round == 0) {
			struct hv_disk_io *io = hv_disk_io_new();

			cr_assert_eq(hv_disk_commit(d, &err), 0, "%s", err.text);
			cr_assert_eq(hv_disk_zero(d, io, length / 4, length / 2, &err), 0, "%s", err.text);
			cr_assert_eq(hv_disk_flush(d, &err), 0, "%s", err.text);
			hv_disk_io_free(io);
		}
	}
	cr_assert_eq(hv_disk_flush(d, &err), 0, "%s", err.text);
	hv_disk_close(d);
	images_expect("ours", "qcow2", bytes, length);
	cr_assert_eq(images_check("ours", NULL).errors, 0);
	if (images_have("qemu-img"))
		cr_assert_eq(images_run("qemu-img check -f qcow2 ours"), 0);
	free(bytes);
}

/* --- size ------------------------------------------------------------------------------------------------- */

Test(qcow2_features, the_refcount_table_grows_with_the_file)
{
	struct images_random r = {47};
	struct hv_disk_options write = {.writable = true};
	struct hv_disk_io *io = hv_disk_io_new();
	size_t length = 24U << 20;
	struct hv_error err = {0};
	uint8_t *bytes;
	struct hv_disk *d;

	need_qemu();
	bytes = malloc(length);
	for (size_t i = 0; i + 8 <= length; i += 8) {
		uint64_t v = images_next(&r);
		memcpy(bytes + i, &v, 8);
	}
	for (unsigned i = 0; i < 2; i++) {
		cr_assert_eq(images_run("qemu-img create -f qcow2 -o cluster_size=512,refcount_bits=%u "
					"grow.qcow2 24M",
					i ? 64 : 16),
			     0);
		cr_assert_eq(hv_disk_open("grow.qcow2", &write, &d, &err), 0, "%s", err.text);
		for (size_t at = 0; at < length; at += 1U << 20)
			cr_assert_eq(hv_disk_write(d, io, bytes + at, 1U << 20, at, &err), 0, "%s", err.text);
		cr_assert_eq(hv_disk_flush(d, &err), 0, "%s", err.text);
		hv_disk_close(d);
		cr_assert_eq(images_run("qemu-img check -f qcow2 grow.qcow2"), 0, "round %u", i);
		images_expect("grow.qcow2", NULL, bytes, length);
	}
	hv_disk_io_free(io);
	free(bytes);
}

Test(qcow2_features, a_sparse_disk_of_two_tebibytes_is_mapped_in_no_time)
{
	struct hv_disk_create create = {.format = "qcow2", .size = 2ULL << 40};
	struct hv_disk_io *io = hv_disk_io_new();
	struct hv_error err = {0};
	struct hv_disk *d;
	struct hv_run run;
	unsigned runs = 0;

	cr_assert_eq(hv_disk_create("big.qcow2", &create, &d, &err), 0, "%s", err.text);
	for (unsigned i = 0; i < 100; i++)
		cr_assert_eq(hv_disk_write(d, io, "x", 1, (2ULL << 40) / 100 * i, &err), 0, "%s", err.text);
	cr_assert_eq(hv_disk_commit(d, &err), 0, "%s", err.text);
	hv_disk_close(d);
	cr_assert_eq(hv_disk_open("big.qcow2", NULL, &d, &err), 0, "%s", err.text);
	for (uint64_t at = 0; at < hv_disk_size(d); at += run.length, runs++)
		cr_assert_eq(hv_disk_map(d, at, UINT64_MAX, &run, &err), 0, "%s", err.text);
	hv_disk_close(d);
	cr_assert_leq(runs, 400);
	hv_disk_io_free(io);
}

Test(qcow2_features, an_image_made_in_full_has_all_its_clusters)
{
	struct hv_disk_create create = {
		.format = "qcow2", .size = 3 * 1000 * 512, .block_size = 4096, .full = true};
	struct hv_error err = {0};
	struct hv_disk *d;
	struct hv_run run;

	cr_assert_eq(hv_disk_create("full.qcow2", &create, &d, &err), 0, "%s", err.text);
	cr_assert_eq(hv_disk_commit(d, &err), 0, "%s", err.text);
	hv_disk_close(d);
	cr_assert_eq(hv_disk_open("full.qcow2", NULL, &d, &err), 0, "%s", err.text);
	for (uint64_t at = 0; at < create.size; at += run.length) {
		cr_assert_eq(hv_disk_map(d, at, UINT64_MAX, &run, &err), 0, "%s", err.text);
		cr_assert(run.kind == HV_RUN_DATA || run.fresh);
	}
	hv_disk_close(d);
	if (images_have("qemu-img"))
		cr_assert_eq(images_run("qemu-img check -f qcow2 full.qcow2"), 0);
}

Test(qcow2_features, what_can_not_be_made_is_refused_as_wrong_usage)
{
	static const struct hv_disk_create bad[] = {
		{.format = "qcow2", .size = 1U << 20, .block_size = 1000},
		{.format = "qcow2", .size = 1U << 20, .block_size = 256},
		{.format = "qcow2", .size = 1U << 20, .block_size = 4U << 20},
		{.format = "qcow2", .size = 1ULL << 50, .block_size = 512},
		{.format = "qcow2", .size = 1U << 20, .subformat = "odd"},
	};

	for (unsigned i = 0; i < HV_ARRAY_SIZE(bad); i++) {
		struct hv_error err = {0};
		struct hv_disk *d;

		cr_assert_eq(hv_disk_create("bad.qcow2", &bad[i], &d, &err), -EINVAL, "%u", i);
		cr_assert_eq(err.status, HV_EXIT_USAGE, "%u: %s", i, err.text);
		cr_assert_neq(access("bad.qcow2.partial", F_OK), 0);
	}
}
