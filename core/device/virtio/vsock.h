/*
 * A socket device: streams between programs of the guest and Unix sockets of the host.
 */
#ifndef HV_DEVICE_VIRTIO_VSOCK_H
#define HV_DEVICE_VIRTIO_VSOCK_H

#include "device/virtio/virtio.h"

#define HV_VSOCK_CID_MIN     3ull /* 0 to 2 are reserved (virtio 1.2, section 5.10.4) */
#define HV_VSOCK_CID_MAX     0xfffffffeull
#define HV_VSOCK_CID_DEFAULT HV_VSOCK_CID_MIN
#define HV_VSOCK_PATH_MAX    96 /* characters, so that "_PORT" fits behind it in a socket's address */

struct hv_vsock_sockets;

HV_API_BEGIN
/*
 * Listens at path, mode 0600, before a sandbox closes. A host program that connects there and writes "CONNECT
 * PORT\n" reaches the guest's port, and gets "OK HOSTPORT\n" when the guest has accepted. The guest's
 * connections to port P of the host (CID 2) go to the Unix socket PATH_P, which is connected to at that
 * moment. *sockets goes to hv_virtio_vsock_create, or else to hv_vsock_close. -EADDRINUSE: somebody listens
 * there; -EINVAL: the path is too long.
 */
int hv_vsock_open(const char *path, struct hv_vsock_sockets **sockets, struct hv_error *err);
void hv_vsock_close(struct hv_vsock_sockets *sockets); /* removes the socket; may be NULL */

/* vsock.c: the device (section 5.10) of the guest with this CID. Takes sockets over on success. -EMFILE and
 * what epoll_create1(2) and eventfd(2) have are failures, too. */
int hv_virtio_vsock_create(const struct hv_virtio_host *host, struct hv_vsock_sockets *sockets, uint64_t cid,
			   struct hv_device **out, struct hv_error *err);
HV_API_END

#endif
