/*
 * Conversion: see convert.h. This file puts one together: what was asked for is checked, the destination
 * begun, a pipe made and run from the calling thread, and what came out is made durable, read back when
 * asked, and given its name.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "disk/convert/convert_impl.h"
#include "disk/output.h"

#define MEMORY     (16ULL << 20)
#define CHUNK_MAX  (1U << 20)
#define CHUNK_MIN  (256U << 10) /* convert_sink.c copies by hand in steps of this */
#define UNIT_MAX   (2U << 20)   /* of a source's encoded units and a destination's: as large as formats go */
#define GRAIN      4096U
#define TICK_NS    100000000ULL
#define JOURNAL_NS 5000000000ULL

uint64_t hv_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000ULL + (uint64_t)t.tv_nsec;
}

/* --- the request ------------------------------------------------------------------------------------------ */

static bool to_stdout(const struct hv_convert *c)
{
	return c->path && strcmp(c->path, "-") == 0;
}

static int check_request(const struct hv_convert *c, struct hv_error *err)
{
	const char *format = c->create.format ? c->create.format : "raw";
	uint64_t size = hv_disk_size(c->source);

	if (!c->path == !c->target)
		return hv_fail_usage(err, "a conversion needs one destination");
	if (to_stdout(c) && strcmp(format, "raw") != 0)
		return hv_fail_usage(err, "standard output can take a raw disk only, not %s", format);
	if (to_stdout(c) && (c->verify || c->resume))
		return hv_fail_usage(err, "what went to standard output can't be %s",
				     c->verify ? "read back and verified" : "resumed");
	if (c->target && c->resume)
		return hv_fail_usage(err, "%s: a conversion to it can't be resumed", c->target->path);
	if (c->create.size && c->create.size < size)
		return hv_fail_usage(err, "%s: the disk has %llu bytes, and the destination shall have %llu",
				     c->source->path, (unsigned long long)size,
				     (unsigned long long)c->create.size);
	if (c->target && hv_disk_size(c->target) < size)
		return hv_fail(err, ENOSPC, "%s: has %llu bytes, and %s needs %llu", c->target->path,
			       (unsigned long long)hv_disk_size(c->target), c->source->path,
			       (unsigned long long)size);
	return 0;
}

/* Whether a name leads to one of the source's own files, which beginning the destination would destroy. */
static int check_not_source(const struct hv_convert *c, const char *name, struct hv_error *err)
{
	struct stat st;

	if (stat(name, &st) < 0)
		return 0;
	for (const struct hv_disk *d = c->source; d; d = d->parent)
		for (unsigned i = 0; i < d->files; i++)
			if (d->file[i]->device == st.st_dev && d->file[i]->inode == st.st_ino)
				return hv_fail_usage(
					err, "%s: is a file of the source; give the result another name",
					name);
	return 0;
}

static int check_names(const struct hv_convert *c, struct hv_error *err)
{
	char *partial;
	int rc;

	if (!c->path || to_stdout(c))
		return 0;
	if (asprintf(&partial, "%s.partial", c->path) < 0)
		return hv_fail(err, ENOMEM, "%s: no memory to begin it", c->path);
	rc = check_not_source(c, c->path, err);
	if (rc == 0)
		rc = check_not_source(c, partial, err);
	free(partial);
	return rc;
}

/* --- the destination -------------------------------------------------------------------------------------- */

/* Standard output that is a regular file, written from its start or behind what it has, keeps its holes. */
static void look_at_stdout(struct hv_conversion *v)
{
	struct hv_pipe *p = v->pipe;
	int flags = fcntl(STDOUT_FILENO, F_GETFL);
	off_t at = lseek(STDOUT_FILENO, 0, SEEK_CUR);
	struct stat st;

	p->fd = STDOUT_FILENO;
	if (flags < 0 || flags & O_APPEND || at < 0 || fstat(STDOUT_FILENO, &st) < 0 || !S_ISREG(st.st_mode))
		return;
	v->out = (struct hv_disk_file){.fd = STDOUT_FILENO,
				       .path = (char *)"standard output",
				       .base = (uint64_t)at,
				       .writable = true};
	p->out = &v->out;
	p->out_fresh = st.st_size <= at && v->c->holes != HV_HOLES_FULL;
}

