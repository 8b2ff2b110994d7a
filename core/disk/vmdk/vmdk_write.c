/*
 * Writing VMDKs in place: flat extents, and hosted sparse ones that are not compressed. New grains go to the
 * end of the file; their entries are changed in memory and reach both copies of the tables at a flush, after
 * the data. A flush also changes the content ID, by which an image that was made over this one notices.
 */
#include <stdio.h>

#include "base/bytes.h"
#include "disk/vmdk/vmdk_impl.h"

#define ZERO_GTE 1U /* sectors: the entry of a grain of zeros */

static int may_write(const struct hv_disk *d, const struct hv_vmdk_extent *e, struct hv_error *err)
{
	if (e->access != VMDK_RW || e->type == VMDK_ZERO)
		return hv_fail(err, EROFS,
			       "%s: the disk's offset %llu lies in an extent that can't be written "
			       "(%s)",
			       d->path, (unsigned long long)e->start,
			       e->access != VMDK_RW ? "RDONLY" : "ZERO");
	return 0;
}

/* A byte at the end of what was allocated makes the file as long; never shorter, whoever else writes. */
static int reach(struct hv_vmdk_sparse *s, uint64_t end, struct hv_error *err)
{
	return hv_disk_file_size(s->file) >= end ? 0 : hv_disk_file_write(s->file, "", 1, end - 1, err);
}

static int take_room(struct hv_vmdk_sparse *s, uint64_t grains, uint64_t *at, struct hv_error *err)
{
	uint64_t end = hv_disk_file_size(s->file);

	if (s->end < end)
		s->end = s->data_at +
			 (end > s->data_at ? (end - s->data_at + s->grain - 1) / s->grain * s->grain : 0);
	if (s->end / VMDK_SECTOR + grains * (s->grain / VMDK_SECTOR) > UINT32_MAX)
		return hv_fail(err, EFBIG,
			       "%s: the file would be longer than 2 TiB, which its tables can't "
			       "hold; use monolithicFlat",
			       s->file->path);
	*at = s->end;
	s->end += grains * s->grain;
	return 0;
}

static int place_flat(const struct hv_vmdk_extent *e, uint64_t offset, uint64_t length, struct hv_run *run)
{
	uint64_t in = offset - e->start;

	*run = (struct hv_run){
		.offset = offset,
		.length = length < e->length - in ? length : e->length - in,
		.kind = HV_RUN_DATA,
		.file = e->file,
		.at = e->at + in,
		.fresh = true,
	};
	return 0;
}

int hv_vmdk_place(struct hv_disk *d, uint64_t offset, uint64_t length, struct hv_run *run,
		  struct hv_error *err)
{
	const struct hv_vmdk_extent *e = hv_vmdk_extent_at(d->state, offset);
	struct hv_vmdk_sparse *s = e->sparse;
	struct hv_vmdk_grains g;
	uint64_t grain, left;
	int rc = may_write(d, e, err);

	if (rc < 0)
		return rc;
	if (!s)
		return place_flat(e, offset, length, run);
	grain = (offset - e->start) / s->grain;
	left = s->length - grain * s->grain;
	length += (offset - e->start) % s->grain;
	if (length > left)
		length = left;
	rc = hv_vmdk_scan(s, grain, (length - 1) / s->grain + 1, &g, err);
	if (rc == 0 && g.kind == HV_RUN_DATA)
		rc = hv_fail(err, EEXIST, "%s: the grain at offset %llu is allocated already", d->path,
			     (unsigned long long)offset);
	*run = (struct hv_run){
		.offset = e->start + grain * s->grain, .kind = HV_RUN_DATA, .file = e->file, .fresh = true};
	if (rc == 0)
		rc = take_room(s, g.count, &run->at, err);
	if (rc == 0)
		run->length = g.count * s->grain < left ? g.count * s->grain : left;
	return rc;
}

int hv_vmdk_commit(struct hv_disk *d, const struct hv_run *run, struct hv_error *err)
{
	const struct hv_vmdk_extent *e = hv_vmdk_extent_at(d->state, run->offset);
	struct hv_vmdk_sparse *s = e->sparse;
	uint64_t count;
	int rc;

	if (!s)
		return 0;
	count = (run->length + s->grain - 1) / s->grain;
	rc = reach(s, run->at + count * s->grain, err);
	if (rc < 0)
		return rc;
	return hv_vmdk_tables_set(s, (run->offset - e->start) / s->grain, count, run->at, true, err);
}

