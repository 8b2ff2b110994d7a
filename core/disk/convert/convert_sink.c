/*
 * Where a conversion's items go. Four kinds of destination: a format that gives out room in its file (place),
 * one that is written from front to back unit by unit (append), standard output (stream), and an open disk
 * that takes writes anywhere (target). A sink of its own, none, only has the bytes looked at.
 *
 * Plain data is moved by copy_file_range where the two files allow it: that is a reflink where the file
 * system has them, and a copy inside the kernel elsewhere. One mover at a time: two would only wait for the
 * destination's inode lock, and spin while they do.
 */
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/bytes.h"
#include "disk/convert/convert_impl.h"

#define WRITE_BACK (16ULL << 20) /* so many bytes written: tell the kernel to begin with its part */
#define COPY_STEP  (256U << 10)  /* read and written through memory: stays in the second-level cache */

const struct hv_sink hv_sink_none = {0};

/* --- place ------------------------------------------------------------------------------------------------ */

static int fill_zeros(struct hv_disk_file *f, uint64_t at, uint64_t length, struct hv_error *err)
{
	int rc = 0;

	while (length > 0 && rc == 0) {
		size_t n = length < HV_ZEROS ? (size_t)length : HV_ZEROS;
		rc = hv_disk_file_write(f, hv_zeros, n, at, err);
		at += n;
		length -= n;
	}
	return rc;
}

/* Room that was used before: what this piece doesn't cover is made zeros; later pieces may write there. */
static int clean_room(struct hv_pipe *p, const struct hv_run *room, const struct hv_piece *piece,
		      struct hv_error *err)
{
	struct hv_disk_file *f = p->dest->file[room->file];
	uint64_t head = piece->offset - room->offset, end = room->offset + room->length;
	int rc;

	if (room->fresh)
		return 0;
	rc = fill_zeros(f, room->at, head, err);
	if (rc == 0 && piece->offset + piece->length < end) {
		uint64_t from = piece->offset + piece->length;
		rc = fill_zeros(f, room->at + (from - room->offset), end - from, err);
	}
	return rc;
}

/*
 * The room that holds the start of a piece: the last that was given out; or one that exists (a fixed image's,
 * or what an earlier run has begun, whose map may not be whole yet); or a new one.
 */
static int find_room(struct hv_worker *w, const struct hv_piece *piece)
{
	struct hv_pipe *p = w->pipe;
	struct hv_run *room = &p->last_room;
	int rc;

	if (room->length > 0 && piece->offset >= room->offset && piece->offset - room->offset < room->length)
		return 0;
	if (p->dest->block_size &&
	    hv_disk_map_layer(p->dest, piece->offset, piece->length, room, &w->err) == 0 &&
	    (room->kind == HV_RUN_DATA || room->fresh) && room->stored == HV_STORED_PLAIN)
		return 0;
	*room = (struct hv_run){0};
	rc = p->dest->format->place(p->dest, piece->offset, piece->length, room, &w->err);
	if (rc == 0 && (room->offset > piece->offset || room->file >= p->dest->files ||
			piece->offset - room->offset >= room->length))
		rc = hv_fail(&w->err, EIO, "%s: the format gave no room for offset %llu", p->dest->path,
			     (unsigned long long)piece->offset);
	if (rc == 0)
		rc = clean_room(p, room, piece, &w->err);
	if (rc == 0)
		rc = p->dest->format->commit(p->dest, room, &w->err);
	if (rc)
		room->length = 0;
	return rc;
}

static int place_piece(struct hv_worker *w, struct hv_piece piece)
{
	const struct hv_run *room = &w->pipe->last_room;

	while (piece.length > 0) {
		struct hv_piece part = piece;
		int rc = find_room(w, &piece);
		if (rc)
			return rc;
		uint64_t into = piece.offset - room->offset;
		if (part.length > room->length - into)
			part.length = room->length - into;
		part.to = w->pipe->dest->file[room->file];
		part.to_at = room->at + into;
		if (hv_add_piece(&w->room, &w->rooms, &w->room_room, &part, &w->err))
			return -ENOMEM;
		piece.offset += part.length;
		piece.from_at += part.length;
		piece.length -= part.length;
	}
	return 0;
}

