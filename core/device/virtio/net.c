/*
 * The network device: frames between the driver's queues and a back end. It calls the transport, the back
 * end's operations and net_control.c, which has what a driver may ask for.
 *
 * Rules: virtio 1.2, section 5.1; 5.1.6.2 (from the guest), 5.1.6.4 (to the guest). In front of each frame
 * stands a header of 12 bytes, which says what the other side has left to do: a checksum, segmentation.
 *
 * One thread of the device's own does it all: it waits for the back end's descriptors and for an eventfd by
 * which a vCPU (a notification) or another thread (a hold, the end) calls it. So no vCPU ever waits for the
 * network, and a back end is used by one thread only. Back-pressure in both directions: a frame that the
 * back end doesn't take now goes back into the transmit queue until it does; a frame for which the driver has
 * no buffers is kept, and the back end is not asked for another one.
 *
 * Hold: the thread is at rest while it waits in poll(), and no chain is out then. A frame that is kept stays
 * with the host and is not saved: a network may lose frames.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/signals.h"
#include "device/virtio/net_impl.h"

#define ID         1u
#define STACK_SIZE (1u << 20)
#define BURST      64u /* frames of one direction before the other one has its turn */

#define OFFLOADS                                                                                             \
	(NET_F_CSUM | NET_F_GUEST_CSUM | NET_F_GUEST_TSO4 | NET_F_GUEST_TSO6 | NET_F_GUEST_ECN |             \
	 NET_F_HOST_TSO4 | NET_F_HOST_TSO6 | NET_F_HOST_ECN)

enum { /* the header (5.1.6): offsets of its fields */
       HEADER_FLAGS = 0,
       HEADER_GSO_TYPE = 1,
       HEADER_LENGTH = 2,
       HEADER_GSO_SIZE = 4,
       HEADER_CSUM_START = 6,
       HEADER_CSUM_OFFSET = 8,
       HEADER_BUFFERS = 10,
};

enum { FLAG_NEEDS_CSUM = 1, FLAG_DATA_VALID = 2 };
enum { GSO_NONE = 0, GSO_TCPV4 = 1, GSO_TCPV6 = 4, GSO_ECN = 0x80 };

/* --- headers --- */

/* Whether the three features, of the one who makes segments, allow this type. */
static bool gso_is_agreed(const struct hv_virtio *v, uint8_t type, uint64_t tso4, uint64_t tso6, uint64_t ecn)
{
	if (type & GSO_ECN && !hv_virtio_has(v, ecn))
		return false;
	type &= (uint8_t)~GSO_ECN;
	return (type == GSO_TCPV4 && hv_virtio_has(v, tso4)) || (type == GSO_TCPV6 && hv_virtio_has(v, tso6));
}

/* A header of the driver's, a copy: nothing that was not agreed on, and nothing that lies behind the frame.
 */
static bool header_is_right(const struct hv_virtio *v, const uint8_t *h, size_t length)
{
	uint32_t start = hv_le16(h + HEADER_CSUM_START), offset = hv_le16(h + HEADER_CSUM_OFFSET);

	if (h[HEADER_FLAGS] & ~FLAG_NEEDS_CSUM)
		return false;
	if (h[HEADER_FLAGS] && (!hv_virtio_has(v, NET_F_CSUM) || start + offset + 2 > length))
		return false;
	if (h[HEADER_GSO_TYPE] == GSO_NONE)
		return true;
	return h[HEADER_FLAGS] && hv_le16(h + HEADER_GSO_SIZE) > 0 && hv_le16(h + HEADER_LENGTH) <= length &&
	       gso_is_agreed(v, h[HEADER_GSO_TYPE], NET_F_HOST_TSO4, NET_F_HOST_TSO6, NET_F_HOST_ECN);
}

