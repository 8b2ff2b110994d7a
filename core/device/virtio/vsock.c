/*
 * The socket device: streams between programs of the guest and Unix sockets of the host, through packets in
 * virtqueues. This file has the device, its queues and its thread; vsock_connection.c has what a packet does
 * to a stream, vsock_host.c the sockets. It calls the transport, these two and base.
 *
 * Rules: virtio 1.2, section 5.10: 5.10.2 (queues), 5.10.4 (configuration), 5.10.6 (packets), 5.10.6.6
 * (events).
 *
 *   rx      to the guest: room for a packet, header and data in one chain
 *   tx      from the guest: likewise
 *   event   to the guest: le32, 0: the transport was reset, all connections are gone
 *
 * The thread sleeps in epoll_wait: on its eventfd, which a vCPU rings when it notifies, a holder when he lets
 * go, and the one who stops the device; on the listening socket; and on each connection's socket. A vCPU does
 * no more than ring. In a round everybody gets a bounded share: packets of the guest's, sockets, and then the
 * connections one after the other a packet to the guest each. Between two steps the thread looks whether it
 * shall rest; no chain is out then.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/signals.h"
#include "device/virtio/vsock_impl.h"

enum { QUEUE_RX, QUEUE_TX, QUEUE_EVENT, QUEUES };

#define ID             19u
#define F_STREAM       (1ull << 0)
#define EVENT_SIZE     4u
#define EVENT_RESET    0u /* VIRTIO_VSOCK_EVENT_TRANSPORT_RESET */
#define SHARE          64 /* packets, sockets, or turns in one round */
#define STACK_SIZE     (1u << 20)
#define TOKEN_WAKE     UINT64_MAX /* epoll's words for what is no connection */
#define TOKEN_LISTENER (UINT64_MAX - 1)

static struct vsock *vsock_of(struct hv_virtio *v)
{
	return hv_container_of(v, struct vsock, v);
}

static uint64_t clock_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000u + (uint64_t)t.tv_nsec / 1000000u;
}

uint64_t hv_vsock_now(const struct vsock *s)
{
	return clock_ms() - s->held_for;
}

void hv_vsock_complain(struct vsock *s, const char *fmt, ...)
{
	char text[512];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	hv_log(s->v.host.log, s->complaints < VSOCK_COMPLAINTS ? HV_LOG_WARN : HV_LOG_INFO, "%s: %s",
	       s->v.name, text);
	s->complaints += s->complaints < VSOCK_COMPLAINTS;
}

/* --- packets, without the lock --- */

/* Lock held. */
static bool shall_rest(const struct vsock *s)
{
	return s->holds || s->ending;
}

static bool take_chain(struct vsock *s, unsigned queue, struct hv_virtq_chain *chain)
{
	bool got;

	pthread_mutex_lock(&s->v.dev.lock);
	got = !shall_rest(s) && hv_virtio_pop(&s->v, queue, chain);
	pthread_mutex_unlock(&s->v.dev.lock);
	return got;
}

static void give_chain(struct vsock *s, unsigned queue, const struct hv_virtq_chain *chain, uint32_t written)
{
	pthread_mutex_lock(&s->v.dev.lock);
	hv_virtio_push(&s->v, queue, chain, written);
	pthread_mutex_unlock(&s->v.dev.lock);
}

static void give_up(struct vsock *s, unsigned queue, const char *what)
{
	pthread_mutex_lock(&s->v.dev.lock);
	hv_virtio_needs_reset(&s->v, queue, what);
	pthread_mutex_unlock(&s->v.dev.lock);
}

bool hv_vsock_take_room(struct vsock *s)
{
	if (!take_chain(s, QUEUE_RX, &s->rx))
		return false;
	if (s->rx.write_length > VSOCK_HEADER)
		return true;
	give_up(s, QUEUE_RX, "a buffer without room for a packet");
	return false;
}

void hv_vsock_send(struct vsock *s, const struct vsock_header *h)
{
	uint8_t raw[VSOCK_HEADER];

	hv_put_le64(raw, h->src_cid);
	hv_put_le64(raw + 8, h->dst_cid);
	hv_put_le32(raw + 16, h->src_port);
	hv_put_le32(raw + 20, h->dst_port);
	hv_put_le32(raw + 24, h->length);
	hv_put_le16(raw + 28, h->type);
	hv_put_le16(raw + 30, h->op);
	hv_put_le32(raw + 32, h->flags);
	hv_put_le32(raw + 36, h->buf_alloc);
	hv_put_le32(raw + 40, h->fwd_cnt);
	hv_virtq_write(&s->rx, 0, raw, sizeof(raw));
	give_chain(s, QUEUE_RX, &s->rx, VSOCK_HEADER + h->length);
}

