/*
 * Disks on an NBD server: see nbd.h. Each thread that reads or writes takes one connection out of a small
 * pool for as long as its request lasts, cuts the request into pieces and keeps several of them in flight.
 * Where data and holes are, the server tells by "base:allocation". A server is as hostile as an image:
 * nothing that it says is used before it was looked at, and no wait is without limit.
 *
 * Rules: the NBD protocol (doc/proto.md of the nbd project: block status, structured replies, block size
 * constraints, NBD_FLAG_CAN_MULTI_CONN), libnbd(3).
 */
#include <ctype.h>
#include <libnbd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/bytes.h"
#include "disk/format.h"
#include "disk/nbd.h"

#define CONNECTIONS  4
#define IN_FLIGHT    8            /* requests of one connection */
#define PIECE        (256U << 10) /* bytes of a request */
#define ZERO_PIECE   (128U << 20) /* no payload, but the server may have to write them */
#define STATUS_PIECE (1U << 30)
#define EXTENTS_MAX  4096  /* of one answer; more are asked for again */
#define MIN_MAX      65536 /* a server's smallest request, by the protocol */
#define WAIT_MS      60000 /* for one answer, where the caller says nothing */
#define BYE_MS       1000  /* for parting */

struct extent {
	uint64_t offset, length;
	enum hv_run_kind kind;
};

struct nbd {
	char *uri;
	uint64_t size;
	uint32_t least, most; /* bytes of a request: a multiple of least, at most `most` */
	bool writable, can_zero, can_flush, tells;
	int wait_ms; /* for one answer */

	pthread_mutex_t lock; /* of what follows */
	pthread_cond_t back;  /* a connection was given back */
	struct nbd_handle *idle[CONNECTIONS];
	unsigned idles, open, limit;

	pthread_mutex_t map_lock; /* of the last answer on extents */
	struct extent *extent;
	unsigned extents;

	pthread_mutex_t edge_lock; /* around reading, changing and writing a block of `least` bytes */
};

static const char status_context[] = LIBNBD_CONTEXT_BASE_ALLOCATION;

/* --- waiting ---------------------------------------------------------------------------------------------- */

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* libnbd's own words, without the name of its function; what a server says to a command is an errno alone. */
static int fail_nbd(const struct nbd *n, const char *what, struct hv_error *err)
{
	static const char refused[] = "command failed: ";
	int number = nbd_get_errno();
	const char *text = nbd_get_error(), *cut;

	if (!text)
		text = "the connection is lost";
	else if ((cut = strstr(text, refused)))
		text = cut + strlen(refused);
	else if ((cut = strstr(text, ": ")))
		text = cut + 2;
	return hv_fail(err, number ? number : EIO, "%s: %s: %s", n->uri, what, text);
}

/* Lets the handle work until the deadline. */
static int poll_once(const struct nbd *n, struct nbd_handle *h, int64_t deadline, const char *what,
		     struct hv_error *err)
{
	int64_t left = deadline - now_ms();
	int rc = left > 0 ? nbd_poll(h, (int)left) : 0;

	if (rc < 0)
		return fail_nbd(n, what, err);
	if (rc > 0 || now_ms() < deadline)
		return 0;
	return hv_fail(err, ETIMEDOUT, "%s: %s: the server has not answered for %g seconds", n->uri, what,
		       n->wait_ms / 1000.0);
}

static int wait_for(const struct nbd *n, struct nbd_handle *h, int64_t cookie, const char *what,
		    struct hv_error *err)
{
	int64_t deadline = now_ms() + n->wait_ms;

	for (;;) {
		int done = nbd_aio_command_completed(h, (uint64_t)cookie), rc;

		if (done > 0)
			return 0;
		if (done < 0)
			return fail_nbd(n, what, err);
		rc = poll_once(n, h, deadline, what, err);
		if (rc < 0)
			return rc;
	}
}

/* --- connections ------------------------------------------------------------------------------------------ */

