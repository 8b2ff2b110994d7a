/*
 * The console device with real sockets at its ports: the order of its messages, bytes both ways with back
 * pressure, clients that come and go, a driver without MULTIPORT, a hostile one, hold, reset and saved state.
 */
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "device/virtio/console.h"
#include "drive_virtio.h"

enum { CONTROL_IN = 2, CONTROL_OUT = 3, QUEUES = 6 };
enum { READY = 0, ADD = 1, PORT_READY = 3, CONSOLE = 4, RESIZE = 5, OPEN = 6, NAME = 7 };

#define F_SIZE        1ull
#define F_MULTIPORT   2ull
#define F_EMERG_WRITE 4ull
#define ALL           (HV_VIRTIO_F_VERSION_1 | F_SIZE | F_MULTIPORT | F_EMERG_WRITE)

#define SIZE         16u
#define DATA(q)      (RING_DATA + (q)*0x10000u)
#define BUFFER       0x1000u     /* bytes of a buffer for input */
#define KEPT         (64u << 10) /* bytes of output that a chardev keeps */
#define FAR_TOO_MUCH (4u << 20)  /* more than a socket and a chardev hold together */

static char folder[64];
static struct hv_memory mem;
static struct hv_device *dev;
static struct hv_chardev *lines[HV_CONSOLE_PORTS];
static struct ring rings[QUEUES];
static struct irq_log irq;
static struct log_lines logged;
static struct hv_log hlog;

static const char *path_of(unsigned port)
{
	static char path[HV_CONSOLE_PORTS][96];

	snprintf(path[port], sizeof(path[port]), "%s/port%u", folder, port);
	return path[port];
}

static void make_line(unsigned port, enum hv_chardev_kind kind)
{
	struct hv_chardev_config config = {.kind = kind, .line = port ? "agent" : "console"};
	struct hv_error err;

	if (kind == HV_CHARDEV_UNIX || kind == HV_CHARDEV_FILE)
		snprintf(config.path, sizeof(config.path), "%s", path_of(port));
	cr_assert_eq(hv_chardev_open(&config, &hlog, &lines[port], &err), 0, "%s", err.text);
}

static struct hv_device *create(bool console, bool agent)
{
	struct hv_virtio_host host = {
		.window = 2, .mem = &mem, .irq = {.set = irq_log_set, .ctx = &irq}, .log = &hlog};
	const struct hv_console_port ports[HV_CONSOLE_PORTS] = {
		{.there = console, .chardev = lines[0]},
		{.there = agent, .chardev = lines[1], .name = HV_CONSOLE_AGENT},
	};
	struct hv_device *made;
	struct hv_error err;

	cr_assert_eq(hv_virtio_console_create(&host, ports, &made, &err), 0, "%s", err.text);
	return made;
}

static void start_lines(void)
{
	for (unsigned i = 0; i < HV_CONSOLE_PORTS; i++)
		if (lines[i])
			cr_assert_eq(hv_chardev_start(lines[i], NULL), 0);
}

static void plug_in(void)
{
	make_line(0, HV_CHARDEV_UNIX);
	make_line(1, HV_CHARDEV_UNIX);
	dev = create(true, true);
	start_lines();
}

static void set_up(void)
{
	signal(SIGPIPE, SIG_IGN);
	strcpy(folder, "/tmp/hv-console-XXXXXX");
	cr_assert_not_null(mkdtemp(folder));
	hlog = (struct hv_log){.level = HV_LOG_WARN, .sink = keep_line, .ctx = &logged};
	hv_memory_init(&mem, NULL);
	cr_assert_eq(hv_memory_add(&mem, 0, 8u << 20, false, NULL), 0);
	for (unsigned q = 0; q < QUEUES; q++)
		ring_init(&rings[q], &mem, q, SIZE);
}

static void tear_down(void)
{
	if (dev)
		hv_device_hold(dev, true);
	for (unsigned i = 0; i < HV_CONSOLE_PORTS; i++)
		hv_chardev_close(lines[i]);
	hv_device_destroy(dev);
	hv_memory_free(&mem);
	unlink(path_of(0));
	unlink(path_of(1));
	cr_assert_eq(rmdir(folder), 0, "something was left behind");
}

