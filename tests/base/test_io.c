/*
 * Exact I/O: short counts are made whole, a file appears under its name complete or not at all, and nothing
 * but a regular file is loaded or replaced.
 */
#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/io.h"

static char dir[256];

/* A fresh folder, made the working directory so that tests name their files shortly. */
static void enter(void)
{
	const char *base = getenv("TMPDIR");

	snprintf(dir, sizeof(dir), "%s/hv-io-XXXXXX", base && *base ? base : "/tmp");
	cr_assert(mkdtemp(dir) != NULL);
	cr_assert_eq(chdir(dir), 0);
}

static unsigned files(void)
{
	DIR *d = opendir(".");
	unsigned count = 0;

	cr_assert(d != NULL);
	for (struct dirent *e; (e = readdir(d));)
		count += e->d_name[0] != '.';
	closedir(d);
	return count;
}

static void leave(void)
{
	DIR *d = opendir(dir);

	for (struct dirent *e; d && (e = readdir(d));)
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			unlinkat(dirfd(d), e->d_name, 0);
	if (d)
		closedir(d);
	rmdir(dir);
}

TestSuite(io, .init = enter, .fini = leave);

static void put(const char *name, const void *data, size_t length)
{
	int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	cr_assert(fd >= 0);
	cr_assert_eq(hv_write_full(fd, data, length), 0);
	close(fd);
}

static void *write_in_pieces(void *arg)
{
	int fd = *(int *)arg;

	for (int i = 0; i < 10; i++)
		cr_assert_eq(write(fd, "0123456789", 10), 10);
	close(fd);
	return NULL;
}

Test(io, a_read_gathers_the_pieces_of_a_pipe)
{
	char buf[100];
	pthread_t thread;
	int fds[2];

	cr_assert_eq(pipe(fds), 0);
	cr_assert_eq(pthread_create(&thread, NULL, write_in_pieces, &fds[1]), 0);
	cr_assert_eq(hv_read_full(fds[0], buf, sizeof(buf)), 0);
	cr_assert_arr_eq(buf + 90, "0123456789", 10);
	cr_assert_eq(hv_read_full(fds[0], buf, 1), -ENODATA, "the end is told");
	pthread_join(thread, NULL);
	close(fds[0]);
}

Test(io, an_early_end_and_a_bad_descriptor_are_errors)
{
	char buf[8];
	int fd;

	put("short", "abcd", 4);
	fd = open("short", O_RDONLY);
	cr_assert_eq(hv_pread_full(fd, buf, 4, 0), 0);
	cr_assert_eq(hv_pread_full(fd, buf, 4, 1), -ENODATA);
	cr_assert_eq(hv_pread_full(fd, buf, 4, UINT64_MAX), -EINVAL);
	cr_assert_eq(hv_write_full(fd, buf, 1), -EBADF);
	cr_assert_eq(hv_pwrite_full(-1, buf, 1, 0), -EBADF);
	close(fd);
}

Test(io, a_full_device_is_an_error)
{
	int fd = open("/dev/full", O_WRONLY);

	cr_assert(fd >= 0);
	cr_assert_eq(hv_write_full(fd, "x", 1), -ENOSPC);
	close(fd);
}

Test(io, a_file_appears_only_when_committed)
{
	struct hv_error err = {0};
	struct hv_file f;
	struct stat st;

	cr_assert_eq(hv_file_begin(&f, "out", 0640, &err), 0, "%s", err.text);
	cr_assert_eq(hv_write_full(f.fd, "data", 4), 0);
	cr_assert_eq(access("out", F_OK), -1);
	cr_assert_eq(files(), 1);
	cr_assert_eq(hv_file_commit(&f, &err), 0, "%s", err.text);
	cr_assert_eq(stat("out", &st), 0);
	cr_assert_eq(st.st_size, 4);
	cr_assert_eq(st.st_mode & 077 & ~0040u, 0, "no more rights than asked for");
	cr_assert_eq(files(), 1);
	cr_assert_eq(f.fd, -1);
	hv_file_abandon(&f);
	cr_assert_eq(access("out", F_OK), 0, "abandoning a finished file does nothing");
}

Test(io, an_abandoned_file_leaves_nothing_and_the_old_one_whole)
{
	struct hv_file f;
	struct stat st;

	put("out", "old", 3);
	cr_assert_eq(hv_file_begin(&f, "out", 0600, NULL), 0);
	cr_assert_eq(hv_write_full(f.fd, "new and longer", 14), 0);
	hv_file_abandon(&f);
	cr_assert_eq(stat("out", &st), 0);
	cr_assert_eq(st.st_size, 3);
	cr_assert_eq(files(), 1);
}

