/*
 * VHDX, Hyper-V's disks: fixed, dynamic and differencing, by MS-VHDX. Here: the way into a file, and its map,
 * which follows the block allocation table and, for blocks that are there in parts, the sector bitmaps
 * (sections 2.4 and 2.5). Headers, regions and metadata are vhdx_region.c's; the parent vhdx_parent.c's; the
 * log, through whose changes everything is read, vhdx_log.c's; writing vhdx_write.c's.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "disk/vhdx/vhdx.h"

/* --- reading through the log ------------------------------------------------------------------------------ */

uint64_t hv_vhdx_end(const struct hv_disk *d)
{
	const struct hv_vhdx *v = d->state;
	uint64_t size = hv_disk_file_size(d->file[0]);

	return v->overlay.end > size ? v->overlay.end : size;
}

int hv_vhdx_read(struct hv_disk *d, const char *what, void *buf, size_t length, uint64_t at,
		 struct hv_error *err)
{
	const struct hv_vhdx *v = d->state;
	int64_t n;

	if (!v->dirty || !hv_inside(at, length, hv_vhdx_end(d)))
		return hv_disk_file_read(d->file[0], what, buf, length, at, err);
	/* Behind the file's end, but before the end that the log gives it, are zeros. */
	n = hv_disk_file_read_some(d->file[0], buf, length, at, err);
	if (n < 0)
		return (int)n;
	memset((uint8_t *)buf + n, 0, length - (size_t)n);
	return hv_vhdx_overlay_apply(d, buf, length, at, err);
}

/* --- small things ----------------------------------------------------------------------------------------- */

bool hv_vhdx_guid_is(const uint8_t *a, const uint8_t *b)
{
	return memcmp(a, b, 16) == 0;
}

bool hv_vhdx_guid_zero(const uint8_t *guid)
{
	static const uint8_t zero[16];

	return hv_vhdx_guid_is(guid, zero);
}

char *hv_vhdx_guid_text(const uint8_t *g, char text[VHDX_GUID_TEXT])
{
	snprintf(text, VHDX_GUID_TEXT, "{%08x-%04x-%04x-%02x%02x-%02x%02x%02x%02x%02x%02x}", hv_le32(g),
		 hv_le16(g + 4), hv_le16(g + 6), g[8], g[9], g[10], g[11], g[12], g[13], g[14], g[15]);
	return text;
}

/* One character of UTF-8; a lone half of a pair becomes U+FFFD. */
static char *put_utf8(char *to, uint32_t c)
{
	if (c >= 0xd800 && c < 0xe000)
		c = 0xfffd;
	if (c < 0x80) {
		*to++ = (char)c;
		return to;
	}
	if (c >= 0x10000) {
		*to++ = (char)(0xf0 | c >> 18);
		*to++ = (char)(0x80 | (c >> 12 & 63));
	} else if (c >= 0x800) {
		*to++ = (char)(0xe0 | c >> 12);
	}
	if (c >= 0x800)
		*to++ = (char)(0x80 | (c >> 6 & 63));
	else
		*to++ = (char)(0xc0 | c >> 6);
	*to++ = (char)(0x80 | (c & 63));
	return to;
}

char *hv_vhdx_text(const uint8_t *utf16, size_t bytes)
{
	char *text = malloc(bytes / 2 * 3 + 1), *to = text;

	for (size_t i = 0; text && i + 1 < bytes; i += 2) {
		uint32_t c = hv_le16(utf16 + i), low = i + 3 < bytes ? hv_le16(utf16 + i + 2) : 0;

		if (c == 0)
			break;
		if (c >= 0xd800 && c < 0xdc00 && low >= 0xdc00 && low < 0xe000) {
			c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
			i += 2;
		}
		to = put_utf8(to, c);
	}
	if (text)
		*to = '\0';
	return text;
}

/* --- the block allocation table --------------------------------------------------------------------------- */

