/*
 * hvmigrate info: what an image says of itself, and with --chain what its parents say. Without it no other
 * image is opened: an image whose parent is far away can be looked at too.
 */
#include <stdlib.h>
#include <string.h>

#include "hvmigrate.h"

#define CHS_MAX 80

/* --- text ------------------------------------------------------------------------------------------------- */

/* Two columns: the widest key decides, so all is counted before it is printed. */
struct table {
	struct hv_disk_property *row; /* values are owned */
	size_t rows, capacity;
};

static void add(struct table *t, const char *key, const char *value)
{
	if (t->rows == t->capacity) {
		size_t capacity = t->capacity ? 2 * t->capacity : 32;
		struct hv_disk_property *more = realloc(t->row, capacity * sizeof(*more));

		if (!more)
			return;
		t->row = more;
		t->capacity = capacity;
	}
	t->row[t->rows++] = (struct hv_disk_property){key, strdup(value)};
}

static void add_size(struct table *t, const char *key, uint64_t bytes)
{
	char text[HVM_SIZE_MAX];

	add(t, key, hvm_size(bytes, text));
}

static void print_table(struct table *t, unsigned indent)
{
	size_t width = 0;

	for (size_t i = 0; i < t->rows; i++)
		width = strlen(t->row[i].key) > width ? strlen(t->row[i].key) : width;
	for (size_t i = 0; i < t->rows; i++) {
		bool again = i > 0 && !strcmp(t->row[i].key, t->row[i - 1].key);

		printf("%*s%-*s  ", (int)indent, "", (int)width, again ? "" : t->row[i].key);
		if (t->row[i].value)
			hvm_put(stdout, t->row[i].value);
		putchar('\n');
		free((void *)t->row[i].value);
	}
	free(t->row);
}

static void add_shape(struct table *t, const struct hv_disk_info *info)
{
	char text[CHS_MAX];

	if (info->physical_sector_size && info->physical_sector_size != info->sector_size)
		snprintf(text, sizeof(text), "%u bytes, physical %u", info->sector_size,
			 info->physical_sector_size);
	else
		snprintf(text, sizeof(text), "%u bytes", info->sector_size);
	add(t, "sectors", text);
	if (info->block_size)
		add_size(t, "blocks", info->block_size);
	if (info->cylinders && info->sectors) {
		snprintf(text, sizeof(text), "%u cylinders, %u heads, %u sectors a track", info->cylinders,
			 info->heads, info->sectors);
		add(t, "geometry", text);
	}
}

static void print_image(const struct hv_disk *disk, const struct hv_disk_info *info, unsigned indent)
{
	struct table t = {0};
	char words[64];

	add(&t, "image", info->path);
	add(&t, "format", hvm_format_words(info, words, sizeof(words)));
	add_size(&t, "virtual size", info->size);
	if (info->files) {
		add_size(&t, info->files > 1 ? "files together" : "file size", info->file_size);
		add_size(&t, "takes on disk", info->allocated);
	}
	add_shape(&t, info);
	for (const struct hv_disk_property *p = info->properties; p && p->key; p++)
		add(&t, p->key, p->value);
	for (unsigned i = 0; i < info->files && info->files > 1; i++)
		add(&t, "files", hv_disk_file_path(disk, i));
	for (const char *const *n = info->notes; n && *n; n++)
		add(&t, "note", *n);
	print_table(&t, indent);
}

static void print_chain(const struct hv_disk *disk)
{
	unsigned depth = 0;

	for (; disk; disk = hv_disk_parent(disk), depth++) {
		struct hv_disk_info info;
		char words[64], size[HVM_SIZE_MAX];

		hv_disk_info(disk, &info);
		if (depth == 0)
			printf("chain\n");
		printf("%*s", (int)(2 * depth + 2), "");
		hvm_put(stdout, info.path);
		printf("  %s, %s\n", hvm_format_words(&info, words, sizeof(words)),
		       hvm_size(info.size, size));
	}
}

