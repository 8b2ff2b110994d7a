/*
 * ELF: an untrusted file becomes bytes in guest memory. libelf decodes the headers (both classes look alike
 * through gelf); what they say is then checked here before a byte moves: sizes against the file, addresses
 * against wrapping, segments against each other, against the RAM and against what hvkit keeps there for the
 * guest.
 *
 * Two address spaces: p_paddr says where a segment goes, p_vaddr where the code thinks it is once its own
 * page tables are on. Position-independent files (ET_DYN) are loaded at the addresses they were linked for,
 * so relocations that a static one may carry are its own to apply; one that names an interpreter needs a
 * dynamic linker and is refused.
 *
 * May call layout.c, kvm/memory.h and libelf.
 * Rules: System V ABI, chapters 4 and 5; the x86-64 and i386 supplements.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "boot/elf.h"
#include "boot/layout.h"

bool hv_elf_magic(const void *data, size_t size)
{
	return size >= SELFMAG && memcmp(data, ELFMAG, SELFMAG) == 0;
}

static uint64_t phdr_offset(const struct hv_elf *elf, unsigned i)
{
	return elf->phoff + (uint64_t)i * elf->phentsize;
}

/* A sentence about one program header, which it names and locates. */
static int bad_phdr(const struct hv_elf *elf, unsigned i, const char *what, struct hv_error *err)
{
	return hv_fail_unsafe(err, "%s: program header %u at offset 0x%" PRIx64 " %s; the file is damaged",
			      elf->path, i, phdr_offset(elf, i), what);
}

/* The first 16 bytes, before libelf is asked: it has one answer for all that it doesn't like. */
static int check_ident(struct hv_elf *elf, struct hv_error *err)
{
	const uint8_t *ident = elf->data;
	size_t header;

	if (!hv_elf_magic(elf->data, elf->size))
		return hv_fail_unsafe(err, "%s: not an ELF file: no magic at offset 0", elf->path);
	if (elf->size < EI_NIDENT)
		return hv_fail_unsafe(err, "%s: the file ends inside the ELF header, after %zu bytes",
				      elf->path, elf->size);
	if (ident[EI_CLASS] != ELFCLASS32 && ident[EI_CLASS] != ELFCLASS64)
		return hv_fail_unsafe(err,
				      "%s: EI_CLASS at offset 4 is %u, neither 32-bit (1) nor 64-bit (2)",
				      elf->path, ident[EI_CLASS]);
	if (ident[EI_DATA] == ELFDATA2MSB)
		return hv_fail(err, ENOEXEC, "%s: a big-endian ELF file; build the guest for x86", elf->path);
	if (ident[EI_DATA] != ELFDATA2LSB)
		return hv_fail_unsafe(err, "%s: EI_DATA at offset 5 is %u, no known byte order", elf->path,
				      ident[EI_DATA]);
	if (ident[EI_VERSION] != EV_CURRENT)
		return hv_fail_unsafe(err, "%s: EI_VERSION at offset 6 is %u, not 1", elf->path,
				      ident[EI_VERSION]);
	elf->is64 = ident[EI_CLASS] == ELFCLASS64;
	header = elf->is64 ? sizeof(Elf64_Ehdr) : sizeof(Elf32_Ehdr);
	if (elf->size < header)
		return hv_fail_unsafe(err, "%s: the file ends inside the ELF header, after %zu of %zu bytes",
				      elf->path, elf->size, header);
	return 0;
}

/* Is it a program, and for this machine? */
static int check_machine(const struct hv_elf *elf, const GElf_Ehdr *ehdr, struct hv_error *err)
{
	if (ehdr->e_machine != (elf->is64 ? EM_X86_64 : EM_386))
		return hv_fail(err, ENOEXEC,
			       "%s: e_machine at offset 18 is %u in a %d-bit file: a kernel for another "
			       "machine; build it for x86-64 (62, 64-bit) or i386 (3, 32-bit)",
			       elf->path, ehdr->e_machine, elf->is64 ? 64 : 32);
	if (ehdr->e_type == ET_REL)
		return hv_fail(err, ENOEXEC, "%s: an object file (e_type at offset 16 is 1); link it first",
			       elf->path);
	if (ehdr->e_type == ET_CORE)
		return hv_fail(err, ENOEXEC, "%s: a core dump (e_type at offset 16 is 4), not a program",
			       elf->path);
	if (ehdr->e_type != ET_EXEC && ehdr->e_type != ET_DYN)
		return hv_fail_unsafe(err, "%s: e_type at offset 16 is %u, not a program", elf->path,
				      ehdr->e_type);
	return 0;
}

