/*
 * QEMU's firmware configuration device, for guests that ask it how many CPUs and how much memory there are:
 * the guest writes a 16-bit key to the selector port and reads the item's bytes, one at a time, from the data
 * port. What has no key of its own is a file with a name, found through the directory at key 0x19.
 *
 * Rules: QEMU, docs/specs/fw_cfg.rst and the keys of include/standard-headers/linux/qemu_fw_cfg.h. The id
 * item says that there is no DMA interface; items can't be written, as QEMU's can't since 2.4.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "device/devices.h"

enum { PORT_SELECTOR, PORT_DATA };

enum {
	KEY_SIGNATURE = 0x00,
	KEY_ID = 0x01,
	KEY_RAM_SIZE = 0x03,
	KEY_NOGRAPHIC = 0x04,
	KEY_CPUS = 0x05,
	KEY_MAX_CPUS = 0x0f,
	KEY_FILE_DIRECTORY = 0x19,
	KEY_FIRST_FILE = 0x20,
	KEY_WRITE_CHANNEL = 0x4000, /* once asked for a writable item; means nothing any more */
	KEY_NONE = 0xffff,          /* never an item: what a guest that selected nothing reads from */
};

#define ID_TRADITIONAL 1u /* selector and data port; bit 1 would be DMA */
#define FILES_MAX      64u
#define FILE_NAME_SIZE 56u /* in the directory, with the zero at its end */
#define FILE_ENTRY     64u /* bytes: size, key, reserved, name */
#define FIXED_ITEMS    7u

struct item {
	uint16_t key;
	uint32_t size;
	uint8_t *data; /* owned */
};

struct hv_fwcfg {
	struct hv_device dev;
	unsigned count;
	struct item items[FIXED_ITEMS + FILES_MAX];
	uint16_t key;    /* as selected, with the write-channel bit off */
	uint32_t offset; /* of the next byte in its item, at most the item's size */
};

static struct hv_fwcfg *fwcfg_of(struct hv_device *dev)
{
	return hv_container_of(dev, struct hv_fwcfg, dev);
}

static const struct item *find(const struct hv_fwcfg *f, uint16_t key)
{
	for (unsigned i = 0; i < f->count; i++)
		if (f->items[i].key == key)
			return &f->items[i];
	return NULL;
}

/* The next byte of the selected item; behind its end, and for a key that isn't there, zeros. */
static uint8_t next_byte(struct hv_fwcfg *f)
{
	const struct item *item = find(f, f->key);

	return item && f->offset < item->size ? item->data[f->offset++] : 0;
}

static uint64_t fwcfg_read(struct hv_device *dev, uint64_t offset, unsigned size)
{
	return offset == PORT_DATA && size == 1 ? next_byte(fwcfg_of(dev)) : 0;
}

/* Only a 16-bit write selects; a byte is a write to the item, which is ignored. */
static void fwcfg_write(struct hv_device *dev, uint64_t offset, uint64_t value, unsigned size)
{
	struct hv_fwcfg *f = fwcfg_of(dev);

	if (offset != PORT_SELECTOR || size != 2)
		return;
	f->key = (uint16_t)(value & ~(uint64_t)KEY_WRITE_CHANNEL);
	f->offset = 0;
}

static void fwcfg_reset(struct hv_device *dev)
{
	struct hv_fwcfg *f = fwcfg_of(dev);

	f->key = KEY_NONE & ~KEY_WRITE_CHANNEL;
	f->offset = 0;
}

/* The items come from the configuration, which a snapshot carries by itself: here only the place in them. */
static void fwcfg_save(struct hv_device *dev, struct hv_encoder *e)
{
	hv_enc_u16(e, fwcfg_of(dev)->key);
	hv_enc_u32(e, fwcfg_of(dev)->offset);
}

static int fwcfg_load(struct hv_device *dev, struct hv_decoder *d, uint16_t version, struct hv_error *err)
{
	struct hv_fwcfg *f = fwcfg_of(dev);
	const struct item *item;
	uint32_t offset;
	uint16_t key;
	int rc;

	fwcfg_reset(dev);
	rc = hv_device_load_begin(dev, version, err);
	if (rc)
		return rc;
	key = hv_dec_u16(d);
	offset = hv_dec_u32(d);
	rc = hv_device_load_end(dev, d, err);
	if (rc)
		return rc;
	item = find(f, key);
	if (key & KEY_WRITE_CHANNEL || offset > (item ? item->size : 0))
		return hv_fail_unsafe(
			err,
			"saved state: device '%s' stands at byte %u of item 0x%x, which has %u here; "
			"the data is damaged or from a VM with other options",
			dev->ops->name, offset, key, item ? item->size : 0);
	f->key = key;
	f->offset = offset;
	return 0;
}

static void fwcfg_describe(struct hv_device *dev, char *buf, size_t size)
{
	const struct hv_fwcfg *f = fwcfg_of(dev);

	snprintf(buf, size, "%u items, key 0x%04x selected, next byte %u", f->count, f->key, f->offset);
}

