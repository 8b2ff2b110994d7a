/*
 * Locking ourselves in, before the first byte of an image is looked at. Who finds a hole in a parser then
 * holds a process that reads the image's own folder, writes the destination's, starts no program and, unless
 * a server was named, opens no socket. It cannot be hvrun's list of what is allowed: a conversion opens files
 * all the time, and TLS and name servers need much of the system; so here is what is forbidden.
 *
 * Rules: landlock(7), seccomp(2), prctl(2).
 */
#include <fcntl.h>
#include <limits.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "disk/appliance.h"
#include "hvmigrate.h"

/* --- Landlock: which files --------------------------------------------------------------------------------- */

#ifndef LANDLOCK_ACCESS_FS_TRUNCATE
#define LANDLOCK_ACCESS_FS_TRUNCATE (1ULL << 14)
#endif
#define TRUNCATE_ABI 3

#define OF_FILES (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_TRUNCATE)
#define READING  (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR)
#define WRITING                                                                                              \
	(OF_FILES | LANDLOCK_ACCESS_FS_READ_DIR | LANDLOCK_ACCESS_FS_MAKE_REG |                              \
	 LANDLOCK_ACCESS_FS_REMOVE_FILE)
#define CHANGING                                                                                             \
	(WRITING | LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_REMOVE_DIR |                              \
	 LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_DIR | LANDLOCK_ACCESS_FS_MAKE_SOCK |         \
	 LANDLOCK_ACCESS_FS_MAKE_FIFO | LANDLOCK_ACCESS_FS_MAKE_BLOCK | LANDLOCK_ACCESS_FS_MAKE_SYM)

struct rules {
	int fd;
	uint64_t handled;
};

/* What isn't there can't be allowed, and whoever needs it will say so with a sentence of its own. */
static void allow(const struct rules *r, const char *path, uint64_t access)
{
	struct landlock_path_beneath_attr rule = {.allowed_access = access & r->handled};
	struct stat st;

	rule.parent_fd = open(path, O_PATH | O_CLOEXEC);
	if (rule.parent_fd < 0)
		return;
	if (fstat(rule.parent_fd, &st) == 0 && !S_ISDIR(st.st_mode))
		rule.allowed_access &= OF_FILES;
	if (rule.allowed_access)
		syscall(SYS_landlock_add_rule, r->fd, LANDLOCK_RULE_PATH_BENEATH, &rule, 0);
	close(rule.parent_fd);
}

/* The folder of a name, with its slash, or "."; fresh. */
static char *folder_of(const char *name)
{
	const char *slash = strrchr(name, '/');

	return slash ? strndup(name, (size_t)(slash - name) + 1) : strdup(".");
}

static void allow_folder_of(const struct rules *r, const char *name, uint64_t access)
{
	char *folder = folder_of(name);

	if (folder)
		allow(r, folder, access);
	free(folder);
}

/* An image's own tree; of a device nothing but itself. Links are the user's choice: the real folder counts.
 */
static void allow_image(const struct rules *r, const char *name)
{
	char *real = realpath(name, NULL);
	struct stat st;

	if (real && stat(real, &st) == 0 &&
	    S_ISREG(st.st_mode)) /* an image that is a folder is its own tree */
		allow_folder_of(r, real, READING);
	if (real)
		allow(r, real, READING);
	free(real);
}

/* As the image has it: relative to the image's folder, or to ours. */
static void allow_external(const struct rules *r, const char *image, const char *external)
{
	char *folder = folder_of(image), *name = NULL;

	allow(r, external, OF_FILES);
	if (folder && external[0] != '/' && asprintf(&name, "%s/%s", folder, external) >= 0) {
		allow(r, name, OF_FILES);
		free(name);
	}
	free(folder);
}

