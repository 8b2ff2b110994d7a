/*
 * The socket device: a stream to the host's port VSOCK_PORT.
 */
#ifndef GUEST_VIRTIO_VSOCK_H
#define GUEST_VIRTIO_VSOCK_H

#include <stdbool.h>
#include <stdint.h>

#define VSOCK_PORT 1234u

/*
 * Sends `bytes` bytes (byte n is n modulo 251) to the host's port as fast as its credit allows, ends its
 * side, and prints the line that comes back. NULL, or what went wrong.
 */
const char *vsock_push(unsigned window, uint64_t bytes);

#endif
