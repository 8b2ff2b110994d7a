/*
 * The 16550A: what the data sheet promises, register by register, and what a driver relies on.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "drive.h"

enum { DATA, IER, IIR_FCR, LCR, MCR, LSR, MSR, SCR };

static struct hv_device *dev;
static struct line_log line;

static void set_up(void)
{
	struct hv_irq_line irq = {.set = line_log_set, .ctx = &line, .gsi = 4};

	line = (struct line_log){0};
	cr_assert_eq(hv_serial_create(NULL, irq, &dev, NULL), 0);
}

static void tear_down(void)
{
	hv_device_destroy(dev);
}

static size_t type(const char *text)
{
	return hv_serial_input(dev, (const uint8_t *)text, strlen(text));
}

/* As a guest without interrupts waits for input. */
static void look_for_input(void)
{
	in8(dev, LSR);
	in8(dev, LSR);
}

/* As a driver begins: FIFOs on with this trigger (0 to 3), OUT2 and these interrupts, the receiver looked at.
 */
static void start(unsigned trigger, unsigned ier)
{
	out8(dev, LCR, 0x03);
	out8(dev, IIR_FCR, 0x07 | trigger << 6);
	out8(dev, MCR, 0x0b);
	out8(dev, IER, ier);
	look_for_input();
}

TestSuite(serial, .init = set_up, .fini = tear_down, .timeout = 30);

Test(serial, registers_after_power_on_are_the_data_sheets)
{
	cr_assert_eq(in8(dev, IER), 0x00);
	cr_assert_eq(in8(dev, IIR_FCR), 0x01);
	cr_assert_eq(in8(dev, LCR), 0x00);
	cr_assert_eq(in8(dev, MCR), 0x00);
	cr_assert_eq(in8(dev, LSR), 0x60);
	cr_assert_eq(in8(dev, MSR), 0xb0); /* the host is there and ready, and nothing changed */
	cr_assert_eq(line.rises, 0);
}

Test(serial, scratch_keeps_its_byte_and_unused_bits_read_as_zero)
{
	out8(dev, SCR, 0xa5);
	out8(dev, IER, 0xff);
	out8(dev, MCR, 0xef); /* without loopback */
	cr_assert_eq(in8(dev, SCR), 0xa5);
	cr_assert_eq(in8(dev, IER), 0x0f);
	cr_assert_eq(in8(dev, MCR), 0x0f);
}

Test(serial, dlab_shows_the_divisor_in_place_of_data_and_ier)
{
	out8(dev, IER, 0x05);
	out8(dev, LCR, 0x83);
	out8(dev, DATA, 0x34);
	out8(dev, IER, 0x12);
	cr_assert_eq(in8(dev, DATA), 0x34);
	cr_assert_eq(in8(dev, IER), 0x12);
	out8(dev, LCR, 0x03);
	cr_assert_eq(in8(dev, IER), 0x05);
	cr_assert_eq(in8(dev, LCR), 0x03);
}

Test(serial, iir_tells_a_16550a_by_its_fifo_bits_and_a_16450_without)
{
	out8(dev, IIR_FCR, 0x01);
	cr_assert_eq(in8(dev, IIR_FCR), 0xc1);
	out8(dev, IIR_FCR, 0xc0); /* without the enable bit nothing else counts */
	cr_assert_eq(in8(dev, IIR_FCR), 0x01);
}

Test(serial, line_and_modem_status_cannot_be_written)
{
	out8(dev, LSR, 0xff);
	out8(dev, MSR, 0xff);
	cr_assert_eq(in8(dev, LSR), 0x60);
	cr_assert_eq(in8(dev, MSR), 0xb0);
}

Test(serial, input_waits_until_the_guest_polls_for_it)
{
	cr_assert_eq(type("abc"), 0);
	out8(dev, IIR_FCR, 0x07);
	in8(dev, DATA); /* drivers empty the receiver when they begin */
	for (unsigned i = 0; i < 5; i++) {
		in8(dev, LSR); /* to send, not to receive */
		out8(dev, DATA, 'x');
		cr_assert_eq(type("abc"), 0);
	}
	look_for_input();
	cr_assert_eq(type("abc"), 3);
	cr_assert_eq(in8(dev, LSR), 0x61);
	cr_assert_eq(in8(dev, DATA), 'a');
}

