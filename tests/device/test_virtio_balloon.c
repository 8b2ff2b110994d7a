/*
 * The balloon device: pages go back to the host and come again as zeros, what isn't RAM is refused, the
 * target and what the driver says of it, statistics, free pages that are reported, hold, reset and saved
 * state.
 */
#include <stdlib.h>
#include <sys/mman.h>

#include "device/virtio/balloon.h"
#include "drive_virtio.h"

enum { INFLATE, DEFLATE, STATS, REPORTING_OF_LINUX, REPORTING, QUEUES };

#define F_STATS     (1ull << 1)
#define F_OOM       (1ull << 2)
#define F_POISON    (1ull << 4)
#define F_REPORTING (1ull << 5)
#define ALL         (HV_VIRTIO_F_VERSION_1 | F_STATS | F_OOM | F_POISON | F_REPORTING)

#define SIZE  16u
#define PAGE  4096u
#define PAGES (8u << 8) /* of RAM */
#define ROM   0x1000000u
#define FIRST 0x200u /* a page that the tests lend */

static struct hv_memory mem;
static struct hv_device *dev;
static struct ring rings[QUEUES];
static struct irq_log irq;
static struct log_lines logged;
static struct hv_log hlog;
static _Atomic uint64_t told;
static _Atomic unsigned changes;

static void changed(void *ctx, uint64_t actual)
{
	told = actual;
	changes++;
}

static void set_up(void)
{
	struct hv_virtio_host host = {
		.window = 3, .mem = &mem, .irq = {.set = irq_log_set, .ctx = &irq}, .log = &hlog};

	hlog = (struct hv_log){.level = HV_LOG_WARN, .sink = keep_line, .ctx = &logged};
	hv_memory_init(&mem, NULL);
	cr_assert_eq(hv_memory_add(&mem, 0, (uint64_t)PAGES * PAGE, false, NULL), 0);
	cr_assert_eq(hv_virtio_balloon_create(&host, changed, NULL, &dev, NULL), 0);
	cr_assert_eq(hv_memory_add(&mem, ROM, PAGE, true, NULL), 0);
	for (unsigned q = 0; q < QUEUES; q++)
		ring_init(&rings[q], &mem, q, SIZE);
}

static void tear_down(void)
{
	hv_device_destroy(dev);
	hv_memory_free(&mem);
}

TestSuite(virtio_balloon, .init = set_up, .fini = tear_down, .timeout = 60);

static void begin(uint64_t features)
{
	negotiate(dev, features);
	for (unsigned q = 0; q < QUEUES; q++) {
		memset(guest_at(&rings[q], rings[q].used, 0x100), 0, 0x100);
		set_idx(&rings[q], 0);
		rings[q].seen = 0;
		set_up_queue(dev, &rings[q], q);
	}
	driver_ok(dev);
}

/* The next chain of a queue: one buffer. */
static void put(unsigned queue, uint64_t gpa, uint32_t length, unsigned flags)
{
	struct ring *r = &rings[queue];

	describe(r, r->idx % SIZE, gpa, length, flags, 0);
	make_available(r, r->idx % SIZE);
	set_reg(dev, MMIO_NOTIFY, queue);
}

static void put_numbers(unsigned queue, const uint32_t *numbers, unsigned count)
{
	uint8_t *at = guest_at(&rings[queue], RING_DATA, 4ull * count);

	for (unsigned i = 0; i < count; i++)
		hv_put_le32(at + 4ull * i, numbers[i]);
	put(queue, RING_DATA, 4 * count, 0);
	cr_assert(wait_used(&rings[queue], rings[queue].idx));
}

static void fill(unsigned first, unsigned count)
{
	memset(guest_at(&rings[0], (uint64_t)first * PAGE, (uint64_t)count * PAGE), 0xa5,
	       (size_t)count * PAGE);
}

/* Whether the host has no page there: then it reads as zeros, too. */
static bool is_gone(unsigned page)
{
	uint8_t *at = guest_at(&rings[0], (uint64_t)page * PAGE, PAGE);
	unsigned char seen = 1;

	cr_assert_eq(mincore(at, PAGE, &seen), 0);
	return !(seen & 1) && at[0] == 0 && at[PAGE - 1] == 0;
}

static struct hv_balloon_info query(unsigned limit_ms)
{
	struct hv_balloon_info info;

