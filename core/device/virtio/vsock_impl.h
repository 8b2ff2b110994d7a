/*
 * What vsock.c (device, queues, thread), vsock_connection.c (one stream: its state, its credit) and
 * vsock_host.c (Unix sockets) share. For no one else.
 *
 * Who may touch what: all but the fields under "the device's lock" belongs to the device's thread while it is
 * busy, and to whoever has the lock while it is not. So the thread moves bytes without a lock, and a reset,
 * which comes with the thread at rest, finds everything in order.
 */
#ifndef HV_DEVICE_VIRTIO_VSOCK_IMPL_H
#define HV_DEVICE_VIRTIO_VSOCK_IMPL_H

#include <stdatomic.h>
#include <sys/queue.h>

#include "base/listener.h"
#include "device/virtio/vsock.h"

#define VSOCK_HOST_CID    2u
#define VSOCK_HEADER      44u          /* bytes (5.10.6) */
#define VSOCK_BUFFER      (128u << 10) /* bytes for a slow host program: a connection's buf_alloc */
#define VSOCK_PACKET_MAX  (64u << 10)  /* bytes of data in one packet to the guest */
#define VSOCK_CONNECTIONS 1024u        /* at a time, those that are being made included */
#define VSOCK_BUCKETS     256u         /* of the table of connections */
#define VSOCK_REPLIES     256u         /* RSTs that may wait for room while packets are still taken */
#define VSOCK_RESETS      (VSOCK_REPLIES + VSOCK_CONNECTIONS)
#define VSOCK_PATIENCE    30000u /* ms for a peer to say the next thing that it owes */
#define VSOCK_COMPLAINTS  8u     /* things that the log tells as warnings */

#define VSOCK_TICK 500u /* ms between two looks at deadlines */

enum vsock_op { /* 5.10.6 */
		VSOCK_OP_INVALID,
		VSOCK_OP_REQUEST,
		VSOCK_OP_RESPONSE,
		VSOCK_OP_RST,
		VSOCK_OP_SHUTDOWN,
		VSOCK_OP_RW,
		VSOCK_OP_CREDIT_UPDATE,
		VSOCK_OP_CREDIT_REQUEST,
};

enum { VSOCK_TYPE_STREAM = 1 };

enum { /* SHUTDOWN's flags: what its sender won't do any more */
       VSOCK_RECEIVE = 1,
       VSOCK_SEND = 2,
       VSOCK_BOTH = 3,
};

struct vsock_header {
	uint64_t src_cid, dst_cid;
	uint32_t src_port, dst_port, length;
	uint16_t type, op;
	uint32_t flags, buf_alloc, fwd_cnt;
};

enum vsock_state {
	VSOCK_FREE,
	VSOCK_HELLO,     /* a host program has connected and not yet said where to */
	VSOCK_REQUESTED, /* the guest has yet to answer */
	VSOCK_OPEN,
	VSOCK_DRAINING, /* the guest is done with it; the host program has yet to take the last bytes */
};

enum { /* what the guest has yet to be told */
       OWED_REQUEST = 1,
       OWED_RESPONSE = 2,
       OWED_CREDIT_UPDATE = 4,
       OWED_CREDIT_REQUEST = 8,
};

struct vsock_connection {
	enum vsock_state state;
	uint32_t generation; /* of this slot: an event for an earlier connection is stale */
	int fd;
	uint32_t guest_port, host_port;
	bool known;                    /* the guest has been told of it, or has told of it */
	struct vsock_connection *next; /* in its bucket, or among the free ones */
	TAILQ_ENTRY(vsock_connection) host_turns, guest_turns;
	bool has_host_turn, has_guest_turn;
	uint64_t deadline; /* ms; 0: none */

	bool readable, writable, hung_up; /* what epoll said of the socket */
	bool ended;                       /* the host program sends no more */
	bool deaf;                        /* ... and receives no more */

	unsigned owed;
	unsigned told;  /* SHUTDOWN's flags that the guest was told */
	unsigned heard; /* ... and those that it told us */

	/* Credit (5.10.6.3), all modulo 2^32. */
	uint32_t received, forwarded; /* bytes from the guest; those that the host program has got */
	uint32_t told_forwarded;
	uint32_t sent; /* bytes to the guest */
	uint32_t peer_alloc, peer_forwarded;
	bool begged; /* for credit, and none came since */

	/* What the socket didn't take yet: a ring of VSOCK_BUFFER bytes, there only when it is needed. */
	uint8_t *out;
	uint32_t out_at, out_used;
};

/* An RST to a connection that isn't there, or is no more. */
struct vsock_reset {
	uint64_t src_cid, dst_cid;
	uint32_t src_port, dst_port;
	uint16_t type;
};

struct hv_vsock_sockets {
	struct hv_listener listener;
	char path[HV_VSOCK_PATH_MAX + 1];
};

TAILQ_HEAD(vsock_turns, vsock_connection);

struct vsock {
	struct hv_virtio v;
	struct hv_vsock_sockets *sockets;
	uint64_t cid;
	uint32_t patience; /* ms */
	int epoll_fd, wake_fd;
	pthread_t thread;
	bool started;

