/*
 * What the files of the block device share. blk.c has its requests; around them stand
 *
 *   blk_open.c   the image: opened, locked, checked, before the sandbox closes
 *   blk_plain.c  data that lies in a file as it is: moved by the kernel, many requests at a time
 *   blk_uring.c  the ring through which the kernel is asked
 *   blk_keep.c   requests that wait for room on the host; saving and loading them
 *
 * Threads: all of a struct blk but what is said to be the worker's own is guarded by the device's lock.
 */
#ifndef HV_DEVICE_VIRTIO_BLK_IMPL_H
#define HV_DEVICE_VIRTIO_BLK_IMPL_H

#include "device/virtio/blk.h"
#include "device/virtio/worker.h"
#include "disk/disk.h"

#define HV_BLK_OUT_MAX 64 /* requests that are with the kernel or kept, one of them for the one in hand */

#define HV_BLK_BOUNCE_SIZE (1u << 20)

struct hv_blk_ring;

enum { /* the status of a request (5.2.6); the last two are our own */
       STATUS_OK,
       STATUS_IOERR,
       STATUS_UNSUPP,
       STATUS_LATER, /* the kernel has it; blk_plain.c gives it back */
       STATUS_KEEP,  /* the host is full; blk_keep.c has it until there is room */
};

#define SECTOR 512u

/* An open image. Made before the sandbox closes, taken over by the device. */
struct hv_blk_image {
	struct hv_disk *disk;
	struct hv_blk_ring *ring; /* NULL: the worker's thread does all */
	int direct;               /* cache=none: the file of a raw image once more, by O_DIRECT; else -1 */
	uint32_t memory_align, offset_align; /* of direct */
	void *bounce; /* of direct, for buffers that aren't aligned: HV_BLK_BOUNCE_SIZE bytes */
};

/* A request that isn't in hand. */
struct hv_blk_out {
	struct hv_virtq_chain chain;
	unsigned queue;
	struct hv_blk_out *next;

	/* With the kernel: what is still to be moved. A flush has no buffers. */
	struct iovec iov[HV_VIRTQ_BUFFERS_MAX];
	unsigned first, count;
	int fd;
	uint64_t file_at, disk_at;
	bool write, flush, through; /* through: a write that is followed by a flush */
};

struct blk {
	struct hv_virtio v;
	struct hv_virtio_worker worker;
	struct hv_blk_image *image;
	struct hv_disk *disk; /* image's */
	uint64_t size;        /* bytes, whole sectors */
	uint8_t serial[HV_BLK_SERIAL_MAX];
	uint64_t served; /* requests, for describe */

	/* The worker's own; blk_keep.c also looks at them, and at out[], while the worker is held. */
	struct hv_disk_io *io;
	struct hv_virtq_chain chain; /* the request in hand, and the queue it came from */
	unsigned queue;
	bool writethrough; /* 5.2.6.2: each write is on stable storage when it is given back */
	unsigned complaints;
	struct hv_blk_out *out, *free; /* HV_BLK_OUT_MAX of them; those not in use */
	struct hv_blk_out *kept, **kept_end;
	int full;   /* why the last one was kept: ENOSPC...; 0: it was told */
	bool retry; /* someone has let the device go on since */
};

static inline struct blk *blk_of(struct hv_virtio *v)
{
	return hv_container_of(v, struct blk, v);
}

/* The configuration space (5.2.4) where more than one file looks at it. */
#define BLK_CONFIG_WRITEBACK 32

/* --- blk.c --- */

/* Gives a request back to the driver with its status. Lock held. */
void hv_blk_finish(struct blk *b, const struct hv_virtq_chain *chain, unsigned queue, uint8_t status);
/* The status for what the host answered; tells of a failure in the log. */
uint8_t hv_blk_answer(struct blk *b, int rc, const char *what, uint64_t at, const struct hv_error *err);

/* --- blk_plain.c: on the worker's thread, lock not held unless it says so --- */

#define HV_BLK_NOT_PLAIN 0xff
/*
 * Moves `length` bytes of buffers[] behind the first `skip` ones from or to the disk at byte `at`, where they
 * lie in a file as they are: the status, STATUS_LATER when the kernel has been asked to, HV_BLK_NOT_PLAIN
 * when libhvdisk has to.
 */
uint8_t hv_blk_move(struct blk *b, const struct iovec *buffers, size_t skip, size_t length, uint64_t at,
		    bool write);
/* A flush by the kernel, likewise. */
uint8_t hv_blk_sync(struct blk *b);
/* Waits until the kernel has nothing of this disk: before tables change. */
void hv_blk_settle(struct blk *b);
/* hv_virtio_worker_ops */
void hv_blk_collect(struct hv_virtio *v);

struct hv_blk_out *hv_blk_out_get(struct blk *b); /* NULL: all in use */
void hv_blk_out_put(struct blk *b, struct hv_blk_out *out);
void hv_blk_chain_copy(struct hv_virtq_chain *to, const struct hv_virtq_chain *from);

/* --- blk_keep.c: lock held --- */

void hv_blk_keep(struct blk *b, const struct hv_virtq_chain *chain, unsigned queue);
bool hv_blk_has_kept(const struct blk *b);
/* The oldest of them into b->chain, when it may be tried again. */
bool hv_blk_take_kept(struct blk *b);
void hv_blk_let_go(struct blk *b);          /* after a hold: what was kept may be tried again */
void hv_blk_rested(struct hv_virtio *v);    /* hv_virtio_worker_ops */
void hv_blk_drop_kept(struct hv_virtio *v); /* reset */
void hv_blk_save(struct hv_virtio *v, struct hv_encoder *e);
int hv_blk_load(struct hv_virtio *v, struct hv_decoder *d, struct hv_error *err);
unsigned hv_blk_kept(const struct hv_virtio *v, unsigned queue);

/* --- blk_uring.c --- */

/* NULL where the kernel has no io_uring for us: *why tells. Before the sandbox closes. */
struct hv_blk_ring *hv_blk_ring_new(const char **why);
void hv_blk_ring_free(struct hv_blk_ring *ring);
/* Hands out[] on with the next sleep; false when the ring is full of what hasn't been handed on. */
bool hv_blk_ring_add(struct hv_blk_ring *ring, struct hv_blk_out *out);
/* Hands on what was added, and waits until something has come back or the kick was written to. */
void hv_blk_ring_wait(struct hv_blk_ring *ring, int kick);
/* The next that has come back, with the kernel's answer; NULL: none. *kicked: the kick came. */
struct hv_blk_out *hv_blk_ring_next(struct hv_blk_ring *ring, int *answer, bool *kicked);
#endif
