/*
 * AML: the few encodings of aml.h. May call base only.
 * Rules: ACPI 6.4, chapter 20 (AML), sections 6.1.5 (_HID) and 6.4 (resource descriptors).
 */
#include <string.h>

#include "base/bytes.h"
#include "boot/aml.h"

enum {
	OP_ZERO = 0x00,
	OP_ONE = 0x01,
	OP_NAME = 0x08,
	OP_BYTE = 0x0a,
	OP_DWORD = 0x0c,
	OP_STRING = 0x0d,
	OP_SCOPE = 0x10,
	OP_BUFFER = 0x11,
	OP_PACKAGE = 0x12,
	OP_EXTENDED = 0x5b,
	OP_DEVICE = 0x82, /* behind OP_EXTENDED */
};

#define LENGTH_MAX 0xfff /* of a block, with two bytes of length */

void hv_aml_bytes(struct hv_aml *a, const void *data, size_t size)
{
	if (a->full || !hv_inside(a->used, size, a->size)) {
		a->full = true;
		return;
	}
	memcpy(a->bytes + a->used, data, size);
	a->used += size;
}

static void byte(struct hv_aml *a, unsigned value)
{
	uint8_t b = (uint8_t)value;

	hv_aml_bytes(a, &b, 1);
}

static void le16(struct hv_aml *a, uint16_t value)
{
	uint8_t b[2];

	hv_put_le16(b, value);
	hv_aml_bytes(a, b, sizeof(b));
}

static void le32(struct hv_aml *a, uint32_t value)
{
	uint8_t b[4];

	hv_put_le32(b, value);
	hv_aml_bytes(a, b, sizeof(b));
}

static void segment(struct hv_aml *a, const char *name)
{
	char padded[4] = {'_', '_', '_', '_'};

	memcpy(padded, name, strnlen(name, sizeof(padded)));
	hv_aml_bytes(a, padded, sizeof(padded));
}

/*
 * Blocks carry their length in front, which is known only at their end: two bytes are kept free for it
 * (20.2.4). The first has the number of bytes that follow it in bits 7:6 and the length's lowest four bits,
 * the second the rest.
 */
static size_t open_block(struct hv_aml *a)
{
	size_t at = a->used;

	le16(a, 0);
	return at;
}

void hv_aml_close(struct hv_aml *a, size_t block)
{
	size_t length = a->used - block;

	a->full |= length > LENGTH_MAX;
	if (a->full)
		return;
	a->bytes[block] = (uint8_t)(1u << 6 | (length & 0xf));
	a->bytes[block + 1] = (uint8_t)(length >> 4);
}

size_t hv_aml_open_scope(struct hv_aml *a, const char *name)
{
	size_t block;

	byte(a, OP_SCOPE);
	block = open_block(a);
	segment(a, name);
	return block;
}

size_t hv_aml_open_device(struct hv_aml *a, const char *name)
{
	size_t block;

	byte(a, OP_EXTENDED);
	byte(a, OP_DEVICE);
	block = open_block(a);
	segment(a, name);
	return block;
}

static void integer(struct hv_aml *a, uint32_t value)
{
	if (value <= 1) {
		byte(a, value ? OP_ONE : OP_ZERO);
	} else if (value <= 0xff) {
		byte(a, OP_BYTE);
		byte(a, value);
	} else {
		byte(a, OP_DWORD);
		le32(a, value);
	}
}

static void open_name(struct hv_aml *a, const char *name)
{
	byte(a, OP_NAME);
	segment(a, name);
}

void hv_aml_name_integer(struct hv_aml *a, const char *name, uint32_t value)
{
	open_name(a, name);
	integer(a, value);
}

void hv_aml_name_string(struct hv_aml *a, const char *name, const char *value)
{
	open_name(a, name);
	byte(a, OP_STRING);
	hv_aml_bytes(a, value, strlen(value) + 1);
}

/* Three letters of five bits each and four hexadecimal digits, with the highest byte first in memory. */
void hv_aml_name_eisa_id(struct hv_aml *a, const char *name, const char *id)
{
	uint32_t value = 0;

	for (unsigned i = 0; i < 3; i++)
		value = value << 5 | (uint32_t)((id[i] - '@') & 0x1f);
	for (unsigned i = 3; i < 7; i++)
		value = value << 4 | (uint32_t)(id[i] <= '9' ? id[i] - '0' : id[i] - 'A' + 10);
	open_name(a, name);
	byte(a, OP_DWORD);
	le32(a, __builtin_bswap32(value));
}

void hv_aml_name_sleep_state(struct hv_aml *a, const char *name, uint8_t type)
{
	size_t block;

	open_name(a, name);
	byte(a, OP_PACKAGE);
	block = open_block(a);
	byte(a, 4);
	integer(a, type);
	for (unsigned i = 0; i < 3; i++)
		integer(a, 0);
	hv_aml_close(a, block);
}

/* A buffer says twice how long it is: as a block, and before its bytes, which are the template's. */
size_t hv_aml_open_resources(struct hv_aml *a)
{
	size_t block;

	open_name(a, "_CRS");
	byte(a, OP_BUFFER);
	block = open_block(a);
	byte(a, OP_BYTE);
	byte(a, 0);
	return block;
}

void hv_aml_close_resources(struct hv_aml *a, size_t block)
{
	size_t length;

	byte(a, 0x79); /* the end tag, with a checksum of 0: not made */
	byte(a, 0);
	length = a->used - (block + 4);
	a->full |= length > 0xff;
	if (!a->full)
		a->bytes[block + 3] = (uint8_t)length;
	hv_aml_close(a, block);
}

void hv_aml_io(struct hv_aml *a, uint16_t port, uint8_t count)
{
	byte(a, 0x47);
	byte(a, 1); /* all 16 address bits are looked at */
	le16(a, port);
	le16(a, port);
	byte(a, 1);
	byte(a, count);
}

void hv_aml_memory32(struct hv_aml *a, uint32_t gpa, uint32_t size)
{
	byte(a, 0x86);
	le16(a, 9);
	byte(a, 1); /* may be written */
	le32(a, gpa);
	le32(a, size);
}

void hv_aml_interrupt(struct hv_aml *a, uint32_t gsi)
{
	byte(a, 0x89);
	le16(a, 6);
	byte(a, 0x03); /* consumes it; edge; active high; exclusive */
	byte(a, 1);
	le32(a, gsi);
}
