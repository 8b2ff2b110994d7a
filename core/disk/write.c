/*
 * Writing in place: blocks that the image holds are written where they are; others get room first, are filled
 * up from the chain, and only then do the tables lead to them.
 */
#include <stdlib.h>

#include "base/bytes.h"
#include "disk/disk_impl.h"

int hv_disk_may_write(const struct hv_disk *d, struct hv_error *err)
{
	if (!d->writable)
		return hv_fail(err, EROFS, "%s: opened for reading only", d->path);
	if (!d->format->write && !d->format->place)
		return hv_fail(err, ENOTSUP,
			       "%s: %s images can't be written in place; convert it to raw, qcow2, vhd or "
			       "vhdx first",
			       d->path, d->format->name);
	return 0;
}

/* What a format has to do before an image that was there before is changed for the first time. */
static int begin_write(struct hv_disk *d, struct hv_error *err)
{
	int rc = 0;

	if (!d->format->begin_write || __atomic_load_n(&d->begun, __ATOMIC_ACQUIRE))
		return 0;
	pthread_mutex_lock(&d->lock);
	if (!d->begun)
		rc = d->format->begin_write(d, err);
	if (rc == 0)
		__atomic_store_n(&d->begun, true, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&d->lock);
	return rc;
}

/* Brings what the chain holds of [offset, end) to `at` in the file; fresh room needs no zeros. */
static int fill(struct hv_disk *d, struct hv_disk_io *io, uint64_t offset, uint64_t end,
		const struct hv_run *room, struct hv_error *err)
{
	uint8_t *buf = NULL;
	int rc = 0;

	while (rc == 0 && offset < end) {
		uint64_t want = end - offset < HV_ZEROS ? end - offset : HV_ZEROS;
		struct hv_run run;

		rc = hv_disk_map_chain(d, offset, end - offset, &run, err);
		if (rc < 0)
			break;
		if (run.kind != HV_RUN_DATA && room->fresh) {
			offset += run.length;
			continue;
		}
		if (run.length > want)
			run.length = want;
		if (run.kind == HV_RUN_DATA && !buf && !(buf = malloc(HV_ZEROS))) {
			rc = hv_fail(err, ENOMEM, "%s: out of memory", d->path);
			break;
		}
		if (run.kind == HV_RUN_DATA)
			rc = hv_disk_read_run(io, &run, buf, err);
		if (rc == 0)
			rc = hv_disk_file_write(d->file[room->file], run.kind == HV_RUN_DATA ? buf : hv_zeros,
						run.length, room->at + (offset - room->offset), err);
		offset += run.length;
	}
	free(buf);
	return rc;
}

/*
 * Writes the start of [offset, offset + length) into blocks that the image doesn't hold yet: room, the old
 * bytes around the new ones, the new ones, and then the table. *done tells how far it came.
 */
static int write_new(struct hv_disk *d, struct hv_disk_io *io, const void *buf, size_t length,
		     uint64_t offset, size_t *done, struct hv_error *err)
{
	struct hv_run room = {0};
	uint64_t end;
	int rc = d->format->place(d, offset, length, &room, err);

	if (rc < 0)
		return rc;
	end = room.offset + room.length;
	if (end > offset + length)
		end = offset + length;
	rc = fill(d, io, room.offset, offset, &room, err);
	if (rc == 0)
		rc = hv_disk_file_write(d->file[room.file], buf, (size_t)(end - offset),
					room.at + (offset - room.offset), err);
	if (rc == 0)
		rc = fill(d, io, end, room.offset + room.length, &room, err);
	if (rc == 0)
		rc = d->format->commit(d, &room, err);
	*done = (size_t)(end - offset);
	return rc;
}

static bool is_in_place(const struct hv_run *run)
{
	return (run->kind == HV_RUN_DATA || run->fresh) && run->stored == HV_STORED_PLAIN;
}

