/*
 * poll: the oldest way to use a serial port. Before each byte the driver reads LSR until the transmitter is
 * empty, and gives up (status 35) when that hasn't come after 50 looks. It prints NONCE as eight hexadecimal
 * digits and a newline, and ends with status 33.
 *
 * Defines: NONCE (32 bits), DIVISOR (16 bits).
 */
#include "uart.inc"

	.text
	.code16
	.globl _start
_start:
	begin
	uart_set IER, 0
	uart_set LCR, 0x83           /* DLAB: registers 0 and 1 are the divisor now */
	uart_set DATA, DIVISOR & 0xff
	uart_set IER, DIVISOR >> 8
	uart_set LCR, 0x03           /* and now they aren't: 8 bits, no parity, 1 stop bit */
	uart_set MCR, 0x03           /* DTR, RTS */

	mov $NONCE, %ebx
	mov $8, %si
digit:	rol $4, %ebx
	mov %bl, %al
	and $0x0f, %al
	add $'0', %al
	cmp $'9', %al
	jbe 1f
	add $('a' - '9' - 1), %al
1:	call send
	dec %si
	jnz digit
	mov $'\n', %al
	call send
	end_with OK

/* Sends AL. Changes AH, CX, DX. */
send:	mov %al, %ah
	mov $50, %cx
1:	uart_get LSR
	test $0x20, %al              /* THR is empty */
	jnz 2f
	loop 1b
	end_with GAVE_UP
2:	mov $(UART + DATA), %dx
	mov %ah, %al
	out %al, %dx
	ret

	.section .note.GNU-stack, "", @progbits
