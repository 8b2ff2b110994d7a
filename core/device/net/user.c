/*
 * User mode: libslirp plays a router with DHCP, a name server's address and NAT, out of ordinary sockets of
 * this process; so no privilege is needed, and nobody reaches the guest but through forwarded ports. It calls
 * libslirp and base.
 *
 * libslirp comes as a shared library only, and few VMs need it: it is loaded when it is asked for, so that
 * others start without it. Rules: libslirp.h, as of its configuration version 1.
 *
 * Three things of libslirp's shape this file:
 *
 *   - It keeps the time and the name server's address for the whole process. So a lock of this file, the one
 *     piece of state here that isn't a back end's own, lets one back end into it at a time.
 *   - It opens /etc/resolv.conf when the guest first asks for a name, which no sandbox allows; what it has
 *     read it keeps, and stat(2) tells it that it may. See learn_name_server.
 *   - It hands frames over by a callback that can't say "later". They go into a ring, and while that is half
 *     full its sockets are not read from: so TCP slows down, and only what comes of its own accord is lost.
 *
 * The guest's IP version 6 is left out: where the host has none, a guest that believes in it waits for
 * nothing at each name it looks up.
 */
#include <arpa/inet.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <slirp/libslirp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "device/net/backend_impl.h"

#define LIBRARY   "libslirp.so.0"
#define MTU       1500u
#define FRAME_MAX (MTU + HV_NET_ETHERNET + 4)
#define RING      128u /* frames; a power of two */
#define TIMERS    4u

/* What is used of the library. */
struct library {
	void *handle;
	Slirp *(*new)(const SlirpConfig *cfg, const SlirpCb *callbacks, void *opaque);
	void (*cleanup)(Slirp *slirp);
	void (*pollfds_fill)(Slirp *slirp, uint32_t *timeout, SlirpAddPollCb add_poll, void *opaque);
	void (*pollfds_poll)(Slirp *slirp, int select_error, SlirpGetREventsCb get_revents, void *opaque);
	void (*input)(Slirp *slirp, const uint8_t *pkt, int pkt_len);
	int (*add_hostfwd)(Slirp *slirp, int is_udp, struct in_addr host_addr, int host_port,
			   struct in_addr guest_addr, int guest_port);
};

struct timer {
	bool used, armed;
	int64_t at_ms;
	SlirpTimerCb fn;
	void *opaque;
};

struct user {
	struct hv_netback back;
	struct library lib;
	Slirp *slirp;
	bool open;         /* frames are for a guest; before, they are thrown away */
	int muzzle;        /* what sockets become at once while it isn't -1 */
	int64_t offset_ns; /* of slirp's clock to the monotonic one */
	struct timer timers[TIMERS];
	bool reading; /* its sockets are in what is waited for */
	uint64_t dropped;
	unsigned first, count; /* of the ring */
	struct {
		uint32_t length;
		uint8_t bytes[FRAME_MAX];
	} ring[RING];
	uint8_t outgoing[FRAME_MAX];
};

/* See above; held for each call of the library. */
static pthread_mutex_t slirp_lock = PTHREAD_MUTEX_INITIALIZER;

static struct user *user_of(struct hv_netback *b)
{
	return hv_container_of(b, struct user, back);
}

/* --- what libslirp calls --- */

static int64_t on_clock(void *opaque)
{
	const struct user *u = opaque;
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec + u->offset_ns;
}

static ssize_t on_frame(const void *frame, size_t length, void *opaque)
{
	struct user *u = opaque;
	unsigned at = (u->first + u->count) % RING;

	if (!u->open)
		return (ssize_t)length;
	if (u->count == RING || length > FRAME_MAX) {
		u->dropped++;
		return (ssize_t)length;
	}
	memcpy(u->ring[at].bytes, frame, length);
	u->ring[at].length = (uint32_t)length;
	u->count++;
	return (ssize_t)length;
}

static void on_guest_error(const char *text, void *opaque)
{
	const struct user *u = opaque;

	hv_log(u->back.log, HV_LOG_DEBUG, "user network: %s", text);
}

