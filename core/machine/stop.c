/*
 * Stopping and going on: pause, resume, reset, the debugger's stops, and the events that tell of them. A stop
 * is asked for under the machine's lock and carried out by the vCPUs themselves (smp.c); the last one to park
 * does what waited for that. Nobody is waited for without a limit.
 */
#include <stdio.h>
#include <string.h>

#include "device/virtio/virtio.h"
#include "machine/internal.h"

void hv_machine_fire(struct hv_machine *m, enum hv_event event, int detail)
{
	pthread_mutex_lock(&m->event_lock);
	for (unsigned i = 0; i < HV_SUBSCRIBERS_MAX; i++)
		if (m->subscribers[i].fn)
			m->subscribers[i].fn(m->subscribers[i].ctx, event, detail);
	pthread_mutex_unlock(&m->event_lock);
}

int hv_machine_subscribe(struct hv_machine *m, hv_event_fn *fn, void *ctx, struct hv_error *err)
{
	int handle = -1;

	pthread_mutex_lock(&m->event_lock);
	for (int i = 0; i < HV_SUBSCRIBERS_MAX && handle < 0; i++)
		if (!m->subscribers[i].fn)
			handle = i;
	if (handle >= 0) {
		m->subscribers[handle].fn = fn;
		m->subscribers[handle].ctx = ctx;
	}
	pthread_mutex_unlock(&m->event_lock);
	return handle >= 0 ? handle : hv_fail(err, ENOSPC, "too many listeners for the VM's events");
}

void hv_machine_unsubscribe(struct hv_machine *m, int handle)
{
	pthread_mutex_lock(&m->event_lock);
	if (handle >= 0 && handle < HV_SUBSCRIBERS_MAX)
		m->subscribers[handle].fn = NULL;
	pthread_mutex_unlock(&m->event_lock);
}

void hv_machine_all_parked(struct hv_machine *m)
{
	/* One at a time: the lock is let go on the way. What is asked for meanwhile follows. */
	while (m->reset_wanted && !m->resetting) {
		bool by_guest = m->reset_by_guest;
		struct hv_error err = {0};
		int rc;

		m->reset_wanted = false;
		m->resetting = true;
		pthread_mutex_unlock(&m->lock);
		rc = hv_board_reset(m, &err);
		if (rc)
			hv_machine_finish(m, HV_END_ERROR, (int)err.status, err.text);
		else
			hv_machine_fire(m, HV_EVENT_RESET, by_guest);
		pthread_mutex_lock(&m->lock);
		m->resetting = false;
		m->reset_result = rc;
		m->reset_error = err;
		if (m->state == HV_STATE_RUNNING)
			m->hold = 0;
	}
	if (m->announce) {
		m->announce = false;
		hv_machine_fire(m, m->announced, m->announced_detail);
	}
	pthread_cond_broadcast(&m->changed);
}

/* Holds all vCPUs and tells of it by event once they are parked. Lock held. */
static void hold_all(struct hv_machine *m, enum hv_state state, enum hv_event event, int detail)
{
	m->state = state;
	m->hold = hv_everyone(m);
	m->announce = true;
	m->announced = event;
	m->announced_detail = detail;
	if (m->parked == m->live)
		hv_machine_all_parked(m);
	hv_smp_kick(m, m->live);
}

/* Waits until all are parked and no reset is under way. Lock held. */
static int wait_parked(struct hv_machine *m, struct hv_error *err)
{
	struct timespec limit = hv_at_time(hv_now_ns() + HV_WAIT_LIMIT_NS);

	while (!m->ending && (m->parked != m->live || m->resetting || m->reset_wanted))
		if (pthread_cond_timedwait(&m->changed, &m->lock, &limit) == ETIMEDOUT)
			return hv_fail(err, ETIMEDOUT,
				       "a vCPU does not come out of the guest within 5 s; it waits for the "
				       "serial line's "
				       "reader, or this machine's KVM cannot leave what the guest does");
	if (m->ending)
		return hv_fail(err, ESHUTDOWN, "the VM has ended");
	return 0;
}

