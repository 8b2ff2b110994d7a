/*
 * qcow2, refcounts: how often each cluster of the file is used. A table leads to blocks of counters, both of
 * them clusters that are counted themselves.
 *
 * An image that is being created takes its clusters one behind the other and gets its counters at the end,
 * all at once. In an image that is changed, a count goes up in memory before anything leads to its cluster,
 * and reaches the file before that does; it goes down only when nothing on stable storage leads there any
 * more. So a crash can leave a cluster counted and unused, and never one that is used and free.
 *
 * New clusters come from behind the file's end, or from those that this writer has given back and flushed.
 * Rules: the qcow2 specification, "Host cluster management".
 */
#include <stdlib.h>
#include <string.h>

#include "disk/qcow2/qcow2.h"

#define GIVEN_BACK_MAX 4096 /* runs; more make a flush */
#define FREE_MAX       1024 /* runs; more are forgotten: clusters that nobody uses, as the counts say */

/* --- counters in a block ---------------------------------------------------------------------------------- */

uint64_t hv_qcow2_count_at(const uint8_t *block, uint64_t index, unsigned order)
{
	switch (order) {
	case 6:
		return hv_be64(block + index * 8);
	case 5:
		return hv_be32(block + index * 4);
	case 4:
		return hv_be16(block + index * 2);
	case 3:
		return block[index];
	default:
		return (unsigned)block[index >> (3 - order)] >> ((index << order) & 7) &
		       ((1U << (1U << order)) - 1);
	}
}

static void put_count(uint8_t *block, uint64_t index, unsigned order, uint64_t count)
{
	unsigned shift = (unsigned)(index << order) & 7, mask;

	switch (order) {
	case 6:
		hv_put_be64(block + index * 8, count);
		break;
	case 5:
		hv_put_be32(block + index * 4, (uint32_t)count);
		break;
	case 4:
		hv_put_be16(block + index * 2, (uint16_t)count);
		break;
	case 3:
		block[index] = (uint8_t)count;
		break;
	default:
		mask = ((1U << (1U << order)) - 1) << shift;
		block += index >> (3 - order);
		*block = (uint8_t)((*block & ~mask) | (unsigned)count << shift);
	}
}

static unsigned block_bits(const struct hv_qcow2 *q)
{
	return q->cluster_bits + 3 - q->refcount_order;
}

/* The refcount block that counts a cluster; 0 when there is none. */
static int find_block(struct hv_disk *d, uint64_t cluster, uint64_t *block, struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);
	uint64_t index = cluster >> block_bits(q), at = q->reftable_at + index * 8;
	int rc;

	*block = 0;
	if (index >= q->reftable_clusters << (q->cluster_bits - 3))
		return 0;
	rc = hv_qcow2_get(d, at, block, err);
	if (rc < 0)
		return rc;
	if (*block & (q->cluster_size - 1) ||
	    (*block && !hv_inside(*block, q->cluster_size, hv_disk_file_size(d->file[0]))))
		return hv_fail_unsafe(err,
				      "%s: the refcount table's entry at offset %llu (0x%llx) leads to no "
				      "cluster of the file",
				      d->path, (unsigned long long)at, (unsigned long long)*block);
	return 0;
}

/* Where in the file the aligned eight bytes are that hold a cluster's counter, and its index in them. */
static uint64_t group_of(const struct hv_qcow2 *q, uint64_t block, uint64_t cluster, uint64_t *index)
{
	uint64_t in_block = cluster & ((1ULL << block_bits(q)) - 1);
	unsigned per_group = 6 - q->refcount_order;

	*index = in_block & ((1ULL << per_group) - 1);
	return block + (in_block >> per_group) * 8;
}

int hv_qcow2_refcount(struct hv_disk *d, uint64_t cluster, uint64_t *count, struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);
	uint64_t block, index, group;
	const uint8_t *bytes;
	size_t length;
	int rc = find_block(d, cluster, &block, err);

	*count = 0;
	if (rc < 0 || block == 0)
		return rc;
	group = group_of(q, block, cluster, &index);
	rc = hv_qcow2_bytes(d, group, &bytes, &length, err);
	if (rc == 0)
		*count = hv_qcow2_count_at(bytes, index, q->refcount_order);
	return rc;
}

