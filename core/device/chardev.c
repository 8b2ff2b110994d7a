/*
 * The host's side of a serial line: bytes in motion. Output goes straight from the vCPU's thread to the
 * descriptor as long as that takes it, since a thread in between would cost every byte a context switch; what
 * it doesn't take waits in a ring. One thread, made when there is something to wait for, sleeps in poll for
 * input, for room and for clients. chardev_open.c opens and closes.
 *
 * Two locks meet here: a device calls hv_chardev_write with its own lock held, and takes that lock again in
 * its input function. So input is never offered with c->lock held. This room calls base only.
 */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "base/signals.h"
#include "base/thread.h"
#include "device/chardev_impl.h"

#define STACK_SIZE (256u << 10)
#define CHUNK      CHARDEV_IN /* bytes of input read at once */
#define STALL_MS   1000       /* a console's client that takes no byte for so long is not waited for */

void hv_chardev_kick(struct hv_chardev *c)
{
	(void)!eventfd_write(c->wake_fd,
			     1); /* fails only when the counter is full, and then it wakes anyway */
}

static void *chardev_thread(void *arg);

/* Makes the thread, once it is allowed and needed. It takes no signals: those are for the process's main
 * thread. */
static int make_thread(struct hv_chardev *c)
{
	pthread_attr_t attr;
	sigset_t before;
	int rc;

	if (c->running)
		return 0;
	if (!c->started)
		return -EAGAIN;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_SIZE);
	hv_signals_block(&before);
	rc = pthread_create(&c->thread, &attr, chardev_thread, c);
	hv_signals_unblock(&before);
	pthread_attr_destroy(&attr);
	c->running = rc == 0;
	return -rc;
}

void hv_chardev_connect(struct hv_chardev *c, hv_chardev_input_fn *input, void *ctx)
{
	c->input = input;
	c->input_ctx = ctx;
}

void hv_chardev_set_filter(struct hv_chardev *c, hv_chardev_filter_fn *filter, void *ctx)
{
	c->filter = filter;
	c->filter_ctx = ctx;
}

void hv_chardev_set_wanted(struct hv_chardev *c, hv_chardev_wanted_fn *wanted, void *ctx)
{
	c->wanted = wanted;
	c->wanted_ctx = ctx;
}

void hv_chardev_set_watch(struct hv_chardev *c, hv_chardev_watch_fn *watch, void *ctx, bool channel)
{
	c->watch = watch;
	c->watch_ctx = ctx;
	c->channel = channel;
}

int hv_chardev_start(struct hv_chardev *c, struct hv_error *err)
{
	int rc = 0;

	pthread_mutex_lock(&c->lock);
	c->started = true;
	if (c->in_fd >= 0 || c->listener.fd >= 0 || c->out_used > 0)
		rc = make_thread(c);
	pthread_cond_broadcast(&c->room);
	pthread_mutex_unlock(&c->lock);
	return rc ? hv_fail(err, -rc, "%s line: cannot start its thread: %s", hv_chardev_line(c),
			    strerror(-rc))
		  : 0;
}

/* --- output, with the lock held --- */

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static ssize_t push_once(struct hv_chardev *c, const uint8_t *data, size_t count)
{
	struct pollfd p = {.fd = c->out_fd, .events = POLLOUT};

	switch (c->push) {
	case CHARDEV_PUSH_SEND:
		return send(c->out_fd, data, count, MSG_DONTWAIT | MSG_NOSIGNAL);
	case CHARDEV_PUSH_POLL:
		if (poll(&p, 1, 0) == 0) {
			errno = EAGAIN;
			return -1;
		}
		return write(c->out_fd, data, count < c->piece ? count : c->piece);
	case CHARDEV_PUSH_WRITE:
		break;
	}
	return write(c->out_fd, data, count);
}

/* As much as the descriptor takes now. A failure for good swallows it all; a client that left takes nothing.
 */
static size_t push(struct hv_chardev *c, const uint8_t *data, size_t count)
{
	size_t done = 0;

	while (done < count && !c->gone) {
		ssize_t n = push_once(c, data + done, count - done);

		if (n >= 0) {
			done += (size_t)n;
		} else if (errno == EAGAIN) {
			break;
		} else if (errno != EINTR && c->config.kind == HV_CHARDEV_UNIX) {
			c->gone = true;
			hv_chardev_kick(c);
		} else if (errno != EINTR) {
			c->broken = true;
			hv_log(c->log, HV_LOG_WARN, "%s line: its output is lost from here on: %s",
			       hv_chardev_line(c), strerror(errno));
			return count;
		}
	}
	return done;
}

