/*
 * A driver of a socket device, and host programs beside it: packets by name, rx buffers that go round, Unix
 * sockets that are waited for with a limit.
 */
#ifndef TESTS_DEVICE_DRIVE_VSOCK_H
#define TESTS_DEVICE_DRIVE_VSOCK_H

#include <poll.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "device/virtio/vsock_impl.h"
#include "drive_virtio.h"

enum { RX, TX, EVENT, VSOCK_QUEUES };

#define GUEST_CID   3u
#define ENTRIES     64u
#define RX_SIZE     0x2000u /* bytes of a receive buffer */
#define RX_DATA     0x40000u
#define TX_DATA     0xc0000u
#define EVENT_DATA  0x20000u
#define TX_DATA_MAX 0x30000u
#define WAIT_MS     20000

struct packet {
	struct vsock_header h;
	const uint8_t *data; /* in guest memory, until the next packet is waited for */
};

static struct hv_memory vsock_mem;
static struct hv_device *vsock;
static struct ring rings[VSOCK_QUEUES];
static char vsock_dir[32], vsock_path[64];
static struct log_lines vsock_log;
static struct hv_log vsock_log_to = {.level = HV_LOG_WARN, .sink = keep_line, .ctx = &vsock_log};
static int held_rx = -1; /* the buffer of the packet that is looked at */

/* --- the host's sockets --- */

static inline struct sockaddr_un vsock_address(int port)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};

	snprintf(sun.sun_path, sizeof(sun.sun_path), port < 0 ? "%s" : "%s_%d", vsock_path, port);
	return sun;
}

static inline int host_connect(void)
{
	struct sockaddr_un sun = vsock_address(-1);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	cr_assert(fd >= 0 && connect(fd, (struct sockaddr *)&sun, sizeof(sun)) == 0, "%s", strerror(errno));
	return fd;
}

static inline int host_listen(int port, int backlog)
{
	struct sockaddr_un sun = vsock_address(port);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	unlink(sun.sun_path);
	cr_assert(fd >= 0 && bind(fd, (struct sockaddr *)&sun, sizeof(sun)) == 0 && listen(fd, backlog) == 0);
	return fd;
}

static inline bool is_ready(int fd, short events)
{
	struct pollfd p = {.fd = fd, .events = events};

	return poll(&p, 1, WAIT_MS) == 1;
}

static inline int host_accept(int listener)
{
	cr_assert(is_ready(listener, POLLIN), "nobody connects");
	return accept4(listener, NULL, NULL, SOCK_CLOEXEC);
}

static inline void host_send(int fd, const void *data, size_t size)
{
	cr_assert_eq(send(fd, data, size, MSG_NOSIGNAL), (ssize_t)size);
}

static inline void host_say(int fd, const char *text)
{
	host_send(fd, text, strlen(text));
}

/* Exactly size bytes. */
static inline void host_expect(int fd, const void *data, size_t size)
{
	uint8_t *got = malloc(size);

	for (size_t n = 0; n < size;) {
		ssize_t rc;

		cr_assert(is_ready(fd, POLLIN), "only %zu of %zu bytes came", n, size);
		rc = recv(fd, got + n, size - n, 0);
		cr_assert(rc > 0, "the connection ends after %zu of %zu bytes", n, size);
		n += (size_t)rc;
	}
	cr_assert(memcmp(got, data, size) == 0, "other bytes");
	free(got);
}

/* The end, or an error: no more comes. */
static inline void host_expect_end(int fd)
{
	uint8_t byte;

	cr_assert(is_ready(fd, POLLIN), "the connection stays open");
	cr_assert(recv(fd, &byte, 1, 0) <= 0);
}

static inline bool has_gone(int fd)
{
	struct pollfd p = {.fd = fd, .events = 0};

	return poll(&p, 1, WAIT_MS) == 1 && p.revents & POLLHUP;
}

/* --- the guest's driver --- */

static inline void offer_rx(unsigned index)
{
	describe(&rings[RX], index, RX_DATA + index * RX_SIZE, RX_SIZE, WRITE, 0);
	make_available(&rings[RX], index);
}

