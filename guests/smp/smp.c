/*
 * smp: all CPUs of the VM at work. The boot processor (BSP) asks the firmware configuration device how many
 * there are, wakes the application processors (APs) by INIT and SIPI, and all of them count: into one counter
 * under a spinlock, into another by lock xadd. Both must come out as CPUs * rounds, or the memory of two CPUs
 * is not one. Command line: rounds=N (default 1000). Ends by the debug exit device: GUEST_OK or GUEST_FAILED.
 */
#include "apic.h"
#include "bootinfo.h"
#include "console.h"
#include "end.h"
#include "io.h"
#include "memory.h"
#include "smp.h"
#include "start.h"
#include "trap.h"

HVKIT_IRQCHIP_NOTE(IRQCHIP_SPLIT);

#define FWCFG_SELECT 0x510
#define FWCFG_DATA   0x511
#define FWCFG_CPUS   5 /* item: number of CPUs, 16 bits */

#define WAIT_ROUNDS 10000000u /* how often the BSP looks for an AP before it gives up */

extern const char trampoline[], trampoline_end[];
void ap_main(uint64_t index);

volatile uint64_t cpus_started = 1; /* the trampoline adds to it */
static volatile uint64_t cpus_done;
static volatile uint32_t go, lock;
static uint64_t rounds, locked_sum;
static volatile uint64_t atomic_sum;

/* xchg with memory is locked by itself. The inner loop only reads, so that the line can stay shared
 * meanwhile. */
static void spin_lock(void)
{
	while (__atomic_exchange_n(&lock, 1, __ATOMIC_ACQUIRE))
		while (lock)
			cpu_pause();
}

static void spin_unlock(void)
{
	__atomic_store_n(&lock, 0, __ATOMIC_RELEASE);
}

static void count(void)
{
	for (uint64_t i = 0; i < rounds; i++) {
		spin_lock();
		locked_sum++; /* plain memory: the lock alone makes this right */
		spin_unlock();
		__atomic_fetch_add(&atomic_sum, 1, __ATOMIC_RELAXED);
	}
	__atomic_fetch_add(&cpus_done, 1, __ATOMIC_RELEASE);
}

void ap_main(uint64_t index)
{
	(void)index;
	while (!go)
		cpu_pause();
	count();
	guest_halt();
}

static unsigned cpu_count(void)
{
	outw(FWCFG_SELECT, FWCFG_CPUS);
	unsigned low = inb(FWCFG_DATA);
	return low | (unsigned)inb(FWCFG_DATA) << 8;
}

static bool wait_started(uint64_t want)
{
	for (unsigned i = 0; i < WAIT_ROUNDS && cpus_started < want; i++)
		cpu_pause();
	return cpus_started >= want;
}

/* INIT makes the AP wait, SIPI starts it. The SDM's 10 ms and 200 us between them are for boards of the
 * nineties; as it asks, SIPI is sent again when the first had no effect. */
static bool start_ap(uint32_t id)
{
	lapic_send_init(id);
	lapic_send_startup(id, TRAMPOLINE >> 12);
	if (wait_started(id + 1))
		return true;
	lapic_send_startup(id, TRAMPOLINE >> 12);
	return wait_started(id + 1);
}

void guest_main(const struct boot_info *boot)
{
	con_init(false);
	trap_init();
	rounds = boot_option(boot, "rounds", 1000);
	unsigned cpus = cpu_count();
	con_printf("smp: the firmware configuration names %u CPUs\n", cpus);
	if (cpus < 1 || cpus > CPUS_MAX) {
		con_printf("smp: FAILED: that number can't be right (this guest has room for %u)\n",
			   CPUS_MAX);
		guest_exit(GUEST_FAILED);
	}
	lapic_init(false);
	memcpy((void *)TRAMPOLINE, trampoline, (uint64_t)trampoline_end - (uint64_t)trampoline);
	for (uint32_t id = 1; id < cpus; id++) {
		if (!start_ap(id)) {
			con_printf("smp: FAILED: CPU %u does not start\n", id);
			guest_exit(GUEST_FAILED);
		}
		con_printf("CPU %u is up\n", id);
	}
	go = 1;
	count();
	while (cpus_done < cpus)
		cpu_pause();

	uint64_t want = rounds * cpus;
	con_printf("smp: %u CPUs, %lu rounds each: spinlock %lu, lock xadd %lu\n", cpus, rounds, locked_sum,
		   atomic_sum);
	con_printf("smp: sum %lu %s\n", locked_sum,
		   locked_sum == want && atomic_sum == want ? "as it must be" : "WRONG");
	guest_exit(locked_sum == want && atomic_sum == want ? GUEST_OK : GUEST_FAILED);
}
