/*
 * Errors. A public function returns 0 or a negative errno, and fills the caller's struct hv_error with one
 * sentence that a user can act on: what failed, on which object, what to try.
 */
#ifndef HV_BASE_ERROR_H
#define HV_BASE_ERROR_H

#include <errno.h>

#include "base/api.h"

/* Exit statuses of every tool. 124 is timeout(1)'s habit, used by hvrun --timeout. */
enum hv_exit_status {
	HV_EXIT_OK = 0,
	HV_EXIT_FAILED = 1,
	HV_EXIT_USAGE = 2,
	HV_EXIT_UNSAFE = 3, /* the input is damaged or unsafe */
	HV_EXIT_TIMEOUT = 124,
};

#define HV_ERROR_TEXT 512 /* bytes of a sentence, its end included */

struct hv_error {
	int code;                   /* negative errno of the last failure, 0 when none */
	enum hv_exit_status status; /* the exit status a tool should end with; HV_EXIT_FAILED by default */
	char text[HV_ERROR_TEXT];   /* one sentence, no newline at the end; always terminated */
};

HV_API_BEGIN

/*
 * Fills err (which may be NULL) with the sentence and returns -errnum. errnum is a positive errno.
 * hv_fail gives status HV_EXIT_FAILED, hv_fail_usage HV_EXIT_USAGE, hv_fail_unsafe HV_EXIT_UNSAFE.
 */
int hv_fail(struct hv_error *err, int errnum, const char *fmt, ...) HV_PRINTF(3, 4);
int hv_fail_usage(struct hv_error *err, const char *fmt, ...) HV_PRINTF(2, 3);  /* -EINVAL */
int hv_fail_unsafe(struct hv_error *err, const char *fmt, ...) HV_PRINTF(2, 3); /* -EBADMSG */
int hv_fail_errno(struct hv_error *err, const char *fmt, ...) HV_PRINTF(2, 3);  /* errno, ": " strerror */

/* Puts "what: " before the sentence that is already in err. */
void hv_error_prefix(struct hv_error *err, const char *fmt, ...) HV_PRINTF(2, 3);

HV_API_END

#endif
