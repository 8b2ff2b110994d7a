/*
 * --doctor: what this host can do for a VM, one line a question, each with what to do when the answer is no.
 * It asks the kernel itself wherever that is possible; version numbers prove nothing, kernels are configured.
 */
#include <dirent.h>
#include <fcntl.h>
#include <jansson.h>
#include <linux/kvm.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "base/parse.h"
#include "hvrun.h"
#include "kvm/assist.h"
#include "kvm/backend.h"
#include "kvm/kvm.h"

enum verdict { OK, LIMITED, MISSING };

static const char *const verdicts[] = {"ok", "limited", "missing"};

struct report {
	json_t *checks; /* NULL: lines for a person */
	bool runs;      /* nothing that a VM can't do without is missing */
};

static void tell(struct report *r, enum verdict verdict, const char *what, const char *cure, const char *fmt,
		 ...) HV_PRINTF(5, 6);

/* cure: what to do; NULL when there is nothing to do. */
static void tell(struct report *r, enum verdict verdict, const char *what, const char *cure, const char *fmt,
		 ...)
{
	char detail[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(detail, sizeof(detail), fmt, ap);
	va_end(ap);
	if (verdict == OK)
		cure = NULL;
	if (r->checks)
		json_array_append_new(r->checks,
				      json_pack("{s:s, s:s, s:s, s:s?}", "check", what, "verdict",
						verdicts[verdict], "detail", detail, "cure", cure));
	else
		printf("%-8s %-22s %s%s%s\n", verdicts[verdict], what, detail, cure ? "; " : "",
		       cure ? cure : "");
}

/* The first line of a small file, without its newline; "" when it can't be read. */
static const char *first_line(const char *path, char *buf, size_t size)
{
	FILE *f = fopen(path, "re");

	buf[0] = '\0';
	if (f) {
		if (!fgets(buf, (int)size, f))
			buf[0] = '\0';
		fclose(f);
	}
	buf[strcspn(buf, "\n")] = '\0';
	return buf;
}

/* --- KVM --- */

/* What hvkit completes for a software back end, which doesn't know it. */
static void tell_assisted(struct report *r)
{
	char names[128] = "";
	size_t length = 0;

	for (unsigned kind = 0; kind < HV_ASSIST_KINDS && length < sizeof(names); kind++)
		length += (size_t)snprintf(names + length, sizeof(names) - length, "%s%s", kind ? ", " : "",
					   hv_assist_name(kind));
	tell(r, LIMITED, "instructions",
	     "give Linux guests clearcpuid=popcnt,smap,cx16,xsave,invpcid,pcid,clwb,fsgsbase,umip,pku",
	     "the back end lacks some in kernel code; hvrun completes %s", names);
}

static void check_backend(struct report *r)
{
	bool vmx = hv_backend_cpu_flag("vmx"), svm = hv_backend_cpu_flag("svm");

	switch (hv_backend()) {
	case HV_BACKEND_VMX:
		tell(r, OK, "back end", NULL, "Intel VT-x (kvm_intel)");
		return;
	case HV_BACKEND_SVM:
		tell(r, OK, "back end", NULL, "AMD-V (kvm_amd)");
		return;
	case HV_BACKEND_SOFTWARE:
		tell(r, LIMITED, "back end", "use a machine with VT-x or AMD-V where speed matters",
		     "software (kvm_pvm): kernel code of a guest is slow");
		tell_assisted(r);
		return;
	case HV_BACKEND_UNKNOWN:
		break;
	}
	if (vmx || svm)
		tell(r, MISSING, "back end", vmx ? "modprobe kvm-intel" : "modprobe kvm-amd",
		     "the processor has %s, its module is not loaded", vmx ? "VT-x" : "AMD-V");
	else
		tell(r, LIMITED, "back end",
		     "switch on virtualisation in the firmware, or nested virtualisation in the host of this "
		     "machine",
		     "neither VT-x nor AMD-V is seen, nor a software back end that hvkit knows");
}

struct capability {
	unsigned long number;
	const char *name;
	enum verdict without; /* MISSING: no VM runs without it */
	const char *lost;     /* what hvkit does without then */
	const char *cure;     /* NULL: a newer kernel */
};

static const struct capability capabilities[] = {
	{KVM_CAP_USER_MEMORY, "user memory", MISSING, "no VM can have memory", NULL},
	{KVM_CAP_IMMEDIATE_EXIT, "immediate exit", MISSING, "no VM can be stopped surely (Linux 4.13)", NULL},
	{KVM_CAP_IRQCHIP, "irqchip", LIMITED, "guests without interrupts only", NULL},
	{KVM_CAP_SPLIT_IRQCHIP, "split irqchip", LIMITED, "--irqchip split does not work", NULL},
	{KVM_CAP_PIT2, "PIT", LIMITED, "guests have no i8254 timer", NULL},
	{KVM_CAP_SIGNAL_MSI, "MSI", LIMITED, "--irqchip split does not work", NULL},
	{KVM_CAP_USER_NMI, "NMI", LIMITED, "hvctl inject nmi does not work", NULL},
	{KVM_CAP_MP_STATE, "CPU run states", LIMITED, "one CPU a VM", NULL},
	{KVM_CAP_VCPU_EVENTS, "pending events", LIMITED, "snapshots may lose an exception in flight", NULL},
	{KVM_CAP_DEBUGREGS, "debug registers", LIMITED, "snapshots leave them out", NULL},
	{KVM_CAP_XSAVE, "XSAVE", LIMITED, "snapshots save the old FPU only", NULL},
	{KVM_CAP_XSAVE2, "XSAVE2", LIMITED, "guests have no AMX (Linux 5.17)", NULL},
	{KVM_CAP_XCRS, "XCR0", LIMITED, "guests have no AVX",
	 "the CPU or the kernel's command line has no XSAVE"},
	{KVM_CAP_SET_GUEST_DEBUG, "guest debugging", LIMITED, "gdb can only stop and look", NULL},
	{KVM_CAP_READONLY_MEM, "read-only slots", LIMITED, "ROM is writable", NULL},
	{KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, "dirty log, manual", LIMITED,
	 "live migration is slower (Linux 5.2)", NULL},
	{KVM_CAP_DIRTY_LOG_RING, "dirty ring", LIMITED, "the dirty log is used instead (Linux 5.11)", NULL},
	{KVM_CAP_IRQFD, "irqfd", LIMITED, "interrupts take a longer way", NULL},
	{KVM_CAP_IOEVENTFD, "ioeventfd", LIMITED, "doorbells take a longer way", NULL},
	{KVM_CAP_BINARY_STATS_FD, "binary statistics", LIMITED,
	 "the kernel's own counters are not shown (Linux 5.14)", NULL},
	{KVM_CAP_X86_USER_SPACE_MSR, "MSR exits", LIMITED, "unknown MSRs are not told of (Linux 5.10)", NULL},
	{KVM_CAP_ADJUST_CLOCK, "clock", LIMITED, "a restored guest's clock jumps", NULL},
	{KVM_CAP_GET_TSC_KHZ, "TSC frequency", LIMITED, "guests measure it themselves", NULL},
};

static void check_capabilities(struct report *r, const struct hv_kvm *kvm)
{
	for (size_t i = 0; i < HV_ARRAY_SIZE(capabilities); i++) {
		const struct capability *c = &capabilities[i];

		if (hv_kvm_has(kvm, c->number)) {
			tell(r, OK, c->name, NULL, "there");
			continue;
		}
		tell(r, c->without, c->name, c->cure ? c->cure : "a newer kernel may have it", "%s", c->lost);
		if (c->without == MISSING)
			r->runs = false;
	}
	tell(r, OK, "CPUs a VM", NULL, "%d recommended, %d at most", hv_kvm_has(kvm, KVM_CAP_NR_VCPUS),
	     hv_kvm_has(kvm, KVM_CAP_MAX_VCPUS));
	tell(r, OK, "memory slots", NULL, "%d", hv_kvm_has(kvm, KVM_CAP_NR_MEMSLOTS));
}

static void check_kvm(struct report *r)
{
	struct hv_error err = {0};
	struct hv_kvm kvm;
	struct hv_vm vm;

	if (hv_kvm_open(&kvm, &err)) {
		tell(r, MISSING, "/dev/kvm", NULL, "%s", err.text);
		r->runs = false;
		check_backend(r);
		return;
	}
	tell(r, OK, "/dev/kvm", NULL, "open, API version %d", KVM_API_VERSION);
	check_backend(r);
	if (hv_vm_create(&vm, &kvm, &err)) {
		tell(r, MISSING, "a VM", NULL, "%s", err.text);
		r->runs = false;
	} else {
		tell(r, OK, "a VM", NULL, "can be created");
		hv_vm_destroy(&vm);
	}
	check_capabilities(r, &kvm);
	hv_kvm_close(&kvm);
}

/* --- memory --- */

static void check_memory(struct report *r)
{
	struct sysinfo host;
	char all[16], unused[16], line[128];

	if (sysinfo(&host) == 0)
		tell(r, OK, "memory", NULL, "%s, %s of them free",
		     hv_format_size((uint64_t)host.totalram * host.mem_unit, all, sizeof(all)),
		     hv_format_size((uint64_t)host.freeram * host.mem_unit, unused, sizeof(unused)));
	first_line("/sys/kernel/mm/transparent_hugepage/enabled", line, sizeof(line));
	if (strstr(line, "[always]") || strstr(line, "[madvise]"))
		tell(r, OK, "transparent huge pages", NULL, "%s", line);
	else
		tell(r, LIMITED, "transparent huge pages",
		     "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
		     "%s: large guests touch memory more slowly", *line ? line : "not in this kernel");
	first_line("/proc/sys/vm/nr_hugepages", line, sizeof(line));
	tell(r, OK, "reserved huge pages", NULL, "%s (hvkit needs none)", *line ? line : "none");
}

static void check_userfaultfd(struct report *r)
{
	struct uffdio_api api = {.api = UFFD_API};
	char line[16];
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
	bool device = false;

#ifdef USERFAULTFD_IOC_NEW
	if (fd < 0) {
		int dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);

		device = true;
		fd = dev < 0 ? -1 : ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC);
		if (dev >= 0)
			close(dev);
	}