Test(io, the_directory_may_be_given_by_a_path)
{
	struct hv_file f;
	char path[512];

	snprintf(path, sizeof(path), "%s/deep", dir);
	cr_assert_eq(chdir("/"), 0);
	cr_assert_eq(hv_file_begin(&f, path, 0600, NULL), 0);
	cr_assert_eq(hv_file_commit(&f, NULL), 0);
	cr_assert_eq(access(path, F_OK), 0);
}

Test(io, devices_links_and_directories_are_never_replaced)
{
	static const char *const bad[] = {"fifo", "link", "dangling", ".", "..", "", "none/", "none/file"};
	struct hv_error err = {0};
	struct hv_file f;

	put("file", "x", 1);
	cr_assert_eq(mkfifo("fifo", 0600), 0);
	cr_assert_eq(symlink("file", "link"), 0);
	cr_assert_eq(symlink("nowhere", "dangling"), 0);
	cr_assert_lt(hv_file_begin(&f, "/dev/null", 0600, &err), 0);
	cr_assert_eq(strncmp(err.text, "/dev/null: ", 11), 0, "got '%s'", err.text);
	for (unsigned i = 0; i < HV_ARRAY_SIZE(bad); i++) {
		cr_assert_lt(hv_file_begin(&f, bad[i], 0600, &err), 0, "'%s' was taken", bad[i]);
		cr_assert_eq(f.fd, -1);
		cr_assert_eq(f.dir, -1);
	}
	cr_assert_eq(files(), 4);
}

Test(io, names_and_paths_too_long_are_refused_not_cut)
{
	struct hv_file f;
	char path[5000];

	memset(path, 'a', sizeof(path) - 1);
	path[sizeof(path) - 1] = '\0';
	cr_assert_lt(hv_file_begin(&f, path, 0600, NULL), 0);
	path[233] = '\0';
	cr_assert_lt(hv_file_begin(&f, path, 0600, NULL), 0);
	path[230] = '\0';
	cr_assert_eq(hv_file_begin(&f, path, 0600, NULL), 0);
	hv_file_abandon(&f);
	for (size_t i = 0; i < sizeof(path) - 1; i++)
		path[i] = i % 2 ? '/' : '.';
	strcpy(path + 4096, "x"); /* the directory alone is 4096 bytes */
	cr_assert_eq(hv_file_begin(&f, path, 0600, NULL), -ENAMETOOLONG);
	cr_assert_eq(files(), 0);
}

Test(io, a_whole_file_is_loaded)
{
	void *data = NULL;
	size_t size = 0;

	put("img", "image", 5);
	cr_assert_eq(hv_load_file("img", 5, &data, &size, NULL), 0);
	cr_assert_eq(size, 5);
	cr_assert_arr_eq(data, "image", 5);
	hv_unload(data, size);
	hv_unload(NULL, 0);
}

Test(io, what_is_no_usable_image_is_refused_by_name)
{
	struct hv_error err = {0};
	void *data = NULL;
	size_t size = 0;

	put("empty", "", 0);
	put("large", "123456", 6);
	cr_assert_eq(mkfifo("fifo", 0600), 0);
	cr_assert_eq(hv_load_file("none", 10, &data, &size, &err), -ENOENT);
	cr_assert_eq(strncmp(err.text, "none: ", 6), 0);
	cr_assert_lt(hv_load_file("empty", 10, &data, &size, &err), 0);
	cr_assert_eq(err.status, HV_EXIT_UNSAFE);
	cr_assert_eq(hv_load_file("large", 5, &data, &size, &err), -EFBIG);
	cr_assert_eq(hv_load_file("fifo", 10, &data, &size, &err), -EINVAL, "and does not wait for a writer");
	cr_assert_eq(hv_load_file(".", 10, &data, &size, &err), -EINVAL);
	cr_assert_eq(hv_load_file("/dev/zero", 10, &data, &size, &err), -EINVAL);
	cr_assert_eq(data, NULL);
}

Test(io, an_open_descriptor_is_read_from_its_start_and_stays_open)
{
	void *data = NULL;
	size_t size = 0;
	char c;
	int fd;

	put("img", "image", 5);
	fd = open("img", O_RDONLY);
	cr_assert_eq(read(fd, &c, 1), 1);
	cr_assert_eq(hv_load_fd(fd, "img", 100, &data, &size, NULL), 0);
	cr_assert_eq(size, 5);
	cr_assert_eq(read(fd, &c, 1), 1);
	cr_assert_eq(c, 'm');
	hv_unload(data, size);
	close(fd);
}
