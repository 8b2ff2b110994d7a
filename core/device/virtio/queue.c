/*
 * Lab 9: a split virtqueue, the device's end of it. The driver writes descriptors and the available ring, the
 * device reads them and writes the used ring; the two run at the same time and share nothing else than this
 * memory, so the order of loads and stores is the protocol. It may call guest memory's accessor and base.
 *
 * Rules: virtio 1.2, section 2.7 (split virtqueues): 2.7.5 descriptors, 2.7.5.3 indirect ones, 2.7.6 the
 * available ring, 2.7.7 and 2.7.10 notifications and their suppression, 2.7.8 the used ring; 2.7.9 in-order
 * use.
 *
 *      driver                                     device
 *      descriptors of a chain   ----------->      pop: walk the chain, check everything
 *      available ring[idx] = head                      (indexes count on for ever, modulo 2^16;
 *      available idx + 1                                the slot is idx modulo the queue's size)
 *      notify, unless avail_event says no
 *                                                 read and write the buffers
 *                               <-----------      used ring[idx] = {head, bytes written}
 *                                                 used idx + 1
 *                                                 interrupt, unless used_event says no
 *
 * The driver is hostile, and it doesn't stand still: it may change a descriptor between two looks. So each
 * field is copied out of guest memory once, and what was checked is the copy. Every address goes through
 * hv_memory_at, every index is compared with its table's size, and every walk counts its steps.
 */
#include <string.h>

#include "base/bytes.h"
#include "base/thread.h"
#include "device/virtio/queue.h"

enum { /* where fields are in the three areas, in bytes */
       DESC_SIZE = 16,
       RING_IDX = 2,
       RING_ENTRIES = 4,
       AVAILABLE_ENTRY = 2,
       USED_ENTRY = 8,
       EVENT_SIZE = 2,
};

enum { /* a descriptor's flags (2.7.5) */
       DESC_NEXT = 1,
       DESC_WRITE = 2,
       DESC_INDIRECT = 4,
};

enum { AVAILABLE_NO_INTERRUPT = 1 }; /* the available ring's flags (2.7.6) */

struct descriptor {
	uint64_t address;
	uint32_t length;
	uint16_t flags, next;
};

/* A table of descriptors: the queue's own, or one that an indirect descriptor points to. */
struct table {
	const uint8_t *at;
	uint32_t entries;
	bool indirect;
};

/* --- the rings: 16-bit fields that the other side looks at, too --- */

/*
 * Single loads and stores, as the areas are aligned, and all in one order that both sides agree on: what the
 * driver wrote before an index is there when the index is seen, and in the two places where the device writes
 * a field and then reads one, the write is visible first.
 */
static uint16_t load16(const uint8_t *at)
{
	uint16_t value = le16toh(__atomic_load_n((const uint16_t *)(const void *)at, __ATOMIC_SEQ_CST));

	hv_guest_told();
	return value;
}

static void store16(uint8_t *at, uint16_t value)
{
	hv_guest_tell();
	__atomic_store_n((uint16_t *)(void *)at, htole16(value), __ATOMIC_SEQ_CST);
}

/* Behind the available ring the driver says when to interrupt, behind the used ring the device says when to
 * notify. */
static uint8_t *used_event(const struct hv_virtq *q)
{
	return q->available_at + RING_ENTRIES + AVAILABLE_ENTRY * q->size;
}

static uint8_t *avail_event(const struct hv_virtq *q)
{
	return q->used_at + RING_ENTRIES + USED_ENTRY * q->size;
}

static int fail(struct hv_virtq *q, enum hv_virtq_error error)
{
	q->broken = error;
	return -EBADMSG;
}

/* --- life --- */

int hv_virtq_start(struct hv_virtq *q)
{
	uint16_t size = q->size;

	hv_virtq_stop(q);
	if (size == 0 || size > HV_VIRTQ_SIZE_MAX || (size & (size - 1)))
		return fail(q, HV_VIRTQ_BAD_SIZE);
	if (q->table % 16 || q->available % 2 || q->used % 4)
		return fail(q, HV_VIRTQ_MISALIGNED);
	q->table_at = hv_memory_at(q->mem, q->table, (uint64_t)DESC_SIZE * size);
	q->available_at = hv_memory_at(q->mem, q->available,
				       RING_ENTRIES + (uint64_t)AVAILABLE_ENTRY * size + EVENT_SIZE);
	q->used_at = hv_memory_at(q->mem, q->used, RING_ENTRIES + (uint64_t)USED_ENTRY * size + EVENT_SIZE);
	if (!q->table_at || !q->available_at || !q->used_at)
		return fail(q, HV_VIRTQ_AREA_OUTSIDE);
	q->started = true;
	return 0;
}

void hv_virtq_stop(struct hv_virtq *q)
{
	q->started = false;
	q->broken = HV_VIRTQ_OK;
	q->taken = q->returned = q->told = 0;
	memset(q->done, 0, sizeof(q->done));
}

bool hv_virtq_is_idle(const struct hv_virtq *q)
{
	return q->taken == q->returned;
}

