/*
 * Writing VMDKs: what is made or changed reads back, passes a check, and is resumed to the same bytes.
 */
#include <criterion/criterion.h>
#include <sys/stat.h>

#include "base/bytes.h"
#include "disk/output.h"
#include "make_vmdk.h"
#include "vmdk_disk.h"

#include "disk/format.h"

#define SECTORS 70000U
#define BYTES   (SECTORS * 512U)

static struct tmp t;
static struct hv_error err;
static uint8_t *disk;

static void setup(void)
{
	tmp_make(&t);
	disk = malloc(BYTES);
	make_bytes(disk, BYTES, 11);
}

static void teardown(void)
{
	free(disk);
	tmp_drop(&t);
}

TestSuite(vmdk_write, .init = setup, .fini = teardown, .timeout = 120);

static struct hv_disk *create(const char *name, const char *subformat, uint64_t size)
{
	struct hv_disk_create c = {.format = "vmdk", .subformat = subformat, .size = size};
	struct hv_disk *d = NULL;

	cr_assert_eq(hv_disk_create(tmp_path(&t, name), &c, &d, &err), 0, "%s", err.text);
	return d;
}

static void expect_disk(const char *name, const uint8_t *want, size_t length)
{
	struct read_back r = vmdk_read(tmp_path(&t, name), NULL, &err);

	cr_assert_eq(r.rc, 0, "%s", err.text);
	cr_assert_eq(r.length, length);
	cr_assert_arr_eq(r.bytes, want, length, "%s differs", name);
	cr_assert_eq(vmdk_errors(t.path, &err), 0, "%s", err.text);
	free(r.bytes);
}

/* Random writes and zeros, kept in `disk` too. */
static void change(struct hv_disk *d, unsigned rounds, uint64_t seed)
{
	struct hv_disk_io *io = hv_disk_io_new();
	uint8_t *buf = malloc(300000);

	for (unsigned i = 0; i < rounds; i++) {
		uint64_t at = make_random(&seed) % BYTES, n = make_random(&seed) % 300000 + 1;

		if (n > BYTES - at)
			n = BYTES - at;
		if (make_random(&seed) % 3) {
			make_bytes(buf, n, seed);
			memcpy(disk + at, buf, n);
			cr_assert_eq(hv_disk_write(d, io, buf, n, at, &err), 0, "%s", err.text);
		} else {
			memset(disk + at, 0, n);
			cr_assert_eq(hv_disk_zero(d, io, at, n, &err), 0, "%s", err.text);
		}
		if (i % 10 == 9)
			cr_assert_eq(hv_disk_flush(d, &err), 0, "%s", err.text);
	}
	cr_assert_eq(hv_disk_flush(d, &err), 0, "%s", err.text);
	free(buf);
	hv_disk_io_free(io);
}

static char *cid_of(const char *path)
{
	const struct hv_disk_property *p;
	struct hv_disk_info info;
	struct hv_disk *d;
	char *cid = NULL;

	cr_assert_eq(hv_disk_open(path, NULL, &d, &err), 0, "%s", err.text);
	hv_disk_info(d, &info);
	for (p = info.properties; p->key; p++)
		if (strcmp(p->key, "CID") == 0)
			cid = strdup(p->value);
	hv_disk_close(d);
	return cid;
}

Test(vmdk_write, fresh_sparse_and_flat_disks_take_random_writes)
{
	static const char *const subformats[] = {"monolithicSparse", "monolithicFlat"};

	for (size_t i = 0; i < HV_ARRAY_SIZE(subformats); i++) {
		struct hv_disk *d = create("x.vmdk", subformats[i], BYTES);

		memset(disk, 0, BYTES);
		change(d, 40, 77 + i);
		cr_assert_eq(hv_disk_commit(d, &err), 0, "%s", err.text);
		hv_disk_close(d);
		expect_disk("x.vmdk", disk, BYTES);
	}
}

Test(vmdk_write, an_image_written_in_place_gets_a_new_content_id)
{
	static const char *const subformats[] = {"monolithicSparse", "monolithicFlat"};

	for (size_t i = 0; i < HV_ARRAY_SIZE(subformats); i++) {
		struct hv_disk_options writable = {.writable = true};
		struct hv_disk *d = create("x.vmdk", subformats[i], BYTES);
		char *before, *after;

		memset(disk, 0, BYTES);
		cr_assert_eq(hv_disk_commit(d, &err), 0, "%s", err.text);
		hv_disk_close(d);
		before = cid_of(tmp_path(&t, "x.vmdk"));
		cr_assert_eq(hv_disk_open(t.path, &writable, &d, &err), 0, "%s", err.text);
		change(d, 40, 5 + i);
		hv_disk_close(d);
		expect_disk("x.vmdk", disk, BYTES);
		after = cid_of(t.path);
		cr_assert_str_neq(before, after);
		free(before);
		free(after);
	}
}

