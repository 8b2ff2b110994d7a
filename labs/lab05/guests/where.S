/*
 * where: a kernel of a few bytes that tells where it is. It sends to port 0x3f8, as raw bytes: NONCE, the
 * address at which it runs (both 32 bits, little-endian), and the number of 32-bit words in its .bss that
 * aren't zero. Then it halts. It is loaded at one address and linked for another, so it is written to run
 * anywhere: the assembler's addresses mean nothing.
 *
 * Defines: BITS (32 or 64), NONCE, BSS (bytes of .bss behind the code, a multiple of 4).
 */
	.text
	.globl _start
#if BITS == 64
	.code64
_start:	lea _start(%rip), %rbx
	lea image_end(%rip), %rsi
#else
	.code32
_start:	call 1f
1:	pop %ebx
	lea (image_end - 1b)(%ebx), %esi
	sub $(1b - _start), %ebx
#endif
	mov $0x3f8, %dx
	mov $NONCE, %edi
	mov $2, %cl
word:	mov $4, %ch
byte:	mov %edi, %eax
	out %al, %dx
	shr $8, %edi
	dec %ch
	jnz byte
	mov %ebx, %edi
	dec %cl
	jnz word

	xor %edi, %edi               /* words that aren't zero */
	mov $(BSS / 4), %ecx
	jecxz 3f
#if BITS == 64
1:	cmpl $0, (%rsi)
#else
1:	cmpl $0, (%esi)
#endif
	je 2f
	inc %edi
#if BITS == 64
2:	add $4, %rsi
#else
2:	add $4, %esi
#endif
	dec %ecx
	jnz 1b
3:	mov $4, %cl
4:	mov %edi, %eax
	out %al, %dx
	shr $8, %edi
	dec %cl
	jnz 4b
	cli
5:	hlt
	jmp 5b
image_end:

	.section .note.GNU-stack, "", @progbits
