/*
 * The parts of `dirty`: the options, the writer, its clock and its heartbeat. All of it but guest_main runs
 * at CPL 3.
 */
#ifndef DIRTY_H
#define DIRTY_H

#include <stdbool.h>
#include <stdint.h>

#define PAGE_SIZE 4096ul
#define MIB       (1ul << 20)

struct options {
	uint64_t rate;      /* bytes a second; 0: as fast as the CPU can */
	uint64_t set_pages; /* working set */
	uint64_t beat_us;   /* between two heartbeats; 0: none */
	uint64_t total;     /* bytes after which it ends; 0: no such limit */
	uint64_t end_us;    /* time after which it ends; 0: no such limit */
	bool verify;
	uint8_t *base; /* where the working set begins */
	uint32_t tsc_khz;
};

/* Time since clock_start, in TSC units, and the longest stall: the longest time between two readings. */
struct stopwatch {
	uint64_t khz, start, last, longest, longest_since_beat;
	uint64_t back; /* units by which the TSC was set back under us, as a careless restore would do */
};

void clock_start(struct stopwatch *clock, uint32_t tsc_khz);
uint64_t clock_read(struct stopwatch *clock); /* units since start; notes the stall */
uint64_t clock_us(const struct stopwatch *clock, uint64_t units);
uint64_t clock_units(const struct stopwatch *clock, uint64_t us);

/* Fills a page with words made of its number and a sequence number; checks that it holds what was written
 * last. */
void page_write(uint8_t *page, uint64_t number, uint64_t sequence);
bool page_check(const uint8_t *page, uint64_t number, uint64_t sequence);

/* Writes the working set again and again as *options say. 0, or 1 when a page held something else than was
 * written. */
uint64_t writer(void *options);

#endif
