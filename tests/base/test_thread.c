/*
 * A thread that asks for short slices stays an ordinary one.
 */
#include <criterion/criterion.h>
#include <sched.h>
#include <sys/resource.h>

#include "base/thread.h"

Test(thread, asking_for_short_slices_changes_neither_policy_nor_nice_value)
{
	cr_assert_eq(setpriority(PRIO_PROCESS, 0, 5), 0);
	hv_thread_answer_soon();
	cr_assert_eq(sched_getscheduler(0), SCHED_OTHER);
	cr_assert_eq(getpriority(PRIO_PROCESS, 0), 5);
}
