/*
 * What labs_observe.py watches: small VMs written straight onto KVM's ioctls, and programs that misbehave,
 * each one by name. The VMs run real-mode code at 0x1000 (SDM vol. 3A, 21). A misdeed that succeeds ends with
 * status 42.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#define MEMORY    0x10000u
#define START     0x1000u
#define RUN_PAGES 3
#define CPUS_MAX  8
#define DONE_IT   42

static volatile bool forever = true;

struct machine {
	int kvm, vm;
	uint8_t *memory;
};

struct cpu {
	struct machine *machine;
	unsigned index;
	int fd;
	struct kvm_run *run;
	pthread_t thread;
	_Atomic int tid;
	int result;
};

static const uint8_t tour[] = {
	0xb0, 0x41,       /* mov al, 'A' */
	0xba, 0xf8, 0x03, /* mov dx, 0x3f8 */
	0xee,             /* out dx, al */
	0xe4, 0x60,       /* in al, 0x60 */
	0xa2, 0x00, 0x20, /* mov [0x2000], al */
	0xb8, 0x00, 0xd0, /* mov ax, 0xd000 */
	0x8e, 0xd8,       /* mov ds, ax */
	0xa0, 0x00, 0x00, /* mov al, [0] */
	0xa2, 0x01, 0x00, /* mov [1], al */
	0xf4,             /* hlt */
};
static const uint8_t spin[] = {0xeb, 0xfe};
/* Writes its own address space's byte at 0x2000 + SI and SI to the port in DX, five times. */
static const uint8_t five[] = {
	0xb9, 0x05, 0x00, /* mov cx, 5 */
	0xee,             /* out dx, al */
	0xe2, 0xfd,       /* loop to the out */
	0xf4,             /* hlt */
};

static void need(bool ok, const char *what)
{
	if (ok)
		return;
	perror(what);
	exit(1);
}

static const char *device(void)
{
	const char *path = getenv("HV_KVM_DEVICE");

	return path ? path : "/dev/kvm";
}

static void set_memory(const struct machine *m, uint64_t size)
{
	struct kvm_userspace_memory_region region = {.memory_size = size,
						     .userspace_addr = (uintptr_t)m->memory};

	need(ioctl(m->vm, KVM_SET_USER_MEMORY_REGION, &region) == 0, "KVM_SET_USER_MEMORY_REGION");
}

static void make_machine(struct machine *m, const uint8_t *code, size_t length)
{
	m->kvm = open(device(), O_RDWR | O_CLOEXEC);
	need(m->kvm >= 0, device());
	m->vm = ioctl(m->kvm, KVM_CREATE_VM, 0);
	need(m->vm >= 0, "KVM_CREATE_VM");
	m->memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
			 -1, 0);
	need(m->memory != MAP_FAILED, "mmap");
	memcpy(m->memory + START, code, length);
	set_memory(m, MEMORY);
}

static void make_cpu(struct cpu *c, struct machine *m, unsigned index)
{
	struct kvm_sregs sregs;
	struct kvm_regs regs = {.rip = START, .rflags = 2, .rdx = 0x10 + index, .rax = index};

	c->machine = m;
	c->index = index;
	c->fd = ioctl(m->vm, KVM_CREATE_VCPU, index);
	need(c->fd >= 0, "KVM_CREATE_VCPU");
	c->run = mmap(NULL, RUN_PAGES * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, c->fd, 0);
	need(c->run != MAP_FAILED, "mmap of the vCPU");
	need(ioctl(c->fd, KVM_GET_SREGS, &sregs) == 0, "KVM_GET_SREGS");
	sregs.cs.base = sregs.cs.selector = 0;
	need(ioctl(c->fd, KVM_SET_SREGS, &sregs) == 0, "KVM_SET_SREGS");
	need(ioctl(c->fd, KVM_SET_REGS, &regs) == 0, "KVM_SET_REGS");
}