/* A header of the back end's: a frame that was made before this driver came may ask for what it can't do. */
static bool driver_knows(const struct hv_virtio *v, uint8_t *h)
{
	h[HEADER_FLAGS] &= FLAG_NEEDS_CSUM | FLAG_DATA_VALID;
	if (!hv_virtio_has(v, NET_F_GUEST_CSUM)) {
		h[HEADER_FLAGS] &= FLAG_NEEDS_CSUM;
		if (h[HEADER_FLAGS])
			return false;
	}
	return h[HEADER_GSO_TYPE] == GSO_NONE ||
	       gso_is_agreed(v, h[HEADER_GSO_TYPE], NET_F_GUEST_TSO4, NET_F_GUEST_TSO6, NET_F_GUEST_ECN);
}

/* --- from the guest --- */

/* iov[0] stays the header; the rest becomes the chain's bytes behind it. How many there are in all. */
static unsigned frame_of(const struct hv_virtq_chain *chain, struct iovec *iov)
{
	unsigned count = 1;
	size_t skip = HV_NET_HEADER;

	for (unsigned i = 0; i < chain->readable; i++) {
		const struct iovec *b = &chain->buffers[i];

		if (skip >= b->iov_len) {
			skip -= b->iov_len;
			continue;
		}
		iov[count++] = (struct iovec){.iov_base = (uint8_t *)b->iov_base + skip,
					      .iov_len = b->iov_len - skip};
		skip = 0;
	}
	return count;
}

/* The chain in hand, without the lock: 0, -EAGAIN, or it is lost. */
static int send_chain(struct net *n, size_t length)
{
	uint8_t header[HV_NET_HEADER];
	unsigned count;

	if (length < HV_NET_FRAME_MIN || length > HV_NET_FRAME_MAX)
		return -EMSGSIZE;
	hv_virtq_read(&n->chain, 0, header, sizeof(header));
	if (!header_is_right(&n->v, header, length))
		return -EINVAL;
	hv_put_le16(header + HEADER_BUFFERS, 0);
	n->iov[0] = (struct iovec){.iov_base = header, .iov_len = sizeof(header)};
	count = frame_of(&n->chain, n->iov);
	return n->back->ops->send(n->back, n->iov, count, length);
}

/* One frame; false when there is none, or when none can be sent now. Lock held. */
static bool transmit(struct net *n)
{
	struct hv_virtio *v = &n->v;
	size_t length;
	bool up = n->link && !n->back->gone;
	int rc;

	if (!hv_virtio_pop(v, NET_QUEUE_TRANSMIT, &n->chain))
		return false;
	if (n->chain.read_length < HV_NET_HEADER) {
		hv_virtio_needs_reset(v, NET_QUEUE_TRANSMIT, "a frame without its header");
		return false;
	}
	length = n->chain.read_length - HV_NET_HEADER;
	pthread_mutex_unlock(&v->dev.lock);
	rc = up ? send_chain(n, length) : -ENETDOWN;
	pthread_mutex_lock(&v->dev.lock);
	if (rc == -EAGAIN) {
		hv_virtio_put_back(v, NET_QUEUE_TRANSMIT, &n->chain);
		n->blocked = true;
		return false;
	}
	if (rc) {
		n->out.dropped++;
	} else {
		n->out.frames++;
		n->out.bytes += length;
	}
	hv_virtio_push(v, NET_QUEUE_TRANSMIT, &n->chain, 0);
	return true;
}

/* --- to the guest --- */

/* The next frame that the driver wants into n->frame. Lock held, let go of meanwhile. */
static bool fetch(struct net *n)
{
	struct hv_virtio *v = &n->v;

	for (unsigned i = 0; i < BURST; i++) {
		size_t got;

		pthread_mutex_unlock(&v->dev.lock);
		got = n->back->ops->receive(n->back, n->frame, sizeof(n->frame));
		pthread_mutex_lock(&v->dev.lock);
		if (got == 0)
			return false;
		if (n->link && got >= HV_NET_HEADER + HV_NET_FRAME_MIN && got <= sizeof(n->frame) &&
		    driver_knows(v, n->frame)) {
			if (!hv_net_filter_passes(n, n->frame + HV_NET_HEADER))
				continue; /* for somebody else: not lost */
			n->kept = got;
			return true;
		}
		n->in.dropped++;
	}
	n->more = true;
	return false;
}

