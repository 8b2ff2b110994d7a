/*
 * Guest memory: slots are checked, the accessor never lets a wrong address through, copies cross slots.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "kvm/memory.h"

static struct hv_memory with_ram(uint64_t size)
{
	struct hv_memory mem;

	hv_memory_init(&mem, NULL);
	cr_assert_eq(hv_memory_add_ram(&mem, size, NULL), 0);
	return mem;
}

Test(memory, a_slot_must_be_whole_pages)
{
	struct hv_memory mem;
	struct hv_error err = {0};

	hv_memory_init(&mem, NULL);
	cr_assert_eq(hv_memory_add(&mem, 1, 4096, false, &err), -EINVAL);
	cr_assert(strstr(err.text, "whole pages"));
	cr_assert_eq(hv_memory_add(&mem, 0, 4095, false, &err), -EINVAL);
	cr_assert_eq(hv_memory_add(&mem, 0, 0, false, &err), -EINVAL);
	cr_assert_eq(mem.count, 0);
	hv_memory_free(&mem);
}

Test(memory, a_slot_may_not_wrap)
{
	struct hv_memory mem;

	hv_memory_init(&mem, NULL);
	cr_assert_eq(hv_memory_add(&mem, UINT64_MAX - 4095, 8192, false, NULL), -EINVAL);
	cr_assert_eq(hv_memory_add(&mem, 4096, UINT64_MAX - 4095, false, NULL), -EINVAL);
	hv_memory_free(&mem);
}

Test(memory, slots_may_touch_but_not_overlap)
{
	struct hv_memory mem;

	hv_memory_init(&mem, NULL);
	cr_assert_eq(hv_memory_add(&mem, 0x10000, 0x2000, false, NULL), 0);
	cr_assert_eq(hv_memory_add(&mem, 0x11000, 0x1000, false, NULL), -EEXIST);
	cr_assert_eq(hv_memory_add(&mem, 0xf000, 0x2000, false, NULL), -EEXIST);
	cr_assert_eq(hv_memory_add(&mem, 0xf000, 0x10000, false, NULL), -EEXIST);
	cr_assert_eq(hv_memory_add(&mem, 0xf000, 0x1000, false, NULL), 0);
	cr_assert_eq(hv_memory_add(&mem, 0x12000, 0x1000, false, NULL), 0);
	for (unsigned i = 1; i < mem.count; i++)
		cr_assert_lt(mem.slots[i - 1].gpa, mem.slots[i].gpa);
	hv_memory_free(&mem);
}

Test(memory, all_slots_can_be_used_and_no_more)
{
	struct hv_memory mem;

	hv_memory_init(&mem, NULL);
	for (unsigned i = 0; i < HV_SLOTS_MAX; i++)
		cr_assert_eq(hv_memory_add(&mem, i * 0x10000ull, 0x1000, false, NULL), 0);
	cr_assert_eq(hv_memory_add(&mem, 0x10000000, 0x1000, false, NULL), -ENOSPC);
	hv_memory_free(&mem);
}

Test(memory, ram_leaves_the_hole_below_4_gib)
{
	struct hv_memory mem = with_ram(HV_PCI_HOLE_START + 0x200000);

	cr_assert_eq(mem.count, 2);
	cr_assert_eq(mem.slots[1].gpa, HV_PCI_HOLE_END);
	cr_assert_eq(mem.slots[1].size, 0x200000);
	cr_assert_null(hv_memory_at(&mem, HV_PCI_HOLE_START, 1));
	cr_assert_null(hv_memory_at(&mem, HV_PCI_HOLE_END - 1, 1));
	cr_assert_not_null(hv_memory_at(&mem, HV_PCI_HOLE_END, 0x200000));
	cr_assert_eq(hv_memory_size(&mem), HV_PCI_HOLE_START + 0x200000);
	hv_memory_free(&mem);
}

Test(memory, the_accessor_checks_address_length_and_overflow)
{
	struct hv_memory mem = with_ram(0x10000);

	cr_assert_eq(hv_memory_at(&mem, 0, 0x10000), mem.slots[0].host);
	cr_assert_eq(hv_memory_at(&mem, 0xffff, 1), mem.slots[0].host + 0xffff);
	cr_assert_null(hv_memory_at(&mem, 0xffff, 2));
	cr_assert_null(hv_memory_at(&mem, 0x10000, 1));
	cr_assert_null(hv_memory_at(&mem, 0, 0x10001));
	cr_assert_null(hv_memory_at(&mem, 1, UINT64_MAX));
	cr_assert_null(hv_memory_at(&mem, UINT64_MAX, 1));
	cr_assert_null(hv_memory_at(&mem, UINT64_MAX, 2));
	hv_memory_free(&mem);
}

Test(memory, copies_cross_adjacent_slots_or_copy_nothing)
{
	struct hv_memory mem;
	char in[32], out[32];

	memset(in, 'a', sizeof(in));
	hv_memory_init(&mem, NULL);
	cr_assert_eq(hv_memory_add(&mem, 0x1000, 0x1000, false, NULL), 0);
	cr_assert_eq(hv_memory_add(&mem, 0x2000, 0x1000, false, NULL), 0);
	cr_assert_eq(hv_memory_write(&mem, 0x1ff0, in, 32), 0);
	cr_assert_eq(hv_memory_read(&mem, 0x1ff0, out, 32), 0);
	cr_assert_arr_eq(in, out, 32);
	cr_assert_eq(mem.slots[1].host[15], 'a');
	cr_assert_eq(mem.slots[1].host[16], 0);
	cr_assert_eq(hv_memory_write(&mem, 0x2ff0, in, 32), -EFAULT);
	cr_assert_eq(mem.slots[1].host[0xff0], 0);
	cr_assert_eq(hv_memory_read(&mem, 0xff8, out, 16), -EFAULT);
	hv_memory_free(&mem);
}

Test(memory, clearing_zeroes_everything)
{
	struct hv_memory mem = with_ram(0x4000);

	memset(hv_memory_at(&mem, 0, 0x4000), 0x5a, 0x4000);
	cr_assert_eq(hv_memory_clear(&mem, NULL), 0);
	for (unsigned i = 0; i < 0x4000; i++)
		cr_assert_eq(mem.slots[0].host[i], 0);
	hv_memory_free(&mem);
}

Test(memory, more_than_the_address_space_is_refused_with_its_size)
{
	struct hv_memory mem;
	struct hv_error err = {0};

	hv_memory_init(&mem, NULL);
	cr_assert_lt(hv_memory_add(&mem, 0, 1ull << 60, false, &err), 0);
	cr_assert(strstr(err.text, "EiB") || strstr(err.text, "PiB"), "%s", err.text);
	hv_memory_free(&mem);
}

/* --- giving back --- */

