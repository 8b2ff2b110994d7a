/*
 * The 82093AA: registers, edges, levels with their EOIs, masks, and what the host is told.
 */
#include "drive.h"

static struct hv_device *dev;
static struct {
	unsigned sent, routed;
	uint64_t address;
	uint32_t data;
	unsigned pin;
	bool masked;
} host;

static void on_send(void *ctx, uint64_t address, uint32_t data)
{
	host.sent++;
	host.address = address;
	host.data = data;
}

static void on_route(void *ctx, unsigned pin, uint64_t address, uint32_t data, bool masked)
{
	host.routed++;
	host.pin = pin;
	host.masked = masked;
}

static void set_up(void)
{
	struct hv_ioapic_host callbacks = {.send = on_send, .route = on_route};

	memset(&host, 0, sizeof(host));
	cr_assert_eq(hv_ioapic_create(callbacks, &dev, NULL), 0);
}

static void tear_down(void)
{
	hv_device_destroy(dev);
}

static uint32_t get(unsigned reg)
{
	drive_write(dev, 0x00, reg, 4);
	return (uint32_t)drive_read(dev, 0x10, 4);
}

static void put(unsigned reg, uint32_t value)
{
	drive_write(dev, 0x00, reg, 4);
	drive_write(dev, 0x10, value, 4);
}

#define LEVEL  (1u << 15)
#define MASKED (1u << 16)
#define IRR    (1u << 14)

TestSuite(ioapic, .init = set_up, .fini = tear_down, .timeout = 30);

Test(ioapic, says_what_it_is_and_starts_masked)
{
	cr_assert_eq(get(1), 0x00170011);
	put(0, 0xffffffff);
	cr_assert_eq(get(0), 0x0f000000);
	cr_assert_eq(get(2), 0x0f000000);
	for (unsigned pin = 0; pin < 24; pin++) {
		cr_assert_eq(get(0x10 + 2 * pin), MASKED);
		cr_assert_eq(get(0x11 + 2 * pin), 0);
	}
	cr_assert_eq(host.routed, 0);
}

Test(ioapic, registers_that_do_not_exist_are_harmless)
{
	for (unsigned reg = 0; reg < 256; reg++)
		if (reg < 0x10 || reg >= 0x40) {
			put(reg, 0xffffffff);
			get(reg);
		}
	cr_assert_eq(host.sent + host.routed, 0);
}

Test(ioapic, only_aligned_words_reach_the_data_window)
{
	drive_write(dev, 0x00, 0x10, 1);
	drive_write(dev, 0x10, 0x31, 1);
	drive_write(dev, 0x12, 0x31, 2);
	cr_assert_eq(get(0x10), MASKED);
}

Test(ioapic, read_only_bits_of_an_entry_stay)
{
	put(0x10, 0xffffffff);
	put(0x11, 0xffffffff);
	cr_assert_eq(get(0x10), 0x1afff);
	cr_assert_eq(get(0x11), 0xff000000);
}

Test(ioapic, a_rising_edge_sends_one_message)
{
	put(0x11 + 2 * 4, 0x03000000);
	put(0x10 + 2 * 4, 0x0834); /* logical, vector 0x34 */
	hv_ioapic_set(dev, 4, true);
	cr_assert_eq(host.sent, 1);
	cr_assert_eq(host.address, 0xfee03004);
	cr_assert_eq(host.data, 0x0034);
	hv_ioapic_set(dev, 4, true);
	cr_assert_eq(host.sent, 1, "the line was high already");
	hv_ioapic_set(dev, 4, false);
	hv_ioapic_set(dev, 4, true);
	cr_assert_eq(host.sent, 2);
}

Test(ioapic, an_edge_at_a_masked_pin_is_not_held)
{
	hv_ioapic_set(dev, 4, true);
	put(0x10 + 2 * 4, 0x34);
	cr_assert_eq(host.sent, 0);
}

Test(ioapic, a_level_sends_again_only_after_its_eoi)
{
	put(0x10 + 2 * 5, LEVEL | 0x41);
	hv_ioapic_set(dev, 5, true);
	cr_assert_eq(host.sent, 1);
	cr_assert_eq(host.data, 0xc041);
	cr_assert_eq(get(0x10 + 2 * 5), LEVEL | IRR | 0x41);
	hv_ioapic_set(dev, 5, false);
	hv_ioapic_set(dev, 5, true);
	cr_assert_eq(host.sent, 1);
	hv_ioapic_eoi(dev, 0x42);
	cr_assert_eq(host.sent, 1, "another vector's EOI");
	hv_ioapic_eoi(dev, 0x41);
	cr_assert_eq(host.sent, 2, "the line is still high");
	hv_ioapic_set(dev, 5, false);
	hv_ioapic_eoi(dev, 0x41);
	cr_assert_eq(host.sent, 2);
	cr_assert_eq(get(0x10 + 2 * 5), LEVEL | 0x41);
}

