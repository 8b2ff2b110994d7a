/*
 * The virtio transport over MMIO: a window of registers through which a driver finds out what a device is,
 * agrees with it on features, tells it where the queues are, and hears from it by an interrupt. It calls the
 * queues, the type's operations, the interrupt line, the log and base.
 *
 * Rules: virtio 1.2, section 4.2.2 (the registers), 2.1 (status), 2.2 (features), 2.5 (configuration space),
 * 3.1.1 (the order in which a driver does it all).
 *
 * The order is enforced where leaving it could hurt: features stand once FEATURES_OK is set, which is refused
 * for a set that was not offered or lacks VERSION_1; a queue can be made ready only after that, and its
 * registers stand while it is; nothing is taken from a queue before DRIVER_OK. What a driver may not write is
 * dropped, as no bus has a way to complain. The registers are 32 bits wide: other accesses to them read as 0.
 */
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "device/virtio/virtio.h"
#include "device/virtio/window.h"
#include "kvm/eventfd.h"

enum { /* offsets in a window (4.2.2) */
       REG_MAGIC = 0x000,
       REG_VERSION = 0x004,
       REG_DEVICE_ID = 0x008,
       REG_VENDOR_ID = 0x00c,
       REG_DEVICE_FEATURES = 0x010,
       REG_DEVICE_FEATURES_SEL = 0x014,
       REG_DRIVER_FEATURES = 0x020,
       REG_DRIVER_FEATURES_SEL = 0x024,
       REG_QUEUE_SEL = 0x030,
       REG_QUEUE_NUM_MAX = 0x034,
       REG_QUEUE_NUM = 0x038,
       REG_QUEUE_READY = 0x044,
       REG_QUEUE_NOTIFY = 0x050,
       REG_INTERRUPT_STATUS = 0x060,
       REG_INTERRUPT_ACK = 0x064,
       REG_STATUS = 0x070,
       REG_QUEUE_TABLE_LOW = 0x080,
       REG_QUEUE_TABLE_HIGH = 0x084,
       REG_QUEUE_AVAILABLE_LOW = 0x090,
       REG_QUEUE_AVAILABLE_HIGH = 0x094,
       REG_QUEUE_USED_LOW = 0x0a0,
       REG_QUEUE_USED_HIGH = 0x0a4,
       REG_SHM_LENGTH_LOW = 0x0b0, /* there is no shared memory: length and base read as -1 */
       REG_SHM_BASE_HIGH = 0x0bc,
       REG_CONFIG_GENERATION = 0x0fc,
       REG_CONFIG = 0x100,
};

enum { /* interrupt status */
       INTERRUPT_USED = 1,
       INTERRUPT_CONFIG = 2,
       INTERRUPTS = 3,
};

#define MAGIC     0x74726976u /* "virt" */
#define VERSION   2u
#define VENDOR_ID 0x74697668u /* "hvit" */

#define STATUS_BY_DRIVER                                                                                     \
	(HV_VIRTIO_ACKNOWLEDGE | HV_VIRTIO_DRIVER | HV_VIRTIO_DRIVER_OK | HV_VIRTIO_FEATURES_OK |            \
	 HV_VIRTIO_FAILED)

#define FEATURES_OF_ALL                                                                                      \
	(HV_VIRTIO_F_INDIRECT | HV_VIRTIO_F_EVENT_IDX | HV_VIRTIO_F_VERSION_1 | HV_VIRTIO_F_IN_ORDER)

static struct hv_virtio *virtio_of(struct hv_device *dev)
{
	return hv_container_of(dev, struct hv_virtio, dev);
}

/* --- the interrupt --- */

/* The pin is edge-triggered, so each event makes an edge of its own; and as the line stays high until the
 * driver has acknowledged all, a guest that programs the pin for levels is right, too. */
static void drive_line(struct hv_virtio *v, bool high)
{
	if (v->line_high != high)
		hv_irq_set(&v->host.irq, high);
	v->line_high = high;
}

static void interrupt(struct hv_virtio *v, uint32_t why)
{
	v->interrupt |= why;
	drive_line(v, false);
	drive_line(v, true);
}

