/*
 * hello: the smallest guest that does something. Sixteen-bit real mode, as every x86 CPU wakes up; no stack
 * frame, no OS, nothing but bytes to the serial port and hlt. Works at any --load-addr below 64 KiB, since
 * it asks the CPU where it is. Each `out` is one exit to the hypervisor; so is the hlt at the end.
 */
	.section .start, "ax"
	.code16
	.globl start16
start16:
	xor %ax, %ax
	mov %ax, %ds             /* segment bases are AX * 16: all memory is counted from 0 */
	mov %ax, %ss
	mov $0x0800, %sp         /* a stack below us, for the one call */
	cld
	call 1f                  /* pushes the address of label 1 */
1:	pop %si
	add $(greeting - 1b), %si
	mov $0x3f8, %dx          /* the first serial port's data register */
next:	lodsb                    /* AL = byte at DS:SI, SI = SI + 1 */
	test %al, %al
	jz done
	out %al, %dx
	jmp next
done:	hlt
	jmp done

greeting:
	.asciz "Hello from real mode!\n"

	.section .note.GNU-stack, "", @progbits
