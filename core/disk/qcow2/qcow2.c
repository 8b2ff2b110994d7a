/*
 * qcow2, reading: QEMU's format, and that of most clouds. A disk is cut into clusters; an L1 table leads to
 * L2 tables, whose entries say for each cluster where it stands, that it is zeros, that it is compressed, or
 * that the backing file has it. Refcounts beside that say how often each cluster of the file is used; a
 * reader needs none of them, so they are looked at by check and by writers only.
 *
 * Read here: versions 2 and 3, both compressions, subclusters, external data files, backing files. Encrypted
 * images are named and refused; so is every feature that this file doesn't know, as the format demands.
 * Rules: the qcow2 specification (QEMU's docs/interop/qcow2).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "disk/qcow2/qcow2.h"

#define HEADER_V2 72
#define HEADER_V3 104
#define KNOWN                                                                                                \
	(HV_QCOW2_DIRTY | HV_QCOW2_CORRUPT | HV_QCOW2_DATA_FILE | HV_QCOW2_COMPRESSION | HV_QCOW2_SUBCLUSTERS)
#define EXTENSIONS_MAX 256
#define PIECES_MAX     64 /* that one look at the map puts together, each a page's at most */

enum {
	EXT_END = 0,
	EXT_BACKING_FORMAT = (int)0xe2792aca,
	EXT_FEATURES = 0x6803f857,
	EXT_BITMAPS = 0x23852875,
	EXT_DATA_FILE = 0x44415441,
};

/* --- the header ------------------------------------------------------------------------------------------- */

static int bad(const struct hv_disk *d, const char *what, uint64_t at, uint64_t value, const char *expected,
	       struct hv_error *err)
{
	return hv_fail_unsafe(err, "%s: the %s at offset %llu is %llu; %s", d->path, what,
			      (unsigned long long)at, (unsigned long long)value, expected);
}

/* A table at `at` that must begin a cluster behind the first and lie in the file. */
static int check_table(const struct hv_disk *d, const char *what, uint64_t field, uint64_t at,
		       uint64_t length, struct hv_error *err)
{
	const struct hv_qcow2 *q = hv_qcow2_of(d);

	if (at & (q->cluster_size - 1) || at < q->cluster_size)
		return bad(d, what, field, at, "a cluster's start behind the header was expected", err);
	if (!hv_inside(at, length, hv_disk_file_size(d->file[0])))
		return hv_fail_unsafe(err,
				      "%s: the %s at offset %llu (%llu bytes) is not all in the file, "
				      "which ends at %llu",
				      d->path, what, (unsigned long long)at, (unsigned long long)length,
				      (unsigned long long)hv_disk_file_size(d->file[0]));
	return 0;
}

static int parse_base(struct hv_disk *d, const uint8_t *h, struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);

	q->version = hv_be32(h + 4);
	q->backing_at = hv_be64(h + 8);
	q->backing_length = hv_be32(h + 16);
	q->cluster_bits = hv_be32(h + 20);
	q->size = hv_be64(h + 24);
	q->crypt = hv_be32(h + 32);
	q->l1_entries = hv_be32(h + 36);
	q->l1_at = hv_be64(h + 40);
	q->reftable_at = hv_be64(h + 48);
	q->reftable_clusters = hv_be32(h + 56);
	q->snapshots = hv_be32(h + 60);
	q->snapshots_at = hv_be64(h + 64);
	q->refcount_order = 4;
	q->header_length = HEADER_V2;
	if (hv_be32(h) != HV_QCOW2_MAGIC)
		return hv_fail_unsafe(err, "%s: no qcow2 image: the magic at offset 0 is missing", d->path);
	if (q->version != 2 && q->version != 3)
		return hv_fail(err, ENOTSUP, "%s: qcow version %u; versions 2 and 3 are supported%s", d->path,
			       q->version, q->version == 1 ? " (qemu-img convert -f qcow -O qcow2)" : "");
	if (q->cluster_bits < 9 || q->cluster_bits > 21)
		return bad(d, "number of cluster bits", 20, q->cluster_bits, "9 to 21 were expected", err);
	q->cluster_size = 1ULL << q->cluster_bits;
	return 0;
}

