/*
 * The pipe of a conversion: a ring of items, workers that take them, and the turn by which their ordered
 * stages follow each other. See convert_impl.h for the stages.
 *
 * A worker takes the lowest item that is ready, with one exception: while one worker moves plain data, the
 * others leave moves alone and look for items that need a CPU. Nobody waits for ever that way: who moves does
 * so after its turn, and takes the lowest item next.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/signals.h"
#include "disk/convert/convert_impl.h"

#define ZERO_STEP HV_ZEROS

unsigned hv_pipe_threads(unsigned asked)
{
	long cpus = asked ? (long)asked : sysconf(_SC_NPROCESSORS_ONLN);

	return cpus < 1 ? 1 : cpus > HV_WORKERS_MAX ? HV_WORKERS_MAX : (unsigned)cpus;
}

void hv_pipe_fail(struct hv_pipe *p, uint64_t seq, const struct hv_error *err)
{
	pthread_mutex_lock(&p->lock);
	if (!p->failed || seq < p->failed_seq) { /* the first on the disk, whoever met it first */
		p->failed = true;
		p->failed_seq = seq;
		p->err = *err;
	}
	pthread_cond_broadcast(&p->room);
	pthread_mutex_unlock(&p->lock);
}

bool hv_pipe_failed(struct hv_pipe *p)
{
	pthread_mutex_lock(&p->lock);
	bool failed = p->failed;
	pthread_mutex_unlock(&p->lock);
	return failed;
}

void hv_pipe_count(struct hv_pipe *p, uint64_t copied, uint64_t skipped)
{
	pthread_mutex_lock(&p->lock);
	p->count.copied += copied;
	p->count.skipped += skipped;
	pthread_mutex_unlock(&p->lock);
}

/* --- losses ----------------------------------------------------------------------------------------------- */

int hv_worker_lose(struct hv_worker *w, uint64_t offset, uint64_t length, const char *why)
{
	struct hv_convert_loss *last = w->losses ? &w->loss[w->losses - 1] : NULL;

	if (last && last->offset + last->length == offset) {
		last->length += length;
		return 0;
	}
	if (!w->loss || w->losses == w->loss_room) {
		unsigned room = w->loss_room ? w->loss_room * 2 : 8;
		struct hv_convert_loss *more = realloc(w->loss, room * sizeof(*more));
		if (!more)
			return hv_fail(&w->err, ENOMEM, "no memory for the list of lost ranges");
		w->loss = more;
		w->loss_room = room;
	}
	last = &w->loss[w->losses++];
	last->offset = offset;
	last->length = length;
	strncpy(last->why, why, sizeof(last->why) - 1);
	last->why[sizeof(last->why) - 1] = '\0';
	return 0;
}

int hv_pipe_lose(struct hv_pipe *p, uint64_t offset, uint64_t length, const char *why)
{
	int rc = 0;

	pthread_mutex_lock(&p->lock);
	struct hv_journal_loss *last = p->losses ? &p->loss[p->losses - 1] : NULL;
	p->lost += length;
	p->count.lost += length;
	if (last && last->offset + last->length == offset) {
		last->length += length;
		goto out;
	}
	if (!p->loss || p->losses == p->loss_room) {
		unsigned room = p->loss_room ? p->loss_room * 2 : 64;
		struct hv_journal_loss *more = realloc(p->loss, room * sizeof(*more));
		if (!more) {
			rc = -ENOMEM;
			goto out;
		}
		p->loss = more;
		p->loss_room = room;
	}
	p->loss[p->losses] = (struct hv_journal_loss){
		.offset = offset, .length = length, .why = p->losses < HV_LOSS_TEXTS ? strdup(why) : NULL};
	p->losses++;
out:
	pthread_mutex_unlock(&p->lock);
	return rc;
}

/* --- an item's way ---------------------------------------------------------------------------------------- */

static void digest_zeros(struct hv_pipe *p, uint64_t length)
{
	while (length > 0) {
		size_t n = length < ZERO_STEP ? (size_t)length : ZERO_STEP;
		sha256_update(&p->sha, n, hv_zeros);
		length -= n;
	}
}

/* What encoded units took in their files is known once they are decoded; claimed here, one item at a time. */
static int claim_used(struct hv_worker *w, const struct hv_item *item)
{
	struct hv_pipe *p = w->pipe;

	for (unsigned i = 0; i < w->useds; i++) {
		const struct hv_run *run = w->used[i].run;
		int rc = hv_chain_claim(&p->claims, run, w->used[i].length, &w->err);
		if (rc == 0)
			continue;
		if (rc != -EBADMSG || !p->salvage || item->replay)
			return rc;
		rc = hv_worker_lose(w, run->offset, run->length, w->err.text);
		if (rc)
			return rc;
		if (w->bytes && !item->hole)
			memset(w->bytes + (run->offset - item->offset), 0, run->length);
	}
	return 0;
}

