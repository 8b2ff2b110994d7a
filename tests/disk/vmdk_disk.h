/*
 * What the tests of VMDK share: a disk read as a whole, along its map; how many errors a check counts.
 */
#ifndef HV_TESTS_DISK_VMDK_DISK_H
#define HV_TESTS_DISK_VMDK_DISK_H

#include <stdlib.h>

#include "disk/disk.h"

struct read_back {
	int rc; /* the first failure; what was read elsewhere is there */
	uint8_t *bytes;
	size_t length;
};

static inline int vmdk_read_run(struct hv_disk *d, struct hv_disk_io *io, uint8_t *bytes, uint64_t at,
				uint64_t *length, struct hv_error *err)
{
	struct hv_run run;
	int rc = hv_disk_map(d, at, hv_disk_size(d) - at, &run, err);

	*length = 65536 - at % 65536;
	if (rc < 0)
		return rc;
	*length = run.length;
	return run.kind == HV_RUN_DATA ? hv_disk_read(d, io, bytes + at, run.length, at, err) : 0;
}

/* Reads the disk; only the first failure's sentence stays in err. */
static inline struct read_back vmdk_read(const char *path, const struct hv_disk_options *options,
					 struct hv_error *err)
{
	struct read_back r = {0};
	struct hv_disk_io *io;
	struct hv_error later;
	struct hv_disk *d;

	r.rc = hv_disk_open(path, options, &d, err);
	if (r.rc < 0)
		return r;
	io = hv_disk_io_new();
	r.length = hv_disk_size(d);
	r.bytes = calloc(1, r.length + 1);
	for (uint64_t at = 0, n; at < r.length; at += n) {
		int rc = vmdk_read_run(d, io, r.bytes, at, &n, r.rc ? &later : err);

		if (rc < 0 && r.rc == 0)
			r.rc = rc;
	}
	hv_disk_io_free(io);
	hv_disk_close(d);
	return r;
}

static inline void vmdk_told(void *ctx, enum hv_check_severity severity, const char *text)
{
	struct hv_error *err = ctx;

	if (severity == HV_CHECK_ERROR)
		snprintf(err->text, sizeof(err->text), "%s", text);
}

/* The errors that a check counts, -errno when it can't be done. */
static inline int vmdk_errors(const char *path, struct hv_error *err)
{
	struct hv_disk_check check = {.found = vmdk_told, .ctx = err};
	struct hv_disk *d;
	int rc = hv_disk_open(path, NULL, &d, err);

	if (rc < 0)
		return rc;
	rc = hv_disk_check(d, &check, err);
	hv_disk_close(d);
	return rc < 0 ? rc : (int)check.errors;
}

static inline enum hv_run_kind vmdk_kind_at(const char *path, uint64_t at)
{
	struct hv_error err;
	struct hv_disk *d;
	struct hv_run run = {0};

	if (hv_disk_open(path, NULL, &d, &err) < 0 || hv_disk_map(d, at, 1, &run, &err) < 0)
		abort();
	hv_disk_close(d);
	return run.kind;
}

#endif
