/*
 * Where an appliance's files are on this host. What a description says is another host's path, and hostile:
 * only a file inside the appliance's own folder is taken, by the relative path or, failing that, by its base
 * name when there is one of it in the tree; any other place the caller has to allow. This file calls libc.
 */
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "disk/appliance/appliance_impl.h"
#include "disk/format.h"

#define WALK_DEPTH   8
#define WALK_ENTRIES 20000
#define WALK_FOLDERS 1024

static bool inside(const struct hv_appliance *a, const char *real)
{
	size_t n = strlen(a->folder);

	if (n == 1) /* the root itself */
		return true;
	return !strncmp(real, a->folder, n) && real[n] == '/';
}

static bool allowed(const struct hv_appliance *a, const char *name, const char *real)
{
	char resolved[PATH_MAX];

	for (unsigned i = 0; i < a->options.externals; i++) {
		const char *e = a->options.external[i];

		if (!strcmp(e, name) || (realpath(e, resolved) && !strcmp(resolved, real)))
			return true;
	}
	return false;
}

static bool windows_absolute(const char *name)
{
	return (isalpha((unsigned char)name[0]) && name[1] == ':') || (name[0] == '\\' && name[1] == '\\');
}

/* What came of one candidate. */
enum found { NOTHING, TAKEN, OUTSIDE };

/* A candidate path: is it a file, and may it be read? real is PATH_MAX bytes. */
static enum found try_path(const struct hv_appliance *a, const char *name, const char *candidate, char *real)
{
	struct stat st;

	if (!realpath(candidate, real) || stat(real, &st) || S_ISDIR(st.st_mode))
		return NOTHING;
	if (allowed(a, name, real))
		return TAKEN;
	return inside(a, real) && S_ISREG(st.st_mode) ? TAKEN : OUTSIDE;
}

/* The name as it is, then with its backslashes turned, from folder on. */
static enum found try_relative(const struct hv_appliance *a, const char *folder, const char *name, char *real)
{
	char path[PATH_MAX];
	bool outside = false;

	for (int turned = 0; turned < 2; turned++) {
		enum found f;
		int n = snprintf(path, sizeof(path), "%s/%s", folder, name);

		if (n < 0 || (size_t)n >= sizeof(path))
			return NOTHING;
		for (char *p = path + strlen(folder); turned && *p; p++)
			*p = *p == '\\' ? '/' : *p;
		f = try_path(a, name, path, real);
		if (f == TAKEN)
			return f;
		outside = outside || f == OUTSIDE;
	}
	return outside ? OUTSIDE : NOTHING;
}

/* --- the whole tree, for a base name --- */

struct walk {
	const char *base;
	char exact[PATH_MAX], other[PATH_MAX]; /* the first of that name, and of it in other case */
	unsigned exacts, others, entries, folders;
	char *folder[WALK_FOLDERS]; /* still to be looked at, by their paths */
	unsigned char depth[WALK_FOLDERS];
};

static void push(struct walk *w, const char *path, unsigned depth)
{
	if (w->folders == WALK_FOLDERS || depth > WALK_DEPTH)
		return;
	w->depth[w->folders] = (unsigned char)depth;
	w->folder[w->folders] = strdup(path);
	if (w->folder[w->folders])
		w->folders++;
}

static void look_at(struct walk *w, int dir, const char *folder, unsigned depth, const char *name)
{
	char path[PATH_MAX];
	struct stat st;
	int n = snprintf(path, sizeof(path), "%s/%s", folder, name);

	if (n < 0 || (size_t)n >= sizeof(path) || fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW))
		return;
	if (S_ISDIR(st.st_mode)) {
		push(w, path, depth + 1);
	} else if (S_ISREG(st.st_mode) && !strcmp(name, w->base)) {
		if (w->exacts++ == 0)
			memcpy(w->exact, path, (size_t)n + 1);
	} else if (S_ISREG(st.st_mode) && !strcasecmp(name, w->base)) {
		if (w->others++ == 0)
			memcpy(w->other, path, (size_t)n + 1);
	}
}

static void look_into(struct walk *w, const char *folder, unsigned depth)
{
	DIR *dir = opendir(folder);
	struct dirent *e;

	if (!dir)
		return;
	while (w->entries < WALK_ENTRIES && (e = readdir(dir))) {
		w->entries++;
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			look_at(w, dirfd(dir), folder, depth, e->d_name);
	}
	closedir(dir);
}

/* How many files of that base name the tree has; the one, when there is one, in path. */
static int by_base_name(const struct hv_appliance *a, const char *base, char *path, unsigned *count)
{
	struct walk *w = calloc(1, sizeof(*w));

	*count = 0;
	if (!w)
		return -ENOMEM;
	w->base = base;
	push(w, a->folder, 0);
	while (w->folders > 0) {
		char *folder = w->folder[--w->folders];

		look_into(w, folder, w->depth[w->folders]);
		free(folder);
	}
	*count = w->exacts ? w->exacts : w->others;
	memcpy(path, w->exacts ? w->exact : w->other, PATH_MAX);
	free(w);
	return 0;
}

