/*
 * qcow2, writing: changing an image in place, and making one. What can't be kept right is refused: images
 * with internal snapshots (their clusters are shared), subclusters, a data file, stale refcounts.
 *
 * An image being created begins with its header and L1 table; clusters follow as they come, tables among
 * them; refcounts come last (see qcow2_refcount.c). Until then a resumed writer finds out from the tables
 * which clusters are in use. Rules: the qcow2 specification.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "disk/qcow2/qcow2.h"

#define DEFAULT_BITS 16
#define HEADER       112
#define PLACE_MAX    (64ULL << 20) /* bytes that one place finds room for */
#define RESUME_MAX   (16ULL << 20) /* bytes of a bitmap of used clusters */

static int refuse(struct hv_disk *d, const char *why, struct hv_error *err)
{
	return hv_fail(err, ENOTSUP, "%s: it can't be written to: %s; convert it to a new image first",
		       d->path, why);
}

int hv_qcow2_may_write(struct hv_disk *d, struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);

	if (q->snapshots)
		return refuse(d, "it holds internal snapshots", err);
	if (q->incompatible & HV_QCOW2_SUBCLUSTERS)
		return refuse(d, "its L2 entries are extended (subclusters)", err);
	if (q->incompatible & HV_QCOW2_DATA_FILE)
		return refuse(d, "its data stands in another file", err);
	if (q->incompatible & (HV_QCOW2_DIRTY | HV_QCOW2_CORRUPT))
		return hv_fail_unsafe(err,
				      "%s: it was not closed properly; let qemu-img check -r all repair it "
				      "before writing to it",
				      d->path);
	if (!q->reftable_clusters)
		return hv_fail_unsafe(err, "%s: without a refcount table it can't be written to", d->path);
	q->end = hv_qcow2_clusters(q, hv_disk_file_size(d->file[0]));
	return 0;
}

/* --- changing --------------------------------------------------------------------------------------------- */

/* What others keep beside the data (bitmaps) no longer fits it: the header says so before the first change.
 */
static int touch(struct hv_disk *d, struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);
	static const uint8_t none[8];
	int rc = 0;

	if (q->touched || q->creating || q->version == 2 || q->autoclear == 0) {
		q->touched = true;
		return 0;
	}
	rc = hv_disk_file_write(d->file[0], none, sizeof(none), 88, err);
	if (rc == 0)
		rc = hv_disk_file_sync(d->file[0], err);
	q->touched = rc == 0;
	return rc;
}

/* The place in the file of the L2 entry of a cluster of the disk; 0 when there is no table for it. */
static int find_entry(struct hv_disk *d, uint64_t cluster, uint64_t *at, struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);
	uint64_t l1_at = q->l1_at + (cluster >> q->l2_bits) * 8, table, count = 1;
	const char *why;
	int rc = hv_qcow2_get(d, l1_at, &table, err);

	*at = 0;
	if (rc < 0 || table == 0)
		return rc;
	why = hv_qcow2_bad_l1(d, table);
	if (why)
		return hv_fail_unsafe(err, "%s: the L1 entry at offset %llu (0x%llx) %s", d->path,
				      (unsigned long long)l1_at, (unsigned long long)table, why);
	if (!q->creating && !(table & HV_QCOW2_COPIED))
		rc = hv_qcow2_refcount(d, (table & HV_QCOW2_OFFSET) >> q->cluster_bits, &count, err);
	if (rc == 0 && count != 1)
		return hv_fail_unsafe(
			err,
			"%s: the L2 table at offset %llu is used once and its refcount is %llu; "
			"let qemu-img check -r all repair the image before writing to it",
			d->path, (unsigned long long)(table & HV_QCOW2_OFFSET), (unsigned long long)count);
	*at = (table & HV_QCOW2_OFFSET) + ((cluster & ((1ULL << q->l2_bits) - 1)) << q->entry_bits);
	return rc;
}

/* The same, and a fresh table where there was none. */
static int make_entry(struct hv_disk *d, uint64_t cluster, uint64_t *at, struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);
	uint64_t table, count;
	bool fresh;
	int rc = find_entry(d, cluster, at, err);

	if (rc < 0 || *at)
		return rc;
	rc = hv_qcow2_allocate(d, 1, false, &table, &count, &fresh, err);
	if (rc == 0)
		rc = hv_qcow2_set(d, HV_QCOW2_L1, q->l1_at + (cluster >> q->l2_bits) * 8,
				  table << q->cluster_bits | HV_QCOW2_COPIED, err);
	*at = (table << q->cluster_bits) + ((cluster & ((1ULL << q->l2_bits) - 1)) << q->entry_bits);
	return rc;
}

