/*
 * virtio: finds the virtio devices and uses them. A disk's first sectors=N (default 64) sectors are read and
 * their FNV-1a checksum is printed; a disk that can be written gets them a second time, each byte changed by
 * 0xa5, right behind, and they are read back and checked. The entropy device gives bytes twice. A console
 * gets a line; with size=1 its terminal's size is waited for, with typed=1 a line is read from it. A balloon
 * gets pages, which are zeros afterwards. A network card asks who has 10.0.2.2, user networking's router, and
 * waits for the reply; with arp=0 it only tells its address. A socket device sends vsock=N bytes (default
 * 100000) to the host's port 1234 and prints the answer. With bad=1 each device but console and sockets first
 * gets a chain that loops, must ask for a reset, and must work again after one. hostile=N first torments a
 * disk with N random chains (seed=N for others than the usual ones) and a tenth as many whose buffers are the
 * rings. bench=N measures the first disk, N times as long as usual, and does nothing else; words=1 prints the
 * command line. mmio=ADDRESS says where the windows are on a machine that isn't hvrun's. Ends by the debug
 * exit device: GUEST_OK, or GUEST_FAILED when anything was not as it should be.
 */
#include "apic.h"
#include "bench.h"
#include "bootinfo.h"
#include "console.h"
#include "driver.h"
#include "end.h"
#include "hostile.h"
#include "io.h"
#include "memory.h"
#include "start.h"
#include "trap.h"
#include "vsock.h"

HVKIT_IRQCHIP_NOTE(IRQCHIP_SPLIT);

#define SECTOR      512u
#define SECTORS_MAX 1024u
#define AT_ONCE     8u /* sectors of one request */
#define CHANGE      0xa5

enum { BLK_IN = 0, BLK_OUT = 1, BLK_FLUSH = 4, BLK_GET_ID = 8 };
#define CONSOLE_F_SIZE (1ull << 0)

enum { BLK_CAPACITY = 0 };
enum { BALLOON_TARGET = 0, BALLOON_ACTUAL = 4 };

#define BLK_F_RO    (1ull << 5)
#define BLK_F_FLUSH (1ull << 9)

extern char page_tables[];

static struct virtio dev, card[2]; /* a card: its receive and its transmit queue */
static uint8_t original[SECTORS_MAX * SECTOR], copy[SECTORS_MAX * SECTOR];
static unsigned failures;

static bool check(bool ok, unsigned window, const char *what)
{
	if (!ok)
		con_printf("window %u: FAILED: %s\n", window, what);
	failures += !ok;
	return ok;
}

static uint64_t checksum(const uint8_t *data, uint64_t size)
{
	uint64_t hash = 0xcbf29ce484222325;

	for (uint64_t i = 0; i < size; i++)
		hash = (hash ^ data[i]) * 0x100000001b3;
	return hash;
}

/* --- a chain that loops --- */

static void provoke(unsigned window, bool is_card)
{
	struct virtio *v = is_card ? &card[1] : &dev; /* what is in a receive queue waits for a frame */
	static uint8_t byte;

	if (!check(virtio_start(is_card ? card : &dev, is_card ? 2 : 1, window, 0), window,
		   "it refuses to start"))
		return;
	for (unsigned i = 0; i < 2; i++)
		v->table[i] = (struct virtio_descriptor){
			.address = (uint64_t)&byte, .length = 1, .flags = VIRTIO_NEXT, .next = (uint16_t)!i};
	virtio_submit(v, 0);
	/* The device's thread finds it in its own time; the configuration interrupt tells. */
	for (;;) {
		irq_off();
		if (virtio_status(v) & VIRTIO_NEEDS_RESET)
			break;
		irq_on_and_halt();
	}
	con_printf("window %u: a chain that loops: the device asks for a reset\n", window);
}

/* --- disk --- */

