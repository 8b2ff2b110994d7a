/*
 * The socket device: one stream between a program of the guest and one of the host. It calls the Unix sockets
 * (vsock_host.c) and the way to the guest (vsock.c).
 *
 * Rules: virtio 1.2, section 5.10.6: 5.10.6.3 (credit), 5.10.6.4 (receive and transmit), 5.10.6.5 (stream
 * sockets).
 *
 *      host program          HELLO --- "CONNECT PORT" ---> REQUESTED --- RESPONSE ---> OPEN
 *      guest                 REQUEST, and somebody listens at PATH_PORT -------------> OPEN
 *      OPEN                  ends with RST; by SHUTDOWN with both flags, whose answer is RST
 *      the guest is done     and bytes are left for the host program: DRAINING
 *
 * A packet that fits no connection, or not its state, is answered with RST, and costs its own connection
 * only. What the guest is owed is remembered in the connection, so no answer needs memory while the guest
 * gives no room for it; RSTs, whose connection is gone, wait in a ring of bounded size, and packets are left
 * in the guest's queue while that is full (5.10.6.1).
 *
 * Credit: `buf_alloc` and `fwd_cnt` of each packet tell how many bytes its sender keeps for a stream and how
 * many of those that it has got it has passed on. The difference of what was sent and what was passed on may
 * never be more than what is kept. So a slow host program makes the guest wait, and a guest that doesn't wait
 * is cut off; and a slow program of the guest leaves the host's bytes in the host's socket.
 */
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "device/virtio/vsock_impl.h"

/* --- the table --- */

static struct vsock_connection **bucket_of(struct vsock *s, uint32_t guest_port, uint32_t host_port)
{
	uint32_t hash = (guest_port ^ host_port * 0x9e3779b1u) * 0x85ebca6bu;

	return &s->table[(hash >> 16) % VSOCK_BUCKETS];
}

static struct vsock_connection *find(struct vsock *s, uint32_t guest_port, uint32_t host_port)
{
	struct vsock_connection *c = *bucket_of(s, guest_port, host_port);

	while (c && (c->guest_port != guest_port || c->host_port != host_port))
		c = c->next;
	return c;
}

static void enter(struct vsock *s, struct vsock_connection *c, uint32_t guest_port, uint32_t host_port)
{
	struct vsock_connection **bucket = bucket_of(s, guest_port, host_port);

	c->guest_port = guest_port;
	c->host_port = host_port;
	c->next = *bucket;
	*bucket = c;
}

static bool is_entered(const struct vsock_connection *c)
{
	return c->state == VSOCK_REQUESTED || c->state == VSOCK_OPEN;
}

static void leave(struct vsock *s, struct vsock_connection *c)
{
	struct vsock_connection **link = bucket_of(s, c->guest_port, c->host_port);

	while (*link != c)
		link = &(*link)->next;
	*link = c->next;
	c->next = NULL;
}

struct vsock_connection *hv_vsock_add(struct vsock *s, int fd, enum vsock_state state)
{
	struct vsock_connection *c = s->unused;
	struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET};
	uint32_t generation;

	if (!c)
		return NULL;
	event.data.u64 = (uint64_t)c->generation << 32 | (uint64_t)(c - s->connections);
	if (epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
		return NULL;
	s->unused = c->next;
	generation = c->generation;
	*c = (struct vsock_connection){
		.state = state, .generation = generation, .fd = fd, .readable = true, .writable = true};
	atomic_fetch_add_explicit(&s->live, 1, memory_order_relaxed);
	return c;
}

void hv_vsock_drop(struct vsock *s, struct vsock_connection *c)
{
	if (is_entered(c))
		leave(s, c);
	if (c->has_host_turn)
		TAILQ_REMOVE(&s->host_turns, c, host_turns);
	if (c->has_guest_turn)
		TAILQ_REMOVE(&s->guest_turns, c, guest_turns);
	hv_vsock_set_deadline(s, c, false);
	close(c->fd);
	free(c->out);
	c->out = NULL;
	c->state = VSOCK_FREE;
	c->generation++;
	c->has_host_turn = c->has_guest_turn = false;
	c->next = s->unused;
	s->unused = c;
	s->callers |= s->callers_later; /* there is a descriptor again */
	s->callers_later = false;
	atomic_fetch_sub_explicit(&s->live, 1, memory_order_relaxed);
}

