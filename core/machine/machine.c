/*
 * One VM put together: its life (made, running, paused, ended), and what other threads may ask of it. The parts that
 * do the work stand beside it: board.c has the devices and the memory, smp.c the vCPU threads, exit.c the exits.
 *
 * A vCPU thread is never waited for without a limit: a guest can keep KVM_RUN from coming back on some back ends.
 */
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <stdio.h>
#include <unistd.h>

#include "machine/internal.h"

#define WAIT_LIMIT_NS 5000000000ull /* for a vCPU to come out of KVM_RUN */
#define DRAIN_NS      1000000000ull /* for a vCPU that waits for the serial line's reader, after the end */

static struct timespec at_time(uint64_t ns)
{
	return (struct timespec){.tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u)};
}

static void init_locks(struct hv_machine *m)
{
	pthread_condattr_t attr;

	pthread_mutex_init(&m->lock, NULL);
	pthread_mutex_init(&m->event_lock, NULL);
	pthread_mutex_init(&m->debug_lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&m->changed, &attr);
	pthread_condattr_destroy(&attr);
}

int hv_machine_create(const struct hv_config *config, struct hv_chardev *chardev, const struct hv_log *log,
		      struct hv_machine **out, struct hv_error *err)
{
	struct hv_machine *m = calloc(1, sizeof(*m));
	int rc;

	if (!m)
		return hv_fail(err, ENOMEM, "no memory for a VM");
	init_locks(m);
	m->log = log;
	m->chardev = chardev;
	m->kvm.fd = m->vm.fd = m->image_fd = m->end_fd = -1;
	for (unsigned i = 0; i < HV_MODULES_MAX; i++)
		m->initrd_fds[i] = -1;
	rc = hv_config_copy(&m->config, config, err);
	if (!rc) {
		m->end_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (m->end_fd < 0)
			rc = hv_fail_errno(err, "no descriptor for the VM's end");
	}
	if (!rc)
		rc = hv_board_create(m, err);
	if (!rc)
		rc = hv_board_boot(m, err);
	if (rc) {
		hv_machine_destroy(m);
		return rc;
	}
	*out = m;
	return 0;
}

void hv_machine_destroy(struct hv_machine *m)
{
	if (!m)
		return;
	hv_board_destroy(m);
	if (m->end_fd >= 0)
		close(m->end_fd);
	hv_config_free(&m->config);
	pthread_cond_destroy(&m->changed);
	pthread_mutex_destroy(&m->lock);
	pthread_mutex_destroy(&m->event_lock);
	pthread_mutex_destroy(&m->debug_lock);
	free(m);
}

static uint64_t everyone(const struct hv_machine *m)
{
	return m->cpu_count == 64 ? UINT64_MAX : (1ull << m->cpu_count) - 1;
}

int hv_machine_start(struct hv_machine *m, bool paused, struct hv_error *err)
{
	int rc;

	pthread_mutex_lock(&m->lock);
	if (m->started) {
		pthread_mutex_unlock(&m->lock);
		return hv_fail(err, EALREADY, "the VM has been started before");
	}
	m->started = true;
	m->started_ns = hv_now_ns();
	m->state = paused ? HV_STATE_PRELAUNCH : HV_STATE_RUNNING;
	m->hold = paused ? everyone(m) : 0;
	for (unsigned i = 0; i < m->cpu_count; i++)
		atomic_store(&m->cpus[i].kicked, paused);
	pthread_mutex_unlock(&m->lock);
	rc = hv_smp_start(m, err);
	if (rc) {
		hv_machine_finish(m, HV_END_ERROR, HV_EXIT_FAILED, err ? err->text : "");
		hv_smp_join(m, hv_now_ns() + WAIT_LIMIT_NS);
	}
	return rc;
}

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

/* --- stopping and going on ------------------------------------------------------------------------------------- */

