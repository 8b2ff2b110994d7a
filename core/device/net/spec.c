/*
 * The words of --net, and a device's default address. They may come from a file that someone else wrote, so
 * lengths, characters and numbers are checked; what can be had of it is found when it is opened. This room
 * calls base.
 */
#include <arpa/inet.h>
#include <ctype.h>
#include <limits.h>
#include <string.h>

#include "base/parse.h"
#include "device/net/backend.h"

#define WORD_MAX 160

void hv_net_mac(uint8_t mac[HV_MAC_SIZE], const char *vm, unsigned index)
{
	uint64_t hash = 0xcbf29ce484222325; /* FNV-1a */

	for (const char *p = vm; *p; p++)
		hash = (hash ^ (uint8_t)*p) * 0x100000001b3;
	hash = (hash ^ 0xff ^ index) * 0x100000001b3; /* 0xff: in no name */
	hash ^= hash >> 40;
	mac[0] = 0x02; /* locally administered, unicast */
	for (unsigned i = 1; i < HV_MAC_SIZE; i++)
		mac[i] = (uint8_t)(hash >> (8 * (i - 1)));
}

/* --- values --- */

static int parse_mac(uint8_t mac[HV_MAC_SIZE], const char *text, struct hv_error *err)
{
	static const uint8_t zero[HV_MAC_SIZE];
	const char *p = text;

	for (unsigned i = 0; i < HV_MAC_SIZE; i++) {
		unsigned byte = 0;

		for (unsigned k = 0; k < 2; k++, p++) {
			if (!isxdigit((unsigned char)*p))
				return hv_fail_usage(
					err, "net: mac '%.40s' is not six bytes like 52:54:00:12:34:56",
					text);
			byte = byte * 16 + (unsigned)(isdigit((unsigned char)*p)
							      ? *p - '0'
							      : tolower((unsigned char)*p) - 'a' + 10);
		}
		mac[i] = (uint8_t)byte;
		if (*p != (i < HV_MAC_SIZE - 1 ? ':' : '\0'))
			return hv_fail_usage(err, "net: mac '%.40s' is not six bytes like 52:54:00:12:34:56",
					     text);
		p++;
	}
	if (mac[0] & 1 || !memcmp(mac, zero, sizeof(zero)))
		return hv_fail_usage(err,
				     "net: mac %s is no device's address: the lowest bit of its first byte "
				     "must be 0, and not all may be 0",
				     text);
	return 0;
}

static int parse_address(const char *what, const char *text, struct in_addr *out, struct hv_error *err)
{
	if (inet_pton(AF_INET, text, out) == 1)
		return 0;
	return hv_fail_usage(err, "net: %s '%.60s' is no IPv4 address like 10.0.2.15", what, text);
}

/* "10.0.2.0/24": room for the router, the name server and the guest. */
static int parse_network(struct hv_net_spec *spec, const char *text, struct hv_error *err)
{
	char address[WORD_MAX];
	const char *slash = strchr(text, '/');
	uint64_t bits;
	int rc;

	if (!slash)
		return hv_fail_usage(err, "net: net '%.60s' is not like 10.0.2.0/24", text);
	memcpy(address, text, (size_t)(slash - text));
	address[slash - text] = '\0';
	rc = parse_address("net", address, &spec->net, err);
	if (!rc)
		rc = hv_parse_u64("net: net", slash + 1, 32, &bits, err);
	if (rc)
		return rc;
	if (bits < 8 || bits > 27)
		return hv_fail_usage(err, "net: net %s: the network has 8 to 27 bits of prefix", text);
	spec->mask.s_addr = htonl(~0u << (32 - bits));
	if (spec->net.s_addr & ~spec->mask.s_addr)
		return hv_fail_usage(err, "net: net %s: the bits behind the prefix must be 0", text);
	return 0;
}

/* A label or several, as host names are (RFC 1123, 2.1). */
static int parse_hostname(char *out, size_t size, const char *text, struct hv_error *err)
{
	size_t n = strlen(text);
	bool good = n > 0 && text[0] != '-' && text[0] != '.';

	for (const char *p = text; *p; p++)
		good = good && (isalnum((unsigned char)*p) || *p == '-' || *p == '.');
	if (!good || n >= size)
		return hv_fail_usage(err,
				     "net: hostname '%.64s' is not 1 to %zu letters, digits, '-' and '.'",
				     text, size - 1);
	memcpy(out, text, n + 1);
	return 0;
}

