/*
 * Lab 9: the block device: requests to read and write sectors, served from a disk image of any format. It
 * calls the transport, its worker and libhvdisk; it is the one file of the VMM that does.
 *
 * Rules: virtio 1.2, section 5.2; 5.2.6 (device operation) has the requests.
 *
 *   to read    header: type (32), reserved (32), first sector (64); then data of a write, or ranges
 *   to write   data of a read, or the serial number; the very last byte is the status
 *
 * How driver and device cut this into buffers means nothing (2.7.4), so the header is the first 16 bytes to
 * read and the status the last one to write, wherever they lie. A request without either can't be answered:
 * the device needs a reset. What is wrong inside a request, on the other hand, and what the host can't do, is
 * answered with a status: the guest's file system knows what to do with an I/O error, and the VM goes on.
 *
 * A vCPU never waits for the disk: it only wakes the worker, which moves bytes straight between the image and
 * the guest's buffers. Where the kernel can do that by itself (hv_blk_move) the worker goes on with the next
 * request meanwhile, and the answer is given when the kernel is done; everything else is done here, one after
 * the other. Either way a flush covers all writes that were answered before it came.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "device/virtio/blk_impl.h"

#define ID 2u

enum { /* the type of a request */
       TYPE_IN = 0,
       TYPE_OUT = 1,
       TYPE_FLUSH = 4,
       TYPE_GET_ID = 8,
       TYPE_DISCARD = 11,
       TYPE_WRITE_ZEROES = 13,
};

/* Features of section 5.2.3, as bits. */
#define F_SEG_MAX      (1ull << 2)
#define F_RO           (1ull << 5)
#define F_BLK_SIZE     (1ull << 6)
#define F_FLUSH        (1ull << 9)
#define F_CONFIG_WCE   (1ull << 11)
#define F_MQ           (1ull << 12)
#define F_DISCARD      (1ull << 13)
#define F_WRITE_ZEROES (1ull << 14)

enum { /* the configuration space (5.2.4): offsets of its fields */
       CONFIG_CAPACITY = 0,
       CONFIG_SEG_MAX = 12,
       CONFIG_BLK_SIZE = 20,
       CONFIG_WRITEBACK = BLK_CONFIG_WRITEBACK,
       CONFIG_QUEUES = 34,
       CONFIG_DISCARD_SECTORS = 36,
       CONFIG_DISCARD_RANGES = 40,
       CONFIG_DISCARD_ALIGNMENT = 44,
       CONFIG_ZEROES_SECTORS = 48,
       CONFIG_ZEROES_RANGES = 52,
       CONFIG_ZEROES_MAY_UNMAP = 56,
       CONFIG_LENGTH = 60,
};

#define HEADER_SIZE    16u
#define RANGE_SIZE     16u
#define RANGE_UNMAP    1u               /* a range's flag, for zeroes */
#define RANGES_MAX     16u              /* of one request */
#define RANGE_SECTORS  (16u << 20 >> 9) /* of one range: so no request takes long */
#define DATA_MAX       (64u << 20)      /* bytes of one read or write, likewise */
#define SEGMENTS_MAX   (HV_VIRTQ_BUFFERS_MAX - 2)
#define COMPLAINTS_MAX 8 /* I/O errors that the log tells as warnings */

/* --- requests, on the worker's thread, the lock let go --- */

/* The host is full: not the guest's mistake, and someone can do something about it. */
static bool is_full(int rc)
{
	return rc == -ENOSPC || rc == -EDQUOT || rc == -EFBIG;
}

