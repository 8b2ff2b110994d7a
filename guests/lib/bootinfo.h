/*
 * What the boot loader told: command line, memory map, modules, in one form for all boot protocols.
 */
#ifndef GUEST_BOOTINFO_H
#define GUEST_BOOTINFO_H

#include <stdbool.h>
#include <stdint.h>

#define BOOT_RANGES  16
#define BOOT_MODULES 4
#define BOOT_RAM     1 /* type of a range; all others are not to be touched */

struct boot_range {
	uint64_t base, size;
	uint32_t type;
};

struct boot_module {
	uint64_t base, size;
	const char *cmdline;
};

struct boot_info {
	const char *protocol; /* "multiboot", "PVH" or "ELF", for a person */
	const char *cmdline;  /* never NULL */
	unsigned range_count, module_count;
	struct boot_range ranges[BOOT_RANGES];
	struct boot_module modules[BOOT_MODULES];
};

/* The guest itself, called by the start code in 64-bit mode at CPL 0 with interrupts off. It ends as end.h
 * says. */
_Noreturn void guest_main(const struct boot_info *boot);

/* The value of `key=number` in the command line, or fallback. A value that is no number ends the guest with a
 * sentence: a mistyped rate must not become a default one. */
uint64_t boot_option(const struct boot_info *boot, const char *key, uint64_t fallback);

/* The end of the RAM range that holds addr, 0 when none does. */
uint64_t boot_ram_end(const struct boot_info *boot, uint64_t addr);

/* Called by start32.S and start64.S. eax, ebx: the registers at entry (rdi in ebx for a 64-bit entry). */
_Noreturn void boot_start(uint64_t entry, uint64_t eax, uint64_t info);

#endif
