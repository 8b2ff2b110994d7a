/*
 * Entry by multiboot or PVH: 32-bit protected mode, paging off, EBX = boot information, EAX = multiboot's
 * magic. An ELF32 image that is booted as one gets hvm_start_info in EBX too. From here it goes into long
 * mode at once.
 */
#include "macros.inc"

	elf_note pvh, "Xen", NOTE_XEN_PVH_ENTRY, .quad, start32

	.text
	.code32
	.globl start32
start32:
	cli
	cld
	mov $boot_stack_end, %esp
	mov %eax, %esi
	enter_long_mode page_tables
	lgdt gdt_pointer
	ljmp $SEL_CODE, $1f

	.code64
1:	mov $SEL_DATA, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	mov $START_32, %edi
	mov %esi, %esi
	mov %ebx, %edx
	xor %ebp, %ebp
	call boot_start

	.section .note.GNU-stack, "", @progbits
