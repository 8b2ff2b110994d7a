/*
 * Inside core/disk: what the files of the qcow2 format share. qcow2_header.c reads the header, qcow2_map.c
 * maps, qcow2.c opens, qcow2_cache.c keeps the tables' pages, qcow2_refcount.c counts and allocates clusters,
 * qcow2_write.c changes images and makes them, qcow2_check.c looks at everything. Rules: the qcow2
 * specification (QEMU's docs/interop/qcow2).
 */
#ifndef HV_DISK_QCOW2_H
#define HV_DISK_QCOW2_H

#include <pthread.h>

#include "base/bytes.h"
#include "disk/format.h"

#define HV_QCOW2_MAGIC 0x514649fbU /* "QFI" 0xfb */

#define HV_QCOW2_DIRTY        (1ULL << 0) /* incompatible features */
#define HV_QCOW2_CORRUPT      (1ULL << 1)
#define HV_QCOW2_DATA_FILE    (1ULL << 2)
#define HV_QCOW2_COMPRESSION  (1ULL << 3)
#define HV_QCOW2_SUBCLUSTERS  (1ULL << 4)
#define HV_QCOW2_LAZY         (1ULL << 0) /* compatible */
#define HV_QCOW2_BITMAPS      (1ULL << 0) /* autoclear */
#define HV_QCOW2_RAW_DATA     (1ULL << 1)
#define HV_QCOW2_COPIED       (1ULL << 63) /* entries of L1 and L2 */
#define HV_QCOW2_COMPRESSED   (1ULL << 62)
#define HV_QCOW2_ZERO         (1ULL << 0)
#define HV_QCOW2_OFFSET       0x00fffffffffffe00ULL
#define HV_QCOW2_TABLE_OFFSET 0xfffffffffffffe00ULL /* entries of the refcount table */

#define HV_QCOW2_L1_MAX        (32U << 20) /* bytes of an L1 table */
#define HV_QCOW2_REFTABLE_MAX  (8U << 20)  /* bytes of a refcount table */
#define HV_QCOW2_SNAPSHOTS_MAX 65536U
#define HV_QCOW2_BACKING_MAX   1023U

/* What a page of the cache holds, in the order in which dirty ones have to reach the file. */
enum hv_qcow2_kind { HV_QCOW2_REFCOUNTS, HV_QCOW2_L2, HV_QCOW2_L1, HV_QCOW2_KINDS };

struct hv_qcow2_page {
	uint64_t number;
	uint32_t next;  /* in its bucket; UINT32_MAX ends */
	uint32_t valid; /* bytes that the file has of it */
	bool used, recent, dirty;
	enum hv_qcow2_kind kind; /* of a dirty page */
	uint8_t *bytes;
};

struct hv_qcow2_cache {
	unsigned page_bits;
	uint32_t count, hand;
	uint32_t dirty[HV_QCOW2_KINDS]; /* pages */
	uint32_t *bucket;               /* count of them, a power of two */
	struct hv_qcow2_page *page, *last;
};

struct hv_qcow2_runs { /* of clusters, for giving back and taking again */
	struct {
		uint64_t first, count;
	} * run;
	size_t count, room;
};

struct hv_qcow2 {
	unsigned version, cluster_bits, l2_bits, entry_bits; /* 2^l2_bits entries of 2^entry_bits bytes */
	unsigned refcount_order, compression;
	uint64_t cluster_size, l1_at, l1_entries, reftable_at, reftable_clusters;
	uint64_t incompatible, compatible, autoclear;
	uint64_t size; /* of the virtual disk */
	uint32_t header_length, crypt;
	uint32_t snapshots;
	uint64_t snapshots_at, snapshots_length;
	uint64_t bitmaps_at, bitmaps_length; /* the bitmaps' directory, 0 when there is none */
	uint64_t backing_at;
	uint32_t backing_length;
	char backing[HV_QCOW2_BACKING_MAX + 1], backing_format[64], data_file[HV_QCOW2_BACKING_MAX + 1];
	char feature[3][64][48]; /* names that the image gives to its features */

	pthread_mutex_t lock; /* the cache and all below */
	struct hv_qcow2_cache cache;

	/* writing */
	bool creating; /* refcounts are made at the end */
	bool writing_all;
	bool touched;   /* the header's autoclear bits are gone */
	uint64_t end;   /* clusters from here on were never used */
	uint8_t *taken; /* resumed: one bit for each cluster below taken_end that is in use */
	uint64_t taken_end, taken_hand;
	struct hv_qcow2_runs given_back; /* refcounts go down with the next flush */
	struct hv_qcow2_runs free;       /* refcount 0 on stable storage: may be used again */
};

static inline struct hv_qcow2 *hv_qcow2_of(const struct hv_disk *d)
{
	return d->state;
}

static inline uint64_t hv_qcow2_clusters(const struct hv_qcow2 *q, uint64_t bytes)
{
	return (bytes >> q->cluster_bits) + ((bytes & (q->cluster_size - 1)) != 0);
}

/* --- qcow2_header.c ----------------------------------------------------------------------------------------- */

