/*
 * Inside core/disk: the files of an image that is being written, under temporary names until it is complete.
 * NAME is written as NAME.partial, held by a lock (a second writer is refused). One thread.
 */
#ifndef HV_DISK_OUTPUT_H
#define HV_DISK_OUTPUT_H

#include "disk/file.h"

struct hv_output;

/*
 * Begins NAME.partial beside path. A leftover of that name is emptied, or kept and opened when resume is set
 * (-ENOENT when there is none). Refused: a path that is a directory, a device or a symbolic link; a partial
 * that another process holds (-EBUSY).
 */
int hv_output_begin(const char *path, bool resume, struct hv_output **output, struct hv_error *err);
/* Another file beside the first, by its name without a folder. The file belongs to the output. */
int hv_output_add(struct hv_output *o, const char *name, struct hv_disk_file **file, struct hv_error *err);
struct hv_disk_file *hv_output_file(struct hv_output *o, unsigned index); /* NULL past the last */
const char *hv_output_path(const struct hv_output *o);                    /* the final one, as given */
/* What a partial file was when a checkpoint was written: which file, and how long. */
struct hv_output_mark {
	uint64_t device, inode, length;
};
int hv_output_mark(struct hv_output *o, unsigned index, struct hv_output_mark *mark, struct hv_error *err);
/*
 * For a resumed output, right after hv_output_begin: its files, those that are added later too, must be
 * these, and are cut to these lengths. -ESTALE for a file that is another one or shorter, also from
 * hv_output_add.
 */
int hv_output_expect(struct hv_output *o, const struct hv_output_mark *mark, unsigned count,
		     struct hv_error *err);
int hv_output_sync(struct hv_output *o, struct hv_error *err); /* fsyncs all */
/* From now on commit gives no name that something has: -EEXIST, and nothing of the output is left. */
void hv_output_no_replace(struct hv_output *o);
/* fsyncs all, renames the first last, fsyncs the folder. */
int hv_output_commit(struct hv_output *o, struct hv_error *err);
/* Leave the partial files for a later resume when the output is freed (a journal's doing); else they go. */
void hv_output_keep(struct hv_output *o, bool keep);
/* Removes what was not committed or kept. Frees. NULL is fine. */
void hv_output_free(struct hv_output *o);
/* Only unlinks what is neither committed nor kept, for a signal handler: nothing is freed. */
void hv_output_unlink(struct hv_output *o);

#endif
