/*
 * A tap, in a network namespace of the test's own: frames in both directions, headers that the kernel
 * refuses, what may be handed over, and an interface that is deleted. Skipped where there is no /dev/net/tun
 * or no namespace to be had.
 */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <net/ethernet.h>
#include <netpacket/packet.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/api.h"
#include "base/bytes.h"
#include "device/net/backend.h"

#define HEADER HV_NET_HEADER
#define NAME   "hvt0"
#define ME     "\x02\x00\x00\x00\x00\x07"
#define TYPE   0x88b5 /* for experiments (IEEE 802) */

static struct hv_netback *back;
static struct hv_net_poll list;
static struct hv_error err;
static unsigned warnings;
static char last[1024];

static void keep_line(void *ctx, enum hv_log_level level, const char *line)
{
	warnings += level == HV_LOG_WARN;
	snprintf(last, sizeof(last), "%s", line);
}

static const struct hv_log hlog = {.level = HV_LOG_WARN, .sink = keep_line};

/* Root needs a network namespace only; others one of users, too, in which they are root. */
static void set_up(void)
{
	if (unshare(CLONE_NEWNET) && unshare(CLONE_NEWUSER | CLONE_NEWNET))
		cr_skip_test("no network namespace can be had here");
	if (access("/dev/net/tun", R_OK | W_OK))
		cr_skip_test("there is no /dev/net/tun here");
	warnings = 0;
}

static void tear_down(void)
{
	hv_netback_close(back);
	back = NULL;
	free(list.fds);
}

TestSuite(net_tap, .init = set_up, .fini = tear_down, .timeout = 60);

static int open_net(const char *words)
{
	struct hv_net_spec spec;

	cr_assert_eq(hv_net_spec_parse(&spec, words, &err), 0, "%s", err.text);
	return hv_netback_open(&spec, &hlog, &back, &err);
}

/* Up, and without the addresses that make the kernel speak of its own accord. A packet socket on it. */
static int bring_up(void)
{
	struct sockaddr_ll at = {.sll_family = AF_PACKET, .sll_protocol = htons(TYPE)};
	int s = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(TYPE));
	struct ifreq request = {.ifr_name = NAME};

	cr_assert(s >= 0);
	cr_assert_eq(ioctl(s, SIOCGIFFLAGS, &request), 0);
	request.ifr_flags |= IFF_UP;
	cr_assert_eq(ioctl(s, SIOCSIFFLAGS, &request), 0);
	cr_assert_eq(ioctl(s, SIOCGIFINDEX, &request), 0);
	at.sll_ifindex = request.ifr_ifindex;
	cr_assert_eq(bind(s, (struct sockaddr *)&at, sizeof(at)), 0);
	return s;
}

static void put_frame(uint8_t *f, size_t length)
{
	memset(f, 0, HEADER + length);
	memset(f + HEADER, 0xff, 6);
	memcpy(f + HEADER + 6, ME, 6);
	hv_put_be16(f + HEADER + 12, TYPE);
	for (size_t i = 14; i < length; i++)
		f[HEADER + i] = (uint8_t)(i * 3);
}

static int send_frame(uint8_t *f, size_t length)
{
	struct iovec iov[2] = {{f, HEADER}, {f + HEADER, length}};

	return back->ops->send(back, iov, 2, length);
}

/* The next frame of ours, at most ten seconds later; the kernel sends some of its own. Its length. */
static size_t next_frame(uint8_t *f, size_t size)
{
	for (unsigned i = 0; i < 1000; i++) {
		size_t n = back->ops->receive(back, f, size);

		if (n && hv_be16(f + HEADER + 12) == TYPE)
			return n - HEADER;
		if (n)
			continue;
		list.count = 0;
		back->ops->fill(back, &list, true, false);
		poll(list.fds, list.count, 10);
		back->ops->dispatch(back, &list);
	}
	return 0;
}

static void exchange(int s)
{
	static uint8_t out[HEADER + 1514], in[HEADER + HV_NET_FRAME_MAX];

	put_frame(out, 1514);
	cr_assert_eq(send_frame(out, 1514), 0);
	cr_assert_eq(recv(s, in, sizeof(in), 0), 1514);
	cr_assert_arr_eq(in, out + HEADER, 1514);
	cr_assert_eq(send(s, out + HEADER, 1514, 0), 1514);
	cr_assert_eq(next_frame(in, sizeof(in)), 1514);
	cr_assert_arr_eq(in + HEADER, out + HEADER, 1514);
}

Test(net_tap, frames_go_both_ways_and_offloads_are_found)
{
	int s;

	cr_assert_eq(open_net("tap,ifname=" NAME), 0, "%s", err.text);
	cr_assert_eq(back->mtu, 1500);
	cr_assert_eq(back->offloads & 0x3b83, 0x3b83, "checksums, TSO 4 and 6 and ECN, both ways: %llx",
		     (unsigned long long)back->offloads);
	s = bring_up();
	back->ops->set_offloads(back, back->offloads);
	exchange(s);
	back->ops->set_offloads(back, 0);
	exchange(s);
	close(s);
}

