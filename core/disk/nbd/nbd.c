/*
 * Disks on an NBD server: see nbd.h. Where data and holes are, the server tells by "base:allocation". A
 * server is as hostile as an image: nothing that it says is used before it was looked at.
 *
 * Rules: the NBD protocol (doc/proto.md of the nbd project: block status, structured replies, block size
 * constraints, NBD_FLAG_CAN_MULTI_CONN), libnbd(3).
 */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "disk/format.h"
#include "disk/nbd.h"
#include "disk/nbd/nbd_impl.h"

#define STATUS_PIECE (1U << 30)
#define EXTENTS_MAX  4096  /* of one answer; more are asked for again */
#define MIN_MAX      65536 /* a server's smallest request, by the protocol */
#define WAIT_MS      60000 /* for one answer, where the caller says nothing */

/* --- the map ---------------------------------------------------------------------------------------------- */

/* Room for an answer while it comes in. */
struct answer {
	struct hv_nbd_extent *extent;
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
	if (strcmp(context, HV_NBD_CONTEXT) != 0)
		return 0;
	if (offset != a->start)
		a->bad = true;
	for (size_t i = 0; i + 1 < count && a->start < a->end && a->count < EXTENTS_MAX; i += 2) {
		uint64_t length = entries[i] < a->end - a->start ? entries[i] : a->end - a->start;
		enum hv_run_kind kind = kind_of(entries[i + 1]);

		if (length == 0)
			a->bad = true;
		if (a->count && a->extent[a->count - 1].kind == kind)
			a->extent[a->count - 1].length += length;
		else
			a->extent[a->count++] = (struct hv_nbd_extent){a->start, length, kind};
		a->start += length;
	}
	return 0;
}

static int ask_status(struct hv_nbd *n, struct nbd_handle *h, struct answer *a, struct hv_error *err)
{
	static const char what[] = "asking for the map";
	int64_t cookie = nbd_aio_block_status(h, a->end - a->start, a->start,
					      (nbd_extent_callback){.callback = take_extents, .user_data = a},
					      NBD_NULL_COMPLETION, 0);

	return cookie < 0 ? hv_nbd_fail(n, what, err) : hv_nbd_wait(n, h, cookie, what, err);
}

/* Asks what lies from offset on, into n->extent. With map_lock held. */
static int refresh(struct hv_nbd *n, uint64_t offset, struct hv_error *err)
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
		rc = hv_nbd_take(n, &h, err);
		if (rc < 0)
			return rc;
		rc = ask_status(n, h, &a, err);
		alive = nbd_aio_is_ready(h) > 0;
		hv_nbd_give(n, h); /* closed when it failed: nothing writes to `a` from here on */
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

