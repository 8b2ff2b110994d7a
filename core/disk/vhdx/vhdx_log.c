/*
 * VHDX: the log (MS-VHDX 2.3). Changes of tables are written there first; after a crash they have to be made
 * again before anything but the headers is read. Here they are made in memory: the active sequence of entries
 * becomes an overlay that says, for each changed stretch of the file, which data sector of the log holds it,
 * so that the memory it takes does not grow with the bytes. The same overlay, written out, is the replay; and
 * at the end stands how an entry is written.
 */
#include <stdlib.h>

#include "base/bytes.h"
#include "disk/vhdx/vhdx.h"

#define READS_PER_SECTOR 64U /* what looking for entries may cost; an honest log needs 2 */

/* What was found at one sector of the log. */
struct spot {
	bool looked, valid;
	uint32_t length, tail;
	uint64_t sequence;
};

struct scan {
	struct hv_disk *d;
	uint64_t at;       /* of the log in the file */
	uint32_t length;   /* of the log */
	struct spot *spot; /* one for each sector */
	uint64_t reads;
	uint32_t changes;
};

/* Entries that follow each other. */
struct sequence {
	uint32_t start, head, end; /* offsets in the log: the first entry, the last, behind the last */
	uint64_t number;           /* the last one's; 0: none */
	bool valid;
};

/* A log entry's header: 2.3.1.1. */
struct entry {
	uint32_t checksum, length, tail, descriptors;
	uint64_t sequence, flushed, last;
	const uint8_t *guid;
};

static void parse_entry(const uint8_t *bytes, struct entry *e)
{
	e->checksum = hv_le32(bytes + 4);
	e->length = hv_le32(bytes + 8);
	e->tail = hv_le32(bytes + 12);
	e->sequence = hv_le64(bytes + 16);
	e->descriptors = hv_le32(bytes + 24);
	e->guid = bytes + 32;
	e->flushed = hv_le64(bytes + 48);
	e->last = hv_le64(bytes + 56);
}

/* Where a sector of an entry stands in the file; entries go on at the log's start. */
static uint64_t sector_at(const struct scan *s, uint32_t entry, uint32_t sector)
{
	return s->at + ((uint64_t)entry + (uint64_t)sector * VHDX_SECTOR) % s->length;
}

static int read_sector(struct scan *s, uint8_t *bytes, uint32_t entry, uint32_t sector, struct hv_error *err)
{
	if (s->reads++ > (uint64_t)READS_PER_SECTOR * (s->length / VHDX_SECTOR))
		return hv_fail_unsafe(
			err,
			"%s: the log at offset %llu is no honest one: its entries overlap so that "
			"looking through them does not end",
			s->d->path, (unsigned long long)s->at);
	return hv_disk_file_read(s->d->file[0], "log", bytes, VHDX_SECTOR, sector_at(s, entry, sector), err);
}

/* Descriptors in a sector of an entry, and how many sectors they take together. */
static uint32_t first_descriptor(uint32_t sector)
{
	return sector == 0 ? 0 : sector * 128 - 2;
}

static uint32_t descriptor_sectors(uint32_t descriptors)
{
	return (descriptors + 2 + 127) / 128;
}

static bool is_data(const uint8_t *descriptor)
{
	return memcmp(descriptor, "desc", 4) == 0;
}

static bool descriptor_fits(const uint8_t *at, uint64_t sequence)
{
	if (hv_le64(at + 24) != sequence || hv_le64(at + 16) % VHDX_SECTOR)
		return false;
	return is_data(at) || (memcmp(at, "zero", 4) == 0 && hv_le64(at + 8) % VHDX_SECTOR == 0);
}

static bool data_fits(const uint8_t *sector, uint64_t sequence)
{
	return memcmp(sector, "data", 4) == 0 && hv_le32(sector + 4) == sequence >> 32 &&
	       hv_le32(sector + VHDX_SECTOR - 4) == (uint32_t)sequence;
}