Test(serial, input_waits_until_the_guest_enables_its_interrupt)
{
	out8(dev, IER, 0x02);
	cr_assert_eq(type("a"), 0);
	out8(dev, IER, 0x03);
	cr_assert_eq(type("a"), 1);
}

Test(serial, without_fifos_one_byte_fits_and_with_them_sixteen_in_order)
{
	look_for_input();
	cr_assert_eq(type("0123456789abcdefXYZ"), 1);
	cr_assert_eq(in8(dev, DATA), '0');
	out8(dev, IIR_FCR, 0x01);
	cr_assert_eq(type("0123456789abcdefXYZ"), 16);
	for (unsigned i = 0; i < 16; i++)
		cr_assert_eq(in8(dev, DATA), "0123456789abcdef"[i]);
	cr_assert_eq(in8(dev, LSR), 0x60, "the host never overruns the receiver");
}

Test(serial, switching_fifos_or_clearing_them_drops_what_was_received)
{
	start(0, 0);
	type("abc");
	out8(dev, IIR_FCR, 0x03);
	cr_assert_eq(in8(dev, LSR), 0x60);
	type("abc");
	out8(dev, IIR_FCR, 0x00);
	cr_assert_eq(in8(dev, LSR), 0x60);
}

Test(serial, received_data_interrupts_at_the_trigger_and_below_it_as_a_timeout)
{
	start(1, 0x01); /* trigger at 4 */
	cr_assert_eq(type("abc"), 3);
	cr_assert_eq(in8(dev, IIR_FCR), 0xcc);
	cr_assert(line.high);
	cr_assert_eq(line.gsi, 4);
	type("d");
	cr_assert_eq(in8(dev, IIR_FCR), 0xc4);
	for (unsigned i = 0; i < 4; i++)
		in8(dev, DATA);
	cr_assert_eq(in8(dev, IIR_FCR), 0xc1);
	cr_assert_not(line.high);
}

Test(serial, every_trigger_level_is_the_data_sheets)
{
	static const unsigned levels[] = {1, 4, 8, 14};

	for (unsigned i = 0; i < 4; i++) {
		start(i, 0x01);
		for (unsigned n = 1; n <= 16; n++) {
			cr_assert_eq(type("x"), 1);
			cr_assert_eq(in8(dev, IIR_FCR), n >= levels[i] ? 0xc4 : 0xcc, "trigger %u, %u bytes",
				     levels[i], n);
		}
	}
}

Test(serial, a_handler_that_reads_one_byte_a_time_gets_an_edge_for_each)
{
	start(3, 0x01); /* trigger at 14: timeouts only */
	type("abc");
	for (unsigned i = 1; i <= 3; i++) {
		cr_assert(line.high);
		cr_assert_eq(line.rises, i);
		in8(dev, DATA);
	}
	cr_assert_not(line.high);
}

Test(serial, enabling_the_transmitter_interrupt_interrupts_at_once_and_iir_ends_it)
{
	start(0, 0x02);
	cr_assert(line.high);
	cr_assert_eq(in8(dev, IIR_FCR), 0xc2);
	cr_assert_eq(in8(dev, IIR_FCR), 0xc1);
	cr_assert_not(line.high);
}

Test(serial, each_byte_sent_makes_a_new_edge)
{
	start(0, 0x02);
	cr_assert_eq(line.rises, 1);
	out8(dev, DATA, 'a'); /* without having read IIR */
	cr_assert(line.high);
	cr_assert_eq(line.rises, 2);
	in8(dev, IIR_FCR);
	out8(dev, DATA, 'b');
	cr_assert_eq(line.rises, 3);
}

Test(serial, reading_iir_for_another_reason_keeps_the_transmitters)
{
	start(0, 0x03);
	type("a");
	cr_assert_eq(in8(dev, IIR_FCR), 0xc4);
	in8(dev, DATA);
	cr_assert_eq(in8(dev, IIR_FCR), 0xc2);
}

