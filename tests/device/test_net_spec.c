/*
 * The words of --net, and the address that a card gets by default.
 */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <string.h>

#include "base/api.h"
#include "device/net/backend.h"

static struct hv_net_spec spec;
static struct hv_error err;

static int parse(const char *text)
{
	memset(&err, 0, sizeof(err));
	return hv_net_spec_parse(&spec, text, &err);
}

static uint32_t address(const char *text)
{
	struct in_addr a;

	cr_assert_eq(inet_pton(AF_INET, text, &a), 1);
	return a.s_addr;
}

Test(net_spec, each_kind_has_its_defaults)
{
	cr_assert_eq(parse("none"), 0);
	cr_assert_eq(spec.kind, HV_NET_NONE);
	cr_assert_eq(parse("tap"), 0);
	cr_assert_eq(spec.kind, HV_NET_TAP);
	cr_assert_eq(spec.fd, -1);
	cr_assert_str_eq(spec.ifname, "");
	cr_assert_eq(parse("user"), 0);
	cr_assert_eq(spec.kind, HV_NET_USER);
	cr_assert(!spec.has_mac && !spec.restricted);
	cr_assert_eq(spec.net.s_addr, address("10.0.2.0"));
	cr_assert_eq(spec.mask.s_addr, address("255.255.255.0"));
	cr_assert_eq(spec.dns.s_addr, address("10.0.2.3"));
	cr_assert_eq(spec.forward_count, 0);
}

Test(net_spec, a_forwarded_port_without_an_address_is_this_hosts_alone)
{
	cr_assert_eq(parse("user,hostfwd=tcp::2222-:22,hostfwd=udp:0.0.0.0:53-10.0.2.99:5353"), 0, "%s",
		     err.text);
	cr_assert_eq(spec.forward_count, 2);
	cr_assert(!spec.forwards[0].udp);
	cr_assert_eq(spec.forwards[0].host.s_addr, address("127.0.0.1"));
	cr_assert_eq(spec.forwards[0].host_port, 2222);
	cr_assert_eq(spec.forwards[0].guest.s_addr, 0, "whoever DHCP's first address went to");
	cr_assert_eq(spec.forwards[0].guest_port, 22);
	cr_assert(spec.forwards[1].udp);
	cr_assert_eq(spec.forwards[1].host.s_addr, 0);
	cr_assert_eq(spec.forwards[1].guest.s_addr, address("10.0.2.99"));
	cr_assert_eq(spec.forwards[1].guest_port, 5353);
}

Test(net_spec, the_order_of_the_words_does_not_matter)
{
	cr_assert_eq(parse("user,hostfwd=tcp::1-172.16.0.9:2,dns=172.16.0.4,restrict=on,hostname=a-b.c,"
			   "mac=52:54:00:aB:Cd:eF,net=172.16.0.0/12"),
		     0, "%s", err.text);
	cr_assert_eq(spec.mask.s_addr, address("255.240.0.0"));
	cr_assert_eq(spec.dns.s_addr, address("172.16.0.4"));
	cr_assert(spec.restricted && spec.has_mac);
	cr_assert_str_eq(spec.hostname, "a-b.c");
	cr_assert_arr_eq(spec.mac, ((uint8_t[]){0x52, 0x54, 0, 0xab, 0xcd, 0xef}), HV_MAC_SIZE);
	cr_assert_eq(parse("tap,mac=00:00:00:00:00:02,ifname=hv0"), 0, "%s", err.text);
	cr_assert_str_eq(spec.ifname, "hv0");
	cr_assert_eq(parse("tap,fd=7"), 0, "%s", err.text);
	cr_assert_eq(spec.fd, 7);
}

