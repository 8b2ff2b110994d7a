/*
 * The two levels of a sparse extent's tables: the grain directory, one entry for each grain table, and the
 * tables, one entry for each grain. The directory is a hv_table; of the tables, which may stand anywhere, a
 * few are kept in memory. Where a run of tables lies in a hole of the file (a fresh disk's tables are all
 * written, as zeros that take no room), the hole is asked for instead of reading it: so a map of terabytes
 * takes no longer than its data.
 */
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "disk/vmdk/vmdk_impl.h"

#define SESPARSE_TABLE 0x10000000ULL /* the upper half of a directory entry in use */

uint32_t hv_vmdk_stored_max(const struct hv_vmdk_sparse *s)
{
	/* The worst that deflate does: fixed codes throughout, nine bits for eight. */
	return (uint32_t)hv_round_up(VMDK_MARK_GRAIN + s->grain + s->grain / 8 + 64, VMDK_SECTOR);
}

/* --- the directory ---------------------------------------------------------------------------------------- */

static int open_directory(struct hv_vmdk_sparse *s, const char *what, uint64_t at, struct hv_table **table,
			  struct hv_error *err)
{
	struct hv_table_shape shape = {
		.file = s->file,
		.what = what,
		.at = at,
		.entries = s->directory,
		.entry_size = s->entry_size,
		.pages = 4,
	};

	return hv_table_new(&shape, table, err);
}

int hv_vmdk_tables_open(struct hv_vmdk_sparse *s, struct hv_error *err)
{
	struct hv_error second;
	int rc;

	if (s->tables != s->file)
		return 0; /* made anew, without a directory */
	if (s->rgd_at && open_directory(s, "redundant grain directory", s->rgd_at, &s->rgd, &second) < 0) {
		s->rgd_at = 0;
		rc = hv_disk_note(s->disk, "the redundant copy can't be used: %s", second.text);
		if (rc < 0)
			return rc;
	}
	rc = open_directory(s, "grain directory", s->gd_at, &s->gd, err);
	if (rc == 0 || !s->disk->salvage)
		return rc;
	if (s->rgd) {
		s->gd = s->rgd;
		s->gd_at = s->rgd_at;
		s->rgd = NULL;
		s->rgd_at = 0;
		return hv_disk_note(s->disk, "%s: the grain directory is lost; its redundant copy is used",
				    s->file->path);
	}
	return s->markers ? hv_vmdk_rebuild(s, err) : rc;
}

/* Where an entry leads; false: nowhere that can be. */
static bool place_of(const struct hv_vmdk_sparse *s, uint64_t entry, uint64_t *at)
{
	*at = 0;
	if (entry == 0)
		return true;
	if (s->dialect == VMDK_SESPARSE) {
		*at = s->gts_at + (entry & UINT32_MAX) * s->table_bytes;
		if (entry >> 32 != SESPARSE_TABLE || *at + s->table_bytes > s->grains_at)
			return false;
	} else {
		*at = entry * VMDK_SECTOR;
	}
	return hv_inside(*at, s->table_bytes, hv_disk_file_size(s->file));
}

int hv_vmdk_table_place(struct hv_vmdk_sparse *s, uint64_t table, bool twin, uint64_t *at,
			struct hv_error *err)
{
	struct hv_table *directory = twin ? s->rgd : s->gd;
	uint64_t entry = 0;
	int rc;

	if (s->tables != s->file) {
		*at = table * s->table_bytes;
		return 0;
	}
	rc = hv_table_get(directory, table, &entry, err);
	if (rc == 0 && place_of(s, entry, at) && (*at || !s->disk->salvage || !s->rgd || twin))
		return 0;
	if (s->disk->salvage && s->rgd && !twin)
		return hv_vmdk_table_place(s, table, true, at, err);
	if (rc < 0)
		return rc;
	return hv_fail_unsafe(err,
			      "%s: entry %llu of the %sgrain directory at offset %llu is 0x%llx: no grain "
			      "table can stand there in a file of %llu bytes",
			      s->file->path, (unsigned long long)table, twin ? "redundant " : "",
			      (unsigned long long)(twin ? s->rgd_at : s->gd_at), (unsigned long long)entry,
			      (unsigned long long)hv_disk_file_size(s->file));
}

/* How many tables from `table` on have their places side by side, at most max. */
static uint64_t side_by_side(struct hv_vmdk_sparse *s, uint64_t table, uint64_t max)
{
	uint64_t step = s->dialect == VMDK_SESPARSE ? 1 : s->table_bytes / VMDK_SECTOR, entry, count;

	if (max > s->directory - table)
		max = s->directory - table;
	if (s->tables != s->file)
		return max;
	return hv_table_run(s->gd, table, max, step, &entry, &count, NULL) < 0 ? 1 : count;
}

