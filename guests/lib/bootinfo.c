/*
 * The boot information of PVH (also given to plain ELF images in RDI) and of multiboot, brought into one
 * form. Rules: Xen's docs/misc/pvh.pandoc and public/arch-x86/hvm/start_info.h; Multiboot 0.6.96,
 * section 3.3.
 */
#include <stddef.h>

#include "bootinfo.h"
#include "console.h"
#include "end.h"
#include "memory.h"
#include "start.h"

struct hvm_start_info {
	uint32_t magic, version, flags, nr_modules;
	uint64_t modlist_paddr, cmdline_paddr, rsdp_paddr;
	uint64_t memmap_paddr; /* from version 1 on */
	uint32_t memmap_entries, reserved;
};

struct hvm_modlist_entry {
	uint64_t paddr, size, cmdline_paddr, reserved;
};

struct hvm_memmap_entry {
	uint64_t addr, size;
	uint32_t type, reserved;
};

struct multiboot_info {
	uint32_t flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr, syms[4];
	uint32_t mmap_length, mmap_addr;
};

#define MULTIBOOT_INFO_CMDLINE (1u << 2)
#define MULTIBOOT_INFO_MODS    (1u << 3)
#define MULTIBOOT_INFO_MMAP    (1u << 6)

struct multiboot_module {
	uint32_t start, end, cmdline, reserved;
};

struct multiboot_range {
	uint32_t size; /* of what follows this field */
	uint64_t base, length;
	uint32_t type;
} __attribute__((packed));

static struct boot_info boot;

static void add_range(uint64_t base, uint64_t size, uint32_t type)
{
	if (boot.range_count < BOOT_RANGES)
		boot.ranges[boot.range_count++] = (struct boot_range){base, size, type};
}

static void add_module(uint64_t base, uint64_t size, uint64_t cmdline)
{
	const char *text = cmdline ? (const char *)cmdline : "";
	if (boot.module_count < BOOT_MODULES)
		boot.modules[boot.module_count++] = (struct boot_module){base, size, text};
}

static void read_start_info(const struct hvm_start_info *info)
{
	if (info->cmdline_paddr)
		boot.cmdline = (const char *)info->cmdline_paddr;
	const struct hvm_modlist_entry *mod = (const void *)info->modlist_paddr;
	for (uint32_t i = 0; i < info->nr_modules; i++)
		add_module(mod[i].paddr, mod[i].size, mod[i].cmdline_paddr);
	const struct hvm_memmap_entry *map = (const void *)info->memmap_paddr;
	for (uint32_t i = 0; info->version >= 1 && i < info->memmap_entries; i++)
		add_range(map[i].addr, map[i].size, map[i].type);
}

static void read_multiboot(const struct multiboot_info *info)
{
	if (info->flags & MULTIBOOT_INFO_CMDLINE)
		boot.cmdline = (const char *)(uint64_t)info->cmdline;
	if (info->flags & MULTIBOOT_INFO_MODS) {
		const struct multiboot_module *mod = (const void *)(uint64_t)info->mods_addr;
		for (uint32_t i = 0; i < info->mods_count; i++)
			add_module(mod[i].start, mod[i].end - mod[i].start, mod[i].cmdline);
	}
	if (!(info->flags & MULTIBOOT_INFO_MMAP))
		return;
	uint64_t at = info->mmap_addr, end = at + info->mmap_length;
	while (at + sizeof(struct multiboot_range) <= end) {
		const struct multiboot_range *range = (const void *)at;
		add_range(range->base, range->length, range->type);
		at += range->size + sizeof(range->size);
	}
}

void boot_start(uint64_t entry, uint64_t eax, uint64_t info)
{
	boot.cmdline = "";
	if (entry == START_32 && (uint32_t)eax == MULTIBOOT_BOOT_MAGIC) {
		boot.protocol = "multiboot";
		read_multiboot((const void *)info);
	} else {
		const struct hvm_start_info *start = (const void *)info;
		boot.protocol = entry == START_64 ? "ELF" : "PVH";
		if (start && start->magic == HVM_START_MAGIC)
			read_start_info(start);
		else
			boot.protocol = "no";
	}
	guest_main(&boot);
}

uint64_t boot_option(const struct boot_info *info, const char *key, uint64_t fallback)
{
	size_t length = strlen(key);
	for (const char *p = info->cmdline; *p; p++) {
		bool first = p == info->cmdline || p[-1] == ' ';
		if (!first || strncmp(p, key, length) || p[length] != '=')
			continue;
		const char *number = p + length + 1;
		uint64_t value;
		if (parse_number(&number, &value) && (!*number || *number == ' '))
			return value;
		con_printf("command line: the value of %s= is not a number\n", key);
		guest_exit(GUEST_FAILED);
	}
	return fallback;
}

uint64_t boot_ram_end(const struct boot_info *info, uint64_t addr)
{
	for (unsigned i = 0; i < info->range_count; i++) {
		const struct boot_range *r = &info->ranges[i];
		if (r->type == BOOT_RAM && addr >= r->base && addr - r->base < r->size)
			return r->base + r->size;
	}
	return 0;
}
