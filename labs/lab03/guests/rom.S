/*
 * A read-only slot: reads are memory's, a write comes out as an MMIO exit and changes nothing. Real mode, CS base 0.
 * Reads the word at ROM + OFF, writes the nonce there, reads again.
 */
	.code16
	.globl start
start:
	mov $(ROM >> 4), %ax
	mov %ax, %ds
	mov $PORT, %dx
	mov OFF, %eax
	out %eax, %dx
	movl $NONCE, OFF
	mov OFF, %eax
	out %eax, %dx
halt:	hlt
	jmp halt
	.section .note.GNU-stack, "", @progbits
