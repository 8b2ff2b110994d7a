/*
 * The writer: page after page of the working set, paced by the TSC, a heartbeat line every few milliseconds.
 *
 * The writer may write page k as soon as rate * time allows k pages. When something stops the VM (a pause, a
 * migration's downtime) it falls behind; it may catch up what it missed in DEBT_US, the rest is forgiven, so
 * that no burst faster than the rate was asked for follows a stop. What it really wrote stands in each
 * heartbeat.
 *
 * Page contents: words that no other page and no other turn has. A migration or a snapshot that loses one
 * write of one page is caught at the next turn, when the page is checked before it is written.
 */
#include "console.h"
#include "dirty.h"
#include "io.h"

#define DEBT_US 20000

void clock_start(struct stopwatch *clock, uint32_t tsc_khz)
{
	*clock = (struct stopwatch){.khz = tsc_khz, .start = rdtsc()};
	clock->last = clock->start;
}

uint64_t clock_read(struct stopwatch *clock)
{
	uint64_t now = rdtsc();
	if (now < clock->last) {
		clock->back += clock->last - now;
		clock->start -= clock->last - now;
		clock->last = now;
	}
	uint64_t stall = now - clock->last;
	clock->last = now;
	if (stall > clock->longest_since_beat)
		clock->longest_since_beat = stall;
	if (stall > clock->longest)
		clock->longest = stall;
	return now - clock->start;
}

uint64_t clock_us(const struct stopwatch *clock, uint64_t units)
{
	return units / clock->khz * 1000 +
	       units % clock->khz * 1000 / clock->khz; /* in two steps: no overflow */
}

uint64_t clock_units(const struct stopwatch *clock, uint64_t us)
{
	return us / 1000 * clock->khz + us % 1000 * clock->khz / 1000;
}

static uint64_t page_word(uint64_t number, uint64_t sequence)
{
	return sequence << 32 ^ number;
}

void page_write(uint8_t *page, uint64_t number, uint64_t sequence)
{
	uint64_t count = PAGE_SIZE / sizeof(uint64_t);
	void *to = page;
	__asm__ volatile("rep stosq" : "+D"(to), "+c"(count) : "a"(page_word(number, sequence)) : "memory");
}

bool page_check(const uint8_t *page, uint64_t number, uint64_t sequence)
{
	const uint64_t *word = (const uint64_t *)page, want = page_word(number, sequence);
	uint64_t wrong = 0;
	for (uint64_t i = 0; i < PAGE_SIZE / sizeof(uint64_t); i++)
		wrong |= word[i] ^ want;
	return wrong == 0;
}

static uint64_t lost(const uint8_t *page, uint64_t number, uint64_t sequence)
{
	const uint64_t *word = (const uint64_t *)page;
	uint64_t i = 0;
	while (i < PAGE_SIZE / 8 - 1 && word[i] == page_word(number, sequence))
		i++;
	con_printf("FAIL page %lu at 0x%lx: word %lu is 0x%lx, but turn %lu wrote 0x%lx\n", number,
		   (uint64_t)page, i, word[i], sequence, page_word(number, sequence));
	return 1;
}

static void beat(struct stopwatch *clock, uint64_t number, uint64_t now, uint64_t pages)
{
	con_printf("beat %lu t=%lu wrote=%lu stall=%lu longest=%lu", number, clock_us(clock, now),
		   pages * PAGE_SIZE, clock_us(clock, clock->longest_since_beat),
		   clock_us(clock, clock->longest));
	if (clock->back)
		con_printf(" back=%lu", clock_us(clock, clock->back));
	con_printf("\n");
	clock->longest_since_beat = 0;
}

/* The next multiple of `every` that leaves at least half of it to the writer: where a line takes longer to
 * print than a heartbeat lasts, lines are skipped, not pages. */
static uint64_t beat_after(uint64_t now, uint64_t last, uint64_t every)
{
	uint64_t earliest = now + every / 2;
	return last + every * ((earliest - last + every - 1) / every);
}

/* When the next page may be written. */
struct pace {
	uint64_t units_per_page; /* 0: no pacing */
	uint64_t debt;           /* how far `due` may lie in the past */
	uint64_t due;
};

static bool pace_allows(struct pace *pace, uint64_t now)
{
	if (now < pace->due)
		return false;
	if (now - pace->due > pace->debt)
		pace->due = now - pace->debt;
	pace->due += pace->units_per_page;
	return true;
}

/* The whole set once more, when the writing is over. */
static uint64_t verify_all(const struct options *o, uint64_t pages)
{
	for (uint64_t number = 0; number < o->set_pages; number++) {
		/* Turn 1 was written before the clock started; `pages` more were written since. */
		uint64_t sequence = 1 + pages / o->set_pages + (number < pages % o->set_pages);
		if (!page_check(o->base + number * PAGE_SIZE, number, sequence))
			return lost(o->base + number * PAGE_SIZE, number, sequence);
	}
	con_printf("verified %lu pages\n", o->set_pages);
	return 0;
}

uint64_t writer(void *options)
{
	const struct options *o = options;
	struct stopwatch clock;
	/* The first turn is not paced: it only makes the pages there, which costs a fault for each. */
	for (uint64_t number = 0; number < o->set_pages; number++)
		page_write(o->base + number * PAGE_SIZE, number, 1);
	con_printf("ready\n");

	clock_start(&clock, o->tsc_khz);
	uint64_t limit = o->end_us ? clock_units(&clock, o->end_us) : UINT64_MAX;
	uint64_t beat_every = clock_units(&clock, o->beat_us), next_beat = beat_every, beats = 0;
	uint64_t pages_limit = o->total ? o->total / PAGE_SIZE : UINT64_MAX;
	struct pace pace = {.debt = clock_units(&clock, DEBT_US)};
	if (o->rate)
		pace.units_per_page = (uint64_t)o->tsc_khz * 1000 * PAGE_SIZE / o->rate;

	uint64_t pages = 0, number = 0, sequence = 2, now = 0;
	while (now < limit && pages < pages_limit) {
		now = clock_read(&clock);
		if (beat_every && now >= next_beat) {
			beat(&clock, ++beats, now, pages);
			now = clock_read(&clock);
			next_beat = beat_after(now, next_beat, beat_every);
		}
		if (!pace_allows(&pace, now)) {
			cpu_pause();
			continue;
		}
		uint8_t *page = o->base + number * PAGE_SIZE;
		if (o->verify && !page_check(page, number, sequence - 1))
			return lost(page, number, sequence - 1);
		page_write(page, number, sequence);
		pages++;
		if (++number == o->set_pages) {
			number = 0;
			sequence++;
		}
	}
	con_printf("dirty: wrote %lu bytes in %lu us, longest stall %lu us\n", pages * PAGE_SIZE,
		   clock_us(&clock, now), clock_us(&clock, clock.longest));
	return o->verify ? verify_all(o, pages) : 0;
}
