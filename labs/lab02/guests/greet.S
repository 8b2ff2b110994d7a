/* greet: writes TEXT's eight characters to the first serial port, and halts. */
	.code16
	.globl _start
_start:
	cli
	mov $0x3f8, %dx
	mov $LOW, %eax
	call put
	mov $HIGH, %eax
	call put
1:	hlt
	out %al, $0xf4          /* nobody comes back from that hlt; if somebody does, this ends the machine */
	jmp 1b

put:	mov $4, %cx
2:	out %al, %dx
	shr $8, %eax
	loop 2b
	ret
