/*
 * The host's side of a serial line: each kind with a real file, terminal, pipe or socket at its other end.
 */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/io.h"
#include "device/chardev.h"

#define KEPT 65536 /* bytes that the ring keeps */

static char folder[] = "/tmp/hv-chardev-XXXXXX";
static struct hv_error err;
static struct hv_chardev *line;

static void begin(void)
{
	signal(SIGPIPE, SIG_IGN);
	cr_assert_not_null(mkdtemp(folder));
}

static void end(void)
{
	hv_chardev_close(line);
	cr_assert_eq(rmdir(folder), 0, "something was left behind");
}

TestSuite(chardev, .init = begin, .fini = end, .timeout = 60);

/* A guest with room for `room` bytes. */
struct guest {
	pthread_mutex_t lock;
	char got[8192];
	size_t count, room;
};
static struct guest guest = {.lock = PTHREAD_MUTEX_INITIALIZER, .room = SIZE_MAX};

static size_t take(void *ctx, const uint8_t *data, size_t count)
{
	struct guest *g = ctx;

	pthread_mutex_lock(&g->lock);
	count = count < g->room ? count : g->room;
	count = count < sizeof(g->got) - g->count ? count : sizeof(g->got) - g->count;
	memcpy(g->got + g->count, data, count);
	g->count += count;
	g->room -= g->room == SIZE_MAX ? 0 : count;
	pthread_mutex_unlock(&g->lock);
	return count;
}

static size_t taken(void)
{
	size_t n;

	pthread_mutex_lock(&guest.lock);
	n = guest.count;
	pthread_mutex_unlock(&guest.lock);
	return n;
}

/* Waits for the guest to have count bytes; the suite's time limit is the only one. */
static void await(size_t count)
{
	while (taken() < count)
		poll(NULL, 0, 2);
}

static void open_line(const char *text)
{
	struct hv_chardev_config config;

	cr_assert_eq(hv_chardev_parse(&config, "serial", text, &err), 0, "%s", err.text);
	cr_assert_eq(hv_chardev_open(&config, NULL, &line, &err), 0, "%s", err.text);
	hv_chardev_connect(line, take, &guest);
}

static void start(void)
{
	cr_assert_eq(hv_chardev_start(line, &err), 0, "%s", err.text);
}

static void stop(void)
{
	hv_chardev_close(line);
	line = NULL;
}

static const char *in_folder(const char *prefix, const char *name)
{
	static char text[4][160];
	static unsigned turn;
	char *t = text[turn++ % 4];

	snprintf(t, sizeof(text[0]), "%s%s/%s", prefix, folder, name);
	return t;
}

Test(chardev, knows_its_five_kinds_and_no_others)
{
	static const char *const bad[] = {"", "tty", "stdio:", "file", "file:", "unix:", "none "};
	struct hv_chardev_config config;

	for (size_t i = 0; i < HV_ARRAY_SIZE(bad); i++)
		cr_assert_eq(hv_chardev_parse(&config, "serial", bad[i], &err), -EINVAL, "'%s'", bad[i]);
	cr_assert_eq(hv_chardev_parse(&config, "serial", "file:a:b", &err), 0);
	cr_assert_str_eq(config.path, "a:b");
}

Test(chardev, none_swallows_output_and_takes_injected_input)
{
	open_line("none");
	start();
	hv_chardev_write(line, "gone", 4);
	cr_assert_eq(hv_chardev_inject(line, "typed", 5), 5);
	cr_assert_eq(memcmp(guest.got, "typed", 5), 0);
	stop();
}

Test(chardev, a_file_gets_every_byte_in_order)
{
	char all[3000];
	void *data;
	size_t size;

	open_line(in_folder("file:", "out"));
	hv_chardev_write(line, "early ", 6); /* before the start too */
	start();
	for (unsigned i = 0; i < 1000; i++)
		hv_chardev_write(line, "abc", 3);
	stop();
	cr_assert_eq(hv_load_file(in_folder("", "out"), 1 << 20, &data, &size, &err), 0, "%s", err.text);
	cr_assert_eq(size, 6 + sizeof(all));
	for (size_t i = 0; i < sizeof(all); i++)
		all[i] = "abc"[i % 3];
	cr_assert_eq(memcmp((char *)data + 6, all, sizeof(all)), 0);
	hv_unload(data, size);
	unlink(in_folder("", "out"));
}

