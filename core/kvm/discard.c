/*
 * Guest memory that goes back to the host while the VM runs. It calls the kernel only.
 *
 * Rules: madvise(2). MADV_DONTNEED on private anonymous memory takes effect at once; KVM's MMU notifier takes
 * the pages out of the guest's tables before the call returns, so no CPU sees them afterwards.
 */
#include <errno.h>
#include <stdatomic.h>
#include <sys/mman.h>

#include "base/bytes.h"
#include "kvm/memory.h"

bool hv_memory_gpa_of(const struct hv_memory *mem, const void *host, uint64_t *gpa)
{
	uintptr_t at = (uintptr_t)host;

	for (unsigned i = 0; i < mem->count; i++) {
		const struct hv_slot *s = &mem->slots[i];
		uintptr_t base = (uintptr_t)s->host;

		if (at >= base && at - base < s->size) {
			*gpa = s->gpa + (at - base);
			return true;
		}
	}
	return false;
}

int hv_memory_discard(const struct hv_memory *mem, uint64_t gpa, uint64_t length)
{
	const struct hv_slot *s = mem->slots, *end = mem->slots + mem->count;

	if (length == 0 || gpa % HV_PAGE_SIZE || length % HV_PAGE_SIZE)
		return -EINVAL;
	while (s < end && !(gpa >= s->gpa && hv_inside(gpa - s->gpa, length, s->size)))
		s++;
	if (s == end)
		return -EFAULT;
	if (s->readonly)
		return -EROFS;
	if (atomic_load(&mem->keepers))
		return -EBUSY;
	return madvise(s->host + (gpa - s->gpa), length, MADV_DONTNEED) < 0 ? -errno : 0;
}

void hv_memory_keep(struct hv_memory *mem, bool keep)
{
	if (keep)
		atomic_fetch_add(&mem->keepers, 1);
	else
		atomic_fetch_sub(&mem->keepers, 1);
}