static int set_refcount(struct hv_disk *d, uint64_t cluster, uint64_t count, struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);
	uint64_t block, index, group;
	uint8_t eight[8];
	const uint8_t *bytes;
	size_t length;
	int rc = find_block(d, cluster, &block, err);

	if (rc == 0 && block == 0)
		rc = hv_fail_unsafe(err, "%s: cluster %llu has no refcount block", d->path,
				    (unsigned long long)cluster);
	if (rc < 0)
		return rc;
	group = group_of(q, block, cluster, &index);
	rc = hv_qcow2_bytes(d, group, &bytes, &length, err);
	if (rc < 0)
		return rc;
	memcpy(eight, bytes, sizeof(eight));
	put_count(eight, index, q->refcount_order, count);
	return hv_qcow2_put(d, HV_QCOW2_REFCOUNTS, group, eight, sizeof(eight), err);
}

/* --- runs of clusters ------------------------------------------------------------------------------------- */

static int add_run(struct hv_qcow2_runs *r, uint64_t first, uint64_t count)
{
	if (r->count && r->run[r->count - 1].first + r->run[r->count - 1].count == first) {
		r->run[r->count - 1].count += count;
		return 0;
	}
	if (r->count == r->room) {
		size_t room = r->room ? r->room * 2 : 64;
		void *more = realloc(r->run, room * sizeof(*r->run));

		if (!more)
			return -ENOMEM;
		r->run = more;
		r->room = room;
	}
	r->run[r->count].first = first;
	r->run[r->count++].count = count;
	return 0;
}

void hv_qcow2_runs_free(struct hv_qcow2_runs *r)
{
	free(r->run);
	*r = (struct hv_qcow2_runs){0};
}

/* --- more counters ---------------------------------------------------------------------------------------- */

/* The file as long as `end` clusters. It only grows here: others may be writing to what was allocated. */
static int reach_end(struct hv_disk *d, uint64_t end, struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);
	uint64_t size = end << q->cluster_bits;

	if (end > (1ULL << (56 - q->cluster_bits)))
		return hv_fail(err, EFBIG, "%s: it can't become larger than 64 PiB", d->path);
	return size > hv_disk_file_size(d->file[0]) ? hv_disk_file_resize(d->file[0], size, err) : 0;
}

static int write_be64s(struct hv_disk *d, uint64_t at, uint64_t first, uint64_t step, uint64_t count,
		       struct hv_error *err)
{
	uint8_t buf[4096];
	int rc = 0;

	while (count && rc == 0) {
		uint64_t n = count < sizeof(buf) / 8 ? count : sizeof(buf) / 8;

		for (uint64_t i = 0; i < n; i++, first += step)
			hv_put_be64(buf + i * 8, first);
		rc = hv_disk_file_write(d->file[0], buf, (size_t)n * 8, at, err);
		at += n * 8;
		count -= n;
	}
	return rc;
}

/* The counters of `count` clusters that start at cluster `first`, the first one of a block: 1 each. */
static int write_ones(struct hv_disk *d, uint64_t block_at, uint64_t first, uint64_t count,
		      struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);
	uint64_t per_buf;
	uint8_t buf[4096];
	int rc = 0;

	per_buf = (uint64_t)sizeof(buf) * 8 >> q->refcount_order;
	for (uint64_t done = 0; done < count && rc == 0; done += per_buf) {
		uint64_t n = count - done < per_buf ? count - done : per_buf;

		memset(buf, 0, sizeof(buf));
		for (uint64_t i = 0; i < n; i++)
			put_count(buf, i, q->refcount_order, hv_qcow2_is_taken(q, first + done + i));
		rc = hv_disk_file_write(d->file[0], buf,
					q->cluster_size < sizeof(buf) ? q->cluster_size : sizeof(buf),
					block_at, err);
		block_at += sizeof(buf);
	}
	return rc;
}

