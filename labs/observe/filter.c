/*
 * The system call filter. It has two jobs: what the record needs (KVM's ioctls, mappings, signals,
 * descriptors) stops for the tracer, everything else that a well-meant program does runs at full speed; and
 * what no lab needs stops too, to be named and ended. filter_forbids decides anew from the call itself, so a
 * filter of the program's own can't hide a call behind another number.
 *
 * Rules: seccomp(2), linux/seccomp.h, linux/filter.h; ioctl numbers: linux/ioctl.h.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/kvm.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "observe.h"

#define X32_BIT 0x40000000u

/* --- what is never allowed ----------------------------------------------------------------------------------- */

struct forbidden {
	unsigned nr;
	const char *what, *name;
};

#define NEVER(what, call)                                                                                    \
	{                                                                                                    \
		SYS_##call, what, #call                                                                      \
	}

static const struct forbidden forbidden[] = {
	NEVER("ptrace", ptrace),
	NEVER("ptrace", process_vm_readv),
	NEVER("ptrace", process_vm_writev),
	NEVER("ptrace", process_madvise),
	NEVER("ptrace", kcmp),
	NEVER("ptrace", pidfd_open),
	NEVER("ptrace", pidfd_getfd),
	NEVER("kill", pidfd_send_signal),
	NEVER("network", connect),
	NEVER("system", bpf),
	NEVER("system", perf_event_open),
	NEVER("system", io_uring_enter),
	NEVER("system", io_uring_register),
	NEVER("system", add_key),
	NEVER("system", request_key),
	NEVER("system", keyctl),
	NEVER("system", unshare),
	NEVER("system", setns),
	NEVER("system", mount),
	NEVER("system", umount2),
	NEVER("system", pivot_root),
	NEVER("system", chroot),
	NEVER("system", open_tree),
	NEVER("system", move_mount),
	NEVER("system", fsopen),
	NEVER("system", fspick),
	NEVER("system", fsmount),
	NEVER("system", fsconfig),
	NEVER("system", mount_setattr),
	NEVER("system", open_by_handle_at),
	NEVER("system", init_module),
	NEVER("system", finit_module),
	NEVER("system", delete_module),
	NEVER("system", kexec_load),
	NEVER("system", kexec_file_load),
	NEVER("system", reboot),
	NEVER("system", swapon),
	NEVER("system", swapoff),
	NEVER("system", settimeofday),
	NEVER("system", clock_settime),
	NEVER("system", sethostname),
	NEVER("system", acct),
	NEVER("system", quotactl),
	NEVER("system", modify_ldt),
	NEVER("system", iopl),
	NEVER("system", ioperm),
	NEVER("system", syslog),
	NEVER("system", userfaultfd),
};

/* Allowed to --plain alone, whose compiler is a driver that starts others. */
static const struct forbidden not_plain[] = {
	NEVER("fork", fork),
	NEVER("fork", vfork),
	NEVER("exec", execve),
	NEVER("exec", execveat),
};

/* What has no use here but harm to others, and what libraries call and do without. */
static const unsigned refused[] = {
	SYS_io_uring_setup, /* a disk does without; and it opens files unseen */
	SYS_setpriority,
	SYS_sched_setaffinity,
	SYS_sched_setscheduler,
	SYS_sched_setattr,
	SYS_sched_setparam,
	SYS_ioprio_set,
	SYS_migrate_pages,
	SYS_move_pages,
	SYS_setuid,
	SYS_setgid,
	SYS_setreuid,
	SYS_setregid,
	SYS_setresuid,
	SYS_setresgid,
	SYS_setgroups,
	SYS_setfsuid,
	SYS_setfsgid,
	SYS_capset,
	SYS_mknod,
	SYS_mknodat,
	SYS_setxattr,
	SYS_lsetxattr,
	SYS_fsetxattr,
	SYS_removexattr,
	SYS_lremovexattr,
	SYS_chown,
	SYS_lchown,
	SYS_fchownat,
	SYS_personality,
	SYS_setpgid,
	SYS_shmget,
	SYS_shmat,
	SYS_shmctl,
	SYS_semget,
	SYS_semop,
	SYS_semctl,
	SYS_msgget,
	SYS_msgsnd,
	SYS_msgctl,
	SYS_mq_open,
	SYS_mq_unlink,
	SYS_fallocate,
};

/* Newer than some distributions' sys/syscall.h. */
#define CALL_fchmodat2     452
#define CALL_setxattrat    463
#define CALL_removexattrat 466
#define CALL_file_setattr  469

/* These reach files that Landlock knows nothing of, in all or in older kernels; a linker makes its result
 * executable so. */
static const unsigned refused_not_plain[] = {
	SYS_chmod,     SYS_fchmodat, CALL_fchmodat2,  SYS_utime,          SYS_utimes,        SYS_futimesat,
	SYS_utimensat, SYS_truncate, CALL_setxattrat, CALL_removexattrat, CALL_file_setattr,
};

static bool in(const struct forbidden *list, size_t count, uint64_t nr, const struct forbidden **found)
{
	for (size_t i = 0; i < count; i++)
		if (list[i].nr == nr) {
			*found = &list[i];
			return true;
		}
	return false;
}

