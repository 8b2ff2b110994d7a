/*
 * Inside core/boot: AML, the byte code in which ACPI describes devices, as far as a description without
 * methods needs it: scopes, devices, names with constants, and resource lists.
 *
 * A writer appends to a caller's buffer. It never fails on the way: what doesn't fit sets `full`, which is
 * looked at once, at the end. Blocks nest: what aml_open_* returns goes to aml_close.
 */
#ifndef HV_BOOT_AML_H
#define HV_BOOT_AML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct hv_aml {
	uint8_t *bytes; /* the caller's */
	size_t used, size;
	bool full;
};

/* Any bytes; for tables that aren't AML too. */
void hv_aml_bytes(struct hv_aml *a, const void *data, size_t size);

/* name: 4 characters; padded with '_' as AML wants it. */
size_t hv_aml_open_scope(struct hv_aml *a, const char *name);
size_t hv_aml_open_device(struct hv_aml *a, const char *name);
void hv_aml_close(struct hv_aml *a, size_t block);

/* Name (name, value). An EISA id is "PNP0501". */
void hv_aml_name_integer(struct hv_aml *a, const char *name, uint32_t value);
void hv_aml_name_string(struct hv_aml *a, const char *name, const char *value);
void hv_aml_name_eisa_id(struct hv_aml *a, const char *name, const char *id);
/* Name (name, Package () {first, 0, 0, 0}), which is what a sleep state is. */
void hv_aml_name_sleep_state(struct hv_aml *a, const char *name, uint8_t type);

/* Name (_CRS, ResourceTemplate () {...}). */
size_t hv_aml_open_resources(struct hv_aml *a);
void hv_aml_io(struct hv_aml *a, uint16_t port, uint8_t count);
void hv_aml_memory32(struct hv_aml *a, uint32_t gpa, uint32_t size);
void hv_aml_interrupt(struct hv_aml *a, uint32_t gsi); /* edge, active high, not shared */
void hv_aml_close_resources(struct hv_aml *a, size_t block);

#endif
