/*
 * Connections to an NBD server: see nbd_impl.h. Each wait has a limit. Several connections are open only
 * where the server promises that they see each other's writes (NBD_FLAG_CAN_MULTI_CONN).
 */
#include <string.h>
#include <time.h>

#include "disk/nbd/nbd_impl.h"

#define BYE_MS 1000 /* for parting */

/* --- waiting ---------------------------------------------------------------------------------------------- */

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* libnbd's own words, without the name of its function; what a server says to a command is an errno alone. */
int hv_nbd_fail(const struct hv_nbd *n, const char *what, struct hv_error *err)
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
static int poll_once(const struct hv_nbd *n, struct nbd_handle *h, int64_t deadline, const char *what,
		     struct hv_error *err)
{
	int64_t left = deadline - now_ms();
	int rc = left > 0 ? nbd_poll(h, (int)left) : 0;

	if (rc < 0)
		return hv_nbd_fail(n, what, err);
	if (rc > 0 || now_ms() < deadline)
		return 0;
	return hv_fail(err, ETIMEDOUT, "%s: %s: the server has not answered for %g seconds", n->uri, what,
		       n->wait_ms / 1000.0);
}

int hv_nbd_wait(const struct hv_nbd *n, struct nbd_handle *h, int64_t cookie, const char *what,
		struct hv_error *err)
{
	int64_t deadline = now_ms() + n->wait_ms;

	for (;;) {
		int done = nbd_aio_command_completed(h, (uint64_t)cookie), rc;

		if (done > 0)
			return 0;
		if (done < 0)
			return hv_nbd_fail(n, what, err);
		rc = poll_once(n, h, deadline, what, err);
		if (rc < 0)
			return rc;
	}
}

/* --- connections ------------------------------------------------------------------------------------------ */

static int negotiate(const struct hv_nbd *n, struct nbd_handle *h, struct hv_error *err)
{
	static const char what[] = "cannot connect";
	int64_t deadline = now_ms() + n->wait_ms;
	int rc = 0;

	if (nbd_add_meta_context(h, HV_NBD_CONTEXT) < 0 || nbd_set_uri_allow_local_file(h, true) < 0 ||
	    nbd_aio_connect_uri(h, n->uri) < 0)
		return hv_nbd_fail(n, what, err);
	while (rc == 0 && !nbd_aio_is_ready(h)) {
		if (nbd_aio_is_dead(h) || nbd_aio_is_closed(h))
			return hv_nbd_fail(n, what, err);
		rc = poll_once(n, h, deadline, what, err);
	}
	return rc;
}

int hv_nbd_connect(const struct hv_nbd *n, struct nbd_handle **handle, struct hv_error *err)
{
	struct nbd_handle *h = nbd_create();
	int rc = h ? negotiate(n, h, err) : hv_nbd_fail(n, "cannot connect", err);

	if (rc < 0) {
		nbd_close(h);
		return rc;
	}
	*handle = h;
	return 0;
}

void hv_nbd_disconnect(struct nbd_handle *h)
{
	int64_t deadline = now_ms() + BYE_MS;

	if (nbd_aio_is_ready(h) && nbd_aio_disconnect(h, 0) == 0)
		while (!nbd_aio_is_closed(h) && !nbd_aio_is_dead(h) && now_ms() < deadline)
			if (nbd_poll(h, (int)(deadline - now_ms()) + 1) < 0)
				break;
	nbd_close(h);
}

/* One more connection, to an export that must still be the same. */
static int connect_again(const struct hv_nbd *n, struct nbd_handle **h, struct hv_error *err)
{
	int rc = hv_nbd_connect(n, h, err);
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

int hv_nbd_take(struct hv_nbd *n, struct nbd_handle **h, struct hv_error *err)
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

void hv_nbd_give(struct hv_nbd *n, struct nbd_handle *h)
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
