/*
 * Writes hvrun's seccomp filter as a C file, on the build machine. libseccomp turns the list below into
 * BPF here, once, so that hvrun neither links it nor spends a millisecond of every start in it: at run time
 * the finished program is handed to the kernel as it is (tools/hvrun/sandbox.c).
 *
 * The list is what a running VM needs and nothing else. All other calls fail with EPERM instead of killing: a
 * call that nobody foresaw is then a failed command, not a lost VM. A descriptor that the process holds is
 * still usable; what it can't do is get hold of new ones: no open, no socket, no exec, no other process. Some
 * VMs need a little more; so there is a program for each set of such needs (filter.h).
 *
 * User networking (--net user) may make and connect internet sockets besides, as libslirp does for each
 * connection of the guest's; --vsock may do so with Unix sockets. Sockets of other families, listening and
 * binding stay forbidden: forwarded ports are bound before the door is shut.
 *
 * Rules: seccomp(2), seccomp_rule_add(3), linux/seccomp.h.
 */
#include <asm/ioctls.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/if_tun.h>
#include <linux/kvm.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "filter.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* Calls that are allowed whatever their arguments: they work on descriptors, memory and threads that we have.
 */
/* clang-format off */
static const char *const plain[] = {
	/* bytes */
	"read", "write", "readv", "writev", "pread64", "pwrite64", "preadv", "pwritev", "lseek",
	"close", "fstat", "newfstatat", "statx", "ftruncate", "fallocate", "fsync", "fdatasync",
	"flock", "dup", "pipe2",
	/* a disk's data that is in the kernel's cache, and the rest by a ring that was made before and takes
	 * reads, writes and flushes only (core/device/virtio/blk_uring.c); not io_uring_setup: a new ring could
	 * open and connect */
	"preadv2", "pwritev2", "io_uring_enter",
	/* sockets that we hold */
	"accept", "accept4", "recvfrom", "recvmsg", "sendto", "sendmsg", "shutdown", "getsockopt",
	"setsockopt", "getsockname", "getpeername",
	/* waiting */
	"poll", "ppoll", "select", "pselect6", "epoll_create1", "epoll_ctl", "epoll_wait",
	"epoll_pwait", "eventfd2", "timerfd_create", "timerfd_settime", "timerfd_gettime",
	"signalfd4", "futex", "nanosleep", "clock_nanosleep", "clock_gettime", "clock_getres",
	"gettimeofday", "time", "restart_syscall", "sched_yield",
	/* memory; mmap and mprotect are below */
	"munmap", "mremap", "madvise", "brk", "membarrier", "mincore",
	/* threads and signals; clone and tgkill are below */
	"exit", "exit_group", "set_robust_list", "rseq", "sigaltstack", "rt_sigaction",
	"rt_sigprocmask", "rt_sigreturn", "rt_sigtimedwait", "sched_getaffinity", "getpid",
	"gettid", "getuid", "geteuid", "getgid", "getegid", "getppid", "getpgrp", "getpgid",
	/* our own socket, lock and trace go by these; Landlock keeps them in their folders */
	"unlink", "unlinkat", "rename", "renameat", "renameat2",
	/* the rest */
	"getrandom", "sysinfo", "uname", "getcpu", "getrusage",
};
/* clang-format on */

#ifdef HV_FILTER_SANITIZED
/* What the sanitizers do when they report, and at exit when they look for leaks. Not in a build that users
 * get. */
/* clang-format off */
static const char *const sanitizers[] = {
	"open", "openat", "readlink", "readlinkat", "getdents", "getdents64", "mmap", "mprotect", "clone",
	"ptrace", "wait4", "prctl", "prlimit64", "process_vm_readv", "stat", "lstat", "access",
	"personality", "fcntl", "kill", "tgkill", "getcwd", "ioctl", "sched_getparam",
	"sched_getscheduler", "setrlimit", "getrlimit", "set_tid_address", "arch_prctl",
	"rt_sigpending",
};
/* clang-format on */
#endif

