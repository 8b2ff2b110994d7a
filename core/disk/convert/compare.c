/*
 * Comparison: see convert.h. Both maps are walked side by side and cut into stretches; what neither disk has
 * data in, and what both have as it is at the same place of the same file, is equal without a look. What is
 * compressed is looked at: it may be damaged, and a damaged disk equals none. Each side's blocks are claimed,
 * as in a conversion. Threads read and compare stretches; their findings are put together in the order of the
 * disk, so that the answer is exact whatever the threads' timing.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/signals.h"
#include "disk/convert/convert_impl.h"

#define STRETCH (512ULL << 10)
#define SECTOR  512U
#define RING    16

/* What one stretch showed. */
struct finding {
	uint64_t offset, length;
	uint64_t differing;           /* bytes in differing sectors */
	uint64_t first, first_length; /* the first run of them */
	uint64_t first_byte;          /* of that run, exactly */
	bool any, to_the_end;         /* the first run reaches the stretch's end */
};

struct reader {
	struct comparison *v;
	pthread_t thread;
	struct hv_disk_io *io;
	uint8_t *a, *b;
	struct hv_error err;
};

struct comparison {
	struct hv_disk *a, *b;
	struct hv_compare *c;
	uint64_t end;
	pthread_mutex_t lock;
	pthread_cond_t work, room, turned;
	struct {
		enum { FREE, READY, TAKEN } state;
		uint64_t offset, length;
	} item[RING];
	uint64_t next, taken, turn; /* sequence numbers; all under lock */
	uint64_t done;
	bool stopped, failed, open_run; /* open_run: the first run may go on in the next stretch */
	uint64_t run_end;
	uint64_t failed_seq;
	struct hv_error err;
	struct hv_chain_claims claims[2];
	unsigned threads, started;
	struct reader reader[HV_WORKERS_MAX];
};

/* --- a stretch -------------------------------------------------------------------------------------------- */

/* Whoever reads a unit's start claims it: each stretch is read once, and a unit starts in one. */
static int claim_unit(void *ctx, const struct hv_run *run, size_t used, struct hv_error *err)
{
	return run->offset == run->unit ? hv_chain_claim(ctx, run, used, err) : 0;
}

/* A disk's bytes; behind the shorter one's end there are zeros. */
static int read_side(struct reader *r, struct hv_chain_claims *claims, uint8_t *buf, uint64_t offset,
		     uint64_t length)
{
	struct hv_disk *d = claims->source;
	uint64_t size = hv_disk_size(d), have = offset < size ? size - offset : 0;

	r->io->ctx = claims;
	have = have < length ? have : length;
	memset(buf + have, 0, (size_t)(length - have));
	return have ? hv_disk_read(d, r->io, buf, (size_t)have, offset, &r->err) : 0;
}

static void note_sector(struct finding *f, const uint8_t *a, const uint8_t *b, uint64_t at, uint64_t n)
{
	uint64_t offset = f->offset + at;

	f->differing += n;
	if (!f->any) {
		uint64_t i = 0;
		while (a[at + i] == b[at + i])
			i++;
		f->any = true;
		f->first = offset;
		f->first_byte = offset + i;
	}
	if (f->first + f->first_length == offset)
		f->first_length += n;
}

static void compare_bytes(struct finding *f, const uint8_t *a, const uint8_t *b)
{
	if (memcmp(a, b, (size_t)f->length) == 0)
		return;
	for (uint64_t at = 0; at < f->length; at += SECTOR) {
		uint64_t n = f->length - at < SECTOR ? f->length - at : SECTOR;
		if (memcmp(a + at, b + at, (size_t)n) != 0)
			note_sector(f, a, b, at, n);
	}
	f->to_the_end = f->first + f->first_length == f->offset + f->length;
}

/* Findings come in the order of the disk; what lies between two of them is equal. */
static void add_finding(struct comparison *v, const struct finding *f)
{
	struct hv_compare *c = v->c;

	c->differing += f->differing;
	if (!f->any)
		return;
	if (c->same) {
		c->same = false;
		c->first = f->first_byte;
		v->run_end = f->first + f->first_length;
		c->first_length = f->first_length;
		v->open_run = f->to_the_end;
	} else if (v->open_run && f->first == v->run_end) {
		v->run_end += f->first_length;
		c->first_length += f->first_length;
		v->open_run = f->to_the_end;
	} else {
		v->open_run = false;
	}
}

static void fail(struct comparison *v, uint64_t seq, const struct hv_error *err)
{
	if (!v->failed || seq < v->failed_seq) {
		v->failed = true;
		v->failed_seq = seq;
		v->err = *err;
	}
}

/* --- threads ---------------------------------------------------------------------------------------------- */

