/*
 * Threads: what the house asks of the scheduler.
 */
#ifndef HV_BASE_THREAD_H
#define HV_BASE_THREAD_H

#include "base/api.h"

HV_API_BEGIN
/*
 * For a thread that mostly waits and then answers a person: asks the scheduler for short slices, so that it
 * runs soon after it was woken, even when vCPUs keep every CPU busy. It gets no larger share than before and
 * needs no privilege (sched_setattr(2); slices of ordinary threads: Linux 6.12). Where that is not to be had,
 * nothing changes.
 */
void hv_thread_answer_soon(void);
HV_API_END

#endif