	/* The device's lock: */
	pthread_cond_t rest;
	unsigned holds;
	bool busy, ending, asked, woken;
	uint64_t held_since; /* ms */

	/* Counters with one writer, for describe. */
	_Atomic unsigned live;
	_Atomic uint64_t to_guest, to_host;

	struct hv_virtq_chain rx, tx; /* in hand */
	bool event_owed;              /* TRANSPORT_RESET */
	bool stalled;                 /* tx waits until RSTs have found room */
	bool callers;                 /* somebody may wait in the listening socket */
	bool callers_later;           /* ... but there was no descriptor for him */
	unsigned complaints;
	uint64_t held_for; /* ms, in all: deadlines don't pass while the device is at rest */
	unsigned timed;    /* connections with a deadline */
	uint64_t look_at;  /* ms: when they are looked at again */
	uint32_t next_port;

	struct vsock_turns host_turns, guest_turns;
	struct vsock_connection *connections, *unused;
	struct vsock_connection *table[VSOCK_BUCKETS];

	struct vsock_reset resets[VSOCK_RESETS];
	unsigned reset_at, reset_count;
};

/* --- vsock.c --- */

/* The device without its thread; for the thread's owner, and for tests that do its rounds themselves. */
int hv_vsock_new(const struct hv_virtio_host *host, struct hv_vsock_sockets *sockets, uint64_t cid,
		 struct vsock **out, struct hv_error *err);
/* Looks at the descriptors, for at most timeout_ms (-1: for ever), then does all that can be done now, up to
 * a bound. True: there is more. Lock held; let go of on the way. */
bool hv_vsock_round(struct vsock *s, int timeout_ms);

/* A chain of the guest's for a packet to it, in s->rx: false when there is none, or the device shall rest. */
bool hv_vsock_take_room(struct vsock *s);
/* Sends the packet; its `length` bytes of data lie in s->rx behind the header already. */
void hv_vsock_send(struct vsock *s, const struct vsock_header *h);

uint64_t hv_vsock_now(const struct vsock *s); /* ms in which the device was not at rest */
void hv_vsock_complain(struct vsock *s, const char *fmt, ...) HV_PRINTF(2, 3);

/* --- vsock_connection.c --- */

/* A connection with this socket, in its state and in no table, or NULL: all are in use. Takes fd over when it
 * succeeds. */
struct vsock_connection *hv_vsock_add(struct vsock *s, int fd, enum vsock_state state);
void hv_vsock_drop(struct vsock *s, struct vsock_connection *c);  /* closes it, and tells nobody */
void hv_vsock_reset(struct vsock *s, struct vsock_connection *c); /* ... but the guest, if it knows of it */
/* What the guest knows of is gone, as the guest itself says. */
void hv_vsock_forget_all(struct vsock *s);

/* Asks the guest for a connection to its port. */
void hv_vsock_request(struct vsock *s, struct vsock_connection *c, uint32_t guest_port);

/* A packet of the guest's; its data lies in s->tx behind the header, and is as long as the header says. */
void hv_vsock_receive(struct vsock *s, const struct vsock_header *h);

/* The socket's turn: what epoll said is done. The guest's turn: at most one packet; false when there was no
 * room for it. c may be gone afterwards. */
void hv_vsock_host_turn(struct vsock *s, struct vsock_connection *c);
bool hv_vsock_guest_turn(struct vsock *s, struct vsock_connection *c);
bool hv_vsock_send_reset(struct vsock *s); /* the oldest RST; false when there was no room */
void hv_vsock_want_host(struct vsock *s, struct vsock_connection *c);
void hv_vsock_want_guest(struct vsock *s, struct vsock_connection *c);
void hv_vsock_set_deadline(struct vsock *s, struct vsock_connection *c, bool on);
void hv_vsock_expire(struct vsock *s); /* whose time has passed */

/* --- vsock_host.c --- */

void hv_vsock_accept(struct vsock *s);                      /* takes some of the callers */
int hv_vsock_connect(const struct vsock *s, uint32_t port); /* a socket, or a negative errno */
/* "CONNECT PORT\n" at the start of text: its length, 0 when the line isn't whole yet, -EBADMSG for another
 * one. */
int hv_vsock_parse_hello(const char *text, size_t size, uint32_t *port);
void hv_vsock_hello(struct vsock *s, struct vsock_connection *c);
bool hv_vsock_say_ok(const struct vsock_connection *c);

enum vsock_input { VSOCK_NOTHING, VSOCK_DATA, VSOCK_END, VSOCK_FAILED };

enum vsock_input hv_vsock_peek(struct vsock_connection *c);
/* Up to `limit` bytes into s->rx behind the header; how many came. */
uint32_t hv_vsock_read(struct vsock *s, const struct vsock_connection *c, uint32_t limit);
/* `length` bytes of s->tx to the socket, or into the buffer: -ENOMEM, or 0. Credit has been checked. */
int hv_vsock_write(struct vsock *s, struct vsock_connection *c, uint32_t length);
void hv_vsock_flush(struct vsock_connection *c);   /* more of the buffer */
void hv_vsock_go_deaf(struct vsock_connection *c); /* what the guest sends goes nowhere from now on */

#endif
