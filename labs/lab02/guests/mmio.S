/*
 * mmio: loads of one, two, four and eight bytes at MMIO, each sent on to ECHO (eight in two halves); stores of
 * the same widths at MMIO + 0x10; a load and a store of four bytes at EDGE, where one device ends and another
 * begins; a store of one and a load of eight at HOLE, where none is. 64-bit code at CPL 0, as the ELF loader leaves it.
 */
	.code64
	.globl _start
_start:
	mov $ECHO, %dx
	movabs $MMIO, %rbx
	xor %eax, %eax
	mov (%rbx), %al
	out %al, %dx
	mov (%rbx), %ax
	out %ax, %dx
	mov (%rbx), %eax
	out %eax, %dx
	mov (%rbx), %rax
	out %eax, %dx
	shr $32, %rax
	out %eax, %dx

	movabs $VALUE, %rax
	mov %al, 0x10(%rbx)
	mov %ax, 0x10(%rbx)
	mov %eax, 0x10(%rbx)
	mov %rax, 0x10(%rbx)

	movabs $EDGE, %rbx
	mov (%rbx), %ecx
	mov %eax, (%rbx)
	mov %ecx, %eax
	out %eax, %dx

	movabs $HOLE, %rbx
	mov %al, (%rbx)
	mov (%rbx), %rax
	out %eax, %dx
	shr $32, %rax
	out %eax, %dx
1:	hlt
	out %al, $0xf4          /* nobody comes back from that hlt; if somebody does, this ends the machine */
	jmp 1b
