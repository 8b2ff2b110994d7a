/*
 * The driver's end of the transport and of one queue. Memory is mapped one to one, so an address is a GPA.
 * Stores reach memory in order on x86; the barriers only hold the compiler.
 */
#include "driver.h"

#include "apic.h"
#include "io.h"
#include "memory.h"
#include "trap.h"

enum {
	REG_MAGIC = 0x00,
	REG_VERSION = 0x04,
	REG_DEVICE_ID = 0x08,
	REG_DEVICE_FEATURES = 0x10,
	REG_DEVICE_FEATURES_SEL = 0x14,
	REG_DRIVER_FEATURES = 0x20,
	REG_DRIVER_FEATURES_SEL = 0x24,
	REG_QUEUE_SEL = 0x30,
	REG_QUEUE_NUM_MAX = 0x34,
	REG_QUEUE_NUM = 0x38,
	REG_QUEUE_READY = 0x44,
	REG_NOTIFY = 0x50,
	REG_INTERRUPT_STATUS = 0x60,
	REG_INTERRUPT_ACK = 0x64,
	REG_STATUS = 0x70,
	REG_TABLE = 0x80,
	REG_AVAILABLE = 0x90,
	REG_USED = 0xa0,
	REG_CONFIG = 0x100,
};

enum { ACKNOWLEDGE = 1, DRIVER = 2, DRIVER_OK = 4, FEATURES_OK = 8 };

#define F_INDIRECT  (1ull << 28)
#define F_EVENT_IDX (1ull << 29)
#define F_VERSION_1 (1ull << 32)

#define VECTOR_VIRTIO 50 /* and those behind it, one a window */

uint64_t virtio_base = 0xd0000000;

static volatile unsigned interrupts;

static void barrier(void)
{
	__asm__ volatile("mfence" : : : "memory");
}

static uint32_t get(unsigned window, unsigned reg)
{
	return mmio_read(VIRTIO_BASE(window) + reg);
}

static void set(unsigned window, unsigned reg, uint32_t value)
{
	mmio_write(VIRTIO_BASE(window) + reg, value);
}

static void on_interrupt(struct trap_frame *frame)
{
	unsigned window = (unsigned)frame->vector - VECTOR_VIRTIO;

	set(window, REG_INTERRUPT_ACK, get(window, REG_INTERRUPT_STATUS));
	interrupts++;
	lapic_eoi();
}

unsigned virtio_interrupts(void)
{
	return interrupts;
}

uint32_t virtio_probe(unsigned window)
{
	if (get(window, REG_MAGIC) != VIRTIO_MAGIC || get(window, REG_VERSION) != 2)
		return VIRTIO_NONE;
	return get(window, REG_DEVICE_ID);
}

uint32_t virtio_status(const struct virtio *v)
{
	return get(v->window, REG_STATUS);
}

uint32_t virtio_config(const struct virtio *v, unsigned offset)
{
	return get(v->window, REG_CONFIG + offset);
}

void virtio_config_write(const struct virtio *v, unsigned offset, uint32_t value)
{
	set(v->window, REG_CONFIG + offset, value);
}

static uint64_t offered(unsigned window)
{
	uint64_t low;

	set(window, REG_DEVICE_FEATURES_SEL, 0);
	low = get(window, REG_DEVICE_FEATURES);
	set(window, REG_DEVICE_FEATURES_SEL, 1);
	return low | (uint64_t)get(window, REG_DEVICE_FEATURES) << 32;
}

