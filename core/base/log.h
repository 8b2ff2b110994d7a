/*
 * Log. A library never prints: it hands lines to the sink that its caller gave. A struct hv_log is made by
 * the caller, outlives what it is given to, and its sink may be called from any thread.
 */
#ifndef HV_BASE_LOG_H
#define HV_BASE_LOG_H

#include "base/api.h"

enum hv_log_level { HV_LOG_ERROR, HV_LOG_WARN, HV_LOG_INFO, HV_LOG_DEBUG };

struct hv_log {
	enum hv_log_level level;                                            /* lines above it are dropped */
	void (*sink)(void *ctx, enum hv_log_level level, const char *line); /* line without a newline */
	void *ctx;
};

HV_API_BEGIN
/* Formats one line for the sink; log may be NULL. Lines are cut at 1 KiB. */
void hv_log(const struct hv_log *log, enum hv_log_level level, const char *fmt, ...) HV_PRINTF(3, 4);
HV_API_END

#endif
