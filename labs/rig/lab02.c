/*
 * The rig's commands for lab 2: buses with devices that keep a record of each access, alone or as a part of a
 * machine. What such a device answers to a read follows from a number that the grader gave it. See rig.h.
 */
#include <stdlib.h>
#include <string.h>

#include "machine/internal.h"
#include "rig.h"

#define DEVICES  8
#define ACCESSES 256

struct access {
	unsigned device;
	bool write, locked;
	unsigned size;
	uint64_t offset, value;
};

struct probe {
	struct hv_device dev;
	struct hv_device_ops ops;
	struct bench *bench;
	unsigned index;
	uint64_t nonce;
	uint64_t reads; /* so far */
	bool stream;    /* each read gives something else, as a FIFO does */
};

/* The lab's own state: one bus by itself, and the devices of all. */
struct bench {
	struct hv_bus bus;
	struct probe devices[DEVICES];
	unsigned count;
	struct access log[ACCESSES];
	unsigned logged;
};

static struct bench *bench_of(struct rig *rig)
{
	if (!rig->lab[2]) {
		struct bench *b = calloc(1, sizeof(*b));

		if (!b)
			abort();
		hv_bus_init(&b->bus, "bench");
		rig->lab[2] = b;
	}
	return rig->lab[2];
}

/* A byte that only who knows the nonce can foretell (the finisher of splitmix64). */
static uint8_t byte_at(uint64_t nonce, uint64_t offset, uint64_t turn)
{
	uint64_t x = nonce + offset * 0x9e3779b97f4a7c15u + turn * 0xd1b54a32d192ed03u;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	x = (x ^ x >> 27) * 0x94d049bb133111ebu;
	return (uint8_t)(x ^ x >> 31);
}

static bool is_locked(struct hv_device *dev)
{
	if (pthread_mutex_trylock(&dev->lock))
		return true;
	pthread_mutex_unlock(&dev->lock);
	return false;
}

static void note(struct probe *p, bool write, uint64_t offset, uint64_t value, unsigned size)
{
	struct bench *b = p->bench;

	if (b->logged < ACCESSES)
		b->log[b->logged++] = (struct access){.device = p->index,
						      .write = write,
						      .locked = is_locked(&p->dev),
						      .size = size,
						      .offset = offset,
						      .value = value};
}

static uint64_t probe_read(struct hv_device *dev, uint64_t offset, unsigned size)
{
	struct probe *p = (struct probe *)dev;
	uint64_t value = 0;

	for (unsigned i = 0; i < size && i < 8; i++)
		value |= (uint64_t)byte_at(p->nonce, offset + i, p->stream ? p->reads : 0) << (8 * i);
	p->reads++;
	note(p, false, offset, value, size);
	return value;
}

static void probe_write(struct hv_device *dev, uint64_t offset, uint64_t value, unsigned size)
{
	note((struct probe *)dev, true, offset, value, size);
}

static void probe_reset(struct hv_device *dev)
{
	((struct probe *)dev)->reads = 0;
}

/* device max=1|2|4|8 nonce=N [stream=1]: its number is in the answer; the first is 0. */
static int device(struct rig *rig, int count, char **words)
{
	struct bench *b = bench_of(rig);
	struct probe *p = &b->devices[b->count];

	if (b->count == DEVICES)
		return RIG_USAGE;
	p->bench = b;
	p->index = b->count;
	p->nonce = rig_option_number(count, words, "nonce", 0);
	p->stream = rig_option_number(count, words, "stream", 0) != 0;
	p->ops = (struct hv_device_ops){.name = "probe",
					.max_access = (uint8_t)rig_option_number(count, words, "max", 1),
					.read = probe_read,
					.write = probe_write,
					.reset = probe_reset};
	hv_device_init(&p->dev, &p->ops);
	rig_number(rig, "device", b->count++);
	return 0;
}

/* bus_add DEVICE BASE LENGTH [offset=N] [on=pio|mmio]: on the bench's bus, or on the machine's. */
static int bus_add(struct rig *rig, int count, char **words)
{
	struct bench *b = bench_of(rig);
	const char *on = rig_option(count, words, "on");
	uint64_t index, base, length;
	struct hv_bus *bus = &b->bus;

	if (count < 4 || !rig_parse(words[1], &index) || index >= b->count || !rig_parse(words[2], &base) ||
	    !rig_parse(words[3], &length))
		return RIG_USAGE;
	if (on && !rig->machine)
		return hv_fail(&rig->err, ENOENT, "there is no machine");
	if (on)
		bus = strcmp(on, "pio") == 0 ? &rig->machine->pio : &rig->machine->mmio;
	return hv_bus_add(bus, base, length, rig_option_number(count, words, "offset", 0),
			  &b->devices[index].dev, &rig->err);
}

