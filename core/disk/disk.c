/*
 * Disks: opening with the chain, the map over all its images, reading and writing along the map. What a
 * format says is checked here once more, for all formats: a run lies inside the disk and its data inside the
 * file.
 */
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "disk/chain.h"
#include "disk/output.h"

/* In the order in which they are tried; those with a mark at the start before VHD's, which stands at the end.
 */
static const struct hv_disk_format *const formats[] = {
	&hv_disk_format_qcow2,     &hv_disk_format_vhdx, &hv_disk_format_vmdk, &hv_disk_format_vdi,
	&hv_disk_format_parallels, &hv_disk_format_vhd,  &hv_disk_format_raw,
};

#define SEEK_WORTH (256U << 10)
#define STORED_MAX (64U << 20) /* of an encoded unit: formats allow far less */

static const char *const format_names[] = {"qcow2", "vhdx", "vmdk", "vdi", "parallels", "vhd", "raw", NULL};

const char *const *hv_disk_formats(void)
{
	return format_names;
}

const struct hv_disk_format *hv_disk_format_named(const char *name)
{
	if (strcasecmp(name, "vpc") == 0)
		name = "vhd";
	for (unsigned i = 0; i < HV_ARRAY_SIZE(formats); i++)
		if (strcasecmp(formats[i]->name, name) == 0)
			return formats[i];
	return NULL;
}

static int no_such_format(const char *path, const char *name, struct hv_error *err)
{
	return hv_fail_usage(
		err,
		"%s: no format is called \"%.40s\"; there are qcow2, vhdx, vmdk, vdi, parallels, vhd and raw",
		path, name);
}

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

/* --- opening ---------------------------------------------------------------------------------------------- */

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

static int add_file(struct hv_disk *d, struct hv_disk_file *f, unsigned *index, struct hv_error *err)
{
	struct hv_disk_file **more;

	if (d->files >= HV_DISK_FILES_MAX)
		return hv_fail_unsafe(err, "%s: more than %u files", d->path, HV_DISK_FILES_MAX);
	more = realloc(d->file, (d->files + 1) * sizeof(*more));
	if (!more)
		return hv_fail(err, ENOMEM, "%s: out of memory", d->path);
	d->file = more;
	d->file[d->files] = f;
	if (index)
		*index = d->files;
	d->files++;
	return 0;
}

static int read_probe(const struct hv_disk_file *f, struct hv_disk_probe *probe, uint8_t *head, uint8_t *tail,
		      struct hv_error *err)
{
	int64_t n = hv_disk_file_read_some(f, head, HV_PROBE_HEAD, 0, err);

	if (n < 0)
		return (int)n;
	*probe = (struct hv_disk_probe){.head = head, .head_length = (size_t)n, .size = hv_disk_file_size(f)};
	if (probe->size < 512)
		return 0;
	probe->tail = tail;
	return hv_disk_file_read(f, "last sector", tail, 512, probe->size - 512, err);
}

/*
 * The surest claim wins; of equals the one that the name agrees with (a fixed VHD's guest can write another
 * format's mark at the start of its disk), else the first. A weak claim is enough when nobody makes a better
 * one.
 */
static int probe_file(const struct hv_disk_file *f, const struct hv_disk_format **format,
		      struct hv_error *err)
{
	uint8_t head[HV_PROBE_HEAD], tail[512];
	struct hv_disk_probe probe;
	int rc = read_probe(f, &probe, head, tail, err), best = 0;

	if (rc < 0)
		return rc;
	*format = &hv_disk_format_raw;
	for (unsigned i = 0; i < HV_ARRAY_SIZE(formats); i++) {
		int claim = 2 * formats[i]->probe(&probe);

		if (claim && hv_disk_name_agrees(formats[i], f->path))
			claim++;
		if (claim > best) {
			best = claim;
			*format = formats[i];
		}
	}
	return 0;
}

/*
 * A file whose name promises a format that its content knows nothing of is a damaged image (a fixed VHD that
 * lost its footer), and as a raw disk it would be another one.
 */
