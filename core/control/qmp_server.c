/*
 * The QMP server: see qmp.h. One thread listens; one thread a client reads requests, runs them and writes
 * responses; events come from the machine's threads. What a client sends goes qmp_scan -> qmp_dispatch -> its
 * output queue.
 *
 * No client can hold up another or a vCPU: each has its own thread and queue, an event is only ever appended
 * to a queue (or dropped and counted when the queue is full), a client is not read from while it does not
 * read itself, and one that takes nothing for STALL_MS is closed.
 *
 * Locks: server->lock guards the table of clients, client->lock its queue; the first may be held when the
 * second is taken, never the other way round, and neither while a command runs.
 */
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/signals.h"
#include "base/thread.h"
#include "control/qmp.h"
#include "control/qmp_dispatch.h"
#include "control/qmp_scan.h"

#define STALL_MS     5000        /* a client that takes no byte of its answers for so long is closed */
#define FLUSH_MS     250         /* what is left gets so long when the server stops */
#define NEGOTIATE_MS 5000        /* after so long, a client that says nothing may lose its place */
#define EVENTS_MAX   (256 << 10) /* bytes that wait for a client; beyond it events are dropped */
#define BALLOON_MS   1000        /* between two BALLOON_CHANGE: a driver makes one of every 256 pages */
#define READ_SIZE    (64 << 10)

struct client {
	struct hv_qmp_server *server;
	pthread_t thread;
	int fd, wake; /* wake: eventfd, something was put into the queue by another thread */
	int64_t since_ms;
	_Atomic bool done, negotiated;

	pthread_mutex_t lock; /* of what follows */
	char *out;
	size_t out_at, out_length, out_capacity;
	uint64_t dropped;
	bool broken; /* the socket takes nothing any more */

	struct hv_qmp_session session; /* the thread's own, as scan is */
	struct hv_qmp_scan scan;
};

struct hv_qmp_server {
	struct hv_machine *machine;
	const struct hv_log *log;
	int listen_fd;  /* borrowed */
	int stop, reap; /* eventfds: leave; a client is done, or an event is due later */
	int subscription;
	pthread_t thread;
	pthread_mutex_t lock; /* of what follows */
	struct client *clients[HV_QMP_CLIENTS_MAX];
	bool balloon_due; /* BALLOON_CHANGE is to follow at balloon_ms, with what is right then */
	int64_t balloon_ms;
};

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static void ring(int eventfd_)
{
	uint64_t one = 1;

	(void)!write(eventfd_, &one, sizeof(one));
}

static void silence(int eventfd_)
{
	uint64_t count;

	(void)!read(eventfd_, &count, sizeof(count));
}

/* --- the output queue --- */

/* Sends what the socket takes now. With the lock held. True when something went. */
static bool flush_locked(struct client *c)
{
	size_t before = c->out_at;

	while (!c->broken && c->out_at < c->out_length) {
		ssize_t n = send(c->fd, c->out + c->out_at, c->out_length - c->out_at,
				 MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n > 0)
			c->out_at += (size_t)n;
		else if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			break;
		else if (n < 0 && errno != EINTR)
			c->broken = true;
	}
	before = c->out_at - before;
	if (c->out_at == c->out_length || c->broken) {
		c->out_at = c->out_length = 0;
		if (c->out_capacity > READ_SIZE) {
			free(c->out);
			c->out = NULL;
			c->out_capacity = 0;
		}
	}
	return before > 0;
}

static int append_locked(struct client *c, const char *text, size_t length)
{
	if (c->out_at) {
		memmove(c->out, c->out + c->out_at, c->out_length - c->out_at);
		c->out_length -= c->out_at;
		c->out_at = 0;
	}
	if (length > c->out_capacity - c->out_length) {
		size_t capacity = c->out_length + length + 4096;
		char *grown = realloc(c->out, capacity);

		if (!grown)
			return -ENOMEM;
		c->out = grown;
		c->out_capacity = capacity;
	}
	memcpy(c->out + c->out_length, text, length);
	c->out_length += length;
	return 0;
}

/* Any thread, never waits: send() does not, and the lock is only held for copies. */
static void put_event(struct client *c, const char *line, size_t length)
{
	bool waiting;

	pthread_mutex_lock(&c->lock);
	if (c->out_length - c->out_at + length > EVENTS_MAX || append_locked(c, line, length))
		c->dropped++;
	flush_locked(c);
	waiting = c->out_length > c->out_at;
	pthread_mutex_unlock(&c->lock);
	if (waiting)
		ring(c->wake);
}

