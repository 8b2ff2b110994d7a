/*
 * What the files of core/machine share: the machine's and its vCPUs' structs, and what they call in each
 * other.
 *
 * One lock, machine.lock, guards what several threads decide on: pausing, calls, the end. The way of an exit
 * takes none of it: a vCPU thread looks at it only after it was kicked.
 */
#ifndef HV_MACHINE_INTERNAL_H
#define HV_MACHINE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "boot/boot.h"
#include "device/devices.h"
#include "kvm/irq.h"
#include "kvm/state.h"
#include "machine/machine.h"

struct hv_blk_image;
struct hv_netback;
struct hv_virtio_full;
struct hv_vsock_sockets;

#define HV_IMAGE_MAX       (4ull << 30) /* bytes of an image or module */
#define HV_DEVICES_MAX     32
#define HV_SUBSCRIBERS_MAX 8
#define HV_WAIT_LIMIT_NS   5000000000ull /* for a vCPU to come out of KVM_RUN */
#define HV_VECTORS_MAX     16            /* external interrupts waiting where there is no irqchip */

/* A function that another thread wants run on the vCPU's thread. */
struct hv_call {
	hv_vcpu_fn *fn;
	void *ctx;
	struct hv_error *err;
	int result;
	bool taken, done;
	struct hv_call *next;
};

/* A vCPU and the thread that runs it. */
struct hv_cpu {
	struct hv_machine *machine;
	struct hv_vcpu vcpu;
	pthread_t thread;
	_Atomic int tid;     /* 0 when it has none */
	_Atomic bool kicked; /* look at the machine before the next KVM_RUN */
	bool settling;       /* the thread's own: it parks as soon as its last exit is complete */
	bool unfinished;     /* the last exit completes only at the next KVM_RUN (KVM API 5, KVM_EXIT_IO) */
	struct hv_recorder recorder;
	struct hv_exit_record *record; /* of the exit being handled */

	/* machine->lock: */
	struct hv_call *calls;
	uint8_t vectors[HV_VECTORS_MAX];
	_Atomic unsigned vector_count; /* read without the lock too */
};

struct hv_machine {
	struct hv_config config;
	const struct hv_log *log;
	struct hv_chardev *chardev;
	struct hv_chardev *console_chardev, *agent_chardev; /* owned; may be NULL */

	struct hv_kvm kvm;
	struct {
		pthread_t thread;
		bool asked, running;
		struct kvm_cpuid2 *leaves;
		struct hv_error err;
		int rc;
	} query; /* for what KVM supports; open.c */
	struct hv_vm vm;
	struct hv_memory memory;
	struct hv_bus pio, mmio;
	struct hv_device *devices[HV_DEVICES_MAX];
	unsigned device_count, virtio_windows;        /* virtio devices are in windows 0 up to this */
	struct hv_blk_image *disks[HV_DISKS_MAX];     /* opened, until a device has taken each over */
	struct hv_vsock_sockets *vsock;               /* likewise */
	struct hv_device *disk_devices[HV_DISKS_MAX]; /* of devices[], in the order of --disk */
	struct hv_netback *netbacks[HV_NETS_MAX];     /* opened, likewise */
	struct hv_device *nets[HV_NETS_MAX];          /* of devices[], in the order of --net */
	struct hv_device *ioapic;                     /* SPLIT only */
	struct hv_device *console, *balloon;          /* NULL: the VM has none */
	struct hv_irq_route routes[HV_IOAPIC_PINS];
	enum hv_irqchip irqchip;
	bool assist; /* the back end is software: kvm/assist.h */
	int image_fd, initrd_fds[HV_MODULES_MAX];
	struct hv_entry entry;
	unsigned cpu_count;
	struct hv_cpu *cpus;
	uint64_t started_ns;

	hv_debug_hook *debug_hook; /* guarded by debug_lock, held while it runs */
	void *debug_ctx;
	pthread_mutex_t debug_lock;
	pthread_mutex_t devices_lock; /* who holds or lets go of the devices; taken before lock */

	_Atomic uint64_t balloon_actual; /* bytes that the guest has left */
	_Atomic uint64_t unclaimed;      /* accesses that no device answered */
	_Atomic bool warned_irqchip, warned_unclaimed;
	_Atomic bool told_assist[HV_ASSIST_KINDS];
	bool devices_held; /* guarded by devices_lock */

	pthread_mutex_t lock;
	pthread_cond_t changed; /* anything below changed */
	enum hv_state state;
	uint64_t hold;   /* bit n: vCPU n shall be parked */
	uint64_t parked; /* bit n: it is */
	uint64_t live;   /* bit n: its thread runs */
	bool reset_wanted, resetting;
	bool reset_by_guest;
	int reset_result;
	struct hv_error reset_error;
	bool announce; /* the last vCPU to park fires `announced` */
	enum hv_event announced;
	int announced_detail;
	_Atomic bool ending; /* read without the lock too */
	bool started;
	struct hv_end end;
	int end_fd;
	struct {
		hv_event_fn *fn;
		void *ctx;
	} subscribers[HV_SUBSCRIBERS_MAX];
	struct hv_io_error io_error; /* the last that was told of; event_lock */
	pthread_mutex_t event_lock;  /* subscribers, and the order of events; taken inside lock or alone */
};

