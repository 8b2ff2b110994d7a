/*
 * shell: a tiny system with a command line on the serial port, a data store, and an upgrade that can go
 * wrong. It is the VM to play with: to pause, look into, checkpoint, migrate. Sleeps in hlt when nobody
 * types. Booted by multiboot or by PVH. `help` lists the commands; README.md tells how each of them ends.
 */
#include "apic.h"
#include "console.h"
#include "io.h"
#include "memory.h"
#include "shell.h"
#include "start.h"
#include "trap.h"

HVKIT_IRQCHIP_NOTE(IRQCHIP_SPLIT); /* local APIC and IOAPIC are enough */

/* Interrupt lines that no device of ours has: an interrupt from outside (`hvctl NAME inject irq 5`) is shown.
 */
static const uint8_t free_lines[] = {5, 7, 9, 10, 11};
static volatile uint16_t level_lines; /* bit n: line n is level-triggered */

bool line_trigger(unsigned line, bool level)
{
	for (unsigned i = 0; i < sizeof(free_lines); i++) {
		if (free_lines[i] != line)
			continue;
		irq_off(); /* on_line uses the IOAPIC's two registers as well */
		level_lines = (uint16_t)(level ? level_lines | 1u << line : level_lines & ~(1u << line));
		ioapic_trigger(line, level);
		irq_on();
		return true;
	}
	return false;
}

/* Straight to the UART: what was interrupted may be in the middle of con_printf. */
static void say(const char *text)
{
	con_write(text, strlen(text));
}

/*
 * A level-triggered line has more to tell than an edge: remote IRR, which blocks the pin from the interrupt
 * on until the IOAPIC has heard of our EOI. Only a pin whose remote IRR clears ever brings a second
 * interrupt.
 */
static void on_line(struct trap_frame *frame)
{
	unsigned line = (unsigned)frame->vector - VECTOR_PIC;
	bool level = level_lines & 1u << line, waits = level && ioapic_remote_irr(line), still;
	char number[2] = {line >= 10 ? '1' : ' ', (char)('0' + line % 10)};

	lapic_eoi();
	still = level && ioapic_remote_irr(line);
	say("[irq ");
	con_write(number, sizeof(number));
	if (level) {
		say(waits ? ", level: remote IRR 1" : ", level: remote IRR 0");
		say(still ? ", 1 after EOI" : ", 0 after EOI");
	}
	say("]\r\n");
}

static void on_nmi(struct trap_frame *frame)
{
	(void)frame;
	con_write("[nmi]\r\n", 7);
}

static void show_interrupts(void)
{
	trap_set(VECTOR_NMI, on_nmi);
	for (unsigned i = 0; i < sizeof(free_lines); i++) {
		trap_set(VECTOR_PIC + free_lines[i], on_line);
		ioapic_route(free_lines[i], (uint8_t)(VECTOR_PIC + free_lines[i]), lapic_id(), false);
	}
}

void guest_main(const struct boot_info *boot)
{
	con_init(true);
	trap_init();
	uint64_t ram = 0;
	for (unsigned i = 0; i < boot->range_count; i++)
		ram += boot->ranges[i].type == BOOT_RAM ? boot->ranges[i].size : 0;
	con_printf("hvkit shell %s, booted by %s, %lu MiB of RAM. Type help.\n", GUEST_VERSION,
		   boot->protocol, (ram + (1u << 19)) >> 20);
	store_init();
	lapic_init(false); /* LINT0 masked: a PIC, where there is one, stays unheard */
	show_interrupts();
	timer_init();
	terminal_init();
	for (;;)
		command_run(boot, terminal_line("> "));
}
