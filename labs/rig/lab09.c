/*
 * The rig's commands for lab 9: a virtqueue of the student's in the rig's own memory, without a device. The
 * script writes the rings by mem_write; virtq_offer and virtq_cycle play the driver where that has to be done
 * many times. And how often the program has asked the kernel to make a file durable, which a flush has to do.
 * See rig.h.
 *
 * A chain stands right in front of a page that can't be touched: a buffer too many stops the program there.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/bytes.h"
#include "device/virtio/queue.h"
#include "rig.h"

#define LAB    9
#define CHAINS 16 /* that may be out at the same time */
#define UNDONE ((enum hv_virtq_error) - ENOSYS)

struct lab09 {
	struct hv_virtq q;
	struct hv_virtq_chain *chains[CHAINS];
	uint16_t idx; /* chains made available */
};

static _Atomic unsigned syncs;

/* Stands before libc's: the rig is linked statically with the library that is tested. */
int fdatasync(int fd)
{
	syncs++;
	return (int)syscall(SYS_fdatasync, fd);
}

int fsync(int fd)
{
	syncs++;
	return (int)syscall(SYS_fsync, fd);
}

static int count_syncs(struct rig *rig, int count, char **words)
{
	rig_number(rig, "count", syncs);
	return 0;
}

/* size bytes that end where memory ends. */
static void *fenced(size_t size)
{
	size_t room = (size + HV_PAGE_SIZE - 1) & ~(HV_PAGE_SIZE - 1);
	uint8_t *at =
		mmap(NULL, room + HV_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED || mprotect(at + room, HV_PAGE_SIZE, PROT_NONE))
		return NULL;
	return at + (room - size);
}

static struct lab09 *lab_of(struct rig *rig)
{
	struct lab09 *lab = rig->lab[LAB];

	if (!lab) {
		lab = rig->lab[LAB] = calloc(1, sizeof(*lab));
		for (unsigned i = 0; lab && i < CHAINS; i++)
			lab->chains[i] = fenced(sizeof(*lab->chains[i]));
	}
	return lab;
}

static struct hv_virtq_chain *chain_of(struct lab09 *lab, int count, char **words)
{
	return lab->chains[rig_option_number(count, words, "slot", 0) % CHAINS];
}

/* virtq table=GPA available=GPA used=GPA size=N [indirect=1] [event=1] [in_order=1]: a queue that begins. */
static int virtq(struct rig *rig, int count, char **words)
{
	struct lab09 *lab = lab_of(rig);

	if (!lab)
		return hv_fail(&rig->err, ENOMEM, "no memory for a queue");
	lab->q = (struct hv_virtq){
		.mem = &rig->memory,
		.table = rig_option_number(count, words, "table", 0),
		.available = rig_option_number(count, words, "available", 0),
		.used = rig_option_number(count, words, "used", 0),
		.size = (uint16_t)rig_option_number(count, words, "size", 0),
		.indirect = rig_option_number(count, words, "indirect", 0),
		.event_idx = rig_option_number(count, words, "event", 0),
		.in_order = rig_option_number(count, words, "in_order", 0),
	};
	lab->idx = 0;
	return hv_virtq_start(&lab->q);
}

/* The buffers as the guest knows them: "GPA+LENGTH,GPA+LENGTH". */
static void tell_buffers(struct rig *rig, const struct hv_virtq_chain *chain)
{
	static char text[HV_VIRTQ_BUFFERS_MAX * 40];
	size_t used = 0;

	text[0] = '\0';
	for (unsigned i = 0; i < chain->count && i < HV_VIRTQ_BUFFERS_MAX; i++) {
		uint64_t gpa = UINT64_MAX;

		for (unsigned s = 0; s < rig->memory.count && s < HV_SLOTS_MAX; s++) {
			const struct hv_slot *slot = &rig->memory.slots[s];
			uint64_t offset =
				(uint64_t)((uintptr_t)chain->buffers[i].iov_base - (uintptr_t)slot->host);

			if (offset < slot->size)
				gpa = slot->gpa + offset;
		}
		used += (size_t)snprintf(text + used, sizeof(text) - used, "%s%llx+%llx", i ? "," : "",
					 (unsigned long long)gpa,
					 (unsigned long long)chain->buffers[i].iov_len);
	}
	rig_text(rig, "buffers", text);
}