TestSuite(virtio_console, .init = set_up, .fini = tear_down, .timeout = 120);

static void notify(unsigned queue)
{
	set_reg(dev, MMIO_NOTIFY, queue);
}

/* The handshake, with all queues or, without MULTIPORT, the first two. */
static void begin(uint64_t features)
{
	negotiate(dev, features);
	for (unsigned q = 0; q < (features & F_MULTIPORT ? QUEUES : 2u); q++) {
		memset(guest_at(&rings[q], rings[q].used, 0x100), 0, 0x100);
		set_idx(&rings[q], 0);
		rings[q].seen = 0;
		set_up_queue(dev, &rings[q], q);
	}
	driver_ok(dev);
}

static void give_buffer(unsigned queue, uint32_t length)
{
	struct ring *r = &rings[queue];
	unsigned slot = r->idx % SIZE;

	describe(r, slot, DATA(queue) + slot * BUFFER, length, WRITE, 0);
	make_available(r, slot);
	notify(queue);
}

/* The next chain of a queue that came back: where its bytes are, and how many. */
static const uint8_t *take_back(unsigned queue, uint32_t *length)
{
	struct ring *r = &rings[queue];
	unsigned head;

	cr_assert(wait_used(r, (uint16_t)(r->seen + 1)), "nothing comes in queue %u", queue);
	head = take_used(r, length);
	return guest_at(r, DATA(queue) + head * BUFFER, BUFFER);
}

static void tell(uint32_t port, unsigned event, unsigned value)
{
	struct ring *r = &rings[CONTROL_OUT];
	unsigned slot = r->idx % SIZE;
	uint8_t *m = guest_at(r, DATA(CONTROL_OUT) + slot * BUFFER, 8);

	hv_put_le32(m, port);
	hv_put_le16(m + 4, (uint16_t)event);
	hv_put_le16(m + 6, (uint16_t)value);
	describe(r, slot, DATA(CONTROL_OUT) + slot * BUFFER, 8, 0, 0);
	make_available(r, slot);
	notify(CONTROL_OUT);
	cr_assert(wait_used(r, r->idx), "a message comes back");
}

/* The next message is this one. What stands behind it. */
static const uint8_t *hear(uint32_t port, unsigned event, unsigned value)
{
	const uint8_t *m;
	uint32_t length;

	give_buffer(CONTROL_IN, 256);
	m = take_back(CONTROL_IN, &length);
	cr_assert_geq(length, 8);
	cr_assert_eq(hv_le32(m), port, "port %u", hv_le32(m));
	cr_assert_eq(hv_le16(m + 4), event, "event %u", hv_le16(m + 4));
	cr_assert_eq(hv_le16(m + 6), value);
	return m + 8;
}

static void hear_nothing(void)
{
	hv_device_hold(dev, true), hv_device_hold(dev, false); /* all that was due is done then */
	cr_assert_eq(rings[CONTROL_IN].seen, used_idx(&rings[CONTROL_IN]));
}

/* Up to both ports open in the guest, with no client anywhere. */
static void open_ports(void)
{
	begin(ALL);
	tell(0, READY, 1);
	hear(0, ADD, 1);
	hear(1, ADD, 1);
	tell(0, PORT_READY, 1);
	hear(0, CONSOLE, 1);
	hear(0, OPEN, 1);
	tell(0, OPEN, 1);
	tell(1, PORT_READY, 1);
	cr_assert_arr_eq(hear(1, NAME, 1), HV_CONSOLE_AGENT, strlen(HV_CONSOLE_AGENT));
	tell(1, OPEN, 1);
}

static int client(unsigned port)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(sun.sun_path, sizeof(sun.sun_path), "%s", path_of(port));
	cr_assert_eq(connect(fd, (struct sockaddr *)&sun, sizeof(sun)), 0);
	return fd;
}

static void describe_device(char *text, size_t size)
{
	pthread_mutex_lock(&dev->lock);
	dev->ops->describe(dev, text, size);
	pthread_mutex_unlock(&dev->lock);
}