static void fwcfg_destroy(struct hv_device *dev)
{
	struct hv_fwcfg *f = fwcfg_of(dev);

	for (unsigned i = 0; i < f->count; i++)
		free(f->items[i].data);
	free(f);
}

static const struct hv_device_ops fwcfg_ops = {
	.name = "fwcfg",
	.version = 1,
	.max_access = 2,
	.read = fwcfg_read,
	.write = fwcfg_write,
	.reset = fwcfg_reset,
	.save = fwcfg_save,
	.load = fwcfg_load,
	.describe = fwcfg_describe,
	.destroy = fwcfg_destroy,
};

/* --- what there is to read --- */

static int check_files(const struct hv_fwcfg_item *files, unsigned count, struct hv_error *err)
{
	if (count > FILES_MAX)
		return hv_fail(err, EINVAL, "fw_cfg: %u files are too many; give at most %u", count,
			       FILES_MAX);
	for (unsigned i = 0; i < count; i++) {
		size_t length = strlen(files[i].file);

		if (length == 0 || length >= FILE_NAME_SIZE)
			return hv_fail(err, EINVAL, "fw_cfg: file name '%s' is empty or longer than %u bytes",
				       files[i].file, FILE_NAME_SIZE - 1);
		if (files[i].size > UINT32_MAX)
			return hv_fail(
				err, EINVAL,
				"fw_cfg: file '%s' is larger than 4 GiB, which its size field can't say",
				files[i].file);
		for (unsigned j = 0; j < i; j++)
			if (strcmp(files[i].file, files[j].file) == 0)
				return hv_fail(err, EINVAL, "fw_cfg: file '%s' is given twice",
					       files[i].file);
	}
	return 0;
}

static int add(struct hv_fwcfg *f, unsigned key, const void *data, size_t size, struct hv_error *err)
{
	struct item *item = &f->items[f->count];

	item->data = malloc(size ? size : 1);
	if (!item->data)
		return hv_fail(err, ENOMEM, "fw_cfg: no memory for an item of %zu bytes; give a smaller one",
			       size);
	if (size)
		memcpy(item->data, data, size);
	item->key = (uint16_t)key;
	item->size = (uint32_t)size;
	f->count++;
	return 0;
}

/* Numbers of fixed items are little-endian, those of the directory big-endian: the latter came later. */
static int add_number(struct hv_fwcfg *f, unsigned key, uint64_t value, size_t size, struct hv_error *err)
{
	uint8_t bytes[8];

	hv_put_le64(bytes, value);
	return add(f, key, bytes, size, err);
}

static int add_directory(struct hv_fwcfg *f, const struct hv_fwcfg_item *files, unsigned count,
			 struct hv_error *err)
{
	uint8_t directory[4 + FILES_MAX * FILE_ENTRY] = {0};

	hv_put_be32(directory, count);
	for (unsigned i = 0; i < count; i++) {
		uint8_t *entry = directory + 4 + i * FILE_ENTRY;

		hv_put_be32(entry, (uint32_t)files[i].size);
		hv_put_be16(entry + 4, (uint16_t)(KEY_FIRST_FILE + i));
		memcpy(entry + 8, files[i].file, strlen(files[i].file));
	}
	return add(f, KEY_FILE_DIRECTORY, directory, 4 + (size_t)count * FILE_ENTRY, err);
}

static int fill(struct hv_fwcfg *f, unsigned cpus, uint64_t mem_size, const struct hv_fwcfg_item *files,
		unsigned count, struct hv_error *err)
{
	int rc = add(f, KEY_SIGNATURE, "QEMU", 4, err);

	rc = rc ? rc : add_number(f, KEY_ID, ID_TRADITIONAL, 4, err);
	rc = rc ? rc : add_number(f, KEY_RAM_SIZE, mem_size, 8, err);
	rc = rc ? rc : add_number(f, KEY_NOGRAPHIC, 1, 2, err);
	rc = rc ? rc : add_number(f, KEY_CPUS, cpus, 2, err);
	rc = rc ? rc : add_number(f, KEY_MAX_CPUS, cpus, 2, err);
	rc = rc ? rc : add_directory(f, files, count, err);
	for (unsigned i = 0; !rc && i < count; i++)
		rc = add(f, KEY_FIRST_FILE + i, files[i].data, files[i].size, err);
	return rc;
}

int hv_fwcfg_create(unsigned cpus, uint64_t mem_size, const struct hv_fwcfg_item *items, unsigned count,
		    struct hv_device **out, struct hv_error *err)
{
	struct hv_fwcfg *f;
	int rc = check_files(items, count, err);

	if (rc)
		return rc;
	f = calloc(1, sizeof(*f));
	if (!f)
		return hv_fail(err, ENOMEM, "fw_cfg: no memory for the device; close other programs");
	hv_device_init(&f->dev, &fwcfg_ops);
	rc = fill(f, cpus, mem_size, items, count, err);
	if (rc) {
		hv_device_destroy(&f->dev);
		return rc;
	}
	fwcfg_reset(&f->dev);
	*out = &f->dev;
	return 0;
}
