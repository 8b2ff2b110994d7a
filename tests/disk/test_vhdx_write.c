/*
 * VHDX, writing: images that qemu-img accepts and reads back, in all block and sector sizes; changes of
 * existing files, whose table changes go through the log, so that a crash at any moment leaves old or new.
 */
#include <criterion/criterion.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/bytes.h"
#include "disk/format.h"
#include "disk/output.h"
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

TestSuite(vhdx_write, .init = setup, .fini = teardown, .timeout = 120);

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

static bool have_qemu(void)
{
	return shell("command -v qemu-img >/dev/null") == 0;
}

static struct hv_disk *opened(const char *name, bool writable)
{
	struct hv_disk_options options = {.writable = writable};
	struct hv_disk *d = NULL;

	cr_assert_eq(hv_disk_open(tmp_path(&t, name), &options, &d, &err), 0, "%s", err.text);
	return d;
}

static struct hv_disk *created(const char *name, const struct hv_disk_create *create)
{
	struct hv_disk *d = NULL;

	cr_assert_eq(hv_disk_create(tmp_path(&t, name), create, &d, &err), 0, "%s", err.text);
	return d;
}

static void put(struct hv_disk *d, uint64_t offset, size_t length, uint32_t seed)
{
	uint8_t *bytes = malloc(length);

	cr_assert_not_null(bytes);
	mk_pattern(bytes, length, seed, 0);
	cr_assert_eq(hv_disk_write(d, io, bytes, length, offset, &err), 0, "%s", err.text);
	free(bytes);
}

static void holds(struct hv_disk *d, uint64_t offset, size_t length, uint32_t seed)
{
	uint8_t *is = malloc(length), *should = calloc(1, length);

	cr_assert(is && should);
	if (seed)
		mk_pattern(should, length, seed, 0);
	cr_assert_eq(hv_disk_read(d, io, is, length, offset, &err), 0, "%s", err.text);
	cr_assert_eq(memcmp(is, should, length), 0, "bytes at %llu", (unsigned long long)offset);
	free(is);
	free(should);
}

static void is_sound_but(const char *name, unsigned leaks)
{
	struct hv_disk *d = opened(name, false);
	struct hv_disk_check check = {0};
	struct hv_disk_info info;

	cr_assert_eq(hv_disk_check(d, &check, &err), 0, "%s", err.text);
	cr_assert_eq(check.errors, 0);
	cr_assert_leq(check.leaks, leaks);
	hv_disk_info(d, &info);
	cr_assert_null(info.notes[0], "%s", info.notes[0]);
	hv_disk_close(d);
	/* qemu-img knows no sectors but of 512 bytes. */
	if (have_qemu() && info.sector_size == 512 && !info.has_parent)
		cr_assert_eq(shell("qemu-img check -q -f vhdx %s/%s", t.dir, name), 0);
}

static void is_sound(const char *name)
{
	is_sound_but(name, 0);
}

static void round_trip(const struct hv_disk_create *create)
{
	uint64_t size = create->size, last = size - 100001;
	struct hv_disk *d = created("a.vhdx", create);

	put(d, 0, 70001, 1);
	put(d, last, (size_t)(size - last), 2);
	cr_assert_eq(hv_disk_commit(d, &err), 0, "%s", err.text);
	hv_disk_close(d);
	is_sound("a.vhdx");
	d = opened("a.vhdx", false);
	cr_assert_eq(hv_disk_size(d), hv_round_up(size, create->sector_size ? create->sector_size : 512));
	holds(d, 0, 70001, 1);
	holds(d, 70001, 29999, 0);
	holds(d, last, (size_t)(size - last), 2);
	hv_disk_close(d);
	if (!have_qemu() || create->sector_size == 4096 || size % 512 || size > 1ULL << 30)
		return;
	/* Both readers say the same of all of it. */
	cr_assert_eq(shell("cd %s && qemu-img convert -f vhdx -O raw a.vhdx q.raw", t.dir), 0);
	d = opened("q.raw", false);
	cr_assert_eq(hv_disk_size(d), size);
	holds(d, 0, 70001, 1);
	holds(d, 70001, 29999, 0);
	holds(d, last, (size_t)(size - last), 2);
	hv_disk_close(d);
}

