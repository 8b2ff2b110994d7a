/*
 * Text out of a 16550A by polling. Lines are gathered and sent by `rep outsb`, 16 bytes (the depth of the
 * transmit FIFO) at a time: under a hypervisor that is one exit for 16 bytes where a loop of `out` would
 * take 16. Rules: TI PC16550D data sheet, section 8.
 */
#include <stdarg.h>

#include "console.h"
#include "io.h"

static char line[256];
static size_t line_length;
static bool line_crlf;

void con_init(bool crlf)
{
	line_crlf = crlf;
	line_length = 0;
	outb(UART + UART_IER, 0);
	outb(UART + UART_LCR, 0x80); /* DLAB: the first two registers are the divisor */
	outb(UART + UART_DATA, 1);
	outb(UART + UART_IER, 0);
	outb(UART + UART_LCR, 0x03); /* 8N1 */
	outb(UART + UART_FCR, 0x07); /* FIFOs on and empty */
	outb(UART + UART_MCR, UART_MCR_NORMAL);
}

void con_write(const char *text, size_t count)
{
	while (count > 0) {
		size_t part = count < UART_TX_FIFO ? count : UART_TX_FIFO;
		count -= part;
		while (!(inb(UART + UART_LSR) & UART_LSR_THRE))
			cpu_pause();
		__asm__ volatile("rep outsb"
				 : "+S"(text), "+c"(part)
				 : "d"((uint16_t)(UART + UART_DATA))
				 : "memory");
	}
}

void con_flush(void)
{
	con_write(line, line_length);
	line_length = 0;
}

static void put(char c)
{
	if (c == '\n' && line_crlf)
		put('\r');
	line[line_length++] = c;
	if (c == '\n' || line_length == sizeof(line))
		con_flush();
}

static void put_number(uint64_t value, unsigned base, unsigned width, char pad)
{
	char digits[20];
	unsigned n = 0;
	do {
		digits[n++] = "0123456789abcdef"[value % base];
		value /= base;
	} while (value > 0);
	for (; width > n; width--)
		put(pad);
	while (n > 0)
		put(digits[--n]);
}

static void put_string(const char *s, unsigned width)
{
	for (; *s; s++, width -= width > 0)
		put(*s);
	for (; width > 0; width--)
		put(' ');
}

/* One conversion, fmt just behind its '%'; returns the address of its last character. */
static const char *put_conversion(const char *fmt, va_list *args)
{
	char pad = *fmt == '0' ? '0' : ' ';
	unsigned width = 0;
	for (; *fmt >= '0' && *fmt <= '9'; fmt++)
		width = width * 10 + (unsigned)(*fmt - '0');
	bool is_long = *fmt == 'l';
	if (is_long)
		fmt++;
	if (*fmt == 's') {
		put_string(va_arg(*args, const char *), width);
	} else if (*fmt == 'c') {
		put((char)va_arg(*args, int));
	} else if (*fmt == 'u' || *fmt == 'x') {
		uint64_t value = is_long ? va_arg(*args, uint64_t) : va_arg(*args, unsigned);
		put_number(value, *fmt == 'x' ? 16 : 10, width, pad);
	} else if (*fmt == 'd') {
		int64_t value = is_long ? va_arg(*args, int64_t) : va_arg(*args, int);
		if (value < 0)
			put('-');
		put_number(value < 0 ? 0 - (uint64_t)value : (uint64_t)value, 10, width, pad);
	} else {
		put(*fmt);
	}
	return fmt;
}

void con_printf(const char *fmt, ...)
{
	va_list args;
	va_start(args, fmt);
	for (; *fmt; fmt++) {
		if (*fmt == '%' && fmt[1])
			fmt = put_conversion(fmt + 1, &args);
		else
			put(*fmt);
	}
	va_end(args);
}
