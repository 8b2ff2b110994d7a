/*
 * Following the program: every thread of it is traced, but stops only at the system calls that the filter
 * names (SECCOMP_RET_TRACE), at signals, and when it starts or ends. One loop, one thread; a timer's signal
 * interrupts its waiting so that limits and the watchdog's SIGTERM are looked at. Rules: ptrace(2),
 * waitpid(2).
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <linux/ptrace.h>
#include <time.h>
#include <unistd.h>

#include "observe.h"

#define TICK_US     20000
#define TASKS_MAX   256
#define GRACE_NS    1500000000u /* a killed program that isn't gone by then is stuck in the kernel */
#define SYSCALL_HIT (SIGTRAP | 0x80)

static volatile sig_atomic_t wanted_end, tick_due;

static void on_signal(int signal)
{
	tick_due = 1;
	if (signal != SIGALRM)
		wanted_end = 1;
}

/* Outside the sandbox, Ctrl-C is for the program: it is in the terminal's foreground, too. */
static void install_handlers(bool sandbox)
{
	static const int ends[] = {SIGALRM, SIGTERM, SIGHUP, SIGINT};
	struct sigaction action = {.sa_handler = on_signal}; /* no SA_RESTART: waitpid shall return */
	struct itimerval tick = {{0, TICK_US}, {0, TICK_US}};

	for (size_t i = 0; i < ARRAY_SIZE(ends); i++)
		sigaction(ends[i], &action, NULL);
	if (!sandbox)
		signal(SIGINT, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	setitimer(ITIMER_REAL, &tick, NULL);
}

uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t since(const struct session *s)
{
	return now() - s->started;
}

static size_t peek_process(pid_t process, uint64_t address, void *buf, size_t length)
{
	struct iovec mine = {buf, length}, its = {(void *)(uintptr_t)address, length}; // NOLINT
	ssize_t n = process_vm_readv(process, &mine, 1, &its, 1, 0);

	return n < 0 ? 0 : (size_t)n;
}

size_t peek(const struct session *s, uint64_t address, void *buf, size_t length)
{
	return peek_process(s->pid, address, buf, length);
}

size_t peek_task(const struct session *s, const struct task *t, uint64_t address, void *buf, size_t length)
{
	return peek_process(t->outside ? t->tid : s->pid, address, buf, length);
}

/* --- tasks --- */

struct task *task_find(const struct session *s, pid_t tid)
{
	for (unsigned i = 0; i < s->task_count; i++)
		if (s->tasks[i]->tid == tid)
			return s->tasks[i];
	return NULL;
}

static bool is_thread(const struct session *s, pid_t tid)
{
	char path[48];

	snprintf(path, sizeof(path), "/proc/%d/task/%d", s->pid, tid);
	return access(path, F_OK) == 0;
}

/* The new thread's own stop may come before its parent's event: whoever is first makes it. */
static struct task *task_make(struct session *s, pid_t tid)
{
	struct task *t = task_find(s, tid);
	struct task **more;

	if (t)
		return t;
	t = calloc(1, sizeof(*t));
	more = realloc(s->tasks, (s->task_count + 1) * sizeof(struct task *));
	if (!t || !more) {
		fprintf(stderr, "observe: out of memory\n");
		exit(1);
	}
	s->tasks = more;
	t->tid = tid;
	t->outside = !is_thread(s, tid);
	s->tasks[s->task_count++] = t;
	return t;
}

static void task_gone(struct session *s, pid_t tid)
{
	for (unsigned i = 0; i < s->task_count; i++)
		if (s->tasks[i]->tid == tid) {
			call_cut_short(s, s->tasks[i]);
			free(s->tasks[i]->call.in);
			free(s->tasks[i]);
			s->tasks[i] = s->tasks[--s->task_count];
			return;
		}
}

/* --- ends that we make --- */

static void kill_all(struct session *s)
{
	s->killed = true;
	s->killed_at = now();
	for (unsigned i = 0; i < s->task_count; i++)
		kill(s->tasks[i]->tid, SIGKILL);
}

void trace_kill(struct session *s, enum why why)
{
	if (s->killed)
		return;
	dump_last(s);
	s->why = why;
	kill_all(s);
}

void trace_flood(struct session *s, const char *limit)
{
	if (!s->killed)
		s->limit = limit;
	trace_kill(s, WHY_FLOOD);
}

void trace_forbidden(struct session *s, pid_t tid, const char *what, const char *detail)
{
	struct out *o = &s->out;

	if (s->killed)
		return;
	if (s->opt->plain && !strcmp(what, "file")) /* in a compiler's words, as it is one */
		fprintf(stderr, "observe: error: can't open %s: Permission denied\n", detail);
	else if (s->opt->plain)
		fprintf(stderr, "observe: error: %s is forbidden: %s\n", what, detail);
	out_open(o, NULL, '{');
	out_text(o, "k", "forbidden");
	out_u64(o, "t", since(s));
	out_i64(o, "tid", tid);
	out_text(o, "what", what);
	out_text(o, "detail", detail);
	out_close(o, '}');
	out_end_line(o);
	trace_kill(s, WHY_FORBIDDEN);
}

/* The number behind the first occurrence of mark in a file of the program's /proc folder; 0 when there is
 * none. */
static uint64_t read_proc(const struct session *s, const char *name, const char *mark)
{
	char path[40], text[512], *at;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/%s", s->pid, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (fd >= 0)
		close(fd);
	text[n < 0 ? 0 : n] = 0;
	at = strstr(text, mark);
	return at ? strtoull(at + strlen(mark), NULL, 10) : 0;
}

static void check_amounts(struct session *s)
{
	const struct options *o = s->opt;

	if (!o->sandbox || o->plain)
		return;
	/* statm: all pages, then those in memory */
	if (o->limit_memory && read_proc(s, "statm", " ") * (uint64_t)sysconf(_SC_PAGESIZE) > o->limit_memory)
		trace_flood(s, "memory");
	if (o->limit_output && read_proc(s, "io", "wchar: ") > o->limit_output)
		trace_flood(s, "output");
}

static void tick(struct session *s)
{
	tick_due = 0;
	if (wanted_end)
		trace_kill(s, WHY_KILLED);
	check_amounts(s);
	if (!s->killed)
		out_flush(&s->out);
}

/* --- stops --- */

static void go_on(struct task *t, int signal)
{
	ptrace(t->call.active ? PTRACE_SYSCALL : PTRACE_CONT, t->tid, 0, (long)signal);
}

static void at_call(struct session *s, struct task *t)
{
	struct ptrace_syscall_info info;

	if (ptrace(PTRACE_GET_SYSCALL_INFO, t->tid, sizeof(info), &info) <= 0 ||
	    info.op != PTRACE_SYSCALL_INFO_SECCOMP)
		return;
	t->call.nr = info.seccomp.nr;
	for (unsigned i = 0; i < 6; i++)
		t->call.args[i] = info.seccomp.args[i];
	t->call.active = call_entered(s, t, info.arch);
	t->call.entered = since(s);
}

static void at_return(struct session *s, struct task *t)
{
	struct ptrace_syscall_info info;

	if (!t->call.active)
		return;
	t->call.active = false;
	if (ptrace(PTRACE_GET_SYSCALL_INFO, t->tid, sizeof(info), &info) > 0 &&
	    info.op == PTRACE_SYSCALL_INFO_EXIT)
		call_returned(s, t, info.exit.rval);
}

static void at_clone(struct session *s, struct task *t)
{
	unsigned long tid = 0;
	struct out *o = &s->out;
	struct task *fresh;

	if (ptrace(PTRACE_GETEVENTMSG, t->tid, 0, &tid) < 0)
		return;
	fresh = task_make(s, (pid_t)tid);
	if (s->task_count > TASKS_MAX)
		trace_forbidden(s, t->tid, "fork", "too many processes or threads");
	if (fresh->outside)
		return;
	out_open(o, NULL, '{');
	out_text(o, "k", "thread");
	out_u64(o, "t", since(s));
	out_i64(o, "tid", fresh->tid);
	out_i64(o, "parent", t->tid);
	out_close(o, '}');
	out_end_line(o);
}

/* Its memory is still there. Other threads may run on when one ends, unless the program's first one does. */
static void at_exit(struct session *s, struct task *t)
{
	unsigned long status = 0;
	unsigned others = 0;

	ptrace(PTRACE_GETEVENTMSG, t->tid, 0, &status);
	t->exiting = true;
	for (unsigned i = 0; i < s->task_count; i++)
		others += !s->tasks[i]->exiting && !s->tasks[i]->outside;
	call_cut_short(s, t);
	if (t->outside || s->killed || s->kept || (t->tid != s->pid && others && !WIFSIGNALED((int)status)))
		return;
	dump_last(s);
	s->kept = true;
}

static void stopped(struct session *s, struct task *t, int status)
{
	int signal = WSTOPSIG(status), event = status >> 16;

	switch (event) {
	case PTRACE_EVENT_SECCOMP:
		at_call(s, t);
		break;
	case PTRACE_EVENT_CLONE:
	case PTRACE_EVENT_FORK:
	case PTRACE_EVENT_VFORK:
		at_clone(s, t);
		break;
	case PTRACE_EVENT_EXIT:
		at_exit(s, t);
		break;
	case PTRACE_EVENT_EXEC:
		if (t->tid == s->pid)
			s->execed = true;
		break;
	case PTRACE_EVENT_STOP:
		if (signal == SIGSTOP || signal == SIGTSTP || signal == SIGTTIN || signal == SIGTTOU) {
			ptrace(PTRACE_LISTEN, t->tid, 0, 0);
			return;
		}
		break;
	default:
		if (signal != SYSCALL_HIT) {
			go_on(t, signal);
			return;
		}
		at_return(s, t);
	}
	go_on(t, 0);
}

/* --- the loop --- */

static void changed(struct session *s, pid_t tid, int status)
{
	if (WIFSTOPPED(status)) {
		struct task *t = task_make(s, tid);

		stopped(s, t, status);
		if (s->killed)
			kill(tid, SIGKILL);
		return;
	}
	task_gone(s, tid);
	if (tid == s->pid) {
		s->status = status;
		if (!s->killed)
			s->why = WIFSIGNALED(status) ? WHY_SIGNAL : WHY_EXIT;
		kill_all(s); /* what it started doesn't outlive it */
	}
}

int trace_program(struct session *s, int gate)
{
	const long options = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACESECCOMP | PTRACE_O_TRACECLONE |
			     PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACEEXEC |
			     PTRACE_O_TRACEEXIT | PTRACE_O_EXITKILL;

	install_handlers(s->opt->sandbox);
	if (ptrace(PTRACE_SEIZE, s->pid, 0, options) < 0) {
		fprintf(stderr, "observe: the program can't be traced: %s\n", strerror(errno));
		kill(s->pid, SIGKILL);
		return -1;
	}
	task_make(s, s->pid);
	if (write(gate, "", 1) != 1)
		trace_kill(s, WHY_KILLED);
	for (;;) {
		int status = 0;
		pid_t tid = waitpid(-1, &status, __WALL);

		if (tid > 0)
			changed(s, tid, status);
		else if (errno != EINTR)
			break;
		if (tick_due)
			tick(s);
		if (s->killed && now() - s->killed_at > GRACE_NS) {
			fprintf(stderr, "observe: the program is stuck in the kernel and was left behind\n");
			break;
		}
	}
	while (s->task_count)
		task_gone(s, s->tasks[0]->tid);
	return 0;
}
