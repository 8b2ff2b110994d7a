/*
 * Locking the program in, in the child, before exec. Landlock knows paths and who may be signalled, the
 * filter (filter.c) knows calls, limits know amounts, and root gives itself up for a user without rights. A
 * kernel without Landlock leaves the other three.
 *
 * Rules: landlock(7), credentials(7), setrlimit(2), prctl(2).
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/landlock.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "observe.h"

const char *const system_paths[] = {
	"/usr",
	"/lib",
	"/lib64",
	"/lib32",
	"/libx32",
	"/bin",
	"/nix/store",
	"/gnu/store",
	"/opt",
	"/etc",
	"/dev/null",
	"/dev/zero",
	"/dev/full",
	"/dev/random",
	"/dev/urandom",
	"/proc/self",
	"/proc/cpuinfo",
	"/proc/meminfo",
	"/proc/filesystems",
	"/proc/sys/vm",
	"/proc/sys/kernel",
	"/sys/devices/system",
	"/sys/module",
	"/sys/kernel/mm",
};
const unsigned system_path_count = ARRAY_SIZE(system_paths);

/* --- Landlock ------------------------------------------------------------------------------------------------ */

/* Newer than some distributions' linux/landlock.h: ABI 3, 5, 4, 6. */
#define FS_TRUNCATE  (1ull << 14)
#define FS_IOCTL_DEV (1ull << 15)
#define NET_BOTH     3ull
#define SCOPE_BOTH   3ull
struct ruleset {
	uint64_t fs, net, scoped;
};

#define READING (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR | LANDLOCK_ACCESS_FS_EXECUTE)
#define WRITING                                                                                              \
	(LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR | LANDLOCK_ACCESS_FS_WRITE_FILE |        \
	 LANDLOCK_ACCESS_FS_REMOVE_DIR | LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_MAKE_DIR |      \
	 LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_MAKE_SOCK | LANDLOCK_ACCESS_FS_MAKE_FIFO |         \
	 LANDLOCK_ACCESS_FS_MAKE_SYM | FS_TRUNCATE)
#define DEVICE (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE | FS_TRUNCATE | FS_IOCTL_DEV)
#define OF_FILES                                                                                             \
	(LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_EXECUTE |         \
	 FS_TRUNCATE | FS_IOCTL_DEV)
#define FS_ABI_1 ((LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1)

/* What isn't there can't be allowed; who needs it will say so. */
static void allow(int ruleset, uint64_t handled, const char *path, uint64_t access)
{
	struct landlock_path_beneath_attr rule = {.allowed_access = access & handled};
	struct stat st;

	rule.parent_fd = open(path, O_PATH | O_CLOEXEC);
	if (rule.parent_fd < 0)
		return;
	if (fstat(rule.parent_fd, &st) == 0 && !S_ISDIR(st.st_mode))
		rule.allowed_access &= OF_FILES;
	(void)syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0);
	close(rule.parent_fd);
}

static void add_rules(int ruleset, uint64_t handled, const struct options *o)
{
	for (unsigned i = 0; i < system_path_count; i++)
		allow(ruleset, handled, system_paths[i], READING);
	for (unsigned i = 0; i < o->reads; i++)
		allow(ruleset, handled, o->read[i], READING);
	allow(ruleset, handled, o->program, READING);
	allow(ruleset, handled, "/dev/null", DEVICE);
	allow(ruleset, handled, "/dev/full", DEVICE);
	if (!o->plain)
		allow(ruleset, handled, o->kvm, DEVICE);
	for (unsigned i = 0; i < o->writes; i++)
		allow(ruleset, handled, o->write[i], WRITING | (o->plain ? LANDLOCK_ACCESS_FS_EXECUTE : 0));
}

long landlock_version(void)
{
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);

	return abi < 0 ? 0 : abi;
}

