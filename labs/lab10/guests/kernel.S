/*
 * A kernel for lab 10: what follows the setup code in a bzImage, written to run anywhere. Its 32-bit entry, at its first
 * byte, and its 64-bit entry, at 0x200, tell by 32-bit writes to port PORT, with SALT added to each, what they found:
 *
 *   which (32 or 64), where it runs, RSI, RSP, CR0, then of the zero page: HdrS, type_of_loader, code32_start,
 *   the command line's length and hash, the initrd's length and hash, E820's number of entries and their hash
 *
 * and end by port 0xf4. A hash is h * 33 + byte, from 5381, in 32 bits. Rules: the kernel's Documentation, boot.rst, section
 * "64-bit Boot Protocol", and zero-page.rst.
 */
	.macro tell
	add $SALT, %eax
	mov $PORT, %edx
	out %eax, %dx
	.endm

	.section .text, "ax"
	.globl _start
_start:
	.code32                          /* entered in long mode these bytes mean the same */
	mov $32, %eax
	tell
1:	hlt
	jmp 1b

	.org 0x200
	.code64
entry_64:
	mov %rsi, %rbp
	mov $64, %eax
	tell
	lea _start(%rip), %rax
	tell
	mov %ebp, %eax
	tell
	mov %esp, %eax
	tell
	mov %cr0, %rax
	tell
	mov 0x202(%rbp), %eax
	tell
	movzbl 0x210(%rbp), %eax
	tell
	mov 0x214(%rbp), %eax
	tell

	mov 0x228(%rbp), %esi            /* the command line, to its zero */
	mov $4096, %ecx
	mov $5381, %eax
	xor %edi, %edi
2:	movzbl (%rsi), %edx
	test %edx, %edx
	jz 3f
	imul $33, %eax
	add %edx, %eax
	inc %rsi
	inc %edi
	dec %ecx
	jnz 2b
3:	mov %eax, %ebx
	mov %edi, %eax
	tell
	mov %ebx, %eax
	tell

	mov 0x218(%rbp), %esi
	mov 0x21c(%rbp), %ecx
	mov %ecx, %eax
	tell
	call hash
	tell

	movzbl 0x1e8(%rbp), %ecx
	mov %ecx, %eax
	tell
	imul $20, %ecx
	lea 0x2d0(%rbp), %rsi
	call hash
	tell
	mov $0x10, %al
	out %al, $0xf4
4:	hlt
	jmp 4b

hash:	/* of ecx bytes at rsi, 64 KiB at most, in eax */
	mov $5381, %eax
	cmp $0x10000, %ecx
	ja 6f
5:	jecxz 6f
	movzbl (%rsi), %edx
	imul $33, %eax
	add %edx, %eax
	inc %rsi
	dec %ecx
	jmp 5b
6:	ret

	.section .note.GNU-stack, "", @progbits
