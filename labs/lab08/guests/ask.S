/*
 * A guest of lab 8, in real mode at 0x1000. EBX is NONCE. It asks port PORT for bytes, ROUNDS times; `asked` is where it
 * goes on when an answer has come, with the answer in AL. Then it writes to the port once and computes for ever.
 */
	.section .text, "ax"
	.code16
	.globl _start, ask, asked
_start:
	cli
	cld
	mov $NONCE, %ebx
	xor %eax, %eax
	mov %ax, %es
	mov $0x3000, %di
	mov $PORT, %dx
	mov $ROUNDS, %cx
ask:	in %dx, %al
asked:	stosb                            /* kept at 0x3000 and on */
	loop ask
	out %al, %dx                     /* it has them all */
turn:	jmp turn

	.section .note.GNU-stack, "", @progbits