/* A Unix socket of its own, to listen on, is hvrun's monitor; connecting is forbidden, and so is talking
 * unconnected. */
static bool harmless_socket(const uint64_t args[6])
{
	return args[0] == AF_UNIX && (args[1] & 15) == SOCK_STREAM;
}

const char *filter_forbids(uint64_t nr, const uint64_t args[6])
{
	const struct forbidden *f;

	if (nr & X32_BIT)
		return "system";
	if (in(forbidden, ARRAY_SIZE(forbidden), nr, &f) || in(not_plain, ARRAY_SIZE(not_plain), nr, &f))
		return f->what;
	switch (nr) {
	case SYS_clone:
		return (args[0] & (CLONE_THREAD | CLONE_UNTRACED)) == CLONE_THREAD ? NULL : "fork";
	case SYS_socket:
	case SYS_socketpair:
		return harmless_socket(args) ? NULL : "network";
	case SYS_seccomp:
		return args[1] & SECCOMP_FILTER_FLAG_NEW_LISTENER ? "system" : NULL;
	default:
		return NULL;
	}
}

const char *filter_call_name(uint64_t nr)
{
	const struct forbidden *f;

	if (in(forbidden, ARRAY_SIZE(forbidden), nr, &f) || in(not_plain, ARRAY_SIZE(not_plain), nr, &f))
		return f->name;
	switch (nr) {
	case SYS_clone:
		return "clone without CLONE_THREAD";
	case SYS_socket:
		return "socket";
	case SYS_socketpair:
		return "socketpair";
	case SYS_seccomp:
		return "seccomp with a listener";
	default:
		return "a system call of another kind";
	}
}

/* --- the program ------------------------------------------------------------------------------------------- */

#define CODE_MAX 512

struct code {
	struct sock_filter line[CODE_MAX];
	unsigned short length;
};

#define ALLOW   SECCOMP_RET_ALLOW
#define STOP    SECCOMP_RET_TRACE
#define FAIL(e) (SECCOMP_RET_ERRNO | (uint32_t)(e))

static void add(struct code *c, unsigned op, uint32_t k, uint8_t yes, uint8_t no)
{
	if (c->length < CODE_MAX)
		c->line[c->length++] = (struct sock_filter){(uint16_t)op, yes, no, k};
}

static void load(struct code *c, size_t offset)
{
	add(c, BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset, 0, 0);
}

static void end(struct code *c, uint32_t action)
{
	add(c, BPF_RET | BPF_K, action, 0, 0);
}

/* The number is in the accumulator, and stays there. */
static void on_call(struct code *c, unsigned nr, uint32_t action)
{
	add(c, BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1);
	end(c, action);
}

/* One argument's low half decides: (arg & mask) == value, then action, else otherwise. */
static void on_arg(struct code *c, unsigned nr, unsigned arg, uint32_t mask, uint32_t value, uint32_t action,
		   uint32_t otherwise)
{
	add(c, BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 5);
	load(c, offsetof(struct seccomp_data, args) + 8 * arg);
	add(c, BPF_ALU | BPF_AND | BPF_K, mask, 0, 0);
	add(c, BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1);
	end(c, action);
	end(c, otherwise);
}

static void fcntl_calls(struct code *c, bool watch)
{
	/* Who owns a descriptor gets its signals: another process could be made to. */
	static const struct {
		uint32_t cmd, action;
	} cmds[] = {{F_SETOWN, FAIL(EPERM)},
		    {F_SETOWN_EX, FAIL(EPERM)},
		    {F_DUPFD, STOP},
		    {F_DUPFD_CLOEXEC, STOP}};
	unsigned count = watch ? ARRAY_SIZE(cmds) : 2;

	add(c, BPF_JMP | BPF_JEQ | BPF_K, SYS_fcntl, 0, (uint8_t)(2 * count + 2));
	load(c, offsetof(struct seccomp_data, args) + 8);
	for (unsigned i = 0; i < count; i++) {
		add(c, BPF_JMP | BPF_JEQ | BPF_K, cmds[i].cmd, 0, 1);
		end(c, cmds[i].action);
	}
	end(c, ALLOW);
}

/*
 * Mappings of descriptors, and with fixed ones those that may take the place of guest memory. Not the dynamic
 * loader's: it sets MAP_DENYWRITE, which means nothing else any more.
 */
static void watch_mmap(struct code *c, bool fixed)
{
	add(c, BPF_JMP | BPF_JEQ | BPF_K, SYS_mmap, 0, 6);
	load(c, offsetof(struct seccomp_data, args) + 24);
	add(c, BPF_JMP | BPF_JSET | BPF_K, MAP_DENYWRITE, 3, 0);
	add(c, BPF_ALU | BPF_AND | BPF_K, MAP_ANONYMOUS | (fixed ? MAP_FIXED : 0), 0, 0);
	add(c, BPF_JMP | BPF_JEQ | BPF_K, MAP_ANONYMOUS, 1, 0);
	end(c, STOP);
	end(c, ALLOW);
}

