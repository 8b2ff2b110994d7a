/*
 * A guest of lab 8, an ELF64 image entered in long mode on the boot processor, with local APICs. It wakes all other
 * CPUs by INIT and SIPI, which start in real mode at TRAMPOLINE, and all CPUs count together: ROUNDS times each adds
 * NONCE to one word, under a spinlock. When all are done, or when the patience of the boot processor ends, it shows
 * how many have come up (port PORT), how many are done (PORT + 1) and the sum (PORT + 2), and ends by the debug exit:
 * 0x10 when all are done, else 0x11. Rules: SDM vol. 3A, 9.4 (INIT and SIPI), 11.6.1 (the interrupt command register).
 */
#define TRAMPOLINE 0x8000
#define SHARED     0x7000 /* what all CPUs share: below 64 KiB, for the real-mode ones */
#define LOCK       (SHARED + 0)
#define SUM        (SHARED + 4)
#define UP         (SHARED + 8)
#define DONE       (SHARED + 12)
#define GO         (SHARED + 16)
#define PATIENCE   (1 << 33) /* cycles: some seconds */

	.section .text, "ax"
	.code64
	.globl _start
_start:
	cli
	cld
	mov $stack_end, %rsp
	lea trampoline(%rip), %rsi
	mov $TRAMPOLINE, %edi
	mov $trampoline_end - trampoline, %ecx
	rep movsb
	xor %eax, %eax
	mov $SHARED, %edi
	mov $5, %ecx
	rep stosl
	mov $0xfee00000, %ebx
	movl $0x1ff, 0xf0(%rbx)          /* local APIC on */
	movl $0, 0x310(%rbx)
	movl $0xc4500, 0x300(%rbx)       /* INIT to all but this one */
	movl $0xc4600 | TRAMPOLINE >> 12, 0x300(%rbx) /* SIPI: start at this page */
	mov $UP, %esi
	call wait_for_others
	movl $1, GO
	mov $ROUNDS, %ecx
1:	mov $1, %eax
2:	xchg %eax, LOCK                  /* locked by itself, as any xchg with memory */
	test %eax, %eax
	jz 3f
	pause
	mov $1, %eax
	jmp 2b
3:	addl $NONCE, SUM
	movl $0, LOCK
	dec %ecx
	jnz 1b
	mov $DONE, %esi
	call wait_for_others
	mov $PORT, %edx
	mov UP, %eax
	out %eax, %dx
	inc %edx
	mov DONE, %eax
	out %eax, %dx
	inc %edx
	mov SUM, %eax
	out %eax, %dx
	mov $0x10, %eax
	cmpl $CPUS - 1, DONE
	je 4f
	inc %eax
4:	out %al, $0xf4
5:	pause
	jmp 5b

/* Until the word at RSI is CPUS - 1, or patience ends. */
wait_for_others:
	rdtsc
	shl $32, %rdx
	or %rdx, %rax
	mov $PATIENCE, %r8
	add %rax, %r8
1:	cmpl $CPUS - 1, (%rsi)
	je 2f
	pause
	rdtsc
	shl $32, %rdx
	or %rdx, %rax
	cmp %r8, %rax
	jb 1b
2:	ret

	.code16
trampoline: /* CS = TRAMPOLINE >> 4, IP = 0, real mode */
	cli
	xor %ax, %ax
	mov %ax, %ds
	lock incl UP
1:	pause
	cmpl $0, GO
	je 1b
	mov $ROUNDS, %ecx
2:	mov $1, %eax
3:	xchg %eax, LOCK
	test %eax, %eax
	jz 4f
	pause
	mov $1, %eax
	jmp 3b
4:	addl $NONCE, SUM
	movl $0, LOCK
	dec %ecx
	jnz 2b
	lock incl DONE
5:	hlt
	jmp 5b
trampoline_end:

	.section .bss, "aw", @nobits
	.balign 16
	.skip 4096
stack_end:

	.section .note.GNU-stack, "", @progbits
