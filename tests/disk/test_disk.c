/*
 * The disk interface over raw images: opening, map, reads and writes along it, creation under a temporary
 * name; and the policy on which other files an image may lead to, asked directly.
 */
#include <criterion/criterion.h>
#include <sys/stat.h>

#include "disk/chain.h"
#include "disk/table.h"
#include "tmp.h"

static struct tmp t;
static struct hv_error err;

static void setup(void)
{
	tmp_make(&t);
}

static void teardown(void)
{
	tmp_drop(&t);
}

TestSuite(disk, .init = setup, .fini = teardown);
TestSuite(chain, .init = setup, .fini = teardown);
TestSuite(table, .init = setup, .fini = teardown);

Test(disk, a_raw_file_is_a_disk_with_its_own_holes)
{
	struct hv_disk_io *io = hv_disk_io_new();
	struct hv_disk_info info;
	struct hv_disk *d;
	struct hv_run run;
	char buf[16];

	tmp_put(&t, "a.raw", "first", 5, 0);
	tmp_put(&t, "a.raw", "last", 4, (8 << 20) - 4 + 1);
	cr_assert_eq(hv_disk_open(t.path, NULL, &d, &err), 0, "%s", err.text);
	hv_disk_info(d, &info);
	cr_assert_str_eq(info.format, "raw");
	cr_assert_eq(info.size, (8 << 20) + 1);
	cr_assert_lt(info.allocated, 1 << 20);
	cr_assert_eq(hv_disk_map(d, 0, UINT64_MAX, &run, &err), 0);
	cr_assert_eq(run.kind, HV_RUN_DATA);
	cr_assert_eq(run.at, 0);
	cr_assert_eq(hv_disk_map(d, 1 << 20, UINT64_MAX, &run, &err), 0);
	cr_assert_eq(run.kind, HV_RUN_HOLE);
	cr_assert_null(run.layer);
	cr_assert_eq(hv_disk_read(d, io, buf, 5, (8 << 20) - 4, &err), 0, "%s", err.text);
	cr_assert_arr_eq(buf, "\0last", 5);
	cr_assert_eq(hv_disk_read(d, io, buf, 2, 8 << 20, &err), -EINVAL);
	cr_assert_eq(hv_disk_map(d, (8 << 20) + 1, 1, &run, &err), -EINVAL);
	cr_assert_eq(hv_disk_write(d, io, "x", 1, 0, &err), -EROFS);
	hv_disk_close(d);
	hv_disk_io_free(io);
}

Test(disk, a_part_of_a_file_is_a_disk)
{
	struct hv_disk_options o = {.at = 3, .length = 4, .format = "raw"};
	struct hv_disk_io *io = hv_disk_io_new();
	struct hv_disk *d;
	char buf[4];

	tmp_put(&t, "a.tar", "xyzdiskabc", 10, 0);
	cr_assert_eq(hv_disk_open(t.path, &o, &d, &err), 0, "%s", err.text);
	cr_assert_eq(hv_disk_size(d), 4);
	cr_assert_eq(hv_disk_read(d, io, buf, 4, 0, &err), 0);
	cr_assert_arr_eq(buf, "disk", 4);
	hv_disk_close(d);
	o.length = 8;
	cr_assert_eq(hv_disk_open(t.path, &o, &d, &err), -EBADMSG);
	cr_assert_eq(err.status, HV_EXIT_UNSAFE);
	hv_disk_io_free(io);
}

Test(disk, what_is_no_file_is_refused)
{
	struct hv_disk *d;

	cr_assert_eq(hv_disk_open(t.dir, NULL, &d, &err), -EISDIR);
	cr_assert_eq(err.status, HV_EXIT_FAILED);
	cr_assert_eq(mkfifo(tmp_path(&t, "fifo"), 0600), 0);
	cr_assert_eq(hv_disk_open(t.path, NULL, &d, &err), -EBADMSG);
	cr_assert_eq(hv_disk_open(tmp_path(&t, "none"), NULL, &d, &err), -ENOENT);
	cr_assert_eq(hv_disk_open(t.path, &(struct hv_disk_options){.format = "doc"}, &d, &err), -EINVAL);
	cr_assert_eq(err.status, HV_EXIT_USAGE);
}

