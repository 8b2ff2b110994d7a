/*
 * Writers of VMDK extents for the tests, built from the specification ("Virtual Disk Format 5.0"; for
 * seSparse what other readers agree on) and apart from the readers: what qemu-img can't make.
 */
#ifndef HV_TESTS_DISK_MAKE_VMDK_H
#define HV_TESTS_DISK_MAKE_VMDK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tmp.h"

struct make_vmdk {
	const uint8_t *disk; /* sectors * 512 bytes */
	uint64_t sectors;
	const char *kinds; /* for each grain: 'd' data, 'z' zeroed, '-' none; NULL: by the bytes */

	/* hosted only; 0 is the usual */
	uint32_t version, flags, grain, per_table;
	bool rgd, zero_gte, compressed, markers, at_end, bare_sizes, short_last, tables_in_front;
	const char *descriptor; /* embedded; NULL: none */

	/* what was made: places for tests that damage it, bytes */
	uint64_t gd_at, rgd_at, first_table, first_grain, data_end;
};

struct made {
	uint8_t *bytes;
	size_t length, room;
};

void make_hosted(struct make_vmdk *m, struct made *out);
void make_cowd(struct make_vmdk *m, struct made *out);
void make_sesparse(struct make_vmdk *m, struct made *out);
void make_put(struct tmp *t, const char *name, const struct made *out); /* writes and frees */

/* A descriptor's text, fresh: extents are whole lines. */
char *make_descriptor(const char *type, uint32_t cid, uint32_t parent_cid, const char *hint,
		      const char *extents);
/* Bytes like a disk's: runs of zeros, of text and of noise. */
void make_bytes(uint8_t *disk, size_t length, uint64_t seed);
uint64_t make_random(uint64_t *state);

#endif
