/*
 * Exact I/O: see io.h. This room calls nothing but libc.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/io.h"

int hv_read_full(int fd, void *buf, size_t length)
{
	for (char *p = buf; length > 0;) {
		ssize_t n = read(fd, p, length);
		if (n == 0)
			return -ENODATA;
		if (n < 0) {
			if (errno == EINTR)
				continue;
			return -errno;
		}
		p += n;
		length -= (size_t)n;
	}
	return 0;
}

int hv_write_full(int fd, const void *buf, size_t length)
{
	for (const char *p = buf; length > 0;) {
		ssize_t n = write(fd, p, length);
		if (n == 0)
			return -EIO; /* POSIX leaves it open for devices; trying again could go on for ever */
		if (n < 0) {
			if (errno == EINTR)
				continue;
			return -errno;
		}
		p += n;
		length -= (size_t)n;
	}
	return 0;
}

int hv_pread_full(int fd, void *buf, size_t length, uint64_t offset)
{
	for (char *p = buf; length > 0;) {
		ssize_t n = pread(fd, p, length, (off_t)offset);
		if (n == 0)
			return -ENODATA;
		if (n < 0) {
			if (errno == EINTR)
				continue;
			return -errno;
		}
		p += n;
		offset += (uint64_t)n;
		length -= (size_t)n;
	}
	return 0;
}

int hv_pwrite_full(int fd, const void *buf, size_t length, uint64_t offset)
{
	for (const char *p = buf; length > 0;) {
		ssize_t n = pwrite(fd, p, length, (off_t)offset);
		if (n == 0)
			return -EIO;
		if (n < 0) {
			if (errno == EINTR)
				continue;
			return -errno;
		}
		p += n;
		offset += (uint64_t)n;
		length -= (size_t)n;
	}
	return 0;
}

/*
 * Renaming replaces whatever has the name. Root must not turn /dev/null into a file that way, and a link is
 * left to its owner: both are refused before any work is done.
 */
static int check_target(int dir, const char *name, const char *path, struct hv_error *err)
{
	struct stat st;

	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : hv_fail_errno(err, "%s: cannot look at it", path);
	if (S_ISLNK(st.st_mode))
		return hv_fail(err, ELOOP, "%s: is a symbolic link; give the name of the file itself", path);
	if (!S_ISREG(st.st_mode))
		return hv_fail(err, EINVAL, "%s: exists and is not a regular file; give another name", path);
	return 0;
}

int hv_file_begin(struct hv_file *f, const char *path, unsigned mode, struct hv_error *err)
{
	const char *slash = strrchr(path, '/');
	const char *name = slash ? slash + 1 : path;
	char dir[4096];
	uint32_t salt = 0;
	int rc;

	f->fd = f->dir = -1;
	if (*name == '\0' || strlen(name) > sizeof(f->name) - 24)
		return hv_fail(err, EINVAL, "%s: not a usable file name", path);
	if (slash && (size_t)(slash - path) + 1 >= sizeof(dir))
		return hv_fail(err, ENAMETOOLONG, "%s: the path is too long", path);
	snprintf(dir, sizeof(dir), "%.*s", slash ? (int)(slash - path) + 1 : 1, slash ? path : ".");
	f->dir = open(dir, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
	if (f->dir < 0)
		return hv_fail_errno(err, "%s: cannot open its directory", path);
	rc = check_target(f->dir, name, path, err);
	if (rc)
		goto fail;
	snprintf(f->name, sizeof(f->name), "%s", name);
	for (int tries = 0; tries < 16 && f->fd < 0; tries++) {
		if (getrandom(&salt, sizeof(salt), 0) != sizeof(salt))
			salt = (uint32_t)getpid() + (uint32_t)tries;
		snprintf(f->temp, sizeof(f->temp), "%.230s.tmp-%08x", name, salt);
		f->fd = openat(f->dir, f->temp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode);
		if (f->fd < 0 && errno != EEXIST)
			break;
	}
	if (f->fd < 0) {
		rc = hv_fail_errno(err, "%s: cannot write there", path);
		goto fail;
	}
	return 0;
fail:
	close(f->dir);
	f->dir = -1;
	return rc;
}

int hv_file_commit(struct hv_file *f, struct hv_error *err)
{
	int rc = 0;

	if (fsync(f->fd) < 0 && errno != EINVAL && errno != EROFS)
		rc = hv_fail_errno(err, "%s: cannot write it to the disk", f->name);
	if (!rc && renameat(f->dir, f->temp, f->dir, f->name) < 0)
		rc = hv_fail_errno(err, "%s: cannot rename the finished file to its name", f->name);
	if (rc) {
		hv_file_abandon(f);
		return rc;
	}
	(void)fsync(f->dir); /* some file systems refuse it for directories; the rename has happened */
	close(f->fd);
	close(f->dir);
	f->fd = f->dir = -1;
	return 0;
}

void hv_file_abandon(struct hv_file *f)
{
	if (f->fd < 0)
		return;
	close(f->fd);
	unlinkat(f->dir, f->temp, 0);
	close(f->dir);
	f->fd = f->dir = -1;
}

int hv_load_fd(int fd, const char *path, uint64_t max, void **data, size_t *size, struct hv_error *err)
{
	struct stat st;
	void *p;
	int rc;

	if (fstat(fd, &st) < 0)
		return hv_fail_errno(err, "%s: cannot stat it", path);
	if (!S_ISREG(st.st_mode))
		return hv_fail(err, EINVAL, "%s: not a regular file", path);
	if (st.st_size == 0)
		return hv_fail_unsafe(err, "%s: the file is empty; give an image with something in it", path);
	if ((uint64_t)st.st_size > max)
		return hv_fail(err, EFBIG, "%s: %lld bytes is too large here; at most %llu fit", path,
			       (long long)st.st_size, (unsigned long long)max);
	p = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return hv_fail_errno(err, "%s: no memory for its %lld bytes", path, (long long)st.st_size);
	rc = hv_pread_full(fd, p, (size_t)st.st_size, 0);
	if (rc) {
		munmap(p, (size_t)st.st_size);
		return hv_fail(err, -rc, "%s: cannot read it: %s", path,
			       rc == -ENODATA ? "it became shorter while it was read" : strerror(-rc));
	}
	*data = p;
	*size = (size_t)st.st_size;
	return 0;
}

int hv_load_file(const char *path, uint64_t max, void **data, size_t *size, struct hv_error *err)
{
	/* O_NONBLOCK: opening a FIFO must not wait for a writer. */
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	int rc;

	if (fd < 0)
		return hv_fail_errno(err, "%s: cannot open it", path);
	rc = hv_load_fd(fd, path, max, data, size, err);
	close(fd);
	return rc;
}

void hv_unload(void *data, size_t size)
{
	if (data)
		munmap(data, size);
}
