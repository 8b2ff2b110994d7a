/*
 * VMCX, the binary configuration of a Hyper-V machine since 2016: a small store of keys and values. Microsoft
 * has not described it; the layout is as others found it out (fox-it's dissect.hypervisor): two headers of
 * which the one with the higher sequence number counts, a replay log, a table of objects at 0x2000, and key
 * tables whose entries point to their parents by table and offset. How its checksums are made is not known,
 * so they are not checked; everything that they guard is, against the file.
 *
 * The tree becomes paths, which hyperv.c reads. Little-endian throughout.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "disk/appliance/appliance_impl.h"

#define HEADER_MAGIC  0x01282014u
#define LOG_MAGIC     0x01110003u
#define OBJECTS_MAGIC 0x01110001u
#define KEYS_MAGIC    0x0002u
#define HEADER_SIZE   46u
#define SECOND_HEADER 0x1000u
#define OBJECTS_AT    0x2000u
#define OBJECT_SIZE   18u
#define KEYS_HEAD     10u /* of a key table */
#define ENTRY_HEAD    21u
#define VERSION       0x0400u
#define TABLES_MAX    256u
#define OBJECT_TABLES 64u
#define OBJECTS_MAX   8192u /* of a table */
#define FILES_MAX     1024u /* values that have an object of their own */
#define ENTRIES_MAX   65536u
#define NESTING_MAX   32u
#define VALUE_MAX     (64u << 10)

enum object { OBJECT_TABLE = 1, OBJECT_KEYS = 2, OBJECT_FILE = 3 };

enum type {
	TYPE_FREE = 1,
	TYPE_INT = 3,
	TYPE_UINT = 4,
	TYPE_DOUBLE = 5,
	TYPE_STRING = 6,
	TYPE_ARRAY = 7,
	TYPE_BOOL = 8,
	TYPE_NODE = 9,
};

/* A key: where its parent is, its name, its value's bytes. */
struct entry {
	uint16_t table, parent_table;
	uint32_t at, parent_at; /* offset in its table */
	uint8_t type;
	bool elsewhere; /* the value is in a file object */
	const char *name;
	uint32_t name_length, value_length;
	const uint8_t *value;
};

struct keys_table {
	uint16_t index, sequence;
	uint64_t at;
	uint32_t size;
};

struct vmcx {
	struct hv_appliance *a;
	const char *path;
	const uint8_t *data;
	uint64_t size;
	struct hv_error *err;
	struct keys_table table[TABLES_MAX];
	struct entry *entry;
	unsigned tables, entries, room;
	uint64_t object_table[OBJECT_TABLES];
	unsigned object_tables, files;
	struct hv_keys keys;
};

static int damaged(const struct vmcx *v, uint64_t at, const char *what)
{
	return hv_fail_unsafe(v->err, "%s: %s, at byte %llu", v->path, what, (unsigned long long)at);
}

bool hv_vmcx_probe(const char *data, size_t length)
{
	return (length >= 4 && hv_le32(data) == HEADER_MAGIC) ||
	       (length >= SECOND_HEADER + 4 && hv_le32(data + SECOND_HEADER) == HEADER_MAGIC);
}

/* --- header and log --- */

static const uint8_t *active_header(const struct vmcx *v)
{
	const uint8_t *active = NULL;

	for (uint64_t at = 0; at <= SECOND_HEADER; at += SECOND_HEADER) {
		const uint8_t *h = v->data + at;

		if (hv_inside(at, HEADER_SIZE, v->size) && hv_le32(h) == HEADER_MAGIC &&
		    (!active || hv_le16(h + 8) > hv_le16(active + 8)))
			active = h;
	}
	return active;
}

/* What the log holds has not reached the tables. An export is shut down in order: its log is empty. */
static int check_log(struct vmcx *v, uint64_t at)
{
	uint32_t pending;

	if (!hv_inside(at, 34, v->size) || hv_le32(v->data + at) != LOG_MAGIC)
		return damaged(v, at, "the replay log should start, and doesn't");
	pending = hv_le32(v->data + at + 8);
	if (pending == 0)
		return 0;
	if (!v->a->options.salvage)
		return hv_fail(
			v->err, ENOTSUP,
			"%s: its replay log holds %u changes that have not reached its tables; let Hyper-V "
			"export the machine, or take it as it is with --salvage",
			v->path, pending);
	return hv_appliance_note(v->a, "%s: %u changes in its replay log are left out", v->path, pending)
		       ? hv_fail(v->err, ENOMEM, "%s: no memory for a note", v->path)
		       : 0;
}