static int parse_v3(struct hv_disk *d, const uint8_t *h, size_t length, struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);

	if (length < HEADER_V3)
		return hv_fail_unsafe(err, "%s: the header is cut off after %zu bytes; %u were expected",
				      d->path, length, HEADER_V3);
	q->incompatible = hv_be64(h + 72);
	q->compatible = hv_be64(h + 80);
	q->autoclear = hv_be64(h + 88);
	q->refcount_order = hv_be32(h + 96);
	q->header_length = hv_be32(h + 100);
	if (q->header_length < HEADER_V3 || q->header_length > q->cluster_size || q->header_length % 8)
		return bad(d, "header's length", 100, q->header_length,
			   "a multiple of 8 from 104 to a cluster was expected", err);
	if (q->refcount_order > 6)
		return bad(d, "refcount order", 96, q->refcount_order, "at most 6 was expected", err);
	if (q->header_length > HEADER_V3 && length > HEADER_V3)
		q->compression = h[104];
	return 0;
}

/* A name from the image, its zeros and control characters cut off. */
static void copy_name(char *to, size_t room, const uint8_t *from, size_t length)
{
	size_t n = 0;

	while (n < length && n < room - 1 && from[n] >= ' ' && from[n] != 0x7f) {
		to[n] = (char)from[n];
		n++;
	}
	to[n] = '\0';
}

static int parse_features(struct hv_disk *d, uint64_t at, uint32_t length, struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);
	uint8_t entry[48];

	for (uint32_t i = 0; i < length / sizeof(entry) && i < 192; i++) {
		int rc = hv_disk_file_read(d->file[0], "table of feature names", entry, sizeof(entry),
					   at + i * sizeof(entry), err);

		if (rc < 0)
			return rc;
		if (entry[0] < 3 && entry[1] < 64)
			copy_name(q->feature[entry[0]][entry[1]], sizeof(q->feature[0][0]), entry + 2, 46);
	}
	return 0;
}

/* Text of an extension; longer or stranger than it can be is damage. */
static int parse_text(struct hv_disk *d, const char *what, uint64_t at, uint32_t length, char *to,
		      size_t room, struct hv_error *err)
{
	uint8_t text[HV_QCOW2_BACKING_MAX + 1];
	int rc;

	if (length == 0 || length >= room)
		return bad(d, what, at - 4, length, "its length can't be", err);
	rc = hv_disk_file_read(d->file[0], what, text, length, at, err);
	if (rc < 0)
		return rc;
	if (memchr(text, 0, length))
		return hv_fail_unsafe(err, "%s: the %s at offset %llu has a zero byte in it", d->path, what,
				      (unsigned long long)at);
	memcpy(to, text, length);
	to[length] = '\0';
	return 0;
}

static int parse_bitmaps(struct hv_disk *d, uint64_t at, uint32_t length, struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);
	uint8_t body[24];
	int rc;

	if (length < sizeof(body))
		return 0;
	rc = hv_disk_file_read(d->file[0], "bitmaps extension", body, sizeof(body), at, err);
	if (rc < 0)
		return rc;
	q->bitmaps_length = hv_be64(body + 8);
	q->bitmaps_at = hv_be64(body + 16);
	return hv_disk_note(d, "it holds persistent bitmaps of QEMU, which are not carried over");
}

static int parse_extension(struct hv_disk *d, uint32_t type, uint64_t at, uint32_t length,
			   struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);

	switch ((int)type) {
	case EXT_BACKING_FORMAT:
		return parse_text(d, "backing file's format", at, length, q->backing_format,
				  sizeof(q->backing_format), err);
	case EXT_DATA_FILE:
		return parse_text(d, "data file's name", at, length, q->data_file, sizeof(q->data_file), err);
	case EXT_FEATURES:
		return parse_features(d, at, length, err);
	case EXT_BITMAPS:
		return parse_bitmaps(d, at, length, err);
	default:
		return 0;
	}
}

/* Behind the header up to the backing file's name, or to the first cluster's end: type, length, bytes. */
static int parse_extensions(struct hv_disk *d, struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);
	uint64_t at = q->header_length, end = q->cluster_size;

	if (q->backing_at && q->backing_at < end)
		end = q->backing_at;
	for (unsigned n = 0; at + 8 <= end; n++) {
		uint8_t head[8];
		uint32_t length;
		int rc = hv_disk_file_read(d->file[0], "header extension", head, sizeof(head), at, err);

		if (rc < 0)
			return rc;
		if (hv_be32(head) == EXT_END)
			return 0;
		length = hv_be32(head + 4);
		if (n >= EXTENSIONS_MAX || length > end - at - 8)
			return bad(d, "header extension's length", at + 4, length,
				   "it must end in the first cluster, before the backing file's name", err);
		rc = parse_extension(d, hv_be32(head), at + 8, length, err);
		if (rc < 0)
			return rc;
		at += 8 + hv_round_up(length, 8);
	}
	return 0;
}