Test(chardev, an_unwritable_file_is_an_error_with_its_name)
{
	struct hv_chardev_config config;
	struct hv_chardev *none = NULL;

	hv_chardev_parse(&config, "serial", "file:/nonexistent/out", &err);
	cr_assert_eq(hv_chardev_open(&config, NULL, &none, &err), -ENOENT);
	cr_assert_not_null(strstr(err.text, "/nonexistent/out"));
	hv_chardev_parse(&config, "serial", "file:/", &err);
	cr_assert_lt(hv_chardev_open(&config, NULL, &none, &err), 0);
	cr_assert_eq(mkfifo(in_folder("", "fifo"), 0600), 0);
	hv_chardev_parse(&config, "serial", in_folder("file:", "fifo"), &err);
	cr_assert_eq(hv_chardev_open(&config, NULL, &none, &err), -ENXIO);
	unlink(in_folder("", "fifo"));
}

static _Atomic unsigned lines_logged;

static void count_line(void *ctx, enum hv_log_level level, const char *text)
{
	atomic_fetch_add(&lines_logged, 1);
}

Test(chardev, a_full_disk_is_told_once_and_stops_nobody)
{
	const struct hv_log log = {.level = HV_LOG_WARN, .sink = count_line};
	struct hv_chardev_config config;

	hv_chardev_parse(&config, "serial", "file:/dev/full", &err);
	cr_assert_eq(hv_chardev_open(&config, &log, &line, &err), 0);
	start();
	for (unsigned i = 0; i < 1000; i++)
		hv_chardev_write(line, "lost", 4);
	stop();
	cr_assert_eq(atomic_load(&lines_logged), 1);
}

/* --- stdio, with pipes in the places of descriptors 0 and 1 --- */

static int stdio_pipes(int *input)
{
	int in[2], out[2];

	cr_assert_eq(pipe(in), 0);
	cr_assert_eq(pipe(out), 0);
	dup2(in[0], STDIN_FILENO);
	dup2(out[1], STDOUT_FILENO);
	close(in[0]);
	close(out[1]);
	*input = in[1];
	return out[0];
}

Test(chardev, stdio_goes_both_ways_and_the_end_of_input_is_no_end)
{
	int input, output = stdio_pipes(&input);
	char buf[8];

	open_line("stdio");
	start();
	cr_assert_eq(write(input, "hello", 5), 5);
	await(5);
	close(input);
	hv_chardev_write(line, "world", 5);
	cr_assert_eq(hv_read_full(output, buf, 5), 0);
	cr_assert_eq(memcmp(buf, "world", 5), 0);
	cr_assert_eq(fcntl(STDOUT_FILENO, F_GETFL) & O_NONBLOCK, 0, "what we share with others is as it was");
	stop();
}

static void *write_much(void *ctx)
{
	static const char block[4096] = {'x'};

	for (unsigned i = 0; i < 100; i++)
		hv_chardev_write(line, block, sizeof(block));
	atomic_store((_Atomic bool *)ctx, true);
	return NULL;
}

Test(chardev, a_slow_reader_of_stdout_loses_nothing)
{
	int input, output = stdio_pipes(&input);
	_Atomic bool done = false;
	size_t total = 0;
	pthread_t writer;
	char buf[5000];
	ssize_t n;

	open_line("stdio");
	start();
	pthread_create(&writer, NULL, write_much, &done);
	while (total < 100 * 4096 && (n = read(output, buf, sizeof(buf))) > 0)
		total += (size_t)n;
	pthread_join(writer, NULL);
	cr_assert_eq(total, 100 * 4096);
	close(input);
	stop();
}

Test(chardev, stop_frees_a_writer_whose_reader_sleeps)
{
	int input, output = stdio_pipes(&input);
	_Atomic bool done = false;
	pthread_t writer;

	open_line("stdio");
	start();
	pthread_create(&writer, NULL, write_much, &done);
	poll(NULL, 0, 50);
	cr_assert_not(atomic_load(&done), "400 KiB fit into no pipe and ring");
	hv_chardev_stop(line);
	pthread_join(writer, NULL);
	close(output);
	close(input);
	stop();
}