void hv_vsock_want_host(struct vsock *s, struct vsock_connection *c)
{
	if (!c->has_host_turn)
		TAILQ_INSERT_TAIL(&s->host_turns, c, host_turns);
	c->has_host_turn = true;
}

void hv_vsock_want_guest(struct vsock *s, struct vsock_connection *c)
{
	if (!c->has_guest_turn)
		TAILQ_INSERT_TAIL(&s->guest_turns, c, guest_turns);
	c->has_guest_turn = true;
}

static void owe(struct vsock *s, struct vsock_connection *c, unsigned what)
{
	c->owed |= what;
	hv_vsock_want_guest(s, c);
}

/* --- deadlines --- */

void hv_vsock_set_deadline(struct vsock *s, struct vsock_connection *c, bool on)
{
	s->timed -= c->deadline != 0;
	c->deadline = on ? hv_vsock_now(s) + s->patience : 0;
	s->timed += c->deadline != 0;
}

/* What there was to wait for has come a step nearer. */
static void have_patience(struct vsock *s, struct vsock_connection *c)
{
	if (c->deadline)
		hv_vsock_set_deadline(s, c, true);
}

void hv_vsock_expire(struct vsock *s)
{
	uint64_t now = s->timed ? hv_vsock_now(s) : 0;

	if (now < s->look_at)
		return;
	s->look_at = now + VSOCK_TICK;
	for (unsigned i = 0; i < VSOCK_CONNECTIONS && s->timed; i++) {
		struct vsock_connection *c = &s->connections[i];

		if (c->state != VSOCK_FREE && c->deadline && c->deadline <= now)
			hv_vsock_reset(s, c);
	}
}

/* --- RST --- */

/* There is always room: see VSOCK_RESETS. Packets are taken only while fewer than VSOCK_REPLIES wait, and
 * beyond those each connection that the guest knows of can end once. */
static void queue_reset(struct vsock *s, const struct vsock_reset *reset)
{
	if (s->reset_count == VSOCK_RESETS)
		return;
	s->resets[(s->reset_at + s->reset_count++) % VSOCK_RESETS] = *reset;
}

static void reply_reset(struct vsock *s, const struct vsock_header *h)
{
	if (h->op == VSOCK_OP_RST)
		return; /* or two peers would do so for ever */
	queue_reset(s, &(struct vsock_reset){.src_cid = h->dst_cid,
					     .dst_cid = h->src_cid,
					     .src_port = h->dst_port,
					     .dst_port = h->src_port,
					     .type = h->type});
}

static void tell_reset(struct vsock *s, const struct vsock_connection *c)
{
	queue_reset(s, &(struct vsock_reset){.src_cid = VSOCK_HOST_CID,
					     .dst_cid = s->cid,
					     .src_port = c->host_port,
					     .dst_port = c->guest_port,
					     .type = VSOCK_TYPE_STREAM});
}

void hv_vsock_reset(struct vsock *s, struct vsock_connection *c)
{
	if (c->known && is_entered(c))
		tell_reset(s, c);
	hv_vsock_drop(s, c);
}

bool hv_vsock_send_reset(struct vsock *s)
{
	const struct vsock_reset *r = &s->resets[s->reset_at];

	if (!hv_vsock_take_room(s))
		return false;
	hv_vsock_send(s, &(struct vsock_header){.src_cid = r->src_cid,
						.dst_cid = r->dst_cid,
						.src_port = r->src_port,
						.dst_port = r->dst_port,
						.type = r->type,
						.op = VSOCK_OP_RST});
	s->reset_at = (s->reset_at + 1) % VSOCK_RESETS;
	s->reset_count--;
	return true;
}

void hv_vsock_forget_all(struct vsock *s)
{
	s->reset_count = 0;
	for (unsigned i = 0; i < VSOCK_CONNECTIONS; i++)
		if (s->connections[i].known && is_entered(&s->connections[i]))
			hv_vsock_drop(s, &s->connections[i]);
}

