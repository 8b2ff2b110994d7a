/*
 * A disk's plain data: bytes that lie in a file as they are (all of a raw image; of other formats the blocks
 * that are allocated and not compressed). libhvdisk says where; the kernel moves them straight between the
 * file and the guest's buffers, and many requests can be on their way at once. What it has in its cache is
 * there in one call; the rest goes through the ring. Reads and writes of the cache are copies, and the worker
 * makes them itself: handing one to a thread of the kernel's (IOSQE_ASYNC) was measured to cost three to five
 * times the copy, at any length. Without a ring, the worker waits for each request.
 *
 * Order: requests that are on their way at the same time may be done in any order, as the driver has to
 * expect (5.2.6); a flush covers the writes that were given back before it came. Where a table may change,
 * blk.c first waits until nothing is on its way (hv_blk_settle), so no write reaches a place that has become
 * another block's.
 *
 * cache=none: the same by O_DIRECT (open(2)). Buffers that aren't aligned for it go through one of our own;
 * places that aren't, through the host's cache.
 */
#include <errno.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/bytes.h"
#include "device/virtio/blk_impl.h"

/* --- requests that aren't in hand --- */

struct hv_blk_out *hv_blk_out_get(struct blk *b)
{
	struct hv_blk_out *out = b->free;

	if (out)
		b->free = out->next;
	return out;
}

void hv_blk_out_put(struct blk *b, struct hv_blk_out *out)
{
	out->next = b->free;
	b->free = out;
}

/* Without the room for buffers that it doesn't have. */
void hv_blk_chain_copy(struct hv_virtq_chain *to, const struct hv_virtq_chain *from)
{
	memcpy(to, from, offsetof(struct hv_virtq_chain, buffers) + from->count * sizeof(from->buffers[0]));
}

/* The `length` bytes behind the first `skip` ones, as buffers of their own. */
static unsigned cut(struct iovec *iov, const struct iovec *buffers, size_t skip, size_t length)
{
	unsigned count = 0;

	for (; length > 0; buffers++) {
		size_t n = buffers->iov_len;

		if (skip >= n) {
			skip -= n;
			continue;
		}
		n = n - skip < length ? n - skip : length;
		iov[count++] = (struct iovec){.iov_base = (uint8_t *)buffers->iov_base + skip, .iov_len = n};
		skip = 0;
		length -= n;
	}
	return count;
}

/* n more bytes have been moved: false when that was all. */
static bool advance(struct hv_blk_out *out, size_t n)
{
	out->file_at += n;
	out->disk_at += n;
	while (out->first < out->count) {
		struct iovec *iov = &out->iov[out->first];

		if (n < iov->iov_len) {
			iov->iov_base = (uint8_t *)iov->iov_base + n;
			iov->iov_len -= n;
			return true;
		}
		n -= iov->iov_len;
		out->first++;
	}
	return false;
}

/* --- answers --- */

static const char *what_of(const struct hv_blk_out *out)
{
	return out->flush ? "a flush" : out->write ? "a write" : "a read";
}

/* answer: the kernel's, which is the end of this request. */
static uint8_t status_of(struct blk *b, const struct hv_blk_out *out, ssize_t answer)
{
	struct hv_disk_info info;
	struct hv_error err;

	if (answer > 0 || (answer == 0 && out->flush))
		return STATUS_OK;
	hv_disk_info(b->disk, &info);
	if (answer == 0)
		hv_fail(&err, EIO, "%s: the file has become shorter", info.path);
	else
		hv_fail(&err, (int)-answer, "%s: %s", info.path, strerror((int)-answer));
	return hv_blk_answer(b, answer < 0 ? (int)answer : -EIO, what_of(out), out->disk_at, &err);
}

/* After an answer of the ring: there is more to ask for. */
static bool goes_on(struct hv_blk_out *out, int answer)
{
	if (answer == -EINTR || answer == -EAGAIN)
		return true;
	if (out->flush || answer <= 0)
		return false;
	if (advance(out, (size_t)answer))
		return true;
	out->flush = out->through; /* all is written */
	return out->flush;
}

/* --- here, on the worker's thread --- */

static ssize_t move_once(const struct hv_blk_out *out, int flags)
{
	const struct iovec *iov = out->iov + out->first;
	int count = (int)(out->count - out->first);
	ssize_t n;

	if (out->write)
		n = pwritev2(out->fd, iov, count, (off_t)out->file_at, flags);
	else
		n = preadv2(out->fd, iov, count, (off_t)out->file_at, flags);
	return n < 0 ? -errno : n;
}

/* To the end, waiting for the disk. */
static uint8_t move_here(struct blk *b, struct hv_blk_out *out)
{
	for (;;) {
		ssize_t n = move_once(out, 0);

		if (n == -EINTR)
			continue;
		if (n <= 0 || !advance(out, (size_t)n))
			return status_of(b, out, n);
	}
}

/* What the kernel has in its cache; false when that was not all. */
static bool move_cached(struct hv_blk_out *out)
{
	ssize_t n = move_once(out, RWF_NOWAIT);

	return n > 0 && !advance(out, (size_t)n);
}

/* --- by O_DIRECT --- */

static bool is_aligned(const struct hv_blk_image *image, const struct hv_blk_out *out)
{
	for (unsigned i = out->first; i < out->count; i++)
		if ((uintptr_t)out->iov[i].iov_base % image->memory_align ||
		    out->iov[i].iov_len % image->offset_align)
			return false;
	return true;
}

