/*
 * The 82093AA I/O APIC, in user space: 24 pins, each with a redirection entry that says which vector goes to
 * which CPU. A VM with a split irqchip has its local APICs in the kernel and this chip here; a message to
 * them is an MSI. It may call its host (struct hv_ioapic_host) and base.
 *
 * Rules: Intel 82093AA data sheet (290566), section 3; messages as in SDM vol. 3A, 11.11; KVM API 7.5 (split
 * irqchip) and 5, KVM_EXIT_IOAPIC_EOI.
 *
 * Edge: a rising line sends one message; while the pin is masked it is ignored and not held (section 3.2.4,
 * bit 16). Level: a high line sends one message and sets remote IRR, which blocks the pin until the CPU's
 * EOI; if the line is still high then, the next message follows. Lines tell "asserted" or not: polarity is a
 * matter of real wires, and is kept as the guest wrote it without effect.
 */
#include <stdio.h>
#include <stdlib.h>

#include "device/devices.h"

enum { WINDOW_SELECT = 0x00, WINDOW_DATA = 0x10 }; /* the two registers that memory shows */

enum { REG_ID = 0x00, REG_VERSION = 0x01, REG_ARBITRATION = 0x02, REG_REDIRECTION = 0x10 };

#define VERSION 0x11u /* no EOI register of its own, which version 0x20 brought */
#define ID_BITS 0x0f000000u

/* A redirection entry. */
#define ENTRY_VECTOR     0xffull
#define ENTRY_MODE_SHIFT 8
#define ENTRY_MODE       (7ull << ENTRY_MODE_SHIFT)
#define ENTRY_LOGICAL    (1ull << 11)
#define ENTRY_STATUS     (1ull << 12) /* delivery pending; never here, as delivery takes no time */
#define ENTRY_REMOTE_IRR (1ull << 14)
#define ENTRY_LEVEL      (1ull << 15)
#define ENTRY_MASKED     (1ull << 16)
#define ENTRY_DEST_SHIFT 56
#define ENTRY_READ_ONLY  (ENTRY_STATUS | ENTRY_REMOTE_IRR)
#define ENTRY_ALL        0xff0000000001ffffull

enum { MODE_FIXED = 0, MODE_LOWEST_PRIORITY = 1 };

/* A message to a local APIC (SDM vol. 3A, 11.11.1 and 11.11.2). */
#define MSI_ADDRESS      0xfee00000ull
#define MSI_DEST_SHIFT   12
#define MSI_LOGICAL      (1u << 2)
#define MSI_LEVEL_ASSERT (1u << 14)
#define MSI_LEVEL        (1u << 15)

struct message {
	uint64_t address;
	uint32_t data;
	bool masked;
};

struct hv_ioapic {
	struct hv_device dev;
	struct hv_ioapic_host host;
	uint32_t select; /* which register the data window shows */
	uint32_t id;
	uint64_t entries[HV_IOAPIC_PINS];
	uint32_t lines; /* bit n: the line at pin n is asserted */
};

static struct hv_ioapic *ioapic_of(struct hv_device *dev)
{
	return hv_container_of(dev, struct hv_ioapic, dev);
}

/* --- delivery --- */

static struct message message_of(uint64_t entry)
{
	return (struct message){
		.address = MSI_ADDRESS | entry >> ENTRY_DEST_SHIFT << MSI_DEST_SHIFT |
			   (entry & ENTRY_LOGICAL ? MSI_LOGICAL : 0),
		.data = (uint32_t)(entry & (ENTRY_VECTOR | ENTRY_MODE)) |
			(entry & ENTRY_LEVEL ? MSI_LEVEL | MSI_LEVEL_ASSERT : 0),
		.masked = entry & ENTRY_MASKED,
	};
}

/* Whether the pin works by level: the modes other than these two (SMI, NMI, INIT, ExtINT) are edges whatever
 * the trigger bit says, and no CPU sends an EOI for them. */
static bool by_level(uint64_t entry)
{
	uint64_t mode = (entry & ENTRY_MODE) >> ENTRY_MODE_SHIFT;

	return entry & ENTRY_LEVEL && (mode == MODE_FIXED || mode == MODE_LOWEST_PRIORITY);
}

static void send(struct hv_ioapic *io, unsigned pin)
{
	struct message m = message_of(io->entries[pin]);

	if (by_level(io->entries[pin]))
		io->entries[pin] |= ENTRY_REMOTE_IRR;
	if (io->host.send)
		io->host.send(io->host.ctx, m.address, m.data);
}

/* Sends for a level pin if there is reason to: after its line, its entry or its remote IRR has changed. */
static void serve_level(struct hv_ioapic *io, unsigned pin)
{
	uint64_t entry = io->entries[pin];

	if (by_level(entry) && io->lines & 1u << pin && !(entry & (ENTRY_MASKED | ENTRY_REMOTE_IRR)))
		send(io, pin);
}

