/*
 * The thread of a virtio device whose requests take their time: it serves the queues, so that a vCPU that
 * notifies the device goes on at once. Requests are served one after the other, in the driver's order.
 *
 * Threads: hv_virtio_worker_start and _stop without the device's lock, once each; the others with it.
 */
#ifndef HV_DEVICE_VIRTIO_WORKER_H
#define HV_DEVICE_VIRTIO_WORKER_H

#include "device/virtio/virtio.h"

/*
 * Serves one request: takes a chain, lets go of the device's lock while it works, gives the chain back with
 * the lock held again. False when there was none.
 */
typedef bool hv_virtio_step_fn(struct hv_virtio *v);

struct hv_virtio_worker {
	struct hv_virtio *v;
	hv_virtio_step_fn *step;
	pthread_t thread;
	bool started;

	/* The device's lock: */
	pthread_cond_t wake, rest;
	unsigned holds;
	bool asked, busy, ending;
};

HV_API_BEGIN
/* v is initialised and outlives the worker. -EAGAIN when the system gives no thread. */
int hv_virtio_worker_start(struct hv_virtio_worker *w, struct hv_virtio *v, hv_virtio_step_fn *step,
			   struct hv_error *err);
void hv_virtio_worker_stop(struct hv_virtio_worker *w); /* finishes the request in hand; joins */

void hv_virtio_worker_wake(struct hv_virtio_worker *w); /* there may be something to do */

/* As struct hv_virtio_ops has it: true waits for the request in hand, with the lock let go. */
void hv_virtio_worker_hold(struct hv_virtio_worker *w, bool held);
HV_API_END

#endif