void hv_vhdx_shape(struct hv_disk *d)
{
	struct hv_vhdx *v = d->state;
	uint64_t chunks;

	v->block_shift = (unsigned)__builtin_ctz(d->block_size);
	v->ratio = ((uint64_t)d->sector_size << 23) >> v->block_shift;
	v->blocks = (d->size + d->block_size - 1) >> v->block_shift;
	chunks = (v->blocks + v->ratio - 1) / v->ratio;
	/* A differencing file's ends with a sector bitmap's entry, the others' with a payload block's: 2.5.
	 */
	if (d->has_parent)
		v->bat_entries = chunks * (v->ratio + 1);
	else
		v->bat_entries = v->blocks ? v->blocks + (v->blocks - 1) / v->ratio : 0;
}

uint64_t hv_vhdx_bat_index(const struct hv_vhdx *v, uint64_t block)
{
	return block + block / v->ratio;
}

uint64_t hv_vhdx_bitmap_index(const struct hv_vhdx *v, uint64_t chunk)
{
	return chunk * (v->ratio + 1) + v->ratio;
}

int hv_vhdx_bat_open(struct hv_disk *d, struct hv_error *err)
{
	struct hv_vhdx *v = d->state;
	struct hv_table_shape shape = {
		.file = d->file[0], .what = "block allocation table", .at = v->bat_at, .entry_size = 8};
	uint64_t size = hv_disk_file_size(d->file[0]);

	if (v->bat_entries * 8 > v->bat_length)
		return hv_fail_unsafe(
			err,
			"%s: the block allocation table at offset %llu has room for %llu entries; "
			"the disk needs %llu",
			d->path, (unsigned long long)v->bat_at, (unsigned long long)v->bat_length / 8,
			(unsigned long long)v->bat_entries);
	if (!d->salvage && !hv_inside(v->bat_at, v->bat_entries * 8, hv_vhdx_end(d)))
		return hv_fail_unsafe(
			err,
			"%s: the block allocation table at offset %llu ends at %llu, behind the "
			"file's end at %llu",
			d->path, (unsigned long long)v->bat_at,
			(unsigned long long)v->bat_at + v->bat_entries * 8,
			(unsigned long long)hv_vhdx_end(d));
	/* What a log has yet to bring, or the salvaged file lacks, is not the table's to read. */
	v->bat_in_file = v->bat_at < size ? (size - v->bat_at) / 8 : 0;
	if (v->bat_in_file > v->bat_entries)
		v->bat_in_file = v->bat_entries;
	shape.entries = v->bat_in_file;
	return shape.entries ? hv_table_new(&shape, &v->bat, err) : 0;
}

/* Entries that a change of the log holds, or that are not in the file: one at a time. */
static int bat_slow(struct hv_disk *d, uint64_t at, uint64_t *value, uint64_t *count, struct hv_error *err)
{
	uint8_t bytes[8];
	int rc = hv_vhdx_read(d, "block allocation table", bytes, sizeof(bytes), at, err);

	*value = hv_le64(bytes);
	*count = 1;
	return rc;
}

int hv_vhdx_bat_run(struct hv_disk *d, uint64_t index, uint64_t max, uint64_t step, uint64_t *value,
		    uint64_t *count, struct hv_error *err)
{
	const struct hv_vhdx *v = d->state;
	uint64_t at = v->bat_at + index * 8;
	const struct hv_vhdx_change *c = v->dirty ? hv_vhdx_change_from(&v->overlay, at) : NULL;

	if (index >= v->bat_in_file || (c && c->at <= at))
		return bat_slow(d, at, value, count, err);
	if (c && max > (c->at - at) / 8)
		max = (c->at - at) / 8;
	return hv_table_run(v->bat, index, max, step, value, count, err);
}

/* --- the map ---------------------------------------------------------------------------------------------- */

/* Blocks side by side of one kind. */
struct stretch {
	enum hv_run_kind kind;
	bool partial;
	uint64_t at; /* data: in the file */
	uint64_t count;
};