/* Between the bounce buffer and the request's own, which move on. */
static void copy_bounce(struct hv_blk_out *out, uint8_t *bounce, size_t n)
{
	while (n > 0) {
		const struct iovec *iov = &out->iov[out->first];
		size_t part = n < iov->iov_len ? n : iov->iov_len;

		if (out->write)
			memcpy(bounce, iov->iov_base, part);
		else
			memcpy(iov->iov_base, bounce, part);
		advance(out, part);
		bounce += part;
		n -= part;
	}
}

static uint8_t move_bounced(struct blk *b, struct hv_blk_out *out, size_t length)
{
	uint8_t *bounce = b->image->bounce;
	ssize_t n = 1;

	while (length > 0) {
		size_t want = length < HV_BLK_BOUNCE_SIZE ? length : HV_BLK_BOUNCE_SIZE, done = 0;
		uint64_t at = out->file_at;

		if (out->write)
			copy_bounce(out, bounce, want);
		while (done < want) {
			n = out->write ? pwrite(out->fd, bounce + done, want - done, (off_t)(at + done))
				       : pread(out->fd, bounce + done, want - done, (off_t)(at + done));
			n = n < 0 ? -errno : n;
			if (n == -EINTR)
				continue;
			/* Cut in the middle of a block: no further read would be aligned. */
			if (n <= 0 || n % b->image->offset_align)
				return status_of(b, out, n < 0 ? n : 0);
			done += (size_t)n;
		}
		if (!out->write)
			copy_bounce(out, bounce, want);
		length -= want;
	}
	return STATUS_OK;
}

/* --- through the ring --- */

/* A ring that is full is emptied by handing on what is in it. */
static uint8_t hand_on(struct blk *b, struct hv_blk_out *out)
{
	while (!hv_blk_ring_add(b->image->ring, out))
		hv_blk_ring_wait(b->image->ring, b->worker.kick);
	hv_blk_chain_copy(&out->chain, &b->chain);
	out->queue = b->queue;
	b->worker.out++;
	return STATUS_LATER;
}

static void collect_unlocked(struct blk *b)
{
	pthread_mutex_lock(&b->v.dev.lock);
	hv_blk_collect(&b->v);
	pthread_mutex_unlock(&b->v.dev.lock);
}

/* One is left for what may have to be kept. */
static struct hv_blk_out *get(struct blk *b)
{
	while (!b->free || !b->free->next) {
		hv_blk_ring_wait(b->image->ring, b->worker.kick);
		collect_unlocked(b);
	}
	return hv_blk_out_get(b);
}

void hv_blk_collect(struct hv_virtio *v)
{
	struct blk *b = blk_of(v);
	struct hv_blk_out *out;
	bool kicked = false;
	int answer;

	while (b->image->ring && (out = hv_blk_ring_next(b->image->ring, &answer, &kicked))) {
		uint8_t status;

		if (goes_on(out, answer)) {
			if (hv_blk_ring_add(b->image->ring, out))
				continue;
			answer = -EIO;
		}
		status = status_of(b, out, answer);
		b->worker.out--;
		if (status == STATUS_KEEP)
			hv_blk_keep(b, &out->chain, out->queue);
		else
			hv_blk_finish(b, &out->chain, out->queue, status);
		hv_blk_out_put(b, out);
	}
	b->worker.asked = b->worker.asked || kicked;
}

void hv_blk_settle(struct blk *b)
{
	while (b->worker.out > 0) {
		hv_blk_ring_wait(b->image->ring, b->worker.kick);
		collect_unlocked(b);
	}
}

/* --- all together --- */

/* Nothing else of this disk is there to be done, so nothing is held up when the worker does this itself. */
static bool is_alone(const struct blk *b)
{
	return b->worker.out == 0 && !hv_virtq_has_more(&b->v.queues[b->queue]);
}

static uint8_t move(struct blk *b, struct hv_blk_out *out, size_t length)
{
	const struct hv_blk_image *image = b->image;

	if (image->direct >= 0 && out->file_at % image->offset_align == 0 &&
	    length % image->offset_align == 0) {
		out->fd = image->direct;
		if (!is_aligned(image, out))
			return move_bounced(b, out, length);
	} else if (out->write && is_alone(b)) {
		return move_here(b, out);
	} else if (!out->write && move_cached(out)) {
		return STATUS_OK;
	}
	return image->ring ? hand_on(b, out) : move_here(b, out);
}

uint8_t hv_blk_move(struct blk *b, const struct iovec *buffers, size_t skip, size_t length, uint64_t at,
		    bool write)
{
	struct hv_disk_place place;
	struct hv_blk_out *out;
	uint8_t status;

	if (!hv_disk_find_place(b->disk, at, length, write, &place))
		return HV_BLK_NOT_PLAIN;
	out = get(b);
	out->first = 0;
	out->count = cut(out->iov, buffers, skip, length);
	out->fd = place.fd;
	out->file_at = place.at;
	out->disk_at = at;
	out->write = write;
	out->flush = false;
	out->through = write && b->writethrough;
	status = move(b, out, length);
	if (status != STATUS_LATER)
		hv_blk_out_put(b, out);
	return status;
}

uint8_t hv_blk_sync(struct blk *b)
{
	struct hv_disk_place place;
	struct hv_disk_info info;
	struct hv_blk_out *out;

	/* A raw image is one file and nothing else; other formats have tables to write first. */
	hv_disk_info(b->disk, &info);
	if (!b->image->ring || strcmp(info.format, "raw") != 0 ||
	    !hv_disk_find_place(b->disk, 0, SECTOR, true, &place))
		return HV_BLK_NOT_PLAIN;
	out = get(b);
	out->fd = place.fd;
	out->disk_at = 0;
	out->write = out->through = false;
	out->flush = true;
	return hand_on(b, out);
}
