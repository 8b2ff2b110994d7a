/*
 * RAM on both sides of the PCI hole. Starts in real mode at LOAD and takes itself into long mode (SDM vol. 3A, 10.8.5),
 * with three tables of its own at TABLES that map 2 MiB at each of the physical addresses P1 to P5 to the virtual
 * addresses 2 MiB, 4 MiB, ... Then, at OFF of each: writes NONCE + n, reads it back, tells on PORT what it read.
 */

	.code16
	.globl start
start:
	cli
	xor %ax, %ax
	mov %ax, %ds
	mov $(TABLES >> 4), %ax
	mov %ax, %es
	movl $(TABLES + 0x1003), %es:0
	movl $(TABLES + 0x2003), %es:0x1000
	movl $0x83, %es:0x2000
	.macro page n, address
	movl $(((\address) & 0xffe00000) + 0x83), %es:(0x2000 + 8 * \n)
	movl $((\address) >> 32), %es:(0x2004 + 8 * \n)
	.endm
	page 1, P1
	page 2, P2
	page 3, P3
	page 4, P4
	page 5, P5
	mov $TABLES, %eax
	mov %eax, %cr3
	mov $0x20, %eax /* PAE */
	mov %eax, %cr4
	mov $0xc0000080, %ecx
	rdmsr
	or $0x100, %eax /* LME */
	wrmsr
	lgdtl LOAD + (pointer - start)
	mov $0x80000001, %eax /* PG, PE */
	mov %eax, %cr0
	ljmpl $8, $LOAD + (code64 - start)

	.balign 8
gdt:	.quad 0, 0x00af9b000000ffff
pointer:
	.word 15
	.long LOAD + (gdt - start)

	.code64
code64:
	mov $(0x200000 + OFF), %ebx
	mov $(NONCE + 1), %esi
	mov $PORT, %edx
	mov $5, %ecx
next:	mov %esi, (%rbx)
	mov (%rbx), %eax
	out %eax, %dx
	add $0x200000, %rbx
	inc %esi
	dec %ecx
	jnz next
halt:	hlt
	jmp halt
	.section .note.GNU-stack, "", @progbits
