/*
 * A network card for the guest: a virtio device in front of any back end of device/net/backend.h.
 */
#ifndef HV_DEVICE_VIRTIO_NET_H
#define HV_DEVICE_VIRTIO_NET_H

#include "device/net/backend.h"
#include "device/virtio/virtio.h"

HV_API_BEGIN
/* net.c: a network card (section 5.1) with this address. Takes back over on success. */
int hv_virtio_net_create(const struct hv_virtio_host *host, struct hv_netback *back,
			 const uint8_t mac[HV_MAC_SIZE], struct hv_device **out, struct hv_error *err);

/* As if the cable were pulled out or put back in: the guest is told, and frames are dropped meanwhile. dev is
 * what hv_virtio_net_create made; its lock is not held. */
void hv_virtio_net_set_link(struct hv_device *dev, bool up);
HV_API_END

#endif
