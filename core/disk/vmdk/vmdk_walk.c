/*
 * Walking a stream from front to back, marker by marker: to go on with one that is being written, and to save
 * one whose end, with the grain directory, is lost ("Virtual Disk Format 5.0", "Stream-Optimized Compressed
 * Sparse Extents": a grain's marker has a size, all others have none and a type).
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/io.h"
#include "disk/vmdk/vmdk_impl.h"

#define TABLES_MAX  16384U /* made anew: 512 GiB of dense grains, and a bound to what a hostile file costs */
#define SECTORS_MAX UINT32_MAX

int hv_vmdk_step(const struct hv_disk_file *f, uint64_t at, uint64_t largest, struct hv_vmdk_step *step,
		 struct hv_error *err)
{
	uint64_t size = hv_disk_file_size(f);
	uint8_t m[16];
	int rc;

	if (!hv_inside(at, VMDK_SECTOR, size) && !hv_inside(at, sizeof(m), size))
		return 0;
	rc = hv_disk_file_read(f, "marker", m, sizeof(m), at, err);
	if (rc < 0)
		return rc;
	*step = (struct hv_vmdk_step){
		.at = at, .value = hv_le64(m), .size = hv_le32(m + 8), .type = hv_le32(m + 12)};
	step->grain = step->size != 0;
	if (step->grain) {
		step->next = hv_round_up(at + VMDK_MARK_GRAIN + step->size, VMDK_SECTOR);
		return step->size <= largest && hv_inside(at, VMDK_MARK_GRAIN + step->size, size);
	}
	if (step->value > SECTORS_MAX)
		return 0;
	step->next = at + VMDK_SECTOR + step->value * VMDK_SECTOR;
	return step->type <= 4 && step->next <= size; /* 4: progress, of no meaning in a file */
}

/* --- salvage ---------------------------------------------------------------------------------------------- */

struct rebuild {
	struct hv_vmdk_sparse *s;
	uint8_t *table;   /* the one being filled */
	uint64_t current; /* its number */
	unsigned tables;  /* begun so far */
	uint64_t found;   /* grains */
	uint64_t last;    /* the highest grain so far, plus one */
	int fd;
};

static int put_table(struct rebuild *r, struct hv_error *err)
{
	int rc = hv_pwrite_full(r->fd, r->table, r->s->table_bytes, r->current * r->s->table_bytes);

	return rc < 0 ? hv_fail(err, -rc, "%s: no memory for its tables", r->s->file->path) : 0;
}

/* 1: noted; 0: the stream makes no sense from here on; or -errno. */
static int note_grain(struct rebuild *r, const struct hv_vmdk_step *step, struct hv_error *err)
{
	struct hv_vmdk_sparse *s = r->s;
	uint64_t sectors = s->grain / VMDK_SECTOR, grain = step->value / sectors, table;
	int rc;

	if (step->value % sectors || grain >= s->grains || grain < r->last ||
	    step->at / VMDK_SECTOR > UINT32_MAX)
		return 0;
	table = grain / s->per_table;
	if (table != r->current || !r->tables) {
		if (r->tables >= TABLES_MAX)
			return 0;
		rc = r->tables ? put_table(r, err) : 0;
		if (rc < 0)
			return rc;
		memset(r->table, 0, s->table_bytes);
		r->current = table;
		r->tables++;
	}
	hv_put_le32(r->table + grain % s->per_table * 4, (uint32_t)(step->at / VMDK_SECTOR));
	r->last = grain + 1;
	r->found++;
	return 1;
}

static int walk(struct rebuild *r, uint64_t *stopped, bool *ended, struct hv_error *err)
{
	struct hv_vmdk_sparse *s = r->s;
	struct hv_vmdk_step step;
	uint64_t at = s->data_at;
	int rc;

	for (;;) {
		rc = hv_vmdk_step(s->file, at, hv_vmdk_stored_max(s), &step, err);
		if (rc > 0 && step.grain)
			rc = note_grain(r, &step, err);
		if (rc <= 0)
			break;
		*ended = !step.grain && step.type == VMDK_MARK_END;
		if (*ended)
			break;
		at = step.next;
	}
	*stopped = at;
	if (rc >= 0 && r->tables)
		rc = put_table(r, err);
	return rc < 0 ? rc : 0;
}

static int take_rebuilt(struct rebuild *r, uint64_t stopped, bool ended, struct hv_error *err)
{
	struct hv_vmdk_sparse *s = r->s;
	struct hv_disk_file *f;
	int rc;

	if (ftruncate(r->fd, (off_t)(s->directory * s->table_bytes)) < 0)
		return hv_fail_errno(err, "%s: no memory for its tables", s->file->path);
	rc = hv_disk_file_new(r->fd, s->file->path, 0, 0, &f, err);
	if (rc < 0)
		return rc;
	r->fd = -1;
	if (s->tables != s->file)
		hv_disk_file_free(s->tables);
	s->tables = f;
	/* Without its end, a stream doesn't tell holes from what is lost. */
	s->known_end = ended ? UINT64_MAX : r->last * s->grain;
	return hv_disk_note(s->disk,
			    "%s: the grain directory at the end is lost; %llu grains were found by their "
			    "markers up to offset %llu of the file, and what comes behind byte %llu of the "
			    "disk is lost",
			    s->file->path, (unsigned long long)r->found, (unsigned long long)stopped,
			    (unsigned long long)(ended ? s->length : r->last * s->grain));
}

int hv_vmdk_rebuild(struct hv_vmdk_sparse *s, struct hv_error *err)
{
	struct rebuild r = {.s = s, .fd = -1};
	uint64_t stopped = 0;
	bool ended = false;
	int rc;

	if (!s->markers)
		return hv_fail_unsafe(err,
				      "%s: the grain directory is lost, and there are no markers to make "
				      "it anew from",
				      s->file->path);
	r.table = malloc(s->table_bytes);
	r.fd = memfd_create("vmdk-tables", MFD_CLOEXEC);
	if (r.fd < 0)
		rc = hv_fail_errno(err, "%s: no file in memory for its tables", s->file->path);
	else if (!r.table)
		rc = hv_fail(err, ENOMEM, "%s: no memory for its tables", s->file->path);
	else
		rc = walk(&r, &stopped, &ended, err);
	if (rc == 0)
		rc = take_rebuilt(&r, stopped, ended, err);
	if (r.fd >= 0)
		close(r.fd);
	free(r.table);
	return rc;
}