/* Until the device has seen the channel's client come or go. */
static void wait_for_host(const char *state)
{
	char want[32], text[256] = "";

	snprintf(want, sizeof(want), "host %s", state);
	do {
		const char *agent;

		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
		describe_device(text, sizeof(text));
		agent = strstr(text, HV_CONSOLE_AGENT);
		cr_assert(agent, "%s", text);
		if (strstr(agent, want))
			return;
	} while (true); /* the suite has a limit */
}

static void write_all(int fd, const void *data, size_t count)
{
	for (const char *p = data; count > 0;) {
		ssize_t n = send(fd, p, count, MSG_NOSIGNAL);

		cr_assert_gt(n, 0);
		p += n;
		count -= (size_t)n;
	}
}

/* Exactly count bytes of the device's, within ten seconds each. */
static void read_all(int fd, void *data, size_t count)
{
	for (char *p = data; count > 0;) {
		struct pollfd wait = {.fd = fd, .events = POLLIN};
		ssize_t n;

		cr_assert_eq(poll(&wait, 1, 10000), 1, "%zu bytes are missing", count);
		n = read(fd, p, count);
		cr_assert_gt(n, 0);
		p += n;
		count -= (size_t)n;
	}
}

static void print(unsigned queue, uint64_t gpa, uint32_t length)
{
	struct ring *r = &rings[queue];

	describe(r, r->idx % SIZE, gpa, length, 0, 0);
	make_available(r, r->idx % SIZE);
	notify(queue);
}

static void print_text(unsigned queue, const char *text)
{
	memcpy(guest_at(&rings[queue], DATA(queue), BUFFER), text, strlen(text));
	print(queue, DATA(queue), (uint32_t)strlen(text));
	cr_assert(wait_used(&rings[queue], rings[queue].idx));
}

/* --- what it is --- */

Test(virtio_console, it_is_a_console_of_two_ports)
{
	plug_in();
	cr_assert_eq(reg(dev, MMIO_DEVICE_ID), 3);
	cr_assert_eq(offered_features(dev) & (F_SIZE | F_MULTIPORT | F_EMERG_WRITE), 7);
	cr_assert_eq(reg(dev, MMIO_CONFIG + 4), 2, "ports");
	set_reg(dev, MMIO_QUEUE_SEL, 5);
	cr_assert_eq(reg(dev, MMIO_QUEUE_NUM_MAX), 256);
	set_reg(dev, MMIO_QUEUE_SEL, 6);
	cr_assert_eq(reg(dev, MMIO_QUEUE_NUM_MAX), 0);
}

Test(virtio_console, ports_are_told_of_in_order)
{
	plug_in();
	open_ports();
	hear_nothing();
	cr_assert_eq(logged.warnings, 0);
}

Test(virtio_console, only_the_ports_that_there_are_are_told_of)
{
	make_line(1, HV_CHARDEV_UNIX);
	dev = create(false, true);
	start_lines();
	begin(ALL);
	tell(0, READY, 1);
	hear(1, ADD, 1);
	hear_nothing();
	tell(0, PORT_READY, 1);
	hear_nothing();
	cr_assert_eq(logged.warnings, 1, "a port that is not there");
}

Test(virtio_console, a_driver_that_failed_hears_nothing)
{
	plug_in();
	begin(ALL);
	tell(0, READY, 0);
	hear_nothing();
	tell(0, READY, 1);
	hear(0, ADD, 1);
	hear(1, ADD, 1);
	tell(1, PORT_READY, 0);
	hear_nothing();
}

/* --- bytes --- */

Test(virtio_console, bytes_go_both_ways_on_both_ports)
{
	int fds[] = {-1, -1};
	char got[16];

	plug_in();
	open_ports();
	for (unsigned port = 0; port < 2; port++) {
		unsigned in = port ? 4 : 0;
		uint32_t length;

		fds[port] = client(port);
		if (port)
			hear(1, OPEN, 1);
		print_text(in + 1, "to the host");
		read_all(fds[port], got, 11);
		cr_assert_arr_eq(got, "to the host", 11);
		give_buffer(in, BUFFER);
		write_all(fds[port], "to the guest", 12);
		cr_assert_arr_eq(take_back(in, &length), "to the guest", 12);
		cr_assert_eq(length, 12);
		close(fds[port]);
	}
	hear(1, OPEN, 0);
	hear_nothing();
}

