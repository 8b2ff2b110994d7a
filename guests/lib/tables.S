/*
 * Page tables and GDT, made by the assembler so that no instruction is spent on them: the first 4 GiB one
 * to one in 2 MiB pages, and segments for both privilege levels. Rules: SDM vol. 3A, 4.5 (4-level paging),
 * 3.4.5 (descriptors).
 */
#include "start.h"

/* User everywhere: what these guests run at CPL 3 is their own code, there is nobody to be kept out. */
#define PAGE_TABLE 0x07 /* present, writable, user: points to a table */
#define PAGE_2M    0x87 /* the same and PS: maps a page */

	.data
	.balign 4096
	.globl page_tables
page_tables: /* PML4 */
	.quad directory_pointers + PAGE_TABLE
	.fill 511, 8, 0
directory_pointers:
	.quad directories + 0x0000 + PAGE_TABLE
	.quad directories + 0x1000 + PAGE_TABLE
	.quad directories + 0x2000 + PAGE_TABLE
	.quad directories + 0x3000 + PAGE_TABLE
	.fill 508, 8, 0
directories:
	.set frame, 0
	.rept 2048
	.quad (frame << 21) + PAGE_2M
	.set frame, frame + 1
	.endr

	.balign 16
	.globl gdt, gdt_pointer
gdt:
	.quad 0
	.quad 0x00cf9b000000ffff /* 0x08 code, 32 bits: base 0, limit 4 GiB, accessed */
	.quad 0x00af9b000000ffff /* 0x10 code, 64 bits (L set, D clear) */
	.quad 0x00cf93000000ffff /* 0x18 data */
	.quad 0x00cffb000000ffff /* 0x20 code, 32 bits, DPL 3 */
	.quad 0x00cff3000000ffff /* 0x28 data, DPL 3 */
	.quad 0x00affb000000ffff /* 0x30 code, 64 bits, DPL 3 */
	.quad 0
	.quad 0, 0               /* 0x40 TSS, written by trap_init */
gdt_pointer:
	.word GDT_ENTRIES * 8 - 1
	.quad gdt

	.bss
	.balign 16
	.globl boot_stack_end
	.skip 16384
boot_stack_end:

	.section .note.GNU-stack, "", @progbits
