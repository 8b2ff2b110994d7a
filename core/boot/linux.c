/*
 * Linux: a bzImage is two programs in one file. The first, 16-bit code that a PC's firmware starts, asks the
 * firmware what machine this is; the second is the kernel, packed, with its own unpacker in front. A monitor
 * knows the machine already, so it does the first one's work: it writes the answers into one page, the "zero
 * page" (struct boot_params), and enters the second in 64-bit mode.
 *
 * Kernel and loader understand each other by the setup header, which lies at 0x1f1 in the file and at 0x1f1
 * in the zero page. Half of it is the kernel's (what it needs), half is filled in here (where things were
 * put).
 *
 *	file:    | boot sector | setup, setup_sects sectors | the kernel, syssize * 16 bytes | signature |
 *	memory:  0x6000 zero page ... 0x20000 command line ... kernel + room to unpack ... initrd at the top
 *
 * Everything in the file is hostile: a size is checked against the file, an address against the RAM, before a
 * byte moves. May call acpi.c, layout.c and kvm/memory.h.
 *
 * Rules: the kernel's Documentation/arch/x86/boot.rst, sections "The Real-Mode Kernel Header", "Details of
 * Header Fields", "The Kernel Command Line", "Memory Layout" and "64-bit Boot Protocol", and zero-page.rst.
 */
#include <inttypes.h>
#include <string.h>

#include "base/bytes.h"
#include "boot/layout.h"

/* The setup header, by its offsets in file and zero page; (k) is what the kernel says, (l) what the loader.
 */
#define SETUP_SECTS        0x1f1 /* (k) u8: sectors of setup code; 0 stands for 4 */
#define SYSSIZE            0x1f4 /* (k) u32: the kernel's size in units of 16 bytes */
#define BOOT_FLAG          0x1fe /* (k) u16: 0xaa55, a boot sector's mark */
#define JUMP_LENGTH        0x201 /* (k) u8: the header ends so many bytes behind 0x202 */
#define HEADER_MAGIC       0x202 /* (k) "HdrS" */
#define VERSION            0x206 /* (k) u16: of the protocol, 0x20c for 2.12 */
#define TYPE_OF_LOADER     0x210 /* (l) u8: 0xff, one without a number of its own */
#define LOADFLAGS          0x211 /* (k) u8 */
#define CODE32_START       0x214 /* (l) u32: where the kernel was put */
#define RAMDISK_IMAGE      0x218 /* (l) u32 */
#define RAMDISK_SIZE       0x21c /* (l) u32 */
#define CMD_LINE_PTR       0x228 /* (l) u32 */
#define INITRD_ADDR_MAX    0x22c /* (k) u32: the last byte that the initrd may have */
#define KERNEL_ALIGNMENT   0x230 /* (k) u32 */
#define RELOCATABLE_KERNEL 0x234 /* (k) u8 */
#define XLOADFLAGS         0x236 /* (k) u16 */
#define CMDLINE_SIZE       0x238 /* (k) u32: without the zero that ends it */
#define SETUP_DATA         0x250 /* (l) u64: a list of more to tell; there is none */
#define PREF_ADDRESS       0x258 /* (k) u64: where the kernel would like to be */
#define INIT_SIZE          0x260 /* (k) u32: memory that it needs from there before it can look at the map */
#define HEADER_END         0x264 /* the header of protocol 2.12 reaches to here at least, */
#define HEADER_END_MAX     0x290 /* and the next thing in the zero page starts here */
#define SETUP_HEADER       SETUP_SECTS

#define LOADED_HIGH   0x01   /* LOADFLAGS: a bzImage, whose kernel goes to 1 MiB or above */
#define XLF_KERNEL_64 0x01   /* XLOADFLAGS: has the 64-bit entry point, */
#define ENTRY_64      0x200u /* which is so far behind the kernel's first byte */

/* The rest of the zero page. */
#define ACPI_RSDP    0x070 /* u64 */
#define E820_ENTRIES 0x1e8 /* u8 */
#define E820_TABLE   0x2d0 /* of u64 address, u64 size, u32 type */
#define E820_SIZE    20

#define SECTOR    512u
#define LOW_LIMIT 0x100000ull /* a bzImage's kernel never lies below */

