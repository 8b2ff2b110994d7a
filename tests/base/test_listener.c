/*
 * A Unix socket that listens: for its user alone, in place of a dead one and of nothing else, gone at the
 * end.
 */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/listener.h"

static char dir[] = "/tmp/hv-listener-XXXXXX", path[64];
static struct hv_listener l;
static struct hv_error err;

static void set_up(void)
{
	cr_assert(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/s", dir);
	l = (struct hv_listener){.fd = -1, .folder = -1};
}

static void tear_down(void)
{
	hv_listener_close(&l);
	hv_listener_close(&l);
	unlink(path);
	cr_assert_eq(rmdir(dir), 0, "something is left");
}

TestSuite(listener, .init = set_up, .fini = tear_down);

static int connect_to(const char *name)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(sun.sun_path, sizeof(sun.sun_path), "%s", name);
	if (connect(fd, (struct sockaddr *)&sun, sizeof(sun)) == 0)
		return fd;
	close(fd);
	return -1;
}

Test(listener, takes_callers_and_goes_with_its_owner)
{
	struct stat st;
	int client, server;

	umask(0);
	cr_assert_eq(hv_listener_open(&l, "test", path, 4, &err), 0, "%s", err.text);
	cr_assert_eq(stat(path, &st), 0);
	cr_assert_eq(st.st_mode, S_IFSOCK | 0600);
	cr_assert_eq(accept(l.fd, NULL, NULL), -1);
	cr_assert_eq(errno, EAGAIN, "it never waits");
	client = connect_to(path);
	server = accept(l.fd, NULL, NULL);
	cr_assert(client >= 0 && server >= 0);
	close(client);
	close(server);
	hv_listener_close(&l);
	cr_assert_neq(access(path, F_OK), 0);
}

Test(listener, replaces_a_dead_socket)
{
	cr_assert_eq(hv_listener_open(&l, "test", path, 4, NULL), 0);
	close(l.fd);
	close(l.folder); /* as a killed process leaves it */
	cr_assert_eq(connect_to(path), -1);
	cr_assert_eq(hv_listener_open(&l, "test", path, 4, &err), 0, "%s", err.text);
	close(connect_to(path));
}

Test(listener, leaves_a_live_socket_and_any_file_alone)
{
	struct hv_listener second;
	int fd;

	cr_assert_eq(hv_listener_open(&l, "test", path, 4, NULL), 0);
	cr_assert_eq(hv_listener_open(&second, "test", path, 4, &err), -EADDRINUSE);
	cr_assert(strstr(err.text, path) && !strncmp(err.text, "test: ", 6), "%s", err.text);
	hv_listener_close(&second);
	close(connect_to(path));
	hv_listener_close(&l);
	fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	cr_assert(fd >= 0);
	close(fd);
	cr_assert_eq(hv_listener_open(&l, "test", path, 4, &err), -EADDRINUSE);
	hv_listener_close(&l);
	cr_assert_eq(access(path, F_OK), 0);
}

Test(listener, does_not_remove_another_socket_that_took_its_name)
{
	struct hv_listener second;

	cr_assert_eq(hv_listener_open(&l, "test", path, 4, NULL), 0);
	unlink(path);
	cr_assert_eq(hv_listener_open(&second, "test", path, 4, NULL), 0);
	hv_listener_close(&l);
	close(connect_to(path));
	cr_assert_eq(access(path, F_OK), 0);
	hv_listener_close(&second);
}

Test(listener, says_what_is_wrong_with_a_path)
{
	char longer[200];

	memset(longer, 'x', sizeof(longer));
	longer[sizeof(longer) - 1] = '\0';
	cr_assert_eq(hv_listener_open(&l, "test", longer, 4, &err), -EINVAL);
	cr_assert_eq(err.status, HV_EXIT_USAGE);
	cr_assert_eq(hv_listener_open(&l, "test", "/nowhere/x", 4, &err), -ENOENT);
	cr_assert(strstr(err.text, "folder of /nowhere/x"), "%s", err.text);
}