static bool blk(uint32_t type, uint64_t sector, void *data, uint32_t length)
{
	static struct {
		uint32_t type, reserved;
		uint64_t sector;
	} header;
	static uint8_t status;
	struct virtio_part parts[3] = {{&header, sizeof(header), false}};
	unsigned count = 1;

	header.type = type;
	header.sector = sector;
	status = 0xff;
	if (length)
		parts[count++] = (struct virtio_part){data, length, type != BLK_OUT};
	parts[count++] = (struct virtio_part){&status, 1, true};
	virtio_request(&dev, parts, count);
	return *(volatile uint8_t *)&status == 0;
}

static bool transfer(uint32_t type, uint64_t sector, uint8_t *data, unsigned sectors)
{
	for (unsigned i = 0; i < sectors; i += AT_ONCE) {
		unsigned n = sectors - i < AT_ONCE ? sectors - i : AT_ONCE;

		if (!blk(type, sector + i, data + i * SECTOR, n * SECTOR))
			return false;
	}
	return true;
}

static void use_disk(unsigned window, unsigned sectors)
{
	char serial[21] = {0};
	uint64_t capacity;

	if (!check(virtio_start(&dev, 1, window, BLK_F_RO | BLK_F_FLUSH), window, "it refuses to start"))
		return;
	capacity = virtio_config(&dev, BLK_CAPACITY) | (uint64_t)virtio_config(&dev, BLK_CAPACITY + 4) << 32;
	check(blk(BLK_GET_ID, 0, serial, 20), window, "no serial number");
	con_printf("window %u: disk, %lu sectors, serial '%s'%s\n", window, capacity, serial,
		   dev.features & BLK_F_RO ? ", read only" : "");
	if (!check(transfer(BLK_IN, 0, original, sectors), window, "a read"))
		return;
	con_printf("window %u: checksum of %u sectors 0x%016lx\n", window, sectors,
		   checksum(original, (uint64_t)sectors * SECTOR));
	check(!blk(BLK_IN, capacity, copy, SECTOR), window, "a read behind the end succeeds");
	if (dev.features & BLK_F_RO) {
		check(!blk(BLK_OUT, 0, copy, SECTOR), window, "a write to a read-only disk succeeds");
		return;
	}
	for (unsigned i = 0; i < sectors * SECTOR; i++)
		copy[i] = original[i] ^ CHANGE;
	check(transfer(BLK_OUT, sectors, copy, sectors), window, "a write");
	check(blk(BLK_FLUSH, 0, 0, 0), window, "a flush");
	memset(copy, 0, sizeof(copy));
	check(transfer(BLK_IN, sectors, copy, sectors), window, "a read of what was written");
	for (unsigned i = 0; i < sectors * SECTOR; i++)
		copy[i] ^= CHANGE;
	if (check(memcmp(copy, original, (uint64_t)sectors * SECTOR) == 0, window, "other bytes came back"))
		con_printf("window %u: %u sectors written and read back\n", window, sectors);
}

static void torment(const struct boot_info *boot, unsigned window, uint64_t rounds)
{
	struct hostile h = {
		.window = window,
		.rounds = rounds,
		.seed = boot_option(boot, "seed", 0x9e3779b97f4a7c15),
		.ram_end = boot_ram_end(boot, (uint64_t)original),
	};

	check(hostile_chains(&h), window, "it is hung");
	h.rounds = rounds / 10 + 1;
	hostile_rings(&h);
}

/* --- entropy --- */

static void use_rng(unsigned window)
{
	static uint64_t bytes[2][4];

	if (!check(virtio_start(&dev, 1, window, 0), window, "it refuses to start"))
		return;
	for (unsigned i = 0; i < 2; i++) {
		struct virtio_part part = {bytes[i], sizeof(bytes[i]), true};

		check(virtio_request(&dev, &part, 1) == sizeof(bytes[i]), window, "too few bytes");
	}
	con_printf("window %u: entropy %016lx, then %016lx\n", window, bytes[0][0], bytes[1][0]);
	check(memcmp(bytes[0], bytes[1], sizeof(bytes[0])) != 0, window, "the same bytes twice");
}

