/*
 * Disk images: one interface over all formats. An image is opened with its chain (parent, backing file,
 * base); its map tells, for each byte of the virtual disk, which file holds it and how; read and write follow
 * the map.
 *
 * Everything in an image is hostile. A field that can't be right is answered with status HV_EXIT_UNSAFE
 * (-EBADMSG) and a sentence that names the structure, its offset in the file, and what was expected: never
 * with made-up bytes. Which other files an image may lead to is the caller's to say (struct hv_disk_options).
 *
 * Threads: an open disk may be mapped and read by any number of threads at once, each with a struct
 * hv_disk_io of its own. Writes may run beside reads; see hv_disk_write. Open, create, close: one thread.
 *
 * A program that opens a disk, asks for its runs and reads them stands in docs/formats.md.
 */
#ifndef HV_DISK_DISK_H
#define HV_DISK_DISK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct hv_disk;
struct hv_disk_file;
struct hv_disk_format;
struct hv_disk_io;
struct hv_output;

#define HV_DISK_CHAIN_MAX   64           /* images in a chain */
#define HV_DISK_PARENTS_MAX 1024         /* names of parents that are tried for one chain */
#define HV_DISK_FILES_MAX   4100         /* files of one image: 8 TiB in extents of 2047 MiB */
#define HV_DISK_SIZE_MAX    (1ULL << 62) /* bytes of a virtual disk; formats allow less */

/* --- opening ---------------------------------------------------------------------------------------------- */

struct hv_disk_options {
	const char *format; /* a format's name; NULL: found out by content */
	bool writable;
	bool alone; /* do not open parents: what they would give reads as a hole (for a look at one image) */
	bool salvage; /* open in spite of damage where something can still be read; each concession is a note
		       */
	bool replay_log;  /* VHDX: write a dirty log's changes into the file (wants writable); else only in
			     memory */
	bool raw_devices; /* follow a VMDK's device extents (fullDevice, RDM); block devices still need
			     `external` */

	/*
	 * Files outside the directory tree of the image that was named, or reached through a symbolic link
	 * out of it, or that are not regular files: each must be listed here, as the image names it or by its
	 * resolved path. Borrowed until close.
	 */
	const char *const *external;
	unsigned externals;

	uint32_t timeout_ms; /* network: the longest wait for one answer; 0: a minute */

	/* The image is a part of the file (a member of an archive): its first byte and its length; 0: to the
	 * end. */
	uint64_t at, length;
};

/* A file of the chain, as a pair of words for a person; the list ends with a NULL key. */
struct hv_disk_property {
	const char *key, *value;
};

/* What is known of an open image. All pointers belong to it and live until its close. */
struct hv_disk_info {
	const char *path;      /* as it was opened */
	const char *format;    /* "raw", "vhd", "vhdx", "vmdk", "vdi", "qcow2", "parallels", "nbd" */
	const char *subformat; /* "dynamic", "streamOptimized"...; "" when the format has none */
	uint64_t size;         /* of the virtual disk, bytes; a multiple of sector_size but for raw images */
	uint64_t file_size;    /* of the image's own files together, bytes */
	uint64_t allocated;    /* what they take on the host's disk, bytes */
	uint32_t sector_size;  /* logical: 512 or 4096 */
	uint32_t physical_sector_size; /* 0 when the image doesn't say */
	uint32_t block_size; /* the unit of allocation: block, grain, cluster; 0 when there is none */
	uint32_t cylinders, heads, sectors; /* as recorded in the image; 0 when it doesn't say */
	unsigned files;                     /* hv_disk_file_path(d, 0 .. files - 1) */
	bool has_parent;                    /* the image says that it has one, whether it was opened or not */
	const struct hv_disk_property *properties; /* format's own: ids, creator, parent's name */
	const char *const *notes; /* sentences on what is odd but not wrong; the list ends with NULL */
};

/* --- the map ---------------------------------------------------------------------------------------------- */

enum hv_run_kind {
	HV_RUN_HOLE, /* no image of the chain holds these bytes: they read as zeros */
	HV_RUN_ZERO, /* an image says that they are zeros */
	HV_RUN_DATA,
};

