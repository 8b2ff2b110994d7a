/*
 * VHDX: everything that can be said of a file without its parents: both headers and region tables, the log,
 * the metadata's table, each entry of the BAT, and that no two of them lead to the same bytes.
 */
#include <stdlib.h>

#include "base/bytes.h"
#include "disk/claims.h"
#include "disk/vhdx/vhdx.h"

struct look {
	struct hv_disk *d;
	struct hv_disk_check *check;
	struct hv_claims *claims;
	uint64_t used; /* bytes of the file that something owns */
};

/* A range of the file that a structure calls its own. */
static int claim(struct look *l, const char *what, uint64_t number, uint64_t at, uint64_t length,
		 struct hv_error *err)
{
	uint64_t end = hv_vhdx_end(l->d), where = 0;
	int rc;

	if (!hv_inside(at, length, end)) {
		hv_disk_found(
			l->check, HV_CHECK_ERROR,
			"%s %llu at offset %llu with %llu bytes is not all in the file, which ends at %llu",
			what, (unsigned long long)number, (unsigned long long)at, (unsigned long long)length,
			(unsigned long long)end);
		return 0;
	}
	l->used += length;
	rc = hv_claim(l->claims, at, length, &where);
	if (rc < 0)
		return hv_fail(err, -rc, "%s: out of memory", l->d->path);
	if (rc)
		hv_disk_found(l->check, HV_CHECK_ERROR,
			      "%s %llu at offset %llu overlaps another structure at %llu", what,
			      (unsigned long long)number, (unsigned long long)at, (unsigned long long)where);
	return 0;
}

static void check_headers(struct look *l)
{
	const struct hv_vhdx *v = l->d->state;

	for (unsigned i = 0; i < 2; i++) {
		if (!v->header_intact[i])
			hv_disk_found(l->check, v->header_intact[!i] ? HV_CHECK_NOTE : HV_CHECK_ERROR,
				      "header %u at offset %llu: its signature or checksum is wrong", i + 1,
				      (unsigned long long)VHDX_HEADER_AT(i));
		if (!v->region_intact[i])
			hv_disk_found(l->check, HV_CHECK_NOTE,
				      "region table %u at offset %llu: its signature or checksum is wrong",
				      i + 1, (unsigned long long)VHDX_REGION_TABLE_AT(i));
	}
	if (v->region_intact[0] && v->region_intact[1] && v->regions_differ)
		hv_disk_found(l->check, HV_CHECK_ERROR,
			      "the region tables at offsets 196608 and 262144 differ, and both are intact");
	if (v->dirty)
		hv_disk_found(l->check, HV_CHECK_NOTE,
			      "the log at offset %llu holds %u entries that the file lacks; they are applied "
			      "in memory",
			      (unsigned long long)v->header.log_offset, v->overlay.entries);
	else if (!hv_vhdx_guid_zero(v->header.log_guid))
		hv_disk_found(l->check, HV_CHECK_ERROR, "the log at offset %llu can't be replayed",
			      (unsigned long long)v->header.log_offset);
}

static int check_regions(struct look *l, struct hv_error *err)
{
	struct hv_vhdx *v = l->d->state;
	uint8_t *table = malloc(VHDX_REGION_TABLE);
	struct hv_vhdx_region r;
	uint32_t count;
	int rc;

	if (!table)
		return hv_fail(err, ENOMEM, "%s: out of memory", l->d->path);
	rc = claim(l, "the header section", 1, 0, VHDX_MIB, err);
	if (rc == 0 && v->header.log_length)
		rc = claim(l, "the log", 1, v->header.log_offset, v->header.log_length, err);
	if (rc == 0)
		rc = hv_vhdx_read(l->d, "region table", table, VHDX_REGION_TABLE,
				  VHDX_REGION_TABLE_AT(!v->region_intact[0]), err);
	count = rc == 0 ? hv_le32(table + 8) : 0;
	for (unsigned i = 0; i < count && i < VHDX_TABLE_ENTRIES && rc == 0; i++) {
		hv_vhdx_region_at(table, i, &r);
		rc = claim(l, "region", i, r.at, r.length, err);
	}
	free(table);
	return rc;
}

static void check_pair(struct look *l, unsigned i, const struct hv_vhdx_item *a, unsigned j,
		       const struct hv_vhdx_item *b)
{
	if (hv_vhdx_guid_is(a->guid, b->guid) && (a->flags & 1) == (b->flags & 1))
		hv_disk_found(l->check, HV_CHECK_ERROR, "entries %u and %u of the metadata table have one id",
			      j, i);
	if (a->length && b->length && a->at < b->at + b->length && b->at < a->at + a->length)
		hv_disk_found(l->check, HV_CHECK_ERROR,
			      "metadata items %u at %u and %u at %u of their region overlap", j, b->at, i,
			      a->at);
}

static int check_items(struct look *l, struct hv_error *err)
{
	struct hv_vhdx *v = l->d->state;
	uint8_t *table = malloc(VHDX_METADATA_TABLE);
	struct hv_vhdx_item item, other;
	struct hv_error why;
	unsigned count, users = 0;
	int rc;

	if (!table)
		return hv_fail(err, ENOMEM, "%s: out of memory", l->d->path);
	rc = hv_vhdx_read(l->d, "metadata table", table, VHDX_METADATA_TABLE, v->metadata_at, err);
	count = rc == 0 ? hv_le16(table + 10) : 0;
	for (unsigned i = 0; i < count && i < VHDX_TABLE_ENTRIES; i++) {
		hv_vhdx_item_at(table, i, &item);
		users += item.flags & VHDX_ITEM_USER;
		if (hv_vhdx_item_check(l->d, i, &item, &why) < 0)
			hv_disk_found(l->check, HV_CHECK_ERROR, "%s", why.text);
		for (unsigned j = 0; j < i; j++) {
			hv_vhdx_item_at(table, j, &other);
			check_pair(l, i, &item, j, &other);
		}
	}
	if (users > 1024)
		hv_disk_found(l->check, HV_CHECK_ERROR,
			      "the metadata table has %u entries of the user; at most 1024 are allowed",
			      users);
	free(table);
	return rc;
}

