/*
 * The sandbox: what a locked process can't do any more, and what a conversion still can.
 */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hvmigrate.h"

#ifndef HVM_SANITIZED /* there is none under the sanitizers */

static char folder[128];

static const char *in_folder(const char *name, char buf[static 200])
{
	snprintf(buf, 200, "%s/%s", folder, name);
	return buf;
}

static void make_file(const char *name)
{
	char path[200];
	int fd = open(in_folder(name, path), O_CREAT | O_WRONLY, 0600);

	cr_assert(fd >= 0);
	close(fd);
}

/* image/a.raw and image/b.raw, other/c.raw, out/. */
static void make_folder(void)
{
	const char *tmp = getenv("TMPDIR");
	char command[600];

	snprintf(folder, sizeof(folder), "%s/hvm-sandbox-XXXXXX", tmp ? tmp : "/tmp");
	cr_assert(mkdtemp(folder));
	snprintf(command, sizeof(command), "mkdir %s/image %s/other %s/out", folder, folder, folder);
	cr_assert_eq(system(command), 0);
	make_file("image/a.raw");
	make_file("image/b.raw");
	make_file("other/c.raw");
}

static void remove_folder(void)
{
	char command[600];

	snprintf(command, sizeof(command), "rm -rf %s", folder);
	cr_assert_eq(system(command), 0);
}

/* Runs fn in a child that is locked so; its status. */
static int locked_for(int (*fn)(void), const struct hvm_reach *reach, const char *external)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		struct hvm_options o = {.external = &external, .externals = external ? 1 : 0};
		struct hv_error err = {0};

		alarm(20);
		if (hvm_sandbox(&o, reach, &err))
			_exit(100);
		_exit(fn());
	}
	cr_assert(pid > 0);
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* For a conversion of image/a.raw into out/. */
static int locked(int (*fn)(void), const char *external, const char *second)
{
	char image[200], result[200];
	const struct hvm_reach reach = {.image = {in_folder("image/a.raw", image), second},
					.result = in_folder("out/x.raw", result)};

	return locked_for(fn, &reach, external);
}

/* For an import of the machine image/a.raw into the folder out. */
static int locked_import(int (*fn)(void), const char *external)
{
	char appliance[200], out[200];
	const struct hvm_reach reach = {.appliance = in_folder("image/a.raw", appliance),
					.folder = in_folder("out", out)};

	return locked_for(fn, &reach, external);
}

/* 0 when the call failed with that. */
#define REFUSED(call, number) (errno = 0, (call) == -1 && errno == (number) ? 0 : 1)

static int try_calls(void)
{
	char *argv[] = {(char[]){"/bin/true"}, NULL}, *envp[] = {NULL};

	return REFUSED(execve(argv[0], argv, envp), EPERM) + REFUSED(syscall(SYS_fork), EPERM) +
	       REFUSED(syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0), EPERM) + REFUSED(kill(getppid(), 0), EPERM) +
	       REFUSED(syscall(SYS_ptrace, 16, getppid(), 0, 0), EPERM) +
	       REFUSED(syscall(SYS_bpf, 0, NULL, 0), EPERM) + REFUSED(symlink("/a", "/tmp/x"), EPERM);
}

static int try_sockets(void)
{
	return REFUSED(socket(AF_INET, SOCK_STREAM, 0), EPERM) +
	       REFUSED(socket(AF_UNIX, SOCK_STREAM, 0), EPERM);
}

static int have_sockets(void)
{
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	return fd < 0;
}

static void *thread(void *arg)
{
	free(malloc(1 << 20));
	return arg;
}

static int go_on(void)
{
	char path[200], to[200];
	pthread_t t;
	int fd;

	if (pthread_create(&t, NULL, thread, NULL) || pthread_join(t, NULL))
		return 1;
	if (open(in_folder("image/a.raw", path), O_RDONLY) < 0 ||
	    open(in_folder("image/b.raw", path), O_RDONLY) < 0)
		return 2;
	fd = open(in_folder("out/x.raw.partial", path), O_CREAT | O_RDWR, 0600);
	if (fd < 0 || ftruncate(fd, 4096) || rename(path, in_folder("out/x.raw", to)) || unlink(to))
		return 3;
	return 0;
}

static int try_files(void)
{
	char path[200], to[200];

	return REFUSED(open("/etc/passwd", O_RDONLY), EACCES) +
	       REFUSED(open(in_folder("other/c.raw", path), O_RDONLY), EACCES) +
	       REFUSED(open(in_folder("image/a.raw", path), O_WRONLY), EACCES) +
	       REFUSED(open(in_folder("image/new", path), O_CREAT | O_WRONLY, 0600), EACCES) +
	       REFUSED(unlink(in_folder("image/a.raw", path)), EACCES) +
	       REFUSED(rename(in_folder("image/a.raw", path), in_folder("image/z.raw", to)), EACCES);
}

static int remove_out(void)
{
	char path[200];

	return rmdir(in_folder("out", path)) || REFUSED(mkdir(in_folder("new", path), 0700), EACCES);
}

static int open_other(void)
{
	char path[200];

	return open(in_folder("other/c.raw", path), O_RDONLY) < 0;
}

static bool has_landlock(void)
{
	return syscall(SYS_landlock_create_ruleset, NULL, 0, 1) >= 1;
}

Test(sandbox, starts_nothing_and_touches_no_other_process)
{
	make_folder();
	cr_expect_eq(locked(try_calls, NULL, NULL), 0);
	remove_folder();
}

Test(sandbox, opens_sockets_only_for_a_server)
{
	make_folder();
	cr_expect_eq(locked(try_sockets, NULL, NULL), 0);
	cr_expect_eq(locked(have_sockets, NULL, "nbd://localhost/"), 0);
	remove_folder();
}

Test(sandbox, leaves_threads_the_images_folder_and_the_destinations)
{
	make_folder();
	cr_expect_eq(locked(go_on, NULL, NULL), 0);
	remove_folder();
}

Test(sandbox, keeps_from_all_other_files)
{
	if (!has_landlock())
		cr_skip_test("this kernel has no Landlock");
	make_folder();
	cr_expect_eq(locked(try_files, NULL, NULL), 0);
	cr_expect_eq(locked(open_other, NULL, NULL), 1);
	remove_folder();
}

Test(sandbox, keeps_an_import_to_the_machines_tree_and_its_own_folder)
{
	char path[200];

	if (!has_landlock())
		cr_skip_test("this kernel has no Landlock");
	make_folder();
	cr_expect_eq(locked_import(go_on, NULL), 0);
	cr_expect_eq(locked_import(try_files, NULL), 0);
	cr_expect_eq(locked_import(try_calls, NULL), 0);
	cr_expect_eq(locked_import(try_sockets, NULL), 0);
	cr_expect_eq(locked_import(open_other, NULL), 1);
	cr_expect_eq(locked_import(open_other, in_folder("other/c.raw", path)), 0);
	cr_expect_eq(locked_import(remove_out, NULL), 0);
	remove_folder();
}

Test(sandbox, opens_what_was_allowed_as_the_image_names_it)
{
	char path[200];

	make_folder();
	cr_expect_eq(locked(open_other, in_folder("other/c.raw", path), NULL), 0);
	cr_expect_eq(locked(open_other, "../other/c.raw", NULL), 0);
	remove_folder();
}

#endif
