/*
 * Signals: the first one that asks us to end only sets a mark, which a long run looks at many times a second;
 * the second takes its default effect. A conversion has nothing under its final name until it is complete, so
 * even that leaves nothing wrong behind. Rules: signal(7), sigaction(2).
 */
#include <signal.h>
#include <stddef.h>

#include "hvmigrate.h"

static volatile sig_atomic_t asked;

static void ask(int number)
{
	asked = number;
}

void hvm_signals_catch(void)
{
	static const int ends[] = {SIGINT, SIGTERM, SIGHUP};
	struct sigaction action = {.sa_handler = ask, .sa_flags = SA_RESTART}, was;

	for (size_t i = 0; i < HV_ARRAY_SIZE(ends); i++)
		sigaddset(&action.sa_mask, ends[i]);
	action.sa_flags |= (int)SA_RESETHAND;
	for (size_t i = 0; i < HV_ARRAY_SIZE(ends); i++)
		if (sigaction(ends[i], NULL, &was) == 0 && was.sa_handler != SIG_IGN)
			sigaction(ends[i], &action, NULL);
}

int hvm_signals_asked(void)
{
	return asked;
}

int hvm_signals_leave(int status)
{
	if (asked) {
		signal(asked, SIG_DFL);
		raise(asked);
	}
	return status;
}