/* bus_ranges: the bases as they lie in the bench's bus. */
static int bus_ranges(struct rig *rig, int count, char **words)
{
	const struct hv_bus *bus = &bench_of(rig)->bus;
	char text[HV_BUS_RANGES * 20] = "";
	size_t used = 0;

	for (unsigned i = 0; i < bus->count && i < HV_BUS_RANGES; i++)
		used += (size_t)snprintf(text + used, sizeof(text) - used, "%s0x%llx", i ? " " : "",
					 (unsigned long long)bus->ranges[i].base);
	rig_text(rig, "bases", text);
	return 0;
}

/* bus_find ADDRESS: the device's number, or -1; and the range. */
static int bus_find(struct rig *rig, int count, char **words)
{
	struct bench *b = bench_of(rig);
	const struct hv_bus_range *r;
	uint64_t address;
	int64_t index = -1;

	if (count != 2 || !rig_parse(words[1], &address))
		return RIG_USAGE;
	r = hv_bus_find(&b->bus, address);
	for (unsigned i = 0; r && i < b->count; i++)
		if (r->dev == &b->devices[i].dev)
			index = i;
	rig_signed(rig, "device", index);
	rig_number(rig, "base", r ? r->base : 0);
	return 0;
}

/* bus_read ADDRESS SIZE: the eight bytes around the answer were a5 before. */
static int bus_read(struct rig *rig, int count, char **words)
{
	uint64_t address, size;
	uint8_t data[16];
	int rc;

	if (count != 3 || !rig_parse(words[1], &address) || !rig_parse(words[2], &size) || size > 8)
		return RIG_USAGE;
	memset(data, 0xa5, sizeof(data));
	rc = hv_bus_read(&bench_of(rig)->bus, address, data + 4, (unsigned)size);
	rig_bytes(rig, "data", data + 4, size);
	rig_bytes(rig, "before", data, 4);
	rig_bytes(rig, "after", data + 4 + size, 4);
	return rc;
}

/* bus_write ADDRESS HEX */
static int bus_write(struct rig *rig, int count, char **words)
{
	uint8_t data[8];
	uint64_t address;
	int size;

	if (count != 3 || !rig_parse(words[1], &address) ||
	    (size = rig_parse_bytes(words[2], data, sizeof(data))) < 1)
		return RIG_USAGE;
	return hv_bus_write(&bench_of(rig)->bus, address, data, (unsigned)size);
}

/* accesses: what the devices saw since the last time, "r0+1c:2=fe34" for a read of 2 bytes at offset 0x1c of
 * device 0 (! behind it when the device's lock was not held). */
static int accesses(struct rig *rig, int count, char **words)
{
	struct bench *b = bench_of(rig);
	char text[ACCESSES * 64] = "";
	size_t used = 0;

	for (unsigned i = 0; i < b->logged; i++) {
		const struct access *a = &b->log[i];

		used += (size_t)snprintf(text + used, sizeof(text) - used, "%s%c%u+%llx:%u=%llx%s",
					 i ? " " : "", a->write ? 'w' : 'r', a->device,
					 (unsigned long long)a->offset, a->size, (unsigned long long)a->value,
					 a->locked ? "" : "!");
	}
	rig_text(rig, "log", text);
	b->logged = 0;
	return 0;
}

/* machine_counts: what the machine has counted. */
static int machine_counts(struct rig *rig, int count, char **words)
{
	if (!rig->machine)
		return hv_fail(&rig->err, ENOENT, "there is no machine");
	rig_number(rig, "unclaimed", atomic_load(&rig->machine->unclaimed));
	rig_number(rig, "signals", atomic_load(&rig->machine->cpus[0].recorder.signals));
	return 0;
}

const struct rig_command rig_lab02[] = {
	{"device", "max=1|2|4|8 nonce=N [stream=1]", device},
	{"bus_add", "DEVICE BASE LENGTH [offset=N] [on=pio|mmio]", bus_add},
	{"bus_ranges", "", bus_ranges},
	{"bus_find", "ADDRESS", bus_find},
	{"bus_read", "ADDRESS SIZE", bus_read},
	{"bus_write", "ADDRESS HEX", bus_write},
	{"accesses", "", accesses},
	{"machine_counts", "", machine_counts},
	{NULL, NULL, NULL},
};
