/*
 * The rig's commands for lab 8: a device of its own on the machine's port bus, behind which a vCPU thread can
 * be held at a chosen moment; what a machine is told, done by a helper thread so that a thread which never
 * answers costs no more than the time that was given; and marks in the record. See rig.h.
 *
 * What goes wrong between two threads goes wrong once in a million times. Here the rare moment is made: the
 * vCPU is held in its device, or just before it writes to its kvm_run area, until the other thread has done
 * its part.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "machine/internal.h"
#include "rig.h"

#define STEP_NS  200000ull     /* between two looks */
#define HOLD_NS  1000000000ull /* at most, whatever is waited for */
#define MARK     0x6c616200u   /* a capability that no kernel has: KVM_CHECK_EXTENSION of it is a mark */
#define REPLIES  64
#define SEIZE_NS 60000000ull
#define SLOW_NS  80000000ull
#define TAKE_NS  50000000ull /* for a thread that takes what is not its own to come out of the guest */
#define CALL_MS  800

enum hold { HOLD_NONE, HOLD_OPEN, HOLD_KICKED, HOLD_SLOW };

/* The device, one for each machine. */
struct gate {
	struct hv_device dev;
	struct hv_machine *machine;
	_Atomic int hold;      /* enum hold: what an access waits for */
	_Atomic bool open;     /* HOLD_OPEN: it may go on */
	_Atomic unsigned seen; /* accesses that have begun */
	uint8_t replies[REPLIES];
	unsigned reply_count;
	unsigned linger_ms;   /* the threads that came by take so long to end */
	pthread_key_t linger; /* its destructor runs when a thread has left its function */
};

static void nap(void)
{
	nanosleep(&(struct timespec){.tv_nsec = STEP_NS}, NULL);
}

static void mark(const struct hv_machine *m, unsigned number)
{
	ioctl(m->kvm.fd, KVM_CHECK_EXTENSION, (unsigned long)(MARK + number));
}

static struct hv_cpu *own_cpu(struct hv_machine *m)
{
	int self = (int)syscall(SYS_gettid);

	for (unsigned i = 0; i < m->cpu_count; i++)
		if (atomic_load(&m->cpus[i].tid) == self)
			return &m->cpus[i];
	return NULL;
}

/* --- the gate --- */

static void pass(struct gate *g)
{
	const struct hv_cpu *cpu = own_cpu(g->machine);
	uint64_t begun = hv_now_ns(), limit = begun + HOLD_NS;
	sigset_t own;

	if (g->linger_ms)
		pthread_setspecific(g->linger, g);
	sigemptyset(&own); /* race() needs it, whatever the thread's mask is */
	sigaddset(&own, SIGSEGV);
	pthread_sigmask(SIG_UNBLOCK, &own, NULL);
	atomic_fetch_add(&g->seen, 1);
	while (hv_now_ns() < limit) {
		int hold = atomic_load(&g->hold);

		if (hold == HOLD_NONE || (hold == HOLD_OPEN && atomic_load(&g->open)) ||
		    (hold == HOLD_KICKED && cpu && atomic_load(&cpu->kicked)) ||
		    (hold == HOLD_SLOW && hv_now_ns() >= begun + SLOW_NS))
			return;
		nap();
	}
}

static uint64_t gate_read(struct hv_device *dev, uint64_t offset, unsigned size)
{
	struct gate *g = hv_container_of(dev, struct gate, dev);
	unsigned n = atomic_load(&g->seen);

	pass(g);
	return g->reply_count ? g->replies[n % g->reply_count] : 0;
}

static void gate_write(struct hv_device *dev, uint64_t offset, uint64_t value, unsigned size)
{
	pass(hv_container_of(dev, struct gate, dev));
}

static void gate_ignore(struct hv_device *dev)
{
}

static const struct hv_device_ops gate_ops = {
	.name = "gate",
	.max_access = 1,
	.read = gate_read,
	.write = gate_write,
	.reset = gate_ignore,
	.destroy = gate_ignore,
};

static void lingered(void *ctx)
{
	const struct gate *g = ctx;

	usleep(g->linger_ms * 1000);
	mark(g->machine, 255);
}

