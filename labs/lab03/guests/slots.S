/*
 * Two slots: the code lies in one, the data in the other. Real mode, CS base 0. Reads a word from DATA, mixes the nonce
 * into it, stores it behind, and tells it on PORT.
 */
	.code16
	.globl start
start:
	mov $(DATA >> 4), %ax
	mov %ax, %ds
	mov 0, %eax
	xor $NONCE, %eax
	mov %eax, 4
	mov $PORT, %dx
	out %eax, %dx
halt:	hlt
	jmp halt
	.section .note.GNU-stack, "", @progbits
