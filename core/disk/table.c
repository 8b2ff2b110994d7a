/*
 * A table in a file, a page at a time. Pages are looked up in a small array, least recently used first to go;
 * one lock guards it. A page is kept as it stands in the file, so that a run of equal entries is found by
 * comparing words, and a page goes back as it came.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "disk/table.h"

struct page {
	uint64_t number;
	uint64_t used; /* the clock when it was last wanted; 0: free */
	bool dirty;
	uint8_t *bytes;
};

struct hv_table {
	struct hv_table_shape shape;
	pthread_mutex_t lock;
	uint64_t clock;
	struct page *last; /* the one wanted last: neighbours mostly follow */
	unsigned pages;
	struct page page[];
};

int hv_table_new(const struct hv_table_shape *shape, struct hv_table **table, struct hv_error *err)
{
	unsigned pages = shape->pages ? shape->pages : 16;
	uint64_t size = hv_disk_file_size(shape->file),
		 need = (shape->entries * shape->entry_size + HV_TABLE_PAGE - 1) / HV_TABLE_PAGE;
	struct hv_table *t;

	if (shape->entries > UINT64_MAX / 8 - HV_TABLE_PAGE ||
	    !hv_inside(shape->at, shape->entries * shape->entry_size, size))
		return hv_fail_unsafe(
			err,
			"%s: the %s (%llu entries at offset %llu) is not all in the file, which ends at %llu",
			shape->file->path, shape->what, (unsigned long long)shape->entries,
			(unsigned long long)shape->at, (unsigned long long)size);
	if (need < pages)
		pages = need ? (unsigned)need : 1;
	t = calloc(1, sizeof(*t) + pages * sizeof(t->page[0]));
	if (!t)
		return hv_fail(err, ENOMEM, "%s: out of memory for the %s", shape->file->path, shape->what);
	t->shape = *shape;
	t->pages = pages;
	pthread_mutex_init(&t->lock, NULL);
	*table = t;
	return 0;
}

void hv_table_free(struct hv_table *t)
{
	if (!t)
		return;
	for (unsigned i = 0; i < t->pages; i++)
		free(t->page[i].bytes);
	pthread_mutex_destroy(&t->lock);
	free(t);
}

/* The table's bytes that page `number` holds. */
static size_t page_length(const struct hv_table *t, uint64_t number)
{
	uint64_t left = t->shape.entries * t->shape.entry_size - number * HV_TABLE_PAGE;

	return left < HV_TABLE_PAGE ? (size_t)left : HV_TABLE_PAGE;
}

static int write_page(struct hv_table *t, struct page *p, struct hv_error *err)
{
	int rc = hv_disk_file_write(t->shape.file, p->bytes, page_length(t, p->number),
				    t->shape.at + p->number * HV_TABLE_PAGE, err);

	if (rc == 0)
		p->dirty = false;
	return rc;
}

static struct page *find(struct hv_table *t, uint64_t number, struct page **oldest)
{
	*oldest = &t->page[0];
	for (unsigned i = 0; i < t->pages; i++) {
		struct page *p = &t->page[i];

		if (p->used && p->number == number)
			return p;
		if (p->used < (*oldest)->used)
			*oldest = p;
	}
	return NULL;
}

/* The page in memory. t->lock is held. */
static int load(struct hv_table *t, uint64_t number, struct page **page, struct hv_error *err)
{
	struct page *p = t->last, *victim;
	int rc;

	if (!p || !p->used || p->number != number)
		p = find(t, number, &victim);
	if (!p) {
		p = victim;
		if (p->dirty && (rc = write_page(t, p, err)) < 0)
			return rc;
		p->used = 0;
		if (!p->bytes && !(p->bytes = malloc(HV_TABLE_PAGE)))
			return hv_fail(err, ENOMEM, "%s: out of memory for the %s", t->shape.file->path,
				       t->shape.what);
		rc = hv_disk_file_read(t->shape.file, t->shape.what, p->bytes, page_length(t, number),
				       t->shape.at + number * HV_TABLE_PAGE, err);
		if (rc < 0)
			return rc;
		p->number = number;
	}
	p->used = ++t->clock;
	t->last = *page = p;
	return 0;
}

