/*
 * Inside core/disk: what the files of the VHDX format share. The rules are MS-VHDX's: sections are named
 * where they matter. A file has a header section of 1 MiB (identifier, two headers, two region tables), a
 * log, and regions: the metadata and the block allocation table (BAT), which leads to payload blocks and, in
 * a differencing file, to sector bitmap blocks.
 */
#ifndef HV_DISK_VHDX_H
#define HV_DISK_VHDX_H

#include "disk/format.h"
#include "disk/table.h"

#define VHDX_MIB            (1ULL << 20)
#define VHDX_SECTOR         4096U /* of the log, and of a header */
#define VHDX_SIZE_MAX       (64ULL << 40)
#define VHDX_BLOCK_MIN      (1U << 20)
#define VHDX_BLOCK_MAX      (256U << 20)
#define VHDX_FILE_MAX       (1ULL << 47) /* no offset of an honest file lies behind it */
#define VHDX_REGION_TABLE   (64U << 10)
#define VHDX_METADATA_TABLE (64U << 10)
#define VHDX_TABLE_ENTRIES  2047U
#define VHDX_LOG_MAX        (64U << 20) /* a longer dirty log is refused; Hyper-V's have 1 MiB */
#define VHDX_CHANGES_MAX    8192U       /* of a dirty log: 32 MiB of tables */
#define VHDX_GUID_TEXT      39

#define VHDX_BAT_STATE(entry)    ((unsigned)((entry)&7))
#define VHDX_BAT_OFFSET(entry)   ((entry) & ~(VHDX_MIB - 1))
#define VHDX_BAT_RESERVED(entry) ((entry) & (VHDX_MIB - 8))

enum hv_vhdx_state {
	VHDX_NOT_PRESENT = 0,
	VHDX_UNDEFINED = 1,
	VHDX_ZERO = 2,
	VHDX_UNMAPPED = 3,
	VHDX_FULLY_PRESENT = 6, /* of a sector bitmap: present */
	VHDX_PARTIALLY_PRESENT = 7,
};

struct hv_vhdx_header {
	uint64_t sequence;
	uint8_t file_write[16], data_write[16], log_guid[16];
	uint16_t log_version, version;
	uint32_t log_length;
	uint64_t log_offset;
};

/* A stretch of the file that the log says anew. Data is always one sector, and is read from the log itself.
 */
struct hv_vhdx_change {
	uint64_t at, length;
	uint64_t source; /* where the data sector stands in the file; 0: zeros */
	uint64_t leading;
	uint32_t trailing;
};

/* The changes of a dirty log over the file: in rising order, none overlapping. Fixed once it was opened. */
struct hv_vhdx_overlay {
	struct hv_vhdx_change *change;
	size_t count, room;
	uint64_t end; /* what the file's size is with the changes made */
	unsigned entries;
};

struct hv_vhdx {
	struct hv_vhdx_header header;
	unsigned current;      /* which of the two headers that is */
	bool header_intact[2]; /* signature and checksum are right */
	bool region_intact[2];
	bool regions_differ;
	bool dirty; /* the log holds changes that the file doesn't */
	struct hv_vhdx_overlay overlay;

	uint64_t bat_at, bat_length, metadata_at, metadata_length;
	struct hv_table *bat;
	uint64_t bat_entries, bat_in_file; /* needed; those that the file itself holds */
	uint64_t blocks, ratio;            /* payload blocks; how many of them share a sector bitmap block */
	unsigned block_shift;
	bool leave_allocated;

	/* writing */
	bool creating; /* nobody relies on the file yet: no log needed */
	bool changed;  /* the header's ids say so */
	uint64_t next; /* where the next block goes */
	uint64_t log_at, log_sequence;
	bool log_active;
};

/* A part of a structure that names where things are, for open and check. */
struct hv_vhdx_region {
	uint8_t guid[16];
	uint64_t at;
	uint32_t length;
	bool required;
};
struct hv_vhdx_item {
	uint8_t guid[16];
	uint32_t at, length; /* from the region's start */
	uint32_t flags;
};
#define VHDX_ITEM_USER     1U
#define VHDX_ITEM_DISK     2U
#define VHDX_ITEM_REQUIRED 4U

extern const uint8_t hv_vhdx_guid_bat[16], hv_vhdx_guid_metadata[16], hv_vhdx_guid_parameters[16],
	hv_vhdx_guid_size[16], hv_vhdx_guid_disk_id[16], hv_vhdx_guid_logical[16], hv_vhdx_guid_physical[16],
	hv_vhdx_guid_parent[16];

/* --- vhdx_crc.c --- */
/* Goes on with a CRC-32C over more bytes; starts and ends with 0. */
uint32_t hv_vhdx_crc(uint32_t crc, const void *data, size_t length);
/* Of a structure whose checksum stands at its byte 4 and counts as zero. */
uint32_t hv_vhdx_crc_of(const uint8_t *data, size_t length);

/* --- vhdx.c --- */
/* Reads through the log's changes. Any thread. */
int hv_vhdx_read(struct hv_disk *d, const char *what, void *buf, size_t length, uint64_t at,
		 struct hv_error *err);