static void *on_timer_new(SlirpTimerCb fn, void *fn_opaque, void *opaque)
{
	struct user *u = opaque;

	for (unsigned i = 0; i < TIMERS; i++) {
		if (u->timers[i].used)
			continue;
		u->timers[i] = (struct timer){.used = true, .fn = fn, .opaque = fn_opaque};
		return &u->timers[i];
	}
	return NULL;
}

static void on_timer_free(void *timer, void *opaque)
{
	if (timer)
		memset(timer, 0, sizeof(struct timer));
}

static void on_timer_mod(void *timer, int64_t at_ms, void *opaque)
{
	struct timer *t = timer;

	if (!t)
		return;
	t->armed = true;
	t->at_ms = at_ms;
}

/* A new socket. The descriptors are asked for anew before each wait, so this one need not be remembered; but
 * see learn_name_server. */
static void on_descriptor(int fd, void *opaque)
{
	const struct user *u = opaque;

	if (u->muzzle >= 0)
		dup3(u->muzzle, fd, O_CLOEXEC);
}

static void on_descriptor_gone(int fd, void *opaque)
{
}

/* The thread that would have to be woken is the one that calls. */

static void on_notify(void *opaque)
{
}

static const SlirpCb callbacks = {
	.send_packet = on_frame,
	.guest_error = on_guest_error,
	.clock_get_ns = on_clock,
	.timer_new = on_timer_new,
	.timer_free = on_timer_free,
	.timer_mod = on_timer_mod,
	.register_poll_fd = on_descriptor,
	.unregister_poll_fd = on_descriptor_gone,
	.notify = on_notify,
};

/* --- waiting --- */

static int add_descriptor(int fd, int events, void *opaque)
{
	short wanted =
		(short)((events & SLIRP_POLL_IN ? POLLIN : 0) | (events & SLIRP_POLL_OUT ? POLLOUT : 0) |
			(events & SLIRP_POLL_PRI ? POLLPRI : 0));

	return hv_net_poll_add(opaque, fd, wanted);
}

/* Those that were not waited for are not added in the end. */
static int add_none(int fd, int events, void *opaque)
{
	return -1;
}

static int descriptor_events(int index, void *opaque)
{
	const struct hv_net_poll *p = opaque;
	short is = 0;

	if (index >= 0 && (unsigned)index < p->count)
		is = p->fds[index].revents;
	return (is & POLLIN ? SLIRP_POLL_IN : 0) | (is & POLLOUT ? SLIRP_POLL_OUT : 0) |
	       (is & POLLPRI ? SLIRP_POLL_PRI : 0) | (is & POLLERR ? SLIRP_POLL_ERR : 0) |
	       (is & POLLHUP ? SLIRP_POLL_HUP : 0);
}

static int no_events(int index, void *opaque)
{
	return 0;
}

static void user_fill(struct hv_netback *b, struct hv_net_poll *p, bool want_receive, bool want_send)
{
	struct user *u = user_of(b);
	int64_t now = on_clock(u) / 1000000;
	uint32_t limit = p->timeout_ms < 0 ? UINT32_MAX : (uint32_t)p->timeout_ms;

	u->reading = u->count < RING / 2;
	pthread_mutex_lock(&slirp_lock);
	u->lib.pollfds_fill(u->slirp, &limit, u->reading ? add_descriptor : add_none, p);
	pthread_mutex_unlock(&slirp_lock);
	for (unsigned i = 0; i < TIMERS; i++) {
		int64_t left = u->timers[i].at_ms - now;

		if (u->timers[i].armed && left < (int64_t)limit)
			limit = left > 0 ? (uint32_t)left : 0;
	}
	if (want_receive && u->count > 0)
		limit = 0;
	p->timeout_ms = limit > INT32_MAX ? -1 : (int)limit;
}

static void fire_timers(struct user *u)
{
	int64_t now = on_clock(u) / 1000000;

	for (unsigned i = 0; i < TIMERS; i++) {
		if (!u->timers[i].armed || u->timers[i].at_ms > now)
			continue;
		u->timers[i].armed = false;
		u->timers[i].fn(u->timers[i].opaque);
	}
}

