/*
 * The registry of running VMs: see registry.h. It calls base and the name check of machine/config.
 *
 * The lock decides who has a name; the socket only follows it. Locks are those of open file descriptions
 * (fcntl(2), F_OFD_SETLK): they end with the process however it dies, and F_OFD_GETLK looks without taking,
 * so listing VMs never gets in the way of one that starts. Sockets are bound and reached through
 * /proc/self/fd/DIR, because sun_path has 108 bytes (unix(7)) and runtime directories may be longer.
 */
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "control/registry.h"

#define BACKLOG 64

static int runtime_path(char *buf, size_t size, struct hv_error *err)
{
	const char *xdg = getenv("XDG_RUNTIME_DIR");
	int n;

	if (xdg && xdg[0] == '/')
		n = snprintf(buf, size, "%s/hvkit", xdg);
	else if (geteuid() == 0)
		n = snprintf(buf, size, "/run/hvkit");
	else
		n = snprintf(buf, size, "/run/user/%u/hvkit", (unsigned)geteuid());
	if (n < 0 || (size_t)n >= size)
		return hv_fail(err, ENAMETOOLONG,
			       "XDG_RUNTIME_DIR: the path is too long; choose a shorter one");
	return 0;
}

/* The directory opened and checked: a link or a stranger's directory would hand our sockets to someone else.
 */
static int open_runtime(const char *path, int create, struct hv_error *err)
{
	struct stat st;
	int fd;

	if (create && mkdir(path, 0700) < 0 && errno != EEXIST)
		return hv_fail_errno(
			err,
			"%s: cannot make the runtime directory; set XDG_RUNTIME_DIR to a directory of yours",
			path);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return hv_fail_errno(err, "%s: cannot open the runtime directory", path);
	if (fstat(fd, &st) < 0 || st.st_uid != geteuid() || st.st_mode & 077) {
		close(fd);
		return hv_fail_unsafe(err,
				      "%s: the runtime directory must belong to you and be closed to others: "
				      "remove it, or chown it and chmod 0700",
				      path);
	}
	return fd;
}

int hv_runtime_dir(char *buf, size_t size, int create, struct hv_error *err)
{
	int rc = runtime_path(buf, size, err);

	if (rc)
		return rc;
	rc = open_runtime(buf, create, err);
	if (rc < 0)
		return rc;
	close(rc);
	return 0;
}

static struct flock whole_file(short type)
{
	return (struct flock){.l_type = type, .l_whence = SEEK_SET};
}

/*
 * NAME.lock, locked. Its last owner may unlink it between our open and our lock; then the lock is on a file
 * that nobody else will find, and we start over.
 */
static int take_lock(int dir, const char *name, struct hv_error *err)
{
	char file[HV_NAME_MAX + 8];

	snprintf(file, sizeof(file), "%s.lock", name);
	for (int tries = 0; tries < 100; tries++) {
		struct flock lock = whole_file(F_WRLCK);
		struct stat here, there;
		int fd = openat(dir, file, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

		if (fd < 0)
			return hv_fail_errno(err, "VM '%s': cannot open its lock in the runtime directory",
					     name);
		if (fcntl(fd, F_OFD_SETLK, &lock) < 0) {
			int rc = errno == EAGAIN || errno == EACCES
					 ? hv_fail(err, EADDRINUSE,
						   "a VM named '%s' is running; choose another --name", name)
					 : hv_fail_errno(err, "VM '%s': cannot lock its name", name);
			close(fd);
			return rc;
		}
		if (!fstat(fd, &here) && !fstatat(dir, file, &there, AT_SYMLINK_NOFOLLOW) &&
		    here.st_ino == there.st_ino && here.st_dev == there.st_dev)
			return fd;
		close(fd);
	}
	return hv_fail(err, EAGAIN, "VM '%s': its name changes hands all the time; try again", name);
}

/* "/proc/self/fd/DIR/NAME.sock", which fits whatever the directory's own path is. */
static int short_address(struct sockaddr_un *sa, int dir, const char *file)
{
	int n;

	memset(sa, 0, sizeof(*sa));
	sa->sun_family = AF_UNIX;
	n = snprintf(sa->sun_path, sizeof(sa->sun_path), "/proc/self/fd/%d/%s", dir, file);
	return n < 0 || (size_t)n >= sizeof(sa->sun_path) ? -ENAMETOOLONG : 0;
}

static int listen_there(int dir, const char *name, struct hv_error *err)
{
	struct sockaddr_un sa;
	char file[HV_NAME_MAX + 8];
	int fd;

	snprintf(file, sizeof(file), "%s.sock", name);
	(void)unlinkat(dir, file, 0); /* of a VM that crashed: we hold its lock */
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return hv_fail_errno(err, "VM '%s': cannot make a socket", name);
	/* fchmod before bind: the file never exists with another mode, and the umask of other threads is left
	 * alone. */
	if (short_address(&sa, dir, file) || fchmod(fd, 0600) < 0 ||
	    bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 || listen(fd, BACKLOG) < 0) {
		int rc = hv_fail_errno(err, "VM '%s': cannot listen in the runtime directory", name);
		close(fd);
		return rc;
	}
	return fd;
}

int hv_registry_take(struct hv_registration *r, const char *name, struct hv_error *err)
{
	char path[HV_RUNTIME_PATH_MAX];
	int rc = hv_name_check(name, err);

	r->listen_fd = r->lock_fd = r->dir_fd = -1;
	if (rc || (rc = runtime_path(path, sizeof(path), err)))
		return rc;
	snprintf(r->name, sizeof(r->name), "%s", name);
	r->dir_fd = rc = open_runtime(path, 1, err);
	if (rc >= 0)
		r->lock_fd = rc = take_lock(r->dir_fd, name, err);
	if (rc >= 0)
		r->listen_fd = rc = listen_there(r->dir_fd, name, err);
	if (rc < 0) {
		hv_registry_release(r);
		return rc;
	}
	return 0;
}

/* Without snprintf, which a signal handler may not use. */
static void remove_file(const struct hv_registration *r, const char *suffix)
{
	char file[HV_NAME_MAX + 8];

	stpcpy(stpcpy(file, r->name), suffix);
	(void)unlinkat(r->dir_fd, file, 0);
}

void hv_registry_release(struct hv_registration *r)
{

	/* The lock goes last: until then nobody else can have put a socket under this name. */
	if (r->listen_fd >= 0) {
		remove_file(r, ".sock");
		close(r->listen_fd);
	}
	if (r->lock_fd >= 0) {
		remove_file(r, ".lock");
		close(r->lock_fd);
	}
	if (r->dir_fd >= 0)
		close(r->dir_fd);
	r->listen_fd = r->lock_fd = r->dir_fd = -1;
}

static int is_alive(int dir, const char *name)
{
	struct flock lock = whole_file(F_WRLCK);
	char file[HV_NAME_MAX + 8];
	int fd, rc;

	snprintf(file, sizeof(file), "%s.lock", name);
	fd = openat(dir, file, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0)
		return 0;
	rc = fcntl(fd, F_OFD_GETLK, &lock);
	close(fd);
	return rc == 0 && lock.l_type != F_UNLCK;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct hv_registry_entry *)a)->name,
		      ((const struct hv_registry_entry *)b)->name);
}

