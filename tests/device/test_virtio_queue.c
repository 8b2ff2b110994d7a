/*
 * The split virtqueue: chains of every shape, suppression of notifications, order of return, and what a
 * hostile driver can put into the rings.
 */
#include "ring.h"

#define SIZE 8

static struct hv_memory mem;
static struct hv_virtq q;
static struct hv_virtq_chain chain;
static struct ring r;

static void start(void)
{
	q.mem = &mem;
	q.size = SIZE;
	q.table = r.table;
	q.available = r.available;
	q.used = r.used;
	cr_assert_eq(hv_virtq_start(&q), 0, "%s", hv_virtq_error_text(q.broken));
}

static void set_up(void)
{
	hv_memory_init(&mem, NULL);
	cr_assert_eq(hv_memory_add(&mem, 0, RING_MEMORY, false, NULL), 0);
	ring_init(&r, &mem, 0, SIZE);
	memset(&q, 0, sizeof(q));
	start();
}

static void tear_down(void)
{
	hv_memory_free(&mem);
}

/* What is in the rings now breaks the queue by this name, for good. */
static void breaks(enum hv_virtq_error error)
{
	cr_assert_eq(hv_virtq_pop(&q, &chain), -EBADMSG);
	cr_assert_eq(q.broken, error, "it says '%s'", hv_virtq_error_text(q.broken));
	cr_assert(strlen(hv_virtq_error_text(error)) > 5);
	cr_assert_eq(hv_virtq_pop(&q, &chain), -EBADMSG, "and stays so");
	cr_assert(hv_virtq_is_idle(&q));
}

/* One writable buffer of 16 bytes, by descriptor `index`. */
static void offer(unsigned index)
{
	describe(&r, index, RING_DATA + 0x100u * index, 16, WRITE, 0);
	make_available(&r, index);
}

TestSuite(virtio_queue, .init = set_up, .fini = tear_down, .timeout = 30);

Test(virtio_queue, an_empty_queue_and_one_not_started_give_nothing)
{
	cr_assert_eq(hv_virtq_pop(&q, &chain), 0);
	offer(0);
	hv_virtq_stop(&q);
	cr_assert_eq(hv_virtq_pop(&q, &chain), 0);
}

Test(virtio_queue, a_chain_is_gathered_and_scattered_by_bytes)
{
	char text[16] = {0};
	uint32_t length;

	memcpy(guest_at(&r, RING_DATA, 3), "abc", 3);
	memcpy(guest_at(&r, RING_DATA + 0x100, 4), "defg", 4);
	describe(&r, 5, RING_DATA, 3, NEXT, 2);
	describe(&r, 2, RING_DATA + 0x100, 4, NEXT, 7);
	describe(&r, 7, RING_DATA + 0x200, 2, NEXT | WRITE, 0);
	describe(&r, 0, RING_DATA + 0x300, 5, WRITE, 99);
	make_available(&r, 5);

	cr_assert_eq(hv_virtq_pop(&q, &chain), 1);
	cr_assert_eq(chain.head, 5);
	cr_assert_eq(chain.count, 4);
	cr_assert_eq(chain.readable, 2);
	cr_assert_eq(chain.read_length, 7);
	cr_assert_eq(chain.write_length, 7);
	cr_assert_eq(hv_virtq_read(&chain, 2, text, 4), 4);
	cr_assert_str_eq(text, "cdef");
	cr_assert_eq(hv_virtq_read(&chain, 5, text, 9), 2, "only two bytes are left");
	cr_assert_eq(hv_virtq_read(&chain, 7, text, 1), 0);
	cr_assert_eq(hv_virtq_write(&chain, 1, "xyz", 3), 3);
	cr_assert_arr_eq(guest_at(&r, RING_DATA + 0x200, 2), "\0x", 2);
	cr_assert_arr_eq(guest_at(&r, RING_DATA + 0x300, 3), "yz\0", 3);
	cr_assert_not(hv_virtq_is_idle(&q));
	hv_virtq_push(&q, &chain, 4);
	cr_assert_eq(take_used(&r, &length), 5);
	cr_assert_eq(length, 4);
	cr_assert(hv_virtq_is_idle(&q));
}