static void user_dispatch(struct hv_netback *b, const struct hv_net_poll *p)
{
	struct user *u = user_of(b);

	pthread_mutex_lock(&slirp_lock);
	fire_timers(u);
	u->lib.pollfds_poll(u->slirp, 0, u->reading ? descriptor_events : no_events, (void *)p);
	pthread_mutex_unlock(&slirp_lock);
}

/* --- frames --- */

/* A copy: libslirp reads a field more than once, and the guest may write there meanwhile. */
static int user_send(struct hv_netback *b, const struct iovec *iov, unsigned count, size_t length)
{
	struct user *u = user_of(b);
	size_t n = 0;

	if (length > sizeof(u->outgoing))
		return -EMSGSIZE;
	for (unsigned i = 1; i < count; i++) {
		memcpy(u->outgoing + n, iov[i].iov_base, iov[i].iov_len);
		n += iov[i].iov_len;
	}
	pthread_mutex_lock(&slirp_lock);
	u->lib.input(u->slirp, u->outgoing, (int)length);
	pthread_mutex_unlock(&slirp_lock);
	return 0;
}

static size_t user_receive(struct hv_netback *b, uint8_t *buf, size_t size)
{
	struct user *u = user_of(b);
	size_t length;

	if (u->count == 0)
		return 0;
	length = u->ring[u->first].length;
	memset(buf, 0, HV_NET_HEADER);
	memcpy(buf + HV_NET_HEADER, u->ring[u->first].bytes, length);
	u->first = (u->first + 1) % RING;
	u->count--;
	return HV_NET_HEADER + length;
}

static void user_describe(struct hv_netback *b, char *buf, size_t size)
{
	snprintf(buf, size, "user");
}

static void user_close(struct hv_netback *b)
{
	struct user *u = user_of(b);

	if (u->slirp) {
		u->open = false;
		pthread_mutex_lock(&slirp_lock);
		u->lib.cleanup(u->slirp);
		pthread_mutex_unlock(&slirp_lock);
	}
	free(u); /* the library stays loaded: glib can't be unloaded */
}

static const struct hv_netback_ops user_ops = {
	.kind = "user",
	.fill = user_fill,
	.dispatch = user_dispatch,
	.send = user_send,
	.receive = user_receive,
	.describe = user_describe,
	.close = user_close,
};

/* --- opening --- */

static int load_library(struct library *lib, struct hv_error *err)
{
	const struct {
		const char *name;
		void *where;
	} wanted[] = {
		{"slirp_new", &lib->new},
		{"slirp_cleanup", &lib->cleanup},
		{"slirp_pollfds_fill", &lib->pollfds_fill},
		{"slirp_pollfds_poll", &lib->pollfds_poll},
		{"slirp_input", &lib->input},
		{"slirp_add_hostfwd", &lib->add_hostfwd},
	};

	lib->handle = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
	if (!lib->handle)
		return hv_fail(err, ENOENT,
			       "net: user networking needs %s, which is not there (Debian: libslirp0): %s",
			       LIBRARY, dlerror());
	for (unsigned i = 0; i < HV_ARRAY_SIZE(wanted); i++) {
		void *at = dlsym(lib->handle, wanted[i].name);

		if (!at)
			return hv_fail(err, ENOSYS, "net: this %s is too old: it has no %s", LIBRARY,
				       wanted[i].name);
		memcpy(wanted[i].where, &at, sizeof(at));
	}
	return 0;
}

static int start(struct user *u, const struct hv_net_spec *spec, struct hv_error *err)
{
	SlirpConfig config = {
		.version = 1,
		.restricted = spec->restricted,
		.in_enabled = true,
		.vnetwork = spec->net,
		.vnetmask = spec->mask,
		.vhost.s_addr = spec->net.s_addr | htonl(2),
		.vdhcp_start.s_addr = spec->net.s_addr | htonl(15),
		.vnameserver = spec->dns,
		.vhostname = spec->hostname[0] ? spec->hostname : NULL,
		.if_mtu = MTU,
		.if_mru = MTU,
	};

	u->slirp = u->lib.new(&config, &callbacks, u);
	return u->slirp ? 0 : hv_fail(err, ENOMEM, "net: libslirp doesn't start; close other programs");
}

