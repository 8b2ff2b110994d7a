/*
 * VHDX: making and changing. A new file is laid out as Hyper-V does it: header section, log, metadata, BAT,
 * each on a MiB, then the blocks in the order in which they are placed. Nobody reads it before it is
 * complete, so its tables are simply written. In a file that was there before, the header's ids change before
 * anything else does (MS-VHDX 2.2.2), and each change of the BAT goes through the log: data, entry, header,
 * table, each stable before the next.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "disk/vhdx/vhdx.h"

#define DEFAULT_BLOCK (32U << 20)
#define LOG_AT        VHDX_MIB
#define METADATA_AT   (2 * VHDX_MIB)
#define BAT_AT        (3 * VHDX_MIB)
#define PLACE_MAX     1024U /* blocks of one place in an existing file: one log entry holds their BAT entries */

/* --- headers ---------------------------------------------------------------------------------------------- */

static void put_header(const struct hv_vhdx_header *h, uint8_t *bytes)
{
	memset(bytes, 0, VHDX_SECTOR);
	hv_put_le32(bytes, 0x64616568); /* "head" */
	hv_put_le64(bytes + 8, h->sequence);
	memcpy(bytes + 16, h->file_write, 16);
	memcpy(bytes + 32, h->data_write, 16);
	memcpy(bytes + 48, h->log_guid, 16);
	hv_put_le16(bytes + 64, h->log_version);
	hv_put_le16(bytes + 66, h->version);
	hv_put_le32(bytes + 68, h->log_length);
	hv_put_le64(bytes + 72, h->log_offset);
	hv_put_le32(bytes + 4, hv_vhdx_crc_of(bytes, VHDX_SECTOR));
}

static int write_header(struct hv_disk *d, unsigned which, struct hv_error *err)
{
	struct hv_vhdx *v = d->state;
	uint8_t bytes[VHDX_SECTOR];

	put_header(&v->header, bytes);
	return hv_disk_file_write(d->file[0], bytes, sizeof(bytes), VHDX_HEADER_AT(which), err);
}

/* 2.2.2.1: over the older one, twice. */
int hv_vhdx_header_update(struct hv_disk *d, struct hv_error *err)
{
	struct hv_vhdx *v = d->state;
	int rc = 0;

	for (unsigned i = 0; i < 2 && rc == 0; i++) {
		v->header.sequence++;
		rc = write_header(d, !v->current, err);
		if (rc == 0)
			rc = hv_disk_file_sync(d->file[0], err);
		if (rc == 0) {
			v->current = !v->current;
			v->header_intact[v->current] = true;
		}
	}
	return rc;
}

/* --- create ----------------------------------------------------------------------------------------------- */

static int write_identifier(struct hv_disk *d, struct hv_error *err)
{
	static const char creator[] = "hvkit " HV_VERSION;
	uint8_t bytes[8 + 512] = "vhdxfile";

	for (size_t i = 0; i < sizeof(creator); i++)
		bytes[8 + 2 * i] = (uint8_t)creator[i];
	return hv_disk_file_write(d->file[0], bytes, sizeof(bytes), 0, err);
}

static void put_region(uint8_t *at, const uint8_t *guid, uint64_t offset, uint64_t length)
{
	memcpy(at, guid, 16);
	hv_put_le64(at + 16, offset);
	hv_put_le32(at + 24, (uint32_t)length);
	hv_put_le32(at + 28, 1);
}

static int write_regions(struct hv_disk *d, struct hv_error *err)
{
	const struct hv_vhdx *v = d->state;
	uint8_t *table = calloc(1, VHDX_REGION_TABLE);
	int rc = 0;

	if (!table)
		return hv_fail(err, ENOMEM, "%s: out of memory", d->path);
	hv_put_le32(table, 0x69676572); /* "regi" */
	hv_put_le32(table + 8, 2);
	put_region(table + 16, hv_vhdx_guid_bat, v->bat_at, v->bat_length);
	put_region(table + 48, hv_vhdx_guid_metadata, v->metadata_at, v->metadata_length);
	hv_put_le32(table + 4, hv_vhdx_crc_of(table, VHDX_REGION_TABLE));
	for (unsigned i = 0; i < 2 && rc == 0; i++)
		rc = hv_disk_file_write(d->file[0], table, VHDX_REGION_TABLE, VHDX_REGION_TABLE_AT(i), err);
	free(table);
	return rc;
}