static void acknowledge(struct hv_virtio *v, uint32_t why)
{
	v->interrupt &= ~why;
	if (v->interrupt == 0)
		drive_line(v, false);
}

void hv_virtio_config_changed(struct hv_virtio *v)
{
	v->generation++;
	if (v->status & HV_VIRTIO_DRIVER_OK)
		interrupt(v, INTERRUPT_CONFIG);
}

void hv_virtio_needs_reset(struct hv_virtio *v, unsigned queue, const char *what)
{
	if (v->status & HV_VIRTIO_NEEDS_RESET)
		return;
	v->status |= HV_VIRTIO_NEEDS_RESET;
	if (queue < v->queue_count && !v->queues[queue].broken)
		v->queues[queue].broken = HV_VIRTQ_BAD_REQUEST;
	/* A guest that does it again and again doesn't fill the host's log. */
	hv_log(v->host.log, v->reported ? HV_LOG_INFO : HV_LOG_WARN,
	       "%s: the guest's driver put %s into queue %u; the device does nothing until the driver resets "
	       "it",
	       v->name, what, queue);
	v->reported = true;
	if (v->status & HV_VIRTIO_DRIVER_OK)
		interrupt(v, INTERRUPT_CONFIG);
}

/* --- the queues --- */

bool hv_virtio_has(const struct hv_virtio *v, uint64_t feature)
{
	return v->accepted & feature;
}

bool hv_virtio_is_running(const struct hv_virtio *v)
{
	return (v->status & (HV_VIRTIO_DRIVER_OK | HV_VIRTIO_NEEDS_RESET)) == HV_VIRTIO_DRIVER_OK;
}

bool hv_virtio_pop(struct hv_virtio *v, unsigned queue, struct hv_virtq_chain *chain)
{
	struct hv_virtq *q = &v->queues[queue];
	int rc = hv_virtio_is_running(v) ? hv_virtq_pop(q, chain) : 0;

	if (rc < 0)
		hv_virtio_needs_reset(v, queue, hv_virtq_error_text(q->broken));
	return rc == 1;
}

void hv_virtio_put_back(struct hv_virtio *v, unsigned queue, const struct hv_virtq_chain *chain)
{
	hv_virtq_put_back(&v->queues[queue], chain);
}

void hv_virtio_push(struct hv_virtio *v, unsigned queue, const struct hv_virtq_chain *chain, uint32_t written)
{
	struct hv_virtq *q = &v->queues[queue];

	hv_virtq_push(q, chain, written);
	if (hv_virtq_wants_interrupt(q))
		interrupt(v, INTERRUPT_USED);
}

void hv_virtio_push_all(struct hv_virtio *v, unsigned queue, const struct hv_virtq_used *used, unsigned count)
{
	struct hv_virtq *q = &v->queues[queue];

	hv_virtq_push_all(q, used, count);
	if (hv_virtq_wants_interrupt(q))
		interrupt(v, INTERRUPT_USED);
}

static void notify(struct hv_virtio *v, uint32_t queue)
{
	if (queue < v->queue_count && v->queues[queue].started && hv_virtio_is_running(v))
		v->ops->notify(v, queue);
}

bool hv_virtio_notify_by(struct hv_virtio *v, int fd, bool on)
{
	uint64_t gpa = HV_VIRTIO_WINDOW_BASE + v->host.window * HV_VIRTIO_WINDOW_STRIDE + REG_QUEUE_NOTIFY;
	int rc = v->host.vm ? 0 : -ENOTSUP;

	for (unsigned i = 0; i < v->queue_count && !rc; i++) {
		rc = hv_vm_notify_fd(v->host.vm, gpa, i, fd, on);
		if (rc && on) { /* all or none */
			hv_log(v->host.log, HV_LOG_INFO, "%s: KVM has no eventfd for queue %u: %s", v->name,
			       i, strerror(-rc));
			while (i-- > 0)
				hv_vm_notify_fd(v->host.vm, gpa, i, fd, false);
			break;
		}
	}
	return rc == 0;
}

static void hold(struct hv_virtio *v, bool held)
{
	if (v->ops->hold)
		v->ops->hold(v, held);
}

