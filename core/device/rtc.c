/*
 * The real-time clock and CMOS memory: an MC146818 behind an index port and a data port. It tells the host's
 * time in UTC, as guests other than Windows expect it, and the sizes of memory, which a PC's firmware leaves
 * in the CMOS for kernels that come without a memory map. No alarm and no interrupt; what polls for "a second
 * has passed" is served.
 *
 * Rules: Motorola MC146818A data sheet; the CMOS bytes beyond it as IBM's AT technical reference has them,
 * and 0x30 to 0x5d as QEMU and Bochs agree on for firmware.
 *
 * The time is never kept as such. It is the host's plus an offset in seconds, which changes when the guest
 * sets its clock, and which is what a snapshot carries: a VM that sleeps for a day wakes up in the right one.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "device/devices.h"
#include "kvm/memory.h"

enum { PORT_INDEX, PORT_DATA };

enum { /* the registers; 1, 3 and 5 are the alarm's */
       REG_SECONDS = 0x00,
       REG_MINUTES = 0x02,
       REG_HOURS = 0x04,
       REG_WEEKDAY = 0x06,
       REG_DAY = 0x07,
       REG_MONTH = 0x08,
       REG_YEAR = 0x09,
       REG_A = 0x0a,
       REG_B = 0x0b,
       REG_C = 0x0c,
       REG_D = 0x0d,
       REG_SHUTDOWN =
	       0x0f, /* why the CPU was reset; plain memory to this device, and kept over a reset as all is */
       REG_EQUIPMENT = 0x14,
       REG_BASE_KIB = 0x15,          /* 2 bytes: memory below 640 KiB, in KiB */
       REG_EXTENDED_KIB = 0x17,      /* 2 bytes: memory above 1 MiB, in KiB, 64 MiB at most */
       REG_EXTENDED_KIB_POST = 0x30, /* the same, as measured at power-on */
       REG_CENTURY = 0x32,
       REG_ABOVE_16M = 0x34, /* 2 bytes: memory above 16 MiB and below the PCI hole, in 64 KiB */
       REG_ABOVE_4G = 0x5b,  /* 3 bytes: memory above 4 GiB, in 64 KiB */
};

enum {
	A_DEFAULT = 0x26, /* a 32.768 kHz crystal, the periodic rate of an AT */
	A_KEPT = 0x7f,    /* all but "update in progress": an update here takes no time */
	B_24H = 0x02,
	B_BINARY = 0x04,
	B_INTERRUPTS = 0x78, /* periodic, alarm and update-ended interrupts, square wave: off after a reset */
	B_SET = 0x80,
	C_UPDATE_ENDED = 0x10,
	D_BATTERY_GOOD = 0x80,
	HOUR_PM = 0x80,
	EQUIPMENT_FPU = 0x02,
};

#define CMOS_SIZE  128
#define INDEX_MASK 0x7f /* the index's top bit masks NMIs on a PC */

/* Ten thousand years: no guest's clock is farther off, and sums with the host's time can't overflow. */
#define OFFSET_MAX 315576000000ll

struct hv_rtc {
	struct hv_device dev;
	uint64_t mem_size;
	uint8_t index;  /* as written, with the NMI bit */
	int64_t offset; /* guest's time minus the host's, in seconds */
	int64_t last_c; /* the guest's second when it last read register C */
	/* All bytes as the guest would read them, but the time's: those are current only while SET holds the
	 * clock. */
	uint8_t cmos[CMOS_SIZE];
};

static struct hv_rtc *rtc_of(struct hv_device *dev)
{
	return hv_container_of(dev, struct hv_rtc, dev);
}

/* --- time --- */

static int64_t host_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return ts.tv_sec;
}

static int64_t guest_now(const struct hv_rtc *rtc)
{
	return host_now() + rtc->offset;
}

static bool is_time(uint8_t reg)
{
	return reg == REG_SECONDS || reg == REG_MINUTES || reg == REG_HOURS ||
	       (reg >= REG_WEEKDAY && reg <= REG_YEAR) || reg == REG_CENTURY;
}

