/*
 * What a network driver asks of its device through the control queue: which frames it wants, under which
 * address, and that it has told its neighbours where it is. Also what is saved of a network device. It calls
 * the transport and the codec.
 *
 * Rules: virtio 1.2, section 5.1.6.5. A command is two bytes (class, command) and its data, all to be read;
 * the first byte to be written is the answer. A command that isn't known, or is malformed, is answered with
 * an error and changes nothing. A driver may not rely on the filter (5.1.6.5.1): the device may let more in.
 */
#include <string.h>

#include "base/bytes.h"
#include "device/virtio/net_impl.h"

enum { /* classes */
       CLASS_RX = 0,
       CLASS_MAC = 1,
       CLASS_ANNOUNCE = 3,
};

enum { /* commands of class RX */
       RX_PROMISCUOUS,
       RX_ALL_MULTICAST,
       RX_ALL_UNICAST,
       RX_NO_MULTICAST,
       RX_NO_UNICAST,
       RX_NO_BROADCAST,
       RX_COMMANDS,
};

enum { MAC_TABLE_SET = 0, MAC_ADDRESS_SET = 1 };
enum { ANNOUNCE_ACK = 0 };
enum { ANSWER_OK = 0, ANSWER_ERROR = 1 };

#define COMMAND_SIZE 2u

/* --- the filter --- */

static const uint8_t broadcast[HV_MAC_SIZE] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

static bool table_has(const struct net_table *t, const uint8_t *address)
{
	for (uint32_t i = 0; i < t->count; i++)
		if (!memcmp(t->addresses[i], address, HV_MAC_SIZE))
			return true;
	return t->overflow;
}

bool hv_net_filter_passes(const struct net *n, const uint8_t *frame)
{
	const struct net_filter *f = &n->filter;

	if (f->promiscuous || !hv_virtio_has(&n->v, NET_F_CTRL_RX))
		return true;
	if (!memcmp(frame, broadcast, HV_MAC_SIZE))
		return !f->no_broadcast;
	if (frame[0] & 1)
		return !f->no_multicast && (f->all_multicast || table_has(&f->multicast, frame));
	return !f->no_unicast && (f->all_unicast || table_has(&f->unicast, frame) ||
				  !memcmp(n->v.config + NET_CONFIG_MAC, frame, HV_MAC_SIZE));
}

/* --- commands --- */

static bool set_mode(struct net *n, uint8_t command)
{
	struct net_filter *f = &n->filter;
	bool *const modes[RX_COMMANDS] = {
		[RX_PROMISCUOUS] = &f->promiscuous, [RX_ALL_MULTICAST] = &f->all_multicast,
		[RX_ALL_UNICAST] = &f->all_unicast, [RX_NO_MULTICAST] = &f->no_multicast,
		[RX_NO_UNICAST] = &f->no_unicast,   [RX_NO_BROADCAST] = &f->no_broadcast,
	};
	uint8_t on;

	if (command >= RX_COMMANDS || hv_virtq_read(&n->chain, COMMAND_SIZE, &on, 1) != 1 || on > 1)
		return false;
	*modes[command] = on;
	return true;
}

/* A count and so many addresses from byte *at on, which moves behind them. */
static bool read_table(const struct hv_virtq_chain *chain, size_t *at, struct net_table *t)
{
	uint8_t raw[4];
	uint32_t count;

	if (hv_virtq_read(chain, *at, raw, sizeof(raw)) != sizeof(raw))
		return false;
	*at += sizeof(raw);
	count = hv_le32(raw);
	if (count > (chain->read_length - *at) / HV_MAC_SIZE)
		return false;
	memset(t, 0, sizeof(*t));
	t->overflow = count > NET_TABLE_MAX;
	t->count = t->overflow ? 0 : count;
	hv_virtq_read(chain, *at, t->addresses, (size_t)t->count * HV_MAC_SIZE);
	*at += (size_t)count * HV_MAC_SIZE;
	return true;
}

/* First the unicast addresses, then the multicast ones (5.1.6.5.2). */
static bool set_tables(struct net *n)
{
	struct net_table unicast, multicast;
	size_t at = COMMAND_SIZE;

	if (!read_table(&n->chain, &at, &unicast) || !read_table(&n->chain, &at, &multicast))
		return false;
	n->filter.unicast = unicast;
	n->filter.multicast = multicast;
	return true;
}

static bool set_address(struct net *n)
{
	uint8_t mac[HV_MAC_SIZE];

	if (hv_virtq_read(&n->chain, COMMAND_SIZE, mac, sizeof(mac)) != sizeof(mac) || mac[0] & 1)
		return false;
	memcpy(n->v.config + NET_CONFIG_MAC, mac, sizeof(mac));
	return true;
}

static void set_status(struct net *n, uint16_t status)
{
	hv_put_le16(n->v.config + NET_CONFIG_STATUS, status);
}

static uint16_t status_of(const struct net *n)
{
	return hv_le16(n->v.config + NET_CONFIG_STATUS);
}