Test(vmdk_write, a_delta_takes_writes_and_hides_its_parent_under_zeros)
{
	for (unsigned zero_gte = 0; zero_gte < 2; zero_gte++) {
		struct hv_disk_options writable = {.writable = true};
		char *kinds = malloc(BYTES / 65536 + 2), *text;
		struct make_vmdk m = {
			.disk = disk, .sectors = SECTORS, .rgd = true, .kinds = kinds, .zero_gte = zero_gte};
		struct hv_disk *d;
		struct made o;

		make_bytes(disk, BYTES, 11);
		tmp_put(&t, "b-flat.vmdk", disk, BYTES, 0);
		text = make_descriptor("monolithicFlat", 0xb, 0xffffffff, NULL,
				       "RW 70000 FLAT \"b-flat.vmdk\" 0\n");
		tmp_put(&t, "b.vmdk", text, strlen(text), 0);
		free(text);
		memset(kinds, '-', BYTES / 65536 + 1);
		text = make_descriptor("monolithicSparse", 0xc, 0xb, "b.vmdk",
				       "RW 70000 SPARSE \"d.vmdk\"\n");
		m.descriptor = text;
		make_hosted(&m, &o);
		remove(tmp_path(&t, "d.vmdk"));
		make_put(&t, "d.vmdk", &o);
		free(text);
		free(kinds);
		cr_assert_eq(hv_disk_open(t.path, &writable, &d, &err), 0, "%s", err.text);
		change(d, 60, 99 + zero_gte);
		hv_disk_close(d);
		expect_disk("d.vmdk", disk, BYTES);
	}
}

Test(vmdk_write, what_may_not_be_written_is_refused)
{
	struct hv_disk_options writable = {.writable = true};
	struct hv_disk_io *io = hv_disk_io_new();
	char *text = make_descriptor("custom", 1, 0xffffffff, NULL,
				     "RDONLY 100 FLAT \"x.bin\" 0\nRW 100 ZERO\nRW 100 FLAT \"x.bin\" 100\n");
	struct make_vmdk m = {.disk = disk, .sectors = SECTORS, .compressed = true, .markers = true};
	struct hv_disk *d;
	struct made o;

	tmp_put(&t, "x.bin", disk, 200 * 512, 0);
	tmp_put(&t, "x.vmdk", text, strlen(text), 0);
	free(text);
	cr_assert_eq(hv_disk_open(t.path, &writable, &d, &err), 0, "%s", err.text);
	cr_assert_eq(hv_disk_write(d, io, "a", 1, 0, &err), -EROFS);
	cr_assert_eq(hv_disk_write(d, io, "a", 1, 100 * 512, &err), -EROFS);
	cr_assert_eq(hv_disk_write(d, io, "a", 1, 200 * 512, &err), 0, "%s", err.text);
	hv_disk_close(d);
	make_hosted(&m, &o);
	make_put(&t, "s.vmdk", &o);
	cr_assert_eq(hv_disk_open(t.path, &writable, &d, &err), -ENOTSUP);
	hv_disk_io_free(io);
}

Test(vmdk_write, sizes_and_grains_that_can_not_be_are_refused)
{
	static const struct hv_disk_create bad[] = {
		{.format = "vmdk", .size = 0},
		{.format = "vmdk", .size = (2ULL << 40) + 1},
		{.format = "vmdk", .size = 1 << 20, .block_size = 5000},
		{.format = "vmdk", .size = 1 << 20, .block_size = 4096, .subformat = "streamOptimized"},
		{.format = "vmdk", .size = 63ULL << 40, .subformat = "monolithicFlat"},
		{.format = "vmdk", .size = 1 << 20, .subformat = "vmfs"},
	};
	struct hv_disk *d;

	for (size_t i = 0; i < HV_ARRAY_SIZE(bad); i++) {
		cr_assert_eq(hv_disk_create(tmp_path(&t, "x.vmdk"), &bad[i], &d, &err), -EINVAL, "%zu", i);
		cr_assert_eq(err.status, HV_EXIT_USAGE);
	}
}

