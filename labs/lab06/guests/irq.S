/*
 * irq: a driver that never looks, but is told. It sends NONCE as eight hexadecimal digits and a newline, a
 * byte an interrupt: enabling the transmitter's interrupt starts it, and each byte's end brings the next.
 * Then it takes COUNT bytes of input in the same way and adds them up; their sum, 16 bits, is at 0x7000 when
 * it ends (status 33). It gives up (status 35) when nothing happens any more.
 *
 * IRQ 4 goes through the PIC to vector 0x0c. Defines: NONCE (32 bits), COUNT. Needs --irqchip full.
 */
#include "uart.inc"

	.set SUM, 0x7000             /* what a test looks at */
	.set EVENTS, 0x7004          /* how many interrupts there were: while it grows, something happens */
	.set TEXT, 0x7010

	.text
	.code16
	.globl _start
_start:
	begin
	movl $0, SUM
	movl $0, EVENTS

	mov $NONCE, %ebx             /* the text: eight digits and a newline */
	mov $TEXT, %di
	mov $8, %cx
1:	rol $4, %ebx
	mov %bl, %al
	and $0x0f, %al
	add $'0', %al
	cmp $'9', %al
	jbe 2f
	add $('a' - '9' - 1), %al
2:	stosb
	loop 1b
	mov $'\n', %al
	stosb

	movw $handler, 4 * 0x0c      /* the vector table is at 0: offset, then segment */
	movw $0, 4 * 0x0c + 2
	mov $0x11, %al               /* PIC: ICW1, then vectors from 8 on, IRQ 2 cascades, 8086 mode */
	out %al, $0x20
	mov $0x08, %al
	out %al, $0x21
	mov $0x04, %al
	out %al, $0x21
	mov $0x01, %al
	out %al, $0x21
	mov $0xef, %al               /* IRQ 4 alone */
	out %al, $0x21

	mov $TEXT, %si
	mov $9, %bx                  /* bytes to send */
	mov $COUNT, %bp              /* bytes to take */
	uart_set LCR, 0x03
	uart_set FCR, 0x07           /* FIFOs on and empty, one byte interrupts */
	uart_set MCR, 0x0b           /* DTR, RTS, and OUT2: the gate to the PIC */
	sti
	uart_set IER, 0x02           /* the transmitter is empty: the first interrupt comes at once */
	call wait_bx
	uart_set IER, 0x01
	call wait_bp
	cli
	end_with OK

/* Waits until BX (or BP) is 0, or 3000 looks have passed in which no interrupt came. Port 0x80 makes each
 * look an exit, so that time passes for the host too. */
.macro wait_for name, register
\name:	mov EVENTS, %eax
	mov $3000, %cx
1:	test \register, \register
	jz 2f
	push %ax
	in $0x80, %al
	pop %ax
	cmp EVENTS, %eax
	jne \name
	loop 1b
	end_with GAVE_UP
2:	ret
.endm
	wait_for wait_bx, %bx
	wait_for wait_bp, %bp

handler:
	push %ax
	push %dx
	incl EVENTS
	uart_get IIR
	and $0x0f, %al
	cmp $0x02, %al
	je sent
	cmp $0x04, %al
	je came
	cmp $0x0c, %al
	jne done
came:	uart_get DATA               /* all that is there: the line stays high until the receiver is empty, */
	xor %ah, %ah                 /* and the PIC sees edges only */
	add %ax, SUM
	dec %bp
	jz quiet
	uart_get LSR
	test $0x01, %al
	jnz came
	jmp done
sent:	test %bx, %bx
	jz quiet
	lodsb
	out %al, $0x80               /* for whoever reads the trace: this byte is next */
	mov $(UART + DATA), %dx
	out %al, %dx
	dec %bx
	jmp done
quiet:	uart_set IER, 0x00
done:	mov $0x20, %al               /* EOI */
	out %al, $0x20
	pop %dx
	pop %ax
	iret

	.section .note.GNU-stack, "", @progbits
