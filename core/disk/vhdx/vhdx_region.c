/*
 * VHDX: the header section and the metadata. Of two headers the intact one with the higher sequence number
 * counts (MS-VHDX 2.2.2); of two region tables the first intact one (2.2.3). A region or a metadata item that
 * must be understood and isn't ends the opening, by its name.
 */
#include <stdlib.h>

#include "base/bytes.h"
#include "disk/vhdx/vhdx.h"

const uint8_t hv_vhdx_guid_bat[16] = {0x66, 0x77, 0xc2, 0x2d, 0x23, 0xf6, 0x00, 0x42,
				      0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08};
const uint8_t hv_vhdx_guid_metadata[16] = {0x06, 0xa2, 0x7c, 0x8b, 0x90, 0x47, 0x9a, 0x4b,
					   0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e};
const uint8_t hv_vhdx_guid_parameters[16] = {0x37, 0x67, 0xa1, 0xca, 0x36, 0xfa, 0x43, 0x4d,
					     0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b};
const uint8_t hv_vhdx_guid_size[16] = {0x24, 0x42, 0xa5, 0x2f, 0x1b, 0xcd, 0x76, 0x48,
				       0xb2, 0x11, 0x5d, 0xbe, 0xd8, 0x3b, 0xf4, 0xb8};
const uint8_t hv_vhdx_guid_disk_id[16] = {0xab, 0x12, 0xca, 0xbe, 0xe6, 0xb2, 0x23, 0x45,
					  0x93, 0xef, 0xc3, 0x09, 0xe0, 0x00, 0xc7, 0x46};
const uint8_t hv_vhdx_guid_logical[16] = {0x1d, 0xbf, 0x41, 0x81, 0x6f, 0xa9, 0x09, 0x47,
					  0xba, 0x47, 0xf2, 0x33, 0xa8, 0xfa, 0xab, 0x5f};
const uint8_t hv_vhdx_guid_physical[16] = {0xc7, 0x48, 0xa3, 0xcd, 0x5d, 0x44, 0x71, 0x44,
					   0x9c, 0xc9, 0xe9, 0x88, 0x52, 0x51, 0xc5, 0x56};
const uint8_t hv_vhdx_guid_parent[16] = {0x2d, 0x5f, 0xd3, 0xa8, 0x0b, 0xb3, 0x4d, 0x45,
					 0xab, 0xf7, 0xd3, 0xd8, 0x48, 0x34, 0xab, 0x0c};

/* --- headers ---------------------------------------------------------------------------------------------- */

void hv_vhdx_header_parse(const uint8_t *bytes, struct hv_vhdx_header *h)
{
	h->sequence = hv_le64(bytes + 8);
	memcpy(h->file_write, bytes + 16, 16);
	memcpy(h->data_write, bytes + 32, 16);
	memcpy(h->log_guid, bytes + 48, 16);
	h->log_version = hv_le16(bytes + 64);
	h->version = hv_le16(bytes + 66);
	h->log_length = hv_le32(bytes + 68);
	h->log_offset = hv_le64(bytes + 72);
}

static bool is_intact(const uint8_t *bytes, size_t length, const char *signature)
{
	return memcmp(bytes, signature, 4) == 0 && hv_vhdx_crc_of(bytes, length) == hv_le32(bytes + 4);
}

/* The file type identifier: 2.2.1. */
static int load_identifier(struct hv_disk *d, struct hv_error *err)
{
	uint8_t bytes[8 + 512];
	char *creator;
	int rc = hv_disk_file_read(d->file[0], "file type identifier", bytes, sizeof(bytes), 0, err);

	if (rc < 0)
		return rc;
	if (memcmp(bytes, "vhdxfile", 8) != 0) {
		if (!d->salvage)
			return hv_fail_unsafe(
				err, "%s: the file type identifier at offset 0 is not \"vhdxfile\"", d->path);
		hv_disk_note(d, "the file type identifier at offset 0 is not \"vhdxfile\"");
	}
	creator = hv_vhdx_text(bytes + 8, 512);
	if (!creator)
		return hv_fail(err, ENOMEM, "%s: out of memory", d->path);
	if (creator[0])
		hv_disk_property(d, "creator", "%s", creator);
	free(creator);
	return 0;
}

