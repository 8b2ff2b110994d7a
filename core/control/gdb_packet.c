/*
 * Packets of the gdb remote serial protocol: $content#checksum, with + and - as acknowledgments and 0x03 as
 * Ctrl-C between them. Knows nothing of machines, calls nothing. Rules: "Debugging with GDB", E.1 and E.9.
 *
 * The peer may send anything: a packet without an end fills no more than the parser's own buffer, and a
 * number is at most 16 digits.
 */
#include "control/gdb_packet.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

static void begin(struct hv_gdb_parser *p)
{
	p->state = HV_GDB_DATA;
	p->length = 0;
	p->sum = p->told = 0;
	p->broken = false;
}

static void take(struct hv_gdb_parser *p, uint8_t byte)
{
	if (p->length < HV_GDB_PACKET_MAX)
		p->data[p->length++] = (char)byte;
	else
		p->broken = true;
}

static enum hv_gdb_token parse_idle(struct hv_gdb_parser *p, uint8_t byte)
{
	switch (byte) {
	case '$':
		begin(p);
		return HV_GDB_NOTHING;
	case '+':
		return HV_GDB_ACK;
	case '-':
		return HV_GDB_NAK;
	case 0x03:
		return HV_GDB_INTERRUPT;
	default:
		return HV_GDB_NOTHING; /* noise between packets is dropped */
	}
}

enum hv_gdb_token hv_gdb_parse(struct hv_gdb_parser *p, uint8_t byte)
{
	int d;

	switch (p->state) {
	case HV_GDB_IDLE:
		return parse_idle(p, byte);
	case HV_GDB_DATA:
		if (byte == '$') { /* the rest of the last one was lost: this is where the next starts */
			begin(p);
			break;
		}
		if (byte == '#') {
			p->state = HV_GDB_SUM1;
			break;
		}
		p->sum = (uint8_t)(p->sum + byte);
		if (byte == '}')
			p->state = HV_GDB_ESCAPED;
		else
			take(p, byte);
		break;
	case HV_GDB_ESCAPED:
		p->sum = (uint8_t)(p->sum + byte);
		take(p, byte ^ 0x20);
		p->state = HV_GDB_DATA;
		break;
	case HV_GDB_SUM1:
	case HV_GDB_SUM2:
		d = digit((char)byte);
		if (d < 0)
			p->broken = true;
		p->told = (uint8_t)(p->told << 4 | (d & 15));
		if (p->state == HV_GDB_SUM1) {
			p->state = HV_GDB_SUM2;
			break;
		}
		p->state = HV_GDB_IDLE;
		p->data[p->length] = '\0';
		return p->broken || p->told != p->sum ? HV_GDB_BAD : HV_GDB_PACKET;
	}
	return HV_GDB_NOTHING;
}

void hv_gdb_text_free(struct hv_gdb_text *t)
{
	free(t->data);
	*t = (struct hv_gdb_text){0};
}

void hv_gdb_put(struct hv_gdb_text *t, const void *data, size_t length)
{
	if (t->failed || length == 0)
		return;
	if (t->capacity - t->length < length) {
		size_t capacity = t->capacity ? t->capacity : 256;
		char *grown;

		while (capacity - t->length < length)
			capacity *= 2; /* contents are bounded by HV_GDB_PACKET_MAX, far from overflow */
		grown = realloc(t->data, capacity);
		if (!grown) {
			t->failed = true;
			return;
		}
		t->data = grown;
		t->capacity = capacity;
	}
	memcpy(t->data + t->length, data, length);
	t->length += length;
}

void hv_gdb_puts(struct hv_gdb_text *t, const char *s)
{
	hv_gdb_put(t, s, strlen(s));
}

void hv_gdb_printf(struct hv_gdb_text *t, const char *fmt, ...)
{
	char line[512];
	va_list args;
	int n;

	va_start(args, fmt);
	n = vsnprintf(line, sizeof(line), fmt, args);
	va_end(args);
	if (n < 0 || (size_t)n >= sizeof(line))
		t->failed = true;
	else
		hv_gdb_put(t, line, (size_t)n);
}

void hv_gdb_put_hex(struct hv_gdb_text *t, const void *data, size_t length)
{
	static const char digits[] = "0123456789abcdef";
	const uint8_t *bytes = data;

	for (size_t i = 0; i < length; i++) {
		const char pair[2] = {digits[bytes[i] >> 4], digits[bytes[i] & 15]};

		hv_gdb_put(t, pair, 2);
	}
}

void hv_gdb_frame(struct hv_gdb_text *out, const struct hv_gdb_text *content)
{
	static const char digits[] = "0123456789abcdef";
	uint8_t sum = 0;

	hv_gdb_put(out, "$", 1);
	for (size_t i = 0; i < content->length; i++) {
		char c = content->data[i];

		if (c == '$' || c == '#' || c == '}' || c == '*') {
			hv_gdb_put(out, "}", 1);
			sum = (uint8_t)(sum + '}');
			c ^= 0x20;
		}
		hv_gdb_put(out, &c, 1);
		sum = (uint8_t)(sum + (uint8_t)c);
	}
	const char tail[3] = {'#', digits[sum >> 4], digits[sum & 15]};
	hv_gdb_put(out, tail, 3);
}

bool hv_gdb_get_hex(const char **at, void *out, size_t count)
{
	const char *s = *at;
	uint8_t *bytes = out;

	for (size_t i = 0; i < count; i++) {
		const int high = digit(s[0]), low = high < 0 ? -1 : digit(s[1]);

		if (low < 0)
			return false;
		bytes[i] = (uint8_t)(high << 4 | low);
		s += 2;
	}
	*at = s;
	return true;
}

bool hv_gdb_get_number(const char **at, uint64_t *out)
{
	uint64_t v = 0;
	unsigned n = 0;

	for (; digit((*at)[n]) >= 0; n++) {
		if (n == 16)
			return false;
		v = v << 4 | (uint64_t)digit((*at)[n]);
	}
	if (n == 0)
		return false;
	*at += n;
	*out = v;
	return true;
}

bool hv_gdb_get_range(const char **at, uint64_t *addr, uint64_t *length)
{
	return hv_gdb_get_number(at, addr) && hv_gdb_skip(at, ",") && hv_gdb_get_number(at, length);
}

bool hv_gdb_skip(const char **at, const char *text)
{
	const size_t length = strlen(text);

	if (strncmp(*at, text, length) != 0)
		return false;
	*at += length;
	return true;
}
