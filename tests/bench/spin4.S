# Four CPUs spin. The first wakes the others by INIT and SIPI (SDM vol. 3A, 9.4.4), writes a byte when they are there,
# and spins too. Loaded at 0x1000: SIPI vector 1 starts the others at the same first instruction.
	.code16
	.globl	_start
_start:
	xor	%ax, %ax
	mov	%ax, %ds
	cmpb	$0, first_is_here
	jne	other
	movb	$1, first_is_here

	# The APIC is beyond real mode's reach: take a flat data segment from protected mode along ("unreal mode").
	lgdtl	gdt_pointer
	mov	%cr0, %eax
	or	$1, %al
	mov	%eax, %cr0
	mov	$8, %bx
	mov	%bx, %ds
	and	$0xfe, %al
	mov	%eax, %cr0
	mov	$0xfee00000, %ebx
	movl	$0x1ff, %ds:0xf0(%ebx)		# software-enable the APIC
	movl	$0x000c4500, %ds:0x300(%ebx)	# INIT to all others
	movl	$0x000c4601, %ds:0x300(%ebx)	# SIPI, vector 1

	xor	%ax, %ax
	mov	%ax, %ds
1:	pause
	cmpb	$3, others
	jne	1b
	mov	$'R', %al
	mov	$0x3f8, %dx
	out	%al, %dx
2:	pause
	jmp	2b
other:
	lock incb others
	jmp	2b

first_is_here:
	.byte	0
others:	.byte	0
	.balign	8
gdt:	.quad	0, 0x00cf92000000ffff
gdt_pointer:
	.word	. - gdt - 1
	.long	gdt
