/*
 * Output files: see output.h. The folder is held open from the start, so that a rename or an unlink needs no
 * path but the names in it. This file calls nothing but base.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "disk/disk.h"
#include "disk/output.h"

#define SUFFIX ".partial"

struct part {
	struct hv_disk_file file;
	char *name, *temp; /* inside the folder */
	bool there;        /* under its temporary name */
};

struct hv_output {
	int dir;
	char *path, *folder; /* as given; the folder with its slash, or "" */
	bool resume, keep, no_replace;
	struct hv_output_mark *expected; /* owned; NULL: nothing is */
	unsigned expected_count;
	unsigned count;
	struct part *part[HV_DISK_FILES_MAX];
};

/* Renaming replaces whatever has the name: a device or a folder stays what it is, a link is left to its
 * owner. */
static int check_target(const struct hv_output *o, const char *name, struct hv_error *err)
{
	struct stat st;

	if (fstatat(o->dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : hv_fail_errno(err, "%s%s: cannot look at it", o->folder, name);
	if (S_ISLNK(st.st_mode))
		return hv_fail(err, ELOOP, "%s%s: is a symbolic link; give the name of the file itself",
			       o->folder, name);
	if (!S_ISREG(st.st_mode))
		return hv_fail(err, EINVAL, "%s%s: exists and is not a regular file; give another name",
			       o->folder, name);
	return 0;
}

/*
 * Opens the partial file and locks it. Between the two, its last owner may have finished and renamed it: what
 * was locked must still have the name, or it is looked up again.
 */
static int open_partial(struct hv_output *o, struct part *p, struct hv_error *err)
{
	int flags = O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | (o->resume ? 0 : O_CREAT);
	struct stat st, named;

	for (int tries = 0; tries < 16; tries++) {
		p->file.fd = openat(o->dir, p->temp, flags, 0666);
		if (p->file.fd < 0)
			return hv_fail_errno(err, "%s: cannot write there", p->file.path);
		if (flock(p->file.fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK)
			return hv_fail(err, EBUSY,
				       "%s: another process is writing it; wait for it or give another name",
				       p->file.path);
		if (fstat(p->file.fd, &st) == 0 &&
		    fstatat(o->dir, p->temp, &named, AT_SYMLINK_NOFOLLOW) == 0 && st.st_dev == named.st_dev &&
		    st.st_ino == named.st_ino) {
			p->file.device = st.st_dev;
			p->file.inode = st.st_ino;
			p->file.size = (uint64_t)st.st_size;
			if (S_ISREG(st.st_mode) && st.st_nlink == 1)
				return 0;
			return hv_fail(
				err, EINVAL,
				"%s: is in the way and no file of ours; remove it or give another name",
				p->file.path);
		}
		close(p->file.fd);
		p->file.fd = -1;
	}
	return hv_fail(err, EBUSY, "%s: another process keeps replacing it", p->file.path);
}

/* What stands behind the checkpoint's end was written after it: it is written again. */
static int cut_part(struct hv_output *o, struct part *p, unsigned index, struct hv_error *err)
{
	const struct hv_output_mark *m = &o->expected[index];

	if (index >= o->expected_count || p->file.device != m->device || p->file.inode != m->inode ||
	    p->file.size < m->length)
		return hv_fail(err, ESTALE, "%s: is not the file that the journal beside it speaks of",
			       p->file.path);
	if (ftruncate(p->file.fd, (off_t)m->length) < 0)
		return hv_fail_errno(err, "%s: cannot be cut to %llu bytes", p->file.path,
				     (unsigned long long)m->length);
	p->file.size = m->length;
	return 0;
}

static int begin_part(struct hv_output *o, struct part *p, const char *name, struct hv_error *err)
{
	int rc;

	p->file.fd = -1;
	p->file.writable = true;
	p->name = strdup(name);
	if (!p->name || asprintf(&p->temp, "%s" SUFFIX, name) < 0 ||
	    asprintf(&p->file.path, "%s%s" SUFFIX, o->folder, name) < 0)
		return hv_fail(err, ENOMEM, "%s%s: no memory to begin it", o->folder, name);
	rc = check_target(o, name, err);
	if (!rc)
		rc = open_partial(o, p, err);
	if (rc)
		return rc;
	p->there = true;
	if (!o->resume && ftruncate(p->file.fd, 0) < 0)
		return hv_fail_errno(err, "%s: cannot empty it", p->file.path);
	if (!o->resume)
		p->file.size = 0;
	return o->expected ? cut_part(o, p, o->count, err) : 0;
}

static void free_part(struct part *p)
{
	if (!p)
		return;
	if (p->file.fd >= 0)
		close(p->file.fd);
	free(p->file.path);
	free(p->name);
	free(p->temp);
	free(p);
}

int hv_output_add(struct hv_output *o, const char *name, struct hv_disk_file **file, struct hv_error *err)
{
	struct part *p;
	int rc;

	if (*name == '\0' || strchr(name, '/') || strcmp(name, ".") == 0 || strcmp(name, "..") == 0 ||
	    strlen(name) > 255 - strlen(SUFFIX ".journal"))
		return hv_fail(err, EINVAL, "%s%s: not a usable file name", o->folder, name);
	if (o->count == HV_DISK_FILES_MAX)
		return hv_fail(err, EMFILE, "%s: more than %d files", o->path, HV_DISK_FILES_MAX);
	p = calloc(1, sizeof(*p));
	if (!p)
		return hv_fail(err, ENOMEM, "%s%s: no memory to begin it", o->folder, name);
	rc = begin_part(o, p, name, err);
	if (rc) { /* what was there before stays */
		free_part(p);
		return rc;
	}
	o->part[o->count++] = p;
	*file = &p->file;
	return 0;
}

int hv_output_begin(const char *path, bool resume, struct hv_output **output, struct hv_error *err)
{
	const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
	struct hv_output *o = calloc(1, sizeof(*o));
	struct hv_disk_file *file;
	int rc;

	if (!o)
		return hv_fail(err, ENOMEM, "%s: no memory to begin it", path);
	o->dir = -1;
	o->resume = resume;
	o->path = strdup(path);
	o->folder = strndup(path, (size_t)(name - path));
	if (!o->path || !o->folder)
		rc = hv_fail(err, ENOMEM, "%s: no memory to begin it", path);
	else if ((o->dir = open(*o->folder ? o->folder : ".", O_DIRECTORY | O_RDONLY | O_CLOEXEC)) < 0)
		rc = hv_fail_errno(err, "%s: cannot open its directory", path);
	else
		rc = hv_output_add(o, name, &file, err);
	if (rc) {
		hv_output_free(o);
		return rc;
	}
	*output = o;
	return 0;
}

int hv_output_mark(struct hv_output *o, unsigned index, struct hv_output_mark *mark, struct hv_error *err)
{
	const struct hv_disk_file *f = &o->part[index]->file;
	struct stat st;

	if (fstat(f->fd, &st) < 0)
		return hv_fail_errno(err, "%s: cannot look at it", f->path);
	*mark = (struct hv_output_mark){f->device, f->inode, (uint64_t)st.st_size};
	return 0;
}

int hv_output_expect(struct hv_output *o, const struct hv_output_mark *mark, unsigned count,
		     struct hv_error *err)
{
	o->expected = calloc(count ? count : 1, sizeof(*mark));
	if (!o->expected)
		return hv_fail(err, ENOMEM, "%s: no memory to go on with it", o->path);
	memcpy(o->expected, mark, count * sizeof(*mark));
	o->expected_count = count;
	return cut_part(o, o->part[0], 0, err);
}

struct hv_disk_file *hv_output_file(struct hv_output *o, unsigned index)
{
	return index < o->count ? &o->part[index]->file : NULL;
}

const char *hv_output_path(const struct hv_output *o)
{
	return o->path;
}

int hv_output_sync(struct hv_output *o, struct hv_error *err)
{
	for (unsigned i = 0; i < o->count; i++)
		if (fsync(o->part[i]->file.fd) < 0)
			return hv_fail_errno(err, "%s: cannot write it to the disk", o->part[i]->file.path);
	return 0;
}

void hv_output_no_replace(struct hv_output *o)
{
	o->no_replace = true;
}

static int give_name(const struct hv_output *o, const struct part *p)
{
	struct stat st;

	if (!o->no_replace)
		return renameat(o->dir, p->temp, o->dir, p->name);
	if (renameat2(o->dir, p->temp, o->dir, p->name, RENAME_NOREPLACE) == 0)
		return 0;
	if (errno != EINVAL && errno != ENOSYS)
		return -1;
	/* The file system can't do it as one step: looking first leaves a gap, and is what there is. */
	if (fstatat(o->dir, p->name, &st, AT_SYMLINK_NOFOLLOW) == 0) {
		errno = EEXIST;
		return -1;
	}
	return renameat(o->dir, p->temp, o->dir, p->name);
}

/* What has its name already goes again: it replaced nothing, and is a part of something that isn't there. */
static int no_name(struct hv_output *o, unsigned index, struct hv_error *err)
{
	const struct part *p = o->part[index];
	int rc;

	if (errno == EEXIST)
		rc = hv_fail(err, EEXIST,
			     "%s%s: came into being while it was written, and is not replaced; give another "
			     "name",
			     o->folder, p->name);
	else
		rc = hv_fail_errno(err, "%s: cannot rename the finished file to %s", p->file.path, p->name);
	for (unsigned i = index + 1; i < o->count && o->no_replace; i++)
		unlinkat(o->dir, o->part[i]->name, 0);
	return rc;
}

int hv_output_commit(struct hv_output *o, struct hv_error *err)
{
	int rc = hv_output_sync(o, err);

	if (rc)
		return rc;
	/* The first is what a user opens: it appears last, when all that it names is there. */
	for (unsigned i = o->count; i-- > 0;) {
		if (give_name(o, o->part[i]) < 0)
			return no_name(o, i, err);
		o->part[i]->there = false;
	}
	(void)fsync(o->dir); /* some file systems refuse it for folders; the rename has happened */
	return 0;
}

void hv_output_keep(struct hv_output *o, bool keep)
{
	o->keep = keep;
}

void hv_output_unlink(struct hv_output *o)
{
	for (unsigned i = 0; i < o->count && !o->keep; i++)
		if (o->part[i]->there)
			unlinkat(o->dir, o->part[i]->temp, 0);
}

void hv_output_free(struct hv_output *o)
{
	if (!o)
		return;
	hv_output_unlink(o);
	for (unsigned i = 0; i < o->count; i++)
		free_part(o->part[i]);
	if (o->dir >= 0)
		close(o->dir);
	free(o->path);
	free(o->folder);
	free(o->expected);
	free(o);
}
