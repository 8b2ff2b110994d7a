/*
 * VHDX, reading: files of qemu-img's and files that are put together by the specification (make_vhdx.h):
 * states of blocks, sector bitmaps, chains and the ways to a parent, both headers and region tables, and
 * every kind of damage, which has to be told and must not become bytes.
 */
#include <criterion/criterion.h>
#include <stdarg.h>
#include <sys/stat.h>

#include "base/bytes.h"
#include "disk/disk.h"
#include "make_vhdx.h"
#include "tmp.h"

static struct tmp t;
static struct hv_error err;
static struct hv_disk_io *io;

static void setup(void)
{
	tmp_make(&t);
	io = hv_disk_io_new();
}

static void teardown(void)
{
	hv_disk_io_free(io);
	tmp_drop(&t);
}

TestSuite(vhdx, .init = setup, .fini = teardown, .timeout = 120);

static struct hv_disk *opened(const char *name, const struct hv_disk_options *options)
{
	struct hv_disk *d = NULL;

	cr_assert_eq(hv_disk_open(tmp_path(&t, name), options, &d, &err), 0, "%s", err.text);
	return d;
}

static void refused(const char *name, int code, const char *says)
{
	struct hv_disk *d = NULL;

	memset(&err, 0, sizeof(err));
	cr_assert_eq(hv_disk_open(tmp_path(&t, name), NULL, &d, &err), code, "%s", err.text);
	cr_assert_not_null(strstr(err.text, says), "%s", err.text);
	if (code == -EBADMSG)
		cr_assert_eq(err.status, HV_EXIT_UNSAFE);
}

/* The disk's bytes [offset, offset + length) are those of a pattern from `from` on; seed 0: zeros. */
static void holds(struct hv_disk *d, uint64_t offset, size_t length, uint32_t seed, uint64_t from)
{
	uint8_t *is = malloc(length), *should = calloc(1, length);

	cr_assert(is && should);
	if (seed)
		mk_pattern(should, length, seed, from);
	cr_assert_eq(hv_disk_read(d, io, is, length, offset, &err), 0, "%s", err.text);
	cr_assert_eq(memcmp(is, should, length), 0, "bytes at %llu", (unsigned long long)offset);
	free(is);
	free(should);
}

static void unreadable(struct hv_disk *d, uint64_t offset, const char *says)
{
	uint8_t byte;

	memset(&err, 0, sizeof(err));
	cr_assert_eq(hv_disk_read(d, io, &byte, 1, offset, &err), -EBADMSG);
	cr_assert_eq(err.status, HV_EXIT_UNSAFE);
	cr_assert_not_null(strstr(err.text, says), "%s", err.text);
}

static bool noted(struct hv_disk *d, const char *says)
{
	struct hv_disk_info info;

	hv_disk_info(d, &info);
	for (const char *const *n = info.notes; *n; n++)
		if (strstr(*n, says))
			return true;
	return false;
}

static const char *property(struct hv_disk *d, const char *key)
{
	struct hv_disk_info info;

	hv_disk_info(d, &info);
	for (const struct hv_disk_property *p = info.properties; p->key; p++)
		if (strcmp(p->key, key) == 0)
			return p->value;
	return "";
}

static uint64_t errors_of(struct hv_disk *d)
{
	struct hv_disk_check check = {0};

	cr_assert_eq(hv_disk_check(d, &check, &err), 0, "%s", err.text);
	return check.errors;
}

/* Four blocks of 1 MiB and a bit: data, nothing, data, zero, data in the last sectors. */
static struct mk_vhdx small(const char *name)
{
	struct mk_vhdx m = {.size = 4 * MK_MIB + 1536};

	mk_begin(&m, tmp_path(&t, name));
	mk_block(&m, 0, MK_FULL, 1);
	mk_block(&m, 2, MK_FULL, 3);
	mk_entry(&m, 3, MK_ZERO);
	mk_block(&m, 4, MK_FULL, 5);
	return m;
}

Test(vhdx, a_file_tells_what_it_is)
{
	struct mk_vhdx m = small("a.vhdx");
	struct hv_disk_info info;
	struct hv_disk *d;

	mk_end(&m);
	d = opened("a.vhdx", NULL);
	hv_disk_info(d, &info);
	cr_assert_str_eq(info.format, "vhdx");
	cr_assert_str_eq(info.subformat, "dynamic");
	cr_assert_eq(info.size, 4 * MK_MIB + 1536);
	cr_assert_eq(info.sector_size, 512);
	cr_assert_eq(info.physical_sector_size, 4096);
	cr_assert_eq(info.block_size, MK_MIB);
	cr_assert_not(info.has_parent);
	cr_assert_null(info.notes[0]);
	cr_assert_str_eq(property(d, "creator"), "test");
	cr_assert_str_eq(property(d, "disk id"), "{11111111-1111-1111-1111-111111111111}");
	cr_assert_str_eq(property(d, "data id"), "{11111111-1111-1111-1111-111111111111}");
	cr_assert_str_eq(property(d, "log"), "clean");
	cr_assert_eq(errors_of(d), 0);
	hv_disk_close(d);
}

