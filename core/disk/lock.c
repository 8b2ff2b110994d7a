/*
 * Locks on an image's files, so that no two processes write one disk, or one writes what another reads. They
 * are open file description locks (fcntl(2), F_OFD_SETLK) on the descriptors that the disk has anyway: they
 * go with the last of these, however the process ends, and a close elsewhere in the process doesn't drop
 * them.
 *
 * They are advisory: who doesn't ask for one isn't kept out. QEMU asks, for single bytes of a file, and so
 * finds a lock on all of them in its way.
 */
#include <fcntl.h>
#include <unistd.h>

#include "disk/disk_impl.h"

static int lock_file(const struct hv_disk_file *f, bool write, struct hv_error *err)
{
	struct flock lock = {.l_type = write ? F_WRLCK : F_RDLCK, .l_whence = SEEK_SET};

	if (fcntl(f->fd, F_OFD_SETLK, &lock) == 0)
		return 0;
	if (errno == EAGAIN || errno == EACCES)
		return hv_fail(err, EBUSY,
			       write ? "%s: another process has it open; end that one first, or open it for "
				       "reading only in both"
				     : "%s: another process has it open for writing; end that one first",
			       f->path);
	if (errno == ENOLCK || errno == EOPNOTSUPP || errno == EINVAL || errno == ENOSYS)
		return 0; /* a file system without locks: as safe as before */
	return hv_fail_errno(err, "%s: can't be locked", f->path);
}

int hv_disk_lock(struct hv_disk *disk, struct hv_error *err)
{
	int rc = 0;

	for (const struct hv_disk *d = disk; d && rc == 0; d = d->parent)
		for (unsigned i = 0; i < d->files && rc == 0; i++)
			rc = lock_file(d->file[i], d->file[i]->writable, err);
	return rc;
}

int hv_disk_lock_probe(const char *path, struct hv_error *err)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	int fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY), rc = 0;

	if (fd < 0) { /* who may only read it can still see a writer */
		fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
		lock.l_type = F_RDLCK;
	}
	if (fd < 0)
		return 0;
	if (fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK)
		rc = hv_fail(err, EBUSY,
			     "%s: another process has it open; end that one first, or give another name",
			     path);
	close(fd);
	return rc;
}
