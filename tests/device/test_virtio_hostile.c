/*
 * A driver that writes anything at all into its rings, a hundred thousand times, the same each time: the
 * devices live on, and after a reset an honest request is served.
 */
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "device/virtio/balloon.h"
#include "device/virtio/blk.h"
#include "device/virtio/console.h"
#include "device/virtio/net.h"
#include "drive_virtio.h"

#define ROUNDS  100000u
#define SIZE    8u
#define QUEUES  6u
#define F_FLUSH (1ull << 9)

static struct hv_memory mem;
static struct hv_device *dev;
static struct ring rings[QUEUES];
static struct ring *r = rings;         /* the one that is written to */
static unsigned queues = 1;            /* that the driver sets up */
static uint64_t type_features;         /* of the type, that the driver takes */
static void (*any_request)(uint8_t *); /* what is honest enough to be looked at, in 16 bytes */
static void (*between)(void);          /* what the host does meanwhile */
static uint64_t type_features;         /* beyond those in the lowest byte */
static uint64_t state;

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
	switch (below(8)) {
	case 0:
		return any();
	case 1:
		return RING_MEMORY - below(32);
	case 2:
		return r->table + below(0x4000); /* the rings themselves */
	default:
		return RING_DATA + below(0x1000);
	}
}

static void any_descriptor(uint64_t table, unsigned index)
{
	static const uint32_t lengths[] = {0, 1, 15, 16, 17, 32, 512, 1024, 0x10000, UINT32_MAX};
	unsigned flags = below(16) ? below(4) : below(0x10000), next = below(8) ? index + 1 : below(300);

	if (below(6) == 0)
		flags = INDIRECT;
	put_descriptor(r, table, index, any_address(), lengths[below(HV_ARRAY_SIZE(lengths))], flags,
		       next & 0xffff);
}

/* What starts as a request often is one, so that the requests' own fields are reached. */
static void any_header(void)
{
	any_request(guest_at(r, RING_DATA, 16));
	describe(r, 0, RING_DATA, 16, NEXT, 1);
	if (below(2))
		describe(r, 0, RING_DATA, 16, 0, 0);
}

static void any_disk_request(uint8_t *h)
{
	static const uint32_t types[] = {0, 1, 4, 8, 11, 13, 14};

	hv_put_le32(h, types[below(HV_ARRAY_SIZE(types))]);
	hv_put_le64(h + 8, below(4) ? below(64) : any());
}

static void any_message(uint8_t *h)
{
	hv_put_le32(h, below(8) ? below(3) : (uint32_t)any());
	hv_put_le16(h + 4, (uint16_t)(below(8) ? below(8) : any()));
	hv_put_le16(h + 6, (uint16_t)(below(8) ? below(2) : any()));
}

static void any_pages(uint8_t *h)
{
	for (unsigned i = 0; i < 4; i++)
		hv_put_le32(h + 4 * (size_t)i, below(8) ? RING_DATA / 4096 + 2 + below(64) : (uint32_t)any());
}

static void restart(uint64_t features)
{
	negotiate(dev, HV_VIRTIO_F_VERSION_1 | type_features | features);
	for (unsigned queue = 0; queue < queues; queue++) {
		struct ring *each = &rings[queue];

		set_idx(each, 0);
		memset(guest_at(each, each->used, 0x100), 0, 0x100);
		each->seen = 0;
		set_up_queue(dev, each, queue);
	}
	driver_ok(dev);
	cr_assert_eq(reg(dev, MMIO_STATUS), 0x0f);
	r = rings;
}

static uint64_t any_features(void)
{
	uint64_t own = below(4) ? offered_features(dev) & 0xff : any() & offered_features(dev) & 0xff;

	return own | (below(2) ? HV_VIRTIO_F_INDIRECT : 0) | (below(2) ? HV_VIRTIO_F_EVENT_IDX : 0) |
	       (below(2) ? HV_VIRTIO_F_IN_ORDER : 0);
}

static unsigned torment(void)
{
	unsigned resets = 0;

	for (unsigned round = 0; round < ROUNDS; round++) {
		r = &rings[below(queues)];
		for (unsigned i = 0; i < SIZE; i++)
			any_descriptor(r->table, i);
		for (unsigned i = 0; i < 4; i++)
			any_descriptor(RING_DATA + 0x1000, i);
		if (any_request && below(2))
			any_header();
		for (unsigned n = below(4); n > 0; n--)
			make_available(r, below(64) ? below(SIZE) : below(0x10000));
		if (below(100) == 0)
			set_idx(r, (uint16_t)any());
		set_reg(dev, MMIO_NOTIFY, (uint32_t)(r - rings));
		if (between && below(16) == 0)
			between();
		if (below(4) == 0) /* all that was taken is done then */
			hv_device_hold(dev, true), hv_device_hold(dev, false);
		if (reg(dev, MMIO_STATUS) & HV_VIRTIO_NEEDS_RESET || below(1000) == 0) {
			restart(any_features() | (type_features & any()));
			resets++;
		}
	}
	return resets;
}

