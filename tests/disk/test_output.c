/*
 * Output files: complete under their names or not there at all, one writer at a time, nothing of anyone
 * else's replaced.
 */
#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/io.h"
#include "disk/output.h"

static char dir[256];

static void enter(void)
{
	const char *base = getenv("TMPDIR");

	snprintf(dir, sizeof(dir), "%s/hv-output-XXXXXX", base && *base ? base : "/tmp");
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
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0 &&
		    unlinkat(dirfd(d), e->d_name, 0) != 0)
			unlinkat(dirfd(d), e->d_name, AT_REMOVEDIR);
	if (d)
		closedir(d);
	rmdir(dir);
}

TestSuite(output, .init = enter, .fini = leave);

static void put(const char *name, const char *text)
{
	int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	cr_assert(fd >= 0);
	cr_assert_eq(hv_write_full(fd, text, strlen(text)), 0);
	close(fd);
}

static bool holds(const char *name, const char *text)
{
	char buf[64] = "";
	int fd = open(name, O_RDONLY);
	ssize_t n = fd < 0 ? -1 : read(fd, buf, sizeof(buf) - 1);

	if (fd >= 0)
		close(fd);
	return n == (ssize_t)strlen(text) && memcmp(buf, text, strlen(text)) == 0;
}

static int begin(const char *path, bool resume, struct hv_output **o)
{
	struct hv_error err = {0};
	int rc = hv_output_begin(path, resume, o, &err);

	cr_assert(rc == 0 || err.text[0] != '\0');
	return rc;
}

Test(output, all_files_appear_at_commit_and_not_before)
{
	struct hv_error err = {0};
	struct hv_disk_file *flat;
	struct hv_output *o;

	put("a.vmdk", "old");
	cr_assert_eq(begin("a.vmdk", false, &o), 0);
	cr_assert_eq(hv_output_add(o, "a-flat.vmdk", &flat, &err), 0);
	cr_assert_eq(hv_pwrite_full(hv_output_file(o, 0)->fd, "new", 3, 0), 0);
	cr_assert_eq(hv_pwrite_full(flat->fd, "flat", 4, 0), 0);
	cr_assert(holds("a.vmdk", "old"));
	cr_assert_neq(access("a-flat.vmdk", F_OK), 0);
	cr_assert_eq(hv_output_commit(o, &err), 0);
	hv_output_free(o);
	cr_assert(holds("a.vmdk", "new"));
	cr_assert(holds("a-flat.vmdk", "flat"));
	cr_assert_eq(files(), 2);
}

Test(output, nothing_stays_without_commit)
{
	struct hv_error err = {0};
	struct hv_disk_file *more;
	struct hv_output *o;

	cr_assert_eq(begin("a.raw", false, &o), 0);
	cr_assert_eq(hv_output_add(o, "b.raw", &more, &err), 0);
	hv_output_free(o);
	cr_assert_eq(files(), 0);
}

Test(output, what_is_kept_can_be_taken_up_again)
{
	struct hv_output *o;

	cr_assert_eq(begin("a.raw", true, &o), -ENOENT);
	cr_assert_eq(begin("a.raw", false, &o), 0);
	cr_assert_eq(hv_pwrite_full(hv_output_file(o, 0)->fd, "half", 4, 0), 0);
	hv_output_keep(o, true);
	hv_output_free(o);
	cr_assert(holds("a.raw.partial", "half"));
	cr_assert_eq(begin("a.raw", true, &o), 0);
	cr_assert_eq(hv_output_file(o, 0)->size, 4);
	hv_output_keep(o, true);
	hv_output_free(o);
	cr_assert_eq(begin("a.raw", false, &o), 0);
	cr_assert_eq(hv_output_file(o, 0)->size, 0, "a leftover is emptied when nobody resumes");
	hv_output_free(o);
	cr_assert_eq(files(), 0);
}

Test(output, a_second_writer_is_refused_and_harms_nothing)
{
	struct hv_error err = {0};
	struct hv_output *o, *second;

	cr_assert_eq(begin("a.raw", false, &o), 0);
	cr_assert_eq(hv_pwrite_full(hv_output_file(o, 0)->fd, "data", 4, 0), 0);
	cr_assert_eq(begin("a.raw", false, &second), -EBUSY);
	cr_assert(holds("a.raw.partial", "data"));
	cr_assert_eq(hv_output_commit(o, &err), 0);
	hv_output_free(o);
	cr_assert(holds("a.raw", "data"));
}

Test(output, links_folders_devices_and_odd_names_are_refused)
{
	struct hv_output *o;

	put("victim", "victim");
	cr_assert_eq(symlink("victim", "link"), 0);
	cr_assert_eq(mkdir("folder", 0700), 0);
	cr_assert_eq(begin("link", false, &o), -ELOOP);
	cr_assert_eq(begin("folder", false, &o), -EINVAL);
	cr_assert_eq(begin("folder/", false, &o), -EINVAL);
	cr_assert_eq(begin("..", false, &o), -EINVAL);
	cr_assert_eq(begin("nowhere/a.raw", false, &o), -ENOENT);
	cr_assert_eq(begin("/dev/null", false, &o), -EINVAL);
	cr_assert_eq(symlink("victim", "a.partial"), 0);
	cr_assert_lt(begin("a", false, &o), 0);
	cr_assert_eq(link("victim", "b.partial"), 0);
	cr_assert_eq(begin("b", false, &o), -EINVAL);
	cr_assert(holds("victim", "victim"));
}

Test(output, only_names_inside_the_folder_can_be_added)
{
	struct hv_error err = {0};
	struct hv_disk_file *f;
	struct hv_output *o;

	cr_assert_eq(begin("a.vmdk", false, &o), 0);
	cr_assert_eq(hv_output_add(o, "../b", &f, &err), -EINVAL);
	cr_assert_eq(hv_output_add(o, "..", &f, &err), -EINVAL);
	cr_assert_eq(hv_output_add(o, "", &f, &err), -EINVAL);
	cr_assert_eq(hv_output_add(o, "a.vmdk", &f, &err), -EBUSY, "its own name twice");
	hv_output_free(o);
	cr_assert_eq(files(), 0);
}