Test(ioapic, a_level_at_a_masked_pin_is_served_when_unmasked)
{
	put(0x10 + 2 * 5, MASKED | LEVEL | 0x41);
	hv_ioapic_set(dev, 5, true);
	cr_assert_eq(host.sent, 0);
	put(0x10 + 2 * 5, LEVEL | 0x41);
	cr_assert_eq(host.sent, 1);
}

Test(ioapic, a_pin_masked_before_its_eoi_goes_on_after_it)
{
	put(0x10 + 2 * 5, LEVEL | 0x41);
	hv_ioapic_set(dev, 5, true);
	put(0x10 + 2 * 5, MASKED | LEVEL | 0x41);
	hv_ioapic_eoi(dev, 0x41);
	cr_assert_eq(host.sent, 1);
	put(0x10 + 2 * 5, LEVEL | 0x41);
	cr_assert_eq(host.sent, 2);
}

Test(ioapic, flipping_the_trigger_clears_a_stuck_remote_irr)
{
	put(0x10 + 2 * 5, LEVEL | 0x41);
	hv_ioapic_set(dev, 5, true);
	put(0x10 + 2 * 5, MASKED | 0x41);
	put(0x10 + 2 * 5, MASKED | LEVEL | 0x41);
	cr_assert_eq(get(0x10 + 2 * 5), MASKED | LEVEL | 0x41);
}

Test(ioapic, an_nmi_is_an_edge_whatever_the_trigger_bit_says)
{
	put(0x10 + 2 * 5, LEVEL | 0x400);
	hv_ioapic_set(dev, 5, true);
	cr_assert_eq(host.sent, 1);
	cr_assert_not(get(0x10 + 2 * 5) & IRR);
	hv_ioapic_set(dev, 5, false);
	hv_ioapic_set(dev, 5, true);
	cr_assert_eq(host.sent, 2);
}

Test(ioapic, the_host_hears_of_changed_pins_only)
{
	put(0x10 + 2 * 7, 0x55);
	cr_assert_eq(host.routed, 1);
	cr_assert_eq(host.pin, 7);
	cr_assert_not(host.masked);
	put(0x10 + 2 * 7, 0x55);
	put(0x10 + 2 * 7, 0x2055); /* polarity is no part of the message */
	cr_assert_eq(host.routed, 1);
	put(0x10 + 2 * 7, MASKED | 0x55);
	cr_assert_eq(host.routed, 2);
	cr_assert(host.masked);
}

Test(ioapic, a_pin_that_does_not_exist_is_ignored)
{
	hv_ioapic_set(dev, 24, true);
	hv_ioapic_set(dev, 0xffffffff, true);
	cr_assert_eq(host.sent, 0);
}

Test(ioapic, reset_masks_all_and_leaves_the_lines_to_their_devices)
{
	put(0x10 + 2 * 5, LEVEL | 0x41);
	hv_ioapic_set(dev, 5, true);
	drive_reset(dev);
	cr_assert_eq(get(0x10 + 2 * 5), MASKED);
	put(0x10 + 2 * 5, LEVEL | 0x41);
	cr_assert_eq(host.sent, 2, "the line is still high");
}

Test(ioapic, saved_state_carries_entries_lines_and_remote_irr)
{
	struct hv_device *first = dev;

	put(0, 0x05000000);
	put(0x11 + 2 * 5, 0x02000000);
	put(0x10 + 2 * 5, LEVEL | 0x41);
	hv_ioapic_set(dev, 5, true);
	set_up();
	drive_move(first, dev);
	cr_assert_eq(host.sent, 0, "what was sent is in the local APIC's state");
	cr_assert_eq(host.routed, 1);
	hv_ioapic_eoi(dev, 0x41);
	cr_assert_eq(host.sent, 1);
	cr_assert_eq(host.address, 0xfee02000);
	hv_device_destroy(first);
}

Test(ioapic, state_that_no_ioapic_can_hold_is_refused)
{
	/* select (4), id (4), lines (4), entries (8 each) */
	drive_refused(dev, 1, 1);
	drive_refused(dev, 4, 1);
	drive_refused(dev, 11, 1);
	drive_refused(dev, 12 + 1, 0x10);       /* delivery status */
	drive_refused(dev, 12 + 1, 0x40);       /* remote IRR at an edge */
	drive_refused(dev, 12 + 23 * 8 + 3, 1); /* a reserved bit */
}
