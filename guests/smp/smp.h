/*
 * What the boot processor and the trampoline of the others agree on.
 */
#ifndef SMP_H
#define SMP_H

#define TRAMPOLINE                                                                                           \
	0x8000 /* page-aligned, below 1 MiB, between what hvrun's loaders use (core/boot/boot.h)             \
		*/
#define CPUS_MAX      64
#define AP_STACK_SIZE 2048

#endif
