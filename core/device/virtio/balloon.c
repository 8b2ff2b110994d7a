/*
 * The balloon device: the host says how many pages it wants, the driver takes them from the guest's kernel
 * and tells which, and the host has them until the driver takes them back. It calls the transport, its
 * worker, guest memory, the log and base.
 *
 * Rules: virtio 1.2, section 5.5. What the queues carry:
 *
 *   inflate, deflate   page numbers, 32 bits each: of 4 KiB, whatever the guest's pages are
 *   statistics         one buffer of the driver's, filled; it fills it anew when it gets it back (5.5.6.3)
 *   reporting          free pages as buffers for the device to write, the driver's again when they come back
 *
 * A queue that belongs to a feature isn't there without it, and then Linux counts the next ones from the gap
 * on, while the specification gives each a number. So reporting is served wherever a driver may have put it.
 *
 * A page of the balloon goes back to the host at once and is zeros when the guest touches it again, so taking
 * pages out of the balloon needs no work and no permission: DEFLATE_ON_OOM costs nothing, and MUST_TELL_HOST
 * isn't offered. Which pages are in the balloon is the guest's business; a page number that isn't in RAM is
 * refused, and all that a lying driver can lose is its own memory.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/bytes.h"
#include "device/virtio/balloon.h"
#include "device/virtio/worker.h"

enum { QUEUE_INFLATE, QUEUE_DEFLATE, QUEUE_STATS, QUEUES = 5 };

#define ID 5u

/* Features of section 5.5.3, as bits. */
#define F_STATS_VQ       (1ull << 1)
#define F_DEFLATE_ON_OOM (1ull << 2)
#define F_PAGE_POISON    (1ull << 4)
#define F_REPORTING      (1ull << 5)

enum { /* the configuration space (5.5.4): offsets of its fields */
       CONFIG_NUM_PAGES = 0,
       CONFIG_ACTUAL = 4,
       CONFIG_HINT_COMMAND = 8, /* of a feature that is not offered */
       CONFIG_POISON = 12,
       CONFIG_LENGTH = 16,
};

#define PAGE         4096u
#define NUMBER_SIZE  4u
#define STEP_NUMBERS 1024u /* page numbers in one step, whatever a chain holds */
#define STAT_SIZE    10u   /* tag (16), value (64), with nothing between them */
#define STATS_MAX    64u   /* of one buffer; what follows is not looked at */

static const char *const stat_names[HV_BALLOON_STATS] = {
	"stat-swap-in",      "stat-swap-out",     "stat-major-faults",     "stat-minor-faults",
	"stat-free-memory",  "stat-total-memory", "stat-available-memory", "stat-disk-caches",
	"stat-htlb-pgalloc", "stat-htlb-pgfail",  "stat-oom-kills",        "stat-alloc-stalls",
	"stat-async-scans",  "stat-direct-scans", "stat-async-reclaims",   "stat-direct-reclaims",
};

struct balloon {
	struct hv_virtio v;
	struct hv_virtio_worker worker;
	hv_balloon_change_fn *change;
	void *change_ctx;
	uint64_t pages; /* of RAM */

	/* The lock: */
	uint32_t done;      /* page numbers of the next chain to inflate that were dealt with */
	bool stats_wanted;  /* the driver's buffer is to be given back, so that it fills it anew */
	bool stats_awaited; /* that was done, and the new one has not come */
	pthread_cond_t stats_came;
	uint64_t stats_count; /* buffers so far */
	uint32_t stats_known;
	uint64_t stats[HV_BALLOON_STATS];
	uint64_t stats_at;
	uint64_t given_back, reported; /* bytes */
	uint64_t refused;              /* pages */

	/* The worker's own. */
	struct hv_virtq_chain chain;
	bool warned;
};

static struct balloon *balloon_of(struct hv_virtio *v)
{
	return hv_container_of(v, struct balloon, v);
}