static bool touches(uint64_t at, uint64_t length, uint64_t with, uint64_t with_length)
{
	return at < with + with_length && with < at + length;
}

const char *hv_vhdx_table_at(const struct hv_disk *d, uint64_t at, uint64_t length)
{
	const struct hv_vhdx *v = d->state;

	if (at < VHDX_MIB)
		return "the header section";
	if (touches(at, length, v->header.log_offset, v->header.log_length))
		return "the log";
	if (touches(at, length, v->bat_at, v->bat_length))
		return "the block allocation table";
	if (touches(at, length, v->metadata_at, v->metadata_length))
		return "the metadata";
	return NULL;
}

static int bad_entry(struct hv_disk *d, uint64_t index, uint64_t value, const char *why, struct hv_error *err)
{
	const struct hv_vhdx *v = d->state;

	return hv_fail_unsafe(err,
			      "%s: entry %llu of the block allocation table, at offset %llu, is 0x%llx, %s",
			      d->path, (unsigned long long)index, (unsigned long long)v->bat_at + index * 8,
			      (unsigned long long)value, why);
}

/* Whether an entry leads to `length` bytes that can be there. */
static int check_room(struct hv_disk *d, uint64_t index, uint64_t value, uint64_t length,
		      struct hv_error *err)
{
	uint64_t at = VHDX_BAT_OFFSET(value);
	const char *table;
	char why[96];

	if (!hv_inside(at, length, hv_vhdx_end(d))) {
		snprintf(why, sizeof(why), "which leads to %llu bytes behind the file's end at %llu",
			 (unsigned long long)length, (unsigned long long)hv_vhdx_end(d));
		return bad_entry(d, index, value, why, err);
	}
	table = hv_vhdx_table_at(d, at, length);
	if (table) {
		snprintf(why, sizeof(why), "which leads into %s", table);
		return bad_entry(d, index, value, why, err);
	}
	return 0;
}

/* The bytes of the virtual disk in `count` blocks from `block` on: the last may be cut. */
static uint64_t bytes_of(const struct hv_disk *d, uint64_t block, uint64_t count)
{
	const struct hv_vhdx *v = d->state;
	uint64_t start = block << v->block_shift, length = count << v->block_shift;

	return length < d->size - start ? length : d->size - start;
}

/* Data blocks: as many of the stretch as lie inside the file, and at least the first. */
static int check_data(struct hv_disk *d, uint64_t block, uint64_t value, struct stretch *s,
		      struct hv_error *err)
{
	uint64_t index = hv_vhdx_bat_index(d->state, block);

	s->kind = HV_RUN_DATA;
	s->at = VHDX_BAT_OFFSET(value);
	if (s->count > 1 && check_room(d, index, value, bytes_of(d, block, s->count), NULL) == 0)
		return 0;
	s->count = 1;
	return check_room(d, index, value, bytes_of(d, block, 1), err);
}

/* 2.5.1.1: what a payload entry says. `most` is how many blocks are wanted. */
static int look_up(struct hv_disk *d, uint64_t block, uint64_t most, struct stretch *s, struct hv_error *err)
{
	const struct hv_vhdx *v = d->state;
	uint64_t index = hv_vhdx_bat_index(v, block), value;
	int rc;

	if (most > v->ratio - block % v->ratio)
		most = v->ratio - block % v->ratio;
	rc = hv_vhdx_bat_run(d, index, most, d->block_size, &value, &s->count, err);
	/* Only data goes on block by block; of the others a run has all the same. */
	if (rc == 0 && VHDX_BAT_STATE(value) != VHDX_FULLY_PRESENT)
		rc = hv_vhdx_bat_run(d, index, most, 0, &value, &s->count, err);
	if (rc < 0)
		return rc;
	s->partial = false;
	if (VHDX_BAT_RESERVED(value))
		return bad_entry(d, index, value, "with reserved bits set", err);
	switch (VHDX_BAT_STATE(value)) {
	case VHDX_NOT_PRESENT:
		s->kind = HV_RUN_HOLE;
		return 0;
	case VHDX_UNDEFINED:
	case VHDX_ZERO:
	case VHDX_UNMAPPED: /* never the parent's; zeros are what may always be given */
		s->kind = HV_RUN_ZERO;
		return 0;
	case VHDX_FULLY_PRESENT:
		return check_data(d, block, value, s, err);
	case VHDX_PARTIALLY_PRESENT:
		s->partial = true;
		s->count = 1;
		if (!d->has_parent)
			return bad_entry(d, index, value,
					 "partially present, which only a differencing file's blocks can be",
					 err);
		return check_data(d, block, value, s, err);
	}
	return bad_entry(d, index, value, "a state that is not known", err);
}

