/*
 * The Linux loader, with bzImages of 1.75 KiB made here: what a kernel is told, and what is refused. A real
 * kernel is booted by tests/e2e/linux_boot.py.
 */
#include "images.h"

#define KERNEL_AT   0x400u /* in the file: a boot sector and one sector of setup */
#define KERNEL_SIZE 0x300u
#define KERNEL_GPA  0x200000ull
#define INIT_SIZE   0x10000u

struct bzimage {
	uint8_t bytes[KERNEL_AT + KERNEL_SIZE];
};

static struct hv_memory ram;
static struct hv_error err;
static struct hv_entry entry;

static void setup(void)
{
	ram_init(&ram, 4 << 20);
	memset(&err, 0, sizeof(err));
}

static void teardown(void)
{
	hv_memory_free(&ram);
}

TestSuite(linux_image, .init = setup, .fini = teardown);

static struct bzimage sound(void)
{
	struct bzimage bz = {0};

	bz.bytes[0x1f1] = 1;                             /* setup_sects */
	hv_put_le32(bz.bytes + 0x1f4, KERNEL_SIZE / 16); /* syssize */
	hv_put_le16(bz.bytes + 0x1fe, 0xaa55);           /* boot_flag */
	bz.bytes[0x200] = 0xeb;
	bz.bytes[0x201] = 0x6a; /* the header ends at 0x26c */
	memcpy(bz.bytes + 0x202, "HdrS", 4);
	hv_put_le16(bz.bytes + 0x206, 0x20f);      /* version */
	bz.bytes[0x211] = 1;                       /* loadflags: LOADED_HIGH */
	hv_put_le32(bz.bytes + 0x22c, 0x7fffffff); /* initrd_addr_max */
	hv_put_le32(bz.bytes + 0x230, 0x100000);   /* kernel_alignment */
	bz.bytes[0x234] = 1;                       /* relocatable_kernel */
	hv_put_le16(bz.bytes + 0x236, 0x7f);       /* xloadflags */
	hv_put_le32(bz.bytes + 0x238, 15);         /* cmdline_size */
	hv_put_le64(bz.bytes + 0x250, 0x1234);     /* setup_data */
	hv_put_le64(bz.bytes + 0x258, KERNEL_GPA); /* pref_address */
	hv_put_le32(bz.bytes + 0x260, INIT_SIZE);  /* init_size */
	memset(bz.bytes + KERNEL_AT, 0x90, KERNEL_SIZE);
	return bz;
}

static struct hv_boot_request request_of(const struct bzimage *bz)
{
	return (struct hv_boot_request){
		.path = "image", .data = bz->bytes, .size = sizeof(bz->bytes), .cmdline = "console=ttyS0"};
}

static int load(const struct bzimage *bz)
{
	struct hv_boot_request request = request_of(bz);

	return hv_boot_linux(&request, &ram, &entry, &err);
}

static int load_initrd(const struct bzimage *bz, const void *data, size_t size)
{
	struct hv_module module = {data, size, ""};
	struct hv_boot_request request = request_of(bz);

	request.modules = &module;
	request.module_count = 1;
	return hv_boot_linux(&request, &ram, &entry, &err);
}

Test(linux_image, the_kernel_is_entered_at_its_64_bit_entry_with_the_zero_page_in_rsi)
{
	struct bzimage bz = sound();

	cr_assert_eq(load(&bz), 0, "%s", err.text);
	cr_expect_eq(entry.kind, HV_BOOT_LINUX);
	cr_expect_eq(entry.mode, HV_ENTRY_LONG);
	cr_expect_eq(entry.rip, KERNEL_GPA + 0x200);
	cr_expect_eq(entry.rsi, HV_BOOT_INFO_ADDR);
	cr_assert_arr_eq(hv_memory_at(&ram, KERNEL_GPA, KERNEL_SIZE), bz.bytes + KERNEL_AT, KERNEL_SIZE);
}

