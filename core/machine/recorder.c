/*
 * A vCPU's recorder: counters by exit reason and a ring of the last records, 32 always, many while tracing.
 * The adding of a record is inline in internal.h, because it is on every exit's way; trace.c writes the file.
 */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "machine/trace.h"

void hv_recorder_init(struct hv_recorder *r)
{
	memset(r, 0, sizeof(*r));
	r->ring = r->last;
	r->capacity = HV_LAST_EXITS;
}

void hv_recorder_free(struct hv_recorder *r)
{
	if (r->ring != r->last)
		free(r->ring);
	r->ring = r->last;
	r->capacity = HV_LAST_EXITS;
}

unsigned hv_recorder_copy(const struct hv_recorder *r, struct hv_exit_record *out, unsigned max)
{
	uint64_t kept = r->total - r->first < r->capacity ? r->total - r->first : r->capacity;
	unsigned n = kept < max ? (unsigned)kept : max;

	for (unsigned i = 0; i < n; i++)
		out[i] = r->ring[(r->total - n + i) & (r->capacity - 1)];
	return n;
}

int hv_recorder_trace(struct hv_recorder *r, bool on, struct hv_error *err)
{
	uint64_t capacity = on ? HV_TRACE_EXITS : HV_LAST_EXITS;
	struct hv_exit_record keep[HV_LAST_EXITS], *ring = r->last;
	unsigned n;

	if (on == (r->ring != r->last))
		return 0;
	n = hv_recorder_copy(r, keep, HV_LAST_EXITS);
	if (on) {
		ring = calloc(capacity, sizeof(*ring));
		if (!ring)
			return hv_fail(err, ENOMEM, "no memory for a trace of %d exits a vCPU",
				       HV_TRACE_EXITS);
	} else {
		free(r->ring);
	}
	r->ring = ring;
	r->capacity = capacity;
	r->first = r->total - n;
	if (on)
		r->since = r->total;
	/* The kept records go to where their numbers say, so that total goes on. */
	for (unsigned i = 0; i < n; i++)
		r->ring[(r->total - n + i) & (capacity - 1)] = keep[i];
	return 0;
}