/* What the record needs. The most frequent first: they are compared one by one. */
static void watch_calls(struct code *c, const struct options *o)
{
	static const unsigned always[] = {SYS_close,
					  SYS_close_range,
					  SYS_dup,
					  SYS_dup2,
					  SYS_dup3,
					  SYS_kill,
					  SYS_tkill,
					  SYS_tgkill,
					  SYS_rt_sigqueueinfo,
					  SYS_rt_tgsigqueueinfo};
	static const unsigned unmaps[] = {SYS_munmap, SYS_mremap};

	on_arg(c, SYS_ioctl, 1, 0xff00, KVMIO << 8, STOP, ALLOW);
	watch_mmap(c, o->dumps > 0);
	for (size_t i = 0; i < ARRAY_SIZE(always); i++)
		on_call(c, always[i], STOP);
	for (size_t i = 0; o->dumps && i < ARRAY_SIZE(unmaps); i++)
		on_call(c, unmaps[i], STOP);
}

static void lock_calls(struct code *c, const struct options *o)
{
	static const unsigned opens[] = {SYS_open, SYS_openat, SYS_openat2, SYS_creat};
	static const unsigned kills[] = {SYS_kill, SYS_tkill, SYS_tgkill, SYS_rt_sigqueueinfo,
					 SYS_rt_tgsigqueueinfo};

	static const unsigned makes[] = {SYS_mkdir, SYS_mkdirat, SYS_symlink, SYS_symlinkat,
					 SYS_link,  SYS_linkat,  SYS_bind};

	for (size_t i = 0; i < ARRAY_SIZE(opens); i++)
		on_call(c, opens[i], STOP);
	for (size_t i = 0; i < ARRAY_SIZE(forbidden); i++)
		on_call(c, forbidden[i].nr, STOP);
	for (size_t i = 0; !o->plain && i < ARRAY_SIZE(not_plain); i++)
		on_call(c, not_plain[i].nr, STOP);
	for (size_t i = 0; i < ARRAY_SIZE(refused); i++)
		on_call(c, refused[i], FAIL(EPERM));
	for (size_t i = 0; !o->plain && i < ARRAY_SIZE(refused_not_plain); i++)
		on_call(c, refused_not_plain[i], FAIL(EPERM));
	/* A compiler's driver ends its helpers by signal. Landlock keeps others safe, where it knows how. */
	for (size_t i = 0; o->plain && i < ARRAY_SIZE(kills); i++)
		on_call(c, kills[i], ALLOW);
	/* Its flags are in memory, where the filter can't look; the C library falls back to clone. */
	on_call(c, SYS_clone3, FAIL(ENOSYS));
	if (!o->plain)
		on_arg(c, SYS_clone, 0, CLONE_THREAD | CLONE_UNTRACED, CLONE_THREAD, ALLOW, STOP);
	for (size_t i = 0; !o->plain && i < ARRAY_SIZE(makes); i++)
		on_call(c, makes[i], STOP);
	on_call(c, SYS_socket, STOP);
	on_call(c, SYS_socketpair, STOP);
	on_arg(c, SYS_seccomp, 1, SECCOMP_FILTER_FLAG_NEW_LISTENER, 0, ALLOW, STOP);
	on_arg(c, SYS_prlimit64, 0, UINT32_MAX, 0, ALLOW, FAIL(EPERM)); /* another's limits */
	fcntl_calls(c, !o->plain);
}

/* Typing into the terminal that the grader was started from; signals to who owns a descriptor. */
static void refuse_ioctls(struct code *c)
{
	static const uint32_t requests[] = {TIOCSTI, TIOCLINUX, TIOCSPGRP, FIOSETOWN, SIOCSPGRP, FIOASYNC};

	add(c, BPF_JMP | BPF_JEQ | BPF_K, SYS_ioctl, 0, (uint8_t)(2 * ARRAY_SIZE(requests) + 2));
	load(c, offsetof(struct seccomp_data, args) + 8);
	for (size_t i = 0; i < ARRAY_SIZE(requests); i++) {
		add(c, BPF_JMP | BPF_JEQ | BPF_K, requests[i], 0, 1);
		end(c, FAIL(EPERM));
	}
	load(c, offsetof(struct seccomp_data, nr));
}

int filter_load(const struct options *o)
{
	static struct code c;
	struct sock_fprog prog = {.filter = c.line};

	load(&c, offsetof(struct seccomp_data, arch));
	add(&c, BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0);
	end(&c, o->sandbox ? STOP : ALLOW);
	load(&c, offsetof(struct seccomp_data, nr));
	if (o->sandbox) {
		add(&c, BPF_JMP | BPF_JGE | BPF_K, X32_BIT, 0, 1);
		end(&c, STOP);
		refuse_ioctls(&c);
	}
	if (!o->plain)
		watch_calls(&c, o);
	if (o->sandbox)
		lock_calls(&c, o);
	end(&c, ALLOW);
	prog.len = c.length;
	if (c.length == CODE_MAX) {
		errno = E2BIG;
		return -1;
	}
	return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &prog);
}