static uint64_t decode(const struct hv_table *t, const uint8_t *at)
{
	if (t->shape.entry_size == 4)
		return t->shape.big_endian ? hv_be32(at) : hv_le32(at);
	return t->shape.big_endian ? hv_be64(at) : hv_le64(at);
}

static void encode(const struct hv_table *t, uint8_t *at, uint64_t value)
{
	if (t->shape.entry_size == 4 && t->shape.big_endian)
		hv_put_be32(at, (uint32_t)value);
	else if (t->shape.entry_size == 4)
		hv_put_le32(at, (uint32_t)value);
	else if (t->shape.big_endian)
		hv_put_be64(at, value);
	else
		hv_put_le64(at, value);
}

static int outside(const struct hv_table *t, uint64_t index, struct hv_error *err)
{
	return hv_fail_unsafe(err, "%s: entry %llu of the %s is asked for, which has %llu",
			      t->shape.file->path, (unsigned long long)index, t->shape.what,
			      (unsigned long long)t->shape.entries);
}

/* How many entries of p from `first` on, at most max, go on as value + step each. */
static uint64_t run_in_page(const struct hv_table *t, const struct page *p, size_t first, uint64_t max,
			    uint64_t value, uint64_t step)
{
	size_t size = t->shape.entry_size, end = page_length(t, p->number);
	const uint8_t *at = p->bytes + first;
	uint64_t n = 0, left = (end - first) / size;

	if (left > max)
		left = max;
	/* All equal to the first: compare the bytes with themselves, one entry further on. */
	if (step == 0 && left > 1 && decode(t, at) == value && memcmp(at, at + size, (left - 1) * size) == 0)
		return left;
	while (n < left && decode(t, at + n * size) == value + n * step)
		n++;
	return n;
}

int hv_table_run(struct hv_table *t, uint64_t index, uint64_t max, uint64_t step, uint64_t *value,
		 uint64_t *count, struct hv_error *err)
{
	const size_t per_page = HV_TABLE_PAGE / t->shape.entry_size;
	uint64_t n = 0;
	int rc = 0;

	if (index >= t->shape.entries)
		return outside(t, index, err);
	if (max > t->shape.entries - index)
		max = t->shape.entries - index;
	pthread_mutex_lock(&t->lock);
	do {
		size_t first = (size_t)((index + n) % per_page) * t->shape.entry_size;
		struct page *p = NULL;
		uint64_t found;

		/* A page that can't be read ends the run; it is a failure only for whoever asks for it. */
		rc = load(t, (index + n) / per_page, &p, n ? NULL : err);
		if (rc < 0 || !p)
			break;
		if (n == 0)
			*value = decode(t, p->bytes + first);
		found = run_in_page(t, p, first, max - n, *value + n * step, step);
		n += found;
		if (found == 0 || (index + n) % per_page)
			break;
	} while (n < max);
	pthread_mutex_unlock(&t->lock);
	*count = n ? n : 1;
	return n ? 0 : rc;
}

int hv_table_get(struct hv_table *t, uint64_t index, uint64_t *value, struct hv_error *err)
{
	uint64_t count;

	return hv_table_run(t, index, 1, 0, value, &count, err);
}

int hv_table_set(struct hv_table *t, uint64_t index, uint64_t value, struct hv_error *err)
{
	const size_t per_page = HV_TABLE_PAGE / t->shape.entry_size;
	struct page *p = NULL;
	int rc;

	if (index >= t->shape.entries)
		return outside(t, index, err);
	pthread_mutex_lock(&t->lock);
	rc = load(t, index / per_page, &p, err);
	if (rc == 0 && p) {
		encode(t, p->bytes + (size_t)(index % per_page) * t->shape.entry_size, value);
		p->dirty = true;
	}
	pthread_mutex_unlock(&t->lock);
	return rc;
}

int hv_table_flush(struct hv_table *t, struct hv_error *err)
{
	int rc = 0;

	pthread_mutex_lock(&t->lock);
	for (unsigned i = 0; i < t->pages && rc == 0; i++)
		if (t->page[i].used && t->page[i].dirty)
			rc = write_page(t, &t->page[i], err);
	pthread_mutex_unlock(&t->lock);
	return rc;
}
