/*
 * A bus: which device answers at which address. Ports and memory-mapped registers have one each, of the same
 * kind. It knows devices only through their operations; nothing here depends on KVM. Rules: SDM vol. 1, 19.3
 * (ports are byte-addressed, wider accesses cover several).
 */
#include <string.h>

#include "base/bytes.h"
#include "device/bus.h"

void hv_bus_init(struct hv_bus *bus, const char *name)
{
	memset(bus, 0, sizeof(*bus));
	bus->name = name;
}

int hv_bus_add(struct hv_bus *bus, uint64_t base, uint64_t length, uint64_t offset, struct hv_device *dev,
	       struct hv_error *err)
{
	unsigned i = 0;

	if (length == 0 || base > UINT64_MAX - length)
		return hv_fail(err, EINVAL, "%s: %s cannot have %#llx bytes at %#llx", bus->name,
			       dev->ops->name, (unsigned long long)length, (unsigned long long)base);
	if (bus->count == HV_BUS_RANGES)
		return hv_fail(err, ENOSPC, "%s: no room for %s; all %d ranges are taken", bus->name,
			       dev->ops->name, HV_BUS_RANGES);
	/* hv:solution lab=2 task=1 */
	while (i < bus->count && bus->ranges[i].base < base)
		i++;
	if ((i > 0 && bus->ranges[i - 1].length > base - bus->ranges[i - 1].base) ||
	    (i < bus->count && length > bus->ranges[i].base - base))
		return hv_fail(err, EEXIST, "%s: %s at %#llx would overlap another device", bus->name,
			       dev->ops->name, (unsigned long long)base);
	memmove(&bus->ranges[i + 1], &bus->ranges[i], (bus->count - i) * sizeof(bus->ranges[0]));
	bus->ranges[i] = (struct hv_bus_range){.base = base, .length = length, .offset = offset, .dev = dev};
	bus->count++;
	return 0;
	/* hv:end */
}

const struct hv_bus_range *hv_bus_find(const struct hv_bus *bus, uint64_t addr)
{
	unsigned low = 0, high = bus->count;

	/* hv:solution lab=2 task=2 */
	/* The last range that starts at or below addr is the only one that can hold it. */
	while (low < high) {
		unsigned middle = (low + high) / 2;

		if (bus->ranges[middle].base <= addr)
			low = middle + 1;
		else
			high = middle;
	}
	if (low == 0 || addr - bus->ranges[low - 1].base >= bus->ranges[low - 1].length)
		return NULL;
	return &bus->ranges[low - 1];
	/* hv:end */
}

/* How much of an access of size bytes at addr the device takes at once: a power of two, aligned to itself,
 * within the range. */
static unsigned piece(const struct hv_bus_range *r, uint64_t addr, unsigned size)
{
	unsigned n = r->dev->ops->max_access;

	while (n > size || addr % n || n > r->length - (addr - r->base))
		n /= 2;
	return n;
}

int hv_bus_read(const struct hv_bus *bus, uint64_t addr, void *data, unsigned size)
{
	uint8_t *out = data;
	int rc = 0;

	/* hv:solution lab=2 task=3 */
	for (unsigned n; size > 0; addr += n, out += n, size -= n) {
		const struct hv_bus_range *r = hv_bus_find(bus, addr);
		uint8_t bytes[8];

		if (!r) {
			*out = 0xff; /* a floating bus reads as ones */
			n = 1;
			rc = -ENXIO;
			continue;
		}
		n = piece(r, addr, size);
		pthread_mutex_lock(&r->dev->lock);
		hv_put_le64(bytes, r->dev->ops->read(r->dev, addr - r->base + r->offset, n));
		pthread_mutex_unlock(&r->dev->lock);
		memcpy(out, bytes, n);
	}
	return rc;
	/* hv:end */
}

int hv_bus_write(const struct hv_bus *bus, uint64_t addr, const void *data, unsigned size)
{
	const uint8_t *in = data;
	int rc = 0;

	/* hv:solution lab=2 task=3 */
	for (unsigned n; size > 0; addr += n, in += n, size -= n) {
		const struct hv_bus_range *r = hv_bus_find(bus, addr);
		uint8_t bytes[8] = {0};

		if (!r) {
			n = 1;
			rc = -ENXIO;
			continue;
		}
		n = piece(r, addr, size);
		memcpy(bytes, in, n);
		pthread_mutex_lock(&r->dev->lock);
		r->dev->ops->write(r->dev, addr - r->base + r->offset, hv_le64(bytes), n);
		pthread_mutex_unlock(&r->dev->lock);
	}
	return rc;
	/* hv:end */
}