static int start_queue(struct hv_virtio *v, struct hv_virtq *q)
{
	q->indirect = hv_virtio_has(v, HV_VIRTIO_F_INDIRECT);
	q->event_idx = hv_virtio_has(v, HV_VIRTIO_F_EVENT_IDX);
	q->in_order = hv_virtio_has(v, HV_VIRTIO_F_IN_ORDER);
	return hv_virtq_start(q);
}

static void write_ready(struct hv_virtio *v, struct hv_virtq *q, bool ready)
{
	if (ready && !q->started && v->status & HV_VIRTIO_FEATURES_OK) {
		if (start_queue(v, q))
			hv_virtio_needs_reset(v, v->queue_sel, hv_virtq_error_text(q->broken));
		else
			notify(v, v->queue_sel);
	} else if (!ready && q->started) {
		hold(v, true);
		hv_virtq_stop(q);
		hold(v, false);
	}
}

/* The queue that queue_sel names; NULL when the device doesn't have it. */
static struct hv_virtq *selected(struct hv_virtio *v)
{
	return v->queue_sel < v->queue_count ? &v->queues[v->queue_sel] : NULL;
}

static void set_half(uint64_t *address, bool high, uint32_t value)
{
	unsigned shift = high ? 32 : 0;

	*address = (*address & ~(0xffffffffull << shift)) | (uint64_t)value << shift;
}

static void write_queue(struct hv_virtio *v, uint64_t offset, uint32_t value)
{
	struct hv_virtq *q = selected(v);
	bool high = offset & 4;

	if (!q)
		return;
	if (offset == REG_QUEUE_READY)
		write_ready(v, q, value & 1);
	else if (q->started)
		return; /* 4.2.2.2: not while the queue is ready */
	else if (offset == REG_QUEUE_NUM)
		q->size = value <= v->queue_size ? (uint16_t)value : 0; /* 0 is refused when it starts */
	else if (offset == REG_QUEUE_TABLE_LOW || offset == REG_QUEUE_TABLE_HIGH)
		set_half(&q->table, high, value);
	else if (offset == REG_QUEUE_AVAILABLE_LOW || offset == REG_QUEUE_AVAILABLE_HIGH)
		set_half(&q->available, high, value);
	else if (offset == REG_QUEUE_USED_LOW || offset == REG_QUEUE_USED_HIGH)
		set_half(&q->used, high, value);
}

/* --- the status --- */

static void reset(struct hv_virtio *v)
{
	hold(v, true);
	v->accepted = 0;
	v->status = 0;
	v->device_sel = v->driver_sel = v->queue_sel = 0;
	acknowledge(v, INTERRUPTS);
	for (unsigned i = 0; i < v->queue_count; i++) {
		struct hv_virtq *q = &v->queues[i];

		hv_virtq_stop(q);
		q->table = q->available = q->used = 0;
		q->size = v->queue_size;
	}
	if (v->ops->reset)
		v->ops->reset(v);
	hold(v, false);
}

static bool features_agree(const struct hv_virtio *v)
{
	return !(v->accepted & ~v->offered) && hv_virtio_has(v, HV_VIRTIO_F_VERSION_1);
}

/* A step that comes out of turn is not taken: the driver sees its bit clear when it reads the status back. */
static void write_status(struct hv_virtio *v, uint32_t value)
{
	uint32_t fresh = value & STATUS_BY_DRIVER & ~v->status;

	if (value == 0) {
		reset(v);
		return;
	}
	v->status |= fresh & (HV_VIRTIO_ACKNOWLEDGE | HV_VIRTIO_DRIVER | HV_VIRTIO_FAILED);
	if (fresh & HV_VIRTIO_FEATURES_OK && v->status & HV_VIRTIO_DRIVER && features_agree(v))
		v->status |= HV_VIRTIO_FEATURES_OK;
	if (fresh & HV_VIRTIO_DRIVER_OK && v->status & HV_VIRTIO_FEATURES_OK) {
		v->status |= HV_VIRTIO_DRIVER_OK;
		if (v->status & HV_VIRTIO_NEEDS_RESET)
			interrupt(v, INTERRUPT_CONFIG);
		for (unsigned i = 0; i < v->queue_count; i++)
			notify(v, i); /* what was made available before */
	}
}

/* --- registers --- */

