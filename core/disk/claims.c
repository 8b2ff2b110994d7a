/*
 * Claims: see claims.h. Whole units are bits, in pages that exist once they are touched. A range that begins
 * or ends inside a unit leaves a piece there; pieces are found by their unit's number in a hash table and
 * grow together, so that ranges which follow each other leave nothing but bits. This file calls nothing but
 * libc.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "disk/claims.h"

#define PAGE_BITS  (1U << 15)
#define PAGE_WORDS (PAGE_BITS / 64)
#define UNITS_MAX  (1ULL << 25) /* 4 MiB of bits, when every page is touched */
#define SHIFT_MAX  31           /* a piece's ends are 32 bits, and so are units' numbers */
#define PIECES_MAX (256U << 10)
#define NONE       UINT32_MAX

/* A claimed part of one unit: bytes [start, end) of it. Unused ones are on the free list. */
struct piece {
	uint32_t unit, start, end;
	uint32_t next;
};

struct hv_claims {
	uint64_t size;
	unsigned shift;
	uint64_t **pages; /* NULL: no bit set */
	size_t page_count;
	struct piece *pieces;
	uint32_t *buckets; /* as many as there is room for pieces, a power of two */
	uint32_t capacity, used, unused;
};

struct hv_claims *hv_claims_new(uint64_t size, uint32_t unit)
{
	struct hv_claims *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->size = size;
	c->shift = 9;
	while (c->shift < 30 && (1ULL << c->shift) < unit)
		c->shift++;
	while (c->shift < SHIFT_MAX && size >> c->shift > UNITS_MAX)
		c->shift++;
	c->page_count = (size_t)((size >> c->shift) / PAGE_BITS + 1);
	c->pages = calloc(c->page_count, sizeof(*c->pages));
	c->unused = NONE;
	if (!c->pages) {
		free(c);
		return NULL;
	}
	return c;
}

void hv_claims_free(struct hv_claims *c)
{
	if (!c)
		return;
	for (size_t i = 0; i < c->page_count; i++)
		free(c->pages[i]);
	free(c->pages);
	free(c->pieces);
	free(c->buckets);
	free(c);
}

/* --- whole units ------------------------------------------------------------------------------------------ */

/* The bits of one word that stand for units [first, end), first lying in it. */
static uint64_t word_mask(uint64_t first, uint64_t end)
{
	uint64_t mask = UINT64_MAX << (first & 63);
	uint64_t next = (first | 63) + 1;

	if (end < next)
		mask &= UINT64_MAX >> (next - end);
	return mask;
}

static uint64_t *word_of(const struct hv_claims *c, uint64_t unit)
{
	uint64_t *page = c->pages[unit / PAGE_BITS];

	return page ? &page[unit % PAGE_BITS / 64] : NULL;
}

/* The first unit of [first, end) whose bit is set, or end. */
static uint64_t find_bit(const struct hv_claims *c, uint64_t first, uint64_t end)
{
	while (first < end) {
		const uint64_t *word = word_of(c, first);
		if (!word) {
			first = (first / PAGE_BITS + 1) * PAGE_BITS;
			continue;
		}
		uint64_t hit = *word & word_mask(first, end);
		if (hit)
			return (first & ~63ULL) + (unsigned)__builtin_ctzll(hit);
		first = (first | 63) + 1;
	}
	return end;
}

static int make_pages(struct hv_claims *c, uint64_t first, uint64_t end)
{
	for (uint64_t page = first / PAGE_BITS; first < end && page <= (end - 1) / PAGE_BITS; page++) {
		if (c->pages[page])
			continue;
		c->pages[page] = calloc(PAGE_WORDS, sizeof(uint64_t));
		if (!c->pages[page])
			return -ENOMEM;
	}
	return 0;
}

static void set_bits(struct hv_claims *c, uint64_t first, uint64_t end)
{
	for (; first < end; first = (first | 63) + 1)
		*word_of(c, first) |= word_mask(first, end);
}

/* --- pieces of units -------------------------------------------------------------------------------------- */

static uint32_t *bucket_of(const struct hv_claims *c, uint64_t unit)
{
	return &c->buckets[(unit * 0x9e3779b97f4a7c15ULL) >> 32 & (c->capacity - 1)];
}

/* The lowest claimed byte of unit's [start, end) that a piece holds, or end. */
static uint32_t find_piece(const struct hv_claims *c, uint64_t unit, uint32_t start, uint32_t end)
{
	uint32_t found = end;

	if (c->capacity == 0)
		return end;
	for (uint32_t i = *bucket_of(c, unit); i != NONE; i = c->pieces[i].next) {
		const struct piece *p = &c->pieces[i];
		uint32_t low = p->start > start ? p->start : start;
		if (p->unit == unit && p->end > start && low < found)
			found = low;
	}
	return found;
}

/* The lowest byte at or behind `from` of all pieces in units [first, end), as an offset in the file. */
static uint64_t find_pieces(const struct hv_claims *c, uint64_t first, uint64_t end)
{
	uint64_t found = UINT64_MAX;

	if (end - first <= c->used) { /* few units: ask for each */
		for (uint64_t unit = first; unit < end; unit++) {
			uint32_t size = 1U << c->shift, at = find_piece(c, unit, 0, size);
			if (at < size)
				return (unit << c->shift) + at;
		}
		return found;
	}
	for (uint32_t i = 0; i < c->used; i++) { /* few pieces: look at each */
		const struct piece *p = &c->pieces[i];
		uint64_t at = ((uint64_t)p->unit << c->shift) + p->start;
		if (p->end > p->start && p->unit >= first && p->unit < end && at < found)
			found = at;
	}
	return found;
}

