/*
 * The ACPI tables, walked as an operating system walks them, and read by ACPICA's own disassembler.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "boot/aml.h"
#include "images.h"

#define AT 0xe0000u

static const struct hv_acpi_virtio windows[] = {{0xd0000000, 0x200, 16}, {0xd0001000, 0x200, 17}};
static struct hv_acpi_tables tables;
static struct hv_error err;

static struct hv_acpi whole(void)
{
	return (struct hv_acpi){
		.cpus = 4,
		.legacy = true,
		.sleep_port = 0x600,
		.sleep_off = 5,
		.reset_port = 0x602,
		.reset_value = 0x42,
		.serial_port = 0x3f8,
		.serial_gsi = 4,
		.rtc_port = 0x70,
		.panic_port = 0x505,
		.virtio = windows,
		.virtio_count = 2,
	};
}

static void build(const struct hv_acpi *acpi)
{
	memset(&tables, 0xa5, sizeof(tables));
	cr_assert_eq(hv_acpi_build(acpi, AT, &tables, &err), 0, "%s", err.text);
}

static unsigned sum(const uint8_t *bytes, size_t size)
{
	unsigned s = 0;

	for (size_t i = 0; i < size; i++)
		s += bytes[i];
	return s & 0xff;
}

/* The table at a guest-physical address, checked as a whole. */
static const uint8_t *table_at(uint64_t gpa, const char *signature)
{
	const uint8_t *t = tables.bytes + (gpa - AT);

	cr_assert(gpa >= AT && gpa - AT + 36 <= tables.used, "0x%lx", (unsigned long)gpa);
	cr_assert_eq(gpa % 16, 0);
	cr_assert_arr_eq(t, signature, 4);
	cr_assert_leq(gpa - AT + hv_le32(t + 4), tables.used);
	cr_expect_eq(sum(t, hv_le32(t + 4)), 0, "checksum of %s", signature);
	return t;
}

static const uint8_t *xsdt(void)
{
	cr_assert_arr_eq(tables.bytes, "RSD PTR ", 8);
	cr_expect_eq(sum(tables.bytes, 20), 0);
	cr_expect_eq(sum(tables.bytes, 36), 0);
	cr_expect_eq(tables.bytes[15], 2);
	cr_expect_eq(hv_le32(tables.bytes + 20), 36);
	return table_at(hv_le64(tables.bytes + 24), "XSDT");
}

static const uint8_t *find(unsigned i, const char *signature)
{
	return table_at(hv_le64(xsdt() + 36 + (size_t)i * 8), signature);
}

Test(acpi, the_xsdt_names_three_tables)
{
	struct hv_acpi acpi = whole();

	build(&acpi);
	cr_expect_eq(hv_le32(xsdt() + 4), 36 + 3 * 8);
	find(0, "FACP");
	find(1, "APIC");
	find(2, "SPCR");
	acpi.serial_port = 0;
	build(&acpi);
	cr_expect_eq(hv_le32(xsdt() + 4), 36 + 2 * 8, "no serial port, no console");
}

Test(acpi, the_fadt_is_hardware_reduced_and_turns_off_and_resets_by_ports)
{
	static const uint8_t sleep[12] = {1, 8, 0, 1, 0x00, 0x06}, status[12] = {1, 8, 0, 1, 0x01, 0x06};
	static const uint8_t reset[12] = {1, 8, 0, 1, 0x02, 0x06}, none[12] = {0};
	struct hv_acpi acpi = whole();
	const uint8_t *fadt;

	build(&acpi);
	fadt = find(0, "FACP");
	cr_expect_eq(hv_le32(fadt + 4), 276);
	cr_expect(hv_le32(fadt + 112) >> 20 & 1, "HW_REDUCED_ACPI");
	cr_expect(hv_le32(fadt + 112) >> 10 & 1, "RESET_REG_SUP");
	cr_expect_arr_eq(fadt + 116, reset, 12);
	cr_expect_eq(fadt[128], 0x42);
	cr_expect_arr_eq(fadt + 244, sleep, 12);
	cr_expect_arr_eq(fadt + 256, status, 12);
	cr_expect_eq(hv_le32(fadt + 40), hv_le64(fadt + 140));
	table_at(hv_le64(fadt + 140), "DSDT");
	acpi.reset_port = acpi.sleep_port = 0;
	build(&acpi);
	fadt = find(0, "FACP");
	cr_expect_not(hv_le32(fadt + 112) >> 10 & 1);
	cr_expect_arr_eq(fadt + 116, none, 12);
	cr_expect_arr_eq(fadt + 244, none, 12);
}

