/*
 * The gdb stub's target, its motion: letting vCPUs go, step over breakpoints, stop. The rest of the target is
 * gdb_target.c, which holds what both share; calls the machine only.
 * Rules: "Debugging with GDB", E.3 (vCont); KVM API 4.87.
 *
 * A vCPU that stands on a breakpoint would meet it again at once. It goes over it alone: the instruction is
 * put back, the vCPU steps, the int3 returns, and only then do all go on.
 */
#include <string.h>

#include "control/gdb_target.h"

static uint64_t bit(unsigned cpu)
{
	return 1ull << cpu;
}

static uint64_t everyone(const struct hv_gdb_target *t)
{
	return t->cpus == 64 ? UINT64_MAX : bit(t->cpus) - 1;
}

struct place {
	struct kvm_regs regs;
	struct kvm_sregs sregs;
};

static int fetch_place(struct hv_vcpu *vcpu, void *ctx, struct hv_error *err)
{
	struct place *p = ctx;
	int rc = hv_vcpu_get_regs(vcpu, &p->regs, err);

	return rc < 0 ? rc : hv_vcpu_get_sregs(vcpu, &p->sregs, err);
}

/* Lets the vCPUs of t->step and t->go run, or first one of them over the breakpoint that it stands on. */
static int start(struct hv_gdb_target *t, uint64_t may_stand_on_one, struct hv_error *err)
{
	const uint64_t all = t->step | t->go;
	int rc = 0;

	for (unsigned cpu = 0; cpu < t->cpus && t->over < 0; cpu++) {
		struct place p;

		if (!(all & may_stand_on_one & bit(cpu)))
			continue;
		rc = hv_machine_call(t->machine, cpu, fetch_place, &p, err);
		if (rc < 0)
			return rc;
		if (hv_gdb_lift(t, cpu, &p.regs, &p.sregs))
			t->over = (int)cpu;
	}
	if (t->over >= 0) {
		rc = hv_gdb_arm(t, (unsigned)t->over, true, err);
		if (rc == 0)
			rc = hv_machine_resume_mask(t->machine, bit((unsigned)t->over), err);
		if (rc < 0) {
			t->over = -1;
			hv_gdb_land(t);
		}
		return rc;
	}
	for (unsigned cpu = 0; cpu < t->cpus && rc == 0; cpu++)
		rc = hv_gdb_arm(t, cpu, (t->step & bit(cpu)) != 0, err);
	if (rc < 0)
		return rc;
	return all == everyone(t) ? hv_machine_resume(t->machine, err)
				  : hv_machine_resume_mask(t->machine, all, err);
}

/* Is what this hit was about still there? gdb may have taken the breakpoint away since. */
static bool still_set(const struct hv_gdb_target *t, const struct hv_gdb_stop *hit)
{
	for (unsigned i = 0; hit->type == HV_GDB_SOFT && i < t->soft_count; i++) {
		if (t->soft[i].gva == hit->address)
			return true;
	}
	for (unsigned i = 0; hit->type != HV_GDB_SOFT && i < HV_GDB_HARD_MAX; i++) {
		if (t->hard[i].used && t->hard[i].type == hit->type && t->hard[i].gva == hit->address)
			return true;
	}
	return false;
}

/* Before vCPUs go on: forgets the hits that mean nothing any more. True when one is left to be told. */
static bool hits_left(struct hv_gdb_target *t, uint64_t cpus)
{
	bool left = false;

	pthread_mutex_lock(&t->lock);
	for (unsigned cpu = 0; cpu < t->cpus; cpu++) {
		struct hv_gdb_stop *hit = &t->hits[cpu];

		if (!(cpus & bit(cpu)) || hit->why == HV_GDB_NOT_STOPPED)
			continue;
		if (hit->why == HV_GDB_HIT && still_set(t, hit))
			left = true;
		else
			hit->why = HV_GDB_NOT_STOPPED;
	}
	pthread_mutex_unlock(&t->lock);
	return left;
}

int hv_gdb_resume(struct hv_gdb_target *t, uint64_t step, uint64_t go, struct hv_error *err)
{
	int rc = 0;

	t->step = step & everyone(t);
	t->go = go & everyone(t) & ~t->step;
	t->interrupted = false;
	t->over = -1;
	/* Someone else may have let it run meanwhile, by QMP. */
	if (hv_machine_state(t->machine) == HV_STATE_RUNNING)
		rc = hv_machine_debug_stop(t->machine, err);
	if (rc == 0 && !hits_left(t, t->step | t->go))
		rc = start(t, UINT64_MAX, err);
	t->running = rc == 0;
	t->ran |= t->running;
	return rc;
}

int hv_gdb_interrupt(struct hv_gdb_target *t, struct hv_error *err)
{
	t->interrupted = true;
	return hv_machine_debug_stop(t->machine, err);
}

/* The first untold hit of the vCPUs that were let go, taken out of the list. */
static bool take_hit(struct hv_gdb_target *t, struct hv_gdb_stop *stop)
{
	bool found = false;

	pthread_mutex_lock(&t->lock);
	for (unsigned cpu = 0; cpu < t->cpus && !found; cpu++) {
		if (!((t->step | t->go) & bit(cpu)) || t->hits[cpu].why == HV_GDB_NOT_STOPPED)
			continue;
		*stop = t->hits[cpu];
		t->hits[cpu].why = HV_GDB_NOT_STOPPED;
		found = true;
	}
	pthread_mutex_unlock(&t->lock);
	return found;
}

/*
 * The vCPU that stepped over a breakpoint has stopped. True when that was all that happened and the others
 * are on their way now.
 */
static bool after_over(struct hv_gdb_target *t)
{
	const unsigned cpu = (unsigned)t->over;
	bool stepped;

	t->over = -1;
	hv_gdb_land(t);
	pthread_mutex_lock(&t->lock);
	stepped = t->hits[cpu].why == HV_GDB_STEPPED && !(t->step & bit(cpu));
	if (stepped)
		t->hits[cpu].why = HV_GDB_NOT_STOPPED;
	pthread_mutex_unlock(&t->lock);
	if (!stepped || t->interrupted || hv_machine_state(t->machine) != HV_STATE_DEBUG)
		return false;
	/* The next instruction may have a breakpoint of its own: that one is a hit, not to be stepped over.
	 */
	return start(t, ~bit(cpu) & ~((bit(cpu) - 1)), NULL) == 0;
}

bool hv_gdb_stopped(struct hv_gdb_target *t, struct hv_gdb_stop *stop)
{
	const enum hv_state state = hv_machine_state(t->machine);

	if (!t->running || state == HV_STATE_RUNNING)
		return false;
	*stop = (struct hv_gdb_stop){.why = HV_GDB_ENDED};
	if (state == HV_STATE_ENDED) {
		t->running = false;
		return true;
	}
	/* The state changes before the last vCPU is parked; wait for that one. */
	if (hv_machine_debug_stop(t->machine, NULL) == -ESHUTDOWN)
		return hv_gdb_stopped(t, stop);
	if (t->over >= 0 && after_over(t))
		return false;
	t->running = false;
	/* No single-step stays behind for whoever else resumes the machine. */
	for (unsigned cpu = 0; cpu < t->cpus; cpu++) {
		if (t->stepping & bit(cpu))
			hv_gdb_arm(t, cpu, false, NULL);
	}
	if (take_hit(t, stop))
		return true;
	*stop = (struct hv_gdb_stop){.why = HV_GDB_INTERRUPTED};
	while (stop->cpu + 1 < t->cpus && !((t->step | t->go) & bit(stop->cpu)))
		stop->cpu++;
	return true;
}
