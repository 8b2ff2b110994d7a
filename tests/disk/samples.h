/*
 * Source images for tests of conversion: raw files with data, zeros and holes where a seed says, and what a
 * test asks about files.
 */
#ifndef HV_TESTS_DISK_SAMPLES_H
#define HV_TESTS_DISK_SAMPLES_H

#include <stdbool.h>
#include <stdint.h>

#include "disk/convert.h"

void sample_enter(void); /* a fresh folder, made the working directory */
void sample_leave(void); /* removes it */

/* A raw file: pieces of `piece` bytes at most, a third of them holes, a third zeros that are written. */
void sample_make(const char *name, uint64_t size, uint32_t piece, uint32_t seed);
struct hv_disk *sample_open(const char *name);
bool sample_same(const char *a, const char *b); /* byte for byte, and the same length */
uint64_t sample_allocated(const char *name);    /* bytes on the disk */
unsigned sample_files(void);                    /* in the folder */

/* Converts `from` to `to` as *c says (its source and path are filled in). The error's text must be there. */
int sample_convert(const char *from, const char *to, struct hv_convert *c, struct hv_error *err);

#endif