/* From the ring to the descriptor; whoever waits for room is woken. */
static void drain(struct hv_chardev *c)
{
	size_t before = c->out_used;

	while (c->out_used > 0 && c->out_fd >= 0) {
		size_t run = CHARDEV_RING - c->out_at;
		size_t n;

		run = run < c->out_used ? run : c->out_used;
		n = c->broken ? run : push(c, c->out + c->out_at, run);
		c->out_at = (c->out_at + n) % CHARDEV_RING;
		c->out_used -= n;
		if (n < run)
			break;
	}
	if (c->out_used == 0)
		c->out_at = 0; /* small bursts stay in the ring's first pages */
	if (c->out_used < before) {
		c->stalled = false;
		c->stall_ms = now_ms() + STALL_MS;
		pthread_cond_broadcast(&c->room);
	}
}

/* Into the ring, as much as fits below the limit. */
static size_t keep(struct hv_chardev *c, const uint8_t *data, size_t count, size_t limit)
{
	size_t end = (c->out_at + c->out_used) % CHARDEV_RING;
	size_t room = limit > c->out_used ? limit - c->out_used : 0;
	size_t first;

	count = count < room ? count : room;
	first = count < CHARDEV_RING - end ? count : CHARDEV_RING - end;
	memcpy(c->out + end, data, first);
	memcpy(c->out, data + first, count - first);
	c->out_used += count;
	return count;
}

static void forget_oldest(struct hv_chardev *c, size_t count)
{
	count = count < c->out_used ? count : c->out_used;
	c->out_at = (c->out_at + count) % CHARDEV_RING;
	c->out_used -= count;
	c->dropped += count;
}

static bool is_wanted(const struct hv_chardev *c)
{
	return c->wanted && c->wanted(c->wanted_ctx);
}

void hv_chardev_write(struct hv_chardev *c, const void *data, size_t count)
{
	const uint8_t *p = data;
	bool lossy = c->config.kind == HV_CHARDEV_PTY || c->config.kind == HV_CHARDEV_UNIX;

	if (c->config.kind == HV_CHARDEV_NONE)
		return;
	pthread_mutex_lock(&c->lock);
	while (count > 0 && !c->broken) {
		size_t n;

		if (c->out_used == 0 && c->out_fd >= 0) {
			n = push(c, p, count);
			p += n;
			count -= n;
			if (count == 0)
				break;
		}
		if (!c->out && !(c->out = malloc(CHARDEV_RING)))
			break;
		if (lossy && count > CHARDEV_OUT - c->out_used)
			forget_oldest(c, count - (CHARDEV_OUT - c->out_used));
		n = keep(c, p, count, CHARDEV_OUT);
		if (n < count && !lossy && is_wanted(c))
			n += keep(c, p + n, count - n, CHARDEV_RING);
		p += n;
		count -= n;
		if (make_thread(c) == 0)
			hv_chardev_kick(c);
		if (count == 0 || lossy)
			continue;
		if ((c->started && !c->running) || atomic_load(&c->stopping))
			break;
		pthread_cond_wait(&c->room,
				  &c->lock); /* or until the start, which may come after the guest's */
	}
	pthread_mutex_unlock(&c->lock);
}

/* A console whose reader has stopped reading must not stop the guest: a kernel waits for its console. */
static bool may_stall(const struct hv_chardev *c)
{
	return c->config.kind == HV_CHARDEV_UNIX && !c->channel && c->out_fd >= 0;
}

/* Whether bytes that don't fit now are better dropped than waited for, as nobody takes any. */
static bool is_deaf(const struct hv_chardev *c)
{
	if (c->config.kind == HV_CHARDEV_PTY)
		return !c->channel;
	return c->config.kind == HV_CHARDEV_UNIX && !c->channel && (c->out_fd < 0 || c->stalled);
}

/* A channel's client isn't there, or won't take a byte any more. */
static bool has_no_hearer(const struct hv_chardev *c)
{
	return c->config.kind == HV_CHARDEV_NONE || c->broken || (c->channel && (c->out_fd < 0 || c->gone));
}

