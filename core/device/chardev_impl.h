/*
 * What chardev.c (bytes in motion) and chardev_open.c (the five kinds, opened and closed) share. For no one
 * else.
 */
#ifndef HV_DEVICE_CHARDEV_IMPL_H
#define HV_DEVICE_CHARDEV_IMPL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/types.h>

#include "base/listener.h"
#include "device/chardev.h"

#define CHARDEV_OUT 65536u /* bytes of output kept while the other side doesn't take them */
#define CHARDEV_RESERVE                                                                                      \
	65536u /* ... and of a vCPU that is wanted elsewhere and may not wait: an exit's worth each */
#define CHARDEV_RING (CHARDEV_OUT + CHARDEV_RESERVE)
#define CHARDEV_IN   4096u /* bytes of input kept while the guest doesn't take them */

/* How output gets to out_fd without ever waiting. */
enum chardev_push {
	CHARDEV_PUSH_WRITE, /* write(): O_NONBLOCK is set on a description of our own, or it's a regular file
			     */
	CHARDEV_PUSH_SEND,  /* a socket: send() with MSG_DONTWAIT */
	CHARDEV_PUSH_POLL, /* a description that we share and may not change: poll(), then a piece that surely
			      fits */
};

struct hv_chardev {
	struct hv_chardev_config config;
	const struct hv_log *log;

	/* Set by open, or by the thread under the lock when a client comes or leaves. -1: none. */
	int in_fd, out_fd;
	enum chardev_push push;
	size_t piece; /* CHARDEV_PUSH_POLL: bytes that fit when poll says so */

	struct hv_listener listener; /* unix */
	int slave_fd; /* pty: its other end, held open so that it lives while nobody has it open */
	char pty[64];

	int wake_fd; /* an eventfd that takes the thread out of its poll */
	pthread_t thread;
	bool running; /* the thread has been made */
	bool started; /* ... or may be, once it is needed */
	_Atomic bool stopping, closing;

	hv_chardev_input_fn *input;
	void *input_ctx;
	hv_chardev_filter_fn *filter;
	void *filter_ctx;
	hv_chardev_wanted_fn *wanted;
	void *wanted_ctx;
	hv_chardev_watch_fn *watch;
	void *watch_ctx;
	bool channel;

	pthread_mutex_t lock; /* of everything below, and of out_fd */
	pthread_cond_t room;  /* room in out, or the injection went on */
	uint8_t *out;         /* a ring of CHARDEV_RING bytes, made when first needed */
	size_t out_at, out_used;
	uint64_t dropped;
	bool broken;      /* output has failed for good; it is swallowed */
	bool gone;        /* unix: the client has, the thread has yet to close it */
	bool room_wanted; /* hv_chardev_offer took less than it was given; the watch is to be told of room */
	bool stalled;     /* unix, console: the client has taken nothing for a second */
	int64_t stall_ms; /* when that will be so */

	const uint8_t *inject; /* bytes of the caller that waits in hv_chardev_inject */
	size_t inject_count, inject_taken;
	bool inject_busy;            /* the thread is offering some of them */
	pthread_mutex_t inject_lock; /* one injector at a time */

	/* The thread's own. */
	uint8_t in[CHARDEV_IN];
	size_t in_used;
	bool half_closed;     /* unix: the client sends no more, but still listens */
	bool lost_input;      /* told the log once */
	_Atomic bool starved; /* the guest had no room when it was last offered input */
};

void hv_chardev_kick(struct hv_chardev *c);
const char *hv_chardev_line(const struct hv_chardev *c); /* for a sentence */
/* Fresh description of a terminal or a pipe that fd is open on, so that O_NONBLOCK is ours alone; -1 when
 * not. */
int hv_chardev_reopen(int fd, int flags);
/* Ends the thread and flushes; nobody else uses c any more. */
void hv_chardev_finish(struct hv_chardev *c);

#endif
