/*
 * qcow2's tables, a page at a time. An image has as many L2 tables and refcount blocks as its size asks for,
 * each in a place of its own, so pages are kept by their place in the file: a bounded number, found by a
 * hash, the least recently used (by a clock's hand) first to go. A page of an image that is written lies
 * inside one cluster, and so holds one kind of table; dirty pages know which, since the order in which kinds
 * reach the file is what keeps an image whole after a crash.
 */
#include <stdlib.h>
#include <string.h>

#include "disk/qcow2/qcow2.h"

#define PAGE_BITS    14
#define PAGES        64
#define PAGES_TO_SET 256 /* of an image that is written: evicting a dirty one costs a flush */
#define PAGES_MAX    4096
#define NONE         UINT32_MAX

int hv_qcow2_cache_init(struct hv_disk *d, struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);
	struct hv_qcow2_cache *c = &q->cache;

	c->page_bits = PAGE_BITS;
	c->count = d->writable ? PAGES_TO_SET : PAGES;
	while (d->writable && c->page_bits > q->cluster_bits) {
		c->page_bits--;
		c->count *= c->count < PAGES_MAX ? 2 : 1;
	}
	c->page = calloc(c->count, sizeof(*c->page));
	c->bucket = malloc(c->count * sizeof(*c->bucket));
	if (!c->page || !c->bucket)
		return hv_fail(err, ENOMEM, "%s: out of memory for its tables", d->path);
	memset(c->bucket, 0xff, c->count * sizeof(*c->bucket));
	return 0;
}

void hv_qcow2_cache_free(struct hv_qcow2 *q)
{
	struct hv_qcow2_cache *c = &q->cache;

	for (uint32_t i = 0; c->page && i < c->count; i++)
		free(c->page[i].bytes);
	free(c->page);
	free(c->bucket);
	*c = (struct hv_qcow2_cache){0};
}

static uint32_t *bucket_of(struct hv_qcow2_cache *c, uint64_t number)
{
	return &c->bucket[(number * 0x9e3779b97f4a7c15ULL) >> 32 & (c->count - 1)];
}

static struct hv_qcow2_page *find(struct hv_qcow2_cache *c, uint64_t number)
{
	for (uint32_t i = *bucket_of(c, number); i != NONE; i = c->page[i].next)
		if (c->page[i].number == number)
			return &c->page[i];
	return NULL;
}

static void unlink_page(struct hv_qcow2_cache *c, struct hv_qcow2_page *p)
{
	uint32_t *link = bucket_of(c, p->number), index = (uint32_t)(p - c->page);

	while (*link != index)
		link = &c->page[*link].next;
	*link = p->next;
	p->used = false;
	if (c->last == p)
		c->last = NULL;
}

static int write_page(struct hv_disk *d, struct hv_qcow2_page *p, struct hv_error *err)
{
	struct hv_qcow2_cache *c = &hv_qcow2_of(d)->cache;
	int rc = hv_disk_file_write(d->file[0], p->bytes, p->valid, p->number << c->page_bits, err);

	if (rc == 0) {
		p->dirty = false;
		c->dirty[p->kind]--;
	}
	return rc;
}

int hv_qcow2_write_pages(struct hv_disk *d, enum hv_qcow2_kind kind, struct hv_error *err)
{
	struct hv_qcow2_cache *c = &hv_qcow2_of(d)->cache;
	int rc = 0;

	for (uint32_t i = 0; i < c->count && c->dirty[kind] && rc == 0; i++)
		if (c->page[i].used && c->page[i].dirty && c->page[i].kind == kind)
			rc = write_page(d, &c->page[i], err);
	return rc;
}

/* A page to be used anew, or NULL. A dirty one can't go before those that it rests on: then all go. */
static struct hv_qcow2_page *take(struct hv_disk *d, int *rc, struct hv_error *err)
{
	struct hv_qcow2 *q = hv_qcow2_of(d);
	struct hv_qcow2_cache *c = &q->cache;
	struct hv_qcow2_page *p;

	for (;;) {
		p = &c->page[c->hand];
		c->hand = (c->hand + 1) & (c->count - 1);
		if (!p->used)
			break;
		if (p->recent) {
			p->recent = false;
			continue;
		}
		if (!p->dirty)
			break;
		*rc = q->creating || q->writing_all ? write_page(d, p, err) : hv_qcow2_write_all(d, err);
		if (*rc < 0)
			return NULL;
	}
	if (p->used)
		unlink_page(c, p);
	if (!p->bytes && !(p->bytes = malloc((size_t)1 << c->page_bits))) {
		*rc = hv_fail(err, ENOMEM, "%s: out of memory for its tables", d->path);
		return NULL;
	}
	return p;
}

