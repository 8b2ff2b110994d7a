/*
 * Entry of a flat image that wants more than 16 bits: from real mode straight into long mode. Page tables
 * are written here, since 4 KiB of zeros each would only swell the file: the first 2 MiB, where we live,
 * and the 2 MiB at MMIO_BASE, where no RAM is in any VM (see HV_PCI_HOLE_START in core/kvm/memory.h).
 * flat_main follows.
 */
#include "macros.inc"
#include "flat.h"

#define PAGE_TABLE 0x03 /* present, writable */
#define PAGE_2M    0x83 /* the same and PS: a page of 2 MiB */

	.section .start, "ax"
	.code16
	.globl start16
start16:
	cli
	cld
	xor %ax, %ax
	mov %ax, %ds
	mov %ax, %ss
	movl $stack_end, %esp
	movl $(directory_pointers + PAGE_TABLE), page_tables
	movl $(directory_low + PAGE_TABLE), directory_pointers
	movl $PAGE_2M, directory_low
	movl $(directory_mmio + PAGE_TABLE), directory_pointers + 8 * (MMIO_BASE >> 30)
	movl $(MMIO_BASE + PAGE_2M), directory_mmio + 8 * ((MMIO_BASE >> 21) & 511)
	enter_long_mode page_tables
	lgdtl gdt_pointer
	ljmpl $SEL_CODE, $1f

	.code64
1:	mov $SEL_DATA, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	mov %esp, %esp
	xor %ebp, %ebp
	call flat_main

	.balign 8
gdt:
	.quad 0, 0
	.quad 0x00af9b000000ffff /* SEL_CODE: 64 bits, DPL 0 */
	.quad 0x00cf93000000ffff /* SEL_DATA */
gdt_pointer:
	.word . - gdt - 1
	.long gdt

	.bss
	.balign 4096
page_tables:
	.skip 4096
directory_pointers:
	.skip 4096
directory_low:
	.skip 4096
directory_mmio:
	.skip 4096
	.skip 4096
stack_end:

	.section .note.GNU-stack, "", @progbits
