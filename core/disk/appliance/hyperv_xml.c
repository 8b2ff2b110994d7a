/*
 * Hyper-V's XML of a machine (2008 to 2012 R2, UTF-16 as a rule): nested elements, whose names are the tree's
 * keys and whose texts the values. The elements become paths, which hyperv.c reads.
 */
#include <string.h>

#include "disk/appliance/appliance_impl.h"

struct tree {
	struct hv_keys keys;
	const char *file; /* for sentences */
	char path[HV_XML_DEPTH_MAX * 16];
	size_t end[HV_XML_DEPTH_MAX + 1]; /* of the path at each depth */
	bool inner[HV_XML_DEPTH_MAX + 1]; /* it holds elements */
};

static int on_start(void *ctx, unsigned depth, const char *name, const char **attributes,
		    struct hv_error *err)
{
	struct tree *t = ctx;
	size_t from = t->end[depth - 1], n = strlen(name);

	if (from + n + 2 > sizeof(t->path))
		return hv_fail_unsafe(err, "%s: the path of <%.40s> is longer than any key's", t->file, name);
	if (depth > 1)
		t->path[from++] = '/';
	memcpy(t->path + from, name, n);
	t->end[depth] = from + n;
	t->inner[depth - 1] = true;
	t->inner[depth] = false;
	return 0;
}

static int on_end(void *ctx, unsigned depth, const char *name, const char *text, struct hv_error *err)
{
	struct tree *t = ctx;
	int rc;

	if (t->inner[depth])
		return 0;
	rc = hv_keys_add(&t->keys, t->path, t->end[depth], text, strlen(text), err);
	if (rc)
		hv_error_prefix(err, "%s", t->file);
	return rc;
}

int hv_hyperv_xml_read(struct hv_appliance *a, const char *path, const char *text, size_t length,
		       struct hv_error *err)
{
	struct tree t = {.file = path};
	const struct hv_xml x = {.start = on_start, .end = on_end, .ctx = &t};
	int rc = hv_xml_parse(&x, path, text, length, err);

	a->kind = "hyperv-xml";
	if (!rc)
		rc = hv_hyperv_describe(a, path, &t.keys, err);
	hv_keys_free(&t.keys);
	return rc;
}