/*
 * Devices with threads of their own follow the vCPUs: at rest while these are stopped, so that memory stands
 * still. Called by whoever changed the state, with no lock held; of several at once the last one sees the
 * state that holds.
 */
static void settle_devices(struct hv_machine *m)
{
	bool held;

	pthread_mutex_lock(&m->devices_lock);
	pthread_mutex_lock(&m->lock);
	held = m->state == HV_STATE_PAUSED || m->state == HV_STATE_DEBUG || m->state == HV_STATE_IO_ERROR;
	pthread_mutex_unlock(&m->lock);
	if (held != m->devices_held)
		hv_board_hold(m, held);
	m->devices_held = held;
	pthread_mutex_unlock(&m->devices_lock);
}

static int stop_as(struct hv_machine *m, enum hv_state state, enum hv_event event, struct hv_error *err)
{
	int rc = 0;

	pthread_mutex_lock(&m->lock);
	if (m->ending) {
		rc = hv_fail(err, ESHUTDOWN, "the VM has ended");
	} else if (m->state == HV_STATE_RUNNING) {
		hold_all(m, state, event, 0);
		rc = wait_parked(m, err);
		if (rc == -ETIMEDOUT && m->state == state) {
			m->state = HV_STATE_RUNNING;
			m->hold = m->reset_wanted ? hv_everyone(m) : 0;
			m->announce = false;
			pthread_cond_broadcast(&m->changed);
		}
	} else {
		rc = wait_parked(m, err);
	}
	pthread_mutex_unlock(&m->lock);
	settle_devices(m);
	return rc;
}

int hv_machine_pause(struct hv_machine *m, struct hv_error *err)
{
	return stop_as(m, HV_STATE_PAUSED, HV_EVENT_STOP, err);
}

int hv_machine_debug_stop(struct hv_machine *m, struct hv_error *err)
{
	return stop_as(m, HV_STATE_DEBUG, HV_EVENT_DEBUG, err);
}

/*
 * A device has met the end of the host's room and keeps what it was writing. As in QEMU the event comes first
 * and the stop after it. A machine that is stopped already stays as it is; going on tries again either way.
 */
void hv_machine_stop_full(void *machine, const struct hv_virtio_full *what)
{
	struct hv_machine *m = machine;
	struct hv_error err;

	pthread_mutex_lock(&m->event_lock);
	snprintf(m->io_error.device, sizeof(m->io_error.device), "%s", what->device);
	m->io_error.error = what->error;
	pthread_mutex_unlock(&m->event_lock);
	hv_machine_fire(m, HV_EVENT_IO_ERROR, what->error);
	if (stop_as(m, HV_STATE_IO_ERROR, HV_EVENT_STOP, &err) == -ETIMEDOUT)
		hv_log(m->log, HV_LOG_WARN, "%s: the VM can't be stopped: %s", what->device, err.text);
}

const struct hv_io_error *hv_machine_io_error(const struct hv_machine *m)
{
	return &m->io_error;
}

int hv_machine_resume_mask(struct hv_machine *m, uint64_t cpus, struct hv_error *err)
{
	int rc = 0;

	pthread_mutex_lock(&m->lock);
	if (m->ending) {
		rc = hv_fail(err, ESHUTDOWN, "the VM has ended");
	} else if (!m->started) {
		rc = hv_fail(err, EINVAL, "the VM has not been started");
	} else if (m->state != HV_STATE_RUNNING || m->hold & cpus) {
		m->state = HV_STATE_RUNNING;
		m->announce = false;
		m->hold = m->reset_wanted ? hv_everyone(m) : hv_everyone(m) & ~cpus; /* a reset comes first */
		pthread_cond_broadcast(&m->changed);
		hv_machine_fire(m, HV_EVENT_RESUME, 0);
	}
	pthread_mutex_unlock(&m->lock);
	settle_devices(m);
	return rc;
}

