/*
 * Parallels: expanding images (.hds, older .hdd), a header, a map with one 32-bit number a block, and the
 * blocks; and the folder around them, whose DiskDescriptor.xml tells which image files make up the disk. The
 * older of the two kinds counts a block's place in sectors, the newer in blocks.
 *
 * A descriptor is followed when it describes a disk without snapshots; one with snapshots is named and
 * refused. Rules: QEMU's docs/interop/parallels (the image) and prl-xml (the descriptor).
 */
#include <expat.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "disk/claims.h"
#include "disk/format.h"
#include "disk/table.h"

#define HEADER_LENGTH  64
#define IN_USE         0x746f6e59U
#define CLOSED         0x312e3276U
#define BLOCK_MAX      (256U << 20)
#define DESCRIPTOR_MAX (1U << 20)
#define PARTS_MAX      256U
#define TEXT_MAX       1024

/* One image file: the whole disk, or the part of a split one. */
struct part {
	uint64_t start, size; /* on the disk, bytes */
	unsigned file;
	uint64_t unit; /* of the map's numbers, bytes */
	uint64_t data_at;
	uint32_t block, entries;
	struct hv_table *map; /* NULL: a plain file, the disk's bytes as they are */
	bool empty;
};

struct parallels {
	struct part *part;
	unsigned parts;
};

static const char magic_old[] = "WithoutFreeSpace", magic_new[] = "WithouFreSpacExt";

static bool is_image(const uint8_t *head)
{
	return memcmp(head, magic_old, 16) == 0 || memcmp(head, magic_new, 16) == 0;
}

