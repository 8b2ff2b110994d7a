/*
 * The socket device: the host's Unix sockets, and bytes between them and the guest's buffers. No call here
 * ever waits: every socket is nonblocking. It calls libc, base and the table of connections.
 *
 * Rules: unix(7), epoll(7). The sockets are watched edge-triggered: `readable` and `writable` of a connection
 * hold until a call says EAGAIN.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "device/virtio/vsock_impl.h"

#define BACKLOG    128
#define AT_ONCE    16 /* callers in one round */
#define HELLO_MAX  32 /* bytes of "CONNECT PORT\n" */
#define PORT_ANY   UINT32_MAX
#define PIECES_MAX (HV_VIRTQ_BUFFERS_MAX + 1)

/* --- the listening socket --- */

int hv_vsock_open(const char *path, struct hv_vsock_sockets **sockets, struct hv_error *err)
{
	struct hv_vsock_sockets *s;
	int rc;

	if (strlen(path) > HV_VSOCK_PATH_MAX)
		return hv_fail_usage(
			err,
			"vsock: the path has at most %d characters, so that _PORT fits behind it; "
			"%s is longer",
			HV_VSOCK_PATH_MAX, path);
	s = calloc(1, sizeof(*s));
	if (!s)
		return hv_fail(err, ENOMEM, "vsock: no memory for its socket; close other programs");
	memcpy(s->path, path, strlen(path));
	rc = hv_listener_open(&s->listener, "vsock", path, BACKLOG, err);
	if (rc)
		hv_vsock_close(s);
	else
		*sockets = s;
	return rc;
}

void hv_vsock_close(struct hv_vsock_sockets *sockets)
{
	if (!sockets)
		return;
	hv_listener_close(&sockets->listener);
	free(sockets);
}

/* Without a descriptor the caller waits until a connection ends. Without a place he is turned away. */
void hv_vsock_accept(struct vsock *s)
{
	for (unsigned i = 0; i < AT_ONCE && s->callers; i++) {
		int fd = accept4(s->sockets->listener.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		struct vsock_connection *c;

		if (fd < 0) {
			s->callers = errno == ECONNABORTED || errno == EINTR;
			s->callers_later = errno == EMFILE || errno == ENFILE || errno == ENOMEM;
			if (s->callers_later)
				hv_vsock_complain(s, "a host program has to wait: %s", strerror(errno));
			continue;
		}
		c = hv_vsock_add(s, fd, VSOCK_HELLO);
		if (c) {
			hv_vsock_set_deadline(s, c, true);
			continue;
		}
		hv_vsock_complain(s, "a host program is turned away: there are %u connections already",
				  VSOCK_CONNECTIONS);
		close(fd);
	}
}

/* --- hello --- */

int hv_vsock_parse_hello(const char *text, size_t size, uint32_t *port)
{
	static const char word[] = "CONNECT ";
	size_t at = sizeof(word) - 1, line = 0;
	uint64_t value = 0;

	while (line < size && text[line] != '\n')
		line++;
	if (line == size)
		return size < HELLO_MAX ? 0 : -EBADMSG;
	if (line <= at || line - at > 10 || memcmp(text, word, at) != 0)
		return -EBADMSG;
	for (; at < line; at++) {
		if (text[at] < '0' || text[at] > '9')
			return -EBADMSG;
		value = value * 10 + (uint64_t)(text[at] - '0');
	}
	if (value >= PORT_ANY)
		return -EBADMSG;
	*port = (uint32_t)value;
	return (int)line + 1;
}

/* What follows the line may have come already and is the guest's: only the line is taken. */
void hv_vsock_hello(struct vsock *s, struct vsock_connection *c)
{
	char text[HELLO_MAX];
	uint32_t port = 0;
	ssize_t n = recv(c->fd, text, sizeof(text), MSG_PEEK | MSG_DONTWAIT);
	int length;

	if (n < 0 && errno == EAGAIN)
		return;
	length = n > 0 ? hv_vsock_parse_hello(text, (size_t)n, &port) : -EBADMSG;
	if (length == 0 && !c->hung_up)
		return; /* the rest comes */
	if (length <= 0 || c->hung_up || recv(c->fd, text, (size_t)length, MSG_DONTWAIT) != length)
		hv_vsock_drop(s, c);
	else
		hv_vsock_request(s, c, port);
}

bool hv_vsock_say_ok(const struct vsock_connection *c)
{
	char line[24];
	int n = snprintf(line, sizeof(line), "OK %u\n", c->host_port);

	return send(c->fd, line, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT) == n;
}

/* --- to a listener of the host's --- */

int hv_vsock_connect(const struct vsock *s, uint32_t port)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	int n = snprintf(sun.sun_path, sizeof(sun.sun_path), "%s_%u", s->sockets->path, port);
	int fd, rc;

	if (n < 0 || (size_t)n >= sizeof(sun.sun_path))
		return -ENAMETOOLONG;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	/* EAGAIN: its backlog is full, and it would have to be waited for. */
	rc = connect(fd, (const struct sockaddr *)&sun, sizeof(sun)) < 0 ? -errno : 0;
	if (rc) {
		hv_log(s->v.host.log, HV_LOG_INFO, "%s: the guest's connection to port %u is refused: %s: %s",
		       s->v.name, port, sun.sun_path, strerror(-rc));
		close(fd);
		return rc;
	}
	return fd;
}

