/*
 * The console device: port 0 is a console (hvc0 in Linux), port 1 a channel between the host and an agent in
 * the guest, found there by its name. It calls the transport, its worker, the chardevs and base.
 *
 * Rules: virtio 1.2, section 5.3. Every port has a queue for each direction; messages that tell of ports go
 * through two more:
 *
 *   queue  0, 1   port 0: to the guest, to the host
 *          2, 3   control: to the guest, to the host; only with MULTIPORT
 *          4, 5   port 1: to the guest, to the host
 *
 *   driver                              device
 *   DEVICE_READY             ------->
 *                            <-------   DEVICE_ADD, one for each port
 *   PORT_READY               ------->
 *                            <-------   CONSOLE_PORT or PORT_NAME; PORT_OPEN when the host's end is open
 *   PORT_OPEN: an agent came ------->
 *                            <-------   RESIZE, PORT_OPEN: what changes on the host later on
 *
 * Bytes wait where they are. To the host, the worker (or for a few, the vCPU) hands over what the chardev
 * takes without waiting, and leaves the rest in the guest's buffer, whose place in the queue it gives up
 * meanwhile: so no chain is ever out between two steps, and a save only has to know how far into the first
 * buffer the host has got. To the guest, the chardev keeps what finds no buffer or no open port, and stops
 * reading from its client. Messages that are due are bits and no list, so none needs room.
 *
 * A driver without MULTIPORT has port 0 only, and doesn't say when it listens: buffers in its queue say it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "device/virtio/console.h"
#include "device/virtio/worker.h"

enum { QUEUE_CONTROL_IN = 2, QUEUE_CONTROL_OUT = 3, QUEUES = 6 };

#define ID       3u
#define STEP_MAX 65536u /* bytes to the host in one step, whatever a chain holds */
#define NOW_MAX  256u   /* bytes of a chain that a vCPU's thread hands over itself */
#define NOW_MOST 16u    /* chains that it does so with in one exit */

/* Features of section 5.3.3, as bits. */
#define F_SIZE        (1ull << 0)
#define F_MULTIPORT   (1ull << 1)
#define F_EMERG_WRITE (1ull << 2)

enum { /* the configuration space (5.3.4): offsets of its fields */
       CONFIG_COLUMNS = 0,
       CONFIG_ROWS = 2,
       CONFIG_PORTS = 4,
       CONFIG_EMERG_WRITE = 8,
       CONFIG_LENGTH = 12,
};

enum { /* control messages (5.3.6.2): port (32), event (16), value (16), and more behind some */
       EVENT_DEVICE_READY = 0,
       EVENT_DEVICE_ADD = 1,
       EVENT_PORT_READY = 3,
       EVENT_CONSOLE_PORT = 4,
       EVENT_RESIZE = 5,
       EVENT_PORT_OPEN = 6,
       EVENT_PORT_NAME = 7,
};

#define MESSAGE_SIZE 8u
#define MESSAGE_MAX  (MESSAGE_SIZE + HV_CONSOLE_NAME_MAX)

enum { /* messages that a port's driver is to get, in the order in which they go */
       DUE_ADD = 0x01,
       DUE_CONSOLE = 0x02,
       DUE_NAME = 0x04,
       DUE_CLOSED = 0x08,
       DUE_OPENED = 0x10,
       DUE_RESIZE = 0x20,
       DUE_ALL = 0x3f,
};

enum { /* a port in saved state */
       SAVED_READY = 1,
       SAVED_GUEST_OPEN = 2,
       SAVED_HOST_OPEN = 4,
       SAVED_ALL = 7,
};

struct console;

struct port {
	struct console *console;
	unsigned number;
	bool there;
	struct hv_chardev *chardev; /* borrowed; NULL: output is swallowed */
	char name[HV_CONSOLE_NAME_MAX + 1];

	/* The device's lock: */
	bool ready;       /* the driver knows the port */
	bool guest_open;  /* and someone in the guest has it open */
	bool host_open;   /* what the driver knows of the host's end, or will once what is due has gone */
	unsigned due;     /* DUE_ bits */
	bool full;        /* the chardev took less than it was offered; it tells when it takes more */
	uint32_t sent;    /* bytes of the next chain to the host that it has taken already */
	uint64_t in, out; /* bytes so far, for describe */
};

struct console {
	struct hv_virtio v;
	struct hv_virtio_worker worker;
	struct port ports[HV_CONSOLE_PORTS];
	bool complained;
	struct hv_virtq_chain input; /* and a vCPU's output: the lock, all the time that it is out */
	struct hv_virtq_chain chain; /* the worker's own */
};

