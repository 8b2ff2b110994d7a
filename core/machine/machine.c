/*
 * One VM put together: its making, its end, and what it is. The parts that do the work stand beside it:
 * board.c has the devices and the memory, smp.c the vCPU threads, exit.c the exits, stop.c pausing and
 * resetting, access.c what other threads may do to a running VM.
 *
 * A vCPU thread is never waited for without a limit: a guest can keep KVM_RUN from coming back on some back
 * ends.
 */
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <stdio.h>
#include <unistd.h>

#include "machine/internal.h"

#define DRAIN_NS 1000000000ull /* for a vCPU that waits for the serial line's reader, after the end */

static void init_locks(struct hv_machine *m)
{
	pthread_condattr_t attr;

	pthread_mutex_init(&m->lock, NULL);
	pthread_mutex_init(&m->event_lock, NULL);
	pthread_mutex_init(&m->debug_lock, NULL);
	pthread_mutex_init(&m->devices_lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&m->changed, &attr);
	pthread_condattr_destroy(&attr);
}

int hv_machine_open(const struct hv_config *config, struct hv_chardev *chardev, const struct hv_log *log,
		    struct hv_machine **out, struct hv_error *err)
{
	struct hv_machine *m = calloc(1, sizeof(*m));
	int rc;

	*out = NULL;
	if (!m)
		return hv_fail(err, ENOMEM, "no memory for a VM");
	init_locks(m);
	m->log = log;
	m->chardev = chardev;
	m->kvm.fd = m->vm.fd = m->image_fd = m->end_fd = -1;
	for (unsigned i = 0; i < HV_MODULES_MAX; i++)
		m->initrd_fds[i] = -1;
	hv_bus_init(&m->pio, "pio");
	hv_bus_init(&m->mmio, "mmio");
	hv_memory_init(&m->memory, NULL);
	rc = hv_config_copy(&m->config, config, err);
	if (!rc) {
		m->cpu_count = m->config.cpus;
		m->end_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (m->end_fd < 0)
			rc = hv_fail_errno(err, "no descriptor for the VM's end");
	}
	if (!rc)
		rc = hv_board_open(m, err);
	if (rc) {
		hv_machine_destroy(m);
		return rc;
	}
	*out = m;
	return 0;
}

void hv_machine_plug(struct hv_machine *m, struct hv_chardev *console, struct hv_chardev *agent)
{
	m->console_chardev = console;
	m->agent_chardev = agent;
}

int hv_machine_build(struct hv_machine *m, struct hv_error *err)
{
	int rc = hv_board_create(m, err);

	return rc ? rc : hv_board_boot(m, err);
}

int hv_machine_create(const struct hv_config *config, struct hv_chardev *chardev, const struct hv_log *log,
		      struct hv_machine **out, struct hv_error *err)
{
	int rc = hv_machine_open(config, chardev, log, out, err);

	if (!rc)
		rc = hv_machine_build(*out, err);
	if (rc && *out) {
		hv_machine_destroy(*out);
		*out = NULL;
	}
	return rc;
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
	pthread_mutex_destroy(&m->devices_lock);
	free(m);
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
	m->hold = paused ? hv_everyone(m) : 0;
	for (unsigned i = 0; i < m->cpu_count && paused; i++)
		atomic_store(&m->cpus[i].kicked, true); /* and who was kicked before looks too */
	pthread_mutex_unlock(&m->lock);
	rc = hv_smp_start(m, err);
	if (rc) {
		hv_machine_finish(m, HV_END_ERROR, HV_EXIT_FAILED, err ? err->text : "");
		hv_smp_join(m, hv_now_ns() + HV_WAIT_LIMIT_NS);
	}
	return rc;
}

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
		if (!hv_smp_join(m, hv_now_ns() + HV_WAIT_LIMIT_NS - DRAIN_NS)) {
			size_t used = strlen(m->end.text);

			snprintf(m->end.text + used, sizeof(m->end.text) - used,
				 "%sa vCPU does not come out of KVM_RUN and is given up: this machine's KVM "
				 "cannot leave "
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

int hv_machine_end_status(struct hv_machine *m)
{
	int status;

	pthread_mutex_lock(&m->lock);
	status = m->ending ? m->end.status & 0xff : -EBUSY;
	pthread_mutex_unlock(&m->lock);
	return status;
}

int hv_machine_end_fd(const struct hv_machine *m)
{
	return m->end_fd;
}

enum hv_state hv_machine_state(struct hv_machine *m)
{
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
	case HV_STATE_IO_ERROR:
		return "io-error";
	case HV_STATE_ENDED:
		break;
	}
	if (reason == HV_END_PANIC)
		return "guest-panicked";
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

struct hv_chardev *hv_machine_console_chardev(struct hv_machine *m)
{
	return m->console_chardev;
}

struct hv_chardev *hv_machine_agent_chardev(struct hv_machine *m)
{
	return m->agent_chardev;
}

#define STATS_LIMIT_MS 500 /* for a guest's answer: its driver works on a queue of the kernel's */

static int need_balloon(const struct hv_machine *m, struct hv_error *err)
{
	return m->balloon ? 0 : hv_fail(err, ENXIO, "No balloon device has been activated");
}

int hv_machine_balloon_set(struct hv_machine *m, uint64_t bytes, struct hv_error *err)
{
	int rc = need_balloon(m, err);

	if (!rc && bytes == 0)
		rc = hv_fail(err, EINVAL, "Parameter 'target' expects a size"); /* QEMU's words, both */
	if (!rc)
		hv_virtio_balloon_set_target(m->balloon, bytes);
	return rc;
}

int hv_machine_balloon_query(struct hv_machine *m, struct hv_balloon_info *info, struct hv_error *err)
{
	bool runs = hv_machine_state(m) == HV_STATE_RUNNING;
	int rc = need_balloon(m, err);

	if (!rc)
		hv_virtio_balloon_query(m->balloon, runs ? STATS_LIMIT_MS : 0, info);
	return rc;
}

uint64_t hv_machine_balloon_actual(const struct hv_machine *m)
{
	return atomic_load(&m->balloon_actual);
}

void hv_machine_console_size(struct hv_machine *m, uint16_t columns, uint16_t rows)
{
	if (m->console)
		hv_virtio_console_resize(m->console, columns, rows);
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