/* clang-format off */
static const unsigned long ioctls[] = {
	/* a vCPU (KVM_RUN has its own path, see prologue) */
	KVM_RUN, KVM_GET_REGS, KVM_SET_REGS, KVM_GET_SREGS, KVM_SET_SREGS, KVM_GET_SREGS2,
	KVM_SET_SREGS2, KVM_GET_FPU, KVM_SET_FPU, KVM_GET_XSAVE, KVM_SET_XSAVE, KVM_GET_XSAVE2,
	KVM_GET_XCRS, KVM_SET_XCRS, KVM_GET_MSRS, KVM_SET_MSRS, KVM_GET_MSR_INDEX_LIST,
	KVM_GET_CPUID2, KVM_SET_CPUID2, KVM_GET_LAPIC, KVM_SET_LAPIC, KVM_GET_MP_STATE,
	KVM_SET_MP_STATE, KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS, KVM_GET_DEBUGREGS,
	KVM_SET_DEBUGREGS, KVM_SET_GUEST_DEBUG, KVM_INTERRUPT, KVM_NMI, KVM_SET_SIGNAL_MASK,
	KVM_TRANSLATE, KVM_GET_TSC_KHZ, KVM_SET_TSC_KHZ, KVM_KVMCLOCK_CTRL,
	KVM_TPR_ACCESS_REPORTING,
	/* the VM itself, made after the door is shut, and the spare one whose fresh state a reset copies
	 * (core/machine/board.c) */
	KVM_GET_SUPPORTED_CPUID, KVM_CREATE_VM, KVM_CREATE_VCPU, KVM_CREATE_IRQCHIP, KVM_CREATE_PIT2, KVM_ENABLE_CAP,
	KVM_SET_TSS_ADDR, KVM_SET_IDENTITY_MAP_ADDR,
	/* a VM; no new device */
	KVM_CHECK_EXTENSION, KVM_SET_USER_MEMORY_REGION, KVM_IRQ_LINE, KVM_IRQ_LINE_STATUS,
	KVM_SIGNAL_MSI, KVM_SET_GSI_ROUTING, KVM_GET_IRQCHIP, KVM_SET_IRQCHIP, KVM_GET_PIT2,
	KVM_SET_PIT2, KVM_GET_CLOCK, KVM_SET_CLOCK, KVM_IRQFD, KVM_IOEVENTFD, KVM_GET_DIRTY_LOG,
	KVM_CLEAR_DIRTY_LOG, KVM_RESET_DIRTY_RINGS, KVM_GET_STATS_FD, KVM_REINJECT_CONTROL,
	/* a terminal; not TIOCSTI, which types into it */
	/* a tap that we hold: what the guest's driver takes on; it means nothing to other descriptors */
	TUNSETOFFLOAD,
	TCGETS, TCSETS, TCSETSW, TCSETSF, TIOCGWINSZ, TIOCGPGRP, TIOCOUTQ, FIONREAD, FIONBIO,
};
/* clang-format on */

static const int fcntls[] = {F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC};

static void check(int rc, const char *what)
{
	if (rc < 0) {
		fprintf(stderr, "mkfilter: %s: %s\n", what, strerror(-rc));
		exit(1);
	}
}

static void allow(scmp_filter_ctx f, const char *name)
{
	int nr = seccomp_syscall_resolve_name(name);

	check(nr == __NR_SCMP_ERROR ? -ENOSYS : 0, name);
	check(seccomp_rule_add(f, SCMP_ACT_ALLOW, nr, 0), name);
}

static void allow_list(scmp_filter_ctx f, const char *const *names, size_t count)
{
	for (size_t i = 0; i < count; i++)
		allow(f, names[i]);
}

/* Calls that are allowed for some arguments only. */
static void allow_some(scmp_filter_ctx f)
{
	for (size_t i = 0; i < COUNT(ioctls); i++)
		check(seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
				       SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffffffffu, ioctls[i])),
		      "ioctl");
	for (size_t i = 0; i < COUNT(fcntls); i++)
		check(seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(fcntl), 1,
				       SCMP_A1(SCMP_CMP_EQ, (scmp_datum_t)fcntls[i])),
		      "fcntl");
	/* No new executable memory. */
	check(seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1,
			       SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0)),
	      "mmap");
	check(seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
			       SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0)),
	      "mprotect");
	/* Threads, not processes. */
	check(seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
			       SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD)),
	      "clone");
	/* Signals to ourselves: sandbox.c puts its PID in the number's place. */
	check(seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1, SCMP_A0(SCMP_CMP_EQ, HV_FILTER_PID)),
	      "tgkill");
	check(seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(prctl), 1, SCMP_A0(SCMP_CMP_EQ, PR_SET_NAME)),
	      "prctl");
	/* A thread's own slice. */
	check(seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(sched_getattr), 1, SCMP_A0(SCMP_CMP_EQ, 0)),
	      "sched_getattr");
	check(seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(sched_setattr), 1, SCMP_A0(SCMP_CMP_EQ, 0)),
	      "sched_setattr");
	/* Limits may be asked for (a thread's default stack), not set. */
	check(seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(prlimit64), 2, SCMP_A0(SCMP_CMP_EQ, 0),
			       SCMP_A2(SCMP_CMP_EQ, 0)),
	      "prlimit64");
}