/* --- tables in memory; s->lock is held -------------------------------------------------------------------- */

static int write_block(struct hv_vmdk_sparse *s, struct hv_vmdk_block *b, struct hv_error *err)
{
	int rc = 0;

	if (!b->dirty)
		return 0;
	if (b->twin)
		rc = hv_disk_file_write(s->tables, b->bytes, s->table_bytes, b->twin, err);
	if (rc == 0)
		rc = hv_disk_file_write(s->tables, b->bytes, s->table_bytes, b->at, err);
	if (rc == 0)
		b->dirty = false;
	return rc;
}

static struct hv_vmdk_block *find(struct hv_vmdk_sparse *s, uint64_t table, struct hv_vmdk_block **oldest)
{
	*oldest = &s->block[0];
	for (unsigned i = 0; i < VMDK_BLOCKS; i++) {
		struct hv_vmdk_block *b = &s->block[i];

		if (b->used && b->table == table) {
			b->used = ++s->clock;
			return b;
		}
		if (b->used < (*oldest)->used)
			*oldest = b;
	}
	return NULL;
}

static int read_block(struct hv_vmdk_sparse *s, struct hv_vmdk_block *b, uint64_t table, uint64_t at,
		      struct hv_error *err)
{
	int rc = 0;

	/* What it leads to has to be in the file before it is. */
	if (b->dirty && !s->disk->output)
		rc = hv_disk_file_sync(s->file, err);
	if (rc == 0)
		rc = write_block(s, b, err);
	if (rc < 0)
		return rc;
	b->used = 0;
	if (!b->bytes && !(b->bytes = malloc(s->table_bytes)))
		return hv_fail(err, ENOMEM, "%s: out of memory for a grain table", s->file->path);
	rc = hv_disk_file_read(s->tables, "grain table", b->bytes, s->table_bytes, at, err);
	if (rc < 0)
		return rc;
	b->table = table;
	b->at = at;
	b->twin = 0;
	b->used = ++s->clock;
	return 0;
}

static int load(struct hv_vmdk_sparse *s, uint64_t table, uint64_t at, struct hv_vmdk_block **block,
		struct hv_error *err)
{
	struct hv_vmdk_block *oldest, *b = find(s, table, &oldest);
	uint64_t twin = 0;
	int rc = 0;

	if (!b) {
		b = oldest;
		rc = read_block(s, b, table, at, err);
		if (rc < 0 && s->disk->salvage && s->rgd &&
		    hv_vmdk_table_place(s, table, true, &twin, NULL) == 0 && twin)
			rc = read_block(s, b, table, twin, err);
	}
	*block = b;
	return rc;
}

/* How many tables from `table`, which stands at `at`, on are holes in the file and thus all zeros. */
static uint64_t empty_tables(struct hv_vmdk_sparse *s, uint64_t table, uint64_t at)
{
	uint64_t end, n;
	bool data;

	if (hv_disk_file_seek(s->tables, at, &data, &end, NULL) < 0 || data)
		return 0;
	n = (end - at) / s->table_bytes;
	if (n > 1)
		n = side_by_side(s, table, n);
	for (unsigned i = 0; i < VMDK_BLOCKS && s->disk->writable; i++) {
		const struct hv_vmdk_block *b = &s->block[i];

		if (b->used && b->dirty && b->table >= table && b->table - table < n)
			n = b->table - table;
	}
	return n;
}

/* --- entries ---------------------------------------------------------------------------------------------- */

static uint64_t raw_entry(const struct hv_vmdk_sparse *s, const struct hv_vmdk_block *b, uint64_t i)
{
	return s->entry_size == 4 ? hv_le32(b->bytes + i * 4) : hv_le64(b->bytes + i * 8);
}

/*
 * seSparse: four bits say what the entry is, and a grain's number has its lower 12 bits above its upper 48.
 * Unmapped by the guest (1) and zeroed (2) both read as zeros.
 */
static bool decode_sesparse(const struct hv_vmdk_sparse *s, uint64_t entry, enum hv_run_kind *kind,
			    uint64_t *at)
{
	switch (entry >> 60) {
	case 0:
		*kind = HV_RUN_HOLE;
		return entry == 0;
	case 1:
	case 2:
		*kind = HV_RUN_ZERO;
		return true;
	case 3:
		*kind = HV_RUN_DATA;
		*at = (entry >> 48 & 0xfff) | (entry & 0xffffffffffffULL) << 12;
		if (*at > (UINT64_MAX - s->grains_at) / s->grain - 1)
			return false;
		*at = s->grains_at + *at * s->grain;
		return true;
	default:
		return false;
	}
}

