/*
 * Inside core/disk: which bytes of a file have an owner. Tables that lead two blocks of a disk to the same
 * bytes, or a block onto a header, are damage that no single entry shows; check and convert claim each range
 * they meet and learn of the first that is claimed twice. One thread.
 */
#ifndef HV_DISK_CLAIMS_H
#define HV_DISK_CLAIMS_H

#include <stdbool.h>
#include <stdint.h>

struct hv_claims;

/* A file of size bytes, claimed in units of `unit` bytes (a power of two; ranges are widened to whole units
 * only by their data: exact starts of at most 512 bytes keep their exactness). NULL when memory is short. */
struct hv_claims *hv_claims_new(uint64_t size, uint32_t unit);
void hv_claims_free(struct hv_claims *c);
/* 0; 1 when a part was claimed before (*where is its offset); -ENOMEM. Memory: 1 bit a unit that is touched.
 */
int hv_claim(struct hv_claims *c, uint64_t at, uint64_t length, uint64_t *where);

#endif