Test(vhdx, blocks_are_data_zeros_or_holes)
{
	struct mk_vhdx m = small("a.vhdx");
	struct hv_disk *d;
	struct hv_run run;

	mk_end(&m);
	d = opened("a.vhdx", NULL);
	holds(d, 0, MK_MIB, 1, 0);
	holds(d, MK_MIB, MK_MIB, 0, 0);
	holds(d, 2 * MK_MIB, MK_MIB, 3, 0);
	holds(d, 3 * MK_MIB, MK_MIB, 0, 0);
	holds(d, 4 * MK_MIB, 1536, 5, 0);
	holds(d, 3 * MK_MIB - 100, 50, 3, MK_MIB - 100);
	cr_assert_eq(hv_disk_map(d, MK_MIB, UINT64_MAX, &run, &err), 0);
	cr_assert_eq(run.kind, HV_RUN_HOLE);
	cr_assert_eq(run.length, MK_MIB);
	cr_assert_eq(hv_disk_map(d, 3 * MK_MIB + 5, UINT64_MAX, &run, &err), 0);
	cr_assert_eq(run.kind, HV_RUN_ZERO);
	cr_assert_eq(run.length, MK_MIB - 5);
	cr_assert_eq(hv_disk_map(d, 4 * MK_MIB + 512, UINT64_MAX, &run, &err), 0);
	cr_assert_eq(run.kind, HV_RUN_DATA);
	cr_assert_eq(run.length, 1024);
	hv_disk_close(d);
}

/* With blocks of 256 MiB a chunk has 16 of them: runs go on over the sector bitmaps' entries. */
Test(vhdx, runs_go_on_from_chunk_to_chunk)
{
	struct mk_vhdx m = {.size = 40ULL << 28, .block_size = 256 << 20};
	struct hv_disk *d;
	struct hv_run run;

	mk_begin(&m, tmp_path(&t, "a.vhdx"));
	for (uint64_t i = 4; i < 40; i++)
		mk_entry(&m, mk_index(&m, i), (m.next + (i << 28)) | MK_FULL);
	m.next += 40ULL << 28;
	mk_end(&m);
	d = opened("a.vhdx", NULL);
	cr_assert_eq(hv_disk_map(d, 0, UINT64_MAX, &run, &err), 0);
	cr_assert_eq(run.kind, HV_RUN_HOLE);
	cr_assert_eq(run.length, 4ULL << 28);
	cr_assert_eq(hv_disk_map(d, 4ULL << 28, UINT64_MAX, &run, &err), 0);
	cr_assert(run.fresh);
	cr_assert_eq(run.length, 36ULL << 28);
	cr_assert_eq(errors_of(d), 0);
	hv_disk_close(d);
}

Test(vhdx, undefined_and_unmapped_blocks_read_as_zeros)
{
	struct mk_vhdx m = small("a.vhdx");
	struct hv_disk *d;

	mk_block(&m, 0, MK_UNDEFINED, 7);
	mk_block(&m, 1, MK_UNMAPPED, 8);
	mk_end(&m);
	d = opened("a.vhdx", NULL);
	holds(d, 0, 2 * MK_MIB, 0, 0);
	cr_assert_eq(errors_of(d), 0);
	hv_disk_close(d);
}

Test(vhdx, sectors_of_4096_bytes_are_read)
{
	struct mk_vhdx m = {.size = 3 * MK_MIB + 4096, .sector_size = 4096};
	struct hv_disk_info info;
	struct hv_disk *d;

	mk_begin(&m, tmp_path(&t, "a.vhdx"));
	mk_block(&m, 3, MK_FULL, 9);
	mk_end(&m);
	d = opened("a.vhdx", NULL);
	hv_disk_info(d, &info);
	cr_assert_eq(info.sector_size, 4096);
	holds(d, 0, 3 * MK_MIB, 0, 0);
	holds(d, 3 * MK_MIB, 4096, 9, 0);
	hv_disk_close(d);
}

