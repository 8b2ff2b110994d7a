/*
 * Log: see log.h. This room calls nothing but libc.
 */
#include <stdarg.h>
#include <stdio.h>

#include "base/log.h"

void hv_log(const struct hv_log *log, enum hv_log_level level, const char *fmt, ...)
{
	char line[1024];
	va_list ap;

	if (!log || !log->sink || level > log->level)
		return;
	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	log->sink(log->ctx, level, line);
}