/* The name before ".sock" when the file can be a VM's; 0 when it is something else. */
static int name_of(const char *file, char name[HV_NAME_MAX + 1])
{
	size_t length = strlen(file);

	if (length <= 5 || length - 5 > HV_NAME_MAX || strcmp(file + length - 5, ".sock") != 0)
		return 0;
	snprintf(name, HV_NAME_MAX + 1, "%.*s", (int)(length - 5), file);
	return hv_name_check(name, NULL) == 0;
}

int hv_registry_list(struct hv_registry_entry **out, unsigned *count, struct hv_error *err)
{
	struct hv_registry_entry *list = NULL;
	char path[HV_RUNTIME_PATH_MAX], name[HV_NAME_MAX + 1];
	unsigned n = 0;
	struct dirent *d;
	DIR *dir;
	int rc;

	*out = NULL;
	*count = 0;
	if ((rc = runtime_path(path, sizeof(path), err)))
		return rc;
	rc = open_runtime(path, 0, err);
	if (rc == -ENOENT)
		return 0;
	if (rc < 0)
		return rc;
	dir = fdopendir(rc);
	if (!dir) {
		close(rc);
		return hv_fail(err, ENOMEM, "not enough memory to list VMs");
	}
	while ((d = readdir(dir))) {
		struct hv_registry_entry *grown;

		if (!name_of(d->d_name, name) || !is_alive(dirfd(dir), name))
			continue;
		grown = realloc(list, (n + 1) * sizeof(*list));
		if (!grown)
			break;
		list = grown;
		snprintf(list[n].name, sizeof(list[n].name), "%s", name);
		snprintf(list[n].path, sizeof(list[n].path), "%s/%s.sock", path, name);
		n++;
	}
	closedir(dir);
	if (n)
		qsort(list, n, sizeof(*list), by_name);
	*out = list;
	*count = n;
	return 0;
}

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* A full backlog gives EAGAIN and no event to wait for (unix(7)), so this looks again every 10 ms. */
static int connect_within(int fd, const struct sockaddr_un *sa, int timeout_ms)
{
	int64_t until = now_ms() + timeout_ms;

	while (connect(fd, (const struct sockaddr *)sa, sizeof(*sa)) < 0) {
		if (errno != EAGAIN && errno != EINTR)
			return -errno;
		if (timeout_ms >= 0 && now_ms() >= until)
			return -ETIMEDOUT;
		(void)poll(NULL, 0, 10);
	}
	return 0;
}

int hv_registry_connect(const char *path, int timeout_ms, struct hv_error *err)
{
	const char *slash = strrchr(path, '/');
	char dir[HV_RUNTIME_PATH_MAX];
	struct sockaddr_un sa;
	int dir_fd, fd, rc;

	snprintf(dir, sizeof(dir), "%.*s", slash ? (int)(slash - path) + 1 : 1, slash ? path : ".");
	dir_fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (dir_fd < 0)
		return hv_fail_errno(err, "%s: cannot open its directory", path);
	if (short_address(&sa, dir_fd, slash ? slash + 1 : path)) {
		close(dir_fd);
		return hv_fail(err, ENAMETOOLONG, "%s: the file name is too long for a socket", path);
	}
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		rc = hv_fail_errno(err, "%s: cannot make a socket", path);
	else if ((rc = connect_within(fd, &sa, timeout_ms)))
		hv_fail(err, -rc, "%s: nobody listens there: %s", path, strerror(-rc));
	close(dir_fd);
	if (rc && fd >= 0)
		close(fd);
	return rc ? rc : fd;
}
