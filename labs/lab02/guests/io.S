/*
 * io: reads PORT with one, two and four bytes and sends each answer on to ECHO; writes VALUE to PORT with one,
 * two and four bytes; reads NOBODY, where no device is. Then it halts with interrupts off.
 */
	.code16
	.globl _start
_start:
	cli
	mov $PORT, %dx
	in %dx, %al
	mov $ECHO, %dx
	out %al, %dx
	mov $PORT, %dx
	in %dx, %ax
	mov $ECHO, %dx
	out %ax, %dx
	mov $PORT, %dx
	in %dx, %eax
	mov $ECHO, %dx
	out %eax, %dx
	mov $PORT, %dx
	mov $VALUE, %eax
	out %al, %dx
	out %ax, %dx
	out %eax, %dx
	mov $NOBODY, %dx
	xor %eax, %eax
	in %dx, %eax
	mov $ECHO, %dx
	out %eax, %dx
1:	hlt
	out %al, $0xf4          /* nobody comes back from that hlt; if somebody does, this ends the machine */
	jmp 1b
