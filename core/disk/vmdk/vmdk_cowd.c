/*
 * VMFS's sparse extents ("COWD"), which ESX uses for redo logs and snapshots: "Virtual Disk Format 5.0",
 * section "ESX Server Sparse Extents". Tables of 4096 entries, grains of mostly one sector. The parent that
 * the header may name is ignored: the descriptor's counts, as in ESX.
 */
#include "base/bytes.h"
#include "disk/vmdk/vmdk_impl.h"

#define HEADER     2048
#define PER_TABLE  4096
#define GRAIN_MAX  (1U << 21) /* sectors */
#define AT_UNCLEAN 1648

static int bad(const struct hv_vmdk_sparse *s, const char *what, unsigned at, uint32_t value,
	       struct hv_error *err)
{
	return hv_fail_unsafe(err, "%s: the COWD header's %s at offset %u is %u, which can't be",
			      s->file->path, what, at, value);
}

static int take(struct hv_vmdk_sparse *s, const uint8_t *h, struct hv_error *err)
{
	uint32_t capacity = hv_le32(h + 12), grain = hv_le32(h + 16), gd = hv_le32(h + 20),
		 entries = hv_le32(h + 24);

	if (hv_le32(h + 4) != 1)
		return hv_fail(err, ENOTSUP, "%s: a COWD extent of version %u; only 1 is known",
			       s->file->path, hv_le32(h + 4));
	if (capacity == 0)
		return bad(s, "capacity", 12, capacity, err);
	if (grain == 0 || (grain & (grain - 1)) || grain > GRAIN_MAX)
		return bad(s, "grain size", 16, grain, err);
	if (gd == 0)
		return bad(s, "grain directory", 20, gd, err);
	s->length = (uint64_t)capacity * VMDK_SECTOR;
	s->grain = (uint64_t)grain * VMDK_SECTOR;
	s->grains = (capacity - 1) / grain + 1;
	s->per_table = PER_TABLE;
	s->entry_size = 4;
	s->table_bytes = PER_TABLE * 4;
	s->directory = (s->grains - 1) / PER_TABLE + 1;
	if (entries < s->directory)
		return bad(s, "number of grain directory entries", 24, entries, err);
	s->gd_at = (uint64_t)gd * VMDK_SECTOR;
	s->data_at = HEADER;
	return 0;
}

int hv_vmdk_cowd_open(struct hv_vmdk_sparse *s, struct hv_error *err)
{
	uint8_t h[HEADER];
	int rc = hv_disk_file_read(s->file, "COWD header", h, sizeof(h), 0, err);

	if (rc < 0)
		return rc;
	if (hv_le32(h) != VMDK_COWD_MAGIC)
		return hv_fail_unsafe(err,
				      "%s: no VMFS sparse extent: its magic number at offset 0 is not COWD",
				      s->file->path);
	rc = take(s, h, err);
	if (rc == 0 && hv_le32(h + AT_UNCLEAN))
		rc = hv_disk_note(s->disk,
				  "%s: it was not closed cleanly: the last writes before a crash may "
				  "be missing",
				  s->file->path);
	return rc < 0 ? rc : hv_vmdk_tables_open(s, err);
}
