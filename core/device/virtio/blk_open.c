/*
 * The image behind a virtio disk: opened with its chain, locked, and checked whether it can serve as a disk.
 * All that needs the file system, or a system call that the sandbox forbids, is done here. It calls
 * libhvdisk.
 */
#include <fcntl.h>
#include <linux/stat.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "device/virtio/blk_impl.h"

#define ALIGN_DEFAULT 4096u /* for O_DIRECT where the kernel (before 6.1) doesn't say */

#ifndef STATX_DIOALIGN
#define STATX_DIOALIGN 0x2000u
#endif

/* struct statx as of Linux 6.1, up to what is asked for; older headers lack the two fields. */
struct dio_statx {
	uint32_t mask;
	uint8_t before[0x98 - 4];
	uint32_t memory_align, offset_align;
	uint8_t behind[0x100 - 0xa0];
};

static void ask_alignment(struct hv_blk_image *image)
{
	struct dio_statx st = {0};

	image->memory_align = image->offset_align = ALIGN_DEFAULT;
	if (syscall(SYS_statx, image->direct, "", AT_EMPTY_PATH, STATX_DIOALIGN, &st) == 0 &&
	    st.mask & STATX_DIOALIGN && st.memory_align && st.offset_align &&
	    st.memory_align <= HV_BLK_BOUNCE_SIZE && st.offset_align <= HV_BLK_BOUNCE_SIZE) {
		image->memory_align = st.memory_align;
		image->offset_align = st.offset_align;
	}
}

/* The same file once more: what libhvdisk does with it stays as it is. */
static int open_direct(struct hv_blk_image *image, const char *path, bool readonly, struct hv_error *err)
{
	struct hv_disk_place place;
	struct hv_disk_info info;
	char name[64];

	hv_disk_info(image->disk, &info);
	if (strcmp(info.format, "raw") != 0 || !hv_disk_find_place(image->disk, 0, SECTOR, false, &place))
		return hv_fail_usage(err, "%s: cache=none is for raw images, and this one is %s", path,
				     info.format);
	snprintf(name, sizeof(name), "/proc/self/fd/%d", place.fd);
	image->direct = open(name, (readonly ? O_RDONLY : O_RDWR) | O_DIRECT | O_CLOEXEC);
	if (image->direct < 0 && errno == EINVAL)
		return hv_fail(err, EINVAL,
			       "%s: its file system has no direct I/O; use cache=writeback, or another place",
			       path);
	if (image->direct < 0)
		return hv_fail_errno(err, "%s: can't be opened for direct I/O", path);
	ask_alignment(image);
	if (posix_memalign(&image->bounce, HV_BLK_BOUNCE_SIZE, HV_BLK_BOUNCE_SIZE))
		return hv_fail(err, ENOMEM, "%s: no memory for direct I/O; close other programs", path);
	return 0;
}

static int check_disk(struct hv_disk *d, const char *path, bool readonly, struct hv_error *err)
{
	int rc = readonly ? 0 : hv_disk_may_write(d, err);

	if (!rc && hv_disk_size(d) % SECTOR)
		rc = hv_fail_usage(err,
				   "%s: its %llu bytes are no whole number of 512-byte sectors, which a disk "
				   "has; `truncate -s %%512 %s` fills it up",
				   path, (unsigned long long)hv_disk_size(d), path);
	return rc ? rc : hv_disk_lock(d, err);
}

int hv_blk_open(const char *path, const struct hv_blk_options *options, struct hv_blk_image **image,
		struct hv_error *err)
{
	struct hv_disk_options how = {.format = options->format, .writable = !options->readonly};
	struct hv_blk_image *i = calloc(1, sizeof(*i));
	const char *why = "";
	int rc;

	if (!i)
		return hv_fail(err, ENOMEM, "%s: no memory for it; close other programs", path);
	i->direct = -1;
	rc = hv_disk_open(path, &how, &i->disk, err);
	if (!rc)
		rc = check_disk(i->disk, path, options->readonly, err);
	if (!rc && options->direct)
		rc = open_direct(i, path, options->readonly, err);
	if (rc) {
		hv_blk_close(i);
		return rc;
	}
	if (!options->no_ring)
		i->ring = hv_blk_ring_new(&why);
	if (!i->ring)
		hv_log(options->log, HV_LOG_INFO, "%s: no io_uring (%s); a thread waits for each request",
		       path, why);
	*image = i;
	return 0;
}

void hv_blk_close(struct hv_blk_image *image)
{
	if (!image)
		return;
	hv_blk_ring_free(image->ring);
	if (image->direct >= 0)
		close(image->direct);
	free(image->bounce);
	hv_disk_close(image->disk);
	free(image);
}