Test(acpi, the_madt_has_all_cpus_the_ioapic_and_the_timers_pin)
{
	static const unsigned counts[] = {1, 4, 64, HV_ACPI_CPUS_MAX};
	struct hv_acpi acpi = whole();

	for (size_t c = 0; c < HV_ARRAY_SIZE(counts); c++) {
		unsigned kinds[5] = {0};
		const uint8_t *madt;

		acpi.cpus = counts[c];
		build(&acpi);
		madt = find(1, "APIC");
		cr_expect_eq(hv_le32(madt + 36), 0xfee00000);
		cr_expect_eq(hv_le32(madt + 40), 1);
		for (uint32_t at = 44; at < hv_le32(madt + 4); at += madt[at + 1]) {
			cr_assert(madt[at] < 5 && madt[at + 1] >= 6);
			if (madt[at] == 0)
				cr_expect_eq(madt[at + 3], kinds[0], "APIC ids count from 0");
			if (madt[at] == 1)
				cr_expect_eq(hv_le32(madt + at + 4), 0xfec00000);
			if (madt[at] == 2)
				cr_expect_eq(hv_le32(madt + at + 4), 0, "IRQ 0 is GSI 0");
			kinds[madt[at]]++;
		}
		cr_expect_eq(kinds[0], counts[c]);
		cr_expect_eq(kinds[1], 1);
		cr_expect_eq(kinds[2], 1);
		cr_expect_eq(kinds[4], 1);
	}
	acpi.legacy = false;
	build(&acpi);
	cr_expect_eq(hv_le32(find(1, "APIC") + 40), 0, "no PIC");
}

Test(acpi, what_does_not_fit_is_refused)
{
	struct hv_acpi acpi = whole();

	acpi.cpus = HV_ACPI_CPUS_MAX + 1;
	assert_refused(hv_acpi_build(&acpi, AT, &tables, &err), err, EINVAL, "256 CPUs");
	acpi.cpus = 0;
	assert_refused(hv_acpi_build(&acpi, AT, &tables, &err), err, EINVAL, "0 CPUs");
	acpi = whole();
	acpi.virtio_count = HV_ACPI_VIRTIO_MAX + 1;
	assert_refused(hv_acpi_build(&acpi, AT, &tables, &err), err, EINVAL, "33 virtio");
}

Test(acpi, a_full_buffer_is_noticed_and_never_left)
{
	uint8_t bytes[24];

	for (size_t size = 0; size < 20; size++) {
		struct hv_aml a = {.bytes = bytes, .size = size};
		size_t block, resources;

		memset(bytes, 0xa5, sizeof(bytes));
		block = hv_aml_open_device(&a, "X");
		resources = hv_aml_open_resources(&a);
		hv_aml_io(&a, 1, 1);
		hv_aml_close_resources(&a, resources);
		hv_aml_close(&a, block);
		cr_expect(a.full, "%zu bytes", size);
		for (size_t i = size; i < sizeof(bytes); i++)
			cr_assert_eq(bytes[i], 0xa5);
	}
}

/* Writes one table and has it disassembled; returns the text. */
static char *disassemble(const char *dir, const char *name, const uint8_t *table)
{
	static char text[1 << 20];
	char path[256], command[600];
	size_t size;
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s.dat", dir, name);
	f = fopen(path, "w");
	cr_assert(f && fwrite(table, 1, hv_le32(table + 4), f) == hv_le32(table + 4) && fclose(f) == 0);
	snprintf(command, sizeof(command),
		 "cd %s && iasl -d %s.dat >%s.log 2>&1 && ! grep -iE 'error|invalid' %s.dsl", dir, name, name,
		 name);
	cr_assert_eq(system(command), 0, "iasl does not like %s", name);
	snprintf(path, sizeof(path), "%s/%s.dsl", dir, name);
	f = fopen(path, "r");
	cr_assert(f);
	size = fread(text, 1, sizeof(text) - 1, f);
	text[size] = '\0';
	fclose(f);
	return text;
}

static bool have_iasl(void)
{
	return system("command -v iasl >/dev/null 2>&1") == 0;
}

