/*
 * A guest of lab 7 in real mode at 0x1000, without any interrupt controller. It points VECTOR of the interrupt table to
 * its handler, shows SALT at port PORT while interrupts are off, computes for a while, and then switches them on (with
 * NEVER it doesn't). From then on it shows at PORT how many interrupts it has taken, with SALT added. The handler shows
 * at PORT + 1 whether it came before interrupts were on (BEFORE) or after (AFTER). Rules: SDM vol. 3B, 21.1.4
 * (interrupts in real mode).
 */
#define BEFORE 0x1111
#define AFTER  0x2222

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
	mov $BEFORE, %si
	mov $SALT, %ax
	mov $PORT, %dx
	out %ax, %dx                     /* interrupts are off here */
	mov $100, %cx
1:	inc %bx
	loop 1b
#ifndef NEVER
	mov $AFTER, %si
	sti
#endif
	mov $4000, %cx                   /* time to be noticed in */
2:	inc %bx
	loop 2b
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