	hv_virtio_balloon_query(dev, limit_ms, &info);
	return info;
}

/* --- inflating --- */

Test(virtio_balloon, it_is_a_balloon)
{
	cr_assert_eq(reg(dev, MMIO_DEVICE_ID), 5);
	cr_assert_eq(offered_features(dev) & 0x3f, F_STATS | F_OOM | F_POISON | F_REPORTING);
	cr_assert_eq(query(0).memory, (uint64_t)PAGES * PAGE);
	cr_assert_eq(query(0).actual, (uint64_t)PAGES * PAGE);
}

Test(virtio_balloon, pages_go_back_to_the_host_and_come_again_as_zeros)
{
	/* upwards, downwards, and alone */
	static const uint32_t numbers[] = {FIRST,     FIRST + 1, FIRST + 2, FIRST + 9,
					   FIRST + 8, FIRST + 7, FIRST + 5};

	begin(ALL);
	fill(FIRST - 1, 12);
	put_numbers(INFLATE, numbers, HV_ARRAY_SIZE(numbers));
	for (unsigned page = FIRST - 1; page < FIRST + 11; page++) {
		bool lent = false;

		for (unsigned i = 0; i < HV_ARRAY_SIZE(numbers); i++)
			lent |= numbers[i] == page;
		if (!lent)
			cr_assert_eq(*guest_at(&rings[0], (uint64_t)page * PAGE, 1), 0xa5, "page %u", page);
		else
			cr_assert(is_gone(page), "page %u", page);
	}
	cr_assert_eq(query(0).given_back, HV_ARRAY_SIZE(numbers) * PAGE);
	put_numbers(DEFLATE, numbers, HV_ARRAY_SIZE(numbers));
	cr_assert_eq(logged.warnings, 0);
}

Test(virtio_balloon, what_is_no_ram_is_refused_by_name)
{
	static const uint32_t rom[] = {FIRST, ROM / PAGE, FIRST + 2};
	static const uint32_t outside[] = {PAGES - 1, PAGES, PAGES + 1, UINT32_MAX};

	begin(ALL);
	fill(FIRST, 3);
	put_numbers(INFLATE, rom, HV_ARRAY_SIZE(rom));
	cr_assert(strstr(logged.last, "0x1000000") && strstr(logged.last, "in read-only memory"), "%s",
		  logged.last);
	cr_assert(is_gone(FIRST));
	cr_assert(is_gone(FIRST + 2));
	fill(PAGES - 1, 1);
	put_numbers(INFLATE, outside, HV_ARRAY_SIZE(outside));
	cr_assert(is_gone(PAGES - 1));
	cr_assert_eq(logged.warnings, 1, "told of once");
	cr_assert_eq(query(0).given_back, 3 * PAGE);
	cr_assert_eq(reg(dev, MMIO_STATUS), 0x0f);
}

/* More numbers in one chain than a step takes; and a length that is no multiple of four. */
Test(virtio_balloon, long_lists_are_worked_off_in_steps)
{
	const unsigned count = 5000;
	uint8_t *at = guest_at(&rings[0], 0x100000, 4ull * count + 3);

	begin(ALL);
	for (unsigned i = 0; i < count; i++)
		hv_put_le32(at + 4ull * i, FIRST + (i * 7) % 256);
	fill(FIRST, 256);
	put(INFLATE, 0x100000, 4 * count + 3, 0);
	cr_assert(wait_used(&rings[INFLATE], 1));
	for (unsigned i = 0; i < 256; i++)
		cr_assert(is_gone(FIRST + i));
	cr_assert_eq(query(0).given_back, (uint64_t)count * PAGE);
}

Test(virtio_balloon, memory_that_is_kept_stays)
{
	static const uint32_t numbers[] = {FIRST, FIRST + 1};

	begin(ALL);
	fill(FIRST, 2);
	hv_memory_keep(&mem, true);
	put_numbers(INFLATE, numbers, 2);
	put(REPORTING, FIRST * PAGE, 2 * PAGE, WRITE);
	cr_assert(wait_used(&rings[REPORTING], 1));
	cr_assert_eq(*guest_at(&rings[0], FIRST * PAGE, 1), 0xa5);
	cr_assert_eq(logged.warnings, 0);
	cr_assert_eq(query(0).given_back, 0);
	hv_memory_keep(&mem, false);
	put_numbers(INFLATE, numbers, 2);
	cr_assert(is_gone(FIRST));
}

