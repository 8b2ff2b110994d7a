/*
 * A split virtqueue, seen from the device (virtio 1.2, section 2.7): three areas of guest memory through
 * which the driver hands buffers to the device and gets them back.
 *
 *   descriptor table   16 bytes each: address (GPA), length (bytes), flags, next    written by the driver
 *   available ring     flags, idx, ring[size], used_event                           written by the driver
 *   used ring          flags, idx, ring[size] of {id, length}, avail_event          written by the device
 *
 * Ownership: a queue belongs to its device and is guarded by the device's lock; no function here takes one or
 * waits. A chain that hv_virtq_pop gave out belongs to the caller until hv_virtq_push, and its bytes may be
 * read and written by hv_virtq_read and hv_virtq_write on any thread, without the lock. All that a chain
 * points to is memory that the guest may write at any moment: copy a field, then check it.
 *
 * Errors: the first thing in the rings that can't be right breaks the queue: its name stays in q->broken,
 * nothing is taken from the queue or put into it any more, and the device has to ask the driver for a reset
 * (DEVICE_NEEDS_RESET, section 2.1.2).
 */
#ifndef HV_DEVICE_VIRTIO_QUEUE_H
#define HV_DEVICE_VIRTIO_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/api.h"
#include "kvm/memory.h"

#define HV_VIRTQ_SIZE_MAX    256 /* entries of a ring; what a queue has is a power of two */
#define HV_VIRTQ_BUFFERS_MAX 256 /* of one chain, direct or indirect */

/* What a driver can do wrong. hv_virtq_error_text tells it in words. */
enum hv_virtq_error {
	HV_VIRTQ_OK,
	HV_VIRTQ_BAD_SIZE,       /* the queue's size is 0, too large, or no power of two */
	HV_VIRTQ_MISALIGNED,     /* an area isn't aligned to 16 (table), 2 (available) or 4 (used) bytes */
	HV_VIRTQ_AREA_OUTSIDE,   /* an area isn't wholly in memory */
	HV_VIRTQ_IDX_JUMPED,     /* the available index is ahead by more than the queue's size */
	HV_VIRTQ_BAD_HEAD,       /* a chain starts at a descriptor that the table doesn't have */
	HV_VIRTQ_BAD_NEXT,       /* a chain goes on at a descriptor that its table doesn't have */
	HV_VIRTQ_LOOP,           /* a chain has more descriptors than its table: it comes back to itself */
	HV_VIRTQ_TOO_LONG,       /* more than HV_VIRTQ_BUFFERS_MAX buffers, or 4 GiB in all */
	HV_VIRTQ_EMPTY_BUFFER,   /* a buffer of no bytes */
	HV_VIRTQ_BUFFER_OUTSIDE, /* a buffer isn't wholly in memory */
	HV_VIRTQ_OUT_OF_ORDER,   /* a buffer for the device to read follows one for it to write */
	HV_VIRTQ_NOT_NEGOTIATED, /* an indirect descriptor, but the feature was not negotiated */
	HV_VIRTQ_NESTED,         /* an indirect descriptor inside an indirect table */
	HV_VIRTQ_INDIRECT_NEXT,  /* an indirect descriptor that says that another one follows */
	HV_VIRTQ_TABLE_LENGTH,   /* an indirect table's length is 0 or no multiple of 16 */
	HV_VIRTQ_TABLE_OUTSIDE,  /* an indirect table isn't wholly in memory */
	HV_VIRTQ_BAD_REQUEST, /* the device's type can make no sense of a chain; see hv_virtio_needs_reset */
	HV_VIRTQ_ERRORS
};

/* One request or one empty room for input: first what the device reads, then what it may write. */
struct hv_virtq_chain {
	uint16_t head;                      /* the first descriptor: the chain's name in the used ring */
	uint16_t place;                     /* in the order in which the driver made chains available */
	unsigned count, readable;           /* buffers; the first `readable` ones are to be read */
	uint32_t read_length, write_length; /* bytes of the two parts */
	struct iovec buffers[HV_VIRTQ_BUFFERS_MAX]; /* host addresses, checked */
};