static bool agree(struct virtio *v, uint64_t wanted)
{
	unsigned w = v->window;

	v->features = offered(w) & (wanted | F_INDIRECT | F_EVENT_IDX | F_VERSION_1);
	set(w, REG_DRIVER_FEATURES_SEL, 0);
	set(w, REG_DRIVER_FEATURES, (uint32_t)v->features);
	set(w, REG_DRIVER_FEATURES_SEL, 1);
	set(w, REG_DRIVER_FEATURES, (uint32_t)(v->features >> 32));
	set(w, REG_STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
	return get(w, REG_STATUS) & FEATURES_OK;
}

/* From the reset on, until the features are agreed on. */
static bool begin(struct virtio *v, unsigned count, unsigned window, uint64_t wanted)
{
	memset(v, 0, count * sizeof(*v));
	v->window = window;
	set(window, REG_STATUS, 0);
	set(window, REG_STATUS, ACKNOWLEDGE);
	set(window, REG_STATUS, ACKNOWLEDGE | DRIVER);
	if (!agree(v, wanted))
		return false;
	for (unsigned i = 1; i < count; i++) {
		v[i].window = window;
		v[i].queue = i;
		v[i].features = v->features;
	}
	return true;
}

/* The queue is ready if the device took it. */
static bool set_up_queue(const struct virtio *v, const uint64_t areas[3])
{
	static const unsigned regs[3] = {REG_TABLE, REG_AVAILABLE, REG_USED};
	unsigned w = v->window;

	set(w, REG_QUEUE_SEL, v->queue);
	if (get(w, REG_QUEUE_NUM_MAX) < VIRTIO_QUEUE_SIZE)
		return false;
	set(w, REG_QUEUE_NUM, VIRTIO_QUEUE_SIZE);
	for (unsigned i = 0; i < 3; i++) {
		set(w, regs[i], (uint32_t)areas[i]);
		set(w, regs[i] + 4, (uint32_t)(areas[i] >> 32));
	}
	set(w, REG_QUEUE_READY, 1);
	return get(w, REG_QUEUE_READY) == 1;
}

static bool start(struct virtio *v, unsigned count, unsigned window, uint64_t wanted, bool with_interrupt)
{
	if (!begin(v, count, window, wanted))
		return false;
	for (unsigned i = 0; i < count; i++) {
		const uint64_t areas[3] = {(uint64_t)v[i].table, (uint64_t)&v[i].available,
					   (uint64_t)&v[i].used};

		if (!set_up_queue(&v[i], areas))
			return false;
	}
	if (with_interrupt) {
		trap_set(VECTOR_VIRTIO + window, on_interrupt);
		ioapic_route(VIRTIO_PIN(window), (uint8_t)(VECTOR_VIRTIO + window), lapic_id(), false);
	}
	set(window, REG_STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
	return true;
}

bool virtio_start(struct virtio *v, unsigned count, unsigned window, uint64_t wanted)
{
	return start(v, count, window, wanted, true);
}

bool virtio_begin(struct virtio *v, unsigned window, uint64_t wanted)
{
	return start(v, 1, window, wanted, false);
}

bool virtio_has_indirect(const struct virtio *v)
{
	return v->features & F_INDIRECT;
}

uint32_t virtio_try_areas(struct virtio *v, unsigned window, const uint64_t areas[3])
{
	if (begin(v, 1, window, 0))
		set_up_queue(v, areas);
	set(window, REG_STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
	return get(window, REG_STATUS);
}

void virtio_submit(struct virtio *v, uint16_t head)
{
	uint16_t idx = v->available.idx;

	v->available.ring[idx % VIRTIO_QUEUE_SIZE] = head;
	barrier();
	v->available.idx = (uint16_t)(idx + 1);
	barrier();
	if (!(v->features & F_EVENT_IDX) || v->used.avail_event == idx)
		set(v->window, REG_NOTIFY, v->queue);
}

void virtio_notify(const struct virtio *v)
{
	set(v->window, REG_NOTIFY, 0);
}

/* Sleeps until the device has returned a chain. The check and the hlt are one step for interrupts. A device
 * that was faster than the check has its interrupt taken all the same, in the one instruction behind sti. */
static void wait_used(struct virtio *v)
{
	for (;;) {
		irq_off();
		if (*(volatile uint16_t *)&v->used.idx != v->seen)
			break;
		irq_on_and_halt();
	}
	__asm__ volatile("sti; nop; cli" ::: "memory");
}

/* By an indirect table where the device knows them, else along the queue's own. */
void virtio_give(struct virtio *v, const struct virtio_part *parts, unsigned count)
{
	bool indirect = v->features & F_INDIRECT;
	struct virtio_descriptor *table = indirect ? v->indirect : v->table;

	for (unsigned i = 0; i < count; i++)
		table[i] = (struct virtio_descriptor){
			.address = (uint64_t)parts[i].data,
			.length = parts[i].length,
			.flags = (uint16_t)((parts[i].write ? VIRTIO_WRITE : 0) |
					    (i + 1 < count ? VIRTIO_NEXT : 0)),
			.next = (uint16_t)(i + 1),
		};
	if (indirect)
		v->table[0] = (struct virtio_descriptor){
			.address = (uint64_t)v->indirect,
			.length = (uint32_t)(count * sizeof(v->indirect[0])),
			.flags = VIRTIO_INDIRECT,
		};
	v->available.used_event = v->seen;
	virtio_submit(v, 0);
}

uint32_t virtio_take(struct virtio *v)
{
	wait_used(v);
	return v->used.ring[v->seen++ % VIRTIO_QUEUE_SIZE].length;
}

uint32_t virtio_request(struct virtio *v, const struct virtio_part *parts, unsigned count)
{
	virtio_give(v, parts, count);
	return virtio_take(v);
}