Test(memory, whole_pages_of_ram_can_be_given_back_and_nothing_else)
{
	struct hv_memory mem = with_ram(0x4000);
	uint8_t *at = hv_memory_at(&mem, 0, 0x4000);

	cr_assert_eq(hv_memory_add(&mem, 0x100000, 0x1000, true, NULL), 0);
	memset(at, 1, 0x4000);
	cr_assert_eq(hv_memory_discard(&mem, 0x1000, 0x2000), 0);
	cr_assert_eq(at[0xfff], 1);
	cr_assert_eq(at[0x1000], 0);
	cr_assert_eq(at[0x2fff], 0);
	cr_assert_eq(at[0x3000], 1);
	cr_assert_eq(hv_memory_discard(&mem, 0x1001, 0x1000), -EINVAL);
	cr_assert_eq(hv_memory_discard(&mem, 0x1000, 0xfff), -EINVAL);
	cr_assert_eq(hv_memory_discard(&mem, 0x1000, 0), -EINVAL);
	cr_assert_eq(hv_memory_discard(&mem, 0x3000, 0x2000), -EFAULT);
	cr_assert_eq(hv_memory_discard(&mem, 0x8000, 0x1000), -EFAULT);
	cr_assert_eq(hv_memory_discard(&mem, UINT64_MAX - 4095, 0x2000), -EFAULT);
	cr_assert_eq(hv_memory_discard(&mem, 0x100000, 0x1000), -EROFS);
	hv_memory_free(&mem);
}

Test(memory, memory_that_is_kept_is_not_given_back)
{
	struct hv_memory mem = with_ram(0x1000);
	uint8_t *at = hv_memory_at(&mem, 0, 1);

	*at = 1;
	hv_memory_keep(&mem, true);
	hv_memory_keep(&mem, true);
	hv_memory_keep(&mem, false);
	cr_assert_eq(hv_memory_discard(&mem, 0, 0x1000), -EBUSY);
	cr_assert_eq(*at, 1);
	hv_memory_keep(&mem, false);
	cr_assert_eq(hv_memory_discard(&mem, 0, 0x1000), 0);
	cr_assert_eq(*at, 0);
	hv_memory_free(&mem);
}

Test(memory, a_host_address_has_its_gpa)
{
	struct hv_memory mem = with_ram(0x2000);
	uint64_t gpa = 7;

	cr_assert(hv_memory_gpa_of(&mem, hv_memory_at(&mem, 0x1234, 1), &gpa));
	cr_assert_eq(gpa, 0x1234);
	cr_assert_not(hv_memory_gpa_of(&mem, &gpa, &gpa));
	hv_memory_free(&mem);
}
