/*
 * Requests to an NBD server: see nbd_impl.h. A range is cut into pieces that the server takes, of which
 * several are in flight; blocks that it only takes whole are read, changed and written back.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "disk/nbd/nbd_impl.h"

#define IN_FLIGHT  8            /* requests of one connection */
#define ZERO_PIECE (128U << 20) /* no payload, but the server may have to write them */

/* --- requests --------------------------------------------------------------------------------------------- */

static const char *const verbs[] = {"reading", "writing", "zeroing"};

/* A request of any length, to be sent in pieces. */
struct request {
	enum hv_nbd_verb verb;
	uint8_t *buf; /* NULL with HV_NBD_ZERO */
	uint64_t offset, length;
};

static int64_t send_piece(struct nbd_handle *h, const struct request *r, uint64_t done, uint64_t piece)
{
	switch (r->verb) {
	case HV_NBD_READ:
		return nbd_aio_pread(h, r->buf + done, piece, r->offset + done, NBD_NULL_COMPLETION, 0);
	case HV_NBD_WRITE:
		return nbd_aio_pwrite(h, r->buf + done, piece, r->offset + done, NBD_NULL_COMPLETION, 0);
	case HV_NBD_ZERO:
		return nbd_aio_zero(h, piece, r->offset + done, NBD_NULL_COMPLETION, 0);
	}
	return -1;
}

/* All pieces of a request on one connection, the oldest waited for first. After a failure nothing new is
 * sent; what is still in flight is waited for, so that the connection can be used again. */
static int exchange(const struct hv_nbd *n, struct nbd_handle *h, const struct request *r,
		    struct hv_error *err)
{
	uint64_t most = r->verb == HV_NBD_ZERO ? ZERO_PIECE : n->most, sent = 0;
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
				rc = hv_nbd_fail(n, what, err);
				continue;
			}
			cookies[(first + flying++) % IN_FLIGHT] = cookie;
			sent += piece;
		} else {
			struct hv_error later = {0};
			int failed = hv_nbd_wait(n, h, cookies[first], what, rc ? &later : err);

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
static int perform(struct hv_nbd *n, const struct request *r, struct hv_error *err)
{
	for (int attempt = 0;; attempt++) {
		struct nbd_handle *h;
		bool alive;
		int rc = hv_nbd_take(n, &h, err);

		if (rc < 0)
			return rc;
		rc = exchange(n, h, r, err);
		alive = nbd_aio_is_ready(h) > 0;
		hv_nbd_give(n, h);
		if (rc == 0 || alive || rc == -ETIMEDOUT || n->writable || attempt > 0)
			return rc;
	}
}

/* Whether the server takes the range as it is. The disk's end need not be a multiple of anything. */
static bool fits(const struct hv_nbd *n, uint64_t offset, uint64_t length)
{
	return offset % n->least == 0 && (length % n->least == 0 || offset + length == n->size);
}

/* The block of `least` bytes around offset, cut by the disk's end: read, and written back with other bytes.
 */
static int edge(struct hv_nbd *n, enum hv_nbd_verb verb, uint8_t *buf, size_t length, uint64_t offset,
		struct hv_error *err)
{
	uint64_t start = offset - offset % n->least;
	uint64_t whole = n->size - start < n->least ? n->size - start : n->least;
	uint8_t *block = malloc(n->least);
	struct request r = {.verb = HV_NBD_READ, .buf = block, .offset = start, .length = whole};
	int rc;

	if (!block)
		return hv_fail(err, ENOMEM, "%s: out of memory", n->uri);
	if (verb != HV_NBD_READ)
		pthread_mutex_lock(&n->edge_lock);
	rc = perform(n, &r, err);
	if (rc == 0 && verb == HV_NBD_READ && buf)
		memcpy(buf, block + (offset - start), length);
	if (rc == 0 && verb != HV_NBD_READ) {
		if (!buf)
			memset(block + (offset - start), 0, length);
		else
			memcpy(block + (offset - start), buf, length);
		r.verb = HV_NBD_WRITE;
		rc = perform(n, &r, err);
	}
	if (verb != HV_NBD_READ)
		pthread_mutex_unlock(&n->edge_lock);
	free(block);
	return rc;
}

/* The parts of blocks at its ends by themselves, what is between at once. */
int hv_nbd_range(struct hv_nbd *n, enum hv_nbd_verb verb, uint8_t *buf, uint64_t length, uint64_t offset,
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
