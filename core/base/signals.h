/*
 * Which signals a library's thread takes: none that is meant for the process, which are the tool's to handle
 * on its own thread; but every one that its own instruction causes. The kernel kills a process at once when
 * such a signal is blocked, and a tool's handler, which gives the terminal back, would never run.
 */
#ifndef HV_BASE_SIGNALS_H
#define HV_BASE_SIGNALS_H

#include <pthread.h>
#include <signal.h>

#include "base/api.h"

/* For the time of a pthread_create, whose thread inherits it; *before gets what pthread_sigmask then puts
 * back. */
static inline void hv_signals_block(sigset_t *before)
{
	static const int own[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS, SIGABRT};
	sigset_t set;

	sigfillset(&set);
	for (unsigned i = 0; i < HV_ARRAY_SIZE(own); i++)
		sigdelset(&set, own[i]);
	pthread_sigmask(SIG_SETMASK, &set, before);
}

static inline void hv_signals_unblock(const sigset_t *before)
{
	pthread_sigmask(SIG_SETMASK, before, NULL);
}

#endif
