/*
 * Numbers as users type them: all of the text counts, limits hold at the edge, and *out is left alone on
 * failure.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "base/parse.h"

static void refuses_u64(const char *text, uint64_t max)
{
	struct hv_error err = {0};
	uint64_t v = 42;

	cr_assert_eq(hv_parse_u64("--cpus", text, max, &v, &err), -EINVAL, "'%s' was taken", text);
	cr_assert_eq(v, 42);
	cr_assert_eq(err.status, HV_EXIT_USAGE);
	cr_assert_eq(strncmp(err.text, "--cpus: ", 8), 0, "got '%s'", err.text);
}

Test(parse, numbers_are_decimal_or_hexadecimal)
{
	uint64_t v = 0;

	cr_assert_eq(hv_parse_u64("n", "0", 10, &v, NULL), 0);
	cr_assert_eq(v, 0);
	cr_assert_eq(hv_parse_u64("n", "0x1F", 31, &v, NULL), 0);
	cr_assert_eq(v, 31);
	cr_assert_eq(hv_parse_u64("n", "010", 10, &v, NULL), 0);
	cr_assert_eq(v, 10, "a leading zero is no octal number");
	cr_assert_eq(hv_parse_u64("n", "18446744073709551615", UINT64_MAX, &v, NULL), 0);
	cr_assert_eq(v, UINT64_MAX);
}

Test(parse, what_is_no_number_is_refused)
{
	static const char *const bad[] = {"",    " 1", "1 ",  "-1",  "+1",  "1k",   "0x",
					  "0xg", "x1", "1.5", "one", "1e3", "0x-1", "١"};

	for (unsigned i = 0; i < HV_ARRAY_SIZE(bad); i++)
		refuses_u64(bad[i], UINT64_MAX);
}

Test(parse, too_large_a_number_is_called_too_large)
{
	struct hv_error err = {0};
	uint64_t v;

	refuses_u64("11", 10);
	refuses_u64("18446744073709551616", UINT64_MAX);
	hv_parse_u64("n", "99999999999999999999999", UINT64_MAX, &v, &err);
	cr_assert(strstr(err.text, "too large") != NULL, "got '%s'", err.text);
}

Test(parse, sizes_take_suffixes_of_1024)
{
	uint64_t v = 0;

	cr_assert_eq(hv_parse_size("m", "4096", UINT64_MAX, &v, NULL), 0);
	cr_assert_eq(v, 4096);
	cr_assert_eq(hv_parse_size("m", "64M", UINT64_MAX, &v, NULL), 0);
	cr_assert_eq(v, 64ull << 20);
	cr_assert_eq(hv_parse_size("m", "2g", UINT64_MAX, &v, NULL), 0);
	cr_assert_eq(v, 2ull << 30);
	cr_assert_eq(hv_parse_size("m", "0x10K", UINT64_MAX, &v, NULL), 0);
	cr_assert_eq(v, 16384);
	cr_assert_eq(hv_parse_size("m", "16777215T", UINT64_MAX, &v, NULL), 0);
	cr_assert_eq(v, 16777215ull << 40);
}

Test(parse, sizes_that_wrap_or_are_none_are_refused)
{
	static const char *const bad[] = {
		"", "M", "1MM", "1MB", "1 M", "-1M", "16777216T", "18446744073709551616", "1X"};
	struct hv_error err = {0};
	uint64_t v = 42;

	for (unsigned i = 0; i < HV_ARRAY_SIZE(bad); i++)
		cr_assert_eq(hv_parse_size("--mem", bad[i], UINT64_MAX, &v, &err), -EINVAL, "'%s'", bad[i]);
	cr_assert_eq(hv_parse_size("--mem", "65M", 64ull << 20, &v, &err), -EINVAL);
	cr_assert_eq(v, 42);
}

Test(parse, seconds_have_fractions_down_to_the_nanosecond)
{
	uint64_t ns = 0;

	cr_assert_eq(hv_parse_seconds("t", "2.5", &ns, NULL), 0);
	cr_assert_eq(ns, 2500000000ull);
	cr_assert_eq(hv_parse_seconds("t", "0", &ns, NULL), 0);
	cr_assert_eq(ns, 0);
	cr_assert_eq(hv_parse_seconds("t", "0.0000000019", &ns, NULL), 0);
	cr_assert_eq(ns, 1, "digits below a nanosecond are dropped");
	cr_assert_eq(hv_parse_seconds("t", "1000000000", &ns, NULL), 0);
	cr_assert_eq(ns, 1000000000000000000ull);
}

Test(parse, seconds_out_of_range_or_odd_are_refused)
{
	static const char *const bad[] = {
		"",    "-1",         ".5",           "1s",  "nan",
		"inf", "1000000001", "1000000000.1", "1e2", "99999999999999999999999999999999"};
	uint64_t ns = 42;

	for (unsigned i = 0; i < HV_ARRAY_SIZE(bad); i++)
		cr_assert_eq(hv_parse_seconds("t", bad[i], &ns, NULL), -EINVAL, "'%s'", bad[i]);
	cr_assert_eq(ns, 42);
}

Test(parse, a_hostile_text_is_cut_in_the_sentence)
{
	struct hv_error err = {0};
	char text[5000];
	uint64_t v;

	memset(text, 'A', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	hv_parse_u64("n", text, 1, &v, &err);
	cr_assert_lt(strlen(err.text), 200);
}

Test(parse, sizes_are_told_in_the_unit_that_fits)
{
	char buf[16];

	cr_assert_str_eq(hv_format_size(0, buf, sizeof(buf)), "0 bytes");
	cr_assert_str_eq(hv_format_size(1023, buf, sizeof(buf)), "1023 bytes");
	cr_assert_str_eq(hv_format_size(512 << 10, buf, sizeof(buf)), "512 KiB");
	cr_assert_str_eq(hv_format_size(1536ull << 20, buf, sizeof(buf)), "1.5 GiB");
	cr_assert_str_eq(hv_format_size(UINT64_MAX, buf, sizeof(buf)), "15.9 EiB");
}