size_t hv_chardev_offer(struct hv_chardev *c, const void *data, size_t count)
{
	const uint8_t *p = data;
	size_t done = 0;

	pthread_mutex_lock(&c->lock);
	if (!has_no_hearer(c) && c->out_used == 0 && c->out_fd >= 0)
		done = push(c, p, count);
	if (has_no_hearer(c) || (done < count && !c->out && !(c->out = malloc(CHARDEV_RING))))
		done = count;
	if (done < count) {
		size_t left = count - done, room = c->out_used < CHARDEV_OUT ? CHARDEV_OUT - c->out_used : 0;

		if (is_deaf(c) && left > CHARDEV_OUT) { /* the newest bytes of all stay */
			c->dropped += left - CHARDEV_OUT;
			done = count - CHARDEV_OUT;
			left = CHARDEV_OUT;
		}
		if (is_deaf(c) && left > room)
			forget_oldest(c, left - room);
		done += keep(c, p + done, left, CHARDEV_OUT);
		if (done < count && !c->room_wanted) {
			c->room_wanted = true;
			c->stall_ms = now_ms() + STALL_MS;
		}
		if (make_thread(c) == 0)
			hv_chardev_kick(c);
	}
	pthread_mutex_unlock(&c->lock);
	return done;
}

bool hv_chardev_is_open(struct hv_chardev *c)
{
	bool open;

	pthread_mutex_lock(&c->lock);
	open = c->config.kind != HV_CHARDEV_NONE && !c->broken &&
	       (c->config.kind != HV_CHARDEV_UNIX || (c->out_fd >= 0 && !c->gone));
	pthread_mutex_unlock(&c->lock);
	return open;
}

/* --- input, on the thread --- */

/* Offers bytes until all are taken or the guest has no room. starved is set before the offer: room that the
 * guest makes after a refusal then always wakes us. */
static size_t offer(struct hv_chardev *c, const uint8_t *data, size_t count)
{
	size_t done = 0;

	while (done < count) {
		size_t n;

		atomic_store(&c->starved, true);
		n = c->input ? c->input(c->input_ctx, data + done, count - done) : count - done;
		if (n == 0)
			return done;
		done += n;
	}
	atomic_store(&c->starved, false);
	return done;
}

static void offer_kept(struct hv_chardev *c)
{
	size_t n = offer(c, c->in, c->in_used);

	c->in_used -= n;
	memmove(c->in, c->in + n, c->in_used);
}

static void offer_injected(struct hv_chardev *c)
{
	uint8_t chunk[CHUNK];
	size_t count, taken;

	pthread_mutex_lock(&c->lock);
	while (c->inject && c->inject_taken < c->inject_count) {
		count = c->inject_count - c->inject_taken;
		count = count < sizeof(chunk) ? count : sizeof(chunk);
		memcpy(chunk, c->inject + c->inject_taken, count);
		c->inject_busy = true;
		pthread_mutex_unlock(&c->lock);
		taken = offer(c, chunk, count);
		pthread_mutex_lock(&c->lock);
		c->inject_busy = false;
		c->inject_taken += taken;
		pthread_cond_broadcast(&c->room);
		if (taken < count)
			break;
	}
	pthread_mutex_unlock(&c->lock);
}

static void tell(struct hv_chardev *c, enum hv_chardev_event event)
{
	if (c->watch)
		c->watch(c->watch_ctx, event);
}

static void forget_client(struct hv_chardev *c)
{
	pthread_mutex_lock(&c->lock);
	if (c->out_fd >= 0)
		close(c->out_fd);
	c->in_fd = c->out_fd = -1;
	c->gone = c->half_closed = c->stalled = false;
	if (c->channel)
		forget_oldest(c, c->out_used);
	pthread_mutex_unlock(&c->lock);
	tell(c, HV_CHARDEV_LEFT);
	hv_log(c->log, HV_LOG_INFO, "%s line: the client has left", hv_chardev_line(c));
}

static void take_client(struct hv_chardev *c)
{
	int fd = accept4(c->listener.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0)
		return;
	pthread_mutex_lock(&c->lock);
	c->in_fd = c->out_fd = fd;
	c->gone = c->half_closed = false;
	drain(c);
	pthread_mutex_unlock(&c->lock);
	tell(c, HV_CHARDEV_CAME);
	hv_log(c->log, HV_LOG_INFO, "%s line: a client has come", hv_chardev_line(c));
}

