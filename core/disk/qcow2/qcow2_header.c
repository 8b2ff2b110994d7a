/*
 * The header of a qcow2 image: its fixed part, versions 2 and 3, and the extensions behind it. Every number
 * is checked against the file and against the others before anything is read by it. Encrypted images are
 * named and refused; so is every feature that this file doesn't know, as the format demands. Rules: the qcow2
 * specification (QEMU's docs/interop/qcow2), "Header" and "Header extensions".
 */
#include <stdio.h>
#include <string.h>

#include "disk/qcow2/qcow2.h"

#define HEADER_V2 72
#define HEADER_V3 104
#define KNOWN                                                                                                \
	(HV_QCOW2_DIRTY | HV_QCOW2_CORRUPT | HV_QCOW2_DATA_FILE | HV_QCOW2_COMPRESSION | HV_QCOW2_SUBCLUSTERS)
#define EXTENSIONS_MAX 256

enum {
	EXT_END = 0,
	EXT_BACKING_FORMAT = (int)0xe2792aca,
	EXT_FEATURES = 0x6803f857,
	EXT_BITMAPS = 0x23852875,
	EXT_DATA_FILE = 0x44415441,
};

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

/* The table of internal snapshots, one record behind the other. They are told of and not followed. */
int hv_qcow2_list_snapshots(struct hv_disk *d, struct hv_error *err)
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
