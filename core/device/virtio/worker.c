/*
 * A virtio device's own thread. It sleeps on a condition of the device's lock until it is woken, and is at
 * rest (busy is false, no chain is out) whenever someone holds it. It calls the type's step, base and nothing
 * else.
 */
#include <string.h>

#include "base/signals.h"
#include "device/virtio/worker.h"

#define STACK_SIZE (1u << 20)

static void *worker_thread(void *worker)
{
	struct hv_virtio_worker *w = worker;
	pthread_mutex_t *lock = &w->v->dev.lock;

	pthread_mutex_lock(lock);
	while (!w->ending) {
		if (!w->asked || w->holds) {
			pthread_cond_wait(&w->wake, lock);
			continue;
		}
		w->busy = true;
		do
			w->asked = w->step(w->v);
		while (w->asked && !w->holds && !w->ending);
		w->busy = false;
		pthread_cond_broadcast(&w->rest);
	}
	pthread_mutex_unlock(lock);
	return NULL;
}

int hv_virtio_worker_start(struct hv_virtio_worker *w, struct hv_virtio *v, hv_virtio_step_fn *step,
			   struct hv_error *err)
{
	pthread_attr_t attr;
	sigset_t before;
	int rc;

	*w = (struct hv_virtio_worker){.v = v, .step = step};
	pthread_cond_init(&w->wake, NULL);
	pthread_cond_init(&w->rest, NULL);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_SIZE);
	hv_signals_block(&before);
	rc = pthread_create(&w->thread, &attr, worker_thread, w);
	hv_signals_unblock(&before);
	pthread_attr_destroy(&attr);
	w->started = rc == 0;
	if (rc)
		return hv_fail(err, rc, "%s: no thread for it: %s", v->name, strerror(rc));
	return 0;
}

void hv_virtio_worker_stop(struct hv_virtio_worker *w)
{
	if (w->started) {
		pthread_mutex_lock(&w->v->dev.lock);
		w->ending = true;
		pthread_cond_signal(&w->wake);
		pthread_mutex_unlock(&w->v->dev.lock);
		pthread_join(w->thread, NULL);
	}
	if (w->v) {
		pthread_cond_destroy(&w->wake);
		pthread_cond_destroy(&w->rest);
	}
}

/* While a step runs without the lock, a wake must not get lost: the step that follows finds what it was for,
 * or says that there is nothing, and both look at the queues with the lock held. */
void hv_virtio_worker_wake(struct hv_virtio_worker *w)
{
	w->asked = true;
	pthread_cond_signal(&w->wake);
}

void hv_virtio_worker_hold(struct hv_virtio_worker *w, bool held)
{
	if (!held) {
		if (--w->holds == 0)
			pthread_cond_signal(&w->wake);
		return;
	}
	w->holds++;
	while (w->busy)
		pthread_cond_wait(&w->rest, &w->v->dev.lock);
}
