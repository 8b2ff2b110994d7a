/*
 * PVH: the entry that Xen defined and KVM's monitors adopted. An ELF note names a 32-bit entry point, and the
 * guest finds everything else through one structure whose address is in EBX (start_info.c).
 *
 * May call elf.c, start_info.c, layout.c and kvm/memory.h.
 * Rules: Xen, docs/misc/pvh.pandoc; public/elfnote.h (type 18).
 */
#include <inttypes.h>
#include <string.h>

#include "boot/elf.h"
#include "boot/layout.h"

int hv_boot_pvh(const struct hv_boot_request *request, struct hv_memory *mem, struct hv_entry *entry,
		struct hv_error *err)
{
	struct hv_elf elf;
	uint64_t end = 0, rip = 0;
	int rc = hv_elf_open(&elf, request->path, request->data, request->size, err);

	memset(entry, 0, sizeof(*entry));
	entry->kind = HV_BOOT_PVH;
	entry->mode = HV_ENTRY_PROTECTED;
	if (!rc)
		rc = hv_elf_note(&elf, "Xen", HV_NOTE_PHYS32_ENTRY, &rip, err);
	if (rc == 0)
		return hv_fail(err, ENOEXEC,
			       "%s: has no PVH entry (ELF note \"Xen\", type 18); for Linux set "
			       "CONFIG_PVH=y, or try --boot elf",
			       request->path);
	if (rc < 0)
		return rc;
	/* The note's value is a physical address already. */
	if (!hv_elf_supplies(&elf, rip))
		return hv_fail_unsafe(err,
				      "%s: the PVH entry point 0x%" PRIx64
				      " of its note is in none of the file's loaded segments",
				      request->path, rip);
	rc = hv_elf_irqchip(&elf, &entry->irqchip, err);
	if (!rc)
		rc = hv_elf_load(&elf, mem, entry->mode, &end, err);
	if (!rc)
		rc = hv_boot_start_info(request, mem, end, err);
	if (rc)
		return rc;
	entry->rip = rip;
	entry->rsp = HV_BOOT_STACK_TOP;
	entry->rbx = HV_BOOT_INFO_ADDR;
	return 0;
}
