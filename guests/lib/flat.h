/*
 * What start16.S maps and calls.
 */
#ifndef GUEST_FLAT_H
#define GUEST_FLAT_H

#define MMIO_BASE 0xd0000000 /* 2 MiB in the PCI hole, where nothing answers */

#ifndef __ASSEMBLER__
_Noreturn void flat_main(void);
#endif

#endif
