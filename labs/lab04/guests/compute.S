/*
 * Entered in long mode. What it computes needs 64-bit registers, the new ones among them, and a stack of 64-bit words:
 * the square of the nonce made 64 bits wide, and the nonce turned by a count that the stack held.
 */
	.code64
	.globl start
start:
	movabs $WIDE, %r8
	mov %r8, %rax
	mul %r8
	mov %rax, %r14
	mov %rdx, %r15
	push $TURN
	pop %rcx
	rol %cl, %r8
	xor %r8, %r14
	mov $PORT, %edx
	mov %r14d, %eax
	out %eax, %dx
	shr $32, %r14
	mov %r14d, %eax
	out %eax, %dx
	mov %r15d, %eax
	out %eax, %dx
	shr $32, %r15
	mov %r15d, %eax
	out %eax, %dx
halt:	hlt
	jmp halt
	.section .note.GNU-stack, "", @progbits
