/*
 * A virtio device (virtio 1.2): the transport, which the driver sees as MMIO registers (section 4.2, version
 * 2, no legacy), and what a type of device adds to it. The transport does all that is the same for every
 * type: the status, the features, the queues' registers, the interrupt, saving and loading.
 *
 * Threads: every function here is called with dev.lock held, unless it says otherwise; so is every operation
 * of a type. A type that works on a thread of its own takes dev.lock for its queues and lets go of it while
 * it reads or writes the buffers.
 */
#ifndef HV_DEVICE_VIRTIO_VIRTIO_H
#define HV_DEVICE_VIRTIO_VIRTIO_H

#include "base/log.h"
#include "device/device.h"
#include "device/virtio/queue.h"
#include "kvm/irq.h"

#define HV_VIRTIO_QUEUES_MAX 8
#define HV_VIRTIO_CONFIG_MAX 0x100 /* bytes: what is left of a window behind its registers */

/* The status (2.1), as the driver writes it bit by bit; the last but one is the device's to set. */
enum {
	HV_VIRTIO_ACKNOWLEDGE = 0x01,
	HV_VIRTIO_DRIVER = 0x02,
	HV_VIRTIO_DRIVER_OK = 0x04,
	HV_VIRTIO_FEATURES_OK = 0x08,
	HV_VIRTIO_NEEDS_RESET = 0x40,
	HV_VIRTIO_FAILED = 0x80,
};

/* Features of every device (section 6), as bits. */
#define HV_VIRTIO_F_INDIRECT  (1ull << 28)
#define HV_VIRTIO_F_EVENT_IDX (1ull << 29)
#define HV_VIRTIO_F_VERSION_1 (1ull << 32)
#define HV_VIRTIO_F_IN_ORDER  (1ull << 35)

struct hv_virtio;

/* A type of device. All but name, id, version, queues, notify and destroy may be NULL. */
struct hv_virtio_ops {
	const char *name; /* "rng"; with the window's number it names the device: "virtio-rng0" */
	uint32_t id;      /* section 5 */
	uint16_t version; /* of its saved state, the transport's included */
	unsigned queues;

	/* The driver has made chains available in a queue that is ready, after DRIVER_OK. */
	void (*notify)(struct hv_virtio *v, unsigned queue);
	/* The driver writes the configuration space; size is 1, 2 or 4 and inside it. */
	void (*config_write)(struct hv_virtio *v, unsigned offset, uint32_t value, unsigned size);
	/* true: returns when no chain is out, and no more are taken until as many calls with false have come.
	 * May let go of the lock while it waits. */
	void (*hold)(struct hv_virtio *v, bool held);
	void (*reset)(struct hv_virtio *v); /* the type's own state; nothing is out */
	void (*save)(struct hv_virtio *v, struct hv_encoder *e);
	int (*load)(struct hv_virtio *v, struct hv_decoder *d, struct hv_error *err);
	/* Chains that the type has taken from a queue and not pushed, although it is held. NULL: none. */
	unsigned (*kept)(const struct hv_virtio *v, unsigned queue);
	void (*describe)(struct hv_virtio *v, char *buf,
			 size_t size);        /* what stands before the transport's */
	void (*stop)(struct hv_virtio *v);    /* ends its threads; lock not held */
	void (*destroy)(struct hv_virtio *v); /* frees it; lock not held */
};

/* The host has no room for what a device writes; hv_machine_stop_full. */
struct hv_virtio_full {
	const char *device; /* "virtio-blk0" */
	int error;          /* ENOSPC, EDQUOT, EFBIG */
};

/* What a machine gives to a device: its window, its memory, its interrupt. Borrowed. */
struct hv_virtio_host {
	unsigned window;
	const struct hv_memory *mem;
	struct hv_irq_line irq; /* pulsed for each event, and high while one is not acknowledged */
	const struct hv_log *log;
	const struct hv_vm *vm; /* NULL: notifications come by mmio_write only */
	/* Stops the machine until someone has made room. Called by a device's thread that is at rest, without
	 * its lock. NULL: the guest gets an I/O error. */
	void (*full)(void *ctx, const struct hv_virtio_full *what);
	void *full_ctx;
};

struct hv_virtio {
	struct hv_device dev;
	struct hv_device_ops dev_ops;
	char name[32];
	const struct hv_virtio_ops *ops;
	struct hv_virtio_host host;

	uint64_t offered, accepted; /* features */
	uint32_t status, interrupt, generation;
	uint32_t device_sel, driver_sel, queue_sel;
	bool line_high; /* what the interrupt line was last told */
	bool reported;  /* a driver's mistake was told of */
	uint16_t queue_size;
	unsigned queue_count; /* ops->queues, unless the type has set it lower before the driver comes */
	struct hv_virtq queues[HV_VIRTIO_QUEUES_MAX];

	/* The device's configuration space, little-endian, as the driver reads it; the type fills it. */
	uint8_t config[HV_VIRTIO_CONFIG_MAX];
	unsigned config_length;
};

HV_API_BEGIN
/* For a type's _create; no lock. features: the type's own; the transport adds those of every device. */
void hv_virtio_init(struct hv_virtio *v, const struct hv_virtio_ops *ops, const struct hv_virtio_host *host,
		    uint64_t features);

/* The next chain of a queue: true when there is one. A malformed one is reported and asks for a reset. False
 * before DRIVER_OK, and once the device needs a reset. */
bool hv_virtio_pop(struct hv_virtio *v, unsigned queue, struct hv_virtq_chain *chain);
/* The chain that was popped last stays the driver's next one, see hv_virtq_put_back. */
void hv_virtio_put_back(struct hv_virtio *v, unsigned queue, const struct hv_virtq_chain *chain);
/* Gives a chain back and interrupts if the driver wants that. */
void hv_virtio_push(struct hv_virtio *v, unsigned queue, const struct hv_virtq_chain *chain,
		    uint32_t written);
/* Several at once, which the driver sees together. */
void hv_virtio_push_all(struct hv_virtio *v, unsigned queue, const struct hv_virtq_used *used,
			unsigned count);

/* True from DRIVER_OK on, unless the device needs a reset. */
bool hv_virtio_is_running(const struct hv_virtio *v);

/* The driver did what can't be gone on from ("a request without a status byte"): DEVICE_NEEDS_RESET, its
 * interrupt, and a line in the log. */
void hv_virtio_needs_reset(struct hv_virtio *v, unsigned queue, const char *what);

/* The type has changed its configuration: a new generation, and an interrupt that tells. */
void hv_virtio_config_changed(struct hv_virtio *v);

/*
 * From now on (or no more) the driver's notifications of all queues are written to fd by the kernel, without
 * an exit to us and without ops->notify. False when the machine or KVM can't; then all is as before. No lock.
 */
bool hv_virtio_notify_by(struct hv_virtio *v, int fd, bool on);

bool hv_virtio_has(const struct hv_virtio *v, uint64_t feature); /* the driver has accepted it */
HV_API_END

#endif