/* Neither header can be trusted. What is left to find are the region tables, and no log. */
static int no_header(struct hv_disk *d, const char *why, struct hv_error *err)
{
	struct hv_vhdx *v = d->state;

	if (!d->salvage)
		return hv_fail_unsafe(err, "%s: %s", d->path, why);
	hv_disk_note(d, "%s; the log, if it holds anything, is left out", why);
	v->header = (struct hv_vhdx_header){.version = 1};
	return 0;
}

static int check_header(struct hv_disk *d, struct hv_error *err)
{
	struct hv_vhdx *v = d->state;
	const struct hv_vhdx_header *h = &v->header;
	unsigned long long at = VHDX_HEADER_AT(v->current);

	if (h->version != 1)
		return hv_fail(err, ENOTSUP, "%s: the header at offset %llu says version %u; 1 is known",
			       d->path, at, h->version);
	if (h->log_length % VHDX_MIB || h->log_offset % VHDX_MIB ||
	    (h->log_length && (h->log_offset < VHDX_MIB || h->log_offset > VHDX_FILE_MAX)))
		return hv_fail_unsafe(
			err,
			"%s: the header at offset %llu puts the log at %llu with %u bytes; whole "
			"MiB behind the first are expected",
			d->path, at, (unsigned long long)h->log_offset, h->log_length);
	return 0;
}

/* Which of the two is current: 0, 1; -1 neither, as both are damaged; -2 as they contradict each other. */
static int choose(uint8_t bytes[2][VHDX_SECTOR], bool intact[2])
{
	uint64_t number[2];

	for (unsigned i = 0; i < 2; i++) {
		intact[i] = is_intact(bytes[i], VHDX_SECTOR, "head");
		number[i] = hv_le64(bytes[i] + 8);
	}
	if (!intact[0] || !intact[1])
		return intact[0] ? 0 : intact[1] ? 1 : -1;
	if (number[0] == number[1] && memcmp(bytes[0], bytes[1], VHDX_SECTOR) != 0)
		return -2;
	return number[1] > number[0];
}

static int read_headers(const struct hv_disk_file *f, uint8_t bytes[2][VHDX_SECTOR], struct hv_error *err)
{
	int rc = hv_disk_file_read(f, "header", bytes[0], VHDX_SECTOR, VHDX_HEADER_AT(0), err);

	return rc < 0 ? rc : hv_disk_file_read(f, "header", bytes[1], VHDX_SECTOR, VHDX_HEADER_AT(1), err);
}

bool hv_vhdx_current_header(const struct hv_disk_file *f, struct hv_vhdx_header *header)
{
	uint8_t bytes[2][VHDX_SECTOR];
	bool intact[2];
	int current;

	if (read_headers(f, bytes, NULL) < 0)
		return false;
	current = choose(bytes, intact);
	if (current >= 0)
		hv_vhdx_header_parse(bytes[current], header);
	return current >= 0;
}

int hv_vhdx_load_headers(struct hv_disk *d, struct hv_error *err)
{
	struct hv_vhdx *v = d->state;
	uint8_t bytes[2][VHDX_SECTOR];
	int rc = load_identifier(d, err), current;

	if (rc == 0)
		rc = read_headers(d->file[0], bytes, err);
	if (rc < 0)
		return rc;
	current = choose(bytes, v->header_intact);
	if (current == -1)
		return no_header(d, "both headers, at offsets 65536 and 131072, are damaged", err);
	if (current < 0)
		return no_header(d,
				 "the headers at offsets 65536 and 131072 differ and have the same sequence "
				 "number, so neither is current",
				 err);
	v->current = (unsigned)current;
	if (v->header_intact[0] != v->header_intact[1])
		hv_disk_note(d, "the header at offset %llu is damaged; the one at %llu is used",
			     (unsigned long long)VHDX_HEADER_AT(!v->current),
			     (unsigned long long)VHDX_HEADER_AT(v->current));
	hv_vhdx_header_parse(bytes[v->current], &v->header);
	return check_header(d, err);
}

