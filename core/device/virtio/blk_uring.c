/*
 * The block device's way to the kernel: an io_uring (io_uring(7), by liburing). It is made before the sandbox
 * closes, as io_uring_setup is then forbidden; a ring could otherwise be used to open and connect past the
 * system call filter, which doesn't see what a ring is asked for. For the same reason this one takes only the
 * few operations that a disk needs (io_uring_register(2), IORING_REGISTER_RESTRICTIONS).
 *
 * Used by the device's worker only. The guest's notifications come through the ring, too: one read of the
 * kick is always in it, so that one system call waits for both.
 */
#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "device/virtio/blk_impl.h"

#define ENTRIES 128u /* more than HV_BLK_OUT_MAX, and the kick */

struct hv_blk_ring {
	struct io_uring ring;
	uint64_t count; /* what the kick's read reads */
	bool armed;
};

/* liburing 2.3 has functions for these two, and its shared object hides them. */
static int ask(const struct io_uring *ring, unsigned what, void *list, unsigned count)
{
	return syscall(SYS_io_uring_register, ring->ring_fd, what, list, count) < 0 ? -errno : 0;
}

static int restrict_to_disks(struct io_uring *ring)
{
	static const uint8_t ops[] = {IORING_OP_NOP, IORING_OP_READ, IORING_OP_READV, IORING_OP_WRITEV,
				      IORING_OP_FSYNC};
	struct io_uring_restriction list[HV_ARRAY_SIZE(ops)];

	memset(list, 0, sizeof(list));
	for (unsigned i = 0; i < HV_ARRAY_SIZE(ops); i++) {
		list[i].opcode = IORING_RESTRICTION_SQE_OP;
		list[i].sqe_op = ops[i];
	}
	return ask(ring, IORING_REGISTER_RESTRICTIONS, list, HV_ARRAY_SIZE(list));
}

/* Setting up may be allowed where entering is not: a request that does nothing tells. */
static int try_it(struct io_uring *ring)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
	struct io_uring_cqe *cqe;
	int rc;

	if (!sqe)
		return -EBUSY;
	io_uring_prep_nop(sqe);
	rc = io_uring_submit_and_wait(ring, 1);
	if (rc < 0)
		return rc;
	rc = io_uring_peek_cqe(ring, &cqe);
	if (rc < 0)
		return rc;
	rc = cqe->res;
	io_uring_cqe_seen(ring, cqe);
	return rc;
}

struct hv_blk_ring *hv_blk_ring_new(const char **why)
{
	struct hv_blk_ring *r = calloc(1, sizeof(*r));
	int rc = r ? io_uring_queue_init(ENTRIES, &r->ring, IORING_SETUP_R_DISABLED | IORING_SETUP_CLAMP)
		   : -ENOMEM;

	if (rc < 0) {
		*why = strerror(-rc);
		free(r);
		return NULL;
	}
	rc = restrict_to_disks(&r->ring);
	if (rc >= 0)
		rc = ask(&r->ring, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
	if (rc >= 0)
		rc = try_it(&r->ring);
	if (rc >= 0)
		return r;
	*why = strerror(-rc);
	hv_blk_ring_free(r);
	return NULL;
}

void hv_blk_ring_free(struct hv_blk_ring *r)
{
	if (!r)
		return;
	io_uring_queue_exit(&r->ring);
	free(r);
}

bool hv_blk_ring_add(struct hv_blk_ring *r, struct hv_blk_out *out)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&r->ring);

	if (!sqe)
		return false;
	if (out->flush)
		io_uring_prep_fsync(sqe, out->fd, IORING_FSYNC_DATASYNC);
	else if (out->write)
		io_uring_prep_writev(sqe, out->fd, out->iov + out->first, out->count - out->first,
				     out->file_at);
	else
		io_uring_prep_readv(sqe, out->fd, out->iov + out->first, out->count - out->first,
				    out->file_at);
	io_uring_sqe_set_data(sqe, out);
	return true;
}

void hv_blk_ring_wait(struct hv_blk_ring *r, int kick)
{
	struct io_uring_sqe *sqe = r->armed ? NULL : io_uring_get_sqe(&r->ring);
	int rc;

	if (sqe) {
		io_uring_prep_read(sqe, kick, &r->count, sizeof(r->count), 0);
		io_uring_sqe_set_data(sqe, r); /* no request of the guest is there */
		r->armed = true;
	}
	rc = io_uring_submit_and_wait(&r->ring, 1);
	/* Interrupted, or the kernel is short of memory for it: the caller looks what came and asks again. */
	if (rc < 0 && rc != -EINTR)
		poll(NULL, 0, 1);
}

struct hv_blk_out *hv_blk_ring_next(struct hv_blk_ring *r, int *answer, bool *kicked)
{
	struct io_uring_cqe *cqe;

	while (io_uring_peek_cqe(&r->ring, &cqe) == 0) {
		void *data = io_uring_cqe_get_data(cqe);

		*answer = cqe->res;
		io_uring_cqe_seen(&r->ring, cqe);
		if (data != r)
			return data;
		r->armed = false;
		*kicked = true;
	}
	return NULL;
}
