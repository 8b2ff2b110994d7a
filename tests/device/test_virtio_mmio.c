/*
 * The MMIO transport, driven by the registers: the handshake, the queues' registers, interrupts, what needs a
 * reset, saved state. A type of the test's own stands behind it, and the entropy device.
 */
#include <stdlib.h>

#include "drive_virtio.h"

#define FEATURE_OWN 2ull /* bit 1: the test type's */
#define MODERN      HV_VIRTIO_F_VERSION_1

static struct hv_memory mem;
static struct hv_device *dev;
static struct ring r;
static struct irq_log irq;
static struct log_lines lines;
static struct hv_log hlog;

/* A type that counts what it is told, serves nothing by itself, and has a byte of state. */
struct probe {
	struct hv_virtio v;
	unsigned notified, resets, writes;
	int holds;
	uint8_t state;
};
static struct probe *probe;

static struct probe *probe_of(struct hv_virtio *v)
{
	return hv_container_of(v, struct probe, v);
}

static void probe_notify(struct hv_virtio *v, unsigned queue)
{
	probe_of(v)->notified += 1 + queue * 100;
}

static void probe_config_write(struct hv_virtio *v, unsigned offset, uint32_t value, unsigned size)
{
	cr_assert_leq(offset + size, v->config_length);
	memcpy(v->config + offset, &value, size);
	probe_of(v)->writes++;
}

static void probe_hold(struct hv_virtio *v, bool held)
{
	probe_of(v)->holds += held ? 1 : -1;
}

static void probe_reset(struct hv_virtio *v)
{
	cr_assert_gt(probe_of(v)->holds, 0, "nothing moves while it is reset");
	probe_of(v)->resets++;
	probe_of(v)->state = 0;
}

static void probe_save(struct hv_virtio *v, struct hv_encoder *e)
{
	cr_assert_gt(probe_of(v)->holds, 0, "nor while it is saved");
	hv_enc_u8(e, probe_of(v)->state);
}

static int probe_load(struct hv_virtio *v, struct hv_decoder *d, struct hv_error *err)
{
	probe_of(v)->state = hv_dec_u8(d);
	return 0;
}

static void probe_destroy(struct hv_virtio *v)
{
	free(probe_of(v));
}

static const struct hv_virtio_ops probe_ops = {
	.name = "probe",
	.id = 77,
	.version = 3,
	.queues = 2,
	.notify = probe_notify,
	.config_write = probe_config_write,
	.hold = probe_hold,
	.reset = probe_reset,
	.save = probe_save,
	.load = probe_load,
	.destroy = probe_destroy,
};

static struct hv_virtio_host host(void)
{
	hlog = (struct hv_log){.level = HV_LOG_WARN, .sink = keep_line, .ctx = &lines};
	return (struct hv_virtio_host){
		.window = 5, .mem = &mem, .irq = {.set = irq_log_set, .ctx = &irq, .gsi = 21}, .log = &hlog};
}

static struct hv_device *make_probe(void)
{
	struct probe *p = calloc(1, sizeof(*p));
	struct hv_virtio_host h = host();

	cr_assert(p);
	hv_virtio_init(&p->v, &probe_ops, &h, FEATURE_OWN);
	p->v.config_length = 12;
	memcpy(p->v.config, "configurated", 12);
	return &p->v.dev;
}

static void set_up(void)
{
	hv_memory_init(&mem, NULL);
	cr_assert_eq(hv_memory_add(&mem, 0, RING_MEMORY, false, NULL), 0);
	irq.rises = 0;
	lines.warnings = 0;
	dev = make_probe();
	probe = (struct probe *)(void *)dev;
	ring_init(&r, &mem, 0, 8);
}

static void tear_down(void)
{
	hv_device_destroy(dev);
	hv_memory_free(&mem);
}

static void start(uint64_t features)
{
	negotiate(dev, features);
	set_up_queue(dev, &r, 0);
	driver_ok(dev);
	cr_assert_eq(reg(dev, MMIO_STATUS), 0x0f);
	cr_assert_eq(reg(dev, MMIO_QUEUE_READY), 1);
}

