/*
 * Errors: see error.h. This room calls nothing but libc.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"

static void fill(struct hv_error *err, int errnum, enum hv_exit_status status, const char *fmt, va_list ap)
{
	if (!err)
		return;
	err->code = -errnum;
	err->status = status;
	vsnprintf(err->text, sizeof(err->text), fmt, ap);
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
		size_t used = strlen(err->text);
		snprintf(err->text + used, sizeof(err->text) - used, ": %s", strerror(errnum));
	}
	return -errnum;
}

void hv_error_prefix(struct hv_error *err, const char *fmt, ...)
{
	char what[256], text[sizeof(err->text)];
	va_list ap;

	if (!err)
		return;
	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	memcpy(text, err->text, sizeof(text));
	snprintf(err->text, sizeof(err->text), "%s: %.*s", what, (int)(sizeof(text) - sizeof(what) - 3), text);
}