uint8_t hv_blk_answer(struct blk *b, int rc, const char *what, uint64_t at, const struct hv_error *err)
{
	if (rc == 0)
		return STATUS_OK;
	if (is_full(rc) && b->v.host.full) {
		hv_log(b->v.host.log, HV_LOG_WARN,
		       "%s: %s at byte %llu found no room on the host: %s; the VM stops: make room and "
		       "resume "
		       "it",
		       b->v.name, what, (unsigned long long)at, err->text);
		b->full = -rc;
		return STATUS_KEEP;
	}
	hv_log(b->v.host.log, b->complaints++ < COMPLAINTS_MAX ? HV_LOG_WARN : HV_LOG_INFO,
	       "%s: %s at byte %llu failed, and the guest was told so: %s", b->v.name, what,
	       (unsigned long long)at, err->text);
	return STATUS_IOERR;
}

/* The range is whole sectors of this disk. sector is the guest's: sector * 512 may not fit. */
static bool is_on_disk(const struct blk *b, uint64_t sector, uint64_t length)
{
	/* hv:solution lab=9 task=7 */
	return length % SECTOR == 0 && sector <= b->size / SECTOR &&
	       hv_inside(sector * SECTOR, length, b->size);
	/* hv:end */
}

/* The `length` bytes of buffers[] behind the first `skip` ones, from or to the disk from byte `at` on. */
static uint8_t transfer(struct blk *b, const struct iovec *buffers, size_t skip, size_t length, uint64_t at,
			bool write)
{
	uint8_t status = hv_blk_move(b, buffers, skip, length, at, write);
	struct hv_error err;
	int rc = 0;

	if (status != HV_BLK_NOT_PLAIN)
		return status;
	if (write)
		hv_blk_settle(b); /* a table may change */
	/* hv:solution lab=9 task=7 */
	for (; length > 0 && rc == 0; buffers++) {
		uint8_t *data = buffers->iov_base;
		size_t n = buffers->iov_len;

		if (skip >= n) {
			skip -= n;
			continue;
		}
		data += skip;
		n = n - skip < length ? n - skip : length;
		skip = 0;
		rc = write ? hv_disk_write(b->disk, b->io, data, n, at, &err)
			   : hv_disk_read(b->disk, b->io, data, n, at, &err);
		if (rc)
			return hv_blk_answer(b, rc, write ? "a write" : "a read", at, &err);
		at += n;
		length -= n;
	}
	/* hv:end */
	return STATUS_OK;
}

static uint8_t serve_read(struct blk *b, uint64_t sector)
{
	const struct hv_virtq_chain *c = &b->chain;
	size_t length = c->write_length - 1;

	/* hv:solution lab=9 task=7 hole=STATUS_UNSUPP */
	if (length > DATA_MAX || !is_on_disk(b, sector, length))
		return STATUS_IOERR;
	return transfer(b, c->buffers + c->readable, 0, length, sector * SECTOR, false);
	/* hv:end */
}

static uint8_t serve_flush(struct blk *b)
{
	uint8_t status = hv_blk_sync(b);
	struct hv_error err;
	int rc;

	if (status != HV_BLK_NOT_PLAIN)
		return status;
	/* hv:solution lab=9 task=8 hole=STATUS_UNSUPP */
	rc = hv_disk_flush(b->disk, &err);
	return hv_blk_answer(b, rc, "a flush", 0, &err);
	/* hv:end */
}

static uint8_t serve_write(struct blk *b, uint64_t sector)
{
	const struct hv_virtq_chain *c = &b->chain;
	size_t length = c->read_length - HEADER_SIZE;
	uint8_t status;

	/* hv:solution lab=9 task=7 hole=STATUS_UNSUPP */
	if (b->v.offered & F_RO || length > DATA_MAX || !is_on_disk(b, sector, length))
		return STATUS_IOERR;
	status = transfer(b, c->buffers, HEADER_SIZE, length, sector * SECTOR, true);
	return status == STATUS_OK && b->writethrough ? serve_flush(b) : status;
	/* hv:end */
}

static uint8_t serve_id(struct blk *b)
{
	/* hv:solution lab=9 task=6 hole=STATUS_UNSUPP */
	if (b->chain.write_length - 1 < sizeof(b->serial))
		return STATUS_IOERR;
	hv_virtq_write(&b->chain, 0, b->serial, sizeof(b->serial));
	return STATUS_OK;
	/* hv:end */
}

