/*
 * Byte order and ranges: what comes from outside is read the same way on every machine, and no sum wraps.
 */
#include <criterion/criterion.h>

#include "base/bytes.h"

Test(bytes, loads_name_their_order_and_take_any_alignment)
{
	static const uint8_t b[] = {0, 1, 2, 3, 4, 5, 6, 7, 8};

	cr_assert_eq(hv_le16(b + 1), 0x0201);
	cr_assert_eq(hv_be16(b + 1), 0x0102);
	cr_assert_eq(hv_le32(b + 1), 0x04030201u);
	cr_assert_eq(hv_be32(b + 1), 0x01020304u);
	cr_assert_eq(hv_le64(b + 1), 0x0807060504030201ull);
	cr_assert_eq(hv_be64(b + 1), 0x0102030405060708ull);
}

Test(bytes, stores_are_the_loads_contrary)
{
	uint8_t b[9] = {0};

	hv_put_le64(b + 1, 0x1122334455667788ull);
	cr_assert_eq(hv_le64(b + 1), 0x1122334455667788ull);
	cr_assert_eq(b[1], 0x88);
	hv_put_be32(b + 1, 0x11223344u);
	cr_assert_eq(hv_be32(b + 1), 0x11223344u);
	cr_assert_eq(b[1], 0x11);
	hv_put_be16(b + 1, 0xabcd);
	cr_assert_eq(hv_be16(b + 1), 0xabcd);
}

Test(bytes, inside_never_wraps)
{
	cr_assert(hv_inside(0, 0, 0));
	cr_assert(hv_inside(0, 10, 10));
	cr_assert(hv_inside(10, 0, 10));
	cr_assert(!hv_inside(1, 10, 10));
	cr_assert(!hv_inside(11, 0, 10));
	cr_assert(!hv_inside(UINT64_MAX, 2, 10));
	cr_assert(!hv_inside(2, UINT64_MAX, 10));
	cr_assert(hv_inside(UINT64_MAX - 1, 1, UINT64_MAX));
}

Test(bytes, round_up_goes_to_the_next_multiple_only_when_needed)
{
	cr_assert_eq(hv_round_up(0, 4096), 0);
	cr_assert_eq(hv_round_up(1, 4096), 4096);
	cr_assert_eq(hv_round_up(4096, 4096), 4096);
	cr_assert_eq(hv_round_up(4097, 4096), 8192);
	cr_assert_eq(hv_round_up(UINT64_MAX - 4095, 4096), UINT64_MAX - 4095);
}