static int check_name(const struct hv_disk_file *f, const struct hv_disk_format *found, struct hv_error *err)
{
	for (unsigned i = 0; i < HV_ARRAY_SIZE(formats) && found == &hv_disk_format_raw; i++)
		if (formats[i] != found && hv_disk_name_agrees(formats[i], f->path))
			return hv_fail_unsafe(
				err,
				"%s: its name says %s, but nothing in it does: it is cut or damaged; say "
				"--format raw if it is a raw disk all the same",
				f->path, formats[i]->name);
	return 0;
}

/* The file that the user named: symbolic links and devices are his own choice. */
static int open_named(const char *path, const struct hv_disk_options *o, struct hv_disk_file **file,
		      struct hv_error *err)
{
	int fd = open(path, (o->writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY), rc;

	if (fd < 0)
		return hv_fail_errno(err, "%s: can't be opened", path);
	rc = hv_disk_file_new(fd, path, o->at, o->length, file, err);
	if (rc < 0)
		close(fd);
	return rc;
}

int hv_disk_probe(const char *path, uint64_t at, uint64_t length, const char **format, struct hv_error *err)
{
	struct hv_disk_options options = {.at = at, .length = length};
	const struct hv_disk_format *found;
	struct hv_disk_file *f;
	int rc = open_named(path, &options, &f, err);

	if (rc < 0)
		return rc;
	rc = probe_file(f, &found, err);
	hv_disk_file_free(f);
	if (rc == 0)
		*format = found->name;
	return rc;
}

/* What every opened image must be, whatever its format has made of the file. */
static int check_shape(const struct hv_disk *d, struct hv_error *err)
{
	if (d->size > HV_DISK_SIZE_MAX)
		return hv_fail_unsafe(err, "%s: a disk of %llu bytes can't be", d->path,
				      (unsigned long long)d->size);
	if (d->sector_size != 512 && d->sector_size != 4096)
		return hv_fail_unsafe(err, "%s: sectors of %u bytes; 512 or 4096 are known", d->path,
				      d->sector_size);
	return 0;
}

/* Opens one image over its file, which it owns from here on, also on failure. The format opens its parent. */
static int open_layer(struct hv_disk_file *f, const struct hv_disk_format *format, bool told,
		      const struct hv_disk_options *options, struct hv_disk_policy *policy, unsigned depth,
		      struct hv_disk **disk, struct hv_error *err)
{
	struct hv_disk *d;
	int rc = 0;

	if (!format)
		rc = probe_file(f, &format, err);
	if (rc == 0 && !told)
		rc = check_name(f, format, err);
	if (rc == 0)
		rc = hv_disk_new(format, f->path, options, &d, err);
	if (rc < 0) {
		hv_disk_file_free(f);
		return rc;
	}
	d->policy = policy;
	d->depth = depth;
	d->follow = told;
	rc = add_file(d, f, NULL, err);
	if (rc < 0)
		hv_disk_file_free(f);
	if (rc == 0)
		rc = format->open(d, err);
	if (rc == 0)
		rc = check_shape(d, err);
	if (rc < 0) {
		d->policy = NULL; /* the caller's still */
		hv_disk_close(d);
		return rc;
	}
	*disk = d;
	return 0;
}

/* The file of that name in a folder, if it is there. */
static bool is_bundle(const char *folder, const char *name, char path[static PATH_MAX])
{
	struct stat st;

	return name && (size_t)snprintf(path, PATH_MAX, "%s/%s", folder, name) < PATH_MAX &&
	       stat(path, &st) == 0;
}

/* An image that is a folder: *path becomes the file in it that stands for all, in buf. */
static int enter_bundle(const char **path, char buf[static PATH_MAX], struct hv_error *err)
{
	struct stat st;

	if (stat(*path, &st) < 0 || !S_ISDIR(st.st_mode))
		return 0;
	for (unsigned i = 0; i < HV_ARRAY_SIZE(formats); i++) {
		if (!is_bundle(*path, formats[i]->bundle, buf))
			continue;
		*path = buf;
		return 0;
	}
	return hv_fail(err, EISDIR,
		       "%s: this is a folder; an image is a file, or a folder with a DiskDescriptor.xml",
		       *path);
}

/* The first image of a chain, over its file, which it takes over, also on failure. */
static int open_first(struct hv_disk_file *f, const char *path, const struct hv_disk_format *format,
		      const struct hv_disk_options *o, struct hv_disk **disk, struct hv_error *err)
{
	struct hv_disk_policy *policy;
	int rc = hv_disk_policy_new(path, o, &policy, err);

	if (rc < 0) {
		hv_disk_file_free(f);
		return rc;
	}
	rc = open_layer(f, format, format != NULL, o, policy, 0, disk, err);
	if (rc < 0)
		hv_disk_policy_free(policy);
	return rc;
}

int hv_disk_open(const char *path, const struct hv_disk_options *options, struct hv_disk **disk,
		 struct hv_error *err)
{
	static const struct hv_disk_options none = {0};
	const struct hv_disk_options *o = options ? options : &none;
	const struct hv_disk_format *format = NULL;
	struct hv_disk_file *f = NULL;
	char inner[PATH_MAX];
	int rc = enter_bundle(&path, inner, err);

