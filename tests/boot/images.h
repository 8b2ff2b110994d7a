/*
 * Images made by the tests: small ELF files with one segment that can be damaged field by field.
 */
#ifndef TESTS_BOOT_IMAGES_H
#define TESTS_BOOT_IMAGES_H

#include <criterion/criterion.h>
#include <elf.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/bytes.h"
#include "boot/boot.h"

#define IMAGE_CODE  0x1000u     /* where the code is in the file, */
#define IMAGE_BASE  0x100000ull /* and in the guest */
#define IMAGE_FILE  0x200u      /* bytes of it in the file, */
#define IMAGE_MEM   0x3000u     /* and in memory */
#define IMAGE_NOTES 0x800u      /* where notes are put in the file */

struct image {
	uint8_t bytes[0x1400];
	size_t size;
	bool is64;
	unsigned phnum;
};

/* A sound ELF file: one PT_LOAD from IMAGE_CODE to IMAGE_BASE, filled with 0x90 (nop), entered at its start.
 */
struct image image_elf(bool is64);

/* Appends a program header and returns its number. */
unsigned image_add_phdr(struct image *image, uint32_t type, uint64_t offset, uint64_t vaddr, uint64_t paddr,
			uint64_t filesz, uint64_t memsz);

/* Appends a PT_NOTE at IMAGE_NOTES with one note whose value has `size` bytes (4 or 8). */
void image_add_note(struct image *image, const char *name, uint32_t type, uint64_t value, unsigned size);

/* Sets e_entry. */
void image_set_entry(struct image *image, uint64_t entry);

/* Puts code at the entry point. */
void image_set_code(struct image *image, const void *code, size_t size);

/* A multiboot header at `at`; addresses may be NULL, else header, load, load end, bss end and entry. */
void image_add_multiboot(struct image *image, size_t at, uint32_t flags, const uint32_t addresses[5]);

struct hv_boot_request image_request(const struct image *image);

/* Fresh memory of `size` bytes of RAM without a VM. */
void ram_init(struct hv_memory *mem, uint64_t size);

uint32_t ram32(const struct hv_memory *mem, uint64_t gpa);
uint64_t ram64(const struct hv_memory *mem, uint64_t gpa);
const char *ram_string(const struct hv_memory *mem, uint64_t gpa);

/* The load fails with -errnum and its sentence contains `part`. */
#define assert_refused(expression, error, errnum, part)                                                      \
	do {                                                                                                 \
		int rc_ = (expression);                                                                      \
		cr_expect_eq(rc_, -(errnum), "%s gives %d: %s", part, rc_, (error).text);                    \
		cr_expect(strstr((error).text, (part)), "\"%s\" is not in: %s", (part), (error).text);       \
	} while (0)

#endif