static struct gate *gate_of(struct rig *rig)
{
	if (!rig->lab[8])
		hv_fail(&rig->err, ENOENT, "there is no gate");
	return rig->lab[8];
}

/* gate PORT [in=HEX] [linger=MS]: before machine_start. */
static int gate(struct rig *rig, int count, char **words)
{
	static struct gate g;
	const char *in = rig_option(count, words, "in");
	uint64_t port;
	int n = 0;

	if (count < 2 || !rig_parse(words[1], &port) || !rig->machine || rig->lab[8])
		return RIG_USAGE;
	g.machine = rig->machine;
	g.linger_ms = (unsigned)rig_option_number(count, words, "linger", 0);
	if (in && (n = rig_parse_bytes(in, g.replies, sizeof(g.replies))) < 0)
		return RIG_USAGE;
	g.reply_count = (unsigned)n;
	pthread_key_create(&g.linger, lingered);
	hv_device_init(&g.dev, &gate_ops);
	rig->lab[8] = &g;
	return hv_bus_add(&rig->machine->pio, port, 1, 0, &g.dev, &rig->err);
}

/* gate_hold none|open|kicked|slow: what accesses from now on wait for; `none` lets those go that wait. */
static int gate_hold(struct rig *rig, int count, char **words)
{
	static const char *const holds[] = {"none", "open", "kicked", "slow"};
	struct gate *g = gate_of(rig);

	for (int i = 0; g && count == 2 && i < 4; i++) {
		if (strcmp(words[1], holds[i]) == 0) {
			atomic_store(&g->open, false);
			atomic_store(&g->hold, i);
			return 0;
		}
	}
	return RIG_USAGE;
}

/* gate_await N [ms=N]: until N accesses have begun. */
static int gate_await(struct rig *rig, int count, char **words)
{
	struct gate *g = gate_of(rig);
	uint64_t n, limit = hv_now_ns() + rig_option_number(count, words, "ms", 2000) * 1000000;

	if (!g || count < 2 || !rig_parse(words[1], &n))
		return RIG_USAGE;
	while (atomic_load(&g->seen) < n && hv_now_ns() < limit)
		nap();
	rig_number(rig, "seen", atomic_load(&g->seen));
	return atomic_load(&g->seen) >= n ? 0 : -ETIMEDOUT;
}

/* R, S, t...: proc(5), the field behind the name, which stands in brackets. */
static char state_of(int tid)
{
	char path[64], line[256];
	const char *bracket;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? 0 : read(fd, line, sizeof(line) - 1);
	if (fd >= 0)
		close(fd);
	line[n < 0 ? 0 : n] = '\0';
	bracket = strrchr(line, ')');
	return bracket && bracket[1] ? bracket[2] : '?';
}

/* cpus_await [ms=N]: until all vCPUs but the first sleep, as they do in KVM_RUN until somebody starts them.
 */
static int cpus_await(struct rig *rig, int count, char **words)
{
	uint64_t limit = hv_now_ns() + rig_option_number(count, words, "ms", 400) * 1000000;
	unsigned asleep = 0;

	if (!rig->machine)
		return RIG_USAGE;
	for (int looks = 0; looks < 5 && hv_now_ns() < limit; looks++) {
		asleep = 1;
		for (unsigned i = 1; i < rig->machine->cpu_count; i++) {
			int tid = atomic_load(&rig->machine->cpus[i].tid);

			asleep += tid && state_of(tid) == 'S';
		}
		looks = asleep == rig->machine->cpu_count ? looks : -1;
		nap();
	}
	rig_number(rig, "asleep", asleep - 1);
	return 0;
}

/* kick_await [ms=N]: until no vCPU's thread has a kick that it has not looked at. */
static int kick_await(struct rig *rig, int count, char **words)
{
	uint64_t limit = hv_now_ns() + rig_option_number(count, words, "ms", 400) * 1000000;
	unsigned waiting;

	if (!rig->machine)
		return RIG_USAGE;
	do {
		waiting = 0;
		nap();
		for (unsigned i = 0; i < rig->machine->cpu_count; i++) {
			struct hv_cpu *cpu = &rig->machine->cpus[i];

			waiting += atomic_load(&cpu->tid) && atomic_load(&cpu->kicked);
		}
	} while (waiting && hv_now_ns() < limit);
	rig_number(rig, "waiting", waiting);
	return 0;
}

