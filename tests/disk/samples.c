/*
 * Samples: see samples.h.
 */
#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/io.h"
#include "samples.h"

static char dir[256];

void sample_enter(void)
{
	const char *base = getenv("TMPDIR");

	snprintf(dir, sizeof(dir), "%s/hv-disk-XXXXXX", base && *base ? base : "/tmp");
	cr_assert(mkdtemp(dir) != NULL);
	cr_assert_eq(chdir(dir), 0);
}

void sample_leave(void)
{
	DIR *d = opendir(dir);

	for (struct dirent *e; d && (e = readdir(d));)
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			unlinkat(dirfd(d), e->d_name, 0);
	if (d)
		closedir(d);
	rmdir(dir);
}

static uint32_t next_random(uint32_t *state)
{
	*state = *state * 1664525u + 1013904223u;
	return *state >> 8;
}

void sample_make(const char *name, uint64_t size, uint32_t piece, uint32_t seed)
{
	uint8_t *buf = malloc(piece);
	int fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0600);

	cr_assert(fd >= 0 && buf);
	cr_assert_eq(ftruncate(fd, (off_t)size), 0);
	for (uint64_t at = 0; at < size;) {
		uint64_t length = next_random(&seed) % piece + 1;
		uint32_t kind = next_random(&seed) % 3;
		length = length < size - at ? length : size - at;
		if (kind == 0)
			memset(buf, 0, length);
		for (uint64_t i = 0; kind == 1 && i < length; i++)
			buf[i] = (uint8_t)next_random(&seed);
		if (kind < 2)
			cr_assert_eq(hv_pwrite_full(fd, buf, length, at), 0);
		at += length;
	}
	close(fd);
	free(buf);
}

struct hv_disk *sample_open(const char *name)
{
	struct hv_disk_options options = {.format = strstr(name, ".raw") ? "raw" : NULL};
	struct hv_error err = {0};
	struct hv_disk *d = NULL;

	cr_assert_eq(hv_disk_open(name, &options, &d, &err), 0, "%s", err.text);
	return d;
}

bool sample_same(const char *a, const char *b)
{
	enum { STEP = 1 << 16 };
	int fa = open(a, O_RDONLY), fb = open(b, O_RDONLY);
	char *buf = malloc((size_t)2 * STEP);
	ssize_t na = 0, nb = 0;
	bool same = fa >= 0 && fb >= 0 && buf;

	while (same) {
		na = read(fa, buf, STEP);
		nb = read(fb, buf + STEP, STEP);
		same = na == nb && na >= 0 && memcmp(buf, buf + STEP, (size_t)na) == 0;
		if (na <= 0)
			break;
	}
	free(buf);
	close(fa);
	close(fb);
	return same;
}

uint64_t sample_allocated(const char *name)
{
	struct stat st;

	cr_assert_eq(stat(name, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

unsigned sample_files(void)
{
	DIR *d = opendir(".");
	unsigned count = 0;

	cr_assert(d != NULL);
	for (struct dirent *e; (e = readdir(d));)
		count += e->d_name[0] != '.';
	closedir(d);
	return count;
}

int sample_convert(const char *from, const char *to, struct hv_convert *c, struct hv_error *err)
{
	int rc;

	*err = (struct hv_error){0};
	c->source = sample_open(from);
	c->path = to;
	rc = hv_convert(c, err);
	hv_disk_close(c->source);
	cr_assert(rc == 0 || err->text[0] != '\0');
	return rc;
}
