/*
 * The machine as the gdb stub sees it: stop, look, change, break, go on. Private to the stub. All functions
 * run on the stub's thread; only the machine's debug hook runs on vCPU threads.
 */
#ifndef HV_CONTROL_GDB_TARGET_H
#define HV_CONTROL_GDB_TARGET_H

#include <pthread.h>

#include "control/gdb_regs.h"
#include "machine/machine.h"

#define HV_GDB_SOFT_MAX 512
#define HV_GDB_HARD_MAX 4 /* debug registers */

/* gdb's numbers in Z and z packets. */
enum hv_gdb_break { HV_GDB_SOFT, HV_GDB_EXEC, HV_GDB_WRITE, HV_GDB_READ, HV_GDB_ACCESS };

enum hv_gdb_why {
	HV_GDB_NOT_STOPPED,
	HV_GDB_STEPPED,
	HV_GDB_HIT,         /* a breakpoint; `type` and `address` tell which */
	HV_GDB_INTERRUPTED, /* from outside: Ctrl-C, or `stop` by QMP */
	HV_GDB_ENDED,
};

struct hv_gdb_stop {
	enum hv_gdb_why why;
	unsigned cpu;
	enum hv_gdb_break type;
	uint64_t address;
};

struct hv_gdb_soft {
	bool lifted; /* the instruction is back in place for one step over it */
	bool real;   /* set in real mode: wants a debug register too, when one is free */
	uint64_t gva, gpa;
	uint8_t original;
};

struct hv_gdb_hard {
	bool used;
	enum hv_gdb_break type;
	uint64_t gva, length;             /* of this debug register */
	uint64_t asked_gva, asked_length; /* of the request that it is a piece of */
};

struct hv_gdb_target {
	struct hv_machine *machine;
	unsigned cpus;
	bool attached;
	bool ran;     /* the guest goes on after an unasked detach: it ran before, or the client let it run */
	bool running; /* the client waits for a stop */
	bool interrupted;
	uint64_t step, go; /* vCPUs, by bit: what the client wants of them */
	int over;          /* vCPU that steps over a breakpoint just now, -1 for none */

	pthread_mutex_t lock; /* what follows is shared with the hook */
	uint64_t stepping;    /* vCPUs that have KVM's single-step on */
	unsigned soft_count;
	struct hv_gdb_soft soft[HV_GDB_SOFT_MAX];
	struct hv_gdb_hard hard[HV_GDB_HARD_MAX];
	struct hv_gdb_stop hits[HV_CPUS_MAX]; /* seen and not yet told to the client */
};

void hv_gdb_target_init(struct hv_gdb_target *t, struct hv_machine *machine);
void hv_gdb_target_free(struct hv_gdb_target *t);

/* Becomes the machine's debugger and stops it. Nothing when attached already. */
int hv_gdb_attach(struct hv_gdb_target *t, struct hv_error *err);
/* Takes all breakpoints out and lets go. go_on: the guest runs then, whatever it did before. */
void hv_gdb_detach(struct hv_gdb_target *t, bool go_on);

int hv_gdb_get_state(struct hv_gdb_target *t, unsigned cpu, struct hv_gdb_state *state, struct hv_error *err);
int hv_gdb_set_state(struct hv_gdb_target *t, unsigned cpu, struct hv_gdb_state *state,
		     const struct hv_gdb_state *before, struct hv_error *err);

/* Guest-virtual memory through vCPU cpu's tables, without a trace of breakpoints. Returns how many bytes were
 * there, from the first on; negative when the vCPU can't be asked. */
int64_t hv_gdb_read(struct hv_gdb_target *t, unsigned cpu, uint64_t gva, void *buf, size_t length);
int64_t hv_gdb_write(struct hv_gdb_target *t, unsigned cpu, uint64_t gva, const void *buf, size_t length);

/* Idempotent, as the protocol wants. -EFAULT: no memory there; -ENOSPC: no debug register, or no room, left.
 */
int hv_gdb_insert(struct hv_gdb_target *t, unsigned cpu, enum hv_gdb_break type, uint64_t gva,
		  uint64_t length);
int hv_gdb_remove(struct hv_gdb_target *t, enum hv_gdb_break type, uint64_t gva, uint64_t length);
/* After a reset has written memory anew: software breakpoints go in again. */
void hv_gdb_reinsert(struct hv_gdb_target *t);

/* Lets vCPUs go: `step` for one instruction, `go` until something happens; the others stay. */
int hv_gdb_resume(struct hv_gdb_target *t, uint64_t step, uint64_t go, struct hv_error *err);
int hv_gdb_interrupt(struct hv_gdb_target *t, struct hv_error *err);
/* To be called after every event of the machine, and after hv_gdb_resume and _interrupt: has it stopped? */
bool hv_gdb_stopped(struct hv_gdb_target *t, struct hv_gdb_stop *stop);

/* Between gdb_target.c and gdb_resume.c. The first tells KVM what vCPU cpu is to stop at; a vCPU that steps
 * over an execution breakpoint does it without those. */
int hv_gdb_arm(struct hv_gdb_target *t, unsigned cpu, bool step, struct hv_error *err);
/* Does cpu stand on a breakpoint? Lifts it then, when it is a software one. */
bool hv_gdb_lift(struct hv_gdb_target *t, unsigned cpu, const struct kvm_regs *regs,
		 const struct kvm_sregs *sregs);
/* Puts back what was lifted. */
void hv_gdb_land(struct hv_gdb_target *t);

#endif