static inline void start_driver(bool with_rx)
{
	held_rx = -1;
	for (unsigned i = 0; i < VSOCK_QUEUES; i++) {
		ring_init(&rings[i], &vsock_mem, i, ENTRIES);
		memset(guest_at(&rings[i], rings[i].available, 0x200), 0, 0x200);
		memset(guest_at(&rings[i], rings[i].used, 0x400), 0, 0x400);
	}
	negotiate(vsock, HV_VIRTIO_F_VERSION_1 | 1);
	for (unsigned i = 0; i < VSOCK_QUEUES; i++)
		set_up_queue(vsock, &rings[i], i);
	for (unsigned i = 0; i < ENTRIES && with_rx; i++)
		offer_rx(i);
	describe(&rings[EVENT], 0, EVENT_DATA, 4, WRITE, 0);
	make_available(&rings[EVENT], 0);
	driver_ok(vsock);
	cr_assert_eq(reg(vsock, MMIO_STATUS), 0x0f);
}

static inline void make_vsock(void)
{
	struct hv_virtio_host host = {.mem = &vsock_mem, .log = &vsock_log_to};
	struct hv_vsock_sockets *sockets;
	struct hv_error err = {0};

	vsock_log = (struct log_lines){0};
	hv_memory_init(&vsock_mem, NULL);
	cr_assert_eq(hv_memory_add(&vsock_mem, 0, RING_MEMORY, false, NULL), 0);
	strcpy(vsock_dir, "/tmp/hv-vsock-XXXXXX");
	cr_assert(mkdtemp(vsock_dir));
	snprintf(vsock_path, sizeof(vsock_path), "%s/v", vsock_dir);
	cr_assert_eq(hv_vsock_open(vsock_path, &sockets, &err), 0, "%s", err.text);
	cr_assert_eq(hv_virtio_vsock_create(&host, sockets, GUEST_CID, &vsock, &err), 0, "%s", err.text);
}

static inline void free_vsock(void)
{
	char command[64];

	hv_device_destroy(vsock);
	hv_memory_free(&vsock_mem);
	cr_assert_neq(access(vsock_path, F_OK), 0, "the socket is still there");
	snprintf(command, sizeof(command), "rm -rf %s", vsock_dir);
	cr_assert_eq(system(command), 0);
}

static inline void put_header(uint8_t *at, const struct vsock_header *h)
{
	hv_put_le64(at, h->src_cid);
	hv_put_le64(at + 8, h->dst_cid);
	hv_put_le32(at + 16, h->src_port);
	hv_put_le32(at + 20, h->dst_port);
	hv_put_le32(at + 24, h->length);
	hv_put_le16(at + 28, h->type);
	hv_put_le16(at + 30, h->op);
	hv_put_le32(at + 32, h->flags);
	hv_put_le32(at + 36, h->buf_alloc);
	hv_put_le32(at + 40, h->fwd_cnt);
}

/* A packet whose data, if any, lies behind its header; waits until the device has taken it. */
static inline void send_raw(const struct vsock_header *h, const void *data, uint32_t size)
{
	struct ring *r = &rings[TX];

	put_header(guest_at(r, TX_DATA, VSOCK_HEADER), h);
	if (size > 0)
		memcpy(guest_at(r, TX_DATA + VSOCK_HEADER, size), data, size);
	describe(r, 0, TX_DATA, VSOCK_HEADER + size, 0, 0);
	make_available(r, 0);
	set_reg(vsock, MMIO_NOTIFY, TX);
	cr_assert(wait_used(r, r->idx), "the packet isn't taken");
}

/* Whether a packet came within ms. */
static inline bool has_packet(unsigned ms)
{
	for (unsigned i = 0; i <= ms; i++) {
		if (used_idx(&rings[RX]) != rings[RX].seen)
			return true;
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	}
	return false;
}

static inline struct packet next_packet(void)
{
	struct packet p;
	const uint8_t *at;
	uint32_t length;

	if (held_rx >= 0) {
		offer_rx((unsigned)held_rx);
		set_reg(vsock, MMIO_NOTIFY, RX);
	}
	cr_assert(has_packet(WAIT_MS), "no packet comes");
	held_rx = (int)take_used(&rings[RX], &length);
	at = guest_at(&rings[RX], RX_DATA + (unsigned)held_rx * RX_SIZE, RX_SIZE);
	p.h = (struct vsock_header){
		.src_cid = hv_le64(at),
		.dst_cid = hv_le64(at + 8),
		.src_port = hv_le32(at + 16),
		.dst_port = hv_le32(at + 20),
		.length = hv_le32(at + 24),
		.type = hv_le16(at + 28),
		.op = hv_le16(at + 30),
		.flags = hv_le32(at + 32),
		.buf_alloc = hv_le32(at + 36),
		.fwd_cnt = hv_le32(at + 40),
	};
	p.data = at + VSOCK_HEADER;
	cr_assert_eq(length, VSOCK_HEADER + p.h.length);
	return p;
}