static uint8_t encode(const struct hv_rtc *rtc, int value)
{
	return (uint8_t)(rtc->cmos[REG_B] & B_BINARY ? value : value / 10 << 4 | value % 10);
}

/* The number that a time register means, or -1 when it is none. */
static int decode(const struct hv_rtc *rtc, uint8_t byte)
{
	if (rtc->cmos[REG_B] & B_BINARY)
		return byte;
	return byte >> 4 > 9 || (byte & 15) > 9 ? -1 : (byte >> 4) * 10 + (byte & 15);
}

/* Hours count 12, 1, ... 11 in the 12-hour mode, with the top bit for the afternoon. */
static uint8_t encode_hour(const struct hv_rtc *rtc, int hour)
{
	if (rtc->cmos[REG_B] & B_24H)
		return encode(rtc, hour);
	return (uint8_t)(encode(rtc, (hour + 11) % 12 + 1) | (hour >= 12 ? HOUR_PM : 0));
}

static int decode_hour(const struct hv_rtc *rtc, uint8_t byte)
{
	int hour;

	if (rtc->cmos[REG_B] & B_24H)
		return decode(rtc, byte);
	hour = decode(rtc, byte & (uint8_t)~HOUR_PM);
	return hour < 1 || hour > 12 ? -1 : hour % 12 + (byte & HOUR_PM ? 12 : 0);
}

/* Writes the guest's time into the time registers. A guest beyond the year 9999 sees its last four digits. */
static void refresh(struct hv_rtc *rtc)
{
	time_t now = guest_now(rtc);
	struct tm tm;
	int year;

	gmtime_r(&now, &tm);
	year = (int)(((tm.tm_year + 1900LL) % 10000 + 10000) % 10000);
	rtc->cmos[REG_SECONDS] = encode(rtc, tm.tm_sec);
	rtc->cmos[REG_MINUTES] = encode(rtc, tm.tm_min);
	rtc->cmos[REG_HOURS] = encode_hour(rtc, tm.tm_hour);
	rtc->cmos[REG_WEEKDAY] = encode(rtc, tm.tm_wday + 1);
	rtc->cmos[REG_DAY] = encode(rtc, tm.tm_mday);
	rtc->cmos[REG_MONTH] = encode(rtc, tm.tm_mon + 1);
	rtc->cmos[REG_YEAR] = encode(rtc, year % 100);
	rtc->cmos[REG_CENTURY] = encode(rtc, year / 100);
}

/* The contrary: sets the clock by its registers. What is no date is dropped, and the clock goes on as it was.
 */
static void adopt(struct hv_rtc *rtc)
{
	int century = decode(rtc, rtc->cmos[REG_CENTURY]);
	int year = decode(rtc, rtc->cmos[REG_YEAR]);
	struct tm tm = {
		.tm_sec = decode(rtc, rtc->cmos[REG_SECONDS]),
		.tm_min = decode(rtc, rtc->cmos[REG_MINUTES]),
		.tm_hour = decode_hour(rtc, rtc->cmos[REG_HOURS]),
		.tm_mday = decode(rtc, rtc->cmos[REG_DAY]),
		.tm_mon = decode(rtc, rtc->cmos[REG_MONTH]) - 1,
		.tm_year = century * 100 + year - 1900,
	};
	struct tm normal = tm;
	int64_t t;

	if (year < 0 || year > 99 || century < 0 || century > 99)
		return;
	t = timegm(&normal);
	/* timegm turns the 31st of February into March and -1 seconds into the minute before; a clock
	 * doesn't. */
	if (normal.tm_sec != tm.tm_sec || normal.tm_min != tm.tm_min || normal.tm_hour != tm.tm_hour ||
	    normal.tm_mday != tm.tm_mday || normal.tm_mon != tm.tm_mon)
		return;
	t -= host_now();
	if (t >= -OFFSET_MAX && t <= OFFSET_MAX)
		rtc->offset = t;
}

/* --- registers --- */

