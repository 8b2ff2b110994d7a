/*
 * How far a long run is: a bar on a terminal, a line every few seconds elsewhere, events for programs. All
 * are drawn from the steps that the library reports about ten times a second.
 */
#include <langinfo.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "hvmigrate.h"

#define SECOND    1000000000ULL
#define DRAW_NS   (SECOND / 10)
#define SAMPLE_NS (SECOND / 5) /* with HVM_SAMPLES: rates are those of the last six seconds */
#define LINE_NS   (5 * SECOND)
#define EVENT_NS  SECOND

#define WIDTH_MAX 200
#define BAR_MIN   10
#define BAR_MAX   50

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

/* --- figures ---------------------------------------------------------------------------------------------- */

/* Always eight columns, so that what stands behind doesn't dance: "4.12 GiB", "41.2 GiB", " 412 GiB". */
static void short_size(uint64_t bytes, char buf[16])
{
	static const char *const units[] = {"  B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	double v = (double)bytes;
	unsigned u = 0;

	while (v >= 999.5 && u + 1 < HV_ARRAY_SIZE(units)) {
		v /= 1024;
		u++;
	}
	snprintf(buf, 16, "%4.*f %s", u == 0 || v >= 99.95 ? 0 : v >= 9.995 ? 1 : 2, v, units[u]);
}

static void short_time(uint64_t seconds, char buf[16])
{
	if (seconds >= 100 * 3600)
		snprintf(buf, 16, ">99 h");
	else if (seconds >= 3600)
		snprintf(buf, 16, "%u:%02u:%02u", (unsigned)(seconds / 3600), (unsigned)(seconds / 60 % 60),
			 (unsigned)(seconds % 60));
	else
		snprintf(buf, 16, "%u:%02u", (unsigned)(seconds / 60), (unsigned)(seconds % 60));
}

struct rates {
	double done, copied; /* bytes a second */
};

static struct rates rates_of(const struct hvm_progress *p)
{
	unsigned newest = (p->samples + HVM_SAMPLES - 1) % HVM_SAMPLES;
	unsigned oldest = p->samples > HVM_SAMPLES ? p->samples % HVM_SAMPLES : 0;
	double seconds;

	if (p->samples < 2)
		return (struct rates){0, 0};
	seconds = (double)(p->sample[newest].ns - p->sample[oldest].ns) / (double)SECOND;
	if (seconds <= 0)
		return (struct rates){0, 0};
	return (struct rates){
		.done = (double)(p->sample[newest].done - p->sample[oldest].done) / seconds,
		.copied = (double)(p->sample[newest].copied - p->sample[oldest].copied) / seconds,
	};
}

/* "0:12 left"; what follows the last byte (tables, fsync) has no measure. */
static void left_words(const struct hvm_progress *p, char buf[32])
{
	struct rates r = rates_of(p);
	char t[16];

	if (p->last.done >= p->last.size) {
		snprintf(buf, 32, "finishing");
		return;
	}
	if (r.done < 1) {
		snprintf(buf, 32, "-:-- left");
		return;
	}
	short_time((uint64_t)((double)(p->last.size - p->last.done) / r.done + 0.5), t);
	snprintf(buf, 32, "%s left", t);
}

/* 100 only when nothing is left. */
static unsigned percent(const struct hvm_progress *p)
{
	unsigned share;

	if (p->last.done >= p->last.size)
		return 100;
	share = (unsigned)((double)p->last.done * 100.0 / (double)p->last.size);
	return share < 99 ? share : 99;
}

/* What stands beside the bar; detail 3 is all, 0 nothing. */
static void words(const struct hvm_progress *p, unsigned detail, char *buf, size_t size)
{
	char copied[16], skipped[16], rate[16], left[32];
	const char *doing = p->last.verifying ? "verified" : p->doing;

	short_size(p->last.verifying ? p->last.done : p->last.copied, copied);
	short_size(p->last.skipped, skipped);
	short_size((uint64_t)(p->last.verifying ? rates_of(p).done : rates_of(p).copied), rate);
	left_words(p, left);
	if (detail == 3)
		snprintf(buf, size, "%s %s, %s holes, %s/s, %s", copied, doing, skipped, rate, left);
	else if (detail == 2)
		snprintf(buf, size, "%s %s, %s/s, %s", copied, doing, rate, left);
	else
		snprintf(buf, size, "%s", detail ? left : "");
}

/* --- the bar ---------------------------------------------------------------------------------------------- */

static char *draw_cells(const struct hvm_progress *p, unsigned cells, char *to)
{
	static const char *const parts[] = {" ", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
	double share = p->last.size ? (double)p->last.done / (double)p->last.size : 1;
	unsigned eighths = (unsigned)((share > 1 ? 1 : share) * cells * 8);

	to = stpcpy(to, p->utf8 ? "▕" : "[");
	for (unsigned i = 0; i < cells; i++) {
		unsigned filled = eighths > 8 * i ? eighths - 8 * i : 0;

		if (p->utf8)
			to = stpcpy(to, filled >= 8 ? "█" : parts[filled]);
		else
			to = stpcpy(to, filled >= 8 ? "#" : "-");
	}
	return stpcpy(to, p->utf8 ? "▏" : "]");
}

void hvm_progress_bar(const struct hvm_progress *p, unsigned width, char *buf)
{
	char text[160] = "";
	unsigned detail, used = 4, cells; /* "100%" */

	if (width > WIDTH_MAX)
		width = WIDTH_MAX;
	for (detail = 3;; detail--) {
		words(p, detail, text, sizeof(text));
		used = 4 + (text[0] ? 2 + (unsigned)strlen(text) : 0);
		if (detail == 0 || used + 3 + BAR_MIN <= width)
			break;
	}
	buf += snprintf(buf, 8, "%3u%%", percent(p));
	if (used + 3 + BAR_MIN <= width) {
		cells = width - used - 3;
		*buf++ = ' ';
		buf = draw_cells(p, cells > BAR_MAX ? BAR_MAX : cells, buf);
	}
	if (text[0])
		snprintf(buf, sizeof(text) + 2, "  %s", text);
}

/* A job in the background leaves the screen to the one in front. */
static bool in_front(void)
{
	pid_t front = tcgetpgrp(STDERR_FILENO);

	return front < 0 || front == getpgrp();
}

static unsigned screen_width(void)
{
	struct winsize w;

	if (ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 0)
		return w.ws_col;
	return 80;
}

static void draw(struct hvm_progress *p)
{
	char line[HVM_LINE_MAX];

	if (!in_front())
		return;
	hvm_progress_bar(p, screen_width() > 13 ? screen_width() - 3 : 10, line); /* "^C" may follow */
	fprintf(stderr, "\r%s\033[K", line);
	fflush(stderr);
	p->shown = true;
}

void hvm_progress_clear(struct hvm_progress *p)
{
	if (p->shown)
		fputs("\r\033[K", stderr);
	fflush(stderr);
	p->shown = false;
}

/* --- lines and events ------------------------------------------------------------------------------------- */

/* The same words, without the blanks that keep columns. */
static void print_line(const struct hvm_progress *p)
{
	char text[160], tidy[160];
	size_t used = 0;

	words(p, 3, text, sizeof(text));
	for (const char *c = text; *c; c++)
		if (*c != ' ' || (used && tidy[used - 1] != ' '))
			tidy[used++] = *c;
	tidy[used] = '\0';
	fprintf(stderr, "hvmigrate: %u%%, %s\n", percent(p), tidy);
}

static void print_event(const struct hvm_progress *p)
{
	const struct hv_convert_progress *s = &p->last;
	struct rates r = rates_of(p);

	hvm_json_event(p->events, "progress",
		       json_pack("{s:I,s:I,s:I,s:I,s:I,s:b,s:f,s:I}", "size", (json_int_t)s->size, "done",
				 (json_int_t)s->done, "copied", (json_int_t)s->copied, "skipped",
				 (json_int_t)s->skipped, "lost", (json_int_t)s->lost, "verifying",
				 s->verifying, "seconds", hvm_progress_seconds(p), "rate",
				 (json_int_t)(s->verifying ? r.done : r.copied)));
}

/* --- the run ---------------------------------------------------------------------------------------------- */

static enum hvm_progress_style choose(const struct hvm_options *o)
{
	const char *term = getenv("TERM");

	if (o->quiet)
		return HVM_PROGRESS_NONE;
	if (o->progress != HVM_PROGRESS_AUTO)
		return o->progress;
	if (o->json)
		return HVM_PROGRESS_NONE;
	if (isatty(STDERR_FILENO) && term && *term && strcmp(term, "dumb") != 0)
		return HVM_PROGRESS_BAR;
	return HVM_PROGRESS_LINES;
}

void hvm_progress_begin(struct hvm_progress *p, const struct hvm_options *o, const char *doing, FILE *events)
{
	bool mute = o->quiet || o->progress == HVM_PROGRESS_NONE;

	*p = (struct hvm_progress){
		.options = o,
		.doing = doing,
		.events = mute ? NULL : events,
		.style = choose(o),
		.utf8 = strcmp(nl_langinfo(CODESET), "UTF-8") == 0,
		.began_ns = now(),
	};
	p->told_ns = p->began_ns;
	if (p->style == HVM_PROGRESS_BAR)
		hvm_screen_bar(p);
}

void hvm_progress_note(struct hvm_progress *p, const struct hv_convert_progress *step, uint64_t now_ns)
{
	unsigned newest = (p->samples + HVM_SAMPLES - 1) % HVM_SAMPLES;

	if (step->verifying != p->last.verifying) /* from 0 again */
		p->samples = 0;
	p->last = *step;
	if (p->samples && now_ns - p->sample[newest].ns < SAMPLE_NS)
		return;
	newest = p->samples % HVM_SAMPLES;
	p->sample[newest].ns = now_ns;
	p->sample[newest].done = step->done;
	p->sample[newest].copied = step->copied;
	p->samples++;
}

int hvm_progress_step(void *ctx, const struct hv_convert_progress *step)
{
	struct hvm_progress *p = ctx;
	uint64_t t = now();

	if (p->events && step->verifying && !p->last.verifying)
		hvm_json_event(p->events, "verify", json_pack("{s:f}", "seconds", hvm_progress_seconds(p)));
	hvm_progress_note(p, step, t);
	if (p->style == HVM_PROGRESS_BAR && (t - p->drawn_ns >= DRAW_NS || step->done >= step->size)) {
		draw(p);
		p->drawn_ns = t;
	}
	if (p->style == HVM_PROGRESS_LINES && t - p->told_ns >= LINE_NS) {
		print_line(p);
		p->told_ns = t;
	}
	if (p->events && t - p->told_ns >= EVENT_NS) {
		print_event(p);
		p->told_ns = t;
	}
	return hvm_signals_asked() ? -ECANCELED : 0;
}

void hvm_progress_end(struct hvm_progress *p)
{
	hvm_progress_clear(p);
	hvm_screen_bar(NULL);
}

double hvm_progress_seconds(const struct hvm_progress *p)
{
	return (double)(now() - p->began_ns) / (double)SECOND;
}
