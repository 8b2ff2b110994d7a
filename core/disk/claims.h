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

/*
 * A file of size bytes, kept track of in units of `unit` bytes (a power of two; 0: 512): a bit for each unit
 * that is claimed whole, a record for each piece of one. Answers are exact to the byte whatever the unit is,
 * until a quarter of a million pieces stand apart from each other; pieces beyond that are not remembered, so
 * that memory stays bounded: an overlap of less than a unit may go unseen then, and nothing is ever reported
 * that isn't one. Large files get a larger unit than was asked for. NULL when memory is short.
 */
struct hv_claims *hv_claims_new(uint64_t size, uint32_t unit);
void hv_claims_free(struct hv_claims *c); /* NULL is fine */

/*
 * 0; 1 when a part was claimed before (*where is the first such byte's offset in the file, and nothing is
 * claimed by this call); -ERANGE when it doesn't lie inside the file; -ENOMEM.
 */
int hv_claim(struct hv_claims *c, uint64_t at, uint64_t length, uint64_t *where);

#endif
