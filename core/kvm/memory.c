/*
 * Guest memory: slots, the holes between them, and the one checked accessor. Each slot is anonymous host
 * memory that KVM_SET_USER_MEMORY_REGION puts at a guest-physical address; what lies in no slot exits as
 * MMIO. It calls the kernel and core/base only. Rules: KVM API 4.35 (KVM_SET_USER_MEMORY_REGION and its flag
 * KVM_MEM_READONLY).
 */
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/parse.h"
#include "kvm/memory.h"

void hv_memory_init(struct hv_memory *mem, const struct hv_vm *vm)
{
	memset(mem, 0, sizeof(*mem));
	mem->vm = vm ? vm->fd : -1;
}

void hv_memory_free(struct hv_memory *mem)
{
	for (unsigned i = 0; i < mem->count; i++)
		munmap(mem->slots[i].host, mem->slots[i].size);
	mem->count = 0;
}

static int check_range(const struct hv_memory *mem, uint64_t gpa, uint64_t size, struct hv_error *err)
{
	unsigned long long at = gpa, n = size;

	/* hv:solution lab=3 task=1 */
	if (size == 0 || gpa % HV_PAGE_SIZE || size % HV_PAGE_SIZE)
		return hv_fail(err, EINVAL,
			       "memory slot at %#llx, %#llx bytes: both must be whole pages of 4 KiB", at, n);
	if (gpa > UINT64_MAX - size)
		return hv_fail(err, EINVAL, "memory slot at %#llx, %#llx bytes: it wraps past 2^64", at, n);
	if (mem->count == HV_SLOTS_MAX)
		return hv_fail(err, ENOSPC, "memory slot at %#llx: all %d slots are taken", at, HV_SLOTS_MAX);
	return 0;
	/* hv:end */
}

/* Where a slot with this range belongs in the sorted array, or -EEXIST when it would overlap a neighbour. */
static int find_place(const struct hv_memory *mem, uint64_t gpa, uint64_t size)
{
	unsigned i = 0;

	/* hv:solution lab=3 task=2 */
	while (i < mem->count && mem->slots[i].gpa < gpa)
		i++;
	if (i > 0 && mem->slots[i - 1].size > gpa - mem->slots[i - 1].gpa)
		return -EEXIST;
	if (i < mem->count && size > mem->slots[i].gpa - gpa)
		return -EEXIST;
	return (int)i;
	/* hv:end */
}

int hv_memory_add(struct hv_memory *mem, uint64_t gpa, uint64_t size, bool readonly, struct hv_error *err)
{
	unsigned long long at = gpa, n = size;
	struct kvm_userspace_memory_region region;
	char text[32];
	void *host;
	int place, rc;

	rc = check_range(mem, gpa, size, err);
	if (rc)
		return rc;
	place = find_place(mem, gpa, size);
	if (place == -EEXIST)
		return hv_fail(err, EEXIST, "memory slot at %#llx, %#llx bytes: it would overlap another", at,
			       n);
	/* hv:solution lab=3 task=2 */
	/* NORESERVE: the guest gets what it touches; a guest larger than the host's free memory is the user's
	 * choice. */
	host = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (host == MAP_FAILED)
		return hv_fail_errno(err, "the host has no %s of address space for the guest's memory",
				     hv_format_size(size, text, sizeof(text)));
	region = (struct kvm_userspace_memory_region){
		.slot = mem->count, /* numbers are given in the order of adding and never given back */
		.flags = readonly ? KVM_MEM_READONLY : 0,
		.guest_phys_addr = gpa,
		.memory_size = size,
		.userspace_addr = (uintptr_t)host,
	};
	if (mem->vm >= 0 && ioctl(mem->vm, KVM_SET_USER_MEMORY_REGION, &region) < 0) {
		rc = hv_fail_errno(err, "memory slot at %#llx, %#llx bytes: KVM refuses it", at, n);
		munmap(host, size);
		return rc;
	}
	memmove(&mem->slots[place + 1], &mem->slots[place],
		(mem->count - (unsigned)place) * sizeof(mem->slots[0]));
	mem->slots[place] = (struct hv_slot){.gpa = gpa, .size = size, .host = host, .readonly = readonly};
	mem->count++;
	return 0;
	/* hv:end */
}

