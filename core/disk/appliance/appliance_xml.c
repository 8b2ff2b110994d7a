/*
 * XML by expat, on a leash: no document type (so no entities of its own, and nothing fetched), a bounded
 * depth, bounded texts. Name spaces' prefixes are dropped: OVF's writers don't agree on them. This file calls
 * expat.
 */
#include <expat.h>
#include <stdlib.h>
#include <string.h>

#include "disk/appliance/appliance_impl.h"

#define TEXTS_MAX      (1U << 20) /* bytes of all open elements' texts together */
#define ATTRIBUTES_MAX 64

struct parse {
	const struct hv_xml *x;
	const char *path;
	XML_Parser parser;
	struct hv_error *err;
	int rc;
	unsigned depth;
	char *text; /* of all open elements, one after another */
	size_t length, room;
	size_t from[HV_XML_DEPTH_MAX]; /* where each one's starts */
};

static void stop(struct parse *p, int rc)
{
	p->rc = rc;
	XML_StopParser(p->parser, XML_FALSE);
}

static unsigned long line(const struct parse *p)
{
	return (unsigned long)XML_GetCurrentLineNumber(p->parser);
}

static const char *local(const char *name)
{
	const char *colon = strrchr(name, ':');

	return colon ? colon + 1 : name;
}

static void on_start(void *ctx, const XML_Char *name, const XML_Char **attributes)
{
	const char *stripped[2 * ATTRIBUTES_MAX + 1];
	struct parse *p = ctx;
	unsigned n = 0;
	int rc;

	if (p->rc)
		return;
	if (p->depth == HV_XML_DEPTH_MAX) {
		stop(p, hv_fail_unsafe(p->err, "%s:%lu: elements are nested more than %d deep", p->path,
				       line(p), HV_XML_DEPTH_MAX));
		return;
	}
	for (; n < 2 * ATTRIBUTES_MAX && attributes[n]; n += 2) {
		stripped[n] = local(attributes[n]);
		stripped[n + 1] = attributes[n + 1];
	}
	stripped[n] = NULL;
	p->from[p->depth++] = p->length;
	rc = p->x->start ? p->x->start(p->x->ctx, p->depth, local(name), stripped, p->err) : 0;
	if (rc)
		stop(p, rc);
}

/* The element's text with no blanks at its ends, zero-ended in place. */
static const char *trimmed(struct parse *p, size_t from)
{
	static const char blank[] = " \t\r\n";
	char *text = p->text + from;

	while (p->length > from && strchr(blank, p->text[p->length - 1]))
		p->length--;
	p->text[p->length] = '\0';
	return text + strspn(text, blank);
}

static void on_end(void *ctx, const XML_Char *name)
{
	struct parse *p = ctx;
	size_t from;
	int rc = 0;

	if (p->rc || p->depth == 0)
		return;
	from = p->from[p->depth - 1];
	if (p->x->end)
		rc = p->x->end(p->x->ctx, p->depth, local(name), p->text ? trimmed(p, from) : "", p->err);
	p->length = from;
	p->depth--;
	if (rc)
		stop(p, rc);
}

static void on_text(void *ctx, const XML_Char *text, int length)
{
	struct parse *p = ctx;
	size_t n = (size_t)length;

	if (p->rc || !p->x->end || p->depth == 0 || length <= 0)
		return;
	if (p->length + n > TEXTS_MAX || p->length - p->from[p->depth - 1] + n > HV_XML_TEXT_MAX) {
		stop(p, hv_fail_unsafe(p->err, "%s:%lu: an element's text is longer than %u KiB", p->path,
				       line(p), HV_XML_TEXT_MAX >> 10));
		return;
	}
	if (p->length + n + 1 > p->room) {
		size_t room = 2 * (p->length + n + 1);
		char *grown = realloc(p->text, room);

		if (!grown) {
			stop(p, hv_fail(p->err, ENOMEM, "%s: no memory to read it", p->path));
			return;
		}
		p->text = grown;
		p->room = room;
	}
	memcpy(p->text + p->length, text, n);
	p->length += n;
}

static void on_doctype(void *ctx, const XML_Char *name, const XML_Char *system, const XML_Char *public,
		       int internal)
{
	struct parse *p = ctx;

	if (!p->rc)
		stop(p, hv_fail_unsafe(
				p->err,
				"%s:%lu: it has a document type (<!DOCTYPE>); no appliance needs one, and "
				"entities could blow it up",
				p->path, line(p)));
}

int hv_xml_parse(const struct hv_xml *x, const char *path, const char *data, size_t length,
		 struct hv_error *err)
{
	struct parse p = {.x = x, .path = path, .err = err};

	if (length > HV_APPLIANCE_TEXT_MAX)
		return hv_fail_unsafe(err, "%s: it is longer than %u MiB", path, HV_APPLIANCE_TEXT_MAX >> 20);
	p.parser = XML_ParserCreate(NULL);
	if (!p.parser)
		return hv_fail(err, ENOMEM, "%s: no memory to read it", path);
	XML_SetUserData(p.parser, &p);
	XML_SetElementHandler(p.parser, on_start, on_end);
	XML_SetCharacterDataHandler(p.parser, on_text);
	XML_SetStartDoctypeDeclHandler(p.parser, on_doctype);
	if (XML_Parse(p.parser, data, (int)length, 1) != XML_STATUS_OK && !p.rc)
		p.rc = hv_fail_unsafe(err, "%s:%lu: this is no well-formed XML: %s", path, line(&p),
				      XML_ErrorString(XML_GetErrorCode(p.parser)));
	XML_ParserFree(p.parser);
	free(p.text);
	return p.rc;
}

const char *hv_xml_attribute(const char **attributes, const char *name)
{
	for (; *attributes; attributes += 2)
		if (!strcmp(*attributes, name))
			return attributes[1];
	return NULL;
}