static uint32_t half_of(uint64_t features, uint32_t select)
{
	return select > 1 ? 0 : (uint32_t)(features >> (32 * select));
}

static uint32_t read_register(struct hv_virtio *v, uint64_t offset)
{
	const struct hv_virtq *q = selected(v);

	switch (offset) {
	case REG_MAGIC:
		return MAGIC;
	case REG_VERSION:
		return VERSION;
	case REG_DEVICE_ID:
		return v->ops->id;
	case REG_VENDOR_ID:
		return VENDOR_ID;
	case REG_DEVICE_FEATURES:
		return half_of(v->offered, v->device_sel);
	case REG_QUEUE_NUM_MAX:
		return q ? v->queue_size : 0;
	case REG_QUEUE_READY:
		return q && q->started;
	case REG_INTERRUPT_STATUS:
		return v->interrupt;
	case REG_STATUS:
		return v->status;
	case REG_CONFIG_GENERATION:
		return v->generation;
	default:
		return offset >= REG_SHM_LENGTH_LOW && offset <= REG_SHM_BASE_HIGH ? UINT32_MAX : 0;
	}
}

static void write_register(struct hv_virtio *v, uint64_t offset, uint32_t value)
{
	switch (offset) {
	case REG_DEVICE_FEATURES_SEL:
		v->device_sel = value;
		break;
	case REG_DRIVER_FEATURES_SEL:
		v->driver_sel = value;
		break;
	case REG_DRIVER_FEATURES:
		if (!(v->status & HV_VIRTIO_FEATURES_OK) && v->driver_sel <= 1)
			set_half(&v->accepted, v->driver_sel, value);
		break;
	case REG_QUEUE_SEL:
		v->queue_sel = value;
		break;
	case REG_QUEUE_NOTIFY:
		notify(v, value);
		break;
	case REG_INTERRUPT_ACK:
		acknowledge(v, value & INTERRUPTS);
		break;
	case REG_STATUS:
		write_status(v, value);
		break;
	default:
		write_queue(v, offset, value);
	}
}

/* The bus keeps an access inside the window, whose tail is config[]; what the type doesn't use reads as 0. */
static uint64_t mmio_read(struct hv_device *dev, uint64_t offset, unsigned size)
{
	struct hv_virtio *v = virtio_of(dev);
	uint8_t bytes[4] = {0};

	if (offset < REG_CONFIG)
		return size == 4 ? read_register(v, offset) : 0;
	if (hv_inside(offset - REG_CONFIG, size, sizeof(v->config)))
		memcpy(bytes, v->config + (offset - REG_CONFIG), size);
	return hv_le32(bytes);
}

static void mmio_write(struct hv_device *dev, uint64_t offset, uint64_t value, unsigned size)
{
	struct hv_virtio *v = virtio_of(dev);

	if (offset < REG_CONFIG) {
		if (size == 4)
			write_register(v, offset, (uint32_t)value);
	} else if (v->ops->config_write && hv_inside(offset - REG_CONFIG, size, v->config_length)) {
		v->ops->config_write(v, (unsigned)(offset - REG_CONFIG), (uint32_t)value, size);
	}
}

/* --- life --- */

static void mmio_reset(struct hv_device *dev)
{
	reset(virtio_of(dev));
}

static void mmio_hold(struct hv_device *dev, bool held)
{
	hold(virtio_of(dev), held);
}

/* In order: a chain that is done, or that is kept, behind one that is kept. */
static void save_done(struct hv_encoder *e, const struct hv_virtq_done *done)
{
	hv_enc_u8(e, done->waits);
	hv_enc_u16(e, done->waits ? done->head : 0);
	hv_enc_u32(e, done->waits ? done->length : 0);
}