Test(disk, writes_and_zeros_of_a_raw_disk_are_what_is_read)
{
	struct hv_disk_options o = {.writable = true};
	struct hv_disk_io *io = hv_disk_io_new();
	uint8_t model[1 << 16] = {0}, buf[1 << 16];
	struct hv_disk *d;
	unsigned seed = 7;

	tmp_put(&t, "a.raw", "", 1, sizeof(model) - 1);
	cr_assert_eq(hv_disk_open(t.path, &o, &d, &err), 0, "%s", err.text);
	for (unsigned i = 0; i < 200; i++) {
		size_t at = (size_t)rand_r(&seed) % sizeof(model),
		       n = (size_t)rand_r(&seed) % (sizeof(model) - at);
		bool zero = i % 3 == 0;

		memset(model + at, zero ? 0 : (int)i, n);
		if (zero)
			cr_assert_eq(hv_disk_zero(d, io, at, n, &err), 0, "%s", err.text);
		else
			cr_assert_eq(hv_disk_write(d, io, model + at, n, at, &err), 0, "%s", err.text);
		cr_assert_eq(hv_disk_read(d, io, buf, sizeof(buf), 0, &err), 0);
		cr_assert_arr_eq(buf, model, sizeof(buf), "step %u", i);
	}
	cr_assert_eq(hv_disk_flush(d, &err), 0);
	cr_assert_eq(hv_disk_write(d, io, "x", 1, sizeof(model), &err), -EINVAL);
	hv_disk_close(d);
	hv_disk_io_free(io);
}

Test(disk, a_new_image_has_its_name_only_when_it_is_complete)
{
	struct hv_disk_create c = {.size = 12345};
	struct hv_disk_io *io = hv_disk_io_new();
	struct hv_disk *d;
	struct stat st;

	cr_assert_eq(hv_disk_create(tmp_path(&t, "new.raw"), &c, &d, &err), 0, "%s", err.text);
	cr_assert_eq(hv_disk_write(d, io, "hello", 5, 100, &err), 0, "%s", err.text);
	cr_assert_lt(stat(t.path, &st), 0);
	cr_assert_eq(hv_disk_commit(d, &err), 0, "%s", err.text);
	hv_disk_close(d);
	cr_assert_eq(stat(t.path, &st), 0);
	cr_assert_eq(st.st_size, 12345);
	/* Given up: neither the name nor a leftover. */
	cr_assert_eq(hv_disk_create(tmp_path(&t, "gone.raw"), &c, &d, &err), 0, "%s", err.text);
	hv_disk_close(d);
	cr_assert_lt(stat(t.path, &st), 0);
	cr_assert_lt(stat(tmp_path(&t, "gone.raw.partial"), &st), 0);
	hv_disk_io_free(io);
}

Test(disk, what_can_not_be_made_is_said)
{
	struct hv_disk *d;

	cr_assert_eq(
		hv_disk_create(tmp_path(&t, "a"), &(struct hv_disk_create){.format = "floppy"}, &d, &err),
		-EINVAL);
	cr_assert_eq(hv_disk_create(t.path, &(struct hv_disk_create){.subformat = "thin"}, &d, &err),
		     -EINVAL);
	cr_assert_eq(hv_disk_create(t.path, &(struct hv_disk_create){.sector_size = 520}, &d, &err), -EINVAL);
	cr_assert_eq(err.status, HV_EXIT_USAGE);
}

/* --- which files an image may lead to --------------------------------------------------------------------- */

