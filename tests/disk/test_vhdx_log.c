/*
 * VHDX, the log (MS-VHDX 2.3): dirty logs of several entries, of data and zeros, wrapped, torn, of other
 * sessions; they are replayed in memory, and the file stays as it is unless it is told to be changed.
 */
#include <criterion/criterion.h>
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

TestSuite(vhdx_log, .init = setup, .fini = teardown, .timeout = 120);

/* Five blocks of which 0 and 2 are there; 6 MiB in all. The log is in use. */
static struct mk_vhdx dirty(void)
{
	struct mk_vhdx m = {.size = 5 * MK_MIB, .log_id = 0xaa};

	mk_begin(&m, tmp_path(&t, "a.vhdx"));
	mk_block(&m, 0, MK_FULL, 1);
	mk_block(&m, 2, MK_FULL, 3);
	return m;
}

/* The BAT's first sector, with the entries of blocks 0 to 4 at these MiB; 0: none. */
static const uint8_t *bat(uint8_t sector[4096], const unsigned at[5])
{
	memset(sector, 0, 4096);
	for (unsigned i = 0; i < 5; i++)
		if (at[i])
			hv_put_le64(sector + 8 * i, at[i] * MK_MIB | MK_FULL);
	return sector;
}

static uint32_t put_bat(struct mk_vhdx *m, uint32_t at, uint32_t tail, uint64_t sequence,
			const unsigned where[5])
{
	uint8_t sector[4096];
	struct mk_change change = {.at = m->bat, .data = bat(sector, where)};
	struct mk_entry e = {.at = at, .tail = tail, .sequence = sequence, .change = &change, .changes = 1};

	return mk_log(m, &e);
}

