/*
 * Entry of a plain ELF64 image: long mode, CPL 0, memory mapped one to one by the loader, RDI =
 * hvm_start_info. The loader's GDT is left at once for our own; its page tables stay until the guest writes
 * CR3.
 */
#include "start.h"

	.text
	.code64
	.globl start64
start64:
	cli
	cld
	mov $boot_stack_end, %rsp
	mov %cs, entry_cs
	sgdt entry_gdt
	lgdt gdt_pointer
	pushq $SEL_CODE
	pushq $1f
	lretq
1:	mov $SEL_DATA, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	mov %rdi, %rdx
	mov $START_64, %edi
	xor %esi, %esi
	xor %ebp, %ebp
	call boot_start

	.bss
	.balign 8
	.globl entry_cs, entry_gdt
entry_cs: /* what the loader entered us with; `longmode` looks at it */
	.skip 8
entry_gdt: /* limit (16 bits), base */
	.skip 16

	.section .note.GNU-stack, "", @progbits
