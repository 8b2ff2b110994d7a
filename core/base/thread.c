/*
 * Threads: see thread.h. This room calls nothing but libc.
 */
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/thread.h"

#define SLICE_NS 100000 /* the least that the kernel takes */

/* struct sched_attr of sched_setattr(2), which glibc has only from 2.41 on. */
struct sched_attributes {
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period;
};

void hv_thread_answer_soon(void)
{
	struct sched_attributes a = {.size = sizeof(a)};

	if (syscall(SYS_sched_getattr, 0, &a, sizeof(a), 0) < 0 || a.policy != 0 /* SCHED_OTHER */)
		return;
	a.size = sizeof(a);
	a.runtime = SLICE_NS;
	syscall(SYS_sched_setattr, 0, &a, 0);
}
