/*
 * The socket device: both ways to a stream, its bytes, its credit, its ends in every order, what a driver can
 * do wrong, and what becomes of streams when the device is held, reset or loaded.
 */
#include <fcntl.h>

#include "drive_vsock.h"

static uint8_t pattern[TX_DATA_MAX];

static void set_up(void)
{
	for (size_t i = 0; i < sizeof(pattern); i++)
		pattern[i] = (uint8_t)(i * 7 + (i >> 8) * 13);
	make_vsock();
}

TestSuite(virtio_vsock, .init = set_up, .fini = free_vsock, .timeout = 120);

Test(virtio_vsock, says_what_it_is)
{
	cr_assert_eq(reg(vsock, MMIO_DEVICE_ID), 19);
	cr_assert_eq(reg(vsock, MMIO_CONFIG), GUEST_CID);
	cr_assert_eq(reg(vsock, MMIO_CONFIG + 4), 0);
	cr_assert(offered_features(vsock) & 1, "VIRTIO_VSOCK_F_STREAM");
}

/* --- the socket --- */

Test(virtio_vsock, its_socket_is_for_its_user_only)
{
	struct stat st;

	cr_assert_eq(stat(vsock_path, &st), 0);
	cr_assert_eq(st.st_mode & 07777, 0600);
}

