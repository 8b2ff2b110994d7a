/*
 * Starts a program and tells, in nanoseconds from just before the start: when the first byte came on its
 * standard output, when the last one did, and when it was gone. Starting it from here and not from the
 * driver's Python keeps an interpreter's milliseconds out of the figure.
 *
 *   stopwatch [--first] COMMAND...     prints FIRST LAST GONE STATUS; --first ends the program after its
 * first byte
 */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LIMIT_MS 20000

extern char **environ;

static long long now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ll + t.tv_nsec;
}

int main(int argc, char **argv)
{
	bool only_first = argc > 1 && strcmp(argv[1], "--first") == 0;
	char **command = argv + 1 + only_first;
	long long start, first = 0, last = 0, deadline;
	posix_spawn_file_actions_t actions;
	int fds[2], status = 0;
	char buf[4096];
	pid_t pid;

	if (!*command || pipe2(fds, O_CLOEXEC) < 0)
		return 2;
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_adddup2(&actions, fds[1], 1);
	start = now();
	if (posix_spawnp(&pid, *command, &actions, NULL, command, environ) != 0) {
		perror(*command);
		return 2;
	}
	close(fds[1]);
	deadline = start + LIMIT_MS * 1000000ll;
	for (;;) {
		struct pollfd p = {.fd = fds[0], .events = POLLIN};
		long long left = (deadline - now()) / 1000000;
		ssize_t n = 0;

		if (left <= 0 || poll(&p, 1, (int)left) <= 0 || (n = read(fds[0], buf, sizeof(buf))) <= 0) {
			if (left <= 0)
				fprintf(stderr, "stopwatch: %s took longer than %d s\n", *command,
					LIMIT_MS / 1000);
			break;
		}
		last = now();
		first = first ? first : last;
		if (only_first)
			break;
	}
	if (only_first || now() >= deadline)
		kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	printf("%lld %lld %lld %d\n", first ? first - start : 0, last ? last - start : 0, now() - start,
	       WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
	return first ? 0 : 1;
}
