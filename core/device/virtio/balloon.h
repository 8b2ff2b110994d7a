/*
 * The virtio balloon: memory that a guest lends back to the host. balloon.c.
 */
#ifndef HV_DEVICE_VIRTIO_BALLOON_H
#define HV_DEVICE_VIRTIO_BALLOON_H

#include "device/virtio/virtio.h"

/* What a driver tells of its memory (5.5.6.3), in the order of its tags. hv_balloon_stat_name has QEMU's
 * names. */
#define HV_BALLOON_STATS 16

struct hv_balloon_info {
	uint64_t memory; /* bytes that the guest would have without a balloon */
	uint64_t actual; /* bytes that it has left, as the driver says */
	uint64_t target; /* bytes that it shall have left */
	bool in_use;     /* a driver is at work */
	bool stats_there, reporting;
	uint32_t stats_known;             /* bit n: stats[n] was told */
	uint64_t stats[HV_BALLOON_STATS]; /* bytes, or counts since the guest's start */
	uint64_t stats_at;                /* when, in seconds since 1970; 0: never */
	uint64_t given_back,
		reported; /* bytes so far: of the balloon's pages, of free ones that were reported */
};

/* Called when the driver has changed how much memory it has left, with the device's lock held: must not call
 * the device. */
typedef void hv_balloon_change_fn(void *ctx, uint64_t actual);

HV_API_BEGIN
/* -ENOMEM, -EAGAIN (no thread). change may be NULL. */
int hv_virtio_balloon_create(const struct hv_virtio_host *host, hv_balloon_change_fn *change, void *ctx,
			     struct hv_device **out, struct hv_error *err);

/*
 * These take the device's lock themselves; any thread. The target is what the guest shall have left, in
 * bytes: rounded to a page, and at most all of its memory. It stands until it is set anew, also through a
 * reset.
 */
void hv_virtio_balloon_set_target(struct hv_device *dev, uint64_t bytes);
/* Asks the driver for fresh statistics and waits for them, at most limit_ms; then all that is known. */
void hv_virtio_balloon_query(struct hv_device *dev, unsigned limit_ms, struct hv_balloon_info *info);

/* "stat-free-memory"; NULL for a tag that has none. */
const char *hv_balloon_stat_name(unsigned tag);
HV_API_END

#endif
