/*
 * VHD: the check. Footer and copy, the header, each entry of the block allocation table against the file and
 * against all others, each bitmap against what stands in its block, and room that nothing uses.
 */
#include <string.h>

#include "base/bytes.h"
#include "disk/claims.h"
#include "disk/vhd/vhd.h"

struct sweep {
	struct hv_disk *d;
	struct vhd *v;
	struct hv_disk_check *check;
	struct hv_claims *claims;
	uint64_t claimed; /* bytes of the file that belong to something */
	uint64_t strange; /* blocks with bytes in sectors that are marked as never written */
	uint64_t strange_block;
	uint64_t empty; /* blocks with no sector present */
};

/* --- footers ---------------------------------------------------------------------------------------------- */

static int check_footers(struct sweep *s, struct hv_error *err)
{
	struct hv_disk *d = s->d;
	uint64_t size = hv_disk_file_size(d->file[0]), length = size - s->v->end;
	uint8_t end[VHD_FOOTER] = {0}, copy[VHD_FOOTER];
	int rc = hv_disk_file_read(d->file[0], "footer", end, length < VHD_FOOTER ? length : VHD_FOOTER,
				   s->v->end, err);
	bool good;

	if (rc < 0)
		return rc;
	good = hv_vhd_footer_good(end);
	if (length == 0)
		hv_disk_found(s->check, HV_CHECK_ERROR, "%s: the footer at the end of the file is lost",
			      d->path);
	else if (!good)
		hv_disk_found(s->check, HV_CHECK_ERROR, "%s: the footer at offset %llu is damaged", d->path,
			      (unsigned long long)s->v->end);
	if (length == VHD_FOOTER - 1)
		hv_disk_found(s->check, HV_CHECK_NOTE,
			      "%s: a footer of 511 bytes, as Virtual PC wrote it before 2004", d->path);
	if (s->v->type == VHD_FIXED)
		return 0;
	rc = hv_disk_file_read(d->file[0], "footer's copy", copy, VHD_FOOTER, 0, err);
	if (rc == 0 && !hv_vhd_footer_good(copy))
		hv_disk_found(s->check, HV_CHECK_ERROR, "%s: the footer's copy at offset 0 is damaged",
			      d->path);
	else if (rc == 0 && good && memcmp(end, copy, VHD_FOOTER) != 0)
		hv_disk_found(s->check, HV_CHECK_ERROR,
			      "%s: the footer at offset %llu and its copy at offset 0 are not the same",
			      d->path, (unsigned long long)s->v->end);
	return rc;
}

static int check_fixed(struct sweep *s)
{
	const struct vhd *v = s->v;
	struct hv_disk_check *check = s->check;

	check->blocks = check->used = v->size / VHD_SECTOR;
	if (v->end < v->size)
		hv_disk_found(check, HV_CHECK_ERROR,
			      "%s: the file is cut: it holds %llu of the disk's %llu bytes", s->d->path,
			      (unsigned long long)v->end, (unsigned long long)v->size);
	if (v->end > v->size)
		hv_disk_found(check, HV_CHECK_LEAK,
			      "%s: %llu bytes between the end of the disk and the footer", s->d->path,
			      (unsigned long long)(v->end - v->size));
	return 0;
}

/* --- blocks ----------------------------------------------------------------------------------------------- */

static bool all_zero(const uint8_t *p, size_t n)
{
	return n == 0 || (p[0] == 0 && memcmp(p, p + 1, n - 1) == 0);
}

/* Sectors that the bitmap calls unwritten and that hold something: true, and the search is over. */
static bool holds_bytes(const struct sweep *s, uint64_t at, uint64_t length)
{
	uint8_t buf[4096];

	while (length) {
		int64_t n = hv_disk_file_read_some(s->d->file[0], buf,
						   length < sizeof(buf) ? length : sizeof(buf), at, NULL);

		if (n <= 0)
			return false;
		if (!all_zero(buf, (size_t)n))
			return true;
		at += (uint64_t)n;
		length -= (uint64_t)n;
	}
	return false;
}

/* The bitmap of one block; length is what of the block the disk has. */
static int check_bitmap(struct sweep *s, uint64_t block, uint64_t at, uint64_t length, struct hv_error *err)
{
	uint32_t sectors = (uint32_t)((length + VHD_SECTOR - 1) / VHD_SECTOR), count, present = 0;
	uint64_t data = at + s->v->bitmap_size;
	bool strange = false, set;

	for (uint32_t first = 0; first < sectors; first += count) {
		int rc = hv_vhd_bits(s->d, at, first, sectors - first, &set, &count, err);

		if (rc < 0)
			return rc;
		if (set)
			present += count;
		else
			strange |= !strange && s->v->type == VHD_DYNAMIC &&
				   holds_bytes(s, data + (uint64_t)first * VHD_SECTOR,
					       (uint64_t)count * VHD_SECTOR);
	}
	s->empty += present == 0;
	if (strange && s->strange++ == 0)
		s->strange_block = block;
	return 0;
}

static int claim(struct sweep *s, uint64_t at, uint64_t length, const char *what, uint64_t number,
		 struct hv_error *err)
{
	uint64_t where;
	int rc = hv_claim(s->claims, at, length, &where);