/* An image whose header has been checked, and where its parts go. */
struct bzimage {
	const char *path;
	const uint8_t *data;          /* the file, borrowed */
	uint64_t header_end;          /* of the setup header, in the file */
	uint64_t offset, size;        /* the kernel in the file */
	uint64_t gpa, memory;         /* and in the guest, with the room that it wants to unpack itself */
	uint64_t initrd, initrd_size; /* in the guest */
	uint64_t rsdp;                /* of the ACPI tables there; 0: it gets none */
};

bool hv_linux_magic(const void *data, size_t size)
{
	return hv_inside(HEADER_MAGIC, 4, size) &&
	       memcmp((const uint8_t *)data + HEADER_MAGIC, "HdrS", 4) == 0;
}

/* Is the header there at all, and whole? Afterwards every field above can be read. */
static int check_header(struct bzimage *bz, size_t size, struct hv_error *err)
{
	if (!hv_linux_magic(bz->data, size))
		return hv_fail_unsafe(err, "%s: not a Linux bzImage: no \"HdrS\" at offset 0x%x", bz->path,
				      HEADER_MAGIC);
	if (size < HEADER_END)
		return hv_fail_unsafe(err,
				      "%s: the file ends inside Linux's setup header, after %zu of %d bytes; "
				      "it is truncated",
				      bz->path, size, HEADER_END);
	/* hv:solution lab=10 task=1 */
	if (hv_le16(bz->data + BOOT_FLAG) != 0xaa55)
		return hv_fail_unsafe(err, "%s: boot_flag at offset 0x%x is 0x%04x, not 0xaa55", bz->path,
				      BOOT_FLAG, hv_le16(bz->data + BOOT_FLAG));
	if (hv_le16(bz->data + VERSION) < 0x20c)
		return hv_fail(err, ENOTSUP,
			       "%s: speaks Linux's boot protocol %u.%02u; 2.12 (Linux 3.8) or a later one is "
			       "needed",
			       bz->path, bz->data[VERSION + 1], bz->data[VERSION]);
	bz->header_end = HEADER_MAGIC + (uint64_t)bz->data[JUMP_LENGTH];
	if (bz->header_end < HEADER_END || bz->header_end > size)
		return hv_fail_unsafe(err,
				      "%s: the setup header ends at offset 0x%" PRIx64
				      " (so the byte at 0x%x says), neither behind its own fields nor inside "
				      "the file",
				      bz->path, bz->header_end, JUMP_LENGTH);
	/* hv:end */
	return 0;
}

/* Is it a kernel that can be entered in 64-bit mode, and does the file have all of it? */
static int check_kernel(struct bzimage *bz, size_t size, struct hv_error *err)
{
	/* hv:solution lab=10 task=2 */
	unsigned sectors = bz->data[SETUP_SECTS] ? bz->data[SETUP_SECTS] : 4;

	if (!(bz->data[LOADFLAGS] & LOADED_HIGH))
		return hv_fail(err, ENOTSUP,
			       "%s: a zImage (loadflags at offset 0x%x, bit 0 is clear); build a bzImage",
			       bz->path, LOADFLAGS);
	if (!(hv_le16(bz->data + XLOADFLAGS) & XLF_KERNEL_64))
		return hv_fail(
			err, ENOTSUP,
			"%s: a 32-bit kernel (xloadflags at offset 0x%x, bit 0 is clear); build it for "
			"x86-64",
			bz->path, XLOADFLAGS);
	bz->offset = (uint64_t)(sectors + 1) * SECTOR; /* the boot sector isn't counted */
	bz->size = (uint64_t)hv_le32(bz->data + SYSSIZE) * 16;
	if (!hv_inside(bz->offset, bz->size, size))
		return hv_fail_unsafe(
			err,
			"%s: the kernel's %" PRIu64 " bytes at offset 0x%" PRIx64
			" (syssize at 0x%x, setup_sects at 0x%x) reach past the file's end (%zu "
			"bytes); it is truncated",
			bz->path, bz->size, bz->offset, SYSSIZE, SETUP_SECTS, size);
	if (bz->size <= ENTRY_64)
		return hv_fail_unsafe(err,
				      "%s: the kernel has %" PRIu64
				      " bytes (syssize at offset 0x%x), so no 64-bit entry at 0x%x",
				      bz->path, bz->size, SYSSIZE, ENTRY_64);
	/* hv:end */
	return 0;
}