static int parse_port(const char *what, const char *text, uint16_t *port, struct hv_error *err)
{
	uint64_t value;
	int rc = hv_parse_u64(what, text, 65535, &value, err);

	if (rc)
		return rc;
	if (value == 0)
		return hv_fail_usage(err, "%s: ports count from 1 to 65535", what);
	*port = (uint16_t)value;
	return 0;
}

/* "ADDRESS:PORT" with an address that may be left out; text is cut up. */
static int parse_end(char *text, const char *whole, struct in_addr *address, uint16_t *port,
		     struct hv_error *err)
{
	char *colon = strrchr(text, ':');
	int rc = 0;

	if (!colon)
		return hv_fail_usage(err,
				     "net: hostfwd '%.80s' is not like tcp:127.0.0.1:2222-:22: a ':' is "
				     "missing before a port",
				     whole);
	*colon = '\0';
	if (*text)
		rc = parse_address("hostfwd", text, address, err);
	return rc ? rc : parse_port("net: hostfwd", colon + 1, port, err);
}

/* "tcp:127.0.0.1:2222-:22" */
static int parse_forward(struct hv_net_spec *spec, const char *text, struct hv_error *err)
{
	struct hv_net_forward *f = &spec->forwards[spec->forward_count];
	char ends[WORD_MAX], *dash;
	int rc;

	if (spec->forward_count == HV_NET_FORWARDS_MAX)
		return hv_fail_usage(err, "net: more than %d forwarded ports", HV_NET_FORWARDS_MAX);
	f->udp = !strncmp(text, "udp:", 4);
	if (!f->udp && strncmp(text, "tcp:", 4) != 0)
		return hv_fail_usage(err, "net: hostfwd '%.80s' starts with neither tcp: nor udp:", text);
	strcpy(ends, text + 4); /* text is a word, and so shorter */
	dash = strchr(ends, '-');
	if (!dash)
		return hv_fail_usage(err,
				     "net: hostfwd '%.80s' is not like tcp:127.0.0.1:2222-:22: the '-' "
				     "between host and guest is missing",
				     text);
	*dash = '\0';
	f->host.s_addr = htonl(INADDR_LOOPBACK);
	f->guest.s_addr = 0;
	rc = parse_end(ends, text, &f->host, &f->host_port, err);
	if (!rc)
		rc = parse_end(dash + 1, text, &f->guest, &f->guest_port, err);
	spec->forward_count += rc == 0;
	return rc;
}

static int parse_ifname(char out[IFNAMSIZ], const char *text, struct hv_error *err)
{
	size_t n = strlen(text);
	bool good = n > 0 && n < IFNAMSIZ && strcmp(text, ".") != 0 && strcmp(text, "..") != 0;

	for (const char *p = text; *p; p++)
		good = good && isgraph((unsigned char)*p) && !strchr("/:%", *p);
	if (!good)
		return hv_fail_usage(
			err,
			"net: ifname '%.64s' is no interface's name: 1 to %d characters without blanks, "
			"'/', ':' and '%%'",
			text, IFNAMSIZ - 1);
	memcpy(out, text, n + 1);
	return 0;
}

static int parse_fd(int *fd, const char *text, struct hv_error *err)
{
	uint64_t value;
	int rc = hv_parse_u64("net: fd", text, INT_MAX, &value, err);

	if (rc)
		return rc;
	if (value <= 2)
		return hv_fail_usage(err, "net: fd %s is a standard descriptor and can't be a tap", text);
	*fd = (int)value;
	return 0;
}

/* --- words --- */

static int user_option(struct hv_net_spec *spec, const char *key, const char *value, struct hv_error *err)
{
	if (!strcmp(key, "hostfwd"))
		return parse_forward(spec, value, err);
	if (!strcmp(key, "net"))
		return parse_network(spec, value, err);
	if (!strcmp(key, "dns"))
		return parse_address("dns", value, &spec->dns, err);
	if (!strcmp(key, "hostname"))
		return parse_hostname(spec->hostname, sizeof(spec->hostname), value, err);
	if (!strcmp(key, "restrict")) {
		spec->restricted = !strcmp(value, "on") || !strcmp(value, "yes");
		if (!spec->restricted && strcmp(value, "off") != 0 && strcmp(value, "no") != 0)
			return hv_fail_usage(err, "net: restrict '%.40s' is neither on nor off", value);
		return 0;
	}
	return hv_fail_usage(
		err,
		"net: user has no option '%.40s': it is none of hostfwd=, net=, dns=, hostname=, "
		"restrict=, mac=",
		key);
}

