/*
 * See make_appliance.h.
 */
#include <nettle/sha1.h>
#include <nettle/sha2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "make_appliance.h"

void bytes_zero(struct bytes *b, size_t length)
{
	if (b->length + length > b->room) {
		b->room = 2 * (b->length + length) + 512;
		b->data = realloc(b->data, b->room);
		if (!b->data)
			abort();
	}
	memset(b->data + b->length, 0, length);
	b->length += length;
}

void bytes_put(struct bytes *b, const void *data, size_t length)
{
	bytes_zero(b, length);
	if (length)
		memcpy(b->data + b->length - length, data, length);
}

/* --- tar --- */

void tar_add_type(struct bytes *tar, const char *name, const void *data, size_t length, char type,
		  const char *target)
{
	char h[513] = "";
	unsigned sum = 0;

	snprintf(h, 100, "%s", name);
	snprintf(h + 100, 8, "%07o", 0644);
	snprintf(h + 108, 8, "%07o", 0);
	snprintf(h + 116, 8, "%07o", 0);
	snprintf(h + 124, 12, "%011llo", (unsigned long long)length);
	snprintf(h + 136, 12, "%011o", 0);
	memset(h + 148, ' ', 8);
	h[156] = type;
	snprintf(h + 157, 100, "%s", target ? target : "");
	memcpy(h + 257, "ustar\00000", 8);
	for (unsigned i = 0; i < 512; i++)
		sum += (unsigned char)h[i];
	snprintf(h + 148, 8, "%06o", sum);
	h[155] = ' ';
	bytes_put(tar, h, 512);
	bytes_put(tar, data, length);
	bytes_zero(tar, (512 - length % 512) % 512);
}

void tar_add(struct bytes *tar, const char *name, const void *data, size_t length)
{
	tar_add_type(tar, name, data, length, '0', NULL);
}

void tar_end(struct bytes *tar)
{
	bytes_zero(tar, 1024);
}

/* --- manifests --- */

void manifest_add(struct bytes *manifest, const char *algorithm, const char *name, const void *data,
		  size_t length)
{
	uint8_t digest[SHA512_DIGEST_SIZE];
	unsigned size = SHA1_DIGEST_SIZE;
	char line[512];
	int n;

	if (!strcmp(algorithm, "SHA256")) {
		struct sha256_ctx c;

		sha256_init(&c);
		sha256_update(&c, length, data);
		sha256_digest(&c, size = SHA256_DIGEST_SIZE, digest);
	} else if (!strcmp(algorithm, "SHA512")) {
		struct sha512_ctx c;

		sha512_init(&c);
		sha512_update(&c, length, data);
		sha512_digest(&c, size = SHA512_DIGEST_SIZE, digest);
	} else {
		struct sha1_ctx c;

		sha1_init(&c);
		sha1_update(&c, length, data);
		sha1_digest(&c, size, digest);
	}
	n = snprintf(line, sizeof(line), "%s(%s)= ", algorithm, name);
	for (unsigned i = 0; i < size; i++)
		n += snprintf(line + n, sizeof(line) - (size_t)n, "%02x", digest[i]);
	n += snprintf(line + n, sizeof(line) - (size_t)n, "\n");
	bytes_put(manifest, line, (size_t)n);
}

/* --- VMCX --- */

static void new_table(struct vmcx_writer *w)
{
	uint8_t head[10] = {2, 0};

	hv_put_le16(head + 2, (uint16_t)(w->tables + 1));
	hv_put_le16(head + 4, 1);
	w->current = w->tables++;
	bytes_put(&w->table[w->current], head, sizeof(head));
}

void vmcx_begin(struct vmcx_writer *w)
{
	*w = (struct vmcx_writer){.version = 0x400};
	new_table(w);
}

static struct vmcx_key add(struct vmcx_writer *w, struct vmcx_key parent, const char *name, uint16_t type,
			   const void *value, size_t length)
{
	struct bytes *t = &w->table[w->current];
	struct vmcx_key key;
	uint8_t head[21] = {0};
	size_t name_size = strlen(name) + 1;

	if (t->length > 3000 && w->tables < 8) { /* several tables, as in a real file */
		new_table(w);
		t = &w->table[w->current];
	}
	key = (struct vmcx_key){(uint16_t)(w->current + 1), (uint32_t)t->length};
	hv_put_le16(head, type);
	hv_put_le32(head + 2, (uint32_t)(sizeof(head) + name_size + length));
	hv_put_le16(head + 6, parent.table);
	hv_put_le32(head + 8, parent.at);
	head[20] = (uint8_t)name_size;
	bytes_put(t, head, sizeof(head));
	bytes_put(t, name, name_size);
	bytes_put(t, value, length);
	return key;
}

struct vmcx_key vmcx_node(struct vmcx_writer *w, struct vmcx_key parent, const char *name)
{
	return add(w, parent, name, 9, "\0\0\0\0\0\0\0\0\0\0\0", 12);
}