/* XML of the right kind, behind a byte order mark and blanks. */
static bool is_descriptor(const uint8_t *head, size_t length)
{
	size_t at = length >= 3 && memcmp(head, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;

	while (at < length && head[at] && strchr(" \t\r\n", head[at]))
		at++;
	return at < length && head[at] == '<' && memmem(head + at, length - at, "<Parallels_disk_image", 21);
}

static int parallels_probe(const struct hv_disk_probe *probe)
{
	if (probe->head_length >= HEADER_LENGTH && is_image(probe->head))
		return 2;
	return is_descriptor(probe->head, probe->head_length) && probe->size <= DESCRIPTOR_MAX ? 1 : 0;
}

/* --- an image file ---------------------------------------------------------------------------------------- */

static int bad(const struct hv_disk_file *f, const char *what, unsigned at, uint64_t value,
	       const char *expected, struct hv_error *err)
{
	return hv_fail_unsafe(err, "%s: the %s at offset %u is %llu; %s", f->path, what, at,
			      (unsigned long long)value, expected);
}

/* Was it closed by whoever wrote it last? It can be read all the same, as far as it was written. */
static int check_closed(struct hv_disk *d, const struct hv_disk_file *f, uint32_t in_use,
			struct hv_error *err)
{
	if (in_use == IN_USE)
		return hv_disk_note(d, "%s was not closed properly: it is marked as in use", f->path);
	if (in_use != CLOSED && in_use != 0)
		return bad(f, "mark of use", 44, in_use, "0, \"v2.1\" or \"Yont\" was expected", err);
	return 0;
}

static int check_layout(const struct hv_disk_file *f, struct part *p, const uint8_t *h, struct hv_error *err)
{
	uint64_t map_end = HEADER_LENGTH + (uint64_t)p->entries * 4, sectors = hv_le64(h + 36);
	bool old = memcmp(h, magic_old, 16) == 0;

	p->data_at = (uint64_t)hv_le32(h + 48) * 512;
	p->unit = old ? 512 : p->block;
	if (old)
		sectors &= UINT32_MAX;
	if (sectors > (uint64_t)p->entries * (p->block / 512))
		return hv_fail_unsafe(err,
				      "%s: the block map has %u entries (offset 32), too few for the disk's "
				      "%llu sectors (offset 36)",
				      f->path, p->entries, (unsigned long long)sectors);
	p->size = sectors * 512;
	if (p->data_at == 0 && old)
		p->data_at = hv_round_up(map_end, 512);
	if (p->data_at < map_end)
		return bad(f, "data's place (in sectors)", 48, p->data_at / 512,
			   "it must lie behind the block map", err);
	if (!old && p->data_at % p->block)
		return bad(f, "data's place (in sectors)", 48, p->data_at / 512,
			   "a whole number of blocks was expected", err);
	return 0;
}

static int open_image(struct hv_disk *d, struct part *p, struct hv_error *err)
{
	struct hv_disk_file *f = d->file[p->file];
	struct hv_table_shape shape = {.file = f, .what = "block map", .at = HEADER_LENGTH, .entry_size = 4};
	uint8_t h[HEADER_LENGTH];
	uint32_t tracks;
	int rc = hv_disk_file_read(f, "header", h, sizeof(h), 0, err);

	if (rc < 0)
		return rc;
	if (!is_image(h))
		return hv_fail_unsafe(err, "%s: no Parallels image: the magic at offset 0 is missing",
				      f->path);
	if (hv_le32(h + 16) != 2)
		return hv_fail(err, ENOTSUP, "%s: Parallels image version %u; 2 is supported", f->path,
			       hv_le32(h + 16));
	tracks = hv_le32(h + 28);
	if (tracks == 0 || tracks > BLOCK_MAX / 512)
		return bad(f, "block size (in sectors)", 28, tracks, "1 to 524288 was expected", err);
	p->block = tracks * 512;
	p->entries = hv_le32(h + 32);
	p->empty = hv_le32(h + 52) & 1;
	d->heads = hv_le32(h + 20);
	d->cylinders = hv_le32(h + 24);
	rc = check_layout(f, p, h, err);
	if (rc == 0)
		rc = check_closed(d, f, hv_le32(h + 44), err);
	if (rc == 0 && hv_le64(h + 56))
		rc = hv_disk_note(d, "%s has a format extension (dirty bitmaps), which is not carried over",
				  f->path);
	shape.entries = p->entries;
	return rc < 0 ? rc : hv_table_new(&shape, &p->map, err);
}

/* --- the descriptor --------------------------------------------------------------------------------------- */

/* What the parser has seen so far. Text is kept for the elements whose text matters. */
struct reading {
	struct hv_disk *d;
	XML_Parser parser;
	char path[256]; /* of the element, "/Parallels_disk_image/StorageData/..." */
	char text[TEXT_MAX];
	size_t length;
	uint64_t sectors, start, end;
	unsigned storages, images; /* images: of the storage at hand */
	bool plain, encrypted, declared;
	char file[TEXT_MAX];
	struct {
		uint64_t start, end;
		bool plain;
		char *file;
	} storage[PARTS_MAX];
	const char *wrong; /* what is damaged, or not supported when unsupported is set */
	bool unsupported;
};

static void stop(struct reading *r, const char *why, bool unsupported)
{
	if (r->wrong)
		return;
	r->wrong = why;
	r->unsupported = unsupported;
	XML_StopParser(r->parser, XML_FALSE);
}

static void on_start(void *ctx, const XML_Char *name, const XML_Char **attributes)
{
	struct reading *r = ctx;
	size_t used = strlen(r->path);

	(void)attributes;
	if (used + strlen(name) + 2 > sizeof(r->path)) {
		stop(r, "its elements are nested too deep", false);
		return;
	}
	snprintf(r->path + used, sizeof(r->path) - used, "/%s", name);
	r->length = 0;
	if (strcmp(r->path, "/Parallels_disk_image/StorageData/Storage") == 0) {
		r->images = 0;
		r->start = r->end = 0;
	}
	if (strcmp(r->path, "/Parallels_disk_image/StorageData/Storage/Image") == 0) {
		r->images++;
		r->plain = false;
		r->file[0] = '\0';
	}
}

static void on_text(void *ctx, const XML_Char *text, int length)
{
	struct reading *r = ctx;

	if (length < 0 || (size_t)length >= sizeof(r->text) - r->length) {
		stop(r, "an element's text is too long", false);
		return;
	}
	memcpy(r->text + r->length, text, (size_t)length);
	r->length += (size_t)length;
}

static bool to_number(const char *text, uint64_t *number)
{
	char *end;

	errno = 0;
	*number = strtoull(text, &end, 10);
	return text[0] >= '0' && text[0] <= '9' && *end == '\0' && errno == 0 && *number <= INT64_MAX / 512;
}

/* The text without the blanks around it. */
static const char *trimmed(struct reading *r)
{
	char *text = r->text;

	while (r->length && strchr(" \t\r\n", text[r->length - 1]))
		r->length--;
	text[r->length] = '\0';
	return text + strspn(text, " \t\r\n");
}

static void end_storage(struct reading *r)
{
	if (r->images != 1) {
		stop(r, r->images ? "it has snapshots" : "a storage has no image", r->images != 0);
	} else if (r->storages == PARTS_MAX) {
		stop(r, "it is split into more than 256 parts", true);
	} else {
		r->storage[r->storages].start = r->start;
		r->storage[r->storages].end = r->end;
		r->storage[r->storages].plain = r->plain;
		r->storage[r->storages].file = strdup(r->file);
		if (!r->storage[r->storages++].file)
			stop(r, "memory is short", true);
	}
}

static void end_image_type(struct reading *r, const char *text)
{
	r->plain = strcmp(text, "Plain") == 0;
	if (!r->plain && strcmp(text, "Compressed") != 0)
		stop(r, "an image is neither \"Compressed\" (expanding) nor \"Plain\"", true);
}

static void on_end(void *ctx, const XML_Char *name)
{
	struct reading *r = ctx;
	static const char root[] = "/Parallels_disk_image",
			  storage[] = "/Parallels_disk_image/StorageData/Storage";
	const char *text = trimmed(r), *below = r->path + sizeof(root) - 1;
	bool fine = true;

	(void)name;
	if (strncmp(r->path, root, sizeof(root) - 1) != 0)
		stop(r, "its first element is not Parallels_disk_image", false);
	else if (strcmp(below, "/Disk_Parameters/Disk_size") == 0)
		fine = to_number(text, &r->sectors);
	else if (strcmp(below, "/Disk_Parameters/Encryption/Engine") == 0)
		r->encrypted = text[strspn(text, "{}0-")] != '\0';
	else if (strcmp(r->path, storage) == 0)
		end_storage(r);
	else if (strncmp(r->path, storage, sizeof(storage) - 1) == 0)
		below = r->path + sizeof(storage) - 1;
	if (strcmp(below, "/Start") == 0)
		fine = to_number(text, &r->start);
	else if (strcmp(below, "/End") == 0)
		fine = to_number(text, &r->end);
	else if (strcmp(below, "/Image/Type") == 0)
		end_image_type(r, text);
	else if (strcmp(below, "/Image/File") == 0)
		snprintf(r->file, sizeof(r->file), "%s", text);
	if (!fine)
		stop(r, "a number of sectors is none", false);
	r->length = 0;
	*strrchr(r->path, '/') = '\0';
}

/* Entities could grow without a limit; a descriptor has none. */
static void on_doctype(void *ctx, const XML_Char *name, const XML_Char *system, const XML_Char *public,
		       int internal)
{
	(void)name, (void)system, (void)public, (void)internal;
	stop(ctx, "it declares a document type", false);
}

static int parse_text(struct hv_disk *d, struct reading *r, const char *text, size_t length,
		      struct hv_error *err)
{
	XML_Parser parser = XML_ParserCreate(NULL);
	enum XML_Status status;
	int rc = 0;

	if (!parser)
		return hv_fail(err, ENOMEM, "%s: out of memory", d->path);
	r->parser = parser;
	XML_SetUserData(parser, r);
	XML_SetElementHandler(parser, on_start, on_end);
	XML_SetCharacterDataHandler(parser, on_text);
	XML_SetStartDoctypeDeclHandler(parser, on_doctype);
	status = XML_Parse(parser, text, (int)length, 1);
	if (r->wrong && r->unsupported)
		rc = hv_fail(err, ENOTSUP, "%s: %s, which is not supported", d->path, r->wrong);
	else if (r->wrong)
		rc = hv_fail_unsafe(err, "%s: line %lu: %s", d->path,
				    (unsigned long)XML_GetCurrentLineNumber(parser), r->wrong);
	else if (status != XML_STATUS_OK)
		rc = hv_fail_unsafe(err, "%s: line %lu: %s", d->path,
				    (unsigned long)XML_GetCurrentLineNumber(parser),
				    XML_ErrorString(XML_GetErrorCode(parser)));
	XML_ParserFree(parser);
	return rc;
}

/* A storage becomes a part: the parts follow each other without a gap. */
static int add_part(struct hv_disk *d, struct reading *r, unsigned i, struct hv_error *err)
{
	struct parallels *s = d->state;
	struct part *p = &s->part[i];
	uint64_t start = i ? r->storage[i - 1].end : 0, end = r->storage[i].end;
	int rc;

	if (r->storage[i].start != start || end <= start || end > r->sectors)
		return hv_fail_unsafe(err,
				      "%s: storage %u covers the sectors %llu to %llu; from %llu to at most "
				      "%llu was expected",
				      d->path, i, (unsigned long long)r->storage[i].start,
				      (unsigned long long)end, (unsigned long long)start,
				      (unsigned long long)r->sectors);
	rc = hv_disk_open_extent(d, r->storage[i].file, false, &p->file, err);
	if (rc < 0)
		return rc;
	s->parts = i + 1;
	if (!r->storage[i].plain)
		rc = open_image(d, p, err);
	else
		p->size = (end - start) * 512;
	if (rc == 0 && r->storage[i].plain && hv_disk_file_size(d->file[p->file]) < p->size)
		rc = hv_fail_unsafe(
			err, "%s: it has %llu bytes; the descriptor says %llu", d->file[p->file]->path,
			(unsigned long long)hv_disk_file_size(d->file[p->file]), (unsigned long long)p->size);
	if (rc == 0 && p->size < (end - start) * 512)
		rc = hv_fail_unsafe(err, "%s: it holds %llu sectors; the descriptor says %llu",
				    d->file[p->file]->path, (unsigned long long)(p->size / 512),
				    (unsigned long long)(end - start));
	p->start = start * 512;
	p->size = (end - start) * 512;
	return rc;
}

static int follow(struct hv_disk *d, struct reading *r, struct hv_error *err)
{
	struct parallels *s = d->state;
	int rc = 0;

	if (r->encrypted)
		return hv_fail(err, ENOTSUP, "%s: the disk is encrypted, which is not supported", d->path);
	if (r->storages == 0 || r->storage[r->storages - 1].end != r->sectors)
		return hv_fail_unsafe(err, "%s: its storages end at sector %llu, the disk at %llu", d->path,
				      (unsigned long long)(r->storages ? r->storage[r->storages - 1].end : 0),
				      (unsigned long long)r->sectors);
	s->part = calloc(r->storages, sizeof(*s->part));
	if (!s->part)
		return hv_fail(err, ENOMEM, "%s: out of memory", d->path);
	for (unsigned i = 0; i < r->storages && rc == 0; i++)
		rc = add_part(d, r, i, err);
	d->size = r->sectors * 512;
	snprintf(d->subformat, sizeof(d->subformat), "%s", r->storages > 1 ? "split" : "bundle");
	return rc;
}

static int open_descriptor(struct hv_disk *d, struct hv_error *err)
{
	uint64_t size = hv_disk_file_size(d->file[0]);
	struct reading *r;
	char *text;
	int rc;

	if (size > DESCRIPTOR_MAX)
		return hv_fail_unsafe(err, "%s: a disk descriptor of %llu bytes; at most 1 MiB was expected",
				      d->path, (unsigned long long)size);
	r = calloc(1, sizeof(*r));
	text = malloc((size_t)size + 1);
	if (!r || !text) {
		free(r);
		free(text);
		return hv_fail(err, ENOMEM, "%s: out of memory", d->path);
	}
	rc = hv_disk_file_read(d->file[0], "descriptor", text, (size_t)size, 0, err);
	if (rc == 0)
		rc = parse_text(d, r, text, (size_t)size, err);
	if (rc == 0)
		rc = follow(d, r, err);
	for (unsigned i = 0; i < r->storages; i++)
		free(r->storage[i].file);
	free(r);
	free(text);
	return rc;
}

/* --- the disk --------------------------------------------------------------------------------------------- */

static int open_alone(struct hv_disk *d, struct hv_error *err)
{
	struct parallels *s = d->state;
	int rc;

	s->part = calloc(1, sizeof(*s->part));
	if (!s->part)
		return hv_fail(err, ENOMEM, "%s: out of memory", d->path);
	s->parts = 1;
	rc = open_image(d, &s->part[0], err);
	d->size = s->part[0].size;
	snprintf(d->subformat, sizeof(d->subformat), "%s", "expanding");
	return rc;
}

static int parallels_open(struct hv_disk *d, struct hv_error *err)
{
	struct parallels *s = calloc(1, sizeof(*s));
	uint8_t head[HEADER_LENGTH];
	int64_t n = hv_disk_file_read_some(d->file[0], head, sizeof(head), 0, err);
	int rc;

	if (!s)
		return hv_fail(err, ENOMEM, "%s: out of memory", d->path);
	d->state = s;
	if (n < 0)
		return (int)n;
	rc = n >= 16 && !is_image(head) && memchr(head, '<', 16) ? open_descriptor(d, err)
								 : open_alone(d, err);
	if (rc == 0)
		d->block_size = s->parts == 1 ? s->part[0].block : 0;
	return rc;
}

static void parallels_close(struct hv_disk *d)
{
	struct parallels *s = d->state;

	for (unsigned i = 0; s && i < s->parts; i++)
		hv_table_free(s->part[i].map);
	if (s)
		free(s->part);
	free(s);
	d->state = NULL;
}

/* The part that holds an offset: they lie side by side in order. */
static struct part *part_at(const struct parallels *s, uint64_t offset)
{
	unsigned low = 0, high = s->parts;

	while (high - low > 1) {
		unsigned middle = low + (high - low) / 2;

		if (s->part[middle].start <= offset)
			low = middle;
		else
			high = middle;
	}
	return &s->part[low];
}

/* NULL, or what is wrong with a number of the map. */
static const char *bad_entry(const struct hv_disk *d, const struct part *p, uint64_t value)
{
	uint64_t at = value * p->unit;

	if (at < p->data_at)
		return "lies before the data";
	if (p->unit != 512 && (at - p->data_at) % p->block)
		return "is no block's start";
	if (at >= hv_disk_file_size(d->file[p->file]))
		return "lies behind the file's end";
	return NULL;
}

static int map_image(struct hv_disk *d, const struct part *p, uint64_t offset, uint64_t length,
		     struct hv_run *run, struct hv_error *err)
{
	uint64_t block = offset / p->block, in_block = offset % p->block, value, count;
	uint64_t left = (in_block + length + p->block - 1) / p->block;
	const char *why;
	int rc = hv_table_get(p->map, block, &value, err);

	if (rc < 0)
		return rc;
	rc = hv_table_run(p->map, block, left, value ? p->block / p->unit : 0, &value, &count, err);
	if (rc < 0)
		return rc;
	run->length = count * p->block - in_block;
	run->kind = value ? HV_RUN_DATA : HV_RUN_HOLE;
	why = value ? bad_entry(d, p, value) : NULL;
	if (why)
		return hv_fail_unsafe(err,
				      "%s: entry %llu of the block map (offset %llu) leads to offset %llu, "
				      "which %s",
				      d->file[p->file]->path, (unsigned long long)block,
				      (unsigned long long)(HEADER_LENGTH + block * 4),
				      (unsigned long long)(value * p->unit), why);
	run->at = value ? value * p->unit + in_block : 0;
	return 0;
}

static int parallels_map(struct hv_disk *d, uint64_t offset, uint64_t length, struct hv_run *run,
			 struct hv_error *err)
{
	struct part *p = part_at(d->state, offset);
	uint64_t in_part = offset - p->start, left = p->size - in_part;
	int rc = 0;

	if (length > left)
		length = left;
	run->offset = offset;
	run->file = p->file;
	if (p->map) {
		rc = map_image(d, p, in_part, length, run, err);
	} else {
		run->kind = HV_RUN_DATA;
		run->length = left;
		run->at = in_part;
	}
	if (run->length > left)
		run->length = left;
	return rc;
}

/* --- checking --------------------------------------------------------------------------------------------- */

static int check_entry(struct hv_disk *d, const struct part *p, struct hv_disk_check *check,
		       struct hv_claims *claims, uint64_t block, uint64_t value, struct hv_error *err)
{
	uint64_t at = value * p->unit, length = p->block, start = block * p->block, where;
	const char *path = d->file[p->file]->path, *why = bad_entry(d, p, value);
	int rc;

	if (start < p->size && length > p->size - start)
		length = p->size - start;
	if (!why && !hv_inside(at, length, hv_disk_file_size(d->file[p->file])))
		why = "is cut off by the file's end";
	check->used++;
	if (why) {
		hv_disk_found(check, HV_CHECK_ERROR,
			      "%s: entry %llu of the block map leads to offset %llu, which %s", path,
			      (unsigned long long)block, (unsigned long long)at, why);
		return 0;
	}
	rc = hv_claim(claims, at, length, &where);
	if (rc == 1)
		hv_disk_found(
			check, HV_CHECK_ERROR,
			"%s: entry %llu of the block map leads to offset %llu, where another block stands",
			path, (unsigned long long)block, (unsigned long long)at);
	return rc < 0 ? hv_fail(err, -rc, "%s: out of memory for the check", path) : 0;
}

static void check_room(struct hv_disk *d, const struct part *p, struct hv_disk_check *check, uint64_t used)
{
	uint64_t size = hv_disk_file_size(d->file[p->file]),
		 room = size > p->data_at ? (size - p->data_at) / p->block : 0;

	if (room > used)
		hv_disk_found(check, HV_CHECK_LEAK, "%s: the file has room for %llu blocks, %llu are used",
			      d->file[p->file]->path, (unsigned long long)room, (unsigned long long)used);
	if (p->empty && used)
		hv_disk_found(check, HV_CHECK_ERROR,
			      "%s: it is marked as empty (bit 0 at offset 52) and has %llu blocks",
			      d->file[p->file]->path, (unsigned long long)used);
}

static int check_part(struct hv_disk *d, const struct part *p, struct hv_disk_check *check,
		      struct hv_error *err)
{
	struct hv_claims *claims = hv_claims_new(hv_disk_file_size(d->file[p->file]), 512);
	uint64_t before = check->used, block = 0;
	int rc = claims ? 0 : hv_fail(err, ENOMEM, "%s: out of memory for the check", d->path);

	check->blocks += (p->size + p->block - 1) / p->block;
	while (rc == 0 && block < p->entries) {
		uint64_t value, count;

		rc = hv_table_run(p->map, block, p->entries - block, 0, &value, &count, err);
		if (rc == 0 && value) {
			count = 1;
			rc = check_entry(d, p, check, claims, block, value, err);
		}
		block += rc == 0 ? count : 0;
	}
	hv_claims_free(claims);
	if (rc == 0)
		check_room(d, p, check, check->used - before);
	return rc;
}

static int parallels_check(struct hv_disk *d, struct hv_disk_check *check, struct hv_error *err)
{
	struct parallels *s = d->state;
	int rc = 0;

	for (unsigned i = 0; i < s->parts && rc == 0; i++)
		if (s->part[i].map)
			rc = check_part(d, &s->part[i], check, err);
	return rc;
}

const struct hv_disk_format hv_disk_format_parallels = {
	.name = "parallels",
	.extensions = (const char *const[]){"hds", "hdd", "xml", NULL},
	.subformats = NULL,
	.bundle = "DiskDescriptor.xml",
	.probe = parallels_probe,
	.open = parallels_open,
	.close = parallels_close,
	.map = parallels_map,
	.check = parallels_check,
};
