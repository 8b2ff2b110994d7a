/*
 * Entered in long mode at CPL 0. Opens its first 2 MiB to CPL 3 by setting the user bit on all three levels of the
 * tables it was given, takes a GDT of its own, and goes to CPL 3 by iretq with IOPL 3. There it tells CS and the nonce,
 * the latter by way of an SSE register.
 */
	.code64
	.globl start
start:
	mov %cr3, %rax
	and $-4096, %rax
	orb $4, (%rax)
	mov (%rax), %rbx
	and $-4096, %rbx
	orb $4, (%rbx)
	mov (%rbx), %rcx
	and $-4096, %rcx
	orb $4, (%rcx)
	mov %rax, %cr3 /* forgets what was cached */
	lea gdt(%rip), %rax
	mov %rax, base(%rip)
	lgdt pointer(%rip)
	pushq $0x1b /* SS */
	pushq $STACK
	pushq $0x3002 /* IOPL 3 */
	pushq $0x23 /* CS */
	lea user(%rip), %rax
	pushq %rax
	iretq
user:	mov $PORT, %edx
	mov %cs, %eax
	out %eax, %dx
	mov $NONCE, %eax
	movd %eax, %xmm3
	paddd %xmm3, %xmm3
	movd %xmm3, %eax
	out %eax, %dx
wait:	pause
	jmp wait
	.balign 8
gdt:	.quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cff3000000ffff, 0x00affb000000ffff
pointer:
	.word 39
base:	.quad 0
	.section .note.GNU-stack, "", @progbits