static int place_ordered(struct hv_worker *w, struct hv_item *item)
{
	struct hv_pipe *p = w->pipe;
	int rc = 0;

	pthread_mutex_lock(&p->dest->lock);
	for (unsigned i = 0; i < w->pieces && rc == 0; i++)
		rc = place_piece(w, w->piece[i]);
	pthread_mutex_unlock(&p->dest->lock);
	return rc;
}

/* --- moving and writing ----------------------------------------------------------------------------------- */

/* Whether the kernel says that it can't, and not that something is wrong with these bytes. */
static bool cannot(int errnum)
{
	return errnum == EXDEV || errnum == EINVAL || errnum == ENOSYS || errnum == EOPNOTSUPP ||
	       errnum == EPERM || errnum == EBADF || errnum == ETXTBSY || errnum == EOVERFLOW;
}

/* Through memory what the kernel doesn't move, or what it moves no further: reading tells why. */
static int copy_by_hand(struct hv_worker *w, const struct hv_piece *m)
{
	size_t step = COPY_STEP < w->pipe->chunk ? COPY_STEP : w->pipe->chunk;
	int rc = 0;

	for (uint64_t done = 0; done < m->length && rc == 0; done += step) {
		size_t n = step < m->length - done ? step : (size_t)(m->length - done);
		rc = hv_disk_file_read(m->from, "data", w->bytes, n, m->from_at + done, &w->err);
		if (rc == 0)
			rc = hv_disk_file_write(m->to, w->bytes, n, m->to_at + done, &w->err);
	}
	return rc;
}

static int move(struct hv_worker *w, struct hv_piece m)
{
	struct hv_pipe *p = w->pipe;

	while (m.length > 0 && !__atomic_load_n(&p->no_kernel_copy, __ATOMIC_RELAXED)) {
		off_t from = (off_t)(m.from->base + m.from_at), to = (off_t)(m.to->base + m.to_at);
		ssize_t n = copy_file_range(m.from->fd, &from, m.to->fd, &to, (size_t)m.length, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno != EIO && !cannot(errno))
			return hv_fail_errno(&w->err, "%s: writing %llu bytes at offset %llu", m.to->path,
					     (unsigned long long)m.length, (unsigned long long)m.to_at);
		if (n < 0 && cannot(errno))
			__atomic_store_n(&p->no_kernel_copy, true, __ATOMIC_RELAXED);
		if (n <= 0)
			break;
		hv_disk_file_grown(m.to, m.to_at + (uint64_t)n);
		m.offset += (uint64_t)n;
		m.from_at += (uint64_t)n;
		m.to_at += (uint64_t)n;
		m.length -= (uint64_t)n;
	}
	return m.length > 0 ? copy_by_hand(w, &m) : 0;
}

/* Write-back that begins while there is still work for the CPUs is not waited for at the end. */
static void write_back(struct hv_pipe *p, const struct hv_disk_file *f, uint64_t length)
{
	uint64_t before = __atomic_fetch_add(&p->unsynced, length, __ATOMIC_RELAXED);

	if (before / WRITE_BACK != (before + length) / WRITE_BACK)
		(void)sync_file_range(f->fd, 0, 0, SYNC_FILE_RANGE_WRITE);
}

static int place_store(struct hv_worker *w, struct hv_item *item)
{
	struct hv_pipe *p = w->pipe;
	uint64_t data = 0;
	int rc = 0;

	for (unsigned i = 0; i < w->rooms && rc == 0; i++) {
		const struct hv_piece *r = &w->room[i];
		pthread_mutex_lock(&p->write_lock);
		if (r->from)
			rc = move(w, *r);
		else
			rc = hv_disk_file_write(r->to, w->bytes + (r->offset - item->offset),
						(size_t)r->length, r->to_at, &w->err);
		pthread_mutex_unlock(&p->write_lock);
		data += r->length;
		if (rc == 0)
			write_back(p, r->to, r->length);
	}
	if (rc == 0)
		hv_pipe_count(p, data, item->length - data);
	return rc;
}

const struct hv_sink hv_sink_place = {.ordered = place_ordered, .store = place_store};

/* --- append ----------------------------------------------------------------------------------------------- */

/* Bytes of the unit that starts `at` bytes into the item; behind the disk's end the last is filled up. */
static uint8_t *unit_at(struct hv_worker *w, const struct hv_item *item, uint64_t at)
{
	uint32_t unit = w->pipe->unit;

	if (item->length - at < unit)
		memset(w->bytes + item->length, 0, unit - (size_t)(item->length - at));
	return w->bytes + at;
}

