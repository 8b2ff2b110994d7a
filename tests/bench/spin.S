# One CPU says that it is there and spins.
	.code16
	.globl	_start
_start:
	mov	$'R', %al
	mov	$0x3f8, %dx
	out	%al, %dx
1:	pause
	jmp	1b
