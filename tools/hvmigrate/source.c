/*
 * What is read: an image with its chain, or a disk on the network, by what the options allow.
 */
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "disk/nbd.h"
#include "hvmigrate.h"

bool hvm_is_uri(const char *name)
{
	return hv_disk_is_nbd(name);
}

struct hv_disk_options hvm_disk_options(const struct hvm_options *o, const char *format)
{
	return (struct hv_disk_options){
		.format = format,
		.salvage = o->salvage,
		.raw_devices = o->raw_devices,
		.external = o->external,
		.externals = o->externals,
		.timeout_ms = o->timeout_ms,
	};
}

static bool ends_in(const char *name, const char *const *extensions)
{
	const char *slash = strrchr(name, '/'), *dot = strrchr(slash ? slash : name, '.');

	for (; dot && *extensions; extensions++)
		if (!strcasecmp(dot + 1, *extensions))
			return true;
	return false;
}

/* What wraps disks would pass for a raw disk itself: its bytes are no disk's. */
static int check_wrapped(const char *name, struct hv_error *err)
{
	static const char *const machines[] = {"ova", "ovf", "vmx", "vmcx", NULL}, *const packed[] = {
											   "gz",  "xz",
											   "zst", "bz2",
											   "zip", "7z",
											   "tar", "tgz",
											   NULL};

	if (ends_in(name, machines))
		return hv_fail_usage(
			err,
			"%s: by its name this is a machine, not a disk; `hvmigrate import` takes it "
			"over, --format raw reads it as a disk all the same",
			name);
	if (ends_in(name, packed))
		return hv_fail_usage(
			err,
			"%s: by its name this is packed; unpack it first, --format raw reads it as a "
			"disk all the same",
			name);
	return 0;
}

int hvm_lock(const struct hvm_options *o, struct hv_disk *disk, struct hv_error *err)
{
	struct hv_error why;
	int rc = o->force_share ? 0 : hv_disk_lock(disk, &why);

	if (rc == -EBUSY && hv_disk_may_write(disk, NULL))
		return hv_fail(err, EBUSY,
			       "%s; --force-share reads it all the same, as it is at some moment or other",
			       why.text);
	if (rc)
		*err = why;
	return rc;
}

static int open_image(const struct hvm_options *o, const char *name, const struct hv_disk_options *options,
		      struct hv_disk **disk, struct hv_error *err)
{
	int rc = !options->format && check_wrapped(name, err) ? err->code
							      : hv_disk_open(name, options, disk, err);

	if (!rc)
		rc = hvm_lock(o, *disk, err);
	else
		*disk = NULL;
	if (rc) {
		hv_disk_close(*disk);
		*disk = NULL;
	}
	return rc;
}

int hvm_open(const struct hvm_options *o, const char *name, const struct hv_disk_options *options,
	     struct hv_disk **disk, struct hv_error *err)
{
	if (!hvm_is_uri(name))
		return open_image(o, name, options, disk, err);
	if (options->format && strcmp(options->format, "raw") != 0)
		return hv_fail_usage(err, "%s: what an NBD server gives is read as it is (raw), not as %s",
				     name, options->format);
	return hv_disk_open_nbd(name, options, disk, err);
}

void hvm_tell_notes(const struct hvm_options *o, const struct hv_disk *disk)
{
	struct hv_disk_info info;

	for (; disk && !o->json; disk = hv_disk_parent(disk)) {
		hv_disk_info(disk, &info);
		for (const char *const *n = info.notes; n && *n; n++)
			hvm_say(o, "note: %s", *n);
	}
}

const char *hvm_format_words(const struct hv_disk_info *info, char *buf, size_t size)
{
	snprintf(buf, size, "%s%s%s", info->format, info->subformat[0] ? " " : "", info->subformat);
	return buf;
}

bool hvm_is_part_of(const struct hv_disk *disk, const char *path)
{
	struct stat mine, theirs;
	struct hv_disk_info info;

	if (stat(path, &mine) < 0)
		return false;
	for (; disk; disk = hv_disk_parent(disk)) {
		hv_disk_info(disk, &info);
		for (unsigned i = 0; i < info.files; i++)
			if (stat(hv_disk_file_path(disk, i), &theirs) == 0 && mine.st_dev == theirs.st_dev &&
			    mine.st_ino == theirs.st_ino)
				return true;
	}
	return false;
}