Test(net_spec, what_makes_no_sense_is_refused_with_a_sentence)
{
	static const char *const bad[] = {
		"",
		"bridge",
		"none,mac=52:54:00:12:34:56",
		"user,",
		"user,hostfwd",
		"user,hostfwd=",
		"user,ifname=a",
		"user,fd=5",
		"tap,hostfwd=tcp::1-:2",
		"tap,restrict=on",
		"tap,ifname=",
		"tap,ifname=a/b",
		"tap,ifname=a b",
		"tap,ifname=..",
		"tap,ifname=%d",
		"tap,ifname=sixteen-letters-",
		"tap,fd=1",
		"tap,fd=-1",
		"tap,fd=99999999999",
		"tap,fd=5,ifname=hv0",
		"user,mac=52:54:00:12:34",
		"user,mac=52:54:00:12:34:567",
		"user,mac=52-54-00-12-34-56",
		"user,mac=53:54:00:12:34:56", /* a group's */
		"user,mac=00:00:00:00:00:00",
		"user,mac=ff:ff:ff:ff:ff:ff",
		"user,restrict=maybe",
		"user,net=10.0.2.0",
		"user,net=10.0.2.1/24",
		"user,net=10.0.2.0/28",
		"user,net=10.0.0.0/7",
		"user,net=10.0.2/24",
		"user,net=fec0::/64",
		"user,dns=10.0.3.3",
		"user,dns=10.0.2.2",
		"user,dns=10.0.2.15",
		"user,dns=name",
		"user,hostname=-a",
		"user,hostname=a_b",
		"user,hostname=abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijklm",
		"user,hostfwd=sctp::1-:2",
		"user,hostfwd=tcp:1-:2",
		"user,hostfwd=tcp::1:2",
		"user,hostfwd=tcp::1-2",
		"user,hostfwd=tcp::0-:2",
		"user,hostfwd=tcp::1-:0",
		"user,hostfwd=tcp::65536-:2",
		"user,hostfwd=tcp::1x-:2",
		"user,hostfwd=tcp:localhost:1-:2",
		"user,hostfwd=tcp:127.0.0.1:1-10.0.3.15:2",
		"user,hostfwd=tcp:1.2.3.4.5.6.7.8.9.0.1.2.3.4.5.6.7.8.9.0.1.2.3.4.5.6.7.8.9.0.1.2.3.4.5.6.7."
		"8.9.0."
		"1.2.3.4.5.6.7.8.9.0.1.2.3.4.5.6.7.8.9.0.1.2.3.4.5.6.7.8.9.0.1.2.3.4.5.6.7.8.9.0.1.2.3.4.5:1-"
		":2",
	};

	for (size_t i = 0; i < HV_ARRAY_SIZE(bad); i++) {
		cr_assert_eq(parse(bad[i]), -EINVAL, "'%s'", bad[i]);
		cr_assert_eq(err.status, HV_EXIT_USAGE);
		cr_assert(strstr(err.text, "net"), "%s", err.text);
	}
}

Test(net_spec, there_is_an_end_to_forwarded_ports)
{
	char text[1024] = "user";

	for (unsigned i = 0; i <= HV_NET_FORWARDS_MAX; i++) {
		cr_assert_eq(parse(text), 0, "%s", err.text);
		cr_assert_eq(spec.forward_count, i);
		strcat(text, ",hostfwd=tcp::1000-:22");
	}
	cr_assert_eq(parse(text), -EINVAL);
}

Test(net_spec, a_default_address_is_local_and_differs_by_name_and_number)
{
	static const char *const names[] = {"a", "b", "vm", "vm1", "vm11", "web-12345"};
	uint8_t macs[HV_ARRAY_SIZE(names) * 2][HV_MAC_SIZE], again[HV_MAC_SIZE];

	for (unsigned i = 0; i < HV_ARRAY_SIZE(macs); i++) {
		hv_net_mac(macs[i], names[i / 2], i % 2);
		hv_net_mac(again, names[i / 2], i % 2);
		cr_assert_arr_eq(macs[i], again, HV_MAC_SIZE);
		cr_assert_eq(macs[i][0] & 3, 2);
		for (unsigned k = 0; k < i; k++)
			cr_assert(memcmp(macs[i], macs[k], HV_MAC_SIZE) != 0);
	}
}

Test(net_spec, an_open_that_cannot_be_is_refused)
{
	struct hv_netback *b;

	cr_assert_eq(parse("none"), 0);
	cr_assert_eq(hv_netback_open(&spec, NULL, &b, &err), -EINVAL);
	cr_assert_null(b);
	cr_assert_eq(parse("tap,fd=987"), 0);
	cr_assert_eq(hv_netback_open(&spec, NULL, &b, &err), -EINVAL);
	cr_assert(strstr(err.text, "no descriptor 987"), "%s", err.text);
	hv_netback_close(NULL);
}