Test(virtio_queue, an_indirect_table_may_follow_direct_buffers_and_need_not_be_aligned)
{
	uint64_t table = RING_DATA + 0x1003;

	q.indirect = true;
	describe(&r, 1, RING_DATA, 8, NEXT, 3);
	describe(&r, 3, table, 32, INDIRECT | WRITE, 0);
	put_descriptor(&r, table, 0, RING_DATA + 0x100, 4, NEXT, 1);
	put_descriptor(&r, table, 1, RING_DATA + 0x200, 5, WRITE, 0);
	make_available(&r, 1);
	cr_assert_eq(hv_virtq_pop(&q, &chain), 1, "%s", hv_virtq_error_text(q.broken));
	cr_assert_eq(chain.head, 1);
	cr_assert_eq(chain.read_length, 12);
	cr_assert_eq(chain.write_length, 5);
}

Test(virtio_queue, an_indirect_chain_may_be_longer_than_the_queue)
{
	uint64_t table = RING_DATA + 0x10000;

	q.indirect = true;
	describe(&r, 0, table, 16 * HV_VIRTQ_BUFFERS_MAX, INDIRECT, 0);
	for (unsigned i = 0; i < HV_VIRTQ_BUFFERS_MAX; i++)
		put_descriptor(&r, table, i, RING_DATA, 1, i + 1 < HV_VIRTQ_BUFFERS_MAX ? NEXT : 0, i + 1);
	make_available(&r, 0);
	cr_assert_eq(hv_virtq_pop(&q, &chain), 1);
	cr_assert_eq(chain.count, HV_VIRTQ_BUFFERS_MAX);
}

Test(virtio_queue, indexes_count_on_across_65535)
{
	uint32_t length;

	for (unsigned i = 0; i < 65536 + 3 * SIZE; i++) {
		offer(i % SIZE);
		cr_assert_eq(hv_virtq_pop(&q, &chain), 1, "chain %u", i);
		cr_assert_eq(hv_virtq_pop(&q, &chain), 0);
		hv_virtq_push(&q, &chain, i & 15);
		cr_assert(hv_virtq_wants_interrupt(&q));
		cr_assert_eq(take_used(&r, &length), i % SIZE);
		cr_assert_eq(length, i & 15);
	}
	cr_assert_eq(used_idx(&r), 3 * SIZE);
}

Test(virtio_queue, a_full_ring_is_no_jump)
{
	for (unsigned i = 0; i < SIZE; i++)
		offer(i);
	for (unsigned i = 0; i < SIZE; i++)
		cr_assert_eq(hv_virtq_pop(&q, &chain), 1);
	cr_assert_eq(hv_virtq_pop(&q, &chain), 0);
	offer(0); /* whose slot is still in use */
	cr_assert_eq(hv_virtq_pop(&q, &chain), -EBADMSG);
	cr_assert_eq(q.broken, HV_VIRTQ_IDX_JUMPED);
}

Test(virtio_queue, without_event_idx_the_drivers_flag_says_whether_to_interrupt)
{
	offer(0);
	offer(1);
	cr_assert_not(hv_virtq_wants_interrupt(&q), "nothing came back yet");
	hv_virtq_pop(&q, &chain);
	hv_virtq_push(&q, &chain, 0);
	cr_assert(hv_virtq_wants_interrupt(&q));
	cr_assert_not(hv_virtq_wants_interrupt(&q), "once is enough");
	hv_put_le16(guest_at(&r, r.available, 2), 1);
	hv_virtq_pop(&q, &chain);
	hv_virtq_push(&q, &chain, 0);
	cr_assert_not(hv_virtq_wants_interrupt(&q));
}

/* Pushes n chains at once and asks. */
static bool interrupts_after(unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		offer(i);
	for (unsigned i = 0; i < n; i++) {
		cr_assert_eq(hv_virtq_pop(&q, &chain), 1);
		hv_virtq_push(&q, &chain, 0);
	}
	return hv_virtq_wants_interrupt(&q);
}

Test(virtio_queue, with_event_idx_an_interrupt_comes_when_used_event_is_passed)
{
	q.event_idx = true;
	hv_put_le16(guest_at(&r, r.available, 2), 1); /* the flag means nothing now */
	set_used_event(&r, 2);
	cr_assert_not(interrupts_after(1));
	cr_assert_not(interrupts_after(1));
	cr_assert(interrupts_after(1), "the third chain is number 2");
	cr_assert_not(interrupts_after(1));
	set_used_event(&r, 5);
	cr_assert(interrupts_after(4), "numbers 4 to 7");
	cr_assert_not(interrupts_after(3));
	/* And across the wrap of 2^16. */
	while (used_idx(&r) != 65530)
		interrupts_after(2 - used_idx(&r) % 2);
	set_used_event(&r, 1);
	cr_assert_not(interrupts_after(7), "up to 0");
	cr_assert(interrupts_after(1));
}

