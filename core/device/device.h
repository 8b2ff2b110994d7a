/*
 * A device: registers that the guest reads and writes, and state that can be saved. A device is one file: its
 * struct (with struct hv_device as a member), its read and write, its save and load, and at the end one table
 * of operations. core/machine is the only room that knows them all.
 *
 * Locks: the bus holds dev->lock around read and write; whatever else touches the device's state (input from
 * the host, save, load, reset, describe) is called with the lock held too, by the caller named at each
 * function. A write may let go of the lock on its way while the host takes output (hv_device_output), and
 * holds it again on return.
 */
#ifndef HV_DEVICE_DEVICE_H
#define HV_DEVICE_DEVICE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/codec.h"
#include "base/error.h"

struct hv_device;
struct hv_chardev;

struct hv_device_ops {
	const char *name;   /* "serial0": the name of its section in saved state and in `info devices` */
	uint16_t version;   /* of its saved state */
	uint8_t max_access; /* widest access in bytes that read and write take (1, 2, 4, 8); the bus splits
			       wider ones */

	/* Offsets count from what hv_bus_add was told. size is 1..max_access and a power of two. */
	uint64_t (*read)(struct hv_device *dev, uint64_t offset, unsigned size);
	void (*write)(struct hv_device *dev, uint64_t offset, uint64_t value, unsigned size);

	/* Back to power-on. */
	void (*reset)(struct hv_device *dev);
	/* The fields of its state, in an order that version names; the caller opens and closes the section.
	 */
	void (*save)(struct hv_device *dev, struct hv_encoder *e);
	/* The contrary. Every value is hostile: check it, refuse with a sentence, leave the device reset. */
	int (*load)(struct hv_device *dev, struct hv_decoder *d, uint16_t version, struct hv_error *err);
	/* One line of state for a person, "LCR 0x03, divisor 1, IER 0x01"; size is at least 1. May be NULL.
	 */
	void (*describe)(struct hv_device *dev, char *buf, size_t size);

	/*
	 * Only devices that have threads of their own need these two; NULL for all others. hold with true
	 * returns when nothing of the device's moves (no request under way, guest memory untouched), and
	 * nothing will until as many calls with false have come; it may let go of the lock while it waits.
	 * stop ends the threads for good; called once, before destroy, without the lock.
	 */
	void (*hold)(struct hv_device *dev, bool held);
	void (*stop)(struct hv_device *dev);

	/* Frees the device. No access can be under way. */
	void (*destroy)(struct hv_device *dev);
};

struct hv_device {
	const struct hv_device_ops *ops;
	pthread_mutex_t lock;
};

/* What a device may ask of the machine that it is in; any thread, returns at once, carried out later. */
enum hv_power_request {
	HV_POWER_EXIT,  /* end with the guest's own status `code` (isa-debug-exit) */
	HV_POWER_RESET, /* restart the VM */
	HV_POWER_OFF,   /* orderly end */
	HV_POWER_PANIC, /* end: the guest's kernel says that it can't go on */
};

struct hv_power {
	void (*request)(void *ctx, enum hv_power_request what, int code);
	void *ctx;
};

HV_API_BEGIN
void hv_device_init(struct hv_device *dev, const struct hv_device_ops *ops);
void hv_device_destroy(struct hv_device *dev); /* dev may be NULL */

/* The hold operation, where there is one; takes the lock itself. For whoever stops a whole machine. */
void hv_device_hold(struct hv_device *dev, bool held);

/*
 * For a device's load. begin: 0 when version is the one that this build saves. end: 0 when every byte of the
 * section was there and none is left over. Else -EBADMSG with a sentence.
 */
int hv_device_load_begin(const struct hv_device *dev, uint16_t version, struct hv_error *err);
int hv_device_load_end(const struct hv_device *dev, const struct hv_decoder *d, struct hv_error *err);

/*
 * For a device's write: one byte to the host (chardev may be NULL: nothing is plugged in). hv_chardev_write
 * may wait for room, so dev->lock, held by the caller, is let go meanwhile: the chardev's thread, which makes
 * the room, may itself wait for the lock to hand over input.
 */
void hv_device_output(struct hv_device *dev, struct hv_chardev *chardev, uint8_t byte);
HV_API_END

#endif