/* A chain to be given back: its head and place, and how much of it was written. */
struct hv_virtq_used {
	uint16_t head, place;
	uint32_t written;
};

struct hv_virtq {
	/* Set by the transport before hv_virtq_start. */
	const struct hv_memory *mem;        /* borrowed */
	uint64_t table, available, used;    /* GPAs */
	uint16_t size;                      /* entries */
	bool indirect, event_idx, in_order; /* the features that the driver accepted */

	/* The rest is the queue's own. */
	bool started;
	enum hv_virtq_error broken;
	uint8_t *table_at, *available_at, *used_at; /* the areas, once they were checked */
	uint16_t taken;    /* chains that were popped so far, modulo 2^16: where the available ring goes on */
	uint16_t returned; /* chains whose return the driver can see, likewise: the used ring's idx */
	uint16_t told;     /* what `returned` was when the driver was last asked about */

	/* In order: chains that are done while one that was made available before them isn't, by place. */
	struct hv_virtq_done {
		bool waits;
		uint16_t head;
		uint32_t length;
	} done[HV_VIRTQ_SIZE_MAX];
};

HV_API_BEGIN
/* Takes the driver's word on size and areas: checks them and begins with empty rings. 0, or -EBADMSG and
 * q->broken tells. */
int hv_virtq_start(struct hv_virtq *q);

/* Forgets the rings; chains still out must not be pushed any more. */
void hv_virtq_stop(struct hv_virtq *q);

/*
 * The next chain into *chain: 1 when there is one, 0 when the driver has none (and will notify of the next
 * one), -EBADMSG when it is malformed or the queue was broken before. 0 on a queue that is not started.
 */
int hv_virtq_pop(struct hv_virtq *q, struct hv_virtq_chain *chain);

/* True when the driver has made chains available that nobody has popped. */
bool hv_virtq_has_more(const struct hv_virtq *q);

/* A chain that was popped before and never given back, after its queue was started anew with all else as it
 * was: by its head and place. 0, or -EBADMSG and the queue is as it was. */
int hv_virtq_again(struct hv_virtq *q, uint16_t head, uint16_t place, struct hv_virtq_chain *chain);

/*
 * Undoes the hv_virtq_pop of this chain and of those after it: they are not out any more, none of them may
 * have been pushed, and the next pop gives what stands in this one's place then, which a hostile driver may
 * have changed. Where the ring had been found empty, the driver notifies of the next chain all the same. For
 * a device that can't finish chains now and won't keep them.
 */
void hv_virtq_put_back(struct hv_virtq *q, const struct hv_virtq_chain *chain);

/*
 * Gives a chain back after `written` bytes at the start of its writable part were written. Chains may come
 * back in any order; with IN_ORDER negotiated the driver sees them in the order in which it made them
 * available.
 */
void hv_virtq_push(struct hv_virtq *q, const struct hv_virtq_chain *chain, uint32_t written);

/* The same for several chains, in the order in which they were popped. The driver sees all of them or none:
 * the index moves once (section 5.1.6.4 wants that for a frame in several buffers). */
void hv_virtq_push_all(struct hv_virtq *q, const struct hv_virtq_used *used, unsigned count);

/* After pushes: true when the driver wants to be interrupted for them (section 2.7.7). */
bool hv_virtq_wants_interrupt(struct hv_virtq *q);

/* True when every chain that was popped has been pushed: the queue can be saved. */
bool hv_virtq_is_idle(const struct hv_virtq *q);

/* Copies out of the readable part from byte `at` on; into the writable part likewise. The number of bytes
 * copied, less than length where the part ends. */
size_t hv_virtq_read(const struct hv_virtq_chain *chain, size_t at, void *buf, size_t length);
size_t hv_virtq_write(const struct hv_virtq_chain *chain, size_t at, const void *buf, size_t length);

/* "a descriptor chain that loops": a constant, for a sentence. */
const char *hv_virtq_error_text(enum hv_virtq_error error);
HV_API_END

#endif
