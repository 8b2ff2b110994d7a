/*
 * ACPI tables. An operating system finds the RSDP, by its address or by a search in the BIOS area, goes on
 * to the XSDT, and from there to all others:
 *
 *	FADT  the machine is "hardware-reduced": none of the fixed power management of old PCs; registers
 *	      for power-off and reset; and where the DSDT is
 *	MADT  interrupts: the CPUs' local APICs, the IOAPIC, and where it differs from an AT
 *	SPCR  the serial port is the console
 *	DSDT  the devices that can't be found by looking, in AML (aml.c)
 *
 * Nothing in them is the guest's to choose, so all that can go wrong is that they don't fit.
 *
 * May call aml.c, layout.c and kvm/memory.h.
 * Rules: ACPI 6.4, sections 5.2.5 (RSDP), 5.2.8 (XSDT), 5.2.9 (FADT), 5.2.12 (MADT), 4.1 and 4.8.3.7
 * (hardware-reduced, sleep registers); Microsoft's SPCR specification, revision 2; the kernel's
 * drivers/virtio/virtio_mmio.c (LNRO0005); QEMU, docs/specs/pvpanic.txt.
 */
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "boot/acpi.h"
#include "boot/aml.h"
#include "boot/layout.h"

#define HEADER_SIZE 36
#define FADT_SIZE   276
#define SPCR_SIZE   80
#define RSDP_SIZE   36

#define LAPIC_ADDRESS  0xfee00000u
#define IOAPIC_ADDRESS 0xfec00000u

/* FADT. */
#define FLAG_WBINVD       (1u << 0)
#define FLAG_C1           (1u << 2)
#define FLAG_NO_POWER_KEY (1u << 4)
#define FLAG_NO_SLEEP_KEY (1u << 5)
#define FLAG_RESET        (1u << 10)
#define FLAG_HEADLESS     (1u << 12)
#define FLAG_REDUCED      (1u << 20)
#define BOOT_LEGACY       (1u << 0) /* ISA devices: the serial port */
#define BOOT_NO_VGA       (1u << 2)

#define SPACE_IO 1 /* a register's address is a port */

/* --- tables --- */

static uint8_t checksum(const uint8_t *bytes, size_t size)
{
	uint8_t sum = 0;

	for (size_t i = 0; i < size; i++)
		sum = (uint8_t)(sum + bytes[i]);
	return (uint8_t)-sum; /* makes the whole sum up to 0 */
}

/* Letters without the zero that ends a string: fields of fixed lengths. */
static void put_text(uint8_t *at, const char *text)
{
	while (*text)
		*at++ = (uint8_t)*text++;
}

/* The header that all tables but the RSDP have; length and checksum come when the table is closed. */
static size_t open_table(struct hv_aml *a, const char *signature, uint8_t revision)
{
	static const uint8_t zeros[16];
	uint8_t header[HEADER_SIZE] = {0};
	size_t at;

	hv_aml_bytes(a, zeros, -a->used & 15);
	at = a->used;
	put_text(header, signature);
	header[8] = revision;
	put_text(header + 10, "HVKIT HVKIT   "); /* OEM, OEM's name of the table */
	hv_put_le32(header + 24, 1);
	put_text(header + 28, "HVKT"); /* who made it, and his version */
	hv_put_le32(header + 32, 1);
	hv_aml_bytes(a, header, sizeof(header));
	return at;
}

static void close_table(struct hv_aml *a, size_t at)
{
	if (a->full)
		return;
	hv_put_le32(a->bytes + at + 4, (uint32_t)(a->used - at));
	a->bytes[at + 9] = checksum(a->bytes + at, a->used - at);
}

/* A register's address in ACPI's generic form: one byte wide, at a port. */
static void put_port(uint8_t *at, uint16_t port)
{
	at[0] = SPACE_IO;
	at[1] = 8; /* bits */
	at[3] = 1; /* accessed by the byte */
	hv_put_le64(at + 4, port);
}

static size_t add_fadt(struct hv_aml *a, const struct hv_acpi *acpi, uint64_t dsdt)
{
	uint32_t flags = FLAG_WBINVD | FLAG_C1 | FLAG_NO_POWER_KEY | FLAG_NO_SLEEP_KEY | FLAG_HEADLESS |
			 FLAG_REDUCED | (acpi->reset_port ? FLAG_RESET : 0);
	size_t at = open_table(a, "FACP", 6);
	uint8_t t[FADT_SIZE] = {0};

	hv_put_le32(t + 40, (uint32_t)dsdt);
	hv_put_le16(t + 109, BOOT_LEGACY | BOOT_NO_VGA);
	hv_put_le32(t + 112, flags);
	if (acpi->reset_port) {
		put_port(t + 116, acpi->reset_port);
		t[128] = acpi->reset_value;
	}
	t[131] = 4; /* minor version */
	hv_put_le64(t + 140, dsdt);
	if (acpi->sleep_port) {
		put_port(t + 244, acpi->sleep_port);
		put_port(t + 256, (uint16_t)(acpi->sleep_port + 1));
	}
	put_text(t + 268, "hvkit");
	hv_aml_bytes(a, t + HEADER_SIZE, sizeof(t) - HEADER_SIZE);
	close_table(a, at);
	return at;
}