#endif
	if (fd < 0) {
		first_line("/proc/sys/vm/unprivileged_userfaultfd", line, sizeof(line));
		tell(r, MISSING, "userfaultfd",
		     "sysctl vm.unprivileged_userfaultfd=1, or give this user /dev/userfaultfd (Linux 6.1)",
		     "vm.unprivileged_userfaultfd is %s: no lazy restore, no short pause for a snapshot",
		     *line ? line : "not there");
		return;
	}
	if (ioctl(fd, UFFDIO_API, &api) == 0 && api.features & UFFD_FEATURE_PAGEFAULT_FLAG_WP)
		tell(r, OK, "userfaultfd", NULL, "with write protection%s",
		     device ? ", by /dev/userfaultfd" : "");
	else
		tell(r, LIMITED, "userfaultfd", "a newer kernel may have it (Linux 5.7)",
		     "without write protection: snapshots pause longer");
	close(fd);
}

/* --- the rest of the kernel --- */

static void check_io_uring(struct report *r)
{
	char params[256] = {0}, line[16];
	int fd = (int)syscall(SYS_io_uring_setup, 4, params);

	if (fd >= 0) {
		close(fd);
		tell(r, OK, "io_uring", NULL, "there");
		return;
	}
	first_line("/proc/sys/kernel/io_uring_disabled", line, sizeof(line));
	tell(r, LIMITED, "io_uring",
	     *line && *line != '0' ? "sysctl kernel.io_uring_disabled=0"
				   : "a newer kernel may have it (Linux 5.1)",
	     "%s: disks use threads instead", strerror(errno));
}

