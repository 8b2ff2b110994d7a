/*
 * A virtio device's own thread. It sleeps on the kick until there may be something to do, and is at rest
 * (busy is false, no chain is out) whenever someone holds it. It calls the type's step, the transport for the
 * kick, and base.
 */
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/signals.h"
#include "device/virtio/worker.h"

#define STACK_SIZE (1u << 20)

static const struct hv_virtio_worker_ops no_ops;

/* Never waits: the counter has 64 bits. */
static void kick(const struct hv_virtio_worker *w)
{
	uint64_t one = 1;

	(void)!write(w->kick, &one, sizeof(one));
}

static void sleep_on(int fd, bool *kicked)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	uint64_t count;

	*kicked = poll(&p, 1, -1) > 0 && read(fd, &count, sizeof(count)) == sizeof(count);
}

static void go_to_sleep(struct hv_virtio_worker *w)
{
	pthread_mutex_t *lock = &w->v->dev.lock;
	bool kicked = false;

	pthread_mutex_unlock(lock);
	if (w->ops->sleep)
		w->ops->sleep(w->v, w->kick, &kicked);
	else
		sleep_on(w->kick, &kicked);
	pthread_mutex_lock(lock);
	w->asked = w->asked || kicked;
}

/* While a step runs without the lock, a wake must not get lost: the step that follows finds what it was for,
 * or says that there is nothing, and both look at the queues with the lock held. */
static void *worker_thread(void *worker)
{
	struct hv_virtio_worker *w = worker;

	pthread_mutex_lock(&w->v->dev.lock);
	for (;;) {
		if (w->ops->collect)
			w->ops->collect(w->v);
		if (w->asked && !w->holds && !w->ending) {
			w->busy = true;
			w->asked = w->step(w->v);
			continue;
		}
		if (w->out == 0) {
			w->busy = false;
			pthread_cond_broadcast(&w->rest);
			if (w->ops->rested)
				w->ops->rested(w->v);
			if (w->ending)
				break;
		}
		go_to_sleep(w);
	}
	pthread_mutex_unlock(&w->v->dev.lock);
	return NULL;
}

static int start_thread(struct hv_virtio_worker *w)
{
	pthread_attr_t attr;
	sigset_t before;
	int rc;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_SIZE);
	hv_signals_block(&before);
	rc = pthread_create(&w->thread, &attr, worker_thread, w);
	hv_signals_unblock(&before);
	pthread_attr_destroy(&attr);
	return rc;
}

int hv_virtio_worker_start_with(struct hv_virtio_worker *w, struct hv_virtio *v, hv_virtio_step_fn *step,
				const struct hv_virtio_worker_ops *ops, struct hv_error *err)
{
	int rc;

	*w = (struct hv_virtio_worker){.v = v, .step = step, .ops = ops ? ops : &no_ops};
	pthread_cond_init(&w->rest, NULL);
	w->kick = eventfd(0, EFD_CLOEXEC); /* blocking, or a ring would give EAGAIN for it */
	if (w->kick < 0)
		return hv_fail_errno(err, "%s: no descriptor for it", v->name);
	rc = start_thread(w);
	w->started = rc == 0;
	if (rc)
		return hv_fail(err, rc, "%s: no thread for it: %s", v->name, strerror(rc));
	return 0;
}

int hv_virtio_worker_start(struct hv_virtio_worker *w, struct hv_virtio *v, hv_virtio_step_fn *step,
			   struct hv_error *err)
{
	return hv_virtio_worker_start_with(w, v, step, NULL, err);
}

void hv_virtio_worker_offload(struct hv_virtio_worker *w)
{
	w->offloaded = hv_virtio_notify_by(w->v, w->kick, true);
}

void hv_virtio_worker_stop(struct hv_virtio_worker *w)
{
	if (w->offloaded)
		hv_virtio_notify_by(w->v, w->kick, false);
	if (w->started) {
		pthread_mutex_lock(&w->v->dev.lock);
		w->ending = true;
		kick(w);
		pthread_mutex_unlock(&w->v->dev.lock);
		pthread_join(w->thread, NULL);
	}
	if (w->v) {
		pthread_cond_destroy(&w->rest);
		if (w->kick >= 0)
			close(w->kick);
	}
}

void hv_virtio_worker_wake(struct hv_virtio_worker *w)
{
	w->asked = true;
	kick(w);
}

/* A notification that comes while it is held stays in the kick, or in asked, until it is let go. */
void hv_virtio_worker_hold(struct hv_virtio_worker *w, bool held)
{
	if (!held) {
		if (--w->holds == 0)
			kick(w);
		return;
	}
	w->holds++;
	if (w->busy)
		kick(w);
	while (w->busy)
		pthread_cond_wait(&w->rest, &w->v->dev.lock);
}
