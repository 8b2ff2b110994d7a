/*
 * qcow2, checking: every entry of every table, and the refcounts counted anew. What the image says of a
 * cluster is compared with how often its tables lead there: fewer counted than used is damage, since a writer
 * would take the cluster for another; more is a leak. Memory is bounded: the file's clusters are counted a
 * window at a time, each window with a walk over all tables; only the first walk tells of wrong entries.
 * Rules: the qcow2 specification.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "disk/claims.h"
#include "disk/qcow2/qcow2.h"

#define WINDOW    (2U << 20) /* clusters */
#define WINDOWS   1024U
#define CHUNK     4096 /* bytes of a table at a time */
#define COUNT_MAX UINT16_MAX

/* What a cluster of the file is used as. SEEN: by the walk over one L1 table that is going on. */
enum { META = 1, TABLE = 2, DATA = 4, COMPRESSED = 8, SEEN = 16 };

struct walk {
	struct hv_disk *d;
	struct hv_qcow2 *q;
	struct hv_disk_check *check;
	struct hv_disk_io *io;
	uint8_t *unit; /* a decoded cluster */
	uint64_t first, clusters, file_clusters;
	uint16_t *count;
	uint8_t *use;
	struct hv_claims *tables; /* L2 tables that this walk has been in */
	bool tell, active;        /* the first window; the current state, no snapshot */
};

static void found(struct walk *w, const char *table, uint64_t at, uint64_t entry, const char *why)
{
	if (w->tell)
		hv_disk_found(w->check, HV_CHECK_ERROR,
			      "the %s entry at offset %" PRIu64 " (0x%" PRIx64 ") %s", table, at, entry, why);
}

static const char *use_name(unsigned use)
{
	return use & META         ? "one of the image's own tables"
	       : use & TABLE      ? "an L2 table"
	       : use & COMPRESSED ? "compressed data"
				  : "data";
}

static bool clashes(unsigned before, unsigned use)
{
	if (use == META || before & META)
		return before != 0;
	if (use == COMPRESSED)
		return before & (TABLE | DATA);
	return before & (TABLE | DATA | COMPRESSED) & ~use || before & SEEN;
}

/* The clusters that [at, at + length) touches are used once more. */
static void use(struct walk *w, uint64_t at, uint64_t length, unsigned as)
{
	uint64_t cluster = at >> w->q->cluster_bits, end = hv_qcow2_clusters(w->q, at + length);

	if (cluster < w->first)
		cluster = w->first;
	if (end > w->first + w->clusters)
		end = w->first + w->clusters;
	for (; cluster < end; cluster++) {
		uint64_t i = cluster - w->first;

		if (clashes(w->use[i], as))
			hv_disk_found(w->check, HV_CHECK_ERROR,
				      "the cluster at offset %" PRIu64 " is used as %s and as %s",
				      cluster << w->q->cluster_bits, use_name(w->use[i]), use_name(as));
		w->use[i] |= (uint8_t)(as | (as == TABLE || as == DATA ? SEEN : 0));
		if (w->count[i] < COUNT_MAX)
			w->count[i]++;
	}
}

/* Bytes of a table, a copy: the cache's page may go at any time. */
static int chunk(struct walk *w, uint64_t at, size_t want, uint8_t *out, size_t *got, struct hv_error *err)
{
	const uint8_t *bytes;
	int rc;

	pthread_mutex_lock(&w->q->lock);
	rc = hv_qcow2_bytes(w->d, at, &bytes, got, err);
	if (rc == 0) {
		*got = *got < want ? *got & ~(size_t)7 : want;
		memcpy(out, bytes, *got);
	}
	pthread_mutex_unlock(&w->q->lock);
	return rc;
}

static int recorded(struct walk *w, uint64_t at, uint64_t *count, struct hv_error *err)
{
	int rc;

	pthread_mutex_lock(&w->q->lock);
	rc = hv_qcow2_refcount(w->d, at >> w->q->cluster_bits, count, err);
	pthread_mutex_unlock(&w->q->lock);
	return rc;
}