static int copy_table(struct hv_disk *d, uint64_t to, struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);
	uint64_t length = q->reftable_clusters << q->cluster_bits;
	uint8_t buf[4096];
	int rc = 0;

	for (uint64_t done = 0; done < length && rc == 0; done += sizeof(buf)) {
		size_t n = length - done < sizeof(buf) ? (size_t)(length - done) : sizeof(buf);

		rc = hv_disk_file_read(d->file[0], "refcount table", buf, n, q->reftable_at + done, err);
		if (rc == 0)
			rc = hv_disk_file_write(d->file[0], buf, n, to + done, err);
	}
	return rc;
}

static int write_table_place(struct hv_disk *d, struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);
	uint8_t place[12];

	hv_put_be64(place, q->reftable_at);
	hv_put_be32(place + 8, (uint32_t)q->reftable_clusters);
	return hv_disk_file_write(d->file[0], place, sizeof(place), 48, err);
}

/*
 * A larger refcount table at the file's end, and with it the blocks that count its own clusters: first
 * everything into new clusters, then the header leads there. The blocks come first: the first of them counts
 * cluster q->end, which the old table doesn't reach.
 */
static int grow_table(struct hv_disk *d, struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);
	unsigned bits = block_bits(q), per_cluster = q->cluster_bits - 3;
	uint64_t first = q->end, first_block = first >> bits, blocks = 1, clusters, end, old = q->reftable_at,
		 old_length = q->reftable_clusters << q->cluster_bits, block_at = first << q->cluster_bits;
	int rc;

	/* Room for half as much again, and for the blocks of what is made here. */
	for (;; blocks++) {
		uint64_t entries = first_block + blocks + (first_block >> 1);

		clusters = (entries >> per_cluster) + 1;
		end = first + blocks + clusters;
		if (((end - 1) >> bits) - first_block + 1 <= blocks)
			break;
	}
	if (clusters > HV_QCOW2_REFTABLE_MAX >> q->cluster_bits)
		clusters = HV_QCOW2_REFTABLE_MAX >> q->cluster_bits;
	end = first + blocks + clusters;
	if (first_block + blocks > clusters << per_cluster)
		return hv_fail(err, EFBIG,
			       "%s: its refcount table can't grow any more; larger clusters are needed",
			       d->path);
	rc = hv_qcow2_write_pages(d, HV_QCOW2_REFCOUNTS, err);
	if (rc == 0)
		rc = reach_end(d, end, err);
	/* The first block may begin in front of `first`: clusters that were never counted stay so. */
	for (uint64_t c = first; c < end && rc == 0; c++) {
		uint64_t block = block_at + ((c >> bits) - first_block) * q->cluster_size, index;
		uint64_t group = group_of(q, block, c, &index);
		uint8_t eight[8];

		rc = hv_disk_file_read(d->file[0], "refcount block", eight, sizeof(eight), group, err);
		put_count(eight, index, q->refcount_order, 1);
		if (rc == 0)
			rc = hv_disk_file_write(d->file[0], eight, sizeof(eight), group, err);
	}
	if (rc == 0)
		rc = copy_table(d, block_at + blocks * q->cluster_size, err);
	if (rc == 0)
		rc = write_be64s(d, block_at + blocks * q->cluster_size + first_block * 8, block_at,
				 q->cluster_size, blocks, err);
	if (rc == 0)
		rc = hv_disk_file_sync(d->file[0], err);
	if (rc < 0)
		return rc;
	hv_qcow2_forget(q, block_at, (end - first) << q->cluster_bits);
	q->reftable_at = block_at + blocks * q->cluster_size;
	q->reftable_clusters = clusters;
	q->end = end;
	rc = write_table_place(d, err);
	if (rc == 0)
		rc = hv_disk_file_sync(d->file[0], err);
	return rc < 0 ? rc : hv_qcow2_give_back(d, old, old_length, err);
}

/* q->end becomes a block that counts itself and those behind it. */
static int make_block(struct hv_disk *d, struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);
	uint64_t index = q->end >> block_bits(q);
	int rc = reach_end(d, q->end + 1, err);

	if (rc == 0)
		rc = hv_qcow2_set(d, HV_QCOW2_REFCOUNTS, q->reftable_at + index * 8,
				  q->end << q->cluster_bits, err);
	if (rc == 0)
		rc = set_refcount(d, q->end, 1, err);
	if (rc == 0)
		q->end++;
	return rc;
}