static void bad_entry(struct look *l, uint64_t index, uint64_t value, const char *why)
{
	const struct hv_vhdx *v = l->d->state;

	hv_disk_found(l->check, HV_CHECK_ERROR,
		      "entry %llu of the block allocation table, at offset %llu, is 0x%llx: %s",
		      (unsigned long long)index, (unsigned long long)v->bat_at + index * 8,
		      (unsigned long long)value, why);
}

static int check_payload(struct look *l, uint64_t index, uint64_t block, uint64_t value, struct hv_error *err)
{
	struct hv_vhdx *v = l->d->state;
	uint64_t bitmap, count;
	int rc;

	switch (VHDX_BAT_STATE(value)) {
	case VHDX_NOT_PRESENT:
	case VHDX_ZERO:
		return 0;
	case VHDX_UNDEFINED:
	case VHDX_UNMAPPED: /* may still have its room */
		if (hv_inside(VHDX_BAT_OFFSET(value), l->d->block_size, hv_vhdx_end(l->d)) &&
		    VHDX_BAT_OFFSET(value))
			l->used += l->d->block_size;
		return 0;
	case VHDX_FULLY_PRESENT:
		break;
	case VHDX_PARTIALLY_PRESENT:
		if (!l->d->has_parent) {
			bad_entry(l, index, value,
				  "only a differencing file's blocks can be partially present");
			break;
		}
		rc = hv_vhdx_bat_run(l->d, hv_vhdx_bitmap_index(v, block / v->ratio), 1, 0, &bitmap, &count,
				     err);
		if (rc < 0)
			return rc;
		if (VHDX_BAT_STATE(bitmap) != VHDX_FULLY_PRESENT)
			bad_entry(l, index, value, "partially present, but its chunk has no sector bitmap");
		break;
	default:
		bad_entry(l, index, value, "no such state is known");
		return 0;
	}
	l->check->used++;
	return claim(l, "block", block, VHDX_BAT_OFFSET(value), l->d->block_size, err);
}

static int check_bitmap(struct look *l, uint64_t index, uint64_t chunk, uint64_t value, struct hv_error *err)
{
	if (VHDX_BAT_STATE(value) == VHDX_NOT_PRESENT)
		return 0;
	if (VHDX_BAT_STATE(value) != VHDX_FULLY_PRESENT) {
		bad_entry(l, index, value, "no such state of a sector bitmap is known");
		return 0;
	}
	if (!l->d->has_parent)
		bad_entry(l, index, value, "a sector bitmap in a file that has no parent");
	return claim(l, "sector bitmap", chunk, VHDX_BAT_OFFSET(value), VHDX_MIB, err);
}

static int check_entry(struct look *l, uint64_t index, uint64_t value, struct hv_error *err)
{
	const struct hv_vhdx *v = l->d->state;
	uint64_t chunk = index / (v->ratio + 1);

	if (VHDX_BAT_RESERVED(value))
		bad_entry(l, index, value, "reserved bits are set");
	if (index % (v->ratio + 1) == v->ratio)
		return check_bitmap(l, index, chunk, value, err);
	if (index - chunk >= v->blocks) {
		if (VHDX_BAT_STATE(value) != VHDX_NOT_PRESENT)
			hv_disk_found(l->check, HV_CHECK_NOTE,
				      "entry %llu of the block allocation table is for a block behind the "
				      "disk's end",
				      (unsigned long long)index);
		return 0;
	}
	return check_payload(l, index, index - chunk, value, err);
}

static int check_bat(struct look *l, struct hv_error *err)
{
	const struct hv_vhdx *v = l->d->state;
	uint64_t value, count;
	int rc = 0;

	l->check->blocks = v->blocks;
	for (uint64_t i = 0; i < v->bat_entries && rc == 0; i += count) {
		rc = hv_vhdx_bat_run(l->d, i, v->bat_entries - i, 0, &value, &count, err);
		if (rc == 0 && value == 0)
			continue;
		for (uint64_t j = 0; j < count && rc == 0; j++)
			rc = check_entry(l, i + j, value, err);
	}
	return rc;
}

int hv_vhdx_check(struct hv_disk *d, struct hv_disk_check *check, struct hv_error *err)
{
	struct look l = {.d = d, .check = check, .claims = hv_claims_new(hv_vhdx_end(d), (uint32_t)VHDX_MIB)};
	uint64_t end = hv_vhdx_end(d);
	int rc;

	if (!l.claims)
		return hv_fail(err, ENOMEM, "%s: out of memory", d->path);
	check_headers(&l);
	rc = check_regions(&l, err);
	if (rc == 0)
		rc = check_items(&l, err);
	if (rc == 0)
		rc = check_bat(&l, err);
	/* The last block may be cut where the disk ends, and the file anywhere behind it. */
	if (rc == 0 && l.used + VHDX_MIB <= end)
		hv_disk_found(check, HV_CHECK_LEAK, "%llu MiB of the file belong to nothing",
			      (unsigned long long)((end - l.used) / VHDX_MIB));
	hv_claims_free(l.claims);
	return rc;
}