/* The L2 entry of a cluster of the disk; 0 when there is no table. */
static int get_entry(struct hv_disk *d, uint64_t cluster, uint64_t *entry, struct hv_error *err)
{
	const char *why;
	uint64_t at;
	int rc = find_entry(d, cluster, &at, err);

	*entry = 0;
	if (rc == 0 && at)
		rc = hv_qcow2_get(d, at, entry, err);
	if (rc < 0 || !at)
		return rc;
	why = hv_qcow2_bad_l2(d, *entry);
	return why ? hv_fail_unsafe(err, "%s: the L2 entry at offset %llu (0x%llx) %s", d->path,
				    (unsigned long long)at, (unsigned long long)*entry, why)
		   : 0;
}

static bool is_plain(uint64_t entry)
{
	return !(entry & (HV_QCOW2_COMPRESSED | HV_QCOW2_ZERO)) && entry & HV_QCOW2_OFFSET;
}

/* Zeros that have a cluster of their own already. */
static bool is_zero_with_room(uint64_t entry)
{
	return !(entry & HV_QCOW2_COMPRESSED) && entry & HV_QCOW2_ZERO && entry & HV_QCOW2_OFFSET &&
	       entry & HV_QCOW2_COPIED;
}

static int place(struct hv_disk *d, uint64_t offset, uint64_t length, struct hv_run *run,
		 struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);
	uint64_t cluster = offset >> q->cluster_bits, entry, want, first, count;
	uint64_t end = hv_qcow2_clusters(q, offset + (length < PLACE_MAX ? length : PLACE_MAX));
	int rc = get_entry(d, cluster, &entry, err);

	if (rc < 0)
		return rc;
	run->offset = cluster << q->cluster_bits;
	run->kind = HV_RUN_DATA;
	run->length = q->cluster_size;
	if (is_zero_with_room(entry)) {
		run->at = entry & HV_QCOW2_OFFSET;
		return 0;
	}
	for (want = 1; cluster + want < end; want++) {
		rc = get_entry(d, cluster + want, &entry, NULL);
		if (rc < 0 || is_plain(entry) || is_zero_with_room(entry))
			break;
	}
	rc = hv_qcow2_allocate(d, want, true, &first, &count, &run->fresh, err);
	run->at = first << q->cluster_bits;
	run->length = count << q->cluster_bits;
	return rc;
}

int hv_qcow2_place(struct hv_disk *d, uint64_t offset, uint64_t length, struct hv_run *run,
		   struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);
	int rc;

	if (length > d->size - offset)
		length = d->size - offset;
	pthread_mutex_lock(&q->lock);
	rc = touch(d, err);
	if (rc == 0)
		rc = place(d, offset, length, run, err);
	pthread_mutex_unlock(&q->lock);
	if (rc == 0 && run->length > d->size - run->offset)
		run->length = d->size - run->offset;
	return rc;
}

/* An entry gets its new value; what it led to before is given back. */
static int change(struct hv_disk *d, uint64_t at, uint64_t value, struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);
	uint64_t old, where, length = q->cluster_size;
	int rc = hv_qcow2_get(d, at, &old, err);

	if (rc == 0 && old != value)
		rc = hv_qcow2_set(d, HV_QCOW2_L2, at, value, err);
	if (rc < 0)
		return rc;
	where = old & HV_QCOW2_OFFSET;
	if (old & HV_QCOW2_COMPRESSED)
		hv_qcow2_compressed(q, old, &where, &length);
	else if (where == 0 || where == (value & HV_QCOW2_OFFSET))
		return 0;
	return hv_qcow2_give_back(d, where, length, err);
}

int hv_qcow2_commit(struct hv_disk *d, const struct hv_run *run, struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);
	int rc = 0;

	pthread_mutex_lock(&q->lock);
	for (uint64_t done = 0; done < run->length && rc == 0; done += q->cluster_size) {
		uint64_t at;

		rc = make_entry(d, (run->offset + done) >> q->cluster_bits, &at, err);
		if (rc == 0)
			rc = change(d, at, (run->at + done) | HV_QCOW2_COPIED, err);
	}
	pthread_mutex_unlock(&q->lock);
	return rc;
}