static int parse_backing(struct hv_disk *d, struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);

	if (q->backing_at == 0 || q->backing_length == 0)
		return 0;
	if (q->backing_length > HV_QCOW2_BACKING_MAX)
		return bad(d, "length of the backing file's name", 16, q->backing_length,
			   "at most 1023 was expected", err);
	if (!hv_inside(q->backing_at, q->backing_length, q->cluster_size) || q->backing_at < q->header_length)
		return bad(d, "place of the backing file's name", 8, q->backing_at,
			   "it must lie in the first cluster, behind the header", err);
	return parse_text(d, "backing file's name", q->backing_at, q->backing_length, q->backing,
			  sizeof(q->backing), err);
}

static int check_features(struct hv_disk *d, struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);
	uint64_t unknown = q->incompatible & ~KNOWN;

	if (unknown) {
		unsigned bit = (unsigned)__builtin_ctzll(unknown);
		const char *name = q->feature[0][bit];

		return hv_fail(err, ENOTSUP,
			       "%s: it uses %s%s%s(incompatible feature bit %u), which is not "
			       "supported",
			       d->path, name[0] ? "\"" : "a feature ", name, name[0] ? "\" " : "", bit);
	}
	if (q->crypt)
		return hv_fail(err, ENOTSUP,
			       "%s: it is encrypted (%s), which is not supported; qemu-img convert "
			       "with the key decrypts it",
			       d->path,
			       q->crypt == 1   ? "AES"
			       : q->crypt == 2 ? "LUKS"
					       : "an unknown method");
	if (q->incompatible & HV_QCOW2_CORRUPT && !d->salvage)
		return hv_fail_unsafe(err,
				      "%s: it is marked as corrupt (bit 1 at offset 72); qemu-img check -r "
				      "all may repair it, --salvage reads what is there",
				      d->path);
	if (!(q->incompatible & HV_QCOW2_COMPRESSION) != (q->compression == 0) || q->compression > 1)
		return bad(d, "compression type", 104, q->compression,
			   q->compression > 1 ? "0 (zlib) or 1 (zstd) was expected"
					      : "the feature bit at offset 72 says otherwise",
			   err);
	if (q->incompatible & HV_QCOW2_SUBCLUSTERS && q->cluster_bits < 14)
		return bad(d, "number of cluster bits", 20, q->cluster_bits,
			   "with subclusters at least 14 was expected", err);
	return 0;
}

/* How many L1 entries the disk's size asks for. */
static int check_size(struct hv_disk *d, struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);
	unsigned shift;
	uint64_t need;

	q->entry_bits = q->incompatible & HV_QCOW2_SUBCLUSTERS ? 4 : 3;
	q->l2_bits = q->cluster_bits - q->entry_bits;
	shift = q->cluster_bits + q->l2_bits;
	need = (q->size >> shift) + ((q->size & ((1ULL << shift) - 1)) != 0);
	if (q->size % 512 || q->size > INT64_MAX)
		return bad(d, "disk's size", 24, q->size, "a multiple of 512 was expected", err);
	if (q->l1_entries > HV_QCOW2_L1_MAX / 8)
		return bad(d, "number of L1 entries", 36, q->l1_entries, "at most 4194304 were expected",
			   err);
	if (q->l1_entries < need)
		return hv_fail_unsafe(err,
				      "%s: the L1 table has %llu entries (offset 36); the disk's size asks "
				      "for %llu",
				      d->path, (unsigned long long)q->l1_entries, (unsigned long long)need);
	return q->l1_entries ? check_table(d, "L1 table", 40, q->l1_at, q->l1_entries * 8, err) : 0;
}

static int check_refcounts(struct hv_disk *d, struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);
	int rc;

	if (q->reftable_clusters == 0 || q->reftable_clusters > HV_QCOW2_REFTABLE_MAX >> q->cluster_bits)
		rc = bad(d, "number of refcount table clusters", 56, q->reftable_clusters,
			 "1 or more were expected, 8 MiB at most", err);
	else
		rc = check_table(d, "refcount table", 48, q->reftable_at,
				 q->reftable_clusters << q->cluster_bits, err);
	if (rc == -EBADMSG && d->salvage) {
		q->reftable_clusters = 0;
		return hv_disk_note(d, "its refcount table can't be used; it is not needed for reading");
	}
	return rc;
}

