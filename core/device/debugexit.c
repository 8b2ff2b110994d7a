/*
 * The debug exit: a guest without power management ends its VM, and gives it an exit status, by one OUT to
 * port 0xf4. It behaves as QEMU's isa-debug-exit (hw/misc/debugexit.c there, iobase=0xf4,iosize=4): a write
 * of v, of any width and at any of the four ports, ends with status (v << 1 | 1). That is never 0, so a test
 * guest can't be mistaken for one that came to an orderly end; a read gives 0.
 */
#include <stdio.h>
#include <stdlib.h>

#include "device/devices.h"

struct hv_debugexit {
	struct hv_device dev;
	struct hv_power power;
};

static struct hv_debugexit *debugexit_of(struct hv_device *dev)
{
	return hv_container_of(dev, struct hv_debugexit, dev);
}

static uint64_t debugexit_read(struct hv_device *dev, uint64_t offset, unsigned size)
{
	return 0;
}

static void debugexit_write(struct hv_device *dev, uint64_t offset, uint64_t value, unsigned size)
{
	const struct hv_power *power = &debugexit_of(dev)->power;

	if (power->request)
		power->request(power->ctx, HV_POWER_EXIT, (int)((value << 1 | 1) & 0xff));
}

/* It keeps nothing: the write is the whole of it. */
static void debugexit_reset(struct hv_device *dev)
{
}

static void debugexit_save(struct hv_device *dev, struct hv_encoder *e)
{
}

static int debugexit_load(struct hv_device *dev, struct hv_decoder *d, uint16_t version, struct hv_error *err)
{
	int rc = hv_device_load_begin(dev, version, err);

	return rc ? rc : hv_device_load_end(dev, d, err);
}

static void debugexit_describe(struct hv_device *dev, char *buf, size_t size)
{
	snprintf(buf, size, "a write of v ends the VM with status v << 1 | 1");
}

static void debugexit_destroy(struct hv_device *dev)
{
	free(debugexit_of(dev));
}

static const struct hv_device_ops debugexit_ops = {
	.name = "debugexit",
	.version = 1,
	.max_access = 4,
	.read = debugexit_read,
	.write = debugexit_write,
	.reset = debugexit_reset,
	.save = debugexit_save,
	.load = debugexit_load,
	.describe = debugexit_describe,
	.destroy = debugexit_destroy,
};

int hv_debugexit_create(struct hv_power power, struct hv_device **out, struct hv_error *err)
{
	struct hv_debugexit *exit_device = calloc(1, sizeof(*exit_device));

	if (!exit_device)
		return hv_fail(err, ENOMEM, "debugexit: no memory for the device; close other programs");
	hv_device_init(&exit_device->dev, &debugexit_ops);
	exit_device->power = power;
	*out = &exit_device->dev;
	return 0;
}
