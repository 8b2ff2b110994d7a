/*
 * qcow2: QEMU's format, and that of most clouds. A disk is cut into clusters; two levels of tables say where
 * each of them is (qcow2_map.c). Refcounts beside that say how often each cluster of the file is used; a
 * reader needs none of them, so they are looked at by check and by writers only.
 *
 * Read here: versions 2 and 3, both compressions, subclusters, external data files, backing files.
 * Rules: the qcow2 specification (QEMU's docs/interop/qcow2).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "disk/qcow2/qcow2.h"

static int qcow2_probe(const struct hv_disk_probe *probe)
{
	return probe->head_length >= 8 && hv_be32(probe->head) == HV_QCOW2_MAGIC ? 2 : 0;
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
		rc = hv_qcow2_list_snapshots(d, err);
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
	.map = hv_qcow2_map,
	.decode = hv_qcow2_decode,
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
