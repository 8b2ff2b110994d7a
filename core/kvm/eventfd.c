/*
 * Eventfds that KVM writes to. It calls the kernel only. Rules: KVM API 4.59 (KVM_IOEVENTFD).
 */
#include <errno.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

#include "kvm/eventfd.h"

int hv_vm_notify_fd(const struct hv_vm *vm, uint64_t gpa, uint32_t value, int fd, bool on)
{
	struct kvm_ioeventfd event = {
		.datamatch = value,
		.addr = gpa,
		.len = sizeof(value),
		.fd = fd,
		.flags = KVM_IOEVENTFD_FLAG_DATAMATCH | (on ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN),
	};

	return ioctl(vm->fd, KVM_IOEVENTFD, &event) < 0 ? -errno : 0;
}