struct item_list {
	uint8_t table[512], values[128];
	uint32_t count, length;
};

static void add_item(struct item_list *list, const uint8_t *guid, const void *value, uint32_t length,
		     uint32_t flags)
{
	uint8_t *at = list->table + 32 + (size_t)list->count * 32;

	memcpy(at, guid, 16);
	hv_put_le32(at + 16, VHDX_METADATA_TABLE + list->length);
	hv_put_le32(at + 20, length);
	hv_put_le32(at + 24, flags | VHDX_ITEM_REQUIRED);
	memcpy(list->values + list->length, value, length);
	list->length += length;
	list->count++;
}

static int write_metadata(struct hv_disk *d, struct hv_error *err)
{
	const struct hv_vhdx *v = d->state;
	struct item_list list = {.table = "metadata"};
	uint8_t parameters[8], size[8], id[16], logical[4], physical[4];
	int rc;

	hv_put_le32(parameters, d->block_size);
	hv_put_le32(parameters + 4, v->leave_allocated);
	hv_put_le64(size, d->size);
	hv_disk_random(id, sizeof(id));
	hv_put_le32(logical, d->sector_size);
	hv_put_le32(physical, d->physical_sector_size);
	add_item(&list, hv_vhdx_guid_parameters, parameters, 8, 0);
	add_item(&list, hv_vhdx_guid_size, size, 8, VHDX_ITEM_DISK);
	add_item(&list, hv_vhdx_guid_disk_id, id, 16, VHDX_ITEM_DISK);
	add_item(&list, hv_vhdx_guid_logical, logical, 4, VHDX_ITEM_DISK);
	add_item(&list, hv_vhdx_guid_physical, physical, 4, VHDX_ITEM_DISK);
	hv_put_le16(list.table + 10, (uint16_t)list.count);
	rc = hv_disk_file_write(d->file[0], list.table, sizeof(list.table), v->metadata_at, err);
	if (rc == 0)
		rc = hv_disk_file_write(d->file[0], list.values, sizeof(list.values),
					v->metadata_at + VHDX_METADATA_TABLE, err);
	return rc;
}

static bool wants_all(const struct hv_disk_create *c)
{
	return c->full || (c->subformat && strcmp(c->subformat, "fixed") == 0);
}

/* Every block has its place, in order. */
static int fill_bat(struct hv_disk *d, struct hv_error *err)
{
	struct hv_vhdx *v = d->state;
	uint8_t *entries = malloc(HV_TABLE_PAGE);
	uint64_t index = 0;
	int rc = 0;

	if (!entries)
		return hv_fail(err, ENOMEM, "%s: out of memory", d->path);
	while (index < v->bat_entries && rc == 0) {
		uint64_t first = index;

		for (; index < v->bat_entries && index - first < HV_TABLE_PAGE / 8; index++) {
			bool bitmap = index % (v->ratio + 1) == v->ratio;
			uint64_t block = index - index / (v->ratio + 1),
				 at = v->next + (block << v->block_shift);

			hv_put_le64(entries + (index - first) * 8, bitmap ? 0 : at | VHDX_FULLY_PRESENT);
		}
		rc = hv_disk_file_write(d->file[0], entries, (size_t)(index - first) * 8,
					v->bat_at + first * 8, err);
	}
	free(entries);
	v->next += v->blocks << v->block_shift;
	return rc < 0 ? rc : hv_disk_file_resize(d->file[0], v->next, err);
}

/* What a request says, and what follows from it for the layout. */
static int take_request(struct hv_disk *d, const struct hv_disk_create *c, struct hv_error *err)
{
	struct hv_vhdx *v = d->state;
	uint64_t chunks;

	d->block_size = c->block_size ? c->block_size : DEFAULT_BLOCK;
	d->sector_size = c->sector_size ? c->sector_size : 512;
	d->physical_sector_size = 4096;
	if (d->block_size < VHDX_BLOCK_MIN || d->block_size > VHDX_BLOCK_MAX ||
	    d->block_size & (d->block_size - 1))
		return hv_fail_usage(err,
				     "%s: a VHDX has blocks of 1 to 256 MiB, a power of two, not %u bytes",
				     d->path, d->block_size);
	if (c->size == 0 || c->size > VHDX_SIZE_MAX)
		return hv_fail_usage(err, "%s: a VHDX holds 1 byte to 64 TiB, not %llu bytes", d->path,
				     (unsigned long long)c->size);
	d->size = hv_round_up(c->size, d->sector_size);
	v->leave_allocated = c->subformat && strcmp(c->subformat, "fixed") == 0;
	snprintf(d->subformat, sizeof(d->subformat), "%s", v->leave_allocated ? "fixed" : "dynamic");
	hv_vhdx_shape(d);
	v->metadata_at = METADATA_AT;
	v->metadata_length = VHDX_MIB;
	v->bat_at = BAT_AT;
	/* With the room that a differencing file of this size would need, as the format asks for it anyway.
	 */
	chunks = (v->blocks + v->ratio - 1) / v->ratio;
	v->bat_length = hv_round_up(chunks * (v->ratio + 1) * 8, VHDX_MIB);
	v->next = v->bat_at + v->bat_length;
	return 0;
}

