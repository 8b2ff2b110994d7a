/*
 * Where things go in guest memory: see layout.h. May call kvm/memory.h.
 * Rules: the areas of boot.h; Multiboot 0.6.96, 3.3 and Xen's PVH for the memory map's types.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "boot/layout.h"

#define VGA_START 0xa0000ull  /* a PC has no RAM from here, but video memory and firmware, */
#define VGA_END   0x100000ull /* to here */

/* What hvkit writes for kernels. Flat images get nothing and may use all of it. */
struct area {
	uint64_t gpa, size;
	bool long_only; /* protected mode needs the GDT's page, but no page tables */
	const char *what;
};

static const struct area areas[] = {
	{HV_BOOT_INFO_ADDR, HV_BOOT_INFO_SIZE, false, "the boot information"},
	{HV_BOOT_STACK, HV_BOOT_STACK_SIZE, false, "the first stack"},
	{HV_BOOT_TABLES, HV_PAGE_SIZE, false, "the GDT"},
	{HV_BOOT_TABLES + HV_PAGE_SIZE, HV_BOOT_TABLES_SIZE - HV_PAGE_SIZE, true, "the page tables"},
	{HV_BOOT_CMDLINE, HV_BOOT_CMDLINE_MAX, false, "the command line"},
	{HV_BOOT_ACPI, HV_ACPI_BYTES_MAX, false, "the ACPI tables"},
	{HV_BOOT_RESET_ENTRY, 16, false, "the entry of a reset"},
};

static int check_areas(enum hv_entry_mode mode, const char *path, const char *what, uint64_t gpa,
		       uint64_t size, struct hv_error *err)
{
	for (size_t i = 0; mode != HV_ENTRY_REAL && i < HV_ARRAY_SIZE(areas); i++) {
		const struct area *a = &areas[i];

		if ((a->long_only && mode != HV_ENTRY_LONG) || gpa >= a->gpa + a->size ||
		    gpa + size <= a->gpa)
			continue;
		return hv_fail(err, EADDRINUSE,
			       "%s: %s wants 0x%" PRIx64 " to 0x%" PRIx64 ", but 0x%" PRIx64 " to 0x%" PRIx64
			       " holds %s; link the image at 1 MiB or above",
			       path, what, gpa, gpa + size - 1, a->gpa, a->gpa + a->size - 1, a->what);
	}
	return 0;
}

int hv_boot_check_range(const struct hv_memory *mem, enum hv_entry_mode mode, const char *path,
			const char *what, uint64_t gpa, uint64_t size, struct hv_error *err)
{
	if (size == 0)
		return 0;
	if (!hv_memory_at(mem, gpa, size))
		return hv_fail(err, ENOMEM,
			       "%s: %s wants %" PRIu64 " bytes at 0x%" PRIx64
			       ", where there is no RAM (%" PRIu64
			       " KiB in all); give the VM more memory (--mem) or link the image lower",
			       path, what, size, gpa, hv_memory_size(mem) >> 10);
	if (mode != HV_ENTRY_LONG && !hv_inside(gpa, size, HV_BOOT_4GIB))
		return hv_fail(err, EFBIG,
			       "%s: %s wants 0x%" PRIx64 " to 0x%" PRIx64
			       ", which 32-bit code can't reach; link the image below 4 GiB",
			       path, what, gpa, gpa + size - 1);
	return check_areas(mode, path, what, gpa, size, err);
}

int hv_boot_zero(const struct hv_memory *mem, uint64_t gpa, uint64_t size)
{
	uint8_t *p = hv_memory_at(mem, gpa, size);

	if (size == 0)
		return 0;
	if (!p)
		return -EFAULT;
	while (size > 0) {
		uint64_t n = HV_PAGE_SIZE - ((uintptr_t)p & (HV_PAGE_SIZE - 1));

		n = n < size ? n : size;
		/* A run of equal bytes: the first is zero and each equals the one after it. */
		if (p[0] != 0 || memcmp(p, p + 1, n - 1) != 0)
			memset(p, 0, n);
		p += n;
		size -= n;
	}
	return 0;
}

/* Appends [start, end) when there is something in it. */
static void add_region(struct hv_region *map, unsigned *count, uint64_t start, uint64_t end,
		       enum hv_region_type type)
{
	if (start < end)
		map[(*count)++] = (struct hv_region){start, end - start, type};
}

static uint64_t clamp(uint64_t v, uint64_t low, uint64_t high)
{
	return v < low ? low : v > high ? high : v;
}

