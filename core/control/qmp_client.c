/*
 * A QMP client: see qmp.h. It believes nothing of what the other end says: lines are bounded, JSON is
 * checked, and every wait has a limit.
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "control/qmp.h"
#include "control/qmp_scan.h"

#define ANSWER_MAX (64u << 20)
#define EVENTS_MAX 4096 /* kept for hv_qmp_event; beyond it the oldest go */

struct hv_qmp_client {
	int fd;
	int timeout_ms;
	bool alive;
	pid_t pid;
	uint64_t id;
	char *who; /* for sentences */
	json_t *events;
	struct hv_qmp_scan scan;
};

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* Milliseconds for poll until `until`, where a negative `until` is never. */
static int remaining(int64_t until)
{
	int64_t left = until < 0 ? -1 : until - now_ms();

	return until >= 0 && left < 0 ? 0 : (int)(left > 1000000 ? 1000000 : left);
}

static int64_t deadline(int timeout_ms)
{
	return timeout_ms < 0 ? -1 : now_ms() + timeout_ms;
}

static int lost(struct hv_qmp_client *c, struct hv_error *err)
{
	c->alive = false;
	return hv_fail(err, ECONNRESET, "%s is gone: it has ended", c->who);
}

/* More bytes into the scanner. 0, -ETIMEDOUT, -ECONNRESET. */
static int receive(struct hv_qmp_client *c, int64_t until, struct hv_error *err)
{
	char buf[16384];

	for (;;) {
		struct pollfd p = {c->fd, POLLIN, 0};
		ssize_t n = recv(c->fd, buf, sizeof(buf), MSG_DONTWAIT);

		if (n > 0)
			return hv_qmp_scan_feed(&c->scan, buf, (size_t)n)
				       ? hv_fail(err, ENOMEM, "not enough memory")
				       : 0;
		if (n == 0 || (errno != EAGAIN && errno != EINTR))
			return lost(c, err);
		if (until >= 0 && remaining(until) == 0)
			return hv_fail(err, ETIMEDOUT, "%s does not answer in time", c->who);
		(void)poll(&p, 1, remaining(until));
	}
}

/* The next object from the VM: a new reference. */
static int next_object(struct hv_qmp_client *c, int64_t until, json_t **out, struct hv_error *err)
{
	unsigned late = 0;
	const char *text;
	size_t length;
	int rc;

	while ((rc = hv_qmp_scan_next(&c->scan, &text, &length)) == 0) {
		if (late++ && until >= 0 && remaining(until) == 0) /* it sends, but nothing that ends */
			return hv_fail(err, ETIMEDOUT, "%s does not answer in time", c->who);
		rc = receive(c, until, err);
		if (rc)
			return rc;
	}
	*out = rc == 1 ? json_loadb(text, length, 0, NULL) : NULL;
	if (json_is_object(*out))
		return 0;
	json_decref(*out);
	c->alive = false;
	return hv_fail(err, EPROTO, "%s: what listens there does not speak QMP", c->who);
}

static void keep_event(struct hv_qmp_client *c, json_t *event)
{
	if (json_array_size(c->events) >= EVENTS_MAX)
		json_array_remove(c->events, 0);
	json_array_append_new(c->events, event);
}