/*
 * A response is never dropped: the client asked, and one request at a time can be in work. Events follow from
 * the answer to qmp_capabilities on: not before it, and none is missed once the client can have read it.
 */
static void put_response(struct client *c, json_t *response)
{
	char *line = response ? json_dumps(response, JSON_COMPACT) : NULL;

	pthread_mutex_lock(&c->lock);
	if (!line || append_locked(c, line, strlen(line)) || append_locked(c, "\r\n", 2))
		c->broken = true; /* no memory: better no client than one that waits for ever */
	atomic_store(&c->negotiated, c->session.negotiated);
	flush_locked(c);
	pthread_mutex_unlock(&c->lock);
	free(line);
	json_decref(response);
}

static size_t waiting(struct client *c, bool *broken)
{
	size_t length;

	pthread_mutex_lock(&c->lock);
	length = c->out_length - c->out_at;
	*broken = c->broken;
	pthread_mutex_unlock(&c->lock);
	return length;
}

/* --- a client's thread --- */

/* Runs what is complete, as long as the client takes its answers. False: close the connection. */
static bool serve(struct client *c)
{
	const char *text;
	size_t length;
	bool broken;
	int rc;

	while (waiting(c, &broken) == 0 && !broken) {
		rc = hv_qmp_scan_next(&c->scan, &text, &length);
		if (rc == 0)
			return true;
		if (rc < 0) {
			put_response(c, hv_qmp_error("GenericError",
						     rc == -ELOOP ? "JSON parse error, nested too deeply"
								  : "JSON parse error, request too long"));
			return false;
		}
		put_response(c, hv_qmp_respond(&c->session, text, length));
	}
	return !broken;
}

static void take_descriptors(struct client *c, struct msghdr *m)
{
	for (struct cmsghdr *h = CMSG_FIRSTHDR(m); h; h = CMSG_NXTHDR(m, h)) {
		size_t count = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < count; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(h) + i * sizeof(int), sizeof(fd));
			hv_qmp_session_receive(&c->session, fd);
		}
	}
}

