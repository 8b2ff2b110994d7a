/*
 * What net.c (frames) and net_control.c (what the driver asks for, and what is saved of it) share. For no one
 * else.
 */
#ifndef HV_DEVICE_VIRTIO_NET_IMPL_H
#define HV_DEVICE_VIRTIO_NET_IMPL_H

#include <pthread.h>

#include "device/virtio/net.h"

enum { NET_QUEUE_RECEIVE, NET_QUEUE_TRANSMIT, NET_QUEUE_CONTROL, NET_QUEUES };

/* Features of section 5.1.3, as bits. */
#define NET_F_CSUM           (1ull << 0)
#define NET_F_GUEST_CSUM     (1ull << 1)
#define NET_F_MTU            (1ull << 3)
#define NET_F_MAC            (1ull << 5)
#define NET_F_GUEST_TSO4     (1ull << 7)
#define NET_F_GUEST_TSO6     (1ull << 8)
#define NET_F_GUEST_ECN      (1ull << 9)
#define NET_F_HOST_TSO4      (1ull << 11)
#define NET_F_HOST_TSO6      (1ull << 12)
#define NET_F_HOST_ECN       (1ull << 13)
#define NET_F_MRG_RXBUF      (1ull << 15)
#define NET_F_STATUS         (1ull << 16)
#define NET_F_CTRL_VQ        (1ull << 17)
#define NET_F_CTRL_RX        (1ull << 18)
#define NET_F_GUEST_ANNOUNCE (1ull << 21)
#define NET_F_CTRL_MAC_ADDR  (1ull << 23)

enum { /* the configuration space (5.1.4): offsets of its fields */
       NET_CONFIG_MAC = 0,
       NET_CONFIG_STATUS = 6,
       NET_CONFIG_PAIRS = 8,
       NET_CONFIG_MTU = 10,
       NET_CONFIG_LENGTH = 12,
};

enum { NET_STATUS_LINK = 1, NET_STATUS_ANNOUNCE = 2 };

#define NET_TABLE_MAX 64u /* addresses of one kind; with more, all of that kind are let in */

/* Addresses that the driver wants frames for. */
struct net_table {
	uint32_t count;
	bool overflow;
	uint8_t addresses[NET_TABLE_MAX][HV_MAC_SIZE];
};

/* 5.1.6.5.1 */
struct net_filter {
	bool promiscuous, all_multicast, all_unicast, no_multicast, no_unicast, no_broadcast;
	struct net_table unicast, multicast;
};

struct net_counts {
	uint64_t frames, bytes, dropped;
};

struct net {
	struct hv_virtio v;
	struct hv_netback *back;
	uint8_t mac[HV_MAC_SIZE]; /* at power-on */
	int wake_fd;
	pthread_t thread;
	bool started;

	/* The device's lock: */
	pthread_cond_t go_on, rest;
	unsigned holds;
	bool busy, woken, ending;
	bool link;     /* as the host wants it */
	bool announce; /* the guest was moved here, and shall tell its neighbours */
	struct net_filter filter;
	struct net_counts in, out;

	/* The thread's own, and a reset's while it is held. */
	bool blocked;     /* the back end has refused a frame for now */
	bool more;        /* there is something left to do */
	uint64_t applied; /* the features that the back end was told of */
	size_t kept;      /* bytes in frame that wait for buffers; 0: none */
	struct hv_net_poll poll;
	struct hv_virtq_chain chain, further;
	struct hv_virtq_used used[HV_VIRTQ_SIZE_MAX];
	struct iovec iov[1 + HV_VIRTQ_BUFFERS_MAX];
	uint8_t frame[HV_NET_HEADER + HV_NET_FRAME_MAX];
};

static inline struct net *net_of(struct hv_virtio *v)
{
	return hv_container_of(v, struct net, v);
}

/* net_control.c; with the device's lock held. */
bool hv_net_control(struct net *n); /* one command; false when there is none */
bool hv_net_filter_passes(const struct net *n, const uint8_t *frame);
void hv_net_update_status(struct net *n); /* what the configuration says of link and announcement */
void hv_net_control_reset(struct net *n);
void hv_net_control_save(struct hv_virtio *v, struct hv_encoder *e);
int hv_net_control_load(struct hv_virtio *v, struct hv_decoder *d, struct hv_error *err);

#endif