/* Under the lock, as a type's own code. */
static bool pop(struct hv_virtq_chain *chain)
{
	pthread_mutex_lock(&dev->lock);
	bool got = hv_virtio_pop(&probe->v, 0, chain);
	pthread_mutex_unlock(&dev->lock);
	return got;
}

static void push(const struct hv_virtq_chain *chain)
{
	pthread_mutex_lock(&dev->lock);
	hv_virtio_push(&probe->v, 0, chain, 0);
	pthread_mutex_unlock(&dev->lock);
}

TestSuite(virtio_mmio, .init = set_up, .fini = tear_down, .timeout = 30);

Test(virtio_mmio, it_says_what_it_is)
{
	cr_assert_eq(reg(dev, MMIO_MAGIC), 0x74726976);
	cr_assert_eq(reg(dev, MMIO_VERSION), 2);
	cr_assert_eq(reg(dev, MMIO_DEVICE_ID), 77);
	cr_assert_str_eq(dev->ops->name, "virtio-probe5");
	cr_assert_eq(offered_features(dev), FEATURE_OWN | MODERN | HV_VIRTIO_F_INDIRECT |
						    HV_VIRTIO_F_EVENT_IDX | HV_VIRTIO_F_IN_ORDER);
	set_reg(dev, MMIO_DEVICE_FEATURES_SEL, 2);
	cr_assert_eq(reg(dev, MMIO_DEVICE_FEATURES), 0);
	cr_assert_eq(reg(dev, MMIO_QUEUE_NUM_MAX), HV_VIRTQ_SIZE_MAX);
	set_reg(dev, MMIO_QUEUE_SEL, 2);
	cr_assert_eq(reg(dev, MMIO_QUEUE_NUM_MAX), 0, "it has two queues");
	set_reg(dev, MMIO_QUEUE_SEL, UINT32_MAX);
	set_reg(dev, MMIO_QUEUE_READY, 1);
	cr_assert_eq(reg(dev, MMIO_QUEUE_READY), 0);
	cr_assert_eq(reg(dev, 0xb0), UINT32_MAX, "no shared memory");
	cr_assert_eq(reg(dev, 0xbc), UINT32_MAX);
}

Test(virtio_mmio, registers_take_32_bits_and_nothing_else)
{
	cr_assert_eq(drive_read(dev, MMIO_MAGIC, 1), 0);
	cr_assert_eq(drive_read(dev, MMIO_MAGIC, 2), 0);
	drive_write(dev, MMIO_STATUS, 1, 1);
	cr_assert_eq(reg(dev, MMIO_STATUS), 0);
}

Test(virtio_mmio, the_configuration_is_read_and_written_in_any_width)
{
	cr_assert_eq(drive_read(dev, MMIO_CONFIG, 1), 'c');
	cr_assert_eq(drive_read(dev, MMIO_CONFIG + 2, 2), 'n' | 'f' << 8);
	cr_assert_eq(drive_read(dev, MMIO_CONFIG + 8, 4), 0x64657461);
	cr_assert_eq(drive_read(dev, MMIO_CONFIG + 12, 4), 0);
	cr_assert_eq(drive_read(dev, 0x1ff, 1), 0);
	cr_assert_eq(drive_read(dev, 0x1ff, 4), 0, "what would straddle its end");
	drive_write(dev, MMIO_CONFIG + 10, 'E', 1);
	cr_assert_eq(drive_read(dev, MMIO_CONFIG + 10, 1), 'E');
	drive_write(dev, MMIO_CONFIG + 10, 0, 4);
	drive_write(dev, MMIO_CONFIG + 12, 0, 1);
	cr_assert_eq(probe->writes, 1, "only what is inside");
}

Test(virtio_mmio, a_change_of_the_configuration_is_a_new_generation_and_an_interrupt)
{
	uint32_t before = reg(dev, MMIO_GENERATION);

	pthread_mutex_lock(&dev->lock);
	hv_virtio_config_changed(&probe->v);
	pthread_mutex_unlock(&dev->lock);
	cr_assert_eq(reg(dev, MMIO_GENERATION), before + 1);
	cr_assert_eq(irq.rises, 0, "no driver to tell yet");
	start(MODERN);
	pthread_mutex_lock(&dev->lock);
	hv_virtio_config_changed(&probe->v);
	pthread_mutex_unlock(&dev->lock);
	cr_assert_eq(reg(dev, MMIO_INTERRUPT_STATUS), 2);
	cr_assert_eq(irq.rises, 1);
	set_reg(dev, MMIO_INTERRUPT_ACK, 2);
	cr_assert_not(irq.high);
}