/* Reads once. 1: something came; 0: the client will send nothing more; negative: it is gone. */
static int receive(struct client *c, char *buf)
{
	union {
		char room[CMSG_SPACE(sizeof(int) * HV_QMP_PENDING_MAX)];
		struct cmsghdr align;
	} control;
	struct iovec iov = {buf, READ_SIZE};
	struct msghdr m = {.msg_iov = &iov,
			   .msg_iovlen = 1,
			   .msg_control = control.room,
			   .msg_controllen = sizeof(control.room)};
	ssize_t n = recvmsg(c->fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 1 : -errno;
	take_descriptors(c, &m);
	if (n == 0)
		return 0;
	return hv_qmp_scan_feed(&c->scan, buf, (size_t)n) ? -ENOMEM : 1;
}

/*
 * Writes what is left until it is gone, the client takes nothing for `stall` ms, or (stoppable) the server
 * stops.
 */
static void drain(struct client *c, int64_t stall, bool stoppable)
{
	int64_t until = now_ms() + stall;
	bool broken;

	while (waiting(c, &broken) > 0 && !broken) {
		struct pollfd p[] = {{c->fd, POLLOUT, 0}, {stoppable ? c->server->stop : -1, POLLIN, 0}};
		int64_t left = until - now_ms();

		if (left <= 0 || (poll(p, 2, (int)left) < 0 && errno != EINTR) || p[1].revents)
			return;
		pthread_mutex_lock(&c->lock);
		if (flush_locked(c) && stoppable)
			until = now_ms() + stall;
		pthread_mutex_unlock(&c->lock);
	}
}

/* One turn: waits for the socket, the stop or another thread's event, and deals with it. False: it is over.
 */
static bool turn(struct client *c, char *buf, int64_t *progress)
{
	bool broken, moved = false;
	bool full = waiting(c, &broken) > 0;
	bool pending = c->scan.at < c->scan.length; /* serve stopped because the client did not read */
	struct pollfd p[] = {
		{c->fd,
		 (short)(full      ? POLLOUT
			 : pending ? 0
				   : POLLIN),
		 0},
		{c->wake, POLLIN, 0},
		{c->server->stop, POLLIN, 0},
	};
	int64_t left = full ? *progress + STALL_MS - now_ms() : pending ? 0 : -1;

	if (broken || (full && left <= 0))
		return false;
	if ((poll(p, HV_ARRAY_SIZE(p), (int)left) < 0 && errno != EINTR) || p[2].revents)
		return false;
	if (p[1].revents)
		silence(c->wake);
	if (full && p[0].revents) {
		pthread_mutex_lock(&c->lock);
		moved = flush_locked(c);
		pthread_mutex_unlock(&c->lock);
	} else if (!full && !pending && p[0].revents && receive(c, buf) <= 0) {
		return false;
	}
	if (!serve(c))
		return false;
	if (!full || moved)
		*progress = now_ms();
	return true;
}

static void *client_thread(void *arg)
{
	struct client *c = arg;
	struct pollfd stop = {c->server->stop, POLLIN, 0};
	char *buf = malloc(READ_SIZE);
	int64_t progress = now_ms();

	hv_thread_answer_soon();
	put_response(c, hv_qmp_greeting());
	while (buf && turn(c, buf, &progress))
		;
	free(buf);
	/* A client that has closed its sending side still reads (nc -N, printf | socat): it gets what it
	 * asked for. */
	drain(c, STALL_MS, true);
	if (poll(&stop, 1, 0) > 0)
		drain(c, FLUSH_MS, false);
	shutdown(c->fd, SHUT_RDWR);
	if (c->dropped)
		hv_log(c->server->log, HV_LOG_WARN,
		       "control socket: a client did not read, %llu events were dropped",
		       (unsigned long long)c->dropped);
	atomic_store(&c->done, true);
	ring(c->server->reap);
	return NULL;
}

/* --- events --- */

static const char *shutdown_reason(enum hv_end_reason reason, bool *guest)
{
	*guest = reason == HV_END_GUEST_EXIT || reason == HV_END_HALT || reason == HV_END_TRIPLE_FAULT ||
		 reason == HV_END_PANIC;
	switch (reason) {
	case HV_END_GUEST_EXIT:
	case HV_END_HALT:
		return "guest-shutdown";
	case HV_END_TRIPLE_FAULT: /* on a PC, that is a reset; hvrun ends, as QEMU does with -no-reboot */
		return "guest-reset";
	case HV_END_PANIC:
		return "guest-panic";
	case HV_END_QUIT:
		return "host-qmp-quit";
	case HV_END_TIMEOUT:
		return "host-signal";
	default:
		return "host-error";
	}
}

/* To all clients that listen. data: ",\"data\":{...}" or "". With the lock held. */
static void broadcast(struct hv_qmp_server *s, const char *name, const char *data)
{
	struct timespec ts;
	char line[512];
	int n;

	clock_gettime(CLOCK_REALTIME, &ts);
	n = snprintf(line, sizeof(line),
		     "{\"timestamp\":{\"seconds\":%lld,\"microseconds\":%ld},\"event\":\"%s\"%s}\r\n",
		     (long long)ts.tv_sec, ts.tv_nsec / 1000, name, data);
	for (unsigned i = 0; i < HV_QMP_CLIENTS_MAX; i++) {
		if (s->clients[i] && atomic_load(&s->clients[i]->negotiated))
			put_event(s->clients[i], line, (size_t)n);
	}
}

static void balloon_locked(struct hv_qmp_server *s)
{
	char data[64];

	snprintf(data, sizeof(data), ",\"data\":{\"actual\":%llu}",
		 (unsigned long long)hv_machine_balloon_actual(s->machine));
	s->balloon_due = false;
	s->balloon_ms = now_ms() + BALLOON_MS;
	broadcast(s, "BALLOON_CHANGE", data);
}

/* As in QEMU at most once a second; of those in between only the last, and that one surely. */
static void balloon_event(struct hv_qmp_server *s)
{
	bool wake;

	pthread_mutex_lock(&s->lock);
	wake = now_ms() < s->balloon_ms && !s->balloon_due;
	if (wake)
		s->balloon_due = true;
	else if (!s->balloon_due)
		balloon_locked(s);
	pthread_mutex_unlock(&s->lock);
	if (wake)
		ring(s->reap);
}

/* QEMU's members; nothing here needs escaping in JSON. */
static void io_error_data(const struct hv_io_error *e, char *data, size_t size)
{
	const char *reason = strerrordesc_np(e->error);

	snprintf(data, size,
		 ",\"data\":{\"device\":\"%s\",\"node-name\":\"%s\",\"operation\":\"write\","
		 "\"action\":\"stop\",\"nospace\":true,\"reason\":\"%s\"}",
		 e->device, e->device, reason ? reason : "no room");
}

/* hv_event_fn: called by the machine, and does no more than append to queues. */
static void on_event(void *ctx, enum hv_event event, int detail)
{
	static const char *const names[] = {
		[HV_EVENT_STOP] = "STOP",   [HV_EVENT_RESUME] = "RESUME",
		[HV_EVENT_RESET] = "RESET", [HV_EVENT_SHUTDOWN] = "SHUTDOWN",
		[HV_EVENT_DEBUG] = "STOP",  [HV_EVENT_IO_ERROR] = "BLOCK_IO_ERROR",
	};
	struct hv_qmp_server *s = ctx;
	char data[320] = "";
	bool guest;

	if (event == HV_EVENT_BALLOON) {
		balloon_event(s);
		return;
	}
	if (event == HV_EVENT_SHUTDOWN) {
		const char *reason = shutdown_reason((enum hv_end_reason)detail, &guest);

		snprintf(data, sizeof(data), ",\"data\":{\"guest\":%s,\"reason\":\"%s\"}",
			 guest ? "true" : "false", reason);
	} else if (event == HV_EVENT_RESET) {
		guest = detail != 0;
		snprintf(data, sizeof(data), ",\"data\":{\"guest\":%s,\"reason\":\"%s\"}",
			 guest ? "true" : "false", guest ? "guest-reset" : "host-qmp-system-reset");
	} else if (event == HV_EVENT_IO_ERROR) {
		io_error_data(hv_machine_io_error(s->machine), data, sizeof(data));
	}
	pthread_mutex_lock(&s->lock);
	broadcast(s, names[event], data);
	pthread_mutex_unlock(&s->lock);
}

/* The balloon's event, if it is due; until the next one is, in ms, or -1. On the listener. */
static int balloon_wait(struct hv_qmp_server *s)
{
	int64_t left = -1;

	pthread_mutex_lock(&s->lock);
	if (s->balloon_due) {
		left = s->balloon_ms - now_ms();
		if (left <= 0)
			balloon_locked(s);
		left = left <= 0 ? -1 : left;
	}
	pthread_mutex_unlock(&s->lock);
	return (int)left;
}

/* --- the listener --- */

static void client_free(struct client *c)
{
	if (c->fd >= 0)
		close(c->fd);
	if (c->wake >= 0)
		close(c->wake);
	hv_qmp_session_free(&c->session);
	hv_qmp_scan_free(&c->scan);
	pthread_mutex_destroy(&c->lock);
	free(c->out);
	free(c);
}

/* Joins client i's thread, which is done or about to be, and frees its place. On the listener, or after it.
 */
static void bury(struct hv_qmp_server *s, unsigned i)
{
	struct client *c = s->clients[i];

	pthread_join(c->thread, NULL);
	pthread_mutex_lock(&s->lock);
	s->clients[i] = NULL;
	pthread_mutex_unlock(&s->lock);
	client_free(c);
}

static void reap(struct hv_qmp_server *s)
{
	for (unsigned i = 0; i < HV_QMP_CLIENTS_MAX; i++) {
		if (s->clients[i] && atomic_load(&s->clients[i]->done))
			bury(s, i);
	}
}

/*
 * A place for a new client. When all are taken, the one that has been silent since its greeting for longest,
 * and for NEGOTIATE_MS at least, is hung up on; its place is free when its thread has seen that.
 */
static int find_place(struct hv_qmp_server *s)
{
	int oldest = -1;

	reap(s);
	for (int i = 0; i < HV_QMP_CLIENTS_MAX; i++) {
		struct client *c = s->clients[i];

		if (!c)
			return i;
		if (!atomic_load(&c->negotiated) && now_ms() - c->since_ms >= NEGOTIATE_MS &&
		    (oldest < 0 || c->since_ms < s->clients[oldest]->since_ms))
			oldest = i;
	}
	if (oldest >= 0) {
		shutdown(s->clients[oldest]->fd, SHUT_RDWR);
		bury(s, (unsigned)oldest);
	}
	return oldest;
}

static bool peer_allowed(struct hv_qmp_server *s, int fd)
{
	struct ucred peer;
	socklen_t length = sizeof(peer);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0)
		return false;
	if (peer.uid == geteuid() || peer.uid == 0)
		return true;
	hv_log(s->log, HV_LOG_WARN, "control socket: turned away process %d of user %u", (int)peer.pid,
	       (unsigned)peer.uid);
	return false;
}