static int new_state(struct hv_disk *d, struct hv_error *err)
{
	struct hv_vhdx *v = d->state = calloc(1, sizeof(struct hv_vhdx));

	if (!v)
		return hv_fail(err, ENOMEM, "%s: out of memory", d->path);
	v->creating = true;
	v->header = (struct hv_vhdx_header){
		.version = 1, .log_length = (uint32_t)VHDX_MIB, .log_offset = LOG_AT, .sequence = 1};
	hv_disk_random(v->header.file_write, 16);
	hv_disk_random(v->header.data_write, 16);
	return 0;
}

int hv_vhdx_create(struct hv_disk *d, const struct hv_disk_create *create, struct hv_error *err)
{
	struct hv_vhdx *v;
	int rc = new_state(d, err);

	if (rc == 0)
		rc = take_request(d, create, err);
	if (rc < 0)
		return rc;
	v = d->state;
	rc = hv_disk_file_resize(d->file[0], v->next, err);
	if (rc == 0)
		rc = write_identifier(d, err);
	for (unsigned i = 0; i < 2 && rc == 0; i++) {
		v->header.sequence = 1 + i;
		v->current = i;
		v->header_intact[i] = true;
		rc = write_header(d, i, err);
	}
	if (rc == 0)
		rc = write_regions(d, err);
	if (rc == 0)
		rc = write_metadata(d, err);
	if (rc == 0 && wants_all(create))
		rc = fill_bat(d, err);
	return rc == 0 ? hv_vhdx_bat_open(d, err) : rc;
}

/* Behind the last block that the BAT knows. */
static int find_end(struct hv_disk *d, uint64_t *end, struct hv_error *err)
{
	struct hv_vhdx *v = d->state;

	*end = v->bat_at + v->bat_length;
	for (uint64_t i = 0; i < v->bat_entries;) {
		uint64_t value, count, last;
		int rc = hv_vhdx_bat_run(d, i, v->bat_entries - i, d->block_size, &value, &count, err);

		if (rc == 0 && VHDX_BAT_STATE(value) != VHDX_FULLY_PRESENT)
			rc = hv_vhdx_bat_run(d, i, v->bat_entries - i, 0, &value, &count, err);
		if (rc < 0)
			return rc;
		last = VHDX_BAT_OFFSET(value) + (count << v->block_shift);
		if (VHDX_BAT_STATE(value) == VHDX_FULLY_PRESENT && last > *end)
			*end = last;
		i += count;
	}
	return 0;
}

/*
 * What lies behind the last block in the tables was placed and not yet told of: it goes, so that the same
 * place is fresh when it is used again.
 */
int hv_vhdx_resume(struct hv_disk *d, const struct hv_disk_create *create, struct hv_error *err)
{
	uint64_t size = hv_round_up(create->size, create->sector_size ? create->sector_size : 512);
	bool fixed = create->subformat && strcmp(create->subformat, "fixed") == 0;
	struct hv_vhdx *v;
	int rc = hv_vhdx_load(d, err);

	if (rc < 0)
		return rc;
	v = d->state;
	if (d->size != size || d->has_parent || v->leave_allocated != fixed || v->dirty ||
	    d->sector_size != (create->sector_size ? create->sector_size : 512) ||
	    d->block_size != (create->block_size ? create->block_size : DEFAULT_BLOCK))
		return hv_fail(err, ESTALE, "%s: what was begun there is another image than the one wanted",
			       d->path);
	v->creating = true;
	snprintf(d->subformat, sizeof(d->subformat), "%s", fixed ? "fixed" : "dynamic");
	rc = find_end(d, &v->next, err);
	return rc == 0 ? hv_disk_file_resize(d->file[0], v->next, err) : rc;
}

