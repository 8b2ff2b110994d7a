/*
 * From a request to a response: the commands of QMP, their arguments, and what a client's session holds. No
 * sockets here, so that the console of Ctrl-A c, the tests and the fuzzer run the same commands as a client
 * does.
 */
#ifndef HV_CONTROL_QMP_DISPATCH_H
#define HV_CONTROL_QMP_DISPATCH_H

#include <stdatomic.h>
#include <stdbool.h>

#include <jansson.h>

#include "base/error.h"
#include "base/io.h"
#include "machine/machine.h"

#define HV_QMP_FDS_MAX     8 /* descriptors that a session holds under a name */
#define HV_QMP_PENDING_MAX 4 /* descriptors that came and have no name yet */

struct hv_qmp_session {
	struct hv_machine *machine; /* borrowed; NULL: commands that need one fail */
	bool negotiated;            /* qmp_capabilities has been */
	unsigned pending_count, fd_count;
	int pending[HV_QMP_PENDING_MAX]; /* received by SCM_RIGHTS, oldest first */
	struct {
		char *name;
		int fd;
	} fds[HV_QMP_FDS_MAX];
};

/* One argument: type s string, i integer, b boolean, l array, a address (integer, "0x..." or "$reg+..."). */
struct hv_qmp_arg {
	const char *name;
	char type;
	bool optional;
};

#define HV_QMP_ARGS_MAX 6

/* A command's failure with this errno has QEMU's class DeviceNotActive, others GenericError. */
#define HV_QMP_NOT_ACTIVE ENXIO

/* args is an object that has been checked against the table. *result starts as NULL, which stands for {}. */
typedef int hv_qmp_run(struct hv_qmp_session *s, const json_t *args, json_t **result, struct hv_error *err);

struct hv_qmp_command {
	const char *name;
	hv_qmp_run *run;
	bool offline; /* works without a machine */
	struct hv_qmp_arg args[HV_QMP_ARGS_MAX];
};

/* Tables end with a NULL name: QEMU's commands and hvkit's own. */
extern const struct hv_qmp_command hv_qmp_commands_qemu[];
extern const struct hv_qmp_command hv_qmp_commands_own[];

HV_API_BEGIN
void hv_qmp_session_init(struct hv_qmp_session *s, struct hv_machine *machine);
void hv_qmp_session_free(struct hv_qmp_session *s); /* closes its descriptors */
/* A descriptor that came with the bytes; owned by the session from now on. */
void hv_qmp_session_receive(struct hv_qmp_session *s, int fd);
/* Takes fd into the session under name (getfd); owned by it, also on failure. */
int hv_qmp_session_name(struct hv_qmp_session *s, const char *name, int fd, struct hv_error *err);

/* One document from a client into one response, a new reference; NULL only without memory. */
json_t *hv_qmp_respond(struct hv_qmp_session *s, const char *text, size_t length);

/* One command by name, arguments checked (args may be NULL). *result: a new reference, an object when there
 * is nothing else to say. */
int hv_qmp_call(struct hv_qmp_session *s, const char *name, json_t *args, json_t **result,
		struct hv_error *err);

/* {"error": {"class": ..., "desc": ...}} */
json_t *hv_qmp_error(const char *class_name, const char *desc);
json_t *hv_qmp_greeting(void);
/* Gives jansson its hash seed: it would open /dev/urandom for one, which a sandbox may forbid. */
void hv_qmp_prepare(void);
HV_API_END

/* For the tables: a checked integer argument or its default, the cpu-index, the descriptor behind protocol.
 */
json_int_t hv_qmp_int(const json_t *args, const char *name, json_int_t otherwise);
int hv_qmp_cpu(const struct hv_qmp_session *s, const json_t *args, unsigned *cpu, struct hv_error *err);
/*
 * The file behind "fd:NAME" or "file:PATH", and its end: rc tells whether what stands in it is whole (a PATH
 * gets its name only then). A descriptor must be a regular file: a pipe that nobody reads would hold the
 * machine for ever.
 */
int hv_qmp_open_protocol(struct hv_qmp_session *s, const char *protocol, struct hv_file *f,
			 struct hv_error *err);
int hv_qmp_close_protocol(struct hv_file *f, int rc, struct hv_error *err);
/* What `info` knows, by word; see qmp_info.c. */
int hv_qmp_info(struct hv_machine *m, const char *what, unsigned cpu, json_t **result, struct hv_error *err);
json_t *hv_qmp_version(void);
/* "0x..." */
json_t *hv_json_hex(uint64_t v);

#endif
