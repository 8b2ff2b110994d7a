/*
 * Inside core/disk/vmdk*.c: a VMDK is a text, the descriptor, that lists extents, and extents of several
 * kinds. Flat ones need no table; the three sparse kinds (hosted "KDMV", COWD, seSparse) are reduced by their
 * openers to one structure, whose two levels of tables vmdk_table.c reads.
 */
#ifndef HV_DISK_VMDK_IMPL_H
#define HV_DISK_VMDK_IMPL_H

#include <pthread.h>

#include "disk/format.h"
#include "disk/table.h"

#define VMDK_SECTOR 512U

/* --- the descriptor: vmdk_descriptor.c -------------------------------------------------------------------- */

#define VMDK_DESCRIPTOR_MAX (512U << 10) /* bytes of text: room for HV_DISK_FILES_MAX extents */
#define VMDK_NO_PARENT      0xffffffffU  /* parentCID of a base */

enum hv_vmdk_access { VMDK_NOACCESS, VMDK_RDONLY, VMDK_RW };

enum hv_vmdk_type {
	VMDK_FLAT, /* FLAT, VMFS: the bytes as they are */
	VMDK_ZERO,
	VMDK_HOSTED,   /* SPARSE */
	VMDK_COWD,     /* VMFSSPARSE */
	VMDK_SESPARSE, /* SESPARSE */
	VMDK_DEVICE,   /* VMFSRDM, VMFSRAW, or a flat one whose name is a device's */
};

/* One line of the extent description. */
struct hv_vmdk_line {
	enum hv_vmdk_access access;
	enum hv_vmdk_type type;
	uint64_t sectors;
	uint64_t offset; /* flat: where in the file it starts, sectors */
	char *name;      /* NULL: a ZERO extent has none */
};

struct hv_vmdk_descriptor {
	uint32_t cid, parent_cid; /* VMDK_NO_PARENT without one */
	bool has_cid;
	size_t cid_at; /* where the CID's digits stand in the text */
	unsigned cid_digits;
	char create_type[32], encoding[32], adapter[32], hardware[16];
	char *parent_hint;
	bool change_tracking, encrypted;
	uint32_t cylinders, heads, sectors;
	struct hv_vmdk_line *line;
	unsigned lines;
	uint64_t total; /* of all extents, sectors */
};

/*
 * Parses length bytes of text (a NUL ends it earlier); path is for sentences. whole: the text is a file of
 * its own, which may have been cut off. *d is to be freed in any case.
 */
int hv_vmdk_descriptor_parse(const char *path, const char *text, size_t length, bool whole, bool salvage,
			     struct hv_vmdk_descriptor *d, struct hv_error *err);
void hv_vmdk_descriptor_free(struct hv_vmdk_descriptor *d);
/* Does this text start as a descriptor does? As struct hv_disk_format's probe. */
int hv_vmdk_descriptor_probe(const char *text, size_t length);
/* The name in UTF-8, fresh; NULL when it is the same, or the encoding isn't known. */
char *hv_vmdk_utf8(const char *name, const char *encoding);
/* The name with the dictionary's |XX turned into bytes, fresh; NULL when there is none. */
char *hv_vmdk_unescape(const char *name);

/* --- sparse extents --------------------------------------------------------------------------------------- */

/* The header of a hosted sparse extent (VMDK 5.0, "Hosted Sparse Extents"), as it is in the file. */
#define VMDK_MAGIC           0x564d444bU /* "KDMV" */
#define VMDK_COWD_MAGIC      0x44574f43U /* "COWD" */
#define VMDK_SESPARSE_MAGIC  0xcafebabeULL
#define VMDK_FLAG_NEWLINES   0x1U
#define VMDK_FLAG_REDUNDANT  0x2U
#define VMDK_FLAG_ZERO_GTE   0x4U
#define VMDK_FLAG_COMPRESSED 0x10000U
#define VMDK_FLAG_MARKERS    0x20000U
#define VMDK_GD_AT_END       UINT64_MAX

struct hv_vmdk_header {
	uint32_t version, flags, per_table;
	uint64_t capacity, grain, descriptor_at, descriptor_size, rgd_at, gd_at, overhead; /* sectors */
	bool unclean;
	uint8_t newlines[4];
	uint16_t compression;
};
void hv_vmdk_header_get(struct hv_vmdk_header *h, const uint8_t sector[VMDK_SECTOR]);
void hv_vmdk_header_put(const struct hv_vmdk_header *h, uint8_t sector[VMDK_SECTOR]);