/* --- regions ---------------------------------------------------------------------------------------------- */

void hv_vhdx_region_at(const uint8_t *table, unsigned index, struct hv_vhdx_region *r)
{
	const uint8_t *at = table + 16 + (size_t)index * 32;

	memcpy(r->guid, at, 16);
	r->at = hv_le64(at + 16);
	r->length = hv_le32(at + 24);
	r->required = hv_le32(at + 28) & 1;
}

int hv_vhdx_region_check(struct hv_disk *d, const struct hv_vhdx_region *r, struct hv_error *err)
{
	char text[VHDX_GUID_TEXT];

	if (r->at % VHDX_MIB || r->at < VHDX_MIB || r->at > VHDX_FILE_MAX || r->length % VHDX_MIB ||
	    r->length == 0)
		return hv_fail_unsafe(
			err,
			"%s: the region table puts region %s at offset %llu with %u bytes; whole MiB behind "
			"the first are expected",
			d->path, hv_vhdx_guid_text(r->guid, text), (unsigned long long)r->at, r->length);
	return 0;
}

static bool overlap(uint64_t a, uint64_t a_length, uint64_t b, uint64_t b_length)
{
	return a < b + b_length && b < a + a_length;
}

/* Against the log and the regions before it in the table. */
static int check_alone(struct hv_disk *d, const uint8_t *table, unsigned index,
		       const struct hv_vhdx_region *r, struct hv_error *err)
{
	const struct hv_vhdx_header *h = &((struct hv_vhdx *)d->state)->header;
	char text[VHDX_GUID_TEXT], other[VHDX_GUID_TEXT];
	struct hv_vhdx_region o;

	if (overlap(r->at, r->length, h->log_offset, h->log_length))
		return hv_fail_unsafe(err, "%s: region %s at offset %llu overlaps the log at %llu", d->path,
				      hv_vhdx_guid_text(r->guid, text), (unsigned long long)r->at,
				      (unsigned long long)h->log_offset);
	for (unsigned i = 0; i < index; i++) {
		hv_vhdx_region_at(table, i, &o);
		if (hv_vhdx_guid_is(o.guid, r->guid))
			return hv_fail_unsafe(err, "%s: the region table has region %s twice", d->path,
					      hv_vhdx_guid_text(r->guid, text));
		if (overlap(r->at, r->length, o.at, o.length))
			return hv_fail_unsafe(err, "%s: regions %s and %s overlap at offset %llu", d->path,
					      hv_vhdx_guid_text(o.guid, other),
					      hv_vhdx_guid_text(r->guid, text), (unsigned long long)r->at);
	}
	return 0;
}

static int take_region(struct hv_disk *d, const struct hv_vhdx_region *r, struct hv_error *err)
{
	struct hv_vhdx *v = d->state;
	char text[VHDX_GUID_TEXT];

	if (hv_vhdx_guid_is(r->guid, hv_vhdx_guid_bat)) {
		v->bat_at = r->at;
		v->bat_length = r->length;
	} else if (hv_vhdx_guid_is(r->guid, hv_vhdx_guid_metadata)) {
		v->metadata_at = r->at;
		v->metadata_length = r->length;
	} else if (r->required) {
		return hv_fail(err, ENOTSUP,
			       "%s: region %s must be understood to read the disk, and is not known", d->path,
			       hv_vhdx_guid_text(r->guid, text));
	}
	return 0;
}

