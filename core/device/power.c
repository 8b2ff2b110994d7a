/*
 * ACPI's registers for power: a kernel that has read the tables (boot/acpi.c) turns the VM off and resets it
 * here. A hardware-reduced machine has a sleep control and a sleep status register in place of the PM1 blocks
 * of old PCs, and a reset register, all of one byte.
 *
 * Rules: ACPI 6.4, section 4.8.3.6 (reset register) and 4.8.3.7 (sleep control and status registers).
 */
#include <stdio.h>
#include <stdlib.h>

#include "device/devices.h"

enum { REG_CONTROL, REG_STATUS, REG_RESET };

#define SLEEP_TYPE_SHIFT 2
#define SLEEP_TYPE       (7u << SLEEP_TYPE_SHIFT)
#define SLEEP_ENABLE     (1u << 5) /* go now; never reads as 1 */

struct hv_power_device {
	struct hv_device dev;
	struct hv_power power;
	uint8_t control; /* the sleep type that was written last */
};

static struct hv_power_device *power_of(struct hv_device *dev)
{
	return hv_container_of(dev, struct hv_power_device, dev);
}

/* The status register's one bit says that the machine has woken up, which it never does. */
static uint64_t power_read(struct hv_device *dev, uint64_t offset, unsigned size)
{
	return offset == REG_CONTROL ? power_of(dev)->control : 0;
}

static void ask(const struct hv_power_device *p, enum hv_power_request what)
{
	if (p->power.request)
		p->power.request(p->power.ctx, what, 0);
}

/* There is one sleep state, "off"; to enter another is no guest's business, and nothing happens. */
static void power_write(struct hv_device *dev, uint64_t offset, uint64_t value, unsigned size)
{
	struct hv_power_device *p = power_of(dev);

	if (offset == REG_CONTROL) {
		p->control = (uint8_t)(value & SLEEP_TYPE);
		if (value & SLEEP_ENABLE && p->control >> SLEEP_TYPE_SHIFT == HV_POWER_SLEEP_OFF)
			ask(p, HV_POWER_OFF);
	} else if (offset == REG_RESET && value == HV_POWER_RESET_VALUE) {
		ask(p, HV_POWER_RESET);
	}
}

static void power_reset(struct hv_device *dev)
{
	power_of(dev)->control = 0;
}

static void power_save(struct hv_device *dev, struct hv_encoder *e)
{
	hv_enc_u8(e, power_of(dev)->control);
}

static int power_load(struct hv_device *dev, struct hv_decoder *d, uint16_t version, struct hv_error *err)
{
	uint8_t control;
	int rc;

	power_reset(dev);
	rc = hv_device_load_begin(dev, version, err);
	if (rc)
		return rc;
	control = hv_dec_u8(d);
	rc = hv_device_load_end(dev, d, err);
	if (rc)
		return rc;
	if (control & ~SLEEP_TYPE)
		return hv_fail_unsafe(
			err,
			"saved state: device '%s' has a sleep control register of 0x%02x, which no "
			"guest can bring about; the data is damaged",
			dev->ops->name, control);
	power_of(dev)->control = control;
	return 0;
}

static void power_describe(struct hv_device *dev, char *buf, size_t size)
{
	snprintf(buf, size, "sleep type %u; %u turns the VM off",
		 (unsigned)power_of(dev)->control >> SLEEP_TYPE_SHIFT, (unsigned)HV_POWER_SLEEP_OFF);
}

static void power_destroy(struct hv_device *dev)
{
	free(power_of(dev));
}

static const struct hv_device_ops power_ops = {
	.name = "power",
	.version = 1,
	.max_access = 1,
	.read = power_read,
	.write = power_write,
	.reset = power_reset,
	.save = power_save,
	.load = power_load,
	.describe = power_describe,
	.destroy = power_destroy,
};

int hv_power_create(struct hv_power power, struct hv_device **out, struct hv_error *err)
{
	struct hv_power_device *p = calloc(1, sizeof(*p));

	if (!p)
		return hv_fail(err, ENOMEM, "power: no memory for the device; close other programs");
	hv_device_init(&p->dev, &power_ops);
	p->power = power;
	*out = &p->dev;
	return 0;
}
