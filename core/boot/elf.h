/*
 * Inside core/boot: an ELF file that has been checked, as elf.c makes it for the loaders and the probe.
 */
#ifndef HV_BOOT_ELF_H
#define HV_BOOT_ELF_H

#include <gelf.h>

#include "boot/boot.h"

/* Linkers write about ten. The limit keeps the check of each segment against each other short. */
#define HV_ELF_PHDRS_MAX 128

/* Numbers of ELF notes: Xen's "the 32-bit entry point is here", and our own "needs this interrupt
 * controller". */
#define HV_NOTE_PHYS32_ENTRY 18
#define HV_NOTE_IRQCHIP      1

struct hv_elf {
	const char *path;
	const uint8_t *data; /* borrowed */
	size_t size;
	bool is64;
	uint64_t entry; /* e_entry: a virtual address */
	uint64_t phoff; /* where the program headers are in the file */
	unsigned phnum, phentsize;
	GElf_Phdr phdr[HV_ELF_PHDRS_MAX];
};

bool hv_elf_magic(const void *data, size_t size);

/*
 * Reads and checks the headers: afterwards every PT_LOAD's bytes lie inside the file, its addresses don't
 * wrap, and no two share a byte of guest memory. -EBADMSG: damaged; -ENOEXEC: sound, but not for this
 * machine.
 */
int hv_elf_open(struct hv_elf *elf, const char *path, const void *data, size_t size, struct hv_error *err);

/* Copies all PT_LOAD segments to their physical addresses; *end is the first byte above the highest. */
int hv_elf_load(const struct hv_elf *elf, const struct hv_memory *mem, enum hv_entry_mode mode, uint64_t *end,
		struct hv_error *err);

/* The physical address of the entry point. */
int hv_elf_entry(const struct hv_elf *elf, uint64_t *gpa, struct hv_error *err);

/* Whether the file has a byte for guest-physical address gpa. */
bool hv_elf_supplies(const struct hv_elf *elf, uint64_t gpa);

/* The note `name`, `type` whose value is a 32- or 64-bit integer: 1 and *value, 0 when there is none,
 * -EBADMSG. */
int hv_elf_note(const struct hv_elf *elf, const char *name, uint32_t type, uint64_t *value,
		struct hv_error *err);

/* image.c: the interrupt controller that the hvkit note asks for; AUTO without one. */
int hv_elf_irqchip(const struct hv_elf *elf, enum hv_irqchip *irqchip, struct hv_error *err);

#endif
