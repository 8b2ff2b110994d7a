/*
 * How fast the time-stamp counter runs, and waiting by it.
 */
#ifndef GUEST_CLOCK_H
#define GUEST_CLOCK_H

#include <stdbool.h>
#include <stdint.h>

#define PIT_HZ 1193182u

/*
 * The TSC's frequency in kHz, from whoever knows it: KVM's clock page, else measured against the PIT. *source
 * is then "kvmclock" or "PIT". 0 when the VM has neither: a guess would be no measurement. Needs trap_init.
 */
uint32_t clock_tsc_khz(const char **source);

/* Channel 0 of the PIT as a periodic interrupt on line 0. */
void pit_start(unsigned hz);
void pit_stop(void);
bool pit_present(void);

#endif
