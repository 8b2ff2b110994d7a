/*
 * wake: puts a handler into the interrupt table for VECTOR, halts with interrupts on, and tells PORT when the
 * handler has run. Then it halts for good, with interrupts off.
 */
	.code16
	.globl _start
_start:
	cli
	xor %ax, %ax
	mov %ax, %ss
	mov $0x7000, %sp
	movw $handler, VECTOR * 4
	movw $0, VECTOR * 4 + 2
	mov $PORT, %dx
	sti
	hlt
	mov $AFTER, %al
	out %al, %dx
	cli
1:	hlt
	out %al, $0xf4          /* nobody comes back from that hlt; if somebody does, this ends the machine */
	jmp 1b

handler:
	mov $INSIDE, %al
	out %al, %dx
	iretw
