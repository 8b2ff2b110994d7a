/*
 * The state codec: what is written is read back, every cut and every flipped byte is noticed or harmless, and
 * a reader never leaves the bytes it was given.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "base/codec.h"

static void two_sections(struct hv_encoder *e)
{
	hv_enc_init(e);
	hv_enc_begin(e, "serial0", 3, true);
	hv_enc_u8(e, 0x12);
	hv_enc_u16(e, 0x3456);
	hv_enc_u32(e, 0x789abcdeu);
	hv_enc_u64(e, 0x1122334455667788ull);
	hv_enc_blob(e, "abc", 3);
	hv_enc_string(e, "words");
	hv_enc_end(e);
	hv_enc_begin(e, "extra", 1, false);
	hv_enc_end(e);
	cr_assert_eq(e->failed, 0);
}

Test(codec, what_was_written_is_read_back)
{
	struct hv_encoder e;
	struct hv_decoder d;
	struct hv_section s;
	char word[16], blob[3];

	two_sections(&e);
	hv_dec_init(&d, e.data, e.length);
	cr_assert_eq(hv_dec_next(&d, &s, NULL), 1);
	cr_assert_str_eq(s.name, "serial0");
	cr_assert_eq(s.version, 3);
	cr_assert(s.required);
	cr_assert_eq(hv_dec_u8(&s.body), 0x12);
	cr_assert_eq(hv_dec_u16(&s.body), 0x3456);
	cr_assert_eq(hv_dec_u32(&s.body), 0x789abcdeu);
	cr_assert_eq(hv_dec_u64(&s.body), 0x1122334455667788ull);
	hv_dec_blob_exact(&s.body, blob, sizeof(blob));
	cr_assert_arr_eq(blob, "abc", 3);
	hv_dec_string(&s.body, word, sizeof(word));
	cr_assert_str_eq(word, "words");
	cr_assert_eq(hv_dec_finish(&s.body, s.name, NULL), 0);
	cr_assert_eq(hv_dec_next(&d, &s, NULL), 1);
	cr_assert_str_eq(s.name, "extra");
	cr_assert(!s.required);
	cr_assert_eq(hv_dec_next(&d, &s, NULL), 0);
	hv_enc_free(&e);
}

Test(codec, the_bytes_are_those_that_the_header_describes)
{
	static const uint8_t want[] = {'H', 'V', 'S', '1', 2, 0, 1, 0, 1,    'x',
				       2,   0,   0,   0,   0, 0, 0, 0, 0xfe, 0xca};
	struct hv_encoder e;

	hv_enc_init(&e);
	hv_enc_begin(&e, "x", 2, true);
	hv_enc_u16(&e, 0xcafe);
	hv_enc_end(&e);
	cr_assert_eq(e.length, sizeof(want));
	cr_assert_arr_eq(e.data, want, sizeof(want));
	hv_enc_free(&e);
}

Test(codec, reading_past_the_end_gives_zeros_and_latches)
{
	static const uint8_t b[] = {1, 2};
	struct hv_error err = {0};
	struct hv_decoder d;

	hv_dec_init(&d, b, sizeof(b));
	cr_assert_eq(hv_dec_u32(&d), 0);
	cr_assert_eq(hv_dec_u8(&d), 0, "a failed decoder stays failed");
	cr_assert_eq(hv_dec_finish(&d, "rtc", &err), -EBADMSG);
	cr_assert_eq(err.status, HV_EXIT_UNSAFE);
	cr_assert(strstr(err.text, "rtc") != NULL);
}

Test(codec, an_empty_stream_has_no_section)
{
	struct hv_decoder d;
	struct hv_section s;

	hv_dec_init(&d, NULL, 0);
	cr_assert_eq(hv_dec_next(&d, &s, NULL), 0);
}

Test(codec, a_stream_cut_anywhere_is_refused_or_ends_between_sections)
{
	struct hv_encoder e;

	two_sections(&e);
	for (size_t cut = 1; cut < e.length; cut++) {
		uint8_t *copy =
			malloc(cut); /* of exactly this size, so that a sanitizer sees a byte too far */
		struct hv_decoder d;
		struct hv_section s;
		int rc, seen = 0;

		cr_assert(copy != NULL);
		memcpy(copy, e.data, cut);
		hv_dec_init(&d, copy, cut);
		while ((rc = hv_dec_next(&d, &s, NULL)) == 1)
			seen++;
		cr_assert(rc == -EBADMSG || seen == 1, "cut at %zu", cut);
		free(copy);
	}
	hv_enc_free(&e);
}

