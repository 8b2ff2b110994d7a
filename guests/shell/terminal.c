/*
 * The serial terminal: the UART interrupts when a byte has come, the handler puts it into a ring, and the
 * reader sleeps in hlt while the ring is empty. Editing: backspace and delete take back a character, Ctrl-U
 * the line, Ctrl-C gives up. Rules: TI PC16550D data sheet, 8.6 (interrupts).
 */
#include "apic.h"
#include "console.h"
#include "io.h"
#include "shell.h"
#include "trap.h"

#define UART_LINE 4   /* IRQ of the first serial port, pin 4 of the IOAPIC */
#define RING      256 /* a power of two */

#define CTRL_C    0x03
#define BACKSPACE 0x08
#define CTRL_U    0x15
#define DELETE    0x7f

static uint8_t ring[RING];
static volatile unsigned ring_in, ring_out; /* counts; their difference is what the ring holds */
static char line[LINE_MAX + 1];

/* Moves bytes from the UART to the ring while both allow it. What stays in the UART holds back the sender. */
static void drain(void)
{
	while (ring_in - ring_out < RING && inb(UART + UART_LSR) & UART_LSR_DR)
		ring[ring_in++ % RING] = inb(UART + UART_DATA);
}

static void on_uart(struct trap_frame *frame)
{
	(void)frame;
	drain();
	lapic_eoi();
}

void terminal_init(void)
{
	trap_set(VECTOR_PIC + UART_LINE, on_uart);
	ioapic_route(UART_LINE, VECTOR_PIC + UART_LINE, lapic_id(), false);
	outb(UART + UART_IER, UART_IER_RX);
}

static uint8_t next_byte(void)
{
	irq_off();
	while (ring_in == ring_out) {
		/* The pin is edge-triggered: what a full ring left in the UART gives no interrupt, nor does
		 * what follows. */
		drain();
		if (ring_in == ring_out) {
			irq_on_and_halt();
			irq_off();
		}
	}
	uint8_t byte = ring[ring_out++ % RING];
	irq_on();
	return byte;
}

static void rub_out(unsigned count)
{
	while (count-- > 0)
		con_write("\b \b", 3);
}

const char *terminal_line(const char *prompt)
{
	static uint8_t last;
	unsigned length = 0;
	con_printf("%s", prompt);
	con_flush();
	for (;;) {
		uint8_t byte = next_byte(), before = last;
		last = byte;
		if (byte == '\n' && before == '\r')
			continue; /* the second half of one line end */
		if (byte == '\r' || byte == '\n') {
			con_printf("\n");
			line[length] = 0;
			return line;
		}
		if ((byte == BACKSPACE || byte == DELETE) && length > 0) {
			rub_out(1);
			length--;
		} else if (byte == CTRL_U) {
			rub_out(length);
			length = 0;
		} else if (byte == CTRL_C) {
			con_printf("^C\n%s", prompt);
			con_flush();
			length = 0;
		} else if (byte >= ' ' && byte < DELETE && length < LINE_MAX) {
			line[length++] = (char)byte;
			con_write((const char *)&byte, 1);
		}
	}
}
