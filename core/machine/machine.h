/*
 * One VM put together: memory, vCPU threads, devices, boot; run, pause, reset, stop.
 *
 * Threads: all functions here may be called from any thread but a vCPU's own, unless it says otherwise. The
 * machine uses the signal SIGRTMIN to kick vCPUs out of KVM_RUN and installs an empty handler for it once.
 */
#ifndef HV_MACHINE_MACHINE_H
#define HV_MACHINE_MACHINE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/log.h"
#include "device/bus.h"
#include "device/chardev.h"
#include "device/virtio/balloon.h"
#include "kvm/memory.h"
#include "kvm/vcpu.h"
#include "machine/config.h"
#include "machine/trace.h"

struct hv_machine;

enum hv_state {
	HV_STATE_PRELAUNCH, /* made, never run ("prelaunch" in QMP) */
	HV_STATE_RUNNING,   /* "running" */
	HV_STATE_PAUSED,    /* "paused" */
	HV_STATE_DEBUG,     /* stopped by the debugger ("debug") */
	HV_STATE_IO_ERROR,  /* the host has no room for what a disk writes ("io-error"): resume tries again */
	HV_STATE_ENDED,     /* "shutdown", or "guest-panicked" or "internal-error" when end.reason says so */
};

enum hv_end_reason {
	HV_END_NONE,
	HV_END_GUEST_EXIT,   /* the debug exit device; status is the guest's own */
	HV_END_HALT,         /* hlt with nothing that could wake it, power off: orderly, status 0 */
	HV_END_QUIT,         /* asked for from outside: status 0 */
	HV_END_TIMEOUT,      /* status 124 */
	HV_END_TRIPLE_FAULT, /* status 1, text tells registers and the last exits */
	HV_END_PANIC,        /* the guest's kernel says so (pvpanic); status 1, text tells */
	HV_END_ERROR,        /* an exit that can't be gone on from; status 1, text tells */
};

struct hv_end {
	enum hv_end_reason reason;
	int status;      /* exit status for the tool */
	char text[8192]; /* lines for a person, "" when there is nothing to say */
};

enum hv_event {
	HV_EVENT_STOP,
	HV_EVENT_RESUME,
	HV_EVENT_RESET,
	HV_EVENT_SHUTDOWN,
	HV_EVENT_DEBUG,
	HV_EVENT_BALLOON,  /* hv_machine_balloon_actual has changed; it alone may be called by the subscriber
			    */
	HV_EVENT_IO_ERROR, /* HV_EVENT_STOP follows */
};

/* What HV_EVENT_IO_ERROR tells of. */
struct hv_io_error {
	char device[32];
	int error; /* ENOSPC, EDQUOT, EFBIG */
};

/* Called once for each event, in order, from the machine's own threads or the caller of pause, resume, reset;
 * it must not block and must not call back into the machine. detail: for SHUTDOWN the hv_end_reason, for
 * RESET 1 when the guest asked for it, for DEBUG the vCPU. */
typedef void hv_event_fn(void *ctx, enum hv_event event, int detail);

HV_API_BEGIN
/*
 * Makes a machine from config (copied; finished by hv_config_finish) without starting it. chardev is the
 * host's side of serial0, borrowed, opened and not started. log may be NULL. In two steps, so that a tool can
 * lock itself in between them: hv_machine_open opens all files and /dev/kvm and looks at nothing in them,
 * hv_machine_build makes the VM and puts the image, which may be hostile, into it. When build fails the
 * machine is to be destroyed. hv_machine_create is both; *out is NULL when it or hv_machine_open fails.
 */
int hv_machine_open(const struct hv_config *config, struct hv_chardev *chardev, const struct hv_log *log,
		    struct hv_machine **out, struct hv_error *err);
int hv_machine_build(struct hv_machine *m, struct hv_error *err);
/*
 * Between open and build, where the configuration has a virtio console or an agent's channel: the host's side
 * of each, opened and not started, or NULL when nothing is plugged in. They are the machine's from then on
 * (hv_machine_destroy closes them); the caller starts them when the machine has been.
 */
void hv_machine_plug(struct hv_machine *m, struct hv_chardev *console, struct hv_chardev *agent);
int hv_machine_create(const struct hv_config *config, struct hv_chardev *chardev, const struct hv_log *log,
		      struct hv_machine **out, struct hv_error *err);

/* Starts the vCPU threads. paused: they wait for hv_machine_resume. Once. */
int hv_machine_start(struct hv_machine *m, bool paused, struct hv_error *err);

/* Stops all vCPUs between two instructions and returns when all are parked (-ETIMEDOUT with a sentence after
 * 5 s). Pausing a paused machine is no error; an ended one is -ESHUTDOWN. */
int hv_machine_pause(struct hv_machine *m, struct hv_error *err);
int hv_machine_resume(struct hv_machine *m, struct hv_error *err);

/* A power cycle: vCPUs and devices reset, memory zeroed, the image loaded again; running or paused as before.
 */
int hv_machine_reset(struct hv_machine *m, struct hv_error *err);

/* Ends the machine; returns at once, hv_machine_wait tells when it's done. reason QUIT or TIMEOUT. */
void hv_machine_end(struct hv_machine *m, enum hv_end_reason reason);

/*
 * Waits until the machine has ended and its threads are gone, at most timeout_ms (-1: for ever): 0 and *end
 * filled, or -ETIMEDOUT. A vCPU that does not leave KVM_RUN within 5 s of the end is reported in end->text
 * and given up; the process must then leave by _exit.
 */
int hv_machine_wait(struct hv_machine *m, int timeout_ms, struct hv_end *end);
/* The exit status that the ended machine gives the tool (0 to 255), or -EBUSY while it lives. */
int hv_machine_end_status(struct hv_machine *m);
/* A descriptor that becomes readable when the machine has ended; borrowed. */
int hv_machine_end_fd(const struct hv_machine *m);

