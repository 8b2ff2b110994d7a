/*
 * Opening: which format a file is, whether name and content agree, and the images that follow from it. What
 * an image may lead to is chain.c's to say.
 */
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "disk/chain.h"
#include "disk/disk_impl.h"

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
	for (unsigned i = 0; hv_disk_format_list[i]; i++) {
		int claim = 2 * hv_disk_format_list[i]->probe(&probe);

		if (claim && hv_disk_name_agrees(hv_disk_format_list[i], f->path))
			claim++;
		if (claim > best) {
			best = claim;
			*format = hv_disk_format_list[i];
		}
	}
	return 0;
}

/* A name that many give to disks of all formats: what was found by content is taken, and said. */
static bool is_ambiguous(const char *path)
{
	const char *dot = strrchr(hv_disk_base_name(path), '.');

	return dot && strcasecmp(dot, ".img") == 0;
}

/*
 * Name and content that speak of two formats. A name that promises one of which the content knows nothing is
 * that of a damaged image (a fixed VHD that lost its footer), and as a raw disk it would be another one. A
 * raw disk's name over another format's content is either a wrong name, or a raw disk whose guest wrote such
 * a header: the bytes of the two are not the same, and only the user knows.
 */
static int check_name(const struct hv_disk_file *f, const struct hv_disk_format *found, bool parent,
		      struct hv_error *err)
{
	const struct hv_disk_format *raw = &hv_disk_format_raw;

	for (unsigned i = 0; hv_disk_format_list[i] && found == raw; i++)
		if (hv_disk_format_list[i] != found && hv_disk_name_agrees(hv_disk_format_list[i], f->path))
			return hv_fail_unsafe(
				err,
				"%s: its name says %s, but nothing in it does: it is cut or damaged; say "
				"--format raw if it is a raw disk all the same",
				f->path, hv_disk_format_list[i]->name);
	if (found == raw || !hv_disk_name_agrees(raw, f->path) || (!parent && is_ambiguous(f->path)))
		return 0;
	if (parent)
		return hv_fail_unsafe(
			err,
			"%s: its name says raw, and its content %s, which a raw disk's guest can "
			"write, too, and its child doesn't say which; `qemu-img rebase -u -F %s` "
			"notes it there",
			f->path, found->name, found->name);
	return hv_fail_unsafe(
		err,
		"%s: its name says raw, and its content %s, which a raw disk's guest can write, "
		"too: say --format %s or --format raw",
		f->path, found->name, found->name);
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
	struct hv_disk_file *f = NULL;
	int rc = open_named(path, &options, &f, err);

	if (rc < 0 || !f)
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
	struct hv_disk *d = NULL;
	int rc = 0;

	if (!format)
		rc = probe_file(f, &format, err);
	if (rc == 0 && !told)
		rc = check_name(f, format, depth > 0, err);
	if (rc == 0)
		rc = hv_disk_new(format, f->path, options, &d, err);
	if (rc < 0 || !d) {
		hv_disk_file_free(f);
		return rc;
	}
	if (!told && format != &hv_disk_format_raw && is_ambiguous(f->path))
		hv_disk_note(d,
			     "by its content it is %s; a raw disk's guest can write such a header, too: say "
			     "--format raw "
			     "if it is a raw disk",
			     format->name);
	d->policy = policy;
	d->depth = depth;
	d->follow = told;
	policy->image[depth] = f;
	rc = hv_disk_add_file(d, f, NULL, err);
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
	for (unsigned i = 0; hv_disk_format_list[i]; i++) {
		if (!is_bundle(*path, hv_disk_format_list[i]->bundle, buf))
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
		return hv_disk_no_such_format(path, o->format, err);
	rc = open_named(path, o, &f, err);
	return rc < 0 || !f ? rc : open_first(f, path, format, o, disk, err);
}

int hv_disk_open_fd(int fd, const char *path, const struct hv_disk_options *options, struct hv_disk **disk,
		    struct hv_error *err)
{
	const struct hv_disk_format *format = NULL;
	struct hv_disk_file *f = NULL;
	int rc = 0;

	if (options->format && !(format = hv_disk_format_named(options->format)))
		rc = hv_disk_no_such_format(path, options->format, err);
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
	rc = hv_disk_add_file(d, f, index, err);
	if (rc < 0)
		hv_disk_file_free(f);
	return rc;
}

static bool same_file(const struct hv_disk_file *a, const struct hv_disk_file *b)
{
	return a->device == b->device && a->inode == b->inode && a->base == b->base;
}

/* A circle need not pass the first image of the chain. */
static int check_circle(const struct hv_disk *d, const struct hv_disk_file *f, struct hv_error *err)
{
	if (same_file(f, d->file[0]))
		return hv_fail_unsafe(err, "%s: its parent is the image itself", d->path);
	for (unsigned i = 0; i < d->depth; i++)
		if (same_file(f, d->policy->image[i]))
			return hv_fail_unsafe(err,
					      "%s: its parent is %s, which is its own child: the chain is a "
					      "circle of %u images",
					      d->path, d->policy->image[i]->path, d->depth + 1 - i);
	return 0;
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
	rc = check_circle(d, f, err);
	if (rc < 0) {
		hv_disk_file_free(f);
		return rc;
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