/* One run: as long as it is in place, or as long as it isn't. */
static int write_run(struct hv_disk *d, struct hv_disk_io *io, const void *buf, size_t length,
		     uint64_t offset, size_t *done, struct hv_error *err)
{
	struct hv_run run;
	int rc = hv_disk_map_layer(d, offset, length, &run, err);

	if (rc < 0)
		return rc;
	if (!is_in_place(&run)) {
		pthread_mutex_lock(&d->lock);
		rc = hv_disk_map_layer(d, offset, length, &run, err);
		if (rc == 0 && !is_in_place(&run))
			rc = write_new(d, io, buf, (size_t)run.length, offset, done, err);
		pthread_mutex_unlock(&d->lock);
		if (rc < 0 || !is_in_place(&run))
			return rc;
	}
	*done = (size_t)run.length;
	return hv_disk_file_write(d->file[run.file], buf, (size_t)run.length, run.at, err);
}

int hv_disk_write(struct hv_disk *d, struct hv_disk_io *io, const void *buf, size_t length, uint64_t offset,
		  struct hv_error *err)
{
	const uint8_t *from = buf;
	int rc = hv_disk_may_write(d, err);

	if (rc < 0)
		return rc;
	if (!hv_inside(offset, length, d->size))
		return hv_disk_outside(d, offset, length, err);
	if (d->format->write)
		return d->format->write(d, buf, length, offset, err);
	rc = begin_write(d, err);
	while (rc == 0 && length) {
		size_t done = 0;

		rc = write_run(d, io, from, length, offset, &done, err);
		from += done;
		offset += done;
		length -= done;
	}
	return rc;
}

/* Zeros written as bytes, where they aren't zeros already. */
static int zero_by_writing(struct hv_disk *d, struct hv_disk_io *io, uint64_t offset, uint64_t length,
			   struct hv_error *err)
{
	int rc = 0;

	while (rc == 0 && length) {
		struct hv_run run;

		rc = hv_disk_map_chain(d, offset, length, &run, err);
		if (rc < 0)
			break;
		if (run.kind == HV_RUN_DATA) {
			if (run.length > HV_ZEROS)
				run.length = HV_ZEROS;
			rc = hv_disk_write(d, io, hv_zeros, (size_t)run.length, offset, err);
		}
		offset += run.length;
		length -= run.length;
	}
	return rc;
}

int hv_disk_zero(struct hv_disk *d, struct hv_disk_io *io, uint64_t offset, uint64_t length,
		 struct hv_error *err)
{
	uint64_t unit = d->block_size ? d->block_size : 1, head, body;
	int rc = hv_disk_may_write(d, err);

	if (rc < 0)
		return rc;
	if (!hv_inside(offset, length, d->size))
		return hv_disk_outside(d, offset, length, err);
	if (!d->format->zero)
		return zero_by_writing(d, io, offset, length, err);
	rc = begin_write(d, err);
	if (rc < 0)
		return rc;
	head = offset % unit ? unit - offset % unit : 0;
	if (head > length)
		head = length;
	body = length - head;
	if (offset + length != d->size)
		body -= body % unit;
	if (head && (rc = zero_by_writing(d, io, offset, head, err)) < 0)
		return rc;
	if (body) {
		pthread_mutex_lock(&d->lock);
		rc = d->format->zero(d, offset + head, body, err);
		pthread_mutex_unlock(&d->lock);
	}
	if (rc == 0 && head + body < length)
		rc = zero_by_writing(d, io, offset + head + body, length - head - body, err);
	return rc;
}

/* Data first, then the tables that lead to it. */
int hv_disk_flush(struct hv_disk *d, struct hv_error *err)
{
	int rc = 0;

	if (!d->writable)
		return 0;
	for (unsigned i = 0; i < d->files && rc == 0; i++)
		if (d->file[i]->writable)
			rc = hv_disk_file_sync(d->file[i], err);
	if (rc < 0 || !d->format->flush)
		return rc;
	pthread_mutex_lock(&d->lock);
	rc = d->format->flush(d, err);
	pthread_mutex_unlock(&d->lock);
	for (unsigned i = 0; i < d->files && rc == 0; i++)
		if (d->file[i]->writable)
			rc = hv_disk_file_sync(d->file[i], err);
	return rc;
}
