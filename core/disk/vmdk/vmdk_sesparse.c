/*
 * Space-efficient sparse extents (seSparse), which ESXi 6.5 and later use for snapshots on VMFS 6. VMware has
 * not published the format; the facts are those that QEMU's and others' readers agree on: 64-bit fields, a
 * constant header, a volatile one, tables of 64 sectors, grains of 8. A journal that would have to be
 * replayed is refused, as its form isn't known.
 */
#include "base/bytes.h"
#include "disk/vmdk/vmdk_impl.h"

#define VERSION        0x0000000200000001ULL
#define VOLATILE_MAGIC 0xcafecafeULL
#define GRAIN          8            /* sectors */
#define TABLE          64           /* sectors */
#define SECTORS_MAX    (1ULL << 48) /* any place, so that sums of a few can't wrap */

enum { /* 64-bit fields of the constant header */
       F_MAGIC,
       F_VERSION,
       F_CAPACITY,
       F_GRAIN,
       F_TABLE,
       F_FLAGS,
       F_VOLATILE = 10,
       F_VOLATILE_SIZE,
       F_DIRECTORY = 16,
       F_DIRECTORY_SIZE,
       F_TABLES,
       F_TABLES_SIZE,
       F_GRAINS = 24,
       F_GRAINS_SIZE,
       FIELDS
};

static int bad(const struct hv_vmdk_sparse *s, const char *what, unsigned field, uint64_t value,
	       struct hv_error *err)
{
	return hv_fail_unsafe(err, "%s: the seSparse header's %s at offset %u is %llu, which can't be",
			      s->file->path, what, field * 8, (unsigned long long)value);
}

static int check_fields(const struct hv_vmdk_sparse *s, const uint64_t f[FIELDS], struct hv_error *err)
{
	if (f[F_MAGIC] != VMDK_SESPARSE_MAGIC)
		return hv_fail_unsafe(err, "%s: no seSparse extent: its magic number at offset 0 is wrong",
				      s->file->path);
	if (f[F_VERSION] != VERSION)
		return hv_fail(err, ENOTSUP, "%s: a seSparse extent of version 0x%llx; only 0x%llx is known",
			       s->file->path, (unsigned long long)f[F_VERSION], VERSION);
	if (f[F_GRAIN] != GRAIN || f[F_TABLE] != TABLE)
		return hv_fail(err, ENOTSUP,
			       "%s: seSparse grains of %llu and tables of %llu sectors; only %d and %d are "
			       "known",
			       s->file->path, (unsigned long long)f[F_GRAIN], (unsigned long long)f[F_TABLE],
			       GRAIN, TABLE);
	if (f[F_CAPACITY] == 0 || f[F_CAPACITY] > SECTORS_MAX)
		return bad(s, "capacity", F_CAPACITY, f[F_CAPACITY], err);
	for (unsigned i = F_VOLATILE; i < FIELDS; i++)
		if (f[i] > SECTORS_MAX)
			return bad(s, "place", i, f[i], err);
	return 0;
}

static int check_volatile(const struct hv_vmdk_sparse *s, uint64_t at, struct hv_error *err)
{
	uint8_t v[VMDK_SECTOR];
	int rc = hv_disk_file_read(s->file, "seSparse volatile header", v, sizeof(v), at, err);

	if (rc < 0)
		return rc;
	if (hv_le64(v) != VOLATILE_MAGIC)
		return hv_fail_unsafe(err,
				      "%s: the seSparse volatile header at offset %llu has no magic "
				      "number",
				      s->file->path, (unsigned long long)at);
	if (!hv_le64(v + 24))
		return 0;
	if (s->disk->salvage)
		return hv_disk_note(s->disk, "%s: its journal was not replayed: the last writes are missing",
				    s->file->path);
	return hv_fail(
		err, ENOTSUP,
		"%s: the extent's journal must be replayed first (it was not closed cleanly): open and "
		"close it once in ESXi, by powering the VM on and off or by vmkfstools -i",
		s->file->path);
}

static int check_directory(const struct hv_vmdk_sparse *s, const uint64_t f[FIELDS], struct hv_error *err)
{
	if (f[F_DIRECTORY_SIZE] * VMDK_SECTOR / 8 < s->directory)
		return bad(s, "grain directory's size", F_DIRECTORY_SIZE, f[F_DIRECTORY_SIZE], err);
	if (f[F_DIRECTORY] == 0 || f[F_TABLES] == 0 || f[F_GRAINS] == 0)
		return bad(s, "place of tables or grains", F_DIRECTORY, 0, err);
	return 0;
}

int hv_vmdk_sesparse_open(struct hv_vmdk_sparse *s, struct hv_error *err)
{
	uint8_t h[VMDK_SECTOR];
	uint64_t f[FIELDS];
	int rc = hv_disk_file_read(s->file, "seSparse header", h, sizeof(h), 0, err);

	if (rc < 0)
		return rc;
	for (unsigned i = 0; i < FIELDS; i++)
		f[i] = hv_le64(h + (size_t)i * 8);
	rc = check_fields(s, f, err);
	if (rc == 0)
		rc = check_volatile(s, f[F_VOLATILE] * VMDK_SECTOR, err);
	if (rc < 0)
		return rc;
	s->length = f[F_CAPACITY] * VMDK_SECTOR;
	s->grain = GRAIN * VMDK_SECTOR;
	s->grains = (f[F_CAPACITY] - 1) / GRAIN + 1;
	s->entry_size = 8;
	s->table_bytes = TABLE * VMDK_SECTOR;
	s->per_table = s->table_bytes / 8;
	s->directory = (s->grains - 1) / s->per_table + 1;
	s->gd_at = f[F_DIRECTORY] * VMDK_SECTOR;
	s->gts_at = f[F_TABLES] * VMDK_SECTOR;
	s->grains_at = s->data_at = f[F_GRAINS] * VMDK_SECTOR;
	rc = check_directory(s, f, err);
	return rc < 0 ? rc : hv_vmdk_tables_open(s, err);
}