Test(virtio_queue, with_event_idx_the_driver_is_asked_to_notify_only_when_the_ring_is_empty)
{
	q.event_idx = true;
	offer(0);
	offer(1);
	hv_virtq_pop(&q, &chain);
	cr_assert_eq(avail_event(&r), 0, "more is there");
	hv_virtq_pop(&q, &chain);
	cr_assert_eq(hv_virtq_pop(&q, &chain), 0);
	cr_assert_eq(avail_event(&r), 2);
}

static struct hv_virtq_chain out[3];

static void push_back_to_front(void)
{
	for (unsigned i = 0; i < 3; i++)
		offer(i);
	for (unsigned i = 0; i < 3; i++)
		cr_assert_eq(hv_virtq_pop(&q, &out[i]), 1);
	hv_virtq_push(&q, &out[2], 12);
	hv_virtq_push(&q, &out[1], 11);
}

Test(virtio_queue, chains_come_back_as_they_are_done)
{
	push_back_to_front();
	cr_assert_eq(take_used(&r, NULL), 2);
	cr_assert_eq(take_used(&r, NULL), 1);
}

Test(virtio_queue, in_order_a_chain_waits_for_those_before_it)
{
	uint32_t length;

	q.in_order = true;
	for (unsigned round = 0; round < 2 * SIZE; round++) {
		push_back_to_front();
		cr_assert_eq(used_idx(&r), r.seen, "the first one is not done");
		cr_assert_not(hv_virtq_wants_interrupt(&q));
		cr_assert_not(hv_virtq_is_idle(&q));
		hv_virtq_push(&q, &out[0], 10);
		cr_assert(hv_virtq_wants_interrupt(&q));
		for (unsigned i = 0; i < 3; i++) {
			cr_assert_eq(take_used(&r, &length), i);
			cr_assert_eq(length, 10 + i);
		}
		cr_assert(hv_virtq_is_idle(&q));
	}
}

/* --- hostile --- */

Test(virtio_queue, several_chains_come_back_at_once)
{
	struct hv_virtq_used used[3];
	uint32_t length;

	for (unsigned order = 0; order < 2; order++) {
		hv_virtq_stop(&q);
		set_idx(&r, 0);
		r.seen = 0;
		q.in_order = order;
		q.event_idx = true;
		start();
		set_used_event(&r, 1); /* in the middle of them */
		for (unsigned i = 0; i < 3; i++) {
			offer(i);
			cr_assert_eq(hv_virtq_pop(&q, &chain), 1);
			used[i] = (struct hv_virtq_used){
				.head = chain.head, .place = chain.place, .written = i + 1};
		}
		hv_virtq_push_all(&q, used, 0);
		cr_assert_not(hv_virtq_wants_interrupt(&q));
		hv_virtq_push_all(&q, used, 3);
		cr_assert_eq(used_idx(&r), 3);
		cr_assert(hv_virtq_wants_interrupt(&q));
		for (unsigned i = 0; i < 3; i++) {
			cr_assert_eq(take_used(&r, &length), i);
			cr_assert_eq(length, i + 1);
		}
	}
}

Test(virtio_queue, chains_that_go_back_come_again_and_a_next_one_is_notified_of)
{
	static struct hv_virtq_chain taken[3];

	q.event_idx = true;
	for (unsigned i = 0; i < 3; i++) {
		offer(i);
		cr_assert_eq(hv_virtq_pop(&q, &taken[i]), 1);
	}
	cr_assert_eq(hv_virtq_pop(&q, &chain), 0);
	hv_virtq_put_back(&q, &taken[1]);
	cr_assert_eq(avail_event(&r), 3, "the driver tells of a fourth one");
	for (unsigned i = 1; i < 3; i++) {
		cr_assert_eq(hv_virtq_pop(&q, &chain), 1);
		cr_assert_eq(chain.head, i);
		cr_assert_eq(chain.place, i);
	}
	hv_virtq_put_back(&q, &taken[0]);
	cr_assert(hv_virtq_is_idle(&q));
	hv_virtq_put_back(&q, &taken[2]);
	cr_assert_eq(q.taken, 0, "it isn't out");
}

