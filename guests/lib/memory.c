/*
 * memcpy and its kin. A freestanding compiler still emits calls to them (C17 4p6 leaves it that right);
 * string instructions keep them short, and each is one exit-free instruction on hardware.
 */
#include "memory.h"

void *memcpy(void *dst, const void *src, size_t count)
{
	void *to = dst;
	__asm__ volatile("rep movsb" : "+D"(to), "+S"(src), "+c"(count) : : "memory");
	return dst;
}

void *memmove(void *dst, const void *src, size_t count)
{
	if ((uintptr_t)dst - (uintptr_t)src >= count)
		return memcpy(dst, src, count);
	/* The end of src lies inside dst: copy from the end, with the direction flag set. */
	void *to = (uint8_t *)dst + count - 1;
	src = (const uint8_t *)src + count - 1;
	__asm__ volatile("std; rep movsb; cld" : "+D"(to), "+S"(src), "+c"(count) : : "memory");
	return dst;
}

void *memset(void *dst, int value, size_t count)
{
	void *to = dst;
	__asm__ volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(value) : "memory");
	return dst;
}

int memcmp(const void *a, const void *b, size_t count)
{
	const uint8_t *p = a, *q = b;
	for (; count > 0; count--, p++, q++)
		if (*p != *q)
			return *p < *q ? -1 : 1;
	return 0;
}

size_t strlen(const char *s)
{
	const char *end = s;
	while (*end)
		end++;
	return (size_t)(end - s);
}

int strcmp(const char *a, const char *b)
{
	return memcmp(a, b, strlen(a) + 1);
}

int strncmp(const char *a, const char *b, size_t count)
{
	for (; count > 0; count--, a++, b++) {
		if (*a != *b)
			return *a < *b ? -1 : 1;
		if (!*a)
			break;
	}
	return 0;
}

static int digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
		return (c | 0x20) - 'a' + 10;
	return 16;
}

int parse_number(const char **s, uint64_t *out)
{
	const char *p = *s;
	uint64_t base = 10, value = 0;
	if (p[0] == '0' && p[1] == 'x') {
		base = 16;
		p += 2;
	}
	if ((uint64_t)digit(*p) >= base)
		return 0;
	for (; (uint64_t)digit(*p) < base; p++) {
		uint64_t d = (uint64_t)digit(*p);
		if (value > (UINT64_MAX - d) / base)
			return 0;
		value = value * base + d;
	}
	*s = p;
	*out = value;
	return 1;
}