const char *hv_balloon_stat_name(unsigned tag)
{
	return tag < HV_BALLOON_STATS ? stat_names[tag] : NULL;
}

/* --- pages into the balloon --- */

struct tally {
	uint64_t given, refused; /* pages */
};

static const char *refusal(int rc)
{
	switch (rc) {
	case -EFAULT:
		return "outside memory";
	case -EROFS:
		return "in read-only memory";
	default:
		return strerror(-rc);
	}
}

static void give_back_page(struct balloon *b, uint64_t page, struct tally *t)
{
	int rc = hv_memory_discard(b->v.host.mem, page * PAGE, PAGE);

	t->given += rc == 0;
	if (rc == 0 ||
	    rc == -EBUSY) /* kept for someone: in the balloon all the same, it just costs the host */
		return;
	t->refused++;
	hv_log(b->v.host.log, b->warned ? HV_LOG_INFO : HV_LOG_WARN,
	       "%s: the guest's driver put the page at %#llx into the balloon, which is %s; it is refused",
	       b->v.name, (unsigned long long)page * PAGE, refusal(rc));
	b->warned = true;
}

/* A run that isn't all of one slot is looked at page by page. */
static void give_back(struct balloon *b, uint64_t first, uint64_t count, struct tally *t)
{
	if (hv_memory_discard(b->v.host.mem, first * PAGE, count * PAGE) == 0) {
		t->given += count;
		return;
	}
	for (uint64_t i = 0; i < count; i++)
		give_back_page(b, first + i, t);
}

/* Neighbours go back together, in whichever direction the driver lists them. */
static void give_back_all(struct balloon *b, const uint8_t *numbers, size_t count, struct tally *t)
{
	for (size_t i = 0; i < count;) {
		uint64_t first = hv_le32(numbers + i * NUMBER_SIZE), last = first;

		for (i++; i < count; i++) {
			uint64_t next = hv_le32(numbers + i * NUMBER_SIZE);

			if (next == last + 1)
				last = next;
			else if (next + 1 == first)
				first = next;
			else
				break;
		}
		give_back(b, first, last - first + 1, t);
	}
}

/* Some pages of one chain. False when there is none. */
static bool inflate(struct balloon *b)
{
	uint8_t numbers[STEP_NUMBERS * NUMBER_SIZE];
	struct hv_virtio *v = &b->v;
	uint64_t at = (uint64_t)b->done * NUMBER_SIZE;
	struct tally t = {0};
	size_t count = 0;

	if (!hv_virtio_pop(v, QUEUE_INFLATE, &b->chain))
		return false;
	if (at < b->chain.read_length) {
		pthread_mutex_unlock(&v->dev.lock);
		count = hv_virtq_read(&b->chain, at, numbers, sizeof(numbers)) / NUMBER_SIZE;
		give_back_all(b, numbers, count, &t);
		pthread_mutex_lock(&v->dev.lock);
	}
	b->given_back += t.given * PAGE;
	b->refused += t.refused;
	if (count == STEP_NUMBERS && at + sizeof(numbers) < b->chain.read_length) {
		b->done += STEP_NUMBERS;
		hv_virtio_put_back(v, QUEUE_INFLATE, &b->chain);
	} else {
		b->done = 0;
		hv_virtio_push(v, QUEUE_INFLATE, &b->chain, 0);
	}
	return true;
}

static bool deflate(struct balloon *b)
{
	if (!hv_virtio_pop(&b->v, QUEUE_DEFLATE, &b->chain))
		return false;
	hv_virtio_push(&b->v, QUEUE_DEFLATE, &b->chain, 0);
	return true;
}

/* --- free pages that the driver reports --- */

