/*
 * Where an application processor wakes up: real mode, CS:IP = (page << 8):0, nothing else set. The page is
 * a copy of this code at TRAMPOLINE; it goes straight into long mode on the boot processor's page tables
 * and takes a stack by its turn. Rules: SDM vol. 3A, 9.4 (multiple-processor initialization).
 */
#include "macros.inc"
#include "smp.h"

	.section .rodata
	.code16
	.globl trampoline, trampoline_end
trampoline:
	cli
	cld
	xor %ax, %ax
	mov %ax, %ds
	enter_long_mode page_tables
	lgdtl TRAMPOLINE + pointer - trampoline
	ljmpl $SEL_CODE, $ap_start
	.balign 4
pointer: /* the GDT again, with the 32-bit base that lgdt takes in real mode */
	.word GDT_ENTRIES * 8 - 1
	.long gdt
trampoline_end:

	.text
	.code64
ap_start:
	mov $SEL_DATA, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	mov $1, %edi
	lock xadd %rdi, cpus_started /* who we are: 1, 2, ... */
	mov %rdi, %rax
	imul $AP_STACK_SIZE, %rax
	lea ap_stacks(%rax), %rsp /* the end of the stack with index rdi - 1 */
	xor %ebp, %ebp
	call ap_main

	.bss
	.balign 16
	.globl ap_stacks
ap_stacks:
	.skip AP_STACK_SIZE * (CPUS_MAX - 1)

	.section .note.GNU-stack, "", @progbits