Test(vmdk_write, a_full_sparse_disk_has_all_its_grains)
{
	struct hv_disk_create c = {.format = "vmdk", .size = 10 << 20, .full = true};
	struct hv_disk_check check = {0};
	struct hv_disk *d;

	cr_assert_eq(hv_disk_create(tmp_path(&t, "x.vmdk"), &c, &d, &err), 0, "%s", err.text);
	cr_assert_eq(hv_disk_commit(d, &err), 0, "%s", err.text);
	hv_disk_close(d);
	cr_assert_eq(hv_disk_open(t.path, NULL, &d, &err), 0, "%s", err.text);
	cr_assert_eq(hv_disk_check(d, &check, &err), 0);
	cr_assert_eq(check.used, check.blocks);
	cr_assert_eq(check.used, 160);
	hv_disk_close(d);
}

/* --- streams ---------------------------------------------------------------------------------------------- */

static void append_from(struct hv_disk *d, uint64_t at, uint64_t end)
{
	struct hv_disk_io *io = hv_disk_io_new();
	uint8_t *out = malloc(d->format->encode_bound), grain[65536];

	for (; at < end; at += sizeof(grain)) {
		size_t n = BYTES - at < sizeof(grain) ? (size_t)(BYTES - at) : sizeof(grain), length;

		memset(grain, 0, sizeof(grain));
		memcpy(grain, disk + at, n);
		cr_assert_eq(d->format->encode(d, io, at, grain, out, &length, &err), 0, "%s", err.text);
		cr_assert_leq(length, d->format->encode_bound);
		cr_assert_eq(d->format->append(d, at, out, length, &err), 0, "%s", err.text);
	}
	free(out);
	hv_disk_io_free(io);
}

static uint8_t *whole_file(const char *path, size_t *length)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	uint8_t *bytes;

	cr_assert(fd >= 0);
	*length = (size_t)lseek(fd, 0, SEEK_END);
	bytes = malloc(*length);
	cr_assert_eq(pread(fd, bytes, *length, 0), (ssize_t)*length);
	close(fd);
	return bytes;
}

Test(vmdk_write, a_stream_is_as_esxi_wants_it)
{
	struct hv_disk *d = create("x.vmdk", "streamOptimized", BYTES);
	uint64_t at, last = 0, tables = 0, grains = 0;
	size_t length;
	uint8_t *f;

	memset(disk + (40 << 16), 0, 600 << 16 > BYTES - (40 << 16) ? BYTES - (40 << 16) : 600 << 16);
	memset(disk + BYTES - 100, 'x', 100);
	append_from(d, 0, BYTES);
	cr_assert_eq(hv_disk_commit(d, &err), 0, "%s", err.text);
	hv_disk_close(d);
	expect_disk("x.vmdk", disk, BYTES);
	f = whole_file(t.path, &length);
	cr_assert_eq(hv_le32(f + 4), 3, "version");
	cr_assert_eq(hv_le32(f + 8), 0x30001, "flags");
	cr_assert_eq(hv_le64(f + 12), SECTORS);
	cr_assert_eq(hv_le64(f + 20), 128);
	cr_assert_eq(hv_le64(f + 28), 1);
	cr_assert_eq(hv_le64(f + 36), 20);
	cr_assert_eq(hv_le32(f + 44), 512);
	cr_assert_eq(hv_le64(f + 48), 0);
	cr_assert_eq(hv_le64(f + 56), UINT64_MAX);
	cr_assert_eq(hv_le64(f + 64), 128);
	cr_assert_arr_eq(f + 72, "\0\n \r\n\1\0", 7);
	cr_assert(strstr((char *)f + 512, "ddb.adapterType = \"lsilogic\""));
	cr_assert(strstr((char *)f + 512, "RW 70000 SPARSE \"x.vmdk\""));
	for (at = 65536; at < length;) {
		uint64_t value = hv_le64(f + at);
		uint32_t size = hv_le32(f + at + 8), type = hv_le32(f + at + 12);

		if (size) {
			cr_assert(grains == 0 || value > last, "grains rise");
			last = value;
			grains++;
			at += (12 + size + 511) / 512 * 512;
			continue;
		}
		if (type == 1) {
			cr_assert_eq(value, 4);
			tables++;
		} else if (type == 2) {
			cr_assert_eq(value, 1);
			cr_assert_eq(hv_le64(f + length - 1024 + 56), at / 512 + 1, "the footer knows");
		} else if (type == 3) {
			cr_assert_eq(at, length - 1536);
			cr_assert_eq(value, 1);
		} else {
			cr_assert_eq(at, length - 512, "the end of the stream is the end of the file");
			break;
		}
		at += 512 + value * 512;
	}
	cr_assert_eq(tables, 2, "the table between has no grain");
	cr_assert_eq(memcmp(f + length - 1024, f, 56), 0, "the footer is a copy of the header");
	free(f);
}

