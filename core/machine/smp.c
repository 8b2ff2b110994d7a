/*
 * vCPU threads: one each, running KVM_RUN and handling exits until the machine ends; and how they are
 * stopped.
 *
 * Stopping is the hard part. A vCPU may be inside the guest, about to enter it, or far from it; "set a flag
 * and send a signal" loses the kick when the signal comes just before KVM_RUN. So the kicker sets kicked,
 * then immediate_exit in the shared kvm_run area, then sends the signal; the vCPU clears immediate_exit first
 * and looks at kicked after. Whatever the order in which these meet, either the vCPU sees kicked or KVM_RUN
 * returns at once.
 *
 * INIT and SIPI are the in-kernel APIC's work: an AP's KVM_RUN just blocks until its BSP starts it.
 * It calls kvm/, exit.c, stop.c and machine.c. Rules: KVM API 5 (immediate_exit), 4.38 (KVM_GET_MP_STATE),
 * SDM vol. 3A, 9.4.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/signals.h"
#include "machine/internal.h"

#define KICK_SIGNAL SIGRTMIN
#define STACK_SIZE  (256u << 10)

static void empty_handler(int signal)
{
	(void)signal; /* its only use is that the interrupted KVM_RUN returns EINTR */
}

static void install_handler(void)
{
	struct sigaction action = {.sa_handler = empty_handler}; /* no SA_RESTART */

	sigemptyset(&action.sa_mask);
	sigaction(KICK_SIGNAL, &action, NULL);
}

static void set_immediate_exit(struct hv_cpu *cpu, uint8_t value)
{
	__atomic_store_n(&cpu->vcpu.run->immediate_exit, value, __ATOMIC_SEQ_CST);
}

void hv_smp_kick(struct hv_machine *m, uint64_t cpus)
{
	for (unsigned i = 0; i < m->cpu_count; i++) {
		struct hv_cpu *cpu = &m->cpus[i];
		int tid;

		if (!(cpus >> i & 1))
			continue;
		/* hv:solution lab=8 task=3 */
		atomic_store(&cpu->kicked, true);
		set_immediate_exit(cpu, 1);
		/* By thread id: a thread that has ended meanwhile just makes this fail. */
		tid = atomic_load(&cpu->tid);
		if (tid)
			syscall(SYS_tgkill, getpid(), tid, KICK_SIGNAL);
		/* hv:end */
	}
	pthread_cond_broadcast(&m->changed);
	if (m->chardev)
		hv_chardev_nudge(m->chardev); /* a vCPU may wait there for the serial line's reader */
}

bool hv_smp_wanted(void *machine)
{
	struct hv_machine *m = machine;
	int self = (int)syscall(SYS_gettid);

	for (unsigned i = 0; i < m->cpu_count; i++)
		if (atomic_load(&m->cpus[i].tid) == self)
			return m->cpus[i].settling || atomic_load(&m->cpus[i].kicked);
	return false;
}

/*
 * Finishes what the last exit left open: what `in` reads reaches its register, and RIP its next instruction,
 * only at the next KVM_RUN. With immediate_exit that one does no more than this; a rep that goes on may exit
 * again.
 */
static void settle(struct hv_cpu *cpu)
{
	/* hv:solution lab=8 task=6 */
	cpu->settling = true;
	while (cpu->unfinished && !atomic_load(&cpu->machine->ending)) {
		int rc;

		cpu->unfinished = false;
		set_immediate_exit(cpu, 1);
		rc = hv_vcpu_run(&cpu->vcpu);
		if (rc == 0) {
			hv_recorder_leave(&cpu->recorder, cpu->record);
			hv_exit_handle(cpu);
		}
	}
	cpu->settling = false;
	set_immediate_exit(cpu, 0);
	/* hv:end */
}

/* Runs the calls that other threads left here. Called and left with the lock held. */
static void serve_calls(struct hv_cpu *cpu)
{
	struct hv_machine *m = cpu->machine;

	while (cpu->calls) {
		struct hv_call *call = cpu->calls;

		cpu->calls = call->next;
		call->taken = true;
		pthread_mutex_unlock(&m->lock);
		call->result = call->fn(&cpu->vcpu, call->ctx, call->err);
		pthread_mutex_lock(&m->lock);
		call->done = true;
		pthread_cond_broadcast(&m->changed);
	}
}

