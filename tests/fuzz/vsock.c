/*
 * Fuzz target: a socket device between a driver that sends any packets and host programs that come, send,
 * read and go in any order. A run of steps, each a byte that says what, and then:
 *
 *   0 packet   operation, guest's port, host's port, flags, length / 64, buf_alloc / 64, fwd_cnt / 64 (1
 * each), odd (bit n: field n is wrong: source, destination, type, cut short) 1 room     receive buffers (1),
 * their size / 32 (1) 2 call     a program connects and says hello to port (1); 255: it says something else
 *   3 send     program (1), bytes / 16 (1)
 *   4 read     program (1), bytes / 16 (1)
 *   5 end      program (1), how (1): shut down one side or the other, or close
 *   6 driver   (1) reset; save and load; hold and let go
 *
 * Whatever comes: what the guest gets is a packet, within the credit that it gave; what is kept is within
 * bounds; and at the end nothing is left.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/bytes.h"
#include "device/virtio/vsock_impl.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { RX, TX, EVENT, QUEUES };

#define CID       3u
#define ENTRIES   16u
#define PROGRAMS  8u
#define LISTENING 7u /* the host's port where somebody listens */
#define RX_DATA   0x10000u
#define RX_STRIDE 0x2000u
#define TX_DATA   0x40000u
#define MEMORY    0x80000u

static struct hv_memory mem;
static struct vsock *s;
static uint16_t available[QUEUES], seen;
static unsigned rx_free; /* buffers that were not offered */
static int programs[PROGRAMS], listener;
static char folder[32], path[48];

static void require(bool truth)
{
	if (!truth)
		abort();
}

static uint8_t *at(uint64_t gpa, uint64_t length)
{
	uint8_t *p = hv_memory_at(&mem, gpa, length);

	require(p);
	return p;
}

/* --- the driver --- */

static uint64_t ring_of(unsigned queue)
{
	return 0x1000ull + 0x1000ull * queue;
}

static void set(unsigned offset, uint32_t value)
{
	pthread_mutex_lock(&s->v.dev.lock);
	s->v.dev.ops->write(&s->v.dev, offset, value, 4);
	pthread_mutex_unlock(&s->v.dev.lock);
}

static void offer(unsigned queue, unsigned index, uint64_t gpa, uint32_t length, bool writable)
{
	uint64_t ring = ring_of(queue);
	uint8_t *d = at(ring + 16ull * index, 16);

	hv_put_le64(d, gpa);
	hv_put_le32(d + 8, length);
	hv_put_le16(d + 12, writable ? 2 : 0);
	hv_put_le16(at(ring + 0x404 + 2ull * (available[queue] % ENTRIES), 2), (uint16_t)index);
	hv_put_le16(at(ring + 0x402, 2), ++available[queue]);
}

static uint16_t used(unsigned queue)
{
	return hv_le16(at(ring_of(queue) + 0x802, 2));
}

static void start_driver(void)
{
	static const uint32_t steps[] = {0, 1, 3};

	for (size_t i = 0; i < HV_ARRAY_SIZE(steps); i++)
		set(0x70, steps[i]);
	set(0x24, 0);
	set(0x20, 1);
	set(0x24, 1);
	set(0x20, 1); /* VERSION_1 */
	set(0x70, 0xb);
	for (unsigned q = 0; q < QUEUES; q++) {
		memset(at(ring_of(q), 0x1000), 0, 0x1000);
		available[q] = 0;
		set(0x30, q);
		set(0x38, ENTRIES);
		set(0x80, (uint32_t)ring_of(q));
		set(0x90, (uint32_t)ring_of(q) + 0x400);
		set(0xa0, (uint32_t)ring_of(q) + 0x800);
		set(0x44, 1);
	}
	seen = 0;
	rx_free = ENTRIES;
	set(0x70, 0xf);
	offer(EVENT, 0, TX_DATA - 16, 4, true);
}

