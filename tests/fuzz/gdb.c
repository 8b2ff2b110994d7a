/*
 * Fuzz target: what a gdb client sends, fed to a session on a real machine. The guest counts in a loop, so
 * packets that let it run do run it. Whatever was sent, the guest's code must be back in place afterwards.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "control/gdb_session.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct hv_machine *machine;
static struct hv_chardev *chardev;

static void check(bool fine)
{
	if (!fine)
		__builtin_trap();
}

static void make(void)
{
	static const uint8_t count_up[] = {0x43, 0xe6, 0x80, 0xeb, 0xfb};
	const struct hv_chardev_config none = {.kind = HV_CHARDEV_NONE};
	char image[] = "/tmp/hv-fuzz-XXXXXX";
	const int fd = mkstemp(image);
	struct hv_config config;
	struct hv_error err = {0};

	check(fd >= 0 && write(fd, count_up, sizeof(count_up)) == sizeof(count_up));
	close(fd);
	hv_config_init(&config);
	check(hv_config_set(&config, "image", image, &err) == 0 &&
	      hv_config_set(&config, "boot", "flat", &err) == 0 &&
	      hv_config_set(&config, "mem", "1M", &err) == 0 && hv_config_finish(&config, &err) == 0);
	check(hv_chardev_open(&none, NULL, &chardev, &err) == 0);
	check(hv_machine_create(&config, chardev, NULL, &machine, &err) == 0);
	check(hv_machine_start(machine, true, &err) == 0);
	hv_config_free(&config);
	unlink(image);
}

/* A client may kill the machine, and a guest that it has changed may end by itself. */
static void unmake(void)
{
	static struct hv_end end;

	check(hv_machine_wait(machine, 20000, &end) == 0);
	hv_chardev_close(chardev);
	hv_machine_destroy(machine);
	machine = NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct hv_gdb_session session;
	uint64_t before = 0, after = 0;
	bool wrote = false;

	/* The monitor has a target of its own, and commands that write files. */
	if (memmem(data, size, "qRcmd", 5))
		return 0;
	if (!machine)
		make();
	check(hv_memory_read(hv_machine_memory(machine), 0x1000, &before, 5) == 0);
	hv_gdb_session_init(&session, machine);
	for (size_t i = 0; i < size; i++) {
		hv_gdb_session_byte(&session, data[i]);
		wrote |= data[i] == 'M' || data[i] == 'X' || data[i] == 'G' || data[i] == 'P';
		session.out.length = 0;
	}
	hv_gdb_session_event(&session);
	check(session.target.soft_count <= HV_GDB_SOFT_MAX);
	hv_gdb_session_free(&session);
	check(hv_memory_read(hv_machine_memory(machine), 0x1000, &after, 5) == 0);
	check(wrote || before == after);
	if (hv_machine_pause(machine, NULL) == -ESHUTDOWN) {
		unmake();
	} else if (wrote) {
		hv_machine_end(machine, HV_END_QUIT);
		unmake();
	}
	return 0;
}