static int tap_option(struct hv_net_spec *spec, const char *key, const char *value, struct hv_error *err)
{
	if (!strcmp(key, "ifname"))
		return parse_ifname(spec->ifname, value, err);
	if (!strcmp(key, "fd"))
		return parse_fd(&spec->fd, value, err);
	return hv_fail_usage(err, "net: tap has no option '%.40s': it is none of ifname=, fd=, mac=", key);
}

static int take_option(struct hv_net_spec *spec, char *word, struct hv_error *err)
{
	char *value = strchr(word, '=');

	if (!value || !value[1])
		return hv_fail_usage(err, "net: '%.64s' has no value; write OPTION=VALUE", word);
	*value++ = '\0';
	if (!strcmp(word, "mac")) {
		spec->has_mac = true;
		return parse_mac(spec->mac, value, err);
	}
	return spec->kind == HV_NET_USER ? user_option(spec, word, value, err)
					 : tap_option(spec, word, value, err);
}

static int take_kind(struct hv_net_spec *spec, const char *word, struct hv_error *err)
{
	static const char *const kinds[] = {
		[HV_NET_NONE] = "none", [HV_NET_USER] = "user", [HV_NET_TAP] = "tap"};

	for (unsigned i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		if (!strcmp(word, kinds[i])) {
			spec->kind = (enum hv_net_kind)i;
			return 0;
		}
	}
	return hv_fail_usage(err, "net: '%.64s' is none of none, user, tap", word);
}

/* The next word up to a comma, copied to out; *text moves behind it. False: it is too long. */
static bool take_word(const char **text, char out[WORD_MAX])
{
	size_t n = strcspn(*text, ",");

	if (n >= WORD_MAX)
		return false;
	memcpy(out, *text, n);
	out[n] = '\0';
	*text += n;
	return true;
}

static int check_whole(struct hv_net_spec *spec, struct hv_error *err)
{
	if (spec->fd >= 0 && spec->ifname[0])
		return hv_fail_usage(err, "net: a tap that is handed over by fd= has its name already: leave "
					  "ifname= out");
	if (spec->dns.s_addr == 0)
		spec->dns.s_addr = spec->net.s_addr | htonl(3);
	if ((spec->dns.s_addr & spec->mask.s_addr) != spec->net.s_addr)
		return hv_fail_usage(err, "net: dns= is the name server that the guest sees, and lies in the "
					  "guest's network");
	if (spec->dns.s_addr == (spec->net.s_addr | htonl(2)) ||
	    spec->dns.s_addr == (spec->net.s_addr | htonl(15)))
		return hv_fail_usage(err, "net: dns= has the address of the router (host number 2) or of the "
					  "guest (15)");
	for (unsigned i = 0; i < spec->forward_count; i++) {
		struct in_addr guest = spec->forwards[i].guest;

		if (guest.s_addr && (guest.s_addr & spec->mask.s_addr) != spec->net.s_addr)
			return hv_fail_usage(
				err, "net: hostfwd: the guest's address is not in the guest's network");
	}
	return 0;
}

int hv_net_spec_parse(struct hv_net_spec *spec, const char *text, struct hv_error *err)
{
	char word[WORD_MAX];
	int rc;

	memset(spec, 0, sizeof(*spec));
	spec->fd = -1;
	spec->net.s_addr = htonl(0x0a000200);
	spec->mask.s_addr = htonl(0xffffff00);
	if (!take_word(&text, word))
		return hv_fail_usage(err, "net: a word of it is longer than %d characters", WORD_MAX - 1);
	rc = take_kind(spec, word, err);
	while (!rc && *text == ',') {
		text++;
		if (!take_word(&text, word))
			return hv_fail_usage(err, "net: a word of it is longer than %d characters",
					     WORD_MAX - 1);
		if (spec->kind == HV_NET_NONE)
			return hv_fail_usage(err, "net: none has no options");
		rc = take_option(spec, word, err);
	}
	return rc ? rc : check_whole(spec, err);
}