void hv_machine_all_parked(struct hv_machine *m)
{
	if (m->reset_wanted) {
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
	m->hold = everyone(m);
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
	struct timespec limit = at_time(hv_now_ns() + WAIT_LIMIT_NS);

	while (!m->ending && (m->parked != m->live || m->resetting || m->reset_wanted))
		if (pthread_cond_timedwait(&m->changed, &m->lock, &limit) == ETIMEDOUT)
			return hv_fail(err, ETIMEDOUT,
				       "a vCPU does not come out of the guest within 5 s; it waits for the serial line's "
				       "reader, or this machine's KVM cannot leave what the guest does");
	if (m->ending)
		return hv_fail(err, ESHUTDOWN, "the VM has ended");
	return 0;
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
			m->hold = 0;
			m->announce = false;
			pthread_cond_broadcast(&m->changed);
		}
	} else {
		rc = wait_parked(m, err);
	}
	pthread_mutex_unlock(&m->lock);
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
		m->hold = everyone(m) & ~cpus;
		pthread_cond_broadcast(&m->changed);
		hv_machine_fire(m, HV_EVENT_RESUME, 0);
	}
	pthread_mutex_unlock(&m->lock);
	return rc;
}

int hv_machine_resume(struct hv_machine *m, struct hv_error *err)
{
	return hv_machine_resume_mask(m, everyone(m), err);
}