Test(serial, reasons_come_in_the_data_sheets_order)
{
	start(0, 0x0f);
	out8(dev, MCR, 0x1b); /* loopback: RTS, DTR, OUT2; RI and DSR, CTS, DCD as before */
	out8(dev, MCR, 0x1a); /* DTR falls: a modem change */
	for (unsigned i = 0; i < 17; i++)
		out8(dev, DATA, i); /* the 17th overruns */
	cr_assert_eq(in8(dev, IIR_FCR), 0xc6);
	cr_assert_eq(in8(dev, LSR), 0x63);
	cr_assert_eq(in8(dev, IIR_FCR), 0xc4);
	for (unsigned i = 0; i < 16; i++)
		cr_assert_eq(in8(dev, DATA), i, "the FIFO keeps what it had");
	cr_assert_eq(in8(dev, IIR_FCR), 0xc2);
	cr_assert_eq(in8(dev, IIR_FCR), 0xc0);
	in8(dev, MSR);
	cr_assert_eq(in8(dev, IIR_FCR), 0xc1);
	cr_assert_not(line.high);
}

Test(serial, without_fifos_an_overrun_overwrites_the_byte)
{
	out8(dev, MCR, 0x10);
	out8(dev, DATA, 'a');
	out8(dev, DATA, 'b');
	cr_assert_eq(in8(dev, LSR), 0x63);
	cr_assert_eq(in8(dev, LSR), 0x61, "reading LSR clears the overrun");
	cr_assert_eq(in8(dev, DATA), 'b');
	cr_assert_eq(in8(dev, LSR), 0x60);
}

Test(serial, loopback_joins_the_modem_lines)
{
	static const struct {
		uint8_t mcr, msr;
	} pairs[] = {{0x10, 0x00}, {0x11, 0x20}, {0x12, 0x10}, {0x14, 0x40}, {0x18, 0x80}, {0x1f, 0xf0}};

	for (unsigned i = 0; i < HV_ARRAY_SIZE(pairs); i++) {
		out8(dev, MCR, pairs[i].mcr);
		cr_assert_eq(in8(dev, MSR) & 0xf0, pairs[i].msr, "MCR 0x%02x", pairs[i].mcr);
	}
}

Test(serial, modem_changes_are_told_once_and_ring_only_when_it_ends)
{
	out8(dev, MCR, 0x10);
	in8(dev, MSR);
	out8(dev, MCR, 0x14);
	cr_assert_eq(in8(dev, MSR), 0x40, "ring begins");
	out8(dev, MCR, 0x10);
	cr_assert_eq(in8(dev, MSR), 0x04, "ring ended");
	out8(dev, MCR, 0x1b);
	cr_assert_eq(in8(dev, MSR), 0xbb);
	cr_assert_eq(in8(dev, MSR), 0xb0);
}

Test(serial, loopback_takes_no_input_and_sends_nothing_out)
{
	start(0, 0);
	out8(dev, MCR, 0x1b);
	cr_assert_eq(type("abc"), 0);
	out8(dev, DATA, 'z');
	cr_assert_eq(in8(dev, DATA), 'z');
	out8(dev, MCR, 0x0b);
	cr_assert_eq(type("abc"), 3);
}

Test(serial, out2_gates_the_interrupt_line)
{
	start(0, 0x01);
	out8(dev, MCR, 0x03);
	type("a");
	cr_assert_not(line.high);
	cr_assert_eq(in8(dev, IIR_FCR), 0xc4, "the chip itself has a reason all the same");
	out8(dev, MCR, 0x0b);
	cr_assert(line.high);
	out8(dev, MCR, 0x03);
	cr_assert_not(line.high);
}

Test(serial, reset_lowers_the_line_and_forgets)
{
	start(0, 0x03);
	type("abc");
	cr_assert(line.high);
	drive_reset(dev);
	cr_assert_not(line.high);
	cr_assert_eq(in8(dev, IER), 0);
	cr_assert_eq(type("a"), 0);
}

Test(serial, saved_state_carries_fifo_and_line)
{
	struct hv_device *first = dev, *second;
	struct line_log other = {0};
	struct hv_irq_line irq = {.set = line_log_set, .ctx = &other, .gsi = 4};

	start(1, 0x01);
	type("abcdefg");
	in8(dev, DATA); /* the ring no longer starts at 0 */
	type("hijklmnop");
	cr_assert_eq(hv_serial_create(NULL, irq, &second, NULL), 0);
	drive_move(first, second);
	cr_assert(other.high);
	for (unsigned i = 0; i < 15; i++)
		cr_assert_eq(in8(second, DATA), "bcdefghijklmnop"[i]);
	cr_assert_not(other.high);
	hv_device_destroy(second);
}

