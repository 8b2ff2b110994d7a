/*
 * Programming of the interrupt controllers. Rules: Intel 8259A and 82093AA (IOAPIC) data sheets; SDM vol. 3A,
 * chapter 11 (local APIC).
 */
#include "apic.h"
#include "io.h"
#include "trap.h"

#define PIC_MASTER 0x20
#define PIC_SLAVE  0xa0
#define PIC_DATA   1 /* offset of the mask register */

#define LAPIC        0xfee00000u
#define LAPIC_ID     0x020
#define LAPIC_TPR    0x080
#define LAPIC_EOI    0x0b0
#define LAPIC_SVR    0x0f0
#define LAPIC_ICR    0x300
#define LAPIC_ICR_HI 0x310
#define LAPIC_TIMER  0x320
#define LAPIC_LINT0  0x350
#define LAPIC_INIT   0x380 /* initial count */
#define LAPIC_COUNT  0x390 /* current count */
#define LAPIC_DIVIDE 0x3e0

#define LVT_MASKED   (1u << 16)
#define LVT_PERIODIC (1u << 17)
#define LVT_EXTINT   (7u << 8)
#define SVR_ENABLE   (1u << 8)
#define ICR_BUSY     (1u << 12)
#define ICR_ASSERT   (1u << 14)
#define ICR_INIT     (5u << 8)
#define ICR_STARTUP  (6u << 8)
#define DIVIDE_BY_1  0x0b

#define IOAPIC        0xfec00000u
#define IOAPIC_SELECT 0x00
#define IOAPIC_WINDOW 0x10
#define IOAPIC_PIN(n) (0x10 + 2 * (n))
#define ENTRY_IRR     (1u << 14)
#define ENTRY_LEVEL   (1u << 15)

static uint8_t pic_masks[2] = {0xff, 0xff};

void pic_init(void)
{
	outb(PIC_MASTER, 0x11); /* ICW1: edge-triggered, cascade, ICW4 follows */
	outb(PIC_SLAVE, 0x11);
	outb(PIC_MASTER + PIC_DATA, VECTOR_PIC); /* ICW2: first vector */
	outb(PIC_SLAVE + PIC_DATA, VECTOR_PIC + 8);
	outb(PIC_MASTER + PIC_DATA, 1 << 2); /* ICW3: the slave is at line 2 */
	outb(PIC_SLAVE + PIC_DATA, 2);
	outb(PIC_MASTER + PIC_DATA, 0x01); /* ICW4: 8086 mode, EOI by command */
	outb(PIC_SLAVE + PIC_DATA, 0x01);
	outb(PIC_MASTER + PIC_DATA, pic_masks[0]);
	outb(PIC_SLAVE + PIC_DATA, pic_masks[1]);
}

void pic_mask(unsigned line, bool masked)
{
	uint8_t bit = (uint8_t)(1u << (line & 7));
	uint8_t *mask = &pic_masks[line >> 3];
	*mask = (uint8_t)(masked ? *mask | bit : *mask & ~bit);
	outb((line >> 3 ? PIC_SLAVE : PIC_MASTER) + PIC_DATA, *mask);
}

void pic_eoi(unsigned line)
{
	if (line >= 8)
		outb(PIC_SLAVE, 0x20);
	outb(PIC_MASTER, 0x20);
}

void lapic_init(bool extint)
{
	/* Enabled first: a disabled local APIC keeps the mask bits of its LVT set, whatever is written. */
	mmio_write(LAPIC + LAPIC_SVR, SVR_ENABLE | VECTOR_SPURIOUS);
	mmio_write(LAPIC + LAPIC_TPR, 0);
	mmio_write(LAPIC + LAPIC_LINT0, extint ? LVT_EXTINT : LVT_MASKED);
}

uint32_t lapic_id(void)
{
	return mmio_read(LAPIC + LAPIC_ID) >> 24;
}

void lapic_eoi(void)
{
	mmio_write(LAPIC + LAPIC_EOI, 0);
}

void lapic_timer_start(uint32_t count)
{
	mmio_write(LAPIC + LAPIC_DIVIDE, DIVIDE_BY_1);
	mmio_write(LAPIC + LAPIC_TIMER, VECTOR_TIMER | LVT_PERIODIC | (count ? 0 : LVT_MASKED));
	mmio_write(LAPIC + LAPIC_INIT, count);
}

uint32_t lapic_timer_count(void)
{
	return mmio_read(LAPIC + LAPIC_COUNT);
}

static void send(uint32_t id, uint32_t command)
{
	mmio_write(LAPIC + LAPIC_ICR_HI, id << 24);
	mmio_write(LAPIC + LAPIC_ICR, command | ICR_ASSERT);
	while (mmio_read(LAPIC + LAPIC_ICR) & ICR_BUSY)
		cpu_pause();
}

void lapic_send_init(uint32_t id)
{
	send(id, ICR_INIT);
}

void lapic_send_startup(uint32_t id, uint8_t page)
{
	send(id, ICR_STARTUP | page);
}

static void ioapic_write(uint32_t reg, uint32_t value)
{
	mmio_write(IOAPIC + IOAPIC_SELECT, reg);
	mmio_write(IOAPIC + IOAPIC_WINDOW, value);
}

static uint32_t ioapic_read(uint32_t reg)
{
	mmio_write(IOAPIC + IOAPIC_SELECT, reg);
	return mmio_read(IOAPIC + IOAPIC_WINDOW);
}

void ioapic_route(unsigned pin, uint8_t vector, uint32_t cpu, bool masked)
{
	ioapic_write(IOAPIC_PIN(pin) + 1, cpu << 24);
	ioapic_write(IOAPIC_PIN(pin), vector | (masked ? LVT_MASKED : 0));
}

void ioapic_trigger(unsigned pin, bool level)
{
	uint32_t entry = ioapic_read(IOAPIC_PIN(pin)) & ~ENTRY_LEVEL;
	ioapic_write(IOAPIC_PIN(pin), entry | (level ? ENTRY_LEVEL : 0));
}

bool ioapic_remote_irr(unsigned pin)
{
	return ioapic_read(IOAPIC_PIN(pin)) & ENTRY_IRR;
}
