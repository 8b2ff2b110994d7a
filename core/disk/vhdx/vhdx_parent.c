/*
 * VHDX: from a differencing file to its parent (MS-VHDX 2.6.2.6). The locator is a list of keys and values.
 * Paths are tried in the order that the specification gives: relative, volume, absolute; and at last the
 * parent's bare name in the child's own folder, where files moved from Windows mostly lie. Any file may be
 * tried, as only one whose DataWriteGuid is the locator's is taken.
 */
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#include "base/bytes.h"
#include "disk/chain.h"
#include "disk/vhdx/vhdx.h"

static const uint8_t locator_type[16] = {0xb7, 0xef, 0x4a, 0xb0, 0x9e, 0xd1, 0x81, 0x4a,
					 0xb7, 0x89, 0x25, 0xb8, 0xe9, 0x44, 0x59, 0x13};

enum { RELATIVE, VOLUME, ABSOLUTE, LINKAGE, LINKAGE2, KEYS };

static const char *const key_names[KEYS] = {
	[RELATIVE] = "relative_path", [VOLUME] = "volume_path",       [ABSOLUTE] = "absolute_win32_path",
	[LINKAGE] = "parent_linkage", [LINKAGE2] = "parent_linkage2",
};

struct locator {
	char *value[KEYS]; /* owned; NULL: not there */
	uint8_t id[2][16];
	bool has_id[2];
};

static void free_values(struct locator *l)
{
	for (unsigned i = 0; i < KEYS; i++)
		free(l->value[i]);
}

/* One entry of the table; keys that are not known are passed over. */
static int take_pair(struct hv_disk *d, const uint8_t *bytes, size_t length, unsigned index,
		     struct locator *l, struct hv_error *err)
{
	const uint8_t *entry = bytes + 20 + (size_t)index * 12;
	uint32_t key_at = hv_le32(entry), value_at = hv_le32(entry + 4);
	uint16_t key_length = hv_le16(entry + 8), value_length = hv_le16(entry + 10);
	char *key, *value;

	if (!hv_inside(key_at, key_length, length) || !hv_inside(value_at, value_length, length) ||
	    key_length == 0 || key_length % 2 || value_length % 2)
		return hv_fail_unsafe(err,
				      "%s: pair %u of the parent locator has its key at %u with %u bytes and "
				      "its value at %u with %u; the locator has %zu bytes",
				      d->path, index, key_at, key_length, value_at, value_length, length);
	key = hv_vhdx_text(bytes + key_at, key_length);
	value = hv_vhdx_text(bytes + value_at, value_length);
	if (!key || !value) {
		free(key);
		free(value);
		return hv_fail(err, ENOMEM, "%s: out of memory", d->path);
	}
	for (unsigned i = 0; i < KEYS; i++) {
		if (strcmp(key, key_names[i]) != 0)
			continue;
		if (l->value[i]) {
			free(key);
			free(value);
			return hv_fail_unsafe(err, "%s: the parent locator has the key \"%s\" twice", d->path,
					      key_names[i]);
		}
		l->value[i] = value;
		value = NULL;
		break;
	}
	free(value); /* NULL when the locator has it now */
	free(key);
	return 0;
}

static int parse(struct hv_disk *d, const uint8_t *bytes, size_t length, struct locator *l,
		 struct hv_error *err)
{
	char text[VHDX_GUID_TEXT];
	unsigned count;
	int rc = 0;

	if (length < 20)
		return hv_fail_unsafe(err, "%s: the parent locator has %zu bytes; at least 20 are expected",
				      d->path, length);
	if (!hv_vhdx_guid_is(bytes, locator_type))
		return hv_fail(err, ENOTSUP,
			       "%s: its parent is named by a locator of type %s; only VHDX files can be "
			       "parents here",
			       d->path, hv_vhdx_guid_text(bytes, text));
	count = hv_le16(bytes + 18);
	if (!hv_inside(20, (uint64_t)count * 12, length))
		return hv_fail_unsafe(err, "%s: the parent locator has %u pairs, but only %zu bytes", d->path,
				      count, length);
	for (unsigned i = 0; i < count && rc == 0; i++)
		rc = take_pair(d, bytes, length, i, l, err);
	return rc;
}

/* "{83ed0ec3-24c8-49a6-a959-5e4bf1288bfb}", in any case. */
static bool parse_guid(const char *text, uint8_t guid[16])
{
	unsigned a, b[10];
	int end = 0;

	if (strlen(text) != VHDX_GUID_TEXT - 1 || strspn(text + 1, "0123456789abcdefABCDEF-") != 36 ||
	    sscanf(text, "{%8x-%4x-%4x-%2x%2x-%2x%2x%2x%2x%2x%2x}%n", &a, &b[0], &b[1], &b[2], &b[3], &b[4],
		   &b[5], &b[6], &b[7], &b[8], &b[9], &end) != 11 ||
	    end != VHDX_GUID_TEXT - 1)
		return false;
	hv_put_le32(guid, a);
	hv_put_le16(guid + 4, (uint16_t)b[0]);
	hv_put_le16(guid + 6, (uint16_t)b[1]);
	for (unsigned i = 0; i < 8; i++)
		guid[8 + i] = (uint8_t)b[2 + i];
	return true;
}

