/*
 * VHD: making images, and writing into those that are there. Blocks are added behind the last one, in the
 * order in which they are asked for; a block's bytes start at a multiple of 4 KiB in the file, so that the
 * kernel can move whole pages to them, and its bitmap stands in the sectors before (the specification asks
 * for sectors only; XenServer lays its blocks out in the same way). A block comes first, then its bitmap,
 * then its entry in the table; the footer, which gave way to the first new block, is written behind the last
 * one with the tables.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "base/bytes.h"
#include "disk/vhd/vhd.h"

#define ALIGN 4096U

const char *const hv_vhd_subformats[] = {"dynamic", "fixed", NULL};

static int all_present(struct hv_disk *d, const struct vhd *v, uint64_t at, struct hv_error *err)
{
	uint8_t ones[4096];
	uint32_t left = v->bitmap_size;
	int rc = 0;

	memset(ones, 0xff, sizeof(ones));
	while (rc == 0 && left) {
		uint32_t n = left < sizeof(ones) ? left : (uint32_t)sizeof(ones);

		rc = hv_disk_file_write(d->file[0], ones, n, at, err);
		at += n;
		left -= n;
	}
	return rc;
}

/* --- in place --------------------------------------------------------------------------------------------- */

/* Room for one block behind the last. The file is lengthened at once: what isn't written reads as zeros. */
static int place_block(struct hv_disk *d, struct vhd *v, uint64_t block, struct hv_run *run,
		       struct hv_error *err)
{
	uint64_t at = hv_round_up(v->next + v->bitmap_size, ALIGN), end = at + v->block_size;
	uint64_t left = v->size - block * v->block_size;
	int rc;

	if ((at - v->bitmap_size) / VHD_SECTOR >= VHD_UNUSED)
		return hv_fail(err, EFBIG,
			       "%s: the file has grown to 2 TiB, and VHD can't tell where a further block is",
			       d->path);
	rc = hv_disk_file_size(d->file[0]) < end ? hv_disk_file_resize(d->file[0], end, err) : 0;
	if (rc < 0)
		return rc;
	v->next = end;
	v->moved = true;
	*run = (struct hv_run){
		.offset = block * v->block_size,
		.length = left < v->block_size ? left : v->block_size,
		.kind = HV_RUN_DATA,
		.at = at,
		.fresh = true,
	};
	return 0;
}

/* A block that is there, from offset on: its sectors that were never written, as far as they stand together.
 */
static int place_sectors(struct hv_disk *d, struct vhd *v, uint64_t block, uint64_t entry, uint64_t offset,
			 uint64_t length, struct hv_run *run, struct hv_error *err)
{
	uint32_t within = (uint32_t)(offset % v->block_size), first = within / VHD_SECTOR, count = 0;
	uint64_t max = (within % VHD_SECTOR + length + VHD_SECTOR - 1) / VHD_SECTOR, at;
	bool set;
	int rc = hv_vhd_block(d, v, block, entry, &at, err);

	if (max > v->block_size / VHD_SECTOR - first)
		max = v->block_size / VHD_SECTOR - first;
	if (rc == 0)
		rc = hv_vhd_bits(d, at, first, (uint32_t)max, &set, &count, err);
	if (rc < 0)
		return rc;
	*run = (struct hv_run){
		.offset = offset - within % VHD_SECTOR,
		.length = (uint64_t)count * VHD_SECTOR,
		.kind = HV_RUN_DATA,
		.at = at + v->bitmap_size + (uint64_t)first * VHD_SECTOR,
	};
	return 0;
}

int hv_vhd_place(struct hv_disk *d, uint64_t offset, uint64_t length, struct hv_run *run,
		 struct hv_error *err)
{
	struct vhd *v = d->state;
	uint64_t block, entry;
	int rc;

	if (length > d->size - offset)
		length = d->size - offset;
	if (!v->table) {
		/* Each byte has its place; holes in the file are filled as they are written. */
		*run = (struct hv_run){
			.offset = offset, .length = length, .kind = HV_RUN_DATA, .at = offset, .fresh = true};
		return 0;
	}
	block = offset / v->block_size;
	rc = hv_table_get(v->table, block, &entry, err);
	if (rc < 0)
		return rc;
	if (entry == VHD_UNUSED)
		return place_block(d, v, block, run, err);
	return place_sectors(d, v, block, entry, offset, length, run, err);
}

