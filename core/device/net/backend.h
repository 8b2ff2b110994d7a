/*
 * The host's side of a network device: where frames go and come from. Two kinds: user mode (libslirp: the
 * guest is behind a router that this process plays, no privilege needed) and a tap (an interface of the
 * host's kernel).
 *
 * Threads: hv_netback_open on any thread, before a sandbox closes. All operations of a back end are called on
 * one thread at a time, its device's, without the device's lock; none of them waits.
 */
#ifndef HV_DEVICE_NET_BACKEND_H
#define HV_DEVICE_NET_BACKEND_H

#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/error.h"
#include "base/log.h"

#define HV_MAC_SIZE         6
#define HV_NET_FORWARDS_MAX 16
#define HV_NET_NAME_MAX     63 /* characters of the guest's name, as DNS has them */

/* In front of each frame: struct virtio_net_hdr of virtio 1.2, section 5.1.6, little-endian. */
#define HV_NET_HEADER    12u
#define HV_NET_ETHERNET  14u
#define HV_NET_FRAME_MIN HV_NET_ETHERNET
#define HV_NET_FRAME_MAX (65535u + HV_NET_ETHERNET + 4) /* an IP packet, its Ethernet header, a VLAN tag */

enum hv_net_kind { HV_NET_NONE, HV_NET_USER, HV_NET_TAP };

struct hv_net_forward {
	bool udp;
	struct in_addr host, guest; /* guest 0.0.0.0: the address that DHCP gives first */
	uint16_t host_port, guest_port;
};

/* The words of --net. */
struct hv_net_spec {
	enum hv_net_kind kind;
	bool has_mac;
	uint8_t mac[HV_MAC_SIZE];

	/* A tap: created by name ("": the kernel names it), or handed over. */
	char ifname[IFNAMSIZ];
	int fd; /* -1: none */

	/* User mode. The router has host number 2 in net, the name server 3 or dns, the guest 15. */
	struct in_addr net, mask, dns;
	bool restricted;
	char hostname[HV_NET_NAME_MAX + 1];
	struct hv_net_forward forwards[HV_NET_FORWARDS_MAX];
	unsigned forward_count;
};

/* What a device's thread waits for, besides what is its own. */
struct hv_net_poll {
	struct pollfd *fds; /* grown by hv_net_poll_add; the owner frees it */
	unsigned count, room;
	int timeout_ms; /* -1: none */
};

struct hv_netback;

struct hv_netback_ops {
	const char *kind;
	/* Adds what to wait for. want_receive: the guest takes frames; want_send: one was refused by -EAGAIN.
	 */
	void (*fill)(struct hv_netback *b, struct hv_net_poll *p, bool want_receive, bool want_send);
	/* poll() came back: what fill has added holds revents. May be NULL. */
	void (*dispatch)(struct hv_netback *b, const struct hv_net_poll *p);
	/*
	 * A frame from the guest: iov[0] is its header, checked by the device, the rest `length` bytes of
	 * frame in memory that the guest may change meanwhile. 0: taken; -EAGAIN: not now; else it is lost.
	 */
	int (*send)(struct hv_netback *b, const struct iovec *iov, unsigned count, size_t length);
	/* The next frame for the guest, header first; 0: none now. size is at least HEADER + FRAME_MAX. */
	size_t (*receive)(struct hv_netback *b, uint8_t *buf, size_t size);
	/* Which of `offloads` the guest's driver has accepted. May be NULL. */
	void (*set_offloads)(struct hv_netback *b, uint64_t features);
	/* "tap hv0": what stands first in `info devices`. Any thread. */
	void (*describe)(struct hv_netback *b, char *buf, size_t size);
	void (*close)(struct hv_netback *b);
};

struct hv_netback {
	const struct hv_netback_ops *ops;
	const struct hv_log *log;
	uint64_t offloads; /* features of section 5.1.3 that it can serve: checksums and segmentation */
	uint16_t mtu;      /* 0: not known */
	_Atomic bool gone; /* for good: there is no carrier any more */
};

HV_API_BEGIN
/* "none", "user[,...]", "tap[,...]" with the options that docs/man/hvrun.1 lists. */
int hv_net_spec_parse(struct hv_net_spec *spec, const char *text, struct hv_error *err);

/* An address that no other VM's device has: locally administered, from the VM's name and the device's number.
 */
void hv_net_mac(uint8_t mac[HV_MAC_SIZE], const char *vm, unsigned index);

/*
 * Opens what spec names (not HV_NET_NONE): creates the tap or takes its descriptor over, loads libslirp and
 * binds the forwarded ports. log is borrowed. -EPERM: no right to create a tap; -ENOENT: no libslirp;
 * -EADDRINUSE and others with a sentence.
 */
int hv_netback_open(const struct hv_net_spec *spec, const struct hv_log *log, struct hv_netback **out,
		    struct hv_error *err);
void hv_netback_close(struct hv_netback *b); /* may be NULL */

/* Another descriptor to wait for: its index in fds, or -ENOMEM. */
int hv_net_poll_add(struct hv_net_poll *p, int fd, short events);
HV_API_END

#endif