static int mark_record(struct rig *rig, int count, char **words)
{
	uint64_t number;

	if (count != 2 || !rig_parse(words[1], &number) || !rig->machine)
		return RIG_USAGE;
	mark(rig->machine, (unsigned)number & 0xff);
	return 0;
}

/* --- what may never come back --- */

struct deed {
	struct hv_machine *machine;
	char what[16];
	unsigned cpu;
	int rc;
	struct hv_error err;
	struct hv_end end;
	struct kvm_regs regs;
	_Atomic bool done;
};

static int read_regs(struct hv_vcpu *vcpu, void *regs, struct hv_error *err)
{
	return hv_vcpu_get_regs(vcpu, regs, err);
}

static void *do_deed(void *ctx)
{
	struct deed *d = ctx;

	if (strcmp(d->what, "pause") == 0)
		d->rc = hv_machine_pause(d->machine, &d->err);
	else if (strcmp(d->what, "resume") == 0)
		d->rc = hv_machine_resume(d->machine, &d->err);
	else if (strcmp(d->what, "reset") == 0)
		d->rc = hv_machine_reset(d->machine, &d->err);
	else if (strcmp(d->what, "end") == 0)
		hv_machine_end(d->machine, HV_END_QUIT);
	else if (strcmp(d->what, "wait") == 0)
		d->rc = hv_machine_wait(d->machine, -1, &d->end);
	else if (strcmp(d->what, "call") == 0)
		d->rc = hv_machine_call(d->machine, d->cpu, read_regs, &d->regs, &d->err);
	atomic_store(&d->done, true);
	return NULL;
}

/* A helper's frame may outlive the command, so it is never freed. It takes no signal: none is for it. */
static struct deed *begin(struct rig *rig, const char *what, unsigned cpu)
{
	struct deed *d = calloc(1, sizeof(*d));
	sigset_t all, before;
	pthread_t thread;
	bool started;

	if (!d)
		return NULL;
	d->machine = rig->machine;
	d->cpu = cpu;
	snprintf(d->what, sizeof(d->what), "%s", what);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	started = pthread_create(&thread, NULL, do_deed, d) == 0;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (!started)
		return NULL;
	pthread_detach(thread);
	return d;
}

/* Once something didn't come back, nobody waits for the next thing. */
static int finish(struct rig *rig, const struct deed *d, uint64_t ms)
{
	static bool given_up;
	uint64_t limit = hv_now_ns() + (given_up ? 0 : ms * 1000000);

	while (d && !atomic_load(&d->done) && hv_now_ns() < limit)
		nap();
	rig_bool(rig, "late", !d || !atomic_load(&d->done));
	given_up = given_up || !d || !atomic_load(&d->done);
	if (given_up)
		return hv_fail(&rig->err, ETIMEDOUT, "it did not come back within %llu ms",
			       (unsigned long long)ms);
	if (strcmp(d->what, "call") == 0) {
		rig_number(rig, "rip", d->regs.rip);
		rig_number(rig, "rax", d->regs.rax);
		rig_number(rig, "rbx", d->regs.rbx);
	} else if (strcmp(d->what, "wait") == 0) {
		rig_text(rig, "reason", rig_end_word(d->end.reason));
		rig_signed(rig, "status", d->end.status);
	}
	rig->err = d->err;
	return d->rc;
}

/* within MS pause|resume|reset|end|wait|call [CPU] */
static int within(struct rig *rig, int count, char **words)
{
	uint64_t ms, cpu = 0;

	if (count < 3 || !rig_parse(words[1], &ms) || !rig->machine ||
	    (count > 3 && !rig_parse(words[3], &cpu)))
		return RIG_USAGE;
	return finish(rig, begin(rig, words[2], (unsigned)cpu), ms);
}

/* --- a kick at the worst moment --- */

/* The vCPU's thread is about to write to its kvm_run area, and sits in the handler until it was kicked. */
static struct {
	void *page;
	_Atomic int thread; /* whose write it is */
	_Atomic bool seized, over;
} race;

