/*
 * Inside core/disk: the journal of a conversion, NAME.partial.journal. It tells of which source, and for
 * which request, the partial files beside it hold everything below the watermark. Written to a temporary name
 * and renamed, so there is an old one or a new one and never a torn one; a hash over all of it finds what
 * went wrong nevertheless.
 *
 * Sections of the state codec, in this order: convert.source (its files), convert.request, convert.state
 * (watermark, partial files, counts), convert.losses, convert.sums, convert.end (XXH3 of all bytes before).
 */
#ifndef HV_DISK_JOURNAL_H
#define HV_DISK_JOURNAL_H

#include "disk/convert.h"
#include "disk/output.h"

#define HV_JOURNAL_NEW ".new" /* behind its name, while it is being written */

/* A file of the source's chain, and what would show that it has changed. */
struct hv_journal_source {
	char *path; /* owned */
	uint64_t device, inode, base, size;
	int64_t mtime_ns;
	uint64_t head, tail; /* XXH3 of the first and the last 64 KiB */
};

struct hv_journal_loss {
	uint64_t offset, length;
	char *why; /* owned; NULL: not kept */
};

struct hv_journal {
	struct hv_journal_source *source;
	unsigned sources;

	char format[32], subformat[32], backing[4096];
	uint64_t size;
	uint32_t sector_size, block_size, holes;
	bool full, salvage;

	uint64_t watermark, copied, skipped;
	struct hv_output_mark *mark; /* of the partial files, in order */
	unsigned marks;

	struct hv_journal_loss *loss;
	unsigned losses;

	uint64_t stretch; /* verify's sums; 0: none */
	uint64_t *sums;
	uint64_t sum_count;
};

/* Which files a disk has, and when they were written to last; -ENOTSUP when none could be known again. */
int hv_journal_identify(struct hv_journal *j, const struct hv_disk *source, struct hv_error *err);
/* And their first and last bytes. Apart, as most conversions end before they need a journal. */
int hv_journal_hash(struct hv_journal *j, const struct hv_disk *source, struct hv_error *err);
/* 0; -ESTALE and a sentence that says which file or which part of the request is another one. */
int hv_journal_match(const struct hv_journal *saved, const struct hv_journal *now, struct hv_error *err);

int hv_journal_write(const char *path, const struct hv_journal *j, struct hv_error *err);
/* -ENOENT: there is none; -EBADMSG: it is damaged. */
int hv_journal_read(const char *path, struct hv_journal *j, struct hv_error *err);
/* The bytes of one; what hv_journal_read does after reading the file. */
int hv_journal_parse(const void *data, size_t length, struct hv_journal *j, struct hv_error *err);
void hv_journal_free(struct hv_journal *j);

#endif
