/*
 * The gdb stub's door: a socket that listens, one client at a time, one thread for all of it. What a client
 * says is gdb_session.c's matter. Calls the machine for its events. Rules: "Debugging with GDB", E.1;
 * unix(7), tcp(7).
 *
 * Whoever reaches the stub owns the guest: TCP is bound to the loopback interface only, a Unix socket has
 * mode 0600 and its peers must be this user or root.
 */
#include "base/signals.h"
#include "base/thread.h"
#include "control/gdb.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/parse.h"
#include "control/gdb_session.h"

#define SEND_LIMIT_MS 5000 /* for a client that doesn't read */

struct hv_gdb {
	struct hv_machine *machine;
	const struct hv_log *log;
	int subscription;
	int listener, client; /* -1: none */
	int event, quit;      /* eventfds: the machine has changed; the thread shall end */
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)]; /* "" for TCP */
	pthread_t thread;
	bool started;
	struct hv_gdb_session session;
};

/* --- the socket --- */

static int listen_tcp(struct hv_gdb *g, const char *port, struct hv_error *err)
{
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	const int one = 1;
	uint64_t number;
	int rc = hv_parse_u64("the port of --gdb tcp:PORT", port, 65535, &number, err);

	if (rc < 0)
		return rc;
	addr.sin_port = htons((uint16_t)number);
	g->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (g->listener < 0)
		return hv_fail_errno(err, "gdb stub: no socket");
	setsockopt(g->listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(g->listener, (const struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(g->listener, 4) < 0)
		return hv_fail_errno(err, "gdb stub: port %s of 127.0.0.1 can't be listened on", port);
	return 0;
}

/* A socket that nobody listens on any more is what a crash left. */
static bool is_stale(const struct sockaddr_un *addr)
{
	const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct stat st;
	bool stale;

	if (fd < 0)
		return false;
	stale = lstat(addr->sun_path, &st) == 0 && S_ISSOCK(st.st_mode) &&
		connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0 && errno == ECONNREFUSED;
	close(fd);
	return stale;
}

static int listen_unix(struct hv_gdb *g, const char *path, struct hv_error *err)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int rc;

	if (!*path || strlen(path) >= sizeof(addr.sun_path))
		return hv_fail_usage(err, "--gdb unix:PATH: the path must have 1 to %zu characters",
				     sizeof(addr.sun_path) - 1);
	strcpy(addr.sun_path, path);
	g->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (g->listener < 0)
		return hv_fail_errno(err, "gdb stub: no socket");
	fchmod(g->listener, 0600); /* what bind gives the file, so that it is never open to others */
	rc = bind(g->listener, (const struct sockaddr *)&addr, sizeof(addr));
	if (rc < 0 && errno == EADDRINUSE && is_stale(&addr)) {
		unlink(path);
		rc = bind(g->listener, (const struct sockaddr *)&addr, sizeof(addr));
	}
	if (rc < 0)
		return hv_fail_errno(err, "gdb stub: socket %s can't be made", path);
	strcpy(g->path, path);
	if (listen(g->listener, 4) < 0)
		return hv_fail_errno(err, "gdb stub: socket %s can't be listened on", path);
	return 0;
}

static bool peer_allowed(const struct hv_gdb *g, int fd)
{
	struct ucred peer;
	socklen_t length = sizeof(peer);

	if (!g->path[0])
		return true;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0)
		return false;
	return peer.uid == getuid() || peer.uid == 0;
}

/* --- the thread --- */

static void drain(int fd)
{
	uint64_t count;

	(void)!read(fd, &count, sizeof(count));
}

static void poke(int fd)
{
	const uint64_t one = 1;

	(void)!write(fd, &one, sizeof(one));
}

/* Called from anywhere with the machine's locks held: leaves a note, and sees to it that breakpoints survive
 * a reset before the guest's first instruction. */
static void on_event(void *ctx, enum hv_event event, int detail)
{
	struct hv_gdb *g = ctx;

	if (event == HV_EVENT_RESET)
		hv_gdb_reinsert(&g->session.target);
	poke(g->event);
}

static void hang_up(struct hv_gdb *g)
{
	if (g->client < 0)
		return;
	close(g->client);
	g->client = -1;
	hv_gdb_session_reset(&g->session);
	hv_log(g->log, HV_LOG_INFO, "gdb has gone");
}

/* Sends what the session has to say. A client that takes nothing for SEND_LIMIT_MS loses its place. */
static bool flush_out(struct hv_gdb *g)
{
	struct hv_gdb_text *out = &g->session.out;
	size_t at = 0;

	while (at < out->length) {
		struct pollfd fds[2] = {{g->client, POLLOUT, 0}, {g->quit, POLLIN, 0}};
		ssize_t n = send(g->client, out->data + at, out->length - at, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n > 0) {
			at += (size_t)n;
			continue;
		}
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno != EAGAIN)
			return false;
		if (poll(fds, 2, SEND_LIMIT_MS) <= 0 || fds[1].revents)
			return false;
	}
	out->length = 0;
	return true;
}

