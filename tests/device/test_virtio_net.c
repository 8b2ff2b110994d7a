/*
 * The network device before a back end of the test's own: what the driver sends arrives, what comes in is
 * spread over the driver's buffers, the control queue, and what a hostile driver or a network that vanishes
 * gets.
 */
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/api.h"
#include "device/virtio/net.h"
#include "drive_virtio.h"

#define MODERN HV_VIRTIO_F_VERSION_1
#define BIT(n) (1ull << (n))

enum { CSUM = 0, GUEST_CSUM = 1, MTU = 3, MAC = 5, GUEST_TSO4 = 7, HOST_TSO4 = 11, HOST_TSO6 = 12 };
enum { MRG_RXBUF = 15, STATUS = 16, CTRL_VQ = 17, CTRL_RX = 18, GUEST_ANNOUNCE = 21, CTRL_MAC_ADDR = 23 };
enum { RX, TX, CONTROL };

#define HEADER  12u
#define SIZE    16u /* of each ring */
#define CARD    "\x02\x11\x22\x33\x44\x55"
#define TX_DATA 0x40000u
#define RX_DATA 0x60000u
#define COMMAND 0x90000u

/* --- a back end: a socket whose other end is the test's --- */

struct fake {
	struct hv_netback back;
	int fd;
	_Atomic bool full; /* takes nothing now */
	_Atomic uint64_t offloads;
	_Atomic unsigned closed;
};

static struct fake fake;
static int wire; /* the other end */

static void fake_fill(struct hv_netback *b, struct hv_net_poll *p, bool want_receive, bool want_send)
{
	hv_net_poll_add(p, fake.fd, (short)((want_receive ? POLLIN : 0) | (want_send ? POLLOUT : 0)));
	if (fake.full)
		p->timeout_ms = 1;
}

static int fake_send(struct hv_netback *b, const struct iovec *iov, unsigned count, size_t length)
{
	ssize_t n;

	if (fake.full)
		return -EAGAIN;
	n = writev(fake.fd, iov, (int)count);
	if (n >= 0)
		cr_assert_eq((size_t)n, length + HEADER);
	return n < 0 ? -errno : 0;
}

static size_t fake_receive(struct hv_netback *b, uint8_t *buf, size_t size)
{
	ssize_t n = recv(fake.fd, buf, size, MSG_DONTWAIT);

	return n < 0 ? 0 : (size_t)n;
}

static void fake_offloads(struct hv_netback *b, uint64_t features)
{
	fake.offloads = features;
}

static void fake_describe(struct hv_netback *b, char *buf, size_t size)
{
	snprintf(buf, size, "fake");
}

static void fake_close(struct hv_netback *b)
{
	fake.closed++;
}

static const struct hv_netback_ops fake_ops = {
	.kind = "fake",
	.fill = fake_fill,
	.send = fake_send,
	.receive = fake_receive,
	.set_offloads = fake_offloads,
	.describe = fake_describe,
	.close = fake_close,
};

/* --- the driver --- */

static struct hv_memory mem;
static struct hv_device *dev;
static struct ring rings[3];
static struct irq_log irq;
static struct log_lines lines;
static struct hv_log hlog;

static struct hv_device *create(unsigned window)
{
	struct hv_virtio_host host = {
		.window = window, .mem = &mem, .irq = {.set = irq_log_set, .ctx = &irq}, .log = &hlog};
	struct hv_device *made;
	struct hv_error err;

	cr_assert_eq(hv_virtio_net_create(&host, &fake.back, (const uint8_t *)CARD, &made, &err), 0, "%s",
		     err.text);
	return made;
}

static void start(uint64_t features)
{
	negotiate(dev, MODERN | features);
	for (unsigned i = 0; i < 3; i++) {
		ring_init(&rings[i], &mem, i, SIZE);
		memset(guest_at(&rings[i], rings[i].used, 0x100), 0, 0x100);
		set_idx(&rings[i], 0);
		set_up_queue(dev, &rings[i], i);
	}
	driver_ok(dev);
	cr_assert_eq(reg(dev, MMIO_STATUS), 0x0f);
}