static void turn_away(int fd, const char *why)
{
	char line[160];
	int n = snprintf(line, sizeof(line), "{\"error\":{\"class\":\"GenericError\",\"desc\":\"%s\"}}\r\n",
			 why);

	(void)!send(fd, line, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL);
	close(fd);
}

static struct client *client_new(struct hv_qmp_server *s, int fd)
{
	struct client *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->server = s;
	c->fd = fd;
	c->since_ms = now_ms();
	c->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	pthread_mutex_init(&c->lock, NULL);
	hv_qmp_session_init(&c->session, s->machine);
	hv_qmp_scan_init(&c->scan, HV_QMP_LINE_MAX);
	if (c->wake >= 0)
		return c;
	c->fd = -1; /* stays the caller's */
	client_free(c);
	return NULL;
}

static void welcome(struct hv_qmp_server *s, int fd)
{
	struct client *c;
	int place;

	if (!peer_allowed(s, fd)) {
		close(fd);
		return;
	}
	place = find_place(s);
	if (place < 0) {
		turn_away(fd, "too many connections; close one");
		return;
	}
	c = client_new(s, fd);
	if (!c) {
		turn_away(fd, "not enough memory or descriptors");
		return;
	}
	pthread_mutex_lock(&s->lock);
	s->clients[place] = c;
	pthread_mutex_unlock(&s->lock);
	if (pthread_create(&c->thread, NULL, client_thread, c)) {
		pthread_mutex_lock(&s->lock);
		s->clients[place] = NULL;
		pthread_mutex_unlock(&s->lock);
		client_free(c);
	}
}