/* Writes the kept frame's bytes from `at` on into a chain, or as many as fit. Lock not needed. */
static uint32_t fill_chain(struct net *n, const struct hv_virtq_chain *chain, size_t at)
{
	return (uint32_t)hv_virtq_write(chain, 0, n->frame + at, n->kept - at);
}

enum delivery { DELIVERED, NO_BUFFERS, BAD_BUFFER };

/*
 * The kept frame into as many chains as it needs: one, or with MRG_RXBUF several. The first one's header says
 * how many, so it is written last; the driver sees them together. Where there are too few now, none is taken.
 */
static enum delivery spread(struct net *n, unsigned *used)
{
	struct hv_virtio *v = &n->v;
	bool several = hv_virtio_has(v, NET_F_MRG_RXBUF);
	unsigned most = several ? v->queues[NET_QUEUE_RECEIVE].size : 1, count = 0;
	struct hv_virtq_chain *chain = &n->chain;
	uint8_t buffers[2];
	size_t at = 0;

	while (at < n->kept && count < most) {
		struct hv_virtq_used *u = &n->used[count];

		if (!hv_virtio_pop(v, NET_QUEUE_RECEIVE, chain)) {
			if (count > 0)
				hv_virtio_put_back(v, NET_QUEUE_RECEIVE, &n->chain);
			return NO_BUFFERS;
		}
		*u = (struct hv_virtq_used){.head = chain->head, .place = chain->place};
		count++;
		if (chain->write_length < HV_NET_HEADER)
			return BAD_BUFFER;
		pthread_mutex_unlock(&v->dev.lock);
		u->written = fill_chain(n, chain, at);
		pthread_mutex_lock(&v->dev.lock);
		at += u->written;
		chain = &n->further; /* n->chain stays the first one */
	}
	*used = count;
	if (at < n->kept) { /* it will never fit */
		hv_virtio_put_back(v, NET_QUEUE_RECEIVE, &n->chain);
		return NO_BUFFERS;
	}
	hv_put_le16(buffers, (uint16_t)count);
	hv_virtq_write(&n->chain, HEADER_BUFFERS, buffers, sizeof(buffers));
	return DELIVERED;
}

/* One frame; false when there is none, or no room for it. Lock held. */
static bool receive(struct net *n)
{
	struct hv_virtio *v = &n->v;
	unsigned used = 0;

	if (!n->kept && !fetch(n))
		return false;
	switch (spread(n, &used)) {
	case BAD_BUFFER:
		hv_virtio_needs_reset(v, NET_QUEUE_RECEIVE, "a receive buffer without room for a header");
		return false;
	case NO_BUFFERS:
		if (used == 0)
			return false;
		n->in.dropped++; /* larger than all of the buffers: the next one may be smaller */
		break;
	case DELIVERED:
		n->in.frames++;
		n->in.bytes += n->kept - HV_NET_HEADER;
		hv_virtio_push_all(v, NET_QUEUE_RECEIVE, n->used, used);
		break;
	}
	n->kept = 0;
	return true;
}

/* --- the thread --- */

static void wake(struct net *n)
{
	uint64_t one = 1;

	if (!n->woken && write(n->wake_fd, &one, sizeof(one)) == sizeof(one))
		n->woken = true;
}

/* What the driver has accepted reaches the back end before its first frame does. Lock held. */
static void agree_offloads(struct net *n)
{
	uint64_t wanted = hv_virtio_is_running(&n->v) ? n->v.accepted & OFFLOADS : 0;

	if (wanted == n->applied)
		return;
	n->applied = wanted;
	pthread_mutex_unlock(&n->v.dev.lock);
	if (n->back->ops->set_offloads)
		n->back->ops->set_offloads(n->back, wanted);
	pthread_mutex_lock(&n->v.dev.lock);
}