/* --- the target --- */

Test(virtio_balloon, the_target_is_pages_for_the_driver_and_bytes_for_the_host)
{
	unsigned rises;

	begin(ALL);
	rises = irq.rises;
	hv_virtio_balloon_set_target(dev, 1 << 20);
	cr_assert_eq(reg(dev, MMIO_CONFIG), PAGES - 256);
	cr_assert_eq(reg(dev, MMIO_INTERRUPT_STATUS) & 2, 2);
	cr_assert_gt(irq.rises, rises);
	cr_assert_eq(query(0).target, 1u << 20);
	hv_virtio_balloon_set_target(dev, UINT64_MAX);
	cr_assert_eq(reg(dev, MMIO_CONFIG), 0);
	hv_virtio_balloon_set_target(dev, 0);
	cr_assert_eq(reg(dev, MMIO_CONFIG), PAGES);
}

Test(virtio_balloon, what_the_driver_says_is_told_once_for_each_change)
{
	begin(ALL);
	set_reg(dev, MMIO_CONFIG + 4, 256);
	cr_assert_eq(told, (uint64_t)(PAGES - 256) * PAGE);
	cr_assert_eq(changes, 1);
	set_reg(dev, MMIO_CONFIG + 4, 256);
	cr_assert_eq(changes, 1);
	drive_write(dev, MMIO_CONFIG + 5, 2, 1);
	cr_assert_eq(told, (uint64_t)(PAGES - 512) * PAGE);
	set_reg(dev, MMIO_CONFIG + 4, UINT32_MAX);
	cr_assert_eq(told, 0, "no driver lends more than there is");
	set_reg(dev, MMIO_CONFIG, 77);
	cr_assert_eq(reg(dev, MMIO_CONFIG), 0, "the target is the host's");
	set_reg(dev, MMIO_STATUS, 0);
	cr_assert_eq(told, (uint64_t)PAGES * PAGE, "after a reset nothing is lent");
}

/* --- statistics --- */

static void put_stat(unsigned index, unsigned tag, uint64_t value)
{
	uint8_t *at = guest_at(&rings[0], RING_DATA + 10ull * index, 10);

	hv_put_le16(at, (uint16_t)tag);
	hv_put_le64(at + 2, value);
}

/* A driver that fills its buffer anew each time that it comes back. */
static void *statistician(void *count)
{
	struct ring *r = &rings[STATS];

	for (unsigned i = 0; i < *(unsigned *)count; i++) {
		if (!wait_used(r, (uint16_t)(i + 1)))
			return NULL;
		put_stat(0, 4, 1000 + i);
		put(STATS, RING_DATA, 30, 0);
	}
	return NULL;
}

Test(virtio_balloon, statistics_are_asked_for_and_are_fresh)
{
	struct hv_balloon_info info;
	unsigned count = 2;
	pthread_t driver;

	begin(ALL);
	put_stat(0, 4, 1);
	put_stat(1, 5, 2);
	put_stat(2, 99, 3);
	put(STATS, RING_DATA, 30, 0);
	cr_assert_eq(pthread_create(&driver, NULL, statistician, &count), 0);
	info = query(10000);
	cr_assert_eq(info.stats_known, 1u << 4 | 1u << 5, "%#x", info.stats_known);
	cr_assert_eq(info.stats[4], 1000);
	cr_assert_eq(info.stats[5], 2);
	cr_assert_gt(info.stats_at, 0);
	info = query(10000);
	cr_assert_eq(info.stats[4], 1001, "each time anew");
	pthread_join(driver, NULL);
	cr_assert_str_eq(hv_balloon_stat_name(4), "stat-free-memory");
	cr_assert_null(hv_balloon_stat_name(99));
}

Test(virtio_balloon, a_driver_that_does_not_answer_is_waited_for_a_moment)
{
	struct hv_balloon_info info;

	begin(ALL);
	info = query(20);
	cr_assert_eq(info.stats_known, 0);
	cr_assert_eq(info.stats_at, 0);
	begin(ALL & ~F_STATS);
	cr_assert(!query(10000).stats_there, "and one without the feature not at all");
}

/* --- free pages --- */

static void report(unsigned queue, uint64_t gpa, uint32_t length)
{
	put(queue, gpa, length, WRITE);
	cr_assert(wait_used(&rings[queue], rings[queue].idx));
}

