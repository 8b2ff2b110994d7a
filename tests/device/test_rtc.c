/*
 * The clock in each of its formats, setting it, and the memory sizes.
 */
#include <time.h>

#include "drive.h"

#define MIB (1ull << 20)
#define GIB (1ull << 30)

static struct hv_device *dev;

static void set_up(void)
{
	cr_assert_eq(hv_rtc_create(64 * MIB, &dev, NULL), 0);
}

static void tear_down(void)
{
	hv_device_destroy(dev);
}

static uint8_t get(unsigned reg)
{
	out8(dev, 0, reg);
	return in8(dev, 1);
}

static void put(unsigned reg, unsigned value)
{
	out8(dev, 0, reg);
	out8(dev, 1, value);
}

static int number(uint8_t byte)
{
	return get(0x0b) & 4 ? byte : (byte >> 4) * 10 + (byte & 15);
}

static int hour(void)
{
	uint8_t h = get(4);

	if (get(0x0b) & 2)
		return number(h);
	return number(h & 0x7f) % 12 + (h & 0x80 ? 12 : 0);
}

/* Not time(), whose clock may lag behind the one that the device reads by a tick. */
static time_t host_time(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return ts.tv_sec;
}

/* The guest's time, read as a careful guest does: again when the seconds moved meanwhile. */
static time_t guest_time(void)
{
	struct tm tm;
	uint8_t second;

	do {
		second = get(0);
		tm = (struct tm){
			.tm_sec = number(second),
			.tm_min = number(get(2)),
			.tm_hour = hour(),
			.tm_mday = number(get(7)),
			.tm_mon = number(get(8)) - 1,
			.tm_year = number(get(0x32)) * 100 + number(get(9)) - 1900,
		};
	} while (get(0) != second);
	return timegm(&tm);
}

static void set_date(unsigned century, unsigned year, unsigned month, unsigned day, unsigned h, unsigned m,
		     unsigned s)
{
	put(0x0b, get(0x0b) | 0x80);
	put(0x32, century);
	put(9, year);
	put(8, month);
	put(7, day);
	put(4, h);
	put(2, m);
	put(0, s);
	put(0x0b, get(0x0b) & 0x7f);
}

TestSuite(rtc, .init = set_up, .fini = tear_down, .timeout = 30);

Test(rtc, tells_the_hosts_time_in_every_format)
{
	static const uint8_t formats[] = {0x02, 0x00, 0x06, 0x04};

	for (unsigned i = 0; i < HV_ARRAY_SIZE(formats); i++) {
		time_t before, guest;

		put(0x0b, formats[i]);
		before = host_time();
		guest = guest_time();
		cr_assert_geq(guest, before, "register B 0x%02x", formats[i]);
		cr_assert_leq(guest, host_time(), "register B 0x%02x", formats[i]);
	}
}

Test(rtc, an_update_is_never_in_progress_and_the_battery_is_good)
{
	put(0x0a, 0xff);
	cr_assert_eq(get(0x0a), 0x7f);
	put(0x0d, 0);
	cr_assert_eq(get(0x0d), 0x80);
}

Test(rtc, hours_of_half_a_day_are_12_1_to_11_and_pm)
{
	static const struct {
		uint8_t hour24, hour12;
	} pairs[] = {{0x00, 0x12}, {0x01, 0x01}, {0x11, 0x11}, {0x12, 0x92}, {0x13, 0x81}, {0x23, 0x91}};

	for (unsigned i = 0; i < HV_ARRAY_SIZE(pairs); i++) {
		put(0x0b, 0x02);
		set_date(0x20, 0x30, 0x06, 0x15, pairs[i].hour24, 0x10, 0x00);
		put(0x0b, 0x00);
		cr_assert_eq(get(4), pairs[i].hour12, "hour 0x%02x", pairs[i].hour24);
		set_date(0x20, 0x30, 0x06, 0x15, pairs[i].hour12, 0x20, 0x00);
		put(0x0b, 0x02);
		cr_assert_eq(get(4), pairs[i].hour24, "hour 0x%02x", pairs[i].hour12);
	}
}

Test(rtc, the_guest_can_set_its_clock_and_the_weekday_follows)
{
	set_date(0x20, 0x38, 0x01, 0x19, 0x03, 0x14, 0x07); /* one second before 32 bits end: a Tuesday */
	time_t t = guest_time();

	cr_assert(t >= 0x7fffffffll && t < 0x7fffffffll + 20);
	cr_assert_eq(get(6), 3);
}

Test(rtc, with_set_the_clock_stands_and_shows_what_was_written)
{
	put(0x0b, 0x82);
	put(0, 0x59);
	put(8, 0x99); /* nonsense, but the register holds it */
	cr_assert_eq(get(0), 0x59);
	cr_assert_eq(get(8), 0x99);
}