Test(virtio_mmio, features_are_refused_without_version_1_and_beyond_the_offer)
{
	static const uint64_t bad[] = {0, FEATURE_OWN, MODERN | 1, MODERN | 1ull << 63, HV_VIRTIO_F_INDIRECT};

	for (unsigned i = 0; i < HV_ARRAY_SIZE(bad); i++) {
		negotiate(dev, bad[i]);
		cr_assert_eq(reg(dev, MMIO_STATUS), 3, "features 0x%llx", (unsigned long long)bad[i]);
		driver_ok(dev);
		cr_assert_eq(reg(dev, MMIO_STATUS), 3, "and then no DRIVER_OK");
	}
	negotiate(dev, MODERN | FEATURE_OWN);
	cr_assert_eq(reg(dev, MMIO_STATUS), 0x0b);
	accept_features(dev, 0);
	cr_assert(hv_virtio_has(&probe->v, FEATURE_OWN), "they stand now");
}

Test(virtio_mmio, status_bits_are_set_in_turn_and_cleared_by_reset_alone)
{
	set_reg(dev, MMIO_STATUS, HV_VIRTIO_DRIVER_OK | HV_VIRTIO_FEATURES_OK);
	cr_assert_eq(reg(dev, MMIO_STATUS), 0);
	set_reg(dev, MMIO_STATUS, HV_VIRTIO_NEEDS_RESET | 0xffffff30);
	cr_assert_eq(reg(dev, MMIO_STATUS), 0, "not the driver's to set");
	start(MODERN);
	set_reg(dev, MMIO_STATUS, HV_VIRTIO_ACKNOWLEDGE);
	cr_assert_eq(reg(dev, MMIO_STATUS), 0x0f);
	set_reg(dev, MMIO_STATUS, HV_VIRTIO_FAILED);
	cr_assert_eq(reg(dev, MMIO_STATUS), 0x8f);
	set_reg(dev, MMIO_STATUS, 0);
	cr_assert_eq(reg(dev, MMIO_STATUS), 0);
	set_reg(dev, MMIO_QUEUE_SEL, 0);
	cr_assert_eq(reg(dev, MMIO_QUEUE_READY), 0);
	cr_assert_eq(probe->holds, 0);
}

Test(virtio_mmio, a_queue_is_ready_only_after_the_features_and_its_registers_stand_then)
{
	set_up_queue(dev, &r, 0);
	cr_assert_eq(reg(dev, MMIO_QUEUE_READY), 0);
	start(MODERN);
	set_address(dev, MMIO_TABLE, 0x7000);
	set_address(dev, MMIO_USED, 0x7000);
	set_reg(dev, MMIO_QUEUE_NUM, 2);
	cr_assert_eq(probe->v.queues[0].table, r.table);
	cr_assert_eq(probe->v.queues[0].used, r.used);
	cr_assert_eq(probe->v.queues[0].size, r.size);
	set_reg(dev, MMIO_QUEUE_READY, 0);
	cr_assert_eq(reg(dev, MMIO_QUEUE_READY), 0);
	set_address(dev, MMIO_TABLE, 0x7000);
	cr_assert_eq(probe->v.queues[0].table, 0x7000);
}

Test(virtio_mmio, notifications_reach_the_type_after_driver_ok_and_for_ready_queues)
{
	negotiate(dev, MODERN);
	set_up_queue(dev, &r, 0);
	set_reg(dev, MMIO_NOTIFY, 0);
	cr_assert_eq(probe->notified, 0);
	driver_ok(dev);
	cr_assert_eq(probe->notified, 1, "what was there before");
	set_reg(dev, MMIO_NOTIFY, 0);
	set_reg(dev, MMIO_NOTIFY, 1);
	set_reg(dev, MMIO_NOTIFY, 2);
	set_reg(dev, MMIO_NOTIFY, UINT32_MAX);
	cr_assert_eq(probe->notified, 2);
}

