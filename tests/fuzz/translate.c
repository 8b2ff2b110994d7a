/*
 * Fuzz target: the page walk. The input is control registers, an address, and memory full of tables; what
 * comes back must be a walk that a person can be shown, and copies must tell the truth about how far they
 * got.
 */
#include <string.h>

#include "kvm/translate.h"

#define RAM 16384u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool fine)
{
	if (!fine)
		__builtin_trap();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct kvm_sregs sregs = {0};
	struct hv_memory mem;
	uint64_t head[5], done = 0;
	struct hv_walk walk;
	uint8_t bytes[64];

	if (size < sizeof(head))
		return 0;
	memcpy(head, data, sizeof(head));
	sregs.cr0 = head[0];
	sregs.cr3 = head[1];
	sregs.cr4 = head[2];
	sregs.efer = head[3];
	data += sizeof(head);
	size -= sizeof(head);
	hv_memory_init(&mem, NULL);
	check(hv_memory_add(&mem, 0, RAM, false, NULL) == 0);
	check(hv_memory_write(&mem, 0, data, size < RAM ? size : RAM) == 0);

	const int rc = hv_translate(&mem, &sregs, head[4], &walk);
	check(walk.count <= 5 && walk.mapped == (rc == 0) && walk.mapped == (walk.why == NULL));
	for (unsigned i = 0; i < walk.count; i++)
		check(walk.steps[i].table != NULL && walk.steps[i].index < 1024);
	if (walk.mapped)
		check((walk.page_size & (walk.page_size - 1)) == 0 &&
		      (walk.gpa & (walk.page_size - 1)) == (head[4] & (walk.page_size - 1)));
	const int copied = hv_virtual_read(&mem, &sregs, head[4], bytes, sizeof(bytes), &done);
	check(copied == 0 ? done == sizeof(bytes) : done < sizeof(bytes));
	check(hv_virtual_write(&mem, &sregs, head[4], bytes, done, NULL) == 0 || done > 0);
	hv_memory_free(&mem);
	return 0;
}
