/*
 * Multiboot, version 1: a header in the image's first 8 KiB says what the kernel wants; it is entered in
 * 32-bit protected mode with a magic number in EAX and the address of a structure with memory, modules and
 * command line in EBX. The kernel is ELF, or anything at all when its header tells the addresses itself (the
 * "a.out kludge").
 *
 * May call elf.c, layout.c and kvm/memory.h.
 * Rules: Multiboot Specification 0.6.96, chapter 3.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "boot/elf.h"
#include "boot/layout.h"

#define SEARCH      8192u
#define MAGIC       0x1badb002u
#define BOOT_MAGIC  0x2badb002u /* what the kernel finds in EAX */
#define LOADER_NAME "hvkit " HV_VERSION

/* Flags of the header: 0 to 15 must be satisfied, the rest may be. */
#define WANTS_ALIGNED   (1u << 0)
#define WANTS_MEMORY    (1u << 1)
#define WANTS_VIDEO     (1u << 2)
#define WANTS_MANDATORY 0xffffu
#define HAS_ADDRESSES   (1u << 16)

/* Flags of the information that the kernel is given. */
#define GIVES_MEMORY  (1u << 0)
#define GIVES_CMDLINE (1u << 2)
#define GIVES_MODULES (1u << 3)
#define GIVES_MMAP    (1u << 6)
#define GIVES_NAME    (1u << 9)

struct info {
	uint32_t flags, mem_lower, mem_upper; /* in KiB, from 0 and from 1 MiB */
	uint32_t boot_device, cmdline;
	uint32_t mods_count, mods_addr;
	uint32_t syms[4];
	uint32_t mmap_length, mmap_addr;
	uint32_t drives_length, drives_addr, config_table;
	uint32_t boot_loader_name;
	uint32_t rest[12]; /* APM, VBE and framebuffer: none */
};

struct module_entry {
	uint32_t start, end, string, reserved;
};

struct mmap_entry {
	uint32_t size; /* of what follows it */
	uint64_t gpa, length;
	uint32_t type;
} __attribute__((packed));

_Static_assert(sizeof(struct info) == 116, "Multiboot 3.3");
_Static_assert(sizeof(struct mmap_entry) == 24, "Multiboot 3.3");

int64_t hv_multiboot_find(const char *path, const void *data, size_t size, struct hv_error *err)
{
	const uint8_t *bytes = data;
	int64_t wrong = -1;

	for (uint32_t at = 0; at < SEARCH && hv_inside(at, 12, size < SEARCH ? size : SEARCH); at += 4) {
		if (hv_le32(bytes + at) != MAGIC)
			continue;
		if (MAGIC + hv_le32(bytes + at + 4) + hv_le32(bytes + at + 8) == 0)
			return at;
		wrong = at;
	}
	if (wrong >= 0)
		return hv_fail_unsafe(err,
				      "%s: the multiboot header at offset 0x%" PRIx64 " has a wrong checksum",
				      path, (uint64_t)wrong);
	return hv_fail(err, ENOENT,
		       "%s: no multiboot header (magic 0x1badb002, aligned to 4) in the first 8192 bytes",
		       path);
}

static int check_flags(const char *path, uint64_t at, uint32_t flags, struct hv_error *err)
{
	uint32_t unknown = flags & WANTS_MANDATORY & ~(WANTS_ALIGNED | WANTS_MEMORY);

	if (unknown & WANTS_VIDEO)
		return hv_fail(err, ENOTSUP,
			       "%s: the multiboot header at offset 0x%" PRIx64
			       " asks for a video mode (flag bit 2), but this machine has no display; clear "
			       "the bit and print to the serial line",
			       path, at);
	if (unknown)
		return hv_fail(err, ENOTSUP,
			       "%s: the multiboot header at offset 0x%" PRIx64
			       " sets flag bit %d, which Multiboot 0.6.96 doesn't define but makes mandatory",
			       path, at, __builtin_ctz(unknown));
	return 0;
}

