/*
 * VDI: VirtualBox's format. A header, a map with one 32-bit number a block, and behind them the blocks in the
 * order in which they were first written: the number is a block's place among those. Differencing images name
 * their parent by its UUID only, as VirtualBox keeps a registry; here the parent is looked for in the image's
 * own folder.
 *
 * Rules: what VirtualBox's headers (Storage/VDICore.h) and QEMU's block/vdi.c say of the layout, version 1.1.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/io.h"
#include "disk/claims.h"
#include "disk/format.h"
#include "disk/table.h"

#define SIGNATURE     0xbeda107fU /* at 64, behind a line of text */
#define HEADER_AT     72
#define HEADER_MIN    384U
#define HEADER_LCHS   400U /* with the geometry that the BIOS shows */
#define HEADER_LENGTH (HEADER_AT + HEADER_LCHS)
#define BLOCK_MAX     (256U << 20)
#define FREE          0xffffffffU /* nothing here: zeros, or what the parent has */
#define ZERO          0xfffffffeU
#define FOLDER_MAX    4096 /* files that are looked at for a parent */

enum { DYNAMIC = 1, FIXED = 2, UNDO = 3, DIFFERENCING = 4 };
static const char *const type_names[] = {"", "dynamic", "fixed", "undo", "differencing"};

struct vdi {
	uint32_t type, map_at, data_at, extra, blocks, allocated, header_length;
	uint64_t stride; /* of blocks in the file: their extra bytes come first */
	uint8_t id[16], modified[16], parent[16], parent_modified[16];
	struct hv_table *map;
};

static int vdi_probe(const struct hv_disk_probe *probe)
{
	return probe->head_length >= HEADER_AT && hv_le32(probe->head + 64) == SIGNATURE ? 2 : 0;
}

static int bad(const struct hv_disk *d, const char *what, unsigned at, uint64_t value, const char *expected,
	       struct hv_error *err)
{
	return hv_fail_unsafe(err, "%s: the %s at offset %u is %llu; %s", d->path, what, at,
			      (unsigned long long)value, expected);
}

static bool is_none(const uint8_t id[16])
{
	static const uint8_t none[16];

	return memcmp(id, none, sizeof(none)) == 0;
}

/* A UUID as VirtualBox shows it: its first three numbers are little-endian in the file. */
static const char *uuid_text(const uint8_t id[16], char text[37])
{
	snprintf(text, 37, "%08x-%04x-%04x-%02x%02x-%02x%02x%02x%02x%02x%02x", hv_le32(id), hv_le16(id + 4),
		 hv_le16(id + 6), id[8], id[9], id[10], id[11], id[12], id[13], id[14], id[15]);
	return text;
}

static void read_geometry(struct hv_disk *d, const uint8_t *h, uint32_t header_length)
{
	const uint8_t *g = h + 348;

	if (header_length >= HEADER_LCHS && hv_le32(h + 456))
		g = h + 456;
	d->cylinders = hv_le32(g);
	d->heads = hv_le32(g + 4);
	d->sectors = hv_le32(g + 8);
}

static int read_ids(struct hv_disk *d, struct vdi *v, const uint8_t *h)
{
	char text[37];
	int rc;

	memcpy(v->id, h + 392, 16);
	memcpy(v->modified, h + 408, 16);
	memcpy(v->parent, h + 424, 16);
	memcpy(v->parent_modified, h + 440, 16);
	rc = hv_disk_property(d, "uuid", "%s", uuid_text(v->id, text));
	if (rc == 0)
		rc = hv_disk_property(d, "modification uuid", "%s", uuid_text(v->modified, text));
	if (rc == 0 && !is_none(v->parent))
		rc = hv_disk_property(d, "parent uuid", "%s", uuid_text(v->parent, text));
	return rc;
}

