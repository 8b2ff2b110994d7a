/*
 * VHDX files for tests, put together by MS-VHDX and by nothing of core/disk: what qemu-img can't make
 * (differencing files, sectors of 4096 bytes, dirty logs) and what is wrong on purpose. A file is begun with
 * good headers, region tables and metadata; then blocks, table entries and log entries are put into it one by
 * one, in any order. All sizes are bytes.
 */
#ifndef HV_TESTS_DISK_MAKE_VHDX_H
#define HV_TESTS_DISK_MAKE_VHDX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MK_MIB        (1ULL << 20)
#define MK_LOG        (1 * MK_MIB) /* where the structures stand */
#define MK_METADATA   (2 * MK_MIB)
#define MK_BAT        (3 * MK_MIB)
#define MK_PARAMETERS (MK_METADATA + 65536) /* the items, in this order, 64 bytes apart */
#define MK_ITEM(i)    (MK_PARAMETERS + (i)*64ULL)

enum { MK_NOT_PRESENT, MK_UNDEFINED, MK_ZERO, MK_UNMAPPED, MK_FULL = 6, MK_PART = 7 };

struct mk_vhdx {
	/* set before mk_begin; 0 takes the default */
	uint64_t size;
	uint32_t block_size;           /* 1 MiB */
	uint32_t sector_size;          /* 512 */
	uint32_t log_length;           /* 1 MiB; metadata and BAT move up behind a longer one */
	uint32_t flags;                /* of the file parameters */
	uint8_t id;                    /* all bytes of the DataWriteGuid, and of the disk's id */
	uint8_t log_id;                /* of the LogGuid; 0: an empty log */
	const char *key[8], *value[8]; /* parent locator; the first NULL key ends it */

	int fd;
	uint64_t metadata, bat, bat_length, next;
	uint64_t sequence; /* of the newer header, which is the second */
};

/* One descriptor of a log entry, and its data sector. */
struct mk_change {
	uint64_t at;
	const uint8_t *data; /* 4096 bytes; NULL: a zero descriptor */
	uint64_t zeros;
};
struct mk_entry {
	uint32_t at, tail; /* in the log */
	uint64_t sequence;
	uint64_t flushed, last; /* 0: the file's size in whole MiB */
	uint8_t id;             /* 0: the header's */
	const struct mk_change *change;
	unsigned changes;
};

uint32_t mk_crc(uint32_t crc, const void *data, size_t length);

void mk_begin(struct mk_vhdx *m, const char *path);
void mk_end(struct mk_vhdx *m); /* fills up to a whole MiB, closes */

void mk_header(struct mk_vhdx *m, unsigned which, uint64_t sequence);
void mk_regions(struct mk_vhdx *m, unsigned which);
void mk_entry(struct mk_vhdx *m, uint64_t index, uint64_t entry); /* of the BAT */
uint64_t mk_index(const struct mk_vhdx *m, uint64_t block);

/* Room at the end, with the pattern of `seed` in it or zeros; says where. */
uint64_t mk_room(struct mk_vhdx *m, uint64_t length, uint32_t seed);
/* A block of a state at fresh room with a pattern. */
void mk_block(struct mk_vhdx *m, uint64_t block, unsigned state, uint32_t seed);
/* A chunk's sector bitmap with these sectors of it set; call once for each range, the first makes it. */
void mk_bitmap(struct mk_vhdx *m, uint64_t chunk, uint64_t first, uint64_t count);

/* Writes a log entry; how many bytes of the log it takes. */
uint32_t mk_log(struct mk_vhdx *m, const struct mk_entry *e);

/* The pattern: each 8 bytes tell seed and place, so that no two sectors are equal. */
void mk_pattern(uint8_t *buf, size_t length, uint32_t seed, uint64_t from);

/* Any bytes anywhere; the checksums of headers and region tables anew. */
void mk_poke(const char *path, uint64_t at, const void *bytes, size_t length);
void mk_fix(const char *path);

#endif
