/*
 * Between the files that make up a disk (disk.c, open.c, map.c, write.c, create.c): no format calls these.
 */
#ifndef HV_DISK_DISK_IMPL_H
#define HV_DISK_DISK_IMPL_H

#include "disk/format.h"

extern const struct hv_disk_format *const hv_disk_format_list[]; /* ends with NULL */

/* -EINVAL, with the names that there are. */
int hv_disk_no_such_format(const char *path, const char *name, struct hv_error *err);
/* -EINVAL: the range is not on the disk. */
int hv_disk_outside(const struct hv_disk *d, uint64_t offset, uint64_t length, struct hv_error *err);

/* Makes f one of d's files, which d owns then; *index (may be NULL) is its place. */
int hv_disk_add_file(struct hv_disk *d, struct hv_disk_file *f, unsigned *index, struct hv_error *err);

/* hv_disk_map of any layer and what lies below it, for an offset that is on the disk on top. */
int hv_disk_map_chain(struct hv_disk *layer, uint64_t offset, uint64_t length, struct hv_run *run,
		      struct hv_error *err);
/* The bytes of a run that the map gave. */
int hv_disk_read_run(struct hv_disk_io *io, const struct hv_run *run, void *buf, struct hv_error *err);

#endif