/* --- objects --- */

static int add_table(struct vmcx *v, uint64_t at, uint32_t size)
{
	struct keys_table *t;
	uint16_t index, sequence;

	if (!hv_inside(at, size, v->size) || size < KEYS_HEAD || hv_le16(v->data + at) != KEYS_MAGIC)
		return damaged(v, at,
			       "a key table should start, and doesn't, or it does not fit into the file");
	index = hv_le16(v->data + at + 2);
	sequence = hv_le16(v->data + at + 4);
	for (unsigned i = 0; i < v->tables; i++) {
		t = &v->table[i];
		if (t->index != index)
			continue;
		if (t->sequence < sequence)
			*t = (struct keys_table){index, sequence, at, size};
		return 0;
	}
	if (v->tables == TABLES_MAX)
		return damaged(v, at, "there are more key tables than any machine has");
	v->table[v->tables++] = (struct keys_table){index, sequence, at, size};
	return 0;
}

static int add_object_table(struct vmcx *v, uint64_t at)
{
	for (unsigned i = 0; i < v->object_tables; i++)
		if (v->object_table[i] == at)
			return damaged(v, at, "an object table names itself");
	if (v->object_tables == OBJECT_TABLES)
		return damaged(v, at, "there are more object tables than any machine has");
	v->object_table[v->object_tables++] = at;
	return 0;
}

static int read_objects(struct vmcx *v, uint64_t at)
{
	uint32_t count;
	int rc = 0;

	if (!hv_inside(at, 8, v->size) || hv_le32(v->data + at) != OBJECTS_MAGIC)
		return damaged(v, at, "an object table should start, and doesn't");
	count = hv_le32(v->data + at + 4);
	if (count > OBJECTS_MAX || !hv_inside(at + 8, (uint64_t)count * OBJECT_SIZE, v->size))
		return damaged(v, at, "the object table does not fit into the file");
	for (uint32_t i = 0; i < count && !rc; i++) {
		const uint8_t *o = v->data + at + 8 + (uint64_t)i * OBJECT_SIZE;

		if (!o[17])
			continue;
		if (o[0] == OBJECT_KEYS)
			rc = add_table(v, hv_le64(o + 5), hv_le32(o + 13));
		else if (o[0] == OBJECT_TABLE)
			rc = add_object_table(v, hv_le64(o + 5));
	}
	return rc;
}

/* A value of 2 KiB or more has an object of its own; one of the object tables must have it. */
static bool is_file_object(const struct vmcx *v, uint64_t at, uint32_t size)
{
	for (unsigned t = 0; t < v->object_tables; t++) {
		const uint8_t *o = v->data + v->object_table[t] + 8;
		uint32_t count = hv_le32(o - 4);

		for (; count > 0; count--, o += OBJECT_SIZE)
			if (o[17] && o[0] == OBJECT_FILE && hv_le64(o + 5) == at && size <= hv_le32(o + 13))
				return hv_inside(at, size, v->size);
	}
	return false;
}

/* --- entries --- */

static struct entry *new_entry(struct vmcx *v, uint64_t at)
{
	if (v->entries == ENTRIES_MAX) {
		damaged(v, at, "there are more keys than any machine has");
		return NULL;
	}
	if (v->entries == v->room) {
		unsigned room = v->room ? 2 * v->room : 256;
		struct entry *grown = reallocarray(v->entry, room, sizeof(*grown));

		if (!grown) {
			hv_fail(v->err, ENOMEM, "%s: no memory for its keys", v->path);
			return NULL;
		}
		v->entry = grown;
		v->room = room;
	}
	return &v->entry[v->entries++];
}

static int read_entry(struct vmcx *v, const struct keys_table *t, uint32_t at, uint32_t size)
{
	const uint8_t *p = v->data + t->at + at;
	uint8_t value_at = p[20], type = p[0];
	struct entry *e;

	if (type == TYPE_FREE)
		return 0;
	if (type < TYPE_INT || type > TYPE_NODE)
		return damaged(v, t->at + at, "a key has a type that is not known");
	if (value_at == 0 || value_at > size - ENTRY_HEAD || p[ENTRY_HEAD + value_at - 1] != 0)
		return damaged(v, t->at + at, "a key's name does not end inside the key");
	e = new_entry(v, t->at + at);
	if (!e)
		return v->err->code;
	*e = (struct entry){
		.table = t->index,
		.at = at,
		.parent_table = hv_le16(p + 6),
		.parent_at = hv_le32(p + 8),
		.type = type,
		.elsewhere = p[1] & 1,
		.name = (const char *)p + ENTRY_HEAD,
		.name_length = value_at - 1u,
		.value = p + ENTRY_HEAD + value_at,
		.value_length = size - ENTRY_HEAD - value_at,
	};
	return 0;
}

