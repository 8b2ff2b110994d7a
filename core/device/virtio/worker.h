/*
 * The thread of a virtio device whose requests take their time: it serves the queues, so that a vCPU that
 * notifies the device goes on at once. Requests are taken in the driver's order. Most types serve one after
 * the other; a type that hands requests on to the kernel counts them in `out` and collects them later.
 *
 * The thread sleeps on a descriptor, the kick: hv_virtio_worker_wake writes to it, and where the machine can
 * (hv_virtio_worker_offload) the guest's notification does, without an exit to us.
 *
 * Threads: hv_virtio_worker_start, _offload and _stop without the device's lock, once each; the others with
 * it.
 */
#ifndef HV_DEVICE_VIRTIO_WORKER_H
#define HV_DEVICE_VIRTIO_WORKER_H

#include "device/virtio/virtio.h"

/*
 * Serves one request: takes a chain, lets go of the device's lock while it works, gives the chain back with
 * the lock held again. False when there was none.
 */
typedef bool hv_virtio_step_fn(struct hv_virtio *v);

/* What only some types need; each may be NULL. */
struct hv_virtio_worker_ops {
	/* Gives back what others (the kernel) have done meanwhile. Lock held. */
	void (*collect)(struct hv_virtio *v);
	/* In poll(2)'s place: until the kick was written to (*kicked says so, and it has been read), or there
	 * is something to collect. Lock not held. */
	void (*sleep)(struct hv_virtio *v, int kick, bool *kicked);
	/* The worker has come to rest: nothing is out. Lock held; may let go of it. */
	void (*rested)(struct hv_virtio *v);
};

struct hv_virtio_worker {
	struct hv_virtio *v;
	hv_virtio_step_fn *step;
	const struct hv_virtio_worker_ops *ops;
	pthread_t thread;
	int kick; /* eventfd */
	bool started, offloaded;

	/* The device's lock: */
	pthread_cond_t rest;
	unsigned holds, out;
	bool asked, busy, ending;
};

HV_API_BEGIN
/* v is initialised and outlives the worker. -EAGAIN when the system gives no thread. ops may be NULL. */
int hv_virtio_worker_start(struct hv_virtio_worker *w, struct hv_virtio *v, hv_virtio_step_fn *step,
			   struct hv_error *err);
int hv_virtio_worker_start_with(struct hv_virtio_worker *w, struct hv_virtio *v, hv_virtio_step_fn *step,
				const struct hv_virtio_worker_ops *ops, struct hv_error *err);
void hv_virtio_worker_stop(struct hv_virtio_worker *w); /* finishes what is in hand or out; joins */

/* For a type whose notify does nothing but wake: lets the kernel do that where it can. */
void hv_virtio_worker_offload(struct hv_virtio_worker *w);

void hv_virtio_worker_wake(struct hv_virtio_worker *w); /* there may be something to do */

/* As struct hv_virtio_ops has it: true waits for what is in hand or out, with the lock let go. */
void hv_virtio_worker_hold(struct hv_virtio_worker *w, bool held);
HV_API_END

#endif