static int append_fetch(struct hv_worker *w, struct hv_item *item)
{
	struct hv_pipe *p = w->pipe;
	struct hv_disk *d = p->dest;
	int rc = 0;

	for (uint64_t at = 0; at < item->length && !item->hole && d->format->encode && rc == 0;
	     at += p->unit) {
		const uint8_t *plain = unit_at(w, item, at);
		size_t i = (size_t)(at / p->unit);
		w->out_length[i] = 0;
		if (!hv_is_zero(plain, p->unit))
			rc = d->format->encode(d, w->io, item->offset + at, plain,
					       w->out + i * d->format->encode_bound, &w->out_length[i],
					       &w->err);
	}
	return rc;
}

static int append_ordered(struct hv_worker *w, struct hv_item *item)
{
	struct hv_pipe *p = w->pipe;
	struct hv_disk *d = p->dest;
	uint64_t data = 0;
	int rc = 0;

	pthread_mutex_lock(&d->lock);
	for (uint64_t at = 0; at < item->length && !item->hole && rc == 0; at += p->unit) {
		size_t i = (size_t)(at / p->unit);
		if (d->format->encode && w->out_length[i] > 0) {
			rc = d->format->append(d, item->offset + at, w->out + i * d->format->encode_bound,
					       w->out_length[i], &w->err);
		} else if (!d->format->encode && !hv_is_zero(unit_at(w, item, at), p->unit)) {
			rc = d->format->append(d, item->offset + at, w->bytes + at, p->unit, &w->err);
		} else {
			continue;
		}
		data += p->unit < item->length - at ? p->unit : item->length - at;
	}
	pthread_mutex_unlock(&d->lock);
	if (rc == 0)
		hv_pipe_count(p, data, item->length - data);
	return rc;
}

const struct hv_sink hv_sink_append = {.fetch = append_fetch, .ordered = append_ordered};

/* --- stream ----------------------------------------------------------------------------------------------- */

/* Waits until the reader takes more; a conversion that was stopped doesn't wait for it. */
static int wait_writable(struct hv_worker *w)
{
	struct pollfd f = {.fd = w->pipe->fd, .events = POLLOUT};

	if (hv_pipe_failed(w->pipe) || __atomic_load_n(&w->pipe->cancelled, __ATOMIC_RELAXED))
		return hv_fail(&w->err, ECANCELED, "standard output: stopped");
	(void)poll(&f, 1, 100);
	return 0;
}

static int stream_error(struct hv_worker *w)
{
	return hv_fail_errno(&w->err, "standard output: cannot write to it");
}

/* RWF_NOWAIT keeps a full pipe from holding the thread; what doesn't know the flag is written plainly. */
static int stream_bytes(struct hv_worker *w, const void *data, size_t length)
{
	struct hv_pipe *p = w->pipe;
	const uint8_t *at = data;

	while (length > 0) {
		struct iovec io = {.iov_base = (void *)at, .iov_len = length};
		ssize_t n = pwritev2(p->fd, &io, 1, -1, p->plain_write ? 0 : RWF_NOWAIT);
		if (n > 0) {
			at += n;
			length -= (size_t)n;
		} else if (n < 0 && (errno == EOPNOTSUPP || errno == EINVAL) && !p->plain_write) {
			p->plain_write = true;
		} else if (n < 0 && errno == EAGAIN) {
			int rc = wait_writable(w);
			if (rc)
				return rc;
		} else if (n == 0 || errno != EINTR) {
			errno = n == 0 ? EIO : errno;
			return stream_error(w);
		}
	}
	return 0;
}

static int stream_zeros(struct hv_worker *w, uint64_t length)
{
	int rc = 0;

	while (length > 0 && rc == 0) {
		size_t n = length < HV_ZEROS ? (size_t)length : HV_ZEROS;
		rc = stream_bytes(w, hv_zeros, n);
		length -= n;
	}
	return rc;
}

