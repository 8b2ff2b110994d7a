/*
 * Raw: the file is the disk. Its own holes are the disk's holes, so a sparse file stays one wherever it goes.
 * The one format that needs no table, and a good first one to read.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/bytes.h"
#include "disk/format.h"

/* Everything could be raw: no content speaks for it, so it's what remains when no other format wants the
 * file. */
static int raw_probe(const struct hv_disk_probe *probe)
{
	(void)probe;
	return 0;
}

static int raw_open(struct hv_disk *d, struct hv_error *err)
{
	(void)err;
	d->size = hv_disk_file_size(d->file[0]);
	return 0;
}

static void raw_close(struct hv_disk *d)
{
	(void)d;
}

static int raw_map(struct hv_disk *d, uint64_t offset, uint64_t length, struct hv_run *run,
		   struct hv_error *err)
{
	uint64_t end;
	bool data;
	int rc = hv_disk_file_seek(d->file[0], offset, &data, &end, err);

	if (rc < 0)
		return rc;
	*run = (struct hv_run){
		.offset = offset,
		.length = end - offset,
		.kind = data ? HV_RUN_DATA : HV_RUN_HOLE,
		.at = offset,
	};
	return 0;
}

/* Every byte has its place already: holes in the file are filled as they are written. */
static int raw_place(struct hv_disk *d, uint64_t offset, uint64_t length, struct hv_run *run,
		     struct hv_error *err)
{
	(void)err;
	if (length > d->size - offset)
		length = d->size - offset;
	*run = (struct hv_run){
		.offset = offset, .length = length, .kind = HV_RUN_DATA, .at = offset, .fresh = true};
	return 0;
}

static int raw_commit(struct hv_disk *d, const struct hv_run *run, struct hv_error *err)
{
	(void)d, (void)run, (void)err;
	return 0;
}

static int raw_zero(struct hv_disk *d, uint64_t offset, uint64_t length, struct hv_error *err)
{
	return hv_disk_file_punch(d->file[0], offset, length, err);
}

static int raw_resize(struct hv_disk *d, uint64_t size, struct hv_error *err)
{
	int rc = hv_disk_file_resize(d->file[0], size, err);

	if (rc == 0 && hv_disk_file_size(d->file[0]) != size) /* a block device has the size that it has */
		rc = hv_fail(err, ENOTSUP, "%s: a block device can't be resized from here", d->path);
	if (rc == 0)
		d->size = size;
	return rc;
}

static int raw_create(struct hv_disk *d, const struct hv_disk_create *create, struct hv_error *err)
{
	struct hv_disk_file *f = d->file[0];
	int rc = hv_disk_file_resize(f, create->size, err);

	if (rc < 0)
		return rc;
	d->size = create->size;
	/* A file system without fallocate makes the room as the bytes come: the same disk, found out later.
	 */
	if (create->full && create->size && fallocate(f->fd, 0, 0, (off_t)create->size) < 0 &&
	    errno == ENOSPC)
		return hv_fail_errno(err, "%s: no room for %llu bytes", f->path,
				     (unsigned long long)create->size);
	return 0;
}

static int raw_check(struct hv_disk *d, struct hv_disk_check *check, struct hv_error *err)
{
	(void)err;
	check->blocks = check->used = (d->size + 511) / 512;
	if (d->size % 512)
		hv_disk_found(check, HV_CHECK_NOTE, "%s: %llu bytes are no whole number of 512-byte sectors",
			      d->path, (unsigned long long)d->size);
	return 0;
}

const struct hv_disk_format hv_disk_format_raw = {
	.name = "raw",
	.extensions = (const char *const[]){"raw", "img", "dd", "bin", "iso", NULL},
	.subformats = NULL,
	.probe = raw_probe,
	.open = raw_open,
	.close = raw_close,
	.map = raw_map,
	.place = raw_place,
	.commit = raw_commit,
	.zero = raw_zero,
	.resize = raw_resize,
	.create = raw_create,
	.resume = raw_create,
	.check = raw_check,
};
