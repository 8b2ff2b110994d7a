/*
 * A disk for a virtio block device: any image that libhvdisk knows.
 */
#ifndef HV_DEVICE_VIRTIO_BLK_H
#define HV_DEVICE_VIRTIO_BLK_H

#include <stdbool.h>

#include "device/virtio/virtio.h"

#define HV_BLK_SERIAL_MAX 20 /* bytes of a serial number (virtio 1.2, section 5.2.6) */

struct hv_disk;

HV_API_BEGIN
/*
 * Opens the image at path with its chain, locks it, and checks that it can serve as a disk: whole sectors,
 * and writable unless readonly is asked for. format NULL: found out by content. *disk goes to
 * hv_virtio_blk_create, or else to hv_blk_close. This reads the image's tables and opens the files that they
 * lead to, so it comes before a sandbox closes. -EBUSY: another process has the image open; -EINVAL: no whole
 * sectors, or no such format; others as hv_disk_open's.
 */
int hv_blk_open(const char *path, const char *format, bool readonly, struct hv_disk **disk,
		struct hv_error *err);
void hv_blk_close(struct hv_disk *disk); /* may be NULL */

/*
 * blk.c: a disk (section 5.2): read, write, flush, discard, write zeroes, and a serial number of at most
 * HV_BLK_SERIAL_MAX bytes (NULL: none). Takes disk over on success.
 */
int hv_virtio_blk_create(const struct hv_virtio_host *host, struct hv_disk *disk, const char *serial,
			 struct hv_device **out, struct hv_error *err);
HV_API_END

#endif
