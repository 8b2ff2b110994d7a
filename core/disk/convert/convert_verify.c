/*
 * Verifying a conversion: while it ran, each stretch of the disk got a sum of its blocks' hashes; now the
 * destination is read and must give the same. Zeros count as nothing there, so a hole that came back as zeros
 * is right, and one that came back as anything else isn't.
 */
#include <fcntl.h>
#include <stdlib.h>

#include "disk/convert/convert_impl.h"

int hv_verify_begin(struct hv_conversion *v, struct hv_error *err)
{
	v->stretch = 1ULL << 20;
	while (v->pipe->end / v->stretch >= HV_SUM_SLOTS)
		v->stretch *= 2;
	v->sums = calloc((size_t)(v->pipe->end / v->stretch) + 1, sizeof(uint64_t));
	v->sums_back = calloc((size_t)(v->pipe->end / v->stretch) + 1, sizeof(uint64_t));
	if (!v->sums || !v->sums_back)
		return hv_fail(err, ENOMEM, "%s: no memory for its checksums", v->c->source->path);
	v->pipe->sums = v->sums;
	v->pipe->stretch = v->stretch;
	return 0;
}

static int compare_sums(const struct hv_conversion *v, const char *path, uint64_t end, struct hv_error *err)
{
	for (uint64_t i = 0; i <= end / v->stretch; i++) {
		uint64_t from = i * v->stretch, to = from + v->stretch < end ? from + v->stretch : end;
		if (v->sums[i] != v->sums_back[i])
			return hv_fail(err, EIO,
				       "%s: what was written differs from what was read, between offsets "
				       "%llu and %llu of the disk; it was not given its name",
				       path, (unsigned long long)from, (unsigned long long)to);
	}
	return 0;
}

/* Reads a disk to its end for its checksums. The conversion's own pipe is gone by then, and its memory. */
static int read_back(struct hv_conversion *v, struct hv_disk *disk, struct hv_error *err)
{
	struct hv_pipe *p = v->pipe = hv_pipe_new(disk);
	int rc;

	if (!p)
		return hv_fail(err, ENOMEM, "%s: no memory to read it back", disk->path);
	p->see = p->fill = true;
	p->sums = v->sums_back;
	p->stretch = v->stretch;
	hv_pipe_sizes(p, v->c->threads, v->c->memory);
	for (unsigned i = 0; i < disk->files; i++) /* what is read comes from the medium where it can */
		(void)posix_fadvise(disk->file[i]->fd, 0, 0, POSIX_FADV_DONTNEED);
	rc = hv_pipe_start(p, err);
	if (rc == 0)
		rc = hv_conversion_walk(v, true, err);
	hv_pipe_free(p);
	free(p);
	v->pipe = NULL;
	return rc;
}

/*
 * An image of one file is opened anew, as whoever opens it next will. The names inside one of several files
 * are the final ones, which don't exist yet: it is read as it is open.
 */
int hv_verify(struct hv_conversion *v, uint64_t end, struct hv_error *err)
{
	struct hv_disk *disk = v->dest;
	struct hv_disk_options options = {.format = v->dest->format->name};
	int rc = 0;

	if (v->made && v->made->files == 1)
		rc = hv_disk_open(v->made->file[0]->path, &options, &disk, err);
	if (rc == 0 && hv_disk_size(disk) != end)
		rc = hv_fail(err, EIO, "%s: has %llu bytes when it is opened again, and should have %llu",
			     disk->path, (unsigned long long)hv_disk_size(disk), (unsigned long long)end);
	if (rc == 0)
		rc = read_back(v, disk, err);
	if (rc == 0)
		rc = compare_sums(v, disk->path, end, err);
	if (disk != v->dest)
		hv_disk_close(disk);
	return rc;
}
