/*
 * Entered in long mode. Writes NONCE + n to each of four addresses, A1 to A4, some of them above 4 GiB; reads all four
 * back and tells them.
 */
	.code64
	.globl start
start:
	mov $PORT, %edx
	lea list(%rip), %rsi
	mov $NONCE, %eax
	mov $4, %ecx
put:	inc %eax
	mov (%rsi), %rbx
	mov %eax, (%rbx)
	add $8, %rsi
	dec %ecx
	jnz put
	lea list(%rip), %rsi
	mov $4, %ecx
get:	mov (%rsi), %rbx
	mov (%rbx), %eax
	out %eax, %dx
	add $8, %rsi
	dec %ecx
	jnz get
halt:	hlt
	jmp halt
	.balign 8
list:	.quad A1, A2, A3, A4
	.section .note.GNU-stack, "", @progbits