static int check_layout(struct hv_disk *d, const struct vdi *v, struct hv_error *err)
{
	uint64_t block = d->block_size, need;

	if (block < 512 || block > BLOCK_MAX || block & (block - 1))
		return bad(d, "block size", 376, block,
			   "a power of two from 512 bytes to 256 MiB was expected", err);
	if (v->extra > BLOCK_MAX)
		return bad(d, "size of blocks' extra data", 380, v->extra, "at most 256 MiB was expected",
			   err);
	if (d->size > (uint64_t)UINT32_MAX * BLOCK_MAX)
		return bad(d, "disk's size", 368, d->size, "that many blocks can't be", err);
	need = (d->size + block - 1) / block;
	if (v->blocks < need)
		return hv_fail_unsafe(
			err,
			"%s: the block map has %u entries (offset 384); the disk's size asks for "
			"%llu",
			d->path, v->blocks, (unsigned long long)need);
	if (v->map_at < HEADER_AT + (uint64_t)v->header_length)
		return bad(d, "block map's place", 340, v->map_at, "it must lie behind the header", err);
	if (v->data_at < v->map_at + (uint64_t)v->blocks * 4)
		return bad(d, "data's place", 344, v->data_at, "it must lie behind the block map", err);
	return 0;
}

static int read_header(struct hv_disk *d, struct vdi *v, struct hv_error *err)
{
	uint8_t h[HEADER_LENGTH] = {0};
	uint32_t version;
	int rc = hv_disk_file_read(d->file[0], "header", h, HEADER_AT + HEADER_MIN, 0, err);

	if (rc < 0)
		return rc;
	version = hv_le32(h + 68);
	if (hv_le32(h + 64) != SIGNATURE)
		return hv_fail_unsafe(err, "%s: no VDI image: the signature at offset 64 is missing",
				      d->path);
	if (version >> 16 != 1)
		return hv_fail(err, ENOTSUP,
			       "%s: VDI version %u.%u; 1.1 is supported (VBoxManage clonemedium makes "
			       "it)",
			       d->path, version >> 16, version & 0xffff);
	v->header_length = hv_le32(h + 72);
	v->type = hv_le32(h + 76);
	v->map_at = hv_le32(h + 340);
	v->data_at = hv_le32(h + 344);
	d->size = hv_le64(h + 368);
	d->block_size = hv_le32(h + 376);
	v->extra = hv_le32(h + 380);
	v->blocks = hv_le32(h + 384);
	v->allocated = hv_le32(h + 388);
	v->stride = (uint64_t)d->block_size + v->extra;
	if (v->header_length < HEADER_MIN || v->header_length > 64U << 10)
		return bad(d, "header's length", 72, v->header_length, "384 or 400 was expected", err);
	if (v->type < DYNAMIC || v->type > DIFFERENCING)
		return bad(d, "image's type", 76, v->type, "1 to 4 was expected", err);
	if (v->type == UNDO)
		return hv_fail(err, ENOTSUP,
			       "%s: an undo image, which is not supported; let VirtualBox merge it", d->path);
	if (hv_le32(h + 360) != 512 && hv_le32(h + 360) != 0)
		return bad(d, "sector size", 360, hv_le32(h + 360), "512 was expected", err);
	if (v->header_length >= HEADER_LCHS)
		rc = hv_disk_file_read(d->file[0], "header", h, HEADER_LENGTH, 0, err);
	if (rc < 0)
		return rc;
	read_geometry(d, h, v->header_length);
	rc = check_layout(d, v, err);
	return rc < 0 ? rc : read_ids(d, v, h);
}

/* --- the parent ------------------------------------------------------------------------------------------- */

/* Does the file of this name in the folder have that UUID? Only its header is looked at. */
static bool has_id(int folder, const char *name, const uint8_t id[16])
{
	int fd = openat(folder, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW | O_NOCTTY);
	uint8_t h[HEADER_AT + HEADER_MIN];
	struct stat st;
	bool found;

	if (fd < 0)
		return false;
	found = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && hv_pread_full(fd, h, sizeof(h), 0) == 0 &&
		hv_le32(h + 64) == SIGNATURE && memcmp(h + 392, id, 16) == 0;
	close(fd);
	return found;
}