Test(virtio_console, a_driver_without_multiport_has_the_console_alone)
{
	char got[8];
	uint32_t length;
	int fd;

	plug_in();
	fd = client(0);
	begin(HV_VIRTIO_F_VERSION_1);
	print_text(1, "hello");
	read_all(fd, got, 5);
	cr_assert_arr_eq(got, "hello", 5);
	write_all(fd, "ab", 2);
	give_buffer(0, 1);
	cr_assert_eq(*take_back(0, &length), 'a');
	give_buffer(0, 1);
	cr_assert_eq(*take_back(0, &length), 'b');
	close(fd);
}

Test(virtio_console, emergency_bytes_come_before_any_driver)
{
	char got[2];
	int fd;

	plug_in();
	fd = client(0);
	set_reg(dev, MMIO_CONFIG + 8, 'x');
	drive_write(dev, MMIO_CONFIG + 8, 'y', 1);
	read_all(fd, got, 2);
	cr_assert_arr_eq(got, "xy", 2);
	close(fd);
}

Test(virtio_console, input_waits_for_a_buffer_and_for_the_port_to_be_open)
{
	uint32_t length;
	int fd;

	plug_in();
	open_ports();
	tell(1, OPEN, 0);
	fd = client(1);
	hear(1, OPEN, 1);
	write_all(fd, "early", 5);
	give_buffer(4, BUFFER);
	hv_device_hold(dev, true), hv_device_hold(dev, false);
	cr_assert_eq(used_idx(&rings[4]), 0, "nobody in the guest listens");
	tell(1, OPEN, 1);
	cr_assert_arr_eq(take_back(4, &length), "early", 5);
	close(fd);
}

/* Megabytes through buffers that come one by one: the sender waits, and nothing is lost or out of order. */
static void *send_much(void *fd)
{
	static uint8_t data[FAR_TOO_MUCH];

	for (unsigned i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 31 + (i >> 8));
	write_all(*(int *)fd, data, sizeof(data));
	close(*(int *)fd); /* at once: what it has sent comes all the same */
	return NULL;
}

Test(virtio_console, a_sender_waits_for_the_guest_and_may_leave_before_it)
{
	pthread_t sender;
	unsigned at = 0;
	int fd;

	plug_in();
	open_ports();
	fd = client(1);
	hear(1, OPEN, 1);
	give_buffer(CONTROL_IN, 256);
	cr_assert_eq(pthread_create(&sender, NULL, send_much, &fd), 0);
	while (at < FAR_TOO_MUCH) {
		const uint8_t *got;
		uint32_t length;

		give_buffer(4, BUFFER);
		got = take_back(4, &length);
		cr_assert_gt(length, 0);
		for (unsigned i = 0; i < length; i++, at++)
			cr_assert_eq(got[i], (uint8_t)(at * 31 + (at >> 8)), "byte %u", at);
		if (at < FAR_TOO_MUCH)
			cr_assert_eq(used_idx(&rings[CONTROL_IN]), rings[CONTROL_IN].seen,
				     "the client's end is told of behind its bytes");
	}
	pthread_join(sender, NULL);
	cr_assert_eq(hv_le16(take_back(CONTROL_IN, &(uint32_t){0}) + 6), 0, "it has left");
}

