/*
 * The POST port, 0x80: firmware writes its progress there for a display with two digits, and kernels write to
 * it only because that takes a microsecond on an ISA bus. Here it keeps the last code, which `info devices`
 * shows: the cheapest way for a guest to say how far it came.
 */
#include <stdio.h>
#include <stdlib.h>

#include "device/devices.h"

struct hv_post {
	struct hv_device dev;
	uint8_t code;
};

static struct hv_post *post_of(struct hv_device *dev)
{
	return hv_container_of(dev, struct hv_post, dev);
}

static uint64_t post_read(struct hv_device *dev, uint64_t offset, unsigned size)
{
	return post_of(dev)->code;
}

static void post_write(struct hv_device *dev, uint64_t offset, uint64_t value, unsigned size)
{
	post_of(dev)->code = (uint8_t)value;
}

static void post_reset(struct hv_device *dev)
{
	post_of(dev)->code = 0;
}

static void post_save(struct hv_device *dev, struct hv_encoder *e)
{
	hv_enc_u8(e, post_of(dev)->code);
}

static int post_load(struct hv_device *dev, struct hv_decoder *d, uint16_t version, struct hv_error *err)
{
	int rc = hv_device_load_begin(dev, version, err);
	uint8_t code;

	post_reset(dev);
	if (rc)
		return rc;
	code = hv_dec_u8(d);
	rc = hv_device_load_end(dev, d, err);
	if (!rc)
		post_of(dev)->code = code;
	return rc;
}

static void post_describe(struct hv_device *dev, char *buf, size_t size)
{
	snprintf(buf, size, "last code 0x%02x", post_of(dev)->code);
}

static void post_destroy(struct hv_device *dev)
{
	free(post_of(dev));
}

static const struct hv_device_ops post_ops = {
	.name = "post",
	.version = 1,
	.max_access = 1,
	.read = post_read,
	.write = post_write,
	.reset = post_reset,
	.save = post_save,
	.load = post_load,
	.describe = post_describe,
	.destroy = post_destroy,
};

int hv_post_create(struct hv_device **out, struct hv_error *err)
{
	struct hv_post *post = calloc(1, sizeof(*post));

	if (!post)
		return hv_fail(err, ENOMEM, "post: no memory for the device; close other programs");
	hv_device_init(&post->dev, &post_ops);
	*out = &post->dev;
	return 0;
}
