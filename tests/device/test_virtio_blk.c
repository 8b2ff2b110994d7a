/*
 * The block device over images in a temporary folder: what each request does to the image, what a hostile
 * driver gets back, locks, and formats.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "device/virtio/blk.h"
#include "disk/disk.h"
#include "drive_virtio.h"

#define SECTORS 2048u /* of a disk: 1 MiB */
#define HEADER  0x40000u
#define STATUS  0x40100u
#define DATA    0x50000u

enum { IN = 0, OUT = 1, FLUSH = 4, GET_ID = 8, DISCARD = 11, WRITE_ZEROES = 13 };
enum { OK, IOERR, UNSUPP, NONE = 0xee };

#define F_FLUSH (1ull << 9)
#define MODERN  (HV_VIRTIO_F_VERSION_1 | F_FLUSH)

static char folder[64], path[96];
static bool no_ring;
static struct hv_memory mem;
static struct hv_device *dev;
static struct ring r;
static struct irq_log irq;
static struct log_lines lines;
static struct hv_log hlog;

static int open_image(const char *format, bool readonly, struct hv_blk_image **image, struct hv_error *err)
{
	struct hv_blk_options options = {.format = format, .readonly = readonly, .no_ring = no_ring};

	return hv_blk_open(path, &options, image, err);
}

static void make_image(const char *format)
{
	struct hv_disk_create create = {.format = format, .size = SECTORS * 512u};
	struct hv_disk *d;
	struct hv_error err;

	if (!strcmp(format, "vmdk"))
		create.subformat = "streamOptimized"; /* compressed: to be read only */
	cr_assert_eq(hv_disk_create(path, &create, &d, &err), 0, "%s", err.text);
	cr_assert_eq(hv_disk_commit(d, &err), 0, "%s", err.text);
	hv_disk_close(d);
}

static struct hv_device *create(struct hv_blk_image *disk)
{
	struct hv_virtio_host host = {
		.window = 1, .mem = &mem, .irq = {.set = irq_log_set, .ctx = &irq}, .log = &hlog};
	struct hv_device *made;
	struct hv_error err;

	cr_assert_eq(hv_virtio_blk_create(&host, disk, "serial-1234", 1, &made, &err), 0, "%s", err.text);
	return made;
}

static void start_anew(uint64_t features)
{
	set_idx(&r, 0);
	ring_init(&r, &mem, 0, 16);
	memset(guest_at(&r, r.used, 0x100), 0, 0x100);
	negotiate(dev, features);
	set_up_queue(dev, &r, 0);
	driver_ok(dev);
}

static void plug_in(bool readonly)
{
	struct hv_blk_image *disk;
	struct hv_error err;

	cr_assert_eq(open_image(NULL, readonly, &disk, &err), 0, "%s", err.text);
	dev = create(disk);
	start_anew(MODERN);
	cr_assert_eq(reg(dev, MMIO_STATUS), 0x0f);
}