int hv_qcow2_read_header(struct hv_disk *d, bool creating, struct hv_error *err)
{
	uint8_t h[HEADER_V3 + 8];
	int64_t n = hv_disk_file_read_some(d->file[0], h, sizeof(h), 0, err);
	int rc;

	if (n < 0)
		return (int)n;
	if (n < HEADER_V2)
		return hv_fail_unsafe(err, "%s: the header is cut off after %lld bytes; 72 were expected",
				      d->path, (long long)n);
	rc = parse_base(d, h, err);
	if (rc == 0 && hv_qcow2_of(d)->version >= 3)
		rc = parse_v3(d, h, (size_t)n, err);
	if (rc == 0)
		rc = parse_extensions(d, err);
	if (rc == 0)
		rc = check_features(d, err);
	if (rc == 0)
		rc = parse_backing(d, err);
	if (rc == 0)
		rc = check_size(d, err);
	if (rc == 0 && !creating)
		rc = check_refcounts(d, err);
	return rc;
}

/* --- opening ---------------------------------------------------------------------------------------------- */

static int qcow2_probe(const struct hv_disk_probe *probe)
{
	return probe->head_length >= 8 && hv_be32(probe->head) == HV_QCOW2_MAGIC ? 2 : 0;
}

/* The table of internal snapshots, one record behind the other. They are told of and not followed. */
static int list_snapshots(struct hv_disk *d, struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);
	uint64_t at = q->snapshots_at;
	int rc = 0;

	if (q->snapshots == 0)
		return 0;
	if (q->snapshots > HV_QCOW2_SNAPSHOTS_MAX)
		return bad(d, "number of snapshots", 60, q->snapshots, "at most 65536 were expected", err);
	rc = check_table(d, "snapshot table", 64, at, 40, err);
	for (uint32_t i = 0; i < q->snapshots && rc == 0; i++) {
		uint8_t h[40], text[128];
		uint64_t id_length, name_length, names;
		char id[64], name[64];

		rc = hv_disk_file_read(d->file[0], "snapshot table", h, sizeof(h), at, err);
		if (rc < 0)
			break;
		id_length = hv_be16(h + 12);
		name_length = hv_be16(h + 14);
		names = at + sizeof(h) + hv_be32(h + 36);
		if (hv_be32(h + 36) > 1024)
			return bad(d, "length of a snapshot's extra data", at + 36, hv_be32(h + 36),
				   "at most 1024 was expected", err);
		at = hv_round_up(names + id_length + name_length, 8);
		if (i >= 32)
			continue;
		memset(text, 0, sizeof(text));
		rc = hv_disk_file_read(d->file[0], "snapshot's id", text,
				       id_length < 64 ? (size_t)id_length : 63, names, err);
		if (rc == 0)
			rc = hv_disk_file_read(d->file[0], "snapshot's name", text + 64,
					       name_length < 64 ? (size_t)name_length : 63, names + id_length,
					       err);
		if (rc < 0)
			break;
		copy_name(id, sizeof(id), text, 64);
		copy_name(name, sizeof(name), text + 64, 64);
		rc = hv_disk_property(d, "snapshot", "%s (%s)", id, name);
	}
	q->snapshots_length = at - q->snapshots_at;
	if (rc == 0)
		rc = hv_disk_note(d,
				  "it holds %u internal snapshot%s, which are not carried over; the disk's "
				  "current state is read",
				  q->snapshots, q->snapshots == 1 ? "" : "s");
	if (rc == -EBADMSG && d->salvage) {
		q->snapshots_length = 0;
		return hv_disk_note(d, "its snapshot table can't be read: %.200s", err ? err->text : "");
	}
	return rc;
}

static int tell(struct hv_disk *d)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);
	int rc = hv_disk_property(d, "compat", "%s", q->version == 2 ? "0.10" : "1.1");

	if (rc == 0)
		rc = hv_disk_property(d, "compression", "%s", q->compression ? "zstd" : "zlib");
	if (rc == 0)
		rc = hv_disk_property(d, "refcount bits", "%u", 1U << q->refcount_order);
	if (rc == 0 && q->entry_bits == 4)
		rc = hv_disk_property(d, "subclusters", "32");
	if (rc == 0 && q->compatible & HV_QCOW2_LAZY)
		rc = hv_disk_property(d, "lazy refcounts", "yes");
	if (rc == 0 && q->backing[0])
		rc = hv_disk_property(d, "backing file", "%s", q->backing);
	if (rc == 0 && q->backing_format[0])
		rc = hv_disk_property(d, "backing format", "%s", q->backing_format);
	if (rc == 0 && q->data_file[0])
		rc = hv_disk_property(d, "data file", "%s", q->data_file);
	if (rc == 0 && q->incompatible & HV_QCOW2_DIRTY)
		rc = hv_disk_note(d,
				  "it was not closed properly (dirty bit): its refcounts may be stale, its "
				  "data is where the tables say");
	if (rc == 0 && q->incompatible & HV_QCOW2_CORRUPT)
		rc = hv_disk_note(d, "it is marked as corrupt");
	return rc;
}

