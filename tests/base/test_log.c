/*
 * The log: lines below the level reach the sink, whole and at most 1 KiB, others cost nothing.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "base/log.h"

struct heard {
	unsigned count;
	enum hv_log_level level;
	char line[2048];
};

static void hear(void *ctx, enum hv_log_level level, const char *line)
{
	struct heard *h = ctx;

	h->count++;
	h->level = level;
	cr_assert_lt(strlen(line), sizeof(h->line));
	strcpy(h->line, line);
}

Test(log, the_level_decides_what_is_heard)
{
	struct heard h = {0};
	struct hv_log log = {.level = HV_LOG_WARN, .sink = hear, .ctx = &h};

	hv_log(&log, HV_LOG_INFO, "not heard");
	cr_assert_eq(h.count, 0);
	hv_log(&log, HV_LOG_WARN, "port 0x%x", 0x3f8);
	cr_assert_eq(h.count, 1);
	cr_assert_eq(h.level, HV_LOG_WARN);
	cr_assert_str_eq(h.line, "port 0x3f8");
}

Test(log, no_log_and_no_sink_are_fine)
{
	struct hv_log silent = {.level = HV_LOG_DEBUG};

	hv_log(NULL, HV_LOG_ERROR, "x");
	hv_log(&silent, HV_LOG_ERROR, "x");
}

Test(log, a_long_line_is_cut_at_a_kibibyte)
{
	struct heard h = {0};
	struct hv_log log = {.level = HV_LOG_DEBUG, .sink = hear, .ctx = &h};
	char text[4096];

	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	hv_log(&log, HV_LOG_DEBUG, "%s", text);
	cr_assert_eq(strlen(h.line), 1023);
}