	if (rc < 0)
		return hv_fail(err, -rc, "%s: out of memory for the check", s->d->path);
	if (rc > 0)
		hv_disk_found(s->check, HV_CHECK_ERROR,
			      "%s: %s %llu at offset %llu overlaps what else is at offset %llu", s->d->path,
			      what, (unsigned long long)number, (unsigned long long)at,
			      (unsigned long long)where);
	else
		s->claimed += length;
	return 0;
}

static int check_block(struct sweep *s, uint64_t block, uint64_t entry, struct hv_error *err)
{
	struct vhd *v = s->v;
	uint64_t left = v->size - block * v->block_size, at, end, whole;
	struct hv_error why;
	int rc;

	left = v->bitmap_size + (left < v->block_size ? left : v->block_size);
	if (hv_vhd_block(s->d, v, block, entry, &at, &why) < 0) {
		hv_disk_found(s->check, HV_CHECK_ERROR, "%s", why.text);
		return 0;
	}
	end = hv_vhd_end(s->d, v);
	whole = v->bitmap_size + (uint64_t)v->block_size;
	if (!hv_inside(at, left, end))
		hv_disk_found(
			s->check, HV_CHECK_ERROR,
			"%s: block %llu at offset %llu is cut: it has %llu bytes with its bitmap, and the "
			"file's blocks end at %llu",
			s->d->path, (unsigned long long)block, (unsigned long long)at,
			(unsigned long long)left, (unsigned long long)end);
	if (whole > end - at)
		whole = end - at;
	s->check->used++;
	rc = claim(s, at, whole, "block", block, err);
	return rc < 0 ? rc : check_bitmap(s, block, at, left - v->bitmap_size, err);
}

static int check_entries(struct sweep *s, struct hv_error *err)
{
	struct vhd *v = s->v;
	uint64_t entry, count;
	int rc = 0;

	s->check->blocks = v->blocks;
	if (v->entries < v->blocks)
		hv_disk_found(s->check, HV_CHECK_ERROR,
			      "%s: %llu entries of the block allocation table are missing", s->d->path,
			      (unsigned long long)(v->blocks - v->entries));
	for (uint64_t block = 0; rc == 0 && block < v->entries; block += count) {
		rc = hv_table_run(v->table, block, v->entries - block, 0, &entry, &count, err);
		if (rc < 0 || entry == VHD_UNUSED)
			continue;
		/* More of the same are overlaps: the first two tell it, a hostile table has millions. */
		count = count > 2 ? count : 1;
		rc = check_block(s, block, entry, err);
		if (rc == 0 && count > 1)
			hv_disk_found(s->check, HV_CHECK_ERROR,
				      "%s: entries %llu to %llu of the block allocation table all lead to "
				      "one block",
				      s->d->path, (unsigned long long)block,
				      (unsigned long long)(block + count - 1));
	}
	return rc;
}

static int claim_regions(struct sweep *s, struct hv_error *err)
{
	int rc = 0;

	for (unsigned i = 0; rc == 0 && i < s->v->regions; i++)
		rc = claim(s, s->v->region[i].at, s->v->region[i].length, s->v->region[i].what, i, err);
	return rc;
}

static void sum_up(struct sweep *s)
{
	const struct hv_disk *d = s->d;
	const struct vhd *v = s->v;
	/* Blocks are aligned by up to 4 KiB, tables by as much. */
	uint64_t padding = (s->check->used + 4) * 4096, unclaimed = hv_vhd_end(d, v) - s->claimed;

	if (s->strange)
		hv_disk_found(s->check, HV_CHECK_NOTE,
			      "%s: %llu blocks, the first of them %llu, hold bytes in sectors that their "
			      "bitmaps mark as "
			      "never written; such sectors read as zeros",
			      d->path, (unsigned long long)s->strange, (unsigned long long)s->strange_block);
	if (s->empty)
		hv_disk_found(s->check, HV_CHECK_LEAK, "%s: %llu blocks have no sector that was written",
			      d->path, (unsigned long long)s->empty);
	if (unclaimed > padding)
		hv_disk_found(s->check, HV_CHECK_LEAK, "%s: %llu bytes of the file belong to no block",
			      d->path, (unsigned long long)unclaimed);
}

int hv_vhd_check(struct hv_disk *d, struct hv_disk_check *check, struct hv_error *err)
{
	struct sweep s = {.d = d, .v = d->state, .check = check};
	int rc = check_footers(&s, err);

	if (rc == 0 && s.v->type == VHD_FIXED)
		return check_fixed(&s);
	if (rc == 0 && hv_vhd_checksum(s.v->header, VHD_HEADER, HEADER_CHECKSUM) !=
			       hv_be32(s.v->header + HEADER_CHECKSUM))
		hv_disk_found(check, HV_CHECK_ERROR, "%s: the dynamic header at offset %llu is damaged",
			      d->path, (unsigned long long)s.v->header_at);
	if (rc < 0)
		return rc;
	s.claims = hv_claims_new(hv_disk_file_size(d->file[0]), VHD_SECTOR);
	if (!s.claims)
		return hv_fail(err, ENOMEM, "%s: out of memory for the check", d->path);
	rc = claim_regions(&s, err);
	if (rc == 0)
		rc = check_entries(&s, err);
	if (rc == 0)
		sum_up(&s);
	hv_claims_free(s.claims);
	return rc;
}
