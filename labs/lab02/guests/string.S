/*
 * string: eight bytes out to OUTS with one rep outsb; COUNT words in from INS with one rep insw; then one by
 * one what came in, to ECHO. At any address; the words go to 0x6000.
 */
	.code16
	.globl _start
_start:
	cli
	cld
	xor %ax, %ax
	mov %ax, %ss
	mov $0x7000, %sp
	call 1f
1:	pop %si
	add $(text - 1b), %si
	mov $8, %cx
	mov $OUTS, %dx
	rep outsb
	mov $COUNT, %cx
	mov $0x6000, %di
	mov $INS, %dx
	rep insw
	mov $COUNT, %cx
	mov $0x6000, %si
	mov $ECHO, %dx
2:	lodsw
	out %ax, %dx
	loop 2b
	hlt
3:	hlt
	jmp 3b

text:	.long NONCE, ~NONCE