/* libelf cuts a table that the file is too short for, without a word; so its place is checked here. */
static int check_table(struct hv_elf *elf, const GElf_Ehdr *ehdr, struct hv_error *err)
{
	/* hv:solution lab=5 task=1 */
	size_t entry = elf->is64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr);

	if (ehdr->e_phnum == 0)
		return hv_fail_unsafe(
			err, "%s: no program headers (e_phnum at offset %d is 0), so nothing to load",
			elf->path, elf->is64 ? 56 : 44);
	/* PN_XNUM, 0xffff: the real number, up to 2^32, would be in the first section header. */
	if (ehdr->e_phnum > HV_ELF_PHDRS_MAX)
		return hv_fail_unsafe(
			err, "%s: e_phnum at offset %d says %s%u program headers; at most %d are taken",
			elf->path, elf->is64 ? 56 : 44, ehdr->e_phnum == PN_XNUM ? "more than " : "",
			ehdr->e_phnum - (ehdr->e_phnum == PN_XNUM), HV_ELF_PHDRS_MAX);
	if (ehdr->e_phentsize != entry)
		return hv_fail_unsafe(err, "%s: e_phentsize at offset %d is %u, not %zu", elf->path,
				      elf->is64 ? 54 : 42, ehdr->e_phentsize, entry);
	if (!hv_inside(ehdr->e_phoff, ehdr->e_phnum * entry, elf->size))
		return hv_fail_unsafe(err,
				      "%s: the %u program headers at offset 0x%" PRIx64
				      " reach past the file's end (%zu bytes); the file is truncated",
				      elf->path, ehdr->e_phnum, ehdr->e_phoff, elf->size);
	elf->phoff = ehdr->e_phoff;
	elf->phnum = ehdr->e_phnum;
	elf->phentsize = ehdr->e_phentsize;
	elf->entry = ehdr->e_entry;
	return 0;
	/* hv:end */
}

static int read_headers(struct hv_elf *elf, struct hv_error *err)
{
	GElf_Ehdr ehdr;
	Elf *e;
	int rc;

	if (elf_version(EV_CURRENT) == EV_NONE)
		return hv_fail(err, ENOSYS, "libelf here is too old: %s", elf_errmsg(-1));
	/* elf_memory reads only; its parameter lacks a const. */
	e = elf_memory((char *)elf->data, elf->size);
	if (!e || !gelf_getehdr(e, &ehdr)) {
		rc = hv_fail_unsafe(err, "%s: the ELF header is damaged: %s", elf->path, elf_errmsg(-1));
		elf_end(e);
		return rc;
	}
	rc = check_machine(elf, &ehdr, err);
	if (!rc)
		rc = check_table(elf, &ehdr, err);
	for (unsigned i = 0; !rc && i < elf->phnum; i++)
		if (!gelf_getphdr(e, (int)i, &elf->phdr[i]))
			rc = bad_phdr(elf, i, "is unreadable", err);
	elf_end(e);
	return rc;
}

/* Does [at, at + size) end inside the address space? Ending exactly at its top is no wrap. */
static bool wraps(const struct hv_elf *elf, uint64_t at, uint64_t size)
{
	/* hv:solution lab=5 task=4 */
	uint64_t top = elf->is64 ? UINT64_MAX : UINT32_MAX;

	return size > 0 && (at > top || size - 1 > top - at);
	/* hv:end */
}