Test(linux_image, the_zero_page_has_the_kernels_header_and_where_things_were_put)
{
	struct bzimage bz = sound();
	const uint8_t *zero_page = hv_memory_at(&ram, HV_BOOT_INFO_ADDR, HV_PAGE_SIZE);

	cr_assert_eq(load(&bz), 0, "%s", err.text);
	cr_expect_arr_eq(zero_page + 0x202, "HdrS", 4);
	cr_expect_eq(zero_page[0x1ef], 0, "the sentinel says that nothing but the header came from the file");
	cr_expect_eq(zero_page[0x210], 0xff, "type_of_loader");
	cr_expect_eq(hv_le32(zero_page + 0x214), KERNEL_GPA, "code32_start");
	cr_expect_eq(hv_le32(zero_page + 0x218), 0, "no initrd");
	cr_expect_eq(hv_le32(zero_page + 0x228), HV_BOOT_CMDLINE);
	cr_expect_str_eq(ram_string(&ram, HV_BOOT_CMDLINE), "console=ttyS0");
	cr_expect_eq(hv_le64(zero_page + 0x250), 0, "setup_data");
	cr_expect_eq(hv_le32(zero_page + 0x260), INIT_SIZE);
}

Test(linux_image, the_zero_page_says_where_the_acpi_tables_are)
{
	struct bzimage bz = sound();
	struct hv_boot_request request = request_of(&bz);
	struct hv_acpi acpi = {.cpus = 1};

	cr_assert_eq(hv_boot_linux(&request, &ram, &entry, &err), 0, "%s", err.text);
	cr_expect_eq(ram64(&ram, HV_BOOT_INFO_ADDR + 0x70), 0);
	request.acpi = &acpi;
	cr_assert_eq(hv_boot_linux(&request, &ram, &entry, &err), 0, "%s", err.text);
	cr_expect_eq(ram64(&ram, HV_BOOT_INFO_ADDR + 0x70), HV_BOOT_ACPI);
}

Test(linux_image, e820_is_the_layouts_memory_map)
{
	struct bzimage bz = sound();
	const uint8_t *e820 = hv_memory_at(&ram, HV_BOOT_INFO_ADDR + 0x2d0, 80);
	static const uint64_t expected[][3] = {
		{0, 0xa0000, 1},
		{0xa0000, 0x60000, 2},
		{0x100000, 0x300000, 1},
		{HV_IDENTITY_MAP_ADDR, HV_TSS_ADDR + 0x3000 - HV_IDENTITY_MAP_ADDR, 2},
	};

	cr_assert_eq(load(&bz), 0, "%s", err.text);
	cr_expect_eq(ram32(&ram, HV_BOOT_INFO_ADDR + 0x1e8) & 0xff, HV_ARRAY_SIZE(expected));
	for (size_t i = 0; i < HV_ARRAY_SIZE(expected); i++, e820 += 20) {
		cr_expect_eq(hv_le64(e820), expected[i][0]);
		cr_expect_eq(hv_le64(e820 + 8), expected[i][1]);
		cr_expect_eq(hv_le32(e820 + 16), expected[i][2]);
	}
}

Test(linux_image, the_kernel_goes_to_its_preferred_address_rounded_to_its_alignment)
{
	struct bzimage bz = sound();

	hv_put_le64(bz.bytes + 0x258, KERNEL_GPA + 1);
	cr_assert_eq(load(&bz), 0, "%s", err.text);
	cr_expect_eq(entry.rip, KERNEL_GPA + 0x100000 + 0x200);
	bz.bytes[0x234] = 0; /* it can't be moved */
	hv_put_le64(bz.bytes + 0x258, KERNEL_GPA + 0x1000);
	cr_assert_eq(load(&bz), 0, "%s", err.text);
	cr_expect_eq(entry.rip, KERNEL_GPA + 0x1000 + 0x200);
	bz.bytes[0x234] = 1;
	hv_put_le64(bz.bytes + 0x258, 0);
	cr_assert_eq(load(&bz), 0, "%s", err.text);
	cr_expect_eq(entry.rip, 0x100000 + 0x200, "never below 1 MiB");
}

