/*
 * Going on after a stop: the result is the same to the byte, a source or a request that changed is noticed,
 * and a journal that lies is not believed.
 */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <nettle/sha2.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/io.h"
#include "disk/convert/journal.h"
#include "samples.h"

#define MiB (1ULL << 20)

TestSuite(journal, .init = sample_enter, .fini = sample_leave, .timeout = 120);

/*
 * Converts in a child, which is killed after so many microseconds (0: as soon as it has a journal); true: it
 * came to its end before.
 */
static bool convert_and_kill(const char *from, const char *to, struct hv_convert *c, useconds_t after)
{
	char journal[256];
	bool ended = false;
	int status = 0;
	pid_t pid = fork();

	if (pid == 0) {
		struct hv_error err = {0};
		c->source = sample_open(from);
		c->path = to;
		_exit(hv_convert(c, &err) == 0 ? 0 : 1);
	}
	usleep(after);
	snprintf(journal, sizeof(journal), "%s.partial.journal", to);
	while (!after && !ended && access(journal, F_OK) != 0) {
		usleep(200);
		ended = waitpid(pid, &status, WNOHANG) == pid;
	}
	if (!ended) {
		kill(pid, SIGKILL);
		cr_assert_eq(waitpid(pid, &status, 0), pid);
	}
	cr_assert(!WIFEXITED(status) || WEXITSTATUS(status) == 0);
	return WIFEXITED(status);
}

static int stop_at_once(void *ctx, const struct hv_convert_progress *p)
{
	return p->done > 0;
}

/* A conversion that the user stopped, with its journal. */
static void stopped(const char *from, const char *to, struct hv_convert c)
{
	struct hv_error err;

	c.progress = stop_at_once;
	c.journal_every_ns = c.progress_every_ns = 1;
	for (unsigned tries = 0; tries < 50; tries++) {
		int rc = sample_convert(from, to, &c, &err);
		if (rc == -ECANCELED && c.resumable)
			return;
		cr_assert(rc == 0 || rc == -ECANCELED, "%s", err.text);
		unlink(to);
	}
	cr_assert_fail("it was never stopped in time");
}

Test(journal, killed_at_any_moment_it_goes_on_to_the_same_bytes)
{
	unsigned resumed = 0;
	struct sha256_ctx sha;
	uint8_t want[32], *all = malloc(24 * MiB + 555);
	int fd;

	sample_make("a.raw", 24 * MiB + 555, 400000, 1);
	fd = open("a.raw", O_RDONLY);
	cr_assert_eq(hv_read_full(fd, all, 24 * MiB + 555), 0);
	close(fd);
	sha256_init(&sha);
	sha256_update(&sha, 24 * MiB + 555, all);
	sha256_digest(&sha, 32, want);
	free(all);
	for (unsigned i = 0; i < 20; i++) {
		struct hv_convert c = {.threads = 1 + i % 3,
				       .journal_every_ns = 1,
				       .verify = i & 1,
				       .digest = i & 2,
				       .holes = i % 5 == 0 ? HV_HOLES_SPARSE : HV_HOLES_KEEP};
		struct hv_convert again = c;
		struct hv_error err;
		unsigned kills = 0;
		again.resume = true;
		again.threads = 1 + (i + 1) % 3;
		unlink("b.raw");
		bool done = convert_and_kill("a.raw", "b.raw", &c, i % 4 == 3 ? 0 : 500 + i * 1500);
		while (!done && access("b.raw", F_OK) != 0 && kills++ < 3)
			done = convert_and_kill("a.raw", "b.raw", &again, 500 + i * 2000);
		if (access("b.raw", F_OK) == 0) /* killed between the file's name and the journal's end */
			unlink("b.raw.partial.journal");
		else
			cr_assert_eq(sample_convert("a.raw", "b.raw", &again, &err), 0, "%s", err.text);
		resumed += again.resumed_from > 0;
		if (again.resumed_from && again.digest)
			cr_assert_arr_eq(again.sha256, want, 32);
		cr_assert(sample_same("a.raw", "b.raw"), "round %u", i);
		cr_assert_eq(sample_files(), 2, "round %u", i);
	}
	cr_assert_gt(resumed, 0);
}