Test(virtio_mmio, a_returned_chain_interrupts_and_every_event_makes_an_edge)
{
	struct hv_virtq_chain chain;

	start(MODERN);
	for (unsigned i = 0; i < 2; i++) {
		describe(&r, i, RING_DATA, 4, WRITE, 0);
		make_available(&r, i);
		cr_assert(pop(&chain));
		push(&chain);
		cr_assert_eq(irq.rises, i + 1);
	}
	cr_assert_eq(reg(dev, MMIO_INTERRUPT_STATUS), 1);
	cr_assert(irq.high);
	set_reg(dev, MMIO_INTERRUPT_ACK, 1);
	cr_assert_eq(reg(dev, MMIO_INTERRUPT_STATUS), 0);
	cr_assert_not(irq.high);
}

Test(virtio_mmio, a_malformed_chain_needs_a_reset_is_told_by_name_and_a_reset_mends_it)
{
	struct hv_virtq_chain chain;

	start(MODERN);
	make_available(&r, 99);
	cr_assert_not(pop(&chain));
	cr_assert_eq(reg(dev, MMIO_STATUS), 0x4f);
	cr_assert_eq(reg(dev, MMIO_INTERRUPT_STATUS), 2, "the configuration interrupt tells");
	cr_assert(strstr(lines.last, "virtio-probe5") && strstr(lines.last, "outside the descriptor table"),
		  "%s", lines.last);
	set_reg(dev, MMIO_NOTIFY, 0);
	cr_assert_eq(probe->notified, 1, "only DRIVER_OK's");
	cr_assert_not(pop(&chain));
	set_idx(&r, 0);
	start(MODERN);
	describe(&r, 0, RING_DATA, 4, WRITE, 0);
	make_available(&r, 0);
	cr_assert(pop(&chain));
	for (unsigned i = 0; i < 20; i++) {
		set_idx(&r, 0);
		start(MODERN);
		make_available(&r, 99);
		cr_assert_not(pop(&chain));
	}
	cr_assert_eq(lines.warnings, 1, "no guest fills the log");
}

Test(virtio_mmio, a_queue_that_cannot_be_started_needs_a_reset)
{
	struct ring bad = r;

	bad.used = RING_MEMORY;
	negotiate(dev, MODERN);
	set_up_queue(dev, &bad, 1);
	cr_assert_eq(reg(dev, MMIO_QUEUE_READY), 0);
	cr_assert_eq(reg(dev, MMIO_STATUS), 0x4b);
	cr_assert_eq(irq.rises, 0);
	driver_ok(dev);
	cr_assert_eq(reg(dev, MMIO_STATUS), 0x4f);
	cr_assert_eq(reg(dev, MMIO_INTERRUPT_STATUS), 2, "told as soon as it listens");
	negotiate(dev, MODERN);
	bad = r;
	bad.size = 512;
	set_up_queue(dev, &bad, 0);
	cr_assert_eq(reg(dev, MMIO_QUEUE_READY), 0);
	cr_assert_eq(reg(dev, MMIO_STATUS), 0x4b);
}

/* --- saved state --- */

Test(virtio_mmio, its_state_moves_to_another_device)
{
	struct hv_device *other = make_probe();
	struct hv_virtq_chain chain;

	drive_move(dev, other);
	start(MODERN | FEATURE_OWN | HV_VIRTIO_F_INDIRECT);
	probe->state = 42;
	describe(&r, 0, RING_DATA, 4, WRITE, 0);
	for (unsigned i = 0; i < 3; i++) {
		make_available(&r, 0);
		cr_assert(pop(&chain));
		push(&chain);
	}
	drive_move(dev, other);
	struct probe *copy = (struct probe *)(void *)other;
	cr_assert_eq(copy->state, 42);
	cr_assert(copy->v.queues[0].indirect);
	cr_assert_geq(copy->notified, 1, "what came meanwhile is looked for");
	cr_assert_eq(reg(other, MMIO_INTERRUPT_STATUS), 1);
	make_available(&r, 0);
	pthread_mutex_lock(&other->lock);
	cr_assert(hv_virtio_pop(&copy->v, 0, &chain));
	hv_virtio_push(&copy->v, 0, &chain, 0);
	pthread_mutex_unlock(&other->lock);
	cr_assert_eq(used_idx(&r), 4);
	/* One that needs a reset needs it there, too. */
	make_available(&r, 99);
	cr_assert(pop(&chain), "the fourth one");
	push(&chain);
	cr_assert_not(pop(&chain));
	drive_move(dev, other);
	cr_assert(reg(other, MMIO_STATUS) & HV_VIRTIO_NEEDS_RESET);
	hv_device_destroy(other);
}