Test(virtio_queue, sizes_and_areas_are_checked_at_the_start)
{
	static const uint16_t sizes[] = {0, 3, 12, 257, 512, 32768, 65535};
	const struct hv_virtq good = q;
	struct {
		uint64_t *area, gpa;
		enum hv_virtq_error error;
	} areas[] = {
		{&q.table, r.table + 8, HV_VIRTQ_MISALIGNED},
		{&q.available, r.available + 1, HV_VIRTQ_MISALIGNED},
		{&q.used, r.used + 2, HV_VIRTQ_MISALIGNED},
		{&q.table, RING_MEMORY - 16 * SIZE + 16, HV_VIRTQ_AREA_OUTSIDE},
		{&q.available, RING_MEMORY - 2 * SIZE - 4, HV_VIRTQ_AREA_OUTSIDE},
		{&q.used, RING_MEMORY - 8 * SIZE - 4, HV_VIRTQ_AREA_OUTSIDE},
		{&q.table, UINT64_MAX - 15, HV_VIRTQ_AREA_OUTSIDE},
		{&q.available, UINT64_MAX - 1, HV_VIRTQ_AREA_OUTSIDE},
		{&q.used, UINT64_MAX - 3, HV_VIRTQ_AREA_OUTSIDE},
	};

	for (unsigned i = 0; i < HV_ARRAY_SIZE(sizes); i++) {
		q.size = sizes[i];
		cr_assert_eq(hv_virtq_start(&q), -EBADMSG, "size %u", sizes[i]);
		cr_assert_eq(q.broken, HV_VIRTQ_BAD_SIZE);
		breaks(HV_VIRTQ_BAD_SIZE);
	}
	for (unsigned i = 0; i < HV_ARRAY_SIZE(areas); i++) {
		q = good;
		*areas[i].area = areas[i].gpa;
		cr_assert_eq(hv_virtq_start(&q), -EBADMSG, "area %u", i);
		cr_assert_eq(q.broken, areas[i].error, "area %u", i);
		cr_assert_not(q.started);
	}
	/* The last byte of memory is memory. */
	q = good;
	q.used = RING_MEMORY - 8 * SIZE - 6 - 2;
	cr_assert_eq(hv_virtq_start(&q), 0);
}

Test(virtio_queue, an_available_index_that_jumped_ahead)
{
	offer(0);
	set_idx(&r, SIZE + 1);
	breaks(HV_VIRTQ_IDX_JUMPED);
}

Test(virtio_queue, an_available_index_that_went_back)
{
	offer(0);
	cr_assert_eq(hv_virtq_pop(&q, &chain), 1);
	hv_virtq_push(&q, &chain, 0);
	set_idx(&r, 0);
	breaks(HV_VIRTQ_IDX_JUMPED);
}

Test(virtio_queue, a_head_outside_the_table)
{
	make_available(&r, SIZE);
	breaks(HV_VIRTQ_BAD_HEAD);
}

Test(virtio_queue, a_next_outside_the_table)
{
	describe(&r, 0, RING_DATA, 4, NEXT, SIZE);
	make_available(&r, 0);
	breaks(HV_VIRTQ_BAD_NEXT);
}

Test(virtio_queue, a_next_outside_the_indirect_table_but_inside_the_queues)
{
	q.indirect = true;
	describe(&r, 0, RING_DATA, 32, INDIRECT, 0);
	put_descriptor(&r, RING_DATA, 0, RING_DATA, 4, NEXT, 2);
	make_available(&r, 0);
	breaks(HV_VIRTQ_BAD_NEXT);
}

Test(virtio_queue, a_chain_that_loops)
{
	describe(&r, 0, RING_DATA, 4, NEXT, 1);
	describe(&r, 1, RING_DATA, 4, NEXT, 0);
	make_available(&r, 0);
	breaks(HV_VIRTQ_LOOP);
}

Test(virtio_queue, a_descriptor_that_leads_to_itself)
{
	q.indirect = true;
	describe(&r, 0, RING_DATA, 64, INDIRECT, 0);
	put_descriptor(&r, RING_DATA, 0, RING_DATA, 4, NEXT, 0);
	make_available(&r, 0);
	breaks(HV_VIRTQ_LOOP);
}

Test(virtio_queue, more_buffers_than_a_chain_can_have)
{
	uint64_t table = RING_DATA + 0x10000;

	q.indirect = true;
	describe(&r, 0, table, 16 * (HV_VIRTQ_BUFFERS_MAX + 1), INDIRECT, 0);
	for (unsigned i = 0; i <= HV_VIRTQ_BUFFERS_MAX; i++)
		put_descriptor(&r, table, i, RING_DATA, 1, i < HV_VIRTQ_BUFFERS_MAX ? NEXT : 0, i + 1);
	make_available(&r, 0);
	breaks(HV_VIRTQ_TOO_LONG);
}

