/*
 * Exits as text: one line for a person, and the Chrome trace event file that Perfetto and chrome://tracing
 * open. The recorders themselves are in recorder.c. This room calls base and kvm. Rules: the "Trace Event
 * Format" document, JSON Object Format, complete and metadata events.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/io.h"
#include "machine/trace.h"

char *hv_exit_record_format(const struct hv_exit_record *rec, char *buf, unsigned long size)
{
	const char *name = hv_exit_name(rec->reason);
	const char *plural = rec->size == 1 ? "" : "s";
	char times[24] = "";

	if (rec->count > 1)
		snprintf(times, sizeof(times), " x %" PRIu32, rec->count);
	switch (rec->reason) {
	case KVM_EXIT_IO:
		snprintf(buf, size, "%-9s %s 0x%" PRIx64 " %u byte%s%s 0x%" PRIx64 "%s", name,
			 rec->write ? "out" : "in", rec->addr, rec->size, plural, times, rec->value,
			 rec->unclaimed ? " (no device)" : "");
		break;
	case KVM_EXIT_MMIO:
		snprintf(buf, size, "%-9s %s 0x%" PRIx64 " %u byte%s 0x%" PRIx64 "%s", name,
			 rec->write ? "write" : "read", rec->addr, rec->size, plural, rec->value,
			 rec->unclaimed ? " (no device)" : "");
		break;
	case KVM_EXIT_INTERNAL_ERROR:
		snprintf(buf, size, "%s suberror %" PRIu64, name, rec->addr);
		break;
	case KVM_EXIT_SYSTEM_EVENT:
		snprintf(buf, size, "%s %" PRIu64, name, rec->addr);
		break;
	case KVM_EXIT_FAIL_ENTRY:
		snprintf(buf, size, "%s reason 0x%" PRIx64, name, rec->addr);
		break;
	default:
		if (rec->addr)
			snprintf(buf, size, "%-9s 0x%" PRIx64, name, rec->addr);
		else
			snprintf(buf, size, "%s", name);
	}
	return buf;
}

/* --- the file --- */

/* Text on its way to a descriptor; the first failure is kept. */
struct out {
	int fd, failed;
	size_t used;
	char text[16384];
};

static void flush(struct out *o)
{
	if (!o->failed)
		o->failed = hv_write_full(o->fd, o->text, o->used);
	o->used = 0;
}

static void put(struct out *o, const char *fmt, ...) HV_PRINTF(2, 3);

/* One piece is far shorter than a quarter of the buffer: names are bounded, the rest is numbers. */
static void put(struct out *o, const char *fmt, ...)
{
	va_list ap;
	int n;

	if (sizeof(o->text) - o->used < sizeof(o->text) / 4)
		flush(o);
	va_start(ap, fmt);
	n = vsnprintf(o->text + o->used, sizeof(o->text) - o->used, fmt, ap);
	va_end(ap);
	if (n > 0)
		o->used += (size_t)n < sizeof(o->text) - o->used ? (size_t)n : sizeof(o->text) - o->used - 1;
}

static void put_quoted(struct out *o, const char *s)
{
	put(o, "\"");
	for (; *s; s++) {
		if (*s == '"' || *s == '\\')
			put(o, "\\%c", *s);
		else if ((unsigned char)*s < 0x20 || (unsigned char)*s >= 0x7f)
			put(o, "\\u%04x", (unsigned)(unsigned char)*s);
		else
			put(o, "%c", *s);
	}
	put(o, "\"");
}

/* Nanoseconds as the format's microseconds. */
static void put_us(struct out *o, const char *key, uint64_t ns)
{
	put(o, ",\"%s\":%" PRIu64 ".%03u", key, ns / 1000, (unsigned)(ns % 1000));
}