static void set_up(void)
{
	hv_memory_init(&mem, NULL);
	cr_assert_eq(hv_memory_add(&mem, 0, RING_MEMORY, false, NULL), 0);
	for (unsigned queue = 0; queue < QUEUES; queue++)
		ring_init(&rings[queue], &mem, queue, SIZE);
	state = 0x9e3779b97f4a7c15;
}

static void tear_down(void)
{
	hv_device_destroy(dev);
	hv_memory_free(&mem);
}

/* A driver that writes while the device reads is what this is about, and what ThreadSanitizer would tell. */
#if defined(__SANITIZE_THREAD__)
#define RACES_ARE_TOLD 1
#elif defined(__has_feature)
#define RACES_ARE_TOLD __has_feature(thread_sanitizer)
#else
#define RACES_ARE_TOLD 0
#endif

TestSuite(virtio_hostile, .init = set_up, .fini = tear_down, .timeout = 300);

Test(virtio_hostile, no_ring_harms_the_entropy_device, .disabled = RACES_ARE_TOLD)
{
	struct hv_virtio_host host = {.mem = &mem};

	cr_assert_eq(hv_virtio_rng_create(&host, &dev, NULL), 0);
	restart(0);
	cr_assert_gt(torment(), 100);
	restart(0);
	describe(r, 0, RING_DATA, 64, WRITE, 0);
	make_available(r, 0);
	set_reg(dev, MMIO_NOTIFY, 0);
	cr_assert(wait_used(r, 1));
}

Test(virtio_hostile, no_ring_harms_the_block_device, .disabled = RACES_ARE_TOLD)
{
	struct hv_virtio_host host = {.mem = &mem};
	char path[] = "/tmp/hv-blk-XXXXXX";
	const struct hv_blk_options options = {.format = "raw"};
	struct hv_blk_image *disk;
	int fd = mkstemp(path);

	cr_assert(fd >= 0);
	cr_assert_eq(ftruncate(fd, 64 * 512), 0);
	cr_assert_eq(hv_blk_open(path, &options, &disk, NULL), 0);
	unlink(path);
	close(fd);
	cr_assert_eq(hv_virtio_blk_create(&host, disk, NULL, 1, &dev, NULL), 0);
	any_request = any_disk_request;
	type_features = F_FLUSH;
	restart(0);
	cr_assert_gt(torment(), 100);
	restart(0);
	hv_put_le32(guest_at(r, RING_DATA, 4), 0);
	hv_put_le64(guest_at(r, RING_DATA + 8, 8), 63);
	describe(r, 0, RING_DATA, 16, NEXT, 1);
	describe(r, 1, RING_DATA + 0x1000, 513, WRITE, 0);
	make_available(r, 0);
	set_reg(dev, MMIO_NOTIFY, 0);
	cr_assert(wait_used(r, 1));
	cr_assert_eq(*guest_at(r, RING_DATA + 0x1000 + 512, 1), 0, "and it is OK");
}

static int clients[HV_CONSOLE_PORTS];

/* The other ends of the console's ports: they send, and read what there is. */
static void talk(void)
{
	char bytes[4096] = "some input";

	for (unsigned i = 0; i < HV_CONSOLE_PORTS; i++) {
		(void)!send(clients[i], bytes, below(64), MSG_DONTWAIT | MSG_NOSIGNAL);
		while (recv(clients[i], bytes, sizeof(bytes), MSG_DONTWAIT) == (ssize_t)sizeof(bytes))
			;
	}
}

static int connect_to(const char *path)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(sun.sun_path, sizeof(sun.sun_path), "%s", path);
	cr_assert_eq(connect(fd, (struct sockaddr *)&sun, sizeof(sun)), 0);
	return fd;
}

Test(virtio_hostile, no_ring_harms_the_console, .disabled = RACES_ARE_TOLD)
{
	struct hv_virtio_host host = {.mem = &mem};
	struct hv_chardev *lines[HV_CONSOLE_PORTS];
	struct hv_console_port ports[HV_CONSOLE_PORTS] = {{.there = true}, {.there = true, .name = "agent"}};
	char folder[] = "/tmp/hv-console-XXXXXX", path[64], got = 0;

	signal(SIGPIPE, SIG_IGN);
	cr_assert_not_null(mkdtemp(folder));
	for (unsigned i = 0; i < HV_CONSOLE_PORTS; i++) {
		struct hv_chardev_config config = {.kind = HV_CHARDEV_UNIX};

		snprintf(config.path, sizeof(config.path), "%s/%u", folder, i);
		cr_assert_eq(hv_chardev_open(&config, NULL, &lines[i], NULL), 0);
		ports[i].chardev = lines[i];
	}
	cr_assert_eq(hv_virtio_console_create(&host, ports, &dev, NULL), 0);
	for (unsigned i = 0; i < HV_CONSOLE_PORTS; i++) {
		cr_assert_eq(hv_chardev_start(lines[i], NULL), 0);
		snprintf(path, sizeof(path), "%s/%u", folder, i);
		clients[i] = connect_to(path);
	}
	queues = 6;
	any_request = any_message;
	between = talk;
	restart(2);
	cr_assert_gt(torment(), 100);
	talk();
	restart(0);
	*guest_at(&rings[1], RING_DATA, 1) = '!';
	describe(&rings[1], 0, RING_DATA, 1, 0, 0);
	make_available(&rings[1], 0);
	set_reg(dev, MMIO_NOTIFY, 1);
	cr_assert(wait_used(&rings[1], 1));
	while (got != '!')
		cr_assert_eq(read(clients[0], &got, 1), 1);
	hv_device_hold(dev, true);
	for (unsigned i = 0; i < HV_CONSOLE_PORTS; i++) {
		hv_chardev_close(lines[i]);
		close(clients[i]);
	}
	rmdir(folder);
}