/* The name of the VDI file with that UUID in d's folder; fresh, NULL when there is none. */
static char *find_id(const struct hv_disk *d, const uint8_t id[16])
{
	const char *base = hv_disk_base_name(d->path);
	char *path = base == d->path ? strdup(".") : strndup(d->path, (size_t)(base - d->path)), *name = NULL;
	DIR *folder = path ? opendir(path) : NULL;
	unsigned seen = 0;

	for (struct dirent *e; folder && !name && seen < FOLDER_MAX && (e = readdir(folder)); seen++) {
		const char *dot = strrchr(e->d_name, '.');

		if (dot && strcasecmp(dot, ".vdi") == 0 && has_id(dirfd(folder), e->d_name, id))
			name = strdup(e->d_name);
	}
	if (folder)
		closedir(folder);
	free(path);
	return name;
}

static int open_parent(struct hv_disk *d, struct vdi *v, struct hv_error *err)
{
	const struct vdi *parent;
	char text[37], *name;
	int rc;

	d->has_parent = true;
	if (d->options.alone)
		return 0;
	if (is_none(v->parent))
		return hv_fail_unsafe(
			err, "%s: a differencing image whose parent's UUID (offset 424) is zero", d->path);
	name = find_id(d, v->parent);
	if (!name)
		return hv_fail(err, ENOENT,
			       "%s: its parent, the VDI with the UUID %s, is not in its folder; put it "
			       "there",
			       d->path, uuid_text(v->parent, text));
	rc = hv_disk_open_parent(d, name, "vdi", err);
	free(name);
	if (rc < 0)
		return rc;
	parent = d->parent->state;
	if (memcmp(parent->id, v->parent, 16) != 0)
		return hv_fail_unsafe(err, "%s: its parent was exchanged while it was opened", d->path);
	if (is_none(v->parent_modified) || memcmp(parent->modified, v->parent_modified, 16) == 0)
		return 0;
	if (!d->salvage)
		return hv_fail_unsafe(err,
				      "%s: its parent %s was changed since (its modification UUID is not the "
				      "one at offset 440): the two don't fit together any more",
				      d->path, d->parent->path);
	return hv_disk_note(d, "its parent %s was changed since: the bytes may not fit together",
			    d->parent->path);
}

static int vdi_open(struct hv_disk *d, struct hv_error *err)
{
	struct hv_table_shape shape = {.file = d->file[0], .what = "block map", .entry_size = 4};
	struct vdi *v = calloc(1, sizeof(*v));
	int rc;

	if (!v)
		return hv_fail(err, ENOMEM, "%s: out of memory", d->path);
	d->state = v;
	rc = read_header(d, v, err);
	if (rc < 0)
		return rc;
	snprintf(d->subformat, sizeof(d->subformat), "%s", type_names[v->type]);
	if (d->size % 512) {
		rc = hv_disk_note(d,
				  "its size of %llu bytes is no whole number of sectors and was rounded up",
				  (unsigned long long)d->size);
		d->size = hv_round_up(d->size, 512);
	}
	shape.at = v->map_at;
	shape.entries = v->blocks;
	if (rc == 0)
		rc = hv_table_new(&shape, &v->map, err);
	return rc == 0 && v->type == DIFFERENCING ? open_parent(d, v, err) : rc;
}

static void vdi_close(struct hv_disk *d)
{
	struct vdi *v = d->state;

	if (v)
		hv_table_free(v->map);
	free(v);
	d->state = NULL;
}

static uint64_t place_of(const struct vdi *v, uint64_t block)
{
	return v->data_at + block * v->stride + v->extra;
}

static int vdi_map(struct hv_disk *d, uint64_t offset, uint64_t length, struct hv_run *run,
		   struct hv_error *err)
{
	struct vdi *v = d->state;
	uint64_t block = offset / d->block_size, in_block = offset % d->block_size, value = 0, count = 1,
		 left;
	int rc = hv_table_get(v->map, block, &value, err);

