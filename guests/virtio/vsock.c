/*
 * One stream over a socket device, from REQUEST to RST, several packets at a time. Rules: virtio 1.2, section
 * 5.10.6 (packets), 5.10.6.3 (credit).
 */
#include "vsock.h"

#include "console.h"
#include "driver.h"
#include "io.h"
#include "memory.h"

enum { RX, TX, EVENT, QUEUES };

enum { OP_REQUEST = 1, OP_RESPONSE, OP_RST, OP_SHUTDOWN, OP_RW, OP_CREDIT_UPDATE, OP_CREDIT_REQUEST };

#define HOST_CID  2u
#define PORT      1000u
#define TYPE      1u /* stream */
#define SEND      2u /* SHUTDOWN's flags */
#define BOTH      3u
#define ROOMS     8u /* receive buffers, and packets under way */
#define ROOM_SIZE 1024u
#define DATA_MAX  16384u
#define PERIOD    251u
#define F_STREAM  (1ull << 0)

struct packet {
	uint64_t src_cid, dst_cid;
	uint32_t src_port, dst_port, length;
	uint16_t type, op;
	uint32_t flags, buf_alloc, fwd_cnt;
} __attribute__((packed));

static struct virtio q[QUEUES];
static struct {
	struct packet h;
	char data[ROOM_SIZE - sizeof(struct packet)];
} __attribute__((packed)) rooms[ROOMS];
static struct packet out[ROOMS];
static uint8_t pattern[DATA_MAX + PERIOD];

/* The stream. */
static uint32_t cid, sent, received, host_alloc, host_forwarded;
static unsigned under_way, next_slot;

static bool has_used(const struct virtio *v)
{
	return *(const volatile uint16_t *)&v->used.idx != v->seen;
}

/* Sleeps until the host has a packet for us or is done with one of ours. */
static void wait_any(void)
{
	q[RX].available.used_event = q[RX].seen;
	q[TX].available.used_event = q[TX].seen;
	for (;;) {
		irq_off();
		__asm__ volatile("mfence" ::: "memory");
		if (has_used(&q[RX]) || has_used(&q[TX]))
			break;
		irq_on_and_halt();
	}
	__asm__ volatile("sti; nop; cli" ::: "memory");
}

static void give_room(unsigned i)
{
	q[RX].table[i] = (struct virtio_descriptor){
		.address = (uint64_t)&rooms[i], .length = ROOM_SIZE, .flags = VIRTIO_WRITE};
	virtio_submit(&q[RX], (uint16_t)i);
}

static void collect_sent(void)
{
	while (has_used(&q[TX])) {
		q[TX].seen++;
		under_way--;
	}
}

/* Two descriptors each: header and data. Packets come back in their order, so slots go round. */
static void submit(uint16_t op, uint32_t flags, const uint8_t *data, uint32_t length)
{
	unsigned i = next_slot++ % ROOMS;

	while (under_way == ROOMS) {
		wait_any();
		collect_sent();
	}
	out[i] = (struct packet){.src_cid = cid,
				 .dst_cid = HOST_CID,
				 .src_port = PORT,
				 .dst_port = VSOCK_PORT,
				 .length = length,
				 .type = TYPE,
				 .op = op,
				 .flags = flags,
				 .buf_alloc = ROOM_SIZE,
				 .fwd_cnt = received};
	q[TX].table[2 * i] = (struct virtio_descriptor){.address = (uint64_t)&out[i],
							.length = sizeof(out[i]),
							.flags = length ? VIRTIO_NEXT : 0,
							.next = (uint16_t)(2 * i + 1)};
	q[TX].table[2 * i + 1] = (struct virtio_descriptor){.address = (uint64_t)data, .length = length};
	under_way++;
	virtio_submit(&q[TX], (uint16_t)(2 * i));
}

/* The next packet; its room is to be given back. */
static unsigned next_packet(void)
{
	while (!has_used(&q[RX])) {
		wait_any();
		collect_sent();
	}
	return q[RX].used.ring[q[RX].seen++ % VIRTIO_QUEUE_SIZE].id;
}

static uint16_t take_packet(char *line, uint32_t size, uint32_t *flags)
{
	unsigned i = next_packet();
	uint16_t op = rooms[i].h.op;

	host_alloc = rooms[i].h.buf_alloc;
	host_forwarded = rooms[i].h.fwd_cnt;
	*flags = rooms[i].h.flags;
	if (op == OP_RW && received + rooms[i].h.length < size) {
		memcpy(line + received, rooms[i].data, rooms[i].h.length);
		received += rooms[i].h.length;
	}
	give_room(i);
	return op;
}

static const char *push(uint64_t bytes)
{
	char none[1];
	uint32_t flags;

	for (uint64_t n = 0; n < bytes;) {
		uint32_t room = host_alloc - (sent - host_forwarded);
		uint32_t now = bytes - n < DATA_MAX ? (uint32_t)(bytes - n) : DATA_MAX;

		if (room < now && !has_used(&q[RX]))
			wait_any();
		collect_sent();
		if (has_used(&q[RX])) {
			if (take_packet(none, 0, &flags) != OP_CREDIT_UPDATE)
				return "the host ends the stream early";
		} else if (room >= now) {
			submit(OP_RW, 0, pattern + n % PERIOD, now);
			sent += now;
			n += now;
		}
	}
	return 0;
}

static const char *hear_answer(unsigned window)
{
	char line[ROOM_SIZE] = "";
	uint32_t flags = 0;
	uint16_t op;

	submit(OP_SHUTDOWN, SEND, 0, 0);
	do
		op = take_packet(line, sizeof(line) - 1, &flags);
	while (op == OP_RW || op == OP_CREDIT_UPDATE);
	if (op != OP_SHUTDOWN || !(flags & SEND))
		return "the host doesn't end its side";
	line[received] = '\0';
	con_printf("window %u: CID %u, the host says '%s'\n", window, cid, line);
	submit(OP_SHUTDOWN, BOTH, 0, 0);
	while (op != OP_RST)
		op = take_packet(line, 0, &flags);
	return 0;
}

const char *vsock_push(unsigned window, uint64_t bytes)
{
	const char *wrong;
	char none[1];
	uint32_t flags;

	if (!virtio_start(q, QUEUES, window, F_STREAM))
		return "it refuses to start";
	cid = virtio_config(q, 0);
	sent = received = 0;
	under_way = next_slot = 0;
	for (unsigned i = 0; i < sizeof(pattern); i++)
		pattern[i] = (uint8_t)(i % PERIOD);
	for (unsigned i = 0; i < ROOMS; i++)
		give_room(i);
	submit(OP_REQUEST, 0, 0, 0);
	if (take_packet(none, 0, &flags) != OP_RESPONSE)
		return "nobody listens on the host";
	wrong = push(bytes);
	return wrong ? wrong : hear_answer(window);
}