/*
 * Where the kernel likes to be, or, if it can be moved, at the next address that suits its alignment. There
 * it unpacks itself, for which it wants init_size bytes: nothing else may lie in them, and they must be RAM.
 */
static int place_kernel(struct bzimage *bz, const struct hv_memory *mem, struct hv_error *err)
{
	/* hv:solution lab=10 task=3 */
	uint64_t pref = hv_le64(bz->data + PREF_ADDRESS);
	uint32_t align = hv_le32(bz->data + KERNEL_ALIGNMENT), init_size = hv_le32(bz->data + INIT_SIZE);

	if (bz->data[RELOCATABLE_KERNEL]) {
		if (align == 0 || (align & (align - 1)) != 0)
			return hv_fail_unsafe(
				err, "%s: kernel_alignment at offset 0x%x is 0x%" PRIx32 ", no power of two",
				bz->path, KERNEL_ALIGNMENT, align);
		pref = pref > LOW_LIMIT ? pref : LOW_LIMIT;
		bz->gpa = pref < HV_BOOT_HIGH_TABLES ? hv_round_up(pref, align) : pref;
	} else {
		bz->gpa = pref;
	}
	bz->memory = init_size > bz->size ? init_size : bz->size;
	if (bz->gpa < LOW_LIMIT || !hv_inside(bz->gpa, bz->memory, HV_BOOT_HIGH_TABLES))
		return hv_fail(
			err, EFBIG,
			"%s: the kernel wants %" PRIu64 " bytes at 0x%" PRIx64
			" (pref_address at offset 0x%x, init_size at 0x%x); they must lie between 1 MiB "
			"and 3 GiB",
			bz->path, bz->memory, bz->gpa, PREF_ADDRESS, INIT_SIZE);
	return hv_boot_check_range(mem, HV_ENTRY_LONG, bz->path, "the kernel, with room to unpack itself,",
				   bz->gpa, bz->memory, err);
	/* hv:end */
}

/* The end of the RAM that goes on from the kernel, as far as this file may use it. */
static uint64_t ram_end(const struct bzimage *bz, const struct hv_memory *mem)
{
	uint64_t end = 0;

	for (unsigned i = 0; i < mem->count; i++)
		if (hv_inside(bz->gpa - mem->slots[i].gpa, bz->memory, mem->slots[i].size))
			end = mem->slots[i].gpa + mem->slots[i].size;
	return end < HV_BOOT_HIGH_TABLES ? end : HV_BOOT_HIGH_TABLES;
}

/* The initrd goes as high as it may, out of the way of a kernel that moves itself. */
static int place_initrd(struct bzimage *bz, const struct hv_boot_request *request,
			const struct hv_memory *mem, struct hv_error *err)
{
	const struct hv_module *m = request->modules;
	uint64_t top = ram_end(bz, mem), kernel_end = bz->gpa + bz->memory;

	if (request->module_count == 0)
		return 0;
	if (request->module_count > 1 || (m->name && m->name[0]))
		return hv_fail_usage(
			err,
			"%s: Linux takes one initrd, without a command line of its own; make one "
			"archive (cat a.cpio b.cpio)",
			bz->path);
	/* hv:solution lab=10 task=4 */
	if (top > hv_le32(bz->data + INITRD_ADDR_MAX) + 1ull)
		top = hv_le32(bz->data + INITRD_ADDR_MAX) + 1ull;
	top &= ~(HV_PAGE_SIZE - 1);
	if (top < kernel_end || hv_round_up(kernel_end, HV_PAGE_SIZE) > top ||
	    m->size > top - hv_round_up(kernel_end, HV_PAGE_SIZE))
		return hv_fail(err, ENOMEM,
			       "%s: the initrd (%zu bytes) doesn't fit between the kernel's end at 0x%" PRIx64
			       " and 0x%" PRIx64 "; give the VM more memory (--mem)",
			       bz->path, m->size, kernel_end, top);
	bz->initrd = (top - m->size) & ~(HV_PAGE_SIZE - 1);
	bz->initrd_size = m->size;
	/* hv:end */
	return 0;
}

static int check_cmdline(const struct bzimage *bz, const char *cmdline, struct hv_error *err)
{
	uint32_t max = hv_le32(bz->data + CMDLINE_SIZE);

	if (cmdline && strlen(cmdline) > max)
		return hv_fail_usage(err,
				     "%s: a command line of %zu bytes is too long for this kernel; it takes "
				     "%" PRIu32 " (cmdline_size at offset 0x%x)",
				     bz->path, strlen(cmdline), max, CMDLINE_SIZE);
	return 0;
}

