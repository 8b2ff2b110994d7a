/* spin: counts to COUNT in ECX, tells PORT, and halts. */
	.code16
	.globl _start
_start:
	cli
	mov $PORT, %dx
	mov $COUNT, %ecx
1:	dec %ecx
	jnz 1b
	mov $0x21, %al
	out %al, %dx
2:	hlt
	out %al, $0xf4          /* nobody comes back from that hlt; if somebody does, this ends the machine */
	jmp 2b