static bool goes_on(const struct hv_disk *d, const struct stretch *s, const struct stretch *next)
{
	const struct hv_vhdx *v = d->state;

	return !next->partial && next->kind == s->kind &&
	       (s->kind != HV_RUN_DATA || next->at == s->at + (s->count << v->block_shift));
}

/* The stretch from a block on, through the sector bitmaps' entries between the chunks. */
static int find_stretch(struct hv_disk *d, uint64_t block, uint64_t most, struct stretch *s,
			struct hv_error *err)
{
	struct stretch next = {0};
	int rc = look_up(d, block, most, s, err);

	while (rc == 0 && !s->partial && s->count < most) {
		/* Damage further on is told to whoever asks for it. */
		if (look_up(d, block + s->count, most - s->count, &next, NULL) < 0 || !goes_on(d, s, &next))
			break;
		s->count += next.count;
	}
	return rc;
}

/* How many of `count` bits from `bit` on are as the first; bits are counted from the lowest of each byte. */
static size_t equal_bits(const uint8_t *bits, size_t bit, size_t count)
{
	bool set = bits[bit / 8] >> (bit % 8) & 1;
	uint8_t full = set ? 0xff : 0;
	size_t n = 0;

	while (n < count) {
		if ((bit + n) % 8 == 0 && count - n >= 8 && bits[(bit + n) / 8] == full)
			n += 8;
		else if ((bits[(bit + n) / 8] >> ((bit + n) % 8) & 1) == set)
			n++;
		else
			break;
	}
	return n;
}

static int find_bitmap(struct hv_disk *d, uint64_t block, uint64_t *at, struct hv_error *err)
{
	const struct hv_vhdx *v = d->state;
	uint64_t index = hv_vhdx_bitmap_index(v, block / v->ratio), value, count;
	int rc = hv_vhdx_bat_run(d, index, 1, 0, &value, &count, err);

	if (rc < 0)
		return rc;
	if (VHDX_BAT_STATE(value) != VHDX_FULLY_PRESENT || VHDX_BAT_RESERVED(value))
		return bad_entry(d, index, value,
				 "but has to lead to the sector bitmap of a block that is partially present",
				 err);
	*at = VHDX_BAT_OFFSET(value);
	return check_room(d, index, value, VHDX_MIB, err);
}

/* Sectors of a partially present block: from the disk's sector `first` on, at most `most` of one kind. */
static int find_sectors(struct hv_disk *d, uint64_t block, uint64_t first, uint64_t most, bool *present,
			uint64_t *count, struct hv_error *err)
{
	uint64_t bitmap = 0, bit = first % (1U << 23), n = 0;
	uint8_t bits[4096];
	size_t want = 128;
	int rc = find_bitmap(d, block, &bitmap, err);

	while (rc == 0 && n < most) {
		uint64_t byte = (bit + n) / 8, last = (bit + most - 1) / 8;
		size_t length = last - byte + 1 < want ? (size_t)(last - byte + 1) : want, got, here;

		rc = hv_vhdx_read(d, "sector bitmap", bits, length, bitmap + byte, n ? NULL : err);
		if (rc < 0)
			break;
		if (n == 0)
			*present = bits[0] >> (bit % 8) & 1;
		else if ((bits[0] >> ((bit + n) % 8) & 1) != *present)
			break;
		here = length * 8 - (bit + n) % 8;
		if (here > most - n)
			here = (size_t)(most - n);
		got = equal_bits(bits, (bit + n) % 8, here);
		n += got;
		if (got < here)
			break;
		want = sizeof(bits);
	}
	*count = n;
	return n ? 0 : rc;
}