static void set_up(void)
{
	int pair[2], room = 1 << 20;

	hlog = (struct hv_log){.level = HV_LOG_WARN, .sink = keep_line, .ctx = &lines};
	lines.warnings = 0;
	hv_memory_init(&mem, NULL);
	cr_assert_eq(hv_memory_add(&mem, 0, RING_MEMORY, false, NULL), 0);
	cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	for (unsigned i = 0; i < 2; i++)
		setsockopt(pair[i], SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
	memset(&fake, 0, sizeof(fake));
	fake.fd = pair[0];
	wire = pair[1];
	fake.back.ops = &fake_ops;
	fake.back.mtu = 1500;
	fake.back.offloads = BIT(CSUM) | BIT(GUEST_CSUM) | BIT(GUEST_TSO4) | BIT(HOST_TSO4) | BIT(HOST_TSO6) |
			     BIT(40) /* not an offload: not to be offered */;
	dev = create(3);
	start(0);
}

static void tear_down(void)
{
	hv_device_destroy(dev);
	cr_assert_eq(fake.closed, 1);
	close(fake.fd);
	close(wire);
	hv_memory_free(&mem);
}

TestSuite(virtio_net, .init = set_up, .fini = tear_down, .timeout = 60);

/* Sends `length` bytes at TX_DATA, in one buffer. */
static void transmit(uint32_t length)
{
	describe(&rings[TX], 0, TX_DATA, length, 0, 0);
	make_available(&rings[TX], 0);
	set_reg(dev, MMIO_NOTIFY, TX);
}

static void sent(void)
{
	cr_assert(wait_used(&rings[TX], (uint16_t)(rings[TX].seen + 1)), "%s", lines.last);
	take_used(&rings[TX], NULL);
}

static uint8_t *tx_header(void)
{
	uint8_t *h = guest_at(&rings[TX], TX_DATA, 0x10000);

	memset(h, 0, HEADER);
	return h;
}

/* What arrived at the other end, at most ten seconds later; 0: nothing within `ms`. */
static size_t arrived(uint8_t *buf, size_t size, int ms)
{
	struct pollfd p = {.fd = wire, .events = POLLIN};

	if (poll(&p, 1, ms) != 1)
		return 0;
	return (size_t)recv(wire, buf, size, 0);
}

static void put_frame(uint8_t *frame, const char *to, size_t length)
{
	memset(frame, 0, HEADER);
	for (size_t i = 0; i < length; i++)
		frame[HEADER + i] = (uint8_t)(i * 7 + i / 256);
	memcpy(frame + HEADER, to, 6);
}

static void comes_in(const uint8_t *frame, size_t length)
{
	cr_assert_eq(send(wire, frame, HEADER + length, 0), (ssize_t)(HEADER + length));
}

/* Gives `count` buffers of `length` bytes each, from descriptor `first` on. */
static void give_buffers(unsigned first, unsigned count, uint32_t length)
{
	for (unsigned i = first; i < first + count; i++) {
		describe(&rings[RX], i, RX_DATA + i * 0x2000, length, WRITE, 0);
		make_available(&rings[RX], i);
	}
	set_reg(dev, MMIO_NOTIFY, RX);
}

static char *state(void)
{
	static char text[512];

	pthread_mutex_lock(&dev->lock);
	dev->ops->describe(dev, text, sizeof(text));
	pthread_mutex_unlock(&dev->lock);
	return text;
}

/* Waits until the state has this text, at most ten seconds. */
static void wait_state(const char *text)
{
	for (unsigned i = 0; i < 10000 && !strstr(state(), text); i++)
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	cr_assert(strstr(state(), text), "'%s' is not in '%s'", text, state());
}

Test(virtio_net, it_is_a_card_with_address_link_and_mtu)
{
	uint64_t offered = offered_features(dev);

	cr_assert_eq(reg(dev, MMIO_DEVICE_ID), 1);
	cr_assert_eq(offered & (BIT(24) - 1),
		     BIT(CSUM) | BIT(GUEST_CSUM) | BIT(MTU) | BIT(MAC) | BIT(GUEST_TSO4) | BIT(HOST_TSO4) |
			     BIT(HOST_TSO6) | BIT(MRG_RXBUF) | BIT(STATUS) | BIT(CTRL_VQ) | BIT(CTRL_RX) |
			     BIT(GUEST_ANNOUNCE) | BIT(CTRL_MAC_ADDR));
	cr_assert_eq(offered & BIT(40), 0);
	for (unsigned i = 0; i < 6; i++)
		cr_assert_eq(drive_read(dev, MMIO_CONFIG + i, 1), (uint8_t)CARD[i]);
	cr_assert_eq(drive_read(dev, MMIO_CONFIG + 6, 2), 1);
	cr_assert_eq(drive_read(dev, MMIO_CONFIG + 10, 2), 1500);
	drive_write(dev, MMIO_CONFIG, 0, 4);
	cr_assert_eq(drive_read(dev, MMIO_CONFIG, 1), 2, "the address is not to be written here");
}

Test(virtio_net, a_frame_goes_out_whatever_its_buffers)
{
	uint8_t *h = tx_header(), got[2048];

	put_frame(h, CARD, 1514);
	for (unsigned cut = 1; cut < 40; cut += 3) {
		describe(&rings[TX], 0, TX_DATA, cut, NEXT, 1);
		describe(&rings[TX], 1, TX_DATA + cut, 1, NEXT, 2);
		describe(&rings[TX], 2, TX_DATA + cut + 1, HEADER + 1514 - cut - 1, 0, 0);
		make_available(&rings[TX], 0);
		set_reg(dev, MMIO_NOTIFY, TX);
		sent();
		cr_assert_eq(arrived(got, sizeof(got), 10000), HEADER + 1514);
		cr_assert_arr_eq(got, h, HEADER + 1514);
	}
	cr_assert_gt(irq.rises, 0);
	wait_state("out 13 frames 19682 bytes 0 dropped");
}

Test(virtio_net, frames_too_short_or_too_long_are_dropped_and_the_next_one_goes)
{
	uint8_t *h = tx_header(), got[128];

	put_frame(h, CARD, 60);
	transmit(HEADER); /* no frame at all */
	sent();
	transmit(HEADER + 13);
	sent();
	transmit(HEADER + 65535 + 14 + 4 + 1);
	sent();
	transmit(HEADER + 14);
	sent();
	cr_assert_eq(arrived(got, sizeof(got), 10000), HEADER + 14);
	wait_state("out 1 frames 14 bytes 3 dropped");
}

Test(virtio_net, a_header_that_was_not_agreed_on_is_dropped)
{
	static const struct {
		uint8_t flags, gso;
		uint16_t length, size, start, offset;
		bool good;
	} headers[] = {
		{0, 0, 0, 0, 0, 0, true},
		{1, 0, 0, 0, 14, 16, true},
		{1, 0, 0, 0, 98, 0, true},
		{1, 0, 0, 0, 98, 1, false},
		{1, 0, 0, 0, 0xffff, 0xffff, false},
		{2, 0, 0, 0, 0, 0, false},
		{4, 0, 0, 0, 0, 0, false},
		{1, 1, 54, 10, 34, 16, true},
		{1, 1, 54, 0, 34, 16, false},
		{0, 1, 54, 10, 34, 16, false},
		{1, 1, 101, 10, 34, 16, false},
		{1, 4, 54, 10, 34, 16, false}, /* TSO6: not agreed on */
		{1, 3, 54, 10, 34, 16, false},
		{1, 0x81, 54, 10, 34, 16, false},
		{1, 0x80, 54, 10, 34, 16, false},
		{1, 5, 54, 10, 34, 16, false},
	};
	uint8_t *h, got[256];

	for (unsigned agreed = 0; agreed < 2; agreed++) {
		start(agreed ? BIT(CSUM) | BIT(HOST_TSO4) : 0);
		for (size_t i = 0; i < HV_ARRAY_SIZE(headers); i++) {
			bool good = agreed ? headers[i].good : !headers[i].flags && !headers[i].gso;

			h = tx_header();
			put_frame(h, CARD, 100);
			h[0] = headers[i].flags;
			h[1] = headers[i].gso;
			hv_put_le16(h + 2, headers[i].length);
			hv_put_le16(h + 4, headers[i].size);
			hv_put_le16(h + 6, headers[i].start);
			hv_put_le16(h + 8, headers[i].offset);
			transmit(HEADER + 100);
			sent();
			cr_assert_eq(arrived(got, sizeof(got), good ? 10000 : 0), good ? HEADER + 100 : 0,
				     "header %zu, agreed %u", i, agreed);
		}
	}
}

Test(virtio_net, a_chain_without_a_header_asks_for_a_reset)
{
	transmit(HEADER - 1);
	cr_assert(wait_status(dev, HV_VIRTIO_NEEDS_RESET));
	cr_assert(strstr(lines.last, "virtio-net3") && strstr(lines.last, "without its header"), "%s",
		  lines.last);
	start(0);
	put_frame(tx_header(), CARD, 60);
	transmit(HEADER + 60);
	sent();
}

Test(virtio_net, what_the_network_does_not_take_now_goes_out_later_in_order)
{
	uint8_t *h = tx_header(), got[128];

	fake.full = true;
	for (unsigned i = 0; i < 5; i++) {
		put_frame(h + i * 256, CARD, 60);
		h[i * 256 + HEADER + 20] = (uint8_t)i;
		describe(&rings[TX], i, TX_DATA + i * 256, HEADER + 60, 0, 0);
		make_available(&rings[TX], i);
	}
	set_reg(dev, MMIO_NOTIFY, TX);
	cr_assert_eq(arrived(got, sizeof(got), 20), 0);
	cr_assert_eq(used_idx(&rings[TX]), 0);
	hv_device_hold(dev, true); /* none is out */
	hv_device_hold(dev, false);
	fake.full = false;
	for (unsigned i = 0; i < 5; i++) {
		cr_assert_eq(arrived(got, sizeof(got), 10000), HEADER + 60);
		cr_assert_eq(got[HEADER + 20], i);
	}
	cr_assert(wait_used(&rings[TX], 5));
}

Test(virtio_net, a_frame_comes_into_one_buffer)
{
	uint8_t frame[HEADER + 1514];
	uint32_t length;

	put_frame(frame, CARD, 1514);
	give_buffers(0, 2, 1526);
	comes_in(frame, 1514);
	cr_assert(wait_used(&rings[RX], 1));
	cr_assert_eq(take_used(&rings[RX], &length), 0);
	cr_assert_eq(length, HEADER + 1514);
	hv_put_le16(frame + 10, 1); /* num_buffers */
	cr_assert_arr_eq(guest_at(&rings[RX], RX_DATA, 1526), frame, sizeof(frame));
	wait_state("in 1 frames 1514 bytes 0 dropped");
}

Test(virtio_net, a_frame_waits_for_buffers_and_none_is_lost)
{
	uint8_t frame[HEADER + 100];
	uint32_t length;

	for (unsigned i = 0; i < 3; i++) {
		put_frame(frame, CARD, 60 + i);
		comes_in(frame, 60 + i);
	}
	give_buffers(0, 1, 1526);
	cr_assert(wait_used(&rings[RX], 1));
	hv_device_hold(dev, true);
	hv_device_hold(dev, false);
	give_buffers(1, 2, 1526);
	cr_assert(wait_used(&rings[RX], 3));
	for (unsigned i = 0; i < 3; i++) {
		cr_assert_eq(take_used(&rings[RX], &length), i);
		cr_assert_eq(length, HEADER + 60 + i);
	}
}

Test(virtio_net, a_frame_is_spread_over_mergeable_buffers_that_appear_together)
{
	for (unsigned order = 0; order < 2; order++) {
		uint8_t frame[HEADER + 3000], got[HEADER + 3000];
		uint32_t length;
		size_t n = 0;

		start(BIT(MRG_RXBUF) | (order ? HV_VIRTIO_F_IN_ORDER : HV_VIRTIO_F_EVENT_IDX));
		put_frame(frame, CARD, 3000);
		comes_in(frame, 3000);
		give_buffers(0, 3, 1000); /* 3012 are needed */
		hv_device_hold(dev, true);
		hv_device_hold(dev, false);
		cr_assert_eq(used_idx(&rings[RX]), 0, "none is taken while they are too few");
		give_buffers(3, 1, 1000);
		cr_assert(wait_used(&rings[RX], 4));
		hv_put_le16(frame + 10, 4);
		for (unsigned i = 0; i < 4; i++) {
			cr_assert_eq(take_used(&rings[RX], &length), i);
			memcpy(got + n, guest_at(&rings[RX], RX_DATA + i * 0x2000, length), length);
			n += length;
		}
		cr_assert_eq(n, HEADER + 3000);
		cr_assert_arr_eq(got, frame, n);
	}
}

Test(virtio_net, a_frame_that_can_never_fit_is_dropped)
{
	uint8_t frame[HEADER + 1514];
	uint32_t length;

	put_frame(frame, CARD, 1514);
	give_buffers(0, 1, 200); /* not mergeable */
	comes_in(frame, 1514);
	comes_in(frame, 100);
	cr_assert(wait_used(&rings[RX], 1));
	take_used(&rings[RX], &length);
	cr_assert_eq(length, HEADER + 100);
	wait_state("in 1 frames 100 bytes 1 dropped");
	start(BIT(MRG_RXBUF));
	give_buffers(0, SIZE, 20); /* all that there are */
	comes_in(frame, 1514);
	comes_in(frame, 100);
	cr_assert(wait_used(&rings[RX], 6));
	wait_state("in 2 frames 200 bytes 2 dropped");
}

Test(virtio_net, a_buffer_without_room_for_a_header_asks_for_a_reset)
{
	uint8_t frame[HEADER + 60];

	put_frame(frame, CARD, 60);
	give_buffers(0, 1, HEADER - 1);
	comes_in(frame, 60);
	cr_assert(wait_status(dev, HV_VIRTIO_NEEDS_RESET));
	cr_assert(strstr(lines.last, "without room for a header"), "%s", lines.last);
}

Test(virtio_net, what_comes_in_with_offloads_reaches_only_a_driver_that_knows_them)
{
	uint8_t frame[HEADER + 100];

	give_buffers(0, 4, 1526);
	put_frame(frame, CARD, 100);
	frame[0] = 1;
	comes_in(frame, 100);
	frame[0] = 2; /* DATA_VALID: no harm, but it must not show */
	comes_in(frame, 100);
	cr_assert(wait_used(&rings[RX], 1));
	cr_assert_eq(*guest_at(&rings[RX], RX_DATA, 1), 0);
	wait_state("in 1 frames 100 bytes 1 dropped");
	cr_assert_eq(fake.offloads, 0);
	start(BIT(GUEST_CSUM) | BIT(GUEST_TSO4) | BIT(CSUM));
	give_buffers(0, 4, 1526);
	frame[0] = 1;
	frame[1] = 1;
	comes_in(frame, 100);
	cr_assert(wait_used(&rings[RX], 1));
	cr_assert_eq(*guest_at(&rings[RX], RX_DATA + 1, 1), 1);
	cr_assert_eq(fake.offloads, BIT(GUEST_CSUM) | BIT(GUEST_TSO4) | BIT(CSUM));
}

Test(virtio_net, frames_of_no_size_are_not_handed_on)
{
	uint8_t frame[HEADER + 60];

	put_frame(frame, CARD, 60);
	give_buffers(0, 2, 1526);
	comes_in(frame, 13);
	cr_assert_eq(send(wire, frame, 5, 0), 5);
	comes_in(frame, 60);
	cr_assert(wait_used(&rings[RX], 1));
	wait_state("in 1 frames 60 bytes 2 dropped");
}

/* --- the control queue --- */

/* The answer to a command of `length` bytes. */
static uint8_t command(uint8_t class, uint8_t number, const void *data, uint32_t length)
{
	struct ring *r = &rings[CONTROL];
	uint8_t *c = guest_at(r, COMMAND, 0x1000);

	c[0] = class;
	c[1] = number;
	if (length)
		memcpy(c + 2, data, length);
	*guest_at(r, COMMAND + 0x1000, 1) = 0xee;
	describe(r, 0, COMMAND, 2 + length, NEXT, 1);
	describe(r, 1, COMMAND + 0x1000, 1, WRITE, 0);
	make_available(r, 0);
	set_reg(dev, MMIO_NOTIFY, CONTROL);
	cr_assert(wait_used(r, (uint16_t)(r->seen + 1)), "%s", lines.last);
	take_used(r, NULL);
	return *guest_at(r, COMMAND + 0x1000, 1);
}

#define OTHER     "\x02\x99\x22\x33\x44\x55"
#define GROUP     "\x01\x00\x5e\x00\x00\x01"
#define BROADCAST "\xff\xff\xff\xff\xff\xff"

/* Which of the four addresses get through: bit 0 the card's own, 1 another, 2 a group, 3 broadcast. */
static unsigned passing(void)
{
	static const char *const to[] = {CARD, OTHER, GROUP, BROADCAST, CARD};
	static uint8_t marker = 100;
	uint8_t frame[HEADER + 60];
	unsigned found = 0;

	marker++;
	command(0, 5, "\0", 1);
	for (unsigned i = 0; i < 5; i++) {
		put_frame(frame, to[i], 60);
		frame[HEADER + 20] = marker;
		frame[HEADER + 21] = (uint8_t)i;
		comes_in(frame, 60);
	}
	for (;;) { /* the last one ends it; it goes to the card's own address */
		uint16_t before = rings[RX].seen;
		const uint8_t *got;

		give_buffers(0, 1, 1526);
		cr_assert(wait_used(&rings[RX], (uint16_t)(before + 1)));
		take_used(&rings[RX], NULL);
		got = guest_at(&rings[RX], RX_DATA, 1526) + HEADER;
		cr_assert_eq(got[20], marker);
		if (got[21] == 4)
			return found;
		found |= 1u << got[21];
	}
}

Test(virtio_net, the_driver_says_which_frames_it_wants)
{
	start(BIT(CTRL_VQ) | BIT(CTRL_RX));
	cr_assert_eq(passing(), 15, "all, to begin with");
	cr_assert_eq(command(0, 0, "\0", 1), 0); /* not promiscuous */
	cr_assert_eq(passing(), 9);
	cr_assert_eq(command(0, 1, "\1", 1), 0); /* all multicast */
	cr_assert_eq(passing(), 13);
	cr_assert_eq(command(0, 3, "\1", 1), 0); /* no multicast */
	cr_assert_eq(passing(), 9);
	cr_assert_eq(command(0, 2, "\1", 1), 0); /* all unicast */
	cr_assert_eq(passing(), 11);
	cr_assert_eq(command(0, 0, "\1", 1), 0);
	cr_assert_eq(passing(), 15);
}

Test(virtio_net, the_driver_names_addresses_that_it_wants)
{
	uint8_t table[4 + 6 + 4 + 100 * 6] = {1};

	start(BIT(CTRL_VQ) | BIT(CTRL_RX));
	cr_assert_eq(command(0, 0, "\0", 1), 0);
	memcpy(table + 4, OTHER, 6);
	hv_put_le32(table + 10, 1);
	memcpy(table + 14, GROUP, 6);
	cr_assert_eq(command(1, 0, table, 20), 0);
	cr_assert_eq(passing(), 15);
	cr_assert_eq(command(1, 0, table, 19), 1, "cut short: nothing changes");
	cr_assert_eq(command(1, 0, table, 12), 1);
	hv_put_le32(table, UINT32_MAX);
	cr_assert_eq(command(1, 0, table, sizeof(table)), 1);
	cr_assert_eq(passing(), 15);
	hv_put_le32(table, 0);
	hv_put_le32(table + 4, 0);
	cr_assert_eq(command(1, 0, table, 8), 0);
	cr_assert_eq(passing(), 9);
	hv_put_le32(table + 4, 100); /* more than the device keeps: all of that kind */
	cr_assert_eq(command(1, 0, table, 8 + 600), 0);
	cr_assert_eq(passing(), 13);
}

Test(virtio_net, the_driver_sets_the_address)
{
	start(BIT(CTRL_VQ) | BIT(CTRL_RX) | BIT(CTRL_MAC_ADDR));
	cr_assert_eq(command(1, 1, GROUP, 6), 1, "a group's is none");
	cr_assert_eq(command(1, 1, OTHER, 5), 1);
	cr_assert_eq(drive_read(dev, MMIO_CONFIG + 1, 1), 0x11);
	cr_assert_eq(command(1, 1, OTHER, 6), 0);
	cr_assert_eq(drive_read(dev, MMIO_CONFIG + 1, 1), 0x99);
	start(0);
	cr_assert_eq(drive_read(dev, MMIO_CONFIG + 1, 1), 0x11, "a reset gives the card its own again");
}

Test(virtio_net, commands_that_are_unknown_or_not_agreed_on_are_answered_with_an_error)
{
	start(BIT(CTRL_VQ));
	cr_assert_eq(command(0, 0, "\1", 1), 1);
	cr_assert_eq(command(1, 1, OTHER, 6), 1);
	cr_assert_eq(command(3, 0, NULL, 0), 1);
	start(BIT(CTRL_VQ) | BIT(CTRL_RX) | BIT(GUEST_ANNOUNCE));
	cr_assert_eq(command(0, 6, "\1", 1), 1);
	cr_assert_eq(command(0, 0, "\2", 1), 1);
	cr_assert_eq(command(0, 0, NULL, 0), 1);
	cr_assert_eq(command(2, 0, "\1", 1), 1);
	cr_assert_eq(command(3, 1, NULL, 0), 1);
	cr_assert_eq(command(3, 0, NULL, 0), 0);
	cr_assert_eq(command(255, 255, NULL, 0), 1);
	start(0);
	cr_assert_eq(command(3, 0, NULL, 0), 1, "without CTRL_VQ");
}

Test(virtio_net, a_command_without_room_for_its_answer_asks_for_a_reset)
{
	start(BIT(CTRL_VQ));
	describe(&rings[CONTROL], 0, COMMAND, 2, 0, 0);
	make_available(&rings[CONTROL], 0);
	set_reg(dev, MMIO_NOTIFY, CONTROL);
	cr_assert(wait_status(dev, HV_VIRTIO_NEEDS_RESET));
}

/* --- link, state --- */

static bool wait_link(uint16_t want)
{
	for (unsigned i = 0; i < 10000; i++) {
		if (drive_read(dev, MMIO_CONFIG + 6, 2) == want)
			return true;
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	}
	return false;
}

Test(virtio_net, a_cable_that_is_pulled_out_is_told_and_drops_frames)
{
	uint32_t generation = reg(dev, MMIO_GENERATION);
	uint8_t frame[HEADER + 60];

	hv_virtio_net_set_link(dev, false);
	cr_assert(wait_link(0));
	cr_assert_neq(reg(dev, MMIO_GENERATION), generation);
	cr_assert(reg(dev, MMIO_INTERRUPT_STATUS) & 2);
	put_frame(tx_header(), CARD, 60);
	transmit(HEADER + 60);
	sent();
	cr_assert_eq(arrived(frame, sizeof(frame), 0), 0);
	put_frame(frame, CARD, 60);
	give_buffers(0, 1, 1526);
	comes_in(frame, 60);
	wait_state("link down, in 0 frames 0 bytes 1 dropped, out 0 frames 0 bytes 1 dropped");
	hv_virtio_net_set_link(dev, true);
	cr_assert(wait_link(1));
	comes_in(frame, 60);
	cr_assert(wait_used(&rings[RX], 1));
}

Test(virtio_net, a_network_that_is_gone_is_a_cable_pulled_out)
{
	fake.back.gone = true;
	put_frame(tx_header(), CARD, 60);
	transmit(HEADER + 60);
	sent();
	cr_assert(wait_link(0));
	wait_state("link down");
	cr_assert_eq(reg(dev, MMIO_STATUS), 0x0f);
}

Test(virtio_net, while_it_is_held_nothing_moves)
{
	uint8_t frame[HEADER + 60], got[128];

	put_frame(frame, CARD, 60);
	hv_device_hold(dev, true);
	give_buffers(0, 1, 1526);
	comes_in(frame, 60);
	put_frame(tx_header(), CARD, 60);
	transmit(HEADER + 60);
	cr_assert_eq(arrived(got, sizeof(got), 50), 0);
	cr_assert_eq(used_idx(&rings[RX]), 0);
	hv_device_hold(dev, false);
	cr_assert_eq(arrived(got, sizeof(got), 10000), HEADER + 60);
	cr_assert(wait_used(&rings[RX], 1));
}

Test(virtio_net, a_reset_in_mid_transfer_leaves_nothing_behind)
{
	uint8_t frame[HEADER + 1000];

	for (unsigned round = 0; round < 200; round++) {
		start(round % 2 ? BIT(MRG_RXBUF) : 0);
		put_frame(frame, CARD, 1000);
		put_frame(tx_header(), CARD, 60);
		comes_in(frame, 1000);
		give_buffers(0, 4, round % 3 ? 600 : 1526);
		transmit(HEADER + 60);
		if (round % 5 == 0)
			drive_reset(dev);
		while (arrived(frame, sizeof(frame), 0))
			;
	}
	start(0);
	hv_device_hold(dev, true);
	while (recv(fake.fd, frame, sizeof(frame), MSG_DONTWAIT) > 0)
		; /* what the device had no chance to take */
	hv_device_hold(dev, false);
	put_frame(frame, OTHER, 777);
	give_buffers(0, 8, 1526);
	comes_in(frame, 777);
	cr_assert(wait_used(&rings[RX], 1), "%s", state());
}

static void load_into(struct hv_device *to, const struct hv_encoder *e, int want)
{
	struct hv_error err;

	cr_assert_eq(drive_load(to, e->data, e->length, to->ops->version, &err), want, "%s", err.text);
}

Test(virtio_net, it_goes_on_from_saved_state_with_its_address_and_filter)
{
	struct hv_encoder e;
	uint8_t table[20] = {1}, got[128];

	start(BIT(CTRL_VQ) | BIT(CTRL_RX) | BIT(CTRL_MAC_ADDR) | BIT(GUEST_ANNOUNCE));
	memcpy(table + 4, CARD, 6);
	hv_put_le32(table + 10, 1);
	memcpy(table + 14, GROUP, 6);
	cr_assert_eq(command(1, 0, table, 20), 0);
	cr_assert_eq(command(1, 1, OTHER, 6), 0);
	cr_assert_eq(command(0, 0, "\0", 1), 0);
	hv_device_hold(dev, true);
	drive_save(dev, &e);
	hv_device_hold(dev, false);
	hv_device_destroy(dev);
	fake.closed = 0;
	dev = create(3);
	load_into(dev, &e, 0);
	hv_enc_free(&e);
	cr_assert_eq(drive_read(dev, MMIO_CONFIG + 1, 1), 0x99);
	cr_assert(wait_link(3), "it asks the guest to tell its neighbours");
	cr_assert_eq(command(3, 0, NULL, 0), 0);
	cr_assert(wait_link(1));
	cr_assert_eq(passing(), 15);
	put_frame(tx_header(), CARD, 60);
	transmit(HEADER + 60);
	cr_assert_eq(arrived(got, sizeof(got), 10000), HEADER + 60);
}

Test(virtio_net, saved_state_that_lies_is_refused)
{
	struct hv_encoder e, whole;

	start(BIT(CTRL_VQ) | BIT(CTRL_RX));
	hv_device_hold(dev, true);
	drive_save(dev, &whole);
	hv_device_hold(dev, false);
	/* The type's part is the last: address (4 + 6), six flags, two tables (1 + 4). */
	for (size_t i = 0; i < 6 + 1; i++) {
		hv_enc_init(&e);
		e.data = malloc(whole.length);
		memcpy(e.data, whole.data, whole.length);
		e.length = whole.length;
		e.data[whole.length - 16 + i] = 2;
		load_into(dev, &e, -EBADMSG);
		free(e.data);
	}
	whole.data[whole.length - 22] = 1; /* a group's address */
	load_into(dev, &whole, -EBADMSG);
	whole.data[whole.length - 22] = 2;
	load_into(dev, &whole, 0);
	whole.length--;
	load_into(dev, &whole, -EBADMSG);
	hv_enc_free(&whole);
}
