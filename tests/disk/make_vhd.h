/*
 * A writer of VHD images for tests, built from the Virtual Hard Disk Image Format Specification 1.0 and
 * nothing else: it shares no code with the reader. It makes what qemu-img can't: differencing disks with
 * locators of every kind, sector bitmaps with holes, other creators and geometries, footers of 511 bytes.
 */
#ifndef HV_TESTS_DISK_MAKE_VHD_H
#define HV_TESTS_DISK_MAKE_VHD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct make_vhd {
	unsigned type;       /* 2 fixed, 3 dynamic, 4 differencing */
	uint64_t size;       /* current size, bytes */
	uint32_t block_size; /* 0: 2 MiB */
	const char *creator; /* four characters; NULL: "win " */
	uint16_t cylinders;  /* 0: no geometry */
	uint8_t heads, sectors;
	uint8_t id; /* all 16 bytes of the unique id */
	bool saved;
	bool short_footer; /* 511 bytes */
	unsigned tail;     /* bytes between the last byte and the footer */

	const uint8_t *data; /* size bytes */
	/* A digit a sector: '1' present, '0' not; NULL: all. A block without any is not allocated. */
	const char *present;
	bool noise; /* what isn't present holds bytes all the same */
	bool allocate_empty;

	uint8_t parent_id;
	uint32_t parent_time;
	const char *w2ku, *w2ru, *wi2r, *wi2k, *macx, *name; /* ASCII; NULL: none */
};

/* Where things came to lie, for tests that damage them. */
struct made_vhd {
	uint64_t header, table, footer, length; /* offsets; length of the file */
	uint64_t block[64];                     /* of the first blocks' bitmaps; 0: none */
};

struct made_vhd make_vhd(const char *path, const struct make_vhd *m);
/* Makes the checksums of a file's footer, copy and header right again (those that are there). */
void make_vhd_sums(const char *path, const struct made_vhd *at);

#endif
