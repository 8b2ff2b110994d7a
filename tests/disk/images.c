/*
 * See images.h.
 */
#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/io.h"
#include "images.h"

static char dir[256];

void images_enter(void)
{
	const char *base = getenv("TMPDIR");

	snprintf(dir, sizeof(dir), "%s/hv-images-XXXXXX", base && *base ? base : "/tmp");
	cr_assert(mkdtemp(dir) != NULL);
	cr_assert_eq(chdir(dir), 0);
}

static void remove_all(const char *path)
{
	DIR *d = opendir(path);

	for (struct dirent *e; d && (e = readdir(d));) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		if (unlinkat(dirfd(d), e->d_name, 0) == 0)
			continue;
		char below[600];
		snprintf(below, sizeof(below), "%s/%s", path, e->d_name);
		remove_all(below);
	}
	if (d)
		closedir(d);
	rmdir(path);
}

void images_leave(void)
{
	if (chdir("/") == 0)
		remove_all(dir);
}

int images_run(const char *fmt, ...)
{
	char command[4096], line[4200];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(command, sizeof(command), fmt, ap);
	va_end(ap);
	snprintf(line, sizeof(line), "{ %s; } >log 2>&1", command);
	return system(line);
}

bool images_have(const char *program)
{
	return images_run("command -v %s", program) == 0;
}

uint64_t images_next(struct images_random *r)
{
	uint64_t z = r->state += 0x9e3779b97f4a7c15ULL;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ z >> 27) * 0x94d049bb133111ebULL;
	return z ^ z >> 31;
}

uint64_t images_below(struct images_random *r, uint64_t limit)
{
	return images_next(r) % limit;
}

void images_fill(struct images_random *r, uint8_t *bytes, size_t length)
{
	size_t at = 0;

	while (at < length) {
		size_t n = (size_t)images_below(r, 1U << (8 + images_below(r, 12))) + 1,
		       kind = images_below(r, 4);

		if (n > length - at)
			n = length - at;
		for (size_t i = 0; i < n; i++)
			bytes[at + i] = kind < 2    ? 0
					: kind == 2 ? (uint8_t)('a' + i % 7)
						    : (uint8_t)images_next(r);
		at += n;
	}
}

void images_put(const char *path, const void *bytes, size_t length)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	cr_assert(fd >= 0);
	cr_assert_eq(hv_write_full(fd, bytes, length), 0);
	close(fd);
}

uint8_t *images_get(const char *path, size_t *length)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	uint8_t *bytes;

	cr_assert(fd >= 0, "%s", path);
	cr_assert_eq(fstat(fd, &st), 0);
	bytes = malloc((size_t)st.st_size + 1);
	cr_assert(bytes != NULL);
	cr_assert_eq(hv_read_full(fd, bytes, (size_t)st.st_size), 0);
	close(fd);
	*length = (size_t)st.st_size;
	return bytes;
}

int images_read(const char *path, const struct hv_disk_options *options, uint8_t **bytes, size_t *length,
		struct hv_error *err)
{
	struct hv_disk_io *io;
	struct hv_disk *d;
	int rc = hv_disk_open(path, options, &d, err);

	*bytes = NULL;
	if (rc < 0)
		return rc;
	*length = (size_t)hv_disk_size(d);
	io = hv_disk_io_new();
	/* Fuzzed and damaged sizes may be anything: what a test means to read is small. */
	*bytes = *length <= 1U << 30 ? malloc(*length + 1) : NULL;
	rc = *bytes ? hv_disk_read(d, io, *bytes, *length, 0, err) : hv_fail(err, EFBIG, "too large a disk");
	hv_disk_io_free(io);
	hv_disk_close(d);
	if (rc < 0) {
		free(*bytes);
		*bytes = NULL;
	}
	return rc;
}

void images_expect(const char *path, const char *format, const uint8_t *bytes, size_t length)
{
	struct hv_disk_options options = {.format = format};
	struct hv_error err = {0};
	uint8_t *got;
	size_t size;
	int rc = images_read(path, &options, &got, &size, &err);

	cr_assert_eq(rc, 0, "%s", err.text);
	cr_assert_eq(size, length, "%zu bytes, not %zu", size, length);
	for (size_t i = 0; i < length; i++)
		if (got[i] != bytes[i])
			cr_assert_fail("%s: byte %zu is 0x%02x, not 0x%02x", path, i, got[i], bytes[i]);
	free(got);
}

static void say(void *ctx, enum hv_check_severity severity, const char *text)
{
	(void)ctx;
	if (severity != HV_CHECK_NOTE)
		fprintf(stderr, "%s: %s\n", severity == HV_CHECK_LEAK ? "leak" : "error", text);
}

struct hv_disk_check images_check(const char *path, const char *format)
{
	struct hv_disk_options options = {.format = format, .alone = true};
	struct hv_disk_check check = {.found = say};
	struct hv_error err = {0};
	struct hv_disk *d;

	cr_assert_eq(hv_disk_open(path, &options, &d, &err), 0, "%s", err.text);
	cr_assert_eq(hv_disk_check(d, &check, &err), 0, "%s", err.text);
	hv_disk_close(d);
	return check;
}
