/*
 * Numbers and sizes as a user types them: see parse.h. This room calls nothing but libc.
 */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/parse.h"

/* The digits at text; *end is what follows them. Signs and blanks, which strtoull takes, are not digits. */
static int digits(const char *text, uint64_t *out, char **end)
{
	if (!isdigit((unsigned char)text[0]))
		return -EINVAL;
	errno = 0;
	*out = strtoull(text, end, text[0] == '0' && (text[1] | 0x20) == 'x' ? 16 : 10);
	return errno ? -ERANGE : 0;
}

int hv_parse_u64(const char *what, const char *text, uint64_t max, uint64_t *out, struct hv_error *err)
{
	uint64_t v = 0;
	char *end = NULL;
	int rc = digits(text, &v, &end);

	if (rc == -EINVAL || *end != '\0')
		return hv_fail_usage(err,
				     "%s: '%.64s' is not a number; give digits or 0x and hexadecimal digits",
				     what, text);
	if (rc || v > max)
		return hv_fail_usage(err, "%s: %.64s is too large; at most %llu", what, text,
				     (unsigned long long)max);
	*out = v;
	return 0;
}

int hv_parse_size(const char *what, const char *text, uint64_t max, uint64_t *out, struct hv_error *err)
{
	static const char suffixes[] = "KMGT";
	uint64_t v = 0;
	unsigned shift = 0;
	char *end = NULL;
	int rc = digits(text, &v, &end);

	if (rc == -EINVAL)
		return hv_fail_usage(err, "%s: '%.64s' is not a size; give a number with K, M, G or T", what,
				     text);
	if (*end) {
		const char *s = strchr(suffixes, toupper((unsigned char)*end));
		if (!s || end[1] != '\0')
			return hv_fail_usage(err, "%s: '%.64s' is not a size; the suffixes are K, M, G and T",
					     what, text);
		shift = 10 * (unsigned)(s - suffixes + 1);
	}
	if (rc || v > max >> shift)
		return hv_fail_usage(err, "%s: %.64s is too large; at most %llu bytes", what, text,
				     (unsigned long long)max);
	*out = v << shift;
	return 0;
}

int hv_parse_seconds(const char *what, const char *text, uint64_t *out_ns, struct hv_error *err)
{
	uint64_t whole = 0, frac = 0, unit = 1000000000;
	const char *p = text;

	if (!isdigit((unsigned char)*p))
		return hv_fail_usage(err, "%s: '%.64s' is not a number of seconds", what, text);
	for (; isdigit((unsigned char)*p) && whole <= 1000000000; p++)
		whole = whole * 10 + (uint64_t)(*p - '0');
	if (*p == '.')
		for (p++; isdigit((unsigned char)*p); p++) {
			unit /= 10;
			frac += (uint64_t)(*p - '0') * unit;
		}
	if (*p || whole > 1000000000 || (whole == 1000000000 && frac))
		return hv_fail_usage(err, "%s: '%.64s' is not a number of seconds from 0 to 1000000000", what,
				     text);
	*out_ns = whole * 1000000000 + frac;
	return 0;
}

char *hv_format_size(uint64_t bytes, char *buf, unsigned long size)
{
	static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	unsigned u = 0;
	uint64_t whole = bytes, rest = 0;

	while (whole >= 1024 && u + 1 < HV_ARRAY_SIZE(units)) {
		rest = whole % 1024;
		whole /= 1024;
		u++;
	}
	if (rest * 10 / 1024 == 0)
		snprintf(buf, size, "%llu %s", (unsigned long long)whole, units[u]);
	else
		snprintf(buf, size, "%llu.%llu %s", (unsigned long long)whole,
			 (unsigned long long)(rest * 10 / 1024), units[u]);
	return buf;
}