static struct console *console_of(struct hv_virtio *v)
{
	return hv_container_of(v, struct console, v);
}

static unsigned queue_in(const struct port *p)
{
	return p->number ? 2 * p->number + 2 : 0;
}

static unsigned queue_out(const struct port *p)
{
	return queue_in(p) + 1;
}

static bool has_multiport(const struct console *c)
{
	return hv_virtio_has(&c->v, F_MULTIPORT);
}

/* What a driver gets wrong here does no harm: it is told of once, and ignored. */
static void complain(struct console *c, const char *what)
{
	hv_log(c->v.host.log, c->complained ? HV_LOG_INFO : HV_LOG_WARN,
	       "%s: the guest's driver sent %s; it is ignored", c->v.name, what);
	c->complained = true;
}

/* --- messages to the driver --- */

static bool has_size(const struct console *c)
{
	return hv_virtio_has(&c->v, F_SIZE) && hv_le16(c->v.config + CONFIG_COLUMNS);
}

/* Of a host's end that closed and opened again the driver hears both, so that an agent begins anew. */
static void set_host_open(struct port *p, bool open)
{
	if (p->host_open == open)
		return;
	p->host_open = open;
	if (p->ready)
		p->due = (p->due & ~(unsigned)DUE_OPENED) | (open ? DUE_OPENED : DUE_CLOSED);
}

/* The first message that is due, into message[]; its bit into *bit. Its length. */
static size_t compose(const struct port *p, uint8_t message[MESSAGE_MAX], unsigned *bit)
{
	const uint8_t *config = p->console->v.config;
	unsigned event = EVENT_PORT_OPEN, value = 1;
	size_t length = MESSAGE_SIZE;

	*bit = p->due & -p->due;
	switch (*bit) {
	case DUE_ADD:
		event = EVENT_DEVICE_ADD;
		break;
	case DUE_CONSOLE:
		event = EVENT_CONSOLE_PORT;
		break;
	case DUE_NAME:
		event = EVENT_PORT_NAME;
		length += strlen(p->name);
		memcpy(message + MESSAGE_SIZE, p->name, length - MESSAGE_SIZE);
		break;
	case DUE_CLOSED:
		value = 0;
		break;
	case DUE_RESIZE:
		event = EVENT_RESIZE;
		length += 4;
		memcpy(message + MESSAGE_SIZE, config + CONFIG_COLUMNS, 4); /* the same two fields */
		break;
	}
	hv_put_le32(message, p->number);
	hv_put_le16(message + 4, (uint16_t)event);
	hv_put_le16(message + 6, (uint16_t)value);
	return length;
}

/* One message that is due, if the driver has a buffer for it. False when nothing was done. */
static bool send_message(struct console *c)
{
	struct port *p = c->ports;
	uint8_t message[MESSAGE_MAX];
	unsigned bit;
	size_t length;

	while (p < c->ports + HV_CONSOLE_PORTS && !p->due)
		p++;
	if (p == c->ports + HV_CONSOLE_PORTS || !hv_virtio_pop(&c->v, QUEUE_CONTROL_IN, &c->chain))
		return false;
	length = compose(p, message, &bit);
	if (c->chain.write_length < length) {
		hv_virtio_needs_reset(&c->v, QUEUE_CONTROL_IN, "a buffer too short for a message");
		return false;
	}
	p->due &= ~bit;
	hv_virtq_write(&c->chain, 0, message, length);
	hv_virtio_push(&c->v, QUEUE_CONTROL_IN, &c->chain, (uint32_t)length);
	return true;
}

/* --- messages from the driver --- */

static void port_is_ready(struct port *p)
{
	p->ready = true;
	p->due = (p->number == 0 ? DUE_CONSOLE : 0) | (p->name[0] ? DUE_NAME : 0) |
		 (p->host_open ? DUE_OPENED : 0) | (p->number == 0 && has_size(p->console) ? DUE_RESIZE : 0);
}

static void wants_input(struct port *p)
{
	if (p->chardev)
		hv_chardev_input_ready(p->chardev);
}

static void take_message(struct console *c, uint32_t number, unsigned event, unsigned value)
{
	struct port *p = number < HV_CONSOLE_PORTS && c->ports[number].there ? &c->ports[number] : NULL;

	if (event == EVENT_DEVICE_READY) {
		for (unsigned i = 0; i < HV_CONSOLE_PORTS && value == 1; i++)
			c->ports[i].due |= c->ports[i].there ? DUE_ADD : 0;
		return;
	}
	if (!p) {
		complain(c, "a message for a port that is not there");
	} else if (event == EVENT_PORT_READY) {
		if (value == 1)
			port_is_ready(p);
	} else if (event == EVENT_PORT_OPEN) {
		p->guest_open = value != 0;
		wants_input(p);
	} else {
		complain(c, "a message that only the device sends, or none");
	}
}

