/*
 * What the fuzz targets of appliances share: the bytes become a file in a folder of its own, which is opened,
 * verified, and read as far as it leads. Every answer but a crash or a hang is right.
 */
#ifndef HV_TESTS_FUZZ_APPLIANCE_H
#define HV_TESTS_FUZZ_APPLIANCE_H

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/io.h"
#include "disk/appliance.h"

static char fuzz_folder[128], fuzz_path[192];

static inline void fuzz_remove(void)
{
	unlink(fuzz_path);
	rmdir(fuzz_folder);
}

/* The file of that name, with the bytes; its folder is made once and goes at the end. */
static inline void fuzz_write(const char *name, const void *data, size_t length)
{
	const char *base = getenv("TMPDIR");
	int fd;

	if (!fuzz_folder[0]) {
		snprintf(fuzz_folder, sizeof(fuzz_folder), "%.100s/hvfuzz.XXXXXX", base ? base : "/dev/shm");
		if (!mkdtemp(fuzz_folder))
			abort();
		snprintf(fuzz_path, sizeof(fuzz_path), "%s/%s", fuzz_folder, name);
		atexit(fuzz_remove);
	}
	fd = open(fuzz_path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0 || hv_write_full(fd, data, length) < 0)
		abort();
	close(fd);
}

/* Text that is shown must be clean: no control character ever. */
static inline void fuzz_text(const char *text)
{
	for (; text && *text; text++)
		if ((unsigned char)*text < 0x20 || *text == 0x7f)
			abort();
}

static inline void fuzz_drive(struct hv_appliance *a, const struct hv_appliance_drive *d)
{
	const struct hv_disk_options raw = {.format = "raw"};
	struct hv_disk *disk = NULL;
	struct hv_error err;

	fuzz_text(d->file);
	fuzz_text(d->why);
	fuzz_text(d->model);
	if (d->trouble && (d->path || !d->why))
		abort();
	if (d->kind == HV_DRIVE_DISK && d->file && (!d->name || !*d->name || strpbrk(d->name, "/\\ \"'$")))
		abort();
	if (d->path && !hv_appliance_disk_open(a, d, &raw, &disk, &err))
		hv_disk_close(disk);
}

static inline void fuzz_appliance(const char *name, const void *data, size_t length, bool salvage)
{
	const struct hv_appliance_options options = {.salvage = salvage};
	struct hv_appliance_info info;
	struct hv_appliance *a;
	struct hv_error err = {0};

	fuzz_write(name, data, length);
	if (hv_appliance_open(fuzz_path, &options, &a, &err)) {
		if (!err.text[0] || !err.code)
			abort();
		return;
	}
	(void)hv_appliance_verify(a, NULL, NULL, &err);
	hv_appliance_info(a, &info);
	for (unsigned i = 0; i < info.vms; i++) {
		const struct hv_appliance_vm *vm = &info.vm[i];

		fuzz_text(vm->name);
		fuzz_text(vm->os);
		fuzz_text(vm->firmware);
		for (unsigned j = 0; j < vm->drives; j++)
			fuzz_drive(a, &vm->drive[j]);
		for (unsigned j = 0; j < vm->nics; j++) {
			fuzz_text(vm->nic[j].mac);
			fuzz_text(vm->nic[j].network);
			fuzz_text(vm->nic[j].model);
		}
		for (unsigned j = 0; vm->other[j]; j++)
			fuzz_text(vm->other[j]);
	}
	for (unsigned i = 0; info.notes[i]; i++)
		fuzz_text(info.notes[i]);
	hv_appliance_close(a);
}

#endif