Test(vhdx_write, images_of_all_shapes_are_read_back)
{
	static const struct hv_disk_create shapes[] = {
		{.size = 64 << 20},
		{.size = 250001},
		{.size = (5 << 20) + 512, .block_size = 1 << 20},
		{.size = (5 << 20) + 7, .block_size = 1 << 20},
		{.size = (300 << 20) + 512, .block_size = 256 << 20},
		{.size = 1ULL << 40, .block_size = 1 << 20},
		{.size = 3ULL << 40},
		{.size = (9 << 20) + 4096, .sector_size = 4096, .block_size = 2 << 20},
		{.size = 7777777, .sector_size = 4096},
		{.size = 70 << 20, .subformat = "fixed"},
		{.size = (6 << 20) + 1024, .subformat = "fixed", .block_size = 1 << 20},
		{.size = 70 << 20, .subformat = "dynamic", .full = true},
	};

	for (unsigned i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
		struct hv_disk_create create = shapes[i];

		create.format = "vhdx";
		round_trip(&create);
	}
}

Test(vhdx_write, the_kind_is_recorded)
{
	struct hv_disk_create create = {.format = "vhdx", .size = 4 << 20, .subformat = "fixed"};
	struct hv_disk *d = created("a.vhdx", &create);
	struct hv_disk_info info;
	struct hv_run run;

	cr_assert_eq(hv_disk_commit(d, &err), 0);
	hv_disk_close(d);
	d = opened("a.vhdx", false);
	hv_disk_info(d, &info);
	cr_assert_str_eq(info.subformat, "fixed");
	cr_assert_eq(info.block_size, 32 << 20);
	cr_assert_eq(info.physical_sector_size, 4096);
	cr_assert_eq(hv_disk_map(d, 0, UINT64_MAX, &run, &err), 0);
	cr_assert(run.fresh);
	cr_assert_eq(run.length, 4 << 20);
	hv_disk_close(d);
}

static void usage(struct hv_disk_create create)
{
	struct hv_disk *d = NULL;

	create.format = "vhdx";
	cr_assert_eq(hv_disk_create(tmp_path(&t, "a.vhdx"), &create, &d, &err), -EINVAL);
	cr_assert_eq(err.status, HV_EXIT_USAGE);
	cr_assert_eq(access(t.path, F_OK), -1);
}

Test(vhdx_write, what_the_format_can_not_hold_is_refused)
{
	usage((struct hv_disk_create){.size = 0});
	usage((struct hv_disk_create){.size = (64ULL << 40) + 1});
	usage((struct hv_disk_create){.size = 1 << 20, .block_size = 65536});
	usage((struct hv_disk_create){.size = 1 << 20, .block_size = 3 << 20});
	usage((struct hv_disk_create){.size = 1 << 20, .block_size = 512 << 20});
	usage((struct hv_disk_create){.size = 1 << 20, .sector_size = 1024});
}

/* As the converter does it: only what is data is written to a placed block. */
Test(vhdx_write, fresh_room_reads_as_zeros)
{
	struct hv_disk_create create = {.format = "vhdx", .size = 100 << 20};
	struct hv_disk *d = created("a.vhdx", &create);
	struct hv_run run;

	cr_assert_eq(d->format->place(d, 40 << 20, 1, &run, &err), 0, "%s", err.text);
	cr_assert(run.fresh);
	cr_assert_eq(run.offset, 32 << 20);
	cr_assert_eq(run.length, 32 << 20);
	cr_assert_eq(hv_disk_file_write(d->file[0], "here", 4, run.at + (8 << 20), &err), 0);
	cr_assert_eq(d->format->commit(d, &run, &err), 0);
	cr_assert_eq(d->format->place(d, 96 << 20, 4 << 20, &run, &err), 0);
	cr_assert_eq(run.length, 4 << 20);
	cr_assert_eq(d->format->commit(d, &run, &err), 0);
	cr_assert_eq(hv_disk_commit(d, &err), 0);
	hv_disk_close(d);
	is_sound("a.vhdx");
	d = opened("a.vhdx", false);
	holds(d, 32 << 20, 8 << 20, 0);
	holds(d, (40 << 20) + 4, (8 << 20) - 4, 0);
	hv_disk_close(d);
}