/* One message of the driver's. False when there was none. */
static bool receive_message(struct console *c)
{
	uint8_t message[MESSAGE_SIZE];

	if (!hv_virtio_pop(&c->v, QUEUE_CONTROL_OUT, &c->chain))
		return false;
	if (hv_virtq_read(&c->chain, 0, message, sizeof(message)) == sizeof(message))
		take_message(c, hv_le32(message), hv_le16(message + 4), hv_le16(message + 6));
	else
		complain(c, "a message of less than 8 bytes");
	hv_virtio_push(&c->v, QUEUE_CONTROL_OUT, &c->chain, 0);
	return true;
}

/* --- bytes to the host, on the worker's thread --- */

/* Hands over the readable part of the chain from byte `skip` on, a step's worth at most: how much was taken,
 * and in *full whether the chardev wants no more now. With the lock or without. */
static size_t hand_over(struct port *p, const struct hv_virtq_chain *chain, size_t skip, bool *full)
{
	size_t done = 0;

	*full = false;
	for (unsigned i = 0; i < chain->readable && done < STEP_MAX && !*full; i++) {
		const uint8_t *data = chain->buffers[i].iov_base;
		size_t n = chain->buffers[i].iov_len, taken;

		if (skip >= n) {
			skip -= n;
			continue;
		}
		data += skip;
		n -= skip;
		skip = 0;
		n = n < STEP_MAX - done ? n : STEP_MAX - done;
		taken = p->chardev ? hv_chardev_offer(p->chardev, data, n) : n;
		done += taken;
		*full = taken < n;
	}
	return done;
}

/* Of one chain of a port's, as much as the host takes. False when there is none, or no room for it. */
static bool transmit(struct port *p)
{
	struct console *c = p->console;
	struct hv_virtio *v = &c->v;
	size_t n = 0;
	bool full;

	if (p->full || !hv_virtio_pop(v, queue_out(p), &c->chain))
		return false;
	if (p->sent < c->chain.read_length) {
		p->full = true; /* before it may be: the chardev tells of room as soon as there is */
		pthread_mutex_unlock(&v->dev.lock);
		n = hand_over(p, &c->chain, p->sent, &full);
		pthread_mutex_lock(&v->dev.lock);
		p->full &= full;
	}
	p->out += n;
	if (p->sent < c->chain.read_length && n < c->chain.read_length - p->sent) {
		p->sent += (uint32_t)n;
		hv_virtio_put_back(v, queue_out(p), &c->chain);
	} else {
		p->sent = 0;
		hv_virtio_push(v, queue_out(p), &c->chain, 0);
	}
	return true;
}

/*
 * Linux waits for its console with interrupts off, 16 bytes at a time. So the vCPU that has just printed a
 * few hands them over itself, as that doesn't wait, and finds them gone when it enters the guest again. What
 * is more, and what the host doesn't take, is left to the worker; so is all while that is at work.
 */
static void transmit_now(struct port *p)
{
	struct console *c = p->console;
	struct hv_virtq_chain *chain = &c->input;
	unsigned chains = 0;

	while (!c->worker.busy && !c->worker.holds && !p->full && p->sent == 0 && chains++ < NOW_MOST) {
		if (!hv_virtio_pop(&c->v, queue_out(p), chain))
			return;
		if (chain->read_length > NOW_MAX) {
			hv_virtio_put_back(&c->v, queue_out(p), chain);
			break;
		}
		p->sent = (uint32_t)hand_over(p, chain, 0, &p->full);
		p->out += p->sent;
		if (p->sent < chain->read_length) {
			hv_virtio_put_back(&c->v, queue_out(p), chain);
			break;
		}
		p->sent = 0;
		hv_virtio_push(&c->v, queue_out(p), chain, 0);
	}
	hv_virtio_worker_wake(&c->worker);
}

/* hv_virtio_step_fn */
static bool console_step(struct hv_virtio *v)
{
	struct console *c = console_of(v);
	bool done = false;

	if (has_multiport(c) && (receive_message(c) || send_message(c)))
		return true;
	for (unsigned i = 0; i < HV_CONSOLE_PORTS; i++)
		done |= transmit(&c->ports[i]);
	return done;
}

/* --- bytes to the guest, on a chardev's thread --- */

static bool listens(const struct port *p)
{
	if (p->console->worker.holds)
		return false;
	return has_multiport(p->console) ? p->guest_open : p->number == 0;
}

