/*
 * Inside core/disk: an OVF envelope's parts as they stand in it, collected by ovf.c and put together by
 * ovf_build.c. All strings live in the appliance's memory. One thread.
 */
#ifndef HV_DISK_OVF_IMPL_H
#define HV_DISK_OVF_IMPL_H

#include "disk/appliance/appliance_impl.h"

#define HV_OVF_PARTS_MAX 2048 /* of each list */

struct hv_ovf_file {
	const char *id, *href, *size, *compression, *chunk;
};

struct hv_ovf_disk {
	const char *id, *file, *capacity, *units, *parent, *format;
	bool used; /* by a machine's item */
};

/* A virtual device: CIM_ResourceAllocationSettingData. */
struct hv_ovf_item {
	unsigned machine; /* index */
	const char *configuration, *bound;
	const char *type, *id, *parent, *slot, *address, *host, *subtype, *name, *caption, *quantity, *units,
		*connection;
};

struct hv_ovf {
	struct hv_appliance *a;
	const char *path;
	struct hv_error *err;
	struct hv_ovf_file *file;
	struct hv_ovf_disk *disk;
	struct hv_ovf_item *item;
	const char *configuration; /* the default one's id */
	unsigned files, disks, items;
	/* depths of the elements that are open; 0: not in one */
	unsigned machine_depth, item_depth, os_depth, vbox_depth, snapshot_depth;
};

/* DSP0004's programmatic units ("byte * 2^20") and older words ("MegaBytes"); false when it is neither. */
bool hv_ovf_units(const char *text, uint64_t *unit);
int hv_ovf_build(struct hv_ovf *o);

#endif