/* The whole line, with fd riding on its first byte. */
static int send_line(struct hv_qmp_client *c, char *line, size_t length, int fd, int64_t until,
		     struct hv_error *err)
{
	union {
		char room[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = {{0}};

	while (length > 0) {
		struct iovec iov = {line, length};
		struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
		struct pollfd p = {c->fd, POLLOUT, 0};
		ssize_t n;

		if (fd >= 0) {
			m.msg_control = control.room;
			m.msg_controllen = sizeof(control.room);
			control.align = (struct cmsghdr){CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
			memcpy(CMSG_DATA(&control.align), &fd, sizeof(fd));
		}
		n = sendmsg(c->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n > 0) {
			line += n;
			length -= (size_t)n;
			fd = -1;
		} else if (n < 0 && errno != EAGAIN && errno != EINTR) {
			return lost(c, err);
		} else if (until >= 0 && remaining(until) == 0) {
			return hv_fail(err, ETIMEDOUT, "%s does not read what it is sent", c->who);
		} else {
			(void)poll(&p, 1, remaining(until));
		}
	}
	return 0;
}

/* Reads until the answer with our id; events on the way are kept, answers to older requests that we gave up
 * on go. */
static int await_answer(struct hv_qmp_client *c, int64_t until, json_t **result, struct hv_error *err)
{
	const char *desc;
	json_t *o, *id;
	int rc;

	for (;;) {
		rc = next_object(c, until, &o, err);
		if (rc)
			return rc;
		id = json_object_get(o, "id");
		if (json_object_get(o, "event"))
			keep_event(c, o);
		else if (id && json_integer_value(id) != (json_int_t)c->id)
			json_decref(o);
		else
			break;
		if (until >= 0 && remaining(until) == 0) /* without end, all that is no answer either */
			return hv_fail(err, ETIMEDOUT, "%s does not answer in time", c->who);
	}
	if (json_object_get(o, "error")) {
		desc = json_string_value(json_object_get(json_object_get(o, "error"), "desc"));
		rc = hv_fail(err, EREMOTEIO, "%s", desc ? desc : "the VM refuses without a reason");
	} else {
		*result = json_incref(json_object_get(o, "return"));
		rc = *result ? 0 : hv_fail(err, EPROTO, "%s: an answer without a result", c->who);
	}
	json_decref(o);
	return rc;
}

int hv_qmp_execute(struct hv_qmp_client *c, const char *command, json_t *arguments, int fd, json_t **result,
		   struct hv_error *err)
{
	int64_t until = deadline(c->timeout_ms);
	json_t *request;
	char *line;
	int rc;

	*result = NULL;
	if (!c->alive)
		return lost(c, err);
	request = json_pack("{s:s, s:I}", "execute", command, "id", (json_int_t)++c->id);
	if (request && arguments)
		json_object_set(request, "arguments", arguments);
	line = request ? json_dumps(request, JSON_COMPACT) : NULL;
	json_decref(request);
	if (!line)
		return hv_fail(err, ENOMEM, "not enough memory for the request");
	rc = send_line(c, line, strlen(line), fd, until, err);
	free(line);
	return rc ? rc : await_answer(c, until, result, err);
}

json_t *hv_qmp_event(struct hv_qmp_client *c, int timeout_ms)
{
	int64_t until = deadline(timeout_ms);
	json_t *event;

	while (json_array_size(c->events) == 0) {
		json_t *o;

		if (!c->alive || next_object(c, until, &o, NULL))
			return NULL;
		if (json_object_get(o, "event"))
			keep_event(c, o);
		else
			json_decref(o); /* the answer to a request whose time ran out */
	}
	event = json_incref(json_array_get(c->events, 0));
	json_array_remove(c->events, 0);
	return event;
}

void hv_qmp_set_timeout(struct hv_qmp_client *c, int timeout_ms)
{
	c->timeout_ms = timeout_ms;
}

int hv_qmp_fd(const struct hv_qmp_client *c)
{
	return c->fd;
}

bool hv_qmp_alive(const struct hv_qmp_client *c)
{
	return c->alive;
}

pid_t hv_qmp_pid(const struct hv_qmp_client *c)
{
	return c->pid;
}

void hv_qmp_close(struct hv_qmp_client *c)
{
	if (!c)
		return;
	if (c->fd >= 0)
		close(c->fd);
	json_decref(c->events);
	hv_qmp_scan_free(&c->scan);
	free(c->who);
	free(c);
}

/* A name becomes the path in the registry. */
static int find_path(const char *name_or_path, char *path, size_t size, struct hv_error *err)
{
	int rc, n;

	if (strchr(name_or_path, '/')) {
		n = snprintf(path, size, "%s", name_or_path);
		return (size_t)n < size ? 0
					: hv_fail(err, ENAMETOOLONG, "the path of the socket is too long");
	}
	rc = hv_name_check(name_or_path, err);
	if (rc)
		return rc;
	rc = hv_runtime_dir(path, HV_RUNTIME_PATH_MAX, 0, err);
	if (rc && rc != -ENOENT)
		return rc;
	n = (int)strlen(path);
	snprintf(path + n, size - (size_t)n, "/%s.sock", name_or_path);
	return 0;
}

static int greet(struct hv_qmp_client *c, struct hv_error *err)
{
	json_t *greeting = NULL, *result, *error;
	int rc = next_object(c, deadline(c->timeout_ms), &greeting, err);

	if (rc)
		return rc;
	error = json_object_get(greeting, "error");
	if (error) {
		const char *desc = json_string_value(json_object_get(error, "desc"));

		rc = hv_fail(err, ECONNREFUSED, "%s turns us away: %s", c->who,
			     desc ? desc : "no reason given");
	} else if (!json_object_get(greeting, "QMP")) {
		rc = hv_fail(err, EPROTO, "%s: what listens there does not speak QMP", c->who);
	}
	json_decref(greeting);
	if (!rc)
		rc = hv_qmp_execute(c, "qmp_capabilities", NULL, -1, &result, err);
	if (!rc)
		json_decref(result);
	return rc;
}

int hv_qmp_connect(struct hv_qmp_client **out, const char *name_or_path, int timeout_ms, struct hv_error *err)
{
	char path[HV_RUNTIME_PATH_MAX + HV_NAME_MAX + 8];
	struct hv_qmp_client *c;
	struct ucred peer = {0};
	socklen_t length = sizeof(peer);
	int rc = find_path(name_or_path, path, sizeof(path), err);

	*out = NULL;
	if (rc)
		return rc;
	rc = hv_registry_connect(path, timeout_ms, err);
	if (rc == -ENOENT || rc == -ECONNREFUSED)
		return hv_fail(err, ENOENT, "no VM '%s' is running; `hvctl list` shows those that are",
			       name_or_path);
	if (rc < 0)
		return rc;
	c = calloc(1, sizeof(*c));
	if (!c) {
		close(rc);
		return hv_fail(err, ENOMEM, "not enough memory");
	}
	*c = (struct hv_qmp_client){
		.fd = rc, .timeout_ms = timeout_ms, .alive = true, .events = json_array()};
	hv_qmp_scan_init(&c->scan, ANSWER_MAX);
	if (getsockopt(c->fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0)
		c->pid = peer.pid;
	rc = asprintf(&c->who, "VM '%s'", name_or_path) < 0 ? hv_fail(err, ENOMEM, "not enough memory")
							    : greet(c, err);
	if (rc) {
		hv_qmp_close(c);
		return rc;
	}
	*out = c;
	return 0;
}
