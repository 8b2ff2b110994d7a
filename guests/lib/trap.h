/*
 * Exceptions and interrupts (SDM vol. 3A, chapter 6), and the way to CPL 3 and back.
 */
#ifndef GUEST_TRAP_H
#define GUEST_TRAP_H

#include <stdint.h>

/* The registers as trap.S leaves them on the stack; from `error` on, as the CPU pushed them. */
struct trap_frame {
	uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax;
	uint64_t vector, error, rip, cs, rflags, rsp, ss;
};

enum {
	VECTOR_NMI = 2,
	VECTOR_UD = 6,
	VECTOR_GP = 13,
	VECTOR_PF = 14,
	VECTOR_PIC = 32,      /* the PICs' 16 lines, and the IOAPIC's first pins */
	VECTOR_TIMER = 48,    /* local APIC timer */
	VECTOR_SPURIOUS = 63, /* its low 4 bits are ones, as old local APICs demand */
	VECTORS = 64,
};

#define RFLAGS_ALWAYS1 (1u << 1)

typedef void trap_handler(struct trap_frame *frame);

/* Loads IDT and TSS. Without a handler an exception prints the registers and ends the guest with GUEST_PANIC.
 */
void trap_init(void);
void trap_set(unsigned vector, trap_handler *handler);

/* wrmsr that survives a #GP: 0 when the CPU took it, -1 when it has no such MSR. */
int wrmsr_checked(uint32_t msr, uint64_t value);

/*
 * Calls fn(arg) at CPL 3 with interrupts off, on a stack of its own, and returns what it returned. fn may use
 * the ports below 0x400: by the TSS's I/O permission bitmap, not by IOPL 3, which would also let it change
 * IF. fn comes back by an exception: ud2 behind it, which the handler recognises by its address. `int n`
 * would be the usual gate, but software back ends of KVM don't emulate it.
 */
uint64_t user_call(uint64_t (*fn)(void *arg), void *arg);

#endif
