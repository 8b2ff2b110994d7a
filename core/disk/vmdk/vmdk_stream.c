/*
 * Writing streamOptimized: grains from front to back, each behind its marker, a grain table behind the last
 * grain that it has, and at the end the directory, the footer (a copy of the header that knows where the
 * directory is) and the end of the stream ("Virtual Disk Format 5.0", "Stream-Optimized Compressed Sparse
 * Extents"). Nothing written is ever changed, so what is resumed is found out from the markers alone.
 */
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "disk/vmdk/vmdk_impl.h"

#define LEVEL         6
#define TABLE_BYTES   2048U
#define PER_TABLE     512U
#define GRAIN_SECTORS (VMDK_STREAM_GRAIN / VMDK_SECTOR)

struct hv_vmdk_stream {
	struct hv_vmdk_header header;
	uint64_t at;    /* where the next marker goes */
	uint64_t next;  /* the first grain that may follow */
	uint64_t table; /* the one being filled */
	bool filling;   /* it has grains */
	bool resumed;   /* what is there has not been looked at yet */
	uint8_t entries[TABLE_BYTES];
	uint64_t tables;
	uint32_t *directory; /* little-endian */
};

int hv_vmdk_stream_new(struct hv_disk *d, const struct hv_vmdk_header *h, bool resume, struct hv_error *err)
{
	struct hv_vmdk *v = d->state;
	struct hv_vmdk_stream *s = calloc(1, sizeof(*s));
	uint8_t there[VMDK_SECTOR], wanted[VMDK_SECTOR];
	int rc = 0;

	if (!s)
		return hv_fail(err, ENOMEM, "%s: out of memory", d->path);
	v->stream = s;
	s->header = *h;
	s->at = h->overhead * VMDK_SECTOR;
	s->tables = (h->capacity - 1) / (GRAIN_SECTORS * PER_TABLE) + 1;
	s->directory = calloc(s->tables, sizeof(*s->directory));
	if (!s->directory)
		return hv_fail(err, ENOMEM, "%s: out of memory", d->path);
	s->resumed = resume;
	if (resume)
		rc = hv_disk_file_read(d->file[0], "sparse header", there, sizeof(there), 0, err);
	hv_vmdk_header_put(h, wanted);
	if (rc == 0 && resume && memcmp(there, wanted, sizeof(there)) != 0)
		rc = hv_fail(err, ESTALE, "%s: what is there was begun with another size", d->path);
	return rc;
}

void hv_vmdk_stream_free(struct hv_vmdk_stream *s)
{
	if (!s)
		return;
	free(s->directory);
	free(s);
}

/* --- grains ----------------------------------------------------------------------------------------------- */

static bool is_zero(const uint8_t *p, size_t length)
{
	return p[0] == 0 && memcmp(p, p + 1, length - 1) == 0;
}

int hv_vmdk_encode(struct hv_disk *d, struct hv_disk_io *io, uint64_t offset, const uint8_t *plain,
		   uint8_t *out, size_t *length, struct hv_error *err)
{
	size_t n, whole;

	*length = 0;
	if (is_zero(plain, VMDK_STREAM_GRAIN))
		return 0;
	n = hv_disk_deflate_zlib(io, LEVEL, plain, VMDK_STREAM_GRAIN, out + VMDK_MARK_GRAIN,
				 VMDK_STREAM_BOUND - VMDK_MARK_GRAIN - VMDK_SECTOR);
	if (n == 0)
		return hv_fail(err, ENOMEM, "%s: out of memory for compressing", d->path);
	hv_put_le64(out, offset / VMDK_SECTOR);
	hv_put_le32(out + 8, (uint32_t)n);
	n += VMDK_MARK_GRAIN;
	whole = hv_round_up(n, VMDK_SECTOR);
	memset(out + n, 0, whole - n);
	*length = whole;
	return 0;
}

static void put_marker(uint8_t *sector, uint64_t sectors, enum hv_vmdk_marker type)
{
	memset(sector, 0, VMDK_SECTOR);
	hv_put_le64(sector, sectors);
	hv_put_le32(sector + 12, type);
}

/* The table behind its grains. */
static int put_table(struct hv_disk *d, struct hv_vmdk_stream *s, struct hv_error *err)
{
	uint8_t buf[VMDK_SECTOR + TABLE_BYTES];
	int rc;

	if (!s->filling)
		return 0;
	put_marker(buf, TABLE_BYTES / VMDK_SECTOR, VMDK_MARK_TABLE);
	memcpy(buf + VMDK_SECTOR, s->entries, TABLE_BYTES);
	rc = hv_disk_file_write(d->file[0], buf, sizeof(buf), s->at, err);
	if (rc < 0)
		return rc;
	hv_put_le32(&s->directory[s->table], (uint32_t)(s->at / VMDK_SECTOR + 1));
	memset(s->entries, 0, sizeof(s->entries));
	s->filling = false;
	s->at += sizeof(buf);
	return 0;
}

static void note_grain(struct hv_vmdk_stream *s, uint64_t grain, uint64_t at)
{
	s->table = grain / PER_TABLE;
	s->filling = true;
	hv_put_le32(s->entries + grain % PER_TABLE * 4, (uint32_t)(at / VMDK_SECTOR));
	s->next = grain + 1;
}

/* --- going on --------------------------------------------------------------------------------------------- */