static void *work(void *arg)
{
	struct reader *r = arg;
	struct comparison *v = r->v;

	pthread_mutex_lock(&v->lock);
	for (;;) {
		while (v->taken == v->next && !v->stopped)
			pthread_cond_wait(&v->work, &v->lock);
		if (v->taken == v->next)
			break;
		uint64_t seq = v->taken++;
		struct finding f = {.offset = v->item[seq % RING].offset,
				    .length = v->item[seq % RING].length};
		bool skip = v->failed;
		pthread_mutex_unlock(&v->lock);
		int rc = skip ? 0 : read_side(r, &v->claims[0], r->a, f.offset, f.length);
		if (rc == 0 && !skip)
			rc = read_side(r, &v->claims[1], r->b, f.offset, f.length);
		if (rc == 0 && !skip)
			compare_bytes(&f, r->a, r->b);
		pthread_mutex_lock(&v->lock);
		if (rc)
			fail(v, seq, &r->err);
		while (v->turn != seq)
			pthread_cond_wait(&v->turned, &v->lock);
		add_finding(v, &f);
		v->turn++;
		v->done += f.length;
		v->item[seq % RING].state = FREE;
		pthread_cond_broadcast(&v->turned);
		pthread_cond_signal(&v->room);
	}
	pthread_mutex_unlock(&v->lock);
	return NULL;
}

static int start(struct comparison *v, struct hv_error *err)
{
	sigset_t before;
	int rc = 0;

	hv_signals_block(&before);
	for (unsigned i = 0; i < v->threads && rc == 0; i++) {
		struct reader *r = &v->reader[i];
		r->v = v;
		r->io = hv_disk_io_new();
		if (r->io)
			r->io->decoded = claim_unit;
		r->a = malloc(STRETCH);
		r->b = malloc(STRETCH);
		if (!r->io || !r->a || !r->b)
			rc = hv_fail(err, ENOMEM, "%s: no memory for a thread's buffers", v->a->path);
		else if ((rc = pthread_create(&r->thread, NULL, work, r)) != 0)
			rc = hv_fail(err, rc, "%s: cannot start a thread: %s", v->a->path, strerror(rc));
		else
			v->started++;
	}
	hv_signals_unblock(&before);
	return rc;
}

static void stop(struct comparison *v)
{
	pthread_mutex_lock(&v->lock);
	v->stopped = true;
	pthread_cond_broadcast(&v->work);
	pthread_mutex_unlock(&v->lock);
	for (unsigned i = 0; i < v->started; i++)
		pthread_join(v->reader[i].thread, NULL);
	for (unsigned i = 0; i < v->threads; i++) {
		hv_disk_io_free(v->reader[i].io);
		free(v->reader[i].a);
		free(v->reader[i].b);
	}
}

/* --- the walk --------------------------------------------------------------------------------------------- */

struct side {
	struct hv_disk *disk;
	struct hv_chain_claims *claims;
	struct hv_run run; /* as far as it was looked at */
	uint64_t claimed;  /* plain data before this is */
};

static int look(struct side *s, uint64_t offset, uint64_t end, struct hv_error *err)
{
	uint64_t size = hv_disk_size(s->disk);

	if (s->run.length > 0 && offset >= s->run.offset && offset - s->run.offset < s->run.length)
		return 0;
	if (offset >= size) {
		s->run = (struct hv_run){.offset = offset, .length = end - offset, .kind = HV_RUN_HOLE};
		return 0;
	}
	return hv_disk_map(s->disk, offset, size - offset, &s->run, err);
}

static uint64_t left(const struct side *s, uint64_t offset)
{
	return s->run.length - (offset - s->run.offset);
}

/* Each plain run of a side up to `end` belongs to no other. */
static int claim_to(struct side *s, uint64_t end, struct hv_error *err)
{
	int rc = 0;

	while (s->claimed < end && rc == 0) {
		struct hv_run part;
		rc = look(s, s->claimed, end, err);
		if (rc)
			return rc;
		part = s->run;
		part.length = left(s, s->claimed) < end - s->claimed ? left(s, s->claimed) : end - s->claimed;
		part.at += s->claimed - s->run.offset;
		part.offset = s->claimed;
		if (part.kind == HV_RUN_DATA && part.stored == HV_STORED_PLAIN)
			rc = hv_chain_claim(s->claims, &part, part.length, err);
		s->claimed += part.length;
	}
	return rc;
}

/* Whether the two show the same bytes of the same file. */
static bool same_place(const struct side *a, const struct side *b, uint64_t offset)
{
	const struct hv_run *x = &a->run, *y = &b->run;

	if (x->kind != HV_RUN_DATA || y->kind != HV_RUN_DATA || x->stored != HV_STORED_PLAIN ||
	    y->stored != HV_STORED_PLAIN)
		return false;
	const struct hv_disk_file *f = x->layer->file[x->file], *g = y->layer->file[y->file];
	if (f->device != g->device || f->inode != g->inode)
		return false;
	return f->base + x->at + (offset - x->offset) == g->base + y->at + (offset - y->offset);
}

static void wait_room(struct comparison *v, unsigned ms)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	t.tv_nsec += ms * 1000000L;
	t.tv_sec += t.tv_nsec / 1000000000L;
	t.tv_nsec %= 1000000000L;
	pthread_cond_timedwait(&v->room, &v->lock, &t);
}