/* A packet to the guest is whole, from the host, and of a kind that there is. */
static void look_at_packets(void)
{
	while (seen != used(RX)) {
		const uint8_t *entry = at(ring_of(RX) + 0x804 + 8ull * (seen++ % ENTRIES), 8);
		const uint8_t *p = at(RX_DATA + RX_STRIDE * (uint64_t)hv_le32(entry), VSOCK_HEADER);

		require(hv_le32(entry + 4) == VSOCK_HEADER + hv_le32(p + 24));
		require(hv_le16(p + 30) >= VSOCK_OP_REQUEST && hv_le16(p + 30) <= VSOCK_OP_CREDIT_REQUEST);
		if (hv_le16(p + 30) != VSOCK_OP_RST)
			require(hv_le64(p) == VSOCK_HOST_CID && hv_le64(p + 8) == CID &&
				hv_le16(p + 28) == VSOCK_TYPE_STREAM && hv_le32(p + 36) == VSOCK_BUFFER);
		rx_free++;
	}
}

static void check_bounds(void)
{
	unsigned live = 0;

	require(s->reset_count <= VSOCK_RESETS);
	for (unsigned i = 0; i < VSOCK_CONNECTIONS; i++) {
		const struct vsock_connection *c = &s->connections[i];

		if (c->state == VSOCK_FREE)
			continue;
		live++;
		require(c->out_used <= VSOCK_BUFFER && c->received - c->forwarded == c->out_used);
		require(!c->out_used || c->out);
		require(c->forwarded - c->told_forwarded <= c->received);
	}
	require(live == atomic_load(&s->live));
}

static void run(void)
{
	pthread_mutex_lock(&s->v.dev.lock);
	for (unsigned i = 0; i < 64 && hv_vsock_round(s, 0); i++)
		;
	pthread_mutex_unlock(&s->v.dev.lock);
	look_at_packets();
	check_bounds();
}

/* --- steps; each takes its bytes --- */

struct input {
	const uint8_t *data;
	size_t size;
};

static uint8_t next(struct input *in)
{
	if (in->size == 0)
		return 0;
	in->size--;
	return *in->data++;
}

static void step_packet(struct input *in)
{
	uint8_t op = next(in), guest_port = next(in), host_port = next(in), flags = next(in);
	uint32_t length = 64u * next(in), alloc = 64u * next(in), forwarded = 64u * next(in);
	uint8_t odd = next(in), *p = at(TX_DATA, VSOCK_HEADER);

	hv_put_le64(p, odd & 1 ? CID + 1 : CID);
	hv_put_le64(p + 8, odd & 2 ? CID : VSOCK_HOST_CID);
	hv_put_le32(p + 16, guest_port);
	/* The high half are ports that the device gives to callers. */
	hv_put_le32(p + 20, host_port < 128 ? host_port : (1u << 30) + host_port - 127);
	hv_put_le32(p + 24, length);
	hv_put_le16(p + 28, odd & 4 ? 2 : VSOCK_TYPE_STREAM);
	hv_put_le16(p + 30, op == 255 ? UINT16_MAX : op);
	hv_put_le32(p + 32, flags);
	hv_put_le32(p + 36, alloc);
	hv_put_le32(p + 40, forwarded);
	offer(TX, 0, TX_DATA, VSOCK_HEADER + length - (odd & 8 ? 1 : 0), false);
	set(0x50, TX);
}

static void step_room(struct input *in)
{
	unsigned count = next(in) % (ENTRIES + 1), length = 32u * next(in);

	for (; count > 0 && rx_free > 0 && length > 0; count--, rx_free--)
		offer(RX, available[RX] % ENTRIES, RX_DATA + RX_STRIDE * (available[RX] % ENTRIES), length,
		      true);
	set(0x50, RX);
}

static int connect_to(const char *name)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	snprintf(sun.sun_path, sizeof(sun.sun_path), "%s", name);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&sun, sizeof(sun)) < 0) {
		close(fd);
		fd = -1;
	}
	return fd;
}

static void keep(int fd)
{
	for (unsigned i = 0; i < PROGRAMS && fd >= 0; i++) {
		if (programs[i] < 0) {
			programs[i] = fd;
			return;
		}
	}
	if (fd >= 0)
		close(fd);
}

