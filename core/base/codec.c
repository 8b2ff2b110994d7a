/*
 * The state codec: see codec.h for the form. This room calls nothing but libc.
 */
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/codec.h"

#define SECTION_MAGIC    0x31535648u /* "HVS1" */
#define SECTION_REQUIRED 1u

void hv_enc_init(struct hv_encoder *e)
{
	memset(e, 0, sizeof(*e));
}

void hv_enc_free(struct hv_encoder *e)
{
	free(e->data);
	hv_enc_init(e);
}

static void put(struct hv_encoder *e, const void *data, size_t length)
{
	if (e->failed)
		return;
	if (length > e->capacity - e->length) {
		size_t capacity = e->capacity ? e->capacity : 256;
		while (capacity - e->length < length && capacity <= SIZE_MAX / 2)
			capacity *= 2;
		uint8_t *grown = capacity - e->length < length ? NULL : realloc(e->data, capacity);
		if (!grown) {
			e->failed = -ENOMEM;
			return;
		}
		e->data = grown;
		e->capacity = capacity;
	}
	if (length)
		memcpy(e->data + e->length, data, length);
	e->length += length;
}

void hv_enc_u8(struct hv_encoder *e, uint8_t v)
{
	put(e, &v, 1);
}

void hv_enc_u16(struct hv_encoder *e, uint16_t v)
{
	uint8_t b[2];

	hv_put_le16(b, v);
	put(e, b, sizeof(b));
}

void hv_enc_u32(struct hv_encoder *e, uint32_t v)
{
	uint8_t b[4];

	hv_put_le32(b, v);
	put(e, b, sizeof(b));
}

void hv_enc_u64(struct hv_encoder *e, uint64_t v)
{
	uint8_t b[8];

	hv_put_le64(b, v);
	put(e, b, sizeof(b));
}

void hv_enc_blob(struct hv_encoder *e, const void *data, size_t length)
{
	if (length > UINT32_MAX) {
		e->failed = e->failed ? e->failed : -EFBIG;
		return;
	}
	hv_enc_u32(e, (uint32_t)length);
	put(e, data, length);
}

void hv_enc_string(struct hv_encoder *e, const char *s)
{
	hv_enc_blob(e, s, strlen(s));
}

/* Names are printed in sentences, so they are plain words: no blank, no control character, nothing beyond
 * ASCII. */
static bool name_ok(const void *name, size_t length)
{
	const uint8_t *p = name;

	if (length == 0 || length > HV_SECTION_NAME_MAX)
		return false;
	for (size_t i = 0; i < length; i++)
		if (p[i] <= ' ' || p[i] >= 0x7f)
			return false;
	return true;
}

void hv_enc_begin(struct hv_encoder *e, const char *name, uint16_t version, bool required)
{
	size_t length = strlen(name);

	if (e->section || !name_ok(name, length)) {
		e->failed = e->failed ? e->failed : -EINVAL;
		return;
	}
	hv_enc_u32(e, SECTION_MAGIC);
	hv_enc_u16(e, version);
	hv_enc_u16(e, required ? SECTION_REQUIRED : 0);
	hv_enc_u8(e, (uint8_t)length);
	put(e, name, length);
	e->section = e->length;
	hv_enc_u64(e, 0);
}

void hv_enc_end(struct hv_encoder *e)
{
	if (e->failed)
		return;
	if (!e->section) {
		e->failed = -EINVAL;
		return;
	}
	hv_put_le64(e->data + e->section, e->length - e->section - 8);
	e->section = 0;
}

void hv_dec_init(struct hv_decoder *d, const void *data, size_t length)
{
	*d = (struct hv_decoder){.data = data, .length = length};
}

/* The next length bytes, or NULL with the failure latched. */
static const uint8_t *take(struct hv_decoder *d, size_t length)
{
	const uint8_t *p;

	if (d->failed || !hv_inside(d->at, length, d->length)) {
		d->failed = d->failed ? d->failed : -EBADMSG;
		return NULL;
	}
	p = d->data + d->at;
	d->at += length;
	return p;
}

uint8_t hv_dec_u8(struct hv_decoder *d)
{
	const uint8_t *p = take(d, 1);

	return p ? *p : 0;
}

uint16_t hv_dec_u16(struct hv_decoder *d)
{
	const uint8_t *p = take(d, 2);

	return p ? hv_le16(p) : 0;
}

uint32_t hv_dec_u32(struct hv_decoder *d)
{
	const uint8_t *p = take(d, 4);

	return p ? hv_le32(p) : 0;
}

uint64_t hv_dec_u64(struct hv_decoder *d)
{
	const uint8_t *p = take(d, 8);

	return p ? hv_le64(p) : 0;
}

const void *hv_dec_blob(struct hv_decoder *d, size_t *length)
{
	size_t n = hv_dec_u32(d);
	const uint8_t *p = take(d, n);

	*length = p ? n : 0;
	return p;
}

void hv_dec_blob_exact(struct hv_decoder *d, void *out, size_t length)
{
	size_t n;
	const void *p = hv_dec_blob(d, &n);

	memset(out, 0, length);
	if (!p)
		return;
	if (n != length)
		d->failed = -EBADMSG;
	else
		memcpy(out, p, n);
}

void hv_dec_string(struct hv_decoder *d, char *out, size_t size)
{
	size_t n;
	const void *p = hv_dec_blob(d, &n);

	out[0] = '\0';
	if (!p)
		return;
	if (n >= size || memchr(p, 0, n)) {
		d->failed = -EBADMSG;
		return;
	}
	memcpy(out, p, n);
	out[n] = '\0';
}

int hv_dec_next(struct hv_decoder *d, struct hv_section *s, struct hv_error *err)
{
	size_t start = d->at;
	const uint8_t *name, *body;
	uint64_t length;
	uint16_t flags;
	uint8_t n;

	if (!d->failed && d->at == d->length)
		return 0;
	memset(s, 0, sizeof(*s));
	if (hv_dec_u32(d) != SECTION_MAGIC) {
		d->failed = -EBADMSG;
		return hv_fail_unsafe(err, "saved state: no section starts at byte %zu; the data is damaged",
				      start);
	}
	s->version = hv_dec_u16(d);
	flags = hv_dec_u16(d);
	n = hv_dec_u8(d);
	name = take(d, n);
	length = hv_dec_u64(d);
	if (!name || !name_ok(name, n) || flags & ~SECTION_REQUIRED) {
		d->failed = -EBADMSG;
		return hv_fail_unsafe(err, "saved state: the section at byte %zu has a damaged header",
				      start);
	}
	memcpy(s->name, name, n);
	s->required = flags & SECTION_REQUIRED;
	body = length <= SIZE_MAX ? take(d, (size_t)length) : NULL;
	if (!body) {
		d->failed = -EBADMSG;
		return hv_fail_unsafe(err,
				      "saved state: section at byte %zu says %llu bytes, more than there are",
				      start, (unsigned long long)length);
	}
	hv_dec_init(&s->body, body, (size_t)length);
	return 1;
}

int hv_dec_finish(const struct hv_decoder *d, const char *what, struct hv_error *err)
{
	if (!d->failed)
		return 0;
	return hv_fail_unsafe(err, "saved state: section '%s' is damaged or of another form", what);
}
