/*
 * Signals: those that ask us to end or to stop come to the main loop as something to read; those that end the
 * process for good find the terminal, the control socket and the unfinished trace put away first.
 * Rules: signal(7), signal-safety(7), signalfd(2).
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "hvrun.h"

/* A signal that was ignored when we were started stays so: nohup, or a job that a script put into the
 * background. */
static void add_unless_ignored(sigset_t *set, int number)
{
	struct sigaction was;

	if (sigaction(number, NULL, &was) == 0 && was.sa_handler != SIG_IGN)
		sigaddset(set, number);
}

int signals_take(int *fd, struct hv_error *err)
{
	sigset_t set;

	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ,
	       SIG_IGN); /* a disk at the limit of `ulimit -f` is a full one: the VM stops, not hvrun */
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGCONT);
	sigaddset(&set, SIGWINCH);
	add_unless_ignored(&set, SIGINT);
	add_unless_ignored(&set, SIGHUP);
	add_unless_ignored(&set, SIGQUIT);
	add_unless_ignored(&set, SIGTSTP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	*fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return *fd < 0 ? hv_fail_errno(err, "no descriptor for signals") : 0;
}

void signals_stop_here(void)
{
	sigset_t set;

	terminal_restore();
	sigemptyset(&set);
	sigaddset(&set, SIGTSTP);
	raise(SIGTSTP);
	sigprocmask(SIG_UNBLOCK, &set, NULL); /* now it takes its default effect; SIGCONT follows */
	sigprocmask(SIG_BLOCK, &set, NULL);
}

/* --- the end that nobody expects --- */

/* Of the process; a handler can reach nothing else. */
static struct hv_registration *name;
static struct hv_file *trace;

static void die_tidily(int number)
{
	terminal_restore();
	hv_registry_release(name);
	hv_file_abandon(trace);
	signal(number, SIG_DFL);
	raise(number);
}

void signals_watch(struct hv_registration *taken, struct hv_file *unfinished)
{
	/* Every one that ends a process by default and can be caught, but those that signals_take blocks. The
	 * sanitizers keep their own handlers for crashes. */
	static const int fatal[] = {
#ifndef HV_FILTER_SANITIZED
		SIGSEGV, SIGBUS,  SIGILL,  SIGFPE,  SIGABRT,
#endif
		SIGTRAP, SIGSYS,  SIGUSR1, SIGUSR2, SIGALRM,   SIGVTALRM,
		SIGPROF, SIGXCPU, SIGXFSZ, SIGIO,   SIGSTKFLT, SIGPWR,
	};
	struct sigaction action = {.sa_handler = die_tidily, .sa_flags = (int)SA_RESETHAND}, was;

	name = taken;
	trace = unfinished;
	sigfillset(&action.sa_mask);
	for (size_t i = 0; i < HV_ARRAY_SIZE(fatal); i++)
		if (sigaction(fatal[i], NULL, &was) == 0 && was.sa_handler != SIG_IGN)
			sigaction(fatal[i], &action, NULL);
	for (int number = SIGRTMIN + 1; number <= SIGRTMAX; number++) /* SIGRTMIN is the machine's */
		sigaction(number, &action, NULL);
}
