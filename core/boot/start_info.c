/*
 * hvm_start_info: modules, command line and memory map in one structure, which PVH kernels find through EBX,
 * and plain ELF kernels by the same form.
 *
 * May call acpi.c, layout.c and kvm/memory.h.
 * Rules: Xen, public/arch-x86/hvm/start_info.h.
 */
#include <string.h>

#include "boot/layout.h"

#define START_INFO_MAGIC 0x336ec578u /* "xEn3" with the top bit of the E set */

/* The structures as start_info.h lays them out; all fields little-endian, as this host is. */
struct start_info {
	uint32_t magic, version, flags, nr_modules;
	uint64_t modlist, cmdline, rsdp, memmap; /* guest-physical addresses; 0: there is none */
	uint32_t memmap_entries, reserved;
};

struct module_entry {
	uint64_t gpa, size, cmdline, reserved;
};

struct memmap_entry {
	uint64_t gpa, size;
	uint32_t type, reserved;
};

_Static_assert(sizeof(struct start_info) == 56, "start_info.h, version 1");
_Static_assert(sizeof(struct module_entry) == 32, "start_info.h, hvm_modlist_entry");
_Static_assert(sizeof(struct memmap_entry) == 24, "start_info.h, hvm_memmap_table_entry");

static void add_memmap(struct hv_info *info, const struct hv_memory *mem, struct start_info *start)
{
	struct memmap_entry table[HV_REGIONS_MAX];
	struct hv_region map[HV_REGIONS_MAX];
	unsigned count = hv_boot_memory_map(mem, map);

	for (unsigned i = 0; i < count; i++)
		table[i] = (struct memmap_entry){.gpa = map[i].gpa, .size = map[i].size, .type = map[i].type};
	start->memmap = hv_info_add(info, table, count * sizeof(table[0]));
	start->memmap_entries = count;
}

static void add_modules(struct hv_info *info, const struct hv_boot_request *request,
			const struct hv_placed *placed, struct start_info *start)
{
	struct module_entry table[HV_BOOT_MODULES_MAX];

	for (unsigned i = 0; i < request->module_count; i++) {
		const char *name = request->modules[i].name ? request->modules[i].name : "";

		table[i] = (struct module_entry){
			.gpa = placed[i].gpa,
			.size = placed[i].end - placed[i].gpa,
			.cmdline = hv_info_add(info, name, strlen(name) + 1),
		};
	}
	start->nr_modules = request->module_count;
	if (start->nr_modules)
		start->modlist = hv_info_add(info, table, request->module_count * sizeof(table[0]));
}

int hv_boot_start_info(const struct hv_boot_request *request, const struct hv_memory *mem,
		       uint64_t kernel_end, struct hv_error *err)
{
	struct start_info start = {.magic = START_INFO_MAGIC, .version = 1, .cmdline = HV_BOOT_CMDLINE};
	struct hv_placed placed[HV_BOOT_MODULES_MAX];
	struct hv_info info = {.used = 0};
	int rc = hv_boot_place_modules(request, mem, kernel_end, placed, err);

	if (!rc)
		rc = hv_boot_put_cmdline(request, mem, err);
	if (!rc)
		rc = hv_boot_put_acpi(request, mem, &start.rsdp, err);
	if (rc)
		return rc;
	/* It comes first, so that its address is known; what it points to follows, then it is filled in. */
	hv_info_add(&info, &start, sizeof(start));
	add_memmap(&info, mem, &start);
	add_modules(&info, request, placed, &start);
	memcpy(info.bytes, &start, sizeof(start));
	return hv_info_write(&info, mem, request->path, err);
}