	if (rc < 0)
		return rc;
	if (o->format && !(format = hv_disk_format_named(o->format)))
		return no_such_format(path, o->format, err);
	rc = open_named(path, o, &f, err);
	return rc < 0 ? rc : open_first(f, path, format, o, disk, err);
}

int hv_disk_open_fd(int fd, const char *path, const struct hv_disk_options *options, struct hv_disk **disk,
		    struct hv_error *err)
{
	const struct hv_disk_format *format = NULL;
	struct hv_disk_file *f = NULL;
	int rc = 0;

	if (options->format && !(format = hv_disk_format_named(options->format)))
		rc = no_such_format(path, options->format, err);
	if (rc == 0)
		rc = hv_disk_file_new(fd, path, options->at, options->length, &f, err);
	if (rc < 0 || !f) {
		close(fd);
		return rc;
	}
	f->writable = f->writable && options->writable;
	return open_first(f, path, format, options, disk, err);
}

int hv_disk_open_extent(struct hv_disk *d, const char *name, bool writable, unsigned *index,
			struct hv_error *err)
{
	struct hv_disk_file *f;
	int rc;

	if (!d->policy)
		return hv_fail(err, EINVAL, "%s: an image that is being created has no extents to open",
			       d->path);
	rc = hv_disk_policy_open(d, name, writable && d->writable, &f, err);
	if (rc < 0)
		return rc;
	rc = add_file(d, f, index, err);
	if (rc < 0)
		hv_disk_file_free(f);
	return rc;
}

static bool same_file(const struct hv_disk_file *a, const struct hv_disk_file *b)
{
	return a->device == b->device && a->inode == b->inode && a->base == b->base;
}

int hv_disk_open_parent(struct hv_disk *d, const char *name, const char *format, struct hv_error *err)
{
	struct hv_disk_options options = d->options;
	const struct hv_disk_format *known = NULL;
	struct hv_disk_file *f;
	int rc;

	d->has_parent = true;
	if (d->options.alone)
		return 0;
	if (!d->policy)
		return hv_fail(err, EINVAL, "%s: an image that is being created has no parent to open",
			       d->path);
	if (d->depth + 1 >= HV_DISK_CHAIN_MAX)
		return hv_fail_unsafe(err, "%s: more than %u images in a chain", d->path, HV_DISK_CHAIN_MAX);
	/* A format tries several names, each image of the chain anew: hostile ones would go on for ever. */
	if (++d->policy->parents > HV_DISK_PARENTS_MAX)
		return hv_fail_unsafe(err, "%s: more than %u parents were tried along the chain", d->path,
				      HV_DISK_PARENTS_MAX);
	if (format && !(known = hv_disk_format_named(format)))
		return hv_fail_unsafe(
			err,
			"%s: its parent \"%.100s\" is said to be of the format \"%.40s\", which is not known",
			d->path, name, format);
	rc = hv_disk_policy_open(d, name, false, &f, err);
	if (rc < 0)
		return rc;
	/* A circle need not pass the first image; the depth's limit ends those that this child can't see. */
	if (same_file(f, d->file[0])) {
		hv_disk_file_free(f);
		return hv_fail_unsafe(err, "%s: its parent is the image itself", d->path);
	}
	options.format = NULL;
	options.writable = options.replay_log = false;
	options.at = options.length = 0;
	return open_layer(f, known, known != NULL, &options, d->policy, d->depth + 1, &d->parent, err);
}

void hv_disk_drop_parent(struct hv_disk *d)
{
	hv_disk_close(d->parent);
	d->parent = NULL;
}

/* --- the map ---------------------------------------------------------------------------------------------- */

static int bad_run(const struct hv_disk *d, uint64_t offset, const struct hv_run *run, struct hv_error *err)
{
	return hv_fail_unsafe(
		err,
		"%s: the data of the disk's offset %llu would be at offset %llu of the file, which ends at "
		"%llu",
		d->path, (unsigned long long)offset, (unsigned long long)run->at,
		(unsigned long long)hv_disk_file_size(d->file[run->file < d->files ? run->file : 0]));
}

/*
 * A block of many pages may have been written in parts: what is a hole of the file reads as zeros, and so it
 * needs no reading. Small runs aren't worth the question.
 */
static int see_file_holes(const struct hv_disk *d, struct hv_run *run, struct hv_error *err)
{
	uint64_t end;
	bool data;
	int rc;

	if (run->length < SEEK_WORTH || d->format == &hv_disk_format_raw)
		return 0;
	rc = hv_disk_file_seek(d->file[run->file], run->at, &data, &end, err);
	if (rc < 0)
		return rc;
	if (end - run->at < run->length)
		run->length = end - run->at;
	if (!data) {
		run->kind = HV_RUN_ZERO;
		run->fresh = true;
	}
	return 0;
}

int hv_disk_map_layer(struct hv_disk *d, uint64_t offset, uint64_t length, struct hv_run *run,
		      struct hv_error *err)
{
	int rc;