enum hv_run_stored {
	HV_STORED_PLAIN,   /* as they are, at `at` in the file */
	HV_STORED_ENCODED, /* compressed, as a part of one unit (grain, cluster) */
	HV_STORED_CALL,    /* only the format's own read gives them (network) */
};

/* A run of a virtual disk whose bytes have one kind and, in the file, stand side by side. */
struct hv_run {
	uint64_t offset, length; /* on the virtual disk, bytes: what this run speaks for */
	enum hv_run_kind kind;
	enum hv_run_stored stored;
	struct hv_disk
		*layer; /* data: the image of the chain that holds it; zero: that says so; hole: NULL */
	unsigned depth; /* of that layer: 0 is the image that was opened */
	unsigned file;  /* data: which of the layer's files */
	uint64_t at;    /* plain: offset in that file of the byte at `offset`; encoded: of the unit's start */
	uint64_t unit;  /* encoded: where the unit starts on the virtual disk, at or before offset */
	uint32_t unit_length;   /* encoded: bytes of the unit when decoded; the run lies inside it */
	uint32_t stored_length; /* encoded: bytes in the file, an upper bound */
	bool fresh;             /* room at `at` that was never written, and reads as zeros */
};

HV_API_BEGIN

/* The formats' names, in the order in which they are tried; the list ends with NULL. A constant. */
const char *const *hv_disk_formats(void);

/* What a format is: by its name, or one that others call it by ("vpc"). False when there is no such one. */
struct hv_disk_about {
	const char *name;
	const char *const *extensions; /* lower case, without the dot; ends with NULL; NULL: none */
	const char *const *subformats; /* that can be created, the default first; NULL: none has a name */
	bool creates;
};
bool hv_disk_about(const char *name, struct hv_disk_about *about);

/*
 * Opens the image at path (of Parallels also the folder that a disk is there) with its chain. *disk is the
 * caller's, to be closed. Errors: -EBADMSG (status UNSAFE) for damage or a file that the options don't allow;
 * -ENOTSUP for what is known and not supported (encryption); errno of the system otherwise.
 */
int hv_disk_open(const char *path, const struct hv_disk_options *options, struct hv_disk **disk,
		 struct hv_error *err);

/* The format of the file by its content; "raw" when no other claims it. A constant string. */
int hv_disk_probe(const char *path, uint64_t at, uint64_t length, const char **format, struct hv_error *err);

/* Closes a disk and its chain; NULL is fine. What was written and not flushed may be lost. */
void hv_disk_close(struct hv_disk *disk);

void hv_disk_info(const struct hv_disk *disk, struct hv_disk_info *info);
struct hv_disk *hv_disk_parent(const struct hv_disk *disk); /* NULL at the base */
uint64_t hv_disk_size(const struct hv_disk *disk);
const char *hv_disk_file_path(const struct hv_disk *disk, unsigned file);

/*
 * The run that starts at offset, which must be below the disk's size: as long as one look at the tables
 * shows, at least 1 byte, at most `length` bytes.
 */
int hv_disk_map(struct hv_disk *disk, uint64_t offset, uint64_t length, struct hv_run *run,
		struct hv_error *err);

/* --- reading and writing ---------------------------------------------------------------------------------- */

/* A thread's buffers and decompressors. Made for any disk, used by one thread at a time. */
struct hv_disk_io *hv_disk_io_new(void);
void hv_disk_io_free(struct hv_disk_io *io);

/* Reads [offset, offset + length), which must lie inside the disk. */
int hv_disk_read(struct hv_disk *disk, struct hv_disk_io *io, void *buf, size_t length, uint64_t offset,
		 struct hv_error *err);

/*
 * Writes; a block that the image itself doesn't hold yet is allocated and filled up from the chain. Callers
 * on several threads are welcome as long as their ranges don't overlap: allocation takes the disk's lock, the
 * rest doesn't. After a crash the image is consistent, with old or new bytes, up to the last flush. -EROFS
 * when the disk was not opened for writing, -ENOTSUP when the format can't.
 */
int hv_disk_write(struct hv_disk *disk, struct hv_disk_io *io, const void *buf, size_t length,
		  uint64_t offset, struct hv_error *err);

