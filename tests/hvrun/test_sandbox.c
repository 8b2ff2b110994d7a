/*
 * The sandbox: what a locked process can't do any more, and what a running VM still can.
 */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hvrun.h"

/* Runs fn in a child that is locked as a VM with this --vsock and this --net (NULL: none) is, and returns its
 * status; a child that the kernel killed gives -1. */
static int locked_with(char *vsock, char *net, int (*fn)(void))
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		struct hv_config config = {.vsock = vsock, .nets = {net}, .net_count = net != NULL};
		struct hv_error err;

		alarm(20);
		if (sandbox_lock(&config, &err))
			_exit(100);
		_exit(fn());
	}
	cr_assert(pid > 0);
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int locked(int (*fn)(void))
{
	return locked_with(NULL, NULL, fn);
}

/* 0 when the call failed with EPERM, as a call outside the list does. */
#define REFUSED(call) (errno = 0, (call) == -1 && errno == EPERM ? 0 : 1)

static int try_other_programs(void)
{
	char *argv[] = {(char[]){"/bin/true"}, NULL}, *envp[] = {NULL};

	return REFUSED(execve(argv[0], argv, envp)) +
	       REFUSED(syscall(SYS_execveat, AT_FDCWD, argv[0], argv, envp, 0)) +
	       REFUSED(syscall(SYS_vfork)) + REFUSED(syscall(SYS_fork));
}

Test(sandbox, starts_no_program_and_no_process)
{
	cr_assert_eq(locked(try_other_programs), 0);
}

static int try_sockets(void)
{
	struct sockaddr sa = {.sa_family = AF_UNIX};

	return REFUSED(socket(AF_INET, SOCK_STREAM, 0)) + REFUSED(socket(AF_UNIX, SOCK_STREAM, 0)) +
	       REFUSED(connect(0, &sa, sizeof(sa))) + REFUSED(bind(0, &sa, sizeof(sa))) +
	       REFUSED(listen(0, 1));
}

Test(sandbox, makes_no_socket_and_connects_none)
{
	cr_assert_eq(locked(try_sockets), 0);
}

static int try_kernel(void);

static int try_internet(void)
{
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int udp = socket(AF_INET, SOCK_DGRAM, 0), six;

	sa.sin_port = htons(9);
	if (udp < 0 || connect(udp, (struct sockaddr *)&sa, sizeof(sa)) < 0)
		return 50;
	six = socket(AF_INET6, SOCK_STREAM, 0);
	if (six < 0 && errno == EPERM)
		return 51;
	return REFUSED(socket(AF_UNIX, SOCK_STREAM, 0)) + REFUSED(socket(AF_NETLINK, SOCK_RAW, 0)) +
	       REFUSED(socket(AF_PACKET, SOCK_RAW, 0)) +
	       REFUSED(bind(udp, (struct sockaddr *)&sa, sizeof(sa))) + REFUSED(listen(udp, 1)) +
	       try_kernel() + try_other_programs();
}

Test(sandbox, with_user_networking_connects_to_internet_addresses_and_does_no_more)
{
	cr_assert_eq(locked_with(NULL, (char[]){"user"}, try_internet), 0);
}

static int try_kernel(void)
{
	return REFUSED(syscall(SYS_bpf, 0, NULL, 0)) + REFUSED(syscall(SYS_userfaultfd, 0)) +
	       REFUSED(syscall(SYS_io_uring_setup, 1, NULL)) +
	       REFUSED(syscall(SYS_perf_event_open, NULL, 0, 0, 0, 0)) + REFUSED(syscall(SYS_keyctl, 0)) +
	       REFUSED(syscall(SYS_mount, NULL, NULL, NULL, 0, NULL)) + REFUSED(syscall(SYS_unshare, 0)) +
	       REFUSED(syscall(SYS_setns, 0, 0)) + REFUSED(syscall(SYS_chroot, "/")) +
	       REFUSED(syscall(SYS_pidfd_open, 1, 0)) + REFUSED(syscall(SYS_setuid, 0)) +
	       REFUSED(syscall(SYS_memfd_create, "x", 0)) + REFUSED(syscall(SYS_init_module, NULL, 0, ""));
}

Test(sandbox, reaches_no_more_of_the_kernel)
{
	cr_assert_eq(locked(try_kernel), 0);
}

static int try_unix_sockets(void)
{
	struct sockaddr sa = {.sa_family = AF_UNIX, .sa_data = "/nowhere"};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0 || connect(fd, &sa, sizeof(sa)) == 0 || errno == EPERM)
		return 50;
	return REFUSED(socket(AF_INET, SOCK_STREAM, 0)) +
	       REFUSED(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)) +
	       REFUSED(socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)) +
	       REFUSED(socket(AF_NETLINK, SOCK_RAW, 0)) + REFUSED(socket(AF_VSOCK, SOCK_STREAM, 0)) +
	       REFUSED(bind(fd, &sa, sizeof(sa))) + REFUSED(listen(fd, 1));
}

Test(sandbox, with_vsock_connects_to_unix_sockets_and_nothing_else)
{
	char path[] = "v";

	cr_assert_eq(locked_with(path, NULL, try_unix_sockets), 0);
	cr_assert_eq(locked_with(path, NULL, try_kernel), 0);
	cr_assert_eq(locked_with(path, NULL, try_other_programs), 0);
}