static const struct hv_nbd_extent *find(const struct hv_nbd *n, uint64_t offset)
{
	unsigned low = 0, high = n->extents;

	while (low < high) {
		unsigned middle = (low + high) / 2;
		const struct hv_nbd_extent *e = &n->extent[middle];

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
static void forget_map(struct hv_nbd *n)
{
	pthread_mutex_lock(&n->map_lock);
	n->extents = 0;
	pthread_mutex_unlock(&n->map_lock);
}

static int nbd_map(struct hv_disk *d, uint64_t offset, uint64_t length, struct hv_run *run,
		   struct hv_error *err)
{
	struct hv_nbd *n = d->state;
	const struct hv_nbd_extent *e;
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
	return hv_nbd_range(d->state, HV_NBD_READ, buf, length, offset, err);
}

static int nbd_write(struct hv_disk *d, const void *buf, size_t length, uint64_t offset, struct hv_error *err)
{
	forget_map(d->state);
	return hv_nbd_range(d->state, HV_NBD_WRITE, (uint8_t *)buf, length, offset,
			    err); /* only read, by libnbd too */
}

static int nbd_zero_range(struct hv_disk *d, uint64_t offset, uint64_t length, struct hv_error *err)
{
	struct hv_nbd *n = d->state;
	uint8_t *zeros;
	int rc = 0;

	forget_map(n);
	if (n->can_zero)
		return hv_nbd_range(n, HV_NBD_ZERO, NULL, length, offset, err);
	zeros = calloc(1, HV_NBD_PIECE);
	if (!zeros)
		return hv_fail(err, ENOMEM, "%s: out of memory", n->uri);
	while (rc == 0 && length) {
		uint64_t step = length < HV_NBD_PIECE ? length : HV_NBD_PIECE;

		rc = hv_nbd_range(n, HV_NBD_WRITE, zeros, step, offset, err);
		offset += step;
		length -= step;
	}
	free(zeros);
	return rc;
}

/* One connection's flush is everybody's: several are open only where the server promises that. */
static int nbd_flush_all(struct hv_disk *d, struct hv_error *err)
{
	struct hv_nbd *n = d->state;
	struct nbd_handle *h;
	int64_t cookie;
	int rc;

	if (!n->can_flush)
		return 0;
	rc = hv_nbd_take(n, &h, err);
	if (rc < 0)
		return rc;
	cookie = nbd_aio_flush(h, NBD_NULL_COMPLETION, 0);
	rc = cookie < 0 ? hv_nbd_fail(n, "flushing", err) : hv_nbd_wait(n, h, cookie, "flushing", err);
	hv_nbd_give(n, h);
	return rc;
}

static void free_nbd(struct hv_nbd *n)
{
	for (unsigned i = 0; i < n->idles; i++)
		hv_nbd_disconnect(n->idle[i]);
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

static struct hv_nbd *new_nbd(const char *uri, uint32_t wait_ms)
{
	struct hv_nbd *n = calloc(1, sizeof(*n));

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

static int take_limits(struct hv_nbd *n, struct nbd_handle *h, struct hv_error *err)
{
	int64_t least = nbd_get_block_size(h, LIBNBD_SIZE_MINIMUM);
	int64_t most = nbd_get_block_size(h, LIBNBD_SIZE_MAXIMUM);

	if (least <= 0)
		least = 1;
	if (least > MIN_MAX || (least & (least - 1)))
		return hv_fail_unsafe(err, "%s: the server wants requests of %lld bytes at least", n->uri,
				      (long long)least);
	if (most <= 0 || most > HV_NBD_PIECE)
		most = HV_NBD_PIECE;
	if (most < least)
		return hv_fail_unsafe(err,
				      "%s: the server takes requests of %lld to %lld bytes, which is none",
				      n->uri, (long long)least, (long long)most);
	n->least = (uint32_t)least;
	n->most = (uint32_t)(most - most % least);
	return 0;
}

/* What the server says of its export. */
static int take_export(struct hv_nbd *n, struct nbd_handle *h, bool writable, struct hv_error *err)
{
	int64_t size = nbd_get_size(h);

	if (size < 0)
		return hv_nbd_fail(n, "the export's size", err);
	if ((uint64_t)size > HV_DISK_SIZE_MAX)
		return hv_fail_unsafe(err, "%s: an export of %lld bytes can't be", n->uri, (long long)size);
	if (writable && nbd_is_read_only(h) > 0)
		return hv_fail(err, EROFS, "%s: the server gives this export for reading only", n->uri);
	n->size = (uint64_t)size;
	n->writable = writable;
	n->can_zero = nbd_can_zero(h) > 0;
	n->can_flush = nbd_can_flush(h) > 0;
	n->tells = nbd_can_meta_context(h, HV_NBD_CONTEXT) > 0;
	n->limit = nbd_can_multi_conn(h) > 0 ? HV_NBD_CONNECTIONS : 1;
	return take_limits(n, h, err);
}

static int describe(struct hv_disk *d, const struct hv_nbd *n, struct nbd_handle *h)
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

static int open_export(struct hv_disk *d, struct hv_nbd *n, struct hv_error *err)
{
	struct nbd_handle *h;
	int rc = hv_nbd_connect(n, &h, err);

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