/* As a format's open would ask, for an image dir/vm/a.raw. */
static int ask(const char *name, const char *external, bool follow)
{
	struct hv_disk_options o = {.external = &external, .externals = external != NULL};
	struct hv_disk_file *f;
	struct hv_disk *d;
	int rc;

	mkdir(tmp_path(&t, "vm"), 0700);
	mkdir(tmp_path(&t, "vm/sub"), 0700);
	tmp_put(&t, "vm/a.vmdk", "x", 1, 0);
	tmp_put(&t, "vm/sub/b.raw", "x", 1, 0);
	tmp_put(&t, "outside.raw", "x", 1, 0);
	cr_assert_eq(hv_disk_new(&hv_disk_format_raw, tmp_path(&t, "vm/a.vmdk"), &o, &d, &err), 0);
	cr_assert_eq(hv_disk_policy_new(d->path, &o, &d->policy, &err), 0);
	d->follow = follow;
	rc = hv_disk_policy_open(d, name, false, &f, &err);
	if (rc == 0)
		hv_disk_file_free(f);
	hv_disk_close(d);
	return rc;
}

Test(chain, files_in_the_own_folder_tree_are_followed)
{
	cr_assert_eq(ask("a.vmdk", NULL, true), 0, "%s", err.text);
	cr_assert_eq(ask("sub/b.raw", NULL, true), 0, "%s", err.text);
	cr_assert_eq(ask("./sub/../sub/b.raw", NULL, true), 0, "%s", err.text);
	cr_assert_eq(ask("none.raw", NULL, true), -ENOENT);
}

Test(chain, files_outside_are_refused_until_the_user_names_them)
{
	char outside[600];

	cr_assert_eq(ask("../outside.raw", NULL, true), -EBADMSG);
	cr_assert(strstr(err.text, "--allow-external"), "%s", err.text);
	cr_assert_eq(ask("/etc/passwd", NULL, true), -EBADMSG);
	cr_assert_eq(ask("/etc/passwd", "/etc/hostname", true), -EBADMSG);
	cr_assert_eq(ask("../outside.raw", "../outside.raw", true), 0, "%s", err.text);
	snprintf(outside, sizeof(outside), "%s", tmp_path(&t, "outside.raw"));
	cr_assert_eq(ask("../outside.raw", outside, true), 0, "%s", err.text);
	cr_assert_eq(ask(outside, NULL, true), -EBADMSG);
}

Test(chain, links_out_and_files_of_other_kinds_are_refused)
{
	mkdir(tmp_path(&t, "vm"), 0700);
	cr_assert_eq(symlink("../outside.raw", tmp_path(&t, "vm/link.raw")), 0);
	cr_assert_eq(symlink("sub/b.raw", tmp_path(&t, "vm/inner.raw")), 0);
	cr_assert_eq(mkfifo(tmp_path(&t, "vm/fifo"), 0600), 0);
	cr_assert_eq(ask("link.raw", NULL, true), -EBADMSG);
	cr_assert_eq(ask("inner.raw", NULL, true), 0, "%s", err.text);
	cr_assert_eq(ask("fifo", NULL, true), -EBADMSG);
	cr_assert_eq(ask("sub", NULL, true), -EBADMSG);
	cr_assert_eq(ask("", NULL, true), -EBADMSG);
	cr_assert_eq(ask("/dev/null", "/dev/null", true), -EBADMSG);
}

Test(chain, content_alone_leads_nowhere)
{
	cr_assert_eq(ask("sub/b.raw", NULL, false), -EBADMSG);
	cr_assert(strstr(err.text, "--format"), "%s", err.text);
}

Test(chain, windows_names_become_ours)
{
	static const struct {
		const char *name, *turned;
		bool relative;
	} rows[] = {
		{".\\base.vhdx", "./base.vhdx", true},
		{"..\\Disks\\base.vhdx", "../Disks/base.vhdx", true},
		{"C:\\VMs\\base.vhdx", "/VMs/base.vhdx", false},
		{"\\\\?\\C:\\VMs\\b.vhdx", "/VMs/b.vhdx", false},
		{"\\\\?\\Volume{26a2}\\b.vhdx", "Volume{26a2}/b.vhdx", false},
		{"\\\\server\\share\\b.vhdx", "//server/share/b.vhdx", false},
		{"", "", true},
	};

	for (unsigned i = 0; i < HV_ARRAY_SIZE(rows); i++) {
		bool relative;
		char *turned = hv_disk_windows_name(rows[i].name, &relative);

		cr_assert_str_eq(turned, rows[i].turned);
		cr_assert_eq(relative, rows[i].relative, "%s", rows[i].name);
		free(turned);
	}
	cr_assert_str_eq(hv_disk_base_name("C:\\VMs\\b.vhdx"), "b.vhdx");
	cr_assert_str_eq(hv_disk_base_name("dir/b"), "b");
}