static void read_header(const struct hv_virtq_chain *chain, struct vsock_header *h)
{
	uint8_t raw[VSOCK_HEADER];

	hv_virtq_read(chain, 0, raw, sizeof(raw));
	*h = (struct vsock_header){
		.src_cid = hv_le64(raw),
		.dst_cid = hv_le64(raw + 8),
		.src_port = hv_le32(raw + 16),
		.dst_port = hv_le32(raw + 20),
		.length = hv_le32(raw + 24),
		.type = hv_le16(raw + 28),
		.op = hv_le16(raw + 30),
		.flags = hv_le32(raw + 32),
		.buf_alloc = hv_le32(raw + 36),
		.fwd_cnt = hv_le32(raw + 40),
	};
}

/* --- the parts of a round, without the lock; each tells whether it has more to do --- */

static bool take_packet(struct vsock *s)
{
	struct vsock_header h;

	if (!take_chain(s, QUEUE_TX, &s->tx))
		return false;
	if (s->tx.read_length < VSOCK_HEADER) {
		give_up(s, QUEUE_TX, "a packet without a header");
		return false;
	}
	read_header(&s->tx, &h);
	if (h.op == VSOCK_OP_RW && h.length > s->tx.read_length - VSOCK_HEADER) {
		give_up(s, QUEUE_TX, "a packet that is shorter than it says");
		return false;
	}
	hv_vsock_receive(s, &h);
	give_chain(s, QUEUE_TX, &s->tx, 0);
	return true;
}

static bool serve_packets(struct vsock *s)
{
	for (unsigned i = 0; i < SHARE; i++) {
		s->stalled = s->reset_count >= VSOCK_REPLIES;
		if (s->stalled || !take_packet(s))
			return false;
	}
	return true;
}

static bool may_go_on(struct vsock *s)
{
	bool yes;

	pthread_mutex_lock(&s->v.dev.lock);
	yes = !shall_rest(s);
	pthread_mutex_unlock(&s->v.dev.lock);
	return yes;
}

static bool serve_sockets(struct vsock *s)
{
	for (unsigned i = 0; i < SHARE; i++) {
		struct vsock_connection *c = TAILQ_FIRST(&s->host_turns);

		if (!c || !may_go_on(s))
			return false;
		TAILQ_REMOVE(&s->host_turns, c, host_turns);
		c->has_host_turn = false;
		hv_vsock_host_turn(s, c);
	}
	return true;
}

static void send_event(struct vsock *s)
{
	uint8_t raw[EVENT_SIZE];

	if (!take_chain(s, QUEUE_EVENT, &s->rx))
		return;
	if (s->rx.write_length < EVENT_SIZE) {
		give_up(s, QUEUE_EVENT, "a buffer without room for an event");
		return;
	}
	hv_put_le32(raw, EVENT_RESET);
	hv_virtq_write(&s->rx, 0, raw, sizeof(raw));
	s->event_owed = false;
	give_chain(s, QUEUE_EVENT, &s->rx, EVENT_SIZE);
}

static bool serve_guest(struct vsock *s)
{
	if (s->event_owed)
		send_event(s);
	for (unsigned i = 0; i < SHARE; i++) {
		struct vsock_connection *c;

		if (s->reset_count > 0) {
			if (!hv_vsock_send_reset(s))
				return false;
			continue;
		}
		c = TAILQ_FIRST(&s->guest_turns);
		if (!c)
			return s->stalled;
		TAILQ_REMOVE(&s->guest_turns, c, guest_turns);
		c->has_guest_turn = false;
		if (!hv_vsock_guest_turn(s, c)) {
			TAILQ_INSERT_HEAD(&s->guest_turns, c, guest_turns);
			c->has_guest_turn = true;
			return s->stalled && s->reset_count < VSOCK_REPLIES;
		}
	}
	return true;
}

