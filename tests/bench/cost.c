/*
 * Runs a program to its end and tells what it cost: wall, user and system time in nanoseconds and the peak of
 * its resident memory in KiB. Starting it from here and not from the driver's Python keeps an interpreter's
 * memory out of the peak, which a process takes along over exec.
 *
 *   cost [--nosync] COMMAND...     prints WALL USER SYSTEM PEAK STATUS
 *
 * --nosync: fsync and its like do nothing in the program (a seccomp filter answers for the kernel), so that
 * one that puts its output on stable storage can be measured on the terms of one that doesn't.
 */
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <spawn.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static long long now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static long long ns(struct timeval t)
{
	return t.tv_sec * 1000000000ll + t.tv_usec * 1000ll;
}

/* One architecture's numbers: a program of another one would run without the filter's effect, not wrongly. */
static int no_sync(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_fsync, 4, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_fdatasync, 3, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_syncfs, 2, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_sync_file_range, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO),
	};
	struct sock_fprog prog = {.len = sizeof(code) / sizeof(*code), .filter = code};

	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
	       prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) == 0;
}

int main(int argc, char **argv)
{
	int quiet = argc > 1 && strcmp(argv[1], "--nosync") == 0;
	char **command = argv + 1 + quiet;
	posix_spawn_file_actions_t actions;
	struct rusage usage;
	long long start, wall;
	int status = 0;
	pid_t pid;

	if (!*command)
		return 2;
	if (quiet && !no_sync()) {
		perror("cost: seccomp");
		return 2;
	}
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
	start = now();
	if (posix_spawnp(&pid, *command, &actions, NULL, command, environ) != 0) {
		perror(*command);
		return 2;
	}
	if (wait4(pid, &status, 0, &usage) != pid) {
		perror("cost: wait4");
		return 2;
	}
	wall = now() - start;
	printf("%lld %lld %lld %ld %d\n", wall, ns(usage.ru_utime), ns(usage.ru_stime), usage.ru_maxrss,
	       WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
	return 0;
}
