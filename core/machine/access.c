/*
 * What other threads may do to a VM while it runs: calls on a vCPU's thread, interrupts from outside,
 * tracing.
 */
#include <stdlib.h>
#include <string.h>

#include "machine/internal.h"

int hv_machine_call(struct hv_machine *m, unsigned cpu, hv_vcpu_fn *fn, void *ctx, struct hv_error *err)
{
	struct hv_call call = {.fn = fn, .ctx = ctx, .err = err}, **tail;
	struct timespec limit = hv_at_time(hv_now_ns() + HV_WAIT_LIMIT_NS);

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
		return hv_fail_usage(err, "interrupt line %u: there are lines 0 to %d", line,
				     HV_IOAPIC_PINS - 1);
	if (m->irqchip == HV_IRQCHIP_FULL) {
		rc = hv_irq_line(&m->vm, line, true);
		if (!rc)
			rc = hv_irq_line(&m->vm, line, false);
		return rc ? hv_fail(err, -rc, "interrupt line %u: KVM refuses it: %s", line, strerror(-rc))
			  : 0;
	}
	if (m->irqchip == HV_IRQCHIP_SPLIT) {
		hv_ioapic_set(m->ioapic, line, true);
		hv_ioapic_set(m->ioapic, line, false);
		return 0;
	}
	pthread_mutex_lock(&m->lock);
	if (cpu->vector_count == HV_VECTORS_MAX) {
		rc = hv_fail(err, EBUSY, "the guest has not taken the last %d interrupts yet",
			     HV_VECTORS_MAX);
	} else {
		cpu->vectors[cpu->vector_count] = (uint8_t)(0x20 + line);
		atomic_fetch_add(&cpu->vector_count, 1);
		hv_smp_kick(m, 1);
	}
	pthread_mutex_unlock(&m->lock);
	return rc;
}

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
	copy->since = r->since;
	return 0;
}

int hv_machine_trace_save(struct hv_machine *m, int fd, struct hv_error *err)
{
	struct hv_recorder *copies = calloc(m->cpu_count, sizeof(*copies));
	const struct hv_recorder *list[HV_CPUS_MAX];
	unsigned n = 0;
	int rc = 0;

	if (!copies)
		return hv_fail(err, ENOMEM, "no memory for a copy of the trace");
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
	return rc;
}
