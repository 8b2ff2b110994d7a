/*
 * Instructions that C has no words for: port I/O, MMIO, model-specific and control registers, the time-stamp
 * counter. Every guest may use these; they call nothing. Rules: SDM vol. 2 for the instructions, vol. 4 for
 * MSRs.
 */
#ifndef GUEST_IO_H
#define GUEST_IO_H

#include <stdint.h>

#define IO_DEFINE(letter, type)                                                                              \
	static inline void out##letter(uint16_t port, type value)                                            \
	{                                                                                                    \
		__asm__ volatile("out" #letter " %0, %1" : : "a"(value), "Nd"(port));                        \
	}                                                                                                    \
	static inline type in##letter(uint16_t port)                                                         \
	{                                                                                                    \
		type value;                                                                                  \
		__asm__ volatile("in" #letter " %1, %0" : "=a"(value) : "Nd"(port));                         \
		return value;                                                                                \
	}

IO_DEFINE(b, uint8_t)
IO_DEFINE(w, uint16_t)
IO_DEFINE(l, uint32_t)

/* 32-bit MMIO; the GPA is the virtual address, as all guests map memory one to one. */
static inline uint32_t mmio_read(uint64_t addr)
{
	uint32_t value;
	__asm__ volatile("movl %1, %0" : "=r"(value) : "m"(*(volatile uint32_t *)addr));
	return value;
}

static inline void mmio_write(uint64_t addr, uint32_t value)
{
	__asm__ volatile("movl %1, %0" : "=m"(*(volatile uint32_t *)addr) : "r"(value));
}

#define MSR_APIC_BASE 0x0000001bu
#define MSR_EFER      0xc0000080u
#define EFER_LME      (1u << 8)
#define EFER_LMA      (1u << 10)

static inline uint64_t rdmsr(uint32_t msr)
{
	uint32_t low, high;
	__asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr));
	return (uint64_t)high << 32 | low;
}

static inline void wrmsr(uint32_t msr, uint64_t value)
{
	__asm__ volatile("wrmsr" : : "c"(msr), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)) : "memory");
}

static inline uint64_t rdtsc(void)
{
	uint32_t low, high;
	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high) : : "memory");
	return (uint64_t)high << 32 | low;
}

#define CR_DEFINE(n)                                                                                         \
	static inline uint64_t read_cr##n(void)                                                              \
	{                                                                                                    \
		uint64_t value;                                                                              \
		__asm__ volatile("mov %%cr" #n ", %0" : "=r"(value));                                        \
		return value;                                                                                \
	}

CR_DEFINE(0)
CR_DEFINE(2)
CR_DEFINE(3)
CR_DEFINE(4)

static inline void write_cr3(uint64_t value)
{
	__asm__ volatile("mov %0, %%cr3" : : "r"(value) : "memory");
}

static inline void cpu_pause(void)
{
	__asm__ volatile("pause" : : : "memory");
}

static inline void irq_off(void)
{
	__asm__ volatile("cli" : : : "memory");
}

static inline void irq_on(void)
{
	__asm__ volatile("sti" : : : "memory");
}

/* sti takes effect after the next instruction, so no interrupt can slip in between it and hlt. */
static inline void irq_on_and_halt(void)
{
	__asm__ volatile("sti; hlt" : : : "memory");
}

#endif