static int open_data_file(struct hv_disk *d, struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);
	unsigned index;

	if (!(q->incompatible & HV_QCOW2_DATA_FILE))
		return 0;
	if (!q->data_file[0])
		return hv_fail_unsafe(err,
				      "%s: its data stands in another file (bit 2 at offset 72), whose name "
				      "is not in the header",
				      d->path);
	if (q->autoclear & HV_QCOW2_RAW_DATA && q->backing[0])
		return hv_fail_unsafe(err,
				      "%s: a raw data file (bit 1 at offset 88) and a backing file exclude "
				      "each other",
				      d->path);
	return hv_disk_open_extent(d, q->data_file, true, &index, err);
}

/*
 * QEMU writes "file:NAME" for a plain name with a colon in it; what has another protocol in front, a colon
 * before the first slash, leads to something that isn't a file.
 */
static int open_backing(struct hv_disk *d, struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);
	const char *name = q->backing, *format = q->backing_format[0] ? q->backing_format : NULL;

	if (!name[0])
		return 0;
	d->has_parent = true;
	if (strncmp(name, "file:", 5) == 0)
		name += 5;
	else if (name[0] != '/' && strcspn(name, ":") < strcspn(name, "/"))
		return hv_fail(err, ENOTSUP,
			       "%s: its backing file \"%.200s\" is no file; only files are "
			       "supported",
			       d->path, name);
	if (format && (strcmp(format, "file") == 0 || strcmp(format, "host_device") == 0))
		format = "raw";
	return hv_disk_open_parent(d, name, format, err);
}

static int qcow2_open(struct hv_disk *d, struct hv_error *err)
{
	struct hv_qcow2 *q = calloc(1, sizeof(*q));
	int rc;

	if (!q)
		return hv_fail(err, ENOMEM, "%s: out of memory", d->path);
	d->state = q;
	pthread_mutex_init(&q->lock, NULL);
	rc = hv_qcow2_read_header(d, false, err);
	if (rc == 0)
		rc = tell(d);
	if (rc == 0)
		rc = list_snapshots(d, err);
	if (rc == 0)
		rc = hv_qcow2_cache_init(d, err);
	if (rc == 0 && d->writable)
		rc = hv_qcow2_may_write(d, err);
	if (rc < 0)
		return rc;
	d->size = q->size;
	d->block_size = (uint32_t)q->cluster_size;
	snprintf(d->subformat, sizeof(d->subformat), "%s", q->version == 2 ? "v2" : "v3");
	rc = open_data_file(d, err);
	return rc < 0 ? rc : open_backing(d, err);
}

static void qcow2_close(struct hv_disk *d)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);

	if (!q)
		return;
	hv_qcow2_cache_free(q);
	hv_qcow2_runs_free(&q->given_back);
	hv_qcow2_runs_free(&q->free);
	pthread_mutex_destroy(&q->lock);
	free(q->taken);
	free(q);
	d->state = NULL;
}

/* --- the map ---------------------------------------------------------------------------------------------- */

const char *hv_qcow2_bad_l1(const struct hv_disk *d, uint64_t entry)
{
	const struct hv_qcow2 *q = hv_qcow2_of(d);
	uint64_t at = entry & HV_QCOW2_OFFSET;

	if (entry & ~(HV_QCOW2_COPIED | HV_QCOW2_OFFSET) && !d->salvage)
		return "has reserved bits set";
	if (at & (q->cluster_size - 1))
		return "leads into the middle of a cluster";
	if (at == 0 && entry != 0)
		return "leads to the header";
	if (at && !hv_inside(at, q->cluster_size, hv_disk_file_size(d->file[0])))
		return "leads behind the file's end";
	return NULL;
}

/* Does [at, at + length) touch one of the tables whose place the header tells? */
static bool is_metadata(const struct hv_qcow2 *q, uint64_t at, uint64_t length)
{
	uint64_t end = at + length;

	return at < q->cluster_size || (at < q->l1_at + q->l1_entries * 8 && end > q->l1_at) ||
	       (q->reftable_clusters && at < q->reftable_at + (q->reftable_clusters << q->cluster_bits) &&
		end > q->reftable_at) ||
	       (q->snapshots_length && at < q->snapshots_at + q->snapshots_length && end > q->snapshots_at);
}