static int end_stdout(struct hv_conversion *v, struct hv_error *err)
{
	struct hv_pipe *p = v->pipe;
	off_t end = (off_t)(v->out.base + p->end);
	struct stat st;

	if (!p->out)
		return 0;
	if (fstat(p->fd, &st) < 0 || (st.st_size < end && ftruncate(p->fd, end) < 0) ||
	    lseek(p->fd, end, SEEK_SET) < 0)
		return hv_fail_errno(err, "standard output: cannot give it its length");
	return 0;
}

static int begin_destination(struct hv_conversion *v, struct hv_error *err)
{
	struct hv_convert *c = v->c;
	struct hv_disk_create create = c->create;
	struct hv_output *output;
	int rc;

	if (to_stdout(c)) {
		look_at_stdout(v);
		return 0;
	}
	v->dest = c->target;
	if (c->target)
		return 0;
	create.size = create.size ? create.size : hv_disk_size(c->source);
	create.full |= c->holes == HV_HOLES_FULL;
	rc = hv_resume_look(v, &create, err);
	if (rc == 0 && c->resume)
		rc = hv_resume_begin(v, &create, err);
	if (rc == 0 && !v->made) {
		rc = hv_output_begin(c->path, false, &output, err);
		if (rc == 0) { /* a journal of an earlier conversion speaks of files that are gone now */
			hv_resume_forget(v);
			rc = hv_disk_create_on(output, &create, false, &v->made, err);
		}
	}
	v->dest = v->made;
	return rc;
}

static int choose_sink(struct hv_conversion *v, struct hv_error *err)
{
	struct hv_pipe *p = v->pipe;
	const struct hv_disk_format *f = v->dest ? v->dest->format : NULL;

	p->dest = v->dest;
	p->sink = !v->dest       ? &hv_sink_stream
		  : v->c->target ? &hv_sink_target
		  : f->append    ? &hv_sink_append
				 : &hv_sink_place;
	if (p->sink == &hv_sink_place && (!f->place || !f->commit))
		return hv_fail(err, ENOTSUP, "%s: %s can't be written", v->dest->path, f->name);
	if (p->sink == &hv_sink_append && (v->dest->block_size == 0 || v->dest->block_size > UNIT_MAX ||
					   v->dest->block_size & (v->dest->block_size - 1)))
		return hv_fail(err, ENOTSUP, "%s: units of %u bytes can't be written", v->dest->path,
			       v->dest->block_size);
	return 0;
}

/* --- the pipe --------------------------------------------------------------------------------------------- */

/* Threads and buffers inside the memory that was given: three buffers of a chunk each for a thread. */
void hv_pipe_sizes(struct hv_pipe *p, unsigned threads, uint64_t memory)
{
	uint32_t least = CHUNK_MIN;

	memory = memory ? memory : MEMORY;
	for (const struct hv_disk *d = p->source; d; d = d->parent)
		while (least < d->block_size && least < CHUNK_MAX)
			least *= 2;
	while (least < p->unit)
		least *= 2;
	p->chunk = CHUNK_MAX > least ? CHUNK_MAX : least;
	p->threads = hv_pipe_threads(threads);
	while (p->chunk > least && 3ULL * p->chunk * p->threads > memory)
		p->chunk /= 2;
	while (p->threads > 1 && 3ULL * p->chunk * p->threads > memory)
		p->threads--;
}

struct hv_pipe *hv_pipe_new(struct hv_disk *source)
{
	struct hv_pipe *p = calloc(1, sizeof(*p));

	if (p) {
		hv_pipe_init(p);
		hv_chain_claims_init(&p->claims, source);
		p->source = source;
		p->end = hv_disk_size(source);
		p->sink = &hv_sink_none;
		p->unit = HV_SUM_BLOCK;
	}
	return p;
}

static void make_plan(struct hv_conversion *v)
{
	struct hv_convert *c = v->c;
	struct hv_pipe *p = v->pipe;

	if (v->dest && hv_disk_size(v->dest) > p->end)
		p->end = hv_disk_size(v->dest);
	if (!v->dest && c->create.size)
		p->end = c->create.size;
	p->digest = c->digest;
	p->salvage = c->salvage;
	p->full = c->holes == HV_HOLES_FULL;
	p->grain = c->holes == HV_HOLES_SPARSE ? GRAIN : 0;
	p->fill = c->digest || c->verify || p->sink == &hv_sink_append;
	p->see = p->fill || p->grain || c->salvage || p->sink == &hv_sink_target;
	if (v->dest && p->sink == &hv_sink_append)
		p->unit = v->dest->block_size > HV_SUM_BLOCK ? v->dest->block_size : HV_SUM_BLOCK;
	hv_pipe_sizes(p, c->threads, c->memory);
	if (v->dest && p->sink == &hv_sink_append)
		p->unit = v->dest->block_size;
}