	if (length > d->size - offset)
		length = d->size - offset;
	*run = (struct hv_run){0};
	rc = d->format->map(d, offset, length, run, err);
	if (rc < 0)
		return rc;
	if (run->offset != offset || run->length == 0)
		return hv_fail(err, EIO, "%s: the map has no answer for offset %llu", d->path,
			       (unsigned long long)offset);
	if (run->length > length)
		run->length = length;
	run->layer = d;
	run->depth = d->depth;
	if (run->kind != HV_RUN_DATA || run->stored == HV_STORED_CALL)
		return 0;
	if (run->file >= d->files)
		return bad_run(d, offset, run, err);
	if (run->stored == HV_STORED_ENCODED) {
		if (run->at >= hv_disk_file_size(d->file[run->file]) || run->stored_length > STORED_MAX ||
		    !run->stored_length || run->unit > offset ||
		    !hv_inside(offset - run->unit, run->length, run->unit_length))
			return bad_run(d, offset, run, err);
		return 0;
	}
	/* Cut short at the file's end: what is there can be read, the rest is asked for again and refused. */
	if (run->at >= hv_disk_file_size(d->file[run->file]))
		return bad_run(d, offset, run, err);
	if (run->length > hv_disk_file_size(d->file[run->file]) - run->at)
		run->length = hv_disk_file_size(d->file[run->file]) - run->at;
	return see_file_holes(d, run, err);
}

static int map_chain(struct hv_disk *layer, uint64_t offset, uint64_t length, struct hv_run *run,
		     struct hv_error *err)
{
	for (; layer; layer = layer->parent) {
		int rc;

		/* A parent may be shorter than its child: behind its end there is nothing. */
		if (offset >= layer->size)
			break;
		rc = hv_disk_map_layer(layer, offset, length, run, err);
		if (rc < 0 || run->kind != HV_RUN_HOLE)
			return rc;
		/* The child's hole, cut by a short parent, goes on behind it: the next call sees that. */
		length = run->length;
	}
	*run = (struct hv_run){.offset = offset, .length = length, .kind = HV_RUN_HOLE};
	return 0;
}

int hv_disk_map(struct hv_disk *d, uint64_t offset, uint64_t length, struct hv_run *run, struct hv_error *err)
{
	if (offset >= d->size || length == 0)
		return hv_fail(err, EINVAL, "%s: offset %llu is not on the disk of %llu bytes", d->path,
			       (unsigned long long)offset, (unsigned long long)d->size);
	return map_chain(d, offset, length, run, err);
}

/* --- reading ---------------------------------------------------------------------------------------------- */

static int grow(uint8_t **buf, size_t *size, size_t want)
{
	uint8_t *more;

	if (*size >= want)
		return 0;
	more = realloc(*buf, want);
	if (!more)
		return -ENOMEM;
	*buf = more;
	*size = want;
	return 0;
}

int hv_disk_read_unit(struct hv_disk_io *io, const struct hv_run *run, uint8_t *out, struct hv_error *err)
{
	struct hv_disk *d = run->layer;
	size_t used;
	int64_t n;

	if (grow(&io->stored, &io->stored_size, run->stored_length) < 0)
		return hv_fail(err, ENOMEM, "%s: out of memory", d->path);
	n = hv_disk_file_read_some(d->file[run->file], io->stored, run->stored_length, run->at, err);
	if (n < 0)
		return (int)n;
	return d->format->decode(d, io, run, io->stored, (size_t)n, out, &used, err);
}

/* A part of an encoded unit; the whole is kept, as the next read mostly wants the next part. */
static int read_encoded(struct hv_disk_io *io, const struct hv_run *run, void *buf, struct hv_error *err)
{
	int rc;

	if (run->offset == run->unit && run->length == run->unit_length)
		return hv_disk_read_unit(io, run, buf, err);
	if (io->unit_disk != run->layer->id || io->unit_offset != run->unit) {
		io->unit_disk = 0;
		if (grow(&io->unit, &io->unit_size, run->unit_length) < 0)
			return hv_fail(err, ENOMEM, "%s: out of memory", run->layer->path);
		rc = hv_disk_read_unit(io, run, io->unit, err);
		if (rc < 0)
			return rc;
		io->unit_disk = run->layer->id;
		io->unit_offset = run->unit;
	}
	memcpy(buf, io->unit + (run->offset - run->unit), run->length);
	return 0;
}

static int read_run(struct hv_disk_io *io, const struct hv_run *run, void *buf, struct hv_error *err)
{
	struct hv_disk *d = run->layer;

	if (run->kind != HV_RUN_DATA) {
		memset(buf, 0, run->length);
		return 0;
	}
	switch (run->stored) {
	case HV_STORED_ENCODED:
		return read_encoded(io, run, buf, err);
	case HV_STORED_CALL:
		return d->format->read(d, buf, run->length, run->offset, err);
	case HV_STORED_PLAIN:
		break;
	}
	return hv_disk_file_read(d->file[run->file], "data", buf, run->length, run->at, err);
}

static int outside(const struct hv_disk *d, uint64_t offset, uint64_t length, struct hv_error *err)
{
	return hv_fail(err, EINVAL, "%s: %llu bytes at offset %llu are not all on the disk of %llu bytes",
		       d->path, (unsigned long long)length, (unsigned long long)offset,
		       (unsigned long long)d->size);
}

int hv_disk_read(struct hv_disk *d, struct hv_disk_io *io, void *buf, size_t length, uint64_t offset,
		 struct hv_error *err)
{
	uint8_t *to = buf;