static int read_table(struct vmcx *v, const struct keys_table *t)
{
	uint32_t at = KEYS_HEAD;

	while (t->size - at >= ENTRY_HEAD) {
		uint32_t size = hv_le32(v->data + t->at + at + 2);
		int rc;

		if (size == 0)
			break;
		if (size < ENTRY_HEAD || size > t->size - at)
			return damaged(v, t->at + at, "a key does not fit into its table");
		rc = read_entry(v, t, at, size);
		if (rc)
			return rc;
		at += size;
	}
	return 0;
}

static int compare(const void *a, const void *b)
{
	const struct entry *x = a, *y = b;

	if (x->table != y->table)
		return x->table < y->table ? -1 : 1;
	return x->at < y->at ? -1 : x->at > y->at;
}

/* --- values and paths --- */

static const struct entry *parent_of(const struct vmcx *v, const struct entry *e)
{
	const struct entry key = {.table = e->parent_table, .at = e->parent_at};

	return bsearch(&key, v->entry, v->entries, sizeof(key), compare);
}

/* The key's path, "configuration/properties/name", written from its end; *from is where it starts. */
static int path_of(struct vmcx *v, const struct entry *e, char *buf, size_t size, size_t *from)
{
	uint64_t at = (uint64_t)((const uint8_t *)e->name - v->data);
	size_t n = size;

	*from = size;
	for (unsigned level = 0;; level++) {
		if (level == NESTING_MAX)
			return damaged(v, at, "a key's parents do not end");
		if (e->name_length + 1u > n)
			return damaged(v, at, "a key's path is longer than any machine's");
		n -= e->name_length;
		memcpy(buf + n, e->name, e->name_length);
		if (e->parent_table == 0)
			break;
		e = parent_of(v, e);
		if (!e || e->type != TYPE_NODE)
			return damaged(v, at, "a key's parent is no node");
		buf[--n] = '/';
	}
	*from = n;
	return 0;
}

/* UTF-16 to UTF-8; what is no character becomes '?'. out has room for 3 bytes a unit. */
static size_t to_utf8(const uint8_t *in, size_t units, char *out)
{
	size_t n = 0;

	for (size_t i = 0; i < units; i++) {
		uint32_t c = hv_le16(in + 2 * i);

		if (c >= 0xd800 && c < 0xdc00 && i + 1 < units) {
			uint32_t low = hv_le16(in + 2 * i + 2);

			if (low >= 0xdc00 && low < 0xe000) {
				c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
				i++;
			}
		}
		if (c == 0)
			break;
		if (c < 0x80) {
			out[n++] = (char)c;
		} else if (c < 0x800) {
			out[n++] = (char)(0xc0 | c >> 6);
			out[n++] = (char)(0x80 | (c & 0x3f));
		} else if (c >= 0xd800 && c < 0xe000) {
			out[n++] = '?';
		} else if (c < 0x10000) {
			out[n++] = (char)(0xe0 | c >> 12);
			out[n++] = (char)(0x80 | (c >> 6 & 0x3f));
			out[n++] = (char)(0x80 | (c & 0x3f));
		} else {
			out[n++] = (char)(0xf0 | c >> 18);
			out[n++] = (char)(0x80 | (c >> 12 & 0x3f));
			out[n++] = (char)(0x80 | (c >> 6 & 0x3f));
			out[n++] = (char)(0x80 | (c & 0x3f));
		}
	}
	return n;
}