enum { /* offsets in the saved state */
       AT_ACCEPTED = 0,
       AT_STATUS = 8,
       AT_INTERRUPT = 12,
       AT_QUEUE = 32,
       AT_SIZE = AT_QUEUE,
       AT_USED_ADDRESS = AT_QUEUE + 18,
       AT_STARTED = AT_QUEUE + 26,
       AT_BROKEN = AT_QUEUE + 27,
       AT_TAKEN = AT_QUEUE + 28,
       AT_SECOND_TAKEN = AT_QUEUE + 34 + 28,
};

Test(virtio_mmio, damaged_state_is_refused)
{
	static const struct {
		size_t at;
		uint8_t value;
	} bad[] = {
		{AT_ACCEPTED, 1},     {AT_ACCEPTED + 4, 0}, {AT_STATUS, 0x1f},        {AT_STATUS, 0x07},
		{AT_STATUS, 0x03},    {AT_STATUS + 3, 1},   {AT_INTERRUPT, 4},        {AT_SIZE, 7},
		{AT_SIZE + 1, 2},     {AT_USED_ADDRESS, 1}, {AT_USED_ADDRESS + 7, 1}, {AT_STARTED, 2},
		{AT_STARTED, 0},      {AT_BROKEN, 1},       {AT_BROKEN, 200},         {AT_TAKEN, 9},
		{AT_SECOND_TAKEN, 1},
	};
	struct hv_virtq_chain chain;

	describe(&r, 0, RING_DATA, 4, WRITE, 0);
	for (unsigned i = 0; i < HV_ARRAY_SIZE(bad); i++) {
		set_idx(&r, 0);
		start(MODERN);
		make_available(&r, 0);
		cr_assert(pop(&chain));
		push(&chain);
		drive_refused(dev, bad[i].at, bad[i].value);
		cr_assert_eq(reg(dev, MMIO_STATUS), 0, "it is left reset");
		cr_assert_eq(probe->holds, 0);
	}
}

Test(virtio_mmio, state_cut_or_lengthened_or_of_another_version_is_refused)
{
	struct hv_encoder e;
	struct hv_error err;

	start(MODERN);
	drive_save(dev, &e);
	for (size_t n = 0; n < e.length; n++)
		cr_assert_eq(drive_load(dev, e.data, n, 3, &err), -EBADMSG, "%zu bytes", n);
	cr_assert_eq(drive_load(dev, e.data, e.length, 2, &err), -EBADMSG);
	hv_enc_u8(&e, 0);
	cr_assert_eq(drive_load(dev, e.data, e.length, 3, &err), -EBADMSG);
	cr_assert_eq(drive_load(dev, e.data, e.length - 1, 3, &err), 0);
	hv_enc_free(&e);
}

Test(virtio_mmio, a_line_for_a_person_fits_any_room)
{
	char line[200], tiny[1] = {'x'};

	start(MODERN);
	pthread_mutex_lock(&dev->lock);
	dev->ops->describe(dev, line, sizeof(line));
	dev->ops->describe(dev, tiny, sizeof(tiny));
	pthread_mutex_unlock(&dev->lock);
	cr_assert_str_eq(line, "in use, status 0x0f, features 0x100000000, queue 0 at 0 of 8");
	cr_assert_eq(tiny[0], '\0');
}

/* --- the entropy device, which has a thread --- */

