/*
 * Creating: an empty image under temporary names (output.c), and its commit.
 */
#include <string.h>
#include <strings.h>

#include "disk/disk_impl.h"
#include "disk/output.h"

static bool has_subformat(const struct hv_disk_format *format, const char *name)
{
	for (const char *const *s = format->subformats; s && *s; s++)
		if (strcasecmp(*s, name) == 0)
			return true;
	return false;
}

static int check_request(const char *path, const struct hv_disk_format *format,
			 const struct hv_disk_create *c, struct hv_error *err)
{
	if (!format->create)
		return hv_fail_usage(
			err, "%s: %s images can be read, not made; make raw, qcow2, vhd, vhdx or vmdk", path,
			format->name);
	if (c->subformat && !has_subformat(format, c->subformat))
		return hv_fail_usage(err, "%s: %s has no subformat \"%.40s\" that can be made", path,
				     format->name, c->subformat);
	if (c->size > HV_DISK_SIZE_MAX)
		return hv_fail_usage(err, "%s: a disk of %llu bytes can't be made", path,
				     (unsigned long long)c->size);
	if (c->sector_size && c->sector_size != 512 &&
	    !(c->sector_size == 4096 && strcmp(format->name, "vhdx") == 0))
		return hv_fail_usage(err, "%s: %s can't have sectors of %u bytes", path, format->name,
				     c->sector_size);
	return 0;
}

int hv_disk_add_output(struct hv_disk *d, const char *name, unsigned *index, struct hv_error *err)
{
	struct hv_disk_file *f;
	int rc = hv_output_add(d->output, name, &f, err);

	return rc < 0 ? rc : hv_disk_add_file(d, f, index, err);
}

int hv_disk_create_on(struct hv_output *output, const struct hv_disk_create *create, bool resume,
		      struct hv_disk **disk, struct hv_error *err)
{
	const char *path = hv_output_path(output);
	const struct hv_disk_format *format = hv_disk_format_named(create->format ? create->format : "raw");
	struct hv_disk_options options = {.writable = true};
	struct hv_disk *d = NULL;
	int rc = format ? check_request(path, format, create, err)
			: hv_disk_no_such_format(path, create->format, err);

	if (rc == 0 && resume && !format->resume)
		rc = hv_fail(err, ENOTSUP, "%s: a conversion to %s can't be resumed", path, format->name);
	if (rc == 0)
		rc = hv_disk_new(format, path, &options, &d, err);
	if (rc < 0 || !format || !d) {
		hv_output_free(output);
		return rc;
	}
	d->output = output;
	rc = hv_disk_add_file(d, hv_output_file(output, 0), NULL, err);
	if (rc == 0)
		rc = resume ? format->resume(d, create, err) : format->create(d, create, err);
	if (rc < 0) {
		hv_disk_close(d);
		return rc;
	}
	*disk = d;
	return 0;
}

int hv_disk_create(const char *path, const struct hv_disk_create *create, struct hv_disk **disk,
		   struct hv_error *err)
{
	struct hv_output *output;
	int rc = hv_output_begin(path, false, &output, err);

	return rc < 0 ? rc : hv_disk_create_on(output, create, false, disk, err);
}

int hv_disk_commit(struct hv_disk *d, struct hv_error *err)
{
	int rc = 0;

	if (!d->output)
		return hv_fail(err, EINVAL, "%s: not an image that is being created", d->path);
	if (d->format->finish)
		rc = d->format->finish(d, err);
	if (rc == 0)
		rc = hv_disk_flush(d, err);
	return rc < 0 ? rc : hv_output_commit(d->output, err);
}
