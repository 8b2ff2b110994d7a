/*
 * The debug console: one port, 0xe9, where a guest can print before it has set up anything. Bochs invented
 * it, QEMU has it as isa-debugcon; a read gives the port's own number, by which guests tell that it is there.
 */
#include <stdio.h>
#include <stdlib.h>

#include "device/devices.h"

#define READBACK 0xe9u

struct hv_debugcon {
	struct hv_device dev;
	struct hv_chardev *chardev; /* borrowed */
	uint64_t written; /* bytes since power-on, for a person's eyes: not guest state, so not saved */
};

static struct hv_debugcon *debugcon_of(struct hv_device *dev)
{
	return hv_container_of(dev, struct hv_debugcon, dev);
}

static uint64_t debugcon_read(struct hv_device *dev, uint64_t offset, unsigned size)
{
	return READBACK;
}

static void debugcon_write(struct hv_device *dev, uint64_t offset, uint64_t value, unsigned size)
{
	struct hv_debugcon *con = debugcon_of(dev);

	con->written++;
	hv_device_output(dev, con->chardev, (uint8_t)value);
}

static void debugcon_reset(struct hv_device *dev)
{
	debugcon_of(dev)->written = 0;
}

/* It has no registers; the empty section says that the device was there. */
static void debugcon_save(struct hv_device *dev, struct hv_encoder *e)
{
}

static int debugcon_load(struct hv_device *dev, struct hv_decoder *d, uint16_t version, struct hv_error *err)
{
	int rc = hv_device_load_begin(dev, version, err);

	debugcon_reset(dev);
	return rc ? rc : hv_device_load_end(dev, d, err);
}

static void debugcon_describe(struct hv_device *dev, char *buf, size_t size)
{
	snprintf(buf, size, "%llu bytes written", (unsigned long long)debugcon_of(dev)->written);
}

static void debugcon_destroy(struct hv_device *dev)
{
	free(debugcon_of(dev));
}

static const struct hv_device_ops debugcon_ops = {
	.name = "debugcon",
	.version = 1,
	.max_access = 1,
	.read = debugcon_read,
	.write = debugcon_write,
	.reset = debugcon_reset,
	.save = debugcon_save,
	.load = debugcon_load,
	.describe = debugcon_describe,
	.destroy = debugcon_destroy,
};

int hv_debugcon_create(struct hv_chardev *chardev, struct hv_device **out, struct hv_error *err)
{
	struct hv_debugcon *con = calloc(1, sizeof(*con));

	if (!con)
		return hv_fail(err, ENOMEM, "debugcon: no memory for the device; close other programs");
	hv_device_init(&con->dev, &debugcon_ops);
	con->chardev = chardev;
	*out = &con->dev;
	return 0;
}