/* A partially present block's own sectors are data, the others the parent's. */
static int map_partial(struct hv_disk *d, uint64_t block, const struct stretch *s, struct hv_run *run,
		       uint64_t length, struct hv_error *err)
{
	const struct hv_vhdx *v = d->state;
	uint64_t start = block << v->block_shift, end = start + bytes_of(d, block, 1), ss = d->sector_size,
		 first = run->offset / ss, count = 0;
	bool present = false;
	int rc;

	if (end > run->offset + length)
		end = run->offset + length;
	rc = find_sectors(d, block, first, (end - 1) / ss - first + 1, &present, &count, err);
	if (rc < 0)
		return rc;
	run->kind = present ? HV_RUN_DATA : HV_RUN_HOLE;
	run->at = s->at + (run->offset - start);
	run->length = (first + count) * ss - run->offset;
	return 0;
}

/* The log may say anew what a run's bytes are, and the file may be shorter than the log makes it. */
static void cut_by_log(const struct hv_disk *d, struct hv_run *run)
{
	const struct hv_vhdx *v = d->state;
	const struct hv_vhdx_change *c = hv_vhdx_change_from(&v->overlay, run->at);
	uint64_t size = hv_disk_file_size(d->file[0]), end = run->at + run->length;

	if (c && c->at <= run->at) {
		if (c->source)
			run->stored = HV_STORED_CALL;
		else
			run->kind = HV_RUN_ZERO;
		if (end > c->at + c->length)
			end = c->at + c->length;
	} else {
		if (c && end > c->at)
			end = c->at;
		if (run->at >= size)
			run->kind = HV_RUN_ZERO;
		else if (end > size)
			end = size;
	}
	run->length = end - run->at;
}

static int map(struct hv_disk *d, uint64_t offset, uint64_t length, struct hv_run *run, struct hv_error *err)
{
	const struct hv_vhdx *v = d->state;
	uint64_t block = offset >> v->block_shift, inside = offset & (d->block_size - 1);
	struct stretch s = {0};
	int rc;

	if (length > d->size - offset)
		length = d->size - offset;
	rc = find_stretch(d, block, ((offset + length - 1) >> v->block_shift) - block + 1, &s, err);
	if (rc < 0)
		return rc;
	*run = (struct hv_run){.offset = offset, .kind = s.kind, .stored = HV_STORED_PLAIN};
	run->length = bytes_of(d, block, s.count) - inside;
	run->at = s.at + inside;
	if (s.partial)
		rc = map_partial(d, block, &s, run, length, err);
	if (rc == 0 && run->kind == HV_RUN_DATA && v->dirty)
		cut_by_log(d, run);
	return rc;
}

/* A run whose bytes stand in the log. */
static int read_changed(struct hv_disk *d, void *buf, size_t length, uint64_t offset, struct hv_error *err)
{
	struct hv_run run;
	int rc = map(d, offset, length, &run, err);

	if (rc < 0)
		return rc;
	if (run.kind != HV_RUN_DATA || run.length < length)
		return hv_fail(err, EINVAL, "%s: %zu bytes at offset %llu are no run of the map", d->path,
			       length, (unsigned long long)offset);
	return hv_vhdx_read(d, "data", buf, length, run.at, err);
}

/* --- open and close --------------------------------------------------------------------------------------- */

static int probe(const struct hv_disk_probe *p)
{
	return p->head_length >= 8 && memcmp(p->head, "vhdxfile", 8) == 0 ? 2 : 0;
}