static void check_sandbox(struct report *r)
{
	unsigned action = SECCOMP_RET_ERRNO;
	int abi = (int)syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);

	if (syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0)
		tell(r, OK, "seccomp", NULL, "there");
	else
		tell(r, MISSING, "seccomp", "hvrun then needs --sandbox off", "%s", strerror(errno));
	if (abi > 0)
		tell(r, OK, "Landlock", NULL, "version %d", abi);
	else
		tell(r, LIMITED, "Landlock",
		     "boot with lsm=landlock,... where the kernel has it (Linux 5.13)",
		     "%s: the sandbox does without", strerror(errno));
}

static void check_tun(struct report *r)
{
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);

	if (fd >= 0) {
		close(fd);
		tell(r, OK, "/dev/net/tun", NULL, "open");
		return;
	}
	tell(r, LIMITED, "/dev/net/tun",
	     errno == ENOENT ? "modprobe tun" : "give this user the right to open it",
	     "%s: guests have no network of the host's", strerror(errno));
}

int doctor(bool json)
{
	struct report r = {.checks = json ? json_array() : NULL, .runs = true};

	check_kvm(&r);
	check_memory(&r);
	check_userfaultfd(&r);
	check_io_uring(&r);
	check_sandbox(&r);
	check_tun(&r);
	if (json) {
		json_t *all = json_pack("{s:b, s:o}", "runs", r.runs, "checks", r.checks);

		json_dumpf(all, stdout, JSON_INDENT(2));
		putchar('\n');
		json_decref(all);
	} else {
		printf("\n%s\n",
		       r.runs ? "VMs run here." : "VMs do not run here; see what is missing above.");
	}
	return r.runs ? HV_EXIT_OK : HV_EXIT_FAILED;
}
