/*
 * From a drive of an appliance to its disk: opened like any image, and held against what the description and
 * its own name say of it.
 */
#include <string.h>
#include <strings.h>

#include "disk/appliance/appliance_impl.h"
#include "disk/format.h"

static int check_size(struct hv_appliance *a, const struct hv_appliance_drive *d, struct hv_disk *disk)
{
	uint64_t size = hv_disk_size(disk), unit = d->unit ? d->unit : 1;
	uint64_t apart = size > d->capacity ? size - d->capacity : d->capacity - size;

	if (d->capacity == 0 || apart < unit)
		return 0;
	return hv_appliance_note(a, "%s: the description says that this disk has %llu bytes; it has %llu",
				 d->file, (unsigned long long)d->capacity, (unsigned long long)size);
}

/* A member stands alone: what another file holds of it is not in the archive, or not found by its name. */
static int check_alone(const struct hv_appliance_drive *d, struct hv_disk *disk, struct hv_error *err)
{
	struct hv_disk_info info;

	hv_disk_info(disk, &info);
	if (info.files <= 1 && !info.has_parent)
		return 0;
	return hv_fail_unsafe(err,
			      "%s: %s is only a part of a disk (%s); a disk in an archive, or one that is "
			      "cut or compressed, has "
			      "to be whole",
			      d->path, d->file,
			      info.has_parent ? "it builds on another image" : "it names other files");
}

/* The format that a file's extension stands for; NULL for raw and for what no format has. */
static const char *format_called(const char *file)
{
	const char *dot = strrchr(hv_disk_base_name(file), '.');
	struct hv_disk_about about;

	for (const char *const *name = hv_disk_formats(); dot && *name; name++) {
		if (!strcmp(*name, "raw") || !hv_disk_about(*name, &about))
			continue;
		for (const char *const *e = about.extensions; e && *e; e++)
			if (!strcasecmp(dot + 1, *e))
				return about.name;
	}
	return NULL;
}

/* An image whose header is lost looks like a raw disk; its bytes are not the disk's. */
static int check_called(const struct hv_appliance_drive *d, struct hv_disk *disk, struct hv_error *err)
{
	const char *called = d->file ? format_called(d->file) : NULL;
	struct hv_disk_info info;

	hv_disk_info(disk, &info);
	if (!called || strcmp(info.format, "raw") != 0)
		return 0;
	return hv_fail_unsafe(err,
			      "%s: by its name %s is a %s image, and its content is none: it is damaged, or "
			      "something else",
			      d->path, d->file, called);
}

static int open_packed(struct hv_appliance *a, const struct hv_appliance_drive *drive,
		       const struct hv_disk_options *options, struct hv_disk **disk, struct hv_error *err)
{
	struct hv_disk_options o = *options;
	int fd, rc = hv_appliance_unpack(a, drive, &fd, err);

	o.at = o.length = 0;
	return rc ? rc : hv_disk_open_fd(fd, drive->path, &o, disk, err);
}

int hv_appliance_disk_open(struct hv_appliance *a, const struct hv_appliance_drive *drive,
			   const struct hv_disk_options *options, struct hv_disk **disk, struct hv_error *err)
{
	struct hv_disk_options o = {.external = a->options.external, .externals = a->options.externals};
	int rc;

	if (drive->trouble == HV_DRIVE_UNSUPPORTED)
		return hv_fail(err, ENOTSUP, "%s", drive->why);
	if (drive->trouble || !drive->path)
		return hv_fail_unsafe(err, "%s", drive->why ? drive->why : "this drive holds no disk");
	if (options) {
		o.format = options->format;
		o.salvage = options->salvage;
		o.raw_devices = options->raw_devices;
		o.alone = options->alone;
	}
	o.at = drive->at;
	o.length = drive->length;
	rc = drive->parts ? open_packed(a, drive, &o, disk, err) : hv_disk_open(drive->path, &o, disk, err);
	if (rc)
		return rc;
	rc = a->archive || drive->parts ? check_alone(drive, *disk, err) : 0;
	if (!rc && !o.format)
		rc = check_called(drive, *disk, err);
	if (!rc && check_size(a, drive, *disk))
		rc = hv_fail(err, ENOMEM, "%s: no memory for a note", a->path);
	if (rc) {
		hv_disk_close(*disk);
		*disk = NULL;
	}
	return rc;
}
