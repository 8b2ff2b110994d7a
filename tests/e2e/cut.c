/*
 * Converts an image that is cut shorter and shorter, or of which bytes are flipped, in one process: what
 * `hvmigrate convert IMAGE -` does, without the milliseconds that a start of the tool takes. For
 * hvmigrate_truncate.py, which says what it is for.
 *
 *   cut IMAGE VICTIM WANTED STEP           cuts the file VICTIM (IMAGE, or a part of it) every STEP bytes
 *   cut IMAGE VICTIM WANTED flip SEED N    flips a byte N times, in places that hold something
 *
 * WANTED holds the bytes of the whole image's disk. A line for each fault goes to standard error; standard
 * output gets "RUNS SAME FAULTS". VICTIM is left as it was, but for a crash, before which standard error
 * names the place.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "disk/convert.h"

#define RUN_LIMIT 60 /* seconds, for one conversion */

struct bytes {
	uint8_t *at;
	size_t size;
};

static char place[160]; /* what is being done, for the one who reads of a crash */
static unsigned long runs, same, faults;
static int report = -1; /* the caller's standard output: convert's is a memory file */

static void died(int signal_number)
{
	ssize_t n = write(STDERR_FILENO, place, strlen(place));

	(void)n;
	signal(signal_number, SIG_DFL);
	raise(signal_number);
}

static void fail(const char *what)
{
	perror(what);
	exit(2);
}

static struct bytes map_file(int fd)
{
	struct stat st;
	struct bytes b = {0};

	if (fstat(fd, &st) < 0)
		fail("fstat");
	b.size = (size_t)st.st_size;
	if (b.size)
		b.at = mmap(NULL, b.size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (b.at == MAP_FAILED)
		fail("mmap");
	return b;
}

static struct bytes whole_file(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct bytes mapped, b;

	if (fd < 0)
		fail(path);
	mapped = map_file(fd);
	b = (struct bytes){.at = malloc(mapped.size + 1), .size = mapped.size};
	if (!b.at)
		fail("malloc");
	if (mapped.size) {
		memcpy(b.at, mapped.at, mapped.size);
		munmap(mapped.at, mapped.size);
	}
	close(fd);
	return b;
}

/* To standard output, as the tool would; its exit status. */
static int convert(const char *image, struct hv_error *err)
{
	struct hv_disk_options options = {0};
	struct hv_convert c = {.path = "-", .threads = 1, .create = {.format = "raw"}};
	int rc;

	memset(err, 0, sizeof(*err));
	if (ftruncate(STDOUT_FILENO, 0) < 0 || lseek(STDOUT_FILENO, 0, SEEK_SET) < 0)
		fail("memory file");
	alarm(RUN_LIMIT);
	rc = hv_disk_open(image, &options, &c.source, err);
	if (rc == 0)
		rc = hv_convert(&c, err);
	hv_disk_close(c.source);
	alarm(0);
	return rc == 0 ? 0 : err->status ? (int)err->status : HV_EXIT_FAILED;
}

static bool as_wanted(const struct bytes *wanted)
{
	struct bytes got = map_file(STDOUT_FILENO);
	bool equal = got.size == wanted->size && (got.size == 0 || !memcmp(got.at, wanted->at, got.size));

	if (got.size)
		munmap(got.at, got.size);
	return equal;
}

static void fault(const char *why)
{
	if (faults++ < 20)
		fprintf(stderr, "%s: %s\n", place, why);
}

/* strict: other bytes with status 0 are a fault. */
static void judge(const char *image, const struct bytes *wanted, bool strict)
{
	struct hv_error err;
	int status = convert(image, &err);

	runs++;
	if (status == 0 && as_wanted(wanted))
		same++;
	else if (status == 0 && strict)
		fault("status 0 with other bytes");
	else if (status != 0 && !err.text[0])
		fault("a failure without a sentence");
	else if (status != 0 && status != HV_EXIT_FAILED && status != HV_EXIT_UNSAFE)
		fault("a status that is neither 1 nor 3");
}

static void cut(const char *image, int victim, const struct bytes *whole, const struct bytes *wanted,
		size_t step)
{
	size_t size = whole->size;

	while (size > 0) {
		size = (size - 1) / step * step;
		snprintf(place, sizeof(place), "cut to %zu", size);
		if (ftruncate(victim, (off_t)size) < 0)
			fail("ftruncate");
		judge(image, wanted, true);
	}
	if (pwrite(victim, whole->at, whole->size, 0) != (ssize_t)whole->size)
		fail("pwrite");
}

/* The same numbers for the same seed on every machine. */
static uint64_t next(uint64_t *state)
{
	uint64_t x = *state += 0x9e3779b97f4a7c15;

	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
	x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
	return x ^ (x >> 31);
}

/* A byte of a sector that holds something; most of an image's metadata is tables with few entries. */
static size_t choose(const struct bytes *whole, uint64_t *state)
{
	for (int i = 0; i < 10000; i++) {
		size_t at = next(state) % whole->size, sector = at / 64 * 64;

		for (size_t j = sector; j < sector + 64 && j < whole->size; j++)
			if (whole->at[j])
				return at;
	}
	return next(state) % whole->size;
}

static void flip(const char *image, int victim, const struct bytes *whole, const struct bytes *wanted,
		 uint64_t seed, unsigned long count)
{
	for (; count > 0 && whole->size > 0; count--) {
		size_t at = choose(whole, &seed);
		uint8_t old = whole->at[at], values[] = {0, 0xff, (uint8_t)next(&seed)};
		unsigned which = (unsigned)(next(&seed) % 6);
		uint8_t value = (uint8_t)(which < 3 ? values[which] : old ^ (1U << (next(&seed) % 8)));

		snprintf(place, sizeof(place), "byte %zu is %#x, not %#x", at, value, old);
		if (pwrite(victim, &value, 1, (off_t)at) != 1)
			fail("pwrite");
		judge(image, wanted, false);
		if (pwrite(victim, &old, 1, (off_t)at) != 1)
			fail("pwrite");
	}
}

int main(int argc, char **argv)
{
	struct bytes whole, wanted;
	int victim;

	if (argc < 5 || (!strcmp(argv[4], "flip") && argc < 7)) {
		fputs("cut IMAGE VICTIM WANTED (STEP | flip SEED N)\n", stderr);
		return 2;
	}
	whole = whole_file(argv[2]);
	wanted = whole_file(argv[3]);
	victim = open(argv[2], O_RDWR | O_CLOEXEC);
	report = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
	if (victim < 0 || report < 0 || dup2(memfd_create("converted", MFD_CLOEXEC), STDOUT_FILENO) < 0)
		fail(argv[2]);
	for (int s = 0; s < 6; s++)
		signal((int[]){SIGSEGV, SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGALRM}[s], died);
	if (!strcmp(argv[4], "flip"))
		flip(argv[1], victim, &whole, &wanted, strtoull(argv[5], NULL, 10),
		     strtoul(argv[6], NULL, 10));
	else
		cut(argv[1], victim, &whole, &wanted, strtoul(argv[4], NULL, 10));
	snprintf(place, sizeof(place), "put together again");
	judge(argv[1], &wanted, true);
	dprintf(report, "%lu %lu %lu\n", runs, same, faults);
	free(whole.at);
	free(wanted.at);
	close(victim);
	return faults != 0;
}
