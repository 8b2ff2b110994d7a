/*
 * Files that the program asks for. Whether it gets them is the kernel's decision (Landlock, modes, the
 * private tree); this only gives a refusal its name, when it was for something that no library looks at by
 * itself. In the private tree what must not be seen isn't there: then the host's own tree tells whether there
 * is something of this name.
 *
 * Rules: open(2), openat2(2), proc(5).
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "observe.h"

#define FILES_MAX 64 /* that one run may make */

static bool starts(const char *text, const char *with)
{
	return !strncmp(text, with, strlen(with));
}

/* A node right in /dev (what lies deeper may be anything: /dev/shm), or what it has open already. */
static bool device(const char *path)
{
	return (starts(path, "/dev/") && !strchr(path + 5, '/')) || starts(path, "/dev/fd/") ||
	       starts(path, "/proc/self/fd/");
}

/* What libraries look at by themselves, and where a refusal means nothing. */
static bool harmless(const char *path)
{
	static const char *const folders[] = {"/usr/",       "/lib",      "/etc/",       "/sys/",
					      "/bin/",       "/opt",      "/gnu/store/", "/nix/store/",
					      "/proc/self/", "/proc/sys/"};
	static const char *const files[] = {"/proc/cpuinfo",     "/proc/meminfo", "/proc/stat",
					    "/proc/filesystems", "/proc/mounts",  "/proc/version",
					    "/proc/loadavg"};

	if (path[0] != '/' || strstr(path, "/../"))
		return false;
	for (size_t i = 0; i < ARRAY_SIZE(folders); i++)
		if (starts(path, folders[i]))
			return true;
	for (size_t i = 0; i < ARRAY_SIZE(files); i++)
		if (!strcmp(path, files[i]))
			return true;
	return device(path);
}

/* A text of the program's, which may end right before a page that isn't there. */
static void peek_text(const struct session *s, const struct task *t, uint64_t address, char *text,
		      size_t size)
{
	size_t left = 4096 - (size_t)(address & 4095);
	size_t n = peek_task(s, t, address, text, size - 1);

	if (!n)
		n = peek_task(s, t, address, text, left < size - 1 ? left : size - 1);
	text[n] = 0;
}

static uint64_t flags_of(const struct session *s, const struct task *t)
{
	const struct call *c = &t->call;
	struct open_how how = {0};

	switch (c->nr) {
	case SYS_open:
		return c->args[1];
	case SYS_openat:
		return c->args[2];
	case SYS_openat2:
		peek_task(s, t, c->args[2], &how, sizeof(how));
		return how.flags;
	default:
		return O_CREAT | O_WRONLY;
	}
}

bool open_entered(struct session *s, struct task *t)
{
	struct call *c = &t->call;
	bool at = c->nr == SYS_openat || c->nr == SYS_openat2;
	uint64_t flags = flags_of(s, t);

	peek_text(s, t, c->args[at ? 1 : 0], c->path, sizeof(c->path));
	c->folder = at ? (int)c->args[0] : AT_FDCWD;
	c->creates = flags & O_CREAT;
	/* An older Landlock takes this for reading. */
	if (flags & O_TRUNC && (flags & O_ACCMODE) == O_RDONLY)
		trace_forbidden(s, t->tid, "file", c->path);
	return (flags & (O_ACCMODE | O_CREAT | O_TRUNC)) != O_RDONLY || !harmless(c->path);
}

static void read_link(const struct task *t, const char *name, char *target, size_t size)
{
	char link[64];
	ssize_t n;

	snprintf(link, sizeof(link), "/proc/%d/%s", t->tid, name);
	n = readlink(link, target, size - 1);
	target[n < 0 ? 0 : n] = 0;
}

/* The whole path, as the program means it: seen from its own root, where we may see more. */
static void whole_path(const struct task *t, char *path, size_t size)
{
	char name[32], folder[PATH_MAX], root[PATH_MAX];
	size_t above;

	if (t->call.path[0] == '/') {
		snprintf(path, size, "%s", t->call.path);
		return;
	}
	snprintf(name, sizeof(name), "fd/%d", t->call.folder);
	read_link(t, t->call.folder == AT_FDCWD ? "cwd" : name, folder, sizeof(folder));
	read_link(t, "root", root, sizeof(root));
	above = strlen(root) > 1 && !strncmp(folder, root, strlen(root)) ? strlen(root) : 0;
	snprintf(path, size, "%s/%s", folder + above, t->call.path);
}

/* A file of one's own for notes, say. It is refused, and meant no harm. */
static bool in_tmp(const char *path)
{
	static const char *const folders[] = {"/tmp/", "/var/tmp/"};

	for (size_t i = 0; i < ARRAY_SIZE(folders); i++)
		if (starts(path, folders[i]) && !strchr(path + strlen(folders[i]), '/'))
			return access(path, F_OK) < 0;
	return false;
}

/* Something is there for us that isn't there for the program. */
static bool hidden(const char *path, bool creates)
{
	char folder[2 * PATH_MAX];
	char *slash;

	if (access(path, F_OK) == 0)
		return true;
	snprintf(folder, sizeof(folder), "%s", path);
	slash = strrchr(folder, '/');
	if (!creates || !slash)
		return false;
	slash[slash == folder] = 0;
	return access(folder, F_OK) == 0;
}

void files_one_more(struct session *s)
{
	if (++s->files > FILES_MAX)
		trace_flood(s, "files");
}

void open_returned(struct session *s, const struct task *t, int64_t ret)
{
	char path[2 * PATH_MAX];
	bool refused = ret == -EACCES || ret == -EPERM || ret == -EROFS;

	if (ret >= 0 && t->call.creates && !s->opt->plain)
		files_one_more(s);
	/* Devices and its own pipes, opened anew: when that fails, it meant no harm. */
	if (ret >= 0 || device(t->call.path))
		return;
	whole_path(t, path, sizeof(path));
	if (in_tmp(path))
		return;
	if (refused || (ret == -ENOENT && s->opt->drop && hidden(path, t->call.creates)))
		trace_forbidden(s, t->tid, "file", path);
}
