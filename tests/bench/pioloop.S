# 100,000 exits and nothing else, between two bytes on the serial port. Runs wherever it is loaded.
	.code16
	.globl	_start
_start:
	mov	$0x3f8, %dx
	mov	$'S', %al
	out	%al, %dx
	mov	$100000, %ecx
1:	out	%al, $0x80
	dec	%ecx
	jnz	1b
	mov	$'E', %al
	out	%al, %dx
	mov	$0xf4, %dx
	xor	%al, %al
	out	%al, %dx
2:	hlt
	jmp	2b