	if (!hv_inside(offset, length, d->size))
		return outside(d, offset, length, err);
	while (length) {
		struct hv_run run;
		int rc = map_chain(d, offset, length, &run, err);

		if (rc == 0)
			rc = read_run(io, &run, to, err);
		if (rc < 0)
			return rc;
		to += run.length;
		offset += run.length;
		length -= run.length;
	}
	return 0;
}

/* --- writing ---------------------------------------------------------------------------------------------- */

static int may_write(const struct hv_disk *d, struct hv_error *err)
{
	if (!d->writable)
		return hv_fail(err, EROFS, "%s: opened for reading only", d->path);
	if (!d->format->write && !d->format->place)
		return hv_fail(err, ENOTSUP,
			       "%s: %s images can't be written in place; convert it to raw, qcow2, vhd or "
			       "vhdx first",
			       d->path, d->format->name);
	return 0;
}

/* What a format has to do before an image that was there before is changed for the first time. */
static int begin_write(struct hv_disk *d, struct hv_error *err)
{
	int rc = 0;

	if (!d->format->begin_write || __atomic_load_n(&d->begun, __ATOMIC_ACQUIRE))
		return 0;
	pthread_mutex_lock(&d->lock);
	if (!d->begun)
		rc = d->format->begin_write(d, err);
	if (rc == 0)
		__atomic_store_n(&d->begun, true, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&d->lock);
	return rc;
}

/* Brings what the chain holds of [offset, end) to `at` in the file; fresh room needs no zeros. */
static int fill(struct hv_disk *d, struct hv_disk_io *io, uint64_t offset, uint64_t end,
		const struct hv_run *room, struct hv_error *err)
{
	static const uint8_t zeros[64 << 10];
	uint8_t *buf = NULL;
	int rc = 0;

	while (rc == 0 && offset < end) {
		uint64_t want = end - offset < sizeof(zeros) ? end - offset : sizeof(zeros);
		struct hv_run run;

		rc = map_chain(d, offset, end - offset, &run, err);
		if (rc < 0)
			break;
		if (run.kind != HV_RUN_DATA && room->fresh) {
			offset += run.length;
			continue;
		}
		if (run.length > want)
			run.length = want;
		if (run.kind == HV_RUN_DATA && !buf && !(buf = malloc(sizeof(zeros)))) {
			rc = hv_fail(err, ENOMEM, "%s: out of memory", d->path);
			break;
		}
		if (run.kind == HV_RUN_DATA)
			rc = read_run(io, &run, buf, err);
		if (rc == 0)
			rc = hv_disk_file_write(d->file[room->file], run.kind == HV_RUN_DATA ? buf : zeros,
						run.length, room->at + (offset - room->offset), err);
		offset += run.length;
	}
	free(buf);
	return rc;
}

/*
 * Writes the start of [offset, offset + length) into blocks that the image doesn't hold yet: room, the old
 * bytes around the new ones, the new ones, and then the table. *done tells how far it came.
 */
static int write_new(struct hv_disk *d, struct hv_disk_io *io, const void *buf, size_t length,
		     uint64_t offset, size_t *done, struct hv_error *err)
{
	struct hv_run room = {0};
	uint64_t end;
	int rc = d->format->place(d, offset, length, &room, err);

	if (rc < 0)
		return rc;
	end = room.offset + room.length;
	if (end > offset + length)
		end = offset + length;
	rc = fill(d, io, room.offset, offset, &room, err);
	if (rc == 0)
		rc = hv_disk_file_write(d->file[room.file], buf, (size_t)(end - offset),
					room.at + (offset - room.offset), err);
	if (rc == 0)
		rc = fill(d, io, end, room.offset + room.length, &room, err);
	if (rc == 0)
		rc = d->format->commit(d, &room, err);
	*done = (size_t)(end - offset);
	return rc;
}

static bool is_in_place(const struct hv_run *run)
{
	return (run->kind == HV_RUN_DATA || run->fresh) && run->stored == HV_STORED_PLAIN;
}

/* One run: as long as it is in place, or as long as it isn't. */
static int write_run(struct hv_disk *d, struct hv_disk_io *io, const void *buf, size_t length,
		     uint64_t offset, size_t *done, struct hv_error *err)
{
	struct hv_run run;
	int rc = hv_disk_map_layer(d, offset, length, &run, err);

	if (rc < 0)
		return rc;
	if (!is_in_place(&run)) {
		pthread_mutex_lock(&d->lock);
		rc = hv_disk_map_layer(d, offset, length, &run, err);
		if (rc == 0 && !is_in_place(&run))
			rc = write_new(d, io, buf, (size_t)run.length, offset, done, err);
		pthread_mutex_unlock(&d->lock);
		if (rc < 0 || !is_in_place(&run))
			return rc;
	}
	*done = (size_t)run.length;
	return hv_disk_file_write(d->file[run.file], buf, (size_t)run.length, run.at, err);
}

int hv_disk_write(struct hv_disk *d, struct hv_disk_io *io, const void *buf, size_t length, uint64_t offset,
		  struct hv_error *err)
{
	const uint8_t *from = buf;
	int rc = may_write(d, err);

