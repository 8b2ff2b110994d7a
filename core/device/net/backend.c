/*
 * What the kinds of back ends share: opening and closing by kind, and the list of what to wait for. It calls
 * the kinds (tap.c, user.c) and base.
 */
#include <stdlib.h>

#include "device/net/backend_impl.h"

#define POLL_STEP 16u

int hv_netback_open(const struct hv_net_spec *spec, const struct hv_log *log, struct hv_netback **out,
		    struct hv_error *err)
{
	*out = NULL;
	switch (spec->kind) {
	case HV_NET_USER:
		return hv_netback_user_open(spec, log, out, err);
	case HV_NET_TAP:
		return hv_netback_tap_open(spec, log, out, err);
	case HV_NET_NONE:
		break;
	}
	return hv_fail_usage(err, "net: 'none' is no network that can be opened");
}

void hv_netback_close(struct hv_netback *b)
{
	if (b)
		b->ops->close(b);
}

int hv_net_poll_add(struct hv_net_poll *p, int fd, short events)
{
	if (p->count == p->room) {
		struct pollfd *more = realloc(p->fds, (p->room + POLL_STEP) * sizeof(*more));

		if (!more)
			return -ENOMEM;
		p->fds = more;
		p->room += POLL_STEP;
	}
	p->fds[p->count] = (struct pollfd){.fd = fd, .events = events};
	return (int)p->count++;
}