Test(virtio_console, the_guest_waits_for_a_channel_and_not_for_a_console)
{
	struct ring *r = &rings[5];
	static uint8_t got[FAR_TOO_MUCH];
	int fd, console;

	plug_in();
	open_ports();
	for (unsigned i = 0; i < FAR_TOO_MUCH; i++)
		*guest_at(r, (4u << 20) + i, 1) = (uint8_t)(i * 7 + (i >> 9));
	console = client(0);
	fd = client(1);
	hear(1, OPEN, 1);
	print(5, 4u << 20, FAR_TOO_MUCH);
	/* The console's client takes nothing for a second: then the guest isn't held up by it. */
	print(1, 4u << 20, FAR_TOO_MUCH);
	cr_assert(wait_used(&rings[1], 1), "a console's driver goes on");
	cr_assert_eq(used_idx(r), 0, "a channel's waits");
	read_all(fd, got, sizeof(got));
	for (unsigned i = 0; i < FAR_TOO_MUCH; i++)
		cr_assert_eq(got[i], (uint8_t)(i * 7 + (i >> 9)), "byte %u", i);
	cr_assert(wait_used(r, 1));
	close(fd);
	close(console);
}

Test(virtio_console, a_console_keeps_the_newest_bytes_for_who_comes_later)
{
	static uint8_t got[KEPT];
	int fd;

	plug_in();
	open_ports();
	for (unsigned i = 0; i < FAR_TOO_MUCH; i++)
		*guest_at(&rings[1], (4u << 20) + i, 1) = (uint8_t)(i >> 4);
	print(1, 4u << 20, FAR_TOO_MUCH);
	cr_assert(wait_used(&rings[1], 1), "nobody has to be there");
	fd = client(0);
	read_all(fd, got, sizeof(got));
	cr_assert_eq(got[0], (uint8_t)((FAR_TOO_MUCH - KEPT) >> 4));
	cr_assert_eq(got[KEPT - 1], (uint8_t)((FAR_TOO_MUCH - 1) >> 4));
	close(fd);
}

Test(virtio_console, what_a_channel_has_for_a_client_that_left_is_for_nobody)
{
	char got[8];
	int fd;

	plug_in();
	open_ports();
	print_text(5, "for nobody");
	fd = client(1);
	hear(1, OPEN, 1);
	print(5, 4u << 20, FAR_TOO_MUCH);
	read_all(fd, got, 8);
	close(fd);
	hear(1, OPEN, 0);
	cr_assert(wait_used(&rings[5], 2), "the guest is not held up");
	fd = client(1);
	hear(1, OPEN, 1);
	print_text(5, "hello");
	read_all(fd, got, 5);
	cr_assert_arr_eq(got, "hello", 5);
	close(fd);
}

Test(virtio_console, a_client_that_was_replaced_unseen_is_told_of_all_the_same)
{
	int fd;

	plug_in();
	open_ports();
	fd = client(1);
	hear(1, OPEN, 1);
	close(fd);
	fd = client(1);
	hear(1, OPEN, 0);
	hear(1, OPEN, 1);
	hear_nothing();
	close(fd);
}

/* --- the terminal's size --- */

Test(virtio_console, the_size_comes_by_message_and_by_configuration)
{
	const uint8_t *size;
	uint32_t generation;

	plug_in();
	open_ports();
	generation = reg(dev, MMIO_GENERATION);
	hv_virtio_console_resize(dev, 132, 43);
	size = hear(0, RESIZE, 1);
	cr_assert_eq(hv_le16(size), 132, "columns first (5.3.6.2)");
	cr_assert_eq(hv_le16(size + 2), 43);
	cr_assert_eq(reg(dev, MMIO_CONFIG), 132 | 43 << 16);
	cr_assert_neq(reg(dev, MMIO_GENERATION), generation);
	tell(0, PORT_READY, 1);
	hear(0, CONSOLE, 1);
	hear(0, OPEN, 1);
	hear(0, RESIZE, 1);
	begin(ALL & ~F_SIZE);
	tell(0, PORT_READY, 1);
	hear(0, CONSOLE, 1);
	hear(0, OPEN, 1);
	hear_nothing();
}

/* --- a hostile driver --- */