static int take_regions(struct hv_disk *d, const uint8_t *table, struct hv_error *err)
{
	struct hv_vhdx *v = d->state;
	uint32_t count = hv_le32(table + 8);
	struct hv_vhdx_region r;
	int rc = 0;

	if (count > VHDX_TABLE_ENTRIES)
		return hv_fail_unsafe(err, "%s: the region table has %u entries; at most %u are allowed",
				      d->path, count, VHDX_TABLE_ENTRIES);
	for (unsigned i = 0; i < count && rc == 0; i++) {
		hv_vhdx_region_at(table, i, &r);
		rc = hv_vhdx_region_check(d, &r, err);
		if (rc == 0)
			rc = check_alone(d, table, i, &r, err);
		if (rc == 0)
			rc = take_region(d, &r, err);
	}
	if (rc == 0 && (!v->bat_at || !v->metadata_at))
		rc = hv_fail_unsafe(err, "%s: the region table names no %s", d->path,
				    v->bat_at ? "metadata region" : "block allocation table");
	return rc;
}

int hv_vhdx_load_regions(struct hv_disk *d, struct hv_error *err)
{
	struct hv_vhdx *v = d->state;
	uint8_t *table = malloc(2 * VHDX_REGION_TABLE), *other;
	int rc = 0;

	if (!table)
		return hv_fail(err, ENOMEM, "%s: out of memory", d->path);
	other = table + VHDX_REGION_TABLE;
	for (unsigned i = 0; i < 2 && rc == 0; i++) {
		rc = hv_vhdx_read(d, "region table", i ? other : table, VHDX_REGION_TABLE,
				  VHDX_REGION_TABLE_AT(i), err);
		v->region_intact[i] = rc == 0 && is_intact(i ? other : table, VHDX_REGION_TABLE, "regi");
	}
	v->regions_differ = rc == 0 && memcmp(table, other, VHDX_REGION_TABLE) != 0;
	if (rc == 0 && !v->region_intact[0] && !v->region_intact[1])
		rc = hv_fail_unsafe(err, "%s: both region tables, at offsets 196608 and 262144, are damaged",
				    d->path);
	if (rc == 0 && v->region_intact[0] != v->region_intact[1])
		hv_disk_note(d, "the region table at offset %llu is damaged; the one at %llu is used",
			     (unsigned long long)VHDX_REGION_TABLE_AT(v->region_intact[0]),
			     (unsigned long long)VHDX_REGION_TABLE_AT(!v->region_intact[0]));
	if (rc == 0)
		rc = take_regions(d, v->region_intact[0] ? table : other, err);
	free(table);
	return rc;
}

/* --- metadata --------------------------------------------------------------------------------------------- */

enum { PARAMETERS, DISK_SIZE, DISK_ID, LOGICAL, PHYSICAL, PARENT, ITEMS };

static const struct {
	const uint8_t *guid;
	const char *name;
	uint32_t length; /* 0: any */
	bool must;
} known[ITEMS] = {
	[PARAMETERS] = {hv_vhdx_guid_parameters, "file parameters", 8, true},
	[DISK_SIZE] = {hv_vhdx_guid_size, "virtual disk size", 8, true},
	[DISK_ID] = {hv_vhdx_guid_disk_id, "virtual disk id", 16, false},
	[LOGICAL] = {hv_vhdx_guid_logical, "logical sector size", 4, true},
	[PHYSICAL] = {hv_vhdx_guid_physical, "physical sector size", 4, false},
	[PARENT] = {hv_vhdx_guid_parent, "parent locator", 0, false},
};

void hv_vhdx_item_at(const uint8_t *table, unsigned index, struct hv_vhdx_item *item)
{
	const uint8_t *at = table + 32 + (size_t)index * 32;

	memcpy(item->guid, at, 16);
	item->at = hv_le32(at + 16);
	item->length = hv_le32(at + 20);
	item->flags = hv_le32(at + 24);
}

int hv_vhdx_item_check(struct hv_disk *d, unsigned index, const struct hv_vhdx_item *item,
		       struct hv_error *err)
{
	const struct hv_vhdx *v = d->state;