Test(virtio_hostile, no_ring_harms_the_balloon, .disabled = RACES_ARE_TOLD)
{
	struct hv_virtio_host host = {.mem = &mem};
	uint8_t *page;

	cr_assert_eq(hv_virtio_balloon_create(&host, NULL, NULL, &dev, NULL), 0);
	queues = 5;
	any_request = any_pages;
	restart(0);
	cr_assert_gt(torment(), 100);
	restart(0);
	page = guest_at(r, RING_DATA + 0x10000, 4096);
	*page = 1;
	hv_put_le32(guest_at(r, RING_DATA, 4), (RING_DATA + 0x10000) / 4096);
	describe(r, 0, RING_DATA, 4, 0, 0);
	make_available(r, 0);
	set_reg(dev, MMIO_NOTIFY, 0);
	cr_assert(wait_used(r, 1));
	cr_assert_eq(*page, 0);
}

/* A network that brings any frame at any time, and takes or refuses as it likes. */
static void noise_fill(struct hv_netback *b, struct hv_net_poll *p, bool want_receive, bool want_send)
{
	if (want_receive || want_send)
		p->timeout_ms = 0;
}

static uint32_t noise(void)
{
	static uint32_t last = 12345; /* the device's thread's own */

	last = last * 1664525 + 1013904223;
	return last >> 8;
}

static int noise_send(struct hv_netback *b, const struct iovec *iov, unsigned count, size_t length)
{
	static uint8_t copy[HV_NET_HEADER + HV_NET_FRAME_MAX];
	size_t n = 0;

	if (noise() % 8 == 0)
		return noise() % 2 ? -EAGAIN : -EIO;
	for (unsigned i = 0; i < count; i++) {
		cr_assert_leq(n + iov[i].iov_len, sizeof(copy));
		memcpy(copy + n, iov[i].iov_base, iov[i].iov_len);
		n += iov[i].iov_len;
	}
	cr_assert_eq(n, HV_NET_HEADER + length);
	return 0;
}

static size_t noise_receive(struct hv_netback *b, uint8_t *buf, size_t size)
{
	static const size_t lengths[] = {1, 12, 25, 26, 72, 1526, 9000, HV_NET_HEADER + HV_NET_FRAME_MAX};
	size_t length = lengths[noise() % HV_ARRAY_SIZE(lengths)];

	if (noise() % 4 == 0)
		return 0;
	memset(buf, 0, length);
	buf[0] = noise() % 4 ? 0 : (uint8_t)noise();
	buf[1] = noise() % 4 ? 0 : (uint8_t)noise();
	if (length > HV_NET_HEADER)
		buf[HV_NET_HEADER] = (uint8_t)noise();
	return length;
}

static void noise_describe(struct hv_netback *b, char *buf, size_t size)
{
	buf[0] = '\0';
}

static void noise_close(struct hv_netback *b)
{
}

static const struct hv_netback_ops noise_ops = {
	.kind = "noise",
	.fill = noise_fill,
	.send = noise_send,
	.receive = noise_receive,
	.describe = noise_describe,
	.close = noise_close,
};

Test(virtio_hostile, no_ring_harms_the_network_device, .disabled = RACES_ARE_TOLD)
{
	struct hv_virtio_host host = {.mem = &mem};
	struct hv_netback back = {.ops = &noise_ops, .offloads = 0x3fff, .mtu = 1500};
	static const uint8_t mac[HV_MAC_SIZE] = {2, 0, 0, 0, 0, 1};

	cr_assert_eq(hv_virtio_net_create(&host, &back, mac, &dev, NULL), 0);
	queues = 3;
	type_features = offered_features(dev);
	restart(0);
	cr_assert_gt(torment(), 100);
	restart(0);
	r = &rings[1]; /* transmit */
	describe(r, 0, RING_DATA, 72, 0, 0);
	memset(guest_at(r, RING_DATA, 72), 0, 72);
	make_available(r, 0);
	set_reg(dev, MMIO_NOTIFY, 1);
	cr_assert(wait_used(r, 1));
	r = &rings[0]; /* receive */
	describe(r, 0, RING_DATA, 0x20000, WRITE, 0);
	make_available(r, 0);
	set_reg(dev, MMIO_NOTIFY, 0);
	cr_assert(wait_used(r, 1));
	hv_device_destroy(dev); /* while the network is still there */
	dev = NULL;
}
