/*
 * The virtio console: a console and, beside it, a named channel for an agent in the guest. console.c.
 */
#ifndef HV_DEVICE_VIRTIO_CONSOLE_H
#define HV_DEVICE_VIRTIO_CONSOLE_H

#include "device/chardev.h"
#include "device/virtio/virtio.h"

#define HV_CONSOLE_PORTS    2                        /* port 0 is the console, port 1 the channel */
#define HV_CONSOLE_NAME_MAX 64                       /* bytes of a port's name */
#define HV_CONSOLE_AGENT    "org.qemu.guest_agent.0" /* the name that guests' agents look for */

struct hv_console_port {
	bool there;
	struct hv_chardev *chardev; /* not started yet; NULL: nothing is plugged in */
	const char *name;           /* copied; NULL: none */
};

HV_API_BEGIN
/*
 * -ENOMEM, -EAGAIN (no thread). The chardevs are borrowed: each is closed while the device is held
 * (hv_device_hold) and before it is destroyed, as each uses the other. -EINVAL: a name is longer than
 * HV_CONSOLE_NAME_MAX.
 */
int hv_virtio_console_create(const struct hv_virtio_host *host,
			     const struct hv_console_port ports[HV_CONSOLE_PORTS], struct hv_device **out,
			     struct hv_error *err);

/* The console's terminal has this size now; 0 is unknown. Any thread, takes the device's lock itself. */
void hv_virtio_console_resize(struct hv_device *dev, uint16_t columns, uint16_t rows);
HV_API_END

#endif