/* Frees all. The machine has ended and was waited for, or was never started; its chardev has been closed
 * before, so that no input comes any more. */
void hv_machine_destroy(struct hv_machine *m);

enum hv_state hv_machine_state(struct hv_machine *m);
const char *hv_state_name(enum hv_state state, enum hv_end_reason reason); /* QMP's word */
const struct hv_config *hv_machine_config(const struct hv_machine *m);
struct hv_memory *hv_machine_memory(struct hv_machine *m);
const struct hv_bus *hv_machine_pio(const struct hv_machine *m);
const struct hv_bus *hv_machine_mmio(const struct hv_machine *m);
struct hv_chardev *hv_machine_chardev(struct hv_machine *m);
struct hv_chardev *hv_machine_console_chardev(struct hv_machine *m); /* NULL: nothing is plugged in */
struct hv_chardev *hv_machine_agent_chardev(struct hv_machine *m);
unsigned hv_machine_cpus(const struct hv_machine *m);
enum hv_irqchip hv_machine_irqchip(const struct hv_machine *m);
const struct hv_entry *hv_machine_entry(const struct hv_machine *m);
uint64_t hv_machine_uptime_ns(const struct hv_machine *m); /* since start, host's monotonic clock */

/*
 * Runs fn on the thread of vCPU cpu, between two exits, running or parked, and returns its result; the other
 * vCPUs go on. -ETIMEDOUT when the vCPU does not come out within 5 s, -ESHUTDOWN after the end. Before start
 * it runs fn here.
 */
typedef int hv_vcpu_fn(struct hv_vcpu *vcpu, void *ctx, struct hv_error *err);
int hv_machine_call(struct hv_machine *m, unsigned cpu, hv_vcpu_fn *fn, void *ctx, struct hv_error *err);

/* vCPU cpu's recorder (counters at any time; records only inside hv_machine_call or when parked), thread id
 * (0 when it has none) and whether it sits in hlt as far as one knows. */
struct hv_recorder *hv_machine_recorder(struct hv_machine *m, unsigned cpu);
int hv_machine_thread_id(const struct hv_machine *m, unsigned cpu);

/* Tracing of all vCPUs on or off; saving writes what the rings hold (pausing the machine for the copy). */
int hv_machine_trace(struct hv_machine *m, bool on, struct hv_error *err);
bool hv_machine_tracing(const struct hv_machine *m);
int hv_machine_trace_save(struct hv_machine *m, int fd, struct hv_error *err);

/* Another size for a disk, by its device's name ("virtio-blk0"); the guest is told. -ENODEV: no such disk;
 * others as hv_virtio_blk_resize's. */
int hv_machine_resize_disk(struct hv_machine *m, const char *name, uint64_t size, struct hv_error *err);

/* From outside into the guest: an NMI to one vCPU; a pulse on an interrupt line. Without an irqchip the line
 * becomes an external interrupt with vector 0x20 + line, taken as soon as the guest has interrupts enabled.
 */
int hv_machine_nmi(struct hv_machine *m, unsigned cpu, struct hv_error *err);
int hv_machine_irq(struct hv_machine *m, unsigned line, struct hv_error *err);

/*
 * The balloon (--balloon): what the guest shall have left, in bytes, and what it says it has. query asks the
 * guest for fresh statistics, which takes half a second at most; a VM that doesn't run isn't asked. -ENXIO:
 * the VM has no balloon; -EINVAL: no byte is left.
 */
int hv_machine_balloon_set(struct hv_machine *m, uint64_t bytes, struct hv_error *err);
int hv_machine_balloon_query(struct hv_machine *m, struct hv_balloon_info *info, struct hv_error *err);
uint64_t hv_machine_balloon_actual(const struct hv_machine *m); /* never waits */

/* The terminal of the virtio console has this size now, in characters. Nothing happens without a console. */
void hv_machine_console_size(struct hv_machine *m, uint16_t columns, uint16_t rows);

/* Events; one subscriber slot each call, at most 8; before or after start. Returns a handle >= 0. */
int hv_machine_subscribe(struct hv_machine *m, hv_event_fn *fn, void *ctx, struct hv_error *err);
/* For a listener, while it is told of HV_EVENT_IO_ERROR. */
const struct hv_io_error *hv_machine_io_error(const struct hv_machine *m);
void hv_machine_unsubscribe(struct hv_machine *m, int handle);

/*
 * A debugger. hook is called on the vCPU's thread when it left the guest by KVM_EXIT_DEBUG, or stopped at a
 * breakpoint instruction that the back end could not execute; it returns true when the stop was the
 * debugger's (the machine then goes to HV_STATE_DEBUG, all vCPUs park, HV_EVENT_DEBUG follows) and false to
 * let the guest have its own #DB or #BP. One debugger at a time; NULL takes it away. Guest debugging itself
 * (KVM_SET_GUEST_DEBUG) is set by the debugger through hv_machine_call.
 */
typedef bool hv_debug_hook(void *ctx, struct hv_vcpu *vcpu, const struct kvm_debug_exit_arch *info);
int hv_machine_set_debugger(struct hv_machine *m, hv_debug_hook *hook, void *ctx, struct hv_error *err);
/* HV_EVENT_DEBUG's pause from outside (Ctrl-C in gdb): like pause, but the state is HV_STATE_DEBUG. */
int hv_machine_debug_stop(struct hv_machine *m, struct hv_error *err);
/* Resumes only the vCPUs whose bit is set (single-stepping one thread); the others stay parked. */
int hv_machine_resume_mask(struct hv_machine *m, uint64_t cpus, struct hv_error *err);
HV_API_END

#endif