Test(rtc, a_date_that_does_not_exist_is_dropped)
{
	time_t before = host_time(), after;

	set_date(0x20, 0x30, 0x02, 0x31, 0x00, 0x00, 0x00);
	set_date(0x20, 0x30, 0x13, 0x01, 0x00, 0x00, 0x00);
	set_date(0x20, 0x3f, 0x01, 0x01, 0x00, 0x00, 0x00);
	set_date(0x20, 0x30, 0x01, 0x01, 0x24, 0x00, 0x00);
	set_date(0x20, 0x30, 0x01, 0x01, 0x00, 0x60, 0x00);
	set_date(0x20, 0x30, 0x01, 0x00, 0x00, 0x00, 0x00);
	after = guest_time();
	cr_assert(after >= before && after <= host_time());
}

Test(rtc, register_c_tells_once_that_a_second_passed)
{
	put(0x0c, 0xff); /* read only */
	get(0x0c);
	time_t first = guest_time();

	while (guest_time() == first) /* the suite's timeout ends this */
		nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
	cr_assert_eq(get(0x0c), 0x10);
}

Test(rtc, cmos_keeps_bytes_and_the_nmi_bit_does_not_count)
{
	put(0x0f, 0x0a);
	put(0x7f, 0x5a);
	cr_assert_eq(get(0x0f), 0x0a);
	cr_assert_eq(get(0xff), 0x5a);
	cr_assert_eq(in8(dev, 0), 0xff);
}

static unsigned size16(unsigned reg)
{
	return get(reg) | (unsigned)get(reg + 1) << 8;
}

Test(rtc, memory_sizes_are_the_vms)
{
	static const struct {
		uint64_t size;
		unsigned base, extended, above_16m, above_4g;
	} vms[] = {
		{256 << 10, 256, 0, 0, 0},
		{1 * MIB, 640, 0, 0, 0},
		{16 * MIB, 640, 15 << 10, 0, 0},
		{64 * MIB, 640, 63 << 10, 48 << 4, 0},
		{3 * GIB, 640, 0xffff, (3072 - 16) << 4, 0},
		{5 * GIB, 640, 0xffff, (3072 - 16) << 4, 2 << 14},
		{~0ull, 640, 0xffff, (3072 - 16) << 4, 0xffffff},
	};

	for (unsigned i = 0; i < HV_ARRAY_SIZE(vms); i++) {
		hv_device_destroy(dev);
		cr_assert_eq(hv_rtc_create(vms[i].size, &dev, NULL), 0);
		cr_assert_eq(size16(0x15), vms[i].base, "VM %u", i);
		cr_assert_eq(size16(0x17), vms[i].extended, "VM %u", i);
		cr_assert_eq(size16(0x30), vms[i].extended, "VM %u", i);
		cr_assert_eq(size16(0x34), vms[i].above_16m, "VM %u", i);
		cr_assert_eq(size16(0x5b) | (unsigned)get(0x5d) << 16, vms[i].above_4g, "VM %u", i);
	}
}

Test(rtc, a_power_cycle_keeps_time_and_memory_but_not_the_guests_memory_sizes)
{
	set_date(0x20, 0x38, 0x01, 0x01, 0x00, 0x00, 0x00);
	put(0x0f, 0x05);
	put(0x17, 0);
	put(0x0b, 0x72);
	drive_reset(dev);
	cr_assert_eq(get(9), 0x38);
	cr_assert_eq(get(0x0f), 0x05);
	cr_assert_eq(size16(0x17), 63 << 10);
	cr_assert_eq(get(0x0b), 0x02);
}

Test(rtc, saved_state_carries_the_offset_and_the_cmos)
{
	struct hv_device *first = dev;

	set_date(0x20, 0x38, 0x01, 0x01, 0x00, 0x00, 0x00);
	put(0x40, 0x77);
	cr_assert_eq(hv_rtc_create(64 * MIB, &dev, NULL), 0);
	drive_move(first, dev);
	cr_assert_eq(get(9), 0x38);
	cr_assert_eq(get(0x40), 0x77);
	hv_device_destroy(first);
}

Test(rtc, a_held_clock_is_saved_as_it_stands)
{
	struct hv_device *first = dev;

	put(0x0b, 0x82);
	put(0, 0x42);
	cr_assert_eq(hv_rtc_create(64 * MIB, &dev, NULL), 0);
	drive_move(first, dev);
	cr_assert_eq(get(0), 0x42);
	hv_device_destroy(first);
}

Test(rtc, a_clock_that_no_guest_can_set_is_refused)
{
	/* index, offset (8), CMOS: length (4), 128 bytes */
	drive_refused(dev, 8, 0x7f);
	drive_refused(dev, 8, 0x80);
	drive_refused(dev, 9, 127);
	drive_refused(dev, 13 + 0x0a, 0x80);
	drive_refused(dev, 13 + 0x0c, 0x01);
	drive_refused(dev, 13 + 0x0d, 0x00);
}
