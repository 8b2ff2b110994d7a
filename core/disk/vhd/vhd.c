/*
 * VHD, the disks of Virtual PC, of Hyper-V's first generation and of Azure: a fixed one is its bytes and a
 * footer; a dynamic or differencing one is a table of blocks, each a bitmap of its sectors and their bytes.
 * Rules: Virtual Hard Disk Image Format Specification 1.0 (Microsoft, 2006). A sector whose bit is 0 was
 * never written: its parent has it, and without a parent it is zeros, whatever stands in the file (XenServer
 * leaves such sectors undefined).
 */
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "disk/vhd/vhd.h"

static int vhd_probe(const struct hv_disk_probe *probe)
{
	const uint8_t *end = probe->tail;

	if (!end || probe->head_length < VHD_SECTOR)
		return 0;
	if (hv_vhd_footer_good(end))
		return 2;
	if (hv_vhd_footer_good(probe->head) && hv_be32(probe->head + FOOTER_TYPE) != VHD_FIXED)
		return 2;
	return memcmp(end, "conectix", 8) == 0 || memcmp(end + 1, "conectix", 8) == 0 ||
	       memcmp(probe->head, "conectix", 8) == 0;
}

static void vhd_close(struct hv_disk *d)
{
	struct vhd *v = d->state;

	if (!v)
		return;
	hv_table_free(v->table);
	free(v);
}

/* --- opening ---------------------------------------------------------------------------------------------- */

/* The disk's bytes stand in front of the footer, all of them. */
static int open_fixed(struct hv_disk *d, struct vhd *v, struct hv_error *err)
{
	if (v->end < v->size) {
		if (!d->salvage)
			return hv_fail_unsafe(
				err,
				"%s: the disk has %llu bytes and its footer starts at offset %llu: the "
				"file is cut",
				d->path, (unsigned long long)v->size, (unsigned long long)v->end);
		return hv_disk_note(d, "the file is cut: it holds %llu of the disk's %llu bytes",
				    (unsigned long long)v->end, (unsigned long long)v->size);
	}
	if (v->end > v->size)
		return hv_disk_note(
			d,
			"%llu bytes lie between the end of the disk and the footer; they don't belong "
			"to the disk",
			(unsigned long long)(v->end - v->size));
	return 0;
}

/* Where blocks may be added: behind all that is there but the footer. */
static int ready_to_write(struct hv_disk *d, struct vhd *v)
{
	v->next = hv_round_up(v->end, VHD_SECTOR);
	return 0;
}

int hv_vhd_open_table(struct hv_disk *d, struct vhd *v, bool writing, struct hv_error *err)
{
	struct hv_table_shape shape = {
		.file = d->file[0],
		.what = "block allocation table",
		.at = v->table_at,
		.entries = v->entries,
		.entry_size = 4,
		.big_endian = true,
		/* 4 MiB, the table of 2 TiB: entries must not reach the file before their blocks have. */
		.pages = writing ? 64 : 0,
	};

	return hv_table_new(&shape, &v->table, err);
}

static int open_blocks(struct hv_disk *d, struct vhd *v, struct hv_error *err)
{
	int rc = hv_vhd_read_header(d, v, err);

	if (rc == 0)
		rc = hv_vhd_open_table(d, v, d->writable, err);
	if (rc == 0 && d->writable)
		rc = ready_to_write(d, v);
	if (rc == 0 && v->type == VHD_DIFFERENCING)
		rc = hv_vhd_open_parent(d, v, err);
	return rc;
}

static int vhd_open(struct hv_disk *d, struct hv_error *err)
{
	struct vhd *v = d->state = calloc(1, sizeof(*v));
	int rc = 0;

	if (v)
		rc = hv_vhd_read_footer(d, v, err);
	if (v && rc == 0)
		rc = v->type == VHD_FIXED ? open_fixed(d, v, err) : open_blocks(d, v, err);
	if (v && rc == 0)
		rc = hv_vhd_settle_size(d, v);
	if (!v || rc == -ENOMEM)
		return hv_fail(err, ENOMEM, "%s: out of memory", d->path);
	return rc;
}

/* --- the map ---------------------------------------------------------------------------------------------- */

