/*
 * Fuzz target: a device's saved state, as a snapshot or a migration brings it, and what a guest may do to the
 * device afterwards.
 *
 *   byte 0: which device | bytes 1-2: version | byte 3: length of the state | the state | accesses, 4 bytes
 * each: how (bit 0 write, bits 1-2 log2 of the size, bit 3 an outside event), offset, value (2)
 *
 * Whatever is loaded, what the device saves then must load again and save the same.
 */
#include <stdlib.h>
#include <string.h>

#include "device/devices.h"
#include "device/virtio/balloon.h"
#include "device/virtio/console.h"
#include "device/virtio/virtio.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void on_power(void *ctx, enum hv_power_request what, int code)
{
}

static void on_send(void *ctx, uint64_t address, uint32_t data)
{
}

static void on_route(void *ctx, unsigned pin, uint64_t address, uint32_t data, bool masked)
{
}

static void on_line(void *ctx, unsigned gsi, bool level)
{
}

/* The virtio transport, with a type behind it that does nothing but look into its queues, when the guest
 * asks. */
static bool guest_asks;

static void virtio_notify(struct hv_virtio *v, unsigned queue)
{
	static struct hv_virtq_chain chain;

	for (unsigned i = 0; guest_asks && i < 4 && hv_virtio_pop(v, queue, &chain); i++)
		hv_virtio_push(v, queue, &chain, 0);
}

struct virtio {
	struct hv_virtio v;
	struct hv_memory mem;
};

static void virtio_destroy(struct hv_virtio *v)
{
	struct virtio *type = hv_container_of(v, struct virtio, v);

	hv_memory_free(&type->mem);
	free(type);
}

static const struct hv_virtio_ops virtio_ops = {.name = "fuzz",
						.id = 1,
						.version = 1,
						.queues = 2,
						.notify = virtio_notify,
						.destroy = virtio_destroy};

static int virtio_create(struct hv_device **dev)
{
	struct virtio *type = calloc(1, sizeof(*type));
	struct hv_virtio_host host = {.irq = {.set = on_line}};

	if (!type)
		abort();
	host.mem = &type->mem;
	hv_memory_init(&type->mem, NULL);
	if (hv_memory_add(&type->mem, 0, 0x10000, false, NULL))
		abort();
	hv_virtio_init(&type->v, &virtio_ops, &host, 0);
	*dev = &type->v.dev;
	return 0;
}

enum {
	SERIAL,
	DEBUGCON,
	DEBUGEXIT,
	I8042,
	RTC,
	FWCFG,
	POST,
	IOAPIC,
	POWER,
	PVPANIC,
	VIRTIO,
	CONSOLE,
	BALLOON,
	KINDS
};

static struct hv_memory guest; /* of the devices that have threads: these are held while they are looked at */

static int threaded_create(unsigned kind, struct hv_device **dev)
{
	static const struct hv_console_port ports[HV_CONSOLE_PORTS] = {{.there = true},
								       {.there = true, .name = "x"}};
	struct hv_virtio_host host = {.mem = &guest, .irq = {.set = on_line}};
	int rc;

	hv_memory_init(&guest, NULL);
	if (hv_memory_add(&guest, 0, 0x10000, false, NULL))
		abort();
	rc = kind == CONSOLE ? hv_virtio_console_create(&host, ports, dev, NULL)
			     : hv_virtio_balloon_create(&host, NULL, NULL, dev, NULL);
	if (!rc)
		hv_device_hold(*dev, true);
	return rc;
}

static struct hv_device *create(unsigned kind)
{
	static const struct hv_fwcfg_item file = {.file = "opt/x", .data = "0123456789", .size = 10};
	struct hv_power power = {.request = on_power};
	struct hv_device *dev = NULL;
	int rc = 0;