/* The guest has done what no driver does in this state. It may know of c even where it was not told. */
static void violate(struct vsock *s, struct vsock_connection *c, const char *what)
{
	hv_vsock_complain(s, "the guest %s, on port %u to the host's port %u; the connection is reset", what,
			  c->guest_port, c->host_port);
	c->known = true;
	hv_vsock_reset(s, c);
}

/* --- what the guest is told --- */

static uint32_t credit_of(const struct vsock_connection *c)
{
	uint32_t in_flight = c->sent - c->peer_forwarded;

	return in_flight < c->peer_alloc ? c->peer_alloc - in_flight : 0;
}

/* SHUTDOWN's flags that hold by now. */
static unsigned shutdown_of(const struct vsock_connection *c)
{
	return (c->ended ? VSOCK_SEND : 0u) | (c->deaf ? VSOCK_RECEIVE : 0u);
}

static void tell(struct vsock *s, struct vsock_connection *c, enum vsock_op op, uint32_t flags,
		 uint32_t length)
{
	c->told_forwarded = c->forwarded;
	c->owed &= ~(unsigned)OWED_CREDIT_UPDATE;
	c->known = true;
	c->sent += length;
	hv_vsock_send(s, &(struct vsock_header){.src_cid = VSOCK_HOST_CID,
						.dst_cid = s->cid,
						.src_port = c->host_port,
						.dst_port = c->guest_port,
						.length = length,
						.type = VSOCK_TYPE_STREAM,
						.op = (uint16_t)op,
						.flags = flags,
						.buf_alloc = VSOCK_BUFFER,
						.fwd_cnt = c->forwarded});
}

/* Data while there is some and the guest takes it, before the end that is behind it. */
static enum vsock_op next_op(struct vsock_connection *c, enum vsock_input input)
{
	if (c->owed & OWED_REQUEST)
		return VSOCK_OP_REQUEST;
	if (c->owed & OWED_RESPONSE)
		return VSOCK_OP_RESPONSE;
	if (c->state != VSOCK_OPEN)
		return VSOCK_OP_INVALID;
	if (input == VSOCK_DATA && credit_of(c) > 0)
		return VSOCK_OP_RW;
	if (shutdown_of(c) & ~c->told)
		return VSOCK_OP_SHUTDOWN;
	if (c->owed & OWED_CREDIT_UPDATE)
		return VSOCK_OP_CREDIT_UPDATE;
	if (input == VSOCK_DATA && !c->begged)
		return VSOCK_OP_CREDIT_REQUEST;
	return VSOCK_OP_INVALID;
}

static void tell_data(struct vsock *s, struct vsock_connection *c)
{
	uint32_t credit = credit_of(c), limit = credit < VSOCK_PACKET_MAX ? credit : VSOCK_PACKET_MAX;
	uint32_t n = hv_vsock_read(s, c, limit);

	atomic_fetch_add_explicit(&s->to_guest, n, memory_order_relaxed);
	/* Nothing after all: the chain is in hand, and this is always true. */
	tell(s, c, n ? VSOCK_OP_RW : VSOCK_OP_CREDIT_UPDATE, 0, n);
}

static void tell_shutdown(struct vsock *s, struct vsock_connection *c)
{
	c->told |= shutdown_of(c);
	tell(s, c, VSOCK_OP_SHUTDOWN, c->told, 0);
	if (c->told == VSOCK_BOTH) /* the guest owes RST */
		hv_vsock_set_deadline(s, c, true);
}