/* Plain ASCII; long ones go to an object of their own, as from 2 KiB on. */
void vmcx_string(struct vmcx_writer *w, struct vmcx_key parent, const char *name, const char *value)
{
	size_t units = strlen(value) + 1;
	struct bytes text = {0};
	uint8_t unit[2], place[12];

	for (size_t i = 0; i < units; i++) {
		hv_put_le16(unit, (uint8_t)value[i]);
		bytes_put(&text, unit, 2);
	}
	hv_put_le32(place, (uint32_t)text.length);
	if (text.length >= 0x800 && w->files < 4) {
		hv_put_le64(place + 4, 0x100000u + 0x10000u * w->files);
		w->file_at[w->files] = 0x100000u + 0x10000u * w->files;
		w->file[w->files++] = text;
		add(w, parent, name, 0x106, place, 12);
		return;
	}
	unit[0] = 0;
	{
		struct bytes whole = {0};

		bytes_put(&whole, place, 4);
		bytes_put(&whole, text.data, text.length);
		add(w, parent, name, 6, whole.data, whole.length);
		free(whole.data);
	}
	free(text.data);
}

void vmcx_int(struct vmcx_writer *w, struct vmcx_key parent, const char *name, int64_t value)
{
	uint8_t v[8];

	hv_put_le64(v, (uint64_t)value);
	add(w, parent, name, 3, v, sizeof(v));
}

void vmcx_bool(struct vmcx_writer *w, struct vmcx_key parent, const char *name, int value)
{
	uint8_t v[4];

	hv_put_le32(v, (uint32_t)value);
	add(w, parent, name, 8, v, sizeof(v));
}

/* The node of that name below parent, looked for in what has been written. */
static struct vmcx_key child(struct vmcx_writer *w, struct vmcx_key parent, const char *name)
{
	for (unsigned t = 0; t < w->tables; t++) {
		for (size_t at = 10; at < w->table[t].length; at += hv_le32(w->table[t].data + at + 2)) {
			const uint8_t *e = w->table[t].data + at;

			if (e[0] == 9 && hv_le16(e + 6) == parent.table && hv_le32(e + 8) == parent.at &&
			    !strcmp((const char *)e + 21, name))
				return (struct vmcx_key){(uint16_t)(t + 1), (uint32_t)at};
		}
	}
	return vmcx_node(w, parent, name);
}

struct vmcx_key vmcx_path(struct vmcx_writer *w, const char *path)
{
	struct vmcx_key key = {0, 0};
	char copy[512], *save = NULL;

	snprintf(copy, sizeof(copy), "%s", path);
	for (char *part = strtok_r(copy, "/", &save); part; part = strtok_r(NULL, "/", &save))
		key = child(w, key, part);
	return key;
}

static void put_at(struct bytes *out, uint64_t at, const void *data, size_t length)
{
	if (out->length < at + length)
		bytes_zero(out, (size_t)(at + length - out->length));
	memcpy(out->data + at, data, length);
}

static void put_object(struct bytes *out, unsigned index, uint8_t type, uint64_t at, size_t size)
{
	uint8_t o[18] = {type};

	hv_put_le64(o + 5, at);
	hv_put_le32(o + 13, (uint32_t)size);
	o[17] = 1;
	put_at(out, 0x2008u + 18u * index, o, sizeof(o));
}

struct bytes vmcx_end(struct vmcx_writer *w)
{
	struct bytes out = {0};
	uint8_t header[46] = {0}, log[34] = {0}, objects[8];
	unsigned n = 0;

	hv_put_le32(header, 0x01282014);
	hv_put_le16(header + 8, 2);
	hv_put_le32(header + 10, w->version);
	hv_put_le32(header + 22, 0x1000);
	hv_put_le64(header + 26, 0x3000);
	hv_put_le64(header + 34, 0x1000);
	hv_put_le32(header + 42, 0x1000);
	put_at(&out, 0, header, sizeof(header));
	hv_put_le16(header + 8, 1);
	put_at(&out, 0x1000, header, sizeof(header));
	hv_put_le32(log, 0x01110003);
	hv_put_le32(log + 8, w->pending);
	put_at(&out, 0x3000, log, sizeof(log));
	hv_put_le32(objects, 0x01110001);
	hv_put_le32(objects + 4, w->tables + w->files + 1);
	put_at(&out, 0x2000, objects, sizeof(objects));
	for (unsigned t = 0; t < w->tables; t++) {
		uint64_t at = 0x4000 + 0x8000u * t;

		bytes_zero(&w->table[t], 64); /* a size of 0 ends the keys */
		put_at(&out, at, w->table[t].data, w->table[t].length);
		put_object(&out, n++, 2, at, w->table[t].length);
	}
	for (unsigned f = 0; f < w->files; f++) {
		put_at(&out, w->file_at[f], w->file[f].data, w->file[f].length);
		put_object(&out, n++, 3, w->file_at[f], w->file[f].length);
	}
	put_object(&out, n, 6, 0x3000, 0x1000);
	for (unsigned i = 0; i < 8; i++)
		free(w->table[i].data);
	for (unsigned i = 0; i < w->files; i++)
		free(w->file[i].data);
	return out;
}