static void step_call(struct input *in)
{
	uint8_t port = next(in);
	char line[32];
	int fd = connect_to(path);

	snprintf(line, sizeof(line), port == 255 ? "CONNECT me, please\n" : "CONNECT %u\n", port);
	if (fd >= 0 && send(fd, line, strlen(line), MSG_NOSIGNAL) < 0) {
		close(fd);
		fd = -1;
	}
	keep(fd);
}

static void step_program(struct input *in, unsigned what)
{
	static uint8_t bytes[4096];
	unsigned i = next(in) % PROGRAMS;
	uint8_t value = next(in);
	int fd = programs[i];

	if (fd < 0)
		return;
	if (what == 3) {
		ssize_t sent = send(fd, bytes, 16u * value, MSG_NOSIGNAL);

		(void)sent;
	} else if (what == 4) {
		ssize_t got = recv(fd, bytes, 16u * value, 0);

		(void)got;
	} else if (value % 3 < 2) {
		shutdown(fd, value % 3 ? SHUT_WR : SHUT_RD);
	} else {
		close(fd);
		programs[i] = -1;
	}
}

static void save_and_load(void)
{
	struct hv_device *dev = &s->v.dev;
	struct hv_encoder e;
	struct hv_decoder d;
	struct hv_error err;

	hv_enc_init(&e);
	pthread_mutex_lock(&dev->lock);
	dev->ops->save(dev, &e);
	hv_dec_init(&d, e.data, e.length);
	require(dev->ops->load(dev, &d, dev->ops->version, &err) == 0);
	pthread_mutex_unlock(&dev->lock);
	hv_enc_free(&e);
	for (unsigned i = 0; i < VSOCK_CONNECTIONS; i++)
		require(!s->connections[i].known || s->connections[i].state == VSOCK_FREE ||
			s->connections[i].state == VSOCK_DRAINING);
}

static void step_driver(struct input *in)
{
	switch (next(in) % 3) {
	case 0:
		start_driver();
		break;
	case 1:
		save_and_load();
		break;
	default:
		hv_device_hold(&s->v.dev, true);
		run();
		hv_device_hold(&s->v.dev, false);
	}
}

static void step(struct input *in)
{
	unsigned what = next(in) % 7;

	if (what == 0)
		step_packet(in);
	else if (what == 1)
		step_room(in);
	else if (what == 2)
		step_call(in);
	else if (what == 6)
		step_driver(in);
	else
		step_program(in, what);
	run();
	keep(accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC));
}

/* --- a world for each input --- */

static void listen_at_port(void)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};

	snprintf(sun.sun_path, sizeof(sun.sun_path), "%s_%u", path, LISTENING);
	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	require(listener >= 0 && bind(listener, (struct sockaddr *)&sun, sizeof(sun)) == 0 &&
		listen(listener, 4) == 0);
}

static void open_world(void)
{
	struct hv_virtio_host host = {.mem = &mem};
	struct hv_vsock_sockets *sockets = NULL;

	snprintf(folder, sizeof(folder), "/tmp/hv-vsock-XXXXXX");
	require(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/v", folder);
	hv_memory_init(&mem, NULL);
	require(hv_memory_add(&mem, 0, MEMORY, false, NULL) == 0);
	require(hv_vsock_open(path, &sockets, NULL) == 0);
	require(hv_vsock_new(&host, sockets, CID, &s, NULL) == 0);
	listen_at_port();
	for (unsigned i = 0; i < PROGRAMS; i++)
		programs[i] = -1;
	start_driver();
}

static void close_world(void)
{
	char name[64];

	for (unsigned i = 0; i < PROGRAMS; i++)
		if (programs[i] >= 0)
			close(programs[i]);
	close(listener);
	hv_device_destroy(&s->v.dev);
	hv_memory_free(&mem);
	snprintf(name, sizeof(name), "%s_%u", path, LISTENING);
	unlink(name);
	require(rmdir(folder) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};

	open_world();
	while (in.size > 0)
		step(&in);
	close_world();
	return 0;
}
