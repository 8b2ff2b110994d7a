/*
 * See fixture.h. An alarm stands behind every wait.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fixture.h"

static char runtime[64];

const char *test_runtime(void)
{
	alarm(60);
	strcpy(runtime, "/tmp/hv-test-XXXXXX");
	cr_assert(mkdtemp(runtime));
	setenv("XDG_RUNTIME_DIR", runtime, 1);
	return runtime;
}

void test_runtime_gone(void)
{
	char path[96];

	snprintf(path, sizeof(path), "%s/hvkit", runtime);
	cr_assert(rmdir(path) == 0 || errno == ENOENT, "something is left in %s", path);
	cr_assert_eq(rmdir(runtime), 0, "something is left in %s", runtime);
	alarm(0);
}

void test_vm_make(struct test_vm *vm, unsigned cpus)
{
	static const uint8_t count_up[] = {0x43, 0xe6, 0x80, 0xeb, 0xfb}; /* inc bx; out 0x80,al; again */
	struct hv_chardev_config none = {.kind = HV_CHARDEV_NONE};
	struct hv_error err = {0};
	char number[8];
	FILE *f;

	memset(vm, 0, sizeof(*vm));
	strcpy(vm->dir, "/tmp/hv-test-XXXXXX");
	cr_assert(mkdtemp(vm->dir));
	snprintf(vm->image, sizeof(vm->image), "%s/image", vm->dir);
	f = fopen(vm->image, "w");
	cr_assert(f);
	cr_assert_eq(fwrite(count_up, 1, sizeof(count_up), f), sizeof(count_up));
	fclose(f);
	hv_config_init(&vm->config);
	snprintf(number, sizeof(number), "%u", cpus);
	cr_assert_eq(hv_config_set(&vm->config, "image", vm->image, &err), 0, "%s", err.text);
	cr_assert_eq(hv_config_set(&vm->config, "boot", "flat", &err), 0, "%s", err.text);
	cr_assert_eq(hv_config_set(&vm->config, "mem", "1M", &err), 0, "%s", err.text);
	cr_assert_eq(hv_config_set(&vm->config, "cpus", number, &err), 0, "%s", err.text);
	cr_assert_eq(hv_config_set(&vm->config, "name", "test", &err), 0, "%s", err.text);
	cr_assert_eq(hv_config_finish(&vm->config, &err), 0, "%s", err.text);
	cr_assert_eq(hv_chardev_open(&none, NULL, &vm->chardev, &err), 0, "%s", err.text);
	cr_assert_eq(hv_machine_create(&vm->config, vm->chardev, NULL, &vm->machine, &err), 0, "%s",
		     err.text);
}

void test_vm_end(struct test_vm *vm)
{
	static struct hv_end end;

	if (hv_machine_state(vm->machine) != HV_STATE_PRELAUNCH) {
		hv_machine_end(vm->machine, HV_END_QUIT);
		cr_assert_eq(hv_machine_wait(vm->machine, 20000, &end), 0);
	}
	hv_chardev_close(vm->chardev);
	hv_machine_destroy(vm->machine);
	hv_config_free(&vm->config);
	unlink(vm->image);
	rmdir(vm->dir);
}
