/*
 * Faults on order: the next calls of one ioctl fail, or answer something else, without reaching the kernel.
 * So what a signal, an old kernel or a broken processor would do can be had at will, and at the same place in
 * every run.
 */
#ifndef HV_RIG_FAULT_H
#define HV_RIG_FAULT_H

#include <stdint.h>

#include "rig.h"

/* The lie that is under way; one at a time. */
struct rig_fault {
	unsigned long request; /* an ioctl's number; 0: none */
	unsigned after, times; /* calls to let pass, then calls to answer */
	int error;             /* the call fails with this errno; or, when it is 0, */
	int result;            /* this is its result; or, for KVM_RUN, */
	uint32_t exit_reason;  /* this exit, when not 0, */
	uint64_t value;        /* with this hardware reason or suberror */
	unsigned told;         /* how often it was used */
};

/* lie NAME error=E|result=N|exit=REASON [value=N] [after=N] [times=N]; `lie none` ends it and tells how often
 * it was told. */
int rig_lie(struct rig *rig, int count, char **words);

#endif
