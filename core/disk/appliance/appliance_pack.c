/*
 * Disks that an OVF package holds in another form than as one file: cut into pieces (ovf:chunkSize:
 * NAME.000000000, NAME.000000001...), compressed as a whole (ovf:compression="gzip", RFC 1952), or both
 * (DSP0243, file references). They can't be read where they stand, and are put together first, in a file that
 * has no name and goes with its descriptor. libarchive inflates; that all of it came, and came right, the
 * checksum at the stream's end tells.
 */
#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <libdeflate.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/io.h"
#include "disk/appliance/appliance_impl.h"

#define CHUNK        (256U << 10)
#define TRAILER      8           /* CRC-32 and length of what was compressed */
#define ROOM_FOR_ALL (64U << 20) /* an image's tables and headers, beside an eighth of its disk */

struct unpack {
	struct hv_appliance *a;
	const struct hv_appliance_drive *drive;
	struct hv_error *err;
	int in, out;
	unsigned part;
	uint64_t in_part, done, packed; /* read of this piece; of all; how many there are */
	uint64_t written, limit;
	uint32_t crc;
	uint8_t trailer[TRAILER]; /* the last bytes that were read */
	uint8_t chunk[CHUNK], plain[CHUNK];
};

/* --- reading: the pieces as one stream --- */

static int open_part(struct unpack *u, const struct hv_appliance_part *p)
{
	u->in = u->a->archive ? dup(u->a->fd) : open(p->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	u->in_part = 0;
	return u->in < 0 ? hv_fail_errno(u->err, "%s: cannot open it", p->path) : 0;
}

static void keep_trailer(struct unpack *u, size_t n)
{
	if (n >= TRAILER) {
		size_t from = n - TRAILER;

		memcpy(u->trailer, u->chunk + from, TRAILER);
		return;
	}
	memmove(u->trailer, u->trailer + n, TRAILER - n);
	memcpy(u->trailer + TRAILER - n, u->chunk, n);
}

/* The next bytes into u->chunk: how many, 0 at the end. */
static int64_t read_next(struct unpack *u)
{
	const struct hv_appliance_options *o = &u->a->options;
	const struct hv_appliance_part *p = &u->drive->part[u->part];
	uint64_t n, at;
	int rc;

	if (u->part == u->drive->parts)
		return 0;
	if (o->progress && o->progress(o->ctx, u->done, u->packed))
		return hv_fail(u->err, ECANCELED, "%s: stopped", u->drive->file);
	rc = u->in < 0 ? open_part(u, p) : 0;
	if (rc)
		return rc;
	n = p->length - u->in_part;
	n = n < CHUNK ? n : CHUNK;
	at = p->at + u->in_part;
	rc = hv_pread_full(u->in, u->chunk, n, at);
	if (rc)
		return hv_fail(u->err, rc == -ENODATA ? EIO : -rc, "%s: cannot read it at byte %llu", p->path,
			       (unsigned long long)at);
	keep_trailer(u, n);
	u->in_part += n;
	u->done += n;
	if (u->in_part == p->length) {
		close(u->in);
		u->in = -1;
		u->part++;
	}
	return (int64_t)n;
}

/* --- writing --- */

static bool is_zero(const uint8_t *data, size_t length)
{
	return data[0] == 0 && memcmp(data, data + 1, length - 1) == 0;
}

static int write_more(struct unpack *u, const uint8_t *data, size_t n)
{
	int rc = is_zero(data, n) ? 0 : hv_pwrite_full(u->out, data, n, u->written); /* zeros: a hole */

	if (rc)
		return hv_fail(u->err, -rc, "%s: cannot put %s together there: %s", u->a->options.spool,
			       u->drive->file, strerror(-rc));
	u->written += n;
	return 0;
}

static int join(struct unpack *u)
{
	int64_t n;
	int rc = 0;

	while (rc == 0 && (n = read_next(u)) != 0)
		rc = n < 0 ? (int)n : write_more(u, u->chunk, (size_t)n);
	return rc;
}

/* --- gzip --- */

static la_ssize_t give(struct archive *z, void *ctx, const void **data)
{
	struct unpack *u = ctx;
	int64_t n = read_next(u);

	*data = u->chunk;
	if (n < 0)
		archive_set_error(z, (int)-n, "%s", u->err->text);
	return n < 0 ? ARCHIVE_FATAL : (la_ssize_t)n;
}

static int no_stream(struct unpack *u, struct archive *z)
{
	const char *why = archive_error_string(z);

	if (u->err->code) /* reading failed, not the stream */
		return u->err->code;
	return hv_fail_unsafe(u->err, "%s: its file %s, which should be gzip's, can't be unpacked: %s",
			      u->a->path, u->drive->file, why ? why : "it is damaged");
}

static int inflate_all(struct unpack *u, struct archive *z)
{
	la_ssize_t n;
	int rc = 0;

	while (rc == 0 && (n = archive_read_data(z, u->plain, CHUNK)) != 0) {
		if (n < 0)
			return no_stream(u, z);
		if ((uint64_t)n > u->limit - u->written)
			return hv_fail_unsafe(
				u->err,
				"%s: its file %s unpacks to more than the %llu bytes that its disk "
				"could take",
				u->a->path, u->drive->file, (unsigned long long)u->limit);
		u->crc = libdeflate_crc32(u->crc, u->plain, (size_t)n);
		rc = write_more(u, u->plain, (size_t)n);
	}
	return rc;
}

static int check_trailer(struct unpack *u)
{
	int64_t n;

	while ((n = read_next(u)) > 0)
		; /* what stands behind the stream: then the trailer is not its */
	if (n < 0)
		return (int)n;
	if (u->crc == hv_le32(u->trailer) && (uint32_t)u->written == hv_le32(u->trailer + 4))
		return 0;
	return hv_fail_unsafe(
		u->err,
		"%s: its file %s unpacks to %llu bytes with the checksum %08x; its end says %u and %08x",
		u->a->path, u->drive->file, (unsigned long long)u->written, u->crc, hv_le32(u->trailer + 4),
		hv_le32(u->trailer));
}

static int inflate(struct unpack *u)
{
	struct archive *z = archive_read_new();
	struct archive_entry *e;
	int rc;

	if (!z)
		return hv_fail(u->err, ENOMEM, "%s: no memory to unpack it", u->drive->file);
	if (archive_read_support_format_raw(z) != ARCHIVE_OK ||
	    archive_read_append_filter(z, ARCHIVE_FILTER_GZIP) != ARCHIVE_OK ||
	    archive_read_open(z, u, NULL, give, NULL) != ARCHIVE_OK ||
	    archive_read_next_header(z, &e) != ARCHIVE_OK)
		rc = no_stream(u, z);
	else
		rc = inflate_all(u, z);
	archive_read_free(z);
	return rc ? rc : check_trailer(u);
}

/* --- the whole --- */

/* Without a name from the start where the file system can, or soon after. */
static int open_spool(const char *folder)
{
	int fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	char *name;

	if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR) ||
	    asprintf(&name, "%s/.spool-XXXXXX", folder) < 0)
		return fd;
	fd = mkostemp(name, O_CLOEXEC);
	if (fd >= 0)
		unlink(name);
	free(name);
	return fd;
}