/* Makes the range read as zeros; blocks are given back or marked where the format has the means. */
int hv_disk_zero(struct hv_disk *disk, struct hv_disk_io *io, uint64_t offset, uint64_t length,
		 struct hv_error *err);

/* What was written before is on stable storage afterwards. */
int hv_disk_flush(struct hv_disk *disk, struct hv_error *err);

/* 0 when hv_disk_write could, before anything is changed; else its -EROFS or -ENOTSUP. */
int hv_disk_may_write(const struct hv_disk *disk, struct hv_error *err);

/*
 * Where [offset, offset + length) lies, when all of it stands in one piece and as it is in one file, and,
 * with write, when writing there changes nothing else. false: only hv_disk_read and hv_disk_write can. The
 * descriptor stays the disk's; the answer holds until the tables change (hv_disk_zero, a write that
 * allocates, hv_disk_resize).
 */
struct hv_disk_place {
	int fd;
	uint64_t at; /* in the file */
};
bool hv_disk_find_place(struct hv_disk *disk, uint64_t offset, uint64_t length, bool write,
			struct hv_disk_place *place);

/*
 * Another size for a disk that is open for writing and has nothing under way: what is added reads as zeros,
 * what lies behind a smaller size is lost. -ENOTSUP where the format can't, -EINVAL for a size that it can't
 * have.
 */
int hv_disk_resize(struct hv_disk *disk, uint64_t size, struct hv_error *err);

/*
 * Locks the files of the chain until close: those that are open for writing against everyone, the others
 * against writers. -EBUSY when another process, or another disk of this one, is in the way. Advisory; a file
 * system without locks is not refused.
 */
int hv_disk_lock(struct hv_disk *disk, struct hv_error *err);

/* Whether hv_disk_lock for writing would find anyone in the way at the file `path`: -EBUSY, else 0. */
int hv_disk_lock_probe(const char *path, struct hv_error *err);

/* --- creating --------------------------------------------------------------------------------------------- */

struct hv_disk_create {
	const char *format;    /* NULL is "raw" */
	const char *subformat; /* NULL: the format's own default */
	uint64_t size;         /* bytes; formats of whole sectors round it up and hv_disk_size tells */
	uint32_t sector_size;  /* 512 (also for 0) or 4096, which VHDX alone can hold */
	uint32_t block_size;   /* 0: the format's own default */
	bool full;             /* allocate all of it now */
	const char *backing, *backing_format; /* qcow2: an overlay over this file; NULL: none */
};

/*
 * Makes an empty image. The files get temporary names beside path; hv_disk_commit puts the tables in order,
 * fsyncs and gives them their names (an existing file of that name is replaced then, not before);
 * hv_disk_close without it removes them. With -EINVAL and status USAGE: a size or an option that the format
 * can't hold, and what it can.
 */
int hv_disk_create(const char *path, const struct hv_disk_create *create, struct hv_disk **disk,
		   struct hv_error *err);
int hv_disk_commit(struct hv_disk *disk, struct hv_error *err);

/* --- checking --------------------------------------------------------------------------------------------- */

enum hv_check_severity {
	HV_CHECK_NOTE,
	HV_CHECK_LEAK,  /* room in the file that nothing uses: harmless */
	HV_CHECK_ERROR, /* bytes of the disk are lost or can't be trusted */
};

#define HV_CHECK_TOLD_MAX 1000 /* findings that are told one by one; the rest is only counted */

struct hv_disk_check {
	/* Called for each finding with one sentence; may be NULL. At most 1000 findings are told one by one.
	 */
	void (*found)(void *ctx, enum hv_check_severity severity, const char *text);
	void *ctx;
	uint64_t errors, leaks, notes; /* counted here */
	uint64_t blocks, used;         /* of the virtual disk, and those with data of this image */
};

/*
 * Looks at all the metadata of the image (not of its parents): every table entry, every checksum, overlaps,
 * compressed units by decompressing them. Returns 0 when the check itself could be done; errors are counted.
 */
int hv_disk_check(struct hv_disk *disk, struct hv_disk_check *check, struct hv_error *err);

HV_API_END

#endif
