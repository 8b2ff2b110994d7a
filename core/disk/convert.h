/*
 * The conversion pipeline: an image's map -> readers on several threads -> the destination. Holes never
 * become bytes; bytes that stand as they are in a file are moved by the kernel (reflink or copy_file_range);
 * compressed units are decoded and encoded in parallel. What was done is written down in a journal beside the
 * partial destination every few seconds, so that a killed conversion can go on.
 *
 * Threads: each call makes its own and ends them before it returns; callbacks come from the calling thread.
 * Disks that are handed in stay the caller's, and may be read by others meanwhile.
 */
#ifndef HV_DISK_CONVERT_H
#define HV_DISK_CONVERT_H

#include "disk/disk.h"

enum hv_convert_holes {
	HV_HOLES_KEEP,   /* holes and zero runs of the source stay so */
	HV_HOLES_SPARSE, /* and zeros inside its data become holes too (4 KiB at a time, or the target's
			    block) */
	HV_HOLES_FULL,   /* everything is allocated in the destination */
};

struct hv_convert_progress {
	uint64_t size;    /* of the virtual disk, bytes */
	uint64_t done;    /* of it dealt with, holes included */
	uint64_t copied;  /* bytes of data written */
	uint64_t skipped; /* bytes passed over as holes or zeros */
	uint64_t lost;    /* salvage: bytes that could not be read */
	bool verifying;   /* the second pass, from 0 again */
};

struct hv_convert_loss {
	uint64_t offset, length; /* on the virtual disk */
	char why[256];
};

struct hv_convert {
	struct hv_disk *source;       /* borrowed */
	const char *path;             /* destination; "-" is standard output (raw only); NULL with `target` */
	struct hv_disk *target;       /* an open writable disk instead (network); borrowed */
	struct hv_disk_create create; /* size 0: the source's; format, subformat... of the destination */
	enum hv_convert_holes holes;
	unsigned threads; /* 0: one a CPU, at most 8 */
	bool verify, digest, resume, salvage;
	bool no_replace;            /* -EEXIST when something has the destination's name in the end */
	bool no_journal;            /* write none (standard output never has one) */
	uint64_t memory;            /* bytes for buffers; 0: 16 MiB */
	uint64_t journal_every_ns;  /* 0: 5 s */
	uint64_t progress_every_ns; /* 0: 0.1 s */

	/*
	 * Called every progress_every_ns from the calling thread; a return other than 0 stops the conversion
	 * (-ECANCELED); the partial file and its journal stay then when anything can be resumed from them.
	 */
	int (*progress)(void *ctx, const struct hv_convert_progress *p);
	void (*lost)(void *ctx, const struct hv_convert_loss *loss); /* salvage: in rising order */
	void *ctx;

	/* results */
	struct hv_convert_progress result;
	uint8_t sha256[32];    /* with digest: of the whole virtual disk as it was written */
	uint64_t resumed_from; /* with resume: where it went on; 0: from the start */
	unsigned losses;
	bool complete;  /* the destination is: with losses that can be so after a failure */
	bool resumable; /* after a failure: a partial file and a journal were left */
};

struct hv_compare {
	bool same;
	uint64_t first;        /* offset of the first differing byte */
	uint64_t first_length; /* of the run of differing 512-byte sectors that starts with its sector */
	uint64_t differing;    /* bytes in differing sectors; the last may be a part of one */
	uint64_t a_size, b_size;
	unsigned threads;                                                /* in: 0 as above */
	int (*progress)(void *ctx, const struct hv_convert_progress *p); /* in */
	void *ctx;                                                       /* in */
};

HV_API_BEGIN
/*
 * 0 done; with salvage and losses -EBADMSG (status UNSAFE) though the destination is complete under its name,
 * its lost ranges zeros. -ESTALE: resume, and the source or the request is another one than the journal's; or
 * the source was written to while it was read.
 */
int hv_convert(struct hv_convert *c, struct hv_error *err);

/*
 * Whether two disks hold the same bytes. Behind the shorter one's end the longer is compared with zeros: the
 * sizes are in the result, for those to whom they matter.
 */
int hv_compare(struct hv_disk *a, struct hv_disk *b, struct hv_compare *c, struct hv_error *err);
HV_API_END

#endif
