/*
 * Where the CPU lands on an exception or an interrupt, and the door to CPL 3. Each of the 64 stubs is 16
 * bytes long, so that trap_init can compute their addresses; it leaves vector and error code on the stack
 * for one common path.
 */
#include "start.h"

.macro stubs has_error, vectors:vararg
	.irp vector, \vectors
	.balign 16
	.if !\has_error
	pushq $0
	.endif
	pushq $\vector
	jmp trap_common
	.endr
.endm

	.text
	.code64
	.balign 16
	.globl trap_stubs
trap_stubs: /* where the CPU pushes an error code itself: SDM vol. 3A, table 6-1 */
	stubs 0, 0, 1, 2, 3, 4, 5, 6, 7
	stubs 1, 8
	stubs 0, 9
	stubs 1, 10, 11, 12, 13, 14
	stubs 0, 15, 16
	stubs 1, 17
	stubs 0, 18, 19, 20
	stubs 1, 21
	stubs 0, 22, 23, 24, 25, 26, 27, 28
	stubs 1, 29, 30
	stubs 0, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47
	stubs 0, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63

trap_common:
	push %rax
	push %rbx
	push %rcx
	push %rdx
	push %rsi
	push %rdi
	push %rbp
	push %r8
	push %r9
	push %r10
	push %r11
	push %r12
	push %r13
	push %r14
	push %r15
	cld
	mov %rsp, %rdi
	call trap_dispatch
	pop %r15
	pop %r14
	pop %r13
	pop %r12
	pop %r11
	pop %r10
	pop %r9
	pop %r8
	pop %rbp
	pop %rdi
	pop %rsi
	pop %rdx
	pop %rcx
	pop %rbx
	pop %rax
	add $16, %rsp
	iretq

/* user_call(fn: rdi, arg: rsi). What the ABI wants kept stays on this stack until user_return. */
	.globl user_call
user_call:
	push %rbx
	push %rbp
	push %r12
	push %r13
	push %r14
	push %r15
	mov %rsp, user_caller
	mov %rdi, %rax
	mov %rsi, %rdi
	pushq $SEL_USER_DATA
	pushq $user_stack_end
	pushq $0x2 /* RFLAGS: IF clear, IOPL 0; bit 1 is always set */
	pushq $SEL_USER_CODE
	pushq $user_enter
	iretq
user_enter:
	call *%rax
	.globl user_leave
user_leave:
	ud2

/* The handler of that ud2 returns here, at CPL 0, with RAX as fn left it. */
	.globl user_return
user_return:
	mov user_caller, %rsp
	pop %r15
	pop %r14
	pop %r13
	pop %r12
	pop %rbp
	pop %rbx
	ret

	.bss
	.balign 16
user_caller:
	.skip 16
	.skip 16384
user_stack_end:
	.globl trap_stack_end
	.skip 8192
trap_stack_end:

	.section .note.GNU-stack, "", @progbits
