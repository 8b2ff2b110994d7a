/*
 * One open file of an image: exact reads and writes inside its window. Every offset here comes from an image,
 * so each is checked against the size before the kernel sees it; what lies behind the end is damage, and the
 * sentence names the structure that should have been there.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/io.h"
#include "disk/file.h"

const uint8_t hv_zeros[HV_ZEROS];

static int64_t mtime_of(const struct stat *st)
{
	return (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec;
}

int hv_disk_file_new(int fd, const char *path, uint64_t at, uint64_t length, struct hv_disk_file **file,
		     struct hv_error *err)
{
	struct hv_disk_file *f;
	struct stat st;
	off_t end;

	if (fstat(fd, &st) < 0)
		return hv_fail_errno(err, "%s: can't be looked at", path);
	if (S_ISDIR(st.st_mode))
		return hv_fail(err, EISDIR, "%s: is a folder; name the image file in it", path);
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return hv_fail_unsafe(err, "%s: neither a regular file nor a block device", path);
	end = S_ISREG(st.st_mode) ? st.st_size : lseek(fd, 0, SEEK_END);
	if (end < 0)
		return hv_fail_errno(err, "%s: its size can't be told", path);
	if (at > (uint64_t)end || length > (uint64_t)end - at)
		return hv_fail_unsafe(
			err, "%s: %llu bytes at offset %llu are not all in the file, it ends at %llu", path,
			(unsigned long long)length, (unsigned long long)at, (unsigned long long)end);
	f = calloc(1, sizeof(*f));
	if (f)
		f->path = strdup(path);
	if (!f || !f->path) {
		free(f);
		return hv_fail(err, ENOMEM, "%s: out of memory", path);
	}
	*f = (struct hv_disk_file){
		.fd = fd,
		.path = f->path,
		.base = at,
		.size = length ? length : (uint64_t)end - at,
		.device = st.st_dev,
		.inode = st.st_ino,
		.mtime_ns = mtime_of(&st),
		.ends = (uint64_t)end,
		.block_device = S_ISBLK(st.st_mode),
		.writable = (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDWR,
	};
	*file = f;
	return 0;
}

void hv_disk_file_free(struct hv_disk_file *f)
{
	if (!f)
		return;
	if (f->fd >= 0)
		close(f->fd);
	free(f->path);
	free(f);
}

int hv_disk_file_unchanged(const struct hv_disk_file *f, struct hv_error *err)
{
	struct stat st;

	if (f->writable || f->block_device)
		return 0;
	if (fstat(f->fd, &st) < 0)
		return hv_fail_errno(err, "%s: can't be looked at", f->path);
	if ((uint64_t)st.st_size == f->ends && mtime_of(&st) == f->mtime_ns)
		return 0;
	return hv_fail(err, ESTALE,
		       "%s: was written to while it was read, so that what was read is neither its old state "
		       "nor its new one; stop what uses it (a running VM?) and begin anew",
		       f->path);
}

uint64_t hv_disk_file_size(const struct hv_disk_file *f)
{
	return __atomic_load_n(&f->size, __ATOMIC_ACQUIRE);
}

/* Several threads may lengthen a file at once; the longest wins. */
void hv_disk_file_grown(struct hv_disk_file *f, uint64_t end)
{
	uint64_t size = hv_disk_file_size(f);

	while (size < end &&
	       !__atomic_compare_exchange_n(&f->size, &size, end, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
		;
}

int hv_disk_file_read(const struct hv_disk_file *f, const char *what, void *buf, size_t length,
		      uint64_t offset, struct hv_error *err)
{
	uint64_t size = hv_disk_file_size(f);
	int rc;

	if (!hv_inside(offset, length, size))
		return hv_fail_unsafe(
			err,
			"%s: the %s at offset %llu (%zu bytes) is not all in the file, which ends at %llu",
			f->path, what, (unsigned long long)offset, length, (unsigned long long)size);
	rc = hv_pread_full(f->fd, buf, length, f->base + offset);
	if (rc == -ENODATA)
		return hv_fail_unsafe(err, "%s: the file became shorter while its %s at offset %llu was read",
				      f->path, what, (unsigned long long)offset);
	if (rc < 0)
		return hv_fail(err, -rc, "%s: reading the %s at offset %llu: %s", f->path, what,
			       (unsigned long long)offset, strerror(-rc));
	return 0;
}

int64_t hv_disk_file_read_some(const struct hv_disk_file *f, void *buf, size_t length, uint64_t offset,
			       struct hv_error *err)
{
	uint64_t size = hv_disk_file_size(f);
	int rc;

	if (offset >= size)
		return 0;
	if (length > size - offset)
		length = (size_t)(size - offset);
	rc = hv_disk_file_read(f, "data", buf, length, offset, err);
	return rc < 0 ? rc : (int64_t)length;
}

int hv_disk_file_write(struct hv_disk_file *f, const void *buf, size_t length, uint64_t offset,
		       struct hv_error *err)
{
	int rc;

	if (!f->writable)
		return hv_fail(err, EROFS, "%s: not opened for writing", f->path);
	if (offset > INT64_MAX - f->base || length > INT64_MAX - f->base - offset)
		return hv_fail(err, EFBIG, "%s: offset %llu is beyond what a file can hold", f->path,
			       (unsigned long long)offset);
	rc = hv_pwrite_full(f->fd, buf, length, f->base + offset);
	if (rc < 0)
		return hv_fail(err, -rc, "%s: writing %zu bytes at offset %llu: %s", f->path, length,
			       (unsigned long long)offset, strerror(-rc));
	hv_disk_file_grown(f, offset + length);
	return 0;
}

int hv_disk_file_resize(struct hv_disk_file *f, uint64_t size, struct hv_error *err)
{
	if (!f->writable)
		return hv_fail(err, EROFS, "%s: not opened for writing", f->path);
	if (f->block_device || f->base)
		return size <= f->size
			       ? 0
			       : hv_fail(err, ENOSPC, "%s: %llu bytes are needed and it has %llu", f->path,
					 (unsigned long long)size, (unsigned long long)f->size);
	if (size > INT64_MAX)
		return hv_fail(err, EFBIG, "%s: %llu bytes are beyond what a file can hold", f->path,
			       (unsigned long long)size);
	if (ftruncate(f->fd, (off_t)size) < 0)
		return hv_fail_errno(err, "%s: can't be made %llu bytes long", f->path,
				     (unsigned long long)size);
	__atomic_store_n(&f->size, size, __ATOMIC_RELEASE);
	return 0;
}

static int write_zeros(struct hv_disk_file *f, uint64_t offset, uint64_t length, struct hv_error *err)
{
	while (length) {
		size_t n = length < HV_ZEROS ? (size_t)length : HV_ZEROS;
		int rc = hv_disk_file_write(f, hv_zeros, n, offset, err);

		if (rc < 0)
			return rc;
		offset += n;
		length -= n;
	}
	return 0;
}

int hv_disk_file_punch(struct hv_disk_file *f, uint64_t offset, uint64_t length, struct hv_error *err)
{
	if (!f->writable)
		return hv_fail(err, EROFS, "%s: not opened for writing", f->path);
	if (!hv_inside(offset, length, INT64_MAX - f->base))
		return hv_fail(err, EFBIG, "%s: offset %llu is beyond what a file can hold", f->path,
			       (unsigned long long)offset);
	if (length == 0)
		return 0;
	if (fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(f->base + offset),
		      (off_t)length) < 0)
		return write_zeros(f, offset, length, err);
	if (offset + length > hv_disk_file_size(f) && !f->block_device)
		return hv_disk_file_resize(f, offset + length, err);
	return 0;
}

int hv_disk_file_sync(struct hv_disk_file *f, struct hv_error *err)
{
	if (fdatasync(f->fd) < 0)
		return hv_fail_errno(err, "%s: can't be brought to stable storage", f->path);
	return 0;
}

/*
 * Looking for the end of data takes some file systems (tmpfs) as long as the data is, and the blocks of an
 * image ask from each of them on. The two words may be of two seeks when threads race: then a hole passes for
 * data, which reads as the same zeros.
 */
static bool known_data(struct hv_disk_file *f, uint64_t offset, uint64_t *end)
{
	for (unsigned i = 0; i < HV_ARRAY_SIZE(f->data_end) && !f->writable; i++) {
		uint64_t known = __atomic_load_n(&f->data_end[i], __ATOMIC_RELAXED);
		if (offset >= known || offset < __atomic_load_n(&f->data_from[i], __ATOMIC_RELAXED))
			continue;
		__atomic_store_n(&f->data_last, i, __ATOMIC_RELAXED);
		*end = known;
		return true;
	}
	return false;
}

static void know_data(struct hv_disk_file *f, uint64_t offset, uint64_t end)
{
	unsigned i = !__atomic_load_n(&f->data_last, __ATOMIC_RELAXED); /* the one not used last */

	__atomic_store_n(&f->data_from[i], offset, __ATOMIC_RELAXED);
	__atomic_store_n(&f->data_end[i], end, __ATOMIC_RELAXED);
	__atomic_store_n(&f->data_last, i, __ATOMIC_RELAXED);
}

/* No data follows: a hole, as far as the file still reaches. What someone has cut off is data, so that
 * reading it fails. */
static int seek_behind_data(const struct hv_disk_file *f, uint64_t offset, bool *data, uint64_t *end,
			    struct hv_error *err)
{
	struct stat st;

	if (fstat(f->fd, &st) < 0)
		return hv_fail_errno(err, "%s: its size can't be told", f->path);
	*data = f->base + offset >= (uint64_t)st.st_size;
	if (!*data && (uint64_t)st.st_size - f->base < *end)
		*end = (uint64_t)st.st_size - f->base;
	return 0;
}

int hv_disk_file_seek(struct hv_disk_file *f, uint64_t offset, bool *data, uint64_t *end,
		      struct hv_error *err)
{
	uint64_t size = hv_disk_file_size(f);
	off_t next;

	*data = true;
	*end = size;
	if (offset >= size || f->block_device || known_data(f, offset, end))
		return 0;
	next = lseek(f->fd, (off_t)(f->base + offset), SEEK_DATA);
	if (next < 0 && errno == ENXIO)
		return seek_behind_data(f, offset, data, end, err);
	if (next < 0)
		return errno == EINVAL ? 0 : hv_fail_errno(err, "%s: its holes can't be told", f->path);
	*data = (uint64_t)next <= f->base + offset;
	if (*data) {
		next = lseek(f->fd, (off_t)(f->base + offset), SEEK_HOLE);
		if (next < 0)
			return 0;
	}
	if ((uint64_t)next - f->base < size)
		*end = (uint64_t)next - f->base;
	/* The file changed under us: call it data, one block at a time, and reading will tell. */
	if (*end <= offset) {
		*data = true;
		*end = offset + 4096 < size ? offset + 4096 : size;
	} else if (*data) {
		know_data(f, offset, *end);
	}
	return 0;
}