Test(vhdx_write, an_image_that_was_cut_off_goes_on_to_the_same_bytes)
{
	struct hv_disk_create create = {.format = "vhdx", .size = 20 << 20, .block_size = 1 << 20};
	struct hv_output *output;
	struct hv_disk *d;

	cr_assert_eq(hv_output_begin(tmp_path(&t, "a.vhdx"), false, &output, &err), 0, "%s", err.text);
	cr_assert_eq(hv_disk_create_on(output, &create, false, &d, &err), 0, "%s", err.text);
	put(d, 0, 3 << 20, 1);
	put(d, 9 << 20, 1 << 20, 2);
	cr_assert_eq(hv_disk_flush(d, &err), 0);
	put(d, 15 << 20, 1 << 20, 3); /* not told to the file's tables before the end */
	hv_output_keep(output, true);
	hv_disk_close(d);

	cr_assert_eq(hv_output_begin(tmp_path(&t, "a.vhdx"), true, &output, &err), 0, "%s", err.text);
	cr_assert_eq(hv_disk_create_on(output, &create, true, &d, &err), 0, "%s", err.text);
	holds(d, 0, 3 << 20, 1);
	holds(d, 15 << 20, 1 << 20, 0);
	put(d, 12 << 20, 1 << 20, 4);
	put(d, 15 << 20, 1000, 3);
	cr_assert_eq(hv_disk_commit(d, &err), 0, "%s", err.text);
	hv_disk_close(d);
	is_sound("a.vhdx");
	d = opened("a.vhdx", false);
	holds(d, 0, 3 << 20, 1);
	holds(d, 9 << 20, 1 << 20, 2);
	holds(d, 12 << 20, 1 << 20, 4);
	holds(d, 15 << 20, 1000, 3);
	holds(d, (15 << 20) + 1000, (1 << 20) - 1000, 0);
	hv_disk_close(d);
}

Test(vhdx_write, another_image_is_not_gone_on_with)
{
	struct hv_disk_create create = {.format = "vhdx", .size = 20 << 20, .block_size = 1 << 20};
	struct hv_output *output;
	struct hv_disk *d;

	cr_assert_eq(hv_output_begin(tmp_path(&t, "a.vhdx"), false, &output, &err), 0, "%s", err.text);
	cr_assert_eq(hv_disk_create_on(output, &create, false, &d, &err), 0, "%s", err.text);
	hv_output_keep(output, true);
	hv_disk_close(d);
	create.size = 21 << 20;
	cr_assert_eq(hv_output_begin(tmp_path(&t, "a.vhdx"), true, &output, &err), 0, "%s", err.text);
	cr_assert_eq(hv_disk_create_on(output, &create, true, &d, &err), -ESTALE, "%s", err.text);
}

/* --- existing files --------------------------------------------------------------------------------------- */

static void make_base(const char *name)
{
	struct mk_vhdx m = {.size = 6 * MK_MIB};

	mk_begin(&m, tmp_path(&t, name));
	mk_block(&m, 0, MK_FULL, 1);
	mk_block(&m, 1, MK_FULL, 2);
	mk_end(&m);
}

static void ids(const char *name, uint8_t id[48])
{
	uint8_t h[2][4096];
	int fd = open(tmp_path(&t, name), O_RDONLY | O_CLOEXEC);

	cr_assert_eq(pread(fd, h[0], 4096, 64 << 10), 4096);
	cr_assert_eq(pread(fd, h[1], 4096, 128 << 10), 4096);
	close(fd);
	memcpy(id, h[hv_le64(h[1] + 8) > hv_le64(h[0] + 8)] + 16, 48);
}