static bool carry_out(struct net *n)
{
	struct hv_virtio *v = &n->v;
	uint8_t command[COMMAND_SIZE];

	if (hv_virtq_read(&n->chain, 0, command, sizeof(command)) != sizeof(command))
		return false;
	switch (command[0]) {
	case CLASS_RX:
		return hv_virtio_has(v, NET_F_CTRL_RX) && set_mode(n, command[1]);
	case CLASS_MAC:
		if (command[1] == MAC_TABLE_SET)
			return hv_virtio_has(v, NET_F_CTRL_RX) && set_tables(n);
		return command[1] == MAC_ADDRESS_SET && hv_virtio_has(v, NET_F_CTRL_MAC_ADDR) &&
		       set_address(n);
	case CLASS_ANNOUNCE:
		if (command[1] != ANNOUNCE_ACK || !hv_virtio_has(v, NET_F_GUEST_ANNOUNCE))
			return false;
		set_status(n, status_of(n) & (uint16_t)~NET_STATUS_ANNOUNCE);
		return true;
	default:
		return false;
	}
}

/* Commands are short and copied out: nothing here takes time, so the lock stays held. */
bool hv_net_control(struct net *n)
{
	struct hv_virtio *v = &n->v;
	uint8_t answer;

	if (!hv_virtio_pop(v, NET_QUEUE_CONTROL, &n->chain))
		return false;
	if (n->chain.write_length == 0) {
		hv_virtio_needs_reset(v, NET_QUEUE_CONTROL, "a command without room for its answer");
		return false;
	}
	answer = hv_virtio_has(v, NET_F_CTRL_VQ) && carry_out(n) ? ANSWER_OK : ANSWER_ERROR;
	hv_virtq_write(&n->chain, 0, &answer, sizeof(answer));
	hv_virtio_push(v, NET_QUEUE_CONTROL, &n->chain, sizeof(answer));
	return true;
}

/* --- status --- */

/* The driver looks at it on a configuration interrupt. An announcement is due as long as it isn't
 * acknowledged (5.1.6.5.4), and can be made only by a driver that knows it. */
void hv_net_update_status(struct net *n)
{
	uint16_t before = status_of(n), now = before & NET_STATUS_ANNOUNCE;

	if (n->link && !n->back->gone)
		now |= NET_STATUS_LINK;
	if (n->announce && hv_virtio_is_running(&n->v)) {
		n->announce = false;
		if (hv_virtio_has(&n->v, NET_F_GUEST_ANNOUNCE))
			now |= NET_STATUS_ANNOUNCE;
	}
	if (now == before)
		return;
	set_status(n, now);
	hv_virtio_config_changed(&n->v);
}

/* Until the driver says otherwise, everything is let in. */
void hv_net_control_reset(struct net *n)
{
	memset(&n->filter, 0, sizeof(n->filter));
	n->filter.promiscuous = true;
	n->announce = false;
	memcpy(n->v.config + NET_CONFIG_MAC, n->mac, HV_MAC_SIZE);
	set_status(n, n->link && !n->back->gone ? NET_STATUS_LINK : 0);
}

/* --- saved state: the address, the filter --- */

static void save_table(const struct net_table *t, struct hv_encoder *e)
{
	hv_enc_u8(e, t->overflow);
	hv_enc_blob(e, t->addresses, (size_t)t->count * HV_MAC_SIZE);
}

void hv_net_control_save(struct hv_virtio *v, struct hv_encoder *e)
{
	const struct net *n = net_of(v);
	const struct net_filter *f = &n->filter;

	hv_enc_blob(e, v->config + NET_CONFIG_MAC, HV_MAC_SIZE);
	hv_enc_u8(e, f->promiscuous);
	hv_enc_u8(e, f->all_multicast);
	hv_enc_u8(e, f->all_unicast);
	hv_enc_u8(e, f->no_multicast);
	hv_enc_u8(e, f->no_unicast);
	hv_enc_u8(e, f->no_broadcast);
	save_table(&f->unicast, e);
	save_table(&f->multicast, e);
}

static bool load_flag(struct hv_decoder *d, bool *flag)
{
	uint8_t value = hv_dec_u8(d);

	*flag = value;
	return value <= 1;
}

static bool load_table(struct hv_decoder *d, struct net_table *t)
{
	bool good = load_flag(d, &t->overflow);
	size_t length;
	const void *data = hv_dec_blob(d, &length);

	if (!good || length > sizeof(t->addresses) || length % HV_MAC_SIZE)
		return false;
	t->count = (uint32_t)(length / HV_MAC_SIZE);
	if (length)
		memcpy(t->addresses, data, length);
	return true;
}

/* The address is the guest's, wherever it goes on; the link is this host's. */
int hv_net_control_load(struct hv_virtio *v, struct hv_decoder *d, struct hv_error *err)
{
	struct net *n = net_of(v);
	struct net_filter f = {0};
	uint8_t mac[HV_MAC_SIZE] = {0};
	bool good;

	hv_dec_blob_exact(d, mac, sizeof(mac));
	good = load_flag(d, &f.promiscuous) && load_flag(d, &f.all_multicast) &&
	       load_flag(d, &f.all_unicast) && load_flag(d, &f.no_multicast) && load_flag(d, &f.no_unicast) &&
	       load_flag(d, &f.no_broadcast) && load_table(d, &f.unicast) && load_table(d, &f.multicast);
	if (!good || mac[0] & 1)
		return hv_fail_unsafe(err,
				      "saved state: device '%s' has a filter or an address that no driver "
				      "can set; the data is damaged",
				      v->name);
	memcpy(v->config + NET_CONFIG_MAC, mac, sizeof(mac));
	n->filter = f;
	n->announce = true;
	return 0;
}
