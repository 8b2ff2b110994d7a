/*
 * Numbers and sizes as a user types them.
 */
#ifndef HV_BASE_PARSE_H
#define HV_BASE_PARSE_H

#include <stdint.h>

#include "base/error.h"

HV_API_BEGIN
/*
 * An unsigned number, decimal or 0x hexadecimal, the whole of text, at most max. `what` names it in the
 * sentence ("--cpus"). -EINVAL with usage status otherwise; *out is untouched then.
 */
int hv_parse_u64(const char *what, const char *text, uint64_t max, uint64_t *out, struct hv_error *err);

/* The same with a suffix K, M, G or T (1024 each); without one the number is bytes. */
int hv_parse_size(const char *what, const char *text, uint64_t max, uint64_t *out, struct hv_error *err);

/* Seconds as a decimal fraction ("2.5"), 0 to 10^9, into nanoseconds. */
int hv_parse_seconds(const char *what, const char *text, uint64_t *out_ns, struct hv_error *err);

/* Writes "512 KiB", "64 MiB" or "1.5 GiB" into buf (at least 16 bytes) and returns buf. */
char *hv_format_size(uint64_t bytes, char *buf, unsigned long size);
HV_API_END

#endif