/* The copied flag says "refcount 1": writers trust it. */
static int check_copied(struct walk *w, const char *table, uint64_t at, uint64_t entry, struct hv_error *err)
{
	uint64_t count;
	int rc;

	if (!w->tell || !w->active || !w->q->reftable_clusters)
		return 0;
	rc = recorded(w, entry & HV_QCOW2_OFFSET, &count, err);
	if (rc == -EBADMSG)
		return 0; /* the refcount table's own finding */
	if (rc == 0 && entry & HV_QCOW2_COPIED && count != 1)
		found(w, table, at, entry, "says that its cluster's refcount is 1, which it isn't");
	else if (rc == 0 && !(entry & HV_QCOW2_COPIED) && count == 1)
		hv_disk_found(w->check, HV_CHECK_NOTE,
			      "the %s entry at offset %" PRIu64 " could say that its cluster's refcount is 1",
			      table, at);
	return rc;
}

static int check_compressed(struct walk *w, uint64_t at, uint64_t entry, uint64_t cluster,
			    struct hv_error *err)
{
	struct hv_run run = {.kind = HV_RUN_DATA,
			     .stored = HV_STORED_ENCODED,
			     .layer = w->d,
			     .offset = cluster << w->q->cluster_bits,
			     .length = w->q->cluster_size,
			     .unit = cluster << w->q->cluster_bits,
			     .unit_length = (uint32_t)w->q->cluster_size};
	uint64_t length;
	struct hv_error why;
	int rc;

	hv_qcow2_compressed(w->q, entry, &run.at, &length);
	use(w, run.at, length, COMPRESSED);
	if (!w->tell || !w->active)
		return 0;
	run.stored_length = (uint32_t)length;
	rc = hv_disk_read_unit(w->io, &run, w->unit, &why);
	if (rc == -EBADMSG)
		found(w, "L2", at, entry, "leads to a compressed cluster that can't be decompressed");
	else if (rc < 0 && err)
		*err = why;
	return rc == -EBADMSG ? 0 : rc;
}

/* Is what the disk needs of a plain cluster in the file? Not more: the last may end with its last data. */
static bool is_all_there(const struct walk *w, uint64_t entry, uint64_t bits, uint64_t cluster)
{
	uint64_t start = cluster << w->q->cluster_bits, size = w->q->cluster_size;

	if (entry & HV_QCOW2_ZERO || start >= w->d->size)
		return true;
	if (w->q->entry_bits == 4)
		size = (uint32_t)bits ? size / 32 * (32U - (unsigned)__builtin_clz((uint32_t)bits)) : 0;
	if (size > w->d->size - start)
		size = w->d->size - start;
	return hv_inside(entry & HV_QCOW2_OFFSET, size, hv_disk_file_size(w->d->file[0]));
}

static int check_entry(struct walk *w, uint64_t at, const uint8_t *bytes, uint64_t cluster,
		       struct hv_error *err)
{
	uint64_t entry = hv_be64(bytes), bits = w->q->entry_bits == 4 ? hv_be64(bytes + 8) : 0;
	bool in_file = !(w->q->incompatible & HV_QCOW2_DATA_FILE);
	const char *why = hv_qcow2_bad_l2(w->d, entry);

	if (!why && w->q->entry_bits == 4)
		why = hv_qcow2_bad_bits(entry, bits);
	if (why) {
		found(w, "L2", at, entry, why);
		return 0;
	}
	if (w->tell && w->active && cluster < w->check->blocks &&
	    (entry & (HV_QCOW2_COMPRESSED | HV_QCOW2_OFFSET) || (!in_file && entry & HV_QCOW2_COPIED)))
		w->check->used += !(entry & HV_QCOW2_ZERO) || entry & HV_QCOW2_COMPRESSED;
	if (entry & HV_QCOW2_COMPRESSED)
		return check_compressed(w, at, entry, cluster, err);
	if (!(entry & HV_QCOW2_OFFSET) || !in_file)
		return 0;
	if (w->tell && !is_all_there(w, entry, bits, cluster))
		found(w, "L2", at, entry, "leads to a cluster that the file's end cuts off");
	use(w, entry & HV_QCOW2_OFFSET, w->q->cluster_size, DATA);
	return check_copied(w, "L2", at, entry, err);
}

