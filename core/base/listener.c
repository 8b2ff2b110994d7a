/*
 * A Unix socket that listens at a path. This room calls nothing but libc. Rules: unix(7).
 */
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/listener.h"

_Static_assert(sizeof(((struct hv_listener *)0)->name) >= sizeof(((struct sockaddr_un *)0)->sun_path),
	       "a name fits where its path does");

static int open_folder(struct hv_listener *l, const char *what, const char *path, struct hv_error *err)
{
	const char *slash = strrchr(path, '/');
	char folder[sizeof(((struct sockaddr_un *)0)->sun_path)];

	snprintf(folder, sizeof(folder), "%.*s", slash ? (int)(slash - path) + 1 : 1, slash ? path : ".");
	snprintf(l->name, sizeof(l->name), "%s", slash ? slash + 1 : path);
	l->folder = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (l->folder < 0)
		return hv_fail_errno(err, "%s: cannot open the folder of %s", what, path);
	return 0;
}

/*
 * A socket that a dead process left is removed; a living one, and anything else, stays. A datagram socket
 * asks: it is refused where nobody is bound any more and has the wrong type where somebody is, who doesn't
 * notice.
 */
static bool remove_stale(const struct hv_listener *l, const struct sockaddr_un *sun)
{
	struct stat st;
	int fd, rc;

	if (fstatat(l->folder, l->name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISSOCK(st.st_mode))
		return false;
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return false;
	rc = connect(fd, (const struct sockaddr *)sun, sizeof(*sun)) < 0 ? errno : 0;
	close(fd);
	return rc == ECONNREFUSED && unlinkat(l->folder, l->name, 0) == 0;
}

static int bind_to(const struct hv_listener *l, const char *what, const struct sockaddr_un *sun,
		   struct hv_error *err)
{
	int rc = bind(l->fd, (const struct sockaddr *)sun, sizeof(*sun));

	if (rc < 0 && errno == EADDRINUSE) {
		if (!remove_stale(l, sun))
			return hv_fail(err, EADDRINUSE,
				       "%s: %s is taken; give another path, or remove it if nobody uses it",
				       what, sun->sun_path);
		rc = bind(l->fd, (const struct sockaddr *)sun, sizeof(*sun));
	}
	return rc < 0 ? hv_fail_errno(err, "%s: cannot bind %s", what, sun->sun_path) : 0;
}

int hv_listener_open(struct hv_listener *l, const char *what, const char *path, int backlog,
		     struct hv_error *err)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	struct stat st;
	int rc;

	*l = (struct hv_listener){.fd = -1, .folder = -1};
	if (strlen(path) >= sizeof(sun.sun_path))
		return hv_fail_usage(err, "%s: a socket's path has at most %zu characters; %s is longer",
				     what, sizeof(sun.sun_path) - 1, path);
	memcpy(sun.sun_path, path, strlen(path) + 1);
	rc = open_folder(l, what, path, err);
	if (rc)
		return rc;
	l->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (l->fd < 0)
		return hv_fail_errno(err, "%s: cannot make a socket", what);
	fchmod(l->fd, 0600); /* before bind: the name never exists with another mode */
	rc = bind_to(l, what, &sun, err);
	if (rc)
		return rc;
	if (fstatat(l->folder, l->name, &st, AT_SYMLINK_NOFOLLOW) == 0) {
		l->dev = st.st_dev;
		l->ino = st.st_ino;
	}
	if (listen(l->fd, backlog) < 0)
		return hv_fail_errno(err, "%s: cannot listen at %s", what, path);
	return 0;
}

void hv_listener_close(struct hv_listener *l)
{
	struct stat st;

	if (l->folder >= 0 && l->ino && fstatat(l->folder, l->name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
	    st.st_dev == l->dev && st.st_ino == l->ino)
		unlinkat(l->folder, l->name, 0);
	if (l->folder >= 0)
		close(l->folder);
	if (l->fd >= 0)
		close(l->fd);
	*l = (struct hv_listener){.fd = -1, .folder = -1};
}
