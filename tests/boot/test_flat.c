/*
 * The flat loader, and choosing a loader.
 */
#include "images.h"

static struct hv_memory ram;
static struct hv_error err;

static void setup(void)
{
	ram_init(&ram, 1 << 20);
	memset(&err, 0, sizeof(err));
}

static void teardown(void)
{
	hv_memory_free(&ram);
}

TestSuite(flat, .init = setup, .fini = teardown);

Test(flat, bytes_go_to_the_load_address_and_real_mode_starts_there)
{
	struct hv_boot_request request = {.path = "image", .data = "\xf4", .size = 1, .load_addr = 0x7c00};
	struct hv_entry entry;

	cr_assert_eq(hv_boot_flat(&request, &ram, &entry, &err), 0, "%s", err.text);
	cr_expect_eq(entry.mode, HV_ENTRY_REAL);
	cr_expect_eq(entry.rip, 0x7c00);
	cr_expect_eq(entry.rsp, 0x7c00);
	cr_expect_eq(ram32(&ram, 0x7c00), 0xf4);
}

Test(flat, what_real_mode_cannot_take_is_refused)
{
	struct hv_module module = {"m", 1, "m"};
	struct hv_boot_request good = {.path = "image", .data = "\xf4", .size = 1, .load_addr = 0x1000},
			       request = good;
	struct hv_entry entry;

	request.load_addr = 0x10000;
	assert_refused(hv_boot_flat(&request, &ram, &entry, &err), err, EINVAL, "--load-addr");
	request.load_addr = UINT64_MAX;
	assert_refused(hv_boot_flat(&request, &ram, &entry, &err), err, EINVAL, "--load-addr");
	request = good;
	request.cmdline = "arg";
	assert_refused(hv_boot_flat(&request, &ram, &entry, &err), err, EINVAL, "--append");
	request = good;
	request.modules = &module;
	request.module_count = 1;
	assert_refused(hv_boot_flat(&request, &ram, &entry, &err), err, EINVAL, "--initrd");
	request = good;
	request.size = 0;
	assert_refused(hv_boot_flat(&request, &ram, &entry, &err), err, EBADMSG, "empty");
}

Test(flat, an_image_may_fill_the_ram_and_no_more)
{
	static uint8_t bytes[1 << 20];
	struct hv_boot_request request = {
		.path = "image", .data = bytes, .size = sizeof(bytes) - 0x1000, .load_addr = 0x1000};
	struct hv_entry entry;

	cr_expect_eq(hv_boot_flat(&request, &ram, &entry, &err), 0, "%s", err.text);
	request.size++;
	assert_refused(hv_boot_flat(&request, &ram, &entry, &err), err, ENOMEM, "--mem");
}

Test(load, auto_chooses_by_content_and_a_kind_is_obeyed)
{
	struct image image = image_elf(true);
	struct hv_boot_request request = image_request(&image);
	struct hv_entry entry;

	ram_init(&ram, 4 << 20);
	for (int kind = HV_BOOT_AUTO; kind <= HV_BOOT_ELF; kind++) {
		request.kind = (enum hv_boot_kind)kind;
		cr_assert_eq(hv_boot_load(&request, &ram, &entry, &err), 0, "%s", err.text);
		cr_expect_eq(entry.kind, kind == HV_BOOT_AUTO ? HV_BOOT_ELF : request.kind);
	}
	request.kind = HV_BOOT_MULTIBOOT;
	assert_refused(hv_boot_load(&request, &ram, &entry, &err), err, ENOENT, "multiboot");
	request.kind = HV_BOOT_PVH;
	assert_refused(hv_boot_load(&request, &ram, &entry, &err), err, ENOEXEC, "PVH");
	hv_memory_free(&ram);
}
