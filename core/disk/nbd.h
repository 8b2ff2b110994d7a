/*
 * Disks on a network block device server, read and written through libnbd. Apart from the other formats: a
 * file never leads here, only a user's own URI does, and who doesn't call this needs no libnbd.
 */
#ifndef HV_DISK_NBD_H
#define HV_DISK_NBD_H

#include "disk/disk.h"

HV_API_BEGIN
/* Whether name is a URI of NBD: nbd://HOST[:PORT]/EXPORT, nbds://..., nbd+unix:///EXPORT?socket=PATH... */
bool hv_disk_is_nbd(const char *name);

/*
 * Connects and opens the export as a disk (format "nbd", no chain), for reading or, with options->writable,
 * for writing too. Every wait has a limit: a server that says nothing for a minute is -ETIMEDOUT. Any thread
 * may map, read and write, as with other disks.
 */
int hv_disk_open_nbd(const char *uri, const struct hv_disk_options *options, struct hv_disk **disk,
		     struct hv_error *err);
HV_API_END

#endif