static int tell(struct comparison *v, uint64_t *next_tick)
{
	struct timespec t;
	struct hv_convert_progress p = {.size = v->end};

	clock_gettime(CLOCK_MONOTONIC, &t);
	uint64_t now = (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
	if (!v->c->progress || now < *next_tick)
		return 0;
	*next_tick = now + 100;
	pthread_mutex_lock(&v->lock);
	p.done = v->done;
	pthread_mutex_unlock(&v->lock);
	return v->c->progress(v->c->ctx, &p);
}

/* Hands a stretch over when there is room; false: not yet. */
static bool push(struct comparison *v, uint64_t offset, uint64_t length, bool *failed)
{
	bool done = false;

	pthread_mutex_lock(&v->lock);
	if (v->item[v->next % RING].state != FREE && !v->failed)
		wait_room(v, 100);
	*failed = v->failed;
	if (v->item[v->next % RING].state == FREE) {
		v->item[v->next % RING].state = READY;
		v->item[v->next % RING].offset = offset;
		v->item[v->next % RING].length = length;
		v->next++;
		done = true;
		pthread_cond_signal(&v->work);
	}
	pthread_mutex_unlock(&v->lock);
	return done;
}

static void pass_over(struct comparison *v, uint64_t length)
{
	pthread_mutex_lock(&v->lock);
	v->done += length;
	pthread_mutex_unlock(&v->lock);
}

static int walk(struct comparison *v, struct hv_error *err)
{
	struct side a = {.disk = v->a, .claims = &v->claims[0]}, b = {.disk = v->b, .claims = &v->claims[1]};
	uint64_t tick = 0;
	bool failed = false;

	for (uint64_t at = 0; at < v->end && !failed;) {
		int rc = look(&a, at, v->end, err);
		if (rc == 0)
			rc = look(&b, at, v->end, err);
		if (rc)
			return rc;
		if (tell(v, &tick))
			return hv_fail(err, ECANCELED, "%s: the comparison was stopped", v->a->path);
		uint64_t n = left(&a, at) < left(&b, at) ? left(&a, at) : left(&b, at);
		bool data = a.run.kind == HV_RUN_DATA || b.run.kind == HV_RUN_DATA;
		bool same = !data || same_place(&a, &b, at);
		if (!same) { /* a whole stretch, whatever else lies in it: reading finds holes as well */
			n = at - at % STRETCH + STRETCH - at;
			n = n < v->end - at ? n : v->end - at;
		}
		rc = claim_to(&a, at + n, err);
		if (rc == 0)
			rc = claim_to(&b, at + n, err);
		if (rc)
			return rc;
		if (same) {
			pass_over(v, n);
			at += n;
			continue;
		}
		while (!failed && !push(v, at, n, &failed))
			if (tell(v, &tick))
				return hv_fail(err, ECANCELED, "%s: the comparison was stopped", v->a->path);
		at += n;
	}
	return 0;
}

int hv_compare(struct hv_disk *a, struct hv_disk *b, struct hv_compare *c, struct hv_error *err)
{
	struct comparison *v = calloc(1, sizeof(*v));
	pthread_condattr_t attr;
	int rc;

	if (!v)
		return hv_fail(err, ENOMEM, "%s: no memory to compare it", a->path);
	*v = (struct comparison){.a = a, .b = b, .c = c, .threads = hv_pipe_threads(c->threads)};
	c->same = true;
	c->first = c->first_length = c->differing = 0;
	c->a_size = hv_disk_size(a);
	c->b_size = hv_disk_size(b);
	v->end = c->a_size > c->b_size ? c->a_size : c->b_size;
	pthread_mutex_init(&v->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&v->room, &attr);
	pthread_cond_init(&v->work, NULL);
	pthread_cond_init(&v->turned, NULL);
	pthread_condattr_destroy(&attr);
	hv_chain_claims_init(&v->claims[0], a);
	hv_chain_claims_init(&v->claims[1], b);
	rc = hv_chain_claim_tables(&v->claims[0], false, err);
	if (rc == 0)
		rc = hv_chain_claim_tables(&v->claims[1], false, err);
	if (rc == 0)
		rc = start(v, err);
	if (rc == 0)
		rc = walk(v, err);
	stop(v);
	hv_chain_claims_free(&v->claims[0]);
	hv_chain_claims_free(&v->claims[1]);
	if (rc == 0 && v->failed) {
		if (err)
			*err = v->err;
		rc = v->err.code;
	}
	if (rc == 0)
		rc = hv_disk_unchanged(a, err);
	if (rc == 0)
		rc = hv_disk_unchanged(b, err);
	pthread_mutex_destroy(&v->lock);
	pthread_cond_destroy(&v->room);
	pthread_cond_destroy(&v->work);
	pthread_cond_destroy(&v->turned);
	free(v);
	return rc;
}
