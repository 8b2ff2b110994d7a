/*
 * Inside core/disk: one open file of an image, or a window of one (a member of an archive). All offsets are
 * relative to the window's start and checked against its size; reads past the end are damage, named as such.
 * Any thread.
 */
#ifndef HV_DISK_FILE_H
#define HV_DISK_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct hv_disk_file {
	int fd;
	char *path;    /* for sentences */
	uint64_t base; /* the window's start in the file */
	uint64_t size; /* the window's; of a file being written: what it has grown to (atomic) */
	uint64_t device, inode;
	int64_t mtime_ns; /* when it was opened, as is `ends`, where the whole file ended */
	uint64_t ends;
	bool block_device, writable;
	/* Of a file that is only read: data that seeks have seen, among its tables and elsewhere (atomic). */
	uint64_t data_from[2], data_end[2];
	unsigned data_last;
};

/*
 * Takes fd over on success. at and length as in struct hv_disk_options. Anything but a regular file or a
 * block device is refused.
 */
int hv_disk_file_new(int fd, const char *path, uint64_t at, uint64_t length, struct hv_disk_file **file,
		     struct hv_error *err);
void hv_disk_file_free(struct hv_disk_file *f); /* closes; NULL is fine */
uint64_t hv_disk_file_size(const struct hv_disk_file *f);
/* The kernel has written up to `end` by another way than hv_disk_file_write. */
void hv_disk_file_grown(struct hv_disk_file *f, uint64_t end);

/* -ESTALE when a regular file that is only read was written to, cut or lengthened since it was opened. */
int hv_disk_file_unchanged(const struct hv_disk_file *f, struct hv_error *err);

/* All of length bytes at offset; a file that ends before is -EBADMSG, and the sentence says which `what` is
 * cut. */
int hv_disk_file_read(const struct hv_disk_file *f, const char *what, void *buf, size_t length,
		      uint64_t offset, struct hv_error *err);
/* As many of length bytes as there are; the number, or -errno. */
int64_t hv_disk_file_read_some(const struct hv_disk_file *f, void *buf, size_t length, uint64_t offset,
			       struct hv_error *err);
/* Writes and grows size when it ends behind it. */
int hv_disk_file_write(struct hv_disk_file *f, const void *buf, size_t length, uint64_t offset,
		       struct hv_error *err);
/* Cuts or lengthens the file (a hole). */
int hv_disk_file_resize(struct hv_disk_file *f, uint64_t size, struct hv_error *err);
/* [offset, offset + length) reads as zeros and takes no room where the file system can. */
int hv_disk_file_punch(struct hv_disk_file *f, uint64_t offset, uint64_t length, struct hv_error *err);
int hv_disk_file_sync(struct hv_disk_file *f, struct hv_error *err);
/* Where data and holes of the file itself are: the end of the run of one kind that starts at offset. */
int hv_disk_file_seek(struct hv_disk_file *f, uint64_t offset, bool *data, uint64_t *end,
		      struct hv_error *err);

/* Zeros to write from. */
#define HV_ZEROS (64U << 10)
extern const uint8_t hv_zeros[HV_ZEROS];

#endif
