/*
 * A driver of a virtio device over MMIO: registers by name, the handshake, and queues in plain memory. For
 * the tests of the transport and of every type.
 */
#ifndef TESTS_DEVICE_DRIVE_VIRTIO_H
#define TESTS_DEVICE_DRIVE_VIRTIO_H

#include <stdio.h>
#include <time.h>

#include "device/virtio/types.h"
#include "device/virtio/window.h"
#include "drive.h"
#include "ring.h"

enum {
	MMIO_MAGIC = 0x00,
	MMIO_VERSION = 0x04,
	MMIO_DEVICE_ID = 0x08,
	MMIO_VENDOR_ID = 0x0c,
	MMIO_DEVICE_FEATURES = 0x10,
	MMIO_DEVICE_FEATURES_SEL = 0x14,
	MMIO_DRIVER_FEATURES = 0x20,
	MMIO_DRIVER_FEATURES_SEL = 0x24,
	MMIO_QUEUE_SEL = 0x30,
	MMIO_QUEUE_NUM_MAX = 0x34,
	MMIO_QUEUE_NUM = 0x38,
	MMIO_QUEUE_READY = 0x44,
	MMIO_NOTIFY = 0x50,
	MMIO_INTERRUPT_STATUS = 0x60,
	MMIO_INTERRUPT_ACK = 0x64,
	MMIO_STATUS = 0x70,
	MMIO_TABLE = 0x80,
	MMIO_AVAILABLE = 0x90,
	MMIO_USED = 0xa0,
	MMIO_GENERATION = 0xfc,
	MMIO_CONFIG = 0x100,
};

/* A line that may be told the same thing only once; both ends on several threads. */
struct irq_log {
	_Atomic unsigned rises;
	_Atomic bool high;
};

static inline void irq_log_set(void *ctx, unsigned gsi, bool level)
{
	struct irq_log *log = ctx;

	log->high = level;
	log->rises += level;
}

struct log_lines {
	_Atomic unsigned warnings;
	char last[1024];
};

static inline void keep_line(void *ctx, enum hv_log_level level, const char *line)
{
	struct log_lines *lines = ctx;

	lines->warnings += level == HV_LOG_WARN;
	snprintf(lines->last, sizeof(lines->last), "%s", line);
}

static inline uint32_t reg(struct hv_device *dev, unsigned offset)
{
	return (uint32_t)drive_read(dev, offset, 4);
}

static inline void set_reg(struct hv_device *dev, unsigned offset, uint32_t value)
{
	drive_write(dev, offset, value, 4);
}

static inline uint64_t offered_features(struct hv_device *dev)
{
	uint64_t low;

	set_reg(dev, MMIO_DEVICE_FEATURES_SEL, 0);
	low = reg(dev, MMIO_DEVICE_FEATURES);
	set_reg(dev, MMIO_DEVICE_FEATURES_SEL, 1);
	return low | (uint64_t)reg(dev, MMIO_DEVICE_FEATURES) << 32;
}

static inline void accept_features(struct hv_device *dev, uint64_t features)
{
	set_reg(dev, MMIO_DRIVER_FEATURES_SEL, 0);
	set_reg(dev, MMIO_DRIVER_FEATURES, (uint32_t)features);
	set_reg(dev, MMIO_DRIVER_FEATURES_SEL, 1);
	set_reg(dev, MMIO_DRIVER_FEATURES, (uint32_t)(features >> 32));
}

static inline void set_address(struct hv_device *dev, unsigned offset, uint64_t gpa)
{
	set_reg(dev, offset, (uint32_t)gpa);
	set_reg(dev, offset + 4, (uint32_t)(gpa >> 32));
}

/* Up to FEATURES_OK (3.1.1, steps 1 to 6). */
static inline void negotiate(struct hv_device *dev, uint64_t features)
{
	set_reg(dev, MMIO_STATUS, 0);
	set_reg(dev, MMIO_STATUS, HV_VIRTIO_ACKNOWLEDGE);
	set_reg(dev, MMIO_STATUS, HV_VIRTIO_ACKNOWLEDGE | HV_VIRTIO_DRIVER);
	accept_features(dev, features);
	set_reg(dev, MMIO_STATUS, HV_VIRTIO_ACKNOWLEDGE | HV_VIRTIO_DRIVER | HV_VIRTIO_FEATURES_OK);
}

static inline void set_up_queue(struct hv_device *dev, struct ring *r, unsigned queue)
{
	set_reg(dev, MMIO_QUEUE_SEL, queue);
	set_reg(dev, MMIO_QUEUE_NUM, r->size);
	set_address(dev, MMIO_TABLE, r->table);
	set_address(dev, MMIO_AVAILABLE, r->available);
	set_address(dev, MMIO_USED, r->used);
	set_reg(dev, MMIO_QUEUE_READY, 1);
}

static inline void driver_ok(struct hv_device *dev)
{
	set_reg(dev, MMIO_STATUS, reg(dev, MMIO_STATUS) | HV_VIRTIO_DRIVER_OK);
}

/* Waits until the device has returned `count` chains in all, at most ten seconds. */
static inline bool wait_used(struct ring *r, uint16_t count)
{
	for (unsigned i = 0; i < 10000; i++) {
		if (__atomic_load_n((uint16_t *)(void *)guest_at(r, r->used + 2, 2), __ATOMIC_ACQUIRE) ==
		    count)
			return true;
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	}
	return false;
}

/* Waits for status bits, as long. */
static inline bool wait_status(struct hv_device *dev, uint32_t bits)
{
	for (unsigned i = 0; i < 10000; i++) {
		if (reg(dev, MMIO_STATUS) & bits)
			return true;
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	}
	return false;
}

#endif