static void on_write(int number, siginfo_t *info, void *context)
{
	uintptr_t at = (uintptr_t)info->si_addr, page = (uintptr_t)race.page;
	struct timespec while_kicked = {.tv_nsec = 200000000};

	if (at - page >= 4096) { /* a fault of the student's own: let it be one */
		signal(number, SIG_DFL);
		return;
	}
	mprotect(race.page, 4096, PROT_READ | PROT_WRITE);
	if ((int)syscall(SYS_gettid) != atomic_load(&race.thread) || atomic_exchange(&race.seized, true))
		return;
	nanosleep(&while_kicked, NULL); /* ends when the kick's signal comes */
	atomic_store(&race.over, true);
}

/*
 * race [late]: vCPU 0 stands in the gate. It is let go; when it writes to its kvm_run area before it enters
 * the guest, it is held at this write until a call has been put down for it and the kick has been sent. When
 * it doesn't write, the call comes a moment later. late: before, the vCPU is kicked, and its write counts
 * from the moment on when it may take the machine's lock and look what is wanted.
 */
static int race_kick(struct rig *rig, int count, char **words)
{
	struct sigaction action = {.sa_sigaction = on_write, .sa_flags = SA_SIGINFO};
	struct gate *g = gate_of(rig);
	struct hv_cpu *cpu = g ? &rig->machine->cpus[0] : NULL;
	uint64_t limit;
	struct deed *d;

	if (!g)
		return RIG_USAGE;
	sigemptyset(&action.sa_mask);
	sigaction(SIGSEGV, &action, NULL);
	race.page = cpu->vcpu.run;
	atomic_store(&race.thread, atomic_load(&cpu->tid));
	atomic_store(&race.seized, false);
	if (count > 1) {
		pthread_mutex_lock(&rig->machine->lock);
		atomic_store(&cpu->kicked, true);
		atomic_store(&g->open, true);
		usleep(20000);
		mprotect(race.page, 4096, PROT_READ);
		pthread_mutex_unlock(&rig->machine->lock);
	} else {
		mprotect(race.page, 4096, PROT_READ);
		atomic_store(&g->open, true);
	}
	limit = hv_now_ns() + SEIZE_NS;
	while (!atomic_load(&race.seized) && hv_now_ns() < limit)
		nap();
	mprotect(race.page, 4096, PROT_READ | PROT_WRITE);
	rig_bool(rig, "seized", atomic_load(&race.seized));
	mark(rig->machine, 1);
	d = begin(rig, "call", 0);
	return finish(rig, d, CALL_MS);
}

/* --- signals --- */

static _Atomic int taken_by; /* the thread that got a signal of the process's; 0: none yet */

static void on_signal(int number)
{
	(void)number;
	atomic_store(&taken_by, (int)syscall(SYS_gettid));
}

/* signal_self: a SIGTERM for the process, which this thread blocks, as hvrun does; rc 0 when this thread gets
 * it. */
static int signal_self(struct rig *rig, int count, char **words)
{
	struct timespec limit = {0};
	uint64_t until = hv_now_ns() + TAKE_NS;
	struct sigaction action = {.sa_handler = on_signal};
	sigset_t set;
	int got;

	sigemptyset(&action.sa_mask);
	sigaction(SIGTERM, &action, NULL);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	if (kill(getpid(), SIGTERM) < 0)
		return -errno;
	while (!atomic_load(&taken_by) && hv_now_ns() < until)
		nap();
	got = sigtimedwait(&set, NULL, &limit);
	rig_signed(rig, "taken_by", atomic_load(&taken_by));
	return got == SIGTERM ? 0 : -EINTR;
}

const struct rig_command rig_lab08[] = {
	{"gate", "PORT [in=HEX] [linger=MS]", gate},
	{"gate_hold", "none|open|kicked|slow", gate_hold},
	{"gate_await", "N [ms=N]", gate_await},
	{"cpus_await", "[ms=N]", cpus_await},
	{"kick_await", "[ms=N]", kick_await},
	{"mark", "N", mark_record},
	{"within", "MS pause|resume|reset|end|wait|call [CPU]", within},
	{"race", "[late]", race_kick},
	{"signal_self", "", signal_self},
	{NULL, NULL, NULL},
};
