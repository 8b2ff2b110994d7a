/*
 * Inside core/disk: what a format gives to disk.c, and what disk.c gives to a format. A format is one file
 * with one struct hv_disk_format at its end. It turns tables of its file into runs (map); reading, decoding,
 * chains, policies on other files and the filling up of fresh blocks are done once, in disk.c.
 */
#ifndef HV_DISK_FORMAT_H
#define HV_DISK_FORMAT_H

#include <pthread.h>

#include "disk/disk.h"
#include "disk/file.h"

struct hv_disk_policy;

#define HV_PROBE_HEAD 4096

/* What a probe looks at: the file's first and last bytes. */
struct hv_disk_probe {
	const uint8_t *head;
	size_t head_length;  /* HV_PROBE_HEAD, or the file's size when that is less */
	const uint8_t *tail; /* the file's last 512 bytes (VHD's footer); NULL when it is shorter */
	uint64_t size;
};

struct hv_disk {
	const struct hv_disk_format *format;
	char *path;
	char subformat[32];
	uint64_t size;
	uint32_t sector_size, physical_sector_size, block_size;
	uint32_t cylinders, heads, sectors;
	bool writable, salvage, has_parent;
	bool begun; /* format's begin_write was called (atomic) */
	unsigned depth;
	struct hv_disk *parent; /* owned */

	struct hv_disk_file **file; /* owned; [0] is the one that was named */
	unsigned files;

	struct hv_disk_property *properties; /* by hv_disk_property */
	char **notes;                        /* by hv_disk_note */
	unsigned property_count, note_count;

	pthread_mutex_t lock; /* allocation: held around place, commit and zero */
	void *state;          /* the format's own, freed by its close */

	struct hv_disk_options options;
	struct hv_disk_policy *policy; /* disk.c's: what the chain may lead to; shared by its images */
	struct hv_output *output;      /* owned: an image being created; NULL otherwise */
	bool follow;                   /* told, or name and content agree: may lead to other files */
	uint64_t id;                   /* random: tells this disk from a later one at the same address */
};

/* A unit's stored bytes to be decoded: what hv_disk_io holds for the thread. */
struct libdeflate_decompressor;
struct ZSTD_DCtx_s;
struct libdeflate_compressor;
#define HV_DEFLATE_MAX 12
struct hv_disk_io {
	struct libdeflate_decompressor *inflate; /* made at first use by hv_disk_io_inflate */
	struct ZSTD_DCtx_s *zstd;
	struct libdeflate_compressor *deflate[HV_DEFLATE_MAX + 1]; /* by level */
	uint8_t *unit; /* one decoded unit, its place on the disk, for reads of a part of it */
	size_t unit_size;
	uint64_t unit_disk,
		unit_offset; /* whose unit that is: the disk's id and the unit's place; id 0: none */
	uint8_t *stored;     /* bytes as they stand in the file */
	size_t stored_size;
	/* Told of each unit that was decoded and what it took in its file; NULL: nobody. */
	int (*decoded)(void *ctx, const struct hv_run *run, size_t used, struct hv_error *err);
	void *ctx;
};

/* Who asks for an image's tables. own: 0, or what the walk shall end with. */
struct hv_disk_tables {
	int (*own)(struct hv_disk_tables *t, struct hv_disk *d, unsigned file, uint64_t at, uint64_t length,
		   struct hv_error *err);
};

/*
 * A format. name, probe, open, map and close are a must; the rest where it can. All return 0 or -errno with
 * *err filled; sentences start with the file's path.
 */
struct hv_disk_format {
	const char *name;
	const char *const
		*extensions; /* its files' usual ones, lower case, without the dot; ends with NULL */
	const char *const *subformats; /* that create makes, the default first; NULL: none */
	const char *bundle;            /* an image may be a folder, and this file in it is opened; NULL: no */

	/* Does the content say that it is this format? 0 no, 1 perhaps (only a weak mark), 2 yes. */
	int (*probe)(const struct hv_disk_probe *probe);

	/*
	 * d->file[0], path, options, salvage, writable are set; fills the rest, opens extents by
	 * hv_disk_open_extent and the parent by hv_disk_open_parent. On failure disk.c calls close.
	 */
	int (*open)(struct hv_disk *d, struct hv_error *err);
	void (*close)(struct hv_disk *d); /* frees state; must bear a half-open image (state NULL) */

	/*
	 * This image's own run at offset: DATA, ZERO, or HOLE for what it leaves to its parent. `length` is
	 * how far the caller looks, a hint where to stop merging; run->layer and depth are set by disk.c. Any
	 * thread.
	 */
	int (*map)(struct hv_disk *d, uint64_t offset, uint64_t length, struct hv_run *run,
		   struct hv_error *err);

