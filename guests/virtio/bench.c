/*
 * Scenes for measuring a disk: 4 KiB at random places, one and sixteen at a time, and 1 MiB one behind the
 * other. tests/bench/diskio.c does the same without a VM; what is changed here has to be changed there.
 *
 * Timed code runs at CPL 3, where it is native on every back end of KVM, and takes no interrupts: it looks at
 * the used ring, so that what is measured is the way of a request and not the guest's interrupt controller.
 */
#include "bench.h"

#include "console.h"
#include "driver.h"
#include "io.h"
#include "trap.h"

#define SECTOR    512u
#define DEPTH_MAX 16u
#define ROOM      (4u << 20)  /* buffers of all requests that are under way */
#define SPAN      (64u << 20) /* of the disk, from its start: what the host has in its cache */

enum { BLK_IN = 0, BLK_OUT = 1 };

#define BLK_F_FLUSH (1ull << 9)

struct scene {
	const char *name;
	uint32_t type, length, depth, count; /* length: bytes of a request */
	bool random;
};

static const struct scene scenes[] = {
	{"read-4k-random", BLK_IN, 4096, 1, 2000, true}, {"read-4k-random-16", BLK_IN, 4096, 16, 8000, true},
	{"read-1m", BLK_IN, 1 << 20, 1, 64, false},      {"read-1m-4", BLK_IN, 1 << 20, 4, 256, false},
	{"write-1m-4", BLK_OUT, 1 << 20, 4, 256, false},
};

static struct virtio dev;
static uint8_t room[ROOM] __attribute__((aligned(4096)));
static struct slot {
	struct virtio_descriptor table[3];
	struct {
		uint32_t type, reserved;
		uint64_t sector;
	} header;
	uint8_t status;
} __attribute__((aligned(16))) slots[DEPTH_MAX];

/* What a scene is at. */
struct run {
	const struct scene *scene;
	uint64_t random, place, cycles;
	uint32_t count, failures;
};

static uint64_t next_place(struct run *r)
{
	const struct scene *s = r->scene;

	if (s->random) {
		r->random ^= r->random << 13;
		r->random ^= r->random >> 7;
		r->random ^= r->random << 17;
		return r->random % (SPAN / s->length) * s->length;
	}
	r->place = (r->place + s->length) % SPAN;
	return r->place;
}

/* Request number `head`: its slot, its descriptor and its buffer have the same number. */
static void start(struct run *r, uint16_t head)
{
	struct slot *slot = &slots[head];

	slot->header.type = r->scene->type;
	slot->header.sector = next_place(r) / SECTOR;
	slot->status = 0xff;
	slot->table[0] = (struct virtio_descriptor){
		.address = (uint64_t)&slot->header, .length = 16, .flags = VIRTIO_NEXT, .next = 1};
	slot->table[1] = (struct virtio_descriptor){
		.address = (uint64_t)room + (uint64_t)head * r->scene->length,
		.length = r->scene->length,
		.flags = VIRTIO_NEXT | (r->scene->type == BLK_IN ? VIRTIO_WRITE : 0),
		.next = 2,
	};
	slot->table[2] = (struct virtio_descriptor){
		.address = (uint64_t)&slot->status, .length = 1, .flags = VIRTIO_WRITE};
	dev.table[head] = (struct virtio_descriptor){
		.address = (uint64_t)slot->table, .length = sizeof(slot->table), .flags = VIRTIO_INDIRECT};
	dev.available.used_event = (uint16_t)(dev.seen + 0x8000); /* no interrupt */
	virtio_submit(&dev, head);
}

static uint16_t wait_for_one(void)
{
	while (*(volatile uint16_t *)&dev.used.idx == dev.seen)
		;
	return (uint16_t)dev.used.ring[dev.seen++ % VIRTIO_QUEUE_SIZE].id;
}

/* At CPL 3. */
static uint64_t run_scene(void *arg)
{
	struct run *r = arg;
	uint64_t begin = rdtsc();
	uint32_t started = 0;

	for (; started < r->scene->depth && started < r->count; started++)
		start(r, (uint16_t)started);
	for (uint32_t done = 0; done < r->count; done++) {
		uint16_t head = wait_for_one();

		r->failures += *(volatile uint8_t *)&slots[head].status != 0;
		if (started < r->count) {
			start(r, head);
			started++;
		}
	}
	r->cycles = rdtsc() - begin;
	return 0;
}

bool bench_disk(unsigned window, unsigned scale)
{
	uint32_t failures = 0;

	/* A driver that can't flush would have each write on stable storage before its answer. */
	if (!virtio_begin(&dev, window, BLK_F_FLUSH) || !virtio_has_indirect(&dev)) {
		con_printf("window %u: no disk for a measurement\n", window);
		return false;
	}
	for (unsigned i = 0; i < sizeof(scenes) / sizeof(scenes[0]); i++) {
		/* A tenth first: the guest's memory, and the host's view of it, are there then. */
		struct run warm = {.scene = &scenes[i], .random = 1, .count = scenes[i].count / 10 + 16};
		struct run timed = {.scene = &scenes[i], .random = 2, .count = scenes[i].count * scale};

		user_call(run_scene, &warm);
		user_call(run_scene, &timed);
		con_printf("bench %s count=%u bytes=%u cycles=%lu\n", scenes[i].name, timed.count,
			   scenes[i].length, timed.cycles);
		failures += warm.failures + timed.failures;
	}
	return failures == 0;
}
