/*
 * Conversion: the same bytes whatever the threads and switches, holes that stay holes, nothing under the
 * final name unless it is complete.
 */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <nettle/sha2.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/io.h"
#include "disk/format.h"
#include "samples.h"

#define MiB (1ULL << 20)

TestSuite(convert, .init = sample_enter, .fini = sample_leave, .timeout = 60);

static void convert(const char *from, const char *to, struct hv_convert *c)
{
	struct hv_error err;

	cr_assert_eq(sample_convert(from, to, c, &err), 0, "%s", err.text);
	cr_assert_eq(c->result.done, c->result.size);
}

static void sha256_of(const char *name, uint8_t digest[32])
{
	struct sha256_ctx sha;
	uint8_t buf[4096];
	int fd = open(name, O_RDONLY);
	ssize_t n;

	sha256_init(&sha);
	while ((n = read(fd, buf, sizeof(buf))) > 0)
		sha256_update(&sha, (size_t)n, buf);
	close(fd);
	sha256_digest(&sha, 32, digest);
}

Test(convert, every_switch_gives_the_same_bytes)
{
	uint8_t want[32];

	sample_make("a.raw", 9 * MiB + 12345, 300000, 1);
	sha256_of("a.raw", want);
	for (unsigned i = 0; i < 48; i++) {
		struct hv_convert c = {
			.threads = 1 + i % 3,
			.verify = i & 4,
			.digest = i & 8,
			.holes = (enum hv_convert_holes)(i / 16),
		};
		convert("a.raw", "b.raw", &c);
		cr_assert(sample_same("a.raw", "b.raw"), "switches %u", i);
		cr_assert_eq(c.result.copied + c.result.skipped, c.result.size);
		if (c.digest)
			cr_assert_arr_eq(c.sha256, want, 32);
	}
	cr_assert_eq(sample_files(), 2);
}

Test(convert, odd_sizes_are_exact)
{
	static const uint64_t sizes[] = {0, 1, 511, 513, 4095, 65537, MiB - 1, MiB, MiB + 1, 4 * MiB + 3};

	for (unsigned i = 0; i < HV_ARRAY_SIZE(sizes); i++) {
		for (unsigned flags = 0; flags < 4; flags++) {
			struct hv_convert c = {.threads = 2, .verify = flags & 1, .digest = flags & 2};
			sample_make("a.raw", sizes[i], 70000, i);
			convert("a.raw", "b.raw", &c);
			cr_assert(sample_same("a.raw", "b.raw"), "size %llu", (unsigned long long)sizes[i]);
		}
	}
}

Test(convert, holes_stay_holes_and_full_allocates)
{
	struct hv_convert keep = {0}, sparse = {.holes = HV_HOLES_SPARSE}, full = {.holes = HV_HOLES_FULL};
	uint8_t *data = malloc(MiB);
	int fd = open("a.raw", O_RDWR | O_CREAT, 0600);

	memset(data, 7, MiB);
	cr_assert_eq(ftruncate(fd, 64 * MiB), 0);
	cr_assert_eq(hv_pwrite_full(fd, data, MiB, 10 * MiB), 0);
	memset(data, 0, MiB);
	cr_assert_eq(hv_pwrite_full(fd, data, MiB, 20 * MiB), 0);
	close(fd);
	free(data);
	convert("a.raw", "keep.raw", &keep);
	convert("a.raw", "sparse.raw", &sparse);
	convert("a.raw", "full.raw", &full);
	cr_assert(sample_same("a.raw", "keep.raw"));
	cr_assert(sample_same("a.raw", "sparse.raw"));
	cr_assert(sample_same("a.raw", "full.raw"));
	cr_assert_leq(sample_allocated("keep.raw"), 2 * MiB + 65536);
	cr_assert_geq(sample_allocated("keep.raw"), 2 * MiB, "zeros that are data stay data");
	cr_assert_leq(sample_allocated("sparse.raw"), MiB + 65536);
	cr_assert_geq(sample_allocated("full.raw"), 64 * MiB);
	cr_assert_eq(keep.result.skipped, 62 * MiB);
	cr_assert_eq(sparse.result.skipped, 63 * MiB);
}

