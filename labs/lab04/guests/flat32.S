/*
 * Entered in flat 32-bit protected mode. Reloads its segments, and tells what only 32-bit code makes of these bytes:
 * 0x48 is `dec %eax` here, and a REX prefix in 64-bit code.
 */
	.code32
	.globl start
start:
	mov %ds, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	mov $NONCE, %eax
	.byte 0x48, 0x89, 0xc3 /* dec %eax; mov %eax, %ebx. In 64-bit code: mov %rax, %rbx */
	mov %ebx, %eax
	mov $PORT, %edx
	out %eax, %dx
halt:	hlt
	jmp halt
	.section .note.GNU-stack, "", @progbits