static inline uint64_t hv_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline struct timespec hv_at_time(uint64_t ns)
{
	return (struct timespec){.tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u)};
}

/* All vCPUs, as a mask. */
static inline uint64_t hv_everyone(const struct hv_machine *m)
{
	return m->cpu_count == 64 ? UINT64_MAX : (1ull << m->cpu_count) - 1;
}

/* A counter with one writer: no locked instruction needed. */
static inline void hv_count(_Atomic uint64_t *counter, uint64_t n)
{
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n,
			      memory_order_relaxed);
}

/* The next record of the ring, filled with the reason; the caller adds the rest. */
static inline struct hv_exit_record *hv_recorder_add(struct hv_recorder *r, uint32_t reason)
{
	struct hv_exit_record *rec = &r->ring[r->total++ & (r->capacity - 1)];

	reason = reason < HV_EXIT_REASONS ? reason : HV_EXIT_REASONS - 1;
	*rec = (struct hv_exit_record){.reason = (uint8_t)reason};
	hv_count(&r->counters[reason].count, 1);
	if (atomic_load_explicit(&r->timed, memory_order_relaxed))
		rec->at_ns = hv_now_ns();
	return rec;
}

/* Before the next KVM_RUN: how long the exit took in user space. */
static inline void hv_recorder_leave(struct hv_recorder *r, struct hv_exit_record *rec)
{
	uint64_t spent;

	if (!rec || !rec->at_ns)
		return;
	spent = hv_now_ns() - rec->at_ns;
	rec->user_ns = spent < UINT32_MAX ? (uint32_t)spent : UINT32_MAX;
	hv_count(&r->counters[rec->reason].user_ns, spent);
	hv_count(&r->counters[rec->reason].timed, 1);
}

/* exit.c: what the guest wanted. Run on the vCPU's thread after a KVM_RUN that returned 0. */
void hv_exit_handle(struct hv_cpu *cpu);
/* And when KVM_RUN returned error (negative) instead: goes back in, or ends the machine. */
void hv_exit_failed(struct hv_cpu *cpu, int error);

/* smp.c: the vCPU threads. */
int hv_smp_start(struct hv_machine *m, struct hv_error *err);
void hv_smp_kick(struct hv_machine *m, uint64_t cpus); /* lock held or not */
bool hv_smp_wanted(void *machine); /* the calling vCPU thread shall park: hv_chardev_wanted_fn */
bool hv_smp_join(struct hv_machine *m, uint64_t limit_ns); /* all threads gone by then */

/* stop.c and machine.c: state changes, from any thread, a vCPU's own too. */
void hv_machine_finish(struct hv_machine *m, enum hv_end_reason reason, int status, const char *text);
bool hv_machine_debug_event(struct hv_cpu *cpu, const struct kvm_debug_exit_arch *info);
void hv_machine_stop_full(void *machine, const struct hv_virtio_full *what); /* hv_virtio_host's full */
void hv_machine_power(void *machine, enum hv_power_request what, int code);  /* hv_power's request */
void hv_machine_all_parked(struct hv_machine *m); /* the last vCPU to park calls it, with the lock held */
void hv_machine_fire(struct hv_machine *m, enum hv_event event, int detail);

/* open.c: the files and /dev/kvm, the image's wishes, KVM's CPUID leaves. */
int hv_board_open(struct hv_machine *m, struct hv_error *err);
int hv_board_probe(struct hv_machine *m, struct hv_error *err); /* decides m->irqchip */
int hv_board_cpuid(struct hv_machine *m, struct hv_error *err); /* m->query.leaves are there afterwards */
void hv_board_close(struct hv_machine *m);

/* board.c: which devices a machine has and where; memory; the image. */
int hv_board_create(struct hv_machine *m, struct hv_error *err);
int hv_board_boot(struct hv_machine *m,
		  struct hv_error *err); /* loads the image, sets the first vCPU's registers */
int hv_board_reset(struct hv_machine *m, struct hv_error *err); /* all parked, lock not held */
void hv_board_destroy(struct hv_machine *m);
struct hv_irq_line hv_board_irq(struct hv_machine *m, unsigned gsi); /* a device's line to pin gsi */
/* Devices with threads of their own: at rest from now on, or working again. No lock held. */
void hv_board_hold(struct hv_machine *m, bool held);

/* board_virtio.c: the disks' files, the networks and the vsock's socket, before the sandbox; the virtio
 * devices on the MMIO bus. */
int hv_board_open_disks(struct hv_machine *m, struct hv_error *err);
int hv_board_open_nets(struct hv_machine *m, struct hv_error *err);
int hv_board_open_vsock(struct hv_machine *m, struct hv_error *err);
int hv_board_create_virtio(struct hv_machine *m, struct hv_error *err);
void hv_board_close_disks(struct hv_machine *m);
void hv_board_close_nets(struct hv_machine *m);
void hv_board_close_vsock(struct hv_machine *m);

/* diagnose.c: why a vCPU can't go on, for a person. On its thread. */
void hv_diagnose(struct hv_cpu *cpu, const char *headline, char *text, size_t size);

#endif