static bool work(struct vsock *s)
{
	bool more;

	if (s->callers)
		hv_vsock_accept(s);
	more = serve_packets(s);
	more |= serve_sockets(s);
	hv_vsock_expire(s);
	more |= serve_guest(s); /* last: it hears of what the others did */
	return more || s->callers;
}

/* --- the thread --- */

/* Lock held: what belongs to the device may be touched, whether the thread rests or not. */
static void note_event(struct vsock *s, const struct epoll_event *event)
{
	uint32_t slot = (uint32_t)event->data.u64, generation = (uint32_t)(event->data.u64 >> 32);
	struct vsock_connection *c;
	uint64_t rung;

	if (event->data.u64 == TOKEN_WAKE) {
		s->woken = read(s->wake_fd, &rung, sizeof(rung)) < 0;
		return;
	}
	if (event->data.u64 == TOKEN_LISTENER) {
		s->callers = true;
		return;
	}
	c = &s->connections[slot];
	if (c->state == VSOCK_FREE || c->generation != generation)
		return;
	c->readable |= (event->events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
	c->writable |= (event->events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0;
	c->hung_up |= (event->events & (EPOLLHUP | EPOLLERR)) != 0;
	hv_vsock_want_host(s, c);
}

bool hv_vsock_round(struct vsock *s, int timeout_ms)
{
	struct epoll_event events[SHARE];
	bool more = false;
	int n;

	pthread_mutex_unlock(&s->v.dev.lock);
	n = epoll_wait(s->epoll_fd, events, SHARE, timeout_ms);
	pthread_mutex_lock(&s->v.dev.lock);
	for (int i = 0; i < n; i++)
		note_event(s, &events[i]);
	if (shall_rest(s))
		return false;
	s->busy = true;
	s->asked = false;
	pthread_mutex_unlock(&s->v.dev.lock);
	more = work(s);
	pthread_mutex_lock(&s->v.dev.lock);
	s->busy = false;
	pthread_cond_broadcast(&s->rest);
	return more || s->asked || n == SHARE;
}

static void *vsock_thread(void *arg)
{
	struct vsock *s = arg;
	bool more = false;

	pthread_mutex_lock(&s->v.dev.lock);
	while (!s->ending)
		more = hv_vsock_round(s, more ? 0 : s->timed && !s->holds ? (int)VSOCK_TICK : -1);
	pthread_mutex_unlock(&s->v.dev.lock);
	return NULL;
}

static int start_thread(struct vsock *s, struct hv_error *err)
{
	pthread_attr_t attr;
	sigset_t before;
	int rc;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_SIZE);
	hv_signals_block(&before);
	rc = pthread_create(&s->thread, &attr, vsock_thread, s);
	hv_signals_unblock(&before);
	pthread_attr_destroy(&attr);
	s->started = rc == 0;
	return rc ? hv_fail(err, rc, "%s: no thread for it: %s", s->v.name, strerror(rc)) : 0;
}

/* Lock held. While the thread is at work it looks again by itself. */
static void wake(struct vsock *s)
{
	s->asked = true;
	if (s->busy || s->woken)
		return;
	s->woken = eventfd_write(s->wake_fd, 1) == 0;
}

/* --- the device --- */

static void vsock_notify(struct hv_virtio *v, unsigned queue)
{
	wake(vsock_of(v));
}

static void vsock_hold(struct hv_virtio *v, bool held)
{
	struct vsock *s = vsock_of(v);

	if (!held) {
		if (--s->holds > 0)
			return;
		s->held_for += clock_ms() - s->held_since;
		wake(s);
		return;
	}
	if (s->holds++ == 0)
		s->held_since = clock_ms();
	while (s->busy)
		pthread_cond_wait(&s->rest, &v->dev.lock);
}

static void vsock_reset(struct hv_virtio *v)
{
	struct vsock *s = vsock_of(v);

	hv_vsock_forget_all(s);
	s->event_owed = s->stalled = false;
}

/* The streams of the VM that was saved ended there. Nothing is saved; its driver is told (5.10.6.6). */
static int vsock_load(struct hv_virtio *v, struct hv_decoder *d, struct hv_error *err)
{
	struct vsock *s = vsock_of(v);

	s->event_owed = v->status & HV_VIRTIO_DRIVER_OK;
	return 0;
}

static void vsock_describe(struct hv_virtio *v, char *buf, size_t size)
{
	struct vsock *s = vsock_of(v);
	unsigned live = atomic_load(&s->live);

	snprintf(buf, size, "CID %llu at %s, %u connection%s, %llu bytes to the guest, %llu to the host",
		 (unsigned long long)s->cid, s->sockets ? s->sockets->path : "no socket", live,
		 live == 1 ? "" : "s", (unsigned long long)atomic_load(&s->to_guest),
		 (unsigned long long)atomic_load(&s->to_host));
}

static void vsock_stop(struct hv_virtio *v)
{
	struct vsock *s = vsock_of(v);

	if (!s->started)
		return;
	pthread_mutex_lock(&v->dev.lock);
	s->ending = true;
	eventfd_write(s->wake_fd, 1);
	pthread_mutex_unlock(&v->dev.lock);
	pthread_join(s->thread, NULL);
}

static void vsock_destroy(struct hv_virtio *v)
{
	struct vsock *s = vsock_of(v);

	for (unsigned i = 0; s->connections && i < VSOCK_CONNECTIONS; i++)
		if (s->connections[i].state != VSOCK_FREE)
			hv_vsock_drop(s, &s->connections[i]);
	if (s->epoll_fd >= 0)
		close(s->epoll_fd);
	if (s->wake_fd >= 0)
		close(s->wake_fd);
	hv_vsock_close(s->sockets);
	pthread_cond_destroy(&s->rest);
	free(s->connections);
	free(s);
}

static const struct hv_virtio_ops vsock_ops = {
	.name = "vsock",
	.id = ID,
	.version = 1,
	.queues = QUEUES,
	.notify = vsock_notify,
	.hold = vsock_hold,
	.reset = vsock_reset,
	.load = vsock_load,
	.describe = vsock_describe,
	.stop = vsock_stop,
	.destroy = vsock_destroy,
};

static int watch(const struct vsock *s, int fd, uint64_t token, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.u64 = token};

	return epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, fd, &event);
}

