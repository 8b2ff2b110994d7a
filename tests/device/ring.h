/*
 * A driver's end of a split virtqueue in plain memory, without a VM: what the tests of the queue, the
 * transport and the devices share. Layout: the table at RING_TABLE, the available ring at RING_AVAILABLE, the
 * used ring at RING_USED (a queue `n` lies n * RING_STRIDE further on), buffers from RING_DATA.
 */
#ifndef TESTS_DEVICE_RING_H
#define TESTS_DEVICE_RING_H

#include <criterion/criterion.h>
#include <string.h>

#include "base/bytes.h"
#include "device/virtio/queue.h"

#define RING_MEMORY    (1u << 20) /* bytes of guest memory, at GPA 0 */
#define RING_STRIDE    0x4000u
#define RING_TABLE     0x1000u
#define RING_AVAILABLE 0x3000u
#define RING_USED      0x4000u
#define RING_DATA      0x40000u

enum { NEXT = 1, WRITE = 2, INDIRECT = 4 };

struct ring {
	struct hv_memory *mem;
	uint16_t size;
	uint64_t table, available, used;
	uint16_t idx, seen; /* chains made available, returned chains looked at */
};

static inline uint8_t *guest_at(struct ring *r, uint64_t gpa, uint64_t length)
{
	uint8_t *p = hv_memory_at(r->mem, gpa, length);

	cr_assert(p, "the test itself looks outside memory");
	return p;
}

static inline void ring_init(struct ring *r, struct hv_memory *mem, unsigned queue, uint16_t size)
{
	uint64_t at = (uint64_t)queue * RING_STRIDE;

	*r = (struct ring){.mem = mem,
			   .size = size,
			   .table = RING_TABLE + at,
			   .available = RING_AVAILABLE + at,
			   .used = RING_USED + at};
}

/* Descriptor `index` of the table at GPA `table`. */
static inline void put_descriptor(struct ring *r, uint64_t table, unsigned index, uint64_t gpa,
				  uint32_t length, unsigned flags, unsigned next)
{
	uint8_t *d = guest_at(r, table + 16ull * index, 16);

	hv_put_le64(d, gpa);
	hv_put_le32(d + 8, length);
	hv_put_le16(d + 12, (uint16_t)flags);
	hv_put_le16(d + 14, (uint16_t)next);
}

static inline void describe(struct ring *r, unsigned index, uint64_t gpa, uint32_t length, unsigned flags,
			    unsigned next)
{
	put_descriptor(r, r->table, index, gpa, length, flags, next);
}

/* A device may look at them from a thread of its own. */
static inline void store_shared(struct ring *r, uint64_t gpa, uint16_t value)
{
	__atomic_store_n((uint16_t *)(void *)guest_at(r, gpa, 2), htole16(value), __ATOMIC_SEQ_CST);
}

static inline void set_idx(struct ring *r, uint16_t idx)
{
	r->idx = idx;
	store_shared(r, r->available + 2, idx);
}

static inline void make_available(struct ring *r, unsigned head)
{
	store_shared(r, r->available + 4 + 2u * (r->idx % r->size), (uint16_t)head);
	set_idx(r, (uint16_t)(r->idx + 1));
}

static inline uint16_t used_idx(struct ring *r)
{
	return le16toh(__atomic_load_n((uint16_t *)(void *)guest_at(r, r->used + 2, 2), __ATOMIC_SEQ_CST));
}

/* The next returned chain: its head, and how many bytes were written. */
static inline unsigned take_used(struct ring *r, uint32_t *length)
{
	const uint8_t *e;

	cr_assert_neq(r->seen, used_idx(r), "no chain came back");
	e = guest_at(r, r->used + 4 + 8u * (r->seen++ % r->size), 8);
	if (length)
		*length = hv_le32(e + 4);
	return hv_le32(e);
}

static inline void set_used_event(struct ring *r, uint16_t event)
{
	hv_put_le16(guest_at(r, r->available + 4 + 2u * r->size, 2), event);
}

static inline uint16_t avail_event(struct ring *r)
{
	return hv_le16(guest_at(r, r->used + 4 + 8u * r->size, 2));
}

#endif