void hv_ioapic_set(void *dev, unsigned pin, bool level)
{
	struct hv_device *device = dev;
	struct hv_ioapic *io = ioapic_of(device);
	uint32_t bit;

	if (pin >= HV_IOAPIC_PINS)
		return;
	bit = 1u << pin;
	pthread_mutex_lock(&device->lock);
	if (!level) {
		io->lines &= ~bit;
	} else if (!(io->lines & bit)) {
		io->lines |= bit;
		if (by_level(io->entries[pin]))
			serve_level(io, pin);
		else if (!(io->entries[pin] & ENTRY_MASKED))
			send(io, pin);
	}
	pthread_mutex_unlock(&device->lock);
}

/* All level pins with this vector hear it, as on the APIC bus: the message names no pin. */
void hv_ioapic_eoi(struct hv_device *dev, uint8_t vector)
{
	struct hv_ioapic *io = ioapic_of(dev);

	pthread_mutex_lock(&dev->lock);
	for (unsigned pin = 0; pin < HV_IOAPIC_PINS; pin++) {
		if (!(io->entries[pin] & ENTRY_REMOTE_IRR) || (io->entries[pin] & ENTRY_VECTOR) != vector)
			continue;
		io->entries[pin] &= ~ENTRY_REMOTE_IRR;
		serve_level(io, pin);
	}
	pthread_mutex_unlock(&dev->lock);
}

/* --- registers --- */

/*
 * Replaces an entry. KVM must know the entries of level pins, or it doesn't report their EOIs; telling it
 * costs a system call and more, so it hears of changes only. At first it knows none, and all are masked.
 */
static void set_entry(struct hv_ioapic *io, unsigned pin, uint64_t entry)
{
	struct message before = message_of(io->entries[pin]), after = message_of(entry);

	io->entries[pin] = entry;
	if (!io->host.route)
		return;
	if (before.address != after.address || before.data != after.data || before.masked != after.masked)
		io->host.route(io->host.ctx, pin, after.address, after.data, after.masked);
}

/* value is the whole entry, half of it new. An edge has no EOI, so a pin made edge-triggered forgets its
 * remote IRR: kernels flip the trigger bit to and fro in order to clear it. */
static void write_entry(struct hv_ioapic *io, unsigned pin, uint64_t value)
{
	value = (value & ENTRY_ALL & ~ENTRY_READ_ONLY) | (io->entries[pin] & ENTRY_REMOTE_IRR);
	if (!by_level(value))
		value &= ~ENTRY_REMOTE_IRR;
	set_entry(io, pin, value);
	serve_level(io, pin);
}

static uint32_t read_register(const struct hv_ioapic *io)
{
	unsigned entry = (io->select - REG_REDIRECTION) / 2;

	switch (io->select) {
	case REG_ID:
	case REG_ARBITRATION: /* the arbitration id follows the id; there is no bus to arbitrate */
		return io->id;
	case REG_VERSION:
		return (HV_IOAPIC_PINS - 1) << 16 | VERSION;
	}
	if (io->select < REG_REDIRECTION || entry >= HV_IOAPIC_PINS)
		return 0xffffffff;
	return (uint32_t)(io->select & 1 ? io->entries[entry] >> 32 : io->entries[entry]);
}

static void write_register(struct hv_ioapic *io, uint32_t value)
{
	unsigned pin = (io->select - REG_REDIRECTION) / 2;
	uint64_t entry;

	if (io->select == REG_ID)
		io->id = value & ID_BITS;
	if (io->select < REG_REDIRECTION || pin >= HV_IOAPIC_PINS)
		return;
	entry = io->entries[pin];
	if (io->select & 1)
		entry = (entry & 0xffffffffull) | (uint64_t)value << 32;
	else
		entry = (entry & ~0xffffffffull) | value;
	write_entry(io, pin, entry);
}

/* The chip takes aligned 32-bit accesses only; the select register, of which 8 bits count, bears narrower
 * ones. */
static uint64_t ioapic_read(struct hv_device *dev, uint64_t offset, unsigned size)
{
	const struct hv_ioapic *io = ioapic_of(dev);

	if (offset == WINDOW_SELECT)
		return io->select;
	return offset == WINDOW_DATA && size == 4 ? read_register(io) : 0;
}

static void ioapic_write(struct hv_device *dev, uint64_t offset, uint64_t value, unsigned size)
{
	struct hv_ioapic *io = ioapic_of(dev);

	if (offset == WINDOW_SELECT)
		io->select = value & 0xff;
	else if (offset == WINDOW_DATA && size == 4)
		write_register(io, (uint32_t)value);
}

/* --- life --- */

/* The lines stay as they are: they belong to the devices at their other ends, which are reset by themselves.
 */