static int pop(struct lab09 *lab, struct hv_virtq_chain *chain)
{
	int rc = hv_virtq_pop(&lab->q, chain);

	return rc < 0 && lab->q.broken == UNDONE ? -ENOSYS : rc;
}

/* virtq_pop [slot=N]: hv_virtq_pop into chain N. */
static int virtq_pop(struct rig *rig, int count, char **words)
{
	struct lab09 *lab = lab_of(rig);
	struct hv_virtq_chain *chain = chain_of(lab, count, words);
	int rc;

	memset(chain, 0, sizeof(*chain));
	chain->head = UINT16_MAX;
	rc = pop(lab, chain);
	rig_number(rig, "broken", lab->q.broken);
	rig_number(rig, "head", chain->head);
	rig_number(rig, "count", chain->count);
	rig_number(rig, "readable", chain->readable);
	rig_number(rig, "read_length", chain->read_length);
	rig_number(rig, "write_length", chain->write_length);
	tell_buffers(rig, chain);
	return rc;
}

/* virtq_push WRITTEN [slot=N]: hv_virtq_push of chain N. */
static int virtq_push(struct rig *rig, int count, char **words)
{
	struct lab09 *lab = lab_of(rig);
	uint64_t written;

	if (count < 2 || !rig_parse(words[1], &written))
		return RIG_USAGE;
	hv_virtq_push(&lab->q, chain_of(lab, count, words), (uint32_t)written);
	return 0;
}

static int virtq_wants(struct rig *rig, int count, char **words)
{
	rig_bool(rig, "wants", hv_virtq_wants_interrupt(&lab_of(rig)->q));
	return 0;
}

static void put16(struct rig *rig, uint64_t gpa, uint16_t value)
{
	uint8_t bytes[2];

	hv_put_le16(bytes, value);
	hv_memory_write(&rig->memory, gpa, bytes, sizeof(bytes));
}

static void offer(struct rig *rig, struct lab09 *lab, uint16_t head)
{
	put16(rig, lab->q.available + 4 + 2 * (uint64_t)(lab->idx % lab->q.size), head);
	put16(rig, lab->q.available + 2, ++lab->idx);
}

/* virtq_offer HEAD...: the driver makes these chains available. */
static int virtq_offer(struct rig *rig, int count, char **words)
{
	struct lab09 *lab = lab_of(rig);
	uint64_t head;

	for (int i = 1; i < count; i++) {
		if (!rig_parse(words[i], &head) || lab->q.size == 0)
			return RIG_USAGE;
		offer(rig, lab, (uint16_t)head);
	}
	return 0;
}

/* virtq_cycle N: so many times the chain of the next descriptor is made available, taken and given back with
 * the number of the round as its length. The answer: the rounds that were done, the interrupts wanted. */
static int virtq_cycle(struct rig *rig, int count, char **words)
{
	struct lab09 *lab = lab_of(rig);
	uint64_t rounds, done = 0, wanted = 0;
	int rc = 1;

	if (count != 2 || !rig_parse(words[1], &rounds) || lab->q.size == 0)
		return RIG_USAGE;
	for (; done < rounds && rc == 1; done += rc == 1) {
		offer(rig, lab, (uint16_t)(lab->idx % lab->q.size));
		rc = pop(lab, lab->chains[0]);
		if (rc != 1)
			break;
		hv_virtq_push(&lab->q, lab->chains[0], (uint32_t)done);
		wanted += hv_virtq_wants_interrupt(&lab->q);
	}
	rig_number(rig, "done", done);
	rig_number(rig, "wanted", wanted);
	rig_number(rig, "broken", lab->q.broken);
	return rc < 0 ? rc : 0;
}

const struct rig_command rig_lab09[] = {
	{"virtq", "table=GPA available=GPA used=GPA size=N [indirect=1] [event=1] [in_order=1]", virtq},
	{"virtq_pop", "[slot=N]", virtq_pop},
	{"virtq_push", "WRITTEN [slot=N]", virtq_push},
	{"virtq_wants", "", virtq_wants},
	{"virtq_offer", "HEAD...", virtq_offer},
	{"virtq_cycle", "N", virtq_cycle},
	{"syncs", "", count_syncs},
	{NULL, NULL, NULL},
};