Test(net_tap, the_kernel_refuses_what_makes_no_sense_and_goes_on)
{
	uint8_t f[HEADER + 100];
	int s;

	cr_assert_eq(open_net("tap,ifname=" NAME), 0, "%s", err.text);
	put_frame(f, 100);
	cr_assert_eq(send_frame(f, 100), -EIO, "the interface is down");
	s = bring_up();
	f[1] = 0x7f; /* no kind of segmentation */
	cr_assert_eq(send_frame(f, 100), -EINVAL);
	cr_assert_eq(send_frame(f, 5), -EINVAL);
	exchange(s);
	cr_assert(!back->gone);
	close(s);
}

Test(net_tap, an_interface_that_is_deleted_is_told_once)
{
	struct {
		struct nlmsghdr head;
		struct ifinfomsg info;
	} request = {
		.head = {.nlmsg_len = sizeof(request),
			 .nlmsg_type = RTM_DELLINK,
			 .nlmsg_flags = NLM_F_REQUEST},
	};
	uint8_t f[HEADER + 100];
	int s, route = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);

	cr_assert_eq(open_net("tap,ifname=" NAME), 0, "%s", err.text);
	s = bring_up();
	request.info.ifi_index = (int)if_nametoindex(NAME);
	cr_assert_eq(send(route, &request, sizeof(request), 0), (ssize_t)sizeof(request));
	for (unsigned i = 0; i < 1000 && !back->gone; i++) {
		list.count = 0;
		back->ops->fill(back, &list, false, false);
		poll(list.fds, list.count, 10);
		back->ops->dispatch(back, &list);
	}
	cr_assert(back->gone);
	put_frame(f, 100);
	cr_assert_eq(send_frame(f, 100), -ENODEV);
	cr_assert_eq(back->ops->receive(back, f, sizeof(f)), 0);
	back->ops->set_offloads(back, 0);
	list.count = 0;
	back->ops->fill(back, &list, true, true);
	cr_assert_eq(list.count, 0, "nothing is waited for any more");
	cr_assert_eq(warnings, 1);
	cr_assert(strstr(last, "tap " NAME " is gone"), "%s", last);
	close(route);
	close(s);
}

Test(net_tap, one_that_is_in_use_is_refused)
{
	struct hv_netback *first;

	cr_assert_eq(open_net("tap,ifname=" NAME), 0, "%s", err.text);
	first = back;
	cr_assert_eq(open_net("tap,ifname=" NAME), -EBUSY);
	cr_assert(strstr(err.text, NAME), "%s", err.text);
	cr_assert_eq(open_net("tap,ifname=lo"), -EINVAL);
	cr_assert_eq(open_net("tap"), 0, "%s", err.text); /* the kernel finds a name */
	hv_netback_close(first);
}

static int make(short flags)
{
	struct ifreq request = {.ifr_name = NAME, .ifr_flags = flags};
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);

	cr_assert(fd >= 0);
	cr_assert_eq(ioctl(fd, TUNSETIFF, &request), 0);
	return fd;
}

static int hand_over(short flags)
{
	char words[32];

	snprintf(words, sizeof(words), "tap,fd=%d", make(flags));
	return open_net(words);
}

Test(net_tap, one_that_is_handed_over_works_with_and_without_headers)
{
	int s;

	cr_assert_eq(hand_over(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR), 0, "%s", err.text);
	cr_assert_neq(back->offloads, 0);
	cr_assert_eq(back->mtu, 0, "not asked: it may be in another namespace");
	s = bring_up();
	exchange(s);
	close(s);
	hv_netback_close(back);
	cr_assert_eq(hand_over(IFF_TAP | IFF_NO_PI), 0, "%s", err.text);
	cr_assert_eq(back->offloads, 0);
	s = bring_up();
	exchange(s);
	close(s);
}

Test(net_tap, another_kind_of_descriptor_is_refused)
{
	char words[32];
	int fd;

	cr_assert_eq(hand_over(IFF_TUN | IFF_NO_PI), -EINVAL);
	cr_assert(strstr(err.text, "IFF_TAP"), "%s", err.text);
	fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC); /* attached to no interface */
	snprintf(words, sizeof(words), "tap,fd=%d", fd);
	cr_assert_eq(open_net(words), -EINVAL);
	fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	snprintf(words, sizeof(words), "tap,fd=%d", fd);
	cr_assert_eq(open_net(words), -EINVAL);
	cr_assert(strstr(err.text, "reading and writing"), "%s", err.text);
}
