/*
 * Locking ourselves in. A guest that finds a hole in a device then holds a process that can open, connect,
 * execute and signal nothing, and can make or remove files only where this VM's own lie. With --vsock it can
 * connect to Unix sockets, as Landlock doesn't know these yet; so only who asked for it has that.
 *
 * User networking makes sockets while the VM runs, too: it may connect to internet addresses then, which is
 * what it is for.
 *
 * Two kernel features work together: Landlock knows paths, which a system call filter can't look at; the
 * filter (seccomp-BPF, made at build time by filter/mkfilter.c) knows calls. Rules: seccomp(2), landlock(7),
 * prctl(2).
 */
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "control/registry.h"
#include "device/net/backend.h"
#include "filter/filter.h"
#include "hvrun.h"

/* --- Landlock --- */

/* What is forbidden but in the folders below. Opening needs no rule here: the filter forbids it altogether.
 */
#define HANDLED                                                                                              \
	(LANDLOCK_ACCESS_FS_REMOVE_DIR | LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_MAKE_CHAR |     \
	 LANDLOCK_ACCESS_FS_MAKE_DIR | LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_MAKE_SOCK |          \
	 LANDLOCK_ACCESS_FS_MAKE_FIFO | LANDLOCK_ACCESS_FS_MAKE_BLOCK | LANDLOCK_ACCESS_FS_MAKE_SYM)
#define ALLOWED (LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_MAKE_SOCK)

static void allow_folder(int ruleset, const char *folder)
{
	struct landlock_path_beneath_attr rule = {.allowed_access = ALLOWED};

	rule.parent_fd = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (rule.parent_fd < 0)
		return; /* whoever needs it will say so, with a sentence of its own */
	syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0);
	close(rule.parent_fd);
}

static void allow_folder_of(int ruleset, const char *file)
{
	const char *slash = strrchr(file, '/');
	char folder[HV_CHARDEV_PATH_MAX];

	snprintf(folder, sizeof(folder), "%.*s", slash ? (int)(slash - file) + 1 : 1, slash ? file : ".");
	allow_folder(ruleset, folder);
}

static void allow_line(int ruleset, const struct hv_chardev_config *line)
{
	if (line->kind == HV_CHARDEV_UNIX || line->kind == HV_CHARDEV_FILE)
		allow_folder_of(ruleset, line->path);
}

/* As hv_vsock_spec_parse has it: a comma in the path is written twice. */
static void allow_folder_of_vsock(int ruleset, const char *text)
{
	struct hv_vsock_spec spec;

	if (hv_vsock_spec_parse(&spec, text, NULL) == 0)
		allow_folder_of(ruleset, spec.path);
}

void sandbox_folders(const struct hv_config *config, const struct hv_log *log)
{
	struct landlock_ruleset_attr attr = {.handled_access_fs = HANDLED};
	char runtime[HV_CHARDEV_PATH_MAX];
	int ruleset = (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof(attr), 0);

	if (ruleset < 0) {
		hv_log(log, HV_LOG_INFO,
		       "this kernel has no Landlock: files may be removed wherever the user may");
		return;
	}
	if (hv_runtime_dir(runtime, sizeof(runtime), 1, NULL) == 0)
		allow_folder(ruleset, runtime);
	if (config->trace)
		allow_folder_of(ruleset, config->trace);
	allow_line(ruleset, &config->serial);
	if (config->has_console)
		allow_line(ruleset, &config->console);
	if (config->has_agent)
		allow_line(ruleset, &config->agent);
	if (config->gdb && !strncmp(config->gdb, "unix:", 5))
		allow_folder_of(ruleset, config->gdb + 5);
	if (config->vsock)
		allow_folder_of_vsock(ruleset, config->vsock);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || syscall(SYS_landlock_restrict_self, ruleset, 0) < 0)
		hv_log(log, HV_LOG_INFO, "Landlock is not in force: %s", strerror(errno));
	close(ruleset);
}

/* --- the filter --- */

static bool has_user_net(const struct hv_config *config)
{
	for (unsigned i = 0; i < config->net_count; i++) {
		struct hv_net_spec spec;

		if (hv_net_spec_parse(&spec, config->nets[i], NULL) == 0 && spec.kind == HV_NET_USER)
			return true;
	}
	return false;
}

int sandbox_lock(const struct hv_config *config, struct hv_error *err)
{
	const struct hv_filter *filter = &hvrun_filters[(config->vsock ? HV_FILTER_CONNECT : 0) |
							(has_user_net(config) ? HV_FILTER_USER_NET : 0)];
	struct sock_filter mine[HV_FILTER_MAX];
	struct sock_fprog prog = {.len = filter->length, .filter = mine};
	long rc;

	memcpy(mine, filter->program, filter->length * sizeof(mine[0]));
	for (unsigned i = 0; i < filter->length; i++)
		if (mine[i].k == HV_FILTER_PID)
			mine[i].k = (uint32_t)getpid();
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return hv_fail_errno(err,
				     "sandbox: this kernel has no no_new_privs; --sandbox off runs without");
	rc = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &prog);
	if (rc > 0)
		return hv_fail(err, EBUSY, "sandbox: thread %ld cannot be locked in", rc);
	if (rc < 0)
		return hv_fail_errno(err,
				     "sandbox: the kernel refuses the system call filter; --sandbox off runs "
				     "without");
	return 0;
}
