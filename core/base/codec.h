/*
 * The state codec: the one form of saved state, for checkpoints and for migration.
 *
 * A stream is a run of sections. A section is, little-endian:
 *
 *   u32 magic "HVS1" | u16 version | u16 flags (bit 0: required) | u8 name length | name | u64 length |
 * payload
 *
 * A name is 1 to 63 printable ASCII characters without a blank. Inside a payload, fields stand in a fixed
 * order that the version names; later versions only append. KVM's own structs travel as blobs (u32 size,
 * bytes), so a struct that grew is noticed. A reader skips a section that it doesn't know when it is optional
 * and refuses it when it is required.
 *
 * Encoders and decoders latch their first failure: callers check once, at the end. Not for two threads at
 * once.
 */
#ifndef HV_BASE_CODEC_H
#define HV_BASE_CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define HV_SECTION_NAME_MAX 63

struct hv_encoder {
	uint8_t *data; /* owned; freed by hv_enc_free */
	size_t length, capacity;
	size_t section; /* offset of the open section's length field, 0 when none is open */
	int failed;     /* negative errno of the first failure */
};

struct hv_decoder {
	const uint8_t *data; /* borrowed */
	size_t length, at;
	int failed;
};

struct hv_section {
	char name[HV_SECTION_NAME_MAX + 1];
	uint16_t version;
	bool required;
	struct hv_decoder body; /* reads the payload; borrows the stream's bytes */
};

HV_API_BEGIN
void hv_enc_init(struct hv_encoder *e);
void hv_enc_free(struct hv_encoder *e);
void hv_enc_begin(struct hv_encoder *e, const char *name, uint16_t version, bool required);
void hv_enc_end(struct hv_encoder *e);
void hv_enc_u8(struct hv_encoder *e, uint8_t v);
void hv_enc_u16(struct hv_encoder *e, uint16_t v);
void hv_enc_u32(struct hv_encoder *e, uint32_t v);
void hv_enc_u64(struct hv_encoder *e, uint64_t v);
void hv_enc_blob(struct hv_encoder *e, const void *data, size_t length); /* u32 length, bytes */
void hv_enc_string(struct hv_encoder *e, const char *s);

void hv_dec_init(struct hv_decoder *d, const void *data, size_t length);
/* The next section into *s: 1 when there is one, 0 at the end, -EBADMSG (err filled) when the bytes lie. */
int hv_dec_next(struct hv_decoder *d, struct hv_section *s, struct hv_error *err);
/* Reading past the end gives zeros and latches -EBADMSG. */
uint8_t hv_dec_u8(struct hv_decoder *d);
uint16_t hv_dec_u16(struct hv_decoder *d);
uint32_t hv_dec_u32(struct hv_decoder *d);
uint64_t hv_dec_u64(struct hv_decoder *d);
/* A blob's bytes, borrowed; *length is set. NULL and 0 when it lies. */
const void *hv_dec_blob(struct hv_decoder *d, size_t *length);
/* A blob that must have exactly `length` bytes, copied to out. */
void hv_dec_blob_exact(struct hv_decoder *d, void *out, size_t length);
/* Copies a string of less than size bytes, with a terminating zero. */
void hv_dec_string(struct hv_decoder *d, char *out, size_t size);
/* 0, or the latched failure with a sentence that names `what`. */
int hv_dec_finish(const struct hv_decoder *d, const char *what, struct hv_error *err);
HV_API_END

#endif
