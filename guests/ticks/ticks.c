/*
 * ticks: timer interrupts by every way that a PC has. The PIT through the PIC, the PIT through the IOAPIC,
 * then the local APIC's timer, set so that both run at the same rate, with the PIT beside it to compare. The
 * CPU sleeps in hlt between ticks. Ends by the debug exit device: GUEST_OK, or GUEST_FAILED when a timer
 * never ticked. Command line: ticks=N (default 20) of each, hz=N (default 100, at least 19, the PIT's
 * slowest).
 */
#include "apic.h"
#include "bootinfo.h"
#include "clock.h"
#include "console.h"
#include "end.h"
#include "io.h"
#include "start.h"
#include "trap.h"

HVKIT_IRQCHIP_NOTE(IRQCHIP_FULL);

#define PIT_LINE   0
#define VECTOR_PIT 40 /* for the IOAPIC: another than the PIC's, so that one can't be taken for the other */

static volatile unsigned pic_ticks, ioapic_ticks, lapic_ticks;

static void on_pic(struct trap_frame *frame)
{
	(void)frame;
	pic_ticks++;
	pic_eoi(PIT_LINE);
}

static void on_ioapic(struct trap_frame *frame)
{
	(void)frame;
	ioapic_ticks++;
	lapic_eoi();
}

static void on_lapic(struct trap_frame *frame)
{
	(void)frame;
	lapic_ticks++;
	lapic_eoi();
}

/* Sleeps until *counter has reached count. The check and the hlt are one step for interrupts: sti shadows the
 * hlt. */
static void wait_for(volatile unsigned *counter, unsigned count)
{
	for (;;) {
		irq_off();
		if (*counter >= count)
			break;
		irq_on_and_halt();
	}
}

/* The PIT is pin 0 of the IOAPIC as KVM wires it by default, and pin 2 on a PC whose ACPI tables say so. */
static void route_pit(bool masked)
{
	ioapic_route(0, VECTOR_PIT, lapic_id(), masked);
	ioapic_route(2, VECTOR_PIT, lapic_id(), masked);
}

/* Units of the local APIC's timer in one period of the PIT, counted over `periods` of them. */
static uint32_t calibrate(unsigned periods)
{
	lapic_timer_start(0);
	wait_for(&ioapic_ticks, ioapic_ticks + 1); /* begin at an edge */
	lapic_timer_start(UINT32_MAX);
	wait_for(&ioapic_ticks, ioapic_ticks + periods);
	uint32_t units = UINT32_MAX - lapic_timer_count();
	lapic_timer_start(0);
	return units / periods;
}

void guest_main(const struct boot_info *boot)
{
	con_init(false);
	trap_init();
	unsigned count = (unsigned)boot_option(boot, "ticks", 20);
	unsigned hz = (unsigned)boot_option(boot, "hz", 100);
	if (!count || hz < 19 || hz > 10000) {
		con_printf("ticks: want ticks= of at least 1 and hz= from 19 to 10000\n");
		guest_exit(GUEST_FAILED);
	}
	trap_set(VECTOR_PIC + PIT_LINE, on_pic);
	trap_set(VECTOR_PIT, on_ioapic);
	trap_set(VECTOR_TIMER, on_lapic);
	con_printf("ticks: %u ticks of each timer at %u Hz\n", count, hz);

	pic_init();
	lapic_init(true);
	pit_start(hz);
	pic_mask(PIT_LINE, false);
	wait_for(&pic_ticks, count);
	pic_mask(PIT_LINE, true);
	con_printf("PIT through the PIC: %u ticks\n", pic_ticks);

	lapic_init(false);
	route_pit(false);
	wait_for(&ioapic_ticks, count);
	con_printf("PIT through the IOAPIC: %u ticks\n", ioapic_ticks);

	uint32_t units = calibrate(5);
	con_printf("local APIC timer: %u units in a tick of the PIT\n", units);
	unsigned before = ioapic_ticks;
	lapic_timer_start(units);
	wait_for(&lapic_ticks, count);
	lapic_timer_start(0);
	unsigned beside = ioapic_ticks - before;
	route_pit(true);
	pit_stop();
	con_printf("local APIC timer: %u ticks, the PIT beside it: %u\n", lapic_ticks, beside);
	con_printf("ticks: %s\n", units && beside ? "all timers ran" : "a timer stood still");
	guest_exit(units && beside ? GUEST_OK : GUEST_FAILED);
}
