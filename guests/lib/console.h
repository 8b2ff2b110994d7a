/*
 * Text out of the first serial line.
 */
#ifndef GUEST_CONSOLE_H
#define GUEST_CONSOLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define UART 0x3f8 /* the 16550A's first register */

enum { /* its registers, as offsets from UART */
       UART_DATA = 0,
       UART_IER = 1, /* interrupt enable */
       UART_FCR = 2, /* FIFO control (write), interrupt identification (read) */
       UART_LCR = 3, /* line control */
       UART_MCR = 4, /* modem control */
       UART_LSR = 5, /* line status */
       UART_MSR = 6, /* modem status, read-only */
       UART_SCR = 7, /* scratch: a byte that the UART only keeps */
};

#define UART_LSR_DR     0x01 /* a byte has come */
#define UART_LSR_THRE   0x20 /* the transmit FIFO is empty: it takes 16 bytes */
#define UART_TX_FIFO    16
#define UART_IER_RX     0x01
#define UART_MCR_NORMAL 0x0b /* DTR, RTS, and OUT2, which gates the interrupt line on a PC */

/* 115200 baud, 8 data bits, no parity, FIFOs on, no interrupts. crlf: a newline goes out as "\r\n", for a
 * terminal. */
void con_init(bool crlf);

/* Bytes straight to the UART, 16 at a time. */
void con_write(const char *text, size_t count);

/* %s %c %u %d %x %% with l, a width and zero padding ("%016lx"). A line goes out when it is complete, or on
 * con_flush. */
void con_printf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void con_flush(void);

#endif