static size_t add_madt(struct hv_aml *a, const struct hv_acpi *acpi)
{
	size_t at = open_table(a, "APIC", 5);
	uint8_t head[8], ioapic[12] = {1, 12, 0}, timer[10] = {2, 10, 0, 0}, nmi[6] = {4, 6, 0xff, 0, 0, 1};

	hv_put_le32(head, LAPIC_ADDRESS);
	hv_put_le32(head + 4, acpi->legacy); /* a PIC that is to be masked */
	hv_aml_bytes(a, head, sizeof(head));
	for (unsigned i = 0; i < acpi->cpus; i++) {
		uint8_t lapic[8] = {0, 8, (uint8_t)i, (uint8_t)i, 1}; /* enabled */

		hv_aml_bytes(a, lapic, sizeof(lapic));
	}
	hv_put_le32(ioapic + 4, IOAPIC_ADDRESS); /* its first pin is GSI 0 */
	hv_aml_bytes(a, ioapic, sizeof(ioapic));
	/* Where many PCs have the timer at pin 2, KVM has it at 0. The rest is as on an AT: pin n is IRQ n,
	 * edge, active high. */
	hv_put_le32(timer + 4, 0);
	hv_put_le16(timer + 8, 1 << 2 | 1); /* edge, active high */
	if (acpi->legacy)
		hv_aml_bytes(a, timer, sizeof(timer));
	hv_aml_bytes(a, nmi, sizeof(nmi)); /* all CPUs, LINT1 */
	close_table(a, at);
	return at;
}

static size_t add_spcr(struct hv_aml *a, const struct hv_acpi *acpi)
{
	size_t at = open_table(a, "SPCR", 2);
	uint8_t t[SPCR_SIZE] = {0};

	put_port(t + 40, acpi->serial_port); /* interface type 0: a 16550 */
	t[52] = 2;                           /* its interrupt is at the IOAPIC, */
	t[53] = acpi->serial_gsi;
	hv_put_le32(t + 54, acpi->serial_gsi);
	t[58] = 7;                       /* 115200 bits a second */
	t[60] = 1;                       /* stop bit */
	t[62] = 3;                       /* an ANSI terminal */
	hv_put_le32(t + 64, UINT32_MAX); /* no PCI device */
	hv_aml_bytes(a, t + HEADER_SIZE, sizeof(t) - HEADER_SIZE);
	close_table(a, at);
	return at;
}

/* --- devices --- */

static void add_serial(struct hv_aml *a, const struct hv_acpi *acpi)
{
	size_t device = hv_aml_open_device(a, "COM0"), resources;

	hv_aml_name_eisa_id(a, "_HID", "PNP0501");
	hv_aml_name_integer(a, "_UID", 0);
	resources = hv_aml_open_resources(a);
	hv_aml_io(a, acpi->serial_port, 8);
	hv_aml_interrupt(a, acpi->serial_gsi);
	hv_aml_close_resources(a, resources);
	hv_aml_close(a, device);
}

/* The clock's interrupt isn't wired, so none is named. */
static void add_rtc(struct hv_aml *a, const struct hv_acpi *acpi)
{
	size_t device = hv_aml_open_device(a, "RTC"), resources;

	hv_aml_name_eisa_id(a, "_HID", "PNP0B00");
	resources = hv_aml_open_resources(a);
	hv_aml_io(a, acpi->rtc_port, 2);
	hv_aml_close_resources(a, resources);
	hv_aml_close(a, device);
}

static void add_panic(struct hv_aml *a, const struct hv_acpi *acpi)
{
	size_t device = hv_aml_open_device(a, "PEVT"), resources;

	hv_aml_name_string(a, "_HID", "QEMU0001");
	resources = hv_aml_open_resources(a);
	hv_aml_io(a, acpi->panic_port, 1);
	hv_aml_close_resources(a, resources);
	hv_aml_close(a, device);
}

static void add_virtio(struct hv_aml *a, unsigned i, const struct hv_acpi_virtio *window)
{
	char name[8];
	size_t device, resources;

	snprintf(name, sizeof(name), "VR%02X", i & 0xff);
	device = hv_aml_open_device(a, name);
	hv_aml_name_string(a, "_HID", "LNRO0005");
	hv_aml_name_integer(a, "_UID", i);
	resources = hv_aml_open_resources(a);
	hv_aml_memory32(a, window->gpa, window->size);
	hv_aml_interrupt(a, window->gsi);
	hv_aml_close_resources(a, resources);
	hv_aml_close(a, device);
}

