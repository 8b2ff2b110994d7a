/*
 * A guest of lab 9, entered in long mode: a driver that thinks of nothing itself. Descriptors, heads and buffers stand in
 * its memory before it starts. It sets the device at WINDOW up with one queue of SIZE entries and the features FEATURES
 * (bits 0 to 31) and FEATURES_HIGH, and then, for each of the COUNT pairs of 16-bit numbers at STEPS, stores the first as
 * the available ring's index, notifies, and waits until the used ring's index is the second. After each step it reads the
 * interrupt status and acknowledges it. It ends when the steps are done, when the device asks for a reset (status 0x40),
 * or when its patience ends: by OUT to port 0xf4 of 0x10, 0x11 or 0x12.
 * Rules: virtio 1.2, sections 3.1.1 (initialisation), 4.2.2 (registers), 2.7.
 */
#define PATIENCE (1 << 31) /* cycles: a second or less, and */
#define LOOKS    20000     /* so many looks at the used ring; */
#define MORE     4000      /* then the clock is read after so many more */

#define DRIVER_FEATURES      0x20
#define DRIVER_FEATURES_SEL  0x24
#define QUEUE_SEL            0x30
#define QUEUE_NUM            0x38
#define QUEUE_READY          0x44
#define QUEUE_NOTIFY         0x50
#define INTERRUPT_STATUS     0x60
#define INTERRUPT_ACK        0x64
#define STATUS               0x70
#define QUEUE_TABLE          0x80
#define QUEUE_AVAILABLE      0x90
#define QUEUE_USED           0xa0
#define NEEDS_RESET          0x40

	.macro put reg, value
	movl $\value, \reg(%rbx)
	.endm

	.section .text, "ax"
	.code64
	.globl _start
_start:
	cli
	cld
	mov $WINDOW, %ebx
	put STATUS, 0
	put STATUS, 1
	put STATUS, 3
	put DRIVER_FEATURES_SEL, 0
	put DRIVER_FEATURES, FEATURES
	put DRIVER_FEATURES_SEL, 1
	put DRIVER_FEATURES, FEATURES_HIGH
	put STATUS, 11
	put QUEUE_SEL, 0
	put QUEUE_NUM, SIZE
	put QUEUE_TABLE, TABLE
	put QUEUE_TABLE + 4, 0
	put QUEUE_AVAILABLE, AVAILABLE
	put QUEUE_AVAILABLE + 4, 0
	put QUEUE_USED, USED
	put QUEUE_USED + 4, 0
	put QUEUE_READY, 1
	put STATUS, 15

	mov $STEPS, %esi
	mov $AVAILABLE + 2, %edi
	mov $USED + 2, %ebp
	mov $COUNT, %r12d
step:	mov (%rsi), %ax
	mov %ax, (%rdi)
	movl $0, QUEUE_NOTIFY(%rbx)
	mov $LOOKS, %r9d
	rdtsc
	shl $32, %rdx
	or %rdx, %rax
	mov $PATIENCE, %r8d
	add %rax, %r8
look:	mov (%rbp), %ax
	cmp 2(%rsi), %ax
	je 2f
	pause
	dec %r9d
	jns 1f
	mov $MORE, %r9d
	rdtsc
	shl $32, %rdx
	or %rdx, %rax
	cmp %r8, %rax
	jae impatient
1:	test $0x3ff, %r9d                /* now and then: does it still want to? */
	jnz look
	testl $NEEDS_RESET, STATUS(%rbx)
	jz look
	jmp broken
2:	mov INTERRUPT_STATUS(%rbx), %eax
	mov %eax, INTERRUPT_ACK(%rbx)
	mov STATUS(%rbx), %eax
	add $4, %rsi
	dec %r12d
	jnz step
	mov $0x10, %al
	jmp end
broken:	mov $0x11, %al
	jmp end
impatient:
	mov $0x12, %al
end:	out %al, $0xf4
	jmp end

	.section .note.GNU-stack, "", @progbits