uint64_t hv_vhdx_end(const struct hv_disk *d); /* the file's size with the log's changes */
bool hv_vhdx_guid_is(const uint8_t *a, const uint8_t *b);
bool hv_vhdx_guid_zero(const uint8_t *guid);
char *hv_vhdx_guid_text(const uint8_t *guid, char text[VHDX_GUID_TEXT]);
/* UTF-16 (little-endian) as UTF-8, fresh; ends at a NUL. NULL when memory is short. */
char *hv_vhdx_text(const uint8_t *utf16, size_t bytes);
/* Where a block's entry stands in the BAT, and that of the sector bitmap of a chunk. */
uint64_t hv_vhdx_bat_index(const struct hv_vhdx *v, uint64_t block);
uint64_t hv_vhdx_bitmap_index(const struct hv_vhdx *v, uint64_t chunk);
/* BAT entries from index on, at most max, that go on by step; through the log's changes. */
int hv_vhdx_bat_run(struct hv_disk *d, uint64_t index, uint64_t max, uint64_t step, uint64_t *value,
		    uint64_t *count, struct hv_error *err);
/* Makes d->state and fills it with all of an existing file's headers and tables. */
int hv_vhdx_load(struct hv_disk *d, struct hv_error *err);
/* The BAT's shape (ratio, blocks, entries) from the sizes that are set in d. */
void hv_vhdx_shape(struct hv_disk *d);
int hv_vhdx_bat_open(struct hv_disk *d, struct hv_error *err);
/* Whether [at, at + length) touches the header section, the log, the BAT or the metadata: its name, or NULL.
 */
const char *hv_vhdx_table_at(const struct hv_disk *d, uint64_t at, uint64_t length);

/* --- vhdx_region.c: headers, regions and metadata --- */
int hv_vhdx_load_headers(struct hv_disk *d, struct hv_error *err);
int hv_vhdx_load_regions(struct hv_disk *d, struct hv_error *err);
int hv_vhdx_load_metadata(struct hv_disk *d, struct hv_error *err);
/* The entry of a region table or metadata table that was read as a whole. */
void hv_vhdx_region_at(const uint8_t *table, unsigned index, struct hv_vhdx_region *region);
void hv_vhdx_item_at(const uint8_t *table, unsigned index, struct hv_vhdx_item *item);
void hv_vhdx_header_parse(const uint8_t *bytes, struct hv_vhdx_header *header);
/* The current header of any file; false when it has none. */
bool hv_vhdx_current_header(const struct hv_disk_file *f, struct hv_vhdx_header *header);
/* Checks what a table says of one region or item. 0 or -EBADMSG. */
int hv_vhdx_region_check(struct hv_disk *d, const struct hv_vhdx_region *region, struct hv_error *err);
int hv_vhdx_item_check(struct hv_disk *d, unsigned index, const struct hv_vhdx_item *item,
		       struct hv_error *err);
#define VHDX_HEADER_AT(i)       ((uint64_t)(i) ? 128U << 10 : 64U << 10)
#define VHDX_REGION_TABLE_AT(i) ((uint64_t)(i) ? 256U << 10 : 192U << 10)

/* --- vhdx_parent.c --- */
int hv_vhdx_open_parent(struct hv_disk *d, const uint8_t *locator, size_t length, struct hv_error *err);

/* --- vhdx_log.c --- */
/* Finds the log's active sequence and makes the overlay of its changes. */
int hv_vhdx_log_load(struct hv_disk *d, struct hv_error *err);
void hv_vhdx_overlay_free(struct hv_vhdx_overlay *o);
/* The first change that ends behind at; NULL when there is none. */
const struct hv_vhdx_change *hv_vhdx_change_from(const struct hv_vhdx_overlay *o, uint64_t at);
/* Lays the changes over bytes that were read at `at`. */
int hv_vhdx_overlay_apply(struct hv_disk *d, uint8_t *buf, size_t length, uint64_t at, struct hv_error *err);
/* Writes the changes into the file and empties the log. */
int hv_vhdx_log_replay(struct hv_disk *d, struct hv_error *err);
/* Writes one entry of `count` sectors that will stand side by side at `at`; it is stable afterwards. */
int hv_vhdx_log_append(struct hv_disk *d, const uint8_t *sectors, unsigned count, uint64_t at,
		       struct hv_error *err);

/* --- vhdx_write.c --- */
/* Writes v->header into the older header's place, then into the other; both stable. */
int hv_vhdx_header_update(struct hv_disk *d, struct hv_error *err);
int hv_vhdx_create(struct hv_disk *d, const struct hv_disk_create *create, struct hv_error *err);
int hv_vhdx_resume(struct hv_disk *d, const struct hv_disk_create *create, struct hv_error *err);
int hv_vhdx_begin_write(struct hv_disk *d, struct hv_error *err);
int hv_vhdx_place(struct hv_disk *d, uint64_t offset, uint64_t length, struct hv_run *run,
		  struct hv_error *err);
int hv_vhdx_commit(struct hv_disk *d, const struct hv_run *run, struct hv_error *err);
int hv_vhdx_zero(struct hv_disk *d, uint64_t offset, uint64_t length, struct hv_error *err);
int hv_vhdx_flush(struct hv_disk *d, struct hv_error *err);
int hv_vhdx_finish(struct hv_disk *d, struct hv_error *err);
void hv_vhdx_end_write(struct hv_disk *d); /* at close: leaves an empty log */

/* --- vhdx_check.c --- */
int hv_vhdx_check(struct hv_disk *d, struct hv_disk_check *check, struct hv_error *err);

#endif