static bool decode(const struct hv_vmdk_sparse *s, uint64_t entry, enum hv_run_kind *kind, uint64_t *at)
{
	*at = 0;
	if (s->dialect == VMDK_SESPARSE)
		return decode_sesparse(s, entry, kind, at);
	*kind = HV_RUN_DATA;
	if (entry == 0)
		*kind = HV_RUN_HOLE;
	else if (entry == 1 && s->zero_gte)
		*kind = HV_RUN_ZERO;
	else
		*at = entry * VMDK_SECTOR;
	return true;
}

/* Whether grain may stand at `at`: behind the tables at the front, and all in the file. */
static bool stands(const struct hv_vmdk_sparse *s, uint64_t grain, uint64_t at)
{
	uint64_t left = s->length - grain * s->grain, need = left < s->grain ? left : s->grain;

	if (s->compressed)
		need = s->markers ? VMDK_MARK_GRAIN + 1 : 4;
	return at >= s->data_at && hv_inside(at, need, hv_disk_file_size(s->file));
}

static int bad_entry(const struct hv_vmdk_sparse *s, const struct hv_vmdk_block *b, uint64_t grain,
		     uint64_t at, struct hv_error *err)
{
	uint64_t sector = grain * (s->grain / VMDK_SECTOR);

	return hv_fail_unsafe(
		err,
		"%s: entry %llu of the grain table at offset %llu is 0x%llx: the grain of sector %llu would "
		"be at offset %llu, and the data begin at %llu and the file ends at %llu: it is cut off or "
		"damaged",
		s->file->path, (unsigned long long)(grain % s->per_table), (unsigned long long)b->at,
		(unsigned long long)raw_entry(s, b, grain % s->per_table), (unsigned long long)sector,
		(unsigned long long)at, (unsigned long long)s->data_at,
		(unsigned long long)hv_disk_file_size(s->file));
}

/*
 * A compressed grain reaches at most to the next grain of its table, or to the table behind it: what is
 * longer runs into what isn't its own.
 */
static uint32_t room_of(const struct hv_vmdk_sparse *s, const struct hv_vmdk_block *b, uint64_t i,
			uint64_t at)
{
	uint64_t room = hv_vmdk_stored_max(s), left = hv_disk_file_size(s->file) - at, next = 0;
	enum hv_run_kind kind = HV_RUN_HOLE;

	while (++i < s->per_table && kind != HV_RUN_DATA)
		decode(s, raw_entry(s, b, i), &kind, &next);
	if (kind != HV_RUN_DATA && s->tables == s->file)
		next = b->at;
	if (next > at && next - at < room)
		room = next - at;
	return (uint32_t)(left < room ? left : room);
}

/* The run in one table. */
static int look_in(const struct hv_vmdk_sparse *s, const struct hv_vmdk_block *b, uint64_t grain,
		   uint64_t max, struct hv_vmdk_grains *g, struct hv_error *err)
{
	uint64_t first = grain % s->per_table, n = 1, at;
	enum hv_run_kind kind;

	if (!decode(s, raw_entry(s, b, first), &g->kind, &g->at) ||
	    (g->kind == HV_RUN_DATA && !stands(s, grain, g->at)))
		return bad_entry(s, b, grain, g->at, err);
	if (g->kind == HV_RUN_DATA && s->compressed) {
		g->room = room_of(s, b, first, g->at);
		g->count = 1;
		return 0;
	}
	if (max > s->per_table - first)
		max = s->per_table - first;
	for (; n < max; n++) {
		if (!decode(s, raw_entry(s, b, first + n), &kind, &at) || kind != g->kind)
			break;
		if (kind == HV_RUN_DATA && (at != g->at + n * s->grain || !stands(s, grain + n, at)))
			break;
	}
	g->count = n;
	return 0;
}

/*
 * How many tables from `table` on the directory doesn't have. A redundant directory that has one is proof
 * that an entry was lost.
 */
static int missing_tables(struct hv_vmdk_sparse *s, uint64_t table, uint64_t max, uint64_t *n,
			  struct hv_error *err)
{
	uint64_t entry, count;
	int rc = hv_table_run(s->gd, table, max, 0, &entry, n, err);

