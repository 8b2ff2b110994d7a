/*
 * A driver that means harm, or is very much mistaken.
 */
#ifndef GUEST_VIRTIO_HOSTILE_H
#define GUEST_VIRTIO_HOSTILE_H

#include <stdbool.h>
#include <stdint.h>

struct hostile {
	unsigned window;
	uint64_t rounds, seed, ram_end;
};

/*
 * `rounds` requests, one at a time, each right in parts only, and prints a hash of all that came of them:
 * with the same seed and the same disk it is the same. False: the device neither answered nor asked for a
 * reset.
 */
bool hostile_chains(const struct hostile *h);

/* Requests whose buffers are the rings themselves, and resets in the middle of them. No two runs are alike.
 */
void hostile_rings(const struct hostile *h);

#endif
