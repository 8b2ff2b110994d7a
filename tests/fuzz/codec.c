/*
 * Fuzz target: the state codec, both ways. The input is read twice: as a hostile stream of sections whose
 * fields are taken by a script that the section's own version gives, and as a script by which fields are
 * written and must come back as they were.
 */
#include <stdlib.h>
#include <string.h>

#include "base/codec.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { U8, U16, U32, U64, BLOB, EXACT, STRING, FIELDS };

static void require(bool truth)
{
	if (!truth)
		abort();
}

static void read_field(struct hv_decoder *d, unsigned field)
{
	uint8_t exact[8];
	char word[16];
	const uint8_t *blob;
	size_t n;

	switch (field) {
	case U8:
		hv_dec_u8(d);
		break;
	case U16:
		hv_dec_u16(d);
		break;
	case U32:
		hv_dec_u32(d);
		break;
	case U64:
		hv_dec_u64(d);
		break;
	case BLOB: /* every byte that it says is there can be read */
		blob = hv_dec_blob(d, &n);
		require(blob || n == 0);
		for (size_t i = 0; i < n; i++)
			*(volatile uint8_t *)exact = blob[i];
		break;
	case EXACT:
		hv_dec_blob_exact(d, exact, sizeof(exact));
		break;
	case STRING:
		hv_dec_string(d, word, sizeof(word));
		require(memchr(word, 0, sizeof(word)) != NULL);
		break;
	}
	require(d->at <= d->length);
}

static void read_stream(const uint8_t *data, size_t size)
{
	struct hv_error err = {0};
	struct hv_decoder d;
	struct hv_section s;
	int rc;

	hv_dec_init(&d, data, size);
	while ((rc = hv_dec_next(&d, &s, &err)) == 1) {
		require(strlen(s.name) > 0 && strlen(s.name) <= HV_SECTION_NAME_MAX);
		for (unsigned n = s.version; !s.body.failed && s.body.at < s.body.length; n++)
			read_field(&s.body, n % FIELDS);
		rc = hv_dec_finish(&s.body, s.name, &err);
		require((rc != 0) == (s.body.failed != 0));
	}
	require(rc == 0 || (rc == -EBADMSG && err.text[0] != '\0'));
	require(rc != 0 || d.at == d.length);
}

/* A step of the script is a byte: field in its low bits, for a blob its length in the others. What a blob and
 * a string hold is the input itself from there on. */
static size_t blob_length(const uint8_t *step, const uint8_t *end)
{
	size_t length = *step >> 3, left = (size_t)(end - step);

	return length < left ? length : left;
}

static uint64_t number(const uint8_t *step)
{
	return *step * 0x0123456789abcdefull;
}

static void write_field(struct hv_encoder *e, const uint8_t *step, const uint8_t *end)
{
	size_t length = blob_length(step, end);
	char word[33] = "";

	switch ((*step & 7) % FIELDS) {
	case U8:
		hv_enc_u8(e, (uint8_t)number(step));
		break;
	case U16:
		hv_enc_u16(e, (uint16_t)number(step));
		break;
	case U32:
		hv_enc_u32(e, (uint32_t)number(step));
		break;
	case U64:
		hv_enc_u64(e, number(step));
		break;
	case BLOB:
	case EXACT:
		hv_enc_blob(e, step, length);
		break;
	case STRING:
		memcpy(word, step, length);
		hv_enc_string(e, word);
		break;
	}
}

static void compare_field(struct hv_decoder *d, const uint8_t *step, const uint8_t *end)
{
	size_t length = blob_length(step, end), n;
	char word[33] = "", back[33];
	uint8_t exact[32];
	const void *blob;

	switch ((*step & 7) % FIELDS) {
	case U8:
		require(hv_dec_u8(d) == (uint8_t)number(step));
		break;
	case U16:
		require(hv_dec_u16(d) == (uint16_t)number(step));
		break;
	case U32:
		require(hv_dec_u32(d) == (uint32_t)number(step));
		break;
	case U64:
		require(hv_dec_u64(d) == number(step));
		break;
	case BLOB:
		blob = hv_dec_blob(d, &n);
		require(n == length && memcmp(blob, step, n) == 0);
		break;
	case EXACT:
		hv_dec_blob_exact(d, exact, length);
		require(memcmp(exact, step, length) == 0);
		break;
	case STRING:
		memcpy(word, step, length);
		hv_dec_string(d, back, sizeof(back));
		require(strcmp(word, back) == 0);
		break;
	}
}

/* Sections of seven fields each, written and read back. */
static void there_and_back(const uint8_t *data, size_t size)
{
	const uint8_t *end = data + size, *step = data;
	struct hv_encoder e;
	struct hv_decoder d;
	struct hv_section s;

	hv_enc_init(&e);
	for (size_t i = 0; i < size; i++) {
		if (i % 7 == 0)
			hv_enc_begin(&e, "section", (uint16_t)i, data[i] & 1);
		write_field(&e, data + i, end);
		if (i % 7 == 6 || i + 1 == size)
			hv_enc_end(&e);
	}
	require(e.failed == 0);
	hv_dec_init(&d, e.data, e.length);
	while (hv_dec_next(&d, &s, NULL) == 1) {
		require(strcmp(s.name, "section") == 0 && s.version == (uint16_t)(step - data));
		require(s.required == (*step & 1));
		for (unsigned n = 0; n < 7 && step < end; n++)
			compare_field(&s.body, step++, end);
		require(s.body.failed == 0 && s.body.at == s.body.length);
	}
	require(step == end && d.at == d.length);
	hv_enc_free(&e);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	read_stream(data, size);
	if (size > 0)
		there_and_back(data, size < 4096 ? size : 4096);
	return 0;
}
