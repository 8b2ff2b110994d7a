/*
 * copy: reads the word at DATA by DS, pushes it and pops it by SS, stores what came out at DATA + 2 by ES, and
 * tells PORT. So each of the segments has to begin at address 0. SP is set from outside.
 */
	.code16
	.globl _start
_start:
	cld
	mov DATA, %ax
	push %ax
	xor %ax, %ax
	pop %ax
	mov $(DATA + 2), %di
	stosw
	mov $PORT, %dx
	out %ax, %dx
	hlt
1:	hlt
	jmp 1b
