/*
 * The rig's own ioctl. It stands before libc's, since the rig is linked statically with the library that is
 * tested; what isn't lied about goes to the kernel as it is. Rules: ioctl(2); KVM API 5 (the kvm_run
 * structure).
 */
#include <linux/kvm.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "rig/fault.h"

static struct rig_fault fault; /* one vCPU runs while there is one */

static const struct {
	const char *name;
	unsigned long request;
} names[] = {
	{"KVM_GET_API_VERSION", KVM_GET_API_VERSION},
	{"KVM_GET_VCPU_MMAP_SIZE", KVM_GET_VCPU_MMAP_SIZE},
	{"KVM_CREATE_VM", KVM_CREATE_VM},
	{"KVM_SET_TSS_ADDR", KVM_SET_TSS_ADDR},
	{"KVM_CREATE_VCPU", KVM_CREATE_VCPU},
	{"KVM_RUN", KVM_RUN},
};

/* The kernel's half of an exit: what it would have left in the shared area. */
static int forge_exit(int fd)
{
	const size_t size = sizeof(struct kvm_run);
	struct kvm_run *run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (run == MAP_FAILED)
		return -1;
	run->exit_reason = fault.exit_reason;
	if (fault.exit_reason == KVM_EXIT_FAIL_ENTRY) {
		run->fail_entry.hardware_entry_failure_reason = fault.value;
	} else if (fault.exit_reason == KVM_EXIT_INTERNAL_ERROR) {
		run->internal.suberror = (uint32_t)fault.value;
		run->internal.ndata = 0;
	}
	munmap(run, size);
	return 0;
}

int ioctl(int fd, unsigned long request, ...)
{
	unsigned long arg;
	va_list ap;

	va_start(ap, request);
	arg = va_arg(ap, unsigned long);
	va_end(ap);
	if (request != fault.request || fault.times == 0)
		return (int)syscall(SYS_ioctl, fd, request, arg);
	if (fault.after > 0) {
		fault.after--;
		return (int)syscall(SYS_ioctl, fd, request, arg);
	}
	fault.times--;
	fault.told++;
	if (fault.error) {
		errno = fault.error;
		return -1;
	}
	return fault.exit_reason ? forge_exit(fd) : fault.result;
}

int rig_lie(struct rig *rig, int count, char **words)
{
	if (count == 2 && strcmp(words[1], "none") == 0) {
		rig_number(rig, "told", fault.told);
		fault = (struct rig_fault){.request = 0};
		return 0;
	}
	for (size_t i = 0; count > 2 && i < sizeof(names) / sizeof(names[0]); i++) {
		if (strcmp(words[1], names[i].name) != 0)
			continue;
		fault = (struct rig_fault){
			.request = names[i].request,
			.after = (unsigned)rig_option_number(count, words, "after", 0),
			.times = (unsigned)rig_option_number(count, words, "times", 1),
			.error = (int)rig_option_number(count, words, "error", 0),
			.result = (int)rig_option_number(count, words, "result", 0),
			.exit_reason = (uint32_t)rig_option_number(count, words, "exit", 0),
			.value = rig_option_number(count, words, "value", 0),
		};
		return 0;
	}
	return RIG_USAGE;
}