/* hv_chardev_input_fn */
static size_t console_input(void *port, const uint8_t *data, size_t count)
{
	struct port *p = port;
	struct hv_virtio *v = &p->console->v;
	struct hv_virtq_chain *chain = &p->console->input;
	size_t taken = 0;

	pthread_mutex_lock(&v->dev.lock);
	while (taken < count && listens(p) && hv_virtio_pop(v, queue_in(p), chain)) {
		size_t n = hv_virtq_write(chain, 0, data + taken, count - taken);

		if (n == 0) {
			hv_virtio_needs_reset(v, queue_in(p), "a buffer for input without room");
			break;
		}
		taken += n;
		hv_virtio_push(v, queue_in(p), chain, (uint32_t)n);
	}
	p->in += taken;
	pthread_mutex_unlock(&v->dev.lock);
	return taken;
}

/* hv_chardev_watch_fn. A console's driver needs no client at the other end: what it prints is kept. */
static void console_watch(void *port, enum hv_chardev_event event)
{
	struct port *p = port;

	pthread_mutex_lock(&p->console->v.dev.lock);
	if (event == HV_CHARDEV_ROOM)
		p->full = false;
	else if (p->number != 0)
		set_host_open(p, event == HV_CHARDEV_CAME);
	hv_virtio_worker_wake(&p->console->worker);
	pthread_mutex_unlock(&p->console->v.dev.lock);
}

/* --- the device --- */

void hv_virtio_console_resize(struct hv_device *dev, uint16_t columns, uint16_t rows)
{
	struct hv_virtio *v = hv_container_of(dev, struct hv_virtio, dev);
	struct console *c = console_of(v);

	pthread_mutex_lock(&dev->lock);
	hv_put_le16(v->config + CONFIG_COLUMNS, columns);
	hv_put_le16(v->config + CONFIG_ROWS, rows);
	hv_virtio_config_changed(v);
	if (c->ports[0].ready && has_size(c)) {
		c->ports[0].due |= DUE_RESIZE;
		hv_virtio_worker_wake(&c->worker);
	}
	pthread_mutex_unlock(&dev->lock);
}

static void console_notify(struct hv_virtio *v, unsigned queue)
{
	struct console *c = console_of(v);

	for (unsigned i = 0; i < HV_CONSOLE_PORTS; i++) {
		if (queue == queue_in(&c->ports[i])) {
			wants_input(&c->ports[i]);
			return;
		}
		if (queue == queue_out(&c->ports[i])) {
			transmit_now(&c->ports[i]);
			return;
		}
	}
	hv_virtio_worker_wake(&c->worker);
}

/* Before a driver is there at all: a byte at a time (5.3.5.1). What finds no room then is lost. */
static void console_config_write(struct hv_virtio *v, unsigned offset, uint32_t value, unsigned size)
{
	const struct port *p = &console_of(v)->ports[0];
	uint8_t byte = (uint8_t)value;

	if (offset == CONFIG_EMERG_WRITE && p->chardev)
		hv_chardev_offer(p->chardev, &byte, 1);
}

static void console_hold(struct hv_virtio *v, bool held)
{
	struct console *c = console_of(v);

	hv_virtio_worker_hold(&c->worker, held);
	for (unsigned i = 0; i < HV_CONSOLE_PORTS && !c->worker.holds; i++)
		wants_input(&c->ports[i]);
}

static void console_reset(struct hv_virtio *v)
{
	for (struct port *p = console_of(v)->ports; p < console_of(v)->ports + HV_CONSOLE_PORTS; p++) {
		p->ready = p->guest_open = false;
		p->due = 0;
		p->sent = 0;
	}
}

static void console_save(struct hv_virtio *v, struct hv_encoder *e)
{
	for (const struct port *p = console_of(v)->ports; p < console_of(v)->ports + HV_CONSOLE_PORTS; p++) {
		hv_enc_u8(e, (uint8_t)((p->ready ? SAVED_READY : 0) | (p->guest_open ? SAVED_GUEST_OPEN : 0) |
				       (p->host_open ? SAVED_HOST_OPEN : 0)));
		hv_enc_u8(e, (uint8_t)p->due);
		hv_enc_u32(e, p->sent);
	}
}

static bool host_is_open(const struct port *p)
{
	return p->there && p->chardev && (p->number == 0 || hv_chardev_is_open(p->chardev));
}