Test(convert, the_destination_can_be_larger_and_never_smaller)
{
	struct hv_convert c = {.create = {.size = 5 * MiB}, .verify = true};
	struct hv_error err;
	struct stat st;

	sample_make("a.raw", 3 * MiB + 1, 100000, 3);
	convert("a.raw", "b.raw", &c);
	cr_assert_eq(stat("b.raw", &st), 0);
	cr_assert_eq(st.st_size, 5 * MiB);
	cr_assert_eq(truncate("b.raw", 3 * MiB + 1), 0);
	cr_assert(sample_same("a.raw", "b.raw"));
	c.create.size = 3 * MiB;
	cr_assert_eq(sample_convert("a.raw", "c.raw", &c, &err), -EINVAL);
	cr_assert_eq(err.status, HV_EXIT_USAGE);
}

Test(convert, the_source_is_never_overwritten)
{
	struct hv_convert c = {0};
	struct hv_error err;

	sample_make("a.raw.partial", MiB, 10000, 4);
	sample_make("copy.raw", MiB, 10000, 4);
	cr_assert_eq(sample_convert("copy.raw", "copy.raw", &c, &err), -EINVAL);
	cr_assert_eq(sample_convert("a.raw.partial", "a.raw", &c, &err), -EINVAL);
	cr_assert_eq(link("copy.raw", "link.raw"), 0);
	cr_assert_eq(sample_convert("copy.raw", "link.raw", &c, &err), -EINVAL);
	cr_assert(sample_same("copy.raw", "a.raw.partial"));
}

static void child_stdout(const char *from, const char *to, int flags, struct hv_convert *c)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		int fd = open(to, flags, 0600);
		struct hv_error err = {0};
		c->source = sample_open(from);
		c->path = "-";
		dup2(fd, 1);
		_exit(hv_convert(c, &err) == 0 ? 0 : 1);
	}
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert_eq(status, 0);
}

Test(convert, standard_output_as_a_file_keeps_holes_and_as_a_stream_gets_zeros)
{
	struct hv_convert c = {.threads = 2}, digest = {.digest = true}, full = {.holes = HV_HOLES_FULL};

	sample_make("a.raw", 3 * MiB + 777, 200000, 5);
	child_stdout("a.raw", "b.raw", O_WRONLY | O_CREAT, &c);
	cr_assert(sample_same("a.raw", "b.raw"));
	cr_assert_leq(sample_allocated("b.raw"), sample_allocated("a.raw") + 65536);
	child_stdout("a.raw", "c.raw", O_WRONLY | O_CREAT | O_APPEND, &c);
	cr_assert(sample_same("a.raw", "c.raw"));
	child_stdout("a.raw", "d.raw", O_WRONLY | O_CREAT, &digest);
	cr_assert(sample_same("a.raw", "d.raw"));
	child_stdout("a.raw", "e.raw", O_WRONLY | O_CREAT, &full);
	cr_assert(sample_same("a.raw", "e.raw"));
	cr_assert_geq(sample_allocated("e.raw"), 3 * MiB);
	sample_make("f.raw", 3 * MiB + 777, 100000, 77);
	child_stdout("a.raw", "f.raw", O_WRONLY, &c);
	cr_assert(sample_same("a.raw", "f.raw"), "what was there before doesn't shine through");
}

Test(convert, a_pipe_gets_every_byte_in_order)
{
	for (unsigned i = 0; i < 4; i++) {
		int fds[2], status, out;
		char buf[4096];
		ssize_t n;
		sample_make("a.raw", 3 * MiB + 333, 200000, i);
		cr_assert_eq(pipe(fds), 0);
		pid_t pid = fork();
		if (pid == 0) {
			struct hv_convert c = {.threads = 2,
					       .path = "-",
					       .digest = i & 1,
					       .holes = i & 2 ? HV_HOLES_SPARSE : HV_HOLES_KEEP};
			struct hv_error err = {0};
			close(fds[0]);
			c.source = sample_open("a.raw");
			dup2(fds[1], 1);
			_exit(hv_convert(&c, &err) == 0 ? 0 : 1);
		}
		close(fds[1]);
		out = open("b.raw", O_WRONLY | O_CREAT | O_TRUNC, 0600);
		while ((n = read(fds[0], buf, sizeof(buf))) > 0)
			cr_assert_eq(hv_write_full(out, buf, (size_t)n), 0);
		close(out);
		close(fds[0]);
		cr_assert_eq(waitpid(pid, &status, 0), pid);
		cr_assert_eq(status, 0);
		cr_assert(sample_same("a.raw", "b.raw"));
	}
}