static int forward(struct user *u, const struct hv_net_forward *f, struct hv_error *err)
{
	char text[INET_ADDRSTRLEN];

	if (u->lib.add_hostfwd(u->slirp, f->udp, f->host, f->host_port, f->guest, f->guest_port) == 0)
		return 0;
	inet_ntop(AF_INET, &f->host, text, sizeof(text));
	return hv_fail_errno(err, "net: %s port %u of %s can't be forwarded", f->udp ? "UDP" : "TCP",
			     f->host_port, text);
}

static uint16_t ip_checksum(const uint8_t *data, size_t length)
{
	uint32_t sum = 0;

	for (size_t i = 0; i < length; i += 2)
		sum += hv_be16(data + i);
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

/*
 * Makes libslirp read /etc/resolv.conf now, while files can be opened, by a datagram from the guest to the
 * name server, as it would send one to ask for a name. libslirp makes a socket, looks the real server's
 * address up, and sends; but by then the socket's descriptor is an eventfd, so nothing leaves this process.
 *
 * A second one, two seconds later by libslirp's clock, makes it remember which file it was (inode, size,
 * time). From then on it only compares these by stat(2). When the file changes while the VM runs, one lookup
 * fails, and the old server goes on being used.
 */
static int learn_name_server(struct user *u, const struct hv_net_spec *spec, struct hv_error *err)
{
	static const uint8_t guest[HV_MAC_SIZE] = {0x02, 0, 0, 0, 0, 1};
	uint8_t f[HV_NET_ETHERNET + 20 + 8 + 1] = {0};
	uint8_t *ip = f + HV_NET_ETHERNET, *udp = ip + 20;
	uint32_t limit = 0;

	u->muzzle = eventfd(0, EFD_CLOEXEC);
	if (u->muzzle < 0)
		return hv_fail_errno(err, "net: no descriptor for user networking");
	memset(f, 0xff, HV_MAC_SIZE);
	memcpy(f + HV_MAC_SIZE, guest, HV_MAC_SIZE);
	hv_put_be16(f + 12, 0x0800);
	ip[0] = 0x45;
	hv_put_be16(ip + 2, 20 + 8 + 1);
	ip[8] = 64; /* time to live */
	ip[9] = 17; /* UDP */
	hv_put_be32(ip + 12, ntohl(spec->net.s_addr) | 15);
	hv_put_be32(ip + 16, ntohl(spec->dns.s_addr));
	hv_put_be16(ip + 10, ip_checksum(ip, 20));
	hv_put_be16(udp, 1024);
	hv_put_be16(udp + 2, 53);
	hv_put_be16(udp + 4, 8 + 1);
	for (unsigned i = 0; i < 2; i++) {
		u->offset_ns += 2000000000;
		u->lib.pollfds_fill(u->slirp, &limit, add_none, NULL); /* it looks at the clock in these */
		u->lib.pollfds_poll(u->slirp, 0, no_events, NULL);
		u->lib.input(u->slirp, f, sizeof(f));
	}
	/* What it has to say to a guest about that has grown old, too. */
	u->offset_ns += 2000000000;
	u->lib.pollfds_fill(u->slirp, &limit, add_none, NULL);
	u->lib.pollfds_poll(u->slirp, 0, no_events, NULL);
	close(u->muzzle);
	u->muzzle = -1;
	return 0;
}

int hv_netback_user_open(const struct hv_net_spec *spec, const struct hv_log *log, struct hv_netback **out,
			 struct hv_error *err)
{
	struct user *u = calloc(1, sizeof(*u));
	int rc;

	if (!u)
		return hv_fail(err, ENOMEM, "net: no memory for user networking; close other programs");
	u->back = (struct hv_netback){.ops = &user_ops, .log = log, .mtu = MTU};
	u->muzzle = -1;
	pthread_mutex_lock(&slirp_lock);
	rc = load_library(&u->lib, err);
	if (!rc)
		rc = start(u, spec, err);
	for (unsigned i = 0; i < spec->forward_count && !rc; i++)
		rc = forward(u, &spec->forwards[i], err);
	if (!rc && !spec->restricted)
		rc = learn_name_server(u, spec, err);
	pthread_mutex_unlock(&slirp_lock);
	if (rc) {
		user_close(&u->back);
		return rc;
	}
	u->open = true;
	*out = &u->back;
	return 0;
}