Test(vhdx_write, bytes_change_in_place_and_in_new_blocks)
{
	struct hv_disk *d;

	make_base("a.vhdx");
	d = opened("a.vhdx", true);
	put(d, 100, 1000, 3);
	put(d, 4 * MK_MIB + 5, 70000, 4);
	put(d, 2 * MK_MIB - 10, 20, 5);
	holds(d, 100, 1000, 3);
	cr_assert_eq(hv_disk_flush(d, &err), 0);
	hv_disk_close(d);
	is_sound("a.vhdx");
	d = opened("a.vhdx", false);
	holds(d, 0, 100, 1);
	holds(d, 100, 1000, 3);
	holds(d, 2 * MK_MIB - 10, 20, 5);
	holds(d, 2 * MK_MIB + 10, 1000, 0);
	holds(d, 3 * MK_MIB, MK_MIB + 5, 0);
	holds(d, 4 * MK_MIB + 5, 70000, 4);
	holds(d, 5 * MK_MIB, MK_MIB, 0);
	hv_disk_close(d);
}

Test(vhdx_write, the_ids_change_with_the_first_byte_and_not_before)
{
	uint8_t before[48], after[48];
	struct hv_disk *d;

	make_base("a.vhdx");
	ids("a.vhdx", before);
	hv_disk_close(opened("a.vhdx", true));
	ids("a.vhdx", after);
	cr_assert_arr_eq(before, after, 48);
	d = opened("a.vhdx", true);
	put(d, 0, 1, 9); /* a byte whose place is there already */
	ids("a.vhdx", after);
	cr_assert_arr_neq(before, after, 16);
	cr_assert_arr_neq(before + 16, after + 16, 16);
	hv_disk_close(d);
}

Test(vhdx_write, zeroed_blocks_give_their_room_back_to_the_host)
{
	struct hv_disk *d;
	struct hv_disk_info before, after;

	make_base("a.vhdx");
	d = opened("a.vhdx", true);
	hv_disk_info(d, &before);
	cr_assert_eq(hv_disk_zero(d, io, 0, 6 * MK_MIB, &err), 0, "%s", err.text);
	hv_disk_info(d, &after);
	cr_assert_lt(after.allocated, before.allocated);
	holds(d, 0, 6 * MK_MIB, 0);
	hv_disk_close(d);
	is_sound("a.vhdx");
}

#define LINK_OF(id) "{" id id id id "-" id id "-" id id "-" id id "-" id id id id id id "}"

Test(vhdx_write, a_child_takes_the_rest_of_a_block_from_its_parent)
{
	struct mk_vhdx m = {.size = 6 * MK_MIB,
			    .id = 0x22,
			    .key = {"parent_linkage", "relative_path"},
			    .value = {LINK_OF("11"), "base.vhdx"}};
	struct hv_disk *d;

	make_base("base.vhdx");
	mk_begin(&m, tmp_path(&t, "child.vhdx"));
	mk_block(&m, 5, MK_PART, 6);
	mk_bitmap(&m, 0, 5 * 2048, 8);
	mk_end(&m);
	d = opened("child.vhdx", true);
	put(d, 0, 512, 3);
	cr_assert_eq(hv_disk_zero(d, io, MK_MIB, MK_MIB, &err), 0, "%s", err.text);
	put(d, 5 * MK_MIB, 4096, 7);
	cr_assert_eq(hv_disk_write(d, io, "x", 1, 5 * MK_MIB + 4096, &err), -ENOTSUP);
	holds(d, 0, 512, 3);
	hv_disk_close(d);
	is_sound("child.vhdx");
	d = opened("child.vhdx", false);
	holds(d, 0, 512, 3);
	{
		uint8_t is[1000], should[1512];

		mk_pattern(should, sizeof(should), 1, 0);
		cr_assert_eq(hv_disk_read(d, io, is, 1000, 512, &err), 0);
		cr_assert_arr_eq(is, should + 512, 1000);
	}
	holds(d, MK_MIB, MK_MIB, 0);
	holds(d, 5 * MK_MIB, 4096, 7);
	holds(d, 5 * MK_MIB + 4096, 4096, 0);
	hv_disk_close(d);
	d = opened("base.vhdx", false);
	holds(d, MK_MIB, MK_MIB, 2);
	hv_disk_close(d);
}