	/* HV_STORED_CALL: reads a part of a run that map gave. */
	int (*read)(struct hv_disk *d, void *buf, size_t length, uint64_t offset, struct hv_error *err);

	/*
	 * HV_STORED_ENCODED: decodes one unit. stored holds run->stored_length bytes from run->at on (fewer
	 * when the file ends: stored_length is the actual number); out has room for run->unit_length bytes,
	 * all of which must be filled. *used tells how many stored bytes the unit really takes. Any thread.
	 */
	int (*decode)(struct hv_disk *d, struct hv_disk_io *io, const struct hv_run *run,
		      const uint8_t *stored, size_t stored_length, uint8_t *out, size_t *used,
		      struct hv_error *err);

	/* --- writing in place: place and commit, both or none. Called with d->lock held. --- */

	/*
	 * Called once before the first change of an image that was opened for writing, also of bytes that
	 * stand where they will stand (VHDX: new ids in the header). May be NULL.
	 */
	int (*begin_write)(struct hv_disk *d, struct hv_error *err);

	/*
	 * Finds room for the blocks from offset on that this image doesn't hold as plain data: as many as
	 * `length` covers and as stand side by side in the file; *run says where (offset rounded down to the
	 * block's start, length whole blocks, the last may be cut by the disk's end; fresh, when the room
	 * lies behind the file's old end). Nothing that a reader sees changes yet.
	 */
	int (*place)(struct hv_disk *d, uint64_t offset, uint64_t length, struct hv_run *run,
		     struct hv_error *err);
	/* The blocks of a run that place gave have been written in full: the tables say so from now on. */
	int (*commit)(struct hv_disk *d, const struct hv_run *run, struct hv_error *err);
	/*
	 * Makes whole blocks read as zeros ([offset, offset + length) is aligned to block_size, or ends with
	 * the disk). NULL: disk.c writes zeros.
	 */
	int (*zero)(struct hv_disk *d, uint64_t offset, uint64_t length, struct hv_error *err);
	int (*flush)(struct hv_disk *d,
		     struct hv_error *err); /* tables to the file, ordered; files are synced by disk.c */

	/* Another size, a multiple of the sector's, for hv_disk_resize; sets d->size. Lock held. NULL: it
	 * can't.
	 */
	int (*resize)(struct hv_disk *d, uint64_t size, struct hv_error *err);

	/* --- creating --- */

	/*
	 * d->output has one file begun (d->file[0]); more by hv_disk_add_output. Fills d as open does. The
	 * image need not be readable before finish, but for what it is resumed from.
	 */
	int (*create)(struct hv_disk *d, const struct hv_disk_create *create, struct hv_error *err);
	/*
	 * The same for an image that create made and that was cut off: file[0] (and the others by
	 * hv_disk_add_output, in the same order) hold what a checkpoint left there: what flush wrote. It goes
	 * on exactly where it stopped, so that the result is the same to the byte. NULL: can't be resumed.
	 */
	int (*resume)(struct hv_disk *d, const struct hv_disk_create *create, struct hv_error *err);
	int (*finish)(struct hv_disk *d,
		      struct hv_error *err); /* footers, end of stream, last tables; may be NULL */

	/*
	 * Formats that are written from front to back only (streamOptimized, a pipe): encode turns one unit
	 * (block_size bytes at offset, the last padded with zeros) into at most encode_bound bytes, on any
	 * thread; append takes units in rising order, holes left out.
	 */
	size_t encode_bound; /* for block_size bytes; 0: the format has no encode, append takes plain bytes */
	int (*encode)(struct hv_disk *d, struct hv_disk_io *io, uint64_t offset, const uint8_t *plain,
		      uint8_t *out, size_t *length, struct hv_error *err);
	int (*append)(struct hv_disk *d, uint64_t offset, const void *data, size_t length,
		      struct hv_error *err);

	/* Random writes without a file of ours (network); zero and flush stand beside it. */
	int (*write)(struct hv_disk *d, const void *buf, size_t length, uint64_t offset,
		     struct hv_error *err);

	/*
	 * Names the ranges of its files that hold tables, as far as map doesn't refuse an entry that leads
	 * there anyhow (a qcow2's L2 tables stand among its data). What can't be read is left out: map will
	 * say so. NULL: there are none.
	 */
	int (*tables)(struct hv_disk *d, struct hv_disk_tables *tables, struct hv_error *err);

	/* All metadata, one finding each by hv_disk_found. */
	int (*check)(struct hv_disk *d, struct hv_disk_check *check, struct hv_error *err);
};

extern const struct hv_disk_format hv_disk_format_raw, hv_disk_format_vhd, hv_disk_format_vhdx,
	hv_disk_format_vmdk, hv_disk_format_vdi, hv_disk_format_qcow2, hv_disk_format_parallels;

/* --- for open --------------------------------------------------------------------------------------------- */