	if (rc < 0)
		return rc;
	if (!hv_inside(offset, length, d->size))
		return outside(d, offset, length, err);
	if (d->format->write)
		return d->format->write(d, buf, length, offset, err);
	rc = begin_write(d, err);
	while (rc == 0 && length) {
		size_t done = 0;

		rc = write_run(d, io, from, length, offset, &done, err);
		from += done;
		offset += done;
		length -= done;
	}
	return rc;
}

/* Zeros written as bytes, where they aren't zeros already. */
static int zero_by_writing(struct hv_disk *d, struct hv_disk_io *io, uint64_t offset, uint64_t length,
			   struct hv_error *err)
{
	static const uint8_t zeros[64 << 10];
	int rc = 0;

	while (rc == 0 && length) {
		struct hv_run run;

		rc = map_chain(d, offset, length, &run, err);
		if (rc < 0)
			break;
		if (run.kind == HV_RUN_DATA) {
			if (run.length > sizeof(zeros))
				run.length = sizeof(zeros);
			rc = hv_disk_write(d, io, zeros, (size_t)run.length, offset, err);
		}
		offset += run.length;
		length -= run.length;
	}
	return rc;
}

int hv_disk_zero(struct hv_disk *d, struct hv_disk_io *io, uint64_t offset, uint64_t length,
		 struct hv_error *err)
{
	uint64_t unit = d->block_size ? d->block_size : 1, head, body;
	int rc = may_write(d, err);

