/*
 * ACPI tables: what a VM has, told in the form that an operating system for PCs looks for.
 */
#ifndef HV_BOOT_ACPI_H
#define HV_BOOT_ACPI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* The tables' place: where BIOSes have theirs, so that who is told nothing finds them by searching. */
#define HV_BOOT_ACPI        0xe0000ull
#define HV_BOOT_ACPI_SIZE   0x20000ull
/* In it: where a PC's firmware starts in real mode, FFFF:0000. */
#define HV_BOOT_RESET_ENTRY 0xffff0ull

#define HV_ACPI_CPUS_MAX   255
#define HV_ACPI_VIRTIO_MAX 32

/* A window of virtio-mmio registers and its interrupt, edge-triggered. */
struct hv_acpi_virtio {
	uint32_t gpa, size, gsi;
};

/* What is described. core/machine fills it in, which knows where devices are; a port of 0: there is none. */
struct hv_acpi {
	unsigned cpus;       /* APIC ids 0 to cpus - 1 */
	bool legacy;         /* a PIC, and a PIT at the IOAPIC's pin 0, are there */
	uint16_t sleep_port; /* sleep control register; the sleep status register follows it */
	uint8_t sleep_off;   /* the sleep type that turns the VM off: 0 to 7 */
	uint16_t reset_port;
	uint8_t reset_value;
	uint16_t serial_port; /* a 16550 with 8 registers */
	uint8_t serial_gsi;
	uint16_t rtc_port;
	uint16_t panic_port; /* pvpanic */
	const struct hv_acpi_virtio *virtio;
	unsigned virtio_count;
};

#define HV_ACPI_BYTES_MAX 0x4000

/* The tables as they lie in guest memory from gpa on, the RSDP first. */
struct hv_acpi_tables {
	uint8_t bytes[HV_ACPI_BYTES_MAX];
	size_t used;
};

HV_API_BEGIN
/* Writes all tables for the place gpa (a multiple of 16, below 4 GiB). -EINVAL: more CPUs or windows than the
 * tables hold. */
int hv_acpi_build(const struct hv_acpi *acpi, uint64_t gpa, struct hv_acpi_tables *out, struct hv_error *err);
HV_API_END

#endif
