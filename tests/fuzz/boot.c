/*
 * Fuzz target: images. Each loader is fed the same bytes, whatever they look like; what one accepts must be
 * enterable: its entry point lies in RAM and in none of the areas that hvkit fills.
 */
#include <string.h>

#include "boot/boot.h"

#define RAM (1ull << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef int hv_loader(const struct hv_boot_request *, struct hv_memory *, struct hv_entry *,
		      struct hv_error *);

static void check(bool fine)
{
	if (!fine)
		__builtin_trap();
}

static void load(hv_loader *loader, const struct hv_boot_request *request, struct hv_memory *mem)
{
	struct hv_error err = {0};
	struct hv_entry entry;

	if (loader(request, mem, &entry, &err) != 0) {
		/* A refusal has a sentence, and it starts with the image's name. */
		check(err.code < 0 && strncmp(err.text, "image: ", 7) == 0);
		return;
	}
	check(hv_memory_at(mem, entry.rip, 1) != NULL);
	check(entry.mode == HV_ENTRY_REAL || entry.rip < HV_BOOT_INFO_ADDR ||
	      entry.rip >= HV_BOOT_TABLES + HV_PAGE_SIZE);
	check(entry.kind != HV_BOOT_AUTO && entry.irqchip <= HV_IRQCHIP_FULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static hv_loader *const loaders[] = {hv_boot_flat, hv_boot_elf,   hv_boot_multiboot,
					     hv_boot_pvh,  hv_boot_linux, hv_boot_load};
	static struct hv_memory mem; /* kept: making it costs more than a run */
	struct hv_module module = {data, size, "the image itself"};
	struct hv_boot_request request = {
		.kind = HV_BOOT_AUTO,
		.path = "image",
		.data = data,
		.size = size,
		.load_addr = 0x1000,
	};
	struct hv_error err;

	if (!mem.count) {
		hv_memory_init(&mem, NULL);
		check(hv_memory_add_ram(&mem, RAM, &err) == 0);
		/* A second piece of RAM behind a hole, where modules go too. */
		check(hv_memory_add(&mem, 2 * RAM, RAM, false, &err) == 0);
	}
	for (unsigned modules = 0; modules < 2; modules++) {
		request.modules = &module;
		request.module_count = modules;
		request.cmdline = modules ? "console=ttyS0" : NULL;
		for (size_t i = 0; i < HV_ARRAY_SIZE(loaders); i++)
			load(loaders[i], &request, &mem);
	}
	return 0;
}