Test(chardev, a_reader_that_leaves_stops_nobody)
{
	int input, output = stdio_pipes(&input);
	_Atomic bool done = false;

	open_line("stdio");
	start();
	close(output);
	write_much(&done);
	close(input);
	stop();
}

Test(chardev, input_waits_for_the_guests_room)
{
	int input, output = stdio_pipes(&input);

	guest.room = 3;
	open_line("stdio");
	start();
	cr_assert_eq(write(input, "abcdef", 6), 6);
	await(3);
	poll(NULL, 0, 20);
	cr_assert_eq(taken(), 3);
	for (unsigned i = 0; i < 3; i++) { /* as a guest that reads its data register */
		pthread_mutex_lock(&guest.lock);
		guest.room++;
		pthread_mutex_unlock(&guest.lock);
		hv_chardev_input_ready(line);
		await(4 + i);
	}
	cr_assert_eq(memcmp(guest.got, "abcdef", 6), 0);
	close(input);
	close(output);
	stop();
}

Test(chardev, an_injection_without_room_gives_up_after_a_second)
{
	guest.room = 2;
	open_line("none");
	start();
	cr_assert_eq(hv_chardev_inject(line, "abcdef", 6), 2);
	stop();
}

static size_t only_upper(void *ctx, const uint8_t *in, size_t count, uint8_t *out)
{
	size_t n = 0;

	for (size_t i = 0; i < count; i++)
		if (in[i] >= 'A' && in[i] <= 'Z')
			out[n++] = in[i];
	*(_Atomic size_t *)ctx += count;
	return n;
}

Test(chardev, a_filter_sees_every_key_even_when_the_guest_takes_none)
{
	int input, output = stdio_pipes(&input);
	_Atomic size_t seen = 0;

	guest.room = 2;
	open_line("stdio");
	hv_chardev_set_filter(line, only_upper, &seen);
	start();
	for (unsigned i = 0; i < 2000; i++)
		cr_assert_eq(write(input, "AbCdEf", 6), 6);
	while (atomic_load(&seen) < 12000)
		poll(NULL, 0, 2);
	cr_assert_eq(hv_chardev_inject(line, "x", 0), 0);
	cr_assert_eq(taken(), 2);
	cr_assert_eq(memcmp(guest.got, "AC", 2), 0);
	close(input);
	close(output);
	stop();
}

/* --- pty --- */

static int open_pty(void)
{
	char text[128];
	int fd;

	hv_chardev_describe(line, text, sizeof(text));
	cr_assert_eq(strncmp(text, "pty /dev/", 9), 0, "%s", text);
	fd = open(text + 4, O_RDWR | O_NOCTTY);
	cr_assert(fd >= 0);
	return fd;
}

Test(chardev, a_pty_goes_both_ways_without_an_echo)
{
	char buf[8];
	int fd;

	open_line("pty");
	start();
	fd = open_pty();
	hv_chardev_write(line, "a\r\n", 3);
	cr_assert_eq(hv_read_full(fd, buf, 3), 0);
	cr_assert_eq(memcmp(buf, "a\r\n", 3), 0);
	cr_assert_eq(write(fd, "in\r", 3), 3);
	await(3);
	cr_assert_eq(memcmp(guest.got, "in\r", 3), 0);
	close(fd);
	stop();
}

Test(chardev, a_pty_that_nobody_reads_drops_and_goes_on)
{
	_Atomic bool done = false;

	open_line("pty");
	start();
	write_much(&done);
	cr_assert(atomic_load(&done));
	stop();
}

/* --- unix --- */

static int client(void)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	snprintf(sun.sun_path, sizeof(sun.sun_path), "%s/sock", folder);
	cr_assert_eq(connect(fd, (struct sockaddr *)&sun, sizeof(sun)), 0);
	return fd;
}

Test(chardev, a_socket_keeps_output_for_the_first_client)
{
	char buf[16];
	int fd;

	open_line(in_folder("unix:", "sock"));
	hv_chardev_write(line, "before ", 7);
	start();
	fd = client();
	cr_assert_eq(hv_read_full(fd, buf, 7), 0);
	hv_chardev_write(line, "after", 5);
	cr_assert_eq(hv_read_full(fd, buf + 7, 5), 0);
	cr_assert_eq(memcmp(buf, "before after", 12), 0);
	cr_assert_eq(write(fd, "in", 2), 2);
	await(2);
	close(fd);
	stop();
}

