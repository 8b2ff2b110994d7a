/*
 * Inside core/disk: the policy on other files, shared by all images of a chain.
 */
#ifndef HV_DISK_CHAIN_H
#define HV_DISK_CHAIN_H

#include "disk/format.h"

struct hv_disk_policy {
	char *root; /* the folder of the image that the user named, resolved */
	int root_fd;
	struct hv_disk_options options;
	unsigned parents; /* opened so far, those that turned out wrong included */
	const struct hv_disk_file *image[HV_DISK_CHAIN_MAX]; /* the chain's, by depth */
};

/* path: the image that the user named. options are copied, what they point to is borrowed. */
int hv_disk_policy_new(const char *path, const struct hv_disk_options *options,
		       struct hv_disk_policy **policy, struct hv_error *err);
void hv_disk_policy_free(struct hv_disk_policy *p); /* NULL is fine */

/* Opens the file that d names as `name`, if it may. -ENOENT when there is none. */
int hv_disk_policy_open(const struct hv_disk *d, const char *name, bool writable, struct hv_disk_file **file,
			struct hv_error *err);

/* Is the path's extension one of that format's? */
bool hv_disk_name_agrees(const struct hv_disk_format *format, const char *path);

#endif