/* Until hlt; 0x5a is the answer to `in`, 0xa5 to an MMIO read. */
static int run_cpu(struct cpu *c)
{
	for (;;) {
		if (ioctl(c->fd, KVM_RUN, 0) < 0)
			return -errno;
		switch (c->run->exit_reason) {
		case KVM_EXIT_IO:
			if (c->run->io.direction == KVM_EXIT_IO_IN)
				*((uint8_t *)c->run + c->run->io.data_offset) = 0x5a;
			break;
		case KVM_EXIT_MMIO:
			if (!c->run->mmio.is_write)
				c->run->mmio.data[0] = 0xa5;
			break;
		default:
			return (int)c->run->exit_reason;
		}
	}
}

static int one(const uint8_t *code, size_t length)
{
	static struct machine m;
	static struct cpu c;

	make_machine(&m, code, length);
	make_cpu(&c, &m, 0);
	return run_cpu(&c);
}

/* --- right VMs ------------------------------------------------------------------------------------------------ */

static int do_tour(char **args)
{
	(void)args;
	return one(tour, sizeof(tour)) == KVM_EXIT_HLT ? 0 : 1;
}

/* The same, and all is given back in good order. */
static int do_orderly(char **args)
{
	struct machine m;
	struct cpu c;

	(void)args;
	make_machine(&m, tour, sizeof(tour));
	make_cpu(&c, &m, 0);
	need(run_cpu(&c) == KVM_EXIT_HLT, "hlt");
	munmap(c.run, RUN_PAGES * 4096);
	close(c.fd);
	munmap(m.memory, MEMORY);
	close(m.vm);
	close(m.kvm);
	/* Whatever comes to lie there now is no guest's memory. */
	m.memory = mmap(m.memory, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memset(m.memory, 0xee, MEMORY);
	return 0;
}

/* A slot is deleted before its memory is overwritten. */
static int do_slot(char **args)
{
	struct machine m;
	struct cpu c;

	(void)args;
	make_machine(&m, tour, sizeof(tour));
	make_cpu(&c, &m, 0);
	need(run_cpu(&c) == KVM_EXIT_HLT, "hlt");
	set_memory(&m, 0);
	memset(m.memory, 0xee, MEMORY);
	return 0;
}

/* Two VMs in one process, a descriptor that was duplicated, and calls on wrong ones. */
static int do_two(char **args)
{
	struct machine a, b;
	struct cpu first, second;
	int copy;

	(void)args;
	make_machine(&a, tour, sizeof(tour));
	make_machine(&b, five, sizeof(five));
	make_cpu(&first, &a, 0);
	make_cpu(&second, &b, 0);
	copy = fcntl(second.fd, F_DUPFD_CLOEXEC, 100);
	close(second.fd);
	second.fd = copy;
	need(run_cpu(&first) == KVM_EXIT_HLT && run_cpu(&second) == KVM_EXIT_HLT, "hlt");
	ioctl(a.vm, KVM_RUN, 0);
	ioctl(-1, KVM_RUN, 0);
	ioctl(a.vm, _IO(KVMIO, 0xfe), 0);
	return 0;
}

static void *cpu_thread(void *arg)
{
	struct cpu *c = arg;

	c->tid = (int)syscall(SYS_gettid);
	c->result = run_cpu(c);
	return NULL;
}

static int do_smp(char **args)
{
	static struct cpu cpus[CPUS_MAX];
	static struct machine m;
	int count = args[0] ? atoi(args[0]) : 2, good = 0;

	make_machine(&m, five, sizeof(five));
	for (int i = 0; i < count; i++)
		make_cpu(&cpus[i], &m, (unsigned)i);
	for (int i = 0; i < count; i++)
		need(pthread_create(&cpus[i].thread, NULL, cpu_thread, &cpus[i]) == 0, "pthread_create");
	for (int i = 0; i < count; i++) {
		pthread_join(cpus[i].thread, NULL);
		good += cpus[i].result == KVM_EXIT_HLT;
	}
	return good == count ? 0 : 1;
}

static void nothing(int signo)
{
	(void)signo;
}

/* A spinning vCPU is kicked by a signal, once inside KVM_RUN. */
static int do_kick(char **args)
{
	static struct machine m;
	static struct cpu c;
	struct sigaction action = {.sa_handler = nothing};

	(void)args;
	sigaction(SIGUSR1, &action, NULL);
	make_machine(&m, spin, sizeof(spin));
	make_cpu(&c, &m, 0);
	need(pthread_create(&c.thread, NULL, cpu_thread, &c) == 0, "pthread_create");
	while (!c.tid)
		usleep(1000);
	usleep(200000);
	c.run->immediate_exit = 1;
	syscall(SYS_tgkill, getpid(), c.tid, SIGUSR1);
	pthread_join(c.thread, NULL);
	return c.result == -EINTR ? 0 : 1;
}

static int do_crash(char **args)
{
	(void)args;
	need(one(tour, sizeof(tour)) == KVM_EXIT_HLT, "hlt");
	signal(SIGSEGV, SIG_DFL); /* sanitizers have a handler of their own */
	raise(SIGSEGV);
	return 0;
}

static int do_spin(char **args)
{
	(void)args;
	return one(spin, sizeof(spin));
}

/* count exits, for the figure of what one costs. */
static int do_exits(char **args)
{
	uint8_t code[] = {0xb9, 0x00, 0x00, 0xee, 0xe2, 0xfd, 0xf4}; /* mov cx, N; out; loop; hlt */
	int count = atoi(args[0]);

	code[1] = (uint8_t)count;
	code[2] = (uint8_t)(count >> 8);
	return one(code, sizeof(code)) == KVM_EXIT_HLT ? 0 : 1;
}

static int do_endless_exits(char **args)
{
	static const uint8_t code[] = {0xee, 0xeb, 0xfd}; /* out, and again */

	(void)args;
	return one(code, sizeof(code));
}

/* 8 GiB that are never touched cost nothing. */
static int do_reserve(char **args)
{
	(void)args;
	return mmap(NULL, 8ull << 30, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
		    0) != MAP_FAILED
		       ? 0
		       : 1;
}

static int do_status(char **args)
{
	return atoi(args[0]);
}

/* What a well-meant program may do. */
static int do_harmless(char **args)
{
	char path[256];
	FILE *f;

	snprintf(path, sizeof(path), "%s/mine", args[0]);
	f = fopen(path, "we");
	need(f && fputs("text", f) >= 0 && fclose(f) == 0, path);
	need(remove(path) == 0, path);
	need(access("/no/such/file", F_OK) < 0 && open("/no/such/file", O_RDONLY) < 0, "/no/such/file");
	need(access("/proc/self/maps", R_OK) == 0 && open("/proc/self/maps", O_RDONLY) >= 0,
	     "/proc/self/maps");
	signal(SIGUSR1, nothing);
	need(raise(SIGUSR1) == 0 && kill(getpid(), SIGUSR1) == 0, "raise");
	need(nice(5) >= -1 && sysconf(_SC_NPROCESSORS_ONLN) > 0, "sysconf");
	return 0;
}

/* --- misdeeds -------------------------------------------------------------------------------------------------- */

static int do_fork_bomb(char **args)
{
	(void)args;
	while (forever)
		fork();
	return DONE_IT;
}

static int do_vfork(char **args)
{
	(void)args;
	if (syscall(SYS_vfork) == 0)
		_exit(0);
	return DONE_IT;
}

static void *sleep_long(void *arg)
{
	sleep(100);
	return arg;
}

static int do_threads(char **args)
{
	pthread_t thread;

	(void)args;
	while (forever)
		pthread_create(&thread, NULL, sleep_long, NULL);
	return DONE_IT;
}

static int do_loop(char **args)
{
	(void)args;
	while (forever)
		;
	return DONE_IT;
}

static int do_flood(char **args)
{
	static char text[65536];

	(void)args;
	memset(text, 'x', sizeof(text));
	for (unsigned i = 0; i < (10ull << 30) / sizeof(text); i++)
		if (write(STDOUT_FILENO, text, sizeof(text)) < 0)
			return 1;
	return DONE_IT;
}

static int do_big_file(char **args)
{
	static char text[65536];
	int fd = open(args[0], O_WRONLY | O_CREAT | O_TRUNC, 0600);

	need(fd >= 0, args[0]);
	signal(SIGXFSZ, SIG_IGN);
	for (unsigned i = 0; i < (10ull << 30) / sizeof(text); i++)
		if (write(fd, text, sizeof(text)) < 0)
			return errno == EFBIG ? 7 : 1;
	return DONE_IT;
}

static int do_many_files(char **args)
{
	char path[256];

	for (unsigned i = 0; i < 1000000; i++) {
		snprintf(path, sizeof(path), "%s/many.%u", args[0], i);
		close(open(path, O_WRONLY | O_CREAT, 0600));
	}
	return DONE_IT;
}

/* Small files, written over and over. */
static int do_rewrite(char **args)
{
	static char text[1 << 16];
	int fd = open(args[0], O_RDWR | O_CREAT, 0600);

	need(fd >= 0, args[0]);
	while (forever)
		need(pwrite(fd, text, sizeof(text), 0) > 0, "pwrite");
	return DONE_IT;
}

static int do_memory(char **args)
{
	(void)args;
	while (forever) {
		char *block = malloc(1 << 20);

		if (block)
			memset(block, 1, 1 << 20);
		__asm__ volatile("" : : "r"(block) : "memory"); /* else a compiler drops the pair */
	}
	return DONE_IT;
}

static int do_write(char **args)
{
	int fd = open(args[0], O_WRONLY | O_CREAT | O_TRUNC, 0600);

	return fd >= 0 && write(fd, "full marks", 10) == 10 ? DONE_IT : 1;
}

static int do_read(char **args)
{
	char byte;
	int fd = open(args[0], O_RDONLY);

	return fd >= 0 && read(fd, &byte, 1) == 1 ? DONE_IT : 1;
}

static int do_remove(char **args)
{
	return remove(args[0]) == 0 ? DONE_IT : 1;
}

static int do_chmod(char **args)
{
	return chmod(args[0], 0) == 0 ? DONE_IT : 1;
}

static int do_truncate(char **args)
{
	return truncate(args[0], 0) == 0 ? DONE_IT : 1;
}

static int do_empty(char **args)
{
	return open(args[0], O_RDONLY | O_TRUNC) >= 0 ? DONE_IT : 1; // NOLINT
}

static int do_kill(char **args)
{
	return kill(atoi(args[0]), SIGKILL) == 0 ? DONE_IT : 1;
}

static int do_kill_parent(char **args)
{
	(void)args;
	return kill(getppid(), SIGKILL) == 0 ? DONE_IT : 1;
}

static int do_kill_thread(char **args)
{
	return syscall(SYS_tkill, atoi(args[0]), SIGKILL) == 0 ? DONE_IT : 1;
}

static int do_ptrace(char **args)
{
	(void)args;
	return ptrace(PTRACE_SEIZE, getppid(), 0, 0) == 0 ? DONE_IT : 1;
}

static int do_parent_memory(char **args)
{
	char path[64];

	(void)args;
	snprintf(path, sizeof(path), "/proc/%d/mem", getppid());
	return do_read((char *[]){path, NULL});
}

static int do_shell(char **args)
{
	(void)args;
	execl("/bin/sh", "sh", "-c", "exit 42", NULL);
	return 1;
}

static int do_clone3(char **args)
{
	uint64_t clone_args[8] = {0};

	(void)args;
	clone_args[4] = SIGCHLD;
	return syscall(SYS_clone3, clone_args, sizeof(clone_args)) >= 0 ? DONE_IT : errno == ENOSYS ? 7 : 1;
}

static int do_network(char **args)
{
	(void)args;
	return socket(AF_INET, SOCK_STREAM, 0) >= 0 ? DONE_IT : 1;
}

static int do_unix_connect(char **args)
{
	struct sockaddr_un where = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	need(fd >= 0, "a socket of its own");
	snprintf(where.sun_path, sizeof(where.sun_path), "%s", args[0]);
	return connect(fd, (struct sockaddr *)&where, sizeof(where)) == 0 ? DONE_IT : 1;
}

static int do_io_uring(char **args)
{
	char params[120] = {0};

	(void)args;
	return syscall(SYS_io_uring_setup, 1, params) >= 0 ? DONE_IT : 1;
}

/* A filter of its own that would let other calls through unseen. */
static int do_listener(char **args)
{
	(void)args;
	return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, NULL) >= 0
		       ? DONE_IT
		       : 1;
}