/* The event's name is what a person groups by: the reason, and for I/O also the direction and the place. */
static void put_event(struct out *o, const struct hv_exit_record *rec, unsigned cpu, uint64_t start)
{
	const char *reason = hv_exit_name(rec->reason);
	bool io = rec->reason == KVM_EXIT_IO, mmio = rec->reason == KVM_EXIT_MMIO;

	put(o, ",\n{\"ph\":\"X\",\"pid\":1,\"tid\":%u", cpu);
	put_us(o, "ts", rec->at_ns - start);
	put_us(o, "dur", rec->user_ns);
	if (!io && !mmio) {
		put(o, ",\"cat\":\"%s\",\"name\":\"%s\",\"args\":{\"number\":\"0x%" PRIx64 "\"}}", reason,
		    reason, rec->addr);
		return;
	}
	put(o, ",\"cat\":\"%s\",\"name\":\"%s 0x%" PRIx64 "\"", reason,
	    io ? (rec->write ? "out" : "in") : (rec->write ? "write" : "read"), rec->addr);
	put(o,
	    ",\"args\":{\"%s\":\"0x%" PRIx64 "\",\"size\":%u,\"count\":%" PRIu32 ",\"value\":\"0x%" PRIx64
	    "\"%s}}",
	    io ? "port" : "address", rec->addr, rec->size, rec->count ? rec->count : 1, rec->value,
	    rec->unclaimed ? ",\"unclaimed\":true" : "");
}

/* The records of one vCPU, oldest first; those without a time (made before tracing was on) are left out. */
struct copy {
	struct hv_exit_record *records;
	unsigned count;
	uint64_t dropped;
};

static int copy_records(struct copy *c, const struct hv_recorder *r, struct hv_error *err)
{
	uint64_t max = r->total < HV_TRACE_EXITS ? r->total : HV_TRACE_EXITS;
	unsigned n, kept = 0;

	if (max == 0)
		return 0;
	c->records = malloc(max * sizeof(*c->records));
	if (!c->records)
		return hv_fail(err, ENOMEM, "no memory to copy the trace's records");
	n = hv_recorder_copy(r, c->records, (unsigned)max);
	for (unsigned i = 0; i < n; i++)
		if (c->records[i].at_ns)
			c->records[kept++] = c->records[i];
	c->count = kept;
	c->dropped = r->total - r->since > kept ? r->total - r->since - kept : 0;
	return 0;
}

static void write_all(struct out *o, const char *name, const struct copy *copies, unsigned count)
{
	uint64_t start = UINT64_MAX, dropped = 0;

	for (unsigned i = 0; i < count; i++) {
		dropped += copies[i].dropped;
		if (copies[i].count && copies[i].records[0].at_ns < start)
			start = copies[i].records[0].at_ns;
	}
	put(o, "{\"displayTimeUnit\":\"ns\",\n\"otherData\":{\"generator\":\"hvkit " HV_VERSION "\",\"vm\":");
	put_quoted(o, name);
	put(o, ",\"dropped\":%" PRIu64 "},\n\"traceEvents\":[\n", dropped);
	put(o, "{\"ph\":\"M\",\"pid\":1,\"name\":\"process_name\",\"args\":{\"name\":");
	put_quoted(o, name);
	put(o, "}}");
	for (unsigned i = 0; i < count; i++)
		put(o,
		    ",\n{\"ph\":\"M\",\"pid\":1,\"tid\":%u,\"name\":\"thread_name\",\"args\":{\"name\":"
		    "\"vCPU %u\","
		    "\"dropped\":%" PRIu64 "}}",
		    i, i, copies[i].dropped);
	for (unsigned i = 0; i < count; i++)
		for (unsigned j = 0; j < copies[i].count && !o->failed; j++)
			put_event(o, &copies[i].records[j], i, start);
	put(o, "\n]}\n");
	flush(o);
}

int hv_trace_write(int fd, const char *name, const struct hv_recorder *const *recorders, unsigned count,
		   struct hv_error *err)
{
	struct copy *copies = calloc(count ? count : 1, sizeof(*copies));
	struct out *o = malloc(sizeof(*o));
	int rc = 0;

	if (!copies || !o) {
		free(copies);
		free(o);
		return hv_fail(err, ENOMEM, "no memory to write the trace");
	}
	for (unsigned i = 0; i < count && !rc; i++)
		rc = copy_records(&copies[i], recorders[i], err);
	if (!rc) {
		o->fd = fd;
		o->failed = 0;
		o->used = 0;
		write_all(o, name, copies, count);
		if (o->failed)
			rc = hv_fail(err, -o->failed, "cannot write the trace: %s", strerror(-o->failed));
	}
	for (unsigned i = 0; i < count; i++)
		free(copies[i].records);
	free(copies);
	free(o);
	return rc;
}