/* What the header's addresses come to: file bytes [offset, offset + size) go to `load`. */
struct placement {
	uint32_t load, entry;
	uint64_t offset, size, total; /* total: with .bss */
};

/* Fills *p, or tells how the addresses of the header at `at` contradict each other. */
static const char *read_addresses(const uint8_t *data, uint64_t file_size, uint64_t at, struct placement *p)
{
	uint32_t header_addr = hv_le32(data + at + 12), load = hv_le32(data + at + 16);
	uint32_t load_end = hv_le32(data + at + 20), bss_end = hv_le32(data + at + 24);
	uint32_t entry = hv_le32(data + at + 28);

	*p = (struct placement){.load = load, .entry = entry};
	if (header_addr < load || header_addr - load > at)
		return "header_addr and load_addr place the image's start outside the file";
	p->offset = at - (header_addr - load);
	if (load_end != 0 && load_end < load)
		return "load_end_addr lies below load_addr";
	p->size = load_end ? load_end - load : file_size - p->offset; /* 0: to the end of the file */
	if (!hv_inside(p->offset, p->size, file_size))
		return "load_end_addr wants bytes past the file's end";
	if (bss_end != 0 && bss_end < load + p->size)
		return "bss_end_addr lies below the end of the data";
	p->total = bss_end ? bss_end - load : p->size; /* 0: no .bss */
	if (entry < load || entry - load >= p->size)
		return "entry_addr is not in the loaded bytes";
	return NULL;
}

static int load_by_addresses(const struct hv_boot_request *request, const struct hv_memory *mem, uint64_t at,
			     struct hv_entry *entry, uint64_t *end, struct hv_error *err)
{
	const uint8_t *data = request->data;
	struct placement p;
	char what[64];
	const char *lie;
	int rc;

	if (!hv_inside(at, 32, request->size < SEARCH ? request->size : SEARCH))
		return hv_fail_unsafe(err,
				      "%s: the multiboot header at offset 0x%" PRIx64
				      " sets flag bit 16, but ends before its address fields",
				      request->path, at);
	lie = read_addresses(data, request->size, at, &p);
	if (lie)
		return hv_fail_unsafe(err, "%s: the multiboot header at offset 0x%" PRIx64 " is damaged: %s",
				      request->path, at, lie);
	snprintf(what, sizeof(what), "the multiboot header at offset 0x%" PRIx64, at);
	rc = hv_boot_check_range(mem, HV_ENTRY_PROTECTED, request->path, what, p.load, p.total, err);
	if (rc)
		return rc;
	if (hv_memory_write(mem, p.load, data + p.offset, p.size) ||
	    hv_boot_zero(mem, p.load + p.size, p.total - p.size))
		return hv_fail(err, EFAULT, "%s: cannot be copied to guest memory at 0x%" PRIx32,
			       request->path, p.load);
	*end = p.load + p.total;
	entry->rip = p.entry;
	return 0;
}

/* Both classes are taken, as GRUB does: the entry is 32-bit code either way. */
static int load_elf(const struct hv_boot_request *request, const struct hv_memory *mem,
		    struct hv_entry *entry, uint64_t *end, struct hv_error *err)
{
	struct hv_elf elf;
	int rc = hv_elf_open(&elf, request->path, request->data, request->size, err);

	if (!rc)
		rc = hv_elf_irqchip(&elf, &entry->irqchip, err);
	if (!rc)
		rc = hv_elf_entry(&elf, &entry->rip, err);
	if (!rc)
		rc = hv_elf_load(&elf, mem, HV_ENTRY_PROTECTED, end, err);
	return rc;
}