/* Lock held. The last vCPU to park does it; when all are parked already, this thread. */
static void want_reset(struct hv_machine *m)
{
	m->reset_wanted = true;
	m->reset_by_guest = false;
	m->hold = everyone(m);
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
		struct timespec limit = at_time(hv_now_ns() + WAIT_LIMIT_NS);

		rc = 0;
		want_reset(m);
		while (!rc && !m->ending && (m->reset_wanted || m->resetting))
			if (pthread_cond_timedwait(&m->changed, &m->lock, &limit) == ETIMEDOUT)
				rc = hv_fail(err, ETIMEDOUT, "a vCPU does not come out of the guest within 5 s; the "
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
	case HV_POWER_RESET:
		pthread_mutex_lock(&m->lock);
		if (!m->ending && !m->reset_wanted && !m->resetting) {
			m->reset_wanted = true;
			m->reset_by_guest = true;
			m->hold = everyone(m);
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

/* --- the end --------------------------------------------------------------------------------------------------- */

void hv_machine_finish(struct hv_machine *m, enum hv_end_reason reason, int status, const char *text)
{
	uint64_t one = 1;

	pthread_mutex_lock(&m->lock);
	if (!m->ending) { /* the first reason is the one that counts */
		m->end.reason = reason;
		m->end.status = status;
		strncpy(m->end.text, text, sizeof(m->end.text) - 1);
		m->state = HV_STATE_ENDED;
		atomic_store(&m->ending, true);
		hv_machine_fire(m, HV_EVENT_SHUTDOWN, (int)reason);
		hv_smp_kick(m, m->live);
		if (write(m->end_fd, &one, sizeof(one)) < 0)
			hv_log(m->log, HV_LOG_WARN, "the VM's end cannot be signalled: %s", strerror(errno));
	}
	pthread_mutex_unlock(&m->lock);
}

void hv_machine_end(struct hv_machine *m, enum hv_end_reason reason)
{
	hv_machine_finish(m, reason, reason == HV_END_TIMEOUT ? HV_EXIT_TIMEOUT : HV_EXIT_OK, "");
}

int hv_machine_wait(struct hv_machine *m, int timeout_ms, struct hv_end *end)
{
	struct pollfd p = {.fd = m->end_fd, .events = POLLIN};
	uint64_t limit = timeout_ms < 0 ? UINT64_MAX : hv_now_ns() + (uint64_t)timeout_ms * 1000000u;

	while (!m->ending) {
		uint64_t now = hv_now_ns();
		int n;

		if (now >= limit)
			return -ETIMEDOUT;
		n = poll(&p, 1, limit == UINT64_MAX ? -1 : (int)((limit - now + 999999) / 1000000));
		if (n < 0 && errno != EINTR)
			return -errno;
	}
	if (!hv_smp_join(m, hv_now_ns() + DRAIN_NS)) {
		if (m->chardev)
			hv_chardev_stop(m->chardev);
		if (!hv_smp_join(m, hv_now_ns() + WAIT_LIMIT_NS - DRAIN_NS)) {
			size_t used = strlen(m->end.text);

			snprintf(m->end.text + used, sizeof(m->end.text) - used,
				 "%sa vCPU does not come out of KVM_RUN and is given up: this machine's KVM cannot leave "
				 "what the guest does",
				 used ? "\n" : "");
			if (m->end.status == HV_EXIT_OK)
				m->end.status = HV_EXIT_FAILED;
		}
	}
	if (end)
		*end = m->end;
	return 0;
}

int hv_machine_end_fd(const struct hv_machine *m)
{
	return m->end_fd;
}

/* --- from other threads ---------------------------------------------------------------------------------------- */

int hv_machine_call(struct hv_machine *m, unsigned cpu, hv_vcpu_fn *fn, void *ctx, struct hv_error *err)
{
	struct hv_call call = {.fn = fn, .ctx = ctx, .err = err}, **tail;
	struct timespec limit = at_time(hv_now_ns() + WAIT_LIMIT_NS);

	if (cpu >= m->cpu_count)
		return hv_fail(err, EINVAL, "there is no vCPU %u; the VM has %u", cpu, m->cpu_count);
	pthread_mutex_lock(&m->lock);
	if (!m->started) {
		pthread_mutex_unlock(&m->lock);
		return fn(&m->cpus[cpu].vcpu, ctx, err);
	}
	if (!(m->live >> cpu & 1)) {
		pthread_mutex_unlock(&m->lock);
		return hv_fail(err, ESHUTDOWN, "the VM has ended");
	}
	for (tail = &m->cpus[cpu].calls; *tail;)
		tail = &(*tail)->next;
	*tail = &call;
	hv_smp_kick(m, 1ull << cpu);
	while (!call.done) {
		if (pthread_cond_timedwait(&m->changed, &m->lock, &limit) != ETIMEDOUT || call.taken)
			continue; /* once fn runs it must end before this frame may go */
		for (tail = &m->cpus[cpu].calls; *tail != &call;)
			tail = &(*tail)->next;
		*tail = call.next;
		pthread_mutex_unlock(&m->lock);
		return hv_fail(err, ETIMEDOUT, "vCPU %u does not come out of the guest within 5 s", cpu);
	}
	pthread_mutex_unlock(&m->lock);
	return call.result;
}

static int nmi(struct hv_vcpu *vcpu, void *ctx, struct hv_error *err)
{
	(void)ctx;
	return hv_vcpu_nmi(vcpu, err);
}

int hv_machine_nmi(struct hv_machine *m, unsigned cpu, struct hv_error *err)
{
	return hv_machine_call(m, cpu, nmi, NULL, err);
}

int hv_machine_irq(struct hv_machine *m, unsigned line, struct hv_error *err)
{
	struct hv_cpu *cpu = &m->cpus[0];
	int rc = 0;

	if (line >= HV_IOAPIC_PINS)
		return hv_fail_usage(err, "interrupt line %u: there are lines 0 to %d", line, HV_IOAPIC_PINS - 1);
	if (m->irqchip == HV_IRQCHIP_FULL) {
		rc = hv_irq_line(&m->vm, line, true);
		if (!rc)
			rc = hv_irq_line(&m->vm, line, false);
		return rc ? hv_fail(err, -rc, "interrupt line %u: KVM refuses it: %s", line, strerror(-rc)) : 0;
	}
	if (m->irqchip == HV_IRQCHIP_SPLIT) {
		hv_ioapic_set(m->ioapic, line, true);
		hv_ioapic_set(m->ioapic, line, false);
		return 0;
	}
	pthread_mutex_lock(&m->lock);
	if (cpu->vector_count == HV_VECTORS_MAX) {
		rc = hv_fail(err, EBUSY, "the guest has not taken the last %d interrupts yet", HV_VECTORS_MAX);
	} else {
		cpu->vectors[cpu->vector_count] = (uint8_t)(0x20 + line);
		atomic_fetch_add(&cpu->vector_count, 1);
		hv_smp_kick(m, 1);
	}
	pthread_mutex_unlock(&m->lock);
	return rc;
}

/* --- tracing --------------------------------------------------------------------------------------------------- */

static struct hv_cpu *cpu_of(struct hv_vcpu *vcpu)
{
	return hv_container_of(vcpu, struct hv_cpu, vcpu);
}

static int set_trace(struct hv_vcpu *vcpu, void *on, struct hv_error *err)
{
	struct hv_recorder *r = &cpu_of(vcpu)->recorder;
	int rc = hv_recorder_trace(r, *(bool *)on, err);

	cpu_of(vcpu)->record = NULL; /* it was in the old ring */
	if (!rc)
		atomic_store(&r->timed, *(bool *)on || cpu_of(vcpu)->machine->config.stats);
	return rc;
}

int hv_machine_trace(struct hv_machine *m, bool on, struct hv_error *err)
{
	int rc = 0;

	for (unsigned i = 0; i < m->cpu_count && !rc; i++)
		rc = hv_machine_call(m, i, set_trace, &on, err);
	return rc;
}

bool hv_machine_tracing(const struct hv_machine *m)
{
	return m->cpus[0].recorder.capacity == HV_TRACE_EXITS;
}

/* A copy of the records, so that writing them to a slow file stops no vCPU. */
static int copy_recorder(struct hv_vcpu *vcpu, void *out, struct hv_error *err)
{
	const struct hv_recorder *r = &cpu_of(vcpu)->recorder;
	struct hv_recorder *copy = out;

	hv_recorder_init(copy);
	copy->ring = malloc(r->capacity * sizeof(*copy->ring));
	if (!copy->ring) {
		copy->ring = copy->last;
		return hv_fail(err, ENOMEM, "no memory for a copy of the trace");
	}
	memcpy(copy->ring, r->ring, r->capacity * sizeof(*copy->ring));
	copy->capacity = r->capacity;
	copy->total = r->total;
	copy->first = r->first;
	return 0;
}

int hv_machine_trace_save(struct hv_machine *m, int fd, struct hv_error *err)
{
	struct hv_recorder *copies = calloc(m->cpu_count, sizeof(*copies));
	const struct hv_recorder **list = calloc(m->cpu_count, sizeof(*list));
	int rc = copies && list ? 0 : hv_fail(err, ENOMEM, "no memory for a copy of the trace");
	unsigned n = 0;

	while (!rc && n < m->cpu_count) {
		bool gone = m->started && m->ending;

		rc = gone ? copy_recorder(&m->cpus[n].vcpu, &copies[n], err)
			  : hv_machine_call(m, n, copy_recorder, &copies[n], err);
		if (rc == -ESHUTDOWN) /* it ended just now */
			rc = copy_recorder(&m->cpus[n].vcpu, &copies[n], err);
		if (!rc) {
			list[n] = &copies[n];
			n++;
		}
	}
	if (!rc)
		rc = hv_trace_write(fd, m->config.name, list, n, err);
	for (unsigned i = 0; i < n; i++)
		hv_recorder_free(&copies[i]);
	free(copies);
	free(list);
	return rc;
}

/* --- what it is ------------------------------------------------------------------------------------------------ */

enum hv_state hv_machine_state(const struct hv_machine *machine)
{
	struct hv_machine *m = (struct hv_machine *)(uintptr_t)machine;
	enum hv_state state;

	pthread_mutex_lock(&m->lock);
	state = m->state;
	pthread_mutex_unlock(&m->lock);
	return state;
}

const char *hv_state_name(enum hv_state state, enum hv_end_reason reason)
{
	switch (state) {
	case HV_STATE_PRELAUNCH:
		return "prelaunch";
	case HV_STATE_RUNNING:
		return "running";
	case HV_STATE_PAUSED:
		return "paused";
	case HV_STATE_DEBUG:
		return "debug";
	case HV_STATE_ENDED:
		break;
	}
	return reason == HV_END_ERROR ? "internal-error" : "shutdown";
}

const struct hv_config *hv_machine_config(const struct hv_machine *m)
{
	return &m->config;
}

struct hv_memory *hv_machine_memory(struct hv_machine *m)
{
	return &m->memory;
}

const struct hv_bus *hv_machine_pio(const struct hv_machine *m)
{
	return &m->pio;
}

const struct hv_bus *hv_machine_mmio(const struct hv_machine *m)
{
	return &m->mmio;
}

struct hv_chardev *hv_machine_chardev(struct hv_machine *m)
{
	return m->chardev;
}

unsigned hv_machine_cpus(const struct hv_machine *m)
{
	return m->cpu_count;
}

enum hv_irqchip hv_machine_irqchip(const struct hv_machine *m)
{
	return m->irqchip;
}

const struct hv_entry *hv_machine_entry(const struct hv_machine *m)
{
	return &m->entry;
}

uint64_t hv_machine_uptime_ns(const struct hv_machine *m)
{
	return m->started ? hv_now_ns() - m->started_ns : 0;
}

struct hv_recorder *hv_machine_recorder(struct hv_machine *m, unsigned cpu)
{
	return &m->cpus[cpu].recorder;
}

int hv_machine_thread_id(const struct hv_machine *m, unsigned cpu)
{
	return atomic_load(&m->cpus[cpu].tid);
}
