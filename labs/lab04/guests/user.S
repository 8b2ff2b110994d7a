/*
 * Entered in long mode at CPL 0. Opens its first 2 MiB, and those at AWAY, to CPL 3 by setting the user bit on all three
 * levels of the tables it was given, takes a GDT of its own, and goes to CPL 3 by iretq. No port may be used there, so it
 * tells by writing to AWAY, where there is no memory: its level, and twice the nonce by way of an SSE register.
 */
	.code64
	.globl start
start:
	mov %cr3, %rax
	and $-4096, %rax
	orb $4, (%rax)
	mov (%rax), %rbx /* the PDPT, with its flags */
	and $-4096, %rbx
	.macro open address
	orb $4, (8 * ((\address) >> 30))(%rbx)
	mov (8 * ((\address) >> 30))(%rbx), %rcx
	and $-4096, %rcx
	orb $4, (8 * ((\address) >> 21 & 511))(%rcx)
	.endm
	open 0
	open AWAY
	mov %rax, %cr3 /* forgets what was cached */
	lea gdt(%rip), %rax
	mov %rax, base(%rip)
	lgdt pointer(%rip)
	pushq $0x1b /* SS */
	pushq $STACK
	pushq $0x2 /* RFLAGS */
	pushq $0x23 /* CS */
	lea user(%rip), %rax
	pushq %rax
	iretq
user:	mov $AWAY, %ebx
	mov %cs, %eax
	and $3, %eax
	mov %eax, (%rbx)
	mov $NONCE, %eax
	movd %eax, %xmm3
	paddd %xmm3, %xmm3
	movd %xmm3, %eax
	mov %eax, 4(%rbx)
wait:	pause
	jmp wait
	.balign 8
gdt:	.quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cff3000000ffff, 0x00affb000000ffff
pointer:
	.word 39
base:	.quad 0
	.section .note.GNU-stack, "", @progbits