static bool is_held(const struct hv_rtc *rtc)
{
	return rtc->cmos[REG_B] & B_SET;
}

/* A weekday can't be set: it follows from the date. With SET, which stops the clock, the others wait until it
 * goes. */
static void write_time(struct hv_rtc *rtc, uint8_t reg, uint8_t value)
{
	if (is_held(rtc)) {
		rtc->cmos[reg] = value;
		return;
	}
	refresh(rtc);
	if (reg == REG_WEEKDAY)
		return;
	rtc->cmos[reg] = value;
	adopt(rtc);
}

static void write_b(struct hv_rtc *rtc, uint8_t value)
{
	bool was_held = is_held(rtc);

	rtc->cmos[REG_B] = value;
	if (!was_held && is_held(rtc))
		refresh(rtc);
	if (was_held && !is_held(rtc))
		adopt(rtc);
}

/* Register C: what happened since it was last read. Only "update ended" does, once a second. */
static uint8_t read_c(struct hv_rtc *rtc)
{
	int64_t now = guest_now(rtc);
	uint8_t flags = now != rtc->last_c && !is_held(rtc) ? C_UPDATE_ENDED : 0;

	rtc->last_c = now;
	return flags;
}

static uint64_t rtc_read(struct hv_device *dev, uint64_t offset, unsigned size)
{
	struct hv_rtc *rtc = rtc_of(dev);
	uint8_t reg = rtc->index & INDEX_MASK;

	if (offset != PORT_DATA)
		return 0xff; /* the index can't be read on a PC */
	if (reg == REG_C)
		return read_c(rtc);
	if (is_time(reg) && !is_held(rtc))
		refresh(rtc);
	return rtc->cmos[reg];
}

static void rtc_write(struct hv_device *dev, uint64_t offset, uint64_t value, unsigned size)
{
	struct hv_rtc *rtc = rtc_of(dev);
	uint8_t reg = rtc->index & INDEX_MASK, byte = (uint8_t)value;

	if (offset == PORT_INDEX)
		rtc->index = byte;
	else if (offset != PORT_DATA || reg == REG_C || reg == REG_D)
		return; /* read only */
	else if (reg == REG_A)
		rtc->cmos[reg] = byte & A_KEPT;
	else if (reg == REG_B)
		write_b(rtc, byte);
	else if (is_time(reg))
		write_time(rtc, reg, byte);
	else
		rtc->cmos[reg] = byte;
}

/* --- life --- */

static void put(struct hv_rtc *rtc, uint8_t reg, unsigned bytes, uint64_t value)
{
	uint64_t most = (1ull << (8 * bytes)) - 1;

	if (value > most)
		value = most;
	for (unsigned i = 0; i < bytes; i++)
		rtc->cmos[reg + i] = (uint8_t)(value >> (8 * i));
}

static uint64_t span(uint64_t size, uint64_t from, uint64_t to)
{
	if (size <= from)
		return 0;
	return (size < to ? size : to) - from;
}

/* The memory sizes, as firmware writes them at power-on. RAM lies below the PCI hole and from 4 GiB on. */
static void put_memory(struct hv_rtc *rtc)
{
	uint64_t low = span(rtc->mem_size, 0, HV_PCI_HOLE_START);
	uint64_t above_1m = span(low, 1 << 20, HV_PCI_HOLE_START) >> 10;

	put(rtc, REG_BASE_KIB, 2, span(low, 0, 640 << 10) >> 10);
	put(rtc, REG_EXTENDED_KIB, 2, above_1m);
	put(rtc, REG_EXTENDED_KIB_POST, 2, above_1m);
	put(rtc, REG_ABOVE_16M, 2, span(low, 16 << 20, HV_PCI_HOLE_START) >> 16);
	put(rtc, REG_ABOVE_4G, 3, (rtc->mem_size - low) >> 16);
}