/* Version 2 can't say "zeros" in front of a backing file: a cluster that was never written says it. */
static int zero_by_cluster(struct hv_disk *d, uint64_t cluster, struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);
	uint64_t first, count, at = 0;
	bool fresh;
	int rc = hv_qcow2_allocate(d, 1, false, &first, &count, &fresh, err);

	if (rc == 0)
		rc = make_entry(d, cluster, &at, err);
	return rc < 0 ? rc : change(d, at, first << q->cluster_bits | HV_QCOW2_COPIED, err);
}

/*
 * A cluster that reads as zeros: left out where nothing stands behind it, else said to be. While creating,
 * what was allocated stays so: there are no refcounts yet that could go down.
 */
static int zero_one(struct hv_disk *d, uint64_t cluster, struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);
	uint64_t entry, at, value = d->has_parent ? HV_QCOW2_ZERO : 0;
	int rc = get_entry(d, cluster, &entry, err);

	if (rc < 0 || (!(entry & HV_QCOW2_COMPRESSED) && (entry == value || entry & HV_QCOW2_ZERO)))
		return rc;
	if (q->version == 2 && d->has_parent)
		return zero_by_cluster(d, cluster, err);
	if (q->creating && is_plain(entry))
		value = entry | HV_QCOW2_ZERO;
	rc = make_entry(d, cluster, &at, err);
	return rc < 0 ? rc : change(d, at, value, err);
}

int hv_qcow2_zero(struct hv_disk *d, uint64_t offset, uint64_t length, struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);
	uint64_t cluster = offset >> q->cluster_bits, end = hv_qcow2_clusters(q, offset + length);
	int rc;

	pthread_mutex_lock(&q->lock);
	rc = touch(d, err);
	while (cluster < end && rc == 0) {
		uint64_t table = 0;

		/* Where there is no table and nothing behind, a whole table's clusters are zeros. */
		if (!d->has_parent)
			rc = hv_qcow2_get(d, q->l1_at + (cluster >> q->l2_bits) * 8, &table, err);
		if (rc == 0 && (table || d->has_parent))
			rc = zero_one(d, cluster++, err);
		else
			cluster = ((cluster >> q->l2_bits) + 1) << q->l2_bits;
	}
	pthread_mutex_unlock(&q->lock);
	return rc;
}

int hv_qcow2_flush(struct hv_disk *d, struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);
	int rc;

	pthread_mutex_lock(&q->lock);
	rc = hv_qcow2_write_all(d, err);
	pthread_mutex_unlock(&q->lock);
	return rc;
}

/* --- making ----------------------------------------------------------------------------------------------- */

/* The backing file as the user meant it: seen from the new image, as qemu-img has it. */
static int open_backing(struct hv_disk *d, const struct hv_disk_create *create, struct hv_error *err)
{
	struct hv_disk_options options = {.format = create->backing_format};
	const char *slash = strrchr(d->path, '/');
	char *path;
	int rc;

	if (!create->backing)
		return 0;
	if (strlen(create->backing) > HV_QCOW2_BACKING_MAX || create->backing[0] == '\0')
		return hv_fail_usage(err, "%s: a backing file's name has 1 to 1023 bytes", d->path);
	d->has_parent = true;
	if (create->backing[0] == '/' || !slash)
		rc = asprintf(&path, "%s", create->backing);
	else
		rc = asprintf(&path, "%.*s/%s", (int)(slash - d->path), d->path, create->backing);
	if (rc < 0)
		return hv_fail(err, ENOMEM, "%s: out of memory", d->path);
	rc = hv_disk_open(path, &options, &d->parent, err);
	free(path);
	return rc;
}

static int set_shape(struct hv_disk *d, const struct hv_disk_create *create, struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);
	uint64_t size = create->size ? create->size : d->parent ? d->parent->size : 0, per_l2, entries;
	uint32_t cluster = create->block_size ? create->block_size : 1U << DEFAULT_BITS;

	if (cluster & (cluster - 1) || cluster < 512 || cluster > 2U << 20)
		return hv_fail_usage(err,
				     "%s: clusters of %u bytes can't be; a power of two from 512 bytes to "
				     "2 MiB can",
				     d->path, cluster);
	q->version = 3;
	q->cluster_size = cluster;
	q->cluster_bits = (unsigned)__builtin_ctz(cluster);
	q->refcount_order = 4;
	q->header_length = HEADER;
	q->entry_bits = 3;
	q->l2_bits = q->cluster_bits - 3;
	q->size = hv_round_up(size, 512);
	per_l2 = 1ULL << (q->l2_bits + q->cluster_bits);
	entries = (q->size >> (q->l2_bits + q->cluster_bits)) + ((q->size & (per_l2 - 1)) != 0);
	q->l1_entries = entries ? entries : 1;
	q->l1_at = q->cluster_size;
	q->end = 1 + hv_qcow2_clusters(q, q->l1_entries * 8);
	if (q->l1_entries > HV_QCOW2_L1_MAX / 8)
		return hv_fail_usage(
			err,
			"%s: %llu bytes are more than clusters of %u bytes can hold; take larger "
			"ones",
			d->path, (unsigned long long)size, cluster);
	if (create->backing && create->full)
		return hv_fail_usage(err, "%s: an overlay can't be allocated in full", d->path);
	d->size = q->size;
	d->block_size = cluster;
	snprintf(d->subformat, sizeof(d->subformat), "v3");
	return 0;
}

