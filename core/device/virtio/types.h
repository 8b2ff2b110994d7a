/*
 * The types of virtio devices, each in its own file. Every _create returns a device that the caller destroys
 * with hv_device_destroy after its bus is no longer used, and puts on the MMIO bus at its window (window.h);
 * what it is given is borrowed, but host itself is copied. -ENOMEM and -EAGAIN (no thread) are every
 * _create's failures, others are named beside it.
 */
#ifndef HV_DEVICE_VIRTIO_TYPES_H
#define HV_DEVICE_VIRTIO_TYPES_H

#include "device/virtio/virtio.h"

HV_API_BEGIN
/* rng.c: random bytes from the host (section 5.4). */
int hv_virtio_rng_create(const struct hv_virtio_host *host, struct hv_device **out, struct hv_error *err);
HV_API_END

#endif