/* Sectors of a block that is there are present from now on: after their bytes, whatever happens between. */
static int mark_sectors(struct hv_disk *d, const struct vhd *v, const struct hv_run *run, uint64_t bitmap_at,
			struct hv_error *err)
{
	uint32_t first = (uint32_t)(run->offset % v->block_size / VHD_SECTOR);
	uint32_t end = first + (uint32_t)((run->length + VHD_SECTOR - 1) / VHD_SECTOR);
	int rc = hv_disk_file_sync(d->file[0], err);

	while (rc == 0 && first < end) {
		uint8_t bytes[512];
		uint32_t from = first / 8, n = (end + 7) / 8 - from;

		if (n > sizeof(bytes))
			n = sizeof(bytes);
		rc = hv_disk_file_read(d->file[0], "sector bitmap", bytes, n, bitmap_at + from, err);
		for (; first < end && first / 8 < from + n; first++)
			bytes[first / 8 - from] |= (uint8_t)(0x80 >> first % 8);
		if (rc == 0)
			rc = hv_disk_file_write(d->file[0], bytes, n, bitmap_at + from, err);
	}
	return rc;
}

int hv_vhd_commit(struct hv_disk *d, const struct hv_run *run, struct hv_error *err)
{
	struct vhd *v = d->state;
	uint64_t block, entry, at;
	int rc;

	if (!v->table)
		return 0;
	block = run->offset / v->block_size;
	rc = hv_table_get(v->table, block, &entry, err);
	if (rc < 0)
		return rc;
	if (entry != VHD_UNUSED)
		return mark_sectors(d, v, run, entry * VHD_SECTOR, err);
	at = run->at - v->bitmap_size;
	rc = all_present(d, v, at, err);
	return rc < 0 ? rc : hv_table_set(v->table, block, at / VHD_SECTOR, err);
}

/* A block that has its room keeps it, as a hole in the file; one of the parent's is hidden by such a hole. */
static int zero_block(struct hv_disk *d, struct vhd *v, uint64_t offset, uint64_t length,
		      struct hv_error *err)
{
	uint64_t block = offset / v->block_size, entry, at;
	struct hv_run run = {0};
	int rc = hv_table_get(v->table, block, &entry, err);

	if (rc == 0 && entry == VHD_UNUSED) {
		rc = place_block(d, v, block, &run, err);
		return rc < 0 ? rc : hv_vhd_commit(d, &run, err);
	}
	if (rc == 0)
		rc = hv_vhd_block(d, v, block, entry, &at, err);
	if (rc == 0)
		rc = hv_disk_file_punch(d->file[0], at + v->bitmap_size, length, err);
	if (rc == 0 && d->has_parent) {
		run = (struct hv_run){.offset = offset, .length = length};
		rc = mark_sectors(d, v, &run, at, err);
	}
	return rc;
}

int hv_vhd_zero(struct hv_disk *d, uint64_t offset, uint64_t length, struct hv_error *err)
{
	struct vhd *v = d->state;
	uint64_t end = offset + length;
	int rc = 0;

	if (!v->table)
		return hv_disk_file_punch(d->file[0], offset, length, err);
	while (rc == 0 && offset < end) {
		uint64_t block = offset / v->block_size, entry, count,
			 max = (end - offset + v->block_size - 1) / v->block_size;

		rc = hv_table_run(v->table, block, max, 0, &entry, &count, err);
		if (rc < 0)
			break;
		if (entry != VHD_UNUSED || d->has_parent) {
			uint64_t n = end - offset < v->block_size ? end - offset : v->block_size;

			rc = zero_block(d, v, offset, n, err);
			count = 1;
		}
		offset += count * v->block_size;
	}
	return rc;
}

/* The blocks have reached stable storage (disk.c saw to it); now what leads to them, and the footer. */
int hv_vhd_flush(struct hv_disk *d, struct hv_error *err)
{
	struct vhd *v = d->state;
	int rc = 0;

	if (!v->table)
		return 0;
	/* Not before the end when creating: the file of a resumed conversion is to be the same. */
	if (v->moved && (!d->output || v->finished))
		rc = hv_disk_file_write(d->file[0], v->footer, VHD_FOOTER, v->next, err);
	return rc < 0 ? rc : hv_table_flush(v->table, err);
}