/* --- console --- */

static void use_console(unsigned window, bool typed, bool sized)
{
	static char line[] = "a line for the console\n", heard[64];
	static struct virtio port[2]; /* to the guest, to the host */
	struct virtio_part out = {line, sizeof(line) - 1, false}, in = {heard, sizeof(heard) - 1, true};
	uint32_t length;

	if (!check(virtio_start(port, 2, window, CONSOLE_F_SIZE), window, "it refuses to start"))
		return;
	virtio_request(&port[1], &out, 1);
	con_printf("window %u: console, a line printed\n", window);
	if (sized) {
		uint32_t size;

		while ((size = virtio_config(&port[0], 0)) == 0)
			;
		con_printf("window %u: console, %u columns and %u rows\n", window, size & 0xffff, size >> 16);
	}
	if (!typed)
		return;
	length = virtio_request(&port[0], &in, 1);
	check(length > 0 && length < sizeof(heard), window, "an impossible number of bytes was typed");
	for (uint32_t i = 0; i < sizeof(heard); i++)
		if (heard[i] == '\n' || heard[i] == '\r')
			heard[i] = '\0';
	con_printf("window %u: console, '%s' was typed\n", window, heard);
}

/* --- balloon --- */

#define PAGE  4096u
#define PAGES 8u

static void use_balloon(unsigned window)
{
	static uint8_t pages[PAGES][PAGE] __attribute__((aligned(PAGE)));
	static uint32_t numbers[PAGES];
	struct virtio_part part = {numbers, sizeof(numbers), false};
	unsigned zeros = 0;

	if (!check(virtio_start(&dev, 1, window, 0), window, "it refuses to start"))
		return;
	for (unsigned i = 0; i < PAGES; i++) {
		memset(pages[i], CHANGE, PAGE);
		numbers[i] = (uint32_t)((uint64_t)pages[i] / PAGE);
	}
	virtio_request(&dev, &part, 1);
	virtio_config_write(&dev, BALLOON_ACTUAL, PAGES);
	for (unsigned i = 0; i < PAGES; i++)
		zeros += *(volatile uint8_t *)&pages[i][i] == 0;
	check(zeros == PAGES, window, "pages in the balloon keep their bytes");
	check(virtio_config(&dev, BALLOON_ACTUAL) == PAGES, window, "it forgets how large it is");
	con_printf("window %u: balloon, %u pages lent, target %u\n", window, PAGES,
		   virtio_config(&dev, BALLOON_TARGET));
}

/* --- network --- */

#define NET_F_MAC  (1ull << 5)
#define HEADER     12u
#define ARP_LENGTH 42u
#define FRAMES_MAX 64u /* that aren't the reply */

static uint8_t out[HEADER + 60], in[HEADER + 1514];