int hv_vhdx_load(struct hv_disk *d, struct hv_error *err)
{
	int rc;

	d->state = calloc(1, sizeof(struct hv_vhdx));
	if (!d->state)
		return hv_fail(err, ENOMEM, "%s: out of memory", d->path);
	rc = hv_vhdx_load_headers(d, err);
	if (rc == 0)
		rc = hv_vhdx_log_load(d, err);
	if (rc == 0)
		rc = hv_vhdx_load_regions(d, err);
	return rc == 0 ? hv_vhdx_load_metadata(d, err) : rc;
}

/* The file can be written to only when its own bytes are all there is. */
static int make_writable(struct hv_disk *d, struct hv_error *err)
{
	struct hv_vhdx *v = d->state;
	int rc = 0;

	if (v->dirty && !d->options.replay_log)
		return hv_fail(err, ENOTSUP,
			       "%s: its log holds changes of a crash that the file lacks; they have to be "
			       "written first: check it with --replay-log",
			       d->path);
	if (v->dirty)
		rc = hv_vhdx_log_replay(d, err);
	v->next = hv_round_up(hv_disk_file_size(d->file[0]), VHDX_MIB);
	return rc;
}

static int open_image(struct hv_disk *d, struct hv_error *err)
{
	const struct hv_vhdx *v;
	int rc = hv_vhdx_load(d, err);

	if (rc < 0)
		return rc;
	v = d->state;
	snprintf(d->subformat, sizeof(d->subformat), "%s",
		 d->has_parent        ? "differencing"
		 : v->leave_allocated ? "fixed"
				      : "dynamic");
	hv_disk_property(d, "log", "%s", v->dirty ? "dirty" : "clean");
	if (v->dirty && !d->writable)
		hv_disk_note(
			d,
			"the log holds %u entries that were not written to the file: they are applied in "
			"memory, the file stays as it is",
			v->overlay.entries);
	return d->writable ? make_writable(d, err) : 0;
}

static void close_image(struct hv_disk *d)
{
	struct hv_vhdx *v = d->state;

	if (!v)
		return;
	hv_vhdx_end_write(d);
	hv_vhdx_overlay_free(&v->overlay);
	hv_table_free(v->bat);
	free(v);
	d->state = NULL;
}

static const char *const extensions[] = {"vhdx", "avhdx", NULL};
static const char *const subformats[] = {"dynamic", "fixed", NULL};

/* The sector bitmaps: all else that is no block has its own region, where map lets no block be. */
static int vhdx_tables(struct hv_disk *d, struct hv_disk_tables *tables, struct hv_error *err)
{
	struct hv_vhdx *v = d->state;
	int rc = 0;

	for (uint64_t block = 0; d->has_parent && block < v->blocks && rc == 0; block += v->ratio) {
		uint64_t value, count;

		rc = hv_vhdx_bat_run(d, hv_vhdx_bitmap_index(v, block / v->ratio), 1, 0, &value, &count, err);
		if (rc == -EBADMSG)
			return 0;
		if (rc == 0 && VHDX_BAT_STATE(value) == VHDX_FULLY_PRESENT)
			rc = tables->own(tables, d, 0, VHDX_BAT_OFFSET(value), VHDX_MIB, err);
	}
	return rc;
}

const struct hv_disk_format hv_disk_format_vhdx = {
	.name = "vhdx",
	.extensions = extensions,
	.subformats = subformats,
	.probe = probe,
	.open = open_image,
	.close = close_image,
	.map = map,
	.read = read_changed,
	.begin_write = hv_vhdx_begin_write,
	.place = hv_vhdx_place,
	.commit = hv_vhdx_commit,
	.zero = hv_vhdx_zero,
	.flush = hv_vhdx_flush,
	.create = hv_vhdx_create,
	.resume = hv_vhdx_resume,
	.finish = hv_vhdx_finish,
	.tables = vhdx_tables,
	.check = hv_vhdx_check,
};