void hv_qcow2_compressed(const struct hv_qcow2 *q, uint64_t entry, uint64_t *at, uint64_t *length)
{
	unsigned bits = 62 - (q->cluster_bits - 8);
	uint64_t sectors = (entry >> bits) & ((1ULL << (q->cluster_bits - 8)) - 1);

	*at = entry & ((1ULL << bits) - 1);
	*length = (sectors + 1) * 512 - (*at & 511);
}

static const char *bad_compressed(const struct hv_disk *d, uint64_t entry)
{
	const struct hv_qcow2 *q = hv_qcow2_of(d);
	uint64_t at, length;

	if (q->incompatible & HV_QCOW2_DATA_FILE)
		return "is compressed, which can't be with a data file";
	hv_qcow2_compressed(q, entry, &at, &length);
	if (at >= hv_disk_file_size(d->file[0]))
		return "leads behind the file's end";
	if (is_metadata(q, at, length))
		return "leads into the image's own tables";
	return NULL;
}

const char *hv_qcow2_bad_l2(const struct hv_disk *d, uint64_t entry)
{
	const struct hv_qcow2 *q = hv_qcow2_of(d);
	uint64_t at = entry & HV_QCOW2_OFFSET;

	if (entry & HV_QCOW2_COMPRESSED)
		return bad_compressed(d, entry);
	if (entry & ~(HV_QCOW2_COPIED | HV_QCOW2_OFFSET | HV_QCOW2_ZERO) && !d->salvage)
		return "has reserved bits set";
	if (entry & HV_QCOW2_ZERO && (q->version == 2 || q->entry_bits == 4))
		return "says that the cluster is zeros, which this image can't";
	if (at & (q->cluster_size - 1))
		return "leads into the middle of a cluster";
	if (q->incompatible & HV_QCOW2_DATA_FILE)
		return NULL;
	if (at == 0 && entry & HV_QCOW2_COPIED)
		return "leads to the header";
	if (at >= hv_disk_file_size(d->file[0]))
		return "leads behind the file's end";
	if (at && is_metadata(q, at, q->cluster_size))
		return "leads into the image's own tables";
	return NULL;
}

const char *hv_qcow2_bad_bits(uint64_t entry, uint64_t bits)
{
	if (entry & HV_QCOW2_COMPRESSED)
		return bits ? "is compressed and has subclusters" : NULL;
	if (bits & (bits >> 32) & UINT32_MAX)
		return "says of a subcluster that it is data and zeros";
	if (bits & UINT32_MAX && !(entry & (HV_QCOW2_OFFSET | HV_QCOW2_COPIED)))
		return "has subclusters of data and no place for them";
	return NULL;
}

static int bad_entry(const struct hv_disk *d, const char *table, uint64_t at, uint64_t entry, const char *why,
		     struct hv_error *err)
{
	return hv_fail_unsafe(err, "%s: the %s entry at offset %llu (0x%llx) %s", d->path, table,
			      (unsigned long long)at, (unsigned long long)entry, why);
}

/* How many of the entries at `bytes` go on as first + step each. */
static uint64_t equal_steps(const uint8_t *bytes, size_t length, uint64_t first, uint64_t step)
{
	uint64_t n = 1;

	while ((n + 1) * 8 <= length && hv_be64(bytes + n * 8) == first + n * step)
		n++;
	return n;
}

/* What an entry says of the cluster as a whole; what tells a shared cluster from its own, see map_one. */
static void set_kind(const struct hv_disk *d, uint64_t entry, struct hv_run *run)
{
	const struct hv_qcow2 *q = hv_qcow2_of(d);

	if (entry & HV_QCOW2_ZERO) {
		run->kind = HV_RUN_ZERO;
	} else if (entry & (HV_QCOW2_OFFSET | HV_QCOW2_COPIED)) {
		run->kind = HV_RUN_DATA;
		run->at = entry & HV_QCOW2_OFFSET;
		run->file = q->incompatible & HV_QCOW2_DATA_FILE ? 1 : 0;
	} else {
		run->kind = HV_RUN_HOLE;
	}
}

/* 0 not allocated, 1 data, 2 zeros. */
static unsigned kind_of_bit(uint64_t bits, unsigned sub)
{
	return (unsigned)(bits >> sub & 1) | (unsigned)(bits >> (sub + 32) & 1) << 1;
}