	if (item->length == 0 && item->at == 0)
		return 0;
	if (item->at < VHDX_METADATA_TABLE || item->length == 0 || item->length > VHDX_MIB ||
	    !hv_inside(item->at, item->length, v->metadata_length))
		return hv_fail_unsafe(
			err,
			"%s: entry %u of the metadata table at offset %llu leads to %u bytes at "
			"%u of its region, which holds items from 65536 to %llu",
			d->path, index, (unsigned long long)v->metadata_at, item->length, item->at,
			(unsigned long long)v->metadata_length);
	return 0;
}

static int find_known(const struct hv_vhdx_item *item)
{
	if (item->flags & VHDX_ITEM_USER)
		return -1;
	for (int i = 0; i < ITEMS; i++)
		if (hv_vhdx_guid_is(item->guid, known[i].guid))
			return i;
	return -1;
}

static int take_item(struct hv_disk *d, unsigned index, struct hv_vhdx_item *found, struct hv_error *err)
{
	struct hv_vhdx_item *item = &found[ITEMS];
	int i = find_known(item), rc = hv_vhdx_item_check(d, index, item, err);
	char text[VHDX_GUID_TEXT];

	if (rc < 0)
		return rc;
	if (i < 0 && item->flags & VHDX_ITEM_REQUIRED)
		return hv_fail(err, ENOTSUP,
			       "%s: metadata item %s must be understood to read the disk, and is not known",
			       d->path, hv_vhdx_guid_text(item->guid, text));
	if (i < 0)
		return 0;
	if (found[i].length)
		return hv_fail_unsafe(err, "%s: the metadata table at offset %llu has two entries for the %s",
				      d->path, (unsigned long long)((struct hv_vhdx *)d->state)->metadata_at,
				      known[i].name);
	if (item->length == 0 || (known[i].length && item->length != known[i].length))
		return hv_fail_unsafe(err, "%s: the %s in the metadata has %u bytes; %u are expected",
				      d->path, known[i].name, item->length, known[i].length);
	found[i] = *item;
	return 0;
}

/* Goes through the table; found[] gets the known items. */
static int load_table(struct hv_disk *d, struct hv_vhdx_item *found, struct hv_error *err)
{
	struct hv_vhdx *v = d->state;
	uint8_t *table = malloc(VHDX_METADATA_TABLE);
	unsigned count;
	int rc;

	if (!table)
		return hv_fail(err, ENOMEM, "%s: out of memory", d->path);
	rc = hv_vhdx_read(d, "metadata table", table, VHDX_METADATA_TABLE, v->metadata_at, err);
	count = rc == 0 ? hv_le16(table + 10) : 0;
	if (rc == 0 && (memcmp(table, "metadata", 8) != 0 || count > VHDX_TABLE_ENTRIES))
		rc = hv_fail_unsafe(err,
				    "%s: at offset %llu no metadata table with at most %u entries is found",
				    d->path, (unsigned long long)v->metadata_at, VHDX_TABLE_ENTRIES);
	for (unsigned i = 0; i < count && rc == 0; i++) {
		hv_vhdx_item_at(table, i, &found[ITEMS]);
		rc = take_item(d, i, found, err);
	}
	for (unsigned i = 0; i < ITEMS && rc == 0; i++)
		if (known[i].must && !found[i].length)
			rc = hv_fail_unsafe(err, "%s: the metadata table at offset %llu has no %s", d->path,
					    (unsigned long long)v->metadata_at, known[i].name);
	free(table);
	return rc;
}

static int read_item(struct hv_disk *d, const struct hv_vhdx_item *found, unsigned which, void *buf,
		     struct hv_error *err)
{
	const struct hv_vhdx *v = d->state;

	return hv_vhdx_read(d, known[which].name, buf, found[which].length, v->metadata_at + found[which].at,
			    err);
}

static int bad_item(struct hv_disk *d, const struct hv_vhdx_item *found, unsigned which, uint64_t value,
		    const char *expected, struct hv_error *err)
{
	const struct hv_vhdx *v = d->state;

	return hv_fail_unsafe(err, "%s: the %s at offset %llu is %llu; %s is expected", d->path,
			      known[which].name, (unsigned long long)v->metadata_at + found[which].at,
			      (unsigned long long)value, expected);
}