/* --- tables ----------------------------------------------------------------------------------------------- */

static struct hv_disk_file *open_file(const char *name, uint64_t size)
{
	int fd = open(tmp_path(&t, name), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	struct hv_disk_file *f;

	cr_assert_eq(ftruncate(fd, (off_t)size), 0);
	cr_assert_eq(hv_disk_file_new(fd, t.path, 0, 0, &f, &err), 0, "%s", err.text);
	return f;
}

Test(table, holds_more_entries_than_pages_of_memory)
{
	enum { N = 200000 };
	struct hv_disk_file *f = open_file("table", 512 + N * 4);
	struct hv_table_shape shape = {.file = f,
				       .what = "test table",
				       .at = 512,
				       .entries = N,
				       .entry_size = 4,
				       .big_endian = true,
				       .pages = 2};
	struct hv_table *table;
	uint64_t value;
	uint8_t be[4];

	cr_assert_eq(hv_table_new(&shape, &table, &err), 0, "%s", err.text);
	for (uint64_t i = 0; i < N; i += 7)
		cr_assert_eq(hv_table_set(table, i, i + 1, &err), 0);
	for (uint64_t i = 0; i < N; i++) {
		cr_assert_eq(hv_table_get(table, i, &value, &err), 0);
		cr_assert_eq(value, i % 7 ? 0 : i + 1, "%llu", (unsigned long long)i);
	}
	cr_assert_eq(hv_table_flush(table, &err), 0);
	cr_assert_eq(pread(f->fd, be, 4, 512 + 7 * 4), 4);
	cr_assert_arr_eq(be, "\0\0\0\10", 4);
	cr_assert_eq(hv_table_get(table, N, &value, &err), -EBADMSG);
	hv_table_free(table);
	hv_disk_file_free(f);
}

Test(table, runs_go_on_over_pages)
{
	enum { N = 100000 };
	struct hv_disk_file *f = open_file("table", N * 8);
	struct hv_table_shape shape = {
		.file = f, .what = "test table", .entries = N, .entry_size = 8, .pages = 2};
	struct hv_table *table;
	uint64_t value, count;

	cr_assert_eq(hv_table_new(&shape, &table, &err), 0, "%s", err.text);
	cr_assert_eq(hv_table_run(table, 0, UINT64_MAX, 0, &value, &count, &err), 0);
	cr_assert_eq(count, N);
	for (uint64_t i = 10; i < 50000; i++)
		cr_assert_eq(hv_table_set(table, i, i * 3, &err), 0);
	cr_assert_eq(hv_table_run(table, 0, UINT64_MAX, 0, &value, &count, &err), 0);
	cr_assert_eq(count, 10);
	cr_assert_eq(hv_table_run(table, 10, UINT64_MAX, 3, &value, &count, &err), 0);
	cr_assert_eq(value, 30);
	cr_assert_eq(count, 49990);
	cr_assert_eq(hv_table_run(table, 10, 5, 3, &value, &count, &err), 0);
	cr_assert_eq(count, 5);
	cr_assert_eq(hv_table_run(table, 50000, UINT64_MAX, 0, &value, &count, &err), 0);
	cr_assert_eq(count, 50000);
	hv_table_free(table);
	hv_disk_file_free(f);
}

Test(table, must_lie_in_its_file)
{
	struct hv_disk_file *f = open_file("table", 100);
	struct hv_table_shape shape = {.file = f, .what = "test table", .entries = 26, .entry_size = 4};
	struct hv_table *table;

	cr_assert_eq(hv_table_new(&shape, &table, &err), -EBADMSG);
	cr_assert(strstr(err.text, "test table"), "%s", err.text);
	shape.entries = UINT64_MAX / 4;
	cr_assert_eq(hv_table_new(&shape, &table, &err), -EBADMSG);
	hv_disk_file_free(f);
}