	switch (kind) {
	case SERIAL:
		rc = hv_serial_create(NULL, (struct hv_irq_line){.set = on_line}, &dev, NULL);
		break;
	case DEBUGCON:
		rc = hv_debugcon_create(NULL, &dev, NULL);
		break;
	case DEBUGEXIT:
		rc = hv_debugexit_create(power, &dev, NULL);
		break;
	case I8042:
		rc = hv_i8042_create(power, &dev, NULL);
		break;
	case RTC:
		rc = hv_rtc_create(64 << 20, &dev, NULL);
		break;
	case FWCFG:
		rc = hv_fwcfg_create(2, 64 << 20, &file, 1, &dev, NULL);
		break;
	case POST:
		rc = hv_post_create(&dev, NULL);
		break;
	case IOAPIC:
		rc = hv_ioapic_create((struct hv_ioapic_host){.send = on_send, .route = on_route}, &dev,
				      NULL);
		break;
	case VIRTIO:
		rc = virtio_create(&dev);
		break;
	case CONSOLE:
	case BALLOON:
		rc = threaded_create(kind, &dev);
		break;
	case POWER:
		rc = hv_power_create(power, &dev, NULL);
		break;
	case PVPANIC:
		rc = hv_pvpanic_create(power, &dev, NULL);
		break;
	}
	if (rc)
		abort();
	return dev;
}

static int load(struct hv_device *dev, const uint8_t *data, size_t size, uint16_t version)
{
	struct hv_error err = {0};
	struct hv_decoder d;
	int rc;

	hv_dec_init(&d, data, size);
	pthread_mutex_lock(&dev->lock);
	rc = dev->ops->load(dev, &d, version, &err);
	pthread_mutex_unlock(&dev->lock);
	if (rc && (err.code != rc || err.text[0] == '\0'))
		abort(); /* refused without a reason */
	return rc;
}

static void save(struct hv_device *dev, struct hv_encoder *e)
{
	hv_enc_init(e);
	pthread_mutex_lock(&dev->lock);
	dev->ops->save(dev, e);
	pthread_mutex_unlock(&dev->lock);
}

static void save_and_load(struct hv_device *dev)
{
	struct hv_encoder a, b;

	save(dev, &a);
	if (load(dev, a.data, a.length, dev->ops->version))
		abort();
	save(dev, &b);
	if (a.length != b.length || (a.length > 0 && memcmp(a.data, b.data, a.length) != 0))
		abort();
	hv_enc_free(&a);
	hv_enc_free(&b);
}

static void outside_event(struct hv_device *dev, unsigned kind, const uint8_t *step)
{
	if (kind == SERIAL)
		hv_serial_input(dev, step, step[1] % 5u);
	else if (kind == IOAPIC && step[0] & 1)
		hv_ioapic_set(dev, step[1] & 31, step[2] & 1);
	else if (kind == IOAPIC)
		hv_ioapic_eoi(dev, step[1]);
}

static void access_once(struct hv_device *dev, const uint8_t *step)
{
	unsigned size = 1u << (step[0] >> 1 & 3);
	uint64_t value = step[2] | (uint64_t)step[3] << 8 | (uint64_t)step[2] << 24;

	if (size > dev->ops->max_access)
		size = dev->ops->max_access;
	guest_asks = true;
	pthread_mutex_lock(&dev->lock);
	if (step[0] & 1)
		dev->ops->write(dev, step[1], value, size);
	else
		dev->ops->read(dev, step[1], size);
	pthread_mutex_unlock(&dev->lock);
	guest_asks = false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct hv_device *dev;
	char line[200];
	unsigned kind;
	size_t length;

	if (size < 4)
		return 0;
	kind = data[0] % KINDS;
	dev = create(kind);
	length = data[3] < size - 4 ? data[3] : size - 4;
	load(dev, data + 4, length, (uint16_t)(data[1] | data[2] << 8));
	save_and_load(dev);
	for (const uint8_t *step = data + 4 + length; (size_t)(data + size - step) >= 4; step += 4) {
		if (step[0] & 8)
			outside_event(dev, kind, step);
		else
			access_once(dev, step);
	}
	save_and_load(dev);
	pthread_mutex_lock(&dev->lock);
	dev->ops->describe(dev, line, sizeof(line));
	pthread_mutex_unlock(&dev->lock);
	if (kind == CONSOLE || kind == BALLOON)
		hv_device_hold(dev, false); /* and works off what it was left with */
	hv_device_destroy(dev);
	if (kind == CONSOLE || kind == BALLOON)
		hv_memory_free(&guest);
	return 0;
}
