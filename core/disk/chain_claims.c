/*
 * Claims over a chain: each byte of its files belongs to one block of the disk or to one table. Tables that
 * lead two blocks to the same bytes, or a block into a table, show in no single entry; who reads a whole disk
 * claims what it reads here, and learns of it. Files that an image names twice are one file.
 */
#include <stdlib.h>

#include "disk/convert/convert_impl.h"

#define CLAIM_BITS (1ULL << 25) /* over all files of the chain */

void hv_chain_claims_init(struct hv_chain_claims *c, struct hv_disk *source)
{
	*c = (struct hv_chain_claims){.source = source};
	pthread_mutex_init(&c->lock, NULL);
}

void hv_chain_claims_free(struct hv_chain_claims *c)
{
	unsigned depth = 0;

	for (const struct hv_disk *d = c->source; d && depth < HV_DISK_CHAIN_MAX; d = d->parent, depth++) {
		struct hv_layer_claims *layer = &c->layer[depth];
		for (unsigned i = 0; layer->file && i < d->files; i++)
			hv_claims_free(layer->file[i]);
		free(layer->file);
		layer->file = NULL;
	}
	pthread_mutex_destroy(&c->lock);
}

static void choose_unit(struct hv_chain_claims *c)
{
	uint64_t total = 0;

	for (const struct hv_disk *d = c->source; d; d = d->parent)
		for (unsigned i = 0; i < d->files; i++)
			total += hv_disk_file_size(d->file[i]);
	c->unit = 512;
	while (c->unit < 1U << 30 && total / c->unit > CLAIM_BITS)
		c->unit *= 2;
}

/* The first of the image's files that is this one. */
static unsigned first_of(const struct hv_disk *d, unsigned file)
{
	const struct hv_disk_file *f = d->file[file];

	for (unsigned i = 0; i < file; i++)
		if (d->file[i]->inode == f->inode && d->file[i]->device == f->device &&
		    d->file[i]->base == f->base && f->inode)
			return i;
	return file;
}

static struct hv_claims *claims_of(struct hv_chain_claims *c, const struct hv_disk *d, unsigned file)
{
	struct hv_layer_claims *layer = &c->layer[d->depth];

	if (!c->unit)
		choose_unit(c);
	if (!layer->file)
		layer->file = calloc(d->files, sizeof(struct hv_claims *));
	if (!layer->file)
		return NULL;
	if (!layer->file[file] && d->files > 1)
		file = first_of(d, file);
	if (!layer->file[file])
		layer->file[file] = hv_claims_new(hv_disk_file_size(d->file[file]), c->unit);
	return layer->file[file];
}

static int no_memory(const struct hv_disk *d, int rc, struct hv_error *err)
{
	return hv_fail(err, -rc, "%s: no memory for the map of its blocks", d->path);
}

int hv_chain_claim(struct hv_chain_claims *c, const struct hv_run *run, uint64_t length, struct hv_error *err)
{
	struct hv_layer_claims *layer = &c->layer[run->depth];
	bool encoded = run->stored == HV_STORED_ENCODED;
	struct hv_claims *claims;
	uint64_t where = 0;
	int rc = -ENOMEM;

	pthread_mutex_lock(&c->lock);
	claims = claims_of(c, run->layer, run->file);
	if (claims && encoded && layer->any_unit && layer->last_unit == run->unit)
		rc = 0; /* another part of the same unit */
	else if (claims)
		rc = hv_claim(claims, run->at, length, &where);
	if (encoded) {
		layer->any_unit = true;
		layer->last_unit = run->unit;
	}
	pthread_mutex_unlock(&c->lock);
	if (rc == 1)
		return hv_fail_unsafe(
			err,
			"%s: two blocks of the disk share bytes of the file: offset %llu holds what the disk "
			"has at %llu, and something before it%s",
			run->layer->file[run->file]->path, (unsigned long long)where,
			(unsigned long long)run->offset,
			run->layer->format->tables ? ", or a table of the image" : "");
	return rc < 0 ? no_memory(run->layer, rc, err) : 0;
}

/* --- tables ----------------------------------------------------------------------------------------------- */

struct table_claims {
	struct hv_disk_tables base;
	struct hv_chain_claims *claims;
	bool salvage;
};

static int own(struct hv_disk_tables *base, struct hv_disk *d, unsigned file, uint64_t at, uint64_t length,
	       struct hv_error *err)
{
	struct table_claims *t = hv_container_of(base, struct table_claims, base);
	struct hv_claims *claims = claims_of(t->claims, d, file);
	uint64_t where = 0;
	int rc = claims ? hv_claim(claims, at, length, &where) : -ENOMEM;

	if (rc == 0 || rc == -ERANGE || (rc == 1 && t->salvage))
		return 0; /* what isn't in the file is refused by whoever needs it */
	if (rc < 0)
		return no_memory(d, rc, err);
	return hv_fail_unsafe(err,
			      "%s: the table at offset %llu shares the bytes at offset %llu with another",
			      d->file[file]->path, (unsigned long long)at, (unsigned long long)where);
}

int hv_chain_claim_tables(struct hv_chain_claims *c, bool salvage, struct hv_error *err)
{
	struct table_claims t = {.base = {own}, .claims = c, .salvage = salvage};
	int rc = 0;

	for (struct hv_disk *d = c->source; d && rc == 0; d = d->parent)
		if (d->format->tables)
			rc = d->format->tables(d, &t.base, err);
	return rc;
}