static int load_port(struct port *p, struct hv_decoder *d, struct hv_error *err)
{
	unsigned flags = hv_dec_u8(d), due = hv_dec_u8(d);
	uint32_t sent = hv_dec_u32(d);

	if (flags & ~(unsigned)SAVED_ALL || due & ~(unsigned)DUE_ALL ||
	    ((due || flags & (SAVED_READY | SAVED_GUEST_OPEN)) && !(p->there && has_multiport(p->console))) ||
	    (due & (DUE_NAME | DUE_CONSOLE | DUE_RESIZE) && !(flags & SAVED_READY)))
		return hv_fail_unsafe(err,
				      "saved state: device '%s' has a port that it can't have; the data is "
				      "damaged, or the VM was started with other ports",
				      p->console->v.name);
	p->ready = flags & SAVED_READY;
	p->guest_open = flags & SAVED_GUEST_OPEN;
	p->host_open = flags & SAVED_HOST_OPEN;
	p->due = due;
	p->sent = sent;                    /* checked against the chain when there is one */
	set_host_open(p, host_is_open(p)); /* which may be another host's by now */
	return 0;
}

static int console_load(struct hv_virtio *v, struct hv_decoder *d, struct hv_error *err)
{
	struct console *c = console_of(v);
	int rc = 0;

	for (unsigned i = 0; i < HV_CONSOLE_PORTS && !rc; i++)
		rc = load_port(&c->ports[i], d, err);
	if (!rc && c->ports[0].ready && has_size(c))
		c->ports[0].due |= DUE_RESIZE;
	return rc;
}

static void console_describe(struct hv_virtio *v, char *buf, size_t size)
{
	size_t used = 0;

	for (const struct port *p = console_of(v)->ports; p < console_of(v)->ports + HV_CONSOLE_PORTS; p++) {
		if (!p->there || used >= size)
			continue;
		used += (size_t)snprintf(buf + used, size - used,
					 "%s%s: guest %s, host %s, %llu in, %llu out", used ? "; " : "",
					 p->number ? p->name : "console", p->guest_open ? "open" : "closed",
					 p->host_open ? "open" : "closed", (unsigned long long)p->in,
					 (unsigned long long)p->out);
	}
}

static void console_stop(struct hv_virtio *v)
{
	hv_virtio_worker_stop(&console_of(v)->worker);
}

static void console_destroy(struct hv_virtio *v)
{
	free(console_of(v));
}

static const struct hv_virtio_ops console_ops = {
	.name = "console",
	.id = ID,
	.version = 1,
	.queues = QUEUES,
	.notify = console_notify,
	.config_write = console_config_write,
	.hold = console_hold,
	.reset = console_reset,
	.save = console_save,
	.load = console_load,
	.describe = console_describe,
	.stop = console_stop,
	.destroy = console_destroy,
};

static void plug_in(struct port *p)
{
	hv_chardev_connect(p->chardev, console_input, p);
	hv_chardev_set_watch(p->chardev, console_watch, p, p->number != 0);
}

int hv_virtio_console_create(const struct hv_virtio_host *host,
			     const struct hv_console_port ports[HV_CONSOLE_PORTS], struct hv_device **out,
			     struct hv_error *err)
{
	struct console *c;
	int rc;

	for (unsigned i = 0; i < HV_CONSOLE_PORTS; i++)
		if (ports[i].name && strlen(ports[i].name) > HV_CONSOLE_NAME_MAX)
			return hv_fail(err, EINVAL, "virtio-console: a port's name has at most %d bytes",
				       HV_CONSOLE_NAME_MAX);
	c = calloc(1, sizeof(*c));
	if (!c)
		return hv_fail(err, ENOMEM, "virtio-console: no memory for the device; close other programs");
	hv_virtio_init(&c->v, &console_ops, host, F_SIZE | F_MULTIPORT | F_EMERG_WRITE);
	c->v.config_length = CONFIG_LENGTH;
	hv_put_le32(c->v.config + CONFIG_PORTS, ports[1].there ? 2 : 1);
	for (unsigned i = 0; i < HV_CONSOLE_PORTS; i++) {
		struct port *p = &c->ports[i];

		*p = (struct port){.console = c,
				   .number = i,
				   .there = ports[i].there,
				   .chardev = ports[i].there ? ports[i].chardev : NULL};
		snprintf(p->name, sizeof(p->name), "%s", ports[i].name ? ports[i].name : "");
		p->host_open = host_is_open(p);
	}
	rc = hv_virtio_worker_start(&c->worker, &c->v, console_step, err);
	if (rc) {
		hv_device_destroy(&c->v.dev);
		return rc;
	}
	for (unsigned i = 0; i < HV_CONSOLE_PORTS; i++)
		if (c->ports[i].chardev)
			plug_in(&c->ports[i]);
	*out = &c->v.dev;
	return 0;
}