static uint64_t give_back_buffers(const struct balloon *b, const struct hv_virtq_chain *chain)
{
	uint64_t bytes = 0;

	for (unsigned i = chain->readable; i < chain->count; i++) {
		uint64_t gpa, start, end;

		if (!hv_memory_gpa_of(b->v.host.mem, chain->buffers[i].iov_base, &gpa))
			continue;
		start = hv_round_up(gpa, PAGE);
		end = (gpa + chain->buffers[i].iov_len) & ~(uint64_t)(PAGE - 1);
		if (start < end && hv_memory_discard(b->v.host.mem, start, end - start) == 0)
			bytes += end - start;
	}
	return bytes;
}

/* Of a driver that keeps a pattern in its free pages (PAGE_POISON) only zeros may come back as zeros. */
static bool may_clear(const struct balloon *b)
{
	return !hv_virtio_has(&b->v, F_PAGE_POISON) || hv_le32(b->v.config + CONFIG_POISON) == 0;
}

static bool take_report(struct balloon *b, unsigned queue)
{
	uint64_t bytes = 0;

	if (!hv_virtio_has(&b->v, F_REPORTING) || !hv_virtio_pop(&b->v, queue, &b->chain))
		return false;
	if (may_clear(b)) {
		pthread_mutex_unlock(&b->v.dev.lock);
		bytes = give_back_buffers(b, &b->chain);
		pthread_mutex_lock(&b->v.dev.lock);
	}
	b->reported += bytes;
	hv_virtio_push(&b->v, queue, &b->chain, 0);
	return true;
}

/* --- statistics --- */

static void read_stats(struct balloon *b)
{
	uint8_t raw[STATS_MAX * STAT_SIZE];
	size_t length = hv_virtq_read(&b->chain, 0, raw, sizeof(raw));

	b->stats_known = 0;
	for (size_t at = 0; at + STAT_SIZE <= length; at += STAT_SIZE) {
		unsigned tag = hv_le16(raw + at);

		if (tag >= HV_BALLOON_STATS)
			continue;
		b->stats[tag] = hv_le64(raw + at + 2);
		b->stats_known |= 1u << tag;
	}
	b->stats_at = (uint64_t)time(NULL);
	b->stats_count++;
	pthread_cond_broadcast(&b->stats_came);
}

/* The driver's buffer stays in its queue until statistics are wanted: read when it comes, given back then. */
static bool take_stats(struct balloon *b)
{
	if (!b->stats_wanted && !b->stats_awaited)
		return false;
	if (!hv_virtio_has(&b->v, F_STATS_VQ) || !hv_virtio_pop(&b->v, QUEUE_STATS, &b->chain))
		return false;
	if (b->stats_awaited) {
		read_stats(b);
		b->stats_awaited = b->stats_wanted = false;
		hv_virtio_put_back(&b->v, QUEUE_STATS, &b->chain);
		return false;
	}
	b->stats_awaited = true;
	b->stats_wanted = false;
	hv_virtio_push(&b->v, QUEUE_STATS, &b->chain, 0);
	return true;
}

/* hv_virtio_step_fn */
static bool balloon_step(struct hv_virtio *v)
{
	struct balloon *b = balloon_of(v);
	bool done = inflate(b);

	done |= deflate(b);
	done |= take_stats(b);
	for (unsigned queue = hv_virtio_has(v, F_STATS_VQ) ? QUEUE_STATS + 1 : QUEUE_STATS; queue < QUEUES;
	     queue++)
		done |= take_report(b, queue);
	return done;
}

/* --- the host's wishes --- */

static uint64_t actual_of(const struct balloon *b)
{
	uint64_t taken = hv_le32(b->v.config + CONFIG_ACTUAL);

	return (taken < b->pages ? b->pages - taken : 0) * PAGE;
}

static void set_actual(struct balloon *b, uint32_t pages)
{
	uint64_t before = actual_of(b);

	hv_put_le32(b->v.config + CONFIG_ACTUAL, pages);
	if (b->change && actual_of(b) != before)
		b->change(b->change_ctx, actual_of(b));
}

