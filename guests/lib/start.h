/*
 * Constants that C and assembly share: boot protocols, segment selectors, ELF notes.
 */
#ifndef GUEST_START_H
#define GUEST_START_H

#define START_32 32 /* entered in 32-bit protected mode: multiboot, PVH, ELF32 */
#define START_64 64 /* entered in long mode: ELF64 */

#define MULTIBOOT_BOOT_MAGIC 0x2badb002
#define HVM_START_MAGIC      0x336ec578

/* The GDT of tables.S. Its order is the one that syscall and sysret take for granted (SDM vol. 2, SYSCALL).
 */
#define SEL_CODE32      0x08
#define SEL_CODE        0x10
#define SEL_DATA        0x18
#define SEL_USER_CODE32 0x23 /* not used; sysret's 64-bit selectors are counted from it */
#define SEL_USER_DATA   0x2b
#define SEL_USER_CODE   0x33
#define SEL_TSS         0x40

#define GDT_ENTRIES 10

/* enum hv_irqchip of core/kvm/irq.h: what interrupt controllers the image asks hvrun for by its ELF note. */
#define IRQCHIP_NONE  1
#define IRQCHIP_SPLIT 2
#define IRQCHIP_FULL  3

#define NOTE_HVKIT_IRQCHIP 1
#define NOTE_XEN_PVH_ENTRY 18

#ifndef __ASSEMBLER__
/* The note that tells hvrun which controllers to make; hvrun makes all of them for an image without it. */
#define HVKIT_IRQCHIP_NOTE(kind)                                                                             \
	static const struct {                                                                                \
		unsigned name_size, size, type;                                                              \
		char name[8];                                                                                \
		unsigned irqchip;                                                                            \
	} hvkit_note __attribute__((section(".note.hvkit"), used, aligned(4))) = {                           \
		sizeof("hvkit"), sizeof(unsigned), NOTE_HVKIT_IRQCHIP, "hvkit", kind}
#endif

#endif