static int shell(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static int shell(const char *fmt, ...)
{
	char line[2048];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	return system(line);
}

Test(vhdx, what_qemu_img_makes_is_read_back)
{
	static const char *const kinds[] = {"subformat=dynamic", "subformat=fixed",
					    "subformat=dynamic,block_size=1M",
					    "subformat=dynamic,block_size=8M,log_size=2M",
					    "subformat=dynamic,block_size=2M,block_state_zero=off"};
	const size_t size = 37 * 1000 * 512;
	uint8_t *should = calloc(1, size), *is = malloc(size);
	struct hv_disk *d;

	if (shell("command -v qemu-img >/dev/null") != 0)
		cr_skip_test("no qemu-img here");
	cr_assert(should && is);
	mk_pattern(should + 700, 5000000, 1, 0);
	mk_pattern(should + size - 3000, 3000, 2, 0);
	tmp_put(&t, "a.raw", should, size, 0);
	for (unsigned i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		cr_assert_eq(
			shell("cd %s && qemu-img convert -f raw -O vhdx -o %s a.raw q.vhdx", t.dir, kinds[i]),
			0);
		d = opened("q.vhdx", NULL);
		cr_assert_eq(hv_disk_size(d), size);
		cr_assert_eq(hv_disk_read(d, io, is, size, 0, &err), 0, "%s", err.text);
		cr_assert_eq(memcmp(is, should, size), 0, "%s", kinds[i]);
		cr_assert_eq(errors_of(d), 0, "%s", kinds[i]);
		hv_disk_close(d);
	}
	free(should);
	free(is);
}

/* --- chains ----------------------------------------------------------------------------------------------- */

#define LINK_OF(id) "{" id id id id "-" id id "-" id id "-" id id "-" id id id id id id "}"

/* A child of base.vhdx: block 0 from the parent, 1 here, 2 in parts, 3 zeros, 4 from the parent. */
static struct mk_vhdx child(const char *name, const char *key, const char *path)
{
	struct mk_vhdx m = {.size = 4 * MK_MIB + 1536, .id = 0x22};

	m.key[0] = "parent_linkage";
	m.value[0] = LINK_OF("11");
	m.key[1] = key;
	m.value[1] = path;
	mk_begin(&m, tmp_path(&t, name));
	mk_block(&m, 1, MK_FULL, 11);
	mk_block(&m, 2, MK_PART, 12);
	mk_bitmap(&m, 0, 2 * 2048 + 3, 1);
	mk_bitmap(&m, 0, 2 * 2048 + 100, 1500);
	mk_entry(&m, 3, MK_UNMAPPED);
	return m;
}

static void make_chain(const char *key, const char *path)
{
	struct mk_vhdx m = small("base.vhdx");

	mk_entry(&m, 3, 0);
	mk_block(&m, 3, MK_FULL, 4);
	mk_end(&m);
	m = child("child.avhdx", key, path);
	mk_end(&m);
}

static void chain_is_read(struct hv_disk *d)
{
	struct hv_disk_info info;
	struct hv_run run;

	hv_disk_info(d, &info);
	cr_assert_str_eq(info.subformat, "differencing");
	cr_assert(info.has_parent);
	cr_assert_not_null(hv_disk_parent(d));
	holds(d, 0, MK_MIB, 1, 0);
	holds(d, MK_MIB, MK_MIB, 11, 0);
	holds(d, 2 * MK_MIB, 1536, 3, 0);
	holds(d, 2 * MK_MIB + 1536, 512, 12, 1536);
	holds(d, 2 * MK_MIB + 2048, 96 * 512, 3, 2048);
	holds(d, 2 * MK_MIB + 100 * 512, 1500 * 512, 12, 100 * 512);
	holds(d, 2 * MK_MIB + 1600 * 512, 448 * 512, 3, 1600 * 512);
	holds(d, 3 * MK_MIB, MK_MIB, 0, 0);
	holds(d, 4 * MK_MIB, 1536, 5, 0);
	cr_assert_eq(hv_disk_map(d, 2 * MK_MIB + 101 * 512 + 7, UINT64_MAX, &run, &err), 0);
	cr_assert_eq(run.depth, 0);
	cr_assert_eq(run.length, 1499 * 512 - 7);
	cr_assert_eq(hv_disk_map(d, 2 * MK_MIB + 1700 * 512, UINT64_MAX, &run, &err), 0);
	cr_assert_eq(run.depth, 1);
	cr_assert_eq(run.length, 348 * 512);
	cr_assert_eq(errors_of(d), 0);
}

Test(vhdx, a_parent_is_found_by_its_relative_path)
{
	struct hv_disk *d;

	make_chain("relative_path", ".\\base.vhdx");
	d = opened("child.avhdx", NULL);
	chain_is_read(d);
	cr_assert_str_eq(property(d, "parent"), ".\\base.vhdx");
	hv_disk_close(d);
}

Test(vhdx, a_parent_is_found_by_its_name_when_its_windows_paths_mean_nothing_here)
{
	struct hv_disk *d;

	make_chain("absolute_win32_path", "\\\\?\\C:\\Hyper-V\\disks\\base.vhdx");
	d = opened("child.avhdx", NULL);
	chain_is_read(d);
	hv_disk_close(d);
	make_chain("volume_path", "\\\\?\\Volume{26a21bda-a627-11d7-9931-806e6f6e6963}\\d\\base.vhdx");
	d = opened("child.avhdx", NULL);
	chain_is_read(d);
	hv_disk_close(d);
}

Test(vhdx, a_parent_in_a_folder_below_is_found)
{
	struct hv_disk *d;

	make_chain("relative_path", "sub\\dir\\base.vhdx");
	cr_assert_eq(shell("cd %s && mkdir -p sub/dir && mv base.vhdx sub/dir", t.dir), 0);
	d = opened("child.avhdx", NULL);
	chain_is_read(d);
	hv_disk_close(d);
}

Test(vhdx, the_second_linkage_may_be_the_right_one)
{
	struct mk_vhdx m = small("base.vhdx");
	struct hv_disk *d;

	mk_end(&m);
	m = (struct mk_vhdx){.size = 4 * MK_MIB,
			     .id = 0x33,
			     .key = {"parent_linkage", "parent_linkage2", "relative_path", "custom"},
			     .value = {LINK_OF("99"), LINK_OF("11"), "base.vhdx", "x"}};
	mk_begin(&m, tmp_path(&t, "child.vhdx"));
	mk_end(&m);
	d = opened("child.vhdx", NULL);
	holds(d, 2 * MK_MIB, MK_MIB, 3, 0);
	hv_disk_close(d);
}

Test(vhdx, a_parent_that_was_changed_is_refused)
{
	struct mk_vhdx m;

	make_chain("relative_path", "base.vhdx");
	m = small("base.vhdx");
	m.id = 0x44;
	mk_header(&m, 1, 9);
	mk_end(&m);
	refused("child.avhdx", -EBADMSG, "is expected: it was changed");
}

Test(vhdx, a_wrong_file_of_the_first_name_does_not_hide_the_right_one_of_the_next)
{
	struct mk_vhdx m;
	struct hv_disk *d;

	make_chain("relative_path", "base.vhdx");
	m = small("other.vhdx");
	m.id = 0x55;
	mk_header(&m, 1, 9);
	mk_end(&m);
	m = (struct mk_vhdx){.size = 4 * MK_MIB,
			     .id = 0x33,
			     .key = {"relative_path", "absolute_win32_path", "parent_linkage"},
			     .value = {"other.vhdx", "base.vhdx", LINK_OF("11")}};
	mk_begin(&m, tmp_path(&t, "child.vhdx"));
	mk_end(&m);
	d = opened("child.vhdx", NULL);
	holds(d, 0, MK_MIB, 1, 0);
	hv_disk_close(d);
}

Test(vhdx, a_missing_parent_is_named)
{
	struct hv_disk_options alone = {.alone = true};
	struct hv_disk *d;
	struct hv_run run;

	make_chain("relative_path", "..\\gone.vhdx");
	refused("child.avhdx", -ENOENT, "gone.vhdx");
	d = opened("child.avhdx", &alone);
	cr_assert_null(hv_disk_parent(d));
	cr_assert_eq(hv_disk_map(d, 0, UINT64_MAX, &run, &err), 0);
	cr_assert_eq(run.kind, HV_RUN_HOLE);
	holds(d, MK_MIB, MK_MIB, 11, 0);
	hv_disk_close(d);
}

Test(vhdx, a_parent_outside_the_folder_is_refused)
{
	make_chain("relative_path", "..\\..\\..\\..\\..\\..\\..\\..\\etc\\passwd");
	refused("child.avhdx", -EBADMSG, "outside");
}

Test(vhdx, a_chain_of_three_is_read_and_a_circle_refused)
{
	struct mk_vhdx m = {.size = 4 * MK_MIB + 1536,
			    .id = 0x33,
			    .key = {"parent_linkage", "relative_path"},
			    .value = {LINK_OF("22"), "child.avhdx"}};
	struct hv_disk *d;

	make_chain("relative_path", "base.vhdx");
	mk_begin(&m, tmp_path(&t, "top.avhdx"));
	mk_block(&m, 0, MK_FULL, 21);
	mk_end(&m);
	d = opened("top.avhdx", NULL);
	holds(d, 0, MK_MIB, 21, 0);
	holds(d, MK_MIB, MK_MIB, 11, 0);
	holds(d, 2 * MK_MIB, 1536, 3, 0);
	hv_disk_close(d);
	m = (struct mk_vhdx){.size = 4 * MK_MIB,
			     .id = 0x11,
			     .key = {"parent_linkage", "relative_path"},
			     .value = {LINK_OF("22"), "child.avhdx"}};
	mk_begin(&m, tmp_path(&t, "base.vhdx"));
	mk_end(&m);
	refused("base.vhdx", -EBADMSG, "a circle of 2 images");
}

Test(vhdx, a_parent_of_other_sectors_is_refused)
{
	struct mk_vhdx m = {.size = 4 * MK_MIB, .sector_size = 4096};

	make_chain("relative_path", "base.vhdx");
	mk_begin(&m, tmp_path(&t, "base.vhdx"));
	mk_end(&m);
	refused("child.avhdx", -EBADMSG, "sectors");
}

Test(vhdx, parts_of_blocks_with_large_sectors_are_told_apart)
{
	struct mk_vhdx m = {.size = 4 * MK_MIB, .sector_size = 4096};
	struct hv_disk *d;

	mk_begin(&m, tmp_path(&t, "base.vhdx"));
	mk_block(&m, 1, MK_FULL, 1);
	mk_end(&m);
	m = (struct mk_vhdx){.size = 4 * MK_MIB,
			     .sector_size = 4096,
			     .id = 0x22,
			     .key = {"parent_linkage", "relative_path"},
			     .value = {LINK_OF("11"), "base.vhdx"}};
	mk_begin(&m, tmp_path(&t, "child.vhdx"));
	mk_block(&m, 1, MK_PART, 2);
	mk_bitmap(&m, 0, 256 + 9, 7);
	mk_end(&m);
	d = opened("child.vhdx", NULL);
	holds(d, MK_MIB, 9 * 4096, 1, 0);
	holds(d, MK_MIB + 9 * 4096, 7 * 4096, 2, 9 * 4096);
	holds(d, MK_MIB + 16 * 4096, 4096, 1, 16 * 4096);
	hv_disk_close(d);
}

/* --- damage ----------------------------------------------------------------------------------------------- */

static void poke32(const char *name, uint64_t at, uint32_t value)
{
	uint8_t bytes[4];

	hv_put_le32(bytes, value);
	mk_poke(tmp_path(&t, name), at, bytes, 4);
}

static void poke64(const char *name, uint64_t at, uint64_t value)
{
	uint8_t bytes[8];

	hv_put_le64(bytes, value);
	mk_poke(tmp_path(&t, name), at, bytes, 8);
}

/* A fresh good file, with one field wrong and all checksums right. */
static void broken(uint64_t at, uint64_t value, unsigned length, int code, const char *says)
{
	struct mk_vhdx m = small("b.vhdx");
	uint8_t bytes[8];

	mk_end(&m);
	hv_put_le64(bytes, value);
	mk_poke(tmp_path(&t, "b.vhdx"), at, bytes, length);
	mk_fix(tmp_path(&t, "b.vhdx"));
	refused("b.vhdx", code, says);
}

Test(vhdx, the_newer_intact_header_is_used)
{
	struct mk_vhdx m = small("a.vhdx");
	struct hv_disk *d;

	m.id = 0x66;
	mk_header(&m, 0, 9);
	mk_end(&m);
	d = opened("a.vhdx", NULL);
	cr_assert_str_eq(property(d, "data id"), LINK_OF("66"));
	hv_disk_close(d);
	poke32("a.vhdx", (64 << 10) + 100, 1);
	d = opened("a.vhdx", NULL);
	cr_assert_str_eq(property(d, "data id"), LINK_OF("11"));
	cr_assert(noted(d, "the header at offset 65536 is damaged"));
	holds(d, 0, MK_MIB, 1, 0);
	hv_disk_close(d);
	poke32("a.vhdx", (128 << 10) + 100, 1);
	refused("a.vhdx", -EBADMSG, "both headers");
}

Test(vhdx, headers_of_one_number_must_be_one)
{
	struct mk_vhdx m = small("a.vhdx");

	mk_header(&m, 0, 8);
	mk_end(&m);
	hv_disk_close(opened("a.vhdx", NULL));
	m = small("a.vhdx");
	m.id = 0x66;
	mk_header(&m, 0, 8);
	mk_end(&m);
	refused("a.vhdx", -EBADMSG, "same sequence number");
}

Test(vhdx, salvage_reads_on_without_headers)
{
	struct hv_disk_options salvage = {.salvage = true};
	struct mk_vhdx m = small("a.vhdx");
	struct hv_disk *d;

	mk_end(&m);
	poke32("a.vhdx", (64 << 10) + 100, 1);
	poke32("a.vhdx", (128 << 10) + 100, 1);
	d = opened("a.vhdx", &salvage);
	cr_assert(noted(d, "both headers"));
	holds(d, 0, MK_MIB, 1, 0);
	hv_disk_close(d);
}

Test(vhdx, one_region_table_is_enough)
{
	struct mk_vhdx m = small("a.vhdx");
	struct hv_disk *d;

	mk_end(&m);
	poke32("a.vhdx", (192 << 10) + 60000, 1);
	d = opened("a.vhdx", NULL);
	cr_assert(noted(d, "the region table at offset 196608 is damaged"));
	holds(d, 2 * MK_MIB, MK_MIB, 3, 0);
	cr_assert_eq(errors_of(d), 0);
	hv_disk_close(d);
	poke32("a.vhdx", (256 << 10) + 60000, 1);
	refused("a.vhdx", -EBADMSG, "both region tables");
}

Test(vhdx, headers_that_can_not_be_are_refused)
{
	broken((128 << 10) + 66, 2, 2, -ENOTSUP, "version 2");
	broken((128 << 10) + 68, 4096, 4, -EBADMSG, "puts the log at");
	broken((128 << 10) + 72, 4096, 8, -EBADMSG, "puts the log at");
	broken((128 << 10) + 72, 0, 8, -EBADMSG, "puts the log at");
	broken((128 << 10) + 72, 1ULL << 63, 8, -EBADMSG, "puts the log at");
	broken((128 << 10) + 72, MK_METADATA, 8, -EBADMSG, "overlaps the log");
}

#define REGION(i, field) ((192 << 10) + 16 + (i)*32 + (field))

Test(vhdx, regions_that_can_not_be_are_refused)
{
	broken((192 << 10) + 8, 2048, 4, -EBADMSG, "2048 entries");
	broken((192 << 10) + 8, 1, 4, -EBADMSG, "names no metadata region");
	broken((192 << 10) + 8, 0, 4, -EBADMSG, "names no block allocation table");
	broken(REGION(0, 16), MK_BAT + 4096, 8, -EBADMSG, "whole MiB");
	broken(REGION(0, 16), 0, 8, -EBADMSG, "whole MiB");
	broken(REGION(0, 16), -MK_MIB, 8, -EBADMSG, "whole MiB");
	broken(REGION(0, 16), MK_METADATA, 8, -EBADMSG, "overlap");
	broken(REGION(0, 16), MK_LOG, 8, -EBADMSG, "overlaps the log");
	broken(REGION(0, 16), 64 * MK_MIB, 8, -EBADMSG, "behind the file's end");
	broken(REGION(0, 24), 0, 4, -EBADMSG, "whole MiB");
	broken(REGION(1, 16), 64 * MK_MIB, 8, -EBADMSG, "metadata table");
	broken(REGION(0, 0), 0x1234, 4, -ENOTSUP,
	       "{00001234-f623-4200-9d64-115e9bfd4a08} must be understood");
}

Test(vhdx, a_region_that_need_not_be_understood_is_passed_over)
{
	struct mk_vhdx m = small("a.vhdx");
	struct hv_disk *d;

	mk_end(&m);
	poke32("a.vhdx", (192 << 10) + 8, 3);
	poke32("a.vhdx", REGION(2, 0), 0x1234);
	poke64("a.vhdx", REGION(2, 16), 64 * MK_MIB);
	poke32("a.vhdx", REGION(2, 24), MK_MIB);
	mk_fix(tmp_path(&t, "a.vhdx"));
	d = opened("a.vhdx", NULL);
	holds(d, 0, MK_MIB, 1, 0);
	hv_disk_close(d);
	poke32("a.vhdx", REGION(2, 28), 1);
	mk_fix(tmp_path(&t, "a.vhdx"));
	refused("a.vhdx", -ENOTSUP, "must be understood");
}

#define ITEM(i, field) (MK_METADATA + 32 + (i)*32 + (field))

Test(vhdx, metadata_that_can_not_be_is_refused)
{
	broken(MK_METADATA, 0, 1, -EBADMSG, "no metadata table");
	broken(MK_METADATA + 10, 2048, 2, -EBADMSG, "no metadata table");
	broken(MK_METADATA + 10, 0, 2, -EBADMSG, "no file parameters");
	broken(MK_METADATA + 10, 1, 2, -EBADMSG, "no virtual disk size");
	broken(MK_METADATA + 10, 3, 2, -EBADMSG, "no logical sector size");
	broken(ITEM(0, 16), 65535, 4, -EBADMSG, "entry 0 of the metadata table");
	broken(ITEM(1, 16), MK_MIB - 4, 4, -EBADMSG, "entry 1 of the metadata table");
	broken(ITEM(1, 16), 0xfffffffc, 4, -EBADMSG, "entry 1 of the metadata table");
	broken(ITEM(1, 20), MK_MIB + 1, 4, -EBADMSG, "entry 1 of the metadata table");
	broken(ITEM(1, 20), 7, 4, -EBADMSG, "virtual disk size in the metadata has 7 bytes");
	broken(ITEM(2, 0), 0x99, 1, -ENOTSUP, "must be understood");
	broken(MK_ITEM(0), 0, 4, -EBADMSG, "file parameters");
	broken(MK_ITEM(0), 512 << 10, 4, -EBADMSG, "1 to 256 MiB");
	broken(MK_ITEM(0), 3 << 20, 4, -EBADMSG, "1 to 256 MiB");
	broken(MK_ITEM(0), 512 << 20, 4, -EBADMSG, "1 to 256 MiB");
	broken(MK_ITEM(0) + 4, 2, 4, -EBADMSG, "no parent locator");
	broken(MK_ITEM(1), 5000, 8, -EBADMSG, "whole sectors");
	broken(MK_ITEM(1), (64ULL << 40) + 512, 8, -EBADMSG, "64 TiB");
	broken(MK_ITEM(1), 1ULL << 40, 8, -EBADMSG, "the disk needs");
	broken(MK_ITEM(3), 1024, 4, -EBADMSG, "512 or 4096");
}

Test(vhdx, metadata_twice_is_refused)
{
	struct mk_vhdx m = small("a.vhdx");
	uint8_t item[32];

	mk_end(&m);
	m.fd = open(tmp_path(&t, "a.vhdx"), O_RDWR);
	cr_assert_eq(pread(m.fd, item, 32, ITEM(1, 0)), 32);
	cr_assert_eq(pwrite(m.fd, item, 32, ITEM(5, 0)), 32);
	close(m.fd);
	poke32("a.vhdx", MK_METADATA + 10, 6);
	refused("a.vhdx", -EBADMSG, "two entries for the virtual disk size");
}

static void bad_entry(uint64_t entry, const char *says)
{
	struct mk_vhdx m = small("b.vhdx");
	struct hv_disk *d;

	mk_entry(&m, 1, entry);
	mk_end(&m);
	d = opened("b.vhdx", NULL);
	holds(d, 0, MK_MIB, 1, 0);
	holds(d, 2 * MK_MIB, MK_MIB, 3, 0);
	unreadable(d, MK_MIB, says);
	unreadable(d, MK_MIB + 12345, says);
	cr_assert_gt(errors_of(d), 0);
	hv_disk_close(d);
}

Test(vhdx, entries_of_the_bat_that_can_not_be_are_damage)
{
	bad_entry(4, "a state that is not known");
	bad_entry(5, "a state that is not known");
	bad_entry(8 * MK_MIB | MK_PART, "only a differencing file");
	bad_entry(MK_FULL, "leads into the header section");
	bad_entry(MK_LOG | MK_FULL, "leads into the log");
	bad_entry(MK_METADATA | MK_FULL, "leads into the metadata");
	bad_entry(MK_BAT | MK_FULL, "leads into the block allocation table");
	bad_entry(7 * MK_MIB | MK_FULL, "behind the file's end");
	bad_entry(~(MK_MIB - 1) | MK_FULL, "behind the file's end");
	bad_entry(5 * MK_MIB | 8 | MK_FULL, "reserved bits");
}

Test(vhdx, two_blocks_in_one_place_are_found_by_a_check)
{
	struct mk_vhdx m = small("a.vhdx");
	struct hv_disk *d;

	mk_entry(&m, 1, (MK_BAT + MK_MIB) | MK_FULL);
	mk_end(&m);
	d = opened("a.vhdx", NULL);
	cr_assert_eq(errors_of(d), 1);
	hv_disk_close(d);
}

Test(vhdx, room_that_nothing_uses_is_found_by_a_check)
{
	struct hv_disk_check check = {0};
	struct mk_vhdx m = small("a.vhdx");
	struct hv_disk *d;

	mk_room(&m, 3 * MK_MIB, 9);
	mk_end(&m);
	d = opened("a.vhdx", NULL);
	cr_assert_eq(hv_disk_check(d, &check, &err), 0);
	cr_assert_eq(check.errors, 0);
	cr_assert_eq(check.leaks, 1);
	cr_assert_eq(check.blocks, 5);
	cr_assert_eq(check.used, 3);
	hv_disk_close(d);
}

Test(vhdx, a_part_without_a_sector_bitmap_is_damage)
{
	struct hv_disk *d;
	struct mk_vhdx m;

	make_chain("relative_path", "base.vhdx");
	m = child("child.avhdx", "relative_path", "base.vhdx");
	mk_entry(&m, 4096, 0);
	mk_end(&m);
	d = opened("child.avhdx", NULL);
	holds(d, MK_MIB, MK_MIB, 11, 0);
	unreadable(d, 2 * MK_MIB, "sector bitmap");
	cr_assert_gt(errors_of(d), 0);
	hv_disk_close(d);
}

static void bad_locator(uint64_t at, uint64_t value, unsigned length, int code, const char *says)
{
	uint8_t bytes[8];

	make_chain("relative_path", "base.vhdx");
	hv_put_le64(bytes, value);
	mk_poke(tmp_path(&t, "child.avhdx"), MK_ITEM(5) + at, bytes, length);
	refused("child.avhdx", code, says);
}

Test(vhdx, locators_that_can_not_be_are_refused)
{
	bad_locator(0, 0x99, 1, -ENOTSUP, "a locator of type");
	bad_locator(18, 60, 2, -EBADMSG, "60 pairs");
	bad_locator(20, 0xffffffff, 4, -EBADMSG, "pair 0");
	bad_locator(24, 4000, 4, -EBADMSG, "pair 0");
	bad_locator(28, 0, 2, -EBADMSG, "pair 0");
	bad_locator(28, 3, 2, -EBADMSG, "pair 0");
	bad_locator(30, 4, 2, -EBADMSG, "a GUID in braces is expected");
	bad_locator(18, 0, 2, -EBADMSG, "no parent_linkage");
	bad_locator(18, 1, 2, -EBADMSG, "no path");
}

/* --- truncation ------------------------------------------------------------------------------------------- */

/* What a file that was cut gives is refused, or is what the whole gives: at each length. */
static void cut_at(const char *name, uint64_t length, const uint8_t *should, size_t size)
{
	struct hv_disk *d = NULL;
	uint8_t *is = malloc(size);

	cr_assert_not_null(is);
	cr_assert_eq(truncate(tmp_path(&t, name), (off_t)length), 0);
	memset(&err, 0, sizeof(err));
	if (hv_disk_open(tmp_path(&t, name), NULL, &d, &err) < 0) {
		cr_assert_str_not_empty(err.text);
	} else if (strcmp(property(d, "log"), "") == 0) {
		/* nothing of its mark is left: a raw file */
		cr_assert_lt(length, 8);
		hv_disk_close(d);
	} else {
		int rc = hv_disk_read(d, io, is, size, 0, &err);

		cr_assert(rc == -EBADMSG || (rc == 0 && memcmp(is, should, size) == 0), "cut at %llu: %d",
			  (unsigned long long)length, rc);
		cr_assert(rc < 0 || length >= 7 * MK_MIB, "cut at %llu", (unsigned long long)length);
		hv_disk_close(d);
	}
	free(is);
}

Test(vhdx, a_cut_file_never_gives_other_bytes)
{
	struct mk_vhdx m = {.size = 3 * MK_MIB};
	size_t size = 3 * MK_MIB;
	uint8_t *should = calloc(1, size);
	uint64_t at;

	cr_assert_not_null(should);
	mk_begin(&m, tmp_path(&t, "a.vhdx"));
	mk_block(&m, 0, MK_FULL, 1);
	mk_block(&m, 1, MK_FULL, 2);
	mk_block(&m, 2, MK_FULL, 3);
	mk_end(&m);
	for (uint32_t i = 0; i < 3; i++)
		mk_pattern(should + i * MK_MIB, MK_MIB, i + 1, 0);
	for (at = 7 * MK_MIB; at > 4 * MK_MIB; at -= 4096 * 5)
		cut_at("a.vhdx", at, should, size);
	for (at = 3 * MK_MIB + 66 * 1024; at > 3 * MK_MIB - 2048; at -= 512)
		cut_at("a.vhdx", at, should, size);
	for (at = 2 * MK_MIB + 70 * 1024; at > 2 * MK_MIB - 2048; at -= 512)
		cut_at("a.vhdx", at, should, size);
	for (at = 322 * 1024; at > 0; at -= 512)
		cut_at("a.vhdx", at, should, size);
	free(should);
}
