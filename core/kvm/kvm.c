/*
 * /dev/kvm and one virtual machine. KVM is reached through a chain of file descriptors: the system's
 * (/dev/kvm), from it one a VM, from that one a vCPU; each takes its own ioctls. This file has the first two,
 * vcpu.c the third. It calls the kernel and core/base only. Rules: KVM API, Documentation/virt/kvm/api.rst,
 * sections 2, 4.1 (KVM_GET_API_VERSION), 4.2 (KVM_CREATE_VM), 4.4 (KVM_CHECK_EXTENSION), 4.5
 * (KVM_GET_VCPU_MMAP_SIZE), 4.36 (KVM_SET_TSS_ADDR), 4.40 (KVM_SET_IDENTITY_MAP_ADDR).
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "kvm/kvm.h"

#define KVM_DEVICE "/dev/kvm"

/* Each way in which the device can be out of reach has its own cure. */
static int cannot_open(const char *path, struct hv_error *err)
{
	switch (errno) {
	case ENOENT:
	case ENXIO:
	case ENODEV:
		return hv_fail(
			err, errno,
			"%s is missing: load the module (modprobe kvm-intel or kvm-amd), switch on "
			"virtualisation "
			"in the firmware, or nested virtualisation in the host that this machine runs on",
			path);
	case EACCES:
	case EPERM:
		return hv_fail(err, errno,
			       "%s is forbidden for this user: join the group that owns it (usermod -aG kvm "
			       "$USER, then "
			       "log in again)",
			       path);
	case EBUSY:
		return hv_fail(err, errno,
			       "%s is busy: another hypervisor (VirtualBox, VMware) holds the processor's "
			       "virtualisation; stop its VMs first",
			       path);
	default:
		return hv_fail_errno(err, "%s cannot be opened", path);
	}
}

int hv_kvm_open(struct hv_kvm *kvm, struct hv_error *err)
{
	const char *path = getenv("HV_KVM_DEVICE");
	int version, size;

	if (!path)
		path = KVM_DEVICE;
	kvm->fd = -1;
	/* hv:solution lab=1 task=1 */
	kvm->fd = open(path, O_RDWR | O_CLOEXEC);
	if (kvm->fd < 0)
		return cannot_open(path, err);
	version = ioctl(kvm->fd, KVM_GET_API_VERSION, 0);
	if (version != KVM_API_VERSION) {
		hv_kvm_close(kvm);
		if (version < 0)
			return hv_fail(err, ENODEV,
				       "%s is not KVM's device; it does not answer KVM_GET_API_VERSION",
				       path);
		return hv_fail(err, ENOTSUP, "%s speaks KVM API version %d, hvkit needs %d", path, version,
			       KVM_API_VERSION);
	}
	/* The kernel decides how large the area is that it shares with us for each vCPU. */
	size = ioctl(kvm->fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (size < (int)sizeof(struct kvm_run)) {
		hv_kvm_close(kvm);
		return hv_fail(err, ENOTSUP, "%s: the area shared with each vCPU has only %d bytes", path,
			       size);
	}
	kvm->run_size = (size_t)size;
	return 0;
	/* hv:end */
}

void hv_kvm_close(struct hv_kvm *kvm)
{
	if (kvm->fd >= 0)
		close(kvm->fd);
	kvm->fd = -1;
}

int hv_kvm_has(const struct hv_kvm *kvm, unsigned long cap)
{
	int value = ioctl(kvm->fd, KVM_CHECK_EXTENSION, cap);

	return value > 0 ? value : 0;
}

int hv_vm_create(struct hv_vm *vm, const struct hv_kvm *kvm, struct hv_error *err)
{
	uint64_t identity_map = HV_IDENTITY_MAP_ADDR;

	vm->kvm = kvm;
	vm->fd = -1;
	/* hv:solution lab=1 task=2 */
	/* KVM_CREATE_VM waits for other users of the kernel's lists; a signal may cut that short. */
	do
		vm->fd = ioctl(kvm->fd, KVM_CREATE_VM, 0);
	while (vm->fd < 0 && errno == EINTR);
	if (vm->fd < 0)
		return hv_fail_errno(err, "KVM cannot create a VM (KVM_CREATE_VM)");
	/*
	 * VT-x without "unrestricted guest" runs real-mode code in virtual-8086 mode and needs a TSS and an
	 * identity-mapped page table inside the guest's address space. Other back ends take the addresses and
	 * don't use them; those that refuse the calls don't need them either.
	 */
	if (hv_kvm_has(kvm, KVM_CAP_SET_IDENTITY_MAP_ADDR) &&
	    ioctl(vm->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity_map) < 0 && errno != ENXIO && errno != EINVAL)
		goto fail;
	if (hv_kvm_has(kvm, KVM_CAP_SET_TSS_ADDR) && ioctl(vm->fd, KVM_SET_TSS_ADDR, HV_TSS_ADDR) < 0 &&
	    errno != ENXIO && errno != EINVAL)
		goto fail;
	return 0;
fail:
	hv_fail_errno(err, "KVM cannot place its TSS and identity map at %#llx", HV_TSS_ADDR);
	hv_vm_destroy(vm);
	return -EIO;
	/* hv:end */
}

void hv_vm_destroy(struct hv_vm *vm)
{
	if (vm->fd >= 0)
		close(vm->fd);
	vm->fd = -1;
}
