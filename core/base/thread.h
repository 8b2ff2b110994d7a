/*
 * Threads: what the house asks of the scheduler, and tells ThreadSanitizer.
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

/*
 * What one thread has written, a guest has read, and has told another thread of, is in order; but by a guest,
 * which ThreadSanitizer doesn't see. It is told so: what is behind an hv_guest_told comes after all that was
 * before any hv_guest_tell. Nothing at all in other builds.
 */
#if defined(__has_feature)
#if __has_feature(thread_sanitizer) && !defined(__SANITIZE_THREAD__)
#define __SANITIZE_THREAD__ 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
static char hv_guest_order __attribute__((unused));
#define hv_guest_tell() __tsan_release(&hv_guest_order)
#define hv_guest_told() __tsan_acquire(&hv_guest_order)
#else
#define hv_guest_tell() ((void)0)
#define hv_guest_told() ((void)0)
#endif

#endif
