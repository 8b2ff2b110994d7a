/*
 * The registry: a name has one owner, what a crash leaves is replaced, and a directory that others may enter
 * is not used.
 */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "control/registry.h"
#include "fixture.h"

TestSuite(registry, .init = (void (*)(void))test_runtime, .fini = test_runtime_gone);

static void mode_of(const char *name, mode_t *mode)
{
	char path[256];
	struct stat st;

	snprintf(path, sizeof(path), "%s/hvkit/%s", getenv("XDG_RUNTIME_DIR"), name);
	cr_assert_eq(stat(path, &st), 0, "%s", path);
	*mode = st.st_mode & 07777;
}

Test(registry, a_taken_name_is_refused_until_it_is_released)
{
	struct hv_registration a, b;
	struct hv_error err = {0};
	mode_t mode;

	cr_assert_eq(hv_registry_take(&a, "vm", &err), 0, "%s", err.text);
	mode_of("vm.sock", &mode);
	cr_assert_eq(mode, 0600);
	mode_of(".", &mode);
	cr_assert_eq(mode, 0700);
	cr_assert_eq(hv_registry_take(&b, "vm", &err), -EADDRINUSE);
	cr_assert(strstr(err.text, "'vm'"));
	hv_registry_release(&b);
	hv_registry_release(&a);
	hv_registry_release(&a);
	cr_assert_eq(hv_registry_take(&b, "vm", &err), 0, "%s", err.text);
	hv_registry_release(&b);
}

Test(registry, what_a_killed_process_leaves_is_not_listed_and_is_replaced)
{
	struct hv_registry_entry *list;
	struct hv_registration r;
	struct hv_error err = {0};
	unsigned count;
	int status;
	pid_t child = fork();

	if (child == 0) {
		hv_registry_take(&r, "crash", NULL);
		raise(SIGKILL);
	}
	cr_assert_eq(waitpid(child, &status, 0), child);
	cr_assert(WIFSIGNALED(status));
	cr_assert_eq(hv_registry_list(&list, &count, &err), 0, "%s", err.text);
	cr_assert_eq(count, 0);
	free(list);
	cr_assert_eq(hv_registry_take(&r, "crash", &err), 0, "%s", err.text);
	hv_registry_release(&r);
}

Test(registry, living_vms_are_listed_by_name_and_looking_does_not_disturb)
{
	struct hv_registry_entry *list;
	struct hv_registration r[3];
	struct hv_error err = {0};
	unsigned count;

	cr_assert_eq(hv_registry_list(&list, &count, &err), 0, "%s", err.text);
	cr_assert_eq(count, 0); /* no directory yet */
	cr_assert_eq(hv_registry_take(&r[0], "c", &err), 0, "%s", err.text);
	cr_assert_eq(hv_registry_take(&r[1], "a", &err), 0, "%s", err.text);
	cr_assert_eq(hv_registry_take(&r[2], "b", &err), 0, "%s", err.text);
	cr_assert_eq(hv_registry_list(&list, &count, &err), 0, "%s", err.text);
	cr_assert_eq(count, 3);
	cr_assert_str_eq(list[0].name, "a");
	cr_assert_str_eq(list[1].name, "b");
	cr_assert_str_eq(list[2].name, "c");
	cr_assert_str_eq(strrchr(list[2].path, '/'), "/c.sock");
	free(list);
	for (int i = 0; i < 3; i++)
		hv_registry_release(&r[i]);
}

Test(registry, names_that_are_paths_are_refused)
{
	struct hv_registration r;

	cr_assert_eq(hv_registry_take(&r, "../vm", NULL), -EINVAL);
	hv_registry_release(&r);
	cr_assert_eq(hv_registry_take(&r, "", NULL), -EINVAL);
	cr_assert_eq(hv_registry_take(&r, ".hidden", NULL), -EINVAL);
}

Test(registry, a_directory_open_to_others_is_refused)
{
	struct hv_registration r;
	struct hv_error err = {0};
	char path[256];

	snprintf(path, sizeof(path), "%s/hvkit", getenv("XDG_RUNTIME_DIR"));
	cr_assert_eq(mkdir(path, 0700), 0);
	cr_assert_eq(chmod(path, 0755), 0);
	cr_assert_lt(hv_registry_take(&r, "vm", &err), 0);
	cr_assert_eq(err.status, HV_EXIT_UNSAFE);
	rmdir(path);
	cr_assert_eq(symlink("/tmp", path), 0);
	cr_assert_lt(hv_registry_take(&r, "vm", &err), 0);
	unlink(path);
}

Test(registry, a_runtime_directory_longer_than_a_socket_address_works)
{
	char name[160], inner[256], path[512];
	struct hv_registration r;
	struct hv_error err = {0};
	int fd;

	memset(name, 'x', sizeof(name));
	name[sizeof(name) - 1] = '\0';
	snprintf(inner, sizeof(inner), "%s/%s", getenv("XDG_RUNTIME_DIR"), name);
	cr_assert_eq(mkdir(inner, 0700), 0);
	setenv("XDG_RUNTIME_DIR", inner, 1);
	cr_assert_eq(hv_registry_take(&r, "vm", &err), 0, "%s", err.text);
	snprintf(path, sizeof(path), "%s/hvkit/vm.sock", inner);
	fd = hv_registry_connect(path, 1000, &err);
	cr_assert(fd >= 0, "%s", err.text);
	close(fd);
	hv_registry_release(&r);
	snprintf(path, sizeof(path), "%s/hvkit", inner);
	rmdir(path);
	rmdir(inner);
}
