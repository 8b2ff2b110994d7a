/*
 * User networking without a VM: frames as a guest would send them, and what the router makes of them. All of
 * it stays on this host's loopback interface.
 */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/api.h"
#include "base/bytes.h"
#include "device/net/backend.h"

#define GUEST  "\x02\x00\x00\x00\x00\x07"
#define ROUTER "\x52\x55\x0a\x00\x02\x02"
#define HEADER HV_NET_HEADER

enum { IP = HEADER + 14, UDP = IP + 20, DATA = UDP + 8 };

static struct hv_netback *back;
static struct hv_net_poll list;
static uint8_t frame[HEADER + HV_NET_FRAME_MAX];

static int open_net(const char *words, struct hv_error *err)
{
	struct hv_net_spec spec;

	cr_assert_eq(hv_net_spec_parse(&spec, words, err), 0, "%s", err->text);
	return hv_netback_open(&spec, NULL, &back, err);
}

static void start(const char *words)
{
	struct hv_error err;

	cr_assert_eq(open_net(words, &err), 0, "%s", err.text);
}

static void tear_down(void)
{
	hv_netback_close(back);
	back = NULL;
	free(list.fds);
	list = (struct hv_net_poll){0};
}

TestSuite(net_user, .fini = tear_down, .timeout = 60);

static int send_frame(uint8_t *bytes, size_t length)
{
	struct iovec iov[3] = {{bytes, HEADER}, {bytes + HEADER, 3}, {bytes + HEADER + 3, length - 3}};

	return back->ops->send(back, iov, 3, length);
}

/* One turn of the device's thread: waits, at most `ms`. */
static void turn(int ms)
{
	list.count = 0;
	list.timeout_ms = ms;
	back->ops->fill(back, &list, true, false);
	cr_assert(list.timeout_ms >= 0 && list.timeout_ms <= ms, "it may only shorten the wait");
	poll(list.fds, list.count, list.timeout_ms);
	back->ops->dispatch(back, &list);
}

/* The next frame of this type, at most ten seconds later; its length, 0 when none came. */
static size_t next_frame(uint16_t type)
{
	for (unsigned i = 0; i < 1000; i++) {
		size_t n = back->ops->receive(back, frame, sizeof(frame));

		if (n && hv_be16(frame + HEADER + 12) == type)
			return n - HEADER;
		if (!n)
			turn(10);
	}
	return 0;
}

static void put_ethernet(uint8_t *f, const char *to, uint16_t type)
{
	memset(f, 0, HEADER + 600);
	memcpy(f + HEADER, to, 6);
	memcpy(f + HEADER + 6, GUEST, 6);
	hv_put_be16(f + HEADER + 12, type);
}

static void put_sum(uint8_t *at, const uint8_t *data, size_t length)
{
	uint32_t sum = 0;

	hv_put_be16(at, 0);
	for (size_t i = 0; i < length; i += 2)
		sum += hv_be16(data + i);
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	hv_put_be16(at, (uint16_t)~sum);
}

static void put_ip(uint8_t *f, uint8_t protocol, uint32_t to, size_t length)
{
	put_ethernet(f, ROUTER, 0x0800);
	f[IP] = 0x45;
	hv_put_be16(f + IP + 2, (uint16_t)(20 + length));
	f[IP + 8] = 64;
	f[IP + 9] = protocol;
	hv_put_be32(f + IP + 12, 0x0a00020f);
	hv_put_be32(f + IP + 16, to);
	put_sum(f + IP + 10, f + IP, 20);
}

/* The guest's reply to who asks for its address, or a request of its own for the router's. */
static void send_arp(uint16_t operation)
{
	static const uint8_t start_of[] = {0, 1, 8, 0, 6, 4};
	uint8_t f[HEADER + 600];

	put_ethernet(f, "\xff\xff\xff\xff\xff\xff", 0x0806);
	memcpy(f + IP, start_of, sizeof(start_of));
	hv_put_be16(f + IP + 6, operation);
	memcpy(f + IP + 8, GUEST, 6);
	hv_put_be32(f + IP + 14, 0x0a00020f);
	hv_put_be32(f + IP + 24, 0x0a000202);
	cr_assert_eq(send_frame(f, 60), 0);
}

/* A port of the loopback interface that was free a moment ago. */
static uint16_t free_port(int type)
{
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t size = sizeof(sa);
	int s = socket(AF_INET, type | SOCK_CLOEXEC, 0);

	cr_assert_eq(bind(s, (struct sockaddr *)&sa, size), 0);
	cr_assert_eq(getsockname(s, (struct sockaddr *)&sa, &size), 0);
	close(s);
	return ntohs(sa.sin_port);
}

