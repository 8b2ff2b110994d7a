/*
 * Where a JSON document ends: see qmp_scan.h. It calls nothing but libc.
 */
#include <stdlib.h>
#include <string.h>

#include "control/qmp.h"
#include "control/qmp_scan.h"

#define KEEP 65536 /* an emptied buffer larger than this goes back */

void hv_qmp_scan_init(struct hv_qmp_scan *s, size_t max)
{
	*s = (struct hv_qmp_scan){.max = max};
}

void hv_qmp_scan_free(struct hv_qmp_scan *s)
{
	free(s->data);
	hv_qmp_scan_init(s, s->max);
}

/* Throws away what lies before the document under way. */
static void compact(struct hv_qmp_scan *s)
{
	size_t gone = s->inside ? s->start : s->at;

	if (gone) {
		memmove(s->data, s->data + gone, s->length - gone);
		s->length -= gone;
		s->at -= gone;
		s->start = 0;
	}
	if (s->length == 0 && s->capacity > KEEP) {
		free(s->data);
		s->data = NULL;
		s->capacity = 0;
	}
}

int hv_qmp_scan_feed(struct hv_qmp_scan *s, const void *data, size_t length)
{
	compact(s);
	if (length > s->capacity - s->length) {
		size_t capacity = s->capacity ? s->capacity : 4096;
		char *grown;

		while (capacity - s->length < length)
			capacity *= 2;
		grown = realloc(s->data, capacity);
		if (!grown)
			return -ENOMEM;
		s->data = grown;
		s->capacity = capacity;
	}
	if (length)
		memcpy(s->data + s->length, data, length);
	s->length += length;
	return 0;
}

static bool is_space(char c)
{
	return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* Between documents. 0xff is how a client says "forget what I sent" (qmp-spec 2.6): it is passed over here.
 */
static void outside(struct hv_qmp_scan *s, char c)
{
	if (s->skip_line) {
		s->skip_line = c != '\n';
		s->at++;
	} else if (is_space(c) || c == '\0' || (unsigned char)c == 0xff) {
		s->at++;
	} else {
		s->inside = true;
		s->start = s->at;
		s->depth = 0;
		s->string = s->escape = false;
		s->junk = c != '{' && c != '[';
	}
}

/* One byte of a document; true when the document ends with it (or, for junk, before it). */
static bool inside(struct hv_qmp_scan *s, char c)
{
	if (s->junk) {
		if (is_space(c) || ((c == '{' || c == '[') && s->at > s->start))
			return true;
		s->at++;
		return false;
	}
	s->at++;
	/* No string and no document goes on over these; the parser will say so. The rest of the line is lost
	 * with it, so that one slip makes one error. */
	if ((s->string && (unsigned char)c < 0x20) || (unsigned char)c == 0xff) {
		s->skip_line = c != '\n' && (unsigned char)c != 0xff;
		return true;
	}
	if (s->string) {
		s->string = s->escape || c != '"';
		s->escape = !s->escape && c == '\\';
	} else if (c == '"') {
		s->string = true;
	} else if (c == '{' || c == '[') {
		s->depth++;
	} else if (c == '}' || c == ']') {
		s->depth--;
		return s->depth == 0;
	}
	return false;
}

int hv_qmp_scan_next(struct hv_qmp_scan *s, const char **text, size_t *length)
{
	while (s->at < s->length) {
		char c = s->data[s->at];

		if (!s->inside) {
			outside(s, c);
			continue;
		}
		if (s->at - s->start >= s->max)
			return -EMSGSIZE;
		if (inside(s, c)) {
			s->inside = false;
			*text = s->data + s->start;
			*length = s->at - s->start;
			return 1;
		}
		if (s->depth > HV_QMP_DEPTH_MAX)
			return -ELOOP;
	}
	return 0;
}
