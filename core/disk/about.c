/*
 * What a tool may tell of a format without opening an image.
 */
#include "disk/disk.h"
#include "disk/format.h"

bool hv_disk_about(const char *name, struct hv_disk_about *about)
{
	const struct hv_disk_format *f = hv_disk_format_named(name);

	if (!f)
		return false;
	*about = (struct hv_disk_about){
		.name = f->name,
		.extensions = f->extensions,
		.subformats = f->subformats,
		.creates = f->create != NULL,
	};
	return true;
}
