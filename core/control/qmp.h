/*
 * QMP, the QEMU Machine Protocol, over a Unix socket: the server that every VM has, and the client that hvctl
 * and others use. Rules: QEMU's docs/interop/qmp-spec.
 */
#ifndef HV_CONTROL_QMP_H
#define HV_CONTROL_QMP_H

#include <stdbool.h>
#include <sys/types.h>

#include <jansson.h>

#include "base/error.h"
#include "base/log.h"
#include "control/monitor.h"
#include "control/registry.h"
#include "machine/machine.h"

#define HV_QMP_LINE_MAX    (1u << 20) /* bytes of one request */
#define HV_QMP_DEPTH_MAX   64         /* of nesting */
#define HV_QMP_CLIENTS_MAX 16

struct hv_qmp_server;
struct hv_qmp_client;

HV_API_BEGIN
/*
 * Serves r's socket for machine on its own threads; opens nothing, so it may come after a sandbox closed.
 * Peers of another uid (but root) are turned away by SO_PEERCRED. Stop joins all threads within a second,
 * whatever clients do. r and machine outlive the server.
 */
int hv_qmp_server_start(struct hv_qmp_server **out, struct hv_machine *machine, struct hv_registration *r,
			const struct hv_log *log, struct hv_error *err);
void hv_qmp_server_stop(struct hv_qmp_server *s);

/* Connects to path (or the VM called name), reads the greeting, negotiates capabilities; timeout_ms for each
 * step. -ENOENT: no such VM. A client is for one thread at a time. */
int hv_qmp_connect(struct hv_qmp_client **out, const char *name_or_path, int timeout_ms,
		   struct hv_error *err);
/* One command; arguments (may be NULL) are borrowed. *result is a new reference, even when it is an empty
 * object. fd is passed along by SCM_RIGHTS when it is not -1 (getfd). Events that arrive meanwhile are
 * queued. -EREMOTEIO: the VM answered with an error, whose text is err's; -ECONNRESET: it is gone;
 * -ETIMEDOUT. */
int hv_qmp_execute(struct hv_qmp_client *c, const char *command, json_t *arguments, int fd, json_t **result,
		   struct hv_error *err);
/* The next event, waiting at most timeout_ms (-1: for ever); NULL when none came or the VM is gone. A new
 * reference. */
json_t *hv_qmp_event(struct hv_qmp_client *c, int timeout_ms);
/* For work that takes long (dump): the limit of each step from now on, -1 for none. */
void hv_qmp_set_timeout(struct hv_qmp_client *c, int timeout_ms);
/* To poll together with a terminal; readable when hv_qmp_event may have something. Borrowed. */
int hv_qmp_fd(const struct hv_qmp_client *c);
/* False when the connection has ended. */
bool hv_qmp_alive(const struct hv_qmp_client *c);
/* The process at the other end, by SO_PEERCRED. */
pid_t hv_qmp_pid(const struct hv_qmp_client *c);
void hv_qmp_close(struct hv_qmp_client *c);
HV_API_END

#endif