static void print_all(const struct hvm_options *o, const struct hv_disk *disk)
{
	struct hv_disk_info info;

	hv_disk_info(disk, &info);
	print_image(disk, &info, 0);
	if (!o->chain) {
		if (info.has_parent)
			hvm_say(o, "it has a parent; --chain tells of it");
		return;
	}
	for (const struct hv_disk *d = hv_disk_parent(disk); d; d = hv_disk_parent(d)) {
		putchar('\n');
		hv_disk_info(d, &info);
		print_image(d, &info, 0);
	}
	putchar('\n');
	print_chain(disk);
}

/* --- JSON ------------------------------------------------------------------------------------------------- */

static json_t *files_of(const struct hv_disk *disk, const struct hv_disk_info *info)
{
	json_t *files = json_array();

	for (unsigned i = 0; i < info->files; i++)
		json_array_append_new(files, hvm_json_string(hv_disk_file_path(disk, i)));
	return files;
}

/* A key that comes twice (two extents, say) has a list. */
static json_t *properties_of(const struct hv_disk_info *info)
{
	json_t *all = json_object();

	for (const struct hv_disk_property *p = info->properties; p && p->key; p++) {
		json_t *value = hvm_json_string(p->value), *before = json_object_get(all, p->key);

		if (json_is_array(before))
			json_array_append_new(before, value);
		else if (before)
			json_object_set_new(all, p->key, json_pack("[O,o]", before, value));
		else
			json_object_set_new(all, p->key, value);
	}
	return all;
}

static json_t *notes_of(const struct hv_disk_info *info)
{
	json_t *notes = json_array();

	for (const char *const *n = info->notes; n && *n; n++)
		json_array_append_new(notes, hvm_json_string(*n));
	return notes;
}

static json_t *json_of(const struct hv_disk *disk)
{
	struct hv_disk_info info;
	json_t *j;

	hv_disk_info(disk, &info);
	j = json_pack("{s:o,s:s,s:s,s:I}", "path", hvm_json_string(info.path), "format", info.format,
		      "subformat", info.subformat, "virtual-size", (json_int_t)info.size);
	if (info.files) {
		json_object_set_new(j, "file-size", hvm_json_size(info.file_size));
		json_object_set_new(j, "allocated-size", hvm_json_size(info.allocated));
	}
	json_object_set_new(j, "sector-size", hvm_json_size(info.sector_size));
	if (info.physical_sector_size)
		json_object_set_new(j, "physical-sector-size", hvm_json_size(info.physical_sector_size));
	if (info.block_size)
		json_object_set_new(j, "block-size", hvm_json_size(info.block_size));
	if (info.cylinders)
		json_object_set_new(j, "chs",
				    json_pack("[I,I,I]", (json_int_t)info.cylinders, (json_int_t)info.heads,
					      (json_int_t)info.sectors));
	json_object_set_new(j, "files", files_of(disk, &info));
	json_object_set_new(j, "properties", properties_of(&info));
	json_object_set_new(j, "notes", notes_of(&info));
	json_object_set_new(j, "parent", json_boolean(info.has_parent));
	return j;
}

static void print_json(const struct hvm_options *o, const struct hv_disk *disk)
{
	json_t *j = json_of(disk);

	if (o->chain) {
		json_t *chain = json_array();

		for (const struct hv_disk *d = hv_disk_parent(disk); d; d = hv_disk_parent(d))
			json_array_append_new(chain, json_of(d));
		json_object_set_new(j, "chain", chain);
	}
	hvm_json_print(j);
}

int hvm_info(const struct hvm_options *o)
{
	struct hv_disk_options options = hvm_disk_options(o, o->format);
	struct hv_error err = {0};
	struct hv_disk *disk;

	options.alone = !o->chain;
	if (hvm_sandbox(o, &(struct hvm_reach){.image = {o->args[0]}}, &err) ||
	    hvm_open(o, o->args[0], &options, &disk, &err))
		return hvm_fail(o, &err);
	if (o->json)
		print_json(o, disk);
	else
		print_all(o, disk);
	hv_disk_close(disk);
	return HV_EXIT_OK;
}