Test(linux_image, setup_sects_0_stands_for_4)
{
	static uint8_t bytes[5 * 512 + KERNEL_SIZE];
	struct bzimage bz = sound();
	struct hv_boot_request request = request_of(&bz);

	memcpy(bytes, bz.bytes, KERNEL_AT);
	memset(bytes + 5 * 512, 0xf4, KERNEL_SIZE);
	bytes[0x1f1] = 0;
	request.data = bytes;
	request.size = sizeof(bytes);
	cr_assert_eq(hv_boot_linux(&request, &ram, &entry, &err), 0, "%s", err.text);
	cr_expect_eq(ram32(&ram, entry.rip), 0xf4f4f4f4);
	request.size--;
	assert_refused(hv_boot_linux(&request, &ram, &entry, &err), err, EBADMSG, "truncated");
}

Test(linux_image, the_initrd_lies_at_the_end_of_ram_and_below_initrd_addr_max)
{
	struct bzimage bz = sound();

	cr_assert_eq(load_initrd(&bz, "initrd", 6), 0, "%s", err.text);
	cr_expect_eq(ram32(&ram, HV_BOOT_INFO_ADDR + 0x218), (4 << 20) - 0x1000);
	cr_expect_eq(ram32(&ram, HV_BOOT_INFO_ADDR + 0x21c), 6);
	cr_assert_arr_eq(hv_memory_at(&ram, (4 << 20) - 0x1000, 6), "initrd", 6);
	hv_put_le32(bz.bytes + 0x22c, 0x2fffff);
	cr_assert_eq(load_initrd(&bz, "initrd", 6), 0, "%s", err.text);
	cr_expect_eq(ram32(&ram, HV_BOOT_INFO_ADDR + 0x218), 0x2ff000);
}

Test(linux_image, an_initrd_may_fill_what_the_kernel_leaves_and_no_more)
{
	static uint8_t big[(2 << 20) - INIT_SIZE + 1];
	struct bzimage bz = sound();

	cr_assert_eq(load_initrd(&bz, big, sizeof(big) - 1), 0, "%s", err.text);
	cr_expect_eq(ram32(&ram, HV_BOOT_INFO_ADDR + 0x218), KERNEL_GPA + INIT_SIZE);
	assert_refused(load_initrd(&bz, big, sizeof(big)), err, ENOMEM, "doesn't fit");
	cr_expect_eq(err.status, HV_EXIT_FAILED);
	hv_put_le32(bz.bytes + 0x22c, 0x1fffff);
	assert_refused(load_initrd(&bz, "x", 1), err, ENOMEM, "doesn't fit");
	hv_put_le32(bz.bytes + 0x22c, 0);
	assert_refused(load_initrd(&bz, "x", 1), err, ENOMEM, "doesn't fit");
}

Test(linux_image, two_initrds_and_one_with_a_command_line_are_refused)
{
	struct bzimage bz = sound();
	struct hv_module modules[2] = {{"a", 1, ""}, {"b", 1, ""}};
	struct hv_boot_request request = request_of(&bz);

	request.modules = modules;
	request.module_count = 2;
	assert_refused(hv_boot_linux(&request, &ram, &entry, &err), err, EINVAL, "one initrd");
	cr_expect_eq(err.status, HV_EXIT_USAGE);
	modules[0].name = "quiet";
	request.module_count = 1;
	assert_refused(hv_boot_linux(&request, &ram, &entry, &err), err, EINVAL, "one initrd");
}

Test(linux_image, the_command_line_may_have_cmdline_size_bytes)
{
	struct bzimage bz = sound();
	struct hv_boot_request request = request_of(&bz);

	request.cmdline = "123456789012345";
	cr_expect_eq(hv_boot_linux(&request, &ram, &entry, &err), 0, "%s", err.text);
	request.cmdline = "1234567890123456";
	assert_refused(hv_boot_linux(&request, &ram, &entry, &err), err, EINVAL, "takes 15");
	cr_expect_eq(err.status, HV_EXIT_USAGE);
	request.cmdline = NULL;
	cr_expect_eq(hv_boot_linux(&request, &ram, &entry, &err), 0, "%s", err.text);
}

