/*
 * A disk for a virtio block device: any image that libhvdisk knows.
 */
#ifndef HV_DEVICE_VIRTIO_BLK_H
#define HV_DEVICE_VIRTIO_BLK_H

#include <stdbool.h>

#include "device/virtio/virtio.h"

#define HV_BLK_SERIAL_MAX 20 /* bytes of a serial number (virtio 1.2, section 5.2.6) */
#define HV_BLK_QUEUES_MAX 4

struct hv_blk_image;

struct hv_blk_options {
	const char *format; /* NULL: found out by content */
	bool readonly;
	bool direct;              /* cache=none: by O_DIRECT, past the host's cache; raw images only */
	bool no_ring;             /* not by io_uring, as where the kernel has none */
	const struct hv_log *log; /* may be NULL */
};

HV_API_BEGIN
/*
 * Opens the image at path with its chain, locks it, and checks that it can serve as a disk: whole sectors,
 * and writable unless readonly is asked for. *image goes to hv_virtio_blk_create, or else to hv_blk_close.
 * This reads the image's tables and opens the files that they lead to, so it comes before a sandbox closes.
 * -EBUSY: another process has the image open; -EINVAL: no whole sectors, no such format, or direct where it
 * can't be; others as hv_disk_open's.
 */
int hv_blk_open(const char *path, const struct hv_blk_options *options, struct hv_blk_image **image,
		struct hv_error *err);
void hv_blk_close(struct hv_blk_image *image); /* may be NULL */

/*
 * blk.c: a disk (section 5.2): read, write, flush, discard, write zeroes, and a serial number of at most
 * HV_BLK_SERIAL_MAX bytes (NULL: none); queues from 1 to HV_BLK_QUEUES_MAX. Takes image over on success.
 */
int hv_virtio_blk_create(const struct hv_virtio_host *host, struct hv_blk_image *image, const char *serial,
			 unsigned queues, struct hv_device **out, struct hv_error *err);

/*
 * Another size for the disk, while the VM runs or not; the driver is told by a configuration interrupt.
 * Waits for what is under way. -EROFS, -ENOTSUP (the format can't), -EINVAL, or what the system says.
 */
int hv_virtio_blk_resize(struct hv_device *dev, uint64_t size, struct hv_error *err);
HV_API_END

#endif