static int in_order(struct hv_worker *w, struct hv_item *item)
{
	struct hv_pipe *p = w->pipe;
	int rc = claim_used(w, item);

	for (unsigned i = 0; i < w->losses && rc == 0 && !item->replay; i++)
		if (hv_pipe_lose(p, w->loss[i].offset, w->loss[i].length, w->loss[i].why))
			rc = hv_fail(&w->err, ENOMEM, "no memory for the list of lost ranges");
	if (rc == 0 && p->digest && item->hole)
		digest_zeros(p, item->length);
	else if (rc == 0 && p->digest)
		sha256_update(&p->sha, item->length, w->bytes);
	if (rc == 0 && p->sink->ordered && !item->replay)
		rc = p->sink->ordered(w, item);
	return rc;
}

static int fetch(struct hv_worker *w, struct hv_item *item)
{
	struct hv_pipe *p = w->pipe;
	int rc = 0;

	if (item->move)
		rc = hv_item_pieces(w, item);
	else if (!item->hole)
		rc = hv_item_read(w, item);
	if (rc == 0 && p->sums && !item->hole && (!item->replay || p->replay_sums))
		hv_item_sum(w, item);
	if (rc == 0 && p->sink->fetch && !item->replay)
		rc = p->sink->fetch(w, item);
	return rc;
}

static bool wait_turn(struct hv_pipe *p, uint64_t seq)
{
	pthread_mutex_lock(&p->lock);
	p->waiting++;
	while (p->turn != seq)
		pthread_cond_wait(&p->turned, &p->lock);
	p->waiting--;
	bool go = !p->failed;
	pthread_mutex_unlock(&p->lock);
	return go;
}

static void pass_turn(struct hv_pipe *p)
{
	pthread_mutex_lock(&p->lock);
	p->turn++;
	if (p->waiting)
		pthread_cond_broadcast(&p->turned);
	pthread_mutex_unlock(&p->lock);
}

static void run_item(struct hv_worker *w, struct hv_item *item)
{
	struct hv_pipe *p = w->pipe;
	int rc = 0;

	w->pieces = w->rooms = w->useds = w->losses = 0;
	if (!hv_pipe_failed(p))
		rc = fetch(w, item);
	if (rc) /* before the turn is passed on: nothing behind this item is written in order */
		hv_pipe_fail(p, item->seq, &w->err);
	if (wait_turn(p, item->seq)) {
		rc = in_order(w, item);
		if (rc)
			hv_pipe_fail(p, item->seq, &w->err);
	} else {
		rc = -ECANCELED;
	}
	pass_turn(p);
	if (rc == 0 && p->sink->store && !item->replay) {
		rc = p->sink->store(w, item);
		if (rc)
			hv_pipe_fail(p, item->seq, &w->err);
	}
}

/* --- the ring --------------------------------------------------------------------------------------------- */

static struct hv_item *take(struct hv_pipe *p)
{
	for (uint64_t seq = p->next - p->flights < p->turn ? p->next - p->flights : p->turn; seq < p->next;
	     seq++) {
		struct hv_item *item = &p->item[seq % HV_RING];
		if (item->state == HV_ITEM_READY && item->seq == seq && !(item->move && p->moving))
			return item;
	}
	return NULL;
}

static void *work(void *arg)
{
	struct hv_worker *w = arg;
	struct hv_pipe *p = w->pipe;

	pthread_mutex_lock(&p->lock);
	while (!p->stopped) {
		struct hv_item *item = take(p);
		bool move;
		if (!item) {
			pthread_cond_wait(&p->work, &p->lock);
			continue;
		}
		move = item->move;
		item->state = HV_ITEM_TAKEN;
		p->moving |= move;
		pthread_mutex_unlock(&p->lock);
		run_item(w, item);
		pthread_mutex_lock(&p->lock);
		if (move)
			p->moving = false;
		p->count.done += item->length;
		item->state = HV_ITEM_FREE;
		p->flights--;
		pthread_cond_signal(&p->room);
		if (move && p->flights > 0)
			pthread_cond_signal(&p->work);
	}
	pthread_mutex_unlock(&p->lock);
	return NULL;
}

