/*
 * The checks of `exits`: each prints one line and is counted.
 */
#ifndef EXITS_H
#define EXITS_H

#include <stdint.h>

/* "ok   WHAT", or "FAIL WHAT: got 0x.., want 0x..". */
void check(const char *what, uint64_t got, uint64_t want);

void check_pio(void);
void check_mmio(void);

#endif
