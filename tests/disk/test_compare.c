/*
 * Comparison: exact to the byte, whatever the threads, and no bytes read that need not be.
 */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/io.h"
#include "samples.h"

#define MiB (1ULL << 20)

TestSuite(compare, .init = sample_enter, .fini = sample_leave, .timeout = 60);

static void poke(const char *name, uint64_t at, uint64_t length)
{
	int fd = open(name, O_RDWR);

	uint8_t *bytes = calloc(1, length);

	(void)!pread(fd, bytes, length, (off_t)at); /* what is behind the end stays zero */
	for (uint64_t i = 0; i < length; i++)
		bytes[i] ^= 0x5a;
	cr_assert_eq(pwrite(fd, bytes, length, (off_t)at), (ssize_t)length);
	free(bytes);
	close(fd);
}

static struct hv_compare compare(const char *a, const char *b, unsigned threads)
{
	struct hv_disk *x = sample_open(a), *y = sample_open(b);
	struct hv_compare c = {.threads = threads};
	struct hv_error err = {0};

	cr_assert_eq(hv_compare(x, y, &c, &err), 0, "%s", err.text);
	hv_disk_close(x);
	hv_disk_close(y);
	return c;
}

Test(compare, equal_disks_are_the_same_however_they_are_stored)
{
	struct hv_convert c = {.holes = HV_HOLES_SPARSE};
	struct hv_error err;

	sample_make("a.raw", 5 * MiB + 99, 100000, 1);
	cr_assert_eq(sample_convert("a.raw", "b.raw", &c, &err), 0);
	cr_assert(compare("a.raw", "b.raw", 2).same);
	cr_assert(compare("a.raw", "a.raw", 2).same);
}

Test(compare, one_byte_is_found_wherever_it_is)
{
	static const uint64_t places[] = {0, 1, 511, 512, 524287, 524288, 2 * MiB + 7, 3 * MiB - 1, 3 * MiB};

	for (unsigned i = 0; i < HV_ARRAY_SIZE(places); i++) {
		for (unsigned threads = 1; threads <= 3; threads++) {
			sample_make("a.raw", 3 * MiB + 1, 100000, 2);
			sample_make("b.raw", 3 * MiB + 1, 100000, 2);
			poke("b.raw", places[i], 1);
			struct hv_compare c = compare("a.raw", "b.raw", threads);
			uint64_t sector = places[i] < 3 * MiB ? 512 : 1;
			cr_assert_not(c.same);
			cr_assert_eq(c.first, places[i]);
			cr_assert_eq(c.first_length, sector);
			cr_assert_eq(c.differing, sector);
		}
	}
}

Test(compare, a_run_over_stretches_is_one_run)
{
	for (unsigned threads = 1; threads <= 3; threads++) {
		sample_make("a.raw", 4 * MiB, 100000, 3);
		sample_make("b.raw", 4 * MiB, 100000, 3);
		poke("b.raw", 300000, 2 * MiB);
		poke("b.raw", 4 * MiB - 10, 5);
		struct hv_compare c = compare("a.raw", "b.raw", threads);
		uint64_t from = 300000 / 512 * 512, end = (300000 + 2 * MiB + 511) / 512 * 512;
		cr_assert_eq(c.first, 300000);
		cr_assert_eq(c.first_length, end - from);
		cr_assert_eq(c.differing, end - from + 512);
	}
}

Test(compare, behind_the_shorter_end_zeros_are_equal_and_others_not)
{
	sample_make("a.raw", 2 * MiB + 100, 100000, 4);
	sample_make("b.raw", 2 * MiB + 100, 100000, 4);
	cr_assert_eq(truncate("b.raw", 8 * MiB), 0);
	cr_assert(compare("a.raw", "b.raw", 2).same);
	cr_assert(compare("b.raw", "a.raw", 2).same);
	poke("b.raw", 7 * MiB, 1);
	struct hv_compare c = compare("a.raw", "b.raw", 2);
	cr_assert_not(c.same);
	cr_assert_eq(c.first, 7 * MiB);
	cr_assert_eq(c.differing, 512);
	cr_assert_eq(c.a_size, 2 * MiB + 100);
	cr_assert_eq(c.b_size, 8 * MiB);
}

Test(compare, huge_holes_take_no_time)
{
	int fd = open("a.raw", O_RDWR | O_CREAT, 0600);

	cr_assert_eq(ftruncate(fd, 1LL << 42), 0);
	close(fd);
	fd = open("b.raw", O_RDWR | O_CREAT, 0600);
	cr_assert_eq(ftruncate(fd, 1LL << 42), 0);
	close(fd);
	poke("b.raw", 1ULL << 41, 1);
	struct hv_compare c = compare("a.raw", "b.raw", 2);
	cr_assert_eq(c.first, 1ULL << 41);
	cr_assert_eq(c.differing, 512);
}