Test(chardev, a_socket_keeps_the_newest_64_kib)
{
	static char all[KEPT];
	int fd;

	open_line(in_folder("unix:", "sock"));
	start();
	for (unsigned i = 0; i < KEPT / 4 + 1000; i++) {
		char word[5];

		snprintf(word, sizeof(word), "%04u", i % 10000);
		hv_chardev_write(line, word, 4);
	}
	fd = client();
	cr_assert_eq(hv_read_full(fd, all, sizeof(all)), 0);
	cr_assert_eq(memcmp(all, "1000", 4), 0, "%.4s", all);
	cr_assert_eq(memcmp(all + KEPT - 4, "7383", 4), 0, "%.4s", all + KEPT - 4);
	close(fd);
	stop();
}

Test(chardev, the_next_client_is_taken_when_one_leaves)
{
	char buf[4];

	open_line(in_folder("unix:", "sock"));
	start();
	for (unsigned i = 0; i < 5; i++) {
		int fd = client();

		cr_assert_eq(write(fd, "x", 1), 1);
		await(i + 1); /* it is served */
		hv_chardev_write(line, "ok", 2);
		cr_assert_eq(hv_read_full(fd, buf, 2), 0);
		close(fd);
	}
	stop();
}

Test(chardev, a_client_that_only_listens_on_is_kept)
{
	char buf[4];
	int fd;

	open_line(in_folder("unix:", "sock"));
	start();
	fd = client();
	cr_assert_eq(write(fd, "x", 1), 1);
	await(1);
	shutdown(fd, SHUT_WR);
	poll(NULL, 0, 20);
	hv_chardev_write(line, "ok", 2);
	cr_assert_eq(hv_read_full(fd, buf, 2), 0);
	close(fd);
	stop();
}

Test(chardev, a_client_that_reads_nothing_stops_nobody)
{
	_Atomic bool done = false;
	int fd;

	open_line(in_folder("unix:", "sock"));
	start();
	fd = client();
	write_much(&done);
	cr_assert(atomic_load(&done));
	close(fd);
	stop();
}

Test(chardev, a_socket_is_ours_alone_and_goes_with_us)
{
	struct stat st;

	open_line(in_folder("unix:", "sock"));
	cr_assert_eq(stat(in_folder("", "sock"), &st), 0);
	cr_assert_eq(st.st_mode & 0777, 0600);
	stop();
	cr_assert_eq(stat(in_folder("", "sock"), &st), -1);
}

Test(chardev, a_living_socket_is_left_alone_a_dead_one_replaced)
{
	struct hv_chardev_config config;
	struct hv_chardev *second = NULL;
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	int dead = socket(AF_UNIX, SOCK_STREAM, 0);

	snprintf(sun.sun_path, sizeof(sun.sun_path), "%s/sock", folder);
	cr_assert_eq(bind(dead, (struct sockaddr *)&sun, sizeof(sun)), 0);
	close(dead);
	open_line(in_folder("unix:", "sock"));
	hv_chardev_parse(&config, "serial", in_folder("unix:", "sock"), &err);
	cr_assert_eq(hv_chardev_open(&config, NULL, &second, &err), -EADDRINUSE);
	close(client());
	stop();
	cr_assert_eq(close(open(in_folder("", "sock"), O_CREAT | O_WRONLY, 0600)), 0);
	cr_assert_eq(hv_chardev_open(&config, NULL, &second, &err), -EADDRINUSE, "a file is never removed");
	unlink(in_folder("", "sock"));
}

Test(chardev, a_path_too_long_for_a_socket_is_wrong_usage)
{
	struct hv_chardev_config config = {.kind = HV_CHARDEV_UNIX};
	struct hv_chardev *none = NULL;

	memset(config.path, 'a', 200);
	cr_assert_eq(hv_chardev_open(&config, NULL, &none, &err), -EINVAL);
	cr_assert_eq(err.status, HV_EXIT_USAGE);
}
