/*
 * The MultiProcessor table: processors, the IOAPIC and which interrupt is at which of its pins, for kernels
 * that are given no ACPI tables (--acpi off). May call layout.h's neighbours and kvm/memory.h.
 *
 * Rules: Intel MultiProcessor Specification 1.4, sections 4.1 (the floating pointer, which a kernel looks for
 * on each 16 bytes of 0xf0000 to 0xfffff), 4.2 (the table's header), 4.3 (its entries).
 */
#include <string.h>

#include "base/bytes.h"
#include "boot/layout.h"
#include "kvm/irq.h"

#define POINTER_GPA 0xf0000u
#define TABLE_GPA   0xf0010u

enum {
	POINTER_SIZE = 16,
	HEADER_SIZE = 44,
	PROCESSOR_SIZE = 20,
	ENTRY_SIZE = 8, /* of all other entries */
};

enum { ENTRY_PROCESSOR, ENTRY_BUS, ENTRY_IOAPIC, ENTRY_INTERRUPT, ENTRY_LOCAL_INTERRUPT };
enum { INTERRUPT_VECTORED = 0, INTERRUPT_NMI = 1, INTERRUPT_EXTINT = 3 };

#define PROCESSOR_ENABLED 1u
#define PROCESSOR_BSP     2u
#define APIC_VERSION      0x14
#define IOAPIC_VERSION    0x11
#define IOAPIC_ENABLED    1u
#define EVERY_APIC        0xff
#define SPEC_REVISION     4 /* 1.4 */

struct mp {
	uint8_t bytes[HEADER_SIZE + HV_ACPI_CPUS_MAX * PROCESSOR_SIZE + (HV_IOAPIC_PINS + 4) * ENTRY_SIZE];
	size_t used;
	uint16_t entries;
};

static uint8_t checksum(const uint8_t *data, size_t size)
{
	uint8_t sum = 0;

	while (size--)
		sum = (uint8_t)(sum + *data++);
	return (uint8_t)-sum;
}

/* Without its zero byte: fields of fixed length. */
static void put_text(uint8_t *to, const char *text)
{
	while (*text)
		*to++ = (uint8_t)*text++;
}

static void add(struct mp *mp, const uint8_t *entry, size_t size)
{
	memcpy(mp->bytes + mp->used, entry, size);
	mp->used += size;
	mp->entries++;
}

static void add_processor(struct mp *mp, unsigned index)
{
	const uint8_t entry[PROCESSOR_SIZE] = {
		ENTRY_PROCESSOR,
		(uint8_t)index,
		APIC_VERSION,
		(uint8_t)(PROCESSOR_ENABLED | (index ? 0 : PROCESSOR_BSP)),
	};

	add(mp, entry, sizeof(entry));
}

/* All lines are the ISA bus's, edge-triggered and active high as there, and number n is at pin n. */
static void add_interrupt(struct mp *mp, uint8_t ioapic, unsigned line)
{
	const uint8_t entry[ENTRY_SIZE] = {ENTRY_INTERRUPT, INTERRUPT_VECTORED, 0, 0, 0, (uint8_t)line,
					   ioapic,          (uint8_t)line};

	add(mp, entry, sizeof(entry));
}

static void add_local(struct mp *mp, uint8_t type, uint8_t apic, uint8_t pin)
{
	const uint8_t entry[ENTRY_SIZE] = {ENTRY_LOCAL_INTERRUPT, type, 0, 0, 0, 0, apic, pin};

	add(mp, entry, sizeof(entry));
}

static void build(struct mp *mp, const struct hv_acpi *board)
{
	const uint8_t id = (uint8_t)board->cpus; /* of the IOAPIC: one that no local APIC has */
	const uint8_t bus[ENTRY_SIZE] = {ENTRY_BUS, 0, 'I', 'S', 'A', ' ', ' ', ' '};
	const uint8_t ioapic[ENTRY_SIZE] = {ENTRY_IOAPIC, id,  IOAPIC_VERSION, IOAPIC_ENABLED, 0, 0,
					    0xc0,         0xfe}; /* at 0xfec00000 */
	uint8_t *h = mp->bytes;

	mp->used = HEADER_SIZE;
	for (unsigned i = 0; i < board->cpus; i++)
		add_processor(mp, i);
	add(mp, bus, sizeof(bus));
	add(mp, ioapic, sizeof(ioapic));
	for (unsigned i = 0; i < HV_IOAPIC_PINS; i++)
		add_interrupt(mp, id, i);
	if (board->legacy)
		add_local(mp, INTERRUPT_EXTINT, 0, 0);
	add_local(mp, INTERRUPT_NMI, EVERY_APIC, 1);
	put_text(h, "PCMP");
	hv_put_le16(h + 4, (uint16_t)mp->used);
	h[6] = SPEC_REVISION;
	put_text(h + 8, "HVKIT   HVKIT       ");
	hv_put_le16(h + 34, mp->entries);
	hv_put_le32(h + 36, 0xfee00000); /* the local APICs */
	h[7] = checksum(h, mp->used);
}

int hv_boot_put_mp(const struct hv_boot_request *request, const struct hv_memory *mem, struct hv_error *err)
{
	uint8_t pointer[POINTER_SIZE] = "_MP_";
	struct mp mp = {0};

	if (request->acpi->cpus == 0 || request->acpi->cpus >= HV_ACPI_CPUS_MAX)
		return hv_fail(err, EINVAL, "an MP table for %u CPUs can't be made", request->acpi->cpus);
	build(&mp, request->acpi);
	hv_put_le32(pointer + 4, TABLE_GPA);
	pointer[8] = 1; /* in 16 bytes */
	pointer[9] = SPEC_REVISION;
	pointer[10] = checksum(pointer, sizeof(pointer));
	if (hv_memory_write(mem, POINTER_GPA, pointer, sizeof(pointer)) ||
	    hv_memory_write(mem, TABLE_GPA, mp.bytes, mp.used))
		return hv_fail(err, EFAULT, "%s: the MP table cannot be copied to guest memory",
			       request->path);
	return 0;
}
