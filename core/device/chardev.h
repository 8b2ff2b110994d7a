/*
 * The host's side of a serial line: where bytes go and come from. Owned by the tool or the machine; a device
 * talks to it through these functions only. One thread of its own waits for input, output room and clients.
 */
#ifndef HV_DEVICE_CHARDEV_H
#define HV_DEVICE_CHARDEV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/log.h"

enum hv_chardev_kind {
	HV_CHARDEV_NONE,  /* swallows output, never has input */
	HV_CHARDEV_STDIO, /* descriptors 0 and 1; a closed or ended stdin just means no input */
	HV_CHARDEV_PTY,   /* a new pseudo-terminal; output is dropped oldest first while nobody reads */
	HV_CHARDEV_FILE,  /* output to a file, created or truncated; no input */
	HV_CHARDEV_UNIX,  /* listens on a Unix socket: output before the first client is kept in a bounded
			     buffer,  the next client is taken when one leaves */
};

#define HV_CHARDEV_PATH_MAX 4096 /* with the zero; a socket's must also fit struct sockaddr_un */

struct hv_chardev_config {
	enum hv_chardev_kind kind;
	char path[HV_CHARDEV_PATH_MAX]; /* FILE, UNIX */
	const char *line;               /* "serial": what its sentences begin with; a constant */
};

struct hv_chardev;

/*
 * Input for the guest, called on the chardev's thread with bytes that came; returns how many were taken. When
 * it is fewer than count the rest is kept, and offered again after hv_chardev_input_ready.
 */
typedef size_t hv_chardev_input_fn(void *ctx, const uint8_t *data, size_t count);

/*
 * A filter between a person's keyboard and the guest (escape keys, the console). Called on the chardev's
 * thread with what was typed; writes at most count bytes that are for the guest to out and returns how many.
 */
typedef size_t hv_chardev_filter_fn(void *ctx, const uint8_t *in, size_t count, uint8_t *out);

/*
 * Whether the calling thread, which is about to wait in hv_chardev_write, is wanted elsewhere (a vCPU that
 * shall park). Its bytes then go into a reserve behind the buffer, and it doesn't wait. Called with the
 * chardev's lock held: it must not call the chardev.
 */
typedef bool hv_chardev_wanted_fn(void *ctx);

/*
 * What a device that doesn't wait in hv_chardev_write has to hear of, on the chardev's thread and without its
 * lock. LEFT comes when what the client had sent before was taken by the guest, so that nothing follows it.
 */
enum hv_chardev_event {
	HV_CHARDEV_ROOM, /* hv_chardev_offer takes bytes again */
	HV_CHARDEV_CAME, /* unix: a client */
	HV_CHARDEV_LEFT, /* unix: it has gone */
};
typedef void hv_chardev_watch_fn(void *ctx, enum hv_chardev_event event);

HV_API_BEGIN
/* "stdio", "none", "pty", "file:PATH", "unix:PATH". line names it in a sentence: "serial". */
int hv_chardev_parse(struct hv_chardev_config *config, const char *line, const char *text,
		     struct hv_error *err);

/* Opens what config names; nothing flows before hv_chardev_start. */
int hv_chardev_open(const struct hv_chardev_config *config, const struct hv_log *log, struct hv_chardev **out,
		    struct hv_error *err);
/* Sets who gets the input. Before start. ctx is used until hv_chardev_close has returned. */
void hv_chardev_connect(struct hv_chardev *c, hv_chardev_input_fn *input, void *ctx);
void hv_chardev_set_filter(struct hv_chardev *c, hv_chardev_filter_fn *filter, void *ctx); /* before start */
void hv_chardev_set_wanted(struct hv_chardev *c, hv_chardev_wanted_fn *wanted, void *ctx); /* before start */
/*
 * Before start. channel: the line is a conversation and no console. Bytes for a client that isn't there, or
 * has left before it took them, are discarded, and a client's bytes keep it until the guest has taken them;
 * so what one client says and hears is never mixed with another's.
 */
void hv_chardev_set_watch(struct hv_chardev *c, hv_chardev_watch_fn *watch, void *ctx, bool channel);
int hv_chardev_start(struct hv_chardev *c, struct hv_error *err);

/*
 * Output, from any thread. Goes straight to the descriptor while that takes it, else into a bounded buffer.
 * stdio and file: when the buffer is full this waits for room, but not after hv_chardev_stop, nor when wanted
 * says so. pty and unix: the oldest bytes are dropped and counted. A broken descriptor swallows output, and
 * the log says so once; for that the process ignores SIGPIPE.
 */
void hv_chardev_write(struct hv_chardev *c, const void *data, size_t count);

/*
 * Output that never waits, from any thread: how many bytes were taken. When they are fewer than count, the
 * watch hears HV_CHARDEV_ROOM later. Nothing is dropped where somebody takes bytes at all: on a console's
 * pty, and on its socket without a client or with one that took nothing for a second, the oldest bytes make
 * way.
 */
size_t hv_chardev_offer(struct hv_chardev *c, const void *data, size_t count);

/* Whether somebody is at the other end: on a socket a client, elsewhere always but for `none`. Any thread. */
bool hv_chardev_is_open(struct hv_chardev *c);

/* wanted may have changed: those who wait in hv_chardev_write ask it again. Any thread, never blocks. */
void hv_chardev_nudge(struct hv_chardev *c);

/* The guest has room for input again. Any thread, never blocks. */
void hv_chardev_input_ready(struct hv_chardev *c);

/* Input as if it had been typed (hvctl send), without the filter. Waits at most a second for room; returns
 * how many bytes were taken. Any thread but the chardev's own. */
size_t hv_chardev_inject(struct hv_chardev *c, const void *data, size_t count);

/* For a person: "pty /dev/pts/3", "unix /run/x.sock (1 client)". */
void hv_chardev_describe(struct hv_chardev *c, char *buf, size_t size);

/* Wakes whoever waits in hv_chardev_write; output is still taken as far as it doesn't wait. Any thread. */
void hv_chardev_stop(struct hv_chardev *c);
/* Stops, flushes what can be flushed within a second, joins the thread, closes, removes the socket. May be
 * NULL. */
void hv_chardev_close(struct hv_chardev *c);
HV_API_END

#endif
