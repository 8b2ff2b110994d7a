/*
 * shell: a tiny system with a command line on the serial port, a data store, and an upgrade that can go
 * wrong. It is the VM to play with: to pause, look into, checkpoint, migrate. Sleeps in hlt when nobody
 * types. Booted by multiboot or by PVH. `help` lists the commands; README.md tells how each of them ends.
 */
#include "apic.h"
#include "console.h"
#include "shell.h"
#include "start.h"
#include "trap.h"

HVKIT_IRQCHIP_NOTE(IRQCHIP_SPLIT); /* local APIC and IOAPIC are enough */

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
	pic_init(); /* where there is one, all its lines are masked: interrupts come through the IOAPIC */
	lapic_init(false);
	timer_init();
	terminal_init();
	for (;;)
		command_run(boot, terminal_line("> "));
}