static int check_segment(const struct hv_elf *elf, unsigned i, struct hv_error *err)
{
	const GElf_Phdr *ph = &elf->phdr[i];

	if (ph->p_type == PT_INTERP)
		return hv_fail(err, ENOEXEC,
			       "%s: program header %u at offset 0x%" PRIx64
			       " names an interpreter: a dynamically linked program needs an operating "
			       "system; link it with -static",
			       elf->path, i, phdr_offset(elf, i));
	if (ph->p_type != PT_LOAD && ph->p_type != PT_NOTE)
		return 0;
	/* hv:solution lab=5 task=4 */
	if (!hv_inside(ph->p_offset, ph->p_filesz, elf->size))
		return bad_phdr(elf, i, "describes bytes past the file's end", err);
	if (ph->p_type == PT_NOTE)
		return 0;
	if (ph->p_filesz > ph->p_memsz)
		return bad_phdr(elf, i, "has more bytes in the file than in memory (p_filesz > p_memsz)",
				err);
	if (wraps(elf, ph->p_paddr, ph->p_memsz))
		return bad_phdr(elf, i, "wraps around the end of physical memory (p_paddr + p_memsz)", err);
	if (wraps(elf, ph->p_vaddr, ph->p_memsz))
		return bad_phdr(elf, i, "wraps around the end of the address space (p_vaddr + p_memsz)", err);
	/* hv:end */
	return 0;
}

static bool loads(const GElf_Phdr *ph)
{
	return ph->p_type == PT_LOAD && ph->p_memsz > 0;
}

/* Do two segments want the same byte? Nothing wraps any more, and what ends at 2^64 compares right by last
 * byte. */
static bool overlap(const GElf_Phdr *a, const GElf_Phdr *b)
{
	/* hv:solution lab=5 task=5 */
	return loads(a) && loads(b) && a->p_paddr <= b->p_paddr + (b->p_memsz - 1) &&
	       b->p_paddr <= a->p_paddr + (a->p_memsz - 1);
	/* hv:end */
}

/* No byte of guest memory has two sources, and there is one at all. */
static int check_overlaps(const struct hv_elf *elf, struct hv_error *err)
{
	unsigned found = 0;

	for (unsigned i = 0; i < elf->phnum; i++) {
		const GElf_Phdr *a = &elf->phdr[i];

		found += loads(a);
		for (unsigned j = 0; j < i; j++) {
			const GElf_Phdr *b = &elf->phdr[j];

			if (!overlap(a, b))
				continue;
			return hv_fail_unsafe(err,
					      "%s: program headers %u at offset 0x%" PRIx64
					      " and %u at offset 0x%" PRIx64
					      " load to the same memory, 0x%" PRIx64 "; the file is damaged",
					      elf->path, j, phdr_offset(elf, j), i, phdr_offset(elf, i),
					      a->p_paddr > b->p_paddr ? a->p_paddr : b->p_paddr);
		}
	}
	if (!found)
		return hv_fail_unsafe(
			err, "%s: none of the %u program headers at offset 0x%" PRIx64 " is to be loaded",
			elf->path, elf->phnum, elf->phoff);
	return 0;
}

int hv_elf_open(struct hv_elf *elf, const char *path, const void *data, size_t size, struct hv_error *err)
{
	int rc;

	memset(elf, 0, sizeof(*elf));
	elf->path = path;
	elf->data = data;
	elf->size = size;
	rc = check_ident(elf, err);
	if (!rc)
		rc = read_headers(elf, err);
	for (unsigned i = 0; !rc && i < elf->phnum; i++)
		rc = check_segment(elf, i, err);
	if (!rc)
		rc = check_overlaps(elf, err);
	return rc;
}

/* One segment: the file's bytes, then zeros up to p_memsz (.bss). */
static int load_segment(const struct hv_elf *elf, const struct hv_memory *mem, const GElf_Phdr *ph)
{
	/* hv:solution lab=5 task=2 */
	int rc = hv_memory_write(mem, ph->p_paddr, elf->data + ph->p_offset, ph->p_filesz);

	if (!rc)
		rc = hv_boot_zero(mem, ph->p_paddr + ph->p_filesz, ph->p_memsz - ph->p_filesz);
	return rc;
	/* hv:end */
}

/* All segments are checked before the first is written, so a refused image leaves no half of itself behind.
 * *end becomes the first byte above the highest. */