/* A battery keeps clock and memory through a power cycle; a reset only ends interrupts, formats stay too. */
static void rtc_reset(struct hv_device *dev)
{
	struct hv_rtc *rtc = rtc_of(dev);

	if (is_held(rtc))
		write_b(rtc, rtc->cmos[REG_B] & (uint8_t)~B_SET);
	rtc->cmos[REG_B] &= (uint8_t)~B_INTERRUPTS;
	rtc->index = 0;
	rtc->last_c = guest_now(rtc);
	put_memory(rtc);
}

static void rtc_save(struct hv_device *dev, struct hv_encoder *e)
{
	const struct hv_rtc *rtc = rtc_of(dev);

	hv_enc_u8(e, rtc->index);
	hv_enc_u64(e, (uint64_t)rtc->offset);
	hv_enc_blob(e, rtc->cmos, sizeof(rtc->cmos));
}

/* The battery's first day: the host's time, BCD and 24 hours as IBM's firmware sets it up. */
static void power_on(struct hv_rtc *rtc)
{
	memset(rtc->cmos, 0, sizeof(rtc->cmos));
	rtc->cmos[REG_A] = A_DEFAULT;
	rtc->cmos[REG_B] = B_24H;
	rtc->cmos[REG_D] = D_BATTERY_GOOD;
	rtc->cmos[REG_EQUIPMENT] = EQUIPMENT_FPU;
	rtc->offset = 0;
	rtc_reset(&rtc->dev);
}

static int rtc_load(struct hv_device *dev, struct hv_decoder *d, uint16_t version, struct hv_error *err)
{
	struct hv_rtc *rtc = rtc_of(dev);
	uint8_t cmos[CMOS_SIZE], index;
	int64_t offset;
	int rc;

	power_on(rtc);
	rc = hv_device_load_begin(dev, version, err);
	if (rc)
		return rc;
	index = hv_dec_u8(d);
	offset = (int64_t)hv_dec_u64(d);
	hv_dec_blob_exact(d, cmos, sizeof(cmos));
	rc = hv_device_load_end(dev, d, err);
	if (rc)
		return rc;
	if (offset < -OFFSET_MAX || offset > OFFSET_MAX || cmos[REG_A] & ~A_KEPT || cmos[REG_C] != 0 ||
	    cmos[REG_D] != D_BATTERY_GOOD)
		return hv_fail_unsafe(
			err,
			"saved state: device '%s' has a clock that no guest can set; the data is "
			"damaged",
			dev->ops->name);
	rtc->index = index;
	rtc->offset = offset;
	memcpy(rtc->cmos, cmos, sizeof(cmos));
	rtc->last_c = guest_now(rtc);
	return 0;
}

static void rtc_describe(struct hv_device *dev, char *buf, size_t size)
{
	const struct hv_rtc *rtc = rtc_of(dev);
	time_t now = guest_now(rtc);
	char text[32] = "?";
	struct tm tm;

	if (gmtime_r(&now, &tm))
		strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S", &tm);
	snprintf(buf, size, "%s UTC%s, %+lld s from the host, index 0x%02x, B 0x%02x", text,
		 is_held(rtc) ? " (held)" : "", (long long)rtc->offset, rtc->index, rtc->cmos[REG_B]);
}

static void rtc_destroy(struct hv_device *dev)
{
	free(rtc_of(dev));
}

static const struct hv_device_ops rtc_ops = {
	.name = "rtc",
	.version = 1,
	.max_access = 1,
	.read = rtc_read,
	.write = rtc_write,
	.reset = rtc_reset,
	.save = rtc_save,
	.load = rtc_load,
	.describe = rtc_describe,
	.destroy = rtc_destroy,
};

int hv_rtc_create(uint64_t mem_size, struct hv_device **out, struct hv_error *err)
{
	struct hv_rtc *rtc = calloc(1, sizeof(*rtc));

	if (!rtc)
		return hv_fail(err, ENOMEM, "rtc: no memory for the device; close other programs");
	hv_device_init(&rtc->dev, &rtc_ops);
	rtc->mem_size = mem_size;
	power_on(rtc);
	*out = &rtc->dev;
	return 0;
}
