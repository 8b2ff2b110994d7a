/*
 * Exact I/O: whole buffers or an error, EINTR and short counts dealt with here; files that appear under their
 * name only when complete.
 */
#ifndef HV_BASE_IO_H
#define HV_BASE_IO_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

HV_API_BEGIN
/* All of length bytes, or a negative errno; a file that ends early is -ENODATA. The fd must be blocking. */
int hv_read_full(int fd, void *buf, size_t length);
int hv_write_full(int fd, const void *buf, size_t length);
int hv_pread_full(int fd, void *buf, size_t length, uint64_t offset);
int hv_pwrite_full(int fd, const void *buf, size_t length, uint64_t offset);

/*
 * A file being written. hv_file_begin makes PATH.tmp-XXXXXX beside path; hv_file_commit fsyncs it, renames it
 * to path and fsyncs the directory; hv_file_abandon removes it. The directory is held open from the start, so
 * that commit and abandon need no path but the two names in it. A path that is a device, a directory or a
 * symbolic link is refused at the start. Not for use by two threads at once;
 * hv_file_abandon may be called in a signal handler.
 */
struct hv_file {
	int fd; /* write here; -1 when not begun */
	int dir;
	char name[256], temp[256];
};
int hv_file_begin(struct hv_file *f, const char *path, unsigned mode, struct hv_error *err);
int hv_file_commit(struct hv_file *f, struct hv_error *err);
void hv_file_abandon(struct hv_file *f);

/*
 * Reads a whole regular file into fresh anonymous memory (a mapping would raise SIGBUS if the file were
 * truncated meanwhile). An empty or non-regular file, and one larger than max, is refused with a sentence
 * that starts with path. hv_load_fd reads an open descriptor from its start and leaves it open. Free with
 * hv_unload.
 */
int hv_load_file(const char *path, uint64_t max, void **data, size_t *size, struct hv_error *err);
int hv_load_fd(int fd, const char *path, uint64_t max, void **data, size_t *size, struct hv_error *err);
void hv_unload(void *data, size_t size);
HV_API_END

#endif