static void rng_set_up(void)
{
	struct hv_virtio_host h = host();

	hv_memory_init(&mem, NULL);
	cr_assert_eq(hv_memory_add(&mem, 0, RING_MEMORY, false, NULL), 0);
	cr_assert_eq(hv_virtio_rng_create(&h, &dev, NULL), 0);
	ring_init(&r, &mem, 0, 8);
	negotiate(dev, MODERN);
	set_up_queue(dev, &r, 0);
	driver_ok(dev);
}

TestSuite(virtio_rng, .init = rng_set_up, .fini = tear_down, .timeout = 60);

Test(virtio_rng, buffers_come_back_with_bytes_that_differ)
{
	uint8_t first[64];
	uint32_t length;

	cr_assert_eq(reg(dev, MMIO_DEVICE_ID), 4);
	describe(&r, 0, RING_DATA, 64, WRITE, 0);
	for (uint16_t i = 1; i <= 100; i++) {
		make_available(&r, 0);
		set_reg(dev, MMIO_NOTIFY, 0);
		cr_assert(wait_used(&r, i));
		cr_assert_eq(take_used(&r, &length), 0);
		cr_assert_eq(length, 64);
		if (i > 1)
			cr_assert_neq(memcmp(first, guest_at(&r, RING_DATA, 64), 64), 0);
		memcpy(first, guest_at(&r, RING_DATA, 64), 64);
	}
	cr_assert_geq(irq.rises, 1);
}

Test(virtio_rng, a_large_buffer_is_filled_in_part)
{
	uint32_t length;

	describe(&r, 0, RING_DATA, 0x10000, WRITE, 0);
	make_available(&r, 0);
	set_reg(dev, MMIO_NOTIFY, 0);
	cr_assert(wait_used(&r, 1));
	take_used(&r, &length);
	cr_assert_eq(length, 256);
	cr_assert_eq(*guest_at(&r, RING_DATA + 256, 1), 0);
}

Test(virtio_rng, a_request_to_read_from_needs_a_reset)
{
	describe(&r, 0, RING_DATA, 64, 0, 0);
	make_available(&r, 0);
	set_reg(dev, MMIO_NOTIFY, 0);
	cr_assert(wait_status(dev, HV_VIRTIO_NEEDS_RESET));
	cr_assert(strstr(lines.last, "without room"), "%s", lines.last);
	struct hv_device *other;
	struct hv_virtio_host h = host();
	cr_assert_eq(hv_virtio_rng_create(&h, &other, NULL), 0);
	drive_move(dev, other);
	hv_device_destroy(other);
}

Test(virtio_rng, nothing_moves_while_it_is_held_and_all_goes_on_afterwards)
{
	describe(&r, 0, RING_DATA, 64, WRITE, 0);
	hv_device_hold(dev, true);
	hv_device_hold(dev, true);
	make_available(&r, 0);
	set_reg(dev, MMIO_NOTIFY, 0);
	nanosleep(&(struct timespec){.tv_nsec = 30000000}, NULL);
	cr_assert_eq(used_idx(&r), 0);
	hv_device_hold(dev, false);
	nanosleep(&(struct timespec){.tv_nsec = 30000000}, NULL);
	cr_assert_eq(used_idx(&r), 0);
	hv_device_hold(dev, false);
	cr_assert(wait_used(&r, 1));
}

Test(virtio_rng, it_can_be_reset_saved_and_destroyed_in_the_middle_of_requests)
{
	for (unsigned i = 0; i < 8; i++)
		describe(&r, i, RING_DATA, 256, WRITE, 0);
	for (unsigned i = 0; i < 300; i++) {
		struct hv_encoder e;

		set_idx(&r, 0);
		for (unsigned k = 0; k < 8; k++)
			make_available(&r, k);
		set_reg(dev, MMIO_NOTIFY, 0);
		drive_save(dev, &e);
		hv_enc_free(&e);
		set_reg(dev, MMIO_STATUS, 0);
		set_idx(&r, 0);
		negotiate(dev, MODERN | HV_VIRTIO_F_EVENT_IDX);
		set_up_queue(dev, &r, 0);
		driver_ok(dev);
	}
}
