/*
 * The keyboard controller without a keyboard: what guests probe, and the three ways to reset.
 */
#include "drive.h"

enum { DATA = 0x00, COMMAND = 0x04, FAST = 0x32 };

static struct hv_device *dev;
static struct power_log power;

static void set_up(void)
{
	power = (struct power_log){0};
	cr_assert_eq(hv_i8042_create((struct hv_power){power_log_request, &power}, &dev, NULL), 0);
}

static void tear_down(void)
{
	hv_device_destroy(dev);
}

static bool full(void)
{
	return in8(dev, COMMAND) & 1;
}

/* The reply to a command, which has to be there. */
static uint8_t ask(unsigned command)
{
	out8(dev, COMMAND, command);
	cr_assert(full(), "command 0x%02x", command);
	uint8_t v = in8(dev, DATA);
	cr_assert_not(full());
	return v;
}

static void tell(unsigned command, unsigned value)
{
	out8(dev, COMMAND, command);
	cr_assert_not(full());
	out8(dev, DATA, value);
}

TestSuite(i8042, .init = set_up, .fini = tear_down, .timeout = 30);

Test(i8042, status_is_ready_and_tells_where_the_last_write_went)
{
	cr_assert_eq(in8(dev, COMMAND), 0x14);
	out8(dev, COMMAND, 0xae);
	cr_assert_eq(in8(dev, COMMAND), 0x1c);
	out8(dev, DATA, 0xf4);
	cr_assert_eq(in8(dev, COMMAND), 0x14);
}

Test(i8042, tests_pass_for_the_controller_and_the_keyboard_line)
{
	cr_assert_eq(ask(0xaa), 0x55);
	cr_assert_eq(ask(0xab), 0x00);
}

Test(i8042, there_is_no_second_port)
{
	cr_assert_neq(ask(0xa9), 0x00);
	out8(dev, COMMAND, 0xa8);
	cr_assert(ask(0x20) & 0x20);
	tell(0xd3, 0x5a);
	cr_assert_eq(in8(dev, COMMAND) & 0x21, 0x01, "the byte comes back without the second port's mark");
	cr_assert_eq(in8(dev, DATA), 0x5a);
	tell(0xd4, 0xff);
	cr_assert_not(full());
}

Test(i8042, configuration_and_ram_keep_what_is_written)
{
	tell(0x60, 0x41);
	cr_assert_eq(ask(0x20), 0x61);
	cr_assert_eq(in8(dev, COMMAND) & 0x04, 0, "the system flag is the configuration's");
	tell(0x7f, 0x99);
	cr_assert_eq(ask(0x3f), 0x99);
	out8(dev, COMMAND, 0xad);
	cr_assert_eq(ask(0x20), 0x71);
	out8(dev, COMMAND, 0xae);
	cr_assert_eq(ask(0x20), 0x61);
}

Test(i8042, no_keyboard_answers)
{
	for (unsigned v = 0; v < 256; v++)
		out8(dev, DATA, v);
	cr_assert_not(full());
	cr_assert_eq(power.count, 0);
}

Test(i8042, a_byte_belongs_to_the_command_before_it_only)
{
	out8(dev, COMMAND, 0xd1);
	out8(dev, COMMAND, 0xae);
	out8(dev, DATA, 0x00); /* for the keyboard, not for the output port */
	cr_assert_eq(power.count, 0);
}

Test(i8042, commands_with_bit_0_clear_pulse_the_reset_line)
{
	for (unsigned command = 0xf0; command <= 0xff; command++) {
		power.count = 0;
		out8(dev, COMMAND, command);
		cr_assert_eq(power.count, command & 1 ? 0 : 1, "command 0x%02x", command);
		cr_assert_eq(power.what, HV_POWER_RESET);
		cr_assert_not(full());
	}
}

Test(i8042, the_output_ports_bit_0_resets_and_bit_1_is_a20)
{
	cr_assert_eq(ask(0xd0) & 3, 3);
	tell(0xd1, 0x01);
	cr_assert_eq(power.count, 0);
	cr_assert_eq(ask(0xd0), 0x01);
	cr_assert_eq(in8(dev, FAST), 0x00);
	tell(0xd1, 0x02);
	cr_assert_eq(power.count, 1);
	cr_assert_eq(power.what, HV_POWER_RESET);
}

Test(i8042, port_92_switches_a20_and_resets_on_a_rising_bit)
{
	cr_assert_eq(in8(dev, FAST), 0x02);
	out8(dev, FAST, 0x00);
	cr_assert_eq(ask(0xd0) & 2, 0);
	out8(dev, FAST, 0x02);
	cr_assert_eq(in8(dev, FAST), 0x02);
	cr_assert_eq(power.count, 0);
	out8(dev, FAST, 0x03);
	out8(dev, FAST, 0x03);
	cr_assert_eq(power.count, 1);
	cr_assert_eq(power.what, HV_POWER_RESET);
}

Test(i8042, every_command_is_survived)
{
	for (unsigned command = 0; command < 256; command++)
		for (unsigned v = 0; v < 256; v += 15) {
			out8(dev, COMMAND, command);
			out8(dev, DATA, v);
			in8(dev, DATA);
		}
	drive_reset(dev);
	cr_assert_eq(in8(dev, COMMAND), 0x14);
	cr_assert_eq(ask(0xd0), 0x03);
}

Test(i8042, saved_state_carries_a_command_half_given)
{
	struct hv_device *first = dev;

	tell(0x60, 0x03);
	out8(dev, COMMAND, 0xd1);
	set_up();
	drive_move(first, dev);
	out8(dev, DATA, 0x01);
	cr_assert_eq(ask(0xd0), 0x01);
	hv_device_destroy(first);
}

Test(i8042, state_that_no_guest_can_bring_about_is_refused)
{
	/* RAM: length (4), 32 bytes; output port, fast, data, full, command, expected */
	drive_refused(dev, 4, 0x00);
	drive_refused(dev, 36, 0x02);
	drive_refused(dev, 37, 0x02);
	drive_refused(dev, 39, 2);
	drive_refused(dev, 40, 2);
	drive_refused(dev, 41, 0x20);
	drive_refused(dev, 41, 0xd5);
}
