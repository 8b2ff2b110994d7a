/*
 * A tap: an Ethernet interface of the host's kernel whose other end is a descriptor. Created here, which
 * needs CAP_NET_ADMIN, or made by someone else and handed over. It calls the kernel and base.
 *
 * Rules: linux/Documentation/networking/tuntap.rst, linux/if_tun.h. With IFF_VNET_HDR each frame has
 * virtio's header in front of it, so that checksums and segmentation are left to whoever is last on the way:
 * what the guest sends is checked by the kernel (and by the device before), what it gets the kernel makes
 * only as far as TUNSETOFFLOAD has said that the driver knows it.
 */
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/api.h"
#include "device/net/backend_impl.h"

#define BIT(n) (1ull << (n))

struct tap {
	struct hv_netback back;
	int fd;
	bool headers; /* each frame has virtio's in front */
	char name[IFNAMSIZ];
};

static struct tap *tap_of(struct hv_netback *b)
{
	return hv_container_of(b, struct tap, back);
}

/* Whoever made the interface may delete it at any time; the descriptor then is of no use any more. */
static void vanish(struct tap *t, int error)
{
	if (!t->back.gone)
		hv_log(t->back.log, HV_LOG_WARN,
		       "the tap %s is gone (%s): the guest's network has no carrier from now on", t->name,
		       strerror(error));
	t->back.gone = true;
}

static void tap_fill(struct hv_netback *b, struct hv_net_poll *p, bool want_receive, bool want_send)
{
	short events = (short)((want_receive ? POLLIN : 0) | (want_send ? POLLOUT : 0));

	if (!b->gone)
		hv_net_poll_add(p, tap_of(b)->fd, events); /* without events: for the interface's end */
}

static void tap_dispatch(struct hv_netback *b, const struct hv_net_poll *p)
{
	struct tap *t = tap_of(b);

	for (unsigned i = 0; i < p->count; i++)
		if (p->fds[i].fd == t->fd && p->fds[i].revents & (POLLERR | POLLHUP | POLLNVAL))
			vanish(t, ENODEV);
}

static int tap_send(struct hv_netback *b, const struct iovec *iov, unsigned count, size_t length)
{
	struct tap *t = tap_of(b);
	unsigned skip = t->headers ? 0 : 1;
	ssize_t n;

	if (b->gone)
		return -ENODEV;
	do
		n = writev(t->fd, iov + skip, (int)(count - skip));
	while (n < 0 && errno == EINTR);
	if (n >= 0)
		return 0;
	if (errno == EBADFD)
		vanish(t, ENODEV);
	return -errno; /* EIO: the interface is down; EINVAL: the kernel doesn't like the header */
}

static size_t tap_receive(struct hv_netback *b, uint8_t *buf, size_t size)
{
	struct tap *t = tap_of(b);
	size_t skip = t->headers ? 0 : HV_NET_HEADER;
	ssize_t n;

	if (b->gone)
		return 0;
	memset(buf, 0, HV_NET_HEADER);
	do
		n = read(t->fd, buf + skip, size - skip);
	while (n < 0 && errno == EINTR);
	if (n < 0 && errno != EAGAIN)
		vanish(t, errno == EBADFD ? ENODEV : errno);
	return n < 0 ? 0 : (size_t)n + skip;
}

/* Segmentation needs checksums (5.1.3.1), which the kernel insists on, too. */
static unsigned tun_offloads(uint64_t features)
{
	unsigned bits = 0;

	if (!(features & BIT(VIRTIO_NET_F_GUEST_CSUM)))
		return 0;
	bits |= TUN_F_CSUM;
	if (features & BIT(VIRTIO_NET_F_GUEST_TSO4))
		bits |= TUN_F_TSO4;
	if (features & BIT(VIRTIO_NET_F_GUEST_TSO6))
		bits |= TUN_F_TSO6;
	if (features & BIT(VIRTIO_NET_F_GUEST_ECN) && bits & (TUN_F_TSO4 | TUN_F_TSO6))
		bits |= TUN_F_TSO_ECN;
	return bits;
}

static void tap_set_offloads(struct hv_netback *b, uint64_t features)
{
	struct tap *t = tap_of(b);

	if (b->gone || !t->headers)
		return;
	if (ioctl(t->fd, TUNSETOFFLOAD, tun_offloads(features)) < 0)
		hv_log(b->log, HV_LOG_INFO, "the tap %s doesn't take the guest's offloads: %s", t->name,
		       strerror(errno));
}

static void tap_describe(struct hv_netback *b, char *buf, size_t size)
{
	snprintf(buf, size, "tap %s", tap_of(b)->name);
}

static void tap_close(struct hv_netback *b)
{
	struct tap *t = tap_of(b);

	if (t->fd >= 0)
		close(t->fd);
	free(t);
}

static const struct hv_netback_ops tap_ops = {
	.kind = "tap",
	.fill = tap_fill,
	.dispatch = tap_dispatch,
	.send = tap_send,
	.receive = tap_receive,
	.set_offloads = tap_set_offloads,
	.describe = tap_describe,
	.close = tap_close,
};