/* Room for one more piece: twice the table, all pieces into their new buckets. */
static int grow(struct hv_claims *c)
{
	uint32_t capacity = c->capacity ? c->capacity * 2 : 64;
	struct piece *pieces = realloc(c->pieces, capacity * sizeof(*pieces));
	uint32_t *buckets;

	if (!pieces)
		return -ENOMEM;
	c->pieces = pieces;
	buckets = realloc(c->buckets, capacity * sizeof(*buckets));
	if (!buckets)
		return -ENOMEM;
	c->buckets = buckets;
	c->capacity = capacity;
	memset(buckets, 0xff, capacity * sizeof(*buckets));
	for (uint32_t i = 0; i < c->used; i++) { /* grow is called with an empty free list only */
		uint32_t *bucket = bucket_of(c, pieces[i].unit);
		pieces[i].next = *bucket;
		*bucket = i;
	}
	return 0;
}

static int add_piece(struct hv_claims *c, uint64_t unit, uint32_t start, uint32_t end)
{
	uint32_t i = c->unused, *bucket;

	if (i == NONE && c->used == PIECES_MAX)
		return 0;
	if (i == NONE && c->used == c->capacity && grow(c))
		return -ENOMEM;
	if (i == NONE)
		i = c->used++;
	else
		c->unused = c->pieces[i].next;
	bucket = bucket_of(c, unit);
	c->pieces[i] = (struct piece){.unit = (uint32_t)unit, .start = start, .end = end, .next = *bucket};
	*bucket = i;
	return 0;
}

/* Takes away the pieces that touch [start, end) and widens it by them. */
static void take_neighbours(struct hv_claims *c, uint64_t unit, uint32_t *start, uint32_t *end)
{
	for (uint32_t *link = bucket_of(c, unit); *link != NONE;) {
		uint32_t i = *link;
		struct piece *p = &c->pieces[i];
		if (p->unit != unit || (p->end != *start && p->start != *end)) {
			link = &p->next;
			continue;
		}
		if (p->end == *start)
			*start = p->start;
		else
			*end = p->end;
		*link = p->next;
		*p = (struct piece){.next = c->unused};
		c->unused = i;
	}
}

/* Claims [start, end) of a unit, which nothing holds yet: a piece, or the unit's bit when it became whole. */
static int set_piece(struct hv_claims *c, uint64_t unit, uint32_t start, uint32_t end)
{
	if (c->capacity > 0)
		take_neighbours(c, unit, &start, &end);
	if (end - start < 1U << c->shift)
		return add_piece(c, unit, start, end);
	if (make_pages(c, unit, unit + 1))
		return -ENOMEM;
	set_bits(c, unit, unit + 1);
	return 0;
}

/* --- ranges ----------------------------------------------------------------------------------------------- */

/* A range as its parts: a piece of the unit in front, whole units, a piece of the unit behind. */
struct parts {
	uint64_t head, first, end, tail; /* units; [first, end) are whole */
	uint32_t head_start, head_end, tail_end;
};

static struct parts cut(const struct hv_claims *c, uint64_t at, uint64_t length)
{
	uint64_t unit = 1ULL << c->shift, last = at + length;
	struct parts p = {.head = at >> c->shift, .tail = last >> c->shift};

	p.first = (at + unit - 1) >> c->shift;
	p.end = p.tail;
	p.head_start = p.head_end = (uint32_t)(at & (unit - 1));
	p.tail_end = (uint32_t)(last & (unit - 1));
	if (p.head_start != 0)
		p.head_end = p.head == p.tail ? p.tail_end : (uint32_t)unit;
	if (p.head_start != 0 && p.head == p.tail)
		p.tail_end = 0; /* the one piece is the head */
	if (p.first > p.end)
		p.first = p.end;
	return p;
}

/* The lowest byte of a piece of a unit that is claimed, UINT64_MAX for none. */
static uint64_t find_part(const struct hv_claims *c, uint64_t unit, uint32_t start, uint32_t end)
{
	uint32_t at;

	if (start >= end)
		return UINT64_MAX;
	at = find_bit(c, unit, unit + 1) == unit ? start : find_piece(c, unit, start, end);
	return at < end ? (unit << c->shift) + at : UINT64_MAX;
}

static uint64_t find(const struct hv_claims *c, const struct parts *p)
{
	uint64_t found = find_part(c, p->head, p->head_start, p->head_end), bit, piece;

	if (found != UINT64_MAX)
		return found;
	bit = find_bit(c, p->first, p->end);
	bit = bit < p->end ? bit << c->shift : UINT64_MAX;
	piece = find_pieces(c, p->first, p->end);
	found = bit < piece ? bit : piece;
	return found != UINT64_MAX ? found : find_part(c, p->tail, 0, p->tail_end);
}

int hv_claim(struct hv_claims *c, uint64_t at, uint64_t length, uint64_t *where)
{
	struct parts p;
	uint64_t found;

	if (!hv_inside(at, length, c->size))
		return -ERANGE;
	if (length == 0)
		return 0;
	p = cut(c, at, length);
	found = find(c, &p);
	if (found != UINT64_MAX) {
		*where = found;
		return 1;
	}
	if (make_pages(c, p.first, p.end))
		return -ENOMEM;
	set_bits(c, p.first, p.end);
	if (p.head_start < p.head_end && set_piece(c, p.head, p.head_start, p.head_end))
		return -ENOMEM;
	return p.tail_end > 0 ? set_piece(c, p.tail, 0, p.tail_end) : 0;
}