int hv_memory_add_ram(struct hv_memory *mem, uint64_t size, struct hv_error *err)
{
	uint64_t low;
	int rc;

	/* hv:solution lab=3 task=3 */
	size = hv_round_up(size, HV_PAGE_SIZE);
	low = size < HV_PCI_HOLE_START ? size : HV_PCI_HOLE_START;
	rc = hv_memory_add(mem, 0, low, false, err);
	if (rc || size == low)
		return rc;
	return hv_memory_add(mem, HV_PCI_HOLE_END, size - low, false, err);
	/* hv:end */
}

void *hv_memory_at(const struct hv_memory *mem, uint64_t gpa, uint64_t length)
{
	/* hv:solution lab=3 task=4 */
	for (unsigned i = 0; i < mem->count; i++) {
		const struct hv_slot *s = &mem->slots[i];

		/* gpa - s->gpa can't wrap once gpa >= s->gpa; hv_inside can't either. */
		if (gpa >= s->gpa && hv_inside(gpa - s->gpa, length, s->size))
			return s->host + (gpa - s->gpa);
	}
	return NULL;
	/* hv:end */
}

/* How many bytes from gpa on lie in the slot that holds it; 0 when none does. */
static uint64_t contiguous(const struct hv_memory *mem, uint64_t gpa)
{
	/* hv:solution lab=3 task=5 */
	for (unsigned i = 0; i < mem->count; i++) {
		const struct hv_slot *s = &mem->slots[i];

		if (gpa >= s->gpa && gpa - s->gpa < s->size)
			return s->size - (gpa - s->gpa);
	}
	return 0;
	/* hv:end */
}

/* Whether each byte of [gpa, gpa + length) lies in some slot. */
static bool all_there(const struct hv_memory *mem, uint64_t gpa, uint64_t length)
{
	/* hv:solution lab=3 task=5 */
	while (length > 0) {
		uint64_t n = contiguous(mem, gpa);

		if (n == 0)
			return false;
		if (n >= length)
			return true;
		gpa += n;
		length -= n;
	}
	return true;
	/* hv:end */
}

int hv_memory_read(const struct hv_memory *mem, uint64_t gpa, void *buf, uint64_t length)
{
	/* hv:solution lab=3 task=5 */
	if (!all_there(mem, gpa, length))
		return -EFAULT;
	for (uint8_t *to = buf; length > 0;) {
		uint64_t n = contiguous(mem, gpa) < length ? contiguous(mem, gpa) : length;

		memcpy(to, hv_memory_at(mem, gpa, n), n);
		to += n;
		gpa += n;
		length -= n;
	}
	return 0;
	/* hv:end */
}

int hv_memory_write(const struct hv_memory *mem, uint64_t gpa, const void *buf, uint64_t length)
{
	/* hv:solution lab=3 task=5 */
	if (!all_there(mem, gpa, length))
		return -EFAULT;
	for (const uint8_t *from = buf; length > 0;) {
		uint64_t n = contiguous(mem, gpa) < length ? contiguous(mem, gpa) : length;

		memcpy(hv_memory_at(mem, gpa, n), from, n);
		from += n;
		gpa += n;
		length -= n;
	}
	return 0;
	/* hv:end */
}

int hv_memory_clear(struct hv_memory *mem, struct hv_error *err)
{
	for (unsigned i = 0; i < mem->count; i++) {
		struct hv_slot *s = &mem->slots[i];

		/* Private anonymous pages read as zeros again after MADV_DONTNEED. */
		if (madvise(s->host, s->size, MADV_DONTNEED) < 0)
			return hv_fail_errno(err, "the guest's memory at %#llx cannot be cleared",
					     (unsigned long long)s->gpa);
	}
	return 0;
}

uint64_t hv_memory_size(const struct hv_memory *mem)
{
	uint64_t total = 0;

	for (unsigned i = 0; i < mem->count; i++)
		total += mem->slots[i].size;
	return total;
}