/* libslirp (core/device/net/user.c), in IP versions 4 and 6 and no other family. */
static void allow_user_net(scmp_filter_ctx f)
{
	static const int families[] = {AF_INET, AF_INET6};

	for (size_t i = 0; i < COUNT(families); i++)
		check(seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1,
				       SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)families[i])),
		      "socket");
}

/* --vsock: a guest's connection becomes one to a Unix socket, whenever it likes. No other kind of socket. */
static void allow_unix(scmp_filter_ctx f)
{
	check(seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(socket), 3, SCMP_A0(SCMP_CMP_EQ, AF_UNIX),
			       SCMP_A1(SCMP_CMP_EQ, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC),
			       SCMP_A2(SCMP_CMP_EQ, 0)),
	      "socket");
}

static void allow_sockets(scmp_filter_ctx f, unsigned set)
{
	if (set & HV_FILTER_USER_NET)
		allow_user_net(f);
	if (set & HV_FILTER_CONNECT)
		allow_unix(f);
	if (set)
		allow(f, "connect");
}

/*
 * KVM_RUN comes a hundred thousand times a second and more; libseccomp's order of tests doesn't know that.
 * Seven instructions before its program let it through first: x86-64, ioctl, KVM_RUN. Jumps are relative, so
 * the program behind them needs no change.
 */
static const struct sock_filter prologue[] = {
	BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SCMP_ARCH_X86_64, 0, 5),
	BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SCMP_SYS(ioctl), 0, 3),
	BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, KVM_RUN, 0, 1),
	BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
};

static void print(const struct sock_filter *insn, size_t count)
{
	for (size_t i = 0; i < count; i++)
		printf("\t{0x%04x, %u, %u, 0x%08x},\n", insn[i].code, insn[i].jt, insn[i].jf, insn[i].k);
}

/* The program for a set of needs, as an array. Returns its length. */
static size_t make(unsigned set)
{
	scmp_filter_ctx f = seccomp_init(SCMP_ACT_ERRNO(EPERM));
	FILE *exported = tmpfile();
	struct sock_filter program[4096];
	size_t count;

	if (!f || !exported) {
		fprintf(stderr, "mkfilter: cannot start: %s\n", strerror(errno));
		exit(1);
	}
	allow_list(f, plain, COUNT(plain));
#ifdef HV_FILTER_SANITIZED
	allow_list(f, sanitizers, COUNT(sanitizers));
#endif
	allow_some(f);
	allow_sockets(f, set);
	/* glibc then makes its threads by clone, whose flags can be seen; those of clone3 are in memory. */
	check(seccomp_rule_add(f, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0), "clone3");
	check(seccomp_attr_set(f, SCMP_FLTATR_CTL_OPTIMIZE, 2), "a binary tree of calls");
	check(seccomp_export_bpf(f, fileno(exported)), "export");
	seccomp_release(f);
	rewind(exported);
	count = fread(program, sizeof(program[0]), COUNT(program), exported);
	fclose(exported);
	if (count == 0 || COUNT(prologue) + count > HV_FILTER_MAX) {
		fprintf(stderr, "mkfilter: the filter has an impossible length\n");
		exit(1);
	}
	printf("static const struct sock_filter set_%u[] = {\n", set);
	print(prologue, COUNT(prologue));
	print(program, count);
	printf("};\n\n");
	return COUNT(prologue) + count;
}

int main(void)
{
	size_t lengths[HV_FILTER_SETS];

	printf("/* Made by tools/hvrun/filter/mkfilter.c. */\n#include \"filter.h\"\n\n");
	for (unsigned set = 0; set < HV_FILTER_SETS; set++)
		lengths[set] = make(set);
	printf("const struct hv_filter hvrun_filters[HV_FILTER_SETS] = {\n");
	for (unsigned set = 0; set < HV_FILTER_SETS; set++)
		printf("\t{set_%u, %zu},\n", set, lengths[set]);
	printf("};\n");
	return fflush(stdout) == 0 ? 0 : 1;
}