void hv_virtio_balloon_set_target(struct hv_device *dev, uint64_t bytes)
{
	struct balloon *b = balloon_of(hv_container_of(dev, struct hv_virtio, dev));
	uint64_t left = bytes / PAGE < b->pages ? bytes / PAGE : b->pages;
	uint64_t taken = b->pages - left < UINT32_MAX ? b->pages - left : UINT32_MAX;

	pthread_mutex_lock(&dev->lock);
	hv_put_le32(b->v.config + CONFIG_NUM_PAGES, (uint32_t)taken);
	hv_virtio_config_changed(&b->v);
	pthread_mutex_unlock(&dev->lock);
}

static bool has_stats(const struct balloon *b)
{
	return b->v.status & HV_VIRTIO_DRIVER_OK && !(b->v.status & HV_VIRTIO_NEEDS_RESET) &&
	       hv_virtio_has(&b->v, F_STATS_VQ);
}

static void wait_for_stats(struct balloon *b, unsigned limit_ms)
{
	uint64_t before = b->stats_count;
	struct timespec limit;

	if (!has_stats(b) || limit_ms == 0)
		return;
	clock_gettime(CLOCK_MONOTONIC, &limit);
	limit.tv_sec += limit_ms / 1000;
	limit.tv_nsec += (long)(limit_ms % 1000) * 1000000;
	if (limit.tv_nsec >= 1000000000) {
		limit.tv_sec++;
		limit.tv_nsec -= 1000000000;
	}
	b->stats_wanted = true;
	hv_virtio_worker_wake(&b->worker);
	while (b->stats_count == before && has_stats(b))
		if (pthread_cond_timedwait(&b->stats_came, &b->v.dev.lock, &limit))
			return;
}

void hv_virtio_balloon_query(struct hv_device *dev, unsigned limit_ms, struct hv_balloon_info *info)
{
	struct balloon *b = balloon_of(hv_container_of(dev, struct hv_virtio, dev));

	pthread_mutex_lock(&dev->lock);
	wait_for_stats(b, limit_ms);
	*info = (struct hv_balloon_info){
		.memory = b->pages * PAGE,
		.actual = actual_of(b),
		.target = (b->pages - hv_le32(b->v.config + CONFIG_NUM_PAGES)) * PAGE,
		.in_use = b->v.status & HV_VIRTIO_DRIVER_OK,
		.stats_there = has_stats(b),
		.reporting = hv_virtio_has(&b->v, F_REPORTING),
		.stats_known = b->stats_known,
		.stats_at = b->stats_at,
		.given_back = b->given_back,
		.reported = b->reported,
	};
	memcpy(info->stats, b->stats, sizeof(info->stats));
	pthread_mutex_unlock(&dev->lock);
}

/* --- the device --- */

static void balloon_notify(struct hv_virtio *v, unsigned queue)
{
	hv_virtio_worker_wake(&balloon_of(v)->worker);
}

static void balloon_config_write(struct hv_virtio *v, unsigned offset, uint32_t value, unsigned size)
{
	struct balloon *b = balloon_of(v);
	uint8_t bytes[4], fields[CONFIG_LENGTH];

	hv_put_le32(bytes, value);
	memcpy(fields, v->config, sizeof(fields));
	memcpy(fields + offset, bytes, size); /* the transport keeps it inside config_length */
	memcpy(v->config + CONFIG_POISON, fields + CONFIG_POISON, 4);
	set_actual(b, hv_le32(fields + CONFIG_ACTUAL));
}

static void balloon_hold(struct hv_virtio *v, bool held)
{
	hv_virtio_worker_hold(&balloon_of(v)->worker, held);
}

/* The memory of a driver that begins anew is all the guest's; the target stays, and it will see it. */
static void balloon_reset(struct hv_virtio *v)
{
	struct balloon *b = balloon_of(v);

	b->done = 0;
	b->stats_wanted = b->stats_awaited = false;
	b->stats_known = 0;
	b->stats_at = 0;
	hv_put_le32(v->config + CONFIG_POISON, 0);
	set_actual(b, 0);
	pthread_cond_broadcast(&b->stats_came);
}