static void mmio_save(struct hv_device *dev, struct hv_encoder *e)
{
	struct hv_virtio *v = virtio_of(dev);

	hold(v, true);
	hv_enc_u64(e, v->accepted);
	hv_enc_u32(e, v->status);
	hv_enc_u32(e, v->interrupt);
	hv_enc_u32(e, v->generation);
	hv_enc_u32(e, v->device_sel);
	hv_enc_u32(e, v->driver_sel);
	hv_enc_u32(e, v->queue_sel);
	for (unsigned i = 0; i < v->queue_count; i++) {
		const struct hv_virtq *q = &v->queues[i];

		hv_enc_u16(e, q->size);
		hv_enc_u64(e, q->table);
		hv_enc_u64(e, q->available);
		hv_enc_u64(e, q->used);
		hv_enc_u8(e, q->started);
		hv_enc_u8(e, (uint8_t)q->broken);
		hv_enc_u16(e, q->taken);
		hv_enc_u16(e, q->returned);
		hv_enc_u16(e, q->told);
		for (uint16_t at = q->returned; q->in_order && at != q->taken; at++)
			save_done(e, &q->done[at % q->size]);
	}
	if (v->ops->save)
		v->ops->save(v, e);
	hold(v, false);
}

static int damaged(const struct hv_virtio *v, const char *what, struct hv_error *err)
{
	return hv_fail_unsafe(err, "saved state: device '%s' has %s; the data is damaged", v->name, what);
}

static int load_done(const struct hv_virtio *v, struct hv_virtq *q, struct hv_decoder *d,
		     struct hv_error *err)
{
	for (uint16_t at = q->returned; q->in_order && at != q->taken; at++) {
		struct hv_virtq_done *done = &q->done[at % q->size];
		uint8_t waits = hv_dec_u8(d);

		done->head = hv_dec_u16(d);
		done->length = hv_dec_u32(d);
		if (waits > 1 || done->head >= q->size)
			return damaged(v, "a request that is done and that its driver can't have made", err);
		done->waits = waits;
	}
	return 0;
}

/* A queue of the driver that was saved: its areas are checked as if the driver had just written them. */
static int load_queue(struct hv_virtio *v, struct hv_virtq *q, struct hv_decoder *d, struct hv_error *err)
{
	uint16_t taken, returned, told;
	uint8_t started, broken;

	q->size = hv_dec_u16(d);
	q->table = hv_dec_u64(d);
	q->available = hv_dec_u64(d);
	q->used = hv_dec_u64(d);
	started = hv_dec_u8(d);
	broken = hv_dec_u8(d);
	taken = hv_dec_u16(d);
	returned = hv_dec_u16(d);
	told = hv_dec_u16(d);
	if (q->size > v->queue_size || started > 1 || broken >= HV_VIRTQ_ERRORS)
		return damaged(v, "a queue that no driver can make", err);
	if (broken && !(v->status & HV_VIRTIO_NEEDS_RESET))
		return damaged(v, "a broken queue and doesn't ask for a reset", err);
	if (started && (!(v->status & HV_VIRTIO_FEATURES_OK) || start_queue(v, q)))
		return damaged(v, "a queue whose rings are not in memory", err);
	if (!started && (taken | returned | told))
		return damaged(v, "progress in a queue that is not ready", err);
	if ((uint16_t)(taken - returned) > q->size)
		return damaged(v, "more requests in the air than its queue has places", err);
	q->taken = taken;
	q->returned = returned;
	q->told = told;
	q->broken = (enum hv_virtq_error)broken;
	return load_done(v, q, d, err);
}

/* Every chain that was taken and not returned is one that the type has kept, or waits for one. */
static int check_kept(const struct hv_virtio *v, struct hv_error *err)
{
	for (unsigned i = 0; i < v->queue_count; i++) {
		const struct hv_virtq *q = &v->queues[i];
		unsigned out = (uint16_t)(q->taken - q->returned), known;

		known = v->ops->kept ? v->ops->kept(v, i) : 0;
		for (unsigned at = 0; at < HV_VIRTQ_SIZE_MAX; at++)
			known += q->done[at].waits;
		if (out != known && !q->broken)
			return damaged(v, "requests that were in the air when it was saved", err);
	}
	return 0;
}

static bool status_is_possible(const struct hv_virtio *v)
{
	uint32_t s = v->status;

	return !(s & ~(uint32_t)(STATUS_BY_DRIVER | HV_VIRTIO_NEEDS_RESET)) &&
	       (!(s & HV_VIRTIO_FEATURES_OK) || (s & HV_VIRTIO_DRIVER && features_agree(v))) &&
	       (!(s & HV_VIRTIO_DRIVER_OK) || s & HV_VIRTIO_FEATURES_OK);
}