/* --- opening --- */

static int create(struct tap *t, const char *name, struct hv_error *err)
{
	struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
	const char *shown = name[0] ? name : "of its own name";

	t->fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (t->fd < 0)
		return hv_fail_errno(err, "net: a tap can't be made: /dev/net/tun can't be opened (is the "
					  "kernel's module tun there?)");
	memcpy(request.ifr_name, name, strlen(name) + 1);
	if (ioctl(t->fd, TUNSETIFF, &request) == 0)
		return 0;
	if (errno == EPERM)
		return hv_fail(err, EPERM,
			       "net: the tap %s can't be made without CAP_NET_ADMIN; let root do "
			       "`ip tuntap add dev NAME mode tap user %d` and give ifname=NAME, hand "
			       "one over by fd=, or take --net user",
			       shown, (int)getuid());
	if (errno == EBUSY)
		return hv_fail(err, EBUSY, "net: the tap %s is in use by another program", shown);
	if (errno == EINVAL)
		return hv_fail(err, EINVAL,
			       "net: %s is there and is no tap, or one with several queues; "
			       "`ip tuntap add dev NAME mode tap` makes one",
			       shown);
	return hv_fail_errno(err, "net: the tap %s can't be made", shown);
}

static int take_over(struct tap *t, int fd, struct hv_error *err)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0)
		return hv_fail_usage(err,
				     "net: there is no descriptor %d; the program that starts hvrun has to "
				     "leave it open",
				     fd);
	t->fd = fd;
	if ((flags & O_ACCMODE) != O_RDWR)
		return hv_fail_usage(err, "net: descriptor %d is not open for reading and writing", fd);
	if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return hv_fail_errno(err, "net: descriptor %d", fd);
	return 0;
}

/* Name and kind, as the kernel has them: whoever hands a descriptor over may have made anything. That it has
 * no packet information (IFF_NO_PI) can't be seen: TUNGETIFF says IFF_NOFILTER by the same bit. */
static int find_out(struct tap *t, struct hv_error *err)
{
	struct ifreq request = {0};
	int size = HV_NET_HEADER;

	if (ioctl(t->fd, TUNGETIFF, &request) < 0)
		return hv_fail_usage(err, "net: descriptor %d is no tap", t->fd);
	memcpy(t->name, request.ifr_name, sizeof(t->name) - 1);
	if (!(request.ifr_flags & IFF_TAP))
		return hv_fail_usage(err, "net: %s is no tap: it was not made with IFF_TAP", t->name);
	t->headers = request.ifr_flags & IFF_VNET_HDR;
	if (t->headers && ioctl(t->fd, TUNSETVNETHDRSZ, &size) < 0)
		return hv_fail_errno(err, "net: %s doesn't take virtio's header of %d bytes", t->name, size);
	return 0;
}

/* What the kernel takes on; and takes back at once, as no driver has accepted it yet. */
static uint64_t find_offloads(const struct tap *t)
{
	uint64_t found = BIT(VIRTIO_NET_F_CSUM) | BIT(VIRTIO_NET_F_HOST_TSO4) | BIT(VIRTIO_NET_F_HOST_TSO6) |
			 BIT(VIRTIO_NET_F_HOST_ECN);

	if (!t->headers)
		return 0;
	if (ioctl(t->fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN) == 0)
		found |= BIT(VIRTIO_NET_F_GUEST_CSUM) | BIT(VIRTIO_NET_F_GUEST_TSO4) |
			 BIT(VIRTIO_NET_F_GUEST_TSO6) | BIT(VIRTIO_NET_F_GUEST_ECN);
	ioctl(t->fd, TUNSETOFFLOAD, 0);
	return found;
}

/* 0 where it can't be known: the interface may be in another network namespace. */
static uint16_t find_mtu(const struct tap *t)
{
	int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq request = {0};
	uint16_t mtu = 0;

	memcpy(request.ifr_name, t->name, sizeof(t->name));
	if (s >= 0 && ioctl(s, SIOCGIFMTU, &request) == 0 && request.ifr_mtu >= 68 &&
	    request.ifr_mtu <= 65535)
		mtu = (uint16_t)request.ifr_mtu;
	if (s >= 0)
		close(s);
	return mtu;
}

int hv_netback_tap_open(const struct hv_net_spec *spec, const struct hv_log *log, struct hv_netback **out,
			struct hv_error *err)
{
	struct tap *t = calloc(1, sizeof(*t));
	int rc;

	if (!t)
		return hv_fail(err, ENOMEM, "net: no memory for a tap; close other programs");
	t->back = (struct hv_netback){.ops = &tap_ops, .log = log};
	t->fd = -1;
	rc = spec->fd >= 0 ? take_over(t, spec->fd, err) : create(t, spec->ifname, err);
	if (!rc)
		rc = find_out(t, err);
	if (rc) {
		tap_close(&t->back);
		return rc;
	}
	t->back.offloads = find_offloads(t);
	t->back.mtu = spec->fd < 0 ? find_mtu(t) : 0;
	*out = &t->back;
	return 0;
}
