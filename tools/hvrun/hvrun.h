/*
 * What the files of hvrun share. main.c tells the story; each other file has one subject.
 */
#ifndef HVRUN_H
#define HVRUN_H

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "base/io.h"
#include "control/registry.h"
#include "base/error.h"
#include "device/chardev.h"
#include "machine/config.h"
#include "machine/machine.h"

/* --- options.c: the command line --- */

enum hvrun_action { HVRUN_RUN, HVRUN_HELP, HVRUN_VERSION, HVRUN_DOCTOR };

struct hvrun_options {
	enum hvrun_action action;
	bool json;
	struct hv_config
		config; /* checked and complete when action is HVRUN_RUN; freed by the caller in any case */
};

/* Parses argv. A failure has its sentence in err; getopt has printed its own where err->text is empty. */
int options_parse(struct hvrun_options *o, int argc, char **argv, struct hv_error *err);
void options_help(void);

/* --- terminal.c: the person's terminal --- */

#define CONSOLE_LINE_MAX 512

/* The keyboard between a person and the guest: escape keys, and the console's line editor. */
struct terminal {
	struct hv_machine *machine; /* set before input flows */
	bool keyboard;              /* stdin is a terminal and a line's: keys are looked at */
	bool on_console;            /* that line is the virtio console, not the serial one */
	int line_fd;                /* an eventfd: a line for the console is ready */

	/* Of the line's thread. */
	bool escape; /* Ctrl-A came last */
	bool console;
	unsigned skip; /* state within an escape sequence of a cursor key */
	size_t length;
	char edited[CONSOLE_LINE_MAX];
	char before[CONSOLE_LINE_MAX]; /* the last line, for the cursor key up */

	pthread_mutex_t lock; /* of ready */
	bool busy;            /* ready holds a line that the main thread has not answered yet */
	char ready[CONSOLE_LINE_MAX];
};

int terminal_init(struct terminal *t, const struct hv_config *config, struct hv_error *err);
/* Puts the terminal into raw mode if it is a keyboard and ours (in the foreground). Again after SIGCONT. */
void terminal_raw(const struct terminal *t);
/* Tells a virtio console on standard output how large the terminal there is. */
void terminal_size(const struct terminal *t);
/* Puts it back as it was. Any number of times; safe in a signal handler. */
void terminal_restore(void);
/* An hv_chardev_filter_fn; ctx is the struct terminal. */
size_t terminal_filter(void *terminal, const uint8_t *in, size_t count, uint8_t *out);
/* Answers the console's line; on the main thread, when line_fd is readable. */
void terminal_answer(struct terminal *t);
void terminal_free(struct terminal *t);

/* --- signals.c: being asked to end, to stop, and being killed --- */

/* A descriptor (signalfd) to read the signals from that ask us to end or to stop; they are blocked from now
 * on, so that no thread ever takes them. */
int signals_take(int *fd, struct hv_error *err);
/* Stops as SIGTSTP does, the terminal given back before. */
void signals_stop_here(void);
/* From now on a signal that kills, a crash too, first gives back the terminal and removes the control socket
 * and the unfinished trace. Both live as long as the process. */
void signals_watch(struct hv_registration *taken, struct hv_file *unfinished);

/* --- sandbox.c: locking ourselves in --- */

/* Landlock: from now on names are made, changed and removed only in the folders that config needs. Before any
 * thread starts. Where the kernel lacks it, nothing happens: the system call filter is what counts. */
void sandbox_folders(const struct hv_config *config, const struct hv_log *log);
/* no_new_privs and the system call filter that config's VM can live with, for all threads there are and will
 * be. For good. */
int sandbox_lock(const struct hv_config *config, struct hv_error *err);

/* --- report.c: tables at the end --- */

/* Exits by reason, on stderr. The machine has ended. */
void report_stats(struct hv_machine *m);

/* --- doctor.c: what this host can do --- */

/* Prints it to stdout and returns the tool's exit status: 0 when VMs can run here. */
int doctor(bool json);

#endif