/* Discard and write zeroes (5.2.6.2): ranges that read as zeros afterwards; where the image's format can,
 * they take no room any more. That is more than a discard asks for and no less. */
static uint8_t serve_ranges(struct blk *b, bool discard)
{
	const struct hv_virtq_chain *c = &b->chain;
	uint32_t length = c->read_length - HEADER_SIZE;
	uint8_t raw[RANGES_MAX][RANGE_SIZE];
	struct hv_error err;

	/* hv:solution lab=9 task=8 hole=STATUS_UNSUPP */
	if (b->v.offered & F_RO || length == 0 || length % RANGE_SIZE || length > sizeof(raw))
		return STATUS_IOERR;
	hv_virtq_read(c, HEADER_SIZE, raw, length);
	for (unsigned i = 0; i < length / RANGE_SIZE; i++) {
		uint64_t sector = hv_le64(raw[i]);
		uint32_t sectors = hv_le32(raw[i] + 8), flags = hv_le32(raw[i] + 12);
		int rc;

		if (flags & ~(discard ? 0 : RANGE_UNMAP))
			return STATUS_UNSUPP;
		if (sectors > RANGE_SECTORS || !is_on_disk(b, sector, (uint64_t)sectors * SECTOR))
			return STATUS_IOERR;
		hv_blk_settle(b);
		rc = hv_disk_zero(b->disk, b->io, sector * SECTOR, (uint64_t)sectors * SECTOR, &err);
		if (rc)
			return hv_blk_answer(b, rc, discard ? "a discard" : "a write of zeroes",
					     sector * SECTOR, &err);
	}
	return STATUS_OK;
	/* hv:end */
}

static uint8_t serve(struct blk *b)
{
	uint8_t header[HEADER_SIZE];
	uint64_t sector;

	/* hv:solution lab=9 task=6 hole=STATUS_UNSUPP */
	hv_virtq_read(&b->chain, 0, header, sizeof(header));
	sector = hv_le64(header + 8);
	switch (hv_le32(header)) {
	case TYPE_IN:
		return serve_read(b, sector);
	case TYPE_OUT:
		return serve_write(b, sector);
	case TYPE_FLUSH:
		return serve_flush(b);
	case TYPE_GET_ID:
		return serve_id(b);
	case TYPE_DISCARD:
		return serve_ranges(b, true);
	case TYPE_WRITE_ZEROES:
		return serve_ranges(b, false);
	default:
		return STATUS_UNSUPP;
	}
	/* hv:end */
}

void hv_blk_finish(struct blk *b, const struct hv_virtq_chain *chain, unsigned queue, uint8_t status)
{
	/* hv:solution lab=9 task=6 */
	hv_virtq_write(chain, chain->write_length - 1, &status, 1);
	b->served++;
	hv_virtio_push(&b->v, queue, chain, chain->write_length);
	/* hv:end */
}

/* 5.2.6.2: a driver that can't flush, or has said that it won't, finds its writes on stable storage. */
static bool is_writethrough(const struct blk *b)
{
	if (hv_virtio_has(&b->v, F_CONFIG_WCE))
		return !b->v.config[CONFIG_WRITEBACK];
	return !hv_virtio_has(&b->v, F_FLUSH);
}

/* The next request into b->chain: one that was kept, or the queues' in turn. */
static bool take(struct blk *b)
{
	if (hv_blk_has_kept(b))
		return hv_blk_take_kept(b);
	for (unsigned i = 0; i < b->v.queue_count; i++) {
		b->queue = (b->queue + 1) % b->v.queue_count;
		if (hv_virtio_pop(&b->v, b->queue, &b->chain))
			return true;
	}
	return false;
}

