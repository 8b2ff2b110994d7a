/*
 * A driver that writes anything at all into its rings, a hundred thousand times, the same each time: the
 * devices live on, and after a reset an honest request is served.
 */
#include <stdlib.h>
#include <unistd.h>

#include "device/virtio/blk.h"
#include "drive_virtio.h"

#define ROUNDS  100000u
#define SIZE    8u
#define F_FLUSH (1ull << 9)

static struct hv_memory mem;
static struct hv_device *dev;
static struct ring r;
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
		return r.table + below(0x4000); /* the rings themselves */
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
	put_descriptor(&r, table, index, any_address(), lengths[below(HV_ARRAY_SIZE(lengths))], flags,
		       next & 0xffff);
}

/* What starts as a block request often is one, so that the requests' own fields are reached. */
static void any_header(void)
{
	static const uint32_t types[] = {0, 1, 4, 8, 11, 13, 14};
	uint8_t *h = guest_at(&r, RING_DATA, 16);

	hv_put_le32(h, types[below(HV_ARRAY_SIZE(types))]);
	hv_put_le64(h + 8, below(4) ? below(64) : any());
	describe(&r, 0, RING_DATA, 16, NEXT, 1);
}

static void restart(uint64_t features)
{
	set_idx(&r, 0);
	memset(guest_at(&r, r.used, 0x100), 0, 0x100);
	r.seen = 0;
	negotiate(dev, HV_VIRTIO_F_VERSION_1 | (F_FLUSH & offered_features(dev)) | features);
	set_up_queue(dev, &r, 0);
	driver_ok(dev);
	cr_assert_eq(reg(dev, MMIO_STATUS), 0x0f);
}

static uint64_t any_features(void)
{
	return (below(2) ? HV_VIRTIO_F_INDIRECT : 0) | (below(2) ? HV_VIRTIO_F_EVENT_IDX : 0) |
	       (below(2) ? HV_VIRTIO_F_IN_ORDER : 0);
}

static unsigned torment(void)
{
	unsigned resets = 0;

	for (unsigned round = 0; round < ROUNDS; round++) {
		for (unsigned i = 0; i < SIZE; i++)
			any_descriptor(r.table, i);
		for (unsigned i = 0; i < 4; i++)
			any_descriptor(RING_DATA + 0x1000, i);
		if (below(2))
			any_header();
		for (unsigned n = below(4); n > 0; n--)
			make_available(&r, below(64) ? below(SIZE) : below(0x10000));
		if (below(100) == 0)
			set_idx(&r, (uint16_t)any());
		set_reg(dev, MMIO_NOTIFY, 0);
		if (below(4) == 0) /* all that was taken is done then */
			hv_device_hold(dev, true), hv_device_hold(dev, false);
		if (reg(dev, MMIO_STATUS) & HV_VIRTIO_NEEDS_RESET || below(1000) == 0) {
			restart(any_features());
			resets++;
		}
	}
	return resets;
}

static void set_up(void)
{
	hv_memory_init(&mem, NULL);
	cr_assert_eq(hv_memory_add(&mem, 0, RING_MEMORY, false, NULL), 0);
	ring_init(&r, &mem, 0, SIZE);
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
	describe(&r, 0, RING_DATA, 64, WRITE, 0);
	make_available(&r, 0);
	set_reg(dev, MMIO_NOTIFY, 0);
	cr_assert(wait_used(&r, 1));
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
	restart(0);
	cr_assert_gt(torment(), 100);
	restart(0);
	hv_put_le32(guest_at(&r, RING_DATA, 4), 0);
	hv_put_le64(guest_at(&r, RING_DATA + 8, 8), 63);
	describe(&r, 0, RING_DATA, 16, NEXT, 1);
	describe(&r, 1, RING_DATA + 0x1000, 513, WRITE, 0);
	make_available(&r, 0);
	set_reg(dev, MMIO_NOTIFY, 0);
	cr_assert(wait_used(&r, 1));
	cr_assert_eq(*guest_at(&r, RING_DATA + 0x1000 + 512, 1), 0, "and it is OK");
}