/* --- a chain --- */

/* The barrier keeps the compiler from going back to guest memory for a field that was checked already. */
static struct descriptor copy_descriptor(const struct table *table, uint32_t index)
{
	uint8_t raw[DESC_SIZE];

	memcpy(raw, table->at + (size_t)index * DESC_SIZE, sizeof(raw));
	__asm__ volatile("" : "+m"(raw));
	return (struct descriptor){
		.address = hv_le64(raw),
		.length = hv_le32(raw + 8),
		.flags = hv_le16(raw + 12),
		.next = hv_le16(raw + 14),
	};
}

static enum hv_virtq_error add_buffer(const struct hv_virtq *q, const struct descriptor *d,
				      struct hv_virtq_chain *chain)
{
	bool writable = d->flags & DESC_WRITE;
	uint32_t *length = writable ? &chain->write_length : &chain->read_length;
	void *host;

	/* hv:solution lab=9 task=2 */
	if (!writable && chain->readable < chain->count)
		return HV_VIRTQ_OUT_OF_ORDER;
	if (d->length == 0)
		return HV_VIRTQ_EMPTY_BUFFER;
	if (chain->count == HV_VIRTQ_BUFFERS_MAX ||
	    (uint64_t)chain->read_length + chain->write_length + d->length > UINT32_MAX)
		return HV_VIRTQ_TOO_LONG;
	host = hv_memory_at(q->mem, d->address, d->length);
	if (!host)
		return HV_VIRTQ_BUFFER_OUTSIDE;
	chain->buffers[chain->count++] = (struct iovec){.iov_base = host, .iov_len = d->length};
	*length += d->length;
	chain->readable += !writable;
	/* hv:end */
	return HV_VIRTQ_OK;
}

/* Changes over to the table that the indirect descriptor d names. It ends its chain (2.7.5.3.1), and its own
 * WRITE flag means nothing (2.7.5.3.2). */
static enum hv_virtq_error enter_table(const struct hv_virtq *q, const struct descriptor *d,
				       struct table *table)
{
	/* hv:solution lab=9 task=3 */
	if (!q->indirect)
		return HV_VIRTQ_NOT_NEGOTIATED;
	if (table->indirect)
		return HV_VIRTQ_NESTED;
	if (d->flags & DESC_NEXT)
		return HV_VIRTQ_INDIRECT_NEXT;
	if (d->length == 0 || d->length % DESC_SIZE)
		return HV_VIRTQ_TABLE_LENGTH;
	table->at = hv_memory_at(q->mem, d->address, d->length);
	if (!table->at)
		return HV_VIRTQ_TABLE_OUTSIDE;
	table->entries = d->length / DESC_SIZE;
	table->indirect = true;
	return HV_VIRTQ_OK;
	/* hv:end */
}

/* From the head along the `next` fields. A chain without a loop visits no descriptor of a table twice. */
static enum hv_virtq_error walk(const struct hv_virtq *q, struct hv_virtq_chain *chain)
{
	struct table table = {.at = q->table_at, .entries = q->size};
	enum hv_virtq_error error;
	uint32_t index = chain->head, steps = 0;

	/* hv:solution lab=9 task=2 */
	for (;;) {
		struct descriptor d;

		if (steps++ == table.entries)
			return HV_VIRTQ_LOOP;
		d = copy_descriptor(&table, index);
		if (d.flags & DESC_INDIRECT) {
			error = enter_table(q, &d, &table);
			if (error)
				return error;
			index = steps = 0;
			continue;
		}
		error = add_buffer(q, &d, chain);
		if (error || !(d.flags & DESC_NEXT))
			return error;
		if (d.next >= table.entries)
			return HV_VIRTQ_BAD_NEXT;
		index = d.next;
	}
	/* hv:end */
}

/* --- the available ring --- */

/* Chains that the driver has made available and nobody took yet. */
static uint16_t waiting(const struct hv_virtq *q)
{
	/* hv:solution lab=9 task=1 */
	return (uint16_t)(load16(q->available_at + RING_IDX) - q->taken);
	/* hv:end */
}

/*
 * The driver need not notify of what the device finds by itself. So it is told only when the ring is empty
 * (avail_event: notify when idx passes this), and then the ring is looked at again: the driver may have added
 * a chain just before it could see that. The driver has its own idx and avail_event in the same order.
 */
static uint16_t ask_for_notification(struct hv_virtq *q)
{
	/* hv:solution lab=9 task=5 */
	if (!q->event_idx)
		return 0; /* the used ring's flags stay 0, which asks for every notification */
	store16(avail_event(q), q->taken);
	return waiting(q);
	/* hv:end */
}