	if (rc < 0)
		return rc;
	if (!hv_inside(offset, length, d->size))
		return outside(d, offset, length, err);
	if (!d->format->zero)
		return zero_by_writing(d, io, offset, length, err);
	rc = begin_write(d, err);
	if (rc < 0)
		return rc;
	head = offset % unit ? unit - offset % unit : 0;
	if (head > length)
		head = length;
	body = length - head;
	if (offset + length != d->size)
		body -= body % unit;
	if (head && (rc = zero_by_writing(d, io, offset, head, err)) < 0)
		return rc;
	if (body) {
		pthread_mutex_lock(&d->lock);
		rc = d->format->zero(d, offset + head, body, err);
		pthread_mutex_unlock(&d->lock);
	}
	if (rc == 0 && head + body < length)
		rc = zero_by_writing(d, io, offset + head + body, length - head - body, err);
	return rc;
}

/* Data first, then the tables that lead to it. */
int hv_disk_flush(struct hv_disk *d, struct hv_error *err)
{
	int rc = 0;

	if (!d->writable)
		return 0;
	for (unsigned i = 0; i < d->files && rc == 0; i++)
		if (d->file[i]->writable)
			rc = hv_disk_file_sync(d->file[i], err);
	if (rc < 0 || !d->format->flush)
		return rc;
	pthread_mutex_lock(&d->lock);
	rc = d->format->flush(d, err);
	pthread_mutex_unlock(&d->lock);
	for (unsigned i = 0; i < d->files && rc == 0; i++)
		if (d->file[i]->writable)
			rc = hv_disk_file_sync(d->file[i], err);
	return rc;
}

/* --- creating --------------------------------------------------------------------------------------------- */

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

	return rc < 0 ? rc : add_file(d, f, index, err);
}

int hv_disk_create_on(struct hv_output *output, const struct hv_disk_create *create, bool resume,
		      struct hv_disk **disk, struct hv_error *err)
{
	const char *path = hv_output_path(output);
	const struct hv_disk_format *format = hv_disk_format_named(create->format ? create->format : "raw");
	struct hv_disk_options options = {.writable = true};
	struct hv_disk *d;
	int rc =
		format ? check_request(path, format, create, err) : no_such_format(path, create->format, err);

	if (rc == 0 && resume && !format->resume)
		rc = hv_fail(err, ENOTSUP, "%s: a conversion to %s can't be resumed", path, format->name);
	if (rc == 0)
		rc = hv_disk_new(format, path, &options, &d, err);
	if (rc < 0) {
		hv_output_free(output);
		return rc;
	}
	d->output = output;
	rc = add_file(d, hv_output_file(output, 0), NULL, err);
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
