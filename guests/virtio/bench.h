/*
 * The disk as fast as it goes: scenes of reads and writes, timed by the TSC.
 */
#ifndef GUEST_VIRTIO_BENCH_H
#define GUEST_VIRTIO_BENCH_H

#include <stdbool.h>

/* Runs all scenes on the disk in this window and prints a line for each. False: a request failed. */
bool bench_disk(unsigned window, unsigned scale);

#endif
