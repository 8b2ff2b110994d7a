/*
 * Where a JSON document ends in a stream of bytes. QMP's clients need not send newlines (qmp-spec 2.3:
 * objects follow one another), so brackets and strings are counted here, before a parser sees a byte. That
 * also keeps the limits on length and depth in one place.
 */
#ifndef HV_CONTROL_QMP_SCAN_H
#define HV_CONTROL_QMP_SCAN_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

struct hv_qmp_scan {
	char *data; /* owned */
	size_t length, capacity;
	size_t max;   /* bytes of one document */
	size_t start; /* where the document under way begins */
	size_t at;    /* the first byte not looked at */
	unsigned depth;
	bool inside; /* a document is under way */
	bool string, escape, junk, skip_line;
};

HV_API_BEGIN
void hv_qmp_scan_init(struct hv_qmp_scan *s, size_t max);
void hv_qmp_scan_free(struct hv_qmp_scan *s);
/* Appends what came from the socket. 0 or -ENOMEM. */
int hv_qmp_scan_feed(struct hv_qmp_scan *s, const void *data, size_t length);
/*
 * 1: *text, *length are one document (or what stands where one should), borrowed until the next call of this
 * file. 0: more bytes are needed. -EMSGSIZE, -ELOOP: longer or deeper than allowed; the stream can't be gone
 * on with.
 */
int hv_qmp_scan_next(struct hv_qmp_scan *s, const char **text, size_t *length);
HV_API_END

#endif