static void ioapic_reset(struct hv_device *dev)
{
	struct hv_ioapic *io = ioapic_of(dev);

	io->select = io->id = 0;
	for (unsigned pin = 0; pin < HV_IOAPIC_PINS; pin++)
		set_entry(io, pin, ENTRY_MASKED);
}

static void ioapic_save(struct hv_device *dev, struct hv_encoder *e)
{
	const struct hv_ioapic *io = ioapic_of(dev);

	hv_enc_u32(e, io->select);
	hv_enc_u32(e, io->id);
	hv_enc_u32(e, io->lines);
	for (unsigned pin = 0; pin < HV_IOAPIC_PINS; pin++)
		hv_enc_u64(e, io->entries[pin]);
}

static bool plausible(const struct hv_ioapic *io)
{
	if (io->select > 0xff || io->id & ~ID_BITS || io->lines >> HV_IOAPIC_PINS)
		return false;
	for (unsigned pin = 0; pin < HV_IOAPIC_PINS; pin++) {
		uint64_t entry = io->entries[pin];

		if (entry & (~ENTRY_ALL | ENTRY_STATUS) || (entry & ENTRY_REMOTE_IRR && !by_level(entry)))
			return false;
	}
	return true;
}

/* Sends nothing: what was sent is in the local APICs' own state. */
static int ioapic_load(struct hv_device *dev, struct hv_decoder *d, uint16_t version, struct hv_error *err)
{
	struct hv_ioapic *io = ioapic_of(dev), loaded = {0};
	int rc;

	ioapic_reset(dev);
	rc = hv_device_load_begin(dev, version, err);
	if (rc)
		return rc;
	loaded.select = hv_dec_u32(d);
	loaded.id = hv_dec_u32(d);
	loaded.lines = hv_dec_u32(d);
	for (unsigned pin = 0; pin < HV_IOAPIC_PINS; pin++)
		loaded.entries[pin] = hv_dec_u64(d);
	rc = hv_device_load_end(dev, d, err);
	if (rc)
		return rc;
	if (!plausible(&loaded))
		return hv_fail_unsafe(
			err,
			"saved state: device '%s' has registers that no IOAPIC can hold; the data is "
			"damaged",
			dev->ops->name);
	io->select = loaded.select;
	io->id = loaded.id;
	io->lines = loaded.lines;
	for (unsigned pin = 0; pin < HV_IOAPIC_PINS; pin++)
		set_entry(io, pin, loaded.entries[pin]);
	return 0;
}

/* Where the text goes on after snprintf has put n bytes at `used`: never beyond the last byte of size. */
static size_t advance(size_t used, int n, size_t size)
{
	used += n > 0 ? (size_t)n : 0;
	return used < size ? used : size - 1;
}

static void ioapic_describe(struct hv_device *dev, char *buf, size_t size)
{
	const struct hv_ioapic *io = ioapic_of(dev);
	size_t used = advance(0, snprintf(buf, size, "id %u, lines 0x%06x", io->id >> 24, io->lines), size);

	for (unsigned pin = 0; pin < HV_IOAPIC_PINS; pin++) {
		uint64_t entry = io->entries[pin];
		int n;

		if (entry & ENTRY_MASKED)
			continue;
		n = snprintf(buf + used, size - used, ", pin %u: vector 0x%02x to %s %u, %s%s", pin,
			     (unsigned)(entry & ENTRY_VECTOR), entry & ENTRY_LOGICAL ? "logical" : "APIC",
			     (unsigned)(entry >> ENTRY_DEST_SHIFT), entry & ENTRY_LEVEL ? "level" : "edge",
			     entry & ENTRY_REMOTE_IRR ? " (awaits EOI)" : "");
		used = advance(used, n, size);
	}
}

static void ioapic_destroy(struct hv_device *dev)
{
	free(ioapic_of(dev));
}

static const struct hv_device_ops ioapic_ops = {
	.name = "ioapic",
	.version = 1,
	.max_access = 4,
	.read = ioapic_read,
	.write = ioapic_write,
	.reset = ioapic_reset,
	.save = ioapic_save,
	.load = ioapic_load,
	.describe = ioapic_describe,
	.destroy = ioapic_destroy,
};

int hv_ioapic_create(struct hv_ioapic_host host, struct hv_device **out, struct hv_error *err)
{
	struct hv_ioapic *io = calloc(1, sizeof(*io));

	if (!io)
		return hv_fail(err, ENOMEM, "ioapic: no memory for the device; close other programs");
	hv_device_init(&io->dev, &ioapic_ops);
	io->host = host;
	for (unsigned pin = 0; pin < HV_IOAPIC_PINS; pin++)
		io->entries[pin] = ENTRY_MASKED;
	*out = &io->dev;
	return 0;
}