/* All that can be done now; n->more is set when some of it is left. Lock held. */
static void serve(struct net *n)
{
	unsigned i;

	n->more = false;
	hv_net_update_status(n);
	agree_offloads(n);
	while (hv_net_control(n))
		;
	for (i = 0; i < BURST && transmit(n); i++)
		;
	n->more |= i == BURST;
	if (!hv_virtio_is_running(&n->v))
		return;
	for (i = 0; i < BURST && receive(n); i++)
		;
	n->more |= i == BURST;
}

/* Asks the back end what to wait for. Lock held, let go of meanwhile. */
static void prepare(struct net *n)
{
	bool want_receive = hv_virtio_is_running(&n->v) && !n->kept, want_send = n->blocked;

	n->poll.count = 0;
	n->poll.timeout_ms = n->more ? 0 : -1;
	pthread_mutex_unlock(&n->v.dev.lock);
	hv_net_poll_add(&n->poll, n->wake_fd, POLLIN); /* there is room: it was made at the start */
	n->back->ops->fill(n->back, &n->poll, want_receive, want_send);
	pthread_mutex_lock(&n->v.dev.lock);
}

static void dispatch(struct net *n)
{
	pthread_mutex_unlock(&n->v.dev.lock);
	if (n->back->ops->dispatch)
		n->back->ops->dispatch(n->back, &n->poll);
	pthread_mutex_lock(&n->v.dev.lock);
	n->blocked = false;
}

/* Lock held, let go of meanwhile: this is where the thread is at rest. */
static bool wait(struct net *n)
{
	uint64_t count;
	int rc;

	n->busy = false;
	pthread_cond_broadcast(&n->rest);
	pthread_mutex_unlock(&n->v.dev.lock);
	rc = poll(n->poll.fds, n->poll.count, n->poll.timeout_ms);
	pthread_mutex_lock(&n->v.dev.lock);
	if (rc > 0 && n->poll.fds[0].revents && read(n->wake_fd, &count, sizeof(count)) == sizeof(count)) {
		n->woken = false;
		n->more = true; /* what for is still to be found when a hold comes in between */
	}
	return rc >= 0;
}

static void *net_thread(void *net)
{
	struct net *n = net;
	pthread_mutex_t *lock = &n->v.dev.lock;

	pthread_mutex_lock(lock);
	while (!n->ending) {
		if (n->holds) {
			pthread_cond_wait(&n->go_on, lock);
			continue;
		}
		n->busy = true;
		prepare(n);
		if (!wait(n) || n->holds || n->ending)
			continue; /* what came is still there when the descriptors are looked at again */
		n->busy = true;
		dispatch(n);
		serve(n);
		n->busy = false;
		pthread_cond_broadcast(&n->rest);
	}
	pthread_mutex_unlock(lock);
	return NULL;
}

static int start_thread(struct net *n, struct hv_error *err)
{
	pthread_attr_t attr;
	sigset_t before;
	int rc;

	n->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (n->wake_fd < 0)
		return hv_fail_errno(err, "%s: no descriptor for its thread", n->v.name);
	if (hv_net_poll_add(&n->poll, n->wake_fd, POLLIN) < 0)
		return hv_fail(err, ENOMEM, "%s: no memory for its thread; close other programs", n->v.name);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_SIZE);
	hv_signals_block(&before);
	rc = pthread_create(&n->thread, &attr, net_thread, n);
	hv_signals_unblock(&before);
	pthread_attr_destroy(&attr);
	n->started = rc == 0;
	return rc ? hv_fail(err, rc, "%s: no thread for it: %s", n->v.name, strerror(rc)) : 0;
}

/* --- the device --- */

static void net_notify(struct hv_virtio *v, unsigned queue)
{
	wake(net_of(v));
}

static void net_hold(struct hv_virtio *v, bool held)
{
	struct net *n = net_of(v);

	if (!held) {
		if (--n->holds == 0)
			pthread_cond_signal(&n->go_on);
		return;
	}
	n->holds++;
	while (n->busy)
		pthread_cond_wait(&n->rest, &v->dev.lock);
}

