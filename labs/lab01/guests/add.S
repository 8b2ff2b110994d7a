/*
 * add: adds AX and BX, sends the sum to PORT in two bytes, low one first, and halts. Who runs it on after the
 * hlt gets a third byte. Sixteen-bit real mode, at any address.
 */
	.code16
	.globl _start
_start:
	mov $PORT, %dx
	add %bx, %ax
	out %al, %dx
	mov %ah, %al
	out %al, %dx
	hlt
	mov $0xee, %al
	out %al, %dx
1:	hlt
	jmp 1b
