/*
 * How backend.c makes each kind of back end. For no one else.
 */
#ifndef HV_DEVICE_NET_BACKEND_IMPL_H
#define HV_DEVICE_NET_BACKEND_IMPL_H

#include "device/net/backend.h"

int hv_netback_tap_open(const struct hv_net_spec *spec, const struct hv_log *log, struct hv_netback **out,
			struct hv_error *err);
int hv_netback_user_open(const struct hv_net_spec *spec, const struct hv_log *log, struct hv_netback **out,
			 struct hv_error *err);

#endif