/* A cluster with subclusters: those from `sub` on that are of one kind. */
static void map_bits(struct hv_disk *d, uint64_t entry, uint64_t bits, unsigned sub, struct hv_run *run)
{
	unsigned n = 1, kind = kind_of_bit(bits, sub);
	uint64_t size = hv_qcow2_of(d)->cluster_size / 32;

	while (sub + n < 32 && kind_of_bit(bits, sub + n) == kind)
		n++;
	set_kind(d, kind == 1 ? entry | HV_QCOW2_COPIED : kind == 2 ? HV_QCOW2_ZERO : 0, run);
	run->offset = sub * size; /* in the cluster, for now */
	run->length = n * size;
	if (run->kind == HV_RUN_DATA)
		run->at += sub * size;
}

/* Bytes written in place would be seen by all who share the cluster. */
static int check_own(struct hv_disk *d, uint64_t entry, struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);
	uint64_t count = 1;
	int rc = 0;

	if (d->writable && !q->creating && !(entry & HV_QCOW2_COPIED))
		rc = hv_qcow2_refcount(d, (entry & HV_QCOW2_OFFSET) >> q->cluster_bits, &count, err);
	if (rc == 0 && count != 1)
		return hv_fail_unsafe(err,
				      "%s: the cluster at offset %llu is used once and its refcount is %llu; "
				      "let qemu-img check -r all repair the image before writing to it",
				      d->path, (unsigned long long)(entry & HV_QCOW2_OFFSET),
				      (unsigned long long)count);
	return rc;
}

/* From the L2 entry at `at` on, as far as its page goes; left: what the table has from there, in entries. */
static int map_l2(struct hv_disk *d, uint64_t at, uint64_t cluster, uint64_t left, uint64_t offset,
		  struct hv_run *run, struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);
	uint64_t entry, bits = 0, in_cluster = offset & (q->cluster_size - 1), n = 1, stored;
	const uint8_t *bytes;
	const char *why;
	size_t length;
	int rc = hv_qcow2_bytes(d, at, &bytes, &length, err);

	if (rc < 0)
		return rc;
	entry = hv_be64(bytes);
	if (q->entry_bits == 4 && length >= 16)
		bits = hv_be64(bytes + 8);
	why = hv_qcow2_bad_l2(d, entry);
	if (!why && q->entry_bits == 4)
		why = hv_qcow2_bad_bits(entry, bits);
	if (why)
		return bad_entry(d, "L2", at, entry, why, err);
	run->unit = cluster << q->cluster_bits;
	if (entry & HV_QCOW2_COMPRESSED) {
		run->kind = HV_RUN_DATA;
		run->stored = HV_STORED_ENCODED;
		hv_qcow2_compressed(q, entry, &run->at, &stored);
		run->stored_length = (uint32_t)stored;
		run->unit_length = (uint32_t)q->cluster_size;
		run->length = q->cluster_size - in_cluster;
		run->offset = offset;
		return 0;
	}
	if (q->entry_bits == 4) {
		uint64_t sub = in_cluster / (q->cluster_size / 32), start;

		map_bits(d, entry, bits, (unsigned)sub, run);
		start = in_cluster - run->offset;
		run->length -= start;
		run->at += start;
		run->offset = offset;
		return 0;
	}
	set_kind(d, entry, run);
	if (left > length / 8)
		left = length / 8;
	n = equal_steps(bytes, left * 8, entry, run->kind == HV_RUN_DATA ? q->cluster_size : 0);
	if (run->kind == HV_RUN_DATA) {
		rc = check_own(d, entry, err); /* may turn the page over: nothing of it is used behind this */
		if (!(entry & HV_QCOW2_COPIED))
			n = 1;
		/* The followers are as well aligned as the first; they may still run into a table. */
		while (n > 1 && run->file == 0 && is_metadata(q, run->at, n << q->cluster_bits))
			n /= 2;
		run->at += in_cluster;
	}
	run->length = (n << q->cluster_bits) - in_cluster;
	run->offset = offset;
	return rc;
}

/* One look at the tables: what stands in one page of L1 or L2. */
static int map_one(struct hv_disk *d, uint64_t offset, struct hv_run *run, struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);
	uint64_t cluster = offset >> q->cluster_bits, per_l2 = 1ULL << q->l2_bits, entry;
	uint64_t l1_at = q->l1_at + (cluster >> q->l2_bits) * 8, in_l2 = cluster & (per_l2 - 1);
	const uint8_t *bytes;
	const char *why;
	size_t length;
	int rc = hv_qcow2_bytes(d, l1_at, &bytes, &length, err);

	if (rc < 0)
		return rc;
	*run = (struct hv_run){.offset = offset, .kind = HV_RUN_HOLE};
	entry = hv_be64(bytes);
	if (entry == 0) {
		uint64_t n = equal_steps(bytes, length, 0, 0), max = q->l1_entries - (cluster >> q->l2_bits);

		run->length = ((n < max ? n : max) << (q->l2_bits + q->cluster_bits)) -
			      (offset & ((1ULL << (q->l2_bits + q->cluster_bits)) - 1));
		return 0;
	}
	why = hv_qcow2_bad_l1(d, entry);
	if (why)
		return bad_entry(d, "L1", l1_at, entry, why, err);
	return map_l2(d, (entry & HV_QCOW2_OFFSET) + (in_l2 << q->entry_bits), cluster, per_l2 - in_l2,
		      offset, run, err);
}