static void wait_ms(pthread_cond_t *cond, pthread_mutex_t *lock, int ms)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	t.tv_nsec += ms * 1000000L;
	t.tv_sec += t.tv_nsec / 1000000000L;
	t.tv_nsec %= 1000000000L;
	pthread_cond_timedwait(cond, lock, &t);
}

struct hv_item *hv_pipe_slot(struct hv_pipe *p, int ms)
{
	struct hv_item *item = &p->item[p->next % HV_RING];

	pthread_mutex_lock(&p->lock);
	if (!p->failed && item->state != HV_ITEM_FREE)
		wait_ms(&p->room, &p->lock, ms);
	if (p->failed || item->state != HV_ITEM_FREE)
		item = NULL;
	pthread_mutex_unlock(&p->lock);
	return item;
}

void hv_pipe_push(struct hv_pipe *p, struct hv_item *item)
{
	pthread_mutex_lock(&p->lock);
	item->seq = p->next++;
	item->state = HV_ITEM_READY;
	p->flights++;
	if (!(item->move && p->moving))
		pthread_cond_signal(&p->work);
	pthread_mutex_unlock(&p->lock);
}

bool hv_pipe_idle(struct hv_pipe *p, int ms)
{
	pthread_mutex_lock(&p->lock);
	if (p->flights > 0)
		wait_ms(&p->room, &p->lock, ms);
	bool idle = p->flights == 0;
	pthread_mutex_unlock(&p->lock);
	return idle;
}

/* --- beginning and end ------------------------------------------------------------------------------------ */

static int start_worker(struct hv_pipe *p, struct hv_worker *w, struct hv_error *err)
{
	size_t units = p->chunk / p->unit + 1;
	size_t bound = p->dest && p->sink == &hv_sink_append ? p->dest->format->encode_bound : 0;
	int rc;

	w->pipe = p;
	w->io = hv_disk_io_new();
	w->bytes = malloc(p->chunk + (size_t)p->unit);
	if (bound) {
		w->out = malloc(units * bound);
		w->out_length = calloc(units, sizeof(*w->out_length));
	}
	if (!w->io || !w->bytes || (bound && (!w->out || !w->out_length)))
		return hv_fail(err, ENOMEM, "%s: no memory for a thread's buffers", p->source->path);
	rc = pthread_create(&w->thread, NULL, work, w);
	if (rc)
		return hv_fail(err, rc, "%s: cannot start a thread: %s", p->source->path, strerror(rc));
	p->started++;
	return 0;
}

void hv_pipe_init(struct hv_pipe *p)
{
	pthread_condattr_t attr;

	pthread_mutex_init(&p->lock, NULL);
	pthread_mutex_init(&p->write_lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&p->work, NULL);
	pthread_cond_init(&p->turned, NULL);
	pthread_cond_init(&p->room, &attr);
	pthread_condattr_destroy(&attr);
	sha256_init(&p->sha);
}

int hv_pipe_start(struct hv_pipe *p, struct hv_error *err)
{
	sigset_t before;
	int rc = 0;

	hv_signals_block(&before);
	for (unsigned i = 0; i < p->threads && rc == 0; i++)
		rc = start_worker(p, &p->worker[i], err);
	hv_signals_unblock(&before);
	return rc;
}

static void free_worker(struct hv_worker *w)
{
	hv_disk_io_free(w->io);
	free(w->bytes);
	free(w->stored);
	free(w->unit);
	free(w->out);
	free(w->out_length);
	free(w->piece);
	free(w->room);
	free(w->used);
	free(w->loss);
}

void hv_pipe_free(struct hv_pipe *p)
{
	pthread_mutex_lock(&p->lock);
	p->stopped = true;
	pthread_cond_broadcast(&p->work);
	pthread_mutex_unlock(&p->lock);
	for (unsigned i = 0; i < p->started; i++)
		pthread_join(p->worker[i].thread, NULL);
	for (unsigned i = 0; i < p->threads; i++)
		free_worker(&p->worker[i]);
	for (unsigned i = 0; i < HV_RING; i++)
		free(p->item[i].run);
	for (unsigned i = 0; i < p->losses; i++)
		free(p->loss[i].why);
	free(p->loss);
	hv_chain_claims_free(&p->claims);
	pthread_mutex_destroy(&p->lock);
	pthread_mutex_destroy(&p->write_lock);
	pthread_cond_destroy(&p->work);
	pthread_cond_destroy(&p->turned);
	pthread_cond_destroy(&p->room);
}