/* --- creating --------------------------------------------------------------------------------------------- */

/* The text without its end. */
static void put_text(uint8_t *to, const char *text)
{
	while (*text)
		*to++ = (uint8_t)*text++;
}

static void make_footer(struct vhd *v, uint64_t size)
{
	uint8_t *f = v->footer;
	uint16_t cylinders;
	time_t now = time(NULL);

	hv_vhd_geometry(size / VHD_SECTOR, &cylinders, f + FOOTER_HEADS, f + FOOTER_SECTORS);
	put_text(f + FOOTER_COOKIE, "conectix");
	hv_put_be32(f + FOOTER_FEATURES, 2); /* reserved, always set */
	hv_put_be32(f + FOOTER_VERSION, 0x10000);
	hv_put_be64(f + FOOTER_HEADER, v->type == VHD_FIXED ? UINT64_MAX : VHD_FOOTER);
	hv_put_be32(f + FOOTER_TIME, now > VHD_EPOCH ? (uint32_t)(now - VHD_EPOCH) : 0);
	/* What Windows writes: all readers, old QEMU too, then take the current size, not the geometry's. */
	put_text(f + FOOTER_CREATOR, "win ");
	hv_put_be32(f + FOOTER_CREATOR_VERSION, 0xa0000);
	put_text(f + FOOTER_HOST, "Wi2k");
	hv_put_be64(f + FOOTER_ORIGINAL_SIZE, size);
	hv_put_be64(f + FOOTER_SIZE, size);
	hv_put_be16(f + FOOTER_CYLINDERS, cylinders);
	hv_put_be32(f + FOOTER_TYPE, (uint32_t)v->type);
	hv_disk_random(f + FOOTER_ID, 16);
	f[FOOTER_ID + 6] = (f[FOOTER_ID + 6] & 0x0f) | 0x40;
	f[FOOTER_ID + 8] = (f[FOOTER_ID + 8] & 0x3f) | 0x80;
	hv_put_be32(f + FOOTER_CHECKSUM, hv_vhd_checksum(f, VHD_FOOTER, FOOTER_CHECKSUM));
}

static void make_header(struct vhd *v)
{
	uint8_t *h = v->header;

	put_text(h + HEADER_COOKIE, "cxsparse");
	hv_put_be64(h + HEADER_NEXT, UINT64_MAX);
	hv_put_be64(h + HEADER_TABLE, v->table_at);
	hv_put_be32(h + HEADER_VERSION, 0x10000);
	hv_put_be32(h + HEADER_ENTRIES, (uint32_t)v->blocks);
	hv_put_be32(h + HEADER_BLOCK, v->block_size);
	hv_put_be32(h + HEADER_CHECKSUM, hv_vhd_checksum(h, VHD_HEADER, HEADER_CHECKSUM));
}

/* An empty table, to the end of its last sector. */
static int write_empty_table(struct hv_disk *d, const struct vhd *v, struct hv_error *err)
{
	uint8_t unused[4096];
	uint64_t left = hv_round_up(v->blocks * 4, VHD_SECTOR), at = v->table_at;
	int rc = 0;

	memset(unused, 0xff, sizeof(unused));
	while (rc == 0 && left) {
		size_t n = left < sizeof(unused) ? (size_t)left : sizeof(unused);

		rc = hv_disk_file_write(d->file[0], unused, n, at, err);
		at += n;
		left -= n;
	}
	return rc;
}