Test(net_user, the_router_answers_to_arp_and_ping)
{
	uint8_t f[HEADER + 600];

	start("user");
	cr_assert_eq(back->offloads, 0);
	cr_assert_eq(back->mtu, 1500);
	send_arp(1);
	cr_assert_geq(next_frame(0x0806), 42);
	cr_assert_arr_eq(frame + HEADER, GUEST, 6);
	cr_assert_arr_eq(frame + IP + 8, ROUTER, 6);
	cr_assert_eq(frame[0] | frame[1], 0, "a plain header");
	put_ip(f, 1, 0x0a000202, 64);
	f[IP + 20] = 8; /* echo request */
	memcpy(f + IP + 28, "hello", 5);
	put_sum(f + IP + 22, f + IP + 20, 64);
	cr_assert_eq(send_frame(f, 14 + 20 + 64), 0);
	cr_assert_eq(next_frame(0x0800), 14 + 20 + 64);
	cr_assert_eq(frame[IP + 20], 0, "echo reply");
	cr_assert_arr_eq(frame + IP + 28, "hello", 5);
}

Test(net_user, a_frame_larger_than_the_network_carries_is_lost)
{
	static uint8_t f[HEADER + 2000];

	start("user");
	cr_assert_eq(send_frame(f, 1519), -EMSGSIZE);
	cr_assert_eq(send_frame(f, 1518), 0);
	cr_assert_eq(send_frame(f, 14), 0);
}

Test(net_user, a_forwarded_datagram_reaches_the_guest_and_its_answer_comes_back)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	uint16_t port = free_port(SOCK_DGRAM);
	uint8_t f[HEADER + 600];
	char words[64], got[16];
	struct pollfd p = {.fd = s, .events = POLLIN};

	snprintf(words, sizeof(words), "user,hostfwd=udp::%u-:53", port);
	start(words);
	to.sin_port = htons(port);
	send_arp(1); /* so that the router knows the guest */
	cr_assert_eq(sendto(s, "question", 8, 0, (struct sockaddr *)&to, sizeof(to)), 8);
	cr_assert_eq(next_frame(0x0800), 14 + 20 + 8 + 8);
	cr_assert_eq(hv_be16(frame + UDP + 2), 53);
	cr_assert_arr_eq(frame + DATA, "question", 8);
	put_ip(f, 17, hv_be32(frame + IP + 12), 8 + 6);
	hv_put_be16(f + UDP, 53);
	hv_put_be16(f + UDP + 2, hv_be16(frame + UDP));
	hv_put_be16(f + UDP + 4, 8 + 6);
	memcpy(f + DATA, "answer", 6);
	cr_assert_eq(send_frame(f, 14 + 20 + 8 + 6), 0);
	for (unsigned i = 0; i < 100 && poll(&p, 1, 0) == 0; i++)
		turn(10);
	cr_assert_eq(poll(&p, 1, 0), 1, "no answer came");
	cr_assert_eq(recv(s, got, sizeof(got), 0), 6);
	cr_assert_arr_eq(got, "answer", 6);
	close(s);
}

Test(net_user, what_comes_faster_than_the_guest_takes_it_waits_or_is_lost_but_does_no_harm)
{
	unsigned count = 0;

	start("user");
	for (unsigned i = 0; i < 1000; i++)
		send_arp(1);
	list.count = 0;
	list.timeout_ms = -1;
	back->ops->fill(back, &list, false, false);
	cr_assert_eq(list.count, 0, "nothing is read while so much waits");
	back->ops->dispatch(back, &list);
	while (back->ops->receive(back, frame, sizeof(frame)))
		count++;
	cr_assert(count > 64 && count < 1000, "%u", count);
	send_arp(1);
	cr_assert_geq(next_frame(0x0806), 42);
}

Test(net_user, two_networks_live_beside_each_other)
{
	struct hv_netback *first;

	start("user");
	first = back;
	start("user,net=192.168.5.0/24");
	send_arp(1); /* for an address of the other one's */
	cr_assert_eq(back->ops->receive(back, frame, sizeof(frame)), 0);
	hv_netback_close(back);
	back = first;
	send_arp(1);
	cr_assert_geq(next_frame(0x0806), 42);
}

Test(net_user, a_port_that_is_taken_is_told)
{
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	socklen_t size = sizeof(sa);
	struct hv_error err = {0};
	char words[64], port[16];

	cr_assert_eq(bind(s, (struct sockaddr *)&sa, size), 0);
	cr_assert_eq(listen(s, 1), 0);
	cr_assert_eq(getsockname(s, (struct sockaddr *)&sa, &size), 0);
	snprintf(port, sizeof(port), "port %u ", ntohs(sa.sin_port));
	snprintf(words, sizeof(words), "user,hostfwd=tcp::%u-:22", ntohs(sa.sin_port));
	cr_assert_eq(open_net(words, &err), -EADDRINUSE, "%s", err.text);
	cr_assert(strstr(err.text, "TCP") && strstr(err.text, port) && strstr(err.text, "127.0.0.1"), "%s",
		  err.text);
	cr_assert_null(back);
	close(s);
}