Test(virtio_queue, buffers_outside_memory_and_around_its_end)
{
	static const struct {
		uint64_t gpa;
		uint32_t length;
	} bad[] = {
		{RING_MEMORY, 1},
		{RING_MEMORY - 1, 2},
		{RING_MEMORY - 1, UINT32_MAX},
		{UINT64_MAX, 1},
		{UINT64_MAX - 3, 8},
		{UINT64_MAX - UINT32_MAX + 1, UINT32_MAX},
		{0x8000000000000000ull, 0x10u},
	};

	for (unsigned i = 0; i < HV_ARRAY_SIZE(bad); i++) {
		describe(&r, 0, bad[i].gpa, bad[i].length, 0, 0);
		start();
		r.idx = 0;
		make_available(&r, 0);
		breaks(HV_VIRTQ_BUFFER_OUTSIDE);
	}
	describe(&r, 0, RING_MEMORY - 1, 1, 0, 0);
	start();
	cr_assert_eq(hv_virtq_pop(&q, &chain), 1, "the last byte is memory");
}

Test(virtio_queue, a_buffer_of_no_bytes)
{
	describe(&r, 0, RING_DATA, 4, NEXT, 1);
	describe(&r, 1, RING_DATA, 0, WRITE, 0);
	make_available(&r, 0);
	breaks(HV_VIRTQ_EMPTY_BUFFER);
}

Test(virtio_queue, a_buffer_to_read_behind_one_to_write)
{
	describe(&r, 0, RING_DATA, 4, NEXT | WRITE, 1);
	describe(&r, 1, RING_DATA, 4, 0, 0);
	make_available(&r, 0);
	breaks(HV_VIRTQ_OUT_OF_ORDER);
}

Test(virtio_queue, an_indirect_descriptor_that_was_not_negotiated)
{
	describe(&r, 0, RING_DATA, 16, INDIRECT, 0);
	make_available(&r, 0);
	breaks(HV_VIRTQ_NOT_NEGOTIATED);
}

Test(virtio_queue, an_indirect_descriptor_inside_an_indirect_table)
{
	q.indirect = true;
	describe(&r, 0, RING_DATA, 16, INDIRECT, 0);
	put_descriptor(&r, RING_DATA, 0, RING_DATA, 16, INDIRECT, 0);
	make_available(&r, 0);
	breaks(HV_VIRTQ_NESTED);
}

Test(virtio_queue, an_indirect_descriptor_with_another_behind_it)
{
	q.indirect = true;
	describe(&r, 0, RING_DATA, 16, INDIRECT | NEXT, 1);
	make_available(&r, 0);
	breaks(HV_VIRTQ_INDIRECT_NEXT);
}

Test(virtio_queue, indirect_tables_of_odd_lengths)
{
	static const uint32_t lengths[] = {0, 1, 15, 17, 31, UINT32_MAX};

	q.indirect = true;
	for (unsigned i = 0; i < HV_ARRAY_SIZE(lengths); i++) {
		describe(&r, 0, RING_DATA, lengths[i], INDIRECT, 0);
		start();
		r.idx = 0;
		make_available(&r, 0);
		breaks(HV_VIRTQ_TABLE_LENGTH);
	}
}

Test(virtio_queue, an_indirect_table_outside_memory)
{
	q.indirect = true;
	describe(&r, 0, RING_MEMORY - 16, 32, INDIRECT, 0);
	make_available(&r, 0);
	breaks(HV_VIRTQ_TABLE_OUTSIDE);
}

Test(virtio_queue, a_broken_queue_gives_nothing_back_and_a_new_start_mends_it)
{
	offer(0);
	cr_assert_eq(hv_virtq_pop(&q, &chain), 1);
	make_available(&r, SIZE);
	struct hv_virtq_chain second;
	cr_assert_eq(hv_virtq_pop(&q, &second), -EBADMSG);
	hv_virtq_push(&q, &chain, 0);
	cr_assert_eq(used_idx(&r), 0);
	cr_assert_not(hv_virtq_wants_interrupt(&q));
	set_idx(&r, 0);
	start();
	offer(3);
	cr_assert_eq(hv_virtq_pop(&q, &chain), 1);
}
