/*
 * The record's writer: JSON objects, one a line (RFC 8259), put together by hand because there are many and
 * each is written once. Nothing is allocated. What can't be written is remembered: the record is then not
 * complete.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "observe.h"

void out_flush(struct out *o)
{
	size_t done = 0;

	while (o->fd >= 0 && done < o->length) {
		ssize_t n = write(o->fd, o->text + done, o->length - done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			o->failed = true;
			break;
		}
		done += (size_t)n;
	}
	o->length = 0;
}

static void put(struct out *o, char c)
{
	if (o->length == sizeof(o->text))
		out_flush(o);
	o->text[o->length++] = c;
}

static void puts_raw(struct out *o, const char *text)
{
	while (*text)
		put(o, *text++);
}

static void quote(struct out *o, const char *text)
{
	char code[8];

	put(o, '"');
	for (; *text; text++) {
		unsigned char c = (unsigned char)*text;

		if (c == '"' || c == '\\') {
			put(o, '\\');
			put(o, (char)c);
		} else if (c < 0x20 || c >= 0x7f) {
			snprintf(code, sizeof(code), "\\u%04x", (unsigned)c);
			puts_raw(o, code);
		} else {
			put(o, (char)c);
		}
	}
	put(o, '"');
}

static void begin(struct out *o, const char *key)
{
	if (o->comma)
		put(o, ',');
	o->comma = true;
	if (key) {
		put(o, '"');
		puts_raw(o, key);
		put(o, '"');
		put(o, ':');
	}
}

void out_open(struct out *o, const char *key, char bracket)
{
	begin(o, key);
	put(o, bracket);
	o->comma = false;
}

void out_close(struct out *o, char bracket)
{
	put(o, bracket);
	o->comma = true;
}

void out_u64(struct out *o, const char *key, uint64_t value)
{
	char digits[24];
	unsigned i = sizeof(digits) - 1;

	digits[i] = 0;
	do
		digits[--i] = (char)('0' + value % 10);
	while (value /= 10);
	begin(o, key);
	puts_raw(o, digits + i);
}

void out_i64(struct out *o, const char *key, int64_t value)
{
	if (value >= 0) {
		out_u64(o, key, (uint64_t)value);
		return;
	}
	begin(o, key);
	put(o, '-');
	o->comma = false;
	out_u64(o, NULL, -(uint64_t)value);
}

void out_bool(struct out *o, const char *key, bool value)
{
	begin(o, key);
	puts_raw(o, value ? "true" : "false");
}

void out_null(struct out *o, const char *key)
{
	begin(o, key);
	puts_raw(o, "null");
}

void out_text(struct out *o, const char *key, const char *text)
{
	begin(o, key);
	quote(o, text);
}

void out_hex(struct out *o, const char *key, const void *bytes, size_t length)
{
	static const char digit[] = "0123456789abcdef";
	const uint8_t *b = bytes;

	begin(o, key);
	put(o, '"');
	for (size_t i = 0; i < length; i++) {
		put(o, digit[b[i] >> 4]);
		put(o, digit[b[i] & 15]);
	}
	put(o, '"');
}

void out_end_line(struct out *o)
{
	put(o, '\n');
	o->comma = false;
}
