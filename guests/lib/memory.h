/*
 * The few functions of <string.h> that guests and the compiler itself need.
 */
#ifndef GUEST_MEMORY_H
#define GUEST_MEMORY_H

#include <stddef.h>
#include <stdint.h>

void *memcpy(void *dst, const void *src, size_t count);
void *memmove(void *dst, const void *src, size_t count);
void *memset(void *dst, int value, size_t count);
int memcmp(const void *a, const void *b, size_t count);
size_t strlen(const char *s);
int strcmp(const char *a, const char *b);
int strncmp(const char *a, const char *b, size_t count);

/* Reads a decimal or 0x hexadecimal number at *s and moves *s behind it. 0 when there is none or it
 * overflows. */
int parse_number(const char **s, uint64_t *out);

#endif