int hv_virtq_pop(struct hv_virtq *q, struct hv_virtq_chain *chain)
{
	enum hv_virtq_error error;
	uint16_t ready;

	if (q->broken)
		return -EBADMSG;
	if (!q->started)
		return 0;
	/* hv:solution lab=9 task=1 */
	ready = waiting(q);
	if (ready == 0)
		ready = ask_for_notification(q);
	if (ready == 0)
		return 0;
	/* A slot of the ring is free again only when its chain has come back. */
	if (ready + (uint16_t)(q->taken - q->returned) > q->size)
		return fail(q, HV_VIRTQ_IDX_JUMPED);
	chain->place = q->taken;
	chain->head = load16(q->available_at + RING_ENTRIES + AVAILABLE_ENTRY * (q->taken % q->size));
	chain->count = chain->readable = 0;
	chain->read_length = chain->write_length = 0;
	if (chain->head >= q->size)
		return fail(q, HV_VIRTQ_BAD_HEAD);
	error = walk(q, chain);
	if (error)
		return fail(q, error);
	q->taken++;
	return 1;
	/* hv:end */
}

/* What asked for a notification when the ring was found empty still does: its index lies ahead. */
void hv_virtq_put_back(struct hv_virtq *q, const struct hv_virtq_chain *chain)
{
	uint16_t back = (uint16_t)(q->taken - chain->place);

	if (q->started && !q->broken && back <= (uint16_t)(q->taken - q->returned))
		q->taken = chain->place;
}

bool hv_virtq_has_more(const struct hv_virtq *q)
{
	return q->started && !q->broken && waiting(q) > 0;
}

int hv_virtq_again(struct hv_virtq *q, uint16_t head, uint16_t place, struct hv_virtq_chain *chain)
{
	chain->place = place;
	chain->head = head;
	chain->count = chain->readable = 0;
	chain->read_length = chain->write_length = 0;
	/* In order, places are where the used ring goes on; otherwise nobody looks at them. */
	if (!q->started || head >= q->size ||
	    (q->in_order && (uint16_t)(place - q->returned) >= (uint16_t)(q->taken - q->returned)))
		return -EBADMSG;
	return walk(q, chain) ? -EBADMSG : 0;
}

/* --- the used ring --- */

/* The entry first, then the index that shows it. */
static void publish(struct hv_virtq *q, uint16_t head, uint32_t length)
{
	/* hv:solution lab=9 task=4 */
	uint8_t *entry = q->used_at + RING_ENTRIES + USED_ENTRY * (q->returned % q->size);

	hv_put_le32(entry, head);
	hv_put_le32(entry + 4, length);
	store16(q->used_at + RING_IDX, ++q->returned);
	/* hv:end */
}

void hv_virtq_push(struct hv_virtq *q, const struct hv_virtq_chain *chain, uint32_t written)
{
	struct hv_virtq_done *done;

	if (!q->started || q->broken)
		return;
	/* hv:solution lab=9 task=4 */
	if (!q->in_order) {
		publish(q, chain->head, written);
		return;
	}
	done = &q->done[chain->place % q->size];
	*done = (struct hv_virtq_done){.waits = true, .head = chain->head, .length = written};
	/* At most `size` chains are out, so a slot is free again before its next chain comes. */
	for (;;) {
		done = &q->done[q->returned % q->size];
		if (!done->waits)
			return;
		done->waits = false;
		publish(q, done->head, done->length);
	}
	/* hv:end */
}

/*
 * The same for chains that the driver has to see all at once or not at all, as the buffers of one network
 * frame (5.1.6.4): all entries, behind the last one that it sees, and then the index.
 */
void hv_virtq_push_all(struct hv_virtq *q, const struct hv_virtq_used *used, unsigned count)
{
	uint16_t shown = q->returned;

	if (!q->started || q->broken)
		return;
	for (unsigned i = 0; i < count; i++) {
		struct hv_virtq_done *done = &q->done[(q->in_order ? used[i].place : shown + i) % q->size];

		*done = (struct hv_virtq_done){
			.waits = true, .head = used[i].head, .length = used[i].written};
	}
	for (; q->done[shown % q->size].waits; shown++) {
		struct hv_virtq_done *done = &q->done[shown % q->size];
		uint8_t *entry = q->used_at + RING_ENTRIES + USED_ENTRY * (shown % q->size);

		done->waits = false;
		hv_put_le32(entry, done->head);
		hv_put_le32(entry + 4, done->length);
	}
	if (shown != q->returned)
		store16(q->used_at + RING_IDX, q->returned = shown);
}

/*
 * With event_idx the driver names the used index whose passing it wants to hear of: did `returned` go past it
 * since it was last looked at? The subtraction is modulo 2^16 and so right across the wrap. The driver writes
 * used_event and then looks at the used index once more, so one of the two sees the other.
 */
bool hv_virtq_wants_interrupt(struct hv_virtq *q)
{
	uint16_t before = q->told, event;

	if (!q->started || q->broken || before == q->returned)
		return false;
	/* hv:solution lab=9 task=5 */
	q->told = q->returned;
	if (!q->event_idx)
		return !(load16(q->available_at) & AVAILABLE_NO_INTERRUPT);
	event = load16(used_event(q));
	return (uint16_t)(q->returned - event - 1) < (uint16_t)(q->returned - before);
	/* hv:end */
}