/* Markers of a stream: a grain's has a size, the others a type. */
enum hv_vmdk_marker { VMDK_MARK_END, VMDK_MARK_TABLE, VMDK_MARK_DIRECTORY, VMDK_MARK_FOOTER };
#define VMDK_MARK_GRAIN 12 /* bytes before a grain's data: lba (8), size (4) */

struct hv_vmdk_block {
	uint64_t table;    /* its number */
	uint64_t at, twin; /* where it stands in the file; its redundant copy's place, 0: none */
	uint64_t used;     /* the clock when it was last wanted; 0: free */
	bool dirty;
	uint8_t *bytes;
};
#define VMDK_BLOCKS 32

struct hv_vmdk_sparse {
	enum hv_vmdk_type dialect; /* VMDK_HOSTED, VMDK_COWD, VMDK_SESPARSE */
	struct hv_disk *disk;      /* whose extent it is: salvage, notes */
	struct hv_disk_file *file;
	struct hv_disk_file *tables;  /* where the tables are: file, or what salvage made */
	unsigned index;               /* of file in the disk */
	struct hv_vmdk_header header; /* hosted */
	uint64_t length;              /* of the virtual disk, bytes: the capacity, or less */
	uint64_t grain;               /* bytes */
	uint64_t grains, directory;   /* how many grains; how many tables */
	uint32_t per_table, table_bytes;
	unsigned entry_size;
	uint64_t gd_at, rgd_at;                 /* bytes; rgd 0: none */
	uint64_t data_at;                       /* no grain stands before this */
	uint64_t gts_at, grains_at, grains_end; /* seSparse */
	uint64_t known_end; /* salvage: what lies behind this on the disk is not known; else UINT64_MAX */
	struct hv_table *gd, *rgd;
	bool zero_gte, compressed, markers;

	pthread_mutex_t lock; /* the blocks */
	uint64_t clock;
	struct hv_vmdk_block block[VMDK_BLOCKS];

	uint64_t end; /* writing: where the next grain goes, bytes */
};

/* Openers: read the extent of file `index` of d. The rest of *s is zero. */
int hv_vmdk_hosted_open(struct hv_vmdk_sparse *s, struct hv_error *err);   /* vmdk_sparse.c */
int hv_vmdk_cowd_open(struct hv_vmdk_sparse *s, struct hv_error *err);     /* vmdk_cowd.c */
int hv_vmdk_sesparse_open(struct hv_vmdk_sparse *s, struct hv_error *err); /* vmdk_sesparse.c */
/* Makes one for file `index`; *s is the caller's, to be freed. */
int hv_vmdk_sparse_new(struct hv_disk *d, unsigned index, enum hv_vmdk_type dialect,
		       struct hv_vmdk_sparse **s, struct hv_error *err);
void hv_vmdk_sparse_free(struct hv_vmdk_sparse *s);
/* Salvage of a stream without its directory: the tables are made anew from the markers. vmdk_walk.c */
int hv_vmdk_rebuild(struct hv_vmdk_sparse *s, struct hv_error *err);

/* What one step along the markers of a stream finds. */
struct hv_vmdk_step {
	bool grain;     /* else a marker of `type` */
	uint64_t at;    /* of the marker */
	uint64_t next;  /* where the next one is */
	uint64_t value; /* a grain's first sector on the disk; else the marker's sectors */
	uint32_t size, type;
};
/* 1 found, 0 nothing sensible stands there (the end, or damage), or -errno. */
int hv_vmdk_step(const struct hv_disk_file *f, uint64_t at, uint64_t largest, struct hv_vmdk_step *step,
		 struct hv_error *err);

/* --- tables: vmdk_table.c --------------------------------------------------------------------------------- */

struct hv_vmdk_grains {
	enum hv_run_kind kind;
	uint64_t at;    /* data: bytes into the file */
	uint64_t count; /* that many grains of one kind, data side by side */
	uint32_t room;  /* compressed: how far the grain may reach at most, bytes from at */
};

