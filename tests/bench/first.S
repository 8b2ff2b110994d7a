# One byte on the serial port, then the end. Runs wherever it is loaded.
	.code16
	.globl	_start
_start:
	mov	$0x3f8, %dx
	mov	$'F', %al
	out	%al, %dx
	mov	$0xf4, %dx
	xor	%al, %al
	out	%al, %dx
1:	hlt
	jmp	1b