static int contradicts(const struct hv_disk *d, uint64_t at, struct hv_error *err)
{
	return hv_fail_unsafe(err,
			      "%s: the marker at offset %llu is not one that the conversion wrote; begin "
			      "it anew",
			      d->file[0]->path, (unsigned long long)at);
}

/*
 * Takes up the stream behind its last grain before `limit`. Table markers count only when a grain follows, as
 * each was written together with it.
 */
static int take_up(struct hv_disk *d, struct hv_vmdk_stream *s, uint64_t limit, struct hv_error *err)
{
	uint64_t at = s->at, table_at = 0;
	struct hv_vmdk_step step;
	int rc;

	while ((rc = hv_vmdk_step(d->file[0], at, VMDK_STREAM_BOUND, &step, err)) > 0) {
		uint64_t grain = step.value / GRAIN_SECTORS;

		at = step.next;
		if (!step.grain && step.type != VMDK_MARK_TABLE)
			break;
		if (!step.grain) {
			table_at = step.at + VMDK_SECTOR;
			continue;
		}
		if (grain >= limit)
			break;
		if (step.value % GRAIN_SECTORS || grain < s->next || grain / PER_TABLE >= s->tables)
			return contradicts(d, step.at, err);
		if (s->filling && grain / PER_TABLE != s->table) {
			if (!table_at)
				return contradicts(d, step.at, err);
			hv_put_le32(&s->directory[s->table], (uint32_t)(table_at / VMDK_SECTOR));
			memset(s->entries, 0, sizeof(s->entries));
		}
		table_at = 0;
		note_grain(s, grain, step.at);
		s->at = step.next;
	}
	s->resumed = false;
	return rc < 0 ? rc : hv_disk_file_resize(d->file[0], s->at, err);
}

int hv_vmdk_append(struct hv_disk *d, uint64_t offset, const void *data, size_t length, struct hv_error *err)
{
	struct hv_vmdk_stream *s = ((struct hv_vmdk *)d->state)->stream;
	uint64_t grain = offset / VMDK_STREAM_GRAIN;
	int rc;

	if (!s || offset % VMDK_STREAM_GRAIN || length % VMDK_SECTOR)
		return hv_fail(err, EINVAL, "%s: nothing can be appended here", d->path);
	if (length == 0)
		return 0;
	rc = s->resumed ? take_up(d, s, grain, err) : 0;
	if (rc == 0 && (grain < s->next || offset >= d->size))
		rc = hv_fail(err, EINVAL, "%s: a stream's grains must come in rising order", d->path);
	if (rc == 0 && grain / PER_TABLE != s->table)
		rc = put_table(d, s, err);
	if (rc == 0 && s->at / VMDK_SECTOR > UINT32_MAX - 2 * (VMDK_STREAM_BOUND / VMDK_SECTOR))
		rc = hv_fail(err, EFBIG,
			     "%s: the stream would be longer than 2 TiB, which its tables can't "
			     "hold",
			     d->path);
	if (rc == 0)
		rc = hv_disk_file_write(d->file[0], data, length, s->at, err);
	if (rc < 0)
		return rc;
	note_grain(s, grain, s->at);
	s->at += length;
	return 0;
}

/* --- the end ---------------------------------------------------------------------------------------------- */

static int put_sector(struct hv_disk *d, struct hv_vmdk_stream *s, const uint8_t sector[VMDK_SECTOR],
		      struct hv_error *err)
{
	int rc = hv_disk_file_write(d->file[0], sector, VMDK_SECTOR, s->at, err);

	s->at += VMDK_SECTOR;
	return rc;
}

static int put_directory(struct hv_disk *d, struct hv_vmdk_stream *s, struct hv_error *err)
{
	uint64_t bytes = s->tables * 4, whole = hv_round_up(bytes, VMDK_SECTOR);
	uint8_t sector[VMDK_SECTOR];
	int rc;

	put_marker(sector, whole / VMDK_SECTOR, VMDK_MARK_DIRECTORY);
	rc = put_sector(d, s, sector, err);
	s->header.gd_at = s->at / VMDK_SECTOR;
	if (rc == 0)
		rc = hv_disk_file_write(d->file[0], s->directory, bytes, s->at, err);
	memset(sector, 0, sizeof(sector));
	if (rc == 0 && whole > bytes)
		rc = hv_disk_file_write(d->file[0], sector, (size_t)(whole - bytes), s->at + bytes, err);
	s->at += whole;
	return rc;
}

int hv_vmdk_stream_finish(struct hv_disk *d, struct hv_error *err)
{
	struct hv_vmdk_stream *s = ((struct hv_vmdk *)d->state)->stream;
	uint8_t sector[VMDK_SECTOR];
	int rc = s->resumed ? take_up(d, s, UINT64_MAX, err) : 0;

	if (rc == 0)
		rc = put_table(d, s, err);
	if (rc == 0)
		rc = put_directory(d, s, err);
	put_marker(sector, 1, VMDK_MARK_FOOTER);
	if (rc == 0)
		rc = put_sector(d, s, sector, err);
	hv_vmdk_header_put(&s->header, sector);
	if (rc == 0)
		rc = put_sector(d, s, sector, err);
	put_marker(sector, 0, VMDK_MARK_END);
	return rc < 0 ? rc : put_sector(d, s, sector, err);
}