static bool entry_fits(const struct scan *s, const uint8_t *bytes, const struct entry *e)
{
	const struct hv_vhdx *v = s->d->state;

	return memcmp(bytes, "loge", 4) == 0 && e->length && e->length % VHDX_SECTOR == 0 &&
	       e->length <= s->length && e->tail % VHDX_SECTOR == 0 && e->tail < s->length && e->sequence &&
	       hv_vhdx_guid_is(e->guid, v->header.log_guid) && e->descriptors <= s->length / 32 &&
	       descriptor_sectors(e->descriptors) <= e->length / VHDX_SECTOR;
}

/* The descriptors of one sector; *data counts those that have a data sector. */
static bool descriptors_fit(const uint8_t *bytes, uint32_t sector, const struct entry *e, uint32_t *data)
{
	uint32_t end = first_descriptor(sector + 1);

	if (end > e->descriptors)
		end = e->descriptors;
	for (uint32_t i = first_descriptor(sector); i < end; i++) {
		const uint8_t *at = bytes + (sector == 0 ? 64 : 0) + (i - first_descriptor(sector)) * 32;

		if (!descriptor_fits(at, e->sequence))
			return false;
		*data += is_data(at);
	}
	return true;
}

/* Is there a whole, right entry at this sector of the log? 1 yes, 0 no, -errno. */
static int look_at_entry(struct scan *s, uint32_t at, struct spot *spot, struct hv_error *err)
{
	uint8_t first[VHDX_SECTOR], bytes[VHDX_SECTOR];
	uint32_t sectors, data = 0, crc;
	struct entry e;
	int rc = read_sector(s, first, at, 0, err);

	if (rc < 0)
		return rc;
	parse_entry(first, &e);
	if (!entry_fits(s, first, &e) || !descriptors_fit(first, 0, &e, &data))
		return 0;
	hv_put_le32(first + 4, 0);
	crc = hv_vhdx_crc(0, first, VHDX_SECTOR);
	sectors = descriptor_sectors(e.descriptors);
	for (uint32_t i = 1; i < e.length / VHDX_SECTOR; i++) {
		rc = read_sector(s, bytes, at, i, err);
		if (rc < 0)
			return rc;
		crc = hv_vhdx_crc(crc, bytes, VHDX_SECTOR);
		if (i < sectors ? !descriptors_fit(bytes, i, &e, &data)
				: i < sectors + data && !data_fits(bytes, e.sequence))
			return 0;
	}
	if (crc != e.checksum || (uint64_t)(sectors + data) * VHDX_SECTOR > e.length)
		return 0;
	spot->length = e.length;
	spot->tail = e.tail;
	spot->sequence = e.sequence;
	return 1;
}

/* The same, remembered. */
static int find_entry(struct scan *s, uint32_t at, struct spot **spot, struct hv_error *err)
{
	struct spot *here = &s->spot[at / VHDX_SECTOR];
	int rc;

	*spot = here;
	if (here->looked)
		return 0;
	rc = look_at_entry(s, at, here, err);
	here->looked = true;
	here->valid = rc > 0;
	return rc < 0 ? rc : 0;
}

/* The sequence that starts at an offset: steps 2 to 4 of 2.3.3. */
static int follow(struct scan *s, uint32_t start, struct sequence *q, struct hv_error *err)
{
	uint64_t total = 0;
	uint32_t at = start;
	struct spot *spot;
	int rc;

	*q = (struct sequence){.start = start, .end = start};
	for (;;) {
		rc = find_entry(s, at, &spot, err);
		if (rc < 0)
			return rc;
		total += spot->valid ? spot->length : 0;
		if (!spot->valid || (q->number && spot->sequence != q->number + 1) || total > s->length)
			break;
		q->number = spot->sequence;
		q->head = at;
		at = q->end = (uint32_t)(((uint64_t)at + spot->length) % s->length);
	}
	if (!q->number)
		return 0;
	/* Is the entry that the head calls the tail one of them? */
	for (at = start;; at = (uint32_t)(((uint64_t)at + s->spot[at / VHDX_SECTOR].length) % s->length)) {
		q->valid |= at == s->spot[q->head / VHDX_SECTOR].tail;
		if (at == q->head || q->valid)
			return 0;
	}
}