/* Its disks are images in their own right: one that lies elsewhere may have its extents beside it. */
static void allow_appliance(const struct rules *r, const struct hvm_options *o, const char *name)
{
	struct hv_error unseen = {0};
	char folder[PATH_MAX];

	if (hv_appliance_folder(name, folder, sizeof(folder), &unseen))
		return;
	allow(r, folder, READING);
	allow_folder_of(r, name, READING); /* the manifest's, when the name is a link */
	for (unsigned e = 0; e < o->externals; e++)
		allow_image(r, o->external[e]);
}

/* The folder that import made is removed when nothing came into it. */
static void allow_result_folder(const struct rules *r, const char *folder)
{
	char above[PATH_MAX];

	allow(r, folder, WRITING);
	if ((size_t)snprintf(above, sizeof(above), "%s/..", folder) < sizeof(above))
		allow(r, above, LANDLOCK_ACCESS_FS_REMOVE_DIR);
}

static void add_rules(const struct rules *r, const struct hvm_options *o, const struct hvm_reach *reach)
{
	for (unsigned i = 0; i < HV_ARRAY_SIZE(reach->image); i++) {
		if (!reach->image[i])
			continue;
		allow_image(r, reach->image[i]);
		for (unsigned e = 0; e < o->externals; e++)
			allow_external(r, reach->image[i], o->external[e]);
	}
	if (reach->in_place)
		allow(r, reach->in_place, OF_FILES);
	if (reach->appliance)
		allow_appliance(r, o, reach->appliance);
	if (reach->result)
		allow_folder_of(r, reach->result, WRITING);
	if (reach->folder)
		allow_result_folder(r, reach->folder);
}

/* Where the kernel has no Landlock, the filter is what there is. */
static void lock_files(const struct hvm_options *o, const struct hvm_reach *reach, bool network)
{
	struct landlock_ruleset_attr attr = {0};
	struct rules r;
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);

	if (abi < 1)
		return;
	r.handled = CHANGING;
	if (abi < TRUNCATE_ABI)
		r.handled &= ~LANDLOCK_ACCESS_FS_TRUNCATE;
	if (network) /* certificates, name servers */
		r.handled &= ~(uint64_t)(READING | LANDLOCK_ACCESS_FS_EXECUTE);
	attr.handled_access_fs = r.handled;
	r.fd = (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof(attr), 0);
	if (r.fd < 0)
		return;
	add_rules(&r, o, reach);
	(void)syscall(SYS_landlock_restrict_self, r.fd, 0);
	close(r.fd);
}

/* --- seccomp: which calls ---------------------------------------------------------------------------------- */

#ifdef __x86_64__

#define ARCH    AUDIT_ARCH_X86_64
#define X32_BIT 0x40000000U

/* Never needed. In a list of their own: those that only a disk on a server needs. */
static const int forbidden[] = {
	SYS_execve,
	SYS_execveat,
	SYS_fork,
	SYS_vfork,
	SYS_ptrace,
	SYS_process_vm_readv,
	SYS_process_vm_writev,
	SYS_kill,
	SYS_tkill,
	SYS_rt_sigqueueinfo,
	SYS_rt_tgsigqueueinfo,
	SYS_pidfd_open,
	SYS_pidfd_getfd,
	SYS_pidfd_send_signal,
	SYS_kcmp,
	SYS_bpf,
	SYS_perf_event_open,
	SYS_userfaultfd,
	SYS_io_uring_setup,
	SYS_io_uring_enter,
	SYS_io_uring_register,
	SYS_add_key,
	SYS_request_key,
	SYS_keyctl,
	SYS_unshare,
	SYS_setns,
	SYS_mount,
	SYS_umount2,
	SYS_pivot_root,
	SYS_chroot,
	SYS_open_tree,
	SYS_move_mount,
	SYS_fsopen,
	SYS_fsmount,
	SYS_open_by_handle_at,
	SYS_init_module,
	SYS_finit_module,
	SYS_delete_module,
	SYS_kexec_load,
	SYS_reboot,
	SYS_swapon,
	SYS_swapoff,
	SYS_setuid,
	SYS_setgid,
	SYS_setreuid,
	SYS_setregid,
	SYS_setresuid,
	SYS_setresgid,
	SYS_setgroups,
	SYS_capset,
	SYS_personality,
	SYS_mknod,
	SYS_mknodat,
	SYS_symlink,
	SYS_symlinkat,
	SYS_link,
	SYS_linkat,
	SYS_setxattr,
	SYS_lsetxattr,
	SYS_fsetxattr,
	SYS_clone3, /* its arguments can't be looked at; libc falls back to clone */
};
static const int of_networks[] = {SYS_socket, SYS_connect, SYS_bind, SYS_listen, SYS_accept, SYS_accept4};