static int walk_l2(struct walk *w, uint64_t table, uint64_t cluster, struct hv_error *err)
{
	uint8_t bytes[CHUNK];
	size_t got;
	int rc = 0;

	for (uint64_t done = 0; done < w->q->cluster_size && rc == 0; done += got) {
		uint64_t left = w->q->cluster_size - done;

		rc = chunk(w, table + done, left < CHUNK ? (size_t)left : CHUNK, bytes, &got, err);
		for (size_t i = 0; rc == 0 && i + (1U << w->q->entry_bits) <= got;
		     i += 1U << w->q->entry_bits)
			rc = check_entry(w, table + done + i, bytes + i,
					 cluster + ((done + i) >> w->q->entry_bits), err);
	}
	return rc;
}

static int check_l1(struct walk *w, uint64_t at, uint64_t entry, uint64_t cluster, struct hv_error *err)
{
	const char *why = hv_qcow2_bad_l1(w->d, entry);
	uint64_t where;
	int rc;

	if (why) {
		found(w, "L1", at, entry, why);
		return 0;
	}
	use(w, entry & HV_QCOW2_OFFSET, w->q->cluster_size, TABLE);
	rc = check_copied(w, "L1", at, entry, err);
	if (rc == 0)
		rc = hv_claim(w->tables, entry & HV_QCOW2_OFFSET, w->q->cluster_size, &where);
	if (rc == 1) {
		found(w, "L1", at, entry, "leads to a table that another entry leads to");
		return 0;
	}
	return rc < 0 ? rc : walk_l2(w, entry & HV_QCOW2_OFFSET, cluster, err);
}

static int walk_l1(struct walk *w, uint64_t table, uint64_t entries, bool active, struct hv_error *err)
{
	uint8_t bytes[CHUNK];
	size_t got;
	int rc = 0;

	w->active = active;
	for (uint64_t i = 0; i < w->clusters; i++)
		w->use[i] &= (uint8_t)~SEEN;
	hv_claims_free(w->tables);
	w->tables = hv_claims_new(hv_disk_file_size(w->d->file[0]), (uint32_t)w->q->cluster_size);
	if (!w->tables)
		return hv_fail(err, ENOMEM, "%s: out of memory for the check", w->d->path);
	for (uint64_t done = 0; done < entries * 8 && rc == 0; done += got) {
		uint64_t left = entries * 8 - done;

		rc = chunk(w, table + done, left < CHUNK ? (size_t)left : CHUNK, bytes, &got, err);
		for (size_t i = 0; rc == 0 && i + 8 <= got; i += 8)
			if (hv_be64(bytes + i))
				rc = check_l1(w, table + done + i, hv_be64(bytes + i),
					      ((done + i) / 8) << w->q->l2_bits, err);
	}
	return rc;
}

/* Each snapshot has an L1 table of its own, which shares L2 tables and data with the others. */
static int walk_snapshots(struct walk *w, struct hv_error *err)
{
	uint64_t at = w->q->snapshots_at;
	int rc = 0;

	if (!w->q->snapshots || !w->q->snapshots_length)
		return 0;
	use(w, at, w->q->snapshots_length, META);
	for (uint32_t i = 0; i < w->q->snapshots && rc == 0; i++) {
		uint64_t l1_at, entries;
		uint8_t h[40];

		rc = hv_disk_file_read(w->d->file[0], "snapshot table", h, sizeof(h), at, err);
		if (rc < 0)
			break;
		l1_at = hv_be64(h);
		entries = hv_be32(h + 8);
		if (entries > HV_QCOW2_L1_MAX / 8 || l1_at & (w->q->cluster_size - 1) ||
		    !hv_inside(l1_at, entries * 8, hv_disk_file_size(w->d->file[0]))) {
			found(w, "snapshot table's", at, l1_at, "leads to no L1 table of the file");
		} else if (entries) {
			use(w, l1_at, entries * 8, META);
			rc = walk_l1(w, l1_at, entries, false, err);
		}
		at = hv_round_up(at + 40 + hv_be32(h + 36) + hv_be16(h + 12) + hv_be16(h + 14), 8);
	}
	return rc;
}