/* hv_virtio_step_fn */
static bool blk_step(struct hv_virtio *v)
{
	struct blk *b = blk_of(v);
	uint8_t status;

	if (!take(b))
		return false;
	b->writethrough = is_writethrough(b);
	/* hv:solution lab=9 task=6 */
	if (b->chain.read_length < HEADER_SIZE || b->chain.write_length == 0) {
		hv_virtio_needs_reset(v, b->queue,
				      b->chain.write_length ? "a request without a header"
							    : "a request without room for its status");
		return false;
	}
	/* hv:end */
	pthread_mutex_unlock(&v->dev.lock);
	status = serve(b);
	pthread_mutex_lock(&v->dev.lock);
	if (status == STATUS_KEEP)
		hv_blk_keep(b, &b->chain, b->queue);
	else if (status != STATUS_LATER)
		hv_blk_finish(b, &b->chain, b->queue, status);
	return true;
}

static const struct hv_virtio_worker_ops worker_ops = {
	.collect = hv_blk_collect,
	.rested = hv_blk_rested,
};

/* Where there is a ring, that is what the worker waits at. */
static void wait_at_ring(struct hv_virtio *v, int kick, bool *kicked)
{
	hv_blk_ring_wait(blk_of(v)->image->ring, kick);
}

static const struct hv_virtio_worker_ops ring_ops = {
	.collect = hv_blk_collect,
	.sleep = wait_at_ring,
	.rested = hv_blk_rested,
};

/* --- the device --- */

static void blk_notify(struct hv_virtio *v, unsigned queue)
{
	hv_virtio_worker_wake(&blk_of(v)->worker);
}

static void blk_hold(struct hv_virtio *v, bool held)
{
	hv_virtio_worker_hold(&blk_of(v)->worker, held);
	if (!held)
		hv_blk_let_go(blk_of(v));
}

/* The one field that a driver may write: whether writes may wait for a flush. */
static void blk_config_write(struct hv_virtio *v, unsigned offset, uint32_t value, unsigned size)
{
	if (offset == CONFIG_WRITEBACK && size == 1 && hv_virtio_has(v, F_CONFIG_WCE))
		v->config[CONFIG_WRITEBACK] = value & 1;
}

static void blk_reset(struct hv_virtio *v)
{
	hv_blk_drop_kept(v);
	v->config[CONFIG_WRITEBACK] = 1;
}

static void blk_describe(struct hv_virtio *v, char *buf, size_t size)
{
	struct blk *b = blk_of(v);
	struct hv_disk_info info;

	hv_disk_info(b->disk, &info);
	snprintf(buf, size, "%s %s%s, %llu sectors, %llu requests", info.format, info.path,
		 v->offered & F_RO ? " (read only)" : "", (unsigned long long)(b->size / SECTOR),
		 (unsigned long long)b->served);
}

static void blk_stop(struct hv_virtio *v)
{
	hv_virtio_worker_stop(&blk_of(v)->worker);
}

static void blk_destroy(struct hv_virtio *v)
{
	struct blk *b = blk_of(v);

	if (b->image)
		hv_disk_flush(b->disk, NULL);
	hv_disk_io_free(b->io);
	hv_blk_close(b->image);
	free(b->out);
	free(b);
}

static const struct hv_virtio_ops blk_ops = {
	.name = "blk",
	.id = ID,
	.version = 2,
	.queues = HV_BLK_QUEUES_MAX,
	.notify = blk_notify,
	.config_write = blk_config_write,
	.hold = blk_hold,
	.reset = blk_reset,
	.save = hv_blk_save,
	.load = hv_blk_load,
	.kept = hv_blk_kept,
	.describe = blk_describe,
	.stop = blk_stop,
	.destroy = blk_destroy,
};