static int negotiate(const struct nbd *n, struct nbd_handle *h, struct hv_error *err)
{
	static const char what[] = "cannot connect";
	int64_t deadline = now_ms() + n->wait_ms;
	int rc = 0;

	if (nbd_add_meta_context(h, status_context) < 0 || nbd_set_uri_allow_local_file(h, true) < 0 ||
	    nbd_aio_connect_uri(h, n->uri) < 0)
		return fail_nbd(n, what, err);
	while (rc == 0 && !nbd_aio_is_ready(h)) {
		if (nbd_aio_is_dead(h) || nbd_aio_is_closed(h))
			return fail_nbd(n, what, err);
		rc = poll_once(n, h, deadline, what, err);
	}
	return rc;
}

static int connect_one(const struct nbd *n, struct nbd_handle **handle, struct hv_error *err)
{
	struct nbd_handle *h = nbd_create();
	int rc = h ? negotiate(n, h, err) : fail_nbd(n, "cannot connect", err);

	if (rc < 0) {
		nbd_close(h);
		return rc;
	}
	*handle = h;
	return 0;
}

static void disconnect(struct nbd_handle *h)
{
	int64_t deadline = now_ms() + BYE_MS;

	if (nbd_aio_is_ready(h) && nbd_aio_disconnect(h, 0) == 0)
		while (!nbd_aio_is_closed(h) && !nbd_aio_is_dead(h) && now_ms() < deadline)
			if (nbd_poll(h, (int)(deadline - now_ms()) + 1) < 0)
				break;
	nbd_close(h);
}

/* One more connection, to an export that must still be the same. */
static int connect_again(const struct nbd *n, struct nbd_handle **h, struct hv_error *err)
{
	int rc = connect_one(n, h, err);
	int64_t size;

	if (rc < 0)
		return rc;
	size = nbd_get_size(*h);
	if (size >= 0 && (uint64_t)size == n->size)
		return 0;
	nbd_close(*h);
	return hv_fail_unsafe(err, "%s: the export had %llu bytes and now has %lld; is it being changed?",
			      n->uri, (unsigned long long)n->size, (long long)size);
}

/* A connection for this thread alone: an idle one, a new one, or the next that is given back. */
static int take(struct nbd *n, struct nbd_handle **h, struct hv_error *err)
{
	pthread_mutex_lock(&n->lock);
	for (;;) {
		int rc;

		if (n->idles) {
			*h = n->idle[--n->idles];
			pthread_mutex_unlock(&n->lock);
			return 0;
		}
		if (n->open >= n->limit) {
			pthread_cond_wait(&n->back, &n->lock); /* who has it waits with a limit */
			continue;
		}
		n->open++;
		pthread_mutex_unlock(&n->lock);
		rc = connect_again(n, h, err);
		if (rc == 0)
			return 0;
		pthread_mutex_lock(&n->lock);
		n->open--;
		pthread_cond_signal(&n->back);
		if (n->open == 0 || rc == -EBADMSG) {
			pthread_mutex_unlock(&n->lock);
			return rc;
		}
		n->limit = n->open; /* the server takes no more: we go on with those that we have */
	}
}

/* Back into the pool; one that has failed is closed, which ends what is in flight on it. */
static void give_back(struct nbd *n, struct nbd_handle *h)
{
	bool usable = nbd_aio_is_ready(h) > 0 && nbd_aio_in_flight(h) == 0;

	if (!usable)
		nbd_close(h);
	pthread_mutex_lock(&n->lock);
	if (usable)
		n->idle[n->idles++] = h;
	else
		n->open--;
	pthread_cond_signal(&n->back);
	pthread_mutex_unlock(&n->lock);
}

/* --- requests --------------------------------------------------------------------------------------------- */

enum verb { READ, WRITE, ZERO };

static const char *const verbs[] = {"reading", "writing", "zeroing"};

/* A request of any length, to be sent in pieces. */
struct request {
	enum verb verb;
	uint8_t *buf; /* NULL with ZERO */
	uint64_t offset, length;
};

static int64_t send_piece(struct nbd_handle *h, const struct request *r, uint64_t done, uint64_t piece)
{
	switch (r->verb) {
	case READ:
		return nbd_aio_pread(h, r->buf + done, piece, r->offset + done, NBD_NULL_COMPLETION, 0);
	case WRITE:
		return nbd_aio_pwrite(h, r->buf + done, piece, r->offset + done, NBD_NULL_COMPLETION, 0);
	case ZERO:
		return nbd_aio_zero(h, piece, r->offset + done, NBD_NULL_COMPLETION, 0);
	}
	return -1;
}