/* The memory map in the form that firmware gives it, function E820 of interrupt 0x15. */
static void write_e820(uint8_t *zero_page, const struct hv_memory *mem)
{
	/* hv:solution lab=10 task=5 */
	struct hv_region map[HV_REGIONS_MAX];
	unsigned count = hv_boot_memory_map(mem, map);

	zero_page[E820_ENTRIES] = (uint8_t)count;
	for (unsigned i = 0; i < count; i++) {
		uint8_t *entry = zero_page + E820_TABLE + i * E820_SIZE;

		hv_put_le64(entry, map[i].gpa);
		hv_put_le64(entry + 8, map[i].size);
		hv_put_le32(entry + 16, map[i].type);
	}
	/* hv:end */
}

/* The kernel's own header goes in first, so that it finds there what it said; then what the loader says. */
static int write_zero_page(const struct bzimage *bz, const struct hv_memory *mem, struct hv_error *err)
{
	uint64_t end = bz->header_end < HEADER_END_MAX ? bz->header_end : HEADER_END_MAX;
	uint8_t *zero_page = hv_memory_at(mem, HV_BOOT_INFO_ADDR, HV_PAGE_SIZE);

	if (!zero_page)
		return hv_fail(err, ENOMEM, "%s: no RAM at 0x%llx for the zero page", bz->path,
			       HV_BOOT_INFO_ADDR);
	memset(zero_page, 0, HV_PAGE_SIZE);
	write_e820(zero_page, mem);
	hv_put_le64(zero_page + ACPI_RSDP, bz->rsdp);
	/* hv:solution lab=10 task=6 */
	memcpy(zero_page + SETUP_HEADER, bz->data + SETUP_HEADER, end - SETUP_HEADER);
	zero_page[TYPE_OF_LOADER] = 0xff;
	hv_put_le32(zero_page + CODE32_START, (uint32_t)bz->gpa);
	hv_put_le32(zero_page + RAMDISK_IMAGE, (uint32_t)bz->initrd);
	hv_put_le32(zero_page + RAMDISK_SIZE, (uint32_t)bz->initrd_size);
	hv_put_le32(zero_page + CMD_LINE_PTR, (uint32_t)HV_BOOT_CMDLINE);
	hv_put_le64(zero_page + SETUP_DATA, 0);
	/* hv:end */
	return 0;
}

static int write_all(struct bzimage *bz, const struct hv_boot_request *request, const struct hv_memory *mem,
		     struct hv_error *err)
{
	int rc = hv_boot_put_cmdline(request, mem, err);

	if (!rc)
		rc = hv_boot_put_acpi(request, mem, &bz->rsdp, err);
	if (!rc)
		rc = write_zero_page(bz, mem, err);
	if (!rc && (hv_memory_write(mem, bz->gpa, bz->data + bz->offset, bz->size) ||
		    (bz->initrd_size &&
		     hv_memory_write(mem, bz->initrd, request->modules[0].data, bz->initrd_size))))
		rc = hv_fail(err, EFAULT, "%s: cannot be copied to guest memory", bz->path);
	return rc;
}

int hv_boot_linux(const struct hv_boot_request *request, struct hv_memory *mem, struct hv_entry *entry,
		  struct hv_error *err)
{
	struct bzimage bz = {.path = request->path, .data = request->data};
	int rc = check_header(&bz, request->size, err);

	memset(entry, 0, sizeof(*entry));
	entry->kind = HV_BOOT_LINUX;
	entry->mode = HV_ENTRY_LONG;
	if (!rc)
		rc = check_kernel(&bz, request->size, err);
	if (!rc)
		rc = place_kernel(&bz, mem, err);
	if (!rc)
		rc = place_initrd(&bz, request, mem, err);
	if (!rc)
		rc = check_cmdline(&bz, request->cmdline, err);
	if (!rc)
		rc = write_all(&bz, request, mem, err);
	if (rc)
		return rc;
	/* hv:solution lab=10 task=7 */
	entry->rip = bz.gpa + ENTRY_64;
	entry->rsi = HV_BOOT_INFO_ADDR;
	entry->rsp = HV_BOOT_STACK_TOP;
	/* hv:end */
	return 0;
}
