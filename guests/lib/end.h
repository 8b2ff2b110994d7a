/*
 * How a guest ends. The debug exit device at port 0xf4 makes (v << 1 | 1) the exit status of hvrun, which is
 * never 0; so a guest that runs without interrupt controllers ends well by hlt (status 0), and the others by
 * GUEST_OK.
 */
#ifndef GUEST_END_H
#define GUEST_END_H

#include "io.h"

#define PORT_DEBUG_EXIT 0xf4

enum {
	GUEST_OK = 0x10,     /* status 33: all went well, for guests that have interrupt controllers */
	GUEST_FAILED = 0x11, /* status 35: a check failed; the output tells which */
	GUEST_PANIC = 0x12,  /* status 37: an exception that the guest did not expect */
};

/* Nothing can wake a CPU that halts with interrupts off, so a VM without an irqchip ends here. */
static inline _Noreturn void guest_halt(void)
{
	for (;;)
		__asm__ volatile("cli; hlt" : : : "memory");
}

static inline _Noreturn void guest_exit(uint8_t value)
{
	outb(PORT_DEBUG_EXIT, value);
	guest_halt();
}

#endif
