/*
 * Entered in long mode. Loads every segment register anew, from the GDT that it was given, as each kernel does early on;
 * then uses them. Tells: CS, the task register, the nonce by way of a far return, and the nonce through the new DS.
 */
	.code64
	.globl start
start:
	mov $PORT, %edx
	mov %cs, %eax
	out %eax, %dx
	str %eax
	out %eax, %dx
	mov %ds, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %fs
	mov %eax, %gs
	mov %eax, %ss
	mov %cs, %eax
	push %rax
	lea far(%rip), %rax
	push %rax
	mov $NONCE, %eax
	lretq
far:	out %eax, %dx
	mov %eax, CELL
	mov CELL, %eax
	not %eax
	out %eax, %dx
halt:	hlt
	jmp halt
	.section .note.GNU-stack, "", @progbits
