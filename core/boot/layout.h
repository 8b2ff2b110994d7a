/*
 * Inside core/boot: where things go in guest memory. Loaders share the areas that are hvkit's own, the memory
 * map that a guest is told, the placing of modules, and the page that boot information is built in.
 */
#ifndef HV_BOOT_LAYOUT_H
#define HV_BOOT_LAYOUT_H

#include "boot/boot.h"

/* All that 32-bit kernels are given lies below this. */
#define HV_BOOT_4GIB    0x100000000ull
/* Identity paging reaches this far at most: one PDPT. */
#define HV_BOOT_MAP_MAX (512ull << 30)

/* Types of memory, the numbers of E820, PVH and multiboot alike. */
enum hv_region_type { HV_REGION_RAM = 1, HV_REGION_RESERVED = 2 };

struct hv_region {
	uint64_t gpa, size;
	enum hv_region_type type;
};

/* Each slot, one that the VGA hole cuts in three, and KVM's own pages. */
#define HV_REGIONS_MAX (HV_SLOTS_MAX + 3)

/* Where a module was put. */
struct hv_placed {
	uint32_t gpa, end;
};

/* The boot information area while it is built: hv_info_add appends, hv_info_write gives it to the guest. */
struct hv_info {
	uint8_t bytes[HV_BOOT_INFO_SIZE];
	size_t used;
	bool full; /* something did not fit; hv_info_write tells */
};

/*
 * Refuses [gpa, gpa + size) when it isn't RAM of one slot, can't be reached in `mode`, or holds what hvkit
 * itself writes for that mode. `what` opens the sentence after the path ("program header 2 at offset 0xb0").
 */
int hv_boot_check_range(const struct hv_memory *mem, enum hv_entry_mode mode, const char *path,
			const char *what, uint64_t gpa, uint64_t size, struct hv_error *err);

/* Zeroes guest memory that hv_boot_check_range has passed, leaving alone the pages that are zero already: a
 * large .bss in fresh memory costs the host nothing. */
int hv_boot_zero(const struct hv_memory *mem, uint64_t gpa, uint64_t size);

/* The memory map in ascending order, as a PC tells it: the VGA and BIOS area is reserved. Returns how many.
 */
unsigned hv_boot_memory_map(const struct hv_memory *mem, struct hv_region map[HV_REGIONS_MAX]);

/* Puts the request's modules page-aligned above kernel_end and above 1 MiB, below 3 GiB. */
int hv_boot_place_modules(const struct hv_boot_request *request, const struct hv_memory *mem,
			  uint64_t kernel_end, struct hv_placed placed[HV_BOOT_MODULES_MAX],
			  struct hv_error *err);

/* Writes the command line (empty when there is none) to HV_BOOT_CMDLINE. */
int hv_boot_put_cmdline(const struct hv_boot_request *request, const struct hv_memory *mem,
			struct hv_error *err);

/* Appends bytes at the next multiple of 8 and returns their guest-physical address; 0 when the area is full.
 */
uint32_t hv_info_add(struct hv_info *info, const void *data, size_t size);
int hv_info_write(const struct hv_info *info, const struct hv_memory *mem, const char *path,
		  struct hv_error *err);

/* acpi.c: puts the request's ACPI tables at HV_BOOT_ACPI. *rsdp becomes their address, or 0 where the request
 * has none or the VM no RAM there. */
int hv_boot_put_acpi(const struct hv_boot_request *request, const struct hv_memory *mem, uint64_t *rsdp,
		     struct hv_error *err);

/* mptable.c: the same board as an MP table, at 0xf0000, for a request that wants no ACPI tables. */
int hv_boot_put_mp(const struct hv_boot_request *request, const struct hv_memory *mem, struct hv_error *err);

/* start_info.c: modules, command line, memory map and the hvm_start_info that points to them. The structure
 * itself is at HV_BOOT_INFO_ADDR. */
int hv_boot_start_info(const struct hv_boot_request *request, const struct hv_memory *mem,
		       uint64_t kernel_end, struct hv_error *err);

/* multiboot.c: the offset of a valid multiboot header, or -ENOENT; -EBADMSG with a sentence when one is there
 * whose checksum is wrong and no other is right. */
int64_t hv_multiboot_find(const char *path, const void *data, size_t size, struct hv_error *err);

/* linux.c: whether the bytes have the magic of Linux's setup header where it belongs. */
bool hv_linux_magic(const void *data, size_t size);

#endif
