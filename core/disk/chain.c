/*
 * Which files an image may lead to. An image is a stranger's text: a parent or an extent named "/etc/shadow"
 * must not end in somebody's copy of a disk. So other files have to lie in the folder tree of the image that
 * the user named, reached through no symbolic link out of it, and be regular files; each exception is named
 * by the user. And as a raw disk's guest can write any header at the disk's start, an image that was only
 * recognised by its content leads nowhere, unless its name agrees.
 */
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "disk/chain.h"

/* The folder of a resolved path, "/" for the root's files; fresh. */
static char *folder_of(const char *path)
{
	const char *slash = strrchr(path, '/');

	if (!slash)
		return strdup(".");
	return slash == path ? strdup("/") : strndup(path, (size_t)(slash - path));
}

int hv_disk_policy_new(const char *path, const struct hv_disk_options *options,
		       struct hv_disk_policy **policy, struct hv_error *err)
{
	struct hv_disk_policy *p = calloc(1, sizeof(*p));
	char *resolved = realpath(path, NULL);

	if (p)
		/* A descriptor's name (/dev/fd/5) leads to no path: its folder holds nothing that may be
		 * opened. */
		p->root = folder_of(resolved ? resolved : path);
	free(resolved);
	if (!p || !p->root) {
		free(p);
		return hv_fail(err, ENOMEM, "%s: out of memory", path);
	}
	p->options = *options;
	p->root_fd = open(p->root, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (p->root_fd < 0) {
		int rc = hv_fail_errno(err, "%s: its folder can't be opened", path);

		free(p->root);
		free(p);
		return rc;
	}
	*policy = p;
	return 0;
}

void hv_disk_policy_free(struct hv_disk_policy *p)
{
	if (!p)
		return;
	close(p->root_fd);
	free(p->root);
	free(p);
}

/* The part of a resolved path below the root; NULL when it lies outside. */
static const char *below_root(const struct hv_disk_policy *p, const char *resolved)
{
	size_t length = strlen(p->root);

	if (strcmp(p->root, "/") == 0)
		return resolved[1] ? resolved + 1 : NULL;
	if (strncmp(resolved, p->root, length) != 0 || resolved[length] != '/')
		return NULL;
	return resolved + length + 1;
}

static bool is_named_by_user(const struct hv_disk_policy *p, const char *name, const char *resolved)
{
	for (unsigned i = 0; i < p->options.externals; i++) {
		const char *external = p->options.external[i];
		char *real;
		bool same;

		if (strcmp(external, name) == 0 || strcmp(external, resolved) == 0)
			return true;
		real = realpath(external, NULL);
		same = real && strcmp(real, resolved) == 0;
		free(real);
		if (same)
			return true;
	}
	return false;
}

/* Below the root, through no link at all: what realpath has said can't be changed under us any more. */
static int open_below(const struct hv_disk_policy *p, const char *below, int flags)
{
	struct open_how how = {.flags = (uint64_t)(unsigned)flags,
			       .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS};
	long fd = syscall(SYS_openat2, p->root_fd, below, &how, sizeof(how));

	if (fd < 0 && errno == ENOSYS)
		fd = openat(p->root_fd, below, flags | O_NOFOLLOW);
	return (int)fd;
}

static int refuse(const struct hv_disk *d, const char *name, const char *why, struct hv_error *err)
{
	return hv_fail_unsafe(
		err, "%s: it leads to \"%.120s\", which %s; if that is meant, say --allow-external '%.120s'",
		d->path, name, why, name);
}

/* name as the image has it -> a path that open can take, and its resolved form. Both fresh. */
static int resolve(const struct hv_disk *d, const char *name, char **path, char **resolved,
		   struct hv_error *err)
{
	const char *slash = strrchr(d->path, '/');
	int n;

