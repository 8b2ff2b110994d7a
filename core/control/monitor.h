/*
 * The commands that a person types ("info regs", "x/4i $rip", "inject nmi"): one table for hvctl, for the
 * console of Ctrl-A c and for QMP's human-monitor-command. Each command is two translations: words into a
 * command of QMP, and QMP's answer into text. So hvctl does both on its side of the socket, and the console
 * does both in the VM.
 */
#ifndef HV_CONTROL_MONITOR_H
#define HV_CONTROL_MONITOR_H

#include <stdbool.h>

#include <jansson.h>

#include "base/error.h"
#include "machine/machine.h"

#define HV_MONITOR_WORDS_MAX 32
#define HV_MONITOR_FILE_FD   "hvkit-file" /* the name by which a request's file is passed with getfd */

struct hv_monitor_request;
struct hv_qmp_session;

struct hv_monitor_command {
	const char *name;
	const char *args;   /* "regs|sregs|... [CPU]", "" for none */
	const char *help;   /* one line */
	const char *detail; /* more lines for `help NAME`; may be NULL */
	const char *const
		*words; /* what the first argument may be, for completion; ended by NULL; may be NULL */
	bool takes_cpu, takes_file;
	/* argv[0] is the command's own word. */
	int (*parse)(int argc, char **argv, struct hv_monitor_request *r, struct hv_error *err);
	char *(*text)(const struct hv_monitor_request *r, const json_t *result);
};

struct hv_monitor_request {
	const struct hv_monitor_command *command;
	const char *execute; /* of QMP; a constant. NULL: text is the answer already (help) */
	json_t *arguments;   /* owned; may be NULL */
	char *file;          /* owned; the result goes there: who runs the request opens it and passes it as
				HV_MONITOR_FILE_FD. Otherwise NULL */
	char *text;          /* owned */
};

HV_API_BEGIN
/* Ended by a NULL name. */
extern const struct hv_monitor_command hv_monitor_commands[];
const struct hv_monitor_command *hv_monitor_find(const char *word);

/* A line, or words that a shell has split already, into a request; ended by hv_monitor_free, also after a
 * failure. Failures are the user's: -EINVAL with usage status. An empty line gives an empty text. */
int hv_monitor_parse(const char *line, struct hv_monitor_request *r, struct hv_error *err);
int hv_monitor_parse_words(int argc, char **argv, struct hv_monitor_request *r, struct hv_error *err);
void hv_monitor_free(struct hv_monitor_request *r);
/* What a person reads, malloc'd, each line ended by a newline; NULL only without memory. */
char *hv_monitor_text(const struct hv_monitor_request *r, const json_t *result);
/* The list of commands, or the help of one; malloc'd. */
char *hv_monitor_help(const char *command);

/*
 * A line run on machine itself (the console of Ctrl-A c): the answer, one malloc'd text, is for a person. A
 * command that writes a file does so unless the VM is locked into its sandbox.
 */
int hv_monitor_run(struct hv_machine *machine, const char *line, char **answer, struct hv_error *err);
/* human-monitor-command: the same in a client's session, with QEMU's words where they differ ("stop" pauses,
 * "cont", "system_reset", "info registers"), and sentences about failures as part of the text. -ENOMEM or 0.
 */
int hv_monitor_run_qemu(struct hv_qmp_session *s, const char *line, unsigned cpu, char **answer);
HV_API_END

/* monitor_text.c */
char *hv_text_status(const struct hv_monitor_request *r, const json_t *result);
char *hv_text_info(const struct hv_monitor_request *r, const json_t *result);
char *hv_text_trace(const struct hv_monitor_request *r, const json_t *result);
char *hv_text_send(const struct hv_monitor_request *r, const json_t *result);
char *hv_text_examine(const struct hv_monitor_request *r, const json_t *result);
char *hv_text_translate(const struct hv_monitor_request *r, const json_t *result);
char *hv_text_done(const struct hv_monitor_request *r, const json_t *result);

#endif
