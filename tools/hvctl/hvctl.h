/*
 * hvctl's parts: main.c reads the command line, list.c shows the running VMs, run.c runs one command, shell.c
 * is the interactive side. They stand on core/control and on GNU readline.
 */
#ifndef HVCTL_H
#define HVCTL_H

#include <signal.h>
#include <stdbool.h>

#include "control/qmp.h"

#define ANSWER_MS 15000 /* longer than any command but dump may take */

struct hvctl {
	bool json;
	struct hv_qmp_client *client; /* NULL: no VM chosen */
	char name[HV_RUNTIME_PATH_MAX];
};

/* What hvctl has beside the monitor's commands. */
extern const char *const hvctl_words[]; /* ended by NULL */

/* Set by Ctrl-C; who waits long looks at it. */
extern volatile sig_atomic_t hvctl_interrupted;
void hvctl_catch_interrupts(void);

/* All return an exit status and have said on stderr what was wrong. */
int hvctl_use(struct hvctl *h, const char *name);
int hvctl_list(const struct hvctl *h);
int hvctl_words_run(struct hvctl *h, int argc, char **argv);
int hvctl_line_run(struct hvctl *h, const char *line);
int hvctl_wait(struct hvctl *h);
int hvctl_shell(struct hvctl *h);

/* text to stdout; what could steer a terminal comes out as '?', since guests write into what is shown here.
 */
void hvctl_print(const char *text);
void hvctl_print_json(const json_t *value);
void hvctl_print_help(void);
/* "[VM 'x': STOP]" */
void hvctl_print_event(const struct hvctl *h, const json_t *event);
int hvctl_complain(const struct hv_error *err);

#endif