static void bare_set_up(void)
{
	snprintf(folder, sizeof(folder), "/tmp/hv-blk-XXXXXX");
	cr_assert(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/disk.img", folder);
	hlog = (struct hv_log){.level = HV_LOG_WARN, .sink = keep_line, .ctx = &lines};
	lines.warnings = 0;
	hv_memory_init(&mem, NULL);
	cr_assert_eq(hv_memory_add(&mem, 0, RING_MEMORY, false, NULL), 0);
	ring_init(&r, &mem, 0, 16);
	dev = NULL;
}

static void set_up(void)
{
	bare_set_up();
	make_image("raw");
	plug_in(false);
}

static void tear_down(void)
{
	hv_device_destroy(dev);
	hv_memory_free(&mem);
	unlink(path);
	rmdir(folder);
}

static void put_header(uint32_t type, uint64_t sector)
{
	uint8_t *h = guest_at(&r, HEADER, 16);

	hv_put_le32(h, type);
	hv_put_le32(h + 4, 0);
	hv_put_le64(h + 8, sector);
}

/* One request of three buffers; length 0 leaves the data out. The status that came back. */
static uint8_t request(uint32_t type, uint64_t sector, uint32_t length, bool device_writes)
{
	uint16_t before = r.seen;
	uint32_t written;

	put_header(type, sector);
	*guest_at(&r, STATUS, 1) = NONE;
	describe(&r, 0, HEADER, 16, NEXT, length ? 1 : 2);
	describe(&r, 1, DATA, length, NEXT | (device_writes ? WRITE : 0), 2);
	describe(&r, 2, STATUS, 1, WRITE, 0);
	make_available(&r, 0);
	set_reg(dev, MMIO_NOTIFY, 0);
	cr_assert(wait_used(&r, (uint16_t)(before + 1)), "%s", lines.last);
	cr_assert_eq(take_used(&r, &written), 0);
	cr_assert_eq(written, device_writes ? length + 1 : 1);
	return *guest_at(&r, STATUS, 1);
}

static void image_bytes(off_t at, void *buf, size_t n)
{
	int fd = open(path, O_RDONLY);

	cr_assert(fd >= 0);
	cr_assert_eq(pread(fd, buf, n, at), (ssize_t)n);
	close(fd);
}

TestSuite(virtio_blk, .init = set_up, .fini = tear_down, .timeout = 60);
TestSuite(virtio_blk_open, .init = bare_set_up, .fini = tear_down, .timeout = 60);

Test(virtio_blk, it_is_a_disk_with_capacity_block_size_and_limits)
{
	cr_assert_eq(reg(dev, MMIO_DEVICE_ID), 2);
	cr_assert_eq(drive_read(dev, MMIO_CONFIG, 4), SECTORS);
	cr_assert_eq(drive_read(dev, MMIO_CONFIG + 4, 4), 0);
	cr_assert_eq(drive_read(dev, MMIO_CONFIG + 12, 4), HV_VIRTQ_BUFFERS_MAX - 2);
	cr_assert_eq(drive_read(dev, MMIO_CONFIG + 20, 4), 512);
	cr_assert_eq(offered_features(dev) & 0xffffff,
		     1u << 2 | 1u << 6 | 1u << 9 | 1u << 11 | 1u << 13 | 1u << 14);
}

Test(virtio_blk, what_is_written_is_in_the_image_and_is_read_back)
{
	char bytes[1024];

	memset(guest_at(&r, DATA, 1024), 'w', 1024);
	cr_assert_eq(request(OUT, 3, 1024, false), OK);
	cr_assert_eq(request(FLUSH, 0, 0, false), OK);
	image_bytes(3 * 512, bytes, sizeof(bytes));
	cr_assert_eq(bytes[0], 'w');
	cr_assert_eq(bytes[1023], 'w');
	memset(guest_at(&r, DATA, 4096), 0xff, 4096);
	cr_assert_eq(request(IN, 2, 2048, true), OK);
	cr_assert_eq(*guest_at(&r, DATA, 1), 0);
	cr_assert_eq(*guest_at(&r, DATA + 512, 1), 'w');
	cr_assert_eq(*guest_at(&r, DATA + 1535, 1), 'w');
	cr_assert_eq(*guest_at(&r, DATA + 1536, 1), 0);
	cr_assert_eq(*guest_at(&r, DATA + 2048, 1), 0xff, "and not a byte more");
	cr_assert_geq(irq.rises, 1);
}

Test(virtio_blk, how_a_request_is_cut_into_buffers_means_nothing)
{
	char bytes[512];

	/* A header of 1 + 15 + 100 of the data, the rest of the data. */
	put_header(OUT, 7);
	memset(guest_at(&r, HEADER + 16, 100), 'a', 100);
	memset(guest_at(&r, DATA, 412), 'b', 412);
	describe(&r, 0, HEADER, 1, NEXT, 1);
	describe(&r, 1, HEADER + 1, 115, NEXT, 2);
	describe(&r, 2, DATA, 412, NEXT, 3);
	describe(&r, 3, STATUS, 1, WRITE, 0);
	make_available(&r, 0);
	set_reg(dev, MMIO_NOTIFY, 0);
	cr_assert(wait_used(&r, 1));
	take_used(&r, NULL);
	cr_assert_eq(*guest_at(&r, STATUS, 1), OK);
	image_bytes(7 * 512, bytes, 512);
	cr_assert_eq(bytes[99], 'a');
	cr_assert_eq(bytes[100], 'b');
	cr_assert_eq(bytes[511], 'b');
	/* Data of a read and the status in one buffer, and one that starts in the middle. */
	put_header(IN, 7);
	describe(&r, 0, HEADER, 16, NEXT, 1);
	describe(&r, 1, DATA + 0x1000, 300, NEXT | WRITE, 2);
	describe(&r, 2, DATA + 0x2000, 213, WRITE, 0);
	make_available(&r, 0);
	set_reg(dev, MMIO_NOTIFY, 0);
	cr_assert(wait_used(&r, 2));
	cr_assert_arr_eq(guest_at(&r, DATA + 0x1000, 300), bytes, 300);
	cr_assert_arr_eq(guest_at(&r, DATA + 0x2000, 212), bytes + 300, 212);
	cr_assert_eq(*guest_at(&r, DATA + 0x2000 + 212, 1), OK);
}

Test(virtio_blk, its_serial_number_has_20_bytes)
{
	cr_assert_eq(request(GET_ID, 0, 20, true), OK);
	cr_assert_arr_eq(guest_at(&r, DATA, 20), "serial-1234\0\0\0\0\0\0\0\0", 20);
	cr_assert_eq(request(GET_ID, 0, 19, true), IOERR);
}

static void put_range(unsigned i, uint64_t sector, uint32_t sectors, uint32_t flags)
{
	uint8_t *p = guest_at(&r, DATA + 16u * i, 16);

	hv_put_le64(p, sector);
	hv_put_le32(p + 8, sectors);
	hv_put_le32(p + 12, flags);
}

Test(virtio_blk, discarded_and_zeroed_ranges_read_as_zeros)
{
	char bytes[8 * 512];

	memset(guest_at(&r, DATA, 8 * 512), 'x', 8 * 512);
	cr_assert_eq(request(OUT, 0, 8 * 512, false), OK);
	put_range(0, 1, 1, 0);
	put_range(1, 4, 2, 0);
	cr_assert_eq(request(DISCARD, 0, 32, false), OK);
	put_range(0, 7, 1, 1);
	cr_assert_eq(request(WRITE_ZEROES, 0, 16, false), OK);
	image_bytes(0, bytes, sizeof(bytes));
	for (unsigned i = 0; i < 8; i++)
		cr_assert_eq(bytes[512 * i + 511], i == 1 || i == 4 || i == 5 || i == 7 ? 0 : 'x',
			     "sector %u", i);
}

Test(virtio_blk, ranges_are_checked)
{
	put_range(0, SECTORS, 1, 0);
	cr_assert_eq(request(DISCARD, 0, 16, false), IOERR);
	put_range(0, UINT64_MAX, 2, 0);
	cr_assert_eq(request(DISCARD, 0, 16, false), IOERR);
	put_range(0, 1ull << 55, 1, 0);
	cr_assert_eq(request(WRITE_ZEROES, 0, 16, false), IOERR);
	put_range(0, 0, UINT32_MAX, 0);
	cr_assert_eq(request(WRITE_ZEROES, 0, 16, false), IOERR);
	put_range(0, 0, 1, 1);
	cr_assert_eq(request(DISCARD, 0, 16, false), UNSUPP, "unmap is a flag of zeroes");
	put_range(0, 0, 1, 2);
	cr_assert_eq(request(WRITE_ZEROES, 0, 16, false), UNSUPP);
	cr_assert_eq(request(DISCARD, 0, 0, false), IOERR);
	cr_assert_eq(request(DISCARD, 0, 15, false), IOERR);
	cr_assert_eq(request(DISCARD, 0, 17 * 16, false), IOERR);
}

Test(virtio_blk, sectors_beyond_the_capacity_and_odd_lengths_are_io_errors)
{
	static const struct {
		uint64_t sector;
		uint32_t length;
	} bad[] = {
		{SECTORS, 512},    {SECTORS - 1, 1024},           {UINT64_MAX, 512},
		{1ull << 55, 512}, {(1ull << 55) + 1, 512},       {0, 511},
		{0, 513},          {0x8000000000000000ull, 1024},
	};

	for (unsigned i = 0; i < HV_ARRAY_SIZE(bad); i++) {
		cr_assert_eq(request(IN, bad[i].sector, bad[i].length, true), IOERR, "read %u", i);
		cr_assert_eq(request(OUT, bad[i].sector, bad[i].length, false), IOERR, "write %u", i);
	}
	cr_assert_eq(request(IN, SECTORS - 1, 512, true), OK, "the last sector is there");
	cr_assert_eq(request(IN, SECTORS, 0, false), OK, "nothing can be read everywhere");
	cr_assert_eq(lines.warnings, 0, "the guest's own mistakes aren't the host's");
}

Test(virtio_blk, other_requests_are_not_supported)
{
	static const uint32_t types[] = {2, 3, 5, 7, 9, 10, 12, 14, 0x80000000, UINT32_MAX};

	for (unsigned i = 0; i < HV_ARRAY_SIZE(types); i++)
		cr_assert_eq(request(types[i], 0, 512, true), UNSUPP, "type %u", types[i]);
}

Test(virtio_blk, a_request_without_header_or_status_needs_a_reset)
{
	describe(&r, 0, HEADER, 15, NEXT, 1);
	describe(&r, 1, STATUS, 1, WRITE, 0);
	make_available(&r, 0);
	set_reg(dev, MMIO_NOTIFY, 0);
	cr_assert(wait_status(dev, HV_VIRTIO_NEEDS_RESET));
	cr_assert(strstr(lines.last, "without a header"), "%s", lines.last);
	set_idx(&r, 0);
	negotiate(dev, MODERN);
	set_up_queue(dev, &r, 0);
	driver_ok(dev);
	describe(&r, 0, HEADER, 16, 0, 0);
	make_available(&r, 0);
	set_reg(dev, MMIO_NOTIFY, 0);
	cr_assert(wait_status(dev, HV_VIRTIO_NEEDS_RESET));
}

Test(virtio_blk, a_file_that_is_cut_while_it_runs_is_an_io_error_and_told)
{
	cr_assert_eq(truncate(path, 4096), 0);
	cr_assert_eq(request(IN, 0, 4096, true), OK);
	cr_assert_eq(request(IN, 8, 512, true), IOERR);
	cr_assert_eq(lines.warnings, 1);
	cr_assert(strstr(lines.last, "virtio-blk1: a read at byte 4096"), "%s", lines.last);
	for (unsigned i = 0; i < 20; i++)
		cr_assert_eq(request(IN, 8, 512, true), IOERR);
	cr_assert_leq(lines.warnings, 8);
	cr_assert_eq(request(IN, 0, 512, true), OK, "it goes on");
}

Test(virtio_blk, it_can_be_reset_and_saved_with_requests_under_way)
{
	for (unsigned i = 0; i < 200; i++) {
		struct hv_encoder e;

		set_idx(&r, 0);
		put_header(OUT, i);
		describe(&r, 0, HEADER, 16, NEXT, 1);
		describe(&r, 1, DATA, 4096, NEXT, 2);
		describe(&r, 2, STATUS, 1, WRITE, 0);
		for (unsigned k = 0; k < 16; k++)
			make_available(&r, 0);
		set_reg(dev, MMIO_NOTIFY, 0);
		drive_save(dev, &e);
		hv_enc_free(&e);
		set_reg(dev, MMIO_STATUS, 0);
		set_idx(&r, 0);
		negotiate(dev, MODERN);
		set_up_queue(dev, &r, 0);
		driver_ok(dev);
	}
}

Test(virtio_blk, its_state_moves_to_a_device_with_the_same_disk)
{
	struct hv_virtio_host host = {.window = 1, .mem = &mem, .irq = {.set = irq_log_set, .ctx = &irq}};
	struct hv_device *other;
	struct hv_blk_image *disk;

	cr_assert_eq(request(IN, 0, 512, true), OK);
	struct hv_encoder e;
	drive_save(dev, &e);
	hv_device_destroy(dev);
	cr_assert_eq(open_image("raw", false, &disk, NULL), 0);
	cr_assert_eq(hv_virtio_blk_create(&host, disk, NULL, 1, &other, NULL), 0);
	dev = other;
	cr_assert_eq(drive_load(dev, e.data, e.length, 2, NULL), 0);
	cr_assert_eq(request(IN, 0, 512, true), OK, "the queue goes on where it was");
	hv_enc_free(&e);
}

/* --- many at a time, with and without a ring --- */

/* Five writes of a page each, of 'a' to 'e', that are there before the first is asked for. */
static void write_five(void)
{
	for (unsigned i = 0; i < 5; i++) { /* a queue of 16 has room for five requests of three buffers */
		uint8_t *h = guest_at(&r, HEADER + 16 * i, 16);

		hv_put_le32(h, OUT);
		hv_put_le64(h + 8, 8 * i);
		memset(guest_at(&r, DATA + 4096 * i, 4096), (int)('a' + i), 4096);
		describe(&r, 3 * i, HEADER + 16 * i, 16, NEXT, 3 * i + 1);
		describe(&r, 3 * i + 1, DATA + 4096 * i, 4096, NEXT, 3 * i + 2);
		describe(&r, 3 * i + 2, STATUS + i, 1, WRITE, 0);
		*guest_at(&r, STATUS + i, 1) = NONE;
		make_available(&r, 3 * i);
	}
	set_reg(dev, MMIO_NOTIFY, 0);
}

static void check_five(uint16_t before)
{
	uint8_t bytes[4096];

	cr_assert(wait_used(&r, (uint16_t)(before + 5)), "%s", lines.last);
	for (unsigned i = 0; i < 5; i++) {
		take_used(&r, NULL);
		cr_assert_eq(*guest_at(&r, STATUS + i, 1), OK);
		image_bytes(4096 * (off_t)i, bytes, sizeof(bytes));
		cr_assert_eq(bytes[0], 'a' + i);
		cr_assert_eq(bytes[4095], 'a' + i);
	}
}

Test(virtio_blk_open, many_requests_are_under_way)
{
	for (unsigned i = 0; i < 2; i++) {
		no_ring = i;
		make_image("raw");
		plug_in(false);
		write_five();
		check_five(0);
		cr_assert_eq(request(FLUSH, 0, 0, false), OK);
		memset(guest_at(&r, DATA, 0x8000), 0xff, 0x8000);
		cr_assert_eq(request(IN, 0, 0x5000, true), OK);
		for (unsigned k = 0; k < 5; k++)
			cr_assert_eq(*guest_at(&r, DATA + 4096 * k, 1), 'a' + k);
		hv_device_destroy(dev);
		dev = NULL;
	}
}

Test(virtio_blk, a_driver_that_cannot_flush_or_will_not_finds_its_writes_stable)
{
	start_anew(HV_VIRTIO_F_VERSION_1);
	cr_assert_eq(request(OUT, 0, 512, false), OK);
	cr_assert_eq(drive_read(dev, MMIO_CONFIG + 32, 1), 1, "but the field is not its own");
	drive_write(dev, MMIO_CONFIG + 32, 0, 1);
	cr_assert_eq(drive_read(dev, MMIO_CONFIG + 32, 1), 1);

	start_anew(MODERN | 1u << 11);
	drive_write(dev, MMIO_CONFIG + 32, 0, 1);
	cr_assert_eq(drive_read(dev, MMIO_CONFIG + 32, 1), 0);
	cr_assert_eq(request(OUT, 0, 4096, false), OK);
	set_reg(dev, MMIO_STATUS, 0);
	cr_assert_eq(drive_read(dev, MMIO_CONFIG + 32, 1), 1, "a reset brings it back");
}

Test(virtio_blk_open, a_file_that_was_cut_is_an_io_error_and_no_more)
{
	for (unsigned i = 0; i < 2; i++) {
		no_ring = i;
		make_image("raw");
		plug_in(false);
		cr_assert_eq(truncate(path, 4096), 0);
		cr_assert_eq(request(IN, 0, 4096, true), OK);
		cr_assert_eq(request(IN, 4, 8192, true), IOERR);
		cr_assert_eq(request(IN, 100, 512, true), IOERR);
		cr_assert_eq(request(IN, 0, 512, true), OK, "the others are as before");
		hv_device_destroy(dev);
		dev = NULL;
	}
}

/* --- no room on the host --- */

static _Atomic unsigned stops;

static void on_full(void *ctx, const struct hv_virtio_full *what)
{
	cr_assert_eq(what->error, EFBIG);
	cr_assert_str_eq(what->device, "virtio-blk1");
	hv_device_hold(ctx, true); /* what stopping a machine does, here on the device's own thread */
	stops++;
}

static void limit_files(rlim_t size)
{
	struct rlimit limit;

	getrlimit(RLIMIT_FSIZE, &limit);
	limit.rlim_cur = size;
	cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static bool wait_stops(unsigned count)
{
	for (unsigned i = 0; i < 10000 && stops < count; i++)
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	return stops == count;
}

static void plug_in_full(void)
{
	struct hv_virtio *v;

	signal(SIGXFSZ, SIG_IGN);
	stops = 0;
	make_image("raw");
	plug_in(false);
	v = hv_container_of(dev, struct hv_virtio, dev);
	v->host.full = on_full;
	v->host.full_ctx = dev;
}

Test(virtio_blk_open, what_the_host_has_no_room_for_is_kept_and_done_again)
{
	for (unsigned i = 0; i < 2; i++) {
		no_ring = i;
		plug_in_full();
		limit_files(3 * 4096);
		write_five(); /* two of them lie behind the limit */
		cr_assert(wait_stops(1));
		cr_assert_eq(used_idx(&r), i ? 3 : used_idx(&r));
		hv_device_hold(dev, false); /* no room yet: it stops once more */
		cr_assert(wait_stops(2));
		limit_files(RLIM_INFINITY);
		hv_device_hold(dev, false);
		check_five(0);
		cr_assert_eq(request(IN, 0, 512, true), OK);
		hv_device_destroy(dev);
		dev = NULL;
	}
}

static struct hv_encoder saved_while_full(uint64_t features)
{
	struct hv_encoder e;

	plug_in_full();
	start_anew(MODERN | features);
	limit_files(3 * 4096);
	write_five();
	cr_assert(wait_stops(1));
	drive_save(dev, &e);
	limit_files(RLIM_INFINITY);
	hv_device_destroy(dev); /* and is never let go on */
	return e;
}

static void other_device(void)
{
	struct hv_blk_image *image;

	cr_assert_eq(open_image("raw", false, &image, NULL), 0);
	dev = create(image);
}

Test(virtio_blk_open, what_is_kept_is_saved_and_done_by_the_device_that_loads_it)
{
	static const uint64_t features[] = {0, HV_VIRTIO_F_IN_ORDER};

	for (unsigned i = 0; i < 2; i++) {
		struct hv_encoder e = saved_while_full(features[i]);

		other_device();
		cr_assert_eq(drive_load(dev, e.data, e.length, 2, NULL), 0);
		check_five(0);
		cr_assert_eq(request(IN, 0, 512, true), OK);
		hv_device_destroy(dev);
		dev = NULL;
		hv_enc_free(&e);
		r.seen = 0;
	}
}

Test(virtio_blk_open, a_reset_drops_what_is_kept)
{
	plug_in_full();
	limit_files(4096);
	write_five();
	cr_assert(wait_stops(1));
	set_reg(dev, MMIO_STATUS, 0);
	hv_device_hold(dev, false);
	start_anew(MODERN);
	cr_assert_eq(request(OUT, 0, 512, false), OK);
	cr_assert_eq(stops, 1);
	limit_files(RLIM_INFINITY);
}

Test(virtio_blk_open, saved_state_that_keeps_what_no_driver_asked_for_is_refused)
{
	struct hv_encoder e = saved_while_full(0);
	unsigned refused = 0;

	other_device();
	for (size_t i = 0; i < e.length; i++) {
		uint8_t was = e.data[i];

		for (unsigned k = 0; k < 3; k++) {
			e.data[i] = (uint8_t)(was ^ (k == 0 ? 1 : k == 1 ? 0x80 : 0xff));
			refused += drive_load(dev, e.data, e.length, 2, NULL) != 0;
			/* What was taken has to be harmless. */
			hv_device_hold(dev, true), hv_device_hold(dev, false);
		}
		e.data[i] = was;
	}
	cr_assert_gt(refused, 50);
	for (size_t n = 0; n < e.length; n++)
		cr_assert_neq(drive_load(dev, e.data, n, 2, NULL), 0);
	hv_enc_free(&e);
}

/* --- another size --- */

Test(virtio_blk, it_grows_and_shrinks_and_tells_its_driver)
{
	struct hv_error err;
	uint32_t before = reg(dev, MMIO_GENERATION);

	cr_assert_eq(request(IN, SECTORS, 512, true), IOERR);
	cr_assert_eq(hv_virtio_blk_resize(dev, 2 * SECTORS * 512ull, &err), 0, "%s", err.text);
	cr_assert_neq(reg(dev, MMIO_GENERATION), before);
	cr_assert(reg(dev, MMIO_INTERRUPT_STATUS) & 2);
	cr_assert_eq(drive_read(dev, MMIO_CONFIG, 4), 2 * SECTORS);
	cr_assert_eq(request(OUT, 2 * SECTORS - 1, 512, false), OK);
	cr_assert_eq(hv_virtio_blk_resize(dev, SECTORS * 512ull, &err), 0, "%s", err.text);
	cr_assert_eq(request(IN, SECTORS, 512, true), IOERR);
	cr_assert_neq(hv_virtio_blk_resize(dev, 1000, &err), 0);
	cr_assert_neq(hv_virtio_blk_resize(dev, 0, &err), 0);
	cr_assert_eq(drive_read(dev, MMIO_CONFIG, 4), SECTORS);
}

Test(virtio_blk_open, a_disk_with_tables_or_of_a_reader_keeps_its_size)
{
	struct hv_error err;

	make_image("qcow2");
	plug_in(false);
	cr_assert_eq(hv_virtio_blk_resize(dev, 2 << 20, &err), -ENOTSUP);
	cr_assert(strstr(err.text, "qcow2 images can't be resized"), "%s", err.text);
	hv_device_destroy(dev);
	make_image("raw");
	plug_in(true);
	cr_assert_eq(hv_virtio_blk_resize(dev, 2 << 20, &err), -EROFS);
}

/* --- more queues --- */

Test(virtio_blk_open, every_queue_serves_requests)
{
	struct hv_virtio_host host = {
		.window = 1, .mem = &mem, .irq = {.set = irq_log_set, .ctx = &irq}, .log = &hlog};
	struct hv_blk_image *image;
	struct ring rings[4];

	make_image("raw");
	cr_assert_eq(open_image("raw", false, &image, NULL), 0);
	cr_assert_eq(hv_virtio_blk_create(&host, image, NULL, 9, &dev, NULL), 0);
	cr_assert_eq(drive_read(dev, MMIO_CONFIG + 34, 2), 4);
	cr_assert(offered_features(dev) & 1u << 12);
	negotiate(dev, MODERN | 1u << 12);
	for (unsigned i = 0; i < 4; i++) {
		ring_init(&rings[i], &mem, i, 16);
		set_up_queue(dev, &rings[i], i);
	}
	driver_ok(dev);
	for (unsigned i = 0; i < 4; i++) {
		put_header(GET_ID, 0);
		*guest_at(&r, STATUS, 1) = NONE;
		describe(&rings[i], 0, HEADER, 16, NEXT, 1);
		describe(&rings[i], 1, DATA, 20, NEXT | WRITE, 2);
		describe(&rings[i], 2, STATUS, 1, WRITE, 0);
		make_available(&rings[i], 0);
		set_reg(dev, MMIO_NOTIFY, i);
		cr_assert(wait_used(&rings[i], 1));
		cr_assert_eq(*guest_at(&r, STATUS, 1), OK);
	}
}

/* --- past the host's cache --- */

Test(virtio_blk_open, direct_io_takes_buffers_that_are_not_aligned)
{
	struct hv_virtio_host host = {
		.window = 1, .mem = &mem, .irq = {.set = irq_log_set, .ctx = &irq}, .log = &hlog};
	struct hv_blk_options options = {.format = "raw", .direct = true};
	struct hv_blk_image *image;
	struct hv_error err;
	uint8_t bytes[4096];

	make_image("raw");
	if (hv_blk_open(path, &options, &image, &err) == -EINVAL)
		cr_skip_test("no direct I/O here: %s", err.text);
	cr_assert_eq(hv_virtio_blk_create(&host, image, NULL, 1, &dev, NULL), 0);
	negotiate(dev, MODERN);
	set_up_queue(dev, &r, 0);
	driver_ok(dev);
	for (unsigned skew = 0; skew < 3;
	     skew++) { /* DATA is aligned, DATA + 1 is not, sector 1 of 4096 is not */
		put_header(OUT, skew == 2);
		memset(guest_at(&r, DATA, 0x4000), (int)('p' + skew), 0x4000);
		describe(&r, 0, HEADER, 16, NEXT, 1);
		describe(&r, 1, DATA + (skew == 1), 4096, NEXT, 2);
		describe(&r, 2, STATUS, 1, WRITE, 0);
		make_available(&r, 0);
		set_reg(dev, MMIO_NOTIFY, 0);
		cr_assert(wait_used(&r, (uint16_t)(2 * skew + 1)));
		take_used(&r, NULL);
		cr_assert_eq(*guest_at(&r, STATUS, 1), OK, "%s", lines.last);
		image_bytes(skew == 2 ? 512 : 0, bytes, 4096);
		cr_assert_eq(bytes[4095], 'p' + skew);
		put_header(IN, skew == 2);
		describe(&r, 0, HEADER, 16, NEXT, 1);
		describe(&r, 1, DATA + 0x8000 + (skew == 1), 4096, NEXT | WRITE, 2);
		make_available(&r, 0);
		set_reg(dev, MMIO_NOTIFY, 0);
		cr_assert(wait_used(&r, (uint16_t)(2 * skew + 2)));
		take_used(&r, NULL);
		cr_assert_arr_eq(guest_at(&r, DATA + 0x8000 + (skew == 1), 4096), bytes, 4096);
	}
}

/* --- opening --- */

Test(virtio_blk_open, a_read_only_disk_takes_no_writes)
{
	make_image("raw");
	cr_assert_eq(chmod(path, 0444), 0);
	plug_in(true);
	cr_assert(offered_features(dev) & 1u << 5);
	cr_assert_not(offered_features(dev) & (1u << 13 | 1u << 14));
	cr_assert_eq(request(IN, 0, 512, true), OK);
	cr_assert_eq(request(OUT, 0, 512, false), IOERR);
	put_range(0, 0, 1, 0);
	cr_assert_eq(request(DISCARD, 0, 16, false), IOERR);
	cr_assert_eq(request(WRITE_ZEROES, 0, 16, false), IOERR);
	cr_assert_eq(request(FLUSH, 0, 0, false), OK);
}

Test(virtio_blk_open, formats_with_tables_are_written_and_read_alike)
{
	static const char *const formats[] = {"qcow2", "vhd", "vhdx"};

	for (unsigned i = 0; i < HV_ARRAY_SIZE(formats); i++) {
		uint8_t bytes[1024];
		struct hv_disk_check check = {0};
		struct hv_disk_io *io = hv_disk_io_new();
		struct hv_disk *d;
		struct hv_error err;

		make_image(formats[i]);
		plug_in(false);
		memset(guest_at(&r, DATA, 1024), (int)('a' + i), 1024);
		cr_assert_eq(request(OUT, 100, 1024, false), OK, "%s: %s", formats[i], lines.last);
		put_range(0, 101, 1, 0);
		cr_assert_eq(request(WRITE_ZEROES, 0, 16, false), OK, "%s: %s", formats[i], lines.last);
		cr_assert_eq(request(FLUSH, 0, 0, false), OK);
		cr_assert_eq(request(IN, 100, 512, true), OK);
		cr_assert_eq(*guest_at(&r, DATA + 511, 1), 'a' + i);
		hv_device_destroy(dev);
		dev = NULL;
		cr_assert_eq(hv_disk_open(path, NULL, &d, &err), 0, "%s", err.text);
		cr_assert_eq(hv_disk_read(d, io, bytes, 1024, 100 * 512, &err), 0, "%s", err.text);
		cr_assert_eq(bytes[511], 'a' + i);
		cr_assert_eq(bytes[512], 0);
		cr_assert_eq(hv_disk_check(d, &check, &err), 0, "%s", err.text);
		cr_assert_eq(check.errors, 0, "%s", formats[i]);
		hv_disk_close(d);
		hv_disk_io_free(io);
		unlink(path);
	}
}

static void refused(const char *format, bool readonly, int code, const char *words)
{
	struct hv_blk_image *disk = NULL;
	struct hv_error err = {0};
	int rc = open_image(format, readonly, &disk, &err);

	cr_assert_eq(rc, code, "%d: %s", rc, err.text);
	cr_assert_null(disk);
	cr_assert(strstr(err.text, words), "%s", err.text);
}

Test(virtio_blk_open, what_is_no_disk_is_refused_with_a_sentence)
{
	refused(NULL, true, -ENOENT, path);
	make_image("raw");
	cr_assert_eq(truncate(path, 1000), 0);
	refused(NULL, false, -EINVAL, "no whole number of 512-byte sectors");
	refused("nonsense", true, -EINVAL, "nonsense");
	unlink(path);
	make_image("qcow2");
	cr_assert_eq(truncate(path, 100), 0);
	refused("qcow2", true, -EBADMSG, path);
	unlink(path);
	make_image("vmdk");
	refused(NULL, false, -ENOTSUP, "can't be written in place");
}

Test(virtio_blk_open, two_cannot_have_one_disk_for_writing)
{
	struct hv_blk_image *first, *second;

	make_image("raw");
	cr_assert_eq(open_image(NULL, false, &first, NULL), 0);
	refused(NULL, false, -EBUSY, "another process has it open");
	refused(NULL, true, -EBUSY, "open for writing");
	hv_blk_close(first);
	cr_assert_eq(open_image(NULL, true, &first, NULL), 0);
	cr_assert_eq(open_image(NULL, true, &second, NULL), 0, "readers don't mind each other");
	refused(NULL, false, -EBUSY, "another process has it open");
	hv_blk_close(first);
	hv_blk_close(second);
	cr_assert_eq(open_image(NULL, false, &first, NULL), 0);
	hv_blk_close(first);
}