/* --- from the host program to the guest --- */

/* Behind the data comes the end, and errors come behind the data, too. */
enum vsock_input hv_vsock_peek(struct vsock_connection *c)
{
	uint8_t byte;
	ssize_t n;

	if (!c->readable || c->ended || c->heard & VSOCK_RECEIVE)
		return VSOCK_NOTHING;
	n = recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
	if (n > 0)
		return VSOCK_DATA;
	c->readable = false;
	if (n < 0)
		return errno == EAGAIN ? VSOCK_NOTHING : VSOCK_FAILED;
	c->ended = true;
	return VSOCK_END;
}

/* The buffers from `skip` bytes on, `length` bytes of them at most, as pieces. */
static int cut(const struct iovec *buffers, unsigned count, size_t skip, size_t length,
	       struct iovec pieces[PIECES_MAX])
{
	int n = 0;

	for (unsigned i = 0; i < count && length > 0; i++) {
		size_t there = buffers[i].iov_len;

		if (skip >= there) {
			skip -= there;
			continue;
		}
		there = there - skip < length ? there - skip : length;
		pieces[n++] =
			(struct iovec){.iov_base = (uint8_t *)buffers[i].iov_base + skip, .iov_len = there};
		length -= there;
		skip = 0;
	}
	return n;
}

uint32_t hv_vsock_read(struct vsock *s, const struct vsock_connection *c, uint32_t limit)
{
	const struct hv_virtq_chain *chain = &s->rx;
	struct iovec pieces[PIECES_MAX];
	ssize_t n = readv(c->fd, pieces,
			  cut(chain->buffers + chain->readable, chain->count - chain->readable, VSOCK_HEADER,
			      limit, pieces));

	return n > 0 ? (uint32_t)n : 0;
}

/* --- from the guest to the host program --- */

void hv_vsock_go_deaf(struct vsock_connection *c)
{
	c->deaf = true;
	c->forwarded = c->received;
	c->out_used = 0;
	free(c->out);
	c->out = NULL;
}

/* How many of the bytes the socket took; it is deaf where it takes none any more. */
static size_t send_pieces(struct vsock_connection *c, struct iovec *pieces, int count, size_t length)
{
	struct msghdr msg = {.msg_iov = pieces, .msg_iovlen = (size_t)count};
	ssize_t n = sendmsg(c->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);

	if (n < 0 && errno != EAGAIN) {
		hv_vsock_go_deaf(c);
		return 0;
	}
	n = n < 0 ? 0 : n;
	c->writable = (size_t)n == length;
	c->forwarded += (uint32_t)n;
	return (size_t)n;
}

static void keep(struct vsock *s, struct vsock_connection *c, size_t skip, uint32_t length)
{
	uint32_t at = (c->out_at + c->out_used) % VSOCK_BUFFER;
	uint32_t first = length < VSOCK_BUFFER - at ? length : VSOCK_BUFFER - at;

	hv_virtq_read(&s->tx, VSOCK_HEADER + skip, c->out + at, first);
	hv_virtq_read(&s->tx, VSOCK_HEADER + skip + first, c->out, length - first);
	c->out_used += length;
}

int hv_vsock_write(struct vsock *s, struct vsock_connection *c, uint32_t length)
{
	struct iovec pieces[PIECES_MAX];
	size_t sent = 0;

	if (length == 0)
		return 0;
	if (c->out_used == 0 && c->writable)
		sent = send_pieces(c, pieces,
				   cut(s->tx.buffers, s->tx.readable, VSOCK_HEADER, length, pieces), length);
	if (c->deaf || sent == length)
		return 0;
	if (!c->out)
		c->out = malloc(VSOCK_BUFFER);
	if (!c->out)
		return -ENOMEM;
	keep(s, c, sent, length - (uint32_t)sent);
	return 0;
}

void hv_vsock_flush(struct vsock_connection *c)
{
	while (c->writable && c->out_used > 0) {
		uint32_t first =
			c->out_used < VSOCK_BUFFER - c->out_at ? c->out_used : VSOCK_BUFFER - c->out_at;
		struct iovec pieces[] = {
			{.iov_base = c->out + c->out_at, .iov_len = first},
			{.iov_base = c->out, .iov_len = c->out_used - first},
		};
		size_t n = send_pieces(c, pieces, 2, c->out_used);

		if (c->deaf)
			return;
		c->out_at = (c->out_at + (uint32_t)n) % VSOCK_BUFFER;
		c->out_used -= (uint32_t)n;
	}
	if (c->out_used > 0)
		return;
	free(c->out); /* most programs are never slow */
	c->out = NULL;
	c->out_at = 0;
}
