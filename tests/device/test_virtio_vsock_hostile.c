/*
 * A driver that writes anything at all into the three rings of a socket device, a hundred thousand times, the
 * same each time, while host programs come and go: the device lives on, and after a reset an honest stream
 * works.
 */
#include <fcntl.h>

#include "drive_vsock.h"

#define ROUNDS 100000u
#define SIZE   8u

static uint64_t state;
static int listener, program = -1;

static uint64_t any(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static unsigned below(unsigned n)
{
	return (unsigned)(any() % n);
}

/* Mostly something that could be right: what is wrong everywhere is found at once and proves little. */
static uint64_t any_address(void)
{
	switch (below(16)) {
	case 0:
		return any();
	case 1:
		return RING_MEMORY - below(64);
	case 2:
		return rings[below(VSOCK_QUEUES)].table + below(0x4000); /* the rings themselves */
	default:
		return RING_DATA + below(8) * 0x100;
	}
}

static void any_descriptor(struct ring *r, uint64_t table, unsigned index, unsigned direction)
{
	static const uint32_t lengths[] = {4, 43, 44, 45, 64, 256, 4096, 0x10000, 0, UINT32_MAX};
	unsigned flags = below(16) ? direction : below(0x10000);

	if (below(8) == 0)
		flags |= NEXT;
	if (below(16) == 0)
		flags = INDIRECT;
	put_descriptor(r, table, index, any_address(), lengths[below(below(8) ? 8 : HV_ARRAY_SIZE(lengths))],
		       flags, below(8) ? index + 1 : below(300) & 0xffff);
}

/* What starts as a packet often is one, of few streams, so that their states are reached. */
static void any_packet(void)
{
	struct vsock_header h = {.src_cid = below(16) ? GUEST_CID : any(),
				 .dst_cid = below(16) ? VSOCK_HOST_CID : any(),
				 .src_port = below(4),
				 .dst_port = below(4) ? 70 + below(2) : (1u << 30) + below(8),
				 .length = below(8) ? below(200) : (uint32_t)any(),
				 .type = (uint16_t)(below(16) ? VSOCK_TYPE_STREAM : any()),
				 .op = (uint16_t)(below(16) ? below(8) : any()),
				 .flags = below(5),
				 .buf_alloc = below(4) ? 4096 : (uint32_t)any(),
				 .fwd_cnt = below(4) ? below(1000) : (uint32_t)any()};

	put_header(guest_at(&rings[TX], RING_DATA, VSOCK_HEADER), &h);
	describe(&rings[TX], 0, RING_DATA, VSOCK_HEADER + (below(8) ? 200 : below(300)), 0, 0);
	make_available(&rings[TX], 0);
}

static void restart(uint64_t features)
{
	set_reg(vsock, MMIO_STATUS, 0);
	for (unsigned i = 0; i < VSOCK_QUEUES; i++) {
		ring_init(&rings[i], &vsock_mem, i, SIZE);
		set_idx(&rings[i], 0);
		memset(guest_at(&rings[i], rings[i].used, 0x100), 0, 0x100);
	}
	negotiate(vsock, HV_VIRTIO_F_VERSION_1 | features);
	for (unsigned i = 0; i < VSOCK_QUEUES; i++)
		set_up_queue(vsock, &rings[i], i);
	driver_ok(vsock);
	cr_assert_eq(reg(vsock, MMIO_STATUS), 0x0f);
}

static uint64_t any_features(void)
{
	return (below(2) ? HV_VIRTIO_F_INDIRECT : 0) | (below(2) ? HV_VIRTIO_F_EVENT_IDX : 0) |
	       (below(2) ? HV_VIRTIO_F_IN_ORDER : 0);
}

/* A host program that calls, or answers, sends a little, and goes. */
static void any_program(void)
{
	char bytes[300] = "CONNECT 2\n";

	if (program >= 0 && below(4) == 0) {
		close(program);
		program = -1;
	}
	if (program < 0)
		program = below(2) ? accept4(listener, NULL, NULL, SOCK_CLOEXEC) : host_connect();
	if (program < 0)
		return;
	if (send(program, bytes, below(2) ? 10 : sizeof(bytes), MSG_NOSIGNAL | MSG_DONTWAIT) > 0)
		while (recv(program, bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
			;
}

static unsigned torment(void)
{
	unsigned resets = 0;

	for (unsigned round = 0; round < ROUNDS; round++) {
		struct ring *r = &rings[below(VSOCK_QUEUES)];

		for (unsigned i = 0; i < SIZE; i++)
			any_descriptor(r, r->table, i, r == &rings[TX] ? 0 : WRITE);
		for (unsigned i = 0; i < 4; i++)
			any_descriptor(r, RING_DATA + 0x1000, i, r == &rings[TX] ? 0 : WRITE);
		if (below(2))
			any_packet();
		for (unsigned n = below(4); n > 0; n--)
			make_available(r, below(64) ? below(SIZE) : below(0x10000));
		if (below(200) == 0)
			set_idx(r, (uint16_t)any());
		set_reg(vsock, MMIO_NOTIFY, below(VSOCK_QUEUES));
		if (below(8) == 0)
			any_program();
		if (below(4) == 0) /* all that was taken is done then */
			hv_device_hold(vsock, true), hv_device_hold(vsock, false);
		if (reg(vsock, MMIO_STATUS) & HV_VIRTIO_NEEDS_RESET || below(1000) == 0) {
			restart(any_features());
			resets++;
		}
	}
	return resets;
}

/* A driver that writes while the device reads is what this is about, and what ThreadSanitizer would tell. */
#if defined(__SANITIZE_THREAD__)
#define RACES_ARE_TOLD 1
#elif defined(__has_feature)
#define RACES_ARE_TOLD __has_feature(thread_sanitizer)
#else
#define RACES_ARE_TOLD 0
#endif

TestSuite(virtio_vsock_hostile, .init = make_vsock, .fini = free_vsock, .timeout = 300);

Test(virtio_vsock_hostile, no_ring_harms_the_socket_device, .disabled = RACES_ARE_TOLD)
{
	struct stream g;
	int fd;

	state = 0x9e3779b97f4a7c15;
	listener = host_listen(70, 4);
	fcntl(listener, F_SETFL, O_NONBLOCK);
	restart(0);
	cr_assert_gt(torment(), 100);
	if (program >= 0)
		close(program);
	close(listener);
	start_driver(true);
	/* Programs whose request the guest had not heard of are still waiting for it. */
	while (has_packet(50))
		next_packet();
	fd = host_connect();
	host_say(fd, "CONNECT 4000\n");
	for (;;) {
		struct packet p = next_packet();

		g = (struct stream){.port = p.h.dst_port, .host_port = p.h.src_port, .alloc = 4096};
		if (p.h.op == VSOCK_OP_REQUEST && p.h.dst_port == 4000)
			break;
	}
	send_op(&g, VSOCK_OP_RESPONSE, 0);
	send_data(&g, "alive", 5);
	host_expect(fd, "OK ", 3);
	close(fd);
}
