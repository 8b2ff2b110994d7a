/*
 * The server and the client together, on a real machine: events, descriptors, many clients, and clients that
 * do not behave. None of them may hold up another.
 */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "control/qmp.h"
#include "fixture.h"

static struct test_vm vm;
static struct hv_registration registration;
static struct hv_qmp_server *server;

static void serve(void)
{
	struct hv_error err = {0};

	test_runtime();
	test_vm_make(&vm, 1);
	cr_assert_eq(hv_registry_take(&registration, "test", &err), 0, "%s", err.text);
	cr_assert_eq(hv_qmp_server_start(&server, vm.machine, &registration, NULL, &err), 0, "%s", err.text);
	cr_assert_eq(hv_machine_start(vm.machine, false, &err), 0, "%s", err.text);
}

static void leave(void)
{
	hv_qmp_server_stop(server);
	hv_registry_release(&registration);
	test_vm_end(&vm);
	test_runtime_gone();
}

TestSuite(qmp_server, .init = serve, .fini = leave);

static struct hv_qmp_client *connected(void)
{
	struct hv_qmp_client *c;
	struct hv_error err = {0};

	cr_assert_eq(hv_qmp_connect(&c, "test", 20000, &err), 0, "%s", err.text);
	return c;
}

static void do_it(struct hv_qmp_client *c, const char *command)
{
	struct hv_error err = {0};
	json_t *result;

	cr_assert_eq(hv_qmp_execute(c, command, NULL, -1, &result, &err), 0, "%s: %s", command, err.text);
	json_decref(result);
}

static void expect_event(struct hv_qmp_client *c, const char *name, const char *reason)
{
	json_t *event = hv_qmp_event(c, 20000);
	const char *got = json_string_value(json_object_get(event, "event"));

	cr_assert(got, "no event came");
	cr_assert_str_eq(got, name);
	cr_assert(json_is_integer(json_object_get(json_object_get(event, "timestamp"), "seconds")));
	if (reason)
		cr_assert_str_eq(json_string_value(json_object_get(json_object_get(event, "data"), "reason")),
				 reason);
	json_decref(event);
}

/* A raw connection, blocking. */
static int raw(void)
{
	char path[256];
	int fd;

	snprintf(path, sizeof(path), "%s/hvkit/test.sock", getenv("XDG_RUNTIME_DIR"));
	fd = hv_registry_connect(path, 20000, NULL);
	cr_assert(fd >= 0);
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
	return fd;
}

/* Reads until the server hangs up; what came, in out. */
static void read_all(int fd, char *out, size_t size)
{
	size_t used = 0;
	ssize_t n;

	while (used < size - 1 && (n = read(fd, out + used, size - 1 - used)) > 0)
		used += (size_t)n;
	out[used] = '\0';
}

Test(qmp_server, every_client_hears_of_what_one_does)
{
	struct hv_qmp_client *a = connected(), *b = connected();

	cr_assert_eq(hv_qmp_pid(a), getpid());
	do_it(a, "stop");
	do_it(a, "cont");
	do_it(a, "system_reset");
	do_it(a, "quit");
	for (struct hv_qmp_client *c = a; c; c = c == a ? b : NULL) {
		expect_event(c, "STOP", NULL);
		expect_event(c, "RESUME", NULL);
		expect_event(c, "RESET", "host-qmp-system-reset");
		expect_event(c, "SHUTDOWN", "host-qmp-quit");
	}
	hv_qmp_close(a);
	hv_qmp_close(b);
}

Test(qmp_server, errors_come_back_as_sentences)
{
	struct hv_qmp_client *c = connected();
	struct hv_error err = {0};
	json_t *result;

	cr_assert_eq(hv_qmp_execute(c, "no-such-thing", NULL, -1, &result, &err), -EREMOTEIO);
	cr_assert_null(result);
	cr_assert(strstr(err.text, "no-such-thing"));
	do_it(c, "query-status");
	hv_qmp_close(c);
}

Test(qmp_server, a_descriptor_travels_with_getfd)
{
	struct hv_qmp_client *c = connected();
	json_t *name = json_pack("{s:s}", "fdname", "f"), *result;
	struct hv_error err = {0};
	int fd = open("/dev/null", O_RDONLY);

	cr_assert_eq(hv_qmp_execute(c, "getfd", name, -1, &result, &err), -EREMOTEIO);
	cr_assert_eq(hv_qmp_execute(c, "getfd", name, fd, &result, &err), 0, "%s", err.text);
	json_decref(result);
	cr_assert_eq(hv_qmp_execute(c, "closefd", name, -1, &result, &err), 0, "%s", err.text);
	json_decref(result);
	json_decref(name);
	close(fd);
	hv_qmp_close(c);
}

Test(qmp_server, a_client_without_end_of_line_or_in_the_middle_of_a_request_disturbs_nobody)
{
	static const char begun[] = "{\"execute\":\"qmp_cap", text[] = "{\"execute\":\"qmp_capabilities\"}";
	int silent = raw(), middle = raw(), gone = raw();
	struct hv_qmp_client *c = connected();

	cr_assert_eq(write(middle, begun, sizeof(begun) - 1), (ssize_t)sizeof(begun) - 1);
	cr_assert_eq(write(gone, text, sizeof(text) - 1), (ssize_t)sizeof(text) - 1);
	close(gone);
	do_it(c, "query-status");
	close(silent);
	close(middle);
	do_it(c, "query-status");
	hv_qmp_close(c);
}

