/*
 * The entropy device: the driver gives empty buffers, the device fills them with random bytes of the host's.
 * It calls the transport and its worker.
 *
 * Rules: virtio 1.2, section 5.4. The device may fill less than a buffer but at least a byte; a driver asks
 * again. So no driver can keep it busy with one request of gigabytes.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

#include "device/virtio/types.h"
#include "device/virtio/worker.h"

enum { QUEUE_REQUESTS, QUEUES };

#define ID        4u
#define CHUNK_MAX 256u /* bytes for one request: getrandom gives so many at once, whatever comes */

struct rng {
	struct hv_virtio v;
	struct hv_virtio_worker worker;
	struct hv_virtq_chain chain; /* of the request in hand */
	uint64_t given;              /* bytes, for describe */
};

static struct rng *rng_of(struct hv_virtio *v)
{
	return hv_container_of(v, struct rng, v);
}

static bool rng_step(struct hv_virtio *v)
{
	struct rng *r = rng_of(v);
	uint8_t bytes[CHUNK_MAX];
	size_t n;

	if (!hv_virtio_pop(v, QUEUE_REQUESTS, &r->chain))
		return false;
	if (r->chain.write_length == 0) {
		hv_virtio_needs_reset(v, QUEUE_REQUESTS, "a request without room for an answer");
		return false;
	}
	pthread_mutex_unlock(&v->dev.lock);
	n = r->chain.write_length < CHUNK_MAX ? r->chain.write_length : CHUNK_MAX;
	if (getrandom(bytes, n, 0) != (ssize_t)n)
		n = 0;
	hv_virtq_write(&r->chain, 0, bytes, n);
	pthread_mutex_lock(&v->dev.lock);
	r->given += n;
	hv_virtio_push(v, QUEUE_REQUESTS, &r->chain, (uint32_t)n);
	return true;
}

static void rng_notify(struct hv_virtio *v, unsigned queue)
{
	hv_virtio_worker_wake(&rng_of(v)->worker);
}

static void rng_hold(struct hv_virtio *v, bool held)
{
	hv_virtio_worker_hold(&rng_of(v)->worker, held);
}

static void rng_describe(struct hv_virtio *v, char *buf, size_t size)
{
	snprintf(buf, size, "%llu bytes given", (unsigned long long)rng_of(v)->given);
}

static void rng_stop(struct hv_virtio *v)
{
	hv_virtio_worker_stop(&rng_of(v)->worker);
}

static void rng_destroy(struct hv_virtio *v)
{
	free(rng_of(v));
}

static const struct hv_virtio_ops rng_ops = {
	.name = "rng",
	.id = ID,
	.version = 1,
	.queues = QUEUES,
	.notify = rng_notify,
	.hold = rng_hold,
	.describe = rng_describe,
	.stop = rng_stop,
	.destroy = rng_destroy,
};

int hv_virtio_rng_create(const struct hv_virtio_host *host, struct hv_device **out, struct hv_error *err)
{
	struct rng *r = calloc(1, sizeof(*r));
	int rc;

	if (!r)
		return hv_fail(err, ENOMEM, "virtio-rng: no memory for the device; close other programs");
	hv_virtio_init(&r->v, &rng_ops, host, 0);
	rc = hv_virtio_worker_start(&r->worker, &r->v, rng_step, err);
	if (rc) {
		hv_device_destroy(&r->v.dev);
		return rc;
	}
	hv_virtio_worker_offload(&r->worker);
	*out = &r->v.dev;
	return 0;
}