/* --- one file --- */

int hv_appliance_find_file(struct hv_appliance *a, const char *folder, const char *name,
			   enum hv_drive_trouble *trouble, const char **path, struct hv_error *err)
{
	const char *base = hv_disk_base_name(name);
	char real[PATH_MAX];
	bool windows = windows_absolute(name);
	enum found f = NOTHING;
	unsigned count = 0;

	*trouble = HV_DRIVE_FINE;
	if (*name == '/')
		f = try_path(a, name, name, real);
	else if (!windows)
		f = try_relative(a, folder, name, real);
	if (f == NOTHING && (windows || *name == '/')) {
		f = try_relative(a, folder, base, real); /* beside the description first */
		f = f == OUTSIDE ? NOTHING : f;
	}
	if (f == NOTHING && *base) {
		if (by_base_name(a, base, real, &count))
			return hv_fail(err, ENOMEM, "%s: no memory to look for its files", a->path);
		f = count == 1 ? TAKEN : NOTHING;
	}
	if (f == TAKEN) {
		*path = hv_appliance_copy(a, real, strlen(real));
	} else if (f == OUTSIDE) {
		*trouble = HV_DRIVE_OUTSIDE;
		*path = hv_appliance_format(
			a,
			"%s: its file %.512s lies outside the appliance's folder; --allow-external with its "
			"path lets it be read",
			a->path, name);
	} else {
		*trouble = HV_DRIVE_MISSING;
		*path = count > 1 ? hv_appliance_format(a,
							"%s: it names %.512s, and there are %u files of that "
							"name in its folder",
							a->path, name, count)
				  : hv_appliance_format(a, "%s: its file %.512s is missing", a->path, name);
	}
	return *path ? 0 : hv_fail(err, ENOMEM, "%s: no memory to read it", a->path);
}

int hv_appliance_find(struct hv_appliance *a, struct hv_appliance_drive *drive, const char *folder,
		      const char *name, struct hv_error *err)
{
	const char *path = NULL;
	int rc = hv_appliance_find_file(a, folder, name, &drive->trouble, &path, err);

	if (rc)
		return rc;
	drive->path = drive->trouble ? NULL : path;
	drive->why = drive->trouble ? path : NULL;
	return 0;
}

/* --- the description in a folder --- */

/* Files in folder that end in one of the suffixes (tried in order): the one of the first suffix that has any.
 */
static int one_of(const char *folder, const char *const *suffixes, char *found, size_t size,
		  struct hv_error *err)
{
	DIR *dir = opendir(folder);
	unsigned best = UINT_MAX, count = 0;
	struct dirent *e;

	if (!dir)
		return hv_fail_errno(err, "%s: cannot open the folder", folder);
	while ((e = readdir(dir))) {
		const char *dot = strrchr(e->d_name, '.');

		for (unsigned i = 0; dot && e->d_name[0] != '.' && suffixes[i] && i <= best; i++) {
			if (strcasecmp(dot, suffixes[i]) != 0)
				continue;
			count = i < best ? 1 : count + 1;
			best = i;
			snprintf(found, size, "%s/%s", folder, e->d_name);
			break;
		}
	}
	closedir(dir);
	if (count > 1)
		return hv_fail_usage(err,
				     "%s: there are %u '%s' files in this folder; name the one that is meant",
				     folder, count, suffixes[best]);
	return count ? 0 : -ENOENT;
}

/* "Virtual Machines" in any case, into path. */
static bool machines_folder(const char *folder, char *path, size_t size)
{
	DIR *dir = opendir(folder);
	struct dirent *e;
	bool found = false;

	while (dir && !found && (e = readdir(dir))) {
		found = !strcasecmp(e->d_name, "Virtual Machines");
		if (found)
			found = (size_t)snprintf(path, size, "%s/%s", folder, e->d_name) < size;
	}
	if (dir)
		closedir(dir);
	return found;
}

int hv_appliance_in_folder(const char *path, char *found, size_t size, struct hv_error *err)
{
	static const char *const hyperv[] = {".vmcx", ".xml", ".exp", NULL};
	static const char *const any[] = {".vmx", ".ovf", ".ova", ".vmcx", ".xml", NULL};
	char folder[PATH_MAX];
	int rc = -ENOENT;

	if (machines_folder(path, folder, sizeof(folder)))
		rc = one_of(folder, hyperv, found, size, err);
	if (rc == -ENOENT)
		rc = one_of(path, any, found, size, err);
	if (rc == -ENOENT)
		return hv_fail(
			err, ENOENT,
			"%s: no machine's description is in this folder (.vmx, .ovf, .ova, or 'Virtual "
			"Machines' with a .vmcx or .xml)",
			path);
	return rc;
}
