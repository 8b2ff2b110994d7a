/*
 * What the tests of image formats share: a folder of their own, other programs, and whole disks as bytes.
 */
#ifndef HV_TESTS_DISK_IMAGES_H
#define HV_TESTS_DISK_IMAGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "disk/disk.h"

/* A fresh folder as the working directory, and its end with all that is in it. */
void images_enter(void);
void images_leave(void);

/* Runs a shell command with its output in the file "log"; its exit status. */
int images_run(const char *fmt, ...) HV_PRINTF(1, 2);
bool images_have(const char *program);

/* A small generator, so that a failure can be seen again: the seed is all it needs. */
struct images_random {
	uint64_t state;
};
uint64_t images_next(struct images_random *r);
uint64_t images_below(struct images_random *r, uint64_t limit);

/* Bytes of a disk: holes, zeros, text, noise, in pieces of uneven lengths. */
void images_fill(struct images_random *r, uint8_t *bytes, size_t length);

void images_put(const char *path, const void *bytes, size_t length);
uint8_t *images_get(const char *path, size_t *length); /* free */
/* The whole of a disk as hv_disk_read gives it, or its error; *bytes is to be freed. */
int images_read(const char *path, const struct hv_disk_options *options, uint8_t **bytes, size_t *length,
		struct hv_error *err);
/* images_read, which must work and give these bytes. */
void images_expect(const char *path, const char *format, const uint8_t *bytes, size_t length);
/* The findings of a check, which must be possible. */
struct hv_disk_check images_check(const char *path, const char *format);

#endif
