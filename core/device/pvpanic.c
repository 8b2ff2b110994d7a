/*
 * The panic device: a kernel that has panicked says so by one OUT, so that its VM ends with a report instead
 * of spinning or starting anew as if nothing had been. It behaves as QEMU's pvpanic at its usual port: a read
 * tells which events it takes, a write of the same bits reports them.
 *
 * Rules: QEMU, docs/specs/pvpanic.txt; the kernel's drivers/misc/pvpanic.
 */
#include <stdio.h>
#include <stdlib.h>

#include "device/devices.h"

/* The only event taken. A guest whose crash kernel saves a dump (bit 1) is not to be ended, so it isn't asked
 * to tell. */
#define EVENT_PANICKED 1u

struct hv_pvpanic {
	struct hv_device dev;
	struct hv_power power;
};

static struct hv_pvpanic *pvpanic_of(struct hv_device *dev)
{
	return hv_container_of(dev, struct hv_pvpanic, dev);
}

static uint64_t pvpanic_read(struct hv_device *dev, uint64_t offset, unsigned size)
{
	return EVENT_PANICKED;
}

static void pvpanic_write(struct hv_device *dev, uint64_t offset, uint64_t value, unsigned size)
{
	const struct hv_power *power = &pvpanic_of(dev)->power;

	if (value & EVENT_PANICKED && power->request)
		power->request(power->ctx, HV_POWER_PANIC, 0);
}

/* It keeps nothing: the write is the whole of it. */
static void pvpanic_reset(struct hv_device *dev)
{
}

static void pvpanic_save(struct hv_device *dev, struct hv_encoder *e)
{
}

static int pvpanic_load(struct hv_device *dev, struct hv_decoder *d, uint16_t version, struct hv_error *err)
{
	int rc = hv_device_load_begin(dev, version, err);

	return rc ? rc : hv_device_load_end(dev, d, err);
}

static void pvpanic_describe(struct hv_device *dev, char *buf, size_t size)
{
	snprintf(buf, size, "a write with bit 0 set reports a panic and ends the VM");
}

static void pvpanic_destroy(struct hv_device *dev)
{
	free(pvpanic_of(dev));
}

static const struct hv_device_ops pvpanic_ops = {
	.name = "pvpanic",
	.version = 1,
	.max_access = 1,
	.read = pvpanic_read,
	.write = pvpanic_write,
	.reset = pvpanic_reset,
	.save = pvpanic_save,
	.load = pvpanic_load,
	.describe = pvpanic_describe,
	.destroy = pvpanic_destroy,
};

int hv_pvpanic_create(struct hv_power power, struct hv_device **out, struct hv_error *err)
{
	struct hv_pvpanic *p = calloc(1, sizeof(*p));

	if (!p)
		return hv_fail(err, ENOMEM, "pvpanic: no memory for the device; close other programs");
	hv_device_init(&p->dev, &pvpanic_ops);
	p->power = power;
	*out = &p->dev;
	return 0;
}
