/*
 * What is written, and how: sentences to stderr, results to stdout. Names and words from images are hostile
 * here too: nothing of them may steer a terminal.
 */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/parse.h"
#include "hvmigrate.h"

/* The bar that is on the screen, of which there is at most one. */
static struct hvm_progress *shown;

void hvm_screen_bar(struct hvm_progress *p)
{
	shown = p;
}

/* --- text ------------------------------------------------------------------------------------------------- */

/*
 * One character of UTF-8 at text: its length, *code its number; 0 when the bytes are none. Rules: RFC 3629,
 * the shortest form, no surrogates, at most U+10FFFF.
 */
static size_t decode(const char *text, uint32_t *code)
{
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
	const unsigned char *p = (const unsigned char *)text;
	size_t n = p[0] < 0x80             ? 1
		   : (p[0] & 0xe0) == 0xc0 ? 2
		   : (p[0] & 0xf0) == 0xe0 ? 3
		   : (p[0] & 0xf8) == 0xf0 ? 4
					   : 0;

	if (n == 0)
		return 0;
	*code = n == 1 ? p[0] : p[0] & (0x7fU >> n);
	for (size_t i = 1; i < n; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
		*code = *code << 6 | (p[i] & 0x3f);
	}
	if (*code < least[n] || *code > 0x10ffff || (*code >= 0xd800 && *code < 0xe000))
		return 0;
	return n;
}

/* Controls of a terminal, and marks that turn the direction of what follows. */
static bool steers(uint32_t code)
{
	return code < 0x20 || (code >= 0x7f && code < 0xa0) || (code >= 0x200e && code <= 0x200f) ||
	       (code >= 0x2028 && code <= 0x202e) || (code >= 0x2066 && code <= 0x2069);
}

void hvm_put(FILE *to, const char *text)
{
	while (*text) {
		uint32_t code = 0;
		size_t n = decode(text, &code);

		if (n == 0 || steers(code))
			fputc('?', to);
		else
			fwrite(text, 1, n, to);
		text += n ? n : 1;
	}
}

static void sentence(const char *fmt, va_list ap) HV_PRINTF(1, 0);
static void sentence(const char *fmt, va_list ap)
{
	char text[1024];

	vsnprintf(text, sizeof(text), fmt, ap);
	if (shown)
		hvm_progress_clear(shown);
	fputs("hvmigrate: ", stderr);
	hvm_put(stderr, text);
	fputc('\n', stderr);
}

void hvm_complain(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	sentence(fmt, ap);
	va_end(ap);
}

void hvm_say(const struct hvm_options *o, const char *fmt, ...)
{
	va_list ap;

	if (o->quiet)
		return;
	va_start(ap, fmt);
	sentence(fmt, ap);
	va_end(ap);
}

static int status_of(const struct hv_error *err)
{
	return err->status ? (int)err->status : HV_EXIT_FAILED;
}

int hvm_fail(const struct hvm_options *o, const struct hv_error *err)
{
	hvm_complain("%s", err->text);
	if (o->json)
		hvm_json_print(json_pack("{s:o,s:i}", "error", hvm_json_string(err->text), "status",
					 status_of(err)));
	return status_of(err);
}

const char *hvm_size(uint64_t bytes, char buf[static HVM_SIZE_MAX])
{
	char human[24];

	hv_format_size(bytes, human, sizeof(human));
	if (bytes < 1024)
		snprintf(buf, HVM_SIZE_MAX, "%s", human);
	else
		snprintf(buf, HVM_SIZE_MAX, "%s (%llu bytes)", human, (unsigned long long)bytes);
	return buf;
}

/* --- JSON ------------------------------------------------------------------------------------------------- */

json_t *hvm_json_string(const char *text)
{
	char *clean = malloc(3 * strlen(text) + 1), *to = clean;
	json_t *value;

	if (!clean)
		return NULL;
	while (*text) {
		uint32_t code = 0;
		size_t n = decode(text, &code);

		if (n) {
			memcpy(to, text, n);
			to += n;
		} else {
			memcpy(to, "\xef\xbf\xbd", 3);
			to += 3;
		}
		text += n ? n : 1;
	}
	*to = '\0';
	value = json_string(clean);
	free(clean);
	return value;
}

json_t *hvm_json_size(uint64_t value)
{
	return json_integer((json_int_t)value);
}

void hvm_json_print(json_t *value)
{
	json_dumpf(value, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY);
	putchar('\n');
	json_decref(value);
}

void hvm_json_event(FILE *to, const char *event, json_t *value)
{
	json_t *line = json_pack("{s:s}", "event", event);

	json_object_update(line, value);
	json_decref(value);
	json_dumpf(line, to, JSON_COMPACT | JSON_REAL_PRECISION(9));
	fputc('\n', to);
	fflush(to);
	json_decref(line);
}
