/*
 * Multiboot's header (Multiboot 0.6.96, section 3.1). It must lie in the file's first 8 KiB; the linker
 * script puts it first. The loader enters at start32.
 */
#define MAGIC 0x1badb002
#define FLAGS 0x00000003 /* modules on page boundaries; tell us the memory map */

	.section .multiboot, "a"
	.balign 4
	.long MAGIC, FLAGS, -(MAGIC + FLAGS) /* the sum is zero */

	.section .note.GNU-stack, "", @progbits
