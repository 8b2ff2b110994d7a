/*
 * The registry of running VMs: NAME.sock in the runtime directory ($XDG_RUNTIME_DIR/hvkit, /run/hvkit for
 * root), mode 0600 in a directory of mode 0700 that belongs to us. A name is held by a lock (NAME.lock, an
 * open file description lock) for as long as its process lives, so a socket left by a crash is recognised and
 * replaced.
 */
#ifndef HV_CONTROL_REGISTRY_H
#define HV_CONTROL_REGISTRY_H

#include <sys/types.h>

#include "base/error.h"
#include "machine/config.h"

struct hv_registration {
	int listen_fd; /* listening, non-blocking; -1 when released */
	int lock_fd, dir_fd;
	char name[HV_NAME_MAX + 1];
};

#define HV_RUNTIME_PATH_MAX 1024

struct hv_registry_entry {
	char name[HV_NAME_MAX + 1];
	char path[HV_RUNTIME_PATH_MAX + HV_NAME_MAX + 8];
};

HV_API_BEGIN
/* The directory's path into buf; made when `create`. Refused when it isn't ours or others may enter; -ENOENT
 * when it is not there and `create` is 0 (buf is filled all the same). */
int hv_runtime_dir(char *buf, size_t size, int create, struct hv_error *err);
/* Takes name: -EADDRINUSE with a sentence when a living VM has it. */
int hv_registry_take(struct hv_registration *r, const char *name, struct hv_error *err);
/* Removes socket and lock. Opens nothing, so it works inside a sandbox and in a signal handler (unlinkat,
 * close). Twice does no harm.
 */
void hv_registry_release(struct hv_registration *r);
/* Living VMs, sorted by name, into a malloc'd array the caller frees. No directory: none. */
int hv_registry_list(struct hv_registry_entry **out, unsigned *count, struct hv_error *err);
/* A stream connected to path, non-blocking and close-on-exec, however long the path is. Waits at most
 * timeout_ms for a place in the listener's queue. */
int hv_registry_connect(const char *path, int timeout_ms, struct hv_error *err);
HV_API_END

#endif