#ifndef HV_FILTER_SANITIZED /* these the sanitizers need */
static int try_files(void)
{
	return REFUSED(open("/etc/passwd", O_RDONLY)) + REFUSED(openat(AT_FDCWD, "/tmp", O_RDONLY)) +
	       REFUSED(syscall(SYS_creat, "/tmp/x", 0600)) + REFUSED(syscall(SYS_open, "/", 0)) +
	       REFUSED(syscall(SYS_openat2, AT_FDCWD, "/", NULL, 0)) + REFUSED(chmod("/tmp/x", 0)) +
	       REFUSED(mkdir("/tmp/x", 0)) + REFUSED(link("/a", "/b")) + REFUSED(symlink("/a", "/b"));
}

Test(sandbox, opens_no_file)
{
	cr_assert_eq(locked(try_files), 0);
}

static int try_others(void)
{
	return REFUSED(kill(getppid(), 0)) + REFUSED(kill(getpid(), 0)) +
	       REFUSED(syscall(SYS_tgkill, getppid(), getppid(), 0)) +
	       REFUSED(syscall(SYS_tkill, getppid(), 0)) + REFUSED(syscall(SYS_ptrace, 16, getppid(), 0, 0)) +
	       REFUSED(syscall(SYS_process_vm_readv, getppid(), NULL, 0, NULL, 0, 0));
}

Test(sandbox, touches_no_other_process)
{
	cr_assert_eq(locked(try_others), 0);
}

static int try_arguments(void)
{
	void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char key = 'x';

	if (p == MAP_FAILED)
		return 50;
	return REFUSED(mprotect(p, 4096, PROT_READ | PROT_EXEC)) +
	       REFUSED((long)mmap(NULL, 4096, PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) +
	       REFUSED(ioctl(0, TIOCSTI, &key)) + REFUSED(ioctl(0, 0xc00caee0 /* KVM_CREATE_DEVICE */, 0)) +
	       REFUSED(fcntl(0, F_SETOWN, getpid())) + REFUSED(syscall(SYS_prctl, 4, 1, 0, 0, 0));
}

Test(sandbox, makes_no_code_types_nothing_and_creates_no_device)
{
	cr_assert_eq(locked(try_arguments), 0);
}
#endif

static void *thread(void *arg)
{
	free(malloc(1 << 20));
	return arg;
}

static void nothing(int number)
{
}

static int go_on(void)
{
	pthread_t t;
	void *back = NULL;
	int p[2], self = getpid();
	char c = 'c';

	if (pthread_create(&t, NULL, thread, &self) || pthread_join(t, &back) || back != &self)
		return 1;
	if (pipe2(p, O_CLOEXEC) || write(p[1], &c, 1) != 1 || read(p[0], &c, 1) != 1)
		return 2;
	signal(SIGUSR1, nothing);
	if (raise(SIGUSR1) || pthread_kill(pthread_self(), SIGUSR1))
		return 3;
	free(calloc(64, 1 << 20));
	return 0;
}

Test(sandbox, leaves_threads_pipes_memory_and_own_signals)
{
	cr_assert_eq(locked(go_on), 0);
}

/* The line of /proc/self/status, read by a descriptor that was open before. */
static int status_fd;

static int see_status(void)
{
	char text[8192];
	ssize_t n = pread(status_fd, text, sizeof(text) - 1, 0);

	if (n <= 0)
		return 1;
	text[n] = '\0';
	return strstr(text, "\nSeccomp:\t2\n") && strstr(text, "\nNoNewPrivs:\t1\n") ? 0 : 2;
}

static int open_status(void)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		struct hv_error err;

		status_fd = open("/proc/self/status", O_RDONLY);
		_exit(status_fd < 0 || sandbox_lock(&(struct hv_config){0}, &err) ? 100 : see_status());
	}
	waitpid(pid, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

Test(sandbox, the_kernel_confirms_it)
{
	cr_assert_eq(open_status(), 0);
}

static char kept[] = "/tmp/hv-sandbox-XXXXXX", other[] = "/tmp/hv-sandbox-XXXXXX";

static int within_folders(void)
{
	struct hv_config config;
	char path[64], inside[64], trace[64];
	int bad;

	snprintf(path, sizeof(path), "%s/file", other);
	snprintf(inside, sizeof(inside), "%s/file", kept);
	snprintf(trace, sizeof(trace), "%s/trace", kept);
	hv_config_init(&config);
	hv_config_set(&config, "trace", trace, NULL);
	sandbox_folders(&config, NULL);
	hv_config_free(&config);
	bad = unlink(path) == 0 || errno != EACCES;
	bad += open(inside, O_CREAT | O_WRONLY, 0600) < 0;
	bad += rename(inside, trace) < 0;
	bad += rename(trace, path) == 0;
	bad += unlink(trace) < 0;
	return bad;
}

Test(sandbox, removes_and_makes_files_only_where_the_vms_own_lie)
{
	char path[64];
	pid_t pid;
	int status;

	if (syscall(444 /* landlock_create_ruleset */, NULL, 0, 1) < 1)
		cr_skip_test("this kernel has no Landlock");
	cr_assert(mkdtemp(kept) && mkdtemp(other));
	setenv("XDG_RUNTIME_DIR", kept, 1);
	snprintf(path, sizeof(path), "%s/file", other);
	close(open(path, O_CREAT | O_WRONLY, 0600));
	pid = fork();
	if (pid == 0)
		_exit(within_folders());
	waitpid(pid, &status, 0);
	unlink(path);
	rmdir(other);
	snprintf(path, sizeof(path), "%s/hvkit", kept);
	rmdir(path);
	rmdir(kept);
	cr_assert_eq(status, 0);
}
