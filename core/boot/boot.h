/*
 * Boot: an image is put into guest memory and the first vCPU is told where to start. Every image is hostile
 * until checked. Loaders fill a struct hv_entry; hv_entry_apply gives it to a vCPU. Rules: System V ABI
 * (ELF), Multiboot 0.6.96, Xen's PVH (docs/misc/pvh.pandoc, elf note 18), Linux's boot protocol, SDM vol. 3A
 * ch. 10.
 */
#ifndef HV_BOOT_BOOT_H
#define HV_BOOT_BOOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "boot/acpi.h"
#include "kvm/irq.h"
#include "kvm/memory.h"
#include "kvm/vcpu.h"

enum hv_boot_kind { HV_BOOT_AUTO, HV_BOOT_FLAT, HV_BOOT_ELF, HV_BOOT_MULTIBOOT, HV_BOOT_PVH, HV_BOOT_LINUX };

/* Low memory that loaders write for the guest; an image that wants it is refused with a sentence. */
#define HV_BOOT_INFO_ADDR   0x6000ull /* hvm_start_info or multiboot_info and what they point to */
#define HV_BOOT_INFO_SIZE   0x2000ull
#define HV_BOOT_STACK       0x8000ull /* the first stack, one page */
#define HV_BOOT_STACK_SIZE  0x1000ull
#define HV_BOOT_STACK_TOP   0x8ff0ull /* the first RSP: 16-byte aligned, zeros above it end a backtrace */
#define HV_BOOT_TABLES      0x9000ull /* a page with GDT and TSS, then PML4, PDPT and four PDs */
#define HV_BOOT_TABLES_SIZE 0x7000ull
#define HV_BOOT_HIGH_TABLES 0xbfe00000ull /* PDs for RAM above 4 GiB, 2 MiB below the PCI hole; only then */
#define HV_BOOT_CMDLINE     0x20000ull    /* command line with its terminating zero */
#define HV_BOOT_CMDLINE_MAX 0x20000ull
#define HV_BOOT_MODULES_MAX 64

enum hv_entry_mode {
	HV_ENTRY_REAL,      /* real mode, CS base 0, ip = rip */
	HV_ENTRY_PROTECTED, /* flat 32-bit protected mode, no paging (multiboot, PVH, ELF32) */
	HV_ENTRY_LONG,      /* long mode, CPL 0, the first 4 GiB (and all RAM) identity-mapped */
};

struct hv_entry {
	enum hv_boot_kind kind; /* what it was booted as */
	enum hv_entry_mode mode;
	uint64_t rip, rsp;
	uint64_t rax, rbx, rcx, rdx, rsi, rdi;
	enum hv_irqchip irqchip; /* what the image asks for by its note, else AUTO */
};

struct hv_module {
	const void *data; /* borrowed during the call */
	size_t size;
	const char *name; /* its command line */
};

struct hv_boot_request {
	enum hv_boot_kind kind;
	const char *path; /* for sentences */
	const void *data;
	size_t size;
	uint64_t load_addr;  /* flat only */
	const char *cmdline; /* "" for none */
	const struct hv_module *modules;
	unsigned module_count;
	const struct hv_acpi *acpi; /* NULL: the guest gets no ACPI tables; flat ones never do */
	bool without_acpi;          /* acpi only says what there is: the guest gets an MP table */
};

HV_API_BEGIN
/* "auto", "flat", "elf", "multiboot", "pvh", "linux". */
int hv_boot_kind_parse(enum hv_boot_kind *kind, const char *text, struct hv_error *err);
const char *hv_boot_kind_name(enum hv_boot_kind kind);

/*
 * What the bytes are, by content: a multiboot header in the first 8 KiB, else an ELF file with a PVH note,
 * else another ELF file, else a Linux bzImage, else flat. A damaged ELF file (it has the magic) is -EBADMSG,
 * one for another machine -ENOEXEC. *irqchip is what the image needs: its hvkit note when it has one (ELF
 * note, name "hvkit", type 1, u32 enum hv_irqchip), else NONE for flat and FULL for the others.
 */
int hv_boot_probe(const char *path, const void *data, size_t size, enum hv_boot_kind *kind,
		  enum hv_irqchip *irqchip, struct hv_error *err);

/* Loads by request->kind (AUTO probes first) and fills *entry. Guest memory may be half-written on failure.
 */
int hv_boot_load(const struct hv_boot_request *request, struct hv_memory *mem, struct hv_entry *entry,
		 struct hv_error *err);

/* The loaders themselves, one file each: flat.c, elf.c, multiboot.c, pvh.c, linux.c. request->kind is not
 * looked at.
 */
int hv_boot_flat(const struct hv_boot_request *request, struct hv_memory *mem, struct hv_entry *entry,
		 struct hv_error *err);
int hv_boot_elf(const struct hv_boot_request *request, struct hv_memory *mem, struct hv_entry *entry,
		struct hv_error *err);
int hv_boot_multiboot(const struct hv_boot_request *request, struct hv_memory *mem, struct hv_entry *entry,
		      struct hv_error *err);
int hv_boot_pvh(const struct hv_boot_request *request, struct hv_memory *mem, struct hv_entry *entry,
		struct hv_error *err);
int hv_boot_linux(const struct hv_boot_request *request, struct hv_memory *mem, struct hv_entry *entry,
		  struct hv_error *err);

/* Sets regs and sregs of the first vCPU for entry (calls longmode.c for HV_ENTRY_LONG). On the vCPU's thread
 * or before it starts. */
int hv_entry_apply(const struct hv_entry *entry, const struct hv_vcpu *vcpu, struct hv_memory *mem,
		   struct hv_error *err);

/*
 * longmode.c: writes a GDT and page tables that identity-map the first `map_size` bytes (rounded up to 1 GiB,
 * at least 4 GiB, at most 512 GiB) with 2 MiB pages at HV_BOOT_TABLES and HV_BOOT_HIGH_TABLES, and fills
 * sregs for 64-bit CPL 0 with paging on. Only sregs' segment, descriptor-table and control-register fields
 * change.
 */
int hv_longmode_setup(struct hv_memory *mem, uint64_t map_size, struct kvm_sregs *sregs,
		      struct hv_error *err);
/* Flat 32-bit protected mode, paging off; writes a GDT at HV_BOOT_TABLES. */
int hv_protected_setup(struct hv_memory *mem, struct kvm_sregs *sregs, struct hv_error *err);
HV_API_END

#endif