static void fill_config(struct hv_virtio *v, const struct hv_disk_info *info, uint64_t size)
{
	uint8_t *c = v->config;

	v->config_length = CONFIG_LENGTH;
	hv_put_le64(c + CONFIG_CAPACITY, size / SECTOR);
	hv_put_le32(c + CONFIG_SEG_MAX, SEGMENTS_MAX);
	hv_put_le32(c + CONFIG_BLK_SIZE, info->sector_size);
	c[CONFIG_WRITEBACK] = 1;
	hv_put_le16(c + CONFIG_QUEUES, (uint16_t)v->queue_count);
	if (v->offered & F_RO)
		return;
	hv_put_le32(c + CONFIG_DISCARD_SECTORS, RANGE_SECTORS);
	hv_put_le32(c + CONFIG_DISCARD_RANGES, RANGES_MAX);
	hv_put_le32(c + CONFIG_DISCARD_ALIGNMENT, info->sector_size / SECTOR);
	hv_put_le32(c + CONFIG_ZEROES_SECTORS, RANGE_SECTORS);
	hv_put_le32(c + CONFIG_ZEROES_RANGES, RANGES_MAX);
	c[CONFIG_ZEROES_MAY_UNMAP] = 1;
}

int hv_virtio_blk_resize(struct hv_device *dev, uint64_t size, struct hv_error *err)
{
	struct blk *b = hv_container_of(dev, struct blk, v.dev);
	int rc;

	pthread_mutex_lock(&dev->lock);
	blk_hold(&b->v, true);
	rc = size % SECTOR ? hv_fail_usage(err, "%s: a disk has whole sectors; %llu is no multiple of 512",
					   b->v.name, (unsigned long long)size)
			   : hv_disk_resize(b->disk, size, err);
	if (!rc) {
		b->size = size;
		hv_put_le64(b->v.config + CONFIG_CAPACITY, size / SECTOR);
		hv_virtio_config_changed(&b->v);
	}
	blk_hold(&b->v, false);
	pthread_mutex_unlock(&dev->lock);
	return rc;
}

static int make_room(struct blk *b)
{
	b->io = hv_disk_io_new();
	b->out = calloc(HV_BLK_OUT_MAX, sizeof(*b->out));
	b->kept_end = &b->kept;
	for (unsigned i = 0; b->out && i < HV_BLK_OUT_MAX; i++)
		hv_blk_out_put(b, &b->out[i]);
	return b->io && b->out ? 0 : -ENOMEM;
}

int hv_virtio_blk_create(const struct hv_virtio_host *host, struct hv_blk_image *image, const char *serial,
			 unsigned queues, struct hv_device **out, struct hv_error *err)
{
	bool writable = hv_disk_may_write(image->disk, NULL) == 0;
	struct blk *b = calloc(1, sizeof(*b));
	struct hv_disk_info info;
	int rc;

	if (!b)
		return hv_fail(err, ENOMEM, "virtio-blk: no memory for the device; close other programs");
	hv_disk_info(image->disk, &info);
	b->size = info.size;
	hv_virtio_init(&b->v, &blk_ops, host,
		       F_SEG_MAX | F_BLK_SIZE | F_FLUSH | (queues > 1 ? F_MQ : 0) |
			       (writable ? F_CONFIG_WCE | F_DISCARD | F_WRITE_ZEROES : F_RO));
	b->v.queue_count = queues < HV_BLK_QUEUES_MAX ? queues : HV_BLK_QUEUES_MAX;
	fill_config(&b->v, &info, b->size);
	if (serial)
		memcpy(b->serial, serial, strnlen(serial, sizeof(b->serial)));
	rc = make_room(b)
		     ? hv_fail(err, ENOMEM, "%s: no memory for its requests; close other programs", b->v.name)
		     : 0;
	b->image = image;
	b->disk = image->disk;
	if (!rc)
		rc = hv_virtio_worker_start_with(&b->worker, &b->v, blk_step,
						 image->ring ? &ring_ops : &worker_ops, err);
	if (rc) {
		b->image = NULL; /* it stays the caller's */
		hv_device_destroy(&b->v.dev);
		return rc;
	}
	hv_virtio_worker_offload(&b->worker);
	*out = &b->v.dev;
	return 0;
}