/* q->end gets a counter: a table that is long enough, a block. Both may take q->end for themselves. */
static int count_end(struct hv_disk *d, struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);
	uint64_t block = 0, count = 0;
	int rc = 0;

	while (rc == 0 && block == 0) {
		bool reached = q->end >> block_bits(q) < q->reftable_clusters << (q->cluster_bits - 3);

		if (!reached)
			rc = grow_table(d, err);
		else
			rc = find_block(d, q->end, &block, err);
		if (rc == 0 && reached && block == 0)
			rc = make_block(d, err);
	}
	if (rc == 0)
		rc = hv_qcow2_refcount(d, q->end, &count, err);
	if (rc == 0 && count != 0)
		rc = hv_fail_unsafe(
			err,
			"%s: cluster %llu behind the file's end has the refcount %llu; let qemu-img "
			"check -r all repair the image before writing to it",
			d->path, (unsigned long long)q->end, (unsigned long long)count);
	return rc;
}

/* --- allocating ------------------------------------------------------------------------------------------- */

static int count_up(struct hv_disk *d, uint64_t first, uint64_t count, struct hv_error *err)
{
	int rc = 0;

	for (uint64_t i = 0; i < count && rc == 0; i++)
		rc = set_refcount(d, first + i, 1, err);
	return rc;
}

static int allocate_free(struct hv_disk *d, uint64_t want, uint64_t *first, uint64_t *count,
			 struct hv_error *err)
{
	struct hv_qcow2_runs *r = &hv_qcow2_of(d)->free;

	*first = r->run[r->count - 1].first;
	*count = r->run[r->count - 1].count < want ? r->run[r->count - 1].count : want;
	r->run[r->count - 1].first += *count;
	r->run[r->count - 1].count -= *count;
	if (r->run[r->count - 1].count == 0)
		r->count--;
	return count_up(d, *first, *count, err);
}

bool hv_qcow2_is_taken(const struct hv_qcow2 *q, uint64_t cluster)
{
	return !q->taken || cluster >= q->taken_end || q->taken[cluster / 8] >> (cluster % 8) & 1;
}

/* Resumed: the gaps that the interrupted writer left are filled first. */
static bool allocate_gap(struct hv_qcow2 *q, uint64_t want, uint64_t *first, uint64_t *count)
{
	while (q->taken_hand < q->taken_end && hv_qcow2_is_taken(q, q->taken_hand))
		q->taken_hand++;
	*first = q->taken_hand;
	*count = 0;
	while (*count < want && q->taken_hand < q->taken_end && !hv_qcow2_is_taken(q, q->taken_hand)) {
		q->taken[q->taken_hand / 8] |= (uint8_t)(1U << (q->taken_hand % 8));
		q->taken_hand++;
		++*count;
	}
	return *count;
}

int hv_qcow2_allocate(struct hv_disk *d, uint64_t want, bool reuse, uint64_t *first, uint64_t *count,
		      bool *fresh, struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);
	uint64_t left;
	int rc = 0;

	*fresh = false;
	if (reuse && q->free.count)
		return allocate_free(d, want, first, count, err);
	if (reuse && q->taken && allocate_gap(q, want, first, count))
		return 0;
	*fresh = true;
	if (!q->creating) {
		rc = count_end(d, err);
		if (rc < 0)
			return rc;
		/* Not further than the block that counts q->end. */
		left = (1ULL << block_bits(q)) - (q->end & ((1ULL << block_bits(q)) - 1));
		if (want > left)
			want = left;
	}
	*first = q->end;
	*count = want;
	rc = reach_end(d, q->end + want, err);
	if (rc == 0 && !q->creating)
		rc = count_up(d, q->end, want, err);
	if (rc == 0)
		q->end += want;
	return rc;
}

int hv_qcow2_give_back(struct hv_disk *d, uint64_t at, uint64_t length, struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);
	uint64_t first = at >> q->cluster_bits, end = hv_qcow2_clusters(q, at + length);

	if (add_run(&q->given_back, first, end - first) < 0)
		return hv_fail(err, ENOMEM, "%s: out of memory", d->path);
	return q->given_back.count < GIVEN_BACK_MAX || q->writing_all ? 0 : hv_qcow2_write_all(d, err);
}

