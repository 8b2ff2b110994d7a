/*
 * Errors: see error.h. This room calls nothing but libc.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"

static void HV_PRINTF(4, 0)
	fill(struct hv_error *err, int errnum, enum hv_exit_status status, const char *fmt, va_list ap)
{
	char text[HV_ERROR_TEXT]; /* apart, as the arguments may well hold err->text itself */

	if (!err)
		return;
	vsnprintf(text, sizeof(text), fmt, ap);
	memcpy(err->text, text, sizeof(text));
	err->code = -errnum;
	err->status = status;
}

int hv_fail(struct hv_error *err, int errnum, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fill(err, errnum, HV_EXIT_FAILED, fmt, ap);
	va_end(ap);
	return -errnum;
}

int hv_fail_usage(struct hv_error *err, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fill(err, EINVAL, HV_EXIT_USAGE, fmt, ap);
	va_end(ap);
	return -EINVAL;
}

int hv_fail_unsafe(struct hv_error *err, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fill(err, EBADMSG, HV_EXIT_UNSAFE, fmt, ap);
	va_end(ap);
	return -EBADMSG;
}

int hv_fail_errno(struct hv_error *err, const char *fmt, ...)
{
	int errnum = errno ? errno : EIO;
	va_list ap;

	va_start(ap, fmt);
	fill(err, errnum, HV_EXIT_FAILED, fmt, ap);
	va_end(ap);
	if (err) {
		size_t used = strlen(err->text), most = sizeof(err->text) - 64;
		used = used < most ? used : most; /* a cut object is better than a cut reason */
		snprintf(err->text + used, sizeof(err->text) - used, ": %s", strerror(errnum));
	}
	return -errnum;
}

void hv_error_prefix(struct hv_error *err, const char *fmt, ...)
{
	char text[HV_ERROR_TEXT];
	size_t used, rest;
	va_list ap;

	if (!err)
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text) / 2, fmt,
		  ap); /* at most half, so that a long prefix leaves the reason in sight */
	va_end(ap);
	strcat(text, ": ");
	used = strlen(text);
	rest = strnlen(err->text, sizeof(text) - used - 1);
	memcpy(text + used, err->text, rest);
	text[used + rest] = '\0';
	memcpy(err->text, text, used + rest + 1);
}