unsigned hv_boot_memory_map(const struct hv_memory *mem, struct hv_region map[HV_REGIONS_MAX])
{
	unsigned count = 0;
	bool told = false;

	for (unsigned i = 0; i < mem->count && i < HV_SLOTS_MAX; i++) {
		const struct hv_slot *s = &mem->slots[i];
		enum hv_region_type type = s->readonly ? HV_REGION_RESERVED : HV_REGION_RAM;
		uint64_t end = s->gpa + s->size;
		uint64_t vga = clamp(VGA_START, s->gpa, end), rest = clamp(VGA_END, s->gpa, end);

		if (!told && s->gpa > HV_IDENTITY_MAP_ADDR) {
			add_region(map, &count, HV_IDENTITY_MAP_ADDR, HV_TSS_ADDR + 3 * HV_PAGE_SIZE,
				   HV_REGION_RESERVED);
			told = true;
		}
		add_region(map, &count, s->gpa, vga, type);
		add_region(map, &count, vga, rest, HV_REGION_RESERVED);
		add_region(map, &count, rest, end, type);
	}
	if (!told)
		add_region(map, &count, HV_IDENTITY_MAP_ADDR, HV_TSS_ADDR + 3 * HV_PAGE_SIZE,
			   HV_REGION_RESERVED);
	return count;
}

/* The first page-aligned place at or above `from` with `size` bytes of RAM that 32-bit code can reach; 0:
 * none. */
static uint64_t find_room(const struct hv_memory *mem, uint64_t from, uint64_t size)
{
	for (unsigned i = 0; i < mem->count; i++) {
		const struct hv_slot *s = &mem->slots[i];
		uint64_t at = s->gpa > from ? s->gpa : from;

		if (s->readonly || at > HV_BOOT_HIGH_TABLES)
			continue;
		at = hv_round_up(at, HV_PAGE_SIZE);
		if (hv_inside(at - s->gpa, size ? size : 1, s->size) &&
		    hv_inside(at, size, HV_BOOT_HIGH_TABLES))
			return at;
	}
	return 0;
}

int hv_boot_place_modules(const struct hv_boot_request *request, const struct hv_memory *mem,
			  uint64_t kernel_end, struct hv_placed placed[HV_BOOT_MODULES_MAX],
			  struct hv_error *err)
{
	uint64_t at = kernel_end > VGA_END ? kernel_end : VGA_END;

	if (request->module_count > HV_BOOT_MODULES_MAX)
		return hv_fail_usage(err, "%s: %u modules are too many; at most %d can be given",
				     request->path, request->module_count, HV_BOOT_MODULES_MAX);
	for (unsigned i = 0; i < request->module_count; i++) {
		const struct hv_module *m = &request->modules[i];
		uint64_t gpa = find_room(mem, at, m->size);

		if (!gpa)
			return hv_fail(err, ENOMEM,
				       "%s: module %u (%s, %zu bytes) doesn't fit into the RAM below 3 GiB "
				       "and above 0x%" PRIx64 "; give the VM more memory (--mem)",
				       request->path, i, m->name ? m->name : "", m->size, at);
		if (hv_memory_write(mem, gpa, m->data, m->size))
			return hv_fail(err, EFAULT,
				       "%s: module %u cannot be copied to guest memory at 0x%" PRIx64,
				       request->path, i, gpa);
		placed[i] = (struct hv_placed){(uint32_t)gpa, (uint32_t)(gpa + m->size)};
		at = gpa + m->size;
	}
	return 0;
}

int hv_boot_put_cmdline(const struct hv_boot_request *request, const struct hv_memory *mem,
			struct hv_error *err)
{
	const char *cmdline = request->cmdline ? request->cmdline : "";
	size_t size = strlen(cmdline) + 1;

	if (size > HV_BOOT_CMDLINE_MAX)
		return hv_fail_usage(err, "%s: a command line of %zu bytes is too long; at most %llu fit",
				     request->path, size - 1, HV_BOOT_CMDLINE_MAX - 1);
	if (hv_memory_write(mem, HV_BOOT_CMDLINE, cmdline, size))
		return hv_fail(
			err, ENOMEM,
			"%s: no RAM at 0x%llx for the command line; give the VM at least 256 KiB (--mem)",
			request->path, HV_BOOT_CMDLINE);
	return 0;
}

uint32_t hv_info_add(struct hv_info *info, const void *data, size_t size)
{
	size_t at = hv_round_up(info->used, 8);

	if (info->full || !hv_inside(at, size, sizeof(info->bytes))) {
		info->full = true;
		return 0;
	}
	if (size)
		memcpy(info->bytes + at, data, size);
	info->used = at + size;
	return (uint32_t)(HV_BOOT_INFO_ADDR + at);
}

int hv_info_write(const struct hv_info *info, const struct hv_memory *mem, const char *path,
		  struct hv_error *err)
{
	if (info->full)
		return hv_fail(err, ENOSPC,
			       "%s: the modules' command lines don't fit into the %llu bytes of boot "
			       "information; shorten them",
			       path, HV_BOOT_INFO_SIZE);
	if (hv_memory_write(mem, HV_BOOT_INFO_ADDR, info->bytes, info->used))
		return hv_fail(
			err, ENOMEM,
			"%s: no RAM at 0x%llx for the boot information; give the VM at least 256 KiB (--mem)",
			path, HV_BOOT_INFO_ADDR);
	return 0;
}
