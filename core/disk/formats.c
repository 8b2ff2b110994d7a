/*
 * The formats: which there are, and what may be told of one without opening an image.
 */
#include <strings.h>

#include "disk/disk_impl.h"

/* In the order in which they are tried: those with a mark at the start before VHD's, which stands at the end.
 */
const struct hv_disk_format *const hv_disk_format_list[] = {
	&hv_disk_format_qcow2,     &hv_disk_format_vhdx, &hv_disk_format_vmdk, &hv_disk_format_vdi,
	&hv_disk_format_parallels, &hv_disk_format_vhd,  &hv_disk_format_raw,  NULL,
};

/* Their names, for who sees no struct hv_disk_format. */
static const char *const format_names[] = {"qcow2", "vhdx", "vmdk", "vdi", "parallels", "vhd", "raw", NULL};

const char *const *hv_disk_formats(void)
{
	return format_names;
}

const struct hv_disk_format *hv_disk_format_named(const char *name)
{
	if (strcasecmp(name, "vpc") == 0)
		name = "vhd";
	for (unsigned i = 0; hv_disk_format_list[i]; i++)
		if (strcasecmp(hv_disk_format_list[i]->name, name) == 0)
			return hv_disk_format_list[i];
	return NULL;
}

int hv_disk_no_such_format(const char *path, const char *name, struct hv_error *err)
{
	return hv_fail_usage(
		err,
		"%s: no format is called \"%.40s\"; there are qcow2, vhdx, vmdk, vdi, parallels, vhd and raw",
		path, name);
}

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
