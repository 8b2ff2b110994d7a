/*
 * The map of a qcow2 image: an L1 table leads to L2 tables, whose entries say for each cluster where it
 * stands, that it is zeros, that it is compressed, or that the backing file has it; with subclusters, for
 * each 32nd part of one. Each entry is checked before it is followed. Rules: the qcow2 specification (QEMU's
 * docs/interop/qcow2), "Cluster mapping" and "Extended L2 entries".
 */
#include "disk/qcow2/qcow2.h"

#define PIECES_MAX 64 /* that one look at the map puts together, each a page's at most */

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

int hv_qcow2_map(struct hv_disk *d, uint64_t offset, uint64_t length, struct hv_run *run,
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

int hv_qcow2_decode(struct hv_disk *d, struct hv_disk_io *io, const struct hv_run *run, const uint8_t *stored,
		    size_t stored_length, uint8_t *out, size_t *used, struct hv_error *err)
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