/* --- changing --------------------------------------------------------------------------------------------- */

/* The ids change before the first byte does. */
int hv_vhdx_begin_write(struct hv_disk *d, struct hv_error *err)
{
	struct hv_vhdx *v = d->state;
	int rc;

	if (v->creating || v->changed)
		return 0;
	hv_disk_random(v->header.file_write, 16);
	hv_disk_random(v->header.data_write, 16);
	rc = hv_vhdx_header_update(d, err);
	v->changed = rc == 0;
	return rc;
}

/* The entries of some blocks, each the one before plus step, with what the BAT says of all between them. */
static void put_entries(const struct hv_vhdx *v, uint8_t *sectors, uint64_t first_index, uint64_t block,
			uint64_t count, uint64_t value, uint64_t step)
{
	for (uint64_t i = 0; i < count; i++)
		hv_put_le64(sectors + (hv_vhdx_bat_index(v, block + i) - first_index) * 8, value + i * step);
}

/* Through the log: the table's sectors as they will be are stable there before the table itself changes. */
static int log_entries(struct hv_disk *d, uint64_t block, uint64_t count, uint64_t value, uint64_t step,
		       struct hv_error *err)
{
	const struct hv_vhdx *v = d->state;
	const uint64_t per_sector = VHDX_SECTOR / 8;
	uint64_t first = hv_vhdx_bat_index(v, block) / per_sector,
		 last = hv_vhdx_bat_index(v, block + count - 1) / per_sector;
	unsigned sectors = (unsigned)(last - first + 1);
	uint64_t at = v->bat_at + first * VHDX_SECTOR;
	uint8_t *bytes = malloc((size_t)sectors * VHDX_SECTOR);
	int rc;

	if (!bytes)
		return hv_fail(err, ENOMEM, "%s: out of memory", d->path);
	rc = hv_disk_file_sync(d->file[0], err);
	if (rc == 0)
		rc = hv_disk_file_read(d->file[0], "block allocation table", bytes,
				       (size_t)sectors * VHDX_SECTOR, at, err);
	if (rc == 0) {
		put_entries(v, bytes, first * per_sector, block, count, value, step);
		rc = hv_vhdx_log_append(d, bytes, sectors, at, err);
	}
	free(bytes);
	return rc;
}

static int set_entries(struct hv_disk *d, uint64_t block, uint64_t count, uint64_t value, uint64_t step,
		       struct hv_error *err)
{
	struct hv_vhdx *v = d->state;
	int rc = v->creating ? 0 : log_entries(d, block, count, value, step, err);

	for (uint64_t i = 0; i < count && rc == 0; i++)
		rc = hv_table_set(v->bat, hv_vhdx_bat_index(v, block + i), value + i * step, err);
	if (rc == 0 && !v->creating)
		rc = hv_table_flush(v->bat, err);
	return rc;
}

static bool is_placed(uint64_t entry)
{
	return VHDX_BAT_STATE(entry) >= VHDX_FULLY_PRESENT;
}

/* How many blocks from `block` on, at most `most`, have no room in the file. */
static int count_absent(struct hv_disk *d, uint64_t block, uint64_t most, uint64_t *absent,
			struct hv_error *err)
{
	const struct hv_vhdx *v = d->state;
	uint64_t n = 0, value, count;

	while (n < most) {
		uint64_t left = v->ratio - (block + n) % v->ratio;
		int rc = hv_vhdx_bat_run(d, hv_vhdx_bat_index(v, block + n),
					 left < most - n ? left : most - n, 0, &value, &count, err);

		if (rc < 0)
			return rc;
		if (is_placed(value))
			break;
		n += count;
	}
	*absent = n;
	return 0;
}

static int cannot_place(struct hv_disk *d, uint64_t offset, struct hv_error *err)
{
	return hv_fail(err, ENOTSUP,
		       "%s: the block at offset %llu is there in parts, which can't be written in place: "
		       "convert the disk, or merge it with its parent, first",
		       d->path, (unsigned long long)offset);
}

