/*
 * Images: which kind one is, by its content, and the loader for it. May call the loaders.
 * Rules: boot.h.
 */
#include <inttypes.h>
#include <string.h>

#include "boot/elf.h"
#include "boot/layout.h"

static const char *const kind_names[] = {
	[HV_BOOT_AUTO] = "auto",           [HV_BOOT_FLAT] = "flat", [HV_BOOT_ELF] = "elf",
	[HV_BOOT_MULTIBOOT] = "multiboot", [HV_BOOT_PVH] = "pvh",   [HV_BOOT_LINUX] = "linux",
};

int hv_boot_kind_parse(enum hv_boot_kind *kind, const char *text, struct hv_error *err)
{
	for (size_t i = 0; i < HV_ARRAY_SIZE(kind_names); i++) {
		if (strcmp(text, kind_names[i]) == 0) {
			*kind = (enum hv_boot_kind)i;
			return 0;
		}
	}
	return hv_fail_usage(
		err, "--boot %s: not a boot protocol; use auto, flat, elf, multiboot, pvh or linux", text);
}

const char *hv_boot_kind_name(enum hv_boot_kind kind)
{
	return (size_t)kind < HV_ARRAY_SIZE(kind_names) ? kind_names[kind] : "unknown";
}

/* What kind of ELF file, and the controller it asks for. */
static int probe_elf(const char *path, const void *data, size_t size, enum hv_boot_kind *kind,
		     enum hv_irqchip *irqchip, struct hv_error *err)
{
	struct hv_elf elf;
	uint64_t entry = 0;
	int rc = hv_elf_open(&elf, path, data, size, err);

	if (!rc)
		rc = hv_elf_irqchip(&elf, irqchip, err);
	if (!rc)
		rc = hv_elf_note(&elf, "Xen", HV_NOTE_PHYS32_ENTRY, &entry, err);
	if (rc < 0)
		return rc;
	*kind = rc ? HV_BOOT_PVH : HV_BOOT_ELF;
	return 0;
}

int hv_boot_probe(const char *path, const void *data, size_t size, enum hv_boot_kind *kind,
		  enum hv_irqchip *irqchip, struct hv_error *err)
{
	bool multiboot = hv_multiboot_find(path, data, size, NULL) >= 0;
	int rc = 0;

	*kind = HV_BOOT_FLAT;
	*irqchip = HV_IRQCHIP_AUTO;
	if (hv_elf_magic(data, size))
		rc = probe_elf(path, data, size, kind, irqchip, err);
	else if (hv_linux_magic(data, size))
		*kind = HV_BOOT_LINUX;
	if (multiboot) {
		/* Its own header may say how to load it, whatever the ELF one says: the loader will tell. */
		*kind = HV_BOOT_MULTIBOOT;
		rc = 0;
	}
	if (*irqchip == HV_IRQCHIP_AUTO)
		*irqchip = *kind == HV_BOOT_FLAT ? HV_IRQCHIP_NONE : HV_IRQCHIP_FULL;
	return rc;
}

int hv_boot_load(const struct hv_boot_request *request, struct hv_memory *mem, struct hv_entry *entry,
		 struct hv_error *err)
{
	enum hv_boot_kind kind = request->kind;
	enum hv_irqchip irqchip;

	if (kind == HV_BOOT_AUTO) {
		int rc = hv_boot_probe(request->path, request->data, request->size, &kind, &irqchip, err);
		if (rc)
			return rc;
	}
	switch (kind) {
	case HV_BOOT_FLAT:
		return hv_boot_flat(request, mem, entry, err);
	case HV_BOOT_ELF:
		return hv_boot_elf(request, mem, entry, err);
	case HV_BOOT_MULTIBOOT:
		return hv_boot_multiboot(request, mem, entry, err);
	case HV_BOOT_PVH:
		return hv_boot_pvh(request, mem, entry, err);
	case HV_BOOT_LINUX:
		return hv_boot_linux(request, mem, entry, err);
	case HV_BOOT_AUTO:
		break;
	}
	return hv_fail(err, EINVAL, "%s: boot protocol %d doesn't exist", request->path, (int)kind);
}