Test(virtio_vsock, a_live_socket_is_refused_and_a_stale_one_replaced)
{
	char path[64], long_path[128];
	struct hv_vsock_sockets *second = NULL;
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	struct hv_error err = {0};
	struct stat st;
	int fd;

	cr_assert_eq(hv_vsock_open(vsock_path, &second, &err), -EADDRINUSE);
	cr_assert(strstr(err.text, vsock_path) && strstr(err.text, "another path"), "%s", err.text);
	cr_assert_eq(access(vsock_path, F_OK), 0, "it stays");
	snprintf(path, sizeof(path), "%s/stale", vsock_dir);
	snprintf(sun.sun_path, sizeof(sun.sun_path), "%s", path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	cr_assert_eq(bind(fd, (struct sockaddr *)&sun, sizeof(sun)), 0);
	close(fd);
	cr_assert_eq(hv_vsock_open(path, &second, &err), 0, "%s", err.text);
	cr_assert(stat(path, &st) == 0 && S_ISSOCK(st.st_mode));
	hv_vsock_close(second);
	cr_assert_neq(access(path, F_OK), 0);
	fd = creat(path, 0600);
	close(fd);
	cr_assert_eq(hv_vsock_open(path, &second, &err), -EADDRINUSE, "a file is nobody's to remove");
	cr_assert_eq(access(path, F_OK), 0);
	memset(long_path, 'x', sizeof(long_path));
	long_path[HV_VSOCK_PATH_MAX + 1] = '\0';
	cr_assert_eq(hv_vsock_open(long_path, &second, &err), -EINVAL);
	cr_assert_eq(err.status, HV_EXIT_USAGE);
	cr_assert_eq(hv_vsock_open("/nowhere/at/all", &second, &err), -ENOENT);
	cr_assert(strstr(err.text, "folder"), "%s", err.text);
}

/* --- ways to a stream --- */

Test(virtio_vsock, a_host_program_reaches_a_port_of_the_guest)
{
	struct stream g;
	int fd;

	start_driver(true);
	fd = connect_from_host(&g, 52);
	cr_assert(g.host_port >= 1u << 30);
	host_send(fd, pattern, 20000);
	expect_data(&g, pattern, 20000);
	send_data(&g, pattern + 5, 10000);
	host_expect(fd, pattern + 5, 10000);
	send_op(&g, VSOCK_OP_SHUTDOWN, VSOCK_BOTH);
	expect_op(&g, VSOCK_OP_RST);
	host_expect_end(fd);
	close(fd);
	expect_live(0);
	cr_assert_eq(vsock_log.warnings, 0, "%s", vsock_log.last);
}

Test(virtio_vsock, the_guest_reaches_a_listener_of_the_host)
{
	struct stream g;
	int listener = host_listen(77, 4), fd;

	start_driver(true);
	fd = connect_from_guest(&g, 1024, listener, 77);
	send_data(&g, pattern, 30000);
	host_expect(fd, pattern, 30000);
	host_send(fd, pattern + 1, 30000);
	expect_data(&g, pattern + 1, 30000);
	close(fd);
	cr_assert_eq(expect_op(&g, VSOCK_OP_SHUTDOWN).h.flags, VSOCK_BOTH);
	cr_assert_eq(live_connections(), 1);
	send_op(&g, VSOCK_OP_RST, 0);
	expect_live(0);
	close(listener);
}

Test(virtio_vsock, where_nobody_listens_the_guest_is_refused)
{
	struct stream g = {.port = 9, .host_port = 4000};
	int listener = host_listen(4001, 4);

	start_driver(true);
	send_op(&g, VSOCK_OP_REQUEST, 0);
	expect_op(&g, VSOCK_OP_RST);
	close(listener); /* its name is still there */
	g.host_port = 4001;
	send_op(&g, VSOCK_OP_REQUEST, 0);
	expect_op(&g, VSOCK_OP_RST);
	g.host_port = UINT32_MAX;
	send_op(&g, VSOCK_OP_REQUEST, 0);
	expect_op(&g, VSOCK_OP_RST);
	expect_live(0);
}

Test(virtio_vsock, where_the_guest_does_not_listen_the_host_program_is_refused)
{
	struct stream g = {.port = 5};
	int fd = host_connect();

	start_driver(true);
	host_say(fd, "CONNECT 5\n");
	g.host_port = next_packet().h.src_port;
	send_op(&g, VSOCK_OP_RST, 0);
	host_expect_end(fd);
	close(fd);
	expect_live(0);
}

Test(virtio_vsock, hello_lines_are_read_to_the_letter)
{
	static const struct {
		const char *text;
		int length;
		uint32_t port;
	} lines[] = {
		{"CONNECT 0\n", 10, 0},
		{"CONNECT 52\nCONNECT 53\n", 11, 52},
		{"CONNECT 4294967294\n", 19, 4294967294u},
		{"CONNECT 0000000001\n", 19, 1},
		{"CONNECT 4294967295\n", -EBADMSG, 0}, /* any port */
		{"CONNECT 4294967296\n", -EBADMSG, 0},
		{"CONNECT 99999999999\n", -EBADMSG, 0},
		{"CONNECT -1\n", -EBADMSG, 0},
		{"CONNECT  1\n", -EBADMSG, 0},
		{"CONNECT 1 \n", -EBADMSG, 0},
		{"CONNECT 1\r\n", -EBADMSG, 0},
		{"CONNECT \n", -EBADMSG, 0},
		{"CONNECT\n", -EBADMSG, 0},
		{"CONNECTED 1\n", -EBADMSG, 0},
		{"GET / HTTP/1.1\r\n", -EBADMSG, 0},
		{"\n", -EBADMSG, 0},
		{"", 0, 0},
		{"CONNECT 12", 0, 0},
		{"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", 0, 0},
		{"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", -EBADMSG, 0},
	};

	for (size_t i = 0; i < HV_ARRAY_SIZE(lines); i++) {
		uint32_t port = 0;

		cr_assert_eq(hv_vsock_parse_hello(lines[i].text, strlen(lines[i].text), &port),
			     lines[i].length, "%s", lines[i].text);
		cr_assert_eq(port, lines[i].port, "%s", lines[i].text);
	}
	cr_assert_eq(hv_vsock_parse_hello("CONNECT 1\0\n", 11, &(uint32_t){0}), -EBADMSG);
}

Test(virtio_vsock, a_program_that_does_not_say_hello_is_turned_away)
{
	static const char *const texts[] = {"HELO 5\n", "CONNECT five\n", "CONNECT 4294967295\n",
					    "a line that doesn't end, and goes on and on"};
	int fd;

	start_driver(true);
	for (size_t i = 0; i < HV_ARRAY_SIZE(texts); i++) {
		fd = host_connect();
		host_say(fd, texts[i]);
		host_expect_end(fd);
		close(fd);
	}
	fd = host_connect();
	host_say(fd, "CONNECT 5");
	close(fd);
	expect_live(0);
	cr_assert_not(has_packet(20), "the guest hears of none of them");
}

Test(virtio_vsock, a_hello_may_come_in_pieces_and_with_data_behind_it)
{
	struct stream g = {.port = 1234, .alloc = 4096};
	int fd = host_connect();

	start_driver(true);
	host_say(fd, "CONN");
	cr_assert_not(has_packet(5));
	host_say(fd, "ECT 123");
	cr_assert_not(has_packet(5));
	host_say(fd, "4\nthe first bytes");
	g.host_port = next_packet().h.src_port;
	cr_assert_not(has_packet(20), "nothing before the guest accepts");
	send_op(&g, VSOCK_OP_RESPONSE, 0);
	expect_data(&g, "the first bytes", 15);
	close(fd);
}

Test(virtio_vsock, a_program_may_call_before_the_driver_is_there)
{
	struct stream g = {.port = 7, .alloc = 4096};
	int fd = host_connect();

	host_say(fd, "CONNECT 7\n");
	expect_live(1);
	start_driver(true);
	g.host_port = next_packet().h.src_port;
	send_op(&g, VSOCK_OP_RESPONSE, 0);
	cr_assert(is_ready(fd, POLLIN));
	close(fd);
}

Test(virtio_vsock, a_program_that_calls_and_leaves_at_once_is_forgotten)
{
	for (unsigned i = 0; i < 20; i++) {
		int fd = host_connect();

		host_say(fd, "CONNECT 7\n");
		close(fd);
	}
	expect_live(0);
}

Test(virtio_vsock, many_streams_to_one_port_are_kept_apart)
{
	struct stream g[40];
	int fd[40];

	start_driver(true);
	for (unsigned i = 0; i < 40; i++)
		fd[i] = connect_from_host(&g[i], 80);
	for (unsigned i = 0; i < 40; i++)
		send_data(&g[i], pattern + i, 100);
	for (unsigned i = 40; i-- > 0;) {
		host_expect(fd[i], pattern + i, 100);
		host_send(fd[i], pattern + 2 * i, 50);
		expect_data(&g[i], pattern + 2 * i, 50);
	}
	cr_assert_eq(live_connections(), 40);
	for (unsigned i = 0; i < 40; i++)
		close(fd[i]);
}

/* --- credit --- */

Test(virtio_vsock, the_guest_gets_no_more_than_it_has_room_for)
{
	struct stream g;
	struct packet p;
	int fd;

	start_driver(true);
	fd = connect_from_host(&g, 1);
	g.alloc = 1000;
	send_op(&g, VSOCK_OP_CREDIT_UPDATE, 0);
	host_send(fd, pattern, 5000);
	p = expect_op(&g, VSOCK_OP_RW);
	cr_assert_eq(p.h.length, 1000);
	expect_op(&g, VSOCK_OP_CREDIT_REQUEST);
	send_op(&g, VSOCK_OP_CREDIT_UPDATE, 0); /* it has read nothing yet */
	cr_assert_not(has_packet(30), "asking again and again");
	g.received = 600;
	send_op(&g, VSOCK_OP_CREDIT_UPDATE, 0);
	p = expect_op(&g, VSOCK_OP_RW);
	cr_assert_eq(p.h.length, 600);
	cr_assert_arr_eq(p.data, pattern + 1000, 600);
	expect_op(&g, VSOCK_OP_CREDIT_REQUEST);
	g.received = 5000; /* more than it got: no credit, and no harm */
	send_op(&g, VSOCK_OP_CREDIT_UPDATE, 0);
	cr_assert_not(has_packet(30));
	g.received = 1600;
	g.alloc = UINT32_MAX;
	send_op(&g, VSOCK_OP_CREDIT_UPDATE, 0);
	expect_data(&g, pattern + 1600, 3400);
	close(fd);
}

/* Sends until the credit is used up and none comes back; how many bytes went out. What the socket takes, it
 * takes before a packet is returned, so the answer to a request is the last word. */
static uint32_t use_up_credit(struct stream *g)
{
	for (;;) {
		uint32_t room = VSOCK_BUFFER - (g->sent - g->host_forwarded), n = room < 8192 ? room : 8192;
		uint32_t before = g->host_forwarded;

		if (n > 0) {
			send_data(g, pattern + g->sent % 100000, n);
			continue;
		}
		send_op(g, VSOCK_OP_CREDIT_REQUEST, 0);
		do
			expect_op(g, VSOCK_OP_CREDIT_UPDATE);
		while (has_packet(5));
		if (g->host_forwarded == before)
			return g->sent;
	}
}

Test(virtio_vsock, a_slow_host_program_makes_the_guest_wait)
{
	struct stream g;
	uint32_t sent;
	uint8_t byte;
	int fd;

	start_driver(true);
	fd = connect_from_host(&g, 1);
	sent = use_up_credit(&g);
	cr_assert_geq(sent, VSOCK_BUFFER);
	send_op(&g, VSOCK_OP_CREDIT_REQUEST, 0);
	cr_assert_eq(expect_op(&g, VSOCK_OP_CREDIT_UPDATE).h.buf_alloc, VSOCK_BUFFER);
	cr_assert_eq(g.sent - g.host_forwarded, VSOCK_BUFFER, "all of the buffer is used");
	/* The program reads: the credit comes back, and every byte is there. */
	for (uint32_t n = 0; n < sent; n++) {
		if (n % 8192 == 0)
			cr_assert(is_ready(fd, POLLIN));
		cr_assert_eq(recv(fd, &byte, 1, 0), 1);
		cr_assert_eq(byte, pattern[n / 8192 * 8192 % 100000 + n % 8192], "byte %u", n);
	}
	while (sent - g.host_forwarded >= VSOCK_BUFFER / 4)
		expect_op(&g, VSOCK_OP_CREDIT_UPDATE);
	while (g.host_forwarded != sent) {
		send_op(&g, VSOCK_OP_CREDIT_REQUEST, 0);
		expect_op(&g, VSOCK_OP_CREDIT_UPDATE);
	}
	close(fd);
}

Test(virtio_vsock, a_guest_that_ignores_its_credit_is_cut_off)
{
	struct stream g, other;
	int fd, fd2;

	start_driver(true);
	fd = connect_from_host(&g, 1);
	fd2 = connect_from_host(&other, 2);
	use_up_credit(&g);
	send_data(&g, pattern, 1);
	expect_op(&g, VSOCK_OP_RST);
	cr_assert(has_gone(fd));
	cr_assert_eq(vsock_log.warnings, 1);
	cr_assert(strstr(vsock_log.last, "credit"), "%s", vsock_log.last);
	send_data(&other, pattern, 500);
	host_expect(fd2, pattern, 500);
	close(fd);
	close(fd2);
}

/* --- ends --- */

Test(virtio_vsock, a_host_program_may_send_no_more_and_still_receive)
{
	struct stream g;
	int fd;

	start_driver(true);
	fd = connect_from_host(&g, 1);
	host_send(fd, pattern, 100);
	shutdown(fd, SHUT_WR);
	expect_data(&g, pattern, 100);
	cr_assert_eq(expect_op(&g, VSOCK_OP_SHUTDOWN).h.flags, VSOCK_SEND);
	send_data(&g, pattern, 2000);
	host_expect(fd, pattern, 2000);
	close(fd);
	cr_assert_eq(expect_op(&g, VSOCK_OP_SHUTDOWN).h.flags, VSOCK_BOTH);
	send_op(&g, VSOCK_OP_RST, 0);
	expect_live(0);
}

Test(virtio_vsock, the_guest_may_send_no_more_and_still_receive)
{
	struct stream g;
	int fd;

	start_driver(true);
	fd = connect_from_host(&g, 1);
	send_data(&g, pattern, 100);
	send_op(&g, VSOCK_OP_SHUTDOWN, VSOCK_SEND);
	host_expect(fd, pattern, 100);
	host_expect_end(fd);
	host_send(fd, pattern, 3000);
	expect_data(&g, pattern, 3000);
	send_op(&g, VSOCK_OP_SHUTDOWN, VSOCK_RECEIVE);
	expect_op(&g, VSOCK_OP_RST);
	cr_assert(has_gone(fd));
	close(fd);
	expect_live(0);
}

Test(virtio_vsock, the_guest_may_receive_no_more_and_still_send)
{
	struct stream g;
	int fd;

	start_driver(true);
	fd = connect_from_host(&g, 1);
	send_op(&g, VSOCK_OP_SHUTDOWN, VSOCK_RECEIVE);
	while (send(fd, "x", 1, MSG_NOSIGNAL) == 1)
		; /* until it has got through to the socket */
	cr_assert_eq(errno, EPIPE);
	send_data(&g, pattern, 100);
	host_expect(fd, pattern, 100);
	cr_assert_not(has_packet(10));
	send_op(&g, VSOCK_OP_SHUTDOWN, VSOCK_SEND);
	expect_op(&g, VSOCK_OP_RST);
	host_expect_end(fd);
	close(fd);
	expect_live(0);
}

Test(virtio_vsock, a_program_that_goes_where_the_guest_receives_no_more_ends_both_sides)
{
	struct stream g;
	int fd;

	start_driver(true);
	fd = connect_from_host(&g, 1);
	send_op(&g, VSOCK_OP_SHUTDOWN, VSOCK_RECEIVE);
	close(fd);
	while (expect_op(&g, VSOCK_OP_SHUTDOWN).h.flags != VSOCK_BOTH)
		;
	send_op(&g, VSOCK_OP_RST, 0);
	expect_live(0);
}

Test(virtio_vsock, a_host_program_may_receive_no_more_and_still_send)
{
	struct stream g;
	int fd;

	start_driver(true);
	fd = connect_from_host(&g, 1);
	shutdown(fd, SHUT_RD);
	send_data(&g, pattern, 100);
	cr_assert_eq(expect_op(&g, VSOCK_OP_SHUTDOWN).h.flags, VSOCK_RECEIVE);
	send_data(&g, pattern, 100); /* on its way already: it goes nowhere */
	host_send(fd, pattern, 50);
	expect_data(&g, pattern, 50);
	close(fd);
	cr_assert_eq(expect_op(&g, VSOCK_OP_SHUTDOWN).h.flags, VSOCK_BOTH);
	send_op(&g, VSOCK_OP_RST, 0);
	expect_live(0);
	cr_assert_eq(vsock_log.warnings, 0, "%s", vsock_log.last);
}

Test(virtio_vsock, both_may_send_no_more_in_either_order)
{
	struct stream g;

	start_driver(true);
	for (unsigned order = 0; order < 2; order++) {
		int fd = connect_from_host(&g, 1);

		for (unsigned i = 0; i < 2; i++) {
			if (i == order) {
				shutdown(fd, SHUT_WR);
				cr_assert(expect_op(&g, VSOCK_OP_SHUTDOWN).h.flags & VSOCK_SEND);
			} else {
				send_op(&g, VSOCK_OP_SHUTDOWN, VSOCK_SEND);
				host_expect_end(fd);
			}
		}
		close(fd);
		/* Nothing moves any more, and the guest hears that in one packet or in two. */
		while (live_connections() == 1) {
			if (!has_packet(20)) {
				send_op(&g, VSOCK_OP_SHUTDOWN, VSOCK_BOTH);
				expect_op(&g, VSOCK_OP_RST);
				break;
			}
			if (expect_op(&g, VSOCK_OP_SHUTDOWN).h.flags == VSOCK_BOTH)
				send_op(&g, VSOCK_OP_RST, 0);
		}
		expect_live(0);
	}
}

Test(virtio_vsock, what_a_program_wrote_before_it_ended_arrives)
{
	struct stream g;
	int fd;

	start_driver(true);
	fd = connect_from_host(&g, 1);
	g.alloc = 1000;
	send_op(&g, VSOCK_OP_CREDIT_UPDATE, 0);
	host_send(fd, pattern, 100000);
	close(fd);
	for (uint32_t n = 0, told = 0; told != VSOCK_BOTH;) {
		struct packet p = next_packet();

		if (p.h.op == VSOCK_OP_SHUTDOWN) {
			told = p.h.flags;
		} else if (p.h.op == VSOCK_OP_RW) {
			cr_assert(memcmp(p.data, pattern + n, p.h.length) == 0);
			n += p.h.length;
			g.received = n;
			send_op(&g, VSOCK_OP_CREDIT_UPDATE, 0);
		}
		cr_assert(told != VSOCK_BOTH || n == 100000, "the end comes after %u bytes", n);
	}
	send_op(&g, VSOCK_OP_RST, 0);
	expect_live(0);
}

Test(virtio_vsock, what_the_guest_sent_before_it_was_done_arrives)
{
	struct stream g;

	start_driver(true);
	for (unsigned by_reset = 0; by_reset < 2; by_reset++) {
		int fd = connect_from_host(&g, 1);
		uint32_t sent = use_up_credit(&g), n = 0;
		uint8_t *got = malloc(sent);
		ssize_t rc;

		send_op(&g, VSOCK_OP_SHUTDOWN, by_reset ? VSOCK_SEND : VSOCK_BOTH);
		if (by_reset)
			send_op(&g, VSOCK_OP_RST, 0);
		else
			expect_op(&g, VSOCK_OP_RST);
		cr_assert_eq(live_connections(), 1, "the program has yet to read");
		while (n < sent && is_ready(fd, POLLIN) && (rc = recv(fd, got + n, sent - n, 0)) > 0)
			n += (uint32_t)rc;
		cr_assert_eq(n, sent);
		for (n = 0; n < sent; n++)
			cr_assert_eq(got[n], pattern[n / 8192 * 8192 % 100000 + n % 8192], "byte %u", n);
		host_expect_end(fd);
		free(got);
		close(fd);
		expect_live(0);
	}
}

Test(virtio_vsock, an_rst_of_the_guest_ends_all_at_once)
{
	struct stream g;
	int fd;

	start_driver(true);
	fd = connect_from_host(&g, 1);
	use_up_credit(&g);
	send_op(&g, VSOCK_OP_RST, 0);
	expect_live(0);
	cr_assert(has_gone(fd));
	send_op(&g, VSOCK_OP_RST, 0);
	cr_assert_not(has_packet(20), "an RST is not answered");
	close(fd);
}

Test(virtio_vsock, a_program_that_dies_over_unread_bytes_resets_the_guest)
{
	struct stream g;
	int fd;

	start_driver(true);
	fd = connect_from_host(&g, 1);
	send_data(&g, pattern, 1000);
	close(fd); /* it never read them: ECONNRESET */
	for (;;) {
		struct packet p = next_packet();

		if (p.h.op == VSOCK_OP_RST)
			break;
		cr_assert(p.h.op == VSOCK_OP_SHUTDOWN, "operation %u", p.h.op);
		if (p.h.flags == VSOCK_BOTH)
			send_op(&g, VSOCK_OP_RST, 0);
		if (p.h.flags == VSOCK_BOTH)
			break;
	}
	expect_live(0);
}

Test(virtio_vsock, a_program_that_leaves_before_the_guest_answers_is_told_of)
{
	struct stream g = {.port = 3};
	int fd;

	start_driver(true);
	fd = host_connect();
	host_say(fd, "CONNECT 3\n");
	g.host_port = next_packet().h.src_port;
	close(fd);
	expect_op(&g, VSOCK_OP_RST);
	send_op(&g, VSOCK_OP_RESPONSE, 0); /* too late */
	expect_op(&g, VSOCK_OP_RST);
	expect_live(0);
}

static void set_patience(uint32_t ms)
{
	struct vsock *s = hv_container_of(hv_container_of(vsock, struct hv_virtio, dev), struct vsock, v);

	hv_device_hold(vsock, true);
	s->patience = ms;
	hv_device_hold(vsock, false);
}

Test(virtio_vsock, who_does_not_answer_is_given_up)
{
	struct stream asked = {.port = 3}, ended;
	int fd;

	start_driver(true);
	set_patience(1);
	fd = host_connect(); /* and says nothing */
	host_expect_end(fd);
	close(fd);
	set_patience(VSOCK_PATIENCE);
	fd = host_connect();
	expect_live(1);
	set_patience(1);
	host_say(fd, "CONNECT 3\n");
	asked.host_port = next_packet().h.src_port;
	expect_op(&asked, VSOCK_OP_RST);
	host_expect_end(fd);
	close(fd);
	set_patience(VSOCK_PATIENCE);
	fd = connect_from_host(&ended, 4);
	set_patience(1);
	close(fd);
	cr_assert_eq(expect_op(&ended, VSOCK_OP_SHUTDOWN).h.flags, VSOCK_BOTH);
	expect_op(&ended, VSOCK_OP_RST); /* the guest owed one */
	expect_live(0);
}

/* --- what no driver does --- */

/* A packet that differs from a good one by one field. */
static struct vsock_header odd_one(const struct stream *g, unsigned which)
{
	struct vsock_header h = header_of(g, VSOCK_OP_CREDIT_UPDATE);

	switch (which) {
	case 0:
		h.src_cid = GUEST_CID + 1;
		break;
	case 1:
		h.src_cid |= 1ull << 32;
		break;
	case 2:
		h.src_cid = VSOCK_HOST_CID;
		break;
	case 3:
		h.dst_cid = GUEST_CID;
		break;
	case 4:
		h.dst_cid = 0;
		break;
	case 5:
		h.dst_cid = UINT64_MAX;
		break;
	case 6:
		h.type = 0;
		break;
	case 7:
		h.type = 2; /* SEQPACKET, which was not offered */
		break;
	case 8:
		h.type = UINT16_MAX;
		break;
	case 9:
		h.src_port++;
		break;
	case 10:
		h.dst_port++;
		break;
	default:
		return (struct vsock_header){0};
	}
	return h;
}

Test(virtio_vsock, a_packet_for_nobody_is_answered_with_rst_and_harms_nobody)
{
	struct stream g;
	int fd;

	start_driver(true);
	fd = connect_from_host(&g, 1);
	for (unsigned i = 0; i < 11; i++) {
		for (unsigned op = 0; op < 10; op++) {
			struct vsock_header h = odd_one(&g, i);
			struct packet p;

			h.op = (uint16_t)op;
			if (op == VSOCK_OP_REQUEST && i >= 9)
				continue; /* that one may well be somebody's */
			send_raw(&h, NULL, 0);
			if (op == VSOCK_OP_RST)
				continue;
			p = next_packet();
			cr_assert_eq(p.h.op, VSOCK_OP_RST, "field %u, operation %u", i, op);
			cr_assert_eq(p.h.src_cid, h.dst_cid);
			cr_assert_eq(p.h.dst_cid, h.src_cid);
			cr_assert_eq(p.h.src_port, h.dst_port);
			cr_assert_eq(p.h.dst_port, h.src_port);
			cr_assert_eq(p.h.type, h.type);
			cr_assert_eq(p.h.length, 0);
		}
	}
	send_data(&g, pattern, 10);
	host_expect(fd, pattern, 10);
	close(fd);
}

Test(virtio_vsock, an_operation_out_of_turn_costs_its_own_stream)
{
	static const struct {
		uint16_t op;
		uint32_t flags, length;
		bool open; /* else it answers a request */
	} cases[] = {
		{VSOCK_OP_INVALID, 0, 0, true},
		{VSOCK_OP_REQUEST, 0, 0, true},
		{VSOCK_OP_RESPONSE, 0, 0, true},
		{8, 0, 0, true},
		{UINT16_MAX, 0, 0, true},
		{VSOCK_OP_INVALID, 0, 0, false},
		{VSOCK_OP_REQUEST, 0, 0, false},
		{VSOCK_OP_RW, 0, 10, false},
		{VSOCK_OP_SHUTDOWN, 3, 0, false},
		{UINT16_MAX, 0, 0, false},
		{VSOCK_OP_RW, 0, VSOCK_BUFFER + 1, true},
	};
	struct stream other;
	int fd2;

	start_driver(true);
	fd2 = connect_from_host(&other, 9);
	for (size_t i = 0; i < HV_ARRAY_SIZE(cases); i++) {
		struct stream g = {.port = 3, .alloc = 100};
		struct vsock_header h;
		int fd;

		if (cases[i].open) {
			fd = connect_from_host(&g, 3);
		} else {
			fd = host_connect();
			host_say(fd, "CONNECT 3\n");
			g.host_port = next_packet().h.src_port;
		}
		h = header_of(&g, cases[i].op);
		h.flags = cases[i].flags;
		h.length = cases[i].length;
		send_raw(&h, pattern, cases[i].length);
		expect_op(&g, VSOCK_OP_RST);
		cr_assert(has_gone(fd), "case %zu", i);
		close(fd);
	}
	expect_live(1);
	send_data(&other, pattern, 10);
	host_expect(fd2, pattern, 10);
	close(fd2);
}

Test(virtio_vsock, data_behind_the_end_of_a_stream_resets_it)
{
	struct stream g;
	int fd;

	start_driver(true);
	fd = connect_from_host(&g, 1);
	send_op(&g, VSOCK_OP_SHUTDOWN, VSOCK_SEND | 0xfffffffcu); /* bits that nobody knows are nothing */
	send_data(&g, pattern, 1);
	expect_op(&g, VSOCK_OP_RST);
	cr_assert(has_gone(fd));
	close(fd);
}

Test(virtio_vsock, a_packet_that_is_cut_breaks_the_queue_and_a_reset_mends_it)
{
	struct vsock_header h;
	struct stream g;
	int fd;

	start_driver(true);
	describe(&rings[TX], 0, TX_DATA, VSOCK_HEADER - 1, 0, 0);
	make_available(&rings[TX], 0);
	set_reg(vsock, MMIO_NOTIFY, TX);
	cr_assert(wait_status(vsock, HV_VIRTIO_NEEDS_RESET));
	cr_assert(strstr(vsock_log.last, "without a header"), "%s", vsock_log.last);

	start_driver(true);
	fd = connect_from_host(&g, 1);
	h = header_of(&g, VSOCK_OP_RW);
	h.length = 101;
	put_header(guest_at(&rings[TX], TX_DATA, VSOCK_HEADER), &h);
	describe(&rings[TX], 0, TX_DATA, VSOCK_HEADER + 100, 0, 0);
	make_available(&rings[TX], 0);
	set_reg(vsock, MMIO_NOTIFY, TX);
	cr_assert(wait_status(vsock, HV_VIRTIO_NEEDS_RESET));

	start_driver(false);
	cr_assert(has_gone(fd), "the reset ended it");
	close(fd);
	describe(&rings[RX], 0, RX_DATA, VSOCK_HEADER, WRITE, 0);
	make_available(&rings[RX], 0);
	fd = host_connect();
	host_say(fd, "CONNECT 1\n");
	cr_assert(wait_status(vsock, HV_VIRTIO_NEEDS_RESET), "no room for data in a buffer");

	start_driver(true); /* the request was not told to the guest: it still stands */
	cr_assert_eq(next_packet().h.op, VSOCK_OP_REQUEST);
	close(fd);
}

Test(virtio_vsock, a_packet_may_be_cut_into_any_buffers)
{
	struct vsock_header h;
	struct stream g;
	int fd;

	start_driver(true);
	fd = connect_from_host(&g, 1);
	h = header_of(&g, VSOCK_OP_RW);
	h.length = 1000;
	put_header(guest_at(&rings[TX], TX_DATA, VSOCK_HEADER), &h);
	memcpy(guest_at(&rings[TX], TX_DATA + VSOCK_HEADER, 1100), pattern, 1100);
	describe(&rings[TX], 0, TX_DATA, 7, NEXT, 1);
	describe(&rings[TX], 1, TX_DATA + 7, 40, NEXT, 2);
	describe(&rings[TX], 2, TX_DATA + 47, 1, NEXT, 3);
	describe(&rings[TX], 3, TX_DATA + 48, 1096, 0, 0); /* more than the header says */
	make_available(&rings[TX], 0);
	set_reg(vsock, MMIO_NOTIFY, TX);
	g.sent = 1000;
	host_expect(fd, pattern, 1000);
	cr_assert(wait_used(&rings[TX], rings[TX].idx));
	send_data(&g, "more", 4);
	host_expect(fd, "more", 4);
	close(fd);
}

/* --- bounds --- */

Test(virtio_vsock, answers_wait_in_bounds_and_none_is_lost)
{
	struct stream g = {.port = 1, .host_port = 1};
	unsigned rsts = 0, taken;

	start_driver(false);
	for (unsigned round = 0; round < 20; round++) {
		struct vsock_header h = header_of(&g, VSOCK_OP_RW);

		put_header(guest_at(&rings[TX], TX_DATA, VSOCK_HEADER), &h);
		for (unsigned i = 0; i < ENTRIES; i++) {
			describe(&rings[TX], i, TX_DATA, VSOCK_HEADER, 0, 0);
			make_available(&rings[TX], i);
		}
		set_reg(vsock, MMIO_NOTIFY, TX);
		for (unsigned i = 0; i < 200 && used_idx(&rings[TX]) != rings[TX].idx; i++)
			nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
		if (used_idx(&rings[TX]) != rings[TX].idx)
			break;
	}
	taken = used_idx(&rings[TX]);
	cr_assert(taken >= VSOCK_REPLIES && taken < VSOCK_REPLIES + ENTRIES, "%u", taken);
	for (unsigned i = 0; i < ENTRIES; i++)
		offer_rx(i);
	set_reg(vsock, MMIO_NOTIFY, RX);
	for (; rsts < rings[TX].idx; rsts++)
		expect_op(&g, VSOCK_OP_RST);
	cr_assert_not(has_packet(20));
	cr_assert_eq(used_idx(&rings[TX]), rings[TX].idx, "the rest was taken then");
}

static bool may_open(rlim_t descriptors)
{
	struct rlimit limit;

	getrlimit(RLIMIT_NOFILE, &limit);
	if (limit.rlim_max < descriptors)
		return false;
	limit.rlim_cur = descriptors;
	return setrlimit(RLIMIT_NOFILE, &limit) == 0;
}

Test(virtio_vsock, a_flood_of_programs_is_bounded)
{
	enum { MORE = 50 };
	static int fds[VSOCK_CONNECTIONS + MORE];
	unsigned gone = 0;

	if (!may_open(3 * VSOCK_CONNECTIONS))
		cr_skip_test("too few descriptors");
	for (unsigned i = 0; i < HV_ARRAY_SIZE(fds); i++)
		fds[i] = host_connect();
	for (unsigned i = 0; i < MORE; i++)
		gone += has_gone(fds[VSOCK_CONNECTIONS + i]);
	cr_assert_eq(gone, MORE);
	cr_assert_eq(live_connections(), VSOCK_CONNECTIONS);
	cr_assert_leq(vsock_log.warnings, VSOCK_COMPLAINTS);
	for (unsigned i = 0; i < HV_ARRAY_SIZE(fds); i++)
		close(fds[i]);
	expect_live(0);
}

Test(virtio_vsock, a_flood_of_the_guests_connections_is_bounded)
{
	static int fds[VSOCK_CONNECTIONS];
	struct stream g = {.host_port = 7, .alloc = 4096};
	int listener = host_listen(7, 4096), fd;

	if (!may_open(3 * VSOCK_CONNECTIONS))
		cr_skip_test("too few descriptors");
	start_driver(true);
	for (g.port = 1; g.port <= VSOCK_CONNECTIONS; g.port++) {
		send_op(&g, VSOCK_OP_REQUEST, 0);
		expect_op(&g, VSOCK_OP_RESPONSE);
		fds[g.port - 1] = host_accept(listener);
	}
	for (; g.port <= VSOCK_CONNECTIONS + 20; g.port++) {
		send_op(&g, VSOCK_OP_REQUEST, 0);
		expect_op(&g, VSOCK_OP_RST);
	}
	fd = host_connect();
	host_expect_end(fd);
	close(fd);
	/* All at once go away. */
	for (unsigned i = 0; i < VSOCK_CONNECTIONS; i++)
		close(fds[i]);
	for (unsigned left = VSOCK_CONNECTIONS; left > 0;) {
		struct packet p = next_packet();

		cr_assert_eq(p.h.op, VSOCK_OP_SHUTDOWN);
		if (p.h.flags != VSOCK_BOTH)
			continue;
		g.port = p.h.dst_port;
		send_op(&g, VSOCK_OP_RST, 0);
		left--;
	}
	expect_live(0);
	close(listener);
}

Test(virtio_vsock, connections_take_turns)
{
	struct stream g[4];
	unsigned packets[4] = {0};
	int fd[4];

	start_driver(true);
	for (unsigned i = 0; i < 4; i++)
		fd[i] = connect_from_host(&g[i], i + 1);
	hv_device_hold(vsock, true);
	for (unsigned i = 0; i < 4; i++)
		host_send(fd[i], pattern, 100000);
	hv_device_hold(vsock, false);
	for (unsigned i = 0; i < 40; i++) {
		struct packet p = next_packet();

		cr_assert_eq(p.h.op, VSOCK_OP_RW);
		packets[p.h.dst_port - 1]++;
	}
	for (unsigned i = 0; i < 4; i++) {
		cr_assert(packets[i] >= 9 && packets[i] <= 11, "%u packets of stream %u", packets[i], i);
		close(fd[i]);
	}
}

/* --- rest, reset, load --- */

Test(virtio_vsock, at_rest_nothing_moves)
{
	struct stream g;
	uint8_t byte;
	int fd;

	start_driver(true);
	fd = connect_from_host(&g, 1);
	hv_device_hold(vsock, true);
	host_send(fd, pattern, 1000);
	put_header(guest_at(&rings[TX], TX_DATA, VSOCK_HEADER),
		   &(struct vsock_header){.src_cid = GUEST_CID,
					  .dst_cid = VSOCK_HOST_CID,
					  .src_port = g.port,
					  .dst_port = g.host_port,
					  .length = 5,
					  .type = VSOCK_TYPE_STREAM,
					  .op = VSOCK_OP_RW,
					  .buf_alloc = g.alloc});
	memcpy(guest_at(&rings[TX], TX_DATA + VSOCK_HEADER, 5), "hello", 5);
	describe(&rings[TX], 0, TX_DATA, VSOCK_HEADER + 5, 0, 0);
	make_available(&rings[TX], 0);
	set_reg(vsock, MMIO_NOTIFY, TX);
	cr_assert_not(has_packet(30));
	cr_assert_eq(recv(fd, &byte, 1, MSG_DONTWAIT), -1);
	hv_device_hold(vsock, false);
	expect_data(&g, pattern, 1000);
	host_expect(fd, "hello", 5);
	close(fd);
}

Test(virtio_vsock, a_reset_in_mid_transfer_ends_the_streams_and_the_next_driver_finds_none)
{
	struct stream g[3];
	int fd[3];

	for (unsigned round = 0; round < 3; round++) {
		start_driver(true);
		for (unsigned i = 0; i < 3; i++)
			fd[i] = connect_from_host(&g[i], i + 1);
		use_up_credit(&g[0]);
		for (unsigned i = 0; i < 3; i++)
			host_send(fd[i], pattern, 100000);
		set_reg(vsock, MMIO_STATUS, 0);
		for (unsigned i = 0; i < 3; i++) {
			cr_assert(has_gone(fd[i]));
			close(fd[i]);
		}
		expect_live(0);
	}
	start_driver(true);
	send_op(&g[0], VSOCK_OP_RW, 0);
	expect_op(&g[0], VSOCK_OP_RST);
	fd[0] = connect_from_host(&g[0], 1);
	cr_assert_eq(used_idx(&rings[EVENT]), 0, "a driver that resets knows");
	close(fd[0]);
}

Test(virtio_vsock, a_load_ends_the_streams_and_tells_the_driver)
{
	struct hv_encoder e;
	struct hv_error err;
	struct stream g;
	int fd;

	start_driver(true);
	fd = connect_from_host(&g, 1);
	drive_save(vsock, &e);
	send_data(&g, "on", 2);
	host_expect(fd, "on", 2);                           /* a save ends nothing */
	set_idx(&rings[TX], (uint16_t)(rings[TX].idx - 1)); /* the saved driver had not sent that */
	store_shared(&rings[TX], rings[TX].used + 2, rings[TX].idx);
	cr_assert_eq(drive_load(vsock, e.data, e.length, 1, &err), 0, "%s", err.text);
	hv_enc_free(&e);
	cr_assert(has_gone(fd));
	cr_assert(wait_used(&rings[EVENT], 1), "TRANSPORT_RESET");
	cr_assert_eq(hv_le32(guest_at(&rings[EVENT], EVENT_DATA, 4)), 0);
	send_op(&g, VSOCK_OP_CREDIT_UPDATE, 0);
	expect_op(&g, VSOCK_OP_RST);
	close(fd);
	fd = connect_from_host(&g, 1);
	close(fd);
}

Test(virtio_vsock, saved_state_that_is_damaged_is_refused)
{
	struct hv_encoder e;
	struct hv_error err;

	drive_move(vsock, vsock);
	start_driver(true);
	drive_save(vsock, &e);
	for (size_t cut = 0; cut < e.length; cut++)
		cr_assert_eq(drive_load(vsock, e.data, cut, 1, &err), -EBADMSG);
	cr_assert_eq(drive_load(vsock, e.data, e.length, 2, &err), -EBADMSG);
	hv_enc_free(&e);
}

Test(virtio_vsock, can_be_destroyed_in_mid_transfer)
{
	struct stream g;
	int fd;

	start_driver(true);
	fd = connect_from_host(&g, 1);
	host_send(fd, pattern, 100000);
	(void)fd; /* the device goes first */
}