static void put16(uint8_t *at, unsigned value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

/* Who has 10.0.2.2? Tell 10.0.2.15 (RFC 826). */
static void make_request(const uint8_t *mac)
{
	static const uint8_t from[] = {10, 0, 2, 15}, to[] = {10, 0, 2, 2};
	uint8_t *arp = out + HEADER + 14;

	memset(out, 0, sizeof(out));
	memset(out + HEADER, 0xff, 6);
	memcpy(out + HEADER + 6, mac, 6);
	put16(out + HEADER + 12, 0x0806);
	put16(arp, 1);
	put16(arp + 2, 0x0800);
	put16(arp + 4, 0x0604);
	put16(arp + 6, 1);
	memcpy(arp + 8, mac, 6);
	memcpy(arp + 14, from, 4);
	memcpy(arp + 24, to, 4);
}

static bool is_reply(uint32_t length)
{
	static const uint8_t router[] = {10, 0, 2, 2};
	const uint8_t *arp = in + HEADER + 14;

	return length >= HEADER + ARP_LENGTH && in[HEADER + 12] == 8 && in[HEADER + 13] == 6 && arp[7] == 2 &&
	       memcmp(arp + 14, router, 4) == 0;
}

static void print_address(const uint8_t *mac)
{
	for (unsigned i = 0; i < 6; i++)
		con_printf("%s%02x", i ? ":" : "", mac[i]);
}

static void use_card(unsigned window, bool ask)
{
	struct virtio_part frame = {out, sizeof(out), false}, room = {in, sizeof(in), true};
	uint8_t mac[6];
	bool found = false;

	if (!check(virtio_start(card, 2, window, NET_F_MAC), window, "it refuses to start"))
		return;
	for (unsigned i = 0; i < 6; i++)
		mac[i] = (uint8_t)(virtio_config(card, i & ~3u) >> (8 * (i & 3)));
	con_printf("window %u: network card ", window);
	print_address(mac);
	con_printf("\n");
	if (!ask)
		return;
	make_request(mac);
	virtio_give(&card[0], &room, 1);
	virtio_request(&card[1], &frame, 1);
	for (unsigned i = 0; i < FRAMES_MAX && !found; i++) {
		found = is_reply(virtio_take(&card[0]));
		if (!found)
			virtio_give(&card[0], &room, 1);
	}
	if (!check(found, window, "no reply among the frames that came"))
		return;
	con_printf("window %u: 10.0.2.2 is at ", window);
	print_address(in + HEADER + 14 + 8);
	con_printf("\n");
}

/* --- sockets --- */

static void use_vsock(unsigned window, uint64_t bytes)
{
	const char *wrong = vsock_push(window, bytes);

	check(!wrong, window, wrong);
}

void guest_main(const struct boot_info *boot)
{
	unsigned found = 0, sectors;
	bool bad;

	con_init(false);
	trap_init();
	write_cr3((uint64_t)page_tables); /* what CPL 3 may use, too */
	sectors = (unsigned)boot_option(boot, "sectors", 64);
	bad = boot_option(boot, "bad", 0) != 0;
	if (sectors == 0 || sectors > SECTORS_MAX) {
		con_printf("virtio: want sectors= from 1 to %u\n", SECTORS_MAX);
		guest_exit(GUEST_FAILED);
	}
	virtio_base = boot_option(boot, "mmio", virtio_base);
	if (boot_option(boot, "bench", 0)) {
		guest_exit(bench_disk(0, (unsigned)boot_option(boot, "bench", 1)) ? GUEST_OK : GUEST_FAILED);
	}
	if (boot_option(boot, "words", 0))
		con_printf("command line: %s\n", boot->cmdline);
	lapic_init(false);
	for (unsigned w = 0; w < VIRTIO_WINDOWS; w++) {
		uint32_t id = virtio_probe(w);

		if (id == VIRTIO_NONE)
			continue;
		found++;
		if (bad && id != VIRTIO_CONSOLE &&
		    id != VIRTIO_VSOCK) /* whose first queues wait for the host */
			provoke(w, id == VIRTIO_NET);
		if (id == VIRTIO_BLK && boot_option(boot, "hostile", 0))
			torment(boot, w, boot_option(boot, "hostile", 0));
		if (id == VIRTIO_BLK)
			use_disk(w, sectors);
		else if (id == VIRTIO_RNG)
			use_rng(w);
		else if (id == VIRTIO_CONSOLE)
			use_console(w, boot_option(boot, "typed", 0) != 0, boot_option(boot, "size", 0) != 0);
		else if (id == VIRTIO_BALLOON)
			use_balloon(w);
		else if (id == VIRTIO_NET)
			use_card(w, boot_option(boot, "arp", 1) != 0);
		else if (id == VIRTIO_VSOCK)
			use_vsock(w, boot_option(boot, "vsock", 100000));
		else
			con_printf("window %u: a device of type %u\n", w, id);
	}
	con_printf("virtio: %u devices, %s interrupts\n", found, virtio_interrupts() ? "woken by" : "no");
	con_printf("virtio: %s\n", failures ? "something FAILED" : "all is well");
	guest_exit(failures ? GUEST_FAILED : GUEST_OK);
}
