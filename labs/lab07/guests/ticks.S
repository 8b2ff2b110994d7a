/*
 * A guest of lab 7, entered in long mode at 0x1000, with a whole PC's interrupt controllers. The PIT ticks at about
 * 1000 Hz, through the PIC, or with IOAPIC through that chip's pins 0 and 2. After TICKS ticks the third channel of the
 * PIT counts down once, and port 0x61 tells when it is through. Then the guest shows the ticks with SALT added at PORT,
 * and at PORT + 1 whether the third channel was seen to end. When a tick doesn't come, patience ends and it goes on.
 * Rules: 8254 and 8259A data sheets; IBM AT Technical Reference (port 0x61).
 */
#define DIVISOR  1193   /* of 1193182 Hz */
#define PATIENCE (1 << 32) /* cycles: a second or two */

	.section .text, "ax"
	.code64
	.globl _start
_start:
	cli
	cld
	lea idt + 16 * VECTOR(%rip), %rdi
	lea handler(%rip), %rax
	mov %ax, (%rdi)
	mov %cs, %dx
	mov %dx, 2(%rdi)
	movw $0x8e00, 4(%rdi)
	shr $16, %rax
	mov %eax, 6(%rdi)
	lea idt(%rip), %rax
	mov %rax, idt_pointer + 2(%rip)
	lidt idt_pointer(%rip)
	mov $0xfee00000, %ebx
	movl $0x1ff, 0xf0(%rbx)
	movl $0, 0x80(%rbx)

	mov $0x11, %al                   /* the PICs: initialise, their vectors, their cascade, 8086 mode */
	out %al, $0x20
	out %al, $0xa0
	mov $VECTOR, %al                 /* a multiple of 8: line 0 is the PIT's */
	out %al, $0x21
	mov $0xf8, %al
	out %al, $0xa1
	mov $4, %al
	out %al, $0x21
	mov $2, %al
	out %al, $0xa1
	mov $1, %al
	out %al, $0x21
	out %al, $0xa1
	mov $0xff, %al
	out %al, $0xa1
#ifdef IOAPIC
	out %al, $0x21                   /* no line through the PIC */
	mov $0xfec00000, %ecx
	movl $0x11, (%rcx)
	movl $0, 0x10(%rcx)
	movl $0x10, (%rcx)
	movl $VECTOR, 0x10(%rcx)
	movl $0x15, (%rcx)
	movl $0, 0x10(%rcx)
	movl $0x14, (%rcx)
	movl $VECTOR, 0x10(%rcx)
#else
	movl $0x700, 0x350(%rbx)         /* LINT0: what the PIC sends */
	mov $0xfe, %al
	out %al, $0x21
#endif
	mov $0x34, %al                   /* channel 0, both bytes, a pulse each time it ends */
	out %al, $0x43
	mov $DIVISOR & 255, %al
	out %al, $0x40
	mov $DIVISOR >> 8, %al
	out %al, $0x40
	call start_patience
1:	sti
	pause
	pause
	cli
	cmpl $TICKS, taken(%rip)
	jae 2f
	call patient
	jb 1b
2:	mov $0x30, %al                   /* channel 0 counts once and stops: no more ticks */
	out %al, $0x43

	mov $0, %al                      /* channel 2: gate off, count once from 0x200, gate on */
	out %al, $0x61
	mov $0xb0, %al
	out %al, $0x43
	mov $0, %al
	out %al, $0x42
	mov $2, %al
	out %al, $0x42
	mov $1, %al
	out %al, $0x61
	call start_patience
	xor %esi, %esi
3:	in $0x61, %al
	test $0x20, %al                  /* its output: high when it is through */
	jnz 4f
	call patient
	jb 3b
	jmp 5f
4:	inc %esi
5:	mov taken(%rip), %eax
	add $SALT, %eax
	mov $PORT, %edx
	out %eax, %dx
	inc %edx
	mov %esi, %eax
	out %al, %dx
6:	pause
	jmp 6b

start_patience:
	rdtsc
	shl $32, %rdx
	or %rdx, %rax
	mov $PATIENCE, %r8
	add %rax, %r8
	ret
patient: /* carry while there is some left */
	rdtsc
	shl $32, %rdx
	or %rdx, %rax
	cmp %r8, %rax
	ret

handler:
	push %rax
	cmpl $TICKS, taken(%rip)         /* a tick that waited may come too many */
	jae 1f
	incl taken(%rip)
1:
#ifdef IOAPIC
	movl $0, 0xb0(%rbx)
#else
	mov $0x20, %al
	out %al, $0x20
#endif
	pop %rax
	iretq

	.section .data, "aw"
	.balign 8
taken:	.long 0
idt_pointer:
	.word 256 * 16 - 1
	.quad 0

	.section .bss, "aw", @nobits
	.balign 16
idt:	.skip 256 * 16

	.section .note.GNU-stack, "", @progbits