Test(virtio_console, messages_that_make_no_sense_are_ignored)
{
	struct ring *r = &rings[CONTROL_OUT];

	plug_in();
	open_ports();
	tell(2, PORT_READY, 1);
	tell(UINT32_MAX, OPEN, 1);
	tell(0, ADD, 1);
	tell(0, 0xffff, 0xffff);
	for (uint32_t length = 1; length < 8; length++) {
		describe(r, r->idx % SIZE, DATA(CONTROL_OUT), length, 0, 0);
		make_available(r, r->idx % SIZE);
	}
	describe(r, r->idx % SIZE, DATA(CONTROL_OUT), 8, WRITE, 0);
	make_available(r, r->idx % SIZE);
	notify(CONTROL_OUT);
	cr_assert(wait_used(r, r->idx));
	hear_nothing();
	cr_assert_eq(logged.warnings, 1, "and one of them is told of");
	cr_assert_eq(reg(dev, MMIO_STATUS), 0x0f);
	notify(6); /* a queue that is not there */
	notify(UINT32_MAX);
	cr_assert_eq(reg(dev, MMIO_STATUS), 0x0f);
}

Test(virtio_console, a_buffer_too_short_for_a_message_breaks_the_device)
{
	plug_in();
	begin(ALL);
	give_buffer(CONTROL_IN, 7);
	tell(0, READY, 1);
	cr_assert(wait_status(dev, HV_VIRTIO_NEEDS_RESET));
	cr_assert(strstr(logged.last, "too short for a message"), "%s", logged.last);
	open_ports();
}

Test(virtio_console, a_buffer_for_input_without_room_breaks_the_device)
{
	int fd;

	plug_in();
	open_ports();
	fd = client(0);
	describe(&rings[0], 0, DATA(0), 16, 0, 0);
	make_available(&rings[0], 0);
	notify(0);
	write_all(fd, "x", 1);
	cr_assert(wait_status(dev, HV_VIRTIO_NEEDS_RESET));
	cr_assert(strstr(logged.last, "without room"), "%s", logged.last);
	close(fd);
}

Test(virtio_console, output_of_nothing_comes_back)
{
	plug_in();
	open_ports();
	describe(&rings[1], 0, DATA(1), 16, WRITE, 0);
	make_available(&rings[1], 0);
	notify(1);
	cr_assert(wait_used(&rings[1], 1));
	cr_assert_eq(reg(dev, MMIO_STATUS), 0x0f);
}

/* --- hold, reset, saved state --- */

Test(virtio_console, held_nothing_moves_and_released_nothing_is_lost)
{
	char got[4];
	uint32_t length;
	int fd;

	plug_in();
	open_ports();
	fd = client(0);
	hv_device_hold(dev, true);
	memcpy(guest_at(&rings[1], DATA(1), 4), "held", 4);
	print(1, DATA(1), 4);
	give_buffer(0, BUFFER);
	write_all(fd, "in", 2);
	cr_assert_eq(poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 200), 0);
	cr_assert_eq(used_idx(&rings[0]), 0);
	cr_assert_eq(used_idx(&rings[1]), 0);
	hv_device_hold(dev, false);
	read_all(fd, got, 4);
	cr_assert_arr_eq(got, "held", 4);
	cr_assert_arr_eq(take_back(0, &length), "in", 2);
	close(fd);
}

Test(virtio_console, a_reset_in_the_middle_of_a_chain_begins_anew)
{
	char got[8];
	int fd;

	plug_in();
	open_ports();
	fd = client(1);
	hear(1, OPEN, 1);
	print(5, 4u << 20, FAR_TOO_MUCH);
	read_all(fd, got, 8);
	set_reg(dev, MMIO_STATUS, 0);
	cr_assert_eq(reg(dev, MMIO_STATUS), 0);
	close(fd);
	wait_for_host("closed");
	begin(ALL);
	tell(0, READY, 1);
	hear(0, ADD, 1);
	hear(1, ADD, 1);
	tell(1, PORT_READY, 1);
	hear(1, NAME, 1);
	tell(1, OPEN, 1);
	fd = client(1);
	hear(1, OPEN, 1);
	print_text(5, "anew");
	read_all(fd, got, 4);
	cr_assert_arr_eq(got, "anew", 4);
	close(fd);
}

static void *close_line(void *line)
{
	hv_chardev_close(line);
	return NULL;
}

