/*
 * observe: what its files share. A program is run in a sandbox and watched from outside: main.c reads the
 * options, sandbox.c, room.c and filter.c lock the program in, trace.c follows its threads by ptrace, calls.c
 * looks at each system call that stops, state.c knows which descriptor is which part of KVM, decode.c and
 * run.c put ioctls and exits into words, dump.c keeps guest memory, json.c writes.
 *
 * Rules: ptrace(2), seccomp(2), landlock(7), KVM API (Documentation/virt/kvm/api.rst).
 */
#ifndef LABS_OBSERVE_H
#define LABS_OBSERVE_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/types.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/* --- options (main.c) -------------------------------------------------------------------------------------- */

#define PATHS_MAX 64
#define DUMPS_MAX 64

struct range {
	bool last; /* else: first */
	uint64_t gpa, length;
};

struct options {
	const char *trace, *kvm, *program, *folder; /* folder: the program's current one, or NULL */
	const char *read[PATHS_MAX], *write[PATHS_MAX];
	unsigned reads, writes;
	struct range dump[DUMPS_MAX];
	unsigned dumps;
	uint64_t limit_memory, limit_output, limit_cpu, limit_runs; /* 0: none */
	uid_t uid;
	gid_t gid;
	bool drop, sandbox, plain; /* drop: to uid and gid; only root does */
	char **argv;
};

/* --- json.c: one object a line ----------------------------------------------------------------------------- */

struct out {
	int fd; /* -1: nothing is written */
	bool comma, failed;
	size_t length;
	char text[1 << 16];
};

/* key is NULL inside an array. Texts need not be UTF-8: a strange byte becomes an escape. */
void out_open(struct out *o, const char *key, char bracket);
void out_close(struct out *o, char bracket);
void out_u64(struct out *o, const char *key, uint64_t value);
void out_i64(struct out *o, const char *key, int64_t value);
void out_bool(struct out *o, const char *key, bool value);
void out_null(struct out *o, const char *key);
void out_text(struct out *o, const char *key, const char *text);
void out_hex(struct out *o, const char *key, const void *bytes, size_t length);
void out_end_line(struct out *o);
void out_flush(struct out *o);

/* --- state.c: descriptors, VMs, vCPUs ---------------------------------------------------------------------- */

enum kind { NO_KVM, KVM_SYSTEM, KVM_VM, KVM_VCPU, KVM_DEVICE };

struct slot {
	uint32_t id, flags;
	uint64_t gpa, size, host;
	bool gone; /* its memory was unmapped: nothing of it may be read any more */
};

struct vm {
	unsigned index, fds;
	struct slot *slots;
	unsigned slot_count;
	bool ran;
};

/* The answer that an `in` or an MMIO read waits for. */
struct awaited {
	bool mmio;
	uint32_t length; /* 0: none */
	uint64_t offset; /* into the shared area */
};

struct vcpu {
	struct vm *vm;
	uint64_t id;
	unsigned fds;
	struct kvm_run *run; /* our own view of the area that KVM shares; NULL when it can't be had */
	size_t run_size;
	struct awaited awaited;
};

struct object {
	enum kind kind;
	struct vm *vm;
	struct vcpu *vcpu;
};

struct state {
	struct object *fds;
	unsigned fd_count;
	struct vm **vms;
	unsigned vm_count;
	struct vcpu **vcpus;
	unsigned vcpu_count;
	uint64_t sync; /* what KVM_CAP_SYNC_REGS offers */
	size_t run_size;
};

struct session;

void state_ask_kvm(struct state *st, const char *device);
void state_free(struct state *st);
struct object state_find(struct session *s, int fd);
void state_new_vm(struct session *s, int fd);
void state_new_vcpu(struct session *s, int fd, struct vm *vm, uint64_t id);
void state_new_device(struct session *s, int fd, struct vm *vm);
void state_dup(struct session *s, int from, int to);
void state_close(struct session *s, int fd);
void state_set_slot(struct session *s, struct vm *vm, uint32_t id, uint32_t flags, uint64_t gpa,
		    uint64_t size, uint64_t host);
void state_unmapped(struct session *s, uint64_t from, uint64_t length);
uint8_t state_immediate(const struct vcpu *vcpu);

/* --- trace.c: threads -------------------------------------------------------------------------------------- */

/* A system call between its two stops. */
struct call {
	bool active; /* its return is awaited */
	uint64_t nr, args[6], entered;
	/* an ioctl on KVM */
	bool ioctl;
	struct object on;
	uint8_t *in; /* what its argument pointed to */
	size_t in_length, in_room;
	/* a KVM_RUN */
	uint8_t immediate, request_window;
	uint8_t reply[4096];
	uint32_t reply_length;
	bool replied;
	/* an open that may turn out to be forbidden */
	char path[512];
	int folder;
	bool creates;
};