bool hv_vsock_guest_turn(struct vsock *s, struct vsock_connection *c)
{
	bool listens = c->state == VSOCK_OPEN && !(c->owed & OWED_RESPONSE);
	enum vsock_input input = listens ? hv_vsock_peek(c) : VSOCK_NOTHING;
	enum vsock_op op;

	if (input == VSOCK_FAILED) {
		hv_vsock_reset(s, c);
		return true;
	}
	op = next_op(c, input);
	if (op == VSOCK_OP_INVALID)
		return true; /* until something happens */
	if (!hv_vsock_take_room(s))
		return false;
	switch (op) {
	case VSOCK_OP_RW:
		tell_data(s, c);
		break;
	case VSOCK_OP_SHUTDOWN:
		tell_shutdown(s, c);
		break;
	case VSOCK_OP_REQUEST:
		c->owed &= ~(unsigned)OWED_REQUEST;
		tell(s, c, op, 0, 0);
		break;
	case VSOCK_OP_RESPONSE:
		c->owed &= ~(unsigned)OWED_RESPONSE;
		tell(s, c, op, 0, 0);
		break;
	case VSOCK_OP_CREDIT_REQUEST:
		c->begged = true;
		tell(s, c, op, 0, 0);
		break;
	default:
		tell(s, c, op, 0, 0);
	}
	hv_vsock_want_guest(s, c);
	return true;
}

/* The guest is told when it could believe that a quarter of the buffer is still taken: so it goes on long
 * before it has to wait, and not with a packet for each that it sent. */
static void after_forwarding(struct vsock *s, struct vsock_connection *c)
{
	if (c->state == VSOCK_OPEN && c->forwarded - c->told_forwarded >= VSOCK_BUFFER / 4)
		owe(s, c, OWED_CREDIT_UPDATE);
	if (c->deaf)
		hv_vsock_want_guest(s, c); /* SHUTDOWN */
}

/* --- the host program's side --- */

void hv_vsock_request(struct vsock *s, struct vsock_connection *c, uint32_t guest_port)
{
	do
		s->next_port = s->next_port + 1 < 1u << 31 ? s->next_port + 1 : 1u << 30;
	while (find(s, guest_port, s->next_port));
	c->state = VSOCK_REQUESTED;
	enter(s, c, guest_port, s->next_port);
	hv_vsock_set_deadline(s, c, true);
	owe(s, c, OWED_REQUEST);
}

/* The guest sends no more: so does the socket, when all is out. */
static void pass_end_on(struct vsock_connection *c)
{
	if (c->heard & VSOCK_SEND && c->out_used == 0)
		shutdown(c->fd, SHUT_WR);
}

static void move_on(struct vsock *s, struct vsock_connection *c)
{
	uint32_t before = c->forwarded;

	if (c->hung_up && c->heard & VSOCK_RECEIVE)
		c->ended = true; /* nobody looks for the end any more */
	if (c->hung_up && !c->deaf)
		hv_vsock_go_deaf(c);
	else if (c->writable && c->out_used)
		hv_vsock_flush(c);
	if (c->forwarded != before) {
		if (c->state == VSOCK_DRAINING)
			have_patience(s, c);
		if (!c->deaf)
			pass_end_on(c);
	}
	after_forwarding(s, c);
}

void hv_vsock_host_turn(struct vsock *s, struct vsock_connection *c)
{
	switch (c->state) {
	case VSOCK_FREE:
		break;
	case VSOCK_HELLO:
		hv_vsock_hello(s, c);
		break;
	case VSOCK_REQUESTED:
		if (c->hung_up)
			hv_vsock_reset(s, c);
		break;
	case VSOCK_OPEN:
		move_on(s, c);
		hv_vsock_want_guest(s, c);
		break;
	case VSOCK_DRAINING:
		move_on(s, c);
		if (c->out_used == 0)
			hv_vsock_drop(s, c);
		break;
	}
}

/* --- packets of the guest's --- */

static void accept_guest(struct vsock *s, const struct vsock_header *h)
{
	struct vsock_connection *c = NULL;
	int fd = s->unused ? hv_vsock_connect(s, h->dst_port) : -EMFILE;

	if (fd >= 0)
		c = hv_vsock_add(s, fd, VSOCK_OPEN);
	if (!c) {
		if (fd >= 0)
			close(fd);
		reply_reset(s, h);
		return;
	}
	c->known = true;
	c->peer_alloc = h->buf_alloc;
	c->peer_forwarded = h->fwd_cnt;
	enter(s, c, h->src_port, h->dst_port);
	owe(s, c, OWED_RESPONSE);
}