	if (name[0] == '\0' || strlen(name) >= PATH_MAX)
		return hv_fail_unsafe(err, "%s: it leads to a file with %s name", d->path,
				      name[0] ? "too long a" : "no");
	if (name[0] == '/' || !slash)
		n = asprintf(path, "%s", name);
	else
		n = asprintf(path, "%.*s/%s", (int)(slash - d->path), d->path, name);
	if (n < 0)
		return hv_fail(err, ENOMEM, "%s: out of memory", d->path);
	*resolved = realpath(*path, NULL);
	if (*resolved)
		return 0;
	n = errno;
	hv_fail(err, n, "%s: it leads to \"%.200s\", which can't be opened: %s", d->path, name, strerror(n));
	free(*path);
	return -n;
}

bool hv_disk_name_agrees(const struct hv_disk_format *format, const char *path)
{
	const char *dot = strrchr(hv_disk_base_name(path), '.');

	for (const char *const *e = format->extensions; dot && e && *e; e++)
		if (strcasecmp(dot + 1, *e) == 0)
			return true;
	return false;
}

/* A disk that was recognised by its content alone: another's name, or none. */
static int may_follow(const struct hv_disk *d, const char *name, struct hv_error *err)
{
	char *resolved;
	bool named;

	if (d->follow || hv_disk_name_agrees(d->format, d->path))
		return 0;
	resolved = realpath(d->path, NULL);
	named = is_named_by_user(d->policy, d->path, resolved ? resolved : d->path);
	free(resolved);
	if (named)
		return 0;
	return hv_fail_unsafe(err,
			      "%s: by its content it is %s and leads to \"%.100s\", but its name doesn't say "
			      "so, and a raw disk's "
			      "guest can write such a header: say --format %s (or, for a parent, "
			      "--allow-external '%.100s') if it is one",
			      d->path, d->format->name, name, d->format->name, d->path);
}

int hv_disk_policy_open(const struct hv_disk *d, const char *name, bool writable, struct hv_disk_file **file,
			struct hv_error *err)
{
	const struct hv_disk_policy *p = d->policy;
	int flags = (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, fd, rc;
	char *path = NULL, *resolved = NULL;
	const char *below;
	struct stat st;
	bool named;

	rc = may_follow(d, name, err);
	if (rc == 0)
		rc = resolve(d, name, &path, &resolved, err);
	if (rc < 0 || !resolved)
		return rc;
	named = is_named_by_user(p, name, resolved);
	below = below_root(p, resolved);
	if (!below && !named)
		rc = refuse(d, name, "lies outside the image's own folder", err);
	else if (stat(resolved, &st) == 0 && !S_ISREG(st.st_mode) && !(named && S_ISBLK(st.st_mode)))
		rc = refuse(d, name, "is not a regular file", err);
	if (rc == 0) {
		fd = below && !named ? open_below(p, below, flags) : open(resolved, flags | O_NOFOLLOW);
		if (fd < 0) {
			rc = hv_fail_errno(err, "%s: it leads to \"%.200s\", which can't be opened", d->path,
					   name);
		} else {
			rc = hv_disk_file_new(fd, path, 0, 0, file, err);
			if (rc == 0 && (*file)->block_device && !named) {
				hv_disk_file_free(*file);
				rc = refuse(d, name, "is not a regular file", err);
			} else if (rc < 0) {
				close(fd);
			}
		}
	}
	free(path);
	free(resolved);
	return rc;
}

const char *hv_disk_base_name(const char *name)
{
	const char *base = name;

	for (const char *p = name; *p; p++)
		if (*p == '/' || *p == '\\')
			base = p + 1;
	return base;
}

char *hv_disk_windows_name(const char *name, bool *relative)
{
	char *turned;

	if (strncmp(name, "\\\\?\\", 4) == 0 || strncmp(name, "\\\\.\\", 4) == 0)
		name += 4;
	*relative = !(name[0] == '\\' || name[0] == '/' || (name[0] && name[1] == ':') ||
		      strncasecmp(name, "Volume{", 7) == 0);
	if (name[0] && name[1] == ':')
		name += 2;
	turned = strdup(name);
	for (char *p = turned; p && *p; p++)
		if (*p == '\\')
			*p = '/';
	return turned;
}