static void net_reset(struct hv_virtio *v)
{
	struct net *n = net_of(v);

	n->kept = 0;
	n->blocked = false;
	hv_net_control_reset(n);
	wake(n); /* the back end's offloads are the next driver's */
}

static void net_describe(struct hv_virtio *v, char *buf, size_t size)
{
	struct net *n = net_of(v);
	const uint8_t *mac = v->config + NET_CONFIG_MAC;
	char kind[64];

	n->back->ops->describe(n->back, kind, sizeof(kind));
	snprintf(buf, size,
		 "%s, %02x:%02x:%02x:%02x:%02x:%02x, link %s, in %llu frames %llu bytes %llu dropped, out "
		 "%llu frames %llu bytes %llu dropped",
		 kind, mac[0], mac[1], mac[2], mac[3], mac[4], mac[5],
		 n->link && !n->back->gone ? "up" : "down", (unsigned long long)n->in.frames,
		 (unsigned long long)n->in.bytes, (unsigned long long)n->in.dropped,
		 (unsigned long long)n->out.frames, (unsigned long long)n->out.bytes,
		 (unsigned long long)n->out.dropped);
}

static void net_stop(struct hv_virtio *v)
{
	struct net *n = net_of(v);

	if (!n->started)
		return;
	pthread_mutex_lock(&v->dev.lock);
	n->ending = true;
	pthread_cond_signal(&n->go_on);
	wake(n);
	pthread_mutex_unlock(&v->dev.lock);
	pthread_join(n->thread, NULL);
}

static void net_destroy(struct hv_virtio *v)
{
	struct net *n = net_of(v);

	if (n->started)
		hv_netback_close(n->back);
	if (n->wake_fd >= 0)
		close(n->wake_fd);
	pthread_cond_destroy(&n->go_on);
	pthread_cond_destroy(&n->rest);
	free(n->poll.fds);
	free(n);
}

void hv_virtio_net_set_link(struct hv_device *dev, bool up)
{
	struct net *n = net_of(hv_container_of(dev, struct hv_virtio, dev));

	pthread_mutex_lock(&dev->lock);
	n->link = up;
	wake(n);
	pthread_mutex_unlock(&dev->lock);
}

static const struct hv_virtio_ops net_ops = {
	.name = "net",
	.id = ID,
	.version = 1,
	.queues = NET_QUEUES,
	.notify = net_notify,
	.hold = net_hold,
	.reset = net_reset,
	.save = hv_net_control_save,
	.load = hv_net_control_load,
	.describe = net_describe,
	.stop = net_stop,
	.destroy = net_destroy,
};

int hv_virtio_net_create(const struct hv_virtio_host *host, struct hv_netback *back,
			 const uint8_t mac[HV_MAC_SIZE], struct hv_device **out, struct hv_error *err)
{
	struct net *n = calloc(1, sizeof(*n));
	int rc;

	if (!n)
		return hv_fail(err, ENOMEM, "virtio-net: no memory for the device; close other programs");
	n->back = back;
	n->wake_fd = -1;
	n->link = true;
	pthread_cond_init(&n->go_on, NULL);
	pthread_cond_init(&n->rest, NULL);
	hv_virtio_init(&n->v, &net_ops, host,
		       NET_F_MAC | NET_F_STATUS | NET_F_MRG_RXBUF | NET_F_CTRL_VQ | NET_F_CTRL_RX |
			       NET_F_CTRL_MAC_ADDR | NET_F_GUEST_ANNOUNCE | (back->mtu ? NET_F_MTU : 0) |
			       (back->offloads & OFFLOADS));
	memcpy(n->mac, mac, sizeof(n->mac));
	n->v.config_length = NET_CONFIG_LENGTH;
	hv_put_le16(n->v.config + NET_CONFIG_MTU, back->mtu);
	hv_net_control_reset(n);
	rc = start_thread(n, err);
	if (rc) {
		hv_device_destroy(&n->v.dev);
		return rc;
	}
	*out = &n->v.dev;
	return 0;
}