/* Saved while a chain was half sent: whoever loads it sends the other half. */
Test(virtio_console, its_state_can_be_moved_with_a_chain_under_way)
{
	static uint8_t got[FAR_TOO_MUCH];
	struct hv_encoder e;
	struct hv_error err;
	pthread_t closer;
	size_t had = 100;
	ssize_t n;
	int fd;

	plug_in();
	open_ports();
	for (unsigned i = 0; i < FAR_TOO_MUCH; i++)
		*guest_at(&rings[5], (4u << 20) + i, 1) = (uint8_t)(i * 3 + (i >> 10));
	fd = client(1);
	hear(1, OPEN, 1);
	print(5, 4u << 20, FAR_TOO_MUCH);
	read_all(fd, got, had);
	hv_device_hold(dev, true);
	drive_save(dev, &e);
	/* A chardev that is closed hands over what it has taken. */
	cr_assert_eq(pthread_create(&closer, NULL, close_line, lines[1]), 0);
	while ((n = read(fd, got + had, sizeof(got) - had)) > 0)
		had += (size_t)n;
	pthread_join(closer, NULL);
	hv_chardev_close(lines[0]);
	close(fd);
	hv_device_destroy(dev);
	cr_assert_lt(had, FAR_TOO_MUCH);
	make_line(0, HV_CHARDEV_UNIX);
	make_line(1, HV_CHARDEV_UNIX);
	dev = create(true, true);
	start_lines();
	fd = client(1);
	wait_for_host("open");
	cr_assert_eq(drive_load(dev, e.data, e.length, 1, &err), 0, "%s", err.text);
	hv_enc_free(&e);
	read_all(fd, got + had, FAR_TOO_MUCH - had);
	for (unsigned i = 0; i < FAR_TOO_MUCH; i++)
		cr_assert_eq(got[i], (uint8_t)(i * 3 + (i >> 10)), "byte %u", i);
	cr_assert(wait_used(&rings[5], 1));
	close(fd);
}

Test(virtio_console, a_host_that_changed_meanwhile_is_told_of_after_a_load)
{
	struct hv_encoder e;
	struct hv_error err;
	int fd;

	plug_in();
	open_ports();
	fd = client(1);
	hear(1, OPEN, 1);
	drive_save(dev, &e);
	close(fd);
	wait_for_host("closed");
	cr_assert_eq(drive_load(dev, e.data, e.length, 1, &err), 0, "%s", err.text);
	hv_enc_free(&e);
	hear(1, OPEN, 0);
	hear_nothing();
}

Test(virtio_console, damaged_state_is_refused)
{
	struct hv_encoder e;
	size_t ports;

	plug_in();
	drive_save(dev, &e);
	ports = e.length - 2 * 6;
	hv_enc_free(&e);
	drive_refused(dev, ports, 0x08);
	drive_refused(dev, ports, 0x01);     /* ready, and no MULTIPORT */
	drive_refused(dev, ports + 1, 0x01); /* a message due, likewise */
	drive_refused(dev, ports + 1, 0x40);
	open_ports();
	drive_refused(dev, ports + 6, 0xff);
}

Test(virtio_console, it_says_what_it_does)
{
	char text[256];
	int fd;

	plug_in();
	open_ports();
	fd = client(1);
	hear(1, OPEN, 1);
	print_text(5, "12345");
	describe_device(text, sizeof(text));
	cr_assert(strstr(text, "org.qemu.guest_agent.0: guest open, host open, 0 in, 5 out"), "%s", text);
	close(fd);
}

Test(virtio_console, a_name_that_is_too_long_is_refused)
{
	struct hv_virtio_host host = {.mem = &mem};
	char name[HV_CONSOLE_NAME_MAX + 2];
	struct hv_console_port ports[HV_CONSOLE_PORTS] = {{.there = true}, {.there = true, .name = name}};
	struct hv_device *made;

	memset(name, 'n', sizeof(name));
	name[sizeof(name) - 1] = '\0';
	cr_assert_eq(hv_virtio_console_create(&host, ports, &made, NULL), -EINVAL);
	name[HV_CONSOLE_NAME_MAX] = '\0';
	cr_assert_eq(hv_virtio_console_create(&host, ports, &dev, NULL), 0);
}
