/*
 * A bus: which device answers at which address. One for ports, one for memory-mapped registers.
 *
 * Ranges are added before a vCPU runs and never change afterwards, so an access takes no lock but the
 * device's own.
 */
#ifndef HV_DEVICE_BUS_H
#define HV_DEVICE_BUS_H

#include <stdint.h>

#include "device/device.h"

#define HV_BUS_RANGES 64

struct hv_bus_range {
	uint64_t base, length;
	uint64_t offset; /* what the device sees for an access at base */
	struct hv_device *dev;
};

struct hv_bus {
	const char *name; /* "pio" or "mmio" */
	unsigned count;
	struct hv_bus_range ranges[HV_BUS_RANGES]; /* sorted by base, none overlap */
};

HV_API_BEGIN
void hv_bus_init(struct hv_bus *bus, const char *name);

/* -EEXIST when it would overlap a range, -EINVAL when empty or wrapping, -ENOSPC when full. dev is borrowed.
 */
int hv_bus_add(struct hv_bus *bus, uint64_t base, uint64_t length, uint64_t offset, struct hv_device *dev,
	       struct hv_error *err);

/*
 * One access of size bytes (1..8), little-endian in data. Wider than the device takes, or straddling the end
 * of a range: split. Bytes where no device answers read as 0xff and swallow writes, as on a PC's bus; the
 * return value is then -ENXIO (so that the caller can count and tell), else 0.
 */
int hv_bus_read(const struct hv_bus *bus, uint64_t addr, void *data, unsigned size);
int hv_bus_write(const struct hv_bus *bus, uint64_t addr, const void *data, unsigned size);

/* The range that holds addr, or NULL. */
const struct hv_bus_range *hv_bus_find(const struct hv_bus *bus, uint64_t addr);
HV_API_END

#endif
