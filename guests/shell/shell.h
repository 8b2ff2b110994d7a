/*
 * The parts of `shell`: the serial terminal, the clock, the data store, the commands.
 */
#ifndef SHELL_H
#define SHELL_H

#include <stdbool.h>
#include <stdint.h>

#include "bootinfo.h"

#define LINE_MAX 200 /* characters in one command line */

/* terminal.c: a line of input, edited by the user. Sleeps in hlt until there is one. */
void terminal_init(void);
const char *terminal_line(const char *prompt);

/* timer.c: time since the start, from ticks of the local APIC's timer. */
void timer_init(void);
uint64_t timer_ms(void);

/* store.c: keys and values in memory, in one of two layouts. */
#define KEY_MAX     23
#define VALUE_MAX   103
#define STORE_SLOTS 64

enum store_status { STORE_OK, STORE_NO_KEY, STORE_FULL, STORE_TOO_LONG, STORE_BROKEN };

void store_init(void);
enum store_status store_set(const char *key, const char *value);
enum store_status store_get(const char *key, const char **value);
/* Calls fn for each key, in the order they were set first. STORE_BROKEN without a call when half migrated. */
enum store_status store_keys(void (*fn)(const char *key));
uint64_t store_sum(uint64_t *bytes); /* checksum of all the store's memory */
const char *store_layout(void);      /* "1", "2" or "1 and 2, half migrated" */
/* From layout 1 to layout 2, step by step, telling each. fail: stops half-way, as a crashed upgrade would. */
bool store_upgrade(bool fail);

/* shell.c: makes one of the lines that hvctl's inject may use level- or edge-triggered; false for another
 * line. */
bool line_trigger(unsigned line, bool level);

/* commands.c: carries out one line. */
void command_run(const struct boot_info *boot, const char *line);

#endif