/* All pieces of a request on one connection, the oldest waited for first. After a failure nothing new is
 * sent; what is still in flight is waited for, so that the connection can be used again. */
static int exchange(const struct nbd *n, struct nbd_handle *h, const struct request *r, struct hv_error *err)
{
	uint64_t most = r->verb == ZERO ? ZERO_PIECE : n->most, sent = 0;
	int64_t cookies[IN_FLIGHT];
	unsigned first = 0, flying = 0;
	char what[64];
	int rc = 0;

	snprintf(what, sizeof(what), "%s at offset %llu", verbs[r->verb], (unsigned long long)r->offset);
	while (flying || (rc == 0 && sent < r->length)) {
		if (rc == 0 && sent < r->length && flying < IN_FLIGHT) {
			uint64_t piece = r->length - sent < most ? r->length - sent : most;
			int64_t cookie = send_piece(h, r, sent, piece);

			if (cookie < 0) {
				rc = fail_nbd(n, what, err);
				continue;
			}
			cookies[(first + flying++) % IN_FLIGHT] = cookie;
			sent += piece;
		} else {
			struct hv_error later = {0};
			int failed = wait_for(n, h, cookies[first], what, rc ? &later : err);

			first = (first + 1) % IN_FLIGHT;
			flying--;
			if (rc == 0)
				rc = failed;
			if (failed && !nbd_aio_is_ready(h))
				break;
			if (failed == -ETIMEDOUT)
				break;
		}
	}
	return rc;
}

/*
 * A request that obeys the server's limits. A connection that died while we only read is worth one new try;
 * what was written and not flushed died with it.
 */
static int perform(struct nbd *n, const struct request *r, struct hv_error *err)
{
	for (int attempt = 0;; attempt++) {
		struct nbd_handle *h;
		bool alive;
		int rc = take(n, &h, err);

		if (rc < 0)
			return rc;
		rc = exchange(n, h, r, err);
		alive = nbd_aio_is_ready(h) > 0;
		give_back(n, h);
		if (rc == 0 || alive || rc == -ETIMEDOUT || n->writable || attempt > 0)
			return rc;
	}
}

/* Whether the server takes the range as it is. The disk's end need not be a multiple of anything. */
static bool fits(const struct nbd *n, uint64_t offset, uint64_t length)
{
	return offset % n->least == 0 && (length % n->least == 0 || offset + length == n->size);
}

/* The block of `least` bytes around offset, cut by the disk's end: read, and written back with other bytes.
 */
static int edge(struct nbd *n, enum verb verb, uint8_t *buf, size_t length, uint64_t offset,
		struct hv_error *err)
{
	uint64_t start = offset - offset % n->least;
	uint64_t whole = n->size - start < n->least ? n->size - start : n->least;
	uint8_t *block = malloc(n->least);
	struct request r = {.verb = READ, .buf = block, .offset = start, .length = whole};
	int rc;

	if (!block)
		return hv_fail(err, ENOMEM, "%s: out of memory", n->uri);
	if (verb != READ)
		pthread_mutex_lock(&n->edge_lock);
	rc = perform(n, &r, err);
	if (rc == 0 && verb == READ)
		memcpy(buf, block + (offset - start), length);
	if (rc == 0 && verb != READ) {
		if (verb == ZERO)
			memset(block + (offset - start), 0, length);
		else
			memcpy(block + (offset - start), buf, length);
		r.verb = WRITE;
		rc = perform(n, &r, err);
	}
	if (verb != READ)
		pthread_mutex_unlock(&n->edge_lock);
	free(block);
	return rc;
}

/* Any range: the parts of blocks at its ends by themselves, what is between at once. */
static int any_range(struct nbd *n, enum verb verb, uint8_t *buf, uint64_t length, uint64_t offset,
		     struct hv_error *err)
{
	int rc = 0;

	while (rc == 0 && length) {
		uint64_t step = length;

		if (fits(n, offset, length)) {
			struct request r = {.verb = verb, .buf = buf, .offset = offset, .length = length};

			return perform(n, &r, err);
		}
		if (offset % n->least == 0 && length > n->least) {
			struct request r = {.verb = verb, .buf = buf, .offset = offset};

			r.length = step = length - length % n->least;
			rc = perform(n, &r, err);
		} else {
			if (step > n->least - offset % n->least)
				step = n->least - offset % n->least;
			rc = edge(n, verb, buf, (size_t)step, offset, err);
		}
		buf = buf ? buf + step : NULL;
		offset += step;
		length -= step;
	}
	return rc;
}