/* A terminal read from the background gives EIO, as SIGTTIN is blocked here: input comes again in the
 * foreground. */
static bool in_background(const struct hv_chardev *c)
{
	pid_t group = c->config.kind == HV_CHARDEV_STDIO ? tcgetpgrp(c->in_fd) : -1;

	return group > 0 && group != getpgrp();
}

/* With a filter a person is typing: escape keys must get through even when the guest takes nothing, so we
 * read on and lose what doesn't fit. Else the sender waits. */
static void read_input(struct hv_chardev *c)
{
	uint8_t chunk[CHUNK], passed[CHUNK];
	size_t room = sizeof(c->in) - c->in_used, count;
	ssize_t n;

	n = read(c->in_fd, chunk, c->filter || room > sizeof(chunk) ? sizeof(chunk) : room);
	if (n < 0 && (errno == EAGAIN || errno == EINTR || (errno == EIO && in_background(c))))
		return;
	if (n <= 0 && c->config.kind == HV_CHARDEV_UNIX) {
		c->half_closed = true; /* when it has left for good, poll says POLLHUP next */
		return;
	}
	if (n <= 0) {
		if (c->in_fd > STDERR_FILENO && c->in_fd != c->out_fd)
			close(c->in_fd);
		c->in_fd = -1;
		return;
	}
	count = (size_t)n;
	if (c->filter)
		count = c->filter(c->filter_ctx, chunk, count, passed);
	if (count > room && !c->lost_input) {
		c->lost_input = true;
		hv_log(c->log, HV_LOG_WARN, "%s line: the guest doesn't read; what is typed is lost",
		       hv_chardev_line(c));
	}
	count = count < room ? count : room;
	memcpy(c->in + c->in_used, c->filter ? passed : chunk, count);
	c->in_used += count;
}

/* --- the thread --- */

enum { FD_WAKE, FD_IN, FD_OUT, FD_LISTEN, FD_COUNT };

/* What to wait for now; a negative descriptor is one that poll skips. Returns its timeout. */
static int prepare(struct hv_chardev *c, struct pollfd *fds)
{
	bool readable = c->in_fd >= 0 && !c->half_closed && (c->filter || c->in_used < sizeof(c->in));
	bool watched = readable || (c->config.kind == HV_CHARDEV_UNIX && !(c->channel && c->in_used > 0));
	int timeout = -1;

	if (readable && in_background(c)) {
		readable = watched = false;
		timeout = 500;
	}
	fds[FD_WAKE] = (struct pollfd){.fd = c->wake_fd, .events = POLLIN};
	/* A client's descriptor stays in the set with no event asked for: poll then still tells of POLLHUP.
	 * Not while a channel's client waits for the guest: whether it has left is looked at after that. */
	fds[FD_IN] = (struct pollfd){.fd = watched ? c->in_fd : -1, .events = readable ? POLLIN : 0};
	pthread_mutex_lock(&c->lock);
	fds[FD_OUT] = (struct pollfd){.fd = c->out_used > 0 && !c->gone ? c->out_fd : -1, .events = POLLOUT};
	if (c->room_wanted && may_stall(c)) {
		int64_t left = c->stall_ms - now_ms();

		timeout = left > 0 ? (int)left : 0;
	}
	pthread_mutex_unlock(&c->lock);
	fds[FD_LISTEN] = (struct pollfd){.fd = c->out_fd < 0 ? c->listener.fd : -1, .events = POLLIN};
	return timeout;
}

/* Whether what is offered finds room again, by bytes that have gone or by a client that isn't waited for. */
static void tell_of_room(struct hv_chardev *c)
{
	bool room = false;

	pthread_mutex_lock(&c->lock);
	if (c->room_wanted) {
		c->stalled |= may_stall(c) && c->out_used > 0 && now_ms() >= c->stall_ms;
		room = c->out_used <= CHARDEV_OUT / 2 || is_deaf(c) || has_no_hearer(c);
		c->room_wanted = !room;
	}
	pthread_mutex_unlock(&c->lock);
	if (room)
		tell(c, HV_CHARDEV_ROOM);
}