/* After the geometry is set: makes gd and rgd. */
int hv_vmdk_tables_open(struct hv_vmdk_sparse *s, struct hv_error *err);
/* What the grains from `grain` on are, at most max. */
int hv_vmdk_scan(struct hv_vmdk_sparse *s, uint64_t grain, uint64_t max, struct hv_vmdk_grains *g,
		 struct hv_error *err);
/* Writing: grains [grain, grain + count) are at `at` and on (step 1 grain), or all of them are `at` (0: no
 * step). */
int hv_vmdk_tables_set(struct hv_vmdk_sparse *s, uint64_t grain, uint64_t count, uint64_t at, bool step,
		       struct hv_error *err);
int hv_vmdk_tables_flush(struct hv_vmdk_sparse *s, struct hv_error *err);
/* A table's place by a directory, 0: none. The redundant one's with twin. */
int hv_vmdk_table_place(struct hv_vmdk_sparse *s, uint64_t table, bool twin, uint64_t *at,
			struct hv_error *err);
/* The largest that a compressed grain may be in the file, its marker included. */
uint32_t hv_vmdk_stored_max(const struct hv_vmdk_sparse *s);

/* --- the disk: vmdk.c ------------------------------------------------------------------------------------- */

struct hv_vmdk_extent {
	enum hv_vmdk_access access;
	enum hv_vmdk_type type;
	uint64_t start, length; /* on the virtual disk, bytes */
	unsigned file;
	uint64_t at; /* flat: bytes into the file */
	struct hv_vmdk_sparse *sparse;
};

struct hv_vmdk_stream;
struct hv_vmdk {
	struct hv_vmdk_extent *extent;
	unsigned extents;
	uint32_t cid;
	bool has_cid, cid_changed;
	uint64_t cid_at; /* of its digits in file 0; 0: can't be changed */
	unsigned cid_digits;
	uint64_t descriptor_at, descriptor_size; /* an embedded descriptor's, bytes */
	struct hv_vmdk_stream *stream;           /* streamOptimized being written */
};

/* The extent that holds offset. */
struct hv_vmdk_extent *hv_vmdk_extent_at(struct hv_vmdk *v, uint64_t offset);
void hv_vmdk_free(struct hv_disk *d);

/* vmdk_grain.c */
int hv_vmdk_decode(struct hv_disk *d, struct hv_disk_io *io, const struct hv_run *run, const uint8_t *stored,
		   size_t stored_length, uint8_t *out, size_t *used, struct hv_error *err);

/* vmdk_write.c, vmdk_create.c, vmdk_stream.c, vmdk_check.c: as in struct hv_disk_format */
int hv_vmdk_place(struct hv_disk *d, uint64_t offset, uint64_t length, struct hv_run *run,
		  struct hv_error *err);
int hv_vmdk_commit(struct hv_disk *d, const struct hv_run *run, struct hv_error *err);
int hv_vmdk_zero(struct hv_disk *d, uint64_t offset, uint64_t length, struct hv_error *err);
int hv_vmdk_flush(struct hv_disk *d, struct hv_error *err);
int hv_vmdk_create(struct hv_disk *d, const struct hv_disk_create *create, struct hv_error *err);
int hv_vmdk_resume(struct hv_disk *d, const struct hv_disk_create *create, struct hv_error *err);
int hv_vmdk_encode(struct hv_disk *d, struct hv_disk_io *io, uint64_t offset, const uint8_t *plain,
		   uint8_t *out, size_t *length, struct hv_error *err);
int hv_vmdk_append(struct hv_disk *d, uint64_t offset, const void *data, size_t length, struct hv_error *err);
int hv_vmdk_check(struct hv_disk *d, struct hv_disk_check *check, struct hv_error *err);

/* vmdk_stream.c, for vmdk_create.c, which makes it the format of a stream that is being written */
extern const struct hv_disk_format hv_vmdk_format_stream;
#define VMDK_STREAM_GRAIN 65536U
/* marker, the worst that deflate makes of incompressible bytes, padding */
#define VMDK_STREAM_BOUND (VMDK_MARK_GRAIN + VMDK_STREAM_GRAIN + 1024 + VMDK_SECTOR)
int hv_vmdk_stream_new(struct hv_disk *d, const struct hv_vmdk_header *h, bool resume, struct hv_error *err);
int hv_vmdk_stream_finish(struct hv_disk *d, struct hv_error *err);
void hv_vmdk_stream_free(struct hv_vmdk_stream *s);

#endif
