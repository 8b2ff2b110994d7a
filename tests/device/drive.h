/*
 * What the devices' tests share: accesses as the bus makes them (lock held), a line and a power switch that
 * remember what they were told, saved state as bytes.
 */
#ifndef TESTS_DEVICE_DRIVE_H
#define TESTS_DEVICE_DRIVE_H

#include <criterion/criterion.h>
#include <string.h>

#include "device/devices.h"

static inline uint64_t drive_read(struct hv_device *dev, uint64_t offset, unsigned size)
{
	pthread_mutex_lock(&dev->lock);
	uint64_t v = dev->ops->read(dev, offset, size);
	pthread_mutex_unlock(&dev->lock);
	return v;
}

static inline void drive_write(struct hv_device *dev, uint64_t offset, uint64_t value, unsigned size)
{
	pthread_mutex_lock(&dev->lock);
	dev->ops->write(dev, offset, value, size);
	pthread_mutex_unlock(&dev->lock);
}

static inline uint8_t in8(struct hv_device *dev, uint64_t offset)
{
	return (uint8_t)drive_read(dev, offset, 1);
}

static inline void out8(struct hv_device *dev, uint64_t offset, unsigned value)
{
	drive_write(dev, offset, value, 1);
}

static inline void drive_reset(struct hv_device *dev)
{
	pthread_mutex_lock(&dev->lock);
	dev->ops->reset(dev);
	pthread_mutex_unlock(&dev->lock);
}

/* Free e with hv_enc_free. */
static inline void drive_save(struct hv_device *dev, struct hv_encoder *e)
{
	hv_enc_init(e);
	pthread_mutex_lock(&dev->lock);
	dev->ops->save(dev, e);
	pthread_mutex_unlock(&dev->lock);
	cr_assert_eq(e->failed, 0);
}

static inline int drive_load(struct hv_device *dev, const void *data, size_t length, uint16_t version,
			     struct hv_error *err)
{
	struct hv_decoder d;

	hv_dec_init(&d, data, length);
	pthread_mutex_lock(&dev->lock);
	int rc = dev->ops->load(dev, &d, version, err);
	pthread_mutex_unlock(&dev->lock);
	return rc;
}

/* Saves from, loads into to, and proves that to saves the same bytes. */
static inline void drive_move(struct hv_device *from, struct hv_device *to)
{
	struct hv_encoder a, b;
	struct hv_error err;

	drive_save(from, &a);
	cr_assert_eq(drive_load(to, a.data, a.length, from->ops->version, &err), 0, "%s", err.text);
	drive_save(to, &b);
	cr_assert_eq(a.length, b.length);
	if (a.length > 0)
		cr_assert_arr_eq(a.data, b.data, a.length);
	hv_enc_free(&a);
	hv_enc_free(&b);
}

/* Changes the byte at `at` of dev's saved state to value and proves that the load refuses it and says why. */
static inline void drive_refused(struct hv_device *dev, size_t at, uint8_t value)
{
	struct hv_encoder e;
	struct hv_error err = {0};

	drive_save(dev, &e);
	cr_assert_lt(at, e.length);
	e.data[at] = value;
	cr_assert_eq(drive_load(dev, e.data, e.length, dev->ops->version, &err), -EBADMSG,
		     "byte %zu = 0x%02x", at, value);
	cr_assert_eq(err.status, HV_EXIT_UNSAFE);
	cr_assert(strstr(err.text, dev->ops->name), "%s", err.text);
	hv_enc_free(&e);
}

struct line_log {
	unsigned gsi, rises, falls;
	bool high;
};

static inline void line_log_set(void *ctx, unsigned gsi, bool level)
{
	struct line_log *log = ctx;

	cr_assert_neq(level, log->high, "the line is told only of changes");
	log->gsi = gsi;
	log->high = level;
	log->rises += level;
	log->falls += !level;
}

struct power_log {
	unsigned count;
	enum hv_power_request what;
	int code;
};

static inline void power_log_request(void *ctx, enum hv_power_request what, int code)
{
	struct power_log *log = ctx;

	log->count++;
	log->what = what;
	log->code = code;
}

#endif
