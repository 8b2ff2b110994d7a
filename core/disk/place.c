/*
 * Plain bytes for a caller that has the kernel move them: where a range of the disk lies in a file, when it
 * lies there in one piece and as it is. And the size of a disk that is open.
 */
#include "base/bytes.h"
#include "disk/disk_impl.h"

/* A write goes there only when it changes nothing else: no table, no header that has to be changed first. */
static bool takes_writes(struct hv_disk *d)
{
	if (hv_disk_may_write(d, NULL) || d->format->write)
		return false;
	return !d->format->begin_write || __atomic_load_n(&d->begun, __ATOMIC_ACQUIRE);
}

static bool is_plain(const struct hv_disk *d, const struct hv_run *run, bool write)
{
	return run->kind == HV_RUN_DATA && run->stored == HV_STORED_PLAIN && (!write || run->layer == d);
}

bool hv_disk_find_place(struct hv_disk *d, uint64_t offset, uint64_t length, bool write,
			struct hv_disk_place *place)
{
	uint64_t end = 0;

	*place = (struct hv_disk_place){.fd = -1};
	if (length == 0 || !hv_inside(offset, length, d->size) || (write && !takes_writes(d)))
		return false;
	if (d->format == &hv_disk_format_raw) { /* holes of its file, too, are where their bytes will be */
		*place = (struct hv_disk_place){.fd = d->file[0]->fd, .at = d->file[0]->base + offset};
		return true;
	}
	while (length) {
		const struct hv_disk_file *f;
		struct hv_run run;

		if (hv_disk_map_chain(d, offset, length, &run, NULL) || !is_plain(d, &run, write))
			return false;
		f = run.layer->file[run.file];
		if (place->fd < 0)
			*place = (struct hv_disk_place){.fd = f->fd, .at = f->base + run.at};
		else if (f->fd != place->fd || f->base + run.at != end)
			return false;
		end = f->base + run.at + run.length;
		offset += run.length;
		length -= run.length;
	}
	return true;
}

int hv_disk_resize(struct hv_disk *d, uint64_t size, struct hv_error *err)
{
	int rc = hv_disk_may_write(d, err);

	if (rc < 0)
		return rc;
	if (!d->format->resize)
		return hv_fail(
			err, ENOTSUP,
			"%s: %s images can't be resized while they are open; raw ones can, and for others "
			"stop the VM and use `qemu-img resize`",
			d->path, d->format->name);
	if (size == 0 || size % d->sector_size || size > HV_DISK_SIZE_MAX)
		return hv_fail_usage(err, "%s: a disk can't have %llu bytes; give a multiple of %u", d->path,
				     (unsigned long long)size, d->sector_size);
	pthread_mutex_lock(&d->lock);
	rc = d->format->resize(d, size, err);
	pthread_mutex_unlock(&d->lock);
	return rc;
}