static size_t put_extension(uint8_t *to, uint32_t type, const void *data, size_t length)
{
	hv_put_be32(to, type);
	hv_put_be32(to + 4, (uint32_t)length);
	memcpy(to + 8, data, length);
	return 8 + (size_t)hv_round_up(length, 8);
}

/* The name that QEMU knows the backing file's format by. */
static const char *format_name(const struct hv_disk *d, const struct hv_disk_create *create)
{
	const struct hv_disk_format *format =
		create->backing_format ? hv_disk_format_named(create->backing_format) : NULL;

	if (!format && d->parent)
		format = d->parent->format;
	if (!format)
		return "raw";
	return strcmp(format->name, "vhd") == 0 ? "vpc" : format->name;
}

/* Without refcounts: where they are is written when they are made. */
static int write_header(struct hv_disk *d, const struct hv_disk_create *create, struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);
	const char *format = format_name(d, create);
	uint8_t h[HEADER + 16 + 64 + HV_QCOW2_BACKING_MAX + 8] = {0};
	size_t at = HEADER;

	hv_put_be32(h, HV_QCOW2_MAGIC);
	hv_put_be32(h + 4, 3);
	hv_put_be32(h + 20, q->cluster_bits);
	hv_put_be64(h + 24, q->size);
	hv_put_be32(h + 36, (uint32_t)q->l1_entries);
	hv_put_be64(h + 40, q->l1_at);
	hv_put_be32(h + 96, q->refcount_order);
	hv_put_be32(h + 100, HEADER);
	if (create->backing)
		at += put_extension(h + at, 0xe2792acaU, format, strlen(format));
	at += 8; /* the end of extensions */
	if (create->backing) {
		if (at + strlen(create->backing) > q->cluster_size)
			return hv_fail_usage(err,
					     "%s: the backing file's name does not fit into a cluster of %u "
					     "bytes",
					     d->path, d->block_size);
		hv_put_be64(h + 8, at);
		hv_put_be32(h + 16, (uint32_t)strlen(create->backing));
		memcpy(h + at, create->backing, strlen(create->backing));
		at += strlen(create->backing);
	}
	return hv_disk_file_write(d->file[0], h, at, 0, err);
}

/* All clusters now, in the disk's order. */
static int fill_tables(struct hv_disk *d, struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);
	int rc = 0;

	for (uint64_t at = 0; at < d->size && rc == 0;) {
		struct hv_run run = {0};

		rc = hv_qcow2_place(d, at, 1ULL << (q->l2_bits + q->cluster_bits), &run, err);
		if (rc == 0)
			rc = hv_qcow2_commit(d, &run, err);
		at += run.length;
	}
	if (rc == 0 && fallocate(d->file[0]->fd, 0, 0, (off_t)hv_disk_file_size(d->file[0])) < 0 &&
	    errno == ENOSPC)
		rc = hv_fail_errno(err, "%s: no room for %llu bytes", d->path,
				   (unsigned long long)hv_disk_file_size(d->file[0]));
	return rc;
}

static int begin(struct hv_disk *d, const struct hv_disk_create *create, struct hv_error *err)
{
	struct hv_qcow2 *q = calloc(1, sizeof(*q));
	int rc;

	if (!q)
		return hv_fail(err, ENOMEM, "%s: out of memory", d->path);
	d->state = q;
	pthread_mutex_init(&q->lock, NULL);
	q->creating = true;
	rc = open_backing(d, create, err);
	if (rc == 0)
		rc = set_shape(d, create, err);
	return rc < 0 ? rc : hv_qcow2_cache_init(d, err);
}

