/*
 * The QMP client against what listens under a VM's name and is none: every wait ends.
 */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "control/qmp.h"

TestSuite(qmp_client, .timeout = 60);

static const char greeting[] = "{\"QMP\":{}}\r\n{\"return\":{},\"id\":1}\r\n";

struct fake {
	char path[108];
	const char *first, *then; /* sent once, and for ever */
	int fd;
	pthread_t thread;
};

/* One client; sends until that one has gone. */
static void *answer(void *arg)
{
	struct fake *f = arg;
	char much[65536];
	size_t used = 0, length = strlen(f->then);
	int fd = accept(f->fd, NULL, NULL);

	while (length && used + length <= sizeof(much)) {
		memcpy(much + used, f->then, length);
		used += length;
	}
	if (send(fd, f->first, strlen(f->first), MSG_NOSIGNAL) >= 0)
		while (used && send(fd, much, used, MSG_NOSIGNAL) > 0)
			;
	(void)!read(fd, much, sizeof(much)); /* its request, so that it doesn't find us gone */
	while (!used && read(fd, much, sizeof(much)) > 0)
		;
	close(fd);
	return NULL;
}

static void begin(struct fake *f, const char *first, const char *then)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};

	*f = (struct fake){.first = first, .then = then};
	snprintf(f->path, sizeof(f->path), "/tmp/hv-fake-%d.sock", (int)getpid());
	strcpy(sun.sun_path, f->path);
	f->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	cr_assert_eq(bind(f->fd, (struct sockaddr *)&sun, sizeof(sun)), 0);
	cr_assert_eq(listen(f->fd, 1), 0);
	cr_assert_eq(pthread_create(&f->thread, NULL, answer, f), 0);
}

static void end(struct fake *f)
{
	pthread_join(f->thread, NULL);
	close(f->fd);
	unlink(f->path);
}

static void expect_at_connect(const char *first, const char *then, int wanted)
{
	struct hv_qmp_client *c;
	struct hv_error err = {0};
	struct fake f;

	begin(&f, first, then);
	cr_assert_eq(hv_qmp_connect(&c, f.path, 300, &err), wanted, "%s", err.text);
	cr_assert_null(c);
	end(&f);
}

static void expect_at_execute(const char *then, int wanted)
{
	struct hv_qmp_client *c;
	struct hv_error err = {0};
	json_t *result;
	struct fake f;

	begin(&f, greeting, then);
	cr_assert_eq(hv_qmp_connect(&c, f.path, 300, &err), 0, "%s", err.text);
	cr_assert_eq(hv_qmp_execute(c, "query-status", NULL, -1, &result, &err), wanted, "%s", err.text);
	hv_qmp_close(c);
	end(&f);
}

Test(qmp_client, silence_has_a_limit)
{
	expect_at_connect("", "", -ETIMEDOUT);
	expect_at_execute("", -ETIMEDOUT);
}

Test(qmp_client, events_without_end_are_no_answer)
{
	expect_at_execute("{\"event\":\"STOP\"}\r\n", -ETIMEDOUT);
}

Test(qmp_client, spaces_without_end_are_no_answer)
{
	expect_at_connect("", " \r\n", -ETIMEDOUT);
	expect_at_execute(" \r\n", -ETIMEDOUT);
}

Test(qmp_client, answers_to_others_without_end_are_no_answer)
{
	expect_at_execute("{\"return\":{},\"id\":77}\r\n", -ETIMEDOUT);
}

Test(qmp_client, what_speaks_no_qmp_is_told)
{
	expect_at_connect("hello", "\r\n", -EPROTO);
	expect_at_connect("{\"QMP\":", "[", -EPROTO);
	expect_at_execute("{\"id\":2}\r\n", -EPROTO);
}
