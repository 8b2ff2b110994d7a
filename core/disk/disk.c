/*
 * One open disk: what it is made of, what it says of itself, and its end. How it is opened, mapped, written
 * and made stands in open.c, map.c, write.c and create.c.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "disk/chain.h"
#include "disk/disk_impl.h"
#include "disk/output.h"

void hv_disk_random(void *buf, size_t length)
{
	uint8_t *at = buf;

	while (length) {
		ssize_t n = getrandom(at, length, 0);

		if (n > 0) {
			at += n;
			length -= (size_t)n;
		}
	}
}
/* --- made and ended --------------------------------------------------------------------------------------- */

int hv_disk_new(const struct hv_disk_format *format, const char *path, const struct hv_disk_options *options,
		struct hv_disk **disk, struct hv_error *err)
{
	static const struct hv_disk_options none = {0};
	struct hv_disk *d = calloc(1, sizeof(*d));

	if (d)
		d->path = strdup(path);
	if (!d || !d->path) {
		free(d);
		return hv_fail(err, ENOMEM, "%s: out of memory", path);
	}
	d->format = format;
	d->options = options ? *options : none;
	d->writable = d->options.writable;
	d->salvage = d->options.salvage;
	d->sector_size = 512;
	hv_disk_random(&d->id, sizeof(d->id));
	d->id |= 1;
	pthread_mutex_init(&d->lock, NULL);
	*disk = d;
	return 0;
}

static void free_one(struct hv_disk *d)
{
	d->format->close(d);
	for (unsigned i = 0; i < d->files && !d->output; i++)
		hv_disk_file_free(d->file[i]);
	hv_output_free(d->output);
	for (unsigned i = 0; i < d->property_count; i++)
		free((void *)d->properties[i].value);
	for (unsigned i = 0; i < d->note_count; i++)
		free(d->notes[i]);
	free(d->properties);
	free(d->notes);
	free(d->file);
	free(d->path);
	if (d->depth == 0)
		hv_disk_policy_free(d->policy);
	pthread_mutex_destroy(&d->lock);
	free(d);
}

void hv_disk_close(struct hv_disk *d)
{
	while (d) {
		struct hv_disk *parent = d->parent;

		/* Only the first image owns the policy; its parents' are gone through after it, and don't use
		 * it. */
		free_one(d);
		d = parent;
	}
}

int hv_disk_add_file(struct hv_disk *d, struct hv_disk_file *f, unsigned *index, struct hv_error *err)
{
	struct hv_disk_file **more;

	if (d->files >= HV_DISK_FILES_MAX)
		return hv_fail_unsafe(err, "%s: more than %u files", d->path, HV_DISK_FILES_MAX);
	more = reallocarray(d->file, d->files + 1, sizeof(void *));
	if (!more)
		return hv_fail(err, ENOMEM, "%s: out of memory", d->path);
	d->file = more;
	d->file[d->files] = f;
	if (index)
		*index = d->files;
	d->files++;
	return 0;
}

/* --- what an image says of itself ------------------------------------------------------------------------- */

int hv_disk_property(struct hv_disk *d, const char *key, const char *fmt, ...)
{
	struct hv_disk_property *more = realloc(d->properties, (d->property_count + 2) * sizeof(*more));
	char *value;
	va_list ap;
	int n;

	if (!more)
		return -ENOMEM;
	d->properties = more;
	va_start(ap, fmt);
	n = vasprintf(&value, fmt, ap);
	va_end(ap);
	if (n < 0)
		return -ENOMEM;
	more[d->property_count++] = (struct hv_disk_property){key, value};
	more[d->property_count] = (struct hv_disk_property){NULL, NULL};
	return 0;
}

int hv_disk_note(struct hv_disk *d, const char *fmt, ...)
{
	char **more = realloc(d->notes, (d->note_count + 2) * sizeof(*more));
	va_list ap;
	int n;

	if (!more)
		return -ENOMEM;
	d->notes = more;
	va_start(ap, fmt);
	n = vasprintf(&more[d->note_count], fmt, ap);
	va_end(ap);
	more[d->note_count + (n >= 0)] = NULL;
	if (n < 0)
		return -ENOMEM;
	d->note_count++;
	return 0;
}

void hv_disk_info(const struct hv_disk *d, struct hv_disk_info *info)
{
	static const struct hv_disk_property no_property = {NULL, NULL};
	static const char *const no_note = NULL;

	*info = (struct hv_disk_info){
		.path = d->path,
		.format = d->format->name,
		.subformat = d->subformat,
		.size = d->size,
		.sector_size = d->sector_size,
		.physical_sector_size = d->physical_sector_size,
		.block_size = d->block_size,
		.cylinders = d->cylinders,
		.heads = d->heads,
		.sectors = d->sectors,
		.files = d->files,
		.has_parent = d->has_parent,
		.properties = d->properties ? d->properties : &no_property,
		.notes = d->notes ? (const char *const *)d->notes : &no_note,
	};
	for (unsigned i = 0; i < d->files; i++) {
		struct stat st;

		info->file_size += hv_disk_file_size(d->file[i]);
		if (fstat(d->file[i]->fd, &st) == 0 && S_ISREG(st.st_mode))
			info->allocated += (uint64_t)st.st_blocks * 512;
	}
}

struct hv_disk *hv_disk_parent(const struct hv_disk *d)
{
	return d->parent;
}

uint64_t hv_disk_size(const struct hv_disk *d)
{
	return d->size;
}

const char *hv_disk_file_path(const struct hv_disk *d, unsigned file)
{
	return file < d->files ? d->file[file]->path : NULL;
}

int hv_disk_unchanged(const struct hv_disk *d, struct hv_error *err)
{
	int rc = 0;

	for (; d && rc == 0; d = d->parent)
		for (unsigned i = 0; i < d->files && rc == 0; i++)
			rc = hv_disk_file_unchanged(d->file[i], err);
	return rc;
}

/* --- checking --------------------------------------------------------------------------------------------- */

void hv_disk_found(struct hv_disk_check *check, enum hv_check_severity severity, const char *fmt, ...)
{
	uint64_t told = check->errors + check->leaks + check->notes;
	char text[512];
	va_list ap;

	*(severity == HV_CHECK_ERROR  ? &check->errors
	  : severity == HV_CHECK_LEAK ? &check->leaks
				      : &check->notes) += 1;
	if (!check->found || told >= HV_CHECK_TOLD_MAX)
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	check->found(check->ctx, severity, text);
}

int hv_disk_check(struct hv_disk *d, struct hv_disk_check *check, struct hv_error *err)
{
	if (!d->format->check)
		return hv_fail(err, ENOTSUP, "%s: %s has nothing that could be checked", d->path,
			       d->format->name);
	return d->format->check(d, check, err);
}