/* What lies behind is no block's. While writing, the footer gives way to blocks. */
uint64_t hv_vhd_end(const struct hv_disk *d, const struct vhd *v)
{
	return d->writable ? hv_disk_file_size(d->file[0]) : v->end;
}

int hv_vhd_block(const struct hv_disk *d, const struct vhd *v, uint64_t block, uint64_t entry, uint64_t *at,
		 struct hv_error *err)
{
	uint64_t end = hv_vhd_end(d, v), where = v->table_at + block * 4, length;

	*at = entry * VHD_SECTOR;
	if (!hv_inside(*at, v->bitmap_size + 1ULL, end))
		return hv_fail_unsafe(
			err,
			"%s: entry %llu of the block allocation table (offset %llu) leads to offset "
			"%llu, and the file's blocks end at %llu",
			d->path, (unsigned long long)block, (unsigned long long)where,
			(unsigned long long)*at, (unsigned long long)end);
	length = v->size - block * v->block_size;
	length = v->bitmap_size + (length < v->block_size ? length : v->block_size);
	for (unsigned i = 0; i < v->regions; i++)
		if (*at < v->region[i].at + v->region[i].length && v->region[i].at < *at + length)
			return hv_fail_unsafe(
				err,
				"%s: entry %llu of the block allocation table (offset %llu) leads to "
				"offset %llu, onto the %s at offset %llu",
				d->path, (unsigned long long)block, (unsigned long long)where,
				(unsigned long long)*at, v->region[i].what,
				(unsigned long long)v->region[i].at);
	return 0;
}

/* Bits from `bit` on in bytes[0 .. end bits) that are as the first. The highest bit of a byte comes first. */
static uint32_t same_bits(const uint8_t *bytes, uint32_t bit, uint32_t end, bool *set)
{
	uint32_t n = bit;

	*set = bytes[bit / 8] >> (7 - bit % 8) & 1;
	while (n < end) {
		if (n % 8 == 0 && end - n >= 8 && bytes[n / 8] == (*set ? 0xff : 0)) {
			n += 8;
			continue;
		}
		if ((bytes[n / 8] >> (7 - n % 8) & 1) != *set)
			break;
		n++;
	}
	return n - bit;
}

int hv_vhd_bits(const struct hv_disk *d, uint64_t bitmap_at, uint32_t first, uint32_t max, bool *set,
		uint32_t *count, struct hv_error *err)
{
	uint8_t bytes[512];
	uint32_t n = 0;

	*set = false;
	*count = 0;
	while (n < max) {
		uint32_t from = (first + n) / 8 * 8, bit = (first + n) % 8, have = max - n + bit, same;
		bool now;
		int rc;

		if (have > sizeof(bytes) * 8)
			have = sizeof(bytes) * 8;
		rc = hv_disk_file_read(d->file[0], "sector bitmap", bytes, (have + 7) / 8,
				       bitmap_at + from / 8, err);
		if (rc < 0)
			return rc;
		same = same_bits(bytes, bit, have, &now);
		if (n == 0)
			*set = now;
		if (now != *set)
			break;
		n += same;
		if (bit + same < have)
			break;
	}
	*count = n;
	return 0;
}

/* A fixed disk's bytes are where they are; holes of its file are its holes. */
static int map_fixed(struct hv_disk *d, const struct vhd *v, uint64_t offset, struct hv_run *run,
		     struct hv_error *err)
{
	uint64_t end;
	bool data;
	int rc;

	if (offset >= v->end)
		return hv_fail_unsafe(err, "%s: the file is cut: offset %llu of the disk lies behind its end",
				      d->path, (unsigned long long)offset);
	rc = hv_disk_file_seek(d->file[0], offset, &data, &end, err);
	if (rc < 0)
		return rc;
	if (end > v->end)
		end = v->end;
	if (end > d->size)
		end = d->size;
	*run = (struct hv_run){
		.offset = offset,
		.length = end - offset,
		.kind = data ? HV_RUN_DATA : HV_RUN_HOLE,
		.at = offset,
	};
	return 0;
}

static int orphan(const struct hv_disk *d, uint64_t offset, struct hv_error *err)
{
	return hv_fail_unsafe(err, "%s: offset %llu of the disk is held by its parent, which is missing",
			      d->path, (unsigned long long)offset);
}