struct task {
	pid_t tid;
	bool exiting;
	bool outside;      /* a process that was forked where that is allowed: followed, not recorded */
	struct vcpu *vcpu; /* the one that it ran last */
	struct call call;
};

enum why { WHY_EXIT, WHY_SIGNAL, WHY_KILLED, WHY_FORBIDDEN, WHY_FLOOD };

struct session {
	const struct options *opt;
	struct out out;
	struct state state;
	struct task **tasks;
	unsigned task_count;
	pid_t pid;
	uint64_t started, killed_at, runs, files;
	enum why why;
	const char *limit;         /* of WHY_FLOOD: which one */
	bool execed, killed, kept; /* kept: the last dumps are made, and no vCPU ran since */
	int status;                /* of the program, as waitpid tells it */
	int memory;                /* FILE.mem, -1 without */
	uint64_t memory_end;
};

uint64_t now(void);
uint64_t since(const struct session *s); /* ns since the program's start */
struct task *task_find(const struct session *s, pid_t tid);
int trace_program(struct session *s, int errors);
void trace_kill(struct session *s, enum why why);
void trace_flood(struct session *s, const char *limit); /* a limit was passed */
void trace_forbidden(struct session *s, pid_t tid, const char *what, const char *detail);

/* Reads the program's memory, or that of a process that it started; the bytes that were there. */
size_t peek(const struct session *s, uint64_t address, void *buf, size_t length);
size_t peek_task(const struct session *s, const struct task *t, uint64_t address, void *buf, size_t length);

/* --- calls.c ----------------------------------------------------------------------------------------------- */

/* True: its return is to be seen, too. */
bool call_entered(struct session *s, struct task *t, uint32_t arch);
void call_returned(struct session *s, struct task *t, int64_t ret);
/* The program ends while t is in a call. */
void call_cut_short(struct session *s, struct task *t);

/* --- files.c ----------------------------------------------------------------------------------------------- */

/* True: what becomes of this open is to be seen, too. */
bool open_entered(struct session *s, struct task *t);
void open_returned(struct session *s, const struct task *t, int64_t ret);
void files_one_more(struct session *s); /* a new name in the file system */

/* --- decode.c, run.c --------------------------------------------------------------------------------------- */

/* KVM_SET_USER_MEMORY_REGION2: linux/kvm.h has it since 6.8. */
struct region2 {
	uint32_t slot, flags;
	uint64_t guest_phys_addr, memory_size, userspace_addr, guest_memfd_offset;
	uint32_t guest_memfd, pad1;
	uint64_t pad2[14];
};
#define SET_USER_MEMORY_REGION2 _IOW(KVMIO, 0x49, struct region2)

const char *ioctl_name(unsigned long request);
size_t ioctl_in_size(const struct session *s, unsigned long request, uint64_t arg);
void decode_in(struct out *o, unsigned long request, uint64_t arg, const uint8_t *data, size_t length);
void decode_out(struct session *s, unsigned long request, uint64_t arg);
void decode_regs(struct out *o, const char *key, const struct kvm_regs *regs);
void decode_sregs(struct out *o, const char *key, const struct kvm_sregs *sregs);

void run_entered(struct session *s, struct task *t);
void run_returned(struct session *s, struct task *t, int64_t ret);
void run_unreturned(struct session *s, struct task *t);

/* --- dump.c ------------------------------------------------------------------------------------------------ */

void dump_first(struct session *s, const struct vm *vm);
void dump_slot(struct session *s, const struct vm *vm,
	       const struct slot *slot); /* its part of the last ones */
void dump_last(struct session *s);       /* all VMs */

/* --- the sandbox ------------------------------------------------------------------------------------------- */

/*
 * In the child, before exec. A sentence of what failed is put into why; then the program must not be started.
 */
int sandbox_enter(const struct options *o, char *why, size_t size);
long landlock_version(void);                                     /* 0: the kernel has none */
int room_enter(const struct options *o, char *why, size_t size); /* root's: a private file system tree */
int filter_load(const struct options *o);
/* What a call that stops is, when it's none that the program may make: fork, exec, ...; else NULL. */
const char *filter_forbids(uint64_t nr, const uint64_t args[6]);
const char *filter_call_name(uint64_t nr);

/* Folders and files that every program may read. */
extern const char *const system_paths[];
extern const unsigned system_path_count;

#endif