	if (rc < 0 || !s->rgd)
		return rc;
	if (entry)
		*n = 1; /* salvage: it is the redundant one that has none */
	if (s->disk->salvage)
		return 0;
	rc = hv_table_run(s->rgd, table, *n, 0, &entry, &count, err);
	if (rc == 0 && entry)
		return hv_fail_unsafe(err,
				      "%s: entry %llu of the grain directory at offset %llu is 0, but the "
				      "redundant one at offset %llu has 0x%llx: the directory is damaged",
				      s->file->path, (unsigned long long)table, (unsigned long long)s->gd_at,
				      (unsigned long long)s->rgd_at, (unsigned long long)entry);
	if (rc == 0 && count < *n)
		*n = count;
	return rc;
}

/* One look: at one table, or at a run of empty ones. */
static int look(struct hv_vmdk_sparse *s, uint64_t grain, uint64_t max, struct hv_vmdk_grains *g,
		struct hv_error *err)
{
	uint64_t table = grain / s->per_table, at, n = 0;
	struct hv_vmdk_block *b, *oldest;
	int rc = hv_vmdk_table_place(s, table, false, &at, err);

	if (rc < 0)
		return rc;
	*g = (struct hv_vmdk_grains){.kind = HV_RUN_HOLE};
	if (at == 0 && s->tables == s->file) {
		rc = missing_tables(s, table, max / s->per_table + 2, &n, err);
		if (rc < 0)
			return rc;
	} else if (!(b = find(s, table, &oldest))) {
		n = empty_tables(s, table, at);
	}
	if (n) {
		g->count = n * s->per_table - grain % s->per_table;
		if (g->count > max)
			g->count = max;
		return 0;
	}
	rc = load(s, table, at, &b, err);
	return rc < 0 ? rc : look_in(s, b, grain, max, g, err);
}

int hv_vmdk_scan(struct hv_vmdk_sparse *s, uint64_t grain, uint64_t max, struct hv_vmdk_grains *g,
		 struct hv_error *err)
{
	struct hv_vmdk_grains more;
	int rc;

	if (max > s->grains - grain)
		max = s->grains - grain;
	pthread_mutex_lock(&s->lock);
	rc = look(s, grain, max, g, err);
	while (rc == 0 && g->count < max && !(g->kind == HV_RUN_DATA && s->compressed)) {
		if ((grain + g->count) % s->per_table)
			break; /* it ended within a table */
		if (look(s, grain + g->count, max - g->count, &more, NULL) < 0 || more.kind != g->kind ||
		    (g->kind == HV_RUN_DATA && more.at != g->at + g->count * s->grain))
			break;
		g->count += more.count;
	}
	pthread_mutex_unlock(&s->lock);
	return rc;
}

/* --- writing ---------------------------------------------------------------------------------------------- */

/* The table of grain in memory, to be changed. */
static int load_for_writing(struct hv_vmdk_sparse *s, uint64_t table, struct hv_vmdk_block **b,
			    struct hv_error *err)
{
	uint64_t at = 0, twin = 0;
	int rc = hv_vmdk_table_place(s, table, false, &at, err);

	if (rc == 0 && s->rgd)
		rc = hv_vmdk_table_place(s, table, true, &twin, err);
	if (rc == 0 && at == 0)
		return hv_fail(err, ENOTSUP,
			       "%s: grain table %llu is not there yet, and none is added in place; convert "
			       "the disk first",
			       s->file->path, (unsigned long long)table);
	if (rc == 0)
		rc = load(s, table, at, b, err);
	if (rc == 0)
		(*b)->twin = twin;
	return rc;
}

int hv_vmdk_tables_set(struct hv_vmdk_sparse *s, uint64_t grain, uint64_t count, uint64_t at, bool step,
		       struct hv_error *err)
{
	struct hv_vmdk_block *b = NULL;
	int rc = 0;

	pthread_mutex_lock(&s->lock);
	while (count && rc == 0) {
		uint64_t first = grain % s->per_table, n = s->per_table - first;

		rc = load_for_writing(s, grain / s->per_table, &b, err);
		if (rc < 0 || !b)
			break;
		if (n > count)
			n = count;
		for (uint64_t i = 0; i < n; i++, at += step ? s->grain : 0)
			hv_put_le32(b->bytes + (first + i) * 4, (uint32_t)(at / VMDK_SECTOR));
		b->dirty = true;
		grain += n;
		count -= n;
	}
	pthread_mutex_unlock(&s->lock);
	return rc;
}

int hv_vmdk_tables_flush(struct hv_vmdk_sparse *s, struct hv_error *err)
{
	int rc = 0;

	pthread_mutex_lock(&s->lock);
	for (unsigned i = 0; i < VMDK_BLOCKS && rc == 0; i++)
		if (s->block[i].used)
			rc = write_block(s, &s->block[i], err);
	pthread_mutex_unlock(&s->lock);
	return rc;
}