static int lock_files(const struct options *o)
{
	struct ruleset attr = {.fs = FS_ABI_1};
	long abi = landlock_version();
	int ruleset, rc;

	if (abi < 1)
		return 0;
	attr.fs |= abi >= 2 ? LANDLOCK_ACCESS_FS_REFER : 0;
	attr.fs |= abi >= 3 ? FS_TRUNCATE : 0;
	attr.net = abi >= 4 ? NET_BOTH : 0;
	attr.fs |= abi >= 5 ? FS_IOCTL_DEV : 0;
	attr.scoped = abi >= 6 ? SCOPE_BOTH : 0;
	ruleset = (int)syscall(SYS_landlock_create_ruleset, &attr, abi >= 6 ? 24 : abi >= 4 ? 16 : 8, 0);
	if (ruleset < 0)
		return -1;
	add_rules(ruleset, attr.fs, o);
	rc = (int)syscall(SYS_landlock_restrict_self, ruleset, 0);
	close(ruleset);
	return rc;
}

/* --- limits and rights ------------------------------------------------------------------------------------- */

static void limit(int resource, uint64_t value)
{
	struct rlimit now;

	if (getrlimit((__rlimit_resource_t)resource, &now) < 0)
		return;
	if (now.rlim_max != RLIM_INFINITY && value > now.rlim_max)
		value = now.rlim_max;
	now.rlim_cur = now.rlim_max = value;
	(void)setrlimit((__rlimit_resource_t)resource, &now);
}

/* A guest's memory is a large mapping that is mostly never touched: for a VM, address space says nothing. */
static void set_limits(const struct options *o)
{
	limit(RLIMIT_CORE, 0);
	limit(RLIMIT_NOFILE, 256);
	limit(RLIMIT_MSGQUEUE, 0);
	limit(RLIMIT_FSIZE, o->limit_output);
	limit(RLIMIT_CPU, o->limit_cpu);
	if (o->plain && o->limit_memory)
		limit(RLIMIT_AS, o->limit_memory);
}

/* The kernel short of memory shall take the program, not the grader. */
static void be_the_first_to_go(void)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return;
	if (write(fd, "1000", 4) < 0)
		errno = 0;
	close(fd);
}

static int drop_rights(const struct options *o)
{
	struct stat st;
	bool grouped;

	if (!o->drop)
		return 0;
	/* Where no private tree could be made, the group that the host gives its device to will do. */
	grouped = !o->plain && stat(o->kvm, &st) == 0 && (st.st_mode & 0060) == 0060;
	if (setgroups(grouped ? 1 : 0, grouped ? &st.st_gid : NULL) < 0 ||
	    setresgid(o->gid, o->gid, o->gid) < 0)
		return -1;
	return setresuid(o->uid, o->uid, o->uid);
}

static int failed(char *why, size_t size, const char *what)
{
	snprintf(why, size, "%s: %s", what, strerror(errno));
	return -1;
}

int sandbox_enter(const struct options *o, char *why, size_t size)
{
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return failed(why, size, "the kernel has no no_new_privs");
	if (!o->sandbox && o->folder && chdir(o->folder) < 0)
		return failed(why, size, o->folder);
	if (!o->sandbox)
		return filter_load(o) < 0 ? failed(why, size, "the kernel refuses the system call filter")
					  : 0;
	(void)setsid();
	be_the_first_to_go();
	if (o->drop && room_enter(o, why, size) < 0)
		return -1;
	set_limits(o);
	if (drop_rights(o) < 0)
		return failed(why, size, "root's rights can't be dropped");
	if (o->folder && chdir(o->folder) < 0)
		return failed(why, size, o->folder);
	if (!o->plain && access(o->kvm, R_OK | W_OK) < 0)
		return failed(why, size, "the program's user may not open KVM's device");
	if (lock_files(o) < 0)
		return failed(why, size, "Landlock refuses its rules");
	if (filter_load(o) < 0)
		return failed(why, size, "the kernel refuses the system call filter");
	return 0;
}