/* Reads and checks the header (creating: an image without refcounts yet). d->state is q. */
int hv_qcow2_read_header(struct hv_disk *d, bool creating, struct hv_error *err);
/* The table of internal snapshots, as properties and notes of d. */
int hv_qcow2_list_snapshots(struct hv_disk *d, struct hv_error *err);

/* --- qcow2_map.c: tables' entries, the map -------------------------------------------------------------------- */

int hv_qcow2_map(struct hv_disk *d, uint64_t offset, uint64_t length, struct hv_run *run,
		 struct hv_error *err);
int hv_qcow2_decode(struct hv_disk *d, struct hv_disk_io *io, const struct hv_run *run, const uint8_t *stored,
		    size_t stored_length, uint8_t *out, size_t *used, struct hv_error *err);

/* Where compressed data stands, and how many bytes of the file it may take. */
void hv_qcow2_compressed(const struct hv_qcow2 *q, uint64_t entry, uint64_t *at, uint64_t *length);

/* NULL, or what is wrong with an entry that leads to an L2 table, or with one of an L2 table. */
const char *hv_qcow2_bad_l1(const struct hv_disk *d, uint64_t entry);
const char *hv_qcow2_bad_l2(const struct hv_disk *d, uint64_t entry);
/* NULL, or what is wrong with the subclusters' bits (the second half of an extended entry). */
const char *hv_qcow2_bad_bits(uint64_t entry, uint64_t bits);

/* --- qcow2_cache.c: q->lock is held ----------------------------------------------------------------------- */

int hv_qcow2_cache_init(struct hv_disk *d, struct hv_error *err);
void hv_qcow2_cache_free(struct hv_qcow2 *q);
/* The bytes at `at`, a multiple of 8, and how many of them (at least 8) stand in memory there. */
int hv_qcow2_bytes(struct hv_disk *d, uint64_t at, const uint8_t **bytes, size_t *length,
		   struct hv_error *err);
int hv_qcow2_get(struct hv_disk *d, uint64_t at, uint64_t *value, struct hv_error *err);
/* Changes the bytes at `at`, which lie in one aligned group of eight. */
int hv_qcow2_put(struct hv_disk *d, enum hv_qcow2_kind kind, uint64_t at, const void *bytes, size_t length,
		 struct hv_error *err);
int hv_qcow2_set(struct hv_disk *d, enum hv_qcow2_kind kind, uint64_t at, uint64_t value,
		 struct hv_error *err);
/* Writes dirty pages of a kind. */
int hv_qcow2_write_pages(struct hv_disk *d, enum hv_qcow2_kind kind, struct hv_error *err);
/* Forgets the pages of a range, which are not dirty. */
void hv_qcow2_forget(struct hv_qcow2 *q, uint64_t at, uint64_t length);

/* --- qcow2_refcount.c: q->lock is held -------------------------------------------------------------------- */

int hv_qcow2_refcount(struct hv_disk *d, uint64_t cluster, uint64_t *count, struct hv_error *err);
/* A number of clusters side by side, at most `want`; *fresh: they read as zeros. reuse: may be used ones. */
int hv_qcow2_allocate(struct hv_disk *d, uint64_t want, bool reuse, uint64_t *first, uint64_t *count,
		      bool *fresh, struct hv_error *err);
/* One reference fewer to each of the clusters that a range of the file touches, after the next flush. */
int hv_qcow2_give_back(struct hv_disk *d, uint64_t at, uint64_t length, struct hv_error *err);
/* Everything dirty, in order: refcounts, L2, L1, and then what was given back. */
int hv_qcow2_write_all(struct hv_disk *d, struct hv_error *err);
/* The value of a refcount among those of a block, and changing it; bits is a power of two up to 64. */
uint64_t hv_qcow2_count_at(const uint8_t *block, uint64_t index, unsigned order);
/* Makes the refcounts of an image that was created, at its end. */
int hv_qcow2_make_refcounts(struct hv_disk *d, struct hv_error *err);
bool hv_qcow2_is_taken(const struct hv_qcow2 *q, uint64_t cluster);
void hv_qcow2_runs_free(struct hv_qcow2_runs *r);

/* --- qcow2_write.c, qcow2_check.c: for the format's table ------------------------------------------------- */
int hv_qcow2_may_write(struct hv_disk *d, struct hv_error *err); /* open's last question */
int hv_qcow2_place(struct hv_disk *d, uint64_t offset, uint64_t length, struct hv_run *run,
		   struct hv_error *err);
int hv_qcow2_commit(struct hv_disk *d, const struct hv_run *run, struct hv_error *err);
int hv_qcow2_zero(struct hv_disk *d, uint64_t offset, uint64_t length, struct hv_error *err);
int hv_qcow2_flush(struct hv_disk *d, struct hv_error *err);
int hv_qcow2_create(struct hv_disk *d, const struct hv_disk_create *create, struct hv_error *err);
int hv_qcow2_resume(struct hv_disk *d, const struct hv_disk_create *create, struct hv_error *err);
int hv_qcow2_finish(struct hv_disk *d, struct hv_error *err);
int hv_qcow2_check(struct hv_disk *d, struct hv_disk_check *check, struct hv_error *err);

#endif