static void *listener_thread(void *arg)
{
	struct hv_qmp_server *s = arg;
	struct pollfd p[] = {{s->listen_fd, POLLIN, 0}, {s->reap, POLLIN, 0}, {s->stop, POLLIN, 0}};

	hv_thread_answer_soon();
	for (;;) {
		if (poll(p, HV_ARRAY_SIZE(p), balloon_wait(s)) < 0 && errno != EINTR)
			return NULL;
		if (p[2].revents)
			return NULL;
		if (p[1].revents) {
			silence(s->reap);
			reap(s);
		}
		if (p[0].revents) {
			int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

			if (fd >= 0)
				welcome(s, fd);
			else if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
				(void)poll(&p[2], 1, 100); /* out of descriptors: not a reason to spin */
		}
	}
}

/* --- start and stop --- */

static void server_free(struct hv_qmp_server *s)
{
	if (s->stop >= 0)
		close(s->stop);
	if (s->reap >= 0)
		close(s->reap);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

/* Signals are the main thread's: these threads must not run its handlers. What they create inherits the mask.
 */
static int start_listener(struct hv_qmp_server *s)
{
	sigset_t before;
	int rc;

	hv_signals_block(&before);
	rc = pthread_create(&s->thread, NULL, listener_thread, s);
	hv_signals_unblock(&before);
	return rc;
}

int hv_qmp_server_start(struct hv_qmp_server **out, struct hv_machine *machine, struct hv_registration *r,
			const struct hv_log *log, struct hv_error *err)
{
	struct hv_qmp_server *s = calloc(1, sizeof(*s));
	int rc;

	*out = NULL;
	if (!s)
		return hv_fail(err, ENOMEM, "not enough memory for the control socket");
	hv_qmp_prepare();
	*s = (struct hv_qmp_server){
		.machine = machine, .log = log, .listen_fd = r->listen_fd, .subscription = -1};
	pthread_mutex_init(&s->lock, NULL);
	s->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	s->reap = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->stop < 0 || s->reap < 0) {
		rc = hv_fail_errno(err, "the control socket cannot be served");
		server_free(s);
		return rc;
	}
	if (machine && (s->subscription = rc = hv_machine_subscribe(machine, on_event, s, err)) < 0) {
		server_free(s);
		return rc;
	}
	rc = start_listener(s);
	if (rc) {
		if (machine)
			hv_machine_unsubscribe(machine, s->subscription);
		server_free(s);
		return hv_fail(err, rc, "the control socket cannot be served: %s", strerror(rc));
	}
	*out = s;
	return 0;
}

void hv_qmp_server_stop(struct hv_qmp_server *s)
{
	if (!s)
		return;
	ring(s->stop);
	pthread_join(s->thread, NULL);
	if (s->machine)
		hv_machine_unsubscribe(s->machine, s->subscription);
	for (unsigned i = 0; i < HV_QMP_CLIENTS_MAX; i++) {
		if (s->clients[i])
			bury(s, i);
	}
	server_free(s);
}
