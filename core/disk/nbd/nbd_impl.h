/*
 * Inside core/disk: a disk on an NBD server, shared by the files that make one: nbd_pool.c connects and
 * waits, nbd_range.c sends what is to be read and written, nbd.c makes a disk of it.
 */
#ifndef HV_DISK_NBD_IMPL_H
#define HV_DISK_NBD_IMPL_H

#include <libnbd.h>
#include <pthread.h>

#include "disk/disk.h"

#define HV_NBD_CONNECTIONS 4
#define HV_NBD_PIECE       (256U << 10) /* bytes of a request */
#define HV_NBD_CONTEXT     LIBNBD_CONTEXT_BASE_ALLOCATION

struct hv_nbd_extent {
	uint64_t offset, length;
	enum hv_run_kind kind;
};

struct hv_nbd {
	char *uri;
	uint64_t size;
	uint32_t least, most; /* bytes of a request: a multiple of least, at most `most` */
	bool writable, can_zero, can_flush, tells;
	int wait_ms; /* for one answer */

	pthread_mutex_t lock; /* of what follows */
	pthread_cond_t back;  /* a connection was given back */
	struct nbd_handle *idle[HV_NBD_CONNECTIONS];
	unsigned idles, open, limit;

	pthread_mutex_t map_lock; /* of the last answer on extents */
	struct hv_nbd_extent *extent;
	unsigned extents;

	pthread_mutex_t edge_lock; /* around reading, changing and writing a block of `least` bytes */
};

/* Fills err with "URI: what: why" by what libnbd says, on the thread that it failed on. */
int hv_nbd_fail(const struct hv_nbd *n, const char *what, struct hv_error *err);
/* Until the command is answered: 0, or why not. -ETIMEDOUT leaves it in flight. */
int hv_nbd_wait(const struct hv_nbd *n, struct nbd_handle *h, int64_t cookie, const char *what,
		struct hv_error *err);

int hv_nbd_connect(const struct hv_nbd *n, struct nbd_handle **handle, struct hv_error *err);
void hv_nbd_disconnect(struct nbd_handle *h);
/* A connection for this thread alone: an idle one, a new one, or the next that is given back. */
int hv_nbd_take(struct hv_nbd *n, struct nbd_handle **h, struct hv_error *err);
/* Back into the pool; one that has failed is closed, which ends what is in flight on it. */
void hv_nbd_give(struct hv_nbd *n, struct nbd_handle *h);

enum hv_nbd_verb { HV_NBD_READ, HV_NBD_WRITE, HV_NBD_ZERO };

/* Reads into buf, writes from it, or zeroes (buf NULL) any range of the disk, whatever the server's limits.
 */
int hv_nbd_range(struct hv_nbd *n, enum hv_nbd_verb verb, uint8_t *buf, uint64_t length, uint64_t offset,
		 struct hv_error *err);

#endif
