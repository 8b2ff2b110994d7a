/*
 * Inside the VHD format: what its files share. The rules are those of the Virtual Hard Disk Image Format
 * Specification, version 1.0 (2006): footer, dynamic disk header, block allocation table (BAT), and blocks
 * that begin with a bitmap of their sectors. All numbers are big-endian; times count seconds since 2000-01-01
 * UTC.
 */
#ifndef HV_DISK_VHD_H
#define HV_DISK_VHD_H

#include "disk/format.h"
#include "disk/table.h"

#define VHD_SECTOR    512U
#define VHD_FOOTER    512U /* bytes */
#define VHD_HEADER    1024U
#define VHD_UNUSED    0xffffffffU /* BAT: no block */
#define VHD_BLOCK_MIN 512U
#define VHD_BLOCK_MAX (256U << 20)
#define VHD_BLOCK     (2U << 20)      /* what Hyper-V makes */
#define VHD_SIZE_MAX  (2040ULL << 30) /* what Hyper-V takes */
#define VHD_LOCATORS  8U
#define VHD_EPOCH     946684800LL           /* 2000-01-01 in time_t */
#define VHD_GEOMETRY  (65535ULL * 16 * 255) /* sectors of the largest geometry: says "too large to say" */

enum vhd_type {
	VHD_FIXED = 2,
	VHD_DYNAMIC = 3,
	VHD_DIFFERENCING = 4,
};

/* Where the fields stand in a footer. */
enum {
	FOOTER_COOKIE = 0,
	FOOTER_FEATURES = 8,
	FOOTER_VERSION = 12,
	FOOTER_HEADER = 16, /* of the dynamic header */
	FOOTER_TIME = 24,
	FOOTER_CREATOR = 28,
	FOOTER_CREATOR_VERSION = 32,
	FOOTER_HOST = 36,
	FOOTER_ORIGINAL_SIZE = 40,
	FOOTER_SIZE = 48,
	FOOTER_CYLINDERS = 56,
	FOOTER_HEADS = 58,
	FOOTER_SECTORS = 59,
	FOOTER_TYPE = 60,
	FOOTER_CHECKSUM = 64,
	FOOTER_ID = 68,
	FOOTER_SAVED = 84,
};

/* And in a dynamic header. */
enum {
	HEADER_COOKIE = 0,
	HEADER_NEXT = 8,
	HEADER_TABLE = 16,
	HEADER_VERSION = 24,
	HEADER_ENTRIES = 28,
	HEADER_BLOCK = 32,
	HEADER_CHECKSUM = 36,
	HEADER_PARENT_ID = 40,
	HEADER_PARENT_TIME = 56,
	HEADER_PARENT_NAME = 64,
	HEADER_LOCATORS = 576,
};

struct vhd_region {
	uint64_t at, length;
	const char *what;
};

struct vhd {
	uint8_t footer[VHD_FOOTER]; /* the one that is believed */
	uint8_t header[VHD_HEADER]; /* dynamic and differencing */
	enum vhd_type type;
	uint64_t size; /* the footer's current size; d->size may be less (geometry) */
	uint64_t end;  /* of the blocks: where the footer starts, or the file's end when it is lost */
	uint64_t header_at;

	struct hv_table *table; /* NULL: a fixed disk */
	uint64_t table_at;
	uint64_t entries; /* that can be read and are wanted */
	uint64_t blocks;  /* of the disk */
	uint32_t block_size, bitmap_size;
	struct vhd_region region[3 + VHD_LOCATORS]; /* where no block can be */
	unsigned regions;

	bool orphan;   /* salvage: the parent is missing, what it holds is lost */
	bool moved;    /* writing: the footer must be written, behind the last block */
	bool finished; /* creating: it was */
	uint64_t next; /* writing: where the last block ends */
};

/* --- vhd_footer.c: footers, headers, sizes --- */
uint32_t hv_vhd_checksum(const uint8_t *bytes, size_t length, size_t field);
bool hv_vhd_footer_good(const uint8_t *footer);
/* Reads the footer (or its copy) into v and tells d what it says. */
int hv_vhd_read_footer(struct hv_disk *d, struct vhd *v, struct hv_error *err);
/* The dynamic header, and the regions where no block may be. */
int hv_vhd_read_header(struct hv_disk *d, struct vhd *v, struct hv_error *err);
/* The geometry that the specification's appendix computes for so many sectors. */
void hv_vhd_geometry(uint64_t sectors, uint16_t *cylinders, uint8_t *heads, uint8_t *per_track);
/* Cuts d->size to the geometry where the creator went by it and nothing is lost. Wants a mapped disk. */
int hv_vhd_settle_size(struct hv_disk *d, struct vhd *v);
void hv_vhd_id(const uint8_t *id, char text[37]);

/* --- vhd_parent.c --- */
int hv_vhd_open_parent(struct hv_disk *d, struct vhd *v, struct hv_error *err);

/* --- vhd.c --- */
/* The block allocation table; writing: its changed pages are kept until they are flushed. */
int hv_vhd_open_table(struct hv_disk *d, struct vhd *v, bool writing, struct hv_error *err);
uint64_t hv_vhd_end(const struct hv_disk *d, const struct vhd *v);
/* A block's place in the file, checked; *at is its bitmap's. */
int hv_vhd_block(const struct hv_disk *d, const struct vhd *v, uint64_t block, uint64_t entry, uint64_t *at,
		 struct hv_error *err);
/* How many sectors of the block from `first` on, at most max, are all marked as present, or all not. */
int hv_vhd_bits(const struct hv_disk *d, uint64_t bitmap_at, uint32_t first, uint32_t max, bool *set,
		uint32_t *count, struct hv_error *err);

/* --- vhd_write.c --- */
extern const char *const hv_vhd_subformats[];
int hv_vhd_place(struct hv_disk *d, uint64_t offset, uint64_t length, struct hv_run *run,
		 struct hv_error *err);
int hv_vhd_commit(struct hv_disk *d, const struct hv_run *run, struct hv_error *err);
int hv_vhd_zero(struct hv_disk *d, uint64_t offset, uint64_t length, struct hv_error *err);
int hv_vhd_flush(struct hv_disk *d, struct hv_error *err);
int hv_vhd_create(struct hv_disk *d, const struct hv_disk_create *create, struct hv_error *err);
int hv_vhd_resume(struct hv_disk *d, const struct hv_disk_create *create, struct hv_error *err);
int hv_vhd_finish(struct hv_disk *d, struct hv_error *err);

/* --- vhd_check.c --- */
int hv_vhd_check(struct hv_disk *d, struct hv_disk_check *check, struct hv_error *err);

#endif