/* Looks at what others want of this vCPU; parks here when they want that. False: the thread shall end. */
static bool attend(struct hv_cpu *cpu)
{
	struct hv_machine *m = cpu->machine;
	uint64_t self = 1ull << cpu->vcpu.index;
	bool go_on;

	/* hv:solution lab=8 task=5 */
	set_immediate_exit(cpu, 0);
	atomic_store(&cpu->kicked, false);
	settle(cpu);
	pthread_mutex_lock(&m->lock);
	for (;;) {
		if (!m->resetting)
			serve_calls(cpu);
		if (m->ending || (!(m->hold & self) && !m->resetting))
			break;
		if (!(m->parked & self)) {
			m->parked |= self;
			if (m->parked == m->live)
				hv_machine_all_parked(m);
			pthread_cond_broadcast(&m->changed);
			continue;
		}
		pthread_cond_wait(&m->changed, &m->lock);
	}
	m->parked &= ~self;
	go_on = !m->ending;
	pthread_mutex_unlock(&m->lock);
	return go_on;
	/* hv:end */
}

/* Without an irqchip: one interrupt that was injected from outside, as soon as the guest can take it. */
static void inject_waiting(struct hv_cpu *cpu)
{
	struct hv_machine *m = cpu->machine;

	pthread_mutex_lock(&m->lock);
	if (hv_vcpu_interrupt(&cpu->vcpu, cpu->vectors[0], NULL) == 0) {
		unsigned left = atomic_fetch_sub(&cpu->vector_count, 1) - 1;

		memmove(cpu->vectors, cpu->vectors + 1, left);
		cpu->vcpu.run->request_interrupt_window = left > 0;
	}
	pthread_mutex_unlock(&m->lock);
}

static void *vcpu_thread(void *arg)
{
	struct hv_cpu *cpu = arg;
	struct hv_machine *m = cpu->machine;
	char name[16];
	int rc;

	snprintf(name, sizeof(name), "hv-vcpu%u", cpu->vcpu.index % 1000);
	pthread_setname_np(pthread_self(), name);
	atomic_store(&cpu->tid, (int)syscall(SYS_gettid));

	/* hv:solution lab=8 task=2 */
	for (;;) {
		if (atomic_load(&cpu->kicked) && !attend(cpu))
			break;
		if (atomic_load_explicit(&cpu->vector_count, memory_order_relaxed) > 0)
			inject_waiting(cpu);
		cpu->unfinished = false;
		rc = hv_vcpu_run(&cpu->vcpu);
		if (rc == 0) {
			hv_exit_handle(cpu);
			hv_recorder_leave(&cpu->recorder, cpu->record);
		} else {
			hv_exit_failed(cpu, rc);
		}
	}
	/* hv:end */

	pthread_mutex_lock(&m->lock);
	m->live &= ~(1ull << cpu->vcpu.index);
	atomic_store(&cpu->tid, 0);
	serve_calls(cpu); /* nobody may wait for ever for a thread that is gone */
	pthread_cond_broadcast(&m->changed);
	pthread_mutex_unlock(&m->lock);
	return NULL;
}

int hv_smp_start(struct hv_machine *m, struct hv_error *err)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	sigset_t kick, before;
	pthread_attr_t attr;
	int rc = 0;

	pthread_once(&once, install_handler);
	/* hv:solution lab=8 task=1 */
	/* A vCPU thread takes no signal but the kick, so that the tool's signals reach the tool's own thread.
	 */
	hv_signals_block(&before);
	sigemptyset(&kick);
	sigaddset(&kick, KICK_SIGNAL);
	pthread_sigmask(SIG_UNBLOCK, &kick, NULL);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_SIZE);
	for (unsigned i = 0; i < m->cpu_count && !rc; i++) {
		pthread_mutex_lock(&m->lock);
		rc = pthread_create(&m->cpus[i].thread, &attr, vcpu_thread, &m->cpus[i]);
		if (!rc)
			m->live |= 1ull << i;
		pthread_mutex_unlock(&m->lock);
	}
	pthread_attr_destroy(&attr);
	hv_signals_unblock(&before);
	if (rc)
		return hv_fail(err, rc, "a vCPU's thread cannot be created: %s", strerror(rc));
	return 0;
	/* hv:end */
}

bool hv_smp_join(struct hv_machine *m, uint64_t limit_ns)
{
	/* hv:solution lab=8 task=4 */
	uint64_t live;

	pthread_mutex_lock(&m->lock);
	while (m->live && hv_now_ns() < limit_ns) {
		uint64_t until = hv_now_ns() + 100000000;
		struct timespec t;

		until = until < limit_ns ? until : limit_ns;
		t.tv_sec = (time_t)(until / 1000000000u);
		t.tv_nsec = (long)(until % 1000000000u);
		hv_smp_kick(m, m->live);
		pthread_cond_timedwait(&m->changed, &m->lock, &t);
	}
	live = m->live;
	pthread_mutex_unlock(&m->lock);
	for (unsigned i = 0; i < m->cpu_count && m->cpus; i++)
		if (m->cpus[i].thread && !(live >> i & 1)) {
			pthread_join(m->cpus[i].thread, NULL);
			m->cpus[i].thread = 0;
		}
	return live == 0;
	/* hv:end */
}