/* --- the map ---------------------------------------------------------------------------------------------- */

/* Room for an answer while it comes in. */
struct answer {
	struct extent *extent;
	unsigned count;
	uint64_t start, end; /* what was asked for */
	bool bad;
};

/* Bit 0: a hole, whose bytes are anything; bit 1: reads as zeros. */
static enum hv_run_kind kind_of(uint32_t flags)
{
	if (!(flags & LIBNBD_STATE_ZERO))
		return HV_RUN_DATA;
	return flags & LIBNBD_STATE_HOLE ? HV_RUN_HOLE : HV_RUN_ZERO;
}

static int take_extents(void *ctx, const char *context, uint64_t offset, uint32_t *entries, size_t count,
			int *error)
{
	struct answer *a = ctx;

	(void)error;
	if (strcmp(context, status_context) != 0)
		return 0;
	if (offset != a->start)
		a->bad = true;
	for (size_t i = 0; i + 1 < count && a->start < a->end && a->count < EXTENTS_MAX; i += 2) {
		uint64_t length = entries[i] < a->end - a->start ? entries[i] : a->end - a->start;
		enum hv_run_kind kind = kind_of(entries[i + 1]);
		struct extent *last = a->count ? &a->extent[a->count - 1] : NULL;

		if (length == 0)
			a->bad = true;
		if (last && last->kind == kind)
			last->length += length;
		else
			a->extent[a->count++] = (struct extent){a->start, length, kind};
		a->start += length;
	}
	return 0;
}

static int ask_status(struct nbd *n, struct nbd_handle *h, struct answer *a, struct hv_error *err)
{
	static const char what[] = "asking for the map";
	nbd_extent_callback callback = {.callback = take_extents, .user_data = a};
	int64_t cookie =
		nbd_aio_block_status(h, a->end - a->start, a->start, callback, NBD_NULL_COMPLETION, 0);

	return cookie < 0 ? fail_nbd(n, what, err) : wait_for(n, h, cookie, what, err);
}

/* Asks what lies from offset on, into n->extent. With map_lock held. */
static int refresh(struct nbd *n, uint64_t offset, struct hv_error *err)
{
	uint64_t start = offset - offset % n->least;
	uint64_t length = n->size - start < STATUS_PIECE ? n->size - start : STATUS_PIECE;
	struct answer a = {.extent = n->extent};
	struct nbd_handle *h;
	int rc = 0;

	for (int attempt = 0; attempt < 2; attempt++) {
		bool alive;

		a.start = start;
		a.end = start + length;
		a.count = n->extents = 0;
		rc = take(n, &h, err);
		if (rc < 0)
			return rc;
		rc = ask_status(n, h, &a, err);
		alive = nbd_aio_is_ready(h) > 0;
		give_back(n, h); /* closed when it failed: nothing writes to `a` from here on */
		if (rc == 0 || alive || rc == -ETIMEDOUT)
			break;
	}
	if (rc < 0)
		return rc;
	if (a.bad || a.count == 0)
		return hv_fail_unsafe(err, "%s: the server's map of offset %llu makes no sense", n->uri,
				      (unsigned long long)offset);
	n->extents = a.count;
	return 0;
}

static const struct extent *find(const struct nbd *n, uint64_t offset)
{
	unsigned low = 0, high = n->extents;

	while (low < high) {
		unsigned middle = (low + high) / 2;
		const struct extent *e = &n->extent[middle];

		if (offset < e->offset)
			high = middle;
		else if (offset - e->offset >= e->length)
			low = middle + 1;
		else
			return e;
	}
	return NULL;
}

/* What is being written changes under a map that was asked for before. */
static void forget_map(struct nbd *n)
{
	pthread_mutex_lock(&n->map_lock);
	n->extents = 0;
	pthread_mutex_unlock(&n->map_lock);
}

static int nbd_map(struct hv_disk *d, uint64_t offset, uint64_t length, struct hv_run *run,
		   struct hv_error *err)
{
	struct nbd *n = d->state;
	const struct extent *e;
	int rc = 0;

