/*
 * A small virtio driver: devices in MMIO windows, one request at a time in each of their first split queues,
 * with an interrupt that wakes the CPU from hlt. Rules: virtio 1.2, sections 3.1.1 (initialisation), 2.7
 * (split queues), 4.2 (MMIO).
 */
#ifndef GUEST_VIRTIO_DRIVER_H
#define GUEST_VIRTIO_DRIVER_H

#include <stdbool.h>
#include <stdint.h>

#define VIRTIO_WINDOWS     12
#define VIRTIO_BASE(n)     (virtio_base + 0x1000ull * (n))
#define VIRTIO_PIN(n)      ((n) < 8 ? 16u + (n) : (n) == 8 ? 5u : (n)) /* its interrupt */
#define VIRTIO_QUEUE_SIZE  16
#define VIRTIO_PARTS       4 /* buffers of a request */
#define VIRTIO_NEEDS_RESET 0x40u
#define VIRTIO_MAGIC       0x74726976u
#define VIRTIO_NEXT        1
#define VIRTIO_WRITE       2
#define VIRTIO_INDIRECT    4

enum { /* device ids */
       VIRTIO_NONE = 0,
       VIRTIO_NET = 1,
       VIRTIO_BLK = 2,
       VIRTIO_CONSOLE = 3,
       VIRTIO_RNG = 4,
       VIRTIO_BALLOON = 5,
       VIRTIO_VSOCK = 19,
};

struct virtio_descriptor {
	uint64_t address;
	uint32_t length;
	uint16_t flags, next;
};

/* A device's queue. */
struct virtio {
	unsigned window, queue;
	uint64_t features; /* those agreed on */
	uint16_t seen;     /* returned chains that were looked at */
	struct virtio_descriptor table[VIRTIO_QUEUE_SIZE] __attribute__((aligned(16)));
	struct virtio_descriptor indirect[VIRTIO_PARTS] __attribute__((aligned(16)));
	struct {
		uint16_t flags, idx, ring[VIRTIO_QUEUE_SIZE], used_event;
	} available __attribute__((aligned(2)));
	struct {
		uint16_t flags, idx;
		struct {
			uint32_t id, length;
		} ring[VIRTIO_QUEUE_SIZE];
		uint16_t avail_event;
	} used __attribute__((aligned(4)));
};

/* A part of a request: memory that the device reads, or with `write` set, fills. */
struct virtio_part {
	void *data;
	uint32_t length;
	bool write;
};

/* Where the windows are: where hvrun has them, unless another machine's are told. */
extern uint64_t virtio_base;

/* What is in a window: a device id, VIRTIO_NONE for none. */
uint32_t virtio_probe(unsigned window);

/* Sets the device up with its first `count` queues, an element of v each; wanted are the type's own features
 * to ask for. False: it refused. */
bool virtio_start(struct virtio *v, unsigned count, unsigned window, uint64_t wanted);

/* The same without its interrupt, for who looks at the used ring. */
bool virtio_begin(struct virtio *v, unsigned window, uint64_t wanted);
bool virtio_has_indirect(const struct virtio *v);

/* A queue with its table, available and used ring in other places; returns the device's status then. */
uint32_t virtio_try_areas(struct virtio *v, unsigned window, const uint64_t areas[3]);

/* One request, from start to end; returns how many bytes the device says it wrote. The CPU sleeps meanwhile.
 */
uint32_t virtio_request(struct virtio *v, const struct virtio_part *parts, unsigned count);

/* The two halves of a request: what is handed over may come back later. */
void virtio_give(struct virtio *v, const struct virtio_part *parts, unsigned count);
uint32_t virtio_take(struct virtio *v);

/* Makes whatever is at `head` in the table available, and tells the device if it wants to be told. */
void virtio_submit(struct virtio *v, uint16_t head);
void virtio_notify(const struct virtio *v); /* whether it wants to or not */

uint32_t virtio_status(const struct virtio *v);
uint32_t virtio_config(const struct virtio *v, unsigned offset); /* 32 bits */
void virtio_config_write(const struct virtio *v, unsigned offset, uint32_t value);
unsigned virtio_interrupts(void); /* that came so far */

#endif
