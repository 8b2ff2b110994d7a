/*
 * Checking a VMDK: every table of every sparse extent, each compared with its redundant copy; every grain's
 * place, none twice, none on the tables; every compressed grain by decompressing it.
 */
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "disk/claims.h"
#include "disk/vmdk/vmdk_impl.h"

#define FLAT_BLOCK 65536U /* in which a flat extent is counted */

struct look {
	struct hv_disk *d;
	struct hv_vmdk_extent *e;
	struct hv_vmdk_sparse *s;
	struct hv_disk_check *check;
	struct hv_claims *claims;
	struct hv_disk_io *io;
	uint8_t *table, *twin, *stored, *grain;
	uint64_t used; /* bytes of the file that have an owner */
};

/* 0: it has no owner yet; 1: it has, or lies outside the file, and that was told. */
static int claim(struct look *l, const char *what, uint64_t at, uint64_t length, struct hv_error *err)
{
	uint64_t where = at;
	int rc = hv_claim(l->claims, at, length, &where);

	if (rc == -ENOMEM)
		return hv_fail(err, ENOMEM, "%s: out of memory", l->d->path);
	if (rc == 0) {
		l->used += length;
		return 0;
	}
	hv_disk_found(l->check, HV_CHECK_ERROR, "%s: the %s at offset %llu (%llu bytes) %s", l->s->file->path,
		      what, (unsigned long long)at, (unsigned long long)length,
		      rc < 0 ? "is not all in the file" : "overlaps with something else");
	return 1;
}

static int claim_front(struct look *l, struct hv_error *err)
{
	const struct hv_vmdk_sparse *s = l->s;
	const struct hv_vmdk_header *h = &s->header;
	uint64_t directory = hv_round_up(s->directory * s->entry_size, VMDK_SECTOR), size;
	int rc;

	rc = claim(l, "header", 0, s->dialect == VMDK_COWD ? 2048 : VMDK_SECTOR, err);
	if (rc >= 0 && s->dialect == VMDK_HOSTED && h->descriptor_at)
		rc = claim(l, "descriptor", h->descriptor_at * VMDK_SECTOR, h->descriptor_size * VMDK_SECTOR,
			   err);
	size = hv_disk_file_size(s->file);
	if (rc >= 0 && s->gd) {
		uint64_t n = hv_inside(s->gd_at, directory, size) ? directory : s->directory * s->entry_size;

		rc = claim(l, "grain directory", s->gd_at, n, err);
		if (rc >= 0 && s->rgd)
			rc = claim(l, "redundant grain directory", s->rgd_at, n, err);
	}
	return rc < 0 ? rc : 0;
}

/* The redundant table: it has to be there, and to say the same. */
static int check_twin(struct look *l, uint64_t table, struct hv_error *err)
{
	struct hv_vmdk_sparse *s = l->s;
	struct hv_error why;
	uint64_t at, twin;
	int rc;

	if (!s->rgd || hv_vmdk_table_place(s, table, false, &at, &why) < 0 || !at)
		return 0;
	if (hv_vmdk_table_place(s, table, true, &twin, &why) < 0) {
		hv_disk_found(l->check, HV_CHECK_ERROR, "%s", why.text);
		return 0;
	}
	if (!twin || twin == at) {
		hv_disk_found(l->check, HV_CHECK_ERROR, "%s: grain table %llu has no redundant copy",
			      s->file->path, (unsigned long long)table);
		return 0;
	}
	rc = claim(l, "redundant grain table", twin, s->table_bytes, err);
	if (rc != 0)
		return rc < 0 ? rc : 0;
	rc = hv_disk_file_read(s->file, "grain table", l->table, s->table_bytes, at, err);
	if (rc == 0)
		rc = hv_disk_file_read(s->file, "redundant grain table", l->twin, s->table_bytes, twin, err);
	if (rc == 0 && memcmp(l->table, l->twin, s->table_bytes) != 0)
		hv_disk_found(l->check, HV_CHECK_ERROR,
			      "%s: grain table %llu at offset %llu and its redundant copy at %llu differ",
			      s->file->path, (unsigned long long)table, (unsigned long long)at,
			      (unsigned long long)twin);
	return rc;
}

