/*
 * A guest of lab 8, in real mode at 0x1000. It knocks at port PORT once (and AGAIN times more), then computes for ever
 * and never leaves the guest by itself: EBX is NONCE, ECX counts.
 */
#ifndef AGAIN
#define AGAIN 0
#endif
	.section .text, "ax"
	.code16
	.globl _start
_start:
	cli
	mov $NONCE, %ebx
	mov $PORT, %dx
	mov $AGAIN + 1, %si
knock:	out %al, %dx
	dec %si
	jnz knock
	xor %ecx, %ecx
turn:	inc %ecx
	jmp turn

	.section .note.GNU-stack, "", @progbits