Test(qmp_server, a_request_without_end_is_cut_off_with_an_error)
{
	char *text = malloc(HV_QMP_LINE_MAX * 2), out[2048];
	int fd = raw();

	memset(text, 'x', HV_QMP_LINE_MAX * 2);
	text[0] = '{';
	text[1] = '"';
	/* The server stops reading at its limit; the rest is refused, not stored. */
	for (size_t at = 0; at < HV_QMP_LINE_MAX * 2;) {
		ssize_t n = send(fd, text + at, HV_QMP_LINE_MAX * 2 - at, MSG_NOSIGNAL);
		if (n <= 0)
			break;
		at += (size_t)n;
	}
	read_all(fd, out, sizeof(out));
	cr_assert(strstr(out, "request too long"), "%s", out);
	close(fd);
	free(text);
}

Test(qmp_server, deep_nesting_is_cut_off_with_an_error)
{
	char text[4096], out[2048];
	int fd = raw();

	memset(text, '[', sizeof(text));
	(void)!send(fd, text, sizeof(text), MSG_NOSIGNAL);
	read_all(fd, out, sizeof(out));
	cr_assert(strstr(out, "nested too deeply"), "%s", out);
	close(fd);
}

Test(qmp_server, a_client_that_never_reads_stalls_nobody)
{
	static const char hello[] = "{\"execute\":\"qmp_capabilities\"}",
			  ask[] = "{\"execute\":\"query-commands\"}";
	struct hv_qmp_client *c = connected();
	struct pollfd p = {raw(), POLLOUT, 0};
	int sent = 0;

	(void)!send(p.fd, hello, sizeof(hello) - 1, MSG_NOSIGNAL);
	/* Until the server reads no more: its queue holds one answer, not thousands. */
	while (sent < 1000000 && poll(&p, 1, 500) == 1 && !(p.revents & (POLLHUP | POLLERR))) {
		if (send(p.fd, ask, sizeof(ask) - 1, MSG_NOSIGNAL | MSG_DONTWAIT) > 0)
			sent++;
	}
	cr_assert_lt(sent, 1000000);
	for (int i = 0; i < 50; i++) {
		do_it(c, "stop");
		do_it(c, "cont");
	}
	hv_qmp_close(c);
	close(p.fd);
}

Test(qmp_server, too_many_clients_are_turned_away_with_a_reason)
{
	struct hv_qmp_client *all[HV_QMP_CLIENTS_MAX], *more;
	struct hv_error err = {0};

	for (int i = 0; i < HV_QMP_CLIENTS_MAX; i++)
		all[i] = connected();
	cr_assert_eq(hv_qmp_connect(&more, "test", 20000, &err), -ECONNREFUSED);
	cr_assert(strstr(err.text, "too many connections"), "%s", err.text);
	for (int i = 0; i < HV_QMP_CLIENTS_MAX; i++)
		hv_qmp_close(all[i]);
	/* Places come free as soon as their threads have seen the end. */
	while (hv_qmp_connect(&more, "test", 20000, &err))
		usleep(1000);
	hv_qmp_close(more);
}

Test(qmp_server, stopping_does_not_wait_for_clients_and_tells_them_what_happened)
{
	struct hv_qmp_client *c = connected();
	static struct hv_end end;
	struct hv_error err = {0};
	json_t *result;
	int silent = raw();

	hv_machine_end(vm.machine, HV_END_QUIT);
	cr_assert_eq(hv_machine_wait(vm.machine, 20000, &end), 0);
	hv_qmp_server_stop(server);
	server = NULL;
	expect_event(c, "SHUTDOWN", "host-qmp-quit");
	cr_assert_null(hv_qmp_event(c, 20000));
	cr_assert_not(hv_qmp_alive(c));
	cr_assert_eq(hv_qmp_execute(c, "query-status", NULL, -1, &result, &err), -ECONNRESET);
	hv_qmp_close(c);
	close(silent);
}

Test(qmp_server, who_does_not_speak_qmp_is_not_believed)
{
	struct hv_registration other;
	struct hv_qmp_client *c;
	struct hv_error err = {0};
	pid_t child;

	cr_assert_eq(hv_registry_take(&other, "other", &err), 0, "%s", err.text);
	child = fork();
	if (child == 0) {
		struct pollfd p = {other.listen_fd, POLLIN, 0};
		int fd;

		poll(&p, 1, 20000);
		fd = accept(other.listen_fd, NULL, NULL);
		(void)!write(fd, "SSH-2.0-x\r\n", 11);
		_exit(0);
	}
	cr_assert_eq(hv_qmp_connect(&c, "other", 20000, &err), -EPROTO, "%s", err.text);
	cr_assert_eq(hv_qmp_connect(&c, "nobody", 20000, &err), -ENOENT);
	cr_assert_eq(hv_qmp_connect(&c, "../x", 20000, &err), -ENOENT);
	hv_registry_release(&other);
}
