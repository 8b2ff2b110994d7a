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
	hlt
1:	hlt
	jmp 1b

put:	mov $4, %cx
2:	out %al, %dx
	shr $8, %eax
	loop 2b
	ret
