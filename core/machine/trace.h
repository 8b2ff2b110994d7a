/*
 * What exits happened: counters and the last records of each vCPU, and their file in the Chrome trace event
 * format.
 *
 * A vCPU's recorder is written by its thread only; others read it on that thread (hv_machine_call) or when
 * the vCPU is parked. Counters may be read at any time.
 */
#ifndef HV_MACHINE_TRACE_H
#define HV_MACHINE_TRACE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "kvm/assist.h"
#include "kvm/vcpu.h"

struct hv_exit_record {
	uint64_t at_ns;   /* CLOCK_MONOTONIC when KVM_RUN returned; 0 when not timed */
	uint32_t user_ns; /* from then until the next KVM_RUN */
	uint8_t reason;   /* KVM_EXIT_ */
	uint8_t size;     /* bytes of one access; 0 when it is none */
	bool write;       /* by the guest */
	bool unclaimed;   /* no device answered */
	uint32_t count;   /* string I/O: repetitions */
	uint64_t addr;    /* port, GPA, or the reason's own number (suberror, system event) */
	uint64_t value;   /* first unit */
};

struct hv_exit_counter {
	_Atomic uint64_t count;
	_Atomic uint64_t user_ns; /* only while timed */
	_Atomic uint64_t timed;   /* how many of count were timed */
};

#define HV_LAST_EXITS  32    /* records always kept */
#define HV_TRACE_EXITS 65536 /* records kept per vCPU while tracing */

struct hv_recorder {
	struct hv_exit_counter counters[HV_EXIT_REASONS];
	_Atomic uint64_t signals;                   /* KVM_RUN came back with EINTR */
	_Atomic uint64_t assisted[HV_ASSIST_KINDS]; /* instructions that were completed for the back end */
	_Atomic bool timed;
	struct hv_exit_record *ring; /* capacity is a power of two */
	uint64_t capacity;
	uint64_t total; /* records ever written; record n is at n & (capacity - 1) */
	uint64_t first; /* records before this one are gone, whatever the capacity */
	uint64_t since; /* the first record of the tracing: nobody misses those before it */
	struct hv_exit_record last[HV_LAST_EXITS];
};

HV_API_BEGIN
void hv_recorder_init(struct hv_recorder *r);
void hv_recorder_free(struct hv_recorder *r);
/* Switches to a ring of HV_TRACE_EXITS records with times, or back. Keeps the last records. */
int hv_recorder_trace(struct hv_recorder *r, bool on, struct hv_error *err);
/* Copies the newest records, oldest of them first; returns how many (at most max). */
unsigned hv_recorder_copy(const struct hv_recorder *r, struct hv_exit_record *out, unsigned max);
/* One line: "io        out 0x3f8 1 byte 0x48". */
char *hv_exit_record_format(const struct hv_exit_record *rec, char *buf, unsigned long size);

/*
 * Writes recorders (one a vCPU, parked or finished) to fd as Chrome trace event JSON: one complete event
 * ("ph":"X") per exit, pid 1, tid = vCPU, ts in us since the first record, dur = time in user space, args
 * port/address, size, value, and a count of the records since tracing began that the ring has dropped.
 */
int hv_trace_write(int fd, const char *name, const struct hv_recorder *const *recorders, unsigned count,
		   struct hv_error *err);
HV_API_END

#endif
