/*
 * Root's way to a sandbox: a file system tree of the program's own, in a mount namespace, with nothing in it
 * but what the program may see. So a user without rights reaches the paths it was given, whatever the modes
 * of the folders above them, and finds a /dev/kvm that it may open, while the host's own stays as it is.
 * Where the kernel or a container forbids mounting, the host's tree is left in place and Landlock does what
 * it can.
 *
 * Rules: mount_namespaces(7), mount(2), chroot(2), mknod(2).
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "observe.h"

#define BASE "/tmp" /* in the namespace only, the new tree is put together here */

static int failed(char *why, size_t size, const char *what, const char *path)
{
	snprintf(why, size, "%s %s: %s", what, path, strerror(errno));
	return -1;
}

/* The folders above path, below the new root. */
static void make_folders(const char *path)
{
	char part[PATH_MAX];

	for (const char *p = strchr(path + 1, '/'); p; p = strchr(p + 1, '/')) {
		snprintf(part, sizeof(part), "%s%.*s", BASE, (int)(p - path), path);
		mkdir(part, 0755);
	}
}

/* One path of the host, seen at the same place; source was opened before the new tree hid it. */
static int bind(int source, const char *path, bool writable)
{
	char from[40], to[PATH_MAX];
	struct stat st;
	unsigned long flags = MS_BIND | MS_REMOUNT | MS_NOSUID | (writable ? 0 : MS_RDONLY);

	if (fstat(source, &st) < 0 || (size_t)snprintf(to, sizeof(to), "%s%s", BASE, path) >= sizeof(to))
		return -1;
	snprintf(from, sizeof(from), "/proc/self/fd/%d", source);
	make_folders(path);
	if (S_ISDIR(st.st_mode)) {
		if (mkdir(to, 0755) < 0 && errno != EEXIST)
			return -1;
	} else {
		int fd = open(to, O_CREAT | O_RDONLY | O_CLOEXEC, 0644);

		if (fd < 0)
			return errno == EROFS ? 0 : -1; /* it's there, in a folder that was given before */
		close(fd);
	}
	if (mount(from, to, NULL, MS_BIND | MS_REC, NULL) < 0)
		return -1;
	(void)mount(NULL, to, NULL, flags, NULL);
	return 0;
}

struct source {
	char path[PATH_MAX];
	int fd;
	bool writable;
};

/* Seen already, as a part of what was given before. */
static bool inside_another(const struct source *list, unsigned count, const char *path)
{
	for (unsigned i = 0; i < count; i++) {
		size_t length = strlen(list[i].path);

		if (!strncmp(list[i].path, path, length) && (path[length] == '/' || !path[length]))
			return true;
	}
	return false;
}

/* By its real name, so that links within the tree lead where they did. */
static void open_source(struct source *list, unsigned *count, const char *path, bool writable)
{
	struct source *s = &list[*count];

	if (!realpath(path, s->path) || (!writable && inside_another(list, *count, s->path)))
		return;
	s->fd = open(s->path, O_PATH | O_CLOEXEC);
	s->writable = writable;
	if (s->fd >= 0)
		(*count)++;
}

/* /lib -> usr/lib, and a name that was given as a link. */
static void copy_link(const char *path, const char *target)
{
	char to[PATH_MAX];

	snprintf(to, sizeof(to), "%s%s", BASE, path);
	make_folders(path);
	(void)!symlink(target, to);
}

static void link_given(const char *path)
{
	char real[PATH_MAX];

	if (path[0] == '/' && realpath(path, real) && strcmp(path, real) != 0)
		copy_link(path, real);
}

static int make_device(const struct options *o, int host)
{
	char to[PATH_MAX];
	struct stat st;

	if (fstat(host, &st) < 0 || !S_ISCHR(st.st_mode))
		return -1;
	snprintf(to, sizeof(to), "%s%s", BASE, o->kvm);
	make_folders(o->kvm);
	if (mknod(to, S_IFCHR | 0600, st.st_rdev) == 0 && chown(to, o->uid, o->gid) == 0)
		return 0;
	return bind(host, o->kvm, true); /* root of a container may not: then the host's modes decide */
}

#define SOURCES_MAX (2 * PATHS_MAX + 40)

static unsigned open_all(const struct options *o, struct source *list)
{
	unsigned count = 0;

	for (unsigned i = 0; i < system_path_count; i++)
		if (strncmp(system_paths[i], "/proc", 5) != 0)
			open_source(list, &count, system_paths[i], !strncmp(system_paths[i], "/dev/", 5));
	open_source(list, &count, "/proc", true); /* which parts of it, Landlock says */
	for (unsigned i = 0; i < o->reads; i++)
		open_source(list, &count, o->read[i], false);
	open_source(list, &count, o->program, false);
	for (unsigned i = 0; i < o->writes; i++)
		open_source(list, &count, o->write[i], true);
	return count;
}

int room_enter(const struct options *o, char *why, size_t size)
{
	static struct source list[SOURCES_MAX];
	char here[PATH_MAX];
	unsigned count;
	int host;

	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return 0;
	if (!getcwd(here, sizeof(here)))
		return failed(why, size, "the current folder", "isn't there");
	count = open_all(o, list);
	host = o->plain ? -1 : open(o->kvm, O_PATH | O_CLOEXEC);
	if (mount("room", BASE, "tmpfs", MS_NOSUID, "mode=0755,size=1m") < 0)
		return 0;
	for (unsigned i = 0; i < count; i++)
		if (bind(list[i].fd, list[i].path, list[i].writable) < 0)
			return failed(why, size, "the sandbox can't show", list[i].path);
	for (unsigned i = 0; i < system_path_count; i++)
		link_given(system_paths[i]);
	for (unsigned i = 0; i < o->reads; i++)
		link_given(o->read[i]);
	for (unsigned i = 0; i < o->writes; i++)
		link_given(o->write[i]);
	if (!o->plain && (host < 0 || make_device(o, host) < 0))
		return failed(why, size, "the program can't be given", o->kvm);
	/* Taking the old tree away would wait for other CPUs, milliseconds long. Without rights, and with no
	 * folder left open, there is no way back to it. */
	if (chroot(BASE) < 0 || chdir("/") < 0)
		return failed(why, size, "the sandbox can't be entered:", BASE);
	(void)!chdir(here);
	return 0;
}