static bool goes_on(const struct hv_run *run, const struct hv_run *next)
{
	return run->kind == next->kind && run->stored == HV_STORED_PLAIN && next->stored == HV_STORED_PLAIN &&
	       (run->kind != HV_RUN_DATA || (run->file == next->file && run->at + run->length == next->at));
}

static int qcow2_map(struct hv_disk *d, uint64_t offset, uint64_t length, struct hv_run *run,
		     struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);
	uint64_t end = length < d->size - offset ? offset + length : d->size;
	struct hv_run next;
	int rc;

	pthread_mutex_lock(&q->lock);
	rc = map_one(d, offset, run, err);
	for (unsigned i = 1; rc == 0 && run->offset + run->length < end && i < PIECES_MAX; i++) {
		/* What can't be told ends the run; it is a failure only for whoever asks for it. */
		if (map_one(d, run->offset + run->length, &next, NULL) < 0 || !goes_on(run, &next))
			break;
		run->length += next.length;
	}
	pthread_mutex_unlock(&q->lock);
	if (rc == 0 && run->length > d->size - offset)
		run->length = d->size - offset;
	return rc;
}

static int qcow2_decode(struct hv_disk *d, struct hv_disk_io *io, const struct hv_run *run,
			const uint8_t *stored, size_t stored_length, uint8_t *out, size_t *used,
			struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);
	int rc = (q->compression ? hv_disk_unzstd : hv_disk_inflate_raw)(io, stored, stored_length, out,
									 run->unit_length, used);

	if (rc == -ENOMEM)
		return hv_fail(err, ENOMEM, "%s: out of memory for decompressing", d->path);
	if (rc < 0)
		return hv_fail_unsafe(err,
				      "%s: the compressed cluster at offset %llu (of the disk's offset %llu) "
				      "doesn't give the %u bytes of a cluster",
				      d->path, (unsigned long long)run->at, (unsigned long long)run->unit,
				      run->unit_length);
	return 0;
}

/* L2 tables and refcount blocks stand among the data; an entry that can't be right is its own finding. */
static int own_clusters(struct hv_disk *d, struct hv_disk_tables *tables, uint64_t at, uint64_t entries,
			bool l1, struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);
	int rc = 0;

	for (uint64_t i = 0; i < entries && rc == 0; i++) {
		uint64_t entry;

		pthread_mutex_lock(&q->lock);
		rc = hv_qcow2_get(d, at + i * 8, &entry, err);
		pthread_mutex_unlock(&q->lock);
		if (rc == -EBADMSG)
			return 0;
		if (rc == 0 && entry && (!l1 || !hv_qcow2_bad_l1(d, entry)))
			entry &= l1 ? HV_QCOW2_OFFSET : HV_QCOW2_TABLE_OFFSET;
		else
			entry = 0;
		if (rc == 0 && entry && !(entry & (q->cluster_size - 1)))
			rc = tables->own(tables, d, 0, entry, q->cluster_size, err);
	}
	return rc;
}

static int qcow2_tables(struct hv_disk *d, struct hv_disk_tables *tables, struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);
	int rc = own_clusters(d, tables, q->l1_at, q->l1_entries, true, err);

	if (rc == 0)
		rc = own_clusters(d, tables, q->reftable_at, q->reftable_clusters << (q->cluster_bits - 3),
				  false, err);
	return rc;
}

const struct hv_disk_format hv_disk_format_qcow2 = {
	.name = "qcow2",
	.extensions = (const char *const[]){"qcow2", "qcow", "qc2", NULL},
	.subformats = NULL,
	.probe = qcow2_probe,
	.open = qcow2_open,
	.close = qcow2_close,
	.map = qcow2_map,
	.decode = qcow2_decode,
	.place = hv_qcow2_place,
	.commit = hv_qcow2_commit,
	.zero = hv_qcow2_zero,
	.flush = hv_qcow2_flush,
	.create = hv_qcow2_create,
	.resume = hv_qcow2_resume,
	.finish = hv_qcow2_finish,
	.tables = qcow2_tables,
	.check = hv_qcow2_check,
};