/* What is asked for, in d and v; nothing is written. */
static int plan(struct hv_disk *d, const struct hv_disk_create *create, struct vhd *v, struct hv_error *err)
{
	uint64_t size = create->size > VHD_SIZE_MAX ? create->size : hv_round_up(create->size, VHD_SECTOR);
	bool fixed = create->subformat && strcasecmp(create->subformat, "fixed") == 0;

	if (size == 0 || size > VHD_SIZE_MAX)
		return hv_fail_usage(err, "%s: a disk of %llu bytes; a VHD has 1 byte to 2040 GiB%s", d->path,
				     (unsigned long long)size, size ? ", a VHDX to 64 TiB" : "");
	if (create->backing)
		return hv_fail_usage(err, "%s: a VHD with a parent can be read, not made; qcow2 can be made",
				     d->path);
	v->type = fixed ? VHD_FIXED : VHD_DYNAMIC;
	v->size = d->size = size;
	v->block_size = create->block_size ? create->block_size : VHD_BLOCK;
	if (fixed)
		v->block_size = 0;
	else if (v->block_size < (512U << 10) || v->block_size > VHD_BLOCK_MAX ||
		 (v->block_size & (v->block_size - 1)) != 0)
		return hv_fail_usage(
			err,
			"%s: blocks of %u bytes; a power of two from 512 KiB to 256 MiB is possible, and "
			"Hyper-V takes 512 KiB and 2 MiB",
			d->path, v->block_size);
	memcpy(d->subformat, fixed ? "fixed" : "dynamic", fixed ? 6 : 8);
	d->block_size = v->block_size;
	d->writable = true;
	return 0;
}

static int plan_table(struct hv_disk *d, struct vhd *v, struct hv_error *err)
{
	v->header_at = VHD_FOOTER;
	v->table_at = VHD_FOOTER + VHD_HEADER;
	v->blocks = v->entries = (v->size + v->block_size - 1) / v->block_size;
	v->bitmap_size = (uint32_t)hv_round_up(v->block_size / VHD_SECTOR / 8, VHD_SECTOR);
	v->next = v->table_at + hv_round_up(v->blocks * 4, VHD_SECTOR);
	v->region[0] = (struct vhd_region){0, v->next, "tables"};
	v->regions = 1;
	/* The entries have 32 bits for a sector: with small blocks, the bitmaps count. */
	if (v->next + v->blocks * hv_round_up(v->block_size + v->bitmap_size, ALIGN) >
	    (uint64_t)VHD_UNUSED * VHD_SECTOR)
		return hv_fail_usage(err,
				     "%s: with blocks of %u bytes, a full disk of %llu bytes would be too "
				     "large for a VHD; "
				     "take blocks of 2 MiB",
				     d->path, v->block_size, (unsigned long long)v->size);
	return 0;
}

static void tell_geometry(struct hv_disk *d, const struct vhd *v)
{
	d->cylinders = hv_be16(v->footer + FOOTER_CYLINDERS);
	d->heads = v->footer[FOOTER_HEADS];
	d->sectors = v->footer[FOOTER_SECTORS];
}

static int create_fixed(struct hv_disk *d, struct vhd *v, bool full, struct hv_error *err)
{
	struct hv_disk_file *f = d->file[0];
	int rc = hv_disk_file_resize(f, v->size, err);

	if (rc == 0 && full && fallocate(f->fd, 0, 0, (off_t)v->size) < 0 && errno == ENOSPC)
		return hv_fail_errno(err, "%s: no room for %llu bytes", f->path, (unsigned long long)v->size);
	if (rc == 0)
		rc = hv_disk_file_write(f, v->footer, VHD_FOOTER, v->size, err);
	v->end = v->size;
	return rc;
}

static int allocate_all(struct hv_disk *d, struct vhd *v, struct hv_error *err)
{
	int rc = 0;

	for (uint64_t block = 0; rc == 0 && block < v->blocks; block++) {
		struct hv_run run = {0};

		rc = place_block(d, v, block, &run, err);
		if (rc == 0)
			rc = hv_vhd_commit(d, &run, err);
	}
	if (rc == 0 && fallocate(d->file[0]->fd, 0, 0, (off_t)v->next) < 0 && errno == ENOSPC)
		return hv_fail_errno(err, "%s: no room for %llu bytes", d->path, (unsigned long long)v->next);
	return rc;
}

static int create_dynamic(struct hv_disk *d, struct vhd *v, bool full, struct hv_error *err)
{
	int rc;

	make_header(v);
	rc = hv_disk_file_write(d->file[0], v->footer, VHD_FOOTER, 0, err);
	if (rc == 0)
		rc = hv_disk_file_write(d->file[0], v->header, VHD_HEADER, v->header_at, err);
	if (rc == 0)
		rc = write_empty_table(d, v, err);
	if (rc == 0)
		rc = hv_vhd_open_table(d, v, true, err);
	return rc == 0 && full ? allocate_all(d, v, err) : rc;
}