static int start(struct unpack *u)
{
	const struct hv_appliance_drive *d = u->drive;

	if (!u->a->options.spool)
		return hv_fail(
			u->err, ENOTSUP,
			"%s: its file %s is cut or compressed, and no folder is given to put it together in",
			u->a->path, d->file);
	if (d->gzip && !d->capacity)
		return hv_fail(u->err, ENOTSUP,
			       "%s: its file %s is compressed, and the description doesn't say how large its "
			       "disk is; unpack it first",
			       u->a->path, d->file);
	for (unsigned i = 0; i < d->parts; i++)
		u->packed += d->part[i].length;
	u->limit = d->capacity + d->capacity / 8 + ROOM_FOR_ALL;
	u->in = -1;
	u->out = open_spool(u->a->options.spool);
	return u->out < 0
		       ? hv_fail_errno(u->err, "%s: cannot make a temporary file there", u->a->options.spool)
		       : 0;
}

int hv_appliance_unpack(struct hv_appliance *a, const struct hv_appliance_drive *d, int *fd,
			struct hv_error *err)
{
	struct unpack *u = calloc(1, sizeof(*u));
	struct hv_error unseen = {0};
	int rc;

	if (!u)
		return hv_fail(err, ENOMEM, "%s: no memory to unpack it", d->file);
	u->a = a;
	u->drive = d;
	u->err = err ? err : &unseen;
	*u->err = (struct hv_error){0}; /* its code tells reading from inflating */
	rc = start(u);
	if (!rc) {
		rc = d->gzip ? inflate(u) : join(u);
		if (!rc && ftruncate(u->out, (off_t)u->written) < 0)
			rc = hv_fail_errno(u->err, "%s: cannot put %s together there", a->options.spool,
					   d->file);
		if (u->in >= 0)
			close(u->in);
		if (rc)
			close(u->out);
	}
	*fd = u->out;
	free(u);
	return rc;
}
