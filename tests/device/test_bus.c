/*
 * The bus: who answers where, how accesses are split, what nobody answers.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "device/bus.h"

/* A device that writes down what it was asked. */
struct probe {
	struct hv_device dev;
	uint64_t offsets[16], values[16];
	unsigned sizes[16], count;
};

static uint64_t probe_read(struct hv_device *dev, uint64_t offset, unsigned size)
{
	struct probe *p = hv_container_of(dev, struct probe, dev);

	p->offsets[p->count] = offset;
	p->sizes[p->count++] = size;
	return 0x1122334455667700ull + offset;
}

static void probe_write(struct hv_device *dev, uint64_t offset, uint64_t value, unsigned size)
{
	struct probe *p = hv_container_of(dev, struct probe, dev);

	p->offsets[p->count] = offset;
	p->values[p->count] = value;
	p->sizes[p->count++] = size;
}

static const struct hv_device_ops narrow = {
	.name = "narrow", .max_access = 1, .read = probe_read, .write = probe_write};
static const struct hv_device_ops wide = {
	.name = "wide", .max_access = 4, .read = probe_read, .write = probe_write};

Test(bus, ranges_may_not_overlap_wrap_or_be_empty)
{
	struct probe p = {0};
	struct hv_error err = {0};
	struct hv_bus bus;

	hv_device_init(&p.dev, &narrow);
	hv_bus_init(&bus, "pio");
	cr_assert_eq(hv_bus_add(&bus, 0x100, 8, 0, &p.dev, &err), 0);
	cr_assert_eq(hv_bus_add(&bus, 0x107, 1, 0, &p.dev, &err), -EEXIST);
	cr_assert_eq(hv_bus_add(&bus, 0xf9, 8, 0, &p.dev, &err), -EEXIST);
	cr_assert(strstr(err.text, "narrow"));
	cr_assert_eq(hv_bus_add(&bus, 0x108, 1, 0, &p.dev, &err), 0);
	cr_assert_eq(hv_bus_add(&bus, 0xff, 1, 0, &p.dev, &err), 0);
	cr_assert_eq(hv_bus_add(&bus, 0x200, 0, 0, &p.dev, &err), -EINVAL);
	cr_assert_eq(hv_bus_add(&bus, UINT64_MAX - 1, 8, 0, &p.dev, &err), -EINVAL);
}

Test(bus, finds_the_range_and_only_that)
{
	struct probe p = {0};
	struct hv_bus bus;

	hv_device_init(&p.dev, &narrow);
	hv_bus_init(&bus, "pio");
	cr_assert_null(hv_bus_find(&bus, 0));
	for (uint64_t base = 0x1000; base < 0x1000 + HV_BUS_RANGES * 0x10; base += 0x10)
		cr_assert_eq(hv_bus_add(&bus, base, 4, 0, &p.dev, NULL), 0);
	cr_assert_eq(hv_bus_add(&bus, 0, 1, 0, &p.dev, NULL), -ENOSPC);
	for (uint64_t addr = 0xff0; addr < 0x1000 + HV_BUS_RANGES * 0x10 + 0x10; addr++) {
		const struct hv_bus_range *r = hv_bus_find(&bus, addr);
		bool inside = addr >= 0x1000 && addr < 0x1000 + HV_BUS_RANGES * 0x10 && addr % 0x10 < 4;

		cr_assert_eq(r != NULL, inside, "%#lx", (unsigned long)addr);
		if (r)
			cr_assert_eq(r->base, addr & ~0xfull);
	}
}

Test(bus, a_wide_access_to_a_narrow_device_is_split)
{
	struct probe p = {0};
	struct hv_bus bus;
	uint8_t data[4];

	hv_device_init(&p.dev, &narrow);
	hv_bus_init(&bus, "pio");
	hv_bus_add(&bus, 0x100, 8, 0x20, &p.dev, NULL);
	cr_assert_eq(hv_bus_read(&bus, 0x102, data, 4), 0);
	cr_assert_eq(p.count, 4);
	for (unsigned i = 0; i < 4; i++) {
		cr_assert_eq(p.offsets[i], 0x22 + i);
		cr_assert_eq(data[i], 0x22 + i);
	}
}

Test(bus, an_access_past_the_end_of_a_range_reads_ones_there)
{
	struct probe p = {0};
	struct hv_bus bus;
	uint8_t data[4];

	hv_device_init(&p.dev, &wide);
	hv_bus_init(&bus, "pio");
	hv_bus_add(&bus, 0x100, 2, 0, &p.dev, NULL);
	cr_assert_eq(hv_bus_read(&bus, 0x100, data, 4), -ENXIO);
	cr_assert_eq(p.count, 1);
	cr_assert_eq(p.sizes[0], 2);
	cr_assert_eq(data[2], 0xff);
	cr_assert_eq(data[3], 0xff);
}

Test(bus, unaligned_accesses_become_aligned_pieces)
{
	struct probe p = {0};
	struct hv_bus bus;
	uint8_t data[8] = {1, 2, 3, 4, 5, 6, 7, 8};

	hv_device_init(&p.dev, &wide);
	hv_bus_init(&bus, "mmio");
	hv_bus_add(&bus, 0x1000, 16, 0, &p.dev, NULL);
	cr_assert_eq(hv_bus_write(&bus, 0x1001, data, 8), 0);
	for (unsigned i = 0, at = 1; i < p.count; at += p.sizes[i], i++) {
		cr_assert_eq(p.offsets[i], at);
		cr_assert_eq(p.offsets[i] % p.sizes[i], 0);
		cr_assert_eq(p.values[i] & 0xff, data[at - 1]);
	}
}

Test(bus, nobody_there_reads_as_ones_and_swallows_writes)
{
	struct hv_bus bus;
	uint8_t data[8] = {0};

	hv_bus_init(&bus, "mmio");
	cr_assert_eq(hv_bus_read(&bus, 0xfee00000, data, 8), -ENXIO);
	for (unsigned i = 0; i < 8; i++)
		cr_assert_eq(data[i], 0xff);
	cr_assert_eq(hv_bus_write(&bus, UINT64_MAX - 3, data, 8), -ENXIO);
}