Test(virtio_balloon, reported_pages_go_back_wherever_the_driver_counts_the_queue)
{
	begin(ALL);
	fill(FIRST, 8);
	report(REPORTING, FIRST * PAGE, 2 * PAGE);
	report(REPORTING_OF_LINUX, (FIRST + 2) * PAGE, 2 * PAGE);
	/* Only whole pages: the first and the last one here are not. */
	report(REPORTING, (FIRST + 4) * PAGE + 1, 3 * PAGE);
	for (unsigned i = 0; i < 8; i++)
		cr_assert_eq(is_gone(FIRST + i), i != 4 && i != 7, "page %u", i);
	cr_assert_eq(query(0).reported, 6 * PAGE);
	begin(ALL & ~F_STATS);
	fill(FIRST, 1);
	report(STATS, FIRST * PAGE, PAGE);
	cr_assert(is_gone(FIRST), "without statistics Linux counts it as the third");
}

Test(virtio_balloon, a_pattern_in_free_pages_stays)
{
	begin(ALL);
	set_reg(dev, MMIO_CONFIG + 12, 0xa5a5a5a5);
	fill(FIRST, 1);
	report(REPORTING, FIRST * PAGE, PAGE);
	cr_assert_eq(*guest_at(&rings[0], FIRST * PAGE, 1), 0xa5);
	set_reg(dev, MMIO_CONFIG + 12, 0);
	report(REPORTING, FIRST * PAGE, PAGE);
	cr_assert(is_gone(FIRST));
}

Test(virtio_balloon, a_queue_of_a_feature_that_was_not_accepted_is_not_served)
{
	begin(HV_VIRTIO_F_VERSION_1);
	fill(FIRST, 1);
	put(REPORTING, FIRST * PAGE, PAGE, WRITE);
	put(STATS, RING_DATA, 10, 0);
	hv_device_hold(dev, true), hv_device_hold(dev, false);
	cr_assert_eq(used_idx(&rings[REPORTING]), 0);
	cr_assert_eq(used_idx(&rings[STATS]), 0);
	cr_assert_eq(*guest_at(&rings[0], FIRST * PAGE, 1), 0xa5);
}

/* --- hold, reset, saved state --- */

Test(virtio_balloon, held_it_touches_no_memory)
{
	uint8_t *number = guest_at(&rings[0], RING_DATA, 4);

	begin(ALL);
	fill(FIRST, 1);
	hv_device_hold(dev, true);
	hv_put_le32(number, FIRST);
	put(INFLATE, RING_DATA, 4, 0);
	nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
	cr_assert_eq(used_idx(&rings[INFLATE]), 0);
	cr_assert_eq(*guest_at(&rings[0], FIRST * PAGE, 1), 0xa5);
	hv_device_hold(dev, false);
	cr_assert(wait_used(&rings[INFLATE], 1));
	cr_assert(is_gone(FIRST));
}

Test(virtio_balloon, its_state_can_be_moved)
{
	struct hv_virtio_host host = {.window = 3, .mem = &mem, .log = &hlog};
	struct hv_device *other;
	struct hv_balloon_info info;

	begin(ALL);
	hv_virtio_balloon_set_target(dev, 1 << 20);
	set_reg(dev, MMIO_CONFIG + 4, 100);
	set_reg(dev, MMIO_CONFIG + 12, 7);
	cr_assert_eq(hv_virtio_balloon_create(&host, NULL, NULL, &other, NULL), 0);
	drive_move(dev, other);
	hv_virtio_balloon_query(other, 0, &info);
	cr_assert_eq(info.target, 1u << 20);
	cr_assert_eq(info.actual, (uint64_t)(PAGES - 100) * PAGE, "the ROM is not lent");
	cr_assert_eq(reg(other, MMIO_CONFIG + 12), 7);
	hv_device_destroy(other);
}

Test(virtio_balloon, damaged_state_is_refused)
{
	struct hv_encoder e;
	size_t own;

	begin(ALL);
	drive_save(dev, &e);
	own = e.length - 17;
	hv_enc_free(&e);
	drive_refused(dev, own + 3, 0xff); /* a target beyond memory */
	begin(ALL);
	drive_refused(dev, own + 12, 1); /* in the middle of a step */
	begin(ALL);
	drive_refused(dev, own + 16, 2);
}
