/*
 * The map over all images of a chain, and reading along it. What a format says is checked here once more, for
 * all formats: a run lies inside the disk and its data inside the file.
 */
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "disk/disk_impl.h"

#define SEEK_WORTH (256U << 10)
#define STORED_MAX (64U << 20) /* of an encoded unit: formats allow far less */

static int bad_run(const struct hv_disk *d, uint64_t offset, const struct hv_run *run, struct hv_error *err)
{
	return hv_fail_unsafe(
		err,
		"%s: the data of the disk's offset %llu would be at offset %llu of the file, which ends at "
		"%llu",
		d->path, (unsigned long long)offset, (unsigned long long)run->at,
		(unsigned long long)hv_disk_file_size(d->file[run->file < d->files ? run->file : 0]));
}

/*
 * A block of many pages may have been written in parts: what is a hole of the file reads as zeros, and so it
 * needs no reading. Small runs aren't worth the question.
 */
static int see_file_holes(const struct hv_disk *d, struct hv_run *run, struct hv_error *err)
{
	uint64_t end;
	bool data;
	int rc;

	if (run->length < SEEK_WORTH || d->format == &hv_disk_format_raw)
		return 0;
	rc = hv_disk_file_seek(d->file[run->file], run->at, &data, &end, err);
	if (rc < 0)
		return rc;
	if (end - run->at < run->length)
		run->length = end - run->at;
	if (!data) {
		run->kind = HV_RUN_ZERO;
		run->fresh = true;
	}
	return 0;
}

int hv_disk_map_layer(struct hv_disk *d, uint64_t offset, uint64_t length, struct hv_run *run,
		      struct hv_error *err)
{
	int rc;

	if (length > d->size - offset)
		length = d->size - offset;
	*run = (struct hv_run){0};
	rc = d->format->map(d, offset, length, run, err);
	if (rc < 0)
		return rc;
	if (run->offset != offset || run->length == 0)
		return hv_fail(err, EIO, "%s: the map has no answer for offset %llu", d->path,
			       (unsigned long long)offset);
	if (run->length > length)
		run->length = length;
	run->layer = d;
	run->depth = d->depth;
	if (run->kind != HV_RUN_DATA || run->stored == HV_STORED_CALL)
		return 0;
	if (run->file >= d->files)
		return bad_run(d, offset, run, err);
	if (run->stored == HV_STORED_ENCODED) {
		if (run->at >= hv_disk_file_size(d->file[run->file]) || run->stored_length > STORED_MAX ||
		    !run->stored_length || run->unit > offset ||
		    !hv_inside(offset - run->unit, run->length, run->unit_length))
			return bad_run(d, offset, run, err);
		return 0;
	}
	/* Cut short at the file's end: what is there can be read, the rest is asked for again and refused. */
	if (run->at >= hv_disk_file_size(d->file[run->file]))
		return bad_run(d, offset, run, err);
	if (run->length > hv_disk_file_size(d->file[run->file]) - run->at)
		run->length = hv_disk_file_size(d->file[run->file]) - run->at;
	return see_file_holes(d, run, err);
}

int hv_disk_map_chain(struct hv_disk *layer, uint64_t offset, uint64_t length, struct hv_run *run,
		      struct hv_error *err)
{
	for (; layer; layer = layer->parent) {
		int rc;

		/* A parent may be shorter than its child: behind its end there is nothing. */
		if (offset >= layer->size)
			break;
		rc = hv_disk_map_layer(layer, offset, length, run, err);
		if (rc < 0 || run->kind != HV_RUN_HOLE)
			return rc;
		/* The child's hole, cut by a short parent, goes on behind it: the next call sees that. */
		length = run->length;
	}
	*run = (struct hv_run){.offset = offset, .length = length, .kind = HV_RUN_HOLE};
	return 0;
}

