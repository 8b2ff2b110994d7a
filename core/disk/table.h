/*
 * Inside core/disk: a table of fixed-size entries in a file (BAT, grain table, L2 table), of which only the
 * pages in use are in memory: an image of any size is mapped in a bounded amount. Any thread.
 */
#ifndef HV_DISK_TABLE_H
#define HV_DISK_TABLE_H

#include "disk/file.h"

#define HV_TABLE_PAGE (64U << 10)

struct hv_table;

struct hv_table_shape {
	struct hv_disk_file *file;
	const char *what;    /* "block allocation table", for sentences */
	uint64_t at;         /* of entry 0 in the file, bytes; page boundaries are counted from here */
	uint64_t entries;    /* the whole must lie inside the file: hv_table_new checks */
	unsigned entry_size; /* 4 or 8 */
	bool big_endian;
	unsigned pages; /* at most so many in memory; 0: 16 (1 MiB) */
};

/* A table of entries at one place. The file must outlive it. */
int hv_table_new(const struct hv_table_shape *shape, struct hv_table **table, struct hv_error *err);
void hv_table_free(struct hv_table *t); /* what was set and not flushed is lost; NULL is fine */

int hv_table_get(struct hv_table *t, uint64_t index, uint64_t *value, struct hv_error *err);
/*
 * The entry at index, and how many from there on, at most max, hold the same value (step 0) or each the
 * one before plus step. At least 1. Long runs are found without a lock an entry.
 */
int hv_table_run(struct hv_table *t, uint64_t index, uint64_t max, uint64_t step, uint64_t *value,
		 uint64_t *count, struct hv_error *err);
/* Changes an entry in memory; it reaches the file with hv_table_flush, or earlier when memory is needed. */
int hv_table_set(struct hv_table *t, uint64_t index, uint64_t value, struct hv_error *err);
int hv_table_flush(struct hv_table *t, struct hv_error *err); /* writes, doesn't sync */

#endif