/* A string's UTF-16: a length before it, or an object of its own that a size and an offset point to. */
static int string_bytes(struct vmcx *v, const struct entry *e, const uint8_t **bytes, uint32_t *length)
{
	uint64_t at = (uint64_t)(e->value - v->data), where;

	if (e->value_length < (e->elsewhere ? 12u : 4u))
		return damaged(v, at, "a string is cut");
	*length = hv_le32(e->value);
	if (*length > VALUE_MAX) {
		*length = 0; /* more than any key that is read here has: notes, pictures */
		*bytes = e->value;
		return 0;
	}
	if (!e->elsewhere) {
		*bytes = e->value + 4;
		return *length <= e->value_length - 4 ? 0
						      : damaged(v, at, "a string does not fit into its key");
	}
	where = hv_le64(e->value + 4);
	if (v->files++ == FILES_MAX || !is_file_object(v, where, *length))
		return damaged(v, at, "a string points to no object of that size");
	*bytes = v->data + where;
	return 0;
}

static int add_key(struct vmcx *v, const char *path, size_t path_length, const char *value,
		   size_t value_length)
{
	int rc = hv_keys_add(&v->keys, path, path_length, value, value_length, v->err);

	if (rc)
		hv_error_prefix(v->err, "%s", v->path);
	return rc;
}

static int add_string(struct vmcx *v, const struct entry *e, const char *path, size_t path_length)
{
	const uint8_t *bytes = e->value;
	uint32_t length = 0;
	char *text;
	int rc = string_bytes(v, e, &bytes, &length);

	if (rc)
		return rc;
	text = malloc(2UL * length + 4);
	if (!text)
		return hv_fail(v->err, ENOMEM, "%s: no memory for its keys", v->path);
	rc = add_key(v, path, path_length, text, to_utf8(bytes, length / 2, text));
	free(text);
	return rc;
}

static int add_number(struct vmcx *v, const struct entry *e, const char *path, size_t path_length)
{
	char text[32];

	if (e->value_length < (e->type == TYPE_BOOL ? 4u : 8u))
		return damaged(v, (uint64_t)(e->value - v->data), "a number is cut");
	if (e->type == TYPE_BOOL)
		snprintf(text, sizeof(text), "%s", hv_le32(e->value) ? "True" : "False");
	else if (e->type == TYPE_INT)
		snprintf(text, sizeof(text), "%lld", (long long)hv_le64(e->value));
	else
		snprintf(text, sizeof(text), "%llu", (unsigned long long)hv_le64(e->value));
	return add_key(v, path, path_length, text, strlen(text));
}

static int add_keys(struct vmcx *v)
{
	char path[1024];
	int rc = 0;

	for (unsigned i = 0; i < v->entries && !rc; i++) {
		const struct entry *e = &v->entry[i];
		size_t from = 0;

		if (e->type == TYPE_NODE || e->type == TYPE_ARRAY || e->type == TYPE_DOUBLE)
			continue;
		rc = path_of(v, e, path, sizeof(path), &from);
		if (!rc && e->type == TYPE_STRING)
			rc = add_string(v, e, path + from, sizeof(path) - from);
		else if (!rc)
			rc = add_number(v, e, path + from, sizeof(path) - from);
	}
	return rc;
}

static int read_tables(struct vmcx *v)
{
	int rc = add_object_table(v, OBJECTS_AT);

	for (unsigned i = 0; i < v->object_tables && !rc; i++) /* grows under way */
		rc = read_objects(v, v->object_table[i]);
	for (unsigned i = 0; i < v->tables && !rc; i++)
		rc = read_table(v, &v->table[i]);
	if (rc)
		return rc;
	if (v->entries)
		qsort(v->entry, v->entries, sizeof(*v->entry), compare);
	return add_keys(v);
}

static int read_all(struct vmcx *v)
{
	const uint8_t *header = active_header(v);
	int rc;

	if (!header)
		return damaged(v, 0, "neither of the two headers is there");
	if (hv_le32(header + 10) != VERSION)
		return hv_fail(v->err, ENOTSUP, "%s: version 0x%x of this file is not known here, only 0x%x",
			       v->path, hv_le32(header + 10), VERSION);
	rc = check_log(v, hv_le64(header + 26));
	if (rc)
		return rc;
	rc = read_tables(v);
	return rc ? rc : hv_hyperv_describe(v->a, v->path, &v->keys, v->err);
}

int hv_vmcx_read(struct hv_appliance *a, const char *path, const char *data, size_t length,
		 struct hv_error *err)
{
	struct vmcx v = {.a = a, .path = path, .data = (const uint8_t *)data, .size = length, .err = err};
	int rc;

	a->kind = "vmcx";
	rc = read_all(&v);
	free(v.entry);
	hv_keys_free(&v.keys);
	return rc;
}