	*run = (struct hv_run){
		.offset = offset, .length = length, .kind = HV_RUN_DATA, .stored = HV_STORED_CALL};
	if (!n->tells)
		return 0;
	pthread_mutex_lock(&n->map_lock);
	e = find(n, offset);
	if (!e) {
		rc = refresh(n, offset, err);
		e = rc ? NULL : find(n, offset);
	}
	if (e) {
		run->kind = e->kind;
		run->length = e->length - (offset - e->offset);
	} else if (rc == 0) {
		rc = hv_fail_unsafe(err, "%s: the server's map leaves out offset %llu", n->uri,
				    (unsigned long long)offset);
	}
	pthread_mutex_unlock(&n->map_lock);
	return rc;
}

/* --- as a format ------------------------------------------------------------------------------------------ */

static int nbd_read(struct hv_disk *d, void *buf, size_t length, uint64_t offset, struct hv_error *err)
{
	return any_range(d->state, READ, buf, length, offset, err);
}

static int nbd_write(struct hv_disk *d, const void *buf, size_t length, uint64_t offset, struct hv_error *err)
{
	forget_map(d->state);
	return any_range(d->state, WRITE, (uint8_t *)buf, length, offset, err); /* only read, by libnbd too */
}

static int nbd_zero_range(struct hv_disk *d, uint64_t offset, uint64_t length, struct hv_error *err)
{
	struct nbd *n = d->state;
	uint8_t *zeros;
	int rc = 0;

	forget_map(n);
	if (n->can_zero)
		return any_range(n, ZERO, NULL, length, offset, err);
	zeros = calloc(1, PIECE);
	if (!zeros)
		return hv_fail(err, ENOMEM, "%s: out of memory", n->uri);
	while (rc == 0 && length) {
		uint64_t step = length < PIECE ? length : PIECE;

		rc = any_range(n, WRITE, zeros, step, offset, err);
		offset += step;
		length -= step;
	}
	free(zeros);
	return rc;
}

/* One connection's flush is everybody's: several are open only where the server promises that. */
static int nbd_flush_all(struct hv_disk *d, struct hv_error *err)
{
	struct nbd *n = d->state;
	struct nbd_handle *h;
	int64_t cookie;
	int rc;

	if (!n->can_flush)
		return 0;
	rc = take(n, &h, err);
	if (rc < 0)
		return rc;
	cookie = nbd_aio_flush(h, NBD_NULL_COMPLETION, 0);
	rc = cookie < 0 ? fail_nbd(n, "flushing", err) : wait_for(n, h, cookie, "flushing", err);
	give_back(n, h);
	return rc;
}

static void free_nbd(struct nbd *n)
{
	for (unsigned i = 0; i < n->idles; i++)
		disconnect(n->idle[i]);
	pthread_mutex_destroy(&n->lock);
	pthread_cond_destroy(&n->back);
	pthread_mutex_destroy(&n->map_lock);
	pthread_mutex_destroy(&n->edge_lock);
	free(n->extent);
	free(n->uri);
	free(n);
}

static void nbd_close_disk(struct hv_disk *d)
{
	if (d->state)
		free_nbd(d->state);
	d->state = NULL;
}

static const struct hv_disk_format nbd_format = {
	.name = "nbd",
	.close = nbd_close_disk,
	.map = nbd_map,
	.read = nbd_read,
	.zero = nbd_zero_range,
	.flush = nbd_flush_all,
	.write = nbd_write,
};

/* --- opening ---------------------------------------------------------------------------------------------- */

static struct nbd *new_nbd(const char *uri, uint32_t wait_ms)
{
	struct nbd *n = calloc(1, sizeof(*n));

	if (!n)
		return NULL;
	n->uri = strdup(uri);
	n->wait_ms = wait_ms && wait_ms < INT32_MAX ? (int)wait_ms : WAIT_MS;
	n->extent = calloc(EXTENTS_MAX, sizeof(*n->extent));
	pthread_mutex_init(&n->lock, NULL);
	pthread_cond_init(&n->back, NULL);
	pthread_mutex_init(&n->map_lock, NULL);
	pthread_mutex_init(&n->edge_lock, NULL);
	if (n->uri && n->extent)
		return n;
	free_nbd(n);
	return NULL;
}