/* Decompresses one grain; the bytes that it takes. */
static int check_encoded(struct look *l, uint64_t grain, const struct hv_vmdk_grains *g, struct hv_error *err)
{
	struct hv_vmdk_sparse *s = l->s;
	uint64_t left = s->length - grain * s->grain;
	struct hv_run run = {.unit = l->e->start + grain * s->grain,
			     .unit_length = (uint32_t)(left < s->grain ? left : s->grain),
			     .at = g->at};
	struct hv_error why;
	size_t used = 0;
	int64_t n = hv_disk_file_read_some(s->file, l->stored, g->room, g->at, err);
	int rc;

	if (n < 0)
		return (int)n;
	rc = hv_vmdk_decode(l->d, l->io, &run, l->stored, (size_t)n, l->grain, &used, &why);
	if (rc < 0) {
		hv_disk_found(l->check, HV_CHECK_ERROR, "%s", why.text);
		return 0;
	}
	used = hv_round_up(used, VMDK_SECTOR);
	if (used > hv_disk_file_size(s->file) - g->at)
		used = hv_disk_file_size(s->file) - g->at;
	return claim(l, "compressed grain", g->at, used, err);
}

static int check_plain(struct look *l, uint64_t grain, const struct hv_vmdk_grains *g, struct hv_error *err)
{
	const struct hv_vmdk_sparse *s = l->s;
	uint64_t length = g->count * s->grain, size = hv_disk_file_size(s->file);

	/* The disk's last grain may be cut off where the disk ends. */
	if (grain + g->count == s->grains && length > size - g->at)
		length = size - g->at;
	return claim(l, "grain", g->at, length, err);
}

static int check_grains(struct look *l, uint64_t table, struct hv_error *err)
{
	struct hv_vmdk_sparse *s = l->s;
	uint64_t grain = table * s->per_table, end = grain + s->per_table;
	struct hv_vmdk_grains g;
	struct hv_error why;

	if (end > s->grains)
		end = s->grains;
	while (grain < end && grain * s->grain < s->length) {
		int rc = hv_vmdk_scan(s, grain, end - grain, &g, &why);

		if (rc == -ENOMEM) {
			*err = why;
			return rc;
		}
		if (rc < 0) {
			hv_disk_found(l->check, HV_CHECK_ERROR, "%s", why.text);
			g.count = 1;
		} else if (g.kind == HV_RUN_DATA) {
			l->check->used += g.count;
			rc = s->compressed ? check_encoded(l, grain, &g, err)
					   : check_plain(l, grain, &g, err);
			if (rc < 0)
				return rc;
		}
		grain += g.count;
	}
	return 0;
}

static int check_table(struct look *l, uint64_t table, struct hv_error *err)
{
	struct hv_vmdk_sparse *s = l->s;
	struct hv_error why;
	uint64_t at;
	int rc = hv_vmdk_table_place(s, table, false, &at, &why);

	if (rc < 0) {
		hv_disk_found(l->check, HV_CHECK_ERROR, "%s", why.text);
		return rc == -ENOMEM ? rc : 0;
	}
	if (!at && s->tables == s->file) {
		/* Lost, by what the redundant directory says? */
		struct hv_vmdk_grains g;

		if (s->rgd && hv_vmdk_scan(s, table * s->per_table, 1, &g, &why) < 0)
			hv_disk_found(l->check, HV_CHECK_ERROR, "%s", why.text);
		return 0;
	}
	/* A table that two entries lead to is told once; its grains were looked at with the first. */
	if (s->tables == s->file && (rc = claim(l, "grain table", at, s->table_bytes, err)) != 0)
		return rc < 0 ? rc : 0;
	rc = check_twin(l, table, err);
	return rc < 0 ? rc : check_grains(l, table, err);
}

