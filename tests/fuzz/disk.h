/*
 * What the fuzz targets of disk formats share: the bytes become a file in memory, which is opened as one
 * format, mapped, read here and there, and checked. Every answer but a crash, a hang or a run that makes no
 * sense is right.
 */
#ifndef HV_TESTS_FUZZ_DISK_H
#define HV_TESTS_FUZZ_DISK_H

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/io.h"
#include "disk/disk.h"

/* A memory file with the bytes, cut or lengthened to size when that is not 0; its name goes into path. */
static inline int fuzz_file(const void *data, size_t length, uint64_t size, char path[32])
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC);

	if (fd < 0 || hv_write_full(fd, data, length) < 0 || (size && ftruncate(fd, (off_t)size) < 0))
		abort();
	snprintf(path, 32, "/proc/self/fd/%d", fd);
	return fd;
}

static inline void fuzz_walk(struct hv_disk *d)
{
	struct hv_disk_io *io = hv_disk_io_new();
	static unsigned char buf[64 << 10];
	uint64_t offset = 0;
	struct hv_error err;
	struct hv_run run;

	for (unsigned runs = 0; runs < 256 && offset < hv_disk_size(d); runs++) {
		if (hv_disk_map(d, offset, UINT64_MAX, &run, &err) < 0) {
			offset += 65536 - offset % 65536;
			continue;
		}
		if (run.offset != offset || run.length == 0 || run.length > hv_disk_size(d) - offset)
			abort();
		if (run.kind == HV_RUN_DATA)
			(void)hv_disk_read(d, io, buf,
					   run.length < sizeof(buf) ? (size_t)run.length : sizeof(buf),
					   offset, &err);
		offset += run.length;
	}
	hv_disk_io_free(io);
}

static inline void fuzz_disk(const char *path, const char *format, bool salvage)
{
	struct hv_disk_options options = {.format = format, .salvage = salvage};
	struct hv_disk_check check = {0};
	struct hv_disk_info info;
	struct hv_error err;
	struct hv_disk *d;

	if (hv_disk_open(path, &options, &d, &err) < 0)
		return;
	hv_disk_info(d, &info);
	fuzz_walk(d);
	(void)hv_disk_check(d, &check, &err);
	hv_disk_close(d);
}

/* The whole of a plain target: probe, then open both ways. */
static inline void fuzz_image(const char *format, const void *data, size_t length, uint64_t size)
{
	const char *found;
	struct hv_error err;
	char path[32];
	int fd = fuzz_file(data, length, size, path);

	(void)hv_disk_probe(path, 0, 0, &found, &err);
	fuzz_disk(path, format, false);
	fuzz_disk(path, format, true);
	close(fd);
}

#endif
