/*
 * gdb's packets: what the parser takes and what it doesn't, and that what is framed parses back.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "control/gdb_packet.h"

static struct hv_gdb_parser parser;

/* The last token that the text gives. */
static enum hv_gdb_token feed(const char *text)
{
	enum hv_gdb_token last = HV_GDB_NOTHING;

	for (; *text; text++)
		last = hv_gdb_parse(&parser, (uint8_t)*text);
	return last;
}

Test(gdb_packet, content_comes_out)
{
	cr_expect_eq(feed("$OK#9a"), HV_GDB_PACKET);
	cr_expect_str_eq(parser.data, "OK");
	cr_expect_eq(feed("noise$OK#9A"), HV_GDB_PACKET);
	cr_expect_eq(feed("$#00"), HV_GDB_PACKET);
	cr_expect_eq(parser.length, 0u);
}

Test(gdb_packet, signs_between_packets)
{
	cr_expect_eq(feed("+"), HV_GDB_ACK);
	cr_expect_eq(feed("-"), HV_GDB_NAK);
	cr_expect_eq(feed("\003"), HV_GDB_INTERRUPT);
	cr_expect_eq(feed("#"), HV_GDB_NOTHING);
}

Test(gdb_packet, a_wrong_sum_is_bad)
{
	cr_expect_eq(feed("$OK#9b"), HV_GDB_BAD);
	cr_expect_eq(feed("$OK#9g"), HV_GDB_BAD);
	cr_expect_eq(feed("$OK#9a"), HV_GDB_PACKET);
}

Test(gdb_packet, a_new_start_drops_what_was_cut_off)
{
	cr_expect_eq(feed("$m1000,$OK#9a"), HV_GDB_PACKET);
	cr_expect_str_eq(parser.data, "OK");
}

Test(gdb_packet, the_longest_packet_fits_and_one_more_byte_does_not)
{
	for (size_t extra = 0; extra < 2; extra++) {
		enum hv_gdb_token token;

		hv_gdb_parse(&parser, '$');
		for (size_t i = 0; i < HV_GDB_PACKET_MAX + extra; i++)
			cr_assert_eq(hv_gdb_parse(&parser, 0), HV_GDB_NOTHING);
		token = feed("#00");
		cr_expect_eq(token, extra ? HV_GDB_BAD : HV_GDB_PACKET);
	}
}

Test(gdb_packet, every_byte_survives_framing)
{
	struct hv_gdb_text content = {0}, framed = {0};
	enum hv_gdb_token token = HV_GDB_NOTHING;

	for (int i = 0; i < 256; i++) {
		const uint8_t b = (uint8_t)i;

		hv_gdb_put(&content, &b, 1);
	}
	hv_gdb_frame(&framed, &content);
	for (size_t i = 0; i < framed.length; i++)
		token = hv_gdb_parse(&parser, (uint8_t)framed.data[i]);
	cr_expect_eq(token, HV_GDB_PACKET);
	cr_assert_eq(parser.length, 256u);
	for (int i = 0; i < 256; i++)
		cr_expect_eq((uint8_t)parser.data[i], i);
	hv_gdb_text_free(&content);
	hv_gdb_text_free(&framed);
}

Test(gdb_packet, numbers_have_1_to_16_digits)
{
	const char *at = "ffffffffffffffff,";
	uint64_t v = 0, length;

	cr_expect(hv_gdb_get_number(&at, &v));
	cr_expect_eq(v, UINT64_MAX);
	cr_expect_eq(*at, ',');
	at = "10000000000000000";
	cr_expect_not(hv_gdb_get_number(&at, &v));
	at = "";
	cr_expect_not(hv_gdb_get_number(&at, &v));
	at = "1000,4:";
	cr_expect(hv_gdb_get_range(&at, &v, &length));
	cr_expect(v == 0x1000 && length == 4 && *at == ':');
}