static uint8_t *whole(const char *name, size_t *size)
{
	int fd = open(tmp_path(&t, name), O_RDONLY | O_CLOEXEC);
	struct stat st;
	uint8_t *bytes;

	cr_assert(fd >= 0 && fstat(fd, &st) == 0);
	*size = (size_t)st.st_size;
	bytes = malloc(*size);
	cr_assert(bytes && pread(fd, bytes, *size, 0) == (ssize_t)*size);
	close(fd);
	return bytes;
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

static bool noted(struct hv_disk *d, const char *says)
{
	struct hv_disk_info info;

	hv_disk_info(d, &info);
	for (const char *const *n = info.notes; *n; n++)
		if (strstr(*n, says))
			return true;
	return false;
}

static struct hv_disk *opened(const struct hv_disk_options *options)
{
	struct hv_disk *d = NULL;

	cr_assert_eq(hv_disk_open(tmp_path(&t, "a.vhdx"), options, &d, &err), 0, "%s", err.text);
	return d;
}

static void refused(int code, const char *says)
{
	struct hv_disk *d = NULL;

	memset(&err, 0, sizeof(err));
	cr_assert_eq(hv_disk_open(tmp_path(&t, "a.vhdx"), NULL, &d, &err), code, "%s", err.text);
	cr_assert_not_null(strstr(err.text, says), "%s", err.text);
}

static uint64_t errors_of(struct hv_disk *d)
{
	struct hv_disk_check check = {0};

	cr_assert_eq(hv_disk_check(d, &check, &err), 0, "%s", err.text);
	return check.errors;
}

/* Opens for reading: blocks as seeds say, and not one byte of the file changed. */
static void reads(const uint32_t seed[5])
{
	size_t before, after;
	uint8_t *then = whole("a.vhdx", &before), *now;
	struct hv_disk *d = opened(NULL);

	cr_assert(noted(d, "applied in memory"));
	for (unsigned i = 0; i < 5; i++)
		holds(d, i * MK_MIB, MK_MIB, seed[i]);
	cr_assert_eq(errors_of(d), 0);
	hv_disk_close(d);
	now = whole("a.vhdx", &after);
	cr_assert(before == after && memcmp(then, now, after) == 0);
	free(then);
	free(now);
}

/* The same after the log was written into the file; then the log is empty, and qemu-img agrees. */
static void replays(const uint32_t seed[5])
{
	struct hv_disk_options replay = {.writable = true, .replay_log = true};
	struct hv_disk *d = opened(&replay);
	char line[1024];

	cr_assert(noted(d, "were written to the file"));
	for (unsigned i = 0; i < 5; i++)
		holds(d, i * MK_MIB, MK_MIB, seed[i]);
	hv_disk_close(d);
	d = opened(NULL);
	cr_assert_not(noted(d, "log"));
	for (unsigned i = 0; i < 5; i++)
		holds(d, i * MK_MIB, MK_MIB, seed[i]);
	cr_assert_eq(errors_of(d), 0);
	hv_disk_close(d);
	snprintf(line, sizeof(line),
		 "! command -v qemu-img >/dev/null || qemu-img check -q -f vhdx %s/a.vhdx", t.dir);
	cr_assert_eq(system(line), 0);
}

Test(vhdx_log, one_entry_is_replayed)
{
	struct mk_vhdx m = dirty();
	uint64_t room = mk_room(&m, MK_MIB, 9);

	put_bat(&m, 0, 0, 1, (unsigned[5]){4, 0, 5, (unsigned)(room / MK_MIB), 0});
	mk_end(&m);
	reads((uint32_t[5]){1, 0, 3, 9, 0});
	replays((uint32_t[5]){1, 0, 3, 9, 0});
}

Test(vhdx_log, later_entries_win)
{
	struct mk_vhdx m = dirty();
	uint32_t at;

	mk_room(&m, MK_MIB, 9);
	at = put_bat(&m, 0, 0, 100, (unsigned[5]){4, 5, 0, 0, 0});
	at += put_bat(&m, at, 0, 101, (unsigned[5]){0, 0, 0, 6, 4});
	put_bat(&m, at, 0, 102, (unsigned[5]){6, 4, 0, 5, 0});
	mk_end(&m);
	reads((uint32_t[5]){9, 1, 0, 3, 0});
	replays((uint32_t[5]){9, 1, 0, 3, 0});
}

Test(vhdx_log, entries_before_the_tail_are_done_already)
{
	struct mk_vhdx m = dirty();
	struct mk_change zero = {.at = MK_BAT + 4096, .zeros = 4096};
	struct mk_entry e = {.tail = 8192, .sequence = 6, .change = &zero, .changes = 1};
	uint32_t at;

	/* The first entry would take block 0 away; the last says that the second is the oldest that counts.
	 */
	at = put_bat(&m, 0, 0, 4, (unsigned[5]){0, 0, 5, 0, 0});
	cr_assert_eq(at, 8192);
	at += put_bat(&m, at, 8192, 5, (unsigned[5]){4, 0, 5, 4, 0});
	mk_entry(&m, 3, 0);
	e.at = at;
	mk_log(&m, &e);
	mk_end(&m);
	{
		struct hv_disk *d = opened(NULL);

		holds(d, 0, MK_MIB, 1);
		holds(d, 3 * MK_MIB, MK_MIB, 1);
		hv_disk_close(d);
	}
}

Test(vhdx_log, zeros_cover_what_older_entries_brought_and_are_covered_by_newer_ones)
{
	struct mk_vhdx m = dirty();
	uint8_t a[4096], b[4096];
	struct mk_change change[3] = {{.at = MK_BAT - 8192 + 4096, .data = NULL, .zeros = 4096},
				      {.at = MK_BAT, .data = bat(a, (unsigned[5]){0, 4, 0, 0, 0})},
				      {.at = MK_BAT + 4096, .data = bat(b, (unsigned[5]){7, 7, 7, 7, 7})}};
	struct mk_change zeros = {.at = MK_BAT, .zeros = 3 * 4096};
	struct mk_entry e = {.sequence = 1, .change = change, .changes = 3};
	uint32_t at = mk_log(&m, &e);

	e = (struct mk_entry){.at = at, .sequence = 2, .change = &zeros, .changes = 1};
	at += mk_log(&m, &e);
	put_bat(&m, at, 0, 3, (unsigned[5]){0, 0, 4, 0, 5});
	mk_end(&m);
	reads((uint32_t[5]){0, 0, 1, 0, 3});
	replays((uint32_t[5]){0, 0, 1, 0, 3});
}

Test(vhdx_log, an_entry_of_many_descriptors_is_replayed)
{
	struct mk_vhdx m = dirty();
	static uint8_t sector[4096];
	struct mk_change change[200];
	struct mk_entry e = {.sequence = 1, .change = change, .changes = 200};

	for (unsigned i = 0; i < 200; i++)
		change[i] = (struct mk_change){.at = MK_BAT + 8192, .zeros = 4096};
	change[199] = (struct mk_change){.at = MK_BAT, .data = bat(sector, (unsigned[5]){5, 0, 0, 0, 4})};
	change[130] = (struct mk_change){.at = MK_BAT, .data = bat(sector, (unsigned[5]){5, 0, 0, 0, 4})};
	mk_log(&m, &e);
	mk_end(&m);
	reads((uint32_t[5]){3, 0, 0, 0, 1});
	replays((uint32_t[5]){3, 0, 0, 0, 1});
}

Test(vhdx_log, a_sequence_goes_on_at_the_logs_start)
{
	struct mk_vhdx m = dirty();
	uint32_t tail = (uint32_t)MK_MIB - 4096 * 3, at = tail;

	at += put_bat(&m, at, tail, 7, (unsigned[5]){0, 0, 0, 0, 0});
	/* This one's data sector stands at the log's start. */
	at += put_bat(&m, at, tail, 8, (unsigned[5]){0, 0, 0, 5, 0});
	put_bat(&m, at % (uint32_t)MK_MIB, tail, 9, (unsigned[5]){0, 5, 0, 4, 0});
	mk_end(&m);
	reads((uint32_t[5]){0, 3, 0, 1, 0});
	replays((uint32_t[5]){0, 3, 0, 1, 0});
}

Test(vhdx_log, a_torn_entry_at_the_end_is_not_replayed)
{
	static const struct {
		uint32_t at;
		const char *what;
	} tears[] = {{4, "checksum"},      {8, "length"},      {16, "number"},      {24, "count"},
		     {32, "id"},           {64, "descriptor"}, {64 + 24, "number"}, {4096, "data"},
		     {4096 + 4, "number"}, {8188, "number"},   {6000, "bytes"}};

	for (unsigned i = 0; i < sizeof(tears) / sizeof(tears[0]); i++) {
		struct mk_vhdx m = dirty();
		uint32_t at = put_bat(&m, 0, 0, 1, (unsigned[5]){5, 0, 4, 0, 0});

		put_bat(&m, at, 0, 2, (unsigned[5]){0, 0, 0, 5, 0});
		mk_end(&m);
		mk_poke(t.path, MK_LOG + at + tears[i].at, "\x99", 1);
		reads((uint32_t[5]){3, 0, 1, 0, 0});
	}
}

Test(vhdx_log, the_newest_of_several_sequences_is_replayed)
{
	struct mk_vhdx m = dirty();

	put_bat(&m, 0, 0, 50, (unsigned[5]){0, 0, 0, 0, 5});
	put_bat(&m, 64 << 10, 64 << 10, 70, (unsigned[5]){0, 4, 0, 5, 0});
	put_bat(&m, 128 << 10, 128 << 10, 60, (unsigned[5]){0, 0, 0, 0, 4});
	/* newer, but not whole: its tail is not there */
	put_bat(&m, 256 << 10, 192 << 10, 90, (unsigned[5]){0, 0, 0, 0, 4});
	mk_end(&m);
	reads((uint32_t[5]){0, 1, 0, 3, 0});
}

Test(vhdx_log, entries_of_another_session_do_not_count)
{
	struct mk_vhdx m = dirty();
	uint8_t sector[4096];
	struct mk_change change = {.at = m.bat, .data = bat(sector, (unsigned[5]){0, 0, 0, 0, 5})};
	struct mk_entry e = {.sequence = 2, .id = 0xbb, .change = &change, .changes = 1};
	uint32_t at = put_bat(&m, 0, 0, 1, (unsigned[5]){0, 4, 5, 0, 0});

	e.at = at;
	mk_log(&m, &e);
	mk_end(&m);
	reads((uint32_t[5]){0, 1, 3, 0, 0});
}

Test(vhdx_log, a_clean_header_means_no_replay)
{
	struct mk_vhdx m = dirty();
	struct hv_disk *d;

	put_bat(&m, 0, 0, 1, (unsigned[5]){0, 4, 5, 0, 0});
	m.log_id = 0;
	mk_header(&m, 0, 9);
	mk_end(&m);
	d = opened(NULL);
	cr_assert_not(noted(d, "log"));
	holds(d, 0, MK_MIB, 1);
	hv_disk_close(d);
}

Test(vhdx_log, a_log_in_use_without_entries_is_damage)
{
	struct hv_disk_options salvage = {.salvage = true};
	struct mk_vhdx m = dirty();
	struct hv_disk *d;

	mk_end(&m);
	refused(-EBADMSG, "no valid sequence");
	d = opened(&salvage);
	cr_assert(noted(d, "the log is left out"));
	holds(d, 0, MK_MIB, 1);
	cr_assert_gt(errors_of(d), 0);
	hv_disk_close(d);
}

Test(vhdx_log, a_file_that_was_cut_behind_the_log_is_damage)
{
	struct mk_vhdx m = dirty();
	uint8_t sector[4096];
	struct mk_change change = {.at = m.bat, .data = bat(sector, (unsigned[5]){4, 0, 5, 0, 0})};
	struct mk_entry e = {
		.sequence = 1, .flushed = 9 * MK_MIB, .last = 9 * MK_MIB, .change = &change, .changes = 1};

	mk_log(&m, &e);
	mk_end(&m);
	refused(-EBADMSG, "the file was cut");
}

Test(vhdx_log, the_file_grows_to_what_the_log_says)
{
	struct mk_vhdx m = dirty();
	uint8_t sector[4096];
	struct mk_change change = {.at = m.bat, .data = bat(sector, (unsigned[5]){4, 6, 5, 0, 0})};
	struct mk_entry e = {.sequence = 1, .last = 7 * MK_MIB, .change = &change, .changes = 1};
	struct hv_disk *d;
	struct hv_run run;

	mk_log(&m, &e);
	mk_end(&m);
	reads((uint32_t[5]){1, 0, 3, 0, 0});
	d = opened(NULL);
	cr_assert_eq(hv_disk_map(d, MK_MIB, UINT64_MAX, &run, &err), 0);
	cr_assert_eq(run.kind, HV_RUN_ZERO);
	cr_assert_eq(run.length, MK_MIB);
	hv_disk_close(d);
	replays((uint32_t[5]){1, 0, 3, 0, 0});
}

Test(vhdx_log, region_tables_and_metadata_are_read_through_the_log)
{
	struct mk_vhdx m = dirty();
	static uint8_t regions[4096], items[4096];
	struct mk_change change[3];
	struct mk_entry e = {.sequence = 1, .change = change, .changes = 3};
	size_t size;
	uint8_t *bytes;

	/* The tables in the log are right, those in the file are not. */
	bytes = whole("a.vhdx", &size);
	memcpy(regions, bytes + (192 << 10), 4096);
	memcpy(items, bytes + MK_METADATA, 4096);
	free(bytes);
	change[0] = (struct mk_change){.at = 192 << 10, .data = regions};
	change[1] = (struct mk_change){.at = 256 << 10, .data = regions};
	change[2] = (struct mk_change){.at = MK_METADATA, .data = items};
	mk_log(&m, &e);
	mk_end(&m);
	mk_poke(t.path, (192 << 10) + 16, "bad", 3);
	mk_poke(t.path, (256 << 10) + 16, "bad", 3);
	mk_poke(t.path, MK_METADATA, "bad", 3);
	reads((uint32_t[5]){1, 0, 3, 0, 0});
	replays((uint32_t[5]){1, 0, 3, 0, 0});
}

/* The log must not be used for payload, but what it says is what counts. */
Test(vhdx_log, payload_in_the_log_is_read_from_there)
{
	struct mk_vhdx m = dirty();
	uint8_t sector[4096];
	struct mk_change change[2] = {{.at = 4 * MK_MIB + 8192, .data = sector},
				      {.at = 4 * MK_MIB + 65536, .zeros = 65536}};
	struct mk_entry e = {.sequence = 1, .change = change, .changes = 2};
	struct hv_disk *d;
	struct hv_run run;

	mk_pattern(sector, sizeof(sector), 77, 0);
	mk_log(&m, &e);
	mk_end(&m);
	d = opened(NULL);
	holds(d, 0, 8192, 1);
	holds(d, 8192, 4096, 77);
	holds(d, 65536, 65536, 0);
	cr_assert_eq(hv_disk_map(d, 0, UINT64_MAX, &run, &err), 0);
	cr_assert_eq(run.length, 8192);
	cr_assert_eq(hv_disk_map(d, 8192 + 100, UINT64_MAX, &run, &err), 0);
	cr_assert_eq(run.stored, HV_STORED_CALL);
	cr_assert_eq(run.length, 4096 - 100);
	hv_disk_close(d);
}

static void bad_change(uint64_t at, uint64_t zeros, const char *says)
{
	struct mk_vhdx m = dirty();
	struct mk_change change = {.at = at, .zeros = zeros};
	struct mk_entry e = {.sequence = 1, .change = &change, .changes = 1};

	mk_log(&m, &e);
	mk_end(&m);
	refused(-EBADMSG, says);
}

Test(vhdx_log, changes_of_what_can_not_be_changed_are_damage)
{
	bad_change(0, 4096, "where headers or the log stand");
	bad_change(64 << 10, 4096, "where headers or the log stand");
	bad_change(128 << 10, 4096, "where headers or the log stand");
	bad_change(MK_LOG + 65536, 4096, "where headers or the log stand");
	bad_change(MK_LOG - 4096, 8192, "where headers or the log stand");
	bad_change(MK_BAT, 1ULL << 62, "nothing can");
	bad_change(-8192ULL, 16384, "nothing can");
}

Test(vhdx_log, a_log_of_another_version_is_refused)
{
	struct mk_vhdx m = dirty();

	put_bat(&m, 0, 0, 1, (unsigned[5]){0, 4, 5, 0, 0});
	mk_end(&m);
	mk_poke(t.path, (128 << 10) + 64, "\1", 1);
	mk_fix(t.path);
	refused(-ENOTSUP, "version 1");
}

Test(vhdx_log, writing_needs_the_replay)
{
	struct hv_disk_options writable = {.writable = true};
	struct mk_vhdx m = dirty();
	struct hv_disk *d;

	put_bat(&m, 0, 0, 1, (unsigned[5]){0, 4, 5, 0, 0});
	mk_end(&m);
	cr_assert_eq(hv_disk_open(t.path, &writable, &d, &err), -ENOTSUP);
	cr_assert_not_null(strstr(err.text, "--replay-log"));
}

/* Entries that overlap so that each place of the log starts one as long as the log: looked at, and given up.
 */
Test(vhdx_log, a_log_that_is_made_to_take_for_ever_does_not)
{
	struct mk_vhdx m = {.size = MK_MIB, .log_id = 0xaa, .log_length = 16 << 20};
	uint8_t head[4096] = "loge";

	mk_begin(&m, tmp_path(&t, "a.vhdx"));
	for (uint32_t at = 0; at < m.log_length; at += 4096) {
		hv_put_le32(head + 8, m.log_length);
		hv_put_le64(head + 16, 1);
		memset(head + 32, 0xaa, 16);
		cr_assert_eq(pwrite(m.fd, head, sizeof(head), (off_t)(MK_LOG + at)), sizeof(head));
	}
	mk_end(&m);
	refused(-EBADMSG, "no honest one");
}
