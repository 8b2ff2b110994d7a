/*
 * The scanner finds the ends of documents however the bytes arrive, and stops what is too long or too deep.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "control/qmp.h"
#include "control/qmp_scan.h"

/* Feeds text in pieces of `step` bytes; the documents come out separated by '|'. */
static void scan(const char *text, size_t length, size_t step, char *out)
{
	struct hv_qmp_scan s;
	const char *doc;
	size_t n;

	hv_qmp_scan_init(&s, 1000);
	*out = '\0';
	for (size_t at = 0; at < length; at += step) {
		cr_assert_eq(hv_qmp_scan_feed(&s, text + at, length - at < step ? length - at : step), 0);
		while (hv_qmp_scan_next(&s, &doc, &n) == 1) {
			strncat(out, doc, n);
			strcat(out, "|");
		}
	}
	hv_qmp_scan_free(&s);
}

static void expect(const char *text, const char *documents)
{
	char out[1024];

	for (size_t step = 1; step <= strlen(text); step++) {
		scan(text, strlen(text), step, out);
		cr_assert_str_eq(out, documents, "in steps of %zu: %s", step, out);
	}
}

Test(qmp_scan, documents_need_no_newline_between_them)
{
	expect("{\"a\":1}{\"b\":[{}]} \r\n[1]", "{\"a\":1}|{\"b\":[{}]}|[1]|");
}

Test(qmp_scan, brackets_and_escapes_in_strings_do_not_count)
{
	expect("{\"a\":\"}]\\\"}\\\\\"}{}", "{\"a\":\"}]\\\"}\\\\\"}|{}|");
}

Test(qmp_scan, what_is_no_document_is_handed_out_once)
{
	expect("foo {} 17 ", "foo|{}|17|");
	expect("bar{}", "bar|{}|");
}

Test(qmp_scan, an_open_string_ends_with_its_line)
{
	expect("{\"a\":\"x\n{}", "{\"a\":\"x\n|{}|");
	expect("{\"a\":\"x\ty\"} ]]\n{}", "{\"a\":\"x\t|{}|");
}

Test(qmp_scan, the_byte_ff_gives_up_what_was_begun)
{
	char out[64];

	scan("{\"a\":[\xff{\"b\":1}", 14, 3, out);
	cr_assert(strstr(out, "|{\"b\":1}|"), "%s", out);
}

Test(qmp_scan, a_document_too_long_or_too_deep_is_an_error)
{
	struct hv_qmp_scan s;
	const char *doc;
	char deep[HV_QMP_DEPTH_MAX + 1], longer[2000];
	size_t n;

	memset(deep, '[', sizeof(deep));
	hv_qmp_scan_init(&s, 1000);
	cr_assert_eq(hv_qmp_scan_feed(&s, deep, sizeof(deep)), 0);
	cr_assert_eq(hv_qmp_scan_next(&s, &doc, &n), -ELOOP);
	hv_qmp_scan_free(&s);

	memset(longer, ' ', sizeof(longer));
	longer[0] = '{';
	hv_qmp_scan_init(&s, 1000);
	cr_assert_eq(hv_qmp_scan_feed(&s, longer, sizeof(longer)), 0);
	cr_assert_eq(hv_qmp_scan_next(&s, &doc, &n), -EMSGSIZE);
	hv_qmp_scan_free(&s);
}
