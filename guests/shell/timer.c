/*
 * Time since the start: the local APIC's timer ticks ten times a second, seldom enough to cost nothing, and
 * what has passed since the last tick is read from its counter. Rules: SDM vol. 3A, 11.5.4.
 */
#include "apic.h"
#include "clock.h"
#include "io.h"
#include "shell.h"
#include "trap.h"

#define HZ 10

/* KVM's local APIC counts nanoseconds (KVM API, KVM_CAP_X86_APIC_BUS_CYCLES_NS): used when nothing can be
 * measured. */
#define KVM_UNITS_PER_SECOND 1000000000u

static volatile uint64_t ticks;
static uint32_t period; /* units of the timer in a tick */

static void on_tick(struct trap_frame *frame)
{
	(void)frame;
	ticks++;
	lapic_eoi();
}

/* The timer's units in a second, counted for 10 ms of the TSC. */
static uint32_t units_per_second(void)
{
	const char *source;
	uint64_t khz = clock_tsc_khz(&source);
	if (!khz)
		return KVM_UNITS_PER_SECOND;
	lapic_timer_start(UINT32_MAX);
	uint64_t start = rdtsc(), passed;
	do
		passed = rdtsc() - start;
	while (passed < 10 * khz);
	uint32_t units = UINT32_MAX - lapic_timer_count();
	lapic_timer_start(0);
	return (uint32_t)((uint64_t)units * 1000 * khz / passed);
}

void timer_init(void)
{
	trap_set(VECTOR_TIMER, on_tick);
	period = units_per_second() / HZ;
	lapic_timer_start(period);
}

uint64_t timer_ms(void)
{
	uint64_t before;
	uint32_t left;
	do { /* again when a tick fell between the two readings */
		before = ticks;
		left = lapic_timer_count();
	} while (before != ticks);
	uint64_t passed = period > left ? period - left : 0;
	return before * (1000 / HZ) + passed * (1000 / HZ) / (period ? period : 1);
}