/* mem_lower and mem_upper: the RAM at 0, and the RAM at 1 MiB up to the first hole. */
static void add_memory(struct hv_info *out, const struct hv_memory *mem, struct info *info)
{
	struct mmap_entry table[HV_REGIONS_MAX];
	struct hv_region map[HV_REGIONS_MAX];
	unsigned count = hv_boot_memory_map(mem, map);

	for (unsigned i = 0; i < count; i++) {
		if (map[i].type == HV_REGION_RAM && map[i].gpa == 0)
			info->mem_lower = (uint32_t)(map[i].size >> 10);
		if (map[i].type == HV_REGION_RAM && map[i].gpa == 0x100000)
			info->mem_upper = (uint32_t)(map[i].size >> 10);
		table[i] = (struct mmap_entry){sizeof(table[0]) - 4, map[i].gpa, map[i].size, map[i].type};
	}
	info->mmap_addr = hv_info_add(out, table, count * sizeof(table[0]));
	info->mmap_length = (uint32_t)(count * sizeof(table[0]));
	info->flags |= GIVES_MEMORY | GIVES_MMAP;
}

static void add_modules(struct hv_info *out, const struct hv_boot_request *request,
			const struct hv_placed *placed, struct info *info)
{
	struct module_entry table[HV_BOOT_MODULES_MAX];

	for (unsigned i = 0; i < request->module_count; i++) {
		const char *name = request->modules[i].name ? request->modules[i].name : "";

		table[i] = (struct module_entry){placed[i].gpa, placed[i].end,
						 hv_info_add(out, name, strlen(name) + 1), 0};
	}
	info->mods_count = request->module_count;
	info->mods_addr = hv_info_add(out, table, request->module_count * sizeof(table[0]));
	info->flags |= GIVES_MODULES;
}

static int write_info(const struct hv_boot_request *request, const struct hv_memory *mem, uint64_t kernel_end,
		      struct hv_error *err)
{
	struct info info = {.flags = GIVES_CMDLINE | GIVES_NAME, .cmdline = HV_BOOT_CMDLINE};
	struct hv_placed placed[HV_BOOT_MODULES_MAX];
	struct hv_info out = {.used = 0};
	uint64_t rsdp; /* not told: who wants it searches the BIOS area */
	int rc = hv_boot_place_modules(request, mem, kernel_end, placed, err);

	if (!rc)
		rc = hv_boot_put_cmdline(request, mem, err);
	if (!rc)
		rc = hv_boot_put_acpi(request, mem, &rsdp, err);
	if (rc)
		return rc;
	hv_info_add(&out, &info, sizeof(info));
	add_memory(&out, mem, &info);
	add_modules(&out, request, placed, &info);
	info.boot_loader_name = hv_info_add(&out, LOADER_NAME, sizeof(LOADER_NAME));
	memcpy(out.bytes, &info, sizeof(info));
	return hv_info_write(&out, mem, request->path, err);
}

int hv_boot_multiboot(const struct hv_boot_request *request, struct hv_memory *mem, struct hv_entry *entry,
		      struct hv_error *err)
{
	int64_t found = hv_multiboot_find(request->path, request->data, request->size, err);
	uint64_t end = 0, at = (uint64_t)found;
	uint32_t flags;
	int rc;

	memset(entry, 0, sizeof(*entry));
	entry->kind = HV_BOOT_MULTIBOOT;
	entry->mode = HV_ENTRY_PROTECTED;
	if (found < 0)
		return (int)found;
	flags = hv_le32((const uint8_t *)request->data + at + 4);
	rc = check_flags(request->path, at, flags, err);
	if (!rc && (flags & HAS_ADDRESSES))
		rc = load_by_addresses(request, mem, at, entry, &end, err);
	else if (!rc && hv_elf_magic(request->data, request->size))
		rc = load_elf(request, mem, entry, &end, err);
	else if (!rc)
		rc = hv_fail(err, ENOEXEC,
			     "%s: the multiboot header at offset 0x%" PRIx64
			     " gives no addresses (flag bit 16), and the image is not ELF",
			     request->path, at);
	if (!rc)
		rc = write_info(request, mem, end, err);
	if (rc)
		return rc;
	entry->rax = BOOT_MAGIC;
	entry->rbx = HV_BOOT_INFO_ADDR;
	entry->rsp = HV_BOOT_STACK_TOP;
	return 0;
}
