/*
 * Fuzz target: a virtqueue whose driver writes anything at all.
 *
 *   byte 0: bits 0-2 the features (indirect, event index, in order), bits 3-4 log2 of the size | byte 1: how
 * many more times the driver moves its available index, and the low bits by how much | the rest: guest memory
 * from 0 on: the table at 0, the available ring at 0x80, the used ring at 0xa0, then buffers and indirect
 * tables
 *
 * Whatever comes out of the queue lies in memory, in order, within its bounds; what breaks it has a name.
 */
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "device/virtio/queue.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MEMORY    0x4000u
#define AVAILABLE 0x80u
#define USED      0xa0u

static void require(bool truth)
{
	if (!truth)
		abort();
}

static void check_chain(const struct hv_virtq *q, const struct hv_virtq_chain *chain)
{
	const uint8_t *start = hv_memory_at(q->mem, 0, MEMORY);
	uint64_t sums[2] = {0, 0};

	require(chain->count > 0 && chain->count <= HV_VIRTQ_BUFFERS_MAX && chain->readable <= chain->count);
	require(chain->head < q->size);
	for (unsigned i = 0; i < chain->count; i++) {
		const uint8_t *at = chain->buffers[i].iov_base;

		require(at >= start && chain->buffers[i].iov_len > 0);
		require(hv_inside((uint64_t)(at - start), chain->buffers[i].iov_len, MEMORY));
		sums[i >= chain->readable] += chain->buffers[i].iov_len;
	}
	require(sums[0] == chain->read_length && sums[1] == chain->write_length);
}

static void drain(struct hv_virtq *q, struct hv_virtq_chain *chains)
{
	unsigned count = 0;
	uint8_t bytes[300];
	int rc = 1;

	while (count < 8 && (rc = hv_virtq_pop(q, &chains[count])) == 1)
		check_chain(q, &chains[count++]);
	require(rc >= 0 || q->broken);
	require(!q->broken || (rc < 0 && strcmp(hv_virtq_error_text(q->broken), "an unknown error") != 0));
	require(count <= q->size);
	if (count > 0 && !q->broken) { /* what goes back comes again */
		uint16_t head = chains[count - 1].head;

		hv_virtq_put_back(q, &chains[count - 1]);
		require(hv_virtq_pop(q, &chains[count - 1]) == 1 && chains[count - 1].head == head);
	}
	while (count-- > 0) {
		size_t n = hv_virtq_read(&chains[count], 1, bytes, sizeof(bytes));

		n = hv_virtq_write(&chains[count], 2, bytes, n);
		require(n <= chains[count].write_length);
		hv_virtq_push(q, &chains[count], (uint32_t)n);
	}
	require(q->broken || hv_virtq_is_idle(q));
	hv_virtq_wants_interrupt(q);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct hv_virtq_chain *chains;
	struct hv_memory mem;
	struct hv_virtq *q;
	uint8_t *at;

	if (size < 2)
		return 0;
	q = calloc(1, sizeof(*q));
	chains = calloc(8, sizeof(*chains));
	hv_memory_init(&mem, NULL);
	if (!q || !chains || hv_memory_add(&mem, 0, MEMORY, false, NULL))
		abort();
	at = hv_memory_at(&mem, 0, MEMORY);
	memcpy(at, data + 2, size - 2 < MEMORY ? size - 2 : MEMORY);
	q->mem = &mem;
	q->indirect = data[0] & 1;
	q->event_idx = data[0] & 2;
	q->in_order = data[0] & 4;
	q->size = (uint16_t)(1u << (data[0] >> 3 & 3));
	q->available = AVAILABLE;
	q->used = USED;
	require(hv_virtq_start(q) == 0);
	drain(q, chains);
	for (unsigned i = 0; i < data[1] >> 3; i++) {
		hv_put_le16(at + AVAILABLE + 2, (uint16_t)(hv_le16(at + AVAILABLE + 2) + (data[1] & 7)));
		drain(q, chains);
	}
	hv_virtq_stop(q);
	hv_memory_free(&mem);
	free(chains);
	free(q);
	return 0;
}
