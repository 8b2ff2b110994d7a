/*
 * string: eight bytes out to OUTS with one rep outsb; COUNT words in from INS with one rep insw; then one by
 * one what came in, to ECHO. The words go to 0x8000.
 */
	.code16
	.globl _start
_start:
	cli
	cld
	mov $text, %si
	mov $8, %cx
	mov $OUTS, %dx
	rep outsb
	mov $COUNT, %cx
	mov $0x8000, %di
	mov $INS, %dx
	rep insw
	mov $COUNT, %cx
	mov $0x8000, %si
	mov $ECHO, %dx
2:	lodsw
	out %ax, %dx
	loop 2b
3:	hlt
	out %al, $0xf4          /* nobody comes back from that hlt; if somebody does, this ends the machine */
	jmp 3b

text:	.long NONCE, ~NONCE & 0xffffffff