static void on_readable(struct hv_gdb *g)
{
	uint8_t bytes[4096];
	const ssize_t n = recv(g->client, bytes, sizeof(bytes), MSG_DONTWAIT);

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (n <= 0) {
		hang_up(g);
		return;
	}
	for (ssize_t i = 0; i < n; i++) {
		hv_gdb_session_byte(&g->session, bytes[i]);
		if (g->session.out.length > 0 && !flush_out(g)) {
			hang_up(g);
			return;
		}
		if (g->session.closing) {
			hang_up(g);
			return;
		}
	}
}

static void on_connection(struct hv_gdb *g)
{
	const int one = 1, fd = accept4(g->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0)
		return;
	if (g->client >= 0 || !peer_allowed(g, fd)) {
		hv_log(g->log, HV_LOG_WARN, "gdb stub: a client was turned away: %s",
		       g->client >= 0 ? "another is attached" : "it belongs to another user");
		close(fd);
		return;
	}
	if (!g->path[0])
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	g->client = fd;
	hv_log(g->log, HV_LOG_INFO, "gdb has connected");
}

static void *serve(void *ctx)
{
	struct hv_gdb *g = ctx;

	pthread_setname_np(pthread_self(), "hv-gdb");
	hv_thread_answer_soon();
	for (;;) {
		struct pollfd fds[4] = {{g->quit, POLLIN, 0},
					{g->event, POLLIN, 0},
					{g->listener, POLLIN, 0},
					{g->client, POLLIN, 0}}; /* poll skips -1 */

		if (poll(fds, 4, -1) < 0 && errno != EINTR)
			break;
		if (fds[1].revents) { /* before the end, so that gdb hears why */
			drain(g->event);
			hv_gdb_session_event(&g->session);
			if (!flush_out(g) || g->session.closing)
				hang_up(g);
		}
		if (fds[0].revents)
			break;
		if (g->client >= 0 && fds[3].revents)
			on_readable(g);
		if (fds[2].revents)
			on_connection(g);
	}
	hang_up(g);
	return NULL;
}

/* --- start and stop --- */

static int open_all(struct hv_gdb *g, const char *where, struct hv_error *err)
{
	int rc;

	if (strncmp(where, "tcp:", 4) == 0)
		rc = listen_tcp(g, where + 4, err);
	else if (strncmp(where, "unix:", 5) == 0)
		rc = listen_unix(g, where + 5, err);
	else
		rc = hv_fail_usage(err, "--gdb '%.64s': use tcp:PORT or unix:PATH", where);
	if (rc < 0)
		return rc;
	g->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	g->quit = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (g->event < 0 || g->quit < 0)
		return hv_fail_errno(err, "gdb stub: no descriptor for events");
	g->subscription = hv_machine_subscribe(g->machine, on_event, g, err);
	return g->subscription < 0 ? g->subscription : 0;
}

/* The thread takes no signals: those are the tool's. */
static int start_thread(struct hv_gdb *g, struct hv_error *err)
{
	sigset_t before;
	int code;

	hv_signals_block(&before);
	code = pthread_create(&g->thread, NULL, serve, g);
	hv_signals_unblock(&before);
	if (code != 0)
		return hv_fail(err, code, "gdb stub: no thread: %s", strerror(code));
	g->started = true;
	return 0;
}

int hv_gdb_start(struct hv_gdb **out, struct hv_machine *machine, const char *where, const struct hv_log *log,
		 struct hv_error *err)
{
	struct hv_gdb *g = calloc(1, sizeof(*g));
	int rc;

	if (!g)
		return hv_fail(err, ENOMEM, "gdb stub: no memory");
	g->machine = machine;
	g->log = log;
	g->listener = g->client = g->event = g->quit = g->subscription = -1;
	hv_gdb_session_init(&g->session, machine);
	rc = open_all(g, where, err);
	if (rc == 0)
		rc = start_thread(g, err);
	if (rc < 0) {
		hv_gdb_stop(g);
		return rc;
	}
	*out = g;
	return 0;
}

void hv_gdb_stop(struct hv_gdb *g)
{
	const int fds[] = {g ? g->listener : -1, g ? g->event : -1, g ? g->quit : -1};

	if (!g)
		return;
	if (g->started) {
		poke(g->quit);
		pthread_join(g->thread, NULL);
	}
	if (g->subscription >= 0)
		hv_machine_unsubscribe(g->machine, g->subscription);
	if (g->path[0])
		unlink(g->path);
	for (size_t i = 0; i < HV_ARRAY_SIZE(fds); i++) {
		if (fds[i] >= 0)
			close(fds[i]);
	}
	hv_gdb_session_free(&g->session);
	free(g);
}