/* Kills a stream's writing at many places, with what came after the checkpoint torn or not. */
Test(vmdk_write, a_resumed_stream_is_the_same_to_the_byte)
{
	struct hv_disk_create c = {.format = "vmdk", .subformat = "streamOptimized", .size = BYTES};
	struct hv_output *output;
	struct hv_disk *d;
	uint8_t *want = NULL;
	size_t length, want_length = 0;

	memset(disk + (100 << 16), 0, 400 << 16);
	for (uint64_t stop = 0; stop <= 540; stop += 45) {
		uint64_t beyond = stop + 7 < 547 ? stop + 7 : 547;
		uint64_t kept;
		uint8_t *f;
		int fd;

		cr_assert_eq(hv_output_begin(tmp_path(&t, "x.vmdk"), false, &output, &err), 0, "%s",
			     err.text);
		hv_output_keep(output, true);
		cr_assert_eq(hv_disk_create_on(output, &c, false, &d, &err), 0, "%s", err.text);
		/* The random content ID would differ; the descriptor is the first one's. */
		if (want)
			cr_assert_eq(hv_disk_file_write(d->file[0], want + 512, 20 * 512, 512, &err), 0);
		append_from(d, 0, stop << 16);
		cr_assert_eq(hv_disk_flush(d, &err), 0);
		kept = hv_disk_file_size(d->file[0]);
		append_from(d, stop << 16, beyond << 16 > BYTES ? BYTES : beyond << 16);
		hv_disk_close(d);
		fd = open(tmp_path(&t, "x.vmdk.partial"), O_RDWR | O_CLOEXEC);
		cr_assert(fd >= 0);
		if (stop % 2) { /* torn */
			off_t end = lseek(fd, 0, SEEK_END) - 700;

			cr_assert_eq(ftruncate(fd, end > (off_t)kept ? end : (off_t)kept), 0);
		}
		close(fd);
		cr_assert_eq(hv_output_begin(tmp_path(&t, "x.vmdk"), true, &output, &err), 0, "%s", err.text);
		cr_assert_eq(hv_disk_create_on(output, &c, true, &d, &err), 0, "%s", err.text);
		append_from(d, stop << 16, BYTES);
		cr_assert_eq(hv_disk_commit(d, &err), 0, "%s", err.text);
		hv_disk_close(d);
		f = whole_file(tmp_path(&t, "x.vmdk"), &length);
		if (!want) {
			want = f;
			want_length = length;
			expect_disk("x.vmdk", disk, BYTES);
			continue;
		}
		cr_assert_eq(length, want_length, "stopped at grain %llu", (unsigned long long)stop);
		cr_assert_arr_eq(f, want, length, "stopped at grain %llu", (unsigned long long)stop);
		free(f);
	}
	free(want);
}

Test(vmdk_write, a_sparse_image_is_resumed_from_its_last_flush)
{
	static const char *const subformats[] = {"monolithicSparse", "monolithicFlat"};

	for (size_t i = 0; i < HV_ARRAY_SIZE(subformats); i++) {
		struct hv_disk_create c = {.format = "vmdk", .subformat = subformats[i], .size = BYTES};
		struct hv_disk_io *io = hv_disk_io_new();
		struct hv_output *output;
		struct hv_disk *d;

		cr_assert_eq(hv_output_begin(tmp_path(&t, "x.vmdk"), false, &output, &err), 0, "%s",
			     err.text);
		hv_output_keep(output, true);
		cr_assert_eq(hv_disk_create_on(output, &c, false, &d, &err), 0, "%s", err.text);
		cr_assert_eq(hv_disk_write(d, io, disk, 10 << 20, 0, &err), 0, "%s", err.text);
		cr_assert_eq(hv_disk_flush(d, &err), 0, "%s", err.text);
		cr_assert_eq(hv_disk_write(d, io, disk + (10 << 20), 5 << 20, 10 << 20, &err), 0);
		hv_disk_close(d);
		cr_assert_eq(hv_output_begin(tmp_path(&t, "x.vmdk"), true, &output, &err), 0, "%s", err.text);
		cr_assert_eq(hv_disk_create_on(output, &c, true, &d, &err), 0, "%s", err.text);
		cr_assert_eq(hv_disk_write(d, io, disk + (10 << 20), BYTES - (10 << 20), 10 << 20, &err), 0,
			     "%s", err.text);
		cr_assert_eq(hv_disk_commit(d, &err), 0, "%s", err.text);
		hv_disk_close(d);
		expect_disk("x.vmdk", disk, BYTES);
		hv_disk_io_free(io);
	}
}