/* Inside one block that has its place: the sectors from offset on that are alike. */
static int map_block(struct hv_disk *d, const struct vhd *v, uint64_t offset, uint64_t length, uint64_t at,
		     struct hv_run *run, struct hv_error *err)
{
	uint32_t within = (uint32_t)(offset % v->block_size),
		 max = (v->block_size - within / VHD_SECTOR * VHD_SECTOR);
	uint64_t data = at + v->bitmap_size + within, end = hv_vhd_end(d, v);
	uint32_t count;
	bool set;
	int rc;

	if (max > within % VHD_SECTOR + length)
		max = (uint32_t)(within % VHD_SECTOR + length);
	rc = hv_vhd_bits(d, at, within / VHD_SECTOR, (max + VHD_SECTOR - 1) / VHD_SECTOR, &set, &count, err);
	if (rc < 0)
		return rc;
	if (!set && v->orphan)
		return orphan(d, offset, err);
	*run = (struct hv_run){
		.offset = offset,
		.length = (uint64_t)count * VHD_SECTOR - within % VHD_SECTOR,
		.kind = set ? HV_RUN_DATA : HV_RUN_HOLE,
		.at = set ? data : 0,
	};
	if (set && data >= end)
		return hv_fail_unsafe(
			err,
			"%s: the block at offset %llu is cut: offset %llu of the disk would be at %llu, "
			"and the file's blocks end at %llu",
			d->path, (unsigned long long)at, (unsigned long long)offset, (unsigned long long)data,
			(unsigned long long)end);
	if (set && run->length > end - data)
		run->length = end - data;
	return 0;
}

static int vhd_map(struct hv_disk *d, uint64_t offset, uint64_t length, struct hv_run *run,
		   struct hv_error *err)
{
	struct vhd *v = d->state;
	uint64_t block, entry, count, at;
	int rc;

	if (!v->table)
		return map_fixed(d, v, offset, run, err);
	block = offset / v->block_size;
	if (block >= v->entries)
		return hv_fail_unsafe(err, "%s: entry %llu of the block allocation table is missing", d->path,
				      (unsigned long long)block);
	count = (offset % v->block_size + length - 1) / v->block_size + 1;
	rc = hv_table_run(v->table, block, count, 0, &entry, &count, err);
	if (rc < 0)
		return rc;
	if (entry == VHD_UNUSED) {
		if (v->orphan)
			return orphan(d, offset, err);
		*run = (struct hv_run){.offset = offset,
				       .length = count * v->block_size - offset % v->block_size,
				       .kind = HV_RUN_HOLE};
		return 0;
	}
	rc = hv_vhd_block(d, v, block, entry, &at, err);
	return rc < 0 ? rc : map_block(d, v, offset, length, at, run, err);
}

/* Each block's bitmap, in front of its data. */
static int vhd_tables(struct hv_disk *d, struct hv_disk_tables *tables, struct hv_error *err)
{
	struct vhd *v = d->state;
	uint64_t entry, count, at;
	int rc = 0;

	for (uint64_t block = 0; v->table && block < v->entries && rc == 0; block += count) {
		rc = hv_table_run(v->table, block, v->entries - block, 0, &entry, &count, err);
		if (rc == -EBADMSG)
			return 0;
		if (rc == 0 && entry != VHD_UNUSED && hv_vhd_block(d, v, block, entry, &at, NULL) == 0)
			rc = tables->own(tables, d, 0, at, v->bitmap_size, err);
	}
	return rc;
}

const struct hv_disk_format hv_disk_format_vhd = {
	.name = "vhd",
	.extensions = (const char *const[]){"vhd", "vpc", "avhd", NULL},
	.subformats = hv_vhd_subformats,
	.probe = vhd_probe,
	.open = vhd_open,
	.close = vhd_close,
	.map = vhd_map,
	.place = hv_vhd_place,
	.commit = hv_vhd_commit,
	.zero = hv_vhd_zero,
	.flush = hv_vhd_flush,
	.create = hv_vhd_create,
	.resume = hv_vhd_resume,
	.finish = hv_vhd_finish,
	.tables = vhd_tables,
	.check = hv_vhd_check,
};
