/*
 * Runs the tests that the shim's macros gathered: see criterion/criterion.h beside it.
 */
#include <stdarg.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <criterion/criterion.h>

enum { SKIPPED = 77, LIMIT_SECONDS = 120 };

static struct shim_test *tests;
static bool failed; /* of the test that runs in this process */

void shim_add(struct shim_test *test)
{
	struct shim_test **at = &tests;

	while (*at)
		at = &(*at)->next;
	*at = test;
}

void shim_check(bool ok, bool fatal, const char *file, int line, const char *what, const char *fmt, ...)
{
	va_list ap;

	if (ok)
		return;
	fprintf(stderr, "%s:%d: not so: %s:", file, line, what);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	failed = true;
	if (fatal)
		_exit(1);
}

void shim_skip(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	syscall(SYS_exit_group,
		SKIPPED); /* past the sanitizer, which would complain of threads left in the middle */
	abort();
}

static const struct shim_options *suite_of(const struct shim_test *test)
{
	static const struct shim_options none;

	for (const struct shim_test *t = tests; t; t = t->next)
		if (!t->body && strcmp(t->suite, test->suite) == 0)
			return &t->options;
	return &none;
}

/* In the child: never returns. exit and not _exit, so that the sanitizer reports. */
static void run_body(const struct shim_test *test, const struct shim_options *suite)
{
	double limit = test->options.timeout > 0 ? test->options.timeout : suite->timeout;

	alarm(limit > 0 ? (unsigned)limit * 10 + 1 : LIMIT_SECONDS);
	if (suite->init)
		suite->init();
	if (test->options.init)
		test->options.init();
	test->body();
	if (test->options.fini)
		test->options.fini();
	if (suite->fini)
		suite->fini();
	exit(failed);
}

static bool run_one(const struct shim_test *test, bool *skipped)
{
	int status = 0;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (pid == 0)
		run_body(test, suite_of(test));
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return false;
	*skipped = WIFEXITED(status) && WEXITSTATUS(status) == SKIPPED;
	if (test->options.signal)
		return WIFSIGNALED(status) && WTERMSIG(status) == test->options.signal;
	return *skipped || (WIFEXITED(status) && WEXITSTATUS(status) == test->options.exit_code);
}

int main(void)
{
	unsigned tested = 0, passing = 0;

	for (const struct shim_test *t = tests; t; t = t->next) {
		bool skipped = false;
		if (!t->body || t->options.disabled || suite_of(t)->disabled)
			continue;
		if (run_one(t, &skipped)) {
			passing += !skipped;
			tested += !skipped;
		} else {
			tested++;
			fprintf(stderr, "[FAIL] %s::%s\n", t->suite, t->name);
		}
	}
	printf("[====] Synthesis: Tested: %u | Passing: %u | Failing: %u | Crashing: 0\n", tested, passing,
	       tested - passing);
	return tested != passing;
}
