/*
 * ELF notes: what an image asks of who boots it. PVH's entry point is one (Xen's), the interrupt controllers
 * that the image needs another (hvkit's own).
 *
 * May call elf.h's accessors only; the program headers have been checked by hv_elf_open.
 * Rules: System V ABI, chapter 5, Note Section.
 */
#include <inttypes.h>
#include <string.h>

#include "base/bytes.h"
#include "boot/elf.h"

/* One PT_NOTE. Names and descriptions are padded to 4 bytes, or to 8 in segments aligned so. */
static int find_note(const struct hv_elf *elf, unsigned i, const char *name, uint32_t type, uint64_t *value,
		     struct hv_error *err)
{
	const uint8_t *notes = elf->data + elf->phdr[i].p_offset;
	uint64_t size = elf->phdr[i].p_filesz, pad = elf->phdr[i].p_align == 8 ? 8 : 4;

	for (uint64_t at = 0; hv_inside(at, 12, size);) {
		uint32_t namesz = hv_le32(notes + at), descsz = hv_le32(notes + at + 4);
		uint64_t desc = at + hv_round_up(12 + (uint64_t)namesz, pad);

		if (!hv_inside(desc, descsz, size))
			return hv_fail_unsafe(err,
					      "%s: the note at offset 0x%" PRIx64 " reaches past its segment",
					      elf->path, elf->phdr[i].p_offset + at);
		if (hv_le32(notes + at + 8) == type && namesz == strlen(name) + 1 &&
		    memcmp(notes + at + 12, name, namesz) == 0) {
			if (descsz != 4 && descsz != 8)
				return hv_fail_unsafe(err,
						      "%s: the %s note at offset 0x%" PRIx64
						      " holds %u bytes, not an integer of 4 or 8",
						      elf->path, name, elf->phdr[i].p_offset + at, descsz);
			*value = descsz == 4 ? hv_le32(notes + desc) : hv_le64(notes + desc);
			return 1;
		}
		at = hv_round_up(desc + descsz, pad);
	}
	return 0;
}

int hv_elf_note(const struct hv_elf *elf, const char *name, uint32_t type, uint64_t *value,
		struct hv_error *err)
{
	int rc = 0;

	for (unsigned i = 0; rc == 0 && i < elf->phnum; i++)
		if (elf->phdr[i].p_type == PT_NOTE)
			rc = find_note(elf, i, name, type, value, err);
	return rc;
}

int hv_elf_irqchip(const struct hv_elf *elf, enum hv_irqchip *irqchip, struct hv_error *err)
{
	uint64_t value = HV_IRQCHIP_AUTO;
	int rc = hv_elf_note(elf, "hvkit", HV_NOTE_IRQCHIP, &value, err);

	*irqchip = HV_IRQCHIP_AUTO;
	if (rc < 0)
		return rc;
	if (value > HV_IRQCHIP_FULL)
		return hv_fail_unsafe(
			err, "%s: its hvkit note asks for interrupt controller %" PRIu64 "; 0 to 3 exist",
			elf->path, value);
	*irqchip = (enum hv_irqchip)value;
	return 0;
}