int hv_disk_map(struct hv_disk *d, uint64_t offset, uint64_t length, struct hv_run *run, struct hv_error *err)
{
	if (offset >= d->size || length == 0)
		return hv_fail(err, EINVAL, "%s: offset %llu is not on the disk of %llu bytes", d->path,
			       (unsigned long long)offset, (unsigned long long)d->size);
	return hv_disk_map_chain(d, offset, length, run, err);
}

/* --- reading ---------------------------------------------------------------------------------------------- */

static int grow(uint8_t **buf, size_t *size, size_t want)
{
	uint8_t *more;

	if (*size >= want)
		return 0;
	more = realloc(*buf, want);
	if (!more)
		return -ENOMEM;
	*buf = more;
	*size = want;
	return 0;
}

int hv_disk_read_unit(struct hv_disk_io *io, const struct hv_run *run, uint8_t *out, struct hv_error *err)
{
	struct hv_disk *d = run->layer;
	size_t used = 0;
	int64_t n;
	int rc;

	if (grow(&io->stored, &io->stored_size, run->stored_length) < 0)
		return hv_fail(err, ENOMEM, "%s: out of memory", d->path);
	n = hv_disk_file_read_some(d->file[run->file], io->stored, run->stored_length, run->at, err);
	if (n < 0)
		return (int)n;
	rc = d->format->decode(d, io, run, io->stored, (size_t)n, out, &used, err);
	return rc == 0 && io->decoded ? io->decoded(io->ctx, run, used, err) : rc;
}

/* A part of an encoded unit; the whole is kept, as the next read mostly wants the next part. */
static int read_encoded(struct hv_disk_io *io, const struct hv_run *run, void *buf, struct hv_error *err)
{
	int rc;

	if (run->offset == run->unit && run->length == run->unit_length)
		return hv_disk_read_unit(io, run, buf, err);
	if (io->unit_disk != run->layer->id || io->unit_offset != run->unit) {
		io->unit_disk = 0;
		if (grow(&io->unit, &io->unit_size, run->unit_length) < 0)
			return hv_fail(err, ENOMEM, "%s: out of memory", run->layer->path);
		rc = hv_disk_read_unit(io, run, io->unit, err);
		if (rc < 0)
			return rc;
		io->unit_disk = run->layer->id;
		io->unit_offset = run->unit;
	}
	memcpy(buf, io->unit + (run->offset - run->unit), run->length);
	return 0;
}

int hv_disk_read_run(struct hv_disk_io *io, const struct hv_run *run, void *buf, struct hv_error *err)
{
	struct hv_disk *d = run->layer;

	if (run->kind != HV_RUN_DATA) {
		memset(buf, 0, run->length);
		return 0;
	}
	switch (run->stored) {
	case HV_STORED_ENCODED:
		return read_encoded(io, run, buf, err);
	case HV_STORED_CALL:
		return d->format->read(d, buf, run->length, run->offset, err);
	case HV_STORED_PLAIN:
		break;
	}
	return hv_disk_file_read(d->file[run->file], "data", buf, run->length, run->at, err);
}

int hv_disk_outside(const struct hv_disk *d, uint64_t offset, uint64_t length, struct hv_error *err)
{
	return hv_fail(err, EINVAL, "%s: %llu bytes at offset %llu are not all on the disk of %llu bytes",
		       d->path, (unsigned long long)length, (unsigned long long)offset,
		       (unsigned long long)d->size);
}

int hv_disk_read(struct hv_disk *d, struct hv_disk_io *io, void *buf, size_t length, uint64_t offset,
		 struct hv_error *err)
{
	uint8_t *to = buf;

	if (!hv_inside(offset, length, d->size))
		return hv_disk_outside(d, offset, length, err);
	while (length) {
		struct hv_run run;
		int rc = hv_disk_map_chain(d, offset, length, &run, err);

		if (rc == 0)
			rc = hv_disk_read_run(io, &run, to, err);
		if (rc < 0)
			return rc;
		to += run.length;
		offset += run.length;
		length -= run.length;
	}
	return 0;
}