Test(journal, a_stop_by_the_user_leaves_a_checkpoint)
{
	struct hv_convert c = {.threads = 2, .resume = true};
	struct hv_error err;

	sample_make("a.raw", 64 * MiB, 2000000, 2);
	stopped("a.raw", "b.raw", (struct hv_convert){.digest = true});
	cr_assert_eq(access("b.raw.partial", F_OK), 0);
	cr_assert_eq(access("b.raw.partial.journal", F_OK), 0);
	cr_assert_neq(access("b.raw", F_OK), 0);
	cr_assert_eq(sample_convert("a.raw", "b.raw", &c, &err), 0, "%s", err.text);
	cr_assert_gt(c.resumed_from, 0);
	cr_assert_eq(c.result.done, c.result.size);
	cr_assert_eq(c.result.copied + c.result.skipped, c.result.size);
	cr_assert(sample_same("a.raw", "b.raw"));
	cr_assert_eq(sample_files(), 2);
}

Test(journal, a_changed_source_is_named_and_refused)
{
	struct hv_convert c = {.resume = true};
	struct timespec times[2];
	struct hv_error err;
	struct stat st;
	int fd;

	sample_make("a.raw", 32 * MiB, 2000000, 3);
	stopped("a.raw", "b.raw", (struct hv_convert){.digest = true});
	cr_assert_eq(stat("a.raw", &st), 0);
	fd = open("a.raw", O_RDWR);
	cr_assert_eq(pwrite(fd, "x", 1, 12345678), 1);
	cr_assert_eq(sample_convert("a.raw", "b.raw", &c, &err), -ESTALE);
	cr_assert(strstr(err.text, "a.raw"), "%s", err.text);
	times[0] = times[1] = st.st_mtim;
	cr_assert_eq(pwrite(fd, "y", 1, 100), 1);
	cr_assert_eq(futimens(fd, times), 0);
	close(fd);
	cr_assert_eq(sample_convert("a.raw", "b.raw", &c, &err), -ESTALE, "a set-back time hides nothing");
	cr_assert(strstr(err.text, "other bytes"), "%s", err.text);
	cr_assert_eq(rename("a.raw", "c.raw"), 0);
	sample_make("a.raw", 32 * MiB, 2000000, 3);
	cr_assert_eq(sample_convert("a.raw", "b.raw", &c, &err), -ESTALE);
	cr_assert_eq(access("b.raw.partial.journal", F_OK), 0, "a refusal destroys nothing");
	c.resume = false;
	cr_assert_eq(sample_convert("a.raw", "b.raw", &c, &err), 0);
	cr_assert(sample_same("a.raw", "b.raw"));
	cr_assert_eq(sample_files(), 3);
}

Test(journal, a_changed_request_is_refused)
{
	struct hv_convert c = {.resume = true, .holes = HV_HOLES_SPARSE};
	struct hv_error err;

	sample_make("a.raw", 32 * MiB, 2000000, 4);
	stopped("a.raw", "b.raw", (struct hv_convert){.digest = true});
	cr_assert_eq(sample_convert("a.raw", "b.raw", &c, &err), -ESTALE);
	c.holes = HV_HOLES_KEEP;
	c.create.size = 40 * MiB;
	cr_assert_eq(sample_convert("a.raw", "b.raw", &c, &err), -ESTALE);
	c.create.size = 0;
	c.verify = true;
	cr_assert_eq(sample_convert("a.raw", "b.raw", &c, &err), 0, "verify may be asked for later");
	cr_assert_gt(c.resumed_from, 0);
	cr_assert(sample_same("a.raw", "b.raw"));
}

Test(journal, a_damaged_journal_or_a_foreign_partial_means_from_the_start)
{
	for (unsigned i = 0; i < 5; i++) {
		struct hv_convert c = {.resume = true};
		struct hv_error err;
		int fd;
		sample_make("a.raw", 32 * MiB, 2000000, 5);
		stopped("a.raw", "b.raw", (struct hv_convert){.digest = true});
		fd = open("b.raw.partial.journal", O_RDWR);
		if (i == 0)
			cr_assert_eq(pwrite(fd, "?", 1, 333), 1);
		if (i == 1)
			cr_assert_eq(ftruncate(fd, 300), 0);
		if (i == 2)
			cr_assert_eq(truncate("b.raw.partial", 1000), 0);
		if (i == 3) {
			cr_assert_eq(rename("b.raw.partial", "x.raw"), 0);
			sample_make("b.raw.partial", 32 * MiB, 1000000, 6);
			unlink("x.raw");
		}
		if (i == 4)
			cr_assert_eq(unlink("b.raw.partial"), 0);
		close(fd);
		cr_assert_eq(sample_convert("a.raw", "b.raw", &c, &err), 0, "%s", err.text);
		cr_assert_eq(c.resumed_from, 0);
		cr_assert(sample_same("a.raw", "b.raw"));
		cr_assert_eq(sample_files(), 2);
		unlink("b.raw");
	}
}

