/*
 * What all devices share: their lock, the frame of a load, and output to the host. The contract of a device
 * is in device.h. This room calls base and the chardev.
 */
#include "device/chardev.h"
#include "device/device.h"

void hv_device_init(struct hv_device *dev, const struct hv_device_ops *ops)
{
	dev->ops = ops;
	pthread_mutex_init(&dev->lock, NULL);
}

void hv_device_destroy(struct hv_device *dev)
{
	if (!dev)
		return;
	if (dev->ops->stop)
		dev->ops->stop(dev);
	pthread_mutex_destroy(&dev->lock);
	dev->ops->destroy(dev);
}

void hv_device_hold(struct hv_device *dev, bool held)
{
	if (!dev->ops->hold)
		return;
	pthread_mutex_lock(&dev->lock);
	dev->ops->hold(dev, held);
	pthread_mutex_unlock(&dev->lock);
}

int hv_device_load_begin(const struct hv_device *dev, uint16_t version, struct hv_error *err)
{
	if (version == dev->ops->version)
		return 0;
	return hv_fail_unsafe(
		err,
		"saved state: device '%s' is of version %u, this hvkit knows version %u; use the one "
		"that saved it",
		dev->ops->name, version, dev->ops->version);
}

int hv_device_load_end(const struct hv_device *dev, const struct hv_decoder *d, struct hv_error *err)
{
	int rc = hv_dec_finish(d, dev->ops->name, err);

	if (rc)
		return rc;
	if (d->at != d->length)
		return hv_fail_unsafe(err,
				      "saved state: device '%s' has %zu bytes too many; the data is damaged",
				      dev->ops->name, d->length - d->at);
	return 0;
}

void hv_device_output(struct hv_device *dev, struct hv_chardev *chardev, uint8_t byte)
{
	if (!chardev)
		return;
	pthread_mutex_unlock(&dev->lock);
	hv_chardev_write(chardev, &byte, 1);
	pthread_mutex_lock(&dev->lock);
}