/* A file's pages into a pipe without a copy. */
static int stream_splice(struct hv_worker *w, struct hv_piece m)
{
	struct hv_pipe *p = w->pipe;

	while (m.length > 0 && !p->no_kernel_copy) {
		off_t from = (off_t)(m.from->base + m.from_at);
		ssize_t n = splice(m.from->fd, &from, p->fd, NULL, (size_t)m.length, SPLICE_F_NONBLOCK);
		int rc = 0;
		if (n < 0 && errno == EAGAIN)
			rc = wait_writable(w);
		else if (n < 0 && errno != EINTR && !cannot(errno) && errno != EIO)
			rc = stream_error(w);
		else if (n < 0 && cannot(errno))
			p->no_kernel_copy = true;
		else if (n == 0 || (n < 0 && errno == EIO))
			break;
		if (rc)
			return rc;
		m.from_at += n > 0 ? (uint64_t)n : 0;
		m.length -= n > 0 ? (uint64_t)n : 0;
	}
	while (m.length > 0) {
		size_t n = m.length < COPY_STEP ? (size_t)m.length : COPY_STEP;
		int rc = hv_disk_file_read(m.from, "data", w->bytes, n, m.from_at, &w->err);
		if (rc == 0)
			rc = stream_bytes(w, w->bytes, n);
		if (rc)
			return rc;
		m.from_at += n;
		m.length -= n;
	}
	return 0;
}

/* A piece's bytes: by their place where the output is a file, one after the other elsewhere. */
static int stream_piece(struct hv_worker *w, const struct hv_item *item, struct hv_piece m)
{
	struct hv_pipe *p = w->pipe;
	const uint8_t *bytes = w->bytes + (m.offset - item->offset);

	if (p->out) {
		m.to = p->out;
		m.to_at = m.offset;
		return m.from ? move(w, m)
			      : hv_disk_file_write(p->out, bytes, (size_t)m.length, m.offset, &w->err);
	}
	return m.from ? stream_splice(w, m) : stream_bytes(w, bytes, (size_t)m.length);
}

static int stream_gap(struct hv_worker *w, uint64_t offset, uint64_t length)
{
	struct hv_pipe *p = w->pipe;

	if (!p->out)
		return stream_zeros(w, length);
	return p->out_fresh ? 0 : fill_zeros(p->out, offset, length, &w->err);
}

static int stream_ordered(struct hv_worker *w, struct hv_item *item)
{
	uint64_t at = item->offset, end = item->offset + item->length, data = 0;
	int rc = 0;

	for (unsigned i = 0; i < w->pieces && rc == 0; i++) {
		const struct hv_piece *m = &w->piece[i];
		if (m->offset > at)
			rc = stream_gap(w, at, m->offset - at);
		if (rc == 0)
			rc = stream_piece(w, item, *m);
		at = m->offset + m->length;
		data += m->length;
	}
	if (rc == 0 && at < end)
		rc = stream_gap(w, at, end - at);
	if (rc == 0)
		hv_pipe_count(w->pipe, data, item->length - data);
	return rc;
}

const struct hv_sink hv_sink_stream = {.zeros = true, .ordered = stream_ordered};

/* --- target ----------------------------------------------------------------------------------------------- */

static int target_zero(struct hv_worker *w, uint64_t offset, uint64_t length)
{
	struct hv_pipe *p = w->pipe;
	int rc = 0;

	if (!p->full)
		return hv_disk_zero(p->dest, w->io, offset, length, &w->err);
	while (length > 0 && rc == 0) {
		size_t n = length < HV_ZEROS ? (size_t)length : HV_ZEROS;
		rc = hv_disk_write(p->dest, w->io, hv_zeros, n, offset, &w->err);
		offset += n;
		length -= n;
	}
	return rc;
}

static int target_store(struct hv_worker *w, struct hv_item *item)
{
	struct hv_pipe *p = w->pipe;
	uint64_t at = item->offset, end = item->offset + item->length, data = 0;
	int rc = 0;

	for (unsigned i = 0; i < w->pieces && rc == 0; i++) {
		const struct hv_piece *m = &w->piece[i];
		if (m->offset > at)
			rc = target_zero(w, at, m->offset - at);
		if (rc == 0)
			rc = hv_disk_write(p->dest, w->io, w->bytes + (m->offset - item->offset),
					   (size_t)m->length, m->offset, &w->err);
		at = m->offset + m->length;
		data += m->length;
	}
	if (rc == 0 && at < end)
		rc = target_zero(w, at, end - at);
	if (rc == 0)
		hv_pipe_count(p, data, item->length - data);
	return rc;
}

const struct hv_sink hv_sink_target = {.zeros = true, .store = target_store};