static int count_down(struct hv_disk *d, uint64_t cluster, struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);
	uint64_t count;
	int rc = hv_qcow2_refcount(d, cluster, &count, err);

	if (rc == 0 && count == 0)
		return hv_fail_unsafe(err,
				      "%s: cluster %llu was used and its refcount is 0; let qemu-img check "
				      "-r all repair the image",
				      d->path, (unsigned long long)cluster);
	if (rc == 0)
		rc = set_refcount(d, cluster, count - 1, err);
	if (rc == 0 && count == 1 && q->free.count < FREE_MAX)
		(void)add_run(&q->free, cluster, 1);
	return rc;
}

static int count_all_down(struct hv_disk *d, struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);
	int rc = 0;

	while (q->given_back.count && rc == 0) {
		uint64_t first = q->given_back.run[q->given_back.count - 1].first,
			 count = q->given_back.run[--q->given_back.count].count;

		for (uint64_t i = 0; i < count && rc == 0; i++)
			rc = count_down(d, first + i, err);
	}
	return rc;
}

/* Before what leads to others is written, the others are on stable storage. */
static int barrier(struct hv_disk *d, struct hv_error *err)
{
	return hv_qcow2_of(d)->creating ? 0 : hv_disk_file_sync(d->file[0], err);
}

int hv_qcow2_write_all(struct hv_disk *d, struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);
	struct hv_qcow2_cache *c = &q->cache;
	int rc = hv_qcow2_write_pages(d, HV_QCOW2_REFCOUNTS, err);

	q->writing_all = true;
	if (rc == 0 && (c->dirty[HV_QCOW2_L2] || c->dirty[HV_QCOW2_L1]))
		rc = barrier(d, err);
	if (rc == 0)
		rc = hv_qcow2_write_pages(d, HV_QCOW2_L2, err);
	if (rc == 0 && c->dirty[HV_QCOW2_L1])
		rc = barrier(d, err);
	if (rc == 0)
		rc = hv_qcow2_write_pages(d, HV_QCOW2_L1, err);
	if (rc == 0 && q->given_back.count) {
		rc = barrier(d, err);
		if (rc == 0)
			rc = count_all_down(d, err);
		if (rc == 0)
			rc = hv_qcow2_write_pages(d, HV_QCOW2_REFCOUNTS, err);
	}
	q->writing_all = false;
	return rc;
}

/* --- at the end of creating ------------------------------------------------------------------------------- */

/*
 * Behind the last cluster: blocks that count all clusters, themselves and the table included, and the table.
 */
int hv_qcow2_make_refcounts(struct hv_disk *d, struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);
	unsigned bits = block_bits(q), per_cluster = q->cluster_bits - 3;
	uint64_t blocks = 1, clusters, total, at = q->end << q->cluster_bits;
	int rc;

	for (;;) {
		clusters = ((blocks - 1) >> per_cluster) + 1;
		total = q->end + blocks + clusters;
		if (((total - 1) >> bits) + 1 <= blocks)
			break;
		blocks = ((total - 1) >> bits) + 1;
	}
	if (clusters > HV_QCOW2_REFTABLE_MAX >> q->cluster_bits)
		return hv_fail(err, EFBIG,
			       "%s: too many clusters for a refcount table; larger clusters are needed",
			       d->path);
	rc = reach_end(d, total, err);
	for (uint64_t b = 0; b < blocks && rc == 0; b++) {
		uint64_t first = b << bits, count = total - first;

		rc = write_ones(d, at + b * q->cluster_size, first,
				count < 1ULL << bits ? count : 1ULL << bits, err);
	}
	if (rc == 0)
		rc = write_be64s(d, at + blocks * q->cluster_size, at, q->cluster_size, blocks, err);
	if (rc < 0)
		return rc;
	q->reftable_at = at + blocks * q->cluster_size;
	q->reftable_clusters = clusters;
	q->end = total;
	hv_qcow2_forget(q, at, (blocks + clusters) << q->cluster_bits);
	return write_table_place(d, err);
}