Test(journal, short_runs_write_none)
{
	struct hv_convert c = {.progress = stop_at_once, .no_journal = true, .digest = true};
	struct hv_error err;

	sample_make("a.raw", 64 * MiB, 2000000, 7);
	if (sample_convert("a.raw", "b.raw", &c, &err) != 0) {
		cr_assert_not(c.resumable);
		cr_assert_eq(sample_files(), 1);
	}
}

Test(journal, every_byte_of_a_journal_is_covered_by_its_hash)
{
	struct hv_journal j = {0}, back;
	struct hv_journal_source source = {.path = (char *)"/a/b", .device = 1, .inode = 2, .size = 3};
	struct hv_output_mark mark = {7, 8, 9};
	struct hv_journal_loss loss = {512, 1024, (char *)"why"};
	uint64_t sums[3] = {1, 2, 3};
	struct hv_error err = {0};
	uint8_t *data;
	size_t size;

	j.source = &source;
	j.sources = 1;
	snprintf(j.format, sizeof(j.format), "raw");
	j.watermark = 4096;
	j.mark = &mark;
	j.marks = 1;
	j.loss = &loss;
	j.losses = 1;
	j.stretch = MiB;
	j.sums = sums;
	j.sum_count = 3;
	cr_assert_eq(hv_journal_write("j", &j, &err), 0);
	cr_assert_eq(hv_journal_read("j", &back, &err), 0, "%s", err.text);
	cr_assert_eq(hv_journal_match(&back, &j, &err), 0);
	cr_assert_eq(back.watermark, 4096);
	cr_assert_eq(back.loss[0].length, 1024);
	cr_assert_eq(back.sums[2], 3);
	cr_assert_str_eq(back.loss[0].why, "why");
	hv_journal_free(&back);
	cr_assert_eq(hv_load_file("j", 65536, (void **)&data, &size, &err), 0);
	for (size_t i = 0; i < size; i++) {
		data[i] ^= 0x10;
		cr_assert_lt(hv_journal_parse(data, size, &back, &err), 0, "byte %zu", i);
		data[i] ^= 0x10;
		cr_assert_lt(hv_journal_parse(data, i, &back, &err), 0, "cut at %zu", i);
	}
	hv_unload(data, size);
}

Test(journal, every_format_goes_on_after_a_kill)
{
	static const char *const formats[][2] = {
		{"vhd", "dynamic"},
		{"vhd", "fixed"},
		{"vhdx", "dynamic"},
		{"vhdx", "fixed"},
		{"qcow2", NULL},
		{"vmdk", "monolithicSparse"},
		{"vmdk", "monolithicFlat"},
		{"vmdk", "streamOptimized"},
	};
	unsigned resumed[HV_ARRAY_SIZE(formats)] = {0};

	sample_make("a.raw", 20 * MiB + 512, 400000, 10);
	for (unsigned i = 0; i < HV_ARRAY_SIZE(formats) * 4; i++) {
		const char *const *f = formats[i / 4];
		struct hv_convert c = {
			.create = {.format = f[0], .subformat = f[1]}, .threads = 2, .journal_every_ns = 1};
		struct hv_convert again = c, back = {.threads = 2};
		struct hv_error err;
		again.resume = true;
		unlink("b.vmdk");
		unlink("b.vmdk.partial");
		unlink("b.vmdk.partial.journal");
		convert_and_kill("a.raw", "b.vmdk", &c, 3000 + i % 4 * 13000);
		if (access("b.vmdk", F_OK) != 0)
			cr_assert_eq(sample_convert("a.raw", "b.vmdk", &again, &err), 0, "%s", err.text);
		resumed[i / 4] += again.resumed_from > 0;
		cr_assert_eq(sample_convert("b.vmdk", "c.raw", &back, &err), 0, "%s", err.text);
		if (back.result.size > 20 * MiB + 512) /* VHD rounds up to its geometry */
			cr_assert_eq(truncate("c.raw", 20 * MiB + 512), 0);
		cr_assert(sample_same("a.raw", "c.raw"), "%s %s", f[0], f[1] ? f[1] : "");
	}
	for (unsigned i = 0; i < HV_ARRAY_SIZE(formats); i++)
		cr_log_info("%s %s: resumed %u of 4\n", formats[i][0], formats[i][1] ? formats[i][1] : "",
			    resumed[i]);
}