/* The newest valid sequence: 2.3.3. number 0: none. */
static int find_active(struct scan *s, struct sequence *active, struct hv_error *err)
{
	uint32_t tail = 0, next;

	*active = (struct sequence){0};
	do {
		struct sequence q;
		int rc = follow(s, tail, &q, err);

		if (rc < 0)
			return rc;
		if (q.valid && q.number > active->number)
			*active = q;
		next = q.valid ? q.end : (uint32_t)(((uint64_t)tail + VHDX_SECTOR) % s->length);
		if (next <= tail)
			return 0;
		tail = next;
	} while (true);
}

/* --- the overlay ------------------------------------------------------------------------------------------ */

void hv_vhdx_overlay_free(struct hv_vhdx_overlay *o)
{
	free(o->change);
	*o = (struct hv_vhdx_overlay){0};
}

/* The index of the first change that ends behind at. */
static size_t change_index(const struct hv_vhdx_overlay *o, uint64_t at)
{
	size_t low = 0, high = o->count;

	while (low < high) {
		size_t middle = (low + high) / 2;

		if (o->change[middle].at + o->change[middle].length <= at)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

const struct hv_vhdx_change *hv_vhdx_change_from(const struct hv_vhdx_overlay *o, uint64_t at)
{
	size_t i = change_index(o, at);

	return i < o->count ? &o->change[i] : NULL;
}

static int make_room(struct hv_vhdx_overlay *o)
{
	size_t room = o->room ? o->room * 2 : 64;
	struct hv_vhdx_change *more;

	if (o->count + 2 <= o->room)
		return 0;
	more = realloc(o->change, room * sizeof(*more));
	if (!more)
		return -ENOMEM;
	o->change = more;
	o->room = room;
	return 0;
}

/*
 * A newer change in place of whatever of older ones it covers. What is left of an older one at either side is
 * zeros: a data sector is covered whole or not at all.
 */
static int lay_over(struct hv_vhdx_overlay *o, const struct hv_vhdx_change *c)
{
	size_t first = change_index(o, c->at), last = first, n = 0;
	uint64_t end = c->at + c->length;
	struct hv_vhdx_change piece[3];

	if (make_room(o) < 0)
		return -ENOMEM;
	while (last < o->count && o->change[last].at < end)
		last++;
	if (first < last && o->change[first].at < c->at) {
		piece[n] = o->change[first];
		piece[n].length = c->at - piece[n].at;
		n++;
	}
	piece[n++] = *c;
	if (first < last && o->change[last - 1].at + o->change[last - 1].length > end) {
		piece[n] = o->change[last - 1];
		piece[n].length = piece[n].at + piece[n].length - end;
		piece[n].at = end;
		n++;
	}
	memmove(&o->change[first + n], &o->change[last], (o->count - last) * sizeof(o->change[0]));
	memcpy(&o->change[first], piece, n * sizeof(piece[0]));
	o->count = o->count - (last - first) + n;
	return 0;
}

/* One descriptor; data is where its sector stands. */
static int add_change(struct scan *s, const uint8_t *descriptor, uint64_t data, struct hv_error *err)
{
	struct hv_vhdx *v = s->d->state;
	struct hv_vhdx_change c = {.at = hv_le64(descriptor + 16), .length = VHDX_SECTOR};

	if (is_data(descriptor)) {
		c.source = data;
		c.leading = hv_le64(descriptor + 8);
		c.trailing = hv_le32(descriptor + 4);
	} else {
		c.length = hv_le64(descriptor + 8);
	}
	if (c.length == 0)
		return 0;
	if (!hv_inside(c.at, c.length, VHDX_FILE_MAX) || c.at < VHDX_REGION_TABLE_AT(0) ||
	    (c.at < s->at + s->length && s->at < c.at + c.length))
		return hv_fail_unsafe(
			err,
			"%s: the log at offset %llu changes %llu bytes at %llu of the file, where "
			"headers or the log stand, or nothing can",
			s->d->path, (unsigned long long)s->at, (unsigned long long)c.length,
			(unsigned long long)c.at);
	if (s->changes++ >= VHDX_CHANGES_MAX)
		return hv_fail(err, ENOTSUP, "%s: the log at offset %llu holds more than %u changes",
			       s->d->path, (unsigned long long)s->at, VHDX_CHANGES_MAX);
	if (v->overlay.end < c.at + c.length)
		v->overlay.end = c.at + c.length;
	return lay_over(&v->overlay, &c) < 0 ? hv_fail(err, ENOMEM, "%s: out of memory", s->d->path) : 0;
}

/* All of one entry, which was found right before. */
static int add_entry(struct scan *s, uint32_t at, struct entry *e, struct hv_error *err)
{
	uint8_t bytes[VHDX_SECTOR];
	uint32_t sectors, data = 0;
	int rc = read_sector(s, bytes, at, 0, err);

	if (rc < 0)
		return rc;
	parse_entry(bytes, e);
	e->guid = NULL;
	sectors = descriptor_sectors(e->descriptors);
	for (uint32_t i = 0; i < e->descriptors && rc == 0; i++) {
		uint32_t sector = (i + 2) / 128;
		const uint8_t *descriptor = bytes + (i + 2) % 128 * 32;

		if (i + 2 >= 128 && (i + 2) % 128 == 0)
			rc = read_sector(s, bytes, at, sector, err);
		if (rc == 0)
			rc = add_change(s, descriptor, sector_at(s, at, sectors + data), err);
		data += is_data(descriptor);
	}
	return rc;
}

/* From the entry that the head calls the tail to the head. */
static int add_sequence(struct scan *s, const struct sequence *q, struct hv_error *err)
{
	struct hv_vhdx *v = s->d->state;
	uint32_t at = s->spot[q->head / VHDX_SECTOR].tail;
	struct entry e;
	int rc;

	s->reads = 0;
	for (;;) {
		rc = add_entry(s, at, &e, err);
		v->overlay.entries++;
		if (rc < 0 || at == q->head)
			break;
		at = (uint32_t)(((uint64_t)at + s->spot[at / VHDX_SECTOR].length) % s->length);
	}
	if (rc < 0)
		return rc;
	if (e.last > VHDX_FILE_MAX)
		return hv_fail_unsafe(err, "%s: the log entry at offset %llu says that the file ends at %llu",
				      s->d->path, (unsigned long long)s->at + q->head,
				      (unsigned long long)e.last);
	if (v->overlay.end < e.last)
		v->overlay.end = e.last;
	if (e.flushed <= hv_disk_file_size(s->d->file[0]))
		return 0;
	if (!s->d->salvage)
		return hv_fail_unsafe(err,
				      "%s: the file was cut: the log entry at offset %llu knows it with %llu "
				      "bytes, it has %llu",
				      s->d->path, (unsigned long long)s->at + q->head,
				      (unsigned long long)e.flushed,
				      (unsigned long long)hv_disk_file_size(s->d->file[0]));
	hv_disk_note(s->d, "the file was cut: by its log it had %llu bytes", (unsigned long long)e.flushed);
	v->overlay.end = hv_disk_file_size(s->d->file[0]);
	return 0;
}

static int load_active(struct scan *s, struct hv_error *err)
{
	struct hv_vhdx *v = s->d->state;
	struct sequence active;
	int rc;

	s->spot = calloc(s->length / VHDX_SECTOR + 1, sizeof(*s->spot));
	if (!s->spot)
		return hv_fail(err, ENOMEM, "%s: out of memory", s->d->path);
	rc = find_active(s, &active, err);

	if (rc == 0 && !active.number)
		rc = hv_fail_unsafe(
			err,
			"%s: the header says that the log at offset %llu is in use, but it holds no "
			"valid sequence of entries",
			s->d->path, (unsigned long long)s->at);
	if (rc == 0)
		rc = add_sequence(s, &active, err);
	v->dirty = rc == 0;
	v->log_sequence = active.number;
	return rc;
}

/* With salvage a log that can't be replayed is left out: the tables are as old as the file has them. */
static int give_up(struct hv_disk *d, int rc, struct hv_error *err)
{
	struct hv_vhdx *v = d->state;

	if (rc == 0 || !d->salvage || rc == -ENOMEM)
		return rc;
	hv_disk_note(d, "the log is left out, the disk may be older in parts: %s",
		     err ? err->text : "damaged");
	hv_vhdx_overlay_free(&v->overlay);
	v->dirty = false;
	return 0;
}

int hv_vhdx_log_load(struct hv_disk *d, struct hv_error *err)
{
	struct hv_vhdx *v = d->state;
	const struct hv_vhdx_header *h = &v->header;
	struct scan s = {.d = d, .at = h->log_offset, .length = h->log_length};
	struct hv_error why = {0};
	int rc = 0;

	if (hv_vhdx_guid_zero(h->log_guid))
		return 0;
	if (h->log_version != 0)
		rc = hv_fail(&why, ENOTSUP, "%s: the log that has to be replayed has version %u; 0 is known",
			     d->path, h->log_version);
	else if (h->log_length > VHDX_LOG_MAX)
		rc = hv_fail(&why, ENOTSUP,
			     "%s: the log that has to be replayed has %u bytes; %u are handled", d->path,
			     h->log_length, VHDX_LOG_MAX);
	else if (h->log_length == 0 || !hv_inside(s.at, s.length, hv_disk_file_size(d->file[0])))
		rc = hv_fail_unsafe(&why,
				    "%s: the log of %u bytes at offset %llu is in use, but not in the file",
				    d->path, h->log_length, (unsigned long long)h->log_offset);
	if (rc == 0)
		rc = load_active(&s, &why);
	free(s.spot);
	rc = give_up(d, rc, &why);
	if (rc < 0 && err)
		*err = why;
	return rc;
}

/* One sector as it was before it went into the log: 2.3.1.3. */
static int restore(struct hv_disk *d, const struct hv_vhdx_change *c, uint8_t *sector, struct hv_error *err)
{
	int rc = hv_disk_file_read(d->file[0], "log", sector, VHDX_SECTOR, c->source, err);

	hv_put_le64(sector, c->leading);
	hv_put_le32(sector + VHDX_SECTOR - 4, c->trailing);
	return rc;
}

int hv_vhdx_overlay_apply(struct hv_disk *d, uint8_t *buf, size_t length, uint64_t at, struct hv_error *err)
{
	const struct hv_vhdx_overlay *o = &((struct hv_vhdx *)d->state)->overlay;
	uint8_t sector[VHDX_SECTOR];
	int rc = 0;

	for (size_t i = change_index(o, at); i < o->count && o->change[i].at < at + length && rc == 0; i++) {
		const struct hv_vhdx_change *c = &o->change[i];
		uint64_t start = c->at > at ? c->at : at, end = c->at + c->length;

		if (end > at + length)
			end = at + length;
		if (!c->source) {
			memset(buf + (start - at), 0, (size_t)(end - start));
			continue;
		}
		rc = restore(d, c, sector, err);
		memcpy(buf + (start - at), sector + (start - c->at), (size_t)(end - start));
	}
	return rc;
}

/* --- replay and append ------------------------------------------------------------------------------------ */

static int write_change(struct hv_disk *d, const struct hv_vhdx_change *c, struct hv_error *err)
{
	uint8_t sector[VHDX_SECTOR];
	int rc;

	if (!c->source)
		return hv_disk_file_punch(d->file[0], c->at, c->length, err);
	rc = restore(d, c, sector, err);
	return rc < 0 ? rc : hv_disk_file_write(d->file[0], sector, sizeof(sector), c->at, err);
}

/*
 * The changes are on stable storage before the header lets go of the log; until then another crash leads here
 * again. The log's data sectors are not among what is changed: add_change has seen to that.
 */
int hv_vhdx_log_replay(struct hv_disk *d, struct hv_error *err)
{
	struct hv_vhdx *v = d->state;
	int rc;

	hv_disk_random(v->header.file_write, 16);
	rc = hv_vhdx_header_update(d, err);
	if (rc == 0 && hv_disk_file_size(d->file[0]) < v->overlay.end)
		rc = hv_disk_file_resize(d->file[0], v->overlay.end, err);
	for (size_t i = 0; i < v->overlay.count && rc == 0; i++)
		rc = write_change(d, &v->overlay.change[i], err);
	if (rc == 0)
		rc = hv_disk_file_sync(d->file[0], err);
	if (rc < 0)
		return rc;
	memset(v->header.log_guid, 0, 16);
	rc = hv_vhdx_header_update(d, err);
	if (rc < 0)
		return rc;
	hv_disk_note(d, "the log's %u entries were written to the file", v->overlay.entries);
	hv_vhdx_overlay_free(&v->overlay);
	v->dirty = false;
	/* The table may hold pages from before, and lack what the file lacked. */
	hv_table_free(v->bat);
	v->bat = NULL;
	return hv_vhdx_bat_open(d, err);
}

/* An entry of one descriptor sector, and data sectors for `count` sectors side by side at `at`. */
static void build_entry(struct hv_disk *d, uint8_t *entry, const uint8_t *sectors, unsigned count,
			uint64_t at)
{
	struct hv_vhdx *v = d->state;
	uint64_t sequence = ++v->log_sequence;
	uint32_t length = (1 + count) * VHDX_SECTOR;

	hv_put_le32(entry, 0x65676f6c); /* "loge" */
	hv_put_le32(entry + 8, length);
	hv_put_le32(entry + 12,
		    (uint32_t)v->log_at); /* the tail is this very entry: the ones before are done */
	hv_put_le64(entry + 16, sequence);
	hv_put_le32(entry + 24, count);
	memcpy(entry + 32, v->header.log_guid, 16);
	hv_put_le64(entry + 48, hv_disk_file_size(d->file[0]) & ~(VHDX_MIB - 1));
	hv_put_le64(entry + 56, hv_round_up(hv_disk_file_size(d->file[0]), VHDX_MIB));
	for (unsigned i = 0; i < count; i++) {
		const uint8_t *from = sectors + (size_t)i * VHDX_SECTOR;
		uint8_t *descriptor = entry + 64 + (size_t)i * 32,
			*data = entry + (size_t)(1 + i) * VHDX_SECTOR;

		hv_put_le32(descriptor, 0x63736564); /* "desc" */
		memcpy(descriptor + 4, from + VHDX_SECTOR - 4, 4);
		memcpy(descriptor + 8, from, 8);
		hv_put_le64(descriptor + 16, at + (uint64_t)i * VHDX_SECTOR);
		hv_put_le64(descriptor + 24, sequence);
		memcpy(data, from, VHDX_SECTOR);
		hv_put_le32(data, 0x61746164); /* "data" */
		hv_put_le32(data + 4, (uint32_t)(sequence >> 32));
		hv_put_le32(data + VHDX_SECTOR - 4, (uint32_t)sequence);
	}
	hv_put_le32(entry + 4, hv_vhdx_crc_of(entry, length));
}

/*
 * An entry never overlaps the one before it, so that one whole entry is in the log at any moment. The header
 * names the log only when its first entry is stable: a log without one would be damage.
 */
int hv_vhdx_log_append(struct hv_disk *d, const uint8_t *sectors, unsigned count, uint64_t at,
		       struct hv_error *err)
{
	struct hv_vhdx *v = d->state;
	uint32_t length = (1 + count) * VHDX_SECTOR;
	uint8_t *entry;
	int rc;

	if (count > 126 || v->header.log_length < 2 * length)
		return hv_fail(err, ENOTSUP, "%s: the log of %u bytes has no room for a change of %u sectors",
			       d->path, v->header.log_length, count);
	entry = calloc(1, length);
	if (!entry)
		return hv_fail(err, ENOMEM, "%s: out of memory", d->path);
	if (!v->log_active)
		hv_disk_random(v->header.log_guid, 16);
	if (v->log_at + length > v->header.log_length)
		v->log_at = 0;
	build_entry(d, entry, sectors, count, at);
	rc = hv_disk_file_write(d->file[0], entry, length, v->header.log_offset + v->log_at, err);
	free(entry);
	if (rc == 0)
		rc = hv_disk_file_sync(d->file[0], err);
	if (rc == 0 && !v->log_active)
		rc = hv_vhdx_header_update(d, err);
	if (rc < 0)
		return rc;
	v->log_active = true;
	v->log_at += length;
	return 0;
}