/* --- running it ------------------------------------------------------------------------------------------- */

/* Tells what was lost, from the calling thread; the last range may still grow until the end. */
static void tell_losses(struct hv_conversion *v, bool all)
{
	struct hv_pipe *p = v->pipe;
	struct hv_convert_loss told;

	for (;;) {
		pthread_mutex_lock(&p->lock);
		bool more = p->losses_told + (all ? 0 : 1) < p->losses;
		if (more) {
			const struct hv_journal_loss *l = &p->loss[p->losses_told++];
			told.offset = l->offset;
			told.length = l->length;
			snprintf(told.why, sizeof(told.why), "%s", l->why ? l->why : "can't be read");
		}
		pthread_mutex_unlock(&p->lock);
		if (!more)
			return;
		if (v->c->lost)
			v->c->lost(v->c->ctx, &told);
	}
}

static void take_counts(struct hv_conversion *v, struct hv_convert_progress *out)
{
	struct hv_pipe *p = v->pipe;

	pthread_mutex_lock(&p->lock);
	*out = p->count;
	pthread_mutex_unlock(&p->lock);
	out->size = p->end;
}

static uint64_t tick_ns(const struct hv_convert *c)
{
	return c->progress_every_ns ? c->progress_every_ns : TICK_NS;
}

static void tick(struct hv_conversion *v, bool verifying)
{
	uint64_t now = hv_now_ns();
	struct hv_convert_progress counts;

	if (now < v->next_tick)
		return;
	v->next_tick = now + tick_ns(v->c);
	take_counts(v, &counts);
	counts.verifying = verifying;
	tell_losses(v, false);
	if (!v->cancelled && v->c->progress && v->c->progress(v->c->ctx, &counts) != 0) {
		v->cancelled = true;
		__atomic_store_n(&v->pipe->cancelled, true, __ATOMIC_RELAXED);
	}
}

static void drain(struct hv_conversion *v, bool verifying)
{
	while (!hv_pipe_idle(v->pipe, 100))
		tick(v, verifying);
}

/* A hole that nobody writes or hashes needs no thread. */
static bool needs_work(const struct hv_pipe *p, const struct hv_item *item)
{
	return !item->hole || p->digest || p->sink->zeros;
}

static void pass_over(struct hv_pipe *p, uint64_t length)
{
	pthread_mutex_lock(&p->lock);
	p->count.done += length;
	p->count.skipped += length;
	pthread_mutex_unlock(&p->lock);
}

/* Every few seconds, when the pipe is past what an earlier run has written. */
static int checkpoint_if_due(struct hv_conversion *v, struct hv_error *err)
{
	struct hv_pipe *p = v->pipe;
	int rc = 0;

	if (!v->can_journal || p->sink == &hv_sink_none || hv_now_ns() < v->next_checkpoint ||
	    p->pos <= v->watermark || p->pos < p->until)
		return 0;
	drain(v, false);
	if (!hv_pipe_failed(p))
		rc = hv_resume_checkpoint(v, err);
	v->next_checkpoint = hv_now_ns() + (v->c->journal_every_ns ? v->c->journal_every_ns : JOURNAL_NS);
	return rc;
}

int hv_conversion_walk(struct hv_conversion *v, bool verifying, struct hv_error *err)
{
	struct hv_pipe *p = v->pipe;
	struct hv_error plan = {0};

	while (p->pos < p->end && !v->cancelled && !hv_pipe_failed(p)) {
		struct hv_item *item = hv_pipe_slot(p, 100);
		tick(v, verifying);
		if (!item)
			continue;
		if (hv_plan_next(p, item, &plan))
			hv_pipe_fail(p, p->next, &plan);
		else if (needs_work(p, item))
			hv_pipe_push(p, item);
		else
			pass_over(p, item->length);
		if (checkpoint_if_due(v, &plan))
			hv_pipe_fail(p, p->next, &plan);
	}
	drain(v, verifying);
	if (p->failed) {
		*err = p->err;
		return err->code;
	}
	return v->cancelled ? hv_fail(err, ECANCELED, "%s: the conversion was stopped", p->source->path) : 0;
}