Test(acpi, acpicas_disassembler_reads_them_without_an_error, .timeout = 60)
{
	char dir[] = "/tmp/hv-acpi-XXXXXX", command[64];
	struct hv_acpi acpi = whole();
	const uint8_t *fadt;
	const char *text;

	if (!have_iasl())
		cr_skip_test("iasl is not installed (acpica-tools)");
	cr_assert(mkdtemp(dir));
	build(&acpi);
	fadt = find(0, "FACP");
	text = disassemble(dir, "dsdt", table_at(hv_le64(fadt + 140), "DSDT"));
	cr_expect(strstr(text, "Name (_HID, EisaId (\"PNP0501\")"), "%s", text);
	cr_expect(strstr(text, "Name (_HID, EisaId (\"PNP0B00\")"), "%s", text);
	cr_expect(strstr(text, "Name (_HID, \"QEMU0001\")"), "%s", text);
	cr_expect(strstr(text, "Device (VR01)"), "%s", text);
	cr_expect(strstr(text, "0xD0001000"), "%s", text);
	cr_expect(strstr(text, "Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive"), "%s", text);
	cr_expect(strstr(text, "Name (_S5, Package (0x04)"), "%s", text);
	/* What was disassembled compiles again. */
	snprintf(command, sizeof(command), "cd %s && iasl dsdt.dsl >log 2>&1", dir);
	cr_expect_eq(system(command), 0);
	text = disassemble(dir, "facp", fadt);
	cr_expect(strstr(text, "Hardware Reduced (V5) : 1"), "%s", text);
	disassemble(dir, "apic", find(1, "APIC"));
	text = disassemble(dir, "spcr", find(2, "SPCR"));
	cr_expect(strstr(text, "Baud Rate : 07"), "%s", text);
	snprintf(command, sizeof(command), "rm -r %s", dir);
	cr_expect_eq(system(command), 0);
}

/* Where loaders put them, and who is told. */
static struct hv_memory ram;

static void teardown(void)
{
	hv_memory_free(&ram);
}

TestSuite(acpi_place, .fini = teardown);

Test(acpi_place, kernels_find_the_rsdp_by_start_info_or_in_the_bios_area)
{
	struct image image = image_elf(true);
	struct hv_boot_request request = image_request(&image);
	struct hv_acpi acpi = whole();
	struct hv_entry entry;

	ram_init(&ram, 4 << 20);
	request.acpi = &acpi;
	cr_assert_eq(hv_boot_elf(&request, &ram, &entry, &err), 0, "%s", err.text);
	cr_expect_eq(ram64(&ram, HV_BOOT_INFO_ADDR + 32), AT, "rsdp_paddr");
	cr_assert_arr_eq(hv_memory_at(&ram, AT, 8), "RSD PTR ", 8);
	cr_assert_arr_eq(hv_memory_at(&ram, 0xffff0, 9), "\xba\x02\x06\xb0\x42\xee\xf4\xeb\xfd", 9,
			 "mov dx, 0x602; mov al, 0x42; out dx, al; hlt; jmp to it");
	request.acpi = NULL;
	cr_assert_eq(hv_boot_elf(&request, &ram, &entry, &err), 0, "%s", err.text);
	cr_expect_eq(ram64(&ram, HV_BOOT_INFO_ADDR + 32), 0);
}

Test(acpi_place, a_vm_without_ram_there_gets_none)
{
	struct image image = image_elf(true);
	struct hv_boot_request request = image_request(&image);
	struct hv_acpi acpi = whole();
	struct hv_entry entry;

	hv_put_le64(image.bytes + 64 + 16, 0x40000);
	hv_put_le64(image.bytes + 64 + 24, 0x40000);
	image_set_entry(&image, 0x40000);
	ram_init(&ram, 512 << 10);
	request.acpi = &acpi;
	cr_assert_eq(hv_boot_elf(&request, &ram, &entry, &err), 0, "%s", err.text);
	cr_expect_eq(ram64(&ram, HV_BOOT_INFO_ADDR + 32), 0);
}

Test(acpi_place, an_image_that_wants_their_place_is_refused)
{
	struct image image = image_elf(true);
	struct hv_boot_request request = image_request(&image);
	struct hv_entry entry;

	hv_put_le64(image.bytes + 64 + 24, 0xe3fff);
	ram_init(&ram, 4 << 20);
	assert_refused(hv_boot_elf(&request, &ram, &entry, &err), err, EADDRINUSE, "the ACPI tables");
	hv_put_le64(image.bytes + 64 + 24, 0xfffff);
	assert_refused(hv_boot_elf(&request, &ram, &entry, &err), err, EADDRINUSE, "the entry of a reset");
}

/* A linker that is told -Ttext=0x100000 puts the ELF header's page below. */
Test(acpi_place, a_header_below_1_mib_is_not_in_their_way)
{
	struct image image = image_elf(true);
	struct hv_boot_request request = image_request(&image);
	struct hv_entry entry;

	hv_put_le64(image.bytes + 64 + 24, 0xfc000);
	ram_init(&ram, 4 << 20);
	cr_expect_eq(hv_boot_elf(&request, &ram, &entry, &err), 0, "%s", err.text);
}