int hv_qcow2_create(struct hv_disk *d, const struct hv_disk_create *create, struct hv_error *err)
{
	struct hv_qcow2 *q;
	int rc = begin(d, create, err);

	if (rc == 0)
		rc = write_header(d, create, err);
	if (rc < 0)
		return rc;
	q = hv_qcow2_of(d);
	rc = hv_disk_file_resize(d->file[0], q->end << q->cluster_bits, err);
	return rc == 0 && create->full ? fill_tables(d, err) : rc;
}

int hv_qcow2_finish(struct hv_disk *d, struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);
	int rc;

	pthread_mutex_lock(&q->lock);
	rc = hv_qcow2_write_all(d, err);
	if (rc == 0 && q->creating)
		rc = hv_qcow2_make_refcounts(d, err);
	if (rc == 0) {
		q->creating = false;
		free(q->taken);
		q->taken = NULL;
	}
	pthread_mutex_unlock(&q->lock);
	return rc;
}

/* --- going on --------------------------------------------------------------------------------------------- */

static int not_ours(struct hv_disk *d, const char *what, struct hv_error *err)
{
	return hv_fail(err, ESTALE, "%s: the partial image is another one: %s", d->path, what);
}

/* Marks [at, at + a cluster) as used. */
static int mark(struct hv_disk *d, uint64_t at, uint64_t *end, struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);
	uint64_t cluster = at >> q->cluster_bits;

	if (cluster >= q->taken_end || at & (q->cluster_size - 1))
		return not_ours(d, "a table leads behind its end", err);
	if (q->taken[cluster / 8] >> (cluster % 8) & 1)
		return not_ours(d, "two tables lead to one cluster", err);
	q->taken[cluster / 8] |= (uint8_t)(1U << (cluster % 8));
	if (*end <= cluster)
		*end = cluster + 1;
	return 0;
}

static int mark_table(struct hv_disk *d, uint64_t table, uint64_t *end, struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);
	int rc = mark(d, table, end, err);

	for (uint64_t i = 0; i < 1ULL << q->l2_bits && rc == 0; i++) {
		uint64_t entry;

		rc = hv_qcow2_get(d, table + i * 8, &entry, err);
		if (rc == 0 && entry & HV_QCOW2_OFFSET)
			rc = mark(d, entry & HV_QCOW2_OFFSET, end, err);
	}
	return rc;
}

/* Which clusters the tables lead to; what lies behind the last of them is cut off and fresh again. */
static int find_taken(struct hv_disk *d, struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);
	uint64_t end = q->end, l1_clusters = q->end;
	int rc = 0;

	q->taken_end = hv_disk_file_size(d->file[0]) >> q->cluster_bits;
	if (q->taken_end / 8 >= RESUME_MAX || q->taken_end < q->end)
		return not_ours(d, "its size can't be", err);
	q->taken = calloc(1, q->taken_end / 8 + 1);
	if (!q->taken)
		return hv_fail(err, ENOMEM, "%s: out of memory", d->path);
	for (uint64_t c = 0; c < l1_clusters && rc == 0; c++)
		rc = mark(d, c << q->cluster_bits, &end, err);
	for (uint64_t i = 0; i < q->l1_entries && rc == 0; i++) {
		uint64_t entry;

		rc = hv_qcow2_get(d, q->l1_at + i * 8, &entry, err);
		if (rc == 0 && entry)
			rc = mark_table(d, entry & HV_QCOW2_OFFSET, &end, err);
	}
	if (rc < 0)
		return rc;
	q->taken_end = q->end = end;
	hv_qcow2_forget(q, end << q->cluster_bits, UINT64_MAX >> 1);
	return hv_disk_file_resize(d->file[0], end << q->cluster_bits, err);
}

int hv_qcow2_resume(struct hv_disk *d, const struct hv_disk_create *create, struct hv_error *err)
{
	struct hv_qcow2 *q;
	struct hv_qcow2 wanted;
	int rc = begin(d, create, err);

	if (rc < 0)
		return rc;
	q = hv_qcow2_of(d);
	wanted = *q;
	rc = hv_qcow2_read_header(d, true, err);
	if (rc < 0)
		return rc;
	if (q->size != wanted.size || q->cluster_bits != wanted.cluster_bits || q->version != 3 ||
	    q->l1_at != wanted.l1_at || q->l1_entries != wanted.l1_entries || q->incompatible)
		return not_ours(d, "its header doesn't fit", err);
	if (strcmp(q->backing, create->backing ? create->backing : "") != 0)
		return not_ours(d, "its backing file is another", err);
	/* Killed between the refcounts and its end: they are made anew. */
	q->reftable_at = q->reftable_clusters = 0;
	return find_taken(d, err);
}