Test(codec, flipped_bytes_never_read_outside)
{
	struct hv_encoder e;

	two_sections(&e);
	for (size_t at = 0; at < e.length; at++)
		for (unsigned bit = 0; bit < 8; bit++) {
			uint8_t *copy = malloc(e.length);
			struct hv_decoder d;
			struct hv_section s;
			char word[8];
			size_t n;

			cr_assert(copy != NULL);
			memcpy(copy, e.data, e.length);
			copy[at] ^= (uint8_t)(1u << bit);
			hv_dec_init(&d, copy, e.length);
			while (hv_dec_next(&d, &s, NULL) == 1) {
				cr_assert_leq(strlen(s.name), HV_SECTION_NAME_MAX);
				hv_dec_u64(&s.body);
				hv_dec_u32(&s.body);
				hv_dec_u16(&s.body);
				hv_dec_u8(&s.body);
				hv_dec_blob(&s.body, &n);
				hv_dec_string(&s.body, word, sizeof(word));
			}
			free(copy);
		}
	hv_enc_free(&e);
}

Test(codec, a_length_near_2_64_is_refused)
{
	struct hv_encoder e;
	struct hv_decoder d;
	struct hv_section s;
	struct hv_error err = {0};

	two_sections(&e);
	memset(e.data + 9 + 7, 0xff, 8); /* the length of the first section */
	hv_dec_init(&d, e.data, e.length);
	cr_assert_eq(hv_dec_next(&d, &s, &err), -EBADMSG);
	cr_assert_eq(err.status, HV_EXIT_UNSAFE);
	cr_assert_eq(hv_dec_next(&d, &s, &err), -EBADMSG, "and again");
	hv_enc_free(&e);
}

Test(codec, names_that_a_terminal_would_obey_are_refused)
{
	struct hv_encoder e;
	struct hv_decoder d;
	struct hv_section s;

	two_sections(&e);
	e.data[9] = '\033';
	hv_dec_init(&d, e.data, e.length);
	cr_assert_eq(hv_dec_next(&d, &s, NULL), -EBADMSG);
	hv_enc_free(&e);

	hv_enc_init(&e);
	hv_enc_begin(&e, "two words", 1, true);
	cr_assert_eq(e.failed, -EINVAL);
	hv_enc_free(&e);
}

Test(codec, a_blob_of_another_size_and_a_string_too_long_are_refused)
{
	struct hv_encoder e;
	struct hv_decoder d;
	uint8_t four[4] = {9, 9, 9, 9};
	char small[4];

	hv_enc_init(&e);
	hv_enc_blob(&e, "abc", 3);
	hv_enc_string(&e, "four");
	hv_dec_init(&d, e.data, e.length);
	hv_dec_blob_exact(&d, four, sizeof(four));
	cr_assert_eq(d.failed, -EBADMSG);
	cr_assert_eq(four[0], 0, "nothing of it is handed out");
	hv_dec_init(&d, e.data + 7, e.length - 7);
	hv_dec_string(&d, small, sizeof(small));
	cr_assert_eq(d.failed, -EBADMSG);
	cr_assert_eq(small[0], '\0');
	hv_enc_free(&e);
}

Test(codec, a_string_with_a_zero_inside_is_refused)
{
	struct hv_encoder e;
	struct hv_decoder d;
	char out[8];

	hv_enc_init(&e);
	hv_enc_blob(&e, "a\0b", 3);
	hv_dec_init(&d, e.data, e.length);
	hv_dec_string(&d, out, sizeof(out));
	cr_assert_eq(d.failed, -EBADMSG);
	hv_enc_free(&e);
}

Test(codec, sections_out_of_order_are_latched)
{
	struct hv_encoder e;

	hv_enc_init(&e);
	hv_enc_end(&e);
	cr_assert_eq(e.failed, -EINVAL);
	hv_enc_free(&e);
	hv_enc_init(&e);
	hv_enc_begin(&e, "a", 1, true);
	hv_enc_begin(&e, "b", 1, true);
	cr_assert_eq(e.failed, -EINVAL, "a section inside a section");
	hv_enc_free(&e);
}

Test(codec, an_encoder_grows_as_needed)
{
	struct hv_encoder e;
	uint8_t chunk[1000];

	memset(chunk, 0x5a, sizeof(chunk));
	hv_enc_init(&e);
	hv_enc_begin(&e, "big", 1, true);
	for (int i = 0; i < 5000; i++)
		hv_enc_blob(&e, chunk, sizeof(chunk));
	hv_enc_end(&e);
	cr_assert_eq(e.failed, 0);
	cr_assert_eq(e.length, 9 + 3 + 8 + 5000u * 1004u);
	hv_enc_free(&e);
}