static void *chardev_thread(void *arg)
{
	struct hv_chardev *c = arg;
	struct pollfd fds[FD_COUNT];
	eventfd_t ignored;

	hv_thread_answer_soon();
	while (!atomic_load(&c->closing)) {
		bool gone;

		offer_kept(c);
		if (c->in_used == 0)
			offer_injected(c);
		if (poll(fds, FD_COUNT, prepare(c, fds)) < 0)
			continue;
		if (fds[FD_WAKE].revents)
			(void)!eventfd_read(c->wake_fd, &ignored);
		if (fds[FD_IN].revents &
		    (POLLIN | (c->config.kind == HV_CHARDEV_UNIX ? 0 : POLLHUP | POLLERR)))
			read_input(c);
		pthread_mutex_lock(&c->lock);
		if (fds[FD_OUT].revents)
			drain(c);
		gone = c->gone;
		pthread_mutex_unlock(&c->lock);
		gone |= fds[FD_IN].revents & (POLLHUP | POLLERR) && !(fds[FD_IN].revents & POLLIN);
		if (c->channel) /* all that it said is read, and the guest has it */
			gone &= c->half_closed && c->in_used == 0;
		if (c->config.kind == HV_CHARDEV_UNIX && c->in_fd >= 0 && gone)
			forget_client(c);
		if (fds[FD_LISTEN].revents)
			take_client(c);
		tell_of_room(c);
	}
	return NULL;
}

void hv_chardev_input_ready(struct hv_chardev *c)
{
	if (atomic_load_explicit(&c->starved, memory_order_relaxed) && atomic_exchange(&c->starved, false))
		hv_chardev_kick(c);
}

size_t hv_chardev_inject(struct hv_chardev *c, const void *data, size_t count)
{
	struct timespec deadline;
	size_t taken;

	clock_gettime(CLOCK_MONOTONIC, &deadline);
	deadline.tv_sec++;
	pthread_mutex_lock(&c->inject_lock);
	pthread_mutex_lock(&c->lock);
	c->inject = data;
	c->inject_count = count;
	c->inject_taken = 0;
	if (make_thread(c) == 0) {
		hv_chardev_kick(c);
		while (c->inject_taken < count && !atomic_load(&c->stopping))
			if (pthread_cond_timedwait(&c->room, &c->lock, &deadline))
				break;
		while (c->inject_busy) /* the thread has some of them in its hand; a device's input is short
					*/
			pthread_cond_wait(&c->room, &c->lock);
	}
	taken = c->inject_taken;
	c->inject = NULL;
	pthread_mutex_unlock(&c->lock);
	pthread_mutex_unlock(&c->inject_lock);
	return taken;
}

void hv_chardev_nudge(struct hv_chardev *c)
{
	/* With the lock: who has just asked wanted and not yet begun to wait would sleep through it. */
	pthread_mutex_lock(&c->lock);
	pthread_cond_broadcast(&c->room);
	pthread_mutex_unlock(&c->lock);
}

void hv_chardev_stop(struct hv_chardev *c)
{
	atomic_store(&c->stopping, true);
	hv_chardev_nudge(c);
}

/* What is still in the ring, for a second at most; a pty that nobody reads isn't waited for. */
static void flush(struct hv_chardev *c)
{
	int patience =
		c->config.kind == HV_CHARDEV_PTY ? 5 : 100; /* of 10 ms, without progress for the pty */

	for (int ticks = 0; ticks < 100 && patience > 0 && c->out_used > 0 && c->out_fd >= 0 && !c->gone;
	     ticks++) {
		struct pollfd p = {.fd = c->out_fd, .events = POLLOUT};
		size_t before = c->out_used;

		poll(&p, 1, 10);
		drain(c);
		if (c->out_used == before)
			patience--;
	}
}

void hv_chardev_finish(struct hv_chardev *c)
{
	hv_chardev_stop(c);
	atomic_store(&c->closing, true);
	hv_chardev_kick(c);
	if (c->running)
		pthread_join(c->thread, NULL);
	pthread_mutex_lock(&c->lock);
	flush(c);
	if (c->out_used > 0 && c->out_fd >= 0 && c->config.kind != HV_CHARDEV_PTY && !c->gone)
		hv_log(c->log, HV_LOG_WARN, "%s line: its last %zu bytes are lost, as nobody reads them",
		       hv_chardev_line(c), c->out_used);
	pthread_mutex_unlock(&c->lock);
}
