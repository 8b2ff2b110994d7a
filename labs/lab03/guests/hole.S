/*
 * RAM on both sides of the PCI hole. Entered in long mode, with tables that the test made: five pages of 2 MiB, somewhere
 * in physical memory, are seen at 2 MiB, 4 MiB, ... At OFF of each: writes NONCE + n, reads it back, and tells on PORT
 * what it read.
 */
	.code64
	.globl start
start:
	mov $(0x200000 + OFF), %ebx
	mov $(NONCE + 1), %esi
	mov $PORT, %edx
	mov $5, %ecx
next:	mov %esi, (%rbx)
	mov (%rbx), %eax
	out %eax, %dx
	add $0x200000, %rbx
	inc %esi
	dec %ecx
	jnz next
halt:	hlt
	jmp halt
	.section .note.GNU-stack, "", @progbits