/* --- all of it -------------------------------------------------------------------------------------------- */

static int run(struct hv_conversion *v, struct hv_error *err)
{
	int rc = 0;

	make_plan(v);
	if (v->c->verify)
		rc = hv_verify_begin(v, err);
	if (rc == 0)
		rc = hv_chain_claim_tables(&v->pipe->claims, v->c->salvage, err);
	if (rc == 0 && v->resumed)
		rc = hv_resume_pipe(v, err);
	if (rc == 0)
		rc = hv_pipe_start(v->pipe, err);
	if (rc == 0)
		rc = hv_conversion_walk(v, false, err);
	if (rc == 0 && to_stdout(v->c))
		rc = end_stdout(v, err);
	if (rc == -ECANCELED && v->can_journal && v->pipe->pos >= v->pipe->until &&
	    v->pipe->pos > v->watermark)
		(void)hv_resume_checkpoint(v, NULL); /* what can't be resumed is begun anew */
	return rc;
}

/* What the pipe leaves for the caller. */
static void results(struct hv_conversion *v)
{
	struct hv_convert *c = v->c;

	take_counts(v, &c->result);
	tell_losses(v, true);
	c->losses = v->pipe->losses;
	if (c->digest)
		sha256_digest(&v->pipe->sha, sizeof(c->sha256), c->sha256);
}

static int finish(struct hv_conversion *v, uint64_t end, struct hv_error *err)
{
	int rc = 0;

	if (v->made && v->made->format->finish)
		rc = v->made->format->finish(v->made, err);
	if (rc == 0 && v->dest)
		rc = hv_disk_flush(v->dest, err);
	if (rc == 0 && v->c->verify)
		rc = hv_verify(v, end, err);
	if (rc == 0)
		rc = hv_disk_unchanged(v->c->source, err);
	if (rc || !v->made)
		return rc;
	/* A kill from here on must not leave a journal beside a disk that is complete. */
	rc = hv_output_sync(v->made->output, err);
	if (rc)
		return rc;
	hv_resume_forget(v);
	if (v->c->no_replace)
		hv_output_no_replace(v->made->output);
	return hv_output_commit(v->made->output, err);
}

int hv_convert(struct hv_convert *c, struct hv_error *err)
{
	struct hv_error own = {0};
	struct hv_conversion v = {.c = c};
	uint64_t end = 0;
	int rc;

	err = err ? err : &own;
	memset(&c->result, 0, sizeof(c->result));
	c->resumed_from = 0;
	c->losses = 0;
	c->resumable = c->complete = false;
	rc = check_request(c, err);
	if (rc == 0)
		rc = check_names(c, err);
	if (rc)
		return rc;
	v.pipe = hv_pipe_new(c->source);
	if (!v.pipe)
		return hv_fail(err, ENOMEM, "%s: no memory to convert it", c->source->path);
	v.next_tick = hv_now_ns() + tick_ns(c);
	v.next_checkpoint = hv_now_ns() + (c->journal_every_ns ? c->journal_every_ns : JOURNAL_NS);
	rc = begin_destination(&v, err);
	if (rc == 0)
		rc = choose_sink(&v, err);
	if (rc == 0) {
		rc = run(&v, err);
		end = v.pipe->end;
		results(&v);
	}
	hv_pipe_free(v.pipe);
	free(v.pipe);
	v.pipe = NULL;
	/* What the source's damage has stopped would stop there again. */
	c->resumable = rc != 0 && rc != -EBADMSG && v.journalled;
	if (rc == 0)
		rc = finish(&v, end, err);
	c->complete = rc == 0;
	if (v.made)
		hv_output_keep(v.made->output, c->resumable);
	if (!c->resumable && !c->complete && v.made) /* complete: what has the name now is another's */
		hv_resume_forget(&v);
	hv_disk_close(v.made);
	free(v.journal_path);
	hv_journal_free(&v.journal);
	hv_journal_free(&v.saved);
	free(v.sums);
	free(v.sums_back);
	if (rc == 0 && c->losses)
		rc = hv_fail_unsafe(err, "%s: %llu bytes in %u ranges could not be read and are zeros now",
				    c->source->path, (unsigned long long)c->result.lost, c->losses);
	return rc;
}