static void take_response(struct vsock *s, struct vsock_connection *c)
{
	if (c->state != VSOCK_REQUESTED || !c->known) {
		violate(s, c, "accepts a connection that it wasn't asked for");
	} else if (!hv_vsock_say_ok(c)) {
		hv_vsock_reset(s, c);
	} else {
		c->state = VSOCK_OPEN;
		hv_vsock_set_deadline(s, c, false);
		hv_vsock_want_host(s, c);
	}
}

static void take_data(struct vsock *s, struct vsock_connection *c, uint32_t length)
{
	if (length > VSOCK_BUFFER - (c->received - c->forwarded)) {
		violate(s, c, "sends more than it has credit for");
		return;
	}
	if (c->state != VSOCK_OPEN || c->heard & VSOCK_SEND) {
		violate(s, c, "sends where it can't");
		return;
	}
	c->received += length;
	atomic_fetch_add_explicit(&s->to_host, length, memory_order_relaxed);
	if (c->deaf)
		c->forwarded += length;
	else if (hv_vsock_write(s, c, length)) {
		hv_vsock_reset(s, c);
		return;
	}
	after_forwarding(s, c);
}

/* Both flags: the guest is done with it, and hears so; what it sent before still reaches the host program. */
static void finish(struct vsock *s, struct vsock_connection *c)
{
	tell_reset(s, c);
	if (c->out_used == 0) {
		hv_vsock_drop(s, c);
		return;
	}
	leave(s, c);
	c->state = VSOCK_DRAINING;
	c->owed = 0;
	hv_vsock_set_deadline(s, c, true);
}

static void take_shutdown(struct vsock *s, struct vsock_connection *c, uint32_t flags)
{
	if (c->state != VSOCK_OPEN) {
		violate(s, c, "shuts down what isn't open");
		return;
	}
	c->heard |= flags & VSOCK_BOTH;
	if (c->heard == VSOCK_BOTH) {
		finish(s, c);
		return;
	}
	if (c->heard & VSOCK_RECEIVE)
		shutdown(c->fd, SHUT_RD);
	pass_end_on(c);
}

static void take_reset(struct vsock *s, struct vsock_connection *c)
{
	c->known = false;
	if (c->heard & VSOCK_SEND && c->out_used > 0) {
		leave(s, c); /* it ended its stream before */
		c->state = VSOCK_DRAINING;
		c->owed = 0;
		hv_vsock_set_deadline(s, c, true);
	} else {
		hv_vsock_drop(s, c);
	}
}

static void receive_for(struct vsock *s, struct vsock_connection *c, const struct vsock_header *h)
{
	c->peer_alloc = h->buf_alloc;
	c->peer_forwarded = h->fwd_cnt;
	if (credit_of(c) > 0)
		c->begged = false;
	if (c->state == VSOCK_OPEN)
		have_patience(s, c);
	if (c->readable)
		hv_vsock_want_guest(s, c); /* there may be credit */
	switch (h->op) {
	case VSOCK_OP_RESPONSE:
		take_response(s, c);
		break;
	case VSOCK_OP_RST:
		take_reset(s, c);
		break;
	case VSOCK_OP_SHUTDOWN:
		take_shutdown(s, c, h->flags);
		break;
	case VSOCK_OP_RW:
		take_data(s, c, h->length);
		break;
	case VSOCK_OP_CREDIT_UPDATE:
		break;
	case VSOCK_OP_CREDIT_REQUEST:
		owe(s, c, OWED_CREDIT_UPDATE);
		break;
	case VSOCK_OP_REQUEST:
		violate(s, c, "asks again for a connection that it has");
		break;
	default:
		violate(s, c, "sends an operation that there isn't");
	}
}

void hv_vsock_receive(struct vsock *s, const struct vsock_header *h)
{
	struct vsock_connection *c;

	if (h->src_cid != s->cid || h->dst_cid != VSOCK_HOST_CID || h->type != VSOCK_TYPE_STREAM) {
		reply_reset(s, h);
		return;
	}
	c = find(s, h->src_port, h->dst_port);
	if (c)
		receive_for(s, c, h);
	else if (h->op == VSOCK_OP_REQUEST)
		accept_guest(s, h);
	else
		reply_reset(s, h);
}