static int do_old_calls(char **args)
{
	int result;

	(void)args;
	__asm__ volatile("int $0x80" : "=a"(result) : "a"(20) : "memory"); /* getpid of 32-bit programs */
	return result > 0 ? DONE_IT : 1;
}

static int do_limits(char **args)
{
	struct rlimit none = {0, 0};

	(void)args;
	return prlimit(getppid(), RLIMIT_CPU, &none, NULL) == 0 ? DONE_IT : 1;
}

/* Its own record, by the number of the descriptor: those of the recorder are not there. */
static int do_descriptors(char **args)
{
	(void)args;
	for (int fd = 3; fd < 1024; fd++)
		if (fcntl(fd, F_GETFD) >= 0)
			return DONE_IT;
	return 0;
}

/* --- by name --------------------------------------------------------------------------------------------------- */

static const struct deed {
	const char *name;
	int (*run)(char **args);
	int args;
} deeds[] = {
	{"tour", do_tour, 0},
	{"orderly", do_orderly, 0},
	{"slot", do_slot, 0},
	{"two", do_two, 0},
	{"smp", do_smp, 1},
	{"kick", do_kick, 0},
	{"crash", do_crash, 0},
	{"spin", do_spin, 0},
	{"exits", do_exits, 1},
	{"endless_exits", do_endless_exits, 0},
	{"reserve", do_reserve, 0},
	{"status", do_status, 1},
	{"harmless", do_harmless, 1},
	{"fork_bomb", do_fork_bomb, 0},
	{"vfork", do_vfork, 0},
	{"threads", do_threads, 0},
	{"loop", do_loop, 0},
	{"flood", do_flood, 0},
	{"big_file", do_big_file, 1},
	{"many_files", do_many_files, 1},
	{"rewrite", do_rewrite, 1},
	{"memory", do_memory, 0},
	{"write", do_write, 1},
	{"read", do_read, 1},
	{"remove", do_remove, 1},
	{"chmod", do_chmod, 1},
	{"truncate", do_truncate, 1},
	{"empty", do_empty, 1},
	{"kill", do_kill, 1},
	{"kill_parent", do_kill_parent, 0},
	{"kill_thread", do_kill_thread, 1},
	{"ptrace", do_ptrace, 0},
	{"parent_memory", do_parent_memory, 0},
	{"shell", do_shell, 0},
	{"clone3", do_clone3, 0},
	{"network", do_network, 0},
	{"unix_connect", do_unix_connect, 1},
	{"io_uring", do_io_uring, 0},
	{"listener", do_listener, 0},
	{"old_calls", do_old_calls, 0},
	{"limits", do_limits, 0},
	{"descriptors", do_descriptors, 0},
};

int main(int argc, char **argv)
{
	for (size_t i = 0; argc > 1 && i < sizeof(deeds) / sizeof(deeds[0]); i++)
		if (!strcmp(deeds[i].name, argv[1]) && argc - 2 == deeds[i].args)
			return deeds[i].run(argv + 2);
	fprintf(stderr, "usage: observed DEED [ARGUMENT]\n");
	return 2;
}