static int take_limits(struct nbd *n, struct nbd_handle *h, struct hv_error *err)
{
	int64_t least = nbd_get_block_size(h, LIBNBD_SIZE_MINIMUM);
	int64_t most = nbd_get_block_size(h, LIBNBD_SIZE_MAXIMUM);

	if (least <= 0)
		least = 1;
	if (least > MIN_MAX || (least & (least - 1)))
		return hv_fail_unsafe(err, "%s: the server wants requests of %lld bytes at least", n->uri,
				      (long long)least);
	if (most <= 0 || most > PIECE)
		most = PIECE;
	if (most < least)
		return hv_fail_unsafe(err,
				      "%s: the server takes requests of %lld to %lld bytes, which is none",
				      n->uri, (long long)least, (long long)most);
	n->least = (uint32_t)least;
	n->most = (uint32_t)(most - most % least);
	return 0;
}

/* What the server says of its export. */
static int take_export(struct nbd *n, struct nbd_handle *h, bool writable, struct hv_error *err)
{
	int64_t size = nbd_get_size(h);

	if (size < 0)
		return fail_nbd(n, "the export's size", err);
	if ((uint64_t)size > HV_DISK_SIZE_MAX)
		return hv_fail_unsafe(err, "%s: an export of %lld bytes can't be", n->uri, (long long)size);
	if (writable && nbd_is_read_only(h) > 0)
		return hv_fail(err, EROFS, "%s: the server gives this export for reading only", n->uri);
	n->size = (uint64_t)size;
	n->writable = writable;
	n->can_zero = nbd_can_zero(h) > 0;
	n->can_flush = nbd_can_flush(h) > 0;
	n->tells = nbd_can_meta_context(h, status_context) > 0;
	n->limit = nbd_can_multi_conn(h) > 0 ? CONNECTIONS : 1;
	return take_limits(n, h, err);
}

static int describe(struct hv_disk *d, const struct nbd *n, struct nbd_handle *h)
{
	char *name = nbd_get_export_name(h);
	int rc = hv_disk_property(d, "export", "%s", name ? name : "");

	free(name);
	if (rc == 0)
		rc = hv_disk_property(d, "protocol", "%s%s", nbd_get_protocol(h),
				      nbd_get_tls_negotiated(h) > 0 ? ", TLS" : "");
	if (rc == 0)
		rc = hv_disk_property(d, "connections", "%s", n->limit > 1 ? "several" : "one");
	if (rc == 0 && !n->tells)
		rc = hv_disk_note(d, "%s: the server does not tell where holes are: all is read", n->uri);
	if (rc == 0 && n->writable && !n->can_flush)
		rc = hv_disk_note(
			d, "%s: the server can't be asked to put what was written on stable storage", n->uri);
	return rc;
}

static int open_export(struct hv_disk *d, struct nbd *n, struct hv_error *err)
{
	struct nbd_handle *h;
	int rc = connect_one(n, &h, err);

	if (rc < 0)
		return rc;
	n->open = 1;
	n->idle[n->idles++] = h;
	rc = take_export(n, h, d->writable, err);
	if (rc == 0 && describe(d, n, h) < 0)
		rc = hv_fail(err, ENOMEM, "%s: out of memory", n->uri);
	d->size = n->size;
	d->block_size = n->least > 1 ? n->least : 0;
	return rc;
}

int hv_disk_open_nbd(const char *uri, const struct hv_disk_options *options, struct hv_disk **disk,
		     struct hv_error *err)
{
	struct hv_disk *d;
	int rc = hv_disk_new(&nbd_format, uri, options, &d, err);

	if (rc < 0)
		return rc;
	d->state = new_nbd(uri, d->options.timeout_ms);
	rc = d->state ? open_export(d, d->state, err) : hv_fail(err, ENOMEM, "%s: out of memory", uri);
	if (rc < 0) {
		hv_disk_close(d);
		return rc;
	}
	*disk = d;
	return 0;
}

bool hv_disk_is_nbd(const char *name)
{
	if (strncmp(name, "nbd", 3) != 0)
		return false;
	name += name[3] == 's' ? 4 : 3;
	if (*name == '+')
		for (name++; isalpha((unsigned char)*name);)
			name++;
	return strncmp(name, "://", 3) == 0;
}
