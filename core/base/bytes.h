/*
 * Byte order: loads and stores of unaligned little- and big-endian integers. Guest structures, images and
 * streams are read with these, never by casting a pointer.
 */
#ifndef HV_BASE_BYTES_H
#define HV_BASE_BYTES_H

#include <endian.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define HV_BYTES_DEFINE(bits)                                                                                \
	static inline uint##bits##_t hv_le##bits(const void *p)                                              \
	{                                                                                                    \
		uint##bits##_t v;                                                                            \
		memcpy(&v, p, sizeof(v));                                                                    \
		return le##bits##toh(v);                                                                     \
	}                                                                                                    \
	static inline uint##bits##_t hv_be##bits(const void *p)                                              \
	{                                                                                                    \
		uint##bits##_t v;                                                                            \
		memcpy(&v, p, sizeof(v));                                                                    \
		return be##bits##toh(v);                                                                     \
	}                                                                                                    \
	static inline void hv_put_le##bits(void *p, uint##bits##_t v)                                        \
	{                                                                                                    \
		v = htole##bits(v);                                                                          \
		memcpy(p, &v, sizeof(v));                                                                    \
	}                                                                                                    \
	static inline void hv_put_be##bits(void *p, uint##bits##_t v)                                        \
	{                                                                                                    \
		v = htobe##bits(v);                                                                          \
		memcpy(p, &v, sizeof(v));                                                                    \
	}

HV_BYTES_DEFINE(16)
HV_BYTES_DEFINE(32)
HV_BYTES_DEFINE(64)

/* True when [at, at + length) lies inside [0, size), with no wrap. */
static inline bool hv_inside(uint64_t at, uint64_t length, uint64_t size)
{
	return length <= size && at <= size - length;
}

/* v is at most 2^64 - power_of_two, or the sum wraps to 0: check hostile values first. */
static inline uint64_t hv_round_up(uint64_t v, uint64_t power_of_two)
{
	return (v + power_of_two - 1) & ~(power_of_two - 1);
}

#endif
