/*
 * A Unix socket that listens at a path: open to its user alone, in place of one that a dead process left, and
 * gone with its owner.
 */
#ifndef HV_BASE_LISTENER_H
#define HV_BASE_LISTENER_H

#include <sys/types.h>

#include "base/error.h"

struct hv_listener {
	int fd;     /* nonblocking, for accept; -1 when not open */
	int folder; /* the folder of the path, held open, so that closing needs no path but the name in it */
	dev_t dev;
	ino_t ino; /* so that closing removes our socket and no other */
	char name[108];
};

HV_API_BEGIN
/*
 * `what` starts the sentences ("--vsock"). -EADDRINUSE: somebody listens there, or something else than a
 * socket is in the way; -EINVAL: the path is too long. l is to be closed in any case.
 */
int hv_listener_open(struct hv_listener *l, const char *what, const char *path, int backlog,
		     struct hv_error *err);
void hv_listener_close(struct hv_listener *l); /* removes the socket; again does nothing */
HV_API_END

#endif