/* A copy of the file after each step of a write is what a crash could leave (but for the order in which a
 * disk writes what wasn't flushed between): it opens, and has old or new bytes. */
Test(vhdx_write, what_a_crash_leaves_is_old_or_new)
{
	struct hv_disk_options replay = {.writable = true, .replay_log = true};
	struct hv_disk *d, *c;

	make_base("a.vhdx");
	d = opened("a.vhdx", true);
	for (unsigned i = 2; i < 6; i++) {
		put(d, i * MK_MIB, MK_MIB, 10 + i);
		cr_assert_eq(shell("cp --sparse=always %s/a.vhdx %s/crash.vhdx", t.dir, t.dir), 0);
		c = opened("crash.vhdx", false);
		for (unsigned j = 2; j < 6; j++)
			holds(c, j * MK_MIB, MK_MIB, j <= i ? 10 + j : 0);
		holds(c, 0, MK_MIB, 1);
		hv_disk_close(c);
		/* The table's sector lost: the log has it. */
		mk_poke(tmp_path(&t, "crash.vhdx"), MK_BAT, (uint8_t[64]){0}, 64);
		cr_assert_eq(hv_disk_open(t.path, &replay, &c, &err), 0, "%s", err.text);
		for (unsigned j = 2; j < 6; j++)
			holds(c, j * MK_MIB, MK_MIB, j <= i ? 10 + j : 0);
		holds(c, 0, MK_MIB, 1);
		put(c, 0, 512, 99);
		hv_disk_close(c);
		is_sound("crash.vhdx");
	}
	hv_disk_close(d);
	is_sound("a.vhdx");
}

/* More blocks than one log entry tells of, and more entries than the log has room for side by side. */
Test(vhdx_write, a_long_session_goes_around_the_log)
{
	struct hv_disk_create create = {.format = "vhdx", .size = 1ULL << 40, .block_size = 1 << 20};
	struct hv_disk *d = created("a.vhdx", &create);

	cr_assert_eq(hv_disk_commit(d, &err), 0);
	hv_disk_close(d);
	d = opened("a.vhdx", true);
	for (unsigned i = 0; i < 300; i++)
		put(d, (uint64_t)i * 3 * MK_MIB + 777, 100, i + 1);
	hv_disk_close(d);
	is_sound("a.vhdx");
	d = opened("a.vhdx", false);
	for (unsigned i = 0; i < 300; i++)
		holds(d, (uint64_t)i * 3 * MK_MIB + 777, 100, i + 1);
	hv_disk_close(d);
}

Test(vhdx_write, what_qemu_img_made_can_be_changed)
{
	struct hv_disk *d;

	if (!have_qemu())
		cr_skip_test("no qemu-img here");
	cr_assert_eq(shell("qemu-img create -q -f vhdx -o block_size=1M %s/a.vhdx 9M", t.dir), 0);
	d = opened("a.vhdx", true);
	put(d, 5000, 3 << 20, 1);
	cr_assert_eq(hv_disk_zero(d, io, 2 * MK_MIB, MK_MIB, &err), 0);
	put(d, 8 * MK_MIB + 512, 512, 2);
	hv_disk_close(d);
	is_sound_but("a.vhdx", 1); /* qemu-img itself leaves room that nothing uses */
	cr_assert_eq(shell("cd %s && qemu-img convert -f vhdx -O raw a.vhdx q.raw", t.dir), 0);
	d = opened("q.raw", false);
	holds(d, 5000, (2 << 20) - 5000, 1);
	holds(d, 2 * MK_MIB, MK_MIB, 0);
	holds(d, 8 * MK_MIB + 512, 512, 2);
	hv_disk_close(d);
}