/*
 * The next table to look at. Tables that salvage made anew are as many as the header claims, whatever the
 * file's size, so those that have nothing are passed over together.
 */
static uint64_t next_table(struct look *l, uint64_t table)
{
	struct hv_vmdk_sparse *s = l->s;
	struct hv_vmdk_grains g;
	uint64_t grain = table * s->per_table;

	if (s->tables == s->file || table >= s->directory ||
	    hv_vmdk_scan(s, grain, s->grains - grain, &g, NULL) < 0 || g.kind != HV_RUN_HOLE)
		return table;
	return (grain + g.count) / s->per_table;
}

/* Room behind the front that nothing leads to. A stream's markers and its end are no such room. */
static void check_leaks(struct look *l)
{
	const struct hv_vmdk_sparse *s = l->s;
	uint64_t size = hv_disk_file_size(s->file), front = s->data_at < size ? s->data_at : size;

	if (s->compressed || s->dialect != VMDK_HOSTED || size - front < s->grain ||
	    size <= l->used + front + s->grain)
		return;
	hv_disk_found(l->check, HV_CHECK_LEAK, "%s: about %llu bytes of the file are used by nothing",
		      s->file->path, (unsigned long long)(size - l->used - front));
}

static int check_sparse(struct look *l, struct hv_error *err)
{
	struct hv_vmdk_sparse *s = l->s;
	int rc;

	l->check->blocks += (s->length - 1) / s->grain + 1;
	l->claims = hv_claims_new(hv_disk_file_size(s->file), VMDK_SECTOR);
	l->table = malloc(s->table_bytes);
	l->twin = malloc(s->table_bytes);
	if (s->compressed) {
		l->stored = malloc(hv_vmdk_stored_max(s));
		l->grain = malloc(s->grain);
	}
	if (!l->claims || !l->table || !l->twin || (s->compressed && (!l->stored || !l->grain)))
		rc = hv_fail(err, ENOMEM, "%s: out of memory", l->d->path);
	else
		rc = claim_front(l, err);
	for (uint64_t t = next_table(l, 0); rc == 0 && t < s->directory; t = next_table(l, t + 1))
		rc = check_table(l, t, err);
	if (rc == 0)
		check_leaks(l);
	if (rc == 0 && s->header.unclean)
		hv_disk_found(l->check, HV_CHECK_NOTE, "%s: it was not closed cleanly", s->file->path);
	hv_claims_free(l->claims);
	free(l->table);
	free(l->twin);
	free(l->stored);
	free(l->grain);
	return rc;
}

static int check_extent(struct hv_disk *d, struct hv_vmdk_extent *e, struct hv_disk_check *check,
			struct hv_error *err)
{
	struct look l = {.d = d, .e = e, .s = e->sparse, .check = check};
	struct hv_error why;
	uint64_t blocks = (e->length + FLAT_BLOCK - 1) / FLAT_BLOCK;
	int rc;

	if (!e->sparse) {
		check->blocks += blocks;
		if (e->type != VMDK_ZERO && e->access != VMDK_NOACCESS)
			check->used += blocks;
		if (e->type != VMDK_ZERO && e->access != VMDK_NOACCESS &&
		    !hv_inside(e->at, e->length, hv_disk_file_size(d->file[e->file]))) {
			(void)hv_fail_unsafe(&why, "%s: the file is shorter than the extent",
					     d->file[e->file]->path);
			hv_disk_found(check, HV_CHECK_ERROR, "%s", why.text);
		}
		return 0;
	}
	l.io = hv_disk_io_new();
	rc = l.io ? check_sparse(&l, err) : hv_fail(err, ENOMEM, "%s: out of memory", d->path);
	hv_disk_io_free(l.io);
	return rc;
}

int hv_vmdk_check(struct hv_disk *d, struct hv_disk_check *check, struct hv_error *err)
{
	struct hv_vmdk *v = d->state;
	int rc = 0;

	for (unsigned i = 0; i < v->extents && rc == 0; i++)
		rc = check_extent(d, &v->extent[i], check, err);
	return rc;
}
