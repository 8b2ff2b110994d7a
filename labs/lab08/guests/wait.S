/*
 * A guest of lab 8, in real mode at 0x1000, without an interrupt controller. It points vector 0x20 + LINE to its handler,
 * knocks at port PORT with interrupts off, switches them on and computes. Its handler shows SALT plus the number of
 * interrupts at the same port.
 */
	.section .text, "ax"
	.code16
	.globl _start
_start:
	cli
	xor %ax, %ax
	mov %ax, %ds
	mov %ax, %ss
	mov $0x0ff0, %sp
	movw $handler, 4 * (0x20 + LINE)
	movw %ax, 4 * (0x20 + LINE) + 2
	mov $PORT, %dx
	out %al, %dx
	sti
turn:	inc %ecx
	jmp turn

handler:
	incw taken
	mov taken, %ax
	add $SALT, %ax
	mov $PORT, %dx
	out %al, %dx
	iret

	.balign 2
taken:	.word 0

	.section .note.GNU-stack, "", @progbits