/* Azure takes whole MiB only (and fixed disks); saying it now spares somebody an upload. */
static int note_azure(struct hv_disk *d)
{
	if (d->size % (1U << 20) == 0)
		return 0;
	return hv_disk_note(d, "%llu bytes are no whole number of MiB: Azure won't take such a VHD",
			    (unsigned long long)d->size);
}

static int start(struct hv_disk *d, const struct hv_disk_create *create, struct vhd **v, struct hv_error *err)
{
	int rc;

	*v = d->state = calloc(1, sizeof(**v));
	if (!*v)
		return hv_fail(err, ENOMEM, "%s: out of memory", d->path);
	rc = plan(d, create, *v, err);
	return rc == 0 && (*v)->block_size ? plan_table(d, *v, err) : rc;
}

int hv_vhd_create(struct hv_disk *d, const struct hv_disk_create *create, struct hv_error *err)
{
	struct vhd *v;
	int rc = start(d, create, &v, err);

	if (rc < 0)
		return rc;
	make_footer(v, v->size);
	tell_geometry(d, v);
	rc = v->type == VHD_FIXED ? create_fixed(d, v, create->full, err)
				  : create_dynamic(d, v, create->full, err);
	return rc == 0 ? note_azure(d) : rc;
}

/* --- going on --------------------------------------------------------------------------------------------- */

static int not_ours(const struct hv_disk *d, struct hv_error *err)
{
	return hv_fail(err, ESTALE, "%s: not the image that was begun; start anew, without --resume",
		       d->file[0]->path);
}

/* Behind the last block that the table knows: what was written further was not finished. */
static int resume_blocks(struct hv_disk *d, struct vhd *v, struct hv_error *err)
{
	uint64_t first = v->next, entry, count;
	int rc = hv_disk_file_read(d->file[0], "dynamic header", v->header, VHD_HEADER, v->header_at, err);

	if (rc == 0 && (hv_be32(v->header + HEADER_ENTRIES) != v->blocks ||
			hv_be32(v->header + HEADER_BLOCK) != v->block_size ||
			hv_be64(v->header + HEADER_TABLE) != v->table_at))
		return not_ours(d, err);
	if (rc == 0)
		rc = hv_vhd_open_table(d, v, true, err);
	for (uint64_t block = 0; rc == 0 && block < v->blocks; block += count) {
		uint64_t end;

		rc = hv_table_run(v->table, block, v->blocks - block, 0, &entry, &count, err);
		if (rc < 0 || entry == VHD_UNUSED)
			continue;
		count = 1;
		end = entry * VHD_SECTOR + v->bitmap_size + v->block_size;
		if (entry * VHD_SECTOR < first || end > hv_disk_file_size(d->file[0]))
			return not_ours(d, err);
		v->next = end > v->next ? end : v->next;
		v->moved = true;
	}
	return rc == 0 ? hv_disk_file_resize(d->file[0], v->next, err) : rc;
}

int hv_vhd_resume(struct hv_disk *d, const struct hv_disk_create *create, struct hv_error *err)
{
	struct vhd *v;
	int rc = start(d, create, &v, err);

	if (rc < 0)
		return rc;
	v->end = v->size;
	rc = hv_disk_file_read(d->file[0], "footer", v->footer, VHD_FOOTER,
			       v->type == VHD_FIXED ? v->size : 0, err);
	if (rc < 0)
		return rc;
	if (!hv_vhd_footer_good(v->footer) || hv_be64(v->footer + FOOTER_SIZE) != v->size ||
	    hv_be32(v->footer + FOOTER_TYPE) != (uint32_t)v->type)
		return not_ours(d, err);
	tell_geometry(d, v);
	if (v->type != VHD_FIXED)
		rc = resume_blocks(d, v, err);
	return rc == 0 ? note_azure(d) : rc;
}

int hv_vhd_finish(struct hv_disk *d, struct hv_error *err)
{
	struct vhd *v = d->state;
	int rc;

	if (!v->table)
		return 0;
	v->finished = v->moved = true;
	rc = hv_disk_file_write(d->file[0], v->footer, VHD_FOOTER, v->next, err);
	return rc == 0 ? hv_disk_file_resize(d->file[0], v->next + VHD_FOOTER, err) : rc;
}