/* Adds to what hv_disk_info tells. key is a constant ("creator"); the value is copied. */
int hv_disk_property(struct hv_disk *d, const char *key, const char *fmt, ...) HV_PRINTF(3, 4);
/* A sentence on what is odd but not wrong ("the footer is lost; the copy at the start is used"). */
int hv_disk_note(struct hv_disk *d, const char *fmt, ...) HV_PRINTF(2, 3);

/*
 * Opens another file of this image (an extent) and adds it to d->file; *index is its place there. name is as
 * the image has it: relative to the image's folder, or absolute; backslashes are the format's to turn
 * (hv_disk_windows_name). The policy decides. writable: open it so, when the disk is.
 */
int hv_disk_open_extent(struct hv_disk *d, const char *name, bool writable, unsigned *index,
			struct hv_error *err);

/*
 * Opens a parent. format: the one it must have; NULL: found out by its content. Sets d->parent on success
 * only. -ENOENT when there is no such file (then the next candidate can be tried). A candidate that fails the
 * caller's own test (ids) is put back by hv_disk_drop_parent. With options.alone it opens nothing and returns
 * 0 with d->parent NULL: check for that. d->has_parent is set in any case.
 */
int hv_disk_open_parent(struct hv_disk *d, const char *name, const char *format, struct hv_error *err);
void hv_disk_drop_parent(struct hv_disk *d);

/*
 * Turns a Windows path into one for this system: backslashes, "\\?\" and a drive letter are dealt with.
 * *relative tells which it was. Returns a fresh string, NULL when memory is short.
 */
char *hv_disk_windows_name(const char *name, bool *relative);
/* The part after the last slash or backslash, inside name. */
const char *hv_disk_base_name(const char *name);

/* hv_disk_open over an open file, which it takes over, also on failure; path says where it is from. */
int hv_disk_open_fd(int fd, const char *path, const struct hv_disk_options *options, struct hv_disk **disk,
		    struct hv_error *err);

/* --- for check -------------------------------------------------------------------------------------------- */
void hv_disk_found(struct hv_disk_check *check, enum hv_check_severity severity, const char *fmt, ...)
	HV_PRINTF(3, 4);

/* --- for decode and encode -------------------------------------------------------------------------------- */

/* -ENOMEM, or -EBADMSG when the bytes are no such stream, or do not give exactly out_length bytes; *used may
 * be NULL. */
int hv_disk_inflate_zlib(struct hv_disk_io *io, const void *in, size_t in_length, void *out,
			 size_t out_length, size_t *used);
int hv_disk_inflate_raw(struct hv_disk_io *io, const void *in, size_t in_length, void *out, size_t out_length,
			size_t *used);
int hv_disk_unzstd(struct hv_disk_io *io, const void *in, size_t in_length, void *out, size_t out_length,
		   size_t *used);
/* zlib, level 0 to HV_DEFLATE_MAX; the bytes written, or 0 when they don't fit into room or memory is short.
 */
size_t hv_disk_deflate_zlib(struct hv_disk_io *io, int level, const void *in, size_t in_length, void *out,
			    size_t room);

/* --- creating --------------------------------------------------------------------------------------------- */

/* Another file of an image being created ("NAME-flat.vmdk"): name has no slash; *index is its place in
 * d->file. */
int hv_disk_add_output(struct hv_disk *d, const char *name, unsigned *index, struct hv_error *err);

/* A version 4 UUID / random bytes. */
void hv_disk_random(void *buf, size_t length);

/*
 * The general way in: create with a begun output (convert.c's, with its own names for what can be resumed).
 * d owns output afterwards, also on failure. resume: by the format's resume.
 */
int hv_disk_create_on(struct hv_output *output, const struct hv_disk_create *create, bool resume,
		      struct hv_disk **disk, struct hv_error *err);

/* An empty disk of a format that disk.c doesn't know itself (network): the caller fills it. */
int hv_disk_new(const struct hv_disk_format *format, const char *path, const struct hv_disk_options *options,
		struct hv_disk **disk, struct hv_error *err);

/* -ESTALE when a file of the chain that is only read was changed by somebody since it was opened. */
int hv_disk_unchanged(const struct hv_disk *d, struct hv_error *err);

/* One layer's own answer, without its chain, checked: inside the disk, not empty, data inside its file. */
int hv_disk_map_layer(struct hv_disk *d, uint64_t offset, uint64_t length, struct hv_run *run,
		      struct hv_error *err);
/* Reads and decodes the unit of an encoded run into out (run->unit_length bytes). */
int hv_disk_read_unit(struct hv_disk_io *io, const struct hv_run *run, uint8_t *out, struct hv_error *err);

const struct hv_disk_format *
hv_disk_format_named(const char *name); /* also "vpc" and "vhdx"-like aliases; NULL */

#endif