Test(convert, a_broken_pipe_and_a_full_device_are_failures)
{
	for (unsigned i = 0; i < 2; i++) {
		int fds[2], status;
		sample_make("a.raw", 3 * MiB, 200000, 6);
		cr_assert_eq(pipe(fds), 0);
		close(fds[0]);
		pid_t pid = fork();
		if (pid == 0) {
			struct hv_convert c = {.threads = 2, .path = "-"};
			struct hv_error err = {0};
			c.source = sample_open("a.raw");
			dup2(i ? open("/dev/full", O_WRONLY) : fds[1], 1);
			_exit(-hv_convert(&c, &err));
		}
		close(fds[1]);
		cr_assert_eq(waitpid(pid, &status, 0), pid);
		cr_assert(WIFEXITED(status));
		cr_assert_eq(WEXITSTATUS(status), i ? ENOSPC : EPIPE);
	}
}

Test(convert, a_file_that_cannot_grow_leaves_nothing)
{
	int status;

	sample_make("a.raw", 4 * MiB, 500000, 8);
	pid_t pid = fork();
	if (pid == 0) {
		struct rlimit limit = {2 * MiB, 2 * MiB};
		struct hv_convert c = {.threads = 2};
		struct hv_error err = {0};
		signal(SIGXFSZ, SIG_IGN);
		setrlimit(RLIMIT_FSIZE, &limit);
		c.source = sample_open("a.raw");
		c.path = "b.raw";
		_exit(-hv_convert(&c, &err));
	}
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert_eq(WEXITSTATUS(status), EFBIG);
	cr_assert_eq(sample_files(), 1);
}

static int stop_soon(void *ctx, const struct hv_convert_progress *p)
{
	(*(unsigned *)ctx)++;
	return p->size > 0;
}

Test(convert, progress_can_stop_it)
{
	unsigned calls = 0;
	struct hv_convert c = {.progress = stop_soon, .ctx = &calls, .digest = true, .no_journal = true};
	struct hv_error err;
	int fd = open("a.raw", O_RDWR | O_CREAT, 0600);

	cr_assert_eq(ftruncate(fd, 1LL << 40), 0);
	close(fd);
	cr_assert_eq(sample_convert("a.raw", "b.raw", &c, &err), -ECANCELED);
	cr_assert_eq(calls, 1);
	cr_assert_eq(sample_files(), 1);
}

Test(convert, a_raw_disk_as_a_target_gets_data_and_zeros)
{
	for (unsigned i = 0; i < 3; i++) {
		struct hv_disk_options options = {.format = "raw", .writable = true};
		struct hv_convert c = {.threads = 2, .holes = (enum hv_convert_holes)i, .verify = true};
		struct hv_error err = {0};
		sample_make("a.raw", 3 * MiB + 333, 100000, 9 + i);
		sample_make("b.raw", 3 * MiB + 333, 100000, 20 + i);
		c.source = sample_open("a.raw");
		cr_assert_eq(hv_disk_open("b.raw", &options, &c.target, &err), 0);
		cr_assert_eq(hv_convert(&c, &err), 0, "%s", err.text);
		hv_disk_close(c.source);
		hv_disk_close(c.target);
		cr_assert(sample_same("a.raw", "b.raw"));
	}
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#define SANITIZED (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#else
#define SANITIZED 0
#endif

Test(convert, peak_memory_is_bounded, .disabled = SANITIZED) /* which take memory of their own */
{
	struct rusage usage;
	int status;

	sample_make("a.raw", 96 * MiB, 3000000, 10);
	pid_t pid = fork();
	if (pid == 0) {
		struct hv_convert c = {.threads = 8, .verify = true, .digest = true};
		struct hv_error err = {0};
		c.source = sample_open("a.raw");
		c.path = "b.raw";
		_exit(hv_convert(&c, &err) == 0 ? 0 : 1);
	}
	cr_assert_eq(wait4(pid, &status, 0, &usage), pid);
	cr_assert_eq(status, 0);
	cr_assert_lt(usage.ru_maxrss, 32 * 1024);
	cr_assert(sample_same("a.raw", "b.raw"));
}
