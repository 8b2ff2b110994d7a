/*
 * triple: tells PORT (BYTE) that it is about to fall, empties the interrupt table, and runs an instruction that is
 * none. The exception finds no handler, and neither do the two that follow from it.
 */
	.code16
	.globl _start
_start:
	mov $PORT, %dx
	mov $BYTE, %al
	out %al, %dx
	lidt empty
	mov %cr0, %eax
	or $1, %al
	mov %eax, %cr0
	ud2
1:	hlt
	jmp 1b

empty:	.word 0
	.long 0