/* A bitmap's table leads to its clusters. */
static int walk_bitmap(struct walk *w, uint64_t table, uint64_t entries, struct hv_error *err)
{
	uint64_t size = hv_disk_file_size(w->d->file[0]), entry;
	uint8_t bytes[8];
	int rc = 0;

	if (table & (w->q->cluster_size - 1) || !hv_inside(table, entries * 8, size)) {
		found(w, "bitmap directory's", table, entries, "leads to no bitmap table of the file");
		return 0;
	}
	use(w, table, entries * 8, META);
	for (uint64_t i = 0; i < entries && rc == 0; i++) {
		rc = hv_disk_file_read(w->d->file[0], "bitmap table", bytes, 8, table + i * 8, err);
		if (rc < 0)
			break;
		entry = hv_be64(bytes);
		if (!(entry & HV_QCOW2_OFFSET))
			continue;
		if (entry & ~HV_QCOW2_OFFSET || entry & (w->q->cluster_size - 1) ||
		    !hv_inside(entry, w->q->cluster_size, size))
			found(w, "bitmap table's", table + i * 8, entry, "leads to no cluster of the file");
		else
			use(w, entry, w->q->cluster_size, META);
	}
	return rc;
}

static int walk_bitmaps(struct walk *w, struct hv_error *err)
{
	uint64_t at = w->q->bitmaps_at, end = at + w->q->bitmaps_length;
	uint8_t h[24];
	int rc = 0;

	if (!w->q->bitmaps_length || !(w->q->autoclear & HV_QCOW2_BITMAPS))
		return 0;
	if (at & (w->q->cluster_size - 1) || w->q->bitmaps_length > 64U << 20 ||
	    !hv_inside(at, w->q->bitmaps_length, hv_disk_file_size(w->d->file[0]))) {
		found(w, "bitmaps extension's", 0, at, "leads to no directory in the file");
		return 0;
	}
	use(w, at, w->q->bitmaps_length, META);
	while (rc == 0 && at + sizeof(h) <= end) {
		rc = hv_disk_file_read(w->d->file[0], "bitmap directory", h, sizeof(h), at, err);
		if (rc == 0)
			rc = walk_bitmap(w, hv_be64(h), hv_be32(h + 8), err);
		at = hv_round_up(at + sizeof(h) + hv_be16(h + 18) + hv_be32(h + 20), 8);
	}
	return rc;
}

static int walk_refcounts(struct walk *w, struct hv_error *err)
{
	uint64_t length = w->q->reftable_clusters << w->q->cluster_bits;
	uint8_t bytes[CHUNK];
	size_t got;
	int rc = 0;

	if (!length)
		return 0;
	use(w, w->q->reftable_at, length, META);
	for (uint64_t done = 0; done < length && rc == 0; done += got) {
		uint64_t left = length - done;

		rc = chunk(w, w->q->reftable_at + done, left < CHUNK ? (size_t)left : CHUNK, bytes, &got,
			   err);
		for (size_t i = 0; rc == 0 && i + 8 <= got; i += 8) {
			uint64_t entry = hv_be64(bytes + i), at = w->q->reftable_at + done + i;

			if (!entry)
				continue;
			if (entry & (w->q->cluster_size - 1) ||
			    !hv_inside(entry, w->q->cluster_size, hv_disk_file_size(w->d->file[0])))
				found(w, "refcount table's", at, entry, "leads to no cluster of the file");
			else
				use(w, entry, w->q->cluster_size, META);
		}
	}
	return rc;
}