int hv_machine_resume(struct hv_machine *m, struct hv_error *err)
{
	return hv_machine_resume_mask(m, hv_everyone(m), err);
}

/* Lock held. The last vCPU to park does it; when all are parked already, this thread. */
static void want_reset(struct hv_machine *m)
{
	m->reset_wanted = true;
	m->reset_by_guest = false;
	m->hold = hv_everyone(m);
	if (m->parked == m->live)
		hv_machine_all_parked(m);
	hv_smp_kick(m, m->live);
}

int hv_machine_reset(struct hv_machine *m, struct hv_error *err)
{
	int rc;

	pthread_mutex_lock(&m->lock);
	if (m->ending) {
		rc = hv_fail(err, ESHUTDOWN, "the VM has ended");
	} else {
		struct timespec limit = hv_at_time(hv_now_ns() + HV_WAIT_LIMIT_NS);

		rc = 0;
		want_reset(m);
		while (!rc && !m->ending && (m->reset_wanted || m->resetting))
			if (pthread_cond_timedwait(&m->changed, &m->lock, &limit) == ETIMEDOUT)
				rc = hv_fail(err, ETIMEDOUT,
					     "a vCPU does not come out of the guest within 5 s; the "
					     "reset will be done when it does");
		if (!rc && m->reset_result) {
			rc = m->reset_result;
			if (err)
				*err = m->reset_error;
		}
	}
	pthread_mutex_unlock(&m->lock);
	return rc;
}

void hv_machine_power(void *machine, enum hv_power_request what, int code)
{
	struct hv_machine *m = machine;

	switch (what) {
	case HV_POWER_EXIT:
		hv_machine_finish(m, HV_END_GUEST_EXIT, code, "");
		return;
	case HV_POWER_OFF:
		hv_machine_finish(m, HV_END_HALT, HV_EXIT_OK, "");
		return;
	case HV_POWER_PANIC:
		hv_machine_finish(
			m, HV_END_PANIC, HV_EXIT_FAILED,
			"the guest's kernel panicked (it said so through pvpanic); the last lines on its "
			"serial port tell why");
		return;
	case HV_POWER_RESET:
		pthread_mutex_lock(&m->lock);
		if (!m->ending && !m->reset_wanted && !m->resetting) {
			m->reset_wanted = true;
			m->reset_by_guest = true;
			m->hold = hv_everyone(m);
			hv_smp_kick(m, m->live);
		}
		pthread_mutex_unlock(&m->lock);
		return;
	}
}

bool hv_machine_debug_event(struct hv_cpu *cpu, const struct kvm_debug_exit_arch *info)
{
	struct hv_machine *m = cpu->machine;
	bool taken;

	pthread_mutex_lock(&m->debug_lock);
	taken = m->debug_hook && m->debug_hook(m->debug_ctx, &cpu->vcpu, info);
	pthread_mutex_unlock(&m->debug_lock);
	if (!taken)
		return false;
	pthread_mutex_lock(&m->lock);
	if (!m->ending && m->state == HV_STATE_RUNNING)
		hold_all(m, HV_STATE_DEBUG, HV_EVENT_DEBUG, (int)cpu->vcpu.index);
	pthread_mutex_unlock(&m->lock);
	settle_devices(m);
	return true;
}

int hv_machine_set_debugger(struct hv_machine *m, hv_debug_hook *hook, void *ctx, struct hv_error *err)
{
	int rc = 0;

	pthread_mutex_lock(&m->debug_lock);
	if (hook && m->debug_hook) {
		rc = hv_fail(err, EBUSY, "another debugger is attached to this VM");
	} else {
		m->debug_hook = hook;
		m->debug_ctx = ctx;
	}
	pthread_mutex_unlock(&m->debug_lock);
	return rc;
}
