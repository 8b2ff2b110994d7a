/*
 * The registry of running VMs: NAME.sock in the runtime directory ($XDG_RUNTIME_DIR/hvkit, /run/hvkit for root), mode
 * 0600 in a directory of mode 0700 that belongs to us. A name is held by a lock (NAME.lock, flock) for as long as its
 * process lives, so a socket left by a crash is recognised and replaced.
 */
#ifndef HV_CONTROL_REGISTRY_H
#define HV_CONTROL_REGISTRY_H

#include <sys/types.h>

#include "base/error.h"
#include "machine/config.h"

struct hv_registration {
	int listen_fd; /* listening, non-blocking */
	int lock_fd, dir_fd;
	char name[HV_NAME_MAX + 1];
};

struct hv_registry_entry {
	char name[HV_NAME_MAX + 1];
	char path[108];
};

HV_API_BEGIN
/* The directory's path into buf; made when `create`. Refused when it isn't ours or others may enter. */
int hv_runtime_dir(char *buf, size_t size, int create, struct hv_error *err);
/* Takes name: -EADDRINUSE with a sentence when a living VM has it. */
int hv_registry_take(struct hv_registration *r, const char *name, struct hv_error *err);
void hv_registry_release(struct hv_registration *r); /* removes socket and lock */
/* Living VMs, sorted by name, into a malloc'd array the caller frees. */
int hv_registry_list(struct hv_registry_entry **out, unsigned *count, struct hv_error *err);
HV_API_END

#endif