Test(linux_image, a_file_cut_anywhere_is_damaged)
{
	struct bzimage bz = sound();
	struct hv_boot_request request = request_of(&bz);

	for (request.size = 0; request.size < sizeof(bz.bytes); request.size++) {
		cr_assert_eq(hv_boot_linux(&request, &ram, &entry, &err), -EBADMSG, "%zu bytes",
			     request.size);
		cr_assert_eq(err.status, HV_EXIT_UNSAFE);
		cr_assert(!strncmp(err.text, "image: ", 7), "%s", err.text);
	}
}

/* One field is changed in a sound image. */
static void refused(size_t at, unsigned width, uint64_t value, int code, const char *part)
{
	struct bzimage bz = sound();

	memcpy(bz.bytes + at, &value, width);
	assert_refused(load(&bz), err, code, part);
	cr_expect_eq(err.status, code == EBADMSG ? HV_EXIT_UNSAFE : HV_EXIT_FAILED, "%s", err.text);
}

Test(linux_image, damaged_headers_are_refused)
{
	refused(0x202, 4, 0x53726449, EBADMSG, "HdrS");
	refused(0x1fe, 2, 0xaa54, EBADMSG, "boot_flag");
	refused(0x201, 1, 0x61, EBADMSG, "header ends");
	refused(0x1f1, 1, 255, EBADMSG, "truncated");
	refused(0x1f1, 1, 0, EBADMSG, "truncated");
	refused(0x1f4, 4, 0xffffffff, EBADMSG, "truncated");
	refused(0x1f4, 4, KERNEL_SIZE / 16 + 1, EBADMSG, "truncated");
	refused(0x1f4, 4, 0x20, EBADMSG, "no 64-bit entry");
	refused(0x1f4, 4, 0, EBADMSG, "no 64-bit entry");
	refused(0x230, 4, 0, EBADMSG, "power of two");
	refused(0x230, 4, 0x180000, EBADMSG, "power of two");
}

Test(linux_image, kernels_of_another_kind_are_refused)
{
	refused(0x206, 2, 0x20b, ENOTSUP, "2.11");
	refused(0x206, 2, 0, ENOTSUP, "0.00");
	refused(0x211, 1, 0, ENOTSUP, "zImage");
	refused(0x236, 2, 0x7e, ENOTSUP, "32-bit");
}

Test(linux_image, addresses_outside_ram_are_refused)
{
	refused(0x258, 8, 4 << 20, ENOMEM, "--mem");
	refused(0x260, 4, 4 << 20, ENOMEM, "--mem");
	refused(0x258, 8, UINT64_MAX, EFBIG, "pref_address");
	refused(0x258, 8, HV_BOOT_HIGH_TABLES - 1, EFBIG, "pref_address");
	refused(0x258, 8, 1ull << 32, EFBIG, "pref_address");
	refused(0x260, 4, UINT32_MAX, EFBIG, "init_size");
	refused(0x230, 4, 0x80000000, ENOMEM, "--mem");
}

Test(linux_image, a_kernel_that_cannot_be_moved_must_not_lie_low)
{
	struct bzimage bz = sound();

	bz.bytes[0x234] = 0;
	hv_put_le64(bz.bytes + 0x258, HV_BOOT_STACK);
	assert_refused(load(&bz), err, EFBIG, "1 MiB");
}

Test(linux_image, the_probe_knows_it)
{
	struct bzimage bz = sound();
	struct hv_boot_request request = request_of(&bz);
	enum hv_boot_kind kind;
	enum hv_irqchip irqchip;

	cr_assert_eq(hv_boot_probe("image", bz.bytes, sizeof(bz.bytes), &kind, &irqchip, &err), 0);
	cr_expect_eq(kind, HV_BOOT_LINUX);
	cr_expect_eq(irqchip, HV_IRQCHIP_FULL);
	cr_expect_eq(hv_boot_load(&request, &ram, &entry, &err), 0, "%s", err.text);
	bz.bytes[0x202] = 'h';
	cr_assert_eq(hv_boot_probe("image", bz.bytes, sizeof(bz.bytes), &kind, &irqchip, &err), 0);
	cr_expect_eq(kind, HV_BOOT_FLAT);
}