static int take_sizes(struct hv_disk *d, const struct hv_vhdx_item *found, struct hv_error *err)
{
	struct hv_vhdx *v = d->state;
	uint8_t parameters[8], size[8], logical[4], physical[4] = {0};
	uint32_t flags;
	int rc = read_item(d, found, PARAMETERS, parameters, err);

	if (rc == 0)
		rc = read_item(d, found, DISK_SIZE, size, err);
	if (rc == 0)
		rc = read_item(d, found, LOGICAL, logical, err);
	if (rc == 0 && found[PHYSICAL].length)
		rc = read_item(d, found, PHYSICAL, physical, err);
	if (rc < 0)
		return rc;
	d->block_size = hv_le32(parameters);
	flags = hv_le32(parameters + 4);
	d->size = hv_le64(size);
	d->sector_size = hv_le32(logical);
	d->physical_sector_size = hv_le32(physical);
	d->has_parent = flags & 2;
	v->leave_allocated = flags & 1;
	if (d->block_size < VHDX_BLOCK_MIN || d->block_size > VHDX_BLOCK_MAX ||
	    d->block_size & (d->block_size - 1))
		return bad_item(d, found, PARAMETERS, d->block_size,
				"a block size of 1 to 256 MiB, a power of two,", err);
	if (d->sector_size != 512 && d->sector_size != 4096)
		return bad_item(d, found, LOGICAL, d->sector_size, "512 or 4096", err);
	if (d->size > VHDX_SIZE_MAX || d->size % d->sector_size)
		return bad_item(d, found, DISK_SIZE, d->size, "at most 64 TiB, in whole sectors,", err);
	if (!found[PHYSICAL].length)
		hv_disk_note(d, "the metadata has no physical sector size");
	else if (d->physical_sector_size != 512 && d->physical_sector_size != 4096)
		hv_disk_note(d, "the physical sector size is %u; 512 or 4096 is expected",
			     d->physical_sector_size);
	return 0;
}

static int take_ids(struct hv_disk *d, const struct hv_vhdx_item *found, struct hv_error *err)
{
	const struct hv_vhdx *v = d->state;
	char text[VHDX_GUID_TEXT];
	uint8_t id[16];
	int rc = 0;

	if (found[DISK_ID].length) {
		rc = read_item(d, found, DISK_ID, id, err);
		if (rc == 0)
			hv_disk_property(d, "disk id", "%s", hv_vhdx_guid_text(id, text));
	} else {
		hv_disk_note(d, "the metadata has no virtual disk id");
	}
	hv_disk_property(d, "data id", "%s", hv_vhdx_guid_text(v->header.data_write, text));
	return rc;
}

static int take_parent(struct hv_disk *d, const struct hv_vhdx_item *found, struct hv_error *err)
{
	uint8_t *locator;
	int rc;

	if (!d->has_parent)
		return 0;
	if (!found[PARENT].length)
		return hv_fail_unsafe(
			err,
			"%s: its file parameters say that it has a parent, but the metadata has "
			"no parent locator",
			d->path);
	locator = malloc(found[PARENT].length);
	if (!locator)
		return hv_fail(err, ENOMEM, "%s: out of memory", d->path);
	rc = read_item(d, found, PARENT, locator, err);
	if (rc == 0)
		rc = hv_vhdx_open_parent(d, locator, found[PARENT].length, err);
	free(locator);
	return rc;
}

int hv_vhdx_load_metadata(struct hv_disk *d, struct hv_error *err)
{
	struct hv_vhdx_item found[ITEMS + 1] = {0};
	int rc = load_table(d, found, err);

	if (rc == 0)
		rc = take_sizes(d, found, err);
	if (rc == 0)
		rc = take_ids(d, found, err);
	if (rc == 0)
		hv_vhdx_shape(d);
	if (rc == 0)
		rc = hv_vhdx_bat_open(d, err);
	return rc == 0 ? take_parent(d, found, err) : rc;
}