static int open_descriptors(struct vsock *s, int listener, struct hv_error *err)
{
	s->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->epoll_fd < 0 || s->wake_fd < 0 || watch(s, s->wake_fd, TOKEN_WAKE, EPOLLIN) < 0 ||
	    watch(s, listener, TOKEN_LISTENER, EPOLLIN | EPOLLET) < 0)
		return hv_fail_errno(err, "%s: no descriptors to wait with", s->v.name);
	return 0;
}

int hv_vsock_new(const struct hv_virtio_host *host, struct hv_vsock_sockets *sockets, uint64_t cid,
		 struct vsock **out, struct hv_error *err)
{
	struct vsock *s = calloc(1, sizeof(*s));
	int rc;

	if (!s)
		return hv_fail(err, ENOMEM, "virtio-vsock: no memory for the device; close other programs");
	hv_virtio_init(&s->v, &vsock_ops, host, F_STREAM);
	s->cid = cid;
	s->patience = VSOCK_PATIENCE;
	s->next_port = 1u << 30;
	s->epoll_fd = s->wake_fd = -1;
	s->v.config_length = 8;
	hv_put_le64(s->v.config, cid);
	pthread_cond_init(&s->rest, NULL);
	TAILQ_INIT(&s->host_turns);
	TAILQ_INIT(&s->guest_turns);
	s->connections = calloc(VSOCK_CONNECTIONS, sizeof(*s->connections));
	for (unsigned i = VSOCK_CONNECTIONS; s->connections && i-- > 0;) {
		s->connections[i].next = s->unused;
		s->unused = &s->connections[i];
	}
	rc = s->connections ? open_descriptors(s, sockets->listener.fd, err)
			    : hv_fail(err, ENOMEM, "%s: no memory for its connections; close other programs",
				      s->v.name);
	if (rc) {
		hv_device_destroy(&s->v.dev);
		return rc;
	}
	s->sockets = sockets;
	*out = s;
	return 0;
}

int hv_virtio_vsock_create(const struct hv_virtio_host *host, struct hv_vsock_sockets *sockets, uint64_t cid,
			   struct hv_device **out, struct hv_error *err)
{
	struct vsock *s = NULL;
	int rc = hv_vsock_new(host, sockets, cid, &s, err);

	if (rc || !s)
		return rc;
	rc = start_thread(s, err);
	if (rc) {
		s->sockets = NULL; /* still the caller's */
		hv_device_destroy(&s->v.dev);
		return rc;
	}
	*out = &s->v.dev;
	return 0;
}