static int fill(struct hv_disk *d, struct hv_qcow2_page *p, uint64_t number, struct hv_error *err)
{
	struct hv_qcow2_cache *c = &hv_qcow2_of(d)->cache;
	uint32_t *bucket = bucket_of(c, number);
	int64_t n = hv_disk_file_read_some(d->file[0], p->bytes, (size_t)1 << c->page_bits,
					   number << c->page_bits, err);

	if (n < 0)
		return (int)n;
	*p = (struct hv_qcow2_page){
		.number = number, .next = *bucket, .valid = (uint32_t)n, .used = true, .bytes = p->bytes};
	*bucket = (uint32_t)(p - c->page);
	return 0;
}

/* The page of that number in memory; NULL with *rc when it can't be had. */
static struct hv_qcow2_page *load(struct hv_disk *d, uint64_t number, int *rc, struct hv_error *err)
{
	struct hv_qcow2_cache *c = &hv_qcow2_of(d)->cache;
	struct hv_qcow2_page *p = c->last && c->last->number == number ? c->last : find(c, number), *room;

	if (!p) {
		room = take(d, rc, err);
		if (!room)
			return NULL;
		/* Making room may have written everything, and for that have looked at this very page. */
		p = find(c, number);
		if (!p) {
			*rc = fill(d, room, number, err);
			p = room;
		}
		if (*rc < 0)
			return NULL;
	}
	p->recent = true;
	c->last = p;
	return p;
}

/* The page that holds the eight bytes at `at`, and where they are in it. */
static struct hv_qcow2_page *reach(struct hv_disk *d, uint64_t at, size_t *in_page, int *rc,
				   struct hv_error *err)
{
	struct hv_qcow2_cache *c = &hv_qcow2_of(d)->cache;
	struct hv_qcow2_page *p = load(d, at >> c->page_bits, rc, err);

	if (!p)
		return NULL;
	*in_page = (size_t)(at & (((uint64_t)1 << c->page_bits) - 1));
	if (*in_page + 8 <= p->valid)
		return p;
	*rc = hv_fail_unsafe(err, "%s: a table's entry at offset %llu is not in the file, which ends at %llu",
			     d->path, (unsigned long long)at,
			     (unsigned long long)hv_disk_file_size(d->file[0]));
	return NULL;
}

int hv_qcow2_bytes(struct hv_disk *d, uint64_t at, const uint8_t **bytes, size_t *length,
		   struct hv_error *err)
{
	size_t in_page;
	int rc = 0;
	struct hv_qcow2_page *p = reach(d, at, &in_page, &rc, err);

	if (!p)
		return rc;
	*bytes = p->bytes + in_page;
	*length = p->valid - in_page;
	return 0;
}

int hv_qcow2_get(struct hv_disk *d, uint64_t at, uint64_t *value, struct hv_error *err)
{
	size_t in_page;
	int rc = 0;
	struct hv_qcow2_page *p = reach(d, at, &in_page, &rc, err);

	if (p)
		*value = hv_be64(p->bytes + in_page);
	return rc;
}

int hv_qcow2_put(struct hv_disk *d, enum hv_qcow2_kind kind, uint64_t at, const void *bytes, size_t length,
		 struct hv_error *err)
{
	struct hv_qcow2_cache *c = &hv_qcow2_of(d)->cache;
	size_t in_page;
	int rc = 0;
	struct hv_qcow2_page *p = reach(d, at & ~7ULL, &in_page, &rc, err);

	if (!p)
		return rc;
	if (p->dirty && p->kind != kind)
		return hv_fail_unsafe(err, "%s: the cluster at offset %llu holds two kinds of tables",
				      d->path, (unsigned long long)at);
	memcpy(p->bytes + in_page + (at & 7), bytes, length);
	c->dirty[kind] += !p->dirty;
	p->dirty = true;
	p->kind = kind;
	return 0;
}

int hv_qcow2_set(struct hv_disk *d, enum hv_qcow2_kind kind, uint64_t at, uint64_t value,
		 struct hv_error *err)
{
	uint8_t bytes[8];

	hv_put_be64(bytes, value);
	return hv_qcow2_put(d, kind, at, bytes, sizeof(bytes), err);
}

void hv_qcow2_forget(struct hv_qcow2 *q, uint64_t at, uint64_t length)
{
	struct hv_qcow2_cache *c = &q->cache;

	for (uint32_t i = 0; i < c->count; i++) {
		struct hv_qcow2_page *p = &c->page[i];

		if (p->used && !p->dirty && p->number << c->page_bits < at + length &&
		    (p->number + 1) << c->page_bits > at)
			unlink_page(c, p);
	}
}
