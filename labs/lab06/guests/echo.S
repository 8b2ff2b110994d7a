/*
 * echo: takes COUNT bytes from the serial port by polling and sends each back, exclusive-ored with KEY. No
 * FIFOs: the receiver holds one byte, and the host keeps the rest until there is room. When no byte has come
 * after 4000 looks it gives up (status 35).
 *
 * Defines: COUNT, KEY (8 bits).
 */
#include "uart.inc"

	.text
	.code16
	.globl _start
_start:
	begin
	uart_set LCR, 0x03
	uart_set MCR, 0x03
	mov $COUNT, %si
next:	mov $4000, %cx
1:	uart_get LSR
	test $0x01, %al              /* data ready */
	jnz 2f
	loop 1b
	end_with GAVE_UP
2:	uart_get DATA
	xor $KEY, %al
	out %al, %dx
	dec %si
	jnz next
	end_with OK

	.section .note.GNU-stack, "", @progbits
