/*
 * Flat binaries: bytes at an address, entered in real mode with CS base 0, as a boot sector is. The simplest
 * guest there can be: no header, no memory map, no command line.
 *
 * May call layout.c and kvm/memory.h.
 * Rules: SDM vol. 3B, 21.1 (real-address mode): IP has 16 bits, and a push at SP 0 wraps to 0xfffe.
 */
#include <inttypes.h>
#include <string.h>

#include "boot/layout.h"

int hv_boot_flat(const struct hv_boot_request *request, struct hv_memory *mem, struct hv_entry *entry,
		 struct hv_error *err)
{
	int rc;

	memset(entry, 0, sizeof(*entry));
	entry->kind = HV_BOOT_FLAT;
	entry->mode = HV_ENTRY_REAL;
	if (request->size == 0)
		return hv_fail_unsafe(err, "%s: the image is empty", request->path);
	if (request->load_addr > 0xffff)
		return hv_fail_usage(
			err,
			"%s: a flat image starts in real mode with CS 0 and can't be entered at 0x%" PRIx64
			"; choose a --load-addr below 0x10000",
			request->path, request->load_addr);
	if (request->module_count)
		return hv_fail_usage(
			err, "%s: a flat image can't be given modules (--initrd); make it ELF or multiboot",
			request->path);
	if (request->cmdline && request->cmdline[0])
		return hv_fail_usage(
			err,
			"%s: a flat image can't be given a command line (--append); make it ELF or multiboot",
			request->path);
	rc = hv_boot_check_range(mem, HV_ENTRY_REAL, request->path, "the flat image", request->load_addr,
				 request->size, err);
	if (rc)
		return rc;
	if (hv_memory_write(mem, request->load_addr, request->data, request->size))
		return hv_fail(err, EFAULT, "%s: cannot be copied to guest memory at 0x%" PRIx64,
			       request->path, request->load_addr);
	entry->rip = request->load_addr;
	entry->rsp = request->load_addr & ~0xfull; /* the stack grows down from the image */
	return 0;
}