static int take_linkage(struct hv_disk *d, struct locator *l, struct hv_error *err)
{
	for (unsigned i = 0; i < 2; i++) {
		const char *text = l->value[LINKAGE + i];

		l->has_id[i] = text && parse_guid(text, l->id[i]);
		if (text && !l->has_id[i])
			return hv_fail_unsafe(err,
					      "%s: the parent locator's %s is \"%.60s\"; a GUID in braces is "
					      "expected",
					      d->path, key_names[LINKAGE + i], text);
	}
	if (!l->has_id[0] && !l->has_id[1])
		return hv_fail_unsafe(
			err, "%s: the parent locator has no parent_linkage, by which the parent is known",
			d->path);
	return 0;
}

static bool is_wanted(const struct locator *l, const uint8_t *id)
{
	return (l->has_id[0] && hv_vhdx_guid_is(id, l->id[0])) ||
	       (l->has_id[1] && hv_vhdx_guid_is(id, l->id[1]));
}

static int wrong_parent(struct hv_disk *d, const struct locator *l, const char *path, const uint8_t *id,
			struct hv_error *err)
{
	char is[VHDX_GUID_TEXT], want[VHDX_GUID_TEXT];

	return hv_fail_unsafe(
		err,
		"%s: the parent %s holds data id %s, but %s is expected: it was changed after the "
		"child was made, or is another disk",
		d->path, path, hv_vhdx_guid_text(id, is),
		hv_vhdx_guid_text(l->id[l->has_id[0] ? 0 : 1], want));
}

/*
 * Is the file of that name the parent? Looked at before it is opened with its own parents: each place would
 * be tried again by each child above, and a circle would never be through.
 */
static int peek(struct hv_disk *d, const struct locator *l, const char *name, struct hv_error *err)
{
	struct hv_vhdx_header header;
	struct hv_disk_file *f;
	int rc = hv_disk_policy_open(d, name, false, &f, err);

	if (rc < 0)
		return rc;
	if (!hv_vhdx_current_header(f, &header))
		rc = hv_fail_unsafe(err, "%s: its parent %s has no intact VHDX header", d->path, f->path);
	else if (!is_wanted(l, header.data_write))
		rc = wrong_parent(d, l, f->path, header.data_write, err);
	hv_disk_file_free(f);
	return rc;
}

/* The one that peek has seen, with its chain. */
static int open_found(struct hv_disk *d, const struct locator *l, const char *name, struct hv_error *err)
{
	int rc = hv_disk_open_parent(d, name, "vhdx", err);
	const struct hv_vhdx *p;

	if (rc < 0)
		return rc;
	p = d->parent->state;
	if (!is_wanted(l, p->header.data_write))
		rc = wrong_parent(d, l, d->parent->path, p->header.data_write, err);
	else if (d->parent->sector_size != d->sector_size)
		rc = hv_fail_unsafe(err, "%s: its sectors have %u bytes, those of its parent %s have %u",
				    d->path, d->sector_size, d->parent->path, d->parent->sector_size);
	return rc;
}

/* The n-th place where the parent could be, fresh; NULL: there is none. */
static char *candidate(const struct locator *l, unsigned n)
{
	const char *value = NULL, *slash;
	char *turned, *name;
	bool relative;

	if (n < LINKAGE)
		value = l->value[n];
	for (unsigned i = 0; n == LINKAGE && i < LINKAGE && !value; i++)
		value = l->value[i];
	if (!value || !value[0])
		return NULL;
	if (n == LINKAGE)
		return strdup(hv_disk_base_name(value));
	turned = hv_disk_windows_name(value, &relative);
	if (!turned || n != VOLUME)
		return turned;
	/* "Volume{...}/folder/file": the volume itself has no name here. */
	slash = strchr(turned, '/');
	name = slash ? strdup(slash) : NULL;
	free(turned);
	return name;
}

static int not_found(struct hv_disk *d, const struct locator *l, struct hv_error *err)
{
	for (unsigned i = 0; i < LINKAGE; i++)
		if (l->value[i])
			return hv_fail(
				err, ENOENT,
				"%s: its parent \"%.200s\" is not there, nor is a file of that name in "
				"its own folder",
				d->path, l->value[i]);
	return hv_fail_unsafe(err, "%s: the parent locator has no path to the parent", d->path);
}

/* Each place in turn. What is wrong with a file that is there is told rather than that others aren't. */
static int search(struct hv_disk *d, const struct locator *l, struct hv_error *err)
{
	struct hv_error first = {0}, now = {0};
	int kept = 0;

	for (unsigned n = 0; n <= LINKAGE; n++) {
		char *name = candidate(l, n);
		int rc;

		if (!name)
			continue;
		rc = peek(d, l, name, &now);
		if (rc == 0) {
			rc = open_found(d, l, name, err);
			free(name);
			return rc;
		}
		free(name);
		if (rc != -ENOENT && rc != -ENOTDIR && !kept) {
			kept = rc;
			first = now;
		}
	}
	if (!kept)
		return not_found(d, l, err);
	if (err)
		*err = first;
	return kept;
}

int hv_vhdx_open_parent(struct hv_disk *d, const uint8_t *bytes, size_t length, struct hv_error *err)
{
	struct locator l = {0};
	int rc = parse(d, bytes, length, &l, err);

	if (rc == 0)
		rc = take_linkage(d, &l, err);
	for (unsigned i = 0; i < KEYS && rc == 0; i++)
		if (l.value[i])
			hv_disk_property(d, i < LINKAGE ? "parent" : "parent id", "%s", l.value[i]);
	if (rc == 0 && !d->options.alone)
		rc = search(d, &l, err);
	free_values(&l);
	return rc;
}