int hv_vhdx_place(struct hv_disk *d, uint64_t offset, uint64_t length, struct hv_run *run,
		  struct hv_error *err)
{
	struct hv_vhdx *v = d->state;
	uint64_t block = offset >> v->block_shift, start = block << v->block_shift,
		 most = ((offset + length - 1) >> v->block_shift) - block + 1, count;
	int rc;

	if (!v->creating && most > PLACE_MAX)
		most = PLACE_MAX;
	rc = count_absent(d, block, most, &count, err);
	if (rc == 0 && count == 0)
		rc = cannot_place(d, offset, err);
	if (rc == 0)
		rc = hv_vhdx_begin_write(d, err);
	if (rc == 0 && v->next + (count << v->block_shift) > VHDX_FILE_MAX)
		rc = hv_fail(err, EFBIG, "%s: the file has no room for more blocks", d->path);
	if (rc == 0)
		rc = hv_disk_file_resize(d->file[0], v->next + (count << v->block_shift), err);
	if (rc < 0)
		return rc;
	*run = (struct hv_run){.offset = start,
			       .length = count << v->block_shift,
			       .kind = HV_RUN_DATA,
			       .stored = HV_STORED_PLAIN,
			       .layer = d,
			       .depth = d->depth,
			       .at = v->next,
			       .fresh = true};
	if (run->length > d->size - start)
		run->length = d->size - start;
	v->next += count << v->block_shift;
	return 0;
}

int hv_vhdx_commit(struct hv_disk *d, const struct hv_run *run, struct hv_error *err)
{
	const struct hv_vhdx *v = d->state;

	return set_entries(d, run->offset >> v->block_shift,
			   (run->length + d->block_size - 1) >> v->block_shift, run->at | VHDX_FULLY_PRESENT,
			   d->block_size, err);
}

/*
 * A block's room stays its own and becomes a hole of the file. One that isn't there reads as zeros already,
 * unless a parent would show through.
 */
static int zero_block(struct hv_disk *d, uint64_t block, struct hv_error *err)
{
	const struct hv_vhdx *v = d->state;
	uint64_t value, count, at;
	int rc = hv_vhdx_bat_run(d, hv_vhdx_bat_index(v, block), 1, 0, &value, &count, err);

	if (rc < 0)
		return rc;
	at = VHDX_BAT_OFFSET(value);
	if (is_placed(value)) {
		rc = hv_disk_file_punch(d->file[0], at, d->block_size, err);
		if (rc == 0 && VHDX_BAT_STATE(value) == VHDX_PARTIALLY_PRESENT)
			rc = set_entries(d, block, 1, at | VHDX_FULLY_PRESENT, 0, err);
		return rc;
	}
	if (VHDX_BAT_STATE(value) == VHDX_NOT_PRESENT && d->has_parent)
		return set_entries(d, block, 1, VHDX_ZERO, 0, err);
	return 0;
}

int hv_vhdx_zero(struct hv_disk *d, uint64_t offset, uint64_t length, struct hv_error *err)
{
	const struct hv_vhdx *v = d->state;
	uint64_t block = offset >> v->block_shift, end = (offset + length - 1) >> v->block_shift;
	int rc = hv_vhdx_begin_write(d, err);

	while (rc == 0 && block <= end) {
		uint64_t absent = 0;

		if (!d->has_parent)
			rc = count_absent(d, block, end - block + 1, &absent, err);
		if (rc == 0 && absent)
			block += absent;
		else if (rc == 0)
			rc = zero_block(d, block++, err);
	}
	return rc;
}

int hv_vhdx_flush(struct hv_disk *d, struct hv_error *err)
{
	const struct hv_vhdx *v = d->state;

	return v->bat ? hv_table_flush(v->bat, err) : 0;
}

int hv_vhdx_finish(struct hv_disk *d, struct hv_error *err)
{
	struct hv_vhdx *v = d->state;
	int rc = hv_vhdx_flush(d, err);

	/* From here on it is a file like any other. */
	v->creating = false;
	return rc;
}

/* A log whose entries are all in the tables, and stable there, is let go of. A failure leaves it to be
 * replayed. */
void hv_vhdx_end_write(struct hv_disk *d)
{
	struct hv_vhdx *v = d->state;

	if (!v->log_active || hv_disk_file_sync(d->file[0], NULL) < 0)
		return;
	memset(v->header.log_guid, 0, 16);
	if (hv_vhdx_header_update(d, NULL) == 0)
		v->log_active = false;
}