static size_t add_dsdt(struct hv_aml *a, const struct hv_acpi *acpi)
{
	size_t at = open_table(a, "DSDT", 2), scope;

	if (acpi->sleep_port)
		hv_aml_name_sleep_state(a, "_S5", acpi->sleep_off);
	scope = hv_aml_open_scope(a, "_SB");
	if (acpi->serial_port)
		add_serial(a, acpi);
	if (acpi->rtc_port)
		add_rtc(a, acpi);
	if (acpi->panic_port)
		add_panic(a, acpi);
	for (unsigned i = 0; i < acpi->virtio_count; i++)
		add_virtio(a, i, &acpi->virtio[i]);
	hv_aml_close(a, scope);
	close_table(a, at);
	return at;
}

/* --- the whole --- */

static size_t add_xsdt(struct hv_aml *a, const uint64_t *tables, unsigned count)
{
	size_t at = open_table(a, "XSDT", 1);

	for (unsigned i = 0; i < count; i++) {
		uint8_t entry[8];

		hv_put_le64(entry, tables[i]);
		hv_aml_bytes(a, entry, sizeof(entry));
	}
	close_table(a, at);
	return at;
}

static void write_rsdp(uint8_t *rsdp, uint64_t xsdt)
{
	put_text(rsdp, "RSD PTR ");
	put_text(rsdp + 9, "HVKIT ");
	rsdp[15] = 2; /* revision */
	hv_put_le32(rsdp + 20, RSDP_SIZE);
	hv_put_le64(rsdp + 24, xsdt);
	rsdp[8] = checksum(rsdp, 20); /* of what ACPI 1.0 had, */
	rsdp[32] = checksum(rsdp, RSDP_SIZE);
}

int hv_acpi_build(const struct hv_acpi *acpi, uint64_t gpa, struct hv_acpi_tables *out, struct hv_error *err)
{
	struct hv_aml a = {.bytes = out->bytes, .size = sizeof(out->bytes)};
	uint8_t rsdp[RSDP_SIZE] = {0};
	uint64_t tables[3], dsdt, xsdt;
	unsigned count = 0;

	if (acpi->cpus == 0 || acpi->cpus > HV_ACPI_CPUS_MAX || acpi->virtio_count > HV_ACPI_VIRTIO_MAX)
		return hv_fail(err, EINVAL, "ACPI tables for %u CPUs and %u virtio devices can't be made",
			       acpi->cpus, acpi->virtio_count);
	hv_aml_bytes(&a, rsdp, sizeof(rsdp));
	dsdt = gpa + add_dsdt(&a, acpi);
	tables[count++] = gpa + add_fadt(&a, acpi, dsdt);
	tables[count++] = gpa + add_madt(&a, acpi);
	if (acpi->serial_port)
		tables[count++] = gpa + add_spcr(&a, acpi);
	xsdt = gpa + add_xsdt(&a, tables, count);
	if (a.full)
		return hv_fail(err, EINVAL, "the ACPI tables don't fit into %zu bytes", a.size);
	write_rsdp(out->bytes, xsdt);
	out->used = a.used;
	return 0;
}

/*
 * On a hardware-reduced machine Linux leaves the reset to its firmware, and where it knows of none, it does
 * what PCs did before ACPI: back to real mode, and a jump to FFFF:0000. There it finds these instructions:
 * mov dx, port; mov al, value; out dx, al; again: hlt; jmp again.
 */
static int write_reset_entry(const struct hv_memory *mem, const struct hv_acpi *acpi)
{
	const uint8_t low = (uint8_t)acpi->reset_port, high = (uint8_t)(acpi->reset_port >> 8);
	const uint8_t code[] = {0xba, low, high, 0xb0, acpi->reset_value, 0xee, 0xf4, 0xeb, 0xfd};

	return acpi->reset_port ? hv_memory_write(mem, HV_BOOT_RESET_ENTRY, code, sizeof(code)) : 0;
}

int hv_boot_put_acpi(const struct hv_boot_request *request, const struct hv_memory *mem, uint64_t *rsdp,
		     struct hv_error *err)
{
	struct hv_acpi_tables tables = {0};
	int rc;

	*rsdp = 0;
	if (!request->acpi || !hv_memory_at(mem, HV_BOOT_ACPI, HV_BOOT_ACPI_SIZE))
		return 0;
	if (request->without_acpi)
		return hv_boot_put_mp(request, mem, err);
	rc = hv_acpi_build(request->acpi, HV_BOOT_ACPI, &tables, err);
	if (rc)
		return rc;
	if (hv_memory_write(mem, HV_BOOT_ACPI, tables.bytes, tables.used) ||
	    write_reset_entry(mem, request->acpi))
		return hv_fail(err, EFAULT, "%s: the ACPI tables cannot be copied to guest memory",
			       request->path);
	*rsdp = HV_BOOT_ACPI;
	return 0;
}