	if (rc < 0)
		return rc;
	left = (in_block + length + d->block_size - 1) / d->block_size;
	if (value == FREE || value == ZERO)
		rc = hv_table_run(v->map, block, left, 0, &value, &count, err);
	else if (v->extra == 0)
		rc = hv_table_run(v->map, block, left, 1, &value, &count, err);
	if (rc < 0)
		return rc;
	run->offset = offset;
	run->length = count * d->block_size - in_block;
	if (run->length > d->size - offset)
		run->length = d->size - offset;
	run->kind = value == FREE ? HV_RUN_HOLE : value == ZERO ? HV_RUN_ZERO : HV_RUN_DATA;
	if (run->kind != HV_RUN_DATA)
		return 0;
	/* Counting up must not run into the two numbers with a meaning of their own. */
	if (value + count > ZERO)
		run->length = d->block_size - in_block < run->length ? d->block_size - in_block : run->length;
	run->at = place_of(v, value) + in_block;
	return 0;
}

/* --- checking --------------------------------------------------------------------------------------------- */

static int check_block(struct hv_disk *d, struct hv_disk_check *check, struct hv_claims *claims,
		       uint64_t block, uint64_t value, struct hv_error *err)
{
	struct vdi *v = d->state;
	uint64_t at = place_of(v, value), start = block * d->block_size, length = d->block_size, where;
	int rc;

	if (start >= d->size) {
		hv_disk_found(check, HV_CHECK_NOTE, "entry %llu of the block map lies behind the disk's end",
			      (unsigned long long)block);
		return 0;
	}
	if (length > d->size - start)
		length = d->size - start;
	check->used++;
	if (!hv_inside(at, length, hv_disk_file_size(d->file[0]))) {
		hv_disk_found(check, HV_CHECK_ERROR,
			      "entry %llu of the block map leads to offset %llu, behind the file's end",
			      (unsigned long long)block, (unsigned long long)at);
		return 0;
	}
	rc = hv_claim(claims, at, length, &where);
	if (rc == 1)
		hv_disk_found(check, HV_CHECK_ERROR,
			      "entry %llu of the block map leads to offset %llu, where another block stands",
			      (unsigned long long)block, (unsigned long long)at);
	return rc < 0 ? hv_fail(err, -rc, "%s: out of memory for the check", d->path) : 0;
}

static void check_room(struct hv_disk *d, struct hv_disk_check *check)
{
	struct vdi *v = d->state;
	uint64_t size = hv_disk_file_size(d->file[0]),
		 room = size > v->data_at ? (size - v->data_at) / v->stride : 0;

	if (room > check->used)
		hv_disk_found(check, HV_CHECK_LEAK, "the file has room for %llu blocks, %llu are used",
			      (unsigned long long)room, (unsigned long long)check->used);
	if (v->allocated != check->used)
		hv_disk_found(check, HV_CHECK_NOTE, "the header counts %u blocks (offset 388), the map %llu",
			      v->allocated, (unsigned long long)check->used);
}

static int vdi_check(struct hv_disk *d, struct hv_disk_check *check, struct hv_error *err)
{
	struct vdi *v = d->state;
	struct hv_claims *claims = hv_claims_new(hv_disk_file_size(d->file[0]), d->block_size);
	uint64_t where;
	int rc = claims ? 0 : hv_fail(err, ENOMEM, "%s: out of memory for the check", d->path);

	check->blocks = (d->size + d->block_size - 1) / d->block_size;
	if (rc == 0)
		(void)hv_claim(claims, 0, v->map_at + (uint64_t)v->blocks * 4, &where);
	for (uint64_t block = 0; rc == 0 && block < v->blocks;) {
		uint64_t value = 0, count = 0;

		rc = hv_table_run(v->map, block, v->blocks - block, 0, &value, &count, err);
		if (rc == 0 && value != FREE && value != ZERO) {
			count = 1;
			rc = check_block(d, check, claims, block, value, err);
		}
		block += count;
	}
	hv_claims_free(claims);
	if (rc == 0)
		check_room(d, check);
	return rc;
}

const struct hv_disk_format hv_disk_format_vdi = {
	.name = "vdi",
	.extensions = (const char *const[]){"vdi", NULL},
	.subformats = NULL,
	.probe = vdi_probe,
	.open = vdi_open,
	.close = vdi_close,
	.map = vdi_map,
	.check = vdi_check,
};