/* One end of a stream in the guest. */
struct stream {
	uint32_t port, host_port;
	uint32_t alloc, received, sent;
	uint32_t host_forwarded; /* as last heard */
};

static inline struct vsock_header header_of(const struct stream *g, enum vsock_op op)
{
	return (struct vsock_header){.src_cid = GUEST_CID,
				     .dst_cid = VSOCK_HOST_CID,
				     .src_port = g->port,
				     .dst_port = g->host_port,
				     .type = VSOCK_TYPE_STREAM,
				     .op = (uint16_t)op,
				     .buf_alloc = g->alloc,
				     .fwd_cnt = g->received};
}

static inline void send_op(const struct stream *g, enum vsock_op op, uint32_t flags)
{
	struct vsock_header h = header_of(g, op);

	h.flags = flags;
	send_raw(&h, NULL, 0);
}

static inline void send_data(struct stream *g, const void *data, uint32_t size)
{
	struct vsock_header h = header_of(g, VSOCK_OP_RW);

	h.length = size;
	g->sent += size;
	send_raw(&h, data, size);
}

/* The next packet, which must be this operation of this stream. Credit may come at any time. */
static inline struct packet expect_op(struct stream *g, enum vsock_op op)
{
	struct packet p = next_packet();

	while (p.h.op == VSOCK_OP_CREDIT_UPDATE && op != VSOCK_OP_CREDIT_UPDATE)
		p = next_packet();
	cr_assert_eq(p.h.op, op, "operation %u instead of %u", p.h.op, op);
	cr_assert_eq(p.h.src_cid, VSOCK_HOST_CID);
	cr_assert_eq(p.h.dst_cid, GUEST_CID);
	cr_assert_eq(p.h.src_port, g->host_port);
	cr_assert_eq(p.h.dst_port, g->port);
	cr_assert_eq(p.h.type, VSOCK_TYPE_STREAM);
	g->host_forwarded = p.h.fwd_cnt;
	return p;
}

/* Exactly these bytes, in any number of packets. */
static inline void expect_data(struct stream *g, const void *data, size_t size)
{
	for (size_t n = 0; n < size;) {
		struct packet p = expect_op(g, VSOCK_OP_RW);

		cr_assert(p.h.length > 0 && p.h.length <= size - n);
		cr_assert(memcmp(p.data, (const uint8_t *)data + n, p.h.length) == 0, "other bytes");
		n += p.h.length;
		g->received += p.h.length;
	}
}

/* A host program reaches the guest's port; *g has the stream that the guest accepted. */
static inline int connect_from_host(struct stream *g, uint32_t port)
{
	char line[32];
	struct packet p;
	int fd = host_connect();

	snprintf(line, sizeof(line), "CONNECT %u\n", port);
	host_say(fd, line);
	p = next_packet();
	cr_assert_eq(p.h.op, VSOCK_OP_REQUEST);
	cr_assert_eq(p.h.dst_port, port);
	cr_assert_eq(p.h.buf_alloc, VSOCK_BUFFER);
	*g = (struct stream){.port = port, .host_port = p.h.src_port, .alloc = 1u << 20};
	send_op(g, VSOCK_OP_RESPONSE, 0);
	snprintf(line, sizeof(line), "OK %u\n", g->host_port);
	host_expect(fd, line, strlen(line));
	return fd;
}

/* The guest reaches a listener of the host's. */
static inline int connect_from_guest(struct stream *g, uint32_t port, int listener, uint32_t host_port)
{
	*g = (struct stream){.port = port, .host_port = host_port, .alloc = 1u << 20};
	send_op(g, VSOCK_OP_REQUEST, 0);
	expect_op(g, VSOCK_OP_RESPONSE);
	return host_accept(listener);
}

static inline unsigned live_connections(void)
{
	char text[512];
	const char *at;

	pthread_mutex_lock(&vsock->lock);
	vsock->ops->describe(vsock, text, sizeof(text));
	pthread_mutex_unlock(&vsock->lock);
	at = strstr(text, ", ");
	cr_assert(at && strstr(text, " connection"), "%s", text);
	return (unsigned)strtoul(at + 2, NULL, 10);
}

/* Connections end on the device's thread, in their own time. */
static inline void expect_live(unsigned count)
{
	for (unsigned i = 0; i < WAIT_MS && live_connections() != count; i++)
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	cr_assert_eq(live_connections(), count);
}

#endif
