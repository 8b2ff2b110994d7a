/*
 * Random chains for a block device. Half of them are honest requests in which a field or two has become
 * something else: what is wrong everywhere is found at once and proves little. The rest is random throughout.
 * Runs at CPL 3, where it is native on every back end of KVM.
 */
#include "hostile.h"

#include "console.h"
#include "driver.h"
#include "io.h"
#include "memory.h"
#include "trap.h"

#define ARENA        0x10000u /* what buffers are chosen from; longer ones reach into the room behind it */
#define ARENA_BEHIND 0x12000u
#define SPINS        20000u  /* looks at the used ring between two at the status */
#define ANSWER_MAX   100000u /* of these, until a device counts as hung */
#define HASH_EVERY   256u    /* rounds between two looks at all of the arena */

static struct virtio dev;
static uint8_t arena[ARENA + ARENA_BEHIND] __attribute__((aligned(4096)));
static uint64_t state, hash;

static uint64_t any(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static unsigned below(unsigned n)
{
	return (unsigned)(any() % n);
}

static void note(uint64_t value)
{
	for (unsigned i = 0; i < 8; i++, value >>= 8)
		hash = (hash ^ (value & 0xff)) * 0x100000001b3;
}

/* --- descriptors --- */

static uint64_t any_address(const struct hostile *h)
{
	switch (below(24)) {
	case 0:
		return any() | 1ull << 40;
	case 1:
		return h->ram_end - below(16);
	case 2:
		return VIRTIO_BASE(h->window) + below(0x200); /* the device's own registers */
	default:
		return (uint64_t)arena + below(ARENA);
	}
}

static uint32_t any_length(void)
{
	static const uint32_t lengths[] = {0,   1,   15,   16,   17,    20,      21,       511,
					   512, 513, 1024, 4096, 16384, 0x10000, 1u << 31, UINT32_MAX};

	return lengths[below(sizeof(lengths) / sizeof(lengths[0]))];
}

static struct virtio_descriptor any_descriptor(const struct hostile *h, unsigned index)
{
	return (struct virtio_descriptor){
		.address = any_address(h),
		.length = any_length(),
		.flags = (uint16_t)(below(16)  ? below(4)
				    : below(8) ? VIRTIO_INDIRECT
					       : any()),
		.next = (uint16_t)(below(8) ? index + 1 : below(300)),
	};
}

static void any_header(uint8_t *at)
{
	static const uint32_t types[] = {0, 0, 0, 1, 1, 8, 11, 13, 14};
	uint32_t type = below(256) ? types[below(sizeof(types) / sizeof(types[0]))] : 4;
	uint64_t sector = below(16) ? below(256) : any();

	memcpy(at, &type, sizeof(type));
	memcpy(at + 8, &sector, sizeof(sector));
}

/* A discard's or a write of zeroes' ranges, mostly of the disk. */
static void any_ranges(uint8_t *at)
{
	for (unsigned i = 0; i < 4; i++, at += 16) {
		uint64_t sector = below(16) ? below(256) : any();
		uint32_t sectors = below(16) ? below(16) : (uint32_t)any(), flags = below(8) ? 0 : below(4);

		memcpy(at, &sector, sizeof(sector));
		memcpy(at + 8, &sectors, sizeof(sectors));
		memcpy(at + 12, &flags, sizeof(flags));
	}
}

static void mutate(const struct hostile *h, struct virtio_descriptor *d)
{
	switch (below(4)) {
	case 0:
		d->address = any_address(h);
		break;
	case 1:
		d->length = any_length();
		break;
	case 2:
		d->flags = (uint16_t)(below(2) ? d->flags ^ 1u << below(3) : any());
		break;
	default:
		d->next = (uint16_t)below(20);
	}
}

/* Into table[], which may be the queue's own or an indirect one: header, data, status, and 0 to 2 mistakes.
 */
static void honest_but(const struct hostile *h, struct virtio_descriptor *table)
{
	uint8_t *header = arena + below(64) * 16;
	uint32_t length = 512 * (1 + below(8));

	any_header(header);
	any_ranges(arena + 0x2000);
	table[0] = (struct virtio_descriptor){(uint64_t)header, 16, VIRTIO_NEXT, 1};
	table[1] = (struct virtio_descriptor){(uint64_t)arena + 0x2000,
					      below(4) ? length : 16 * (1 + below(4)), VIRTIO_NEXT, 2};
	if (below(2))
		table[1].flags |= VIRTIO_WRITE;
	table[2] = (struct virtio_descriptor){(uint64_t)arena + 0x8000 + below(64), 1, VIRTIO_WRITE, 0};
	for (unsigned i = below(3); i > 0; i--)
		mutate(h, &table[below(3)]);
}

static void make_chain(const struct hostile *h)
{
	for (unsigned i = 0; i < VIRTIO_QUEUE_SIZE; i++)
		dev.table[i] = any_descriptor(h, i);
	for (unsigned i = 0; i < VIRTIO_PARTS; i++)
		dev.indirect[i] = any_descriptor(h, i);
	switch (below(4)) {
	case 0:
		return;
	case 1:
		honest_but(h, dev.indirect);
		dev.table[0] = (struct virtio_descriptor){(uint64_t)dev.indirect, 48, VIRTIO_INDIRECT, 0};
		if (below(4) == 0)
			mutate(h, &dev.table[0]);
		return;
	default:
		honest_but(h, dev.table);
	}
}

/* --- rounds --- */

/* A queue whose areas are anywhere, which must not start; and then one that does. */
static bool restart(const struct hostile *h)
{
	if (below(8) == 0) {
		uint64_t areas[3] = {(uint64_t)dev.table, (uint64_t)&dev.available, (uint64_t)&dev.used};
		uint64_t wrong[] = {h->ram_end - below(64), any() | 1ull << 40, areas[2] + 1 + below(3),
				    VIRTIO_BASE(h->window)};

		areas[below(3)] = wrong[below(4)];
		note(virtio_try_areas(&dev, h->window, areas));
	}
	return virtio_begin(&dev, h->window, any() | 1u << 9); /* with F_FLUSH: no fdatasync for each write */
}

/* The device's answer to what was made available: returned, or a reset asked for. False: neither. */
static bool answer(const struct hostile *h, bool *broken)
{
	*broken = false;
	for (unsigned i = 0; i < ANSWER_MAX; i++) {
		for (unsigned k = 0; k < SPINS; k++)
			if (*(volatile uint16_t *)&dev.used.idx != dev.seen)
				return true;
		if (virtio_status(&dev) & VIRTIO_NEEDS_RESET) {
			*broken = *(volatile uint16_t *)&dev.used.idx == dev.seen;
			return true;
		}
	}
	return false;
}

static bool one_round(const struct hostile *h)
{
	uint16_t head = (uint16_t)(below(64) ? 0 : any());
	bool broken, jumps = below(128) == 0;

	make_chain(h);
	dev.available.used_event = (uint16_t)(dev.seen + 0x8000);
	if (jumps)
		dev.available.idx = (uint16_t)(dev.available.idx + VIRTIO_QUEUE_SIZE + below(60000));
	virtio_submit(&dev, head);
	if (jumps) /* past where the device wanted to be told */
		virtio_notify(&dev);
	if (!answer(h, &broken))
		return false;
	note(broken);
	if (broken)
		return restart(h);
	note((uint64_t)dev.used.ring[dev.seen % VIRTIO_QUEUE_SIZE].id << 32 |
	     dev.used.ring[dev.seen % VIRTIO_QUEUE_SIZE].length);
	dev.seen++;
	return true;
}

static uint64_t chains(void *arg)
{
	const struct hostile *h = arg;

	for (uint64_t i = 0; i < h->rounds; i++) {
		if (!one_round(h))
			return i + 1;
		if (i % HASH_EVERY == 0)
			for (unsigned k = 0; k < sizeof(arena); k += 8)
				note(*(const uint64_t *)(const void *)(arena + k));
	}
	return 0;
}

bool hostile_chains(const struct hostile *h)
{
	uint64_t hung;

	state = h->seed | 1;
	hash = 0xcbf29ce484222325;
	if (!virtio_begin(&dev, h->window, 1u << 9))
		return false;
	hung = user_call(chains, (void *)h);
	if (hung)
		con_printf("window %u: no answer in round %lu\n", h->window, hung - 1);
	else
		con_printf("window %u: %lu hostile chains, seed %lu, hash 0x%016lx\n", h->window, h->rounds,
			   h->seed, hash);
	return hung == 0;
}

/* --- the rings as buffers --- */

static uint64_t rings(void *arg)
{
	const struct hostile *h = arg;

	for (uint64_t i = 0; i < h->rounds; i++) {
		make_chain(h);
		for (unsigned k = 0; k < 4; k++) {
			struct virtio_descriptor *d = &dev.table[below(VIRTIO_QUEUE_SIZE)];

			d->address = (uint64_t)&dev + below(sizeof(dev) - 512);
			d->length = 1 + below(512);
			d->flags |= below(2) ? VIRTIO_WRITE : 0;
		}
		for (unsigned k = 0; k < 1 + below(8); k++)
			virtio_submit(&dev, (uint16_t)below(VIRTIO_QUEUE_SIZE));
		if (below(4) == 0 && !virtio_begin(&dev, h->window, any() | 1u << 9))
			return 1;
	}
	return 0;
}

void hostile_rings(const struct hostile *h)
{
	state = h->seed | 1;
	if (virtio_begin(&dev, h->window, 1u << 9) && user_call(rings, (void *)h) == 0)
		con_printf("window %u: %lu times with the rings as buffers\n", h->window, h->rounds);
}