#define FILTER_MAX (2 * (HV_ARRAY_SIZE(forbidden) + HV_ARRAY_SIZE(of_networks)) + 16)

struct filter {
	struct sock_filter code[FILTER_MAX];
	unsigned short length;
};

static void add(struct filter *f, uint16_t code, uint32_t k, uint8_t yes, uint8_t no)
{
	f->code[f->length++] = (struct sock_filter){code, yes, no, k};
}

static void load(struct filter *f, size_t offset)
{
	add(f, BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset, 0, 0);
}

static void deny(struct filter *f, const int *calls, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		uint32_t number = calls[i] == SYS_clone3 ? ENOSYS : EPERM;

		add(f, BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)calls[i], 0, 1);
		add(f, BPF_RET | BPF_K, SECCOMP_RET_ERRNO | number, 0, 0);
	}
}

static void make_filter(struct filter *f, bool network)
{
	f->length = 0;
	load(f, offsetof(struct seccomp_data, arch));
	add(f, BPF_JMP | BPF_JEQ | BPF_K, ARCH, 1, 0);
	add(f, BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS, 0, 0);
	load(f, offsetof(struct seccomp_data, nr));
	add(f, BPF_JMP | BPF_JGE | BPF_K, X32_BIT, 0, 1); /* the other numbers of the same calls */
	add(f, BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM, 0, 0);
	deny(f, forbidden, HV_ARRAY_SIZE(forbidden));
	if (!network)
		deny(f, of_networks, HV_ARRAY_SIZE(of_networks));
	/* clone makes threads of ours, and nothing else */
	add(f, BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 0, 3);
	load(f, offsetof(struct seccomp_data, args[0]));
	add(f, BPF_JMP | BPF_JSET | BPF_K, CLONE_THREAD, 1, 0);
	add(f, BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM, 0, 0);
	add(f, BPF_RET | BPF_K, SECCOMP_RET_ALLOW, 0, 0);
}

static int lock_calls(bool network, struct hv_error *err)
{
	struct filter f;
	struct sock_fprog prog = {.filter = f.code};

	make_filter(&f, network);
	prog.len = f.length;
	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &prog) < 0)
		return hv_fail_errno(err, "sandbox: the kernel refuses the system call filter; --sandbox off "
					  "runs without");
	return 0;
}

#else

static int lock_calls(bool network, struct hv_error *err)
{
	(void)network, (void)err;
	return 0;
}

#endif

/* --- both --------------------------------------------------------------------------------------------------- */

static bool is_remote(const char *name)
{
	return name && hvm_is_uri(name);
}

int hvm_sandbox(const struct hvm_options *o, const struct hvm_reach *reach, struct hv_error *err)
{
	bool network = is_remote(reach->image[0]) || is_remote(reach->image[1]) || is_remote(reach->result);

#ifdef HVM_SANITIZED /* the leak checker looks at us from a process of its own */
	return 0;
#endif
	if (o->no_sandbox)
		return 0;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return hv_fail_errno(err, "sandbox: this kernel has no no_new_privs; --sandbox off runs "
					  "without");
	lock_files(o, reach, network);
	return lock_calls(network, err);
}
