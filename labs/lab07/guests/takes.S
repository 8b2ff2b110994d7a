/*
 * A guest of lab 7, entered in long mode at 0x1000, with a local APIC. It takes interrupts of vector VECTOR and shows at
 * port PORT, over and over, how many there were, with SALT added. Its handler touches port PORT + 1, as a driver asks
 * its device to let go of the line, and only then says EOI. With PIN it routes that pin of the IOAPIC to the vector, by
 * level when LEVEL is 1. Rules: 82093AA data sheet, 3.2.4; SDM vol. 3A, 6.14.1 (64-bit gates), 11.8.5 (EOI).
 */
	.section .text, "ax"
	.code64
	.globl _start
_start:
	cli
	cld
	lea idt + 16 * VECTOR(%rip), %rdi
	lea handler(%rip), %rax
	mov %ax, (%rdi)
	mov %cs, %dx
	mov %dx, 2(%rdi)
	movw $0x8e00, 4(%rdi)            /* an interrupt gate, present, DPL 0 */
	shr $16, %rax
	mov %eax, 6(%rdi)
	lea idt(%rip), %rax
	mov %rax, idt_pointer + 2(%rip)
	lidt idt_pointer(%rip)
	mov $0xfee00000, %ebx            /* the local APIC */
	movl $0x1ff, 0xf0(%rbx)          /* on, spurious vector 255 */
	movl $0, 0x80(%rbx)              /* task priority 0: everything may come */
#ifdef PIN
	mov $0xff, %al                   /* a line leads to the PIC as well: mask all of that */
	out %al, $0x21
	out %al, $0xa1
	mov $0xfec00000, %ecx            /* the IOAPIC */
	movl $0x10 + 2 * PIN + 1, (%rcx)
	movl $0, 0x10(%rcx)              /* to the CPU with APIC id 0 */
	movl $0x10 + 2 * PIN, (%rcx)
	movl $VECTOR | LEVEL << 15, 0x10(%rcx)
#endif
	sti
again:	mov taken(%rip), %eax
	add $SALT, %eax
	mov $PORT, %edx
	out %eax, %dx
	nop
	jmp again

handler:
	incl taken(%rip)
	mov taken(%rip), %eax
	add $SALT, %eax
	mov $PORT + 1, %edx
	out %eax, %dx
	movl $0, 0xb0(%rbx)              /* EOI */
	iretq

	.section .data, "aw"
	.balign 8
taken:	.long 0
idt_pointer:
	.word 256 * 16 - 1
	.quad 0

	.section .bss, "aw", @nobits
	.balign 16
idt:	.skip 256 * 16

	.section .note.GNU-stack, "", @progbits