static void balloon_save(struct hv_virtio *v, struct hv_encoder *e)
{
	const struct balloon *b = balloon_of(v);

	hv_enc_u32(e, hv_le32(v->config + CONFIG_NUM_PAGES));
	hv_enc_u32(e, hv_le32(v->config + CONFIG_ACTUAL));
	hv_enc_u32(e, hv_le32(v->config + CONFIG_POISON));
	hv_enc_u32(e, b->done);
	hv_enc_u8(e, b->stats_awaited);
}

static int balloon_load(struct hv_virtio *v, struct hv_decoder *d, struct hv_error *err)
{
	struct balloon *b = balloon_of(v);
	uint32_t target = hv_dec_u32(d), actual = hv_dec_u32(d), poison = hv_dec_u32(d);
	uint32_t done = hv_dec_u32(d);
	uint8_t awaited = hv_dec_u8(d);

	if (target > b->pages || awaited > 1 || done % STEP_NUMBERS)
		return hv_fail_unsafe(
			err,
			"saved state: device '%s' has a balloon that this VM can't have; the data "
			"is damaged, or the VM had more memory",
			v->name);
	hv_put_le32(v->config + CONFIG_NUM_PAGES, target);
	hv_put_le32(v->config + CONFIG_POISON, poison);
	set_actual(b, actual);
	b->done = done;
	b->stats_awaited = awaited;
	return 0;
}

static void balloon_describe(struct hv_virtio *v, char *buf, size_t size)
{
	const struct balloon *b = balloon_of(v);

	snprintf(buf, size,
		 "target %u pages, actual %u, %llu bytes given back, %llu reported, %llu pages refused",
		 hv_le32(v->config + CONFIG_NUM_PAGES), hv_le32(v->config + CONFIG_ACTUAL),
		 (unsigned long long)b->given_back, (unsigned long long)b->reported,
		 (unsigned long long)b->refused);
}

static void balloon_stop(struct hv_virtio *v)
{
	hv_virtio_worker_stop(&balloon_of(v)->worker);
}

static void balloon_destroy(struct hv_virtio *v)
{
	struct balloon *b = balloon_of(v);

	pthread_cond_destroy(&b->stats_came);
	free(b);
}

static const struct hv_virtio_ops balloon_ops = {
	.name = "balloon",
	.id = ID,
	.version = 1,
	.queues = QUEUES,
	.notify = balloon_notify,
	.config_write = balloon_config_write,
	.hold = balloon_hold,
	.reset = balloon_reset,
	.save = balloon_save,
	.load = balloon_load,
	.describe = balloon_describe,
	.stop = balloon_stop,
	.destroy = balloon_destroy,
};

int hv_virtio_balloon_create(const struct hv_virtio_host *host, hv_balloon_change_fn *change, void *ctx,
			     struct hv_device **out, struct hv_error *err)
{
	struct balloon *b = calloc(1, sizeof(*b));
	pthread_condattr_t attr;
	int rc;

	if (!b)
		return hv_fail(err, ENOMEM, "virtio-balloon: no memory for the device; close other programs");
	hv_virtio_init(&b->v, &balloon_ops, host,
		       F_STATS_VQ | F_DEFLATE_ON_OOM | F_PAGE_POISON | F_REPORTING);
	b->v.config_length = CONFIG_LENGTH;
	b->change = change;
	b->change_ctx = ctx;
	for (unsigned i = 0; i < host->mem->count; i++)
		b->pages += host->mem->slots[i].readonly ? 0 : host->mem->slots[i].size / PAGE;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&b->stats_came, &attr);
	pthread_condattr_destroy(&attr);
	rc = hv_virtio_worker_start(&b->worker, &b->v, balloon_step, err);
	if (rc) {
		hv_device_destroy(&b->v.dev);
		return rc;
	}
	*out = &b->v.dev;
	return 0;
}