/* What was counted in the window, against what the image says. */
static int compare(struct walk *w, struct hv_error *err)
{
	int rc = 0;

	for (uint64_t i = 0; i < w->clusters && rc == 0; i++) {
		uint64_t at = (w->first + i) << w->q->cluster_bits, count;

		rc = recorded(w, at, &count, err);
		if (rc == -EBADMSG) { /* the table's entry is damaged: told; its whole block is */
			rc = 0;
			continue;
		}
		if (rc < 0 || count == w->count[i] || (w->count[i] == COUNT_MAX && count > COUNT_MAX))
			continue;
		if (count < w->count[i])
			hv_disk_found(w->check, HV_CHECK_ERROR,
				      "the cluster at offset %" PRIu64 " has the refcount %" PRIu64
				      " and is used %u times",
				      at, count, w->count[i]);
		else
			hv_disk_found(w->check, HV_CHECK_LEAK,
				      "the cluster at offset %" PRIu64 " has the refcount %" PRIu64
				      " and is used %u times",
				      at, count, w->count[i]);
	}
	return rc;
}

static int walk_window(struct walk *w, struct hv_error *err)
{
	int rc;

	memset(w->count, 0, (size_t)w->clusters * sizeof(*w->count));
	memset(w->use, 0, (size_t)w->clusters);
	use(w, 0, w->q->cluster_size, META);
	use(w, w->q->l1_at, w->q->l1_entries * 8, META);
	rc = walk_refcounts(w, err);
	if (rc == 0)
		rc = walk_bitmaps(w, err);
	if (rc == 0)
		rc = walk_l1(w, w->q->l1_at, w->q->l1_entries, true, err);
	if (rc == 0)
		rc = walk_snapshots(w, err);
	return rc == 0 && w->q->reftable_clusters ? compare(w, err) : rc;
}

static int walk_all(struct walk *w, struct hv_error *err)
{
	int rc = 0;

	for (unsigned n = 0; w->first < w->file_clusters && rc == 0; n++) {
		if (n == WINDOWS) {
			hv_disk_found(
				w->check, HV_CHECK_NOTE,
				"the file is too large for all of its refcounts to be counted: clusters from "
				"offset %" PRIu64 " on were not",
				w->first << w->q->cluster_bits);
			break;
		}
		w->clusters = w->file_clusters - w->first < WINDOW ? w->file_clusters - w->first : WINDOW;
		w->tell = n == 0;
		rc = walk_window(w, err);
		w->first += w->clusters;
	}
	return rc;
}

static void tell_state(struct walk *w)
{
	if (w->q->incompatible & HV_QCOW2_CORRUPT)
		hv_disk_found(w->check, HV_CHECK_ERROR,
			      "the image is marked as corrupt (bit 1 at offset 72)");
	if (w->q->incompatible & HV_QCOW2_DIRTY)
		hv_disk_found(
			w->check, HV_CHECK_NOTE,
			"the image was not closed properly (bit 0 at offset 72): its refcounts may be stale");
	if (!w->q->reftable_clusters)
		hv_disk_found(w->check, HV_CHECK_ERROR, "the refcount table can't be used");
}

int hv_qcow2_check(struct hv_disk *d, struct hv_disk_check *check, struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);
	struct walk w = {.d = d, .q = q, .check = check};
	uint64_t window;
	int rc;

	check->blocks = hv_qcow2_clusters(q, d->size);
	w.file_clusters = hv_qcow2_clusters(q, hv_disk_file_size(d->file[0]));
	window = w.file_clusters < WINDOW ? w.file_clusters : WINDOW;
	w.count = malloc((size_t)window * sizeof(*w.count));
	w.use = malloc((size_t)window);
	w.unit = malloc((size_t)q->cluster_size);
	w.io = hv_disk_io_new();
	if (w.count && w.use && w.unit && w.io) {
		tell_state(&w);
		rc = walk_all(&w, err);
	} else {
		rc = hv_fail(err, ENOMEM, "%s: out of memory for the check", d->path);
	}
	hv_claims_free(w.tables);
	hv_disk_io_free(w.io);
	free(w.count);
	free(w.use);
	free(w.unit);
	return rc;
}
