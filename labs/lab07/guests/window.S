/*
 * A guest of lab 7 in real mode, without any interrupt controller. It points VECTOR of the interrupt table to its
 * handler, shows SALT at port PORT while interrupts are off, computes for a while, and switches them on. From then on
 * it shows at PORT how many interrupts it has taken, with SALT added; the handler shows at PORT + 1 what it found in
 * FLAGS of the code that it interrupted. Rules: SDM vol. 3B, 21.1.4 (interrupts in real mode).
 */
	.section .text, "ax"
	.code16
	.globl _start
_start:
	cli
	cld
	xor %ax, %ax
	mov %ax, %ds
	mov %ax, %ss
	mov $0x0ff0, %sp
	movw $handler, 4 * VECTOR
	movw %ax, 4 * VECTOR + 2
	mov $0x5a, %bl
	mov $SALT, %ax
	mov $PORT, %dx
	out %ax, %dx                     /* interrupts are off here */
	mov $WORK, %cx
1:	inc %bx
	loop 1b
	mov $0x5151, %si                 /* a mark: a handler that runs before it came too early */
	sti
	nop
again:	mov taken, %ax
	add $SALT, %ax
	mov $PORT, %dx
	out %ax, %dx
	nop
	jmp again

handler:
	incw taken
	mov $PORT + 1, %dx
	mov %si, %ax
	out %ax, %dx
	iret

	.balign 2
taken:	.word 0

	.section .note.GNU-stack, "", @progbits