static int check_places(const struct hv_elf *elf, const struct hv_memory *mem, enum hv_entry_mode mode,
			uint64_t *end, struct hv_error *err)
{
	*end = 0;
	/* hv:solution lab=5 task=6 */
	for (unsigned i = 0; i < elf->phnum; i++) {
		const GElf_Phdr *ph = &elf->phdr[i];
		char what[64];
		int rc;

		if (!loads(ph))
			continue;
		snprintf(what, sizeof(what), "program header %u at offset 0x%" PRIx64, i,
			 phdr_offset(elf, i));
		rc = hv_boot_check_range(mem, mode, elf->path, what, ph->p_paddr, ph->p_memsz, err);
		if (rc)
			return rc;
		if (ph->p_paddr + ph->p_memsz > *end)
			*end = ph->p_paddr + ph->p_memsz;
	}
	/* hv:end */
	return 0;
}

int hv_elf_load(const struct hv_elf *elf, const struct hv_memory *mem, enum hv_entry_mode mode, uint64_t *end,
		struct hv_error *err)
{
	int rc = check_places(elf, mem, mode, end, err);

	for (unsigned i = 0; !rc && i < elf->phnum; i++)
		if (loads(&elf->phdr[i]) && load_segment(elf, mem, &elf->phdr[i]))
			rc = bad_phdr(elf, i, "cannot be copied to guest memory", err);
	return rc;
}

bool hv_elf_supplies(const struct hv_elf *elf, uint64_t gpa)
{
	for (unsigned i = 0; i < elf->phnum; i++)
		if (loads(&elf->phdr[i]) && gpa - elf->phdr[i].p_paddr < elf->phdr[i].p_filesz)
			return true;
	return false;
}

int hv_elf_entry(const struct hv_elf *elf, uint64_t *gpa, struct hv_error *err)
{
	/* hv:solution lab=5 task=3 */
	/* e_entry is virtual, and paging maps each address to itself: enter where the segment has been put.
	 */
	for (unsigned i = 0; i < elf->phnum; i++) {
		const GElf_Phdr *ph = &elf->phdr[i];

		if (!loads(ph) || elf->entry - ph->p_vaddr >= ph->p_filesz)
			continue;
		*gpa = ph->p_paddr + (elf->entry - ph->p_vaddr);
		return 0;
	}
	/* hv:end */
	/* Kernels of the higher half, Linux among them, often give the physical address at once. */
	if (hv_elf_supplies(elf, elf->entry)) {
		*gpa = elf->entry;
		return 0;
	}
	return hv_fail_unsafe(err,
			      "%s: the entry point 0x%" PRIx64
			      " (e_entry at offset 24) is in none of the file's loaded segments",
			      elf->path, elf->entry);
}

int hv_boot_elf(const struct hv_boot_request *request, struct hv_memory *mem, struct hv_entry *entry,
		struct hv_error *err)
{
	struct hv_elf elf;
	uint64_t end = 0, rip = 0;
	int rc = hv_elf_open(&elf, request->path, request->data, request->size, err);

	memset(entry, 0, sizeof(*entry));
	entry->kind = HV_BOOT_ELF;
	entry->mode = elf.is64 ? HV_ENTRY_LONG : HV_ENTRY_PROTECTED;
	if (!rc)
		rc = hv_elf_irqchip(&elf, &entry->irqchip, err);
	if (!rc)
		rc = hv_elf_entry(&elf, &rip, err);
	if (!rc)
		rc = hv_elf_load(&elf, mem, entry->mode, &end, err);
	if (!rc && rip >= HV_BOOT_MAP_MAX)
		rc = hv_fail(err, EFBIG,
			     "%s: the entry point 0x%" PRIx64 " lies above the 512 GiB that are mapped",
			     elf.path, rip);
	if (!rc)
		rc = hv_boot_start_info(request, mem, end, err);
	if (rc)
		return rc;
	entry->rip = rip;
	entry->rsp = HV_BOOT_STACK_TOP;
	/* The first argument of a C function in 64-bit code; PVH's register in 32-bit code. */
	*(elf.is64 ? &entry->rdi : &entry->rbx) = HV_BOOT_INFO_ADDR;
	return 0;
}
