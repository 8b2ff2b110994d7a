/*
 * A folder of its own for each test, made below TMPDIR and removed with all that is in it.
 */
#ifndef HV_TESTS_DISK_TMP_H
#define HV_TESTS_DISK_TMP_H

#include <fcntl.h>
#include <ftw.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct tmp {
	char dir[256];
	char path[512]; /* of the last tmp_path */
};

static inline int tmp_drop_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st, (void)type, (void)ftw;
	return remove(path);
}

static inline void tmp_make(struct tmp *t)
{
	const char *base = getenv("TMPDIR");

	snprintf(t->dir, sizeof(t->dir), "%s/hvdisk.XXXXXX", base ? base : "/tmp");
	if (!mkdtemp(t->dir))
		abort();
}

static inline void tmp_drop(struct tmp *t)
{
	nftw(t->dir, tmp_drop_one, 16, FTW_DEPTH | FTW_PHYS);
}

static inline const char *tmp_path(struct tmp *t, const char *name)
{
	snprintf(t->path, sizeof(t->path), "%s/%s", t->dir, name);
	return t->path;
}

/* A file with these bytes at an offset; it is made, or what it holds elsewhere stays. */
static inline void tmp_put(struct tmp *t, const char *name, const void *data, size_t length, uint64_t offset)
{
	int fd = open(tmp_path(t, name), O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	if (fd < 0 || pwrite(fd, data, length, (off_t)offset) != (ssize_t)length)
		abort();
	close(fd);
}

#endif
