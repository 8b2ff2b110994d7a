/*
 * Runs the tests that the shim's macros gathered: see criterion/criterion.h beside it. Of Criterion's options
 * it knows
 * --filter SUITE/TEST (a shell's pattern), -jN (N at a time) and --list; the others say how to print, and
 * pass.
 */
#include <fnmatch.h>
#include <stdarg.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <criterion/criterion.h>

enum { SKIPPED = 77, LIMIT_SECONDS = 120, JOBS_MAX = 64 };

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

/* How a child's end is judged. */
static bool as_wanted(const struct shim_test *test, int status, bool *skipped)
{
	*skipped = WIFEXITED(status) && WEXITSTATUS(status) == SKIPPED;
	if (test->options.signal)
		return WIFSIGNALED(status) && WTERMSIG(status) == test->options.signal;
	return *skipped || (WIFEXITED(status) && WEXITSTATUS(status) == test->options.exit_code);
}

static struct running {
	const struct shim_test *test;
	pid_t pid;
} running[JOBS_MAX];
static unsigned tested, passing;

static void count(const struct shim_test *test, bool good, bool skipped)
{
	tested += !skipped;
	passing += good && !skipped;
	if (!good)
		fprintf(stderr, "[FAIL] %s::%s\n", test->suite, test->name);
}

static void start(struct running *r, const struct shim_test *test)
{
	fflush(NULL);
	r->pid = fork();
	if (r->pid == 0)
		run_body(test, suite_of(test));
	r->test = test;
	if (r->pid < 0) {
		r->test = NULL;
		count(test, false, false);
	}
}

/* Waits for any of the children; the place that is free then, or NULL when none runs. */
static struct running *wait_one(void)
{
	int status = 0;
	pid_t pid = wait(&status);

	for (struct running *r = running; pid > 0 && r < running + JOBS_MAX; r++)
		if (r->test && r->pid == pid) {
			bool skipped, good = as_wanted(r->test, status, &skipped);
			count(r->test, good, skipped);
			r->test = NULL;
			return r;
		}
	return NULL;
}

static bool is_wanted(const struct shim_test *t, const char *filter)
{
	char name[256];

	if (!t->body || t->options.disabled || suite_of(t)->disabled)
		return false;
	snprintf(name, sizeof name, "%s/%s", t->suite, t->name);
	return !filter || fnmatch(filter, name, 0) == 0;
}

int main(int argc, char **argv)
{
	const char *filter = NULL;
	unsigned jobs = 1, used = 0;
	bool list = false;

	for (int i = 1; i < argc; i++) {
		if (strncmp(argv[i], "--filter", 8) == 0)
			filter = argv[i][8] == '=' ? argv[i] + 9 : argv[++i];
		else if (strncmp(argv[i], "-j", 2) == 0)
			jobs = (unsigned)atoi(argv[i] + 2);
		else if (strcmp(argv[i], "--list") == 0)
			list = true;
	}
	if (jobs < 1 || jobs > JOBS_MAX)
		jobs = JOBS_MAX;
	for (const struct shim_test *t = tests; t; t = t->next) {
		if (!is_wanted(t, filter))
			continue;
		if (list) {
			printf("%s/%s\n", t->suite, t->name);
			continue;
		}
		struct running *r = used < jobs ? &running[used++] : wait_one();
		if (!r)
			return 1;
		start(r, t);
	}
	while (wait_one())
		;
	printf("[====] Synthesis: Tested: %u | Passing: %u | Failing: %u | Crashing: 0\n", tested, passing,
	       tested - passing);
	return tested != passing;
}