/* --- zeros ------------------------------------------------------------------------------------------------ */

/* Grains that the image leaves to its parent become zeros: by their mark, or as room that was never written.
 */
static int hide_parent(struct hv_disk *d, struct hv_vmdk_sparse *s, uint64_t grain, uint64_t count,
		       struct hv_error *err)
{
	uint64_t at = 0;
	int rc;

	if (!d->has_parent)
		return 0;
	if (s->zero_gte)
		return hv_vmdk_tables_set(s, grain, count, (uint64_t)ZERO_GTE * VMDK_SECTOR, false, err);
	rc = take_room(s, count, &at, err);
	if (rc == 0)
		rc = reach(s, at + count * s->grain, err);
	return rc < 0 ? rc : hv_vmdk_tables_set(s, grain, count, at, true, err);
}

/* A part of one extent, up to one run; *done tells how much. */
static int zero_sparse(struct hv_disk *d, struct hv_vmdk_sparse *s, uint64_t in, uint64_t length,
		       uint64_t *done, struct hv_error *err)
{
	uint64_t skip = in % s->grain;
	struct hv_vmdk_grains g;
	int rc = hv_vmdk_scan(s, in / s->grain, (skip + length - 1) / s->grain + 1, &g, err);

	if (rc < 0)
		return rc;
	*done = g.count * s->grain - skip;
	if (*done > length)
		*done = length;
	if (g.kind == HV_RUN_DATA)
		return hv_disk_file_punch(s->file, g.at + skip, *done, err);
	if (g.kind == HV_RUN_ZERO)
		return 0;
	if (d->has_parent && (skip || (*done % s->grain && in + *done != s->length)))
		return hv_fail(err, ENOTSUP, "%s: a part of a grain over its parent can't be zeroed",
			       d->path);
	return hide_parent(d, s, in / s->grain, g.count, err);
}

int hv_vmdk_zero(struct hv_disk *d, uint64_t offset, uint64_t length, struct hv_error *err)
{
	int rc = 0;

	while (length && rc == 0) {
		const struct hv_vmdk_extent *e = hv_vmdk_extent_at(d->state, offset);
		uint64_t in = offset - e->start, part = length < e->length - in ? length : e->length - in;

		rc = e->type == VMDK_ZERO && e->access == VMDK_RW ? 0 : may_write(d, e, err);
		if (rc < 0)
			break;
		if (e->sparse)
			rc = zero_sparse(d, e->sparse, in, part, &part, err);
		else if (e->type != VMDK_ZERO)
			rc = hv_disk_file_punch(d->file[e->file], e->at + in, part, err);
		offset += part;
		length -= part;
	}
	return rc;
}

/* --- flush ------------------------------------------------------------------------------------------------ */

/* Another content ID with as many digits as the old one, once each time the image is opened. */
static int change_cid(struct hv_disk *d, struct hv_error *err)
{
	struct hv_vmdk *v = d->state;
	uint32_t cid, mask = v->cid_digits >= 8 ? UINT32_MAX : (1U << v->cid_digits * 4) - 1;
	char text[16];
	int rc;

	if (d->output || v->cid_changed || !v->cid_at || !v->cid_digits || !d->file[0]->writable)
		return 0;
	do {
		hv_disk_random(&cid, sizeof(cid));
		cid &= mask;
	} while (cid == v->cid || cid >= UINT32_MAX - 1);
	snprintf(text, sizeof(text), "%0*x", (int)v->cid_digits, cid);
	rc = hv_disk_file_write(d->file[0], text, v->cid_digits, v->cid_at, err);
	if (rc == 0) {
		v->cid = cid;
		v->cid_changed = true;
	}
	return rc;
}

int hv_vmdk_flush(struct hv_disk *d, struct hv_error *err)
{
	struct hv_vmdk *v = d->state;
	int rc = 0;

	for (unsigned i = 0; i < v->extents && rc == 0; i++)
		if (v->extent[i].sparse && v->extent[i].sparse->file->writable)
			rc = hv_vmdk_tables_flush(v->extent[i].sparse, err);
	return rc < 0 ? rc : change_cid(d, err);
}
