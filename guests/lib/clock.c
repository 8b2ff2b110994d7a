/*
 * The TSC's frequency. KVM tells it in the page of its paravirtual clock, as the factor that turns TSC units
 * into nanoseconds; without KVM, channel 2 of the PIT counts a known time, which can be watched without an
 * interrupt. Rules: kernel Documentation/virt/kvm/x86/msr.rst and cpuid.rst; Intel 8254 data sheet.
 */
#include "clock.h"
#include "io.h"
#include "trap.h"

#define PIT_CHANNEL_0  0x40
#define PIT_CHANNEL_2  0x42
#define PIT_COMMAND    0x43
#define PORT_B         0x61 /* bit 0: gate of channel 2, bit 1: speaker, bit 5: output of channel 2 */
#define PORT_B_GATE    0x01
#define PORT_B_SPEAKER 0x02
#define PORT_B_OUTPUT  0x20
#define PORT_POST      0x80

#define MSR_KVM_SYSTEM_TIME_NEW 0x4b564d01u

struct kvm_clock {
	uint32_t version; /* odd while the host writes */
	uint32_t pad;
	uint64_t tsc_timestamp, system_time;
	uint32_t tsc_to_system_mul; /* ns = (tsc shifted by tsc_shift) * mul >> 32 */
	int8_t tsc_shift;
	uint8_t flags, pad2[2];
};

static volatile struct kvm_clock page __attribute__((aligned(64)));

static uint32_t kvmclock_khz(void)
{
	if (wrmsr_checked(MSR_KVM_SYSTEM_TIME_NEW, (uint64_t)&page | 1))
		return 0;
	/* The page is written when the vCPU next enters the guest; the port write makes it leave and enter.
	 */
	for (int i = 0; i < 100 && (page.version == 0 || page.version & 1); i++)
		outb(PORT_POST, 0);
	uint64_t mul = page.tsc_to_system_mul;
	int shift = page.tsc_shift;
	wrmsr_checked(MSR_KVM_SYSTEM_TIME_NEW, 0);
	if (!mul)
		return 0;
	/* kHz = 10^6 ns in a ms, over ns per unit. */
	uint64_t khz = (1000000ull << 32) / mul;
	return (uint32_t)(shift < 0 ? khz << -shift : khz >> shift);
}

bool pit_present(void)
{
	/* Nobody answers at an empty port, and it reads as ones; the gate bit of a real one can be cleared.
	 */
	outb(PORT_B, 0);
	return (inb(PORT_B) & (PORT_B_GATE | PORT_B_SPEAKER)) == 0;
}

/* TSC units in 50 ms of the PIT: one shot of channel 2 (mode 0), whose output rises at the end. */
static uint64_t pit_measure(void)
{
	const unsigned count = PIT_HZ / 20;
	outb(PORT_B, PORT_B_GATE);
	outb(PIT_COMMAND, 0xb0); /* channel 2, low then high byte, mode 0 */
	outb(PIT_CHANNEL_2, count & 0xff);
	outb(PIT_CHANNEL_2, count >> 8);
	uint64_t start = rdtsc();
	while (!(inb(PORT_B) & PORT_B_OUTPUT))
		;
	return rdtsc() - start;
}

uint32_t clock_tsc_khz(const char **source)
{
	uint32_t khz = kvmclock_khz();
	*source = "kvmclock";
	if (khz || !pit_present())
		return khz;
	/* Whatever disturbs a measurement makes it longer, so the shortest of three is the best. */
	uint64_t best = UINT64_MAX;
	for (int i = 0; i < 3; i++) {
		uint64_t units = pit_measure();
		best = units < best ? units : best;
	}
	*source = "PIT";
	return (uint32_t)(best / 50);
}

void pit_start(unsigned hz)
{
	unsigned count = PIT_HZ / hz;
	outb(PIT_COMMAND, 0x34); /* channel 0, low then high byte, mode 2: a pulse every count */
	outb(PIT_CHANNEL_0, count & 0xff);
	outb(PIT_CHANNEL_0, (uint8_t)(count >> 8));
}

void pit_stop(void)
{
	outb(PIT_COMMAND, 0x30); /* mode 0 without a count: waits for one, its output low */
}
