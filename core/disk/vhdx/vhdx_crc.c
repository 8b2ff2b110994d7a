/*
 * CRC-32C (Castagnoli, 0x1EDC6F41), by which VHDX guards its headers, region tables and log entries (MS-VHDX
 * section 2). By the CPU's own instruction where it has one, else a half byte at a time.
 */
#include "base/bytes.h"
#include "disk/vhdx/vhdx.h"

/* One half byte of the reflected polynomial 0x82F63B78. */
static const uint32_t nibble[16] = {
	0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3, 0x61c69362, 0x7198540d,
	0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9, 0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75,
};

static uint32_t crc_plain(uint32_t crc, const uint8_t *at, size_t length)
{
	while (length--) {
		crc ^= *at++;
		crc = (crc >> 4) ^ nibble[crc & 15];
		crc = (crc >> 4) ^ nibble[crc & 15];
	}
	return crc;
}

#ifdef __x86_64__
__attribute__((target("sse4.2"))) static uint32_t crc_fast(uint32_t crc, const uint8_t *at, size_t length)
{
	uint64_t wide = crc;

	for (; length >= 8; at += 8, length -= 8)
		wide = __builtin_ia32_crc32di(wide, hv_le64(at));
	crc = (uint32_t)wide;
	while (length--)
		crc = __builtin_ia32_crc32qi(crc, *at++);
	return crc;
}
#endif

uint32_t hv_vhdx_crc(uint32_t crc, const void *data, size_t length)
{
#ifdef __x86_64__
	if (__builtin_cpu_supports("sse4.2"))
		return ~crc_fast(~crc, data, length);
#endif
	return ~crc_plain(~crc, data, length);
}

uint32_t hv_vhdx_crc_of(const uint8_t *data, size_t length)
{
	static const uint8_t zero[4];
	uint32_t crc = hv_vhdx_crc(0, data, 4);

	crc = hv_vhdx_crc(crc, zero, sizeof(zero));
	return hv_vhdx_crc(crc, data + 8, length - 8);
}