Test(serial, state_that_no_uart_can_hold_is_refused)
{
	/* ier, lcr, mcr, fcr, scr, divisor (2), overrun, modem change, event, listening, FIFO's length (4) */
	drive_refused(dev, 0, 0x10);
	drive_refused(dev, 2, 0x20);
	drive_refused(dev, 3, 0x02);
	drive_refused(dev, 3, 0xc0); /* a trigger without FIFOs */
	drive_refused(dev, 7, 0x01);
	drive_refused(dev, 8, 0x10);
	drive_refused(dev, 9, 2);
	drive_refused(dev, 10, 2);
	drive_refused(dev, 11, 1);
	drive_refused(dev, 14, 0xff);
}

Test(serial, more_received_than_fits_is_refused)
{
	struct hv_encoder e;
	struct hv_error err;

	start(0, 0);
	type("0123456789abcdef");
	drive_save(dev, &e);
	e.data[3] = 0; /* no FIFOs */
	cr_assert_eq(drive_load(dev, e.data, e.length, 1, &err), -EBADMSG);
	cr_assert_eq(in8(dev, LSR), 0x60, "a refused load leaves the device reset");
	hv_enc_free(&e);
}

/* --- with a real chardev --- */

TestSuite(serial_line, .timeout = 30);

Test(serial_line, bytes_sent_reach_the_file)
{
	char dir[] = "/tmp/hv-serial-XXXXXX", path[64], text[16] = "";
	struct hv_chardev_config config = {.kind = HV_CHARDEV_FILE};
	struct hv_chardev *chardev;
	struct hv_error err;
	FILE *f;

	cr_assert(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/out", dir);
	snprintf(config.path, sizeof(config.path), "%s", path);
	cr_assert_eq(hv_chardev_open(&config, NULL, &chardev, &err), 0, "%s", err.text);
	cr_assert_eq(hv_serial_create(chardev, (struct hv_irq_line){0}, &dev, &err), 0);
	hv_chardev_connect(chardev, hv_serial_input, dev);
	cr_assert_eq(hv_chardev_start(chardev, &err), 0, "%s", err.text);
	for (const char *p = "hello\n"; *p; p++)
		out8(dev, DATA, (uint8_t)*p);
	out8(dev, MCR, 0x10);
	out8(dev, DATA, 'x'); /* loopback: not for the host */
	hv_chardev_close(chardev);
	hv_device_destroy(dev);
	f = fopen(path, "r");
	cr_assert(f);
	cr_assert_eq(fread(text, 1, sizeof(text) - 1, f), 6);
	cr_assert_str_eq(text, "hello\n");
	fclose(f);
	unlink(path);
	rmdir(dir);
}

Test(serial_line, input_that_did_not_fit_comes_as_the_guest_reads)
{
	struct hv_chardev_config config = {.kind = HV_CHARDEV_STDIO};
	struct hv_chardev *chardev;
	struct hv_error err;
	char sent[1000];
	int ends[2];

	for (unsigned i = 0; i < sizeof(sent); i++)
		sent[i] = (char)('a' + i % 26);
	cr_assert_eq(pipe(ends), 0);
	cr_assert_eq(write(ends[1], sent, sizeof(sent)), (ssize_t)sizeof(sent));
	close(ends[1]);
	dup2(ends[0], 0);
	close(ends[0]);
	cr_assert_eq(hv_chardev_open(&config, NULL, &chardev, &err), 0, "%s", err.text);
	cr_assert_eq(hv_serial_create(chardev, (struct hv_irq_line){0}, &dev, &err), 0);
	hv_chardev_connect(chardev, hv_serial_input, dev);
	cr_assert_eq(hv_chardev_start(chardev, &err), 0, "%s", err.text);
	out8(dev, IIR_FCR, 0x07);
	for (unsigned i = 0; i < sizeof(sent); i++) {
		while (!(in8(dev, LSR) & 1)) /* the suite's timeout ends this */
			nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
		cr_assert_eq(in8(dev, DATA), (uint8_t)sent[i], "byte %u", i);
	}
	hv_chardev_close(chardev);
	hv_device_destroy(dev);
}