static int load(struct hv_virtio *v, struct hv_decoder *d, struct hv_error *err)
{
	uint32_t pending;
	int rc = 0;

	v->accepted = hv_dec_u64(d);
	v->status = hv_dec_u32(d);
	pending = hv_dec_u32(d);
	v->generation = hv_dec_u32(d);
	v->device_sel = hv_dec_u32(d);
	v->driver_sel = hv_dec_u32(d);
	v->queue_sel = hv_dec_u32(d);
	if (!status_is_possible(v))
		return damaged(v, "a status or features that this device can't have", err);
	if (pending & ~(uint32_t)INTERRUPTS)
		return damaged(v, "interrupts that it can't raise", err);
	for (unsigned i = 0; i < v->queue_count && !rc; i++)
		rc = load_queue(v, &v->queues[i], d, err);
	if (!rc && v->ops->load)
		rc = v->ops->load(v, d, err);
	if (!rc)
		rc = check_kept(v, err);
	if (!rc)
		rc = hv_device_load_end(&v->dev, d, err);
	if (rc)
		return rc;
	v->interrupt = pending;
	drive_line(v, pending != 0);
	return 0;
}

static int mmio_load(struct hv_device *dev, struct hv_decoder *d, uint16_t version, struct hv_error *err)
{
	struct hv_virtio *v = virtio_of(dev);
	int rc;

	reset(v);
	rc = hv_device_load_begin(dev, version, err);
	if (rc)
		return rc;
	hold(v, true);
	rc = load(v, d, err);
	hold(v, false);
	if (rc)
		reset(v);
	for (unsigned i = 0; i < v->queue_count; i++)
		notify(v, i);
	return rc;
}

static void mmio_describe(struct hv_device *dev, char *buf, size_t size)
{
	struct hv_virtio *v = virtio_of(dev);
	const char *state = "not in use";
	size_t used;

	if (v->status & HV_VIRTIO_NEEDS_RESET)
		state = "needs a reset";
	else if (v->status & HV_VIRTIO_DRIVER_OK)
		state = "in use";
	else if (v->status)
		state = "being set up";
	buf[0] = '\0';
	if (v->ops->describe)
		v->ops->describe(v, buf, size);
	used = strlen(buf);
	snprintf(buf + used, size - used, "%s%s, status 0x%02x, features 0x%llx", used ? ", " : "", state,
		 v->status, (unsigned long long)v->accepted);
	for (unsigned i = 0; i < v->queue_count; i++) {
		const struct hv_virtq *q = &v->queues[i];

		used = strlen(buf);
		if (q->started)
			snprintf(buf + used, size - used, ", queue %u at %u of %u", i, q->taken, q->size);
	}
}

static void mmio_stop(struct hv_device *dev)
{
	struct hv_virtio *v = virtio_of(dev);

	if (v->ops->stop)
		v->ops->stop(v);
}

static void mmio_destroy(struct hv_device *dev)
{
	struct hv_virtio *v = virtio_of(dev);

	v->ops->destroy(v);
}

static const struct hv_device_ops mmio_ops = {
	.max_access = 4,
	.read = mmio_read,
	.write = mmio_write,
	.reset = mmio_reset,
	.hold = mmio_hold,
	.save = mmio_save,
	.load = mmio_load,
	.describe = mmio_describe,
	.stop = mmio_stop,
	.destroy = mmio_destroy,
};

void hv_virtio_init(struct hv_virtio *v, const struct hv_virtio_ops *ops, const struct hv_virtio_host *host,
		    uint64_t features)
{
	v->ops = ops;
	v->host = *host;
	v->offered = features | FEATURES_OF_ALL;
	v->queue_size = HV_VIRTQ_SIZE_MAX;
	snprintf(v->name, sizeof(v->name), "virtio-%s%u", ops->name, host->window);
	v->dev_ops = mmio_ops;
	v->dev_ops.name = v->name;
	v->dev_ops.version = ops->version;
	hv_device_init(&v->dev, &v->dev_ops);
	v->queue_count = ops->queues;
	for (unsigned i = 0; i < ops->queues; i++) {
		v->queues[i].mem = host->mem;
		v->queues[i].size = v->queue_size;
	}
}
