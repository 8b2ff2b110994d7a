/*
 * What the tests of this room share: a runtime directory of their own and a real machine that counts in a
 * loop.
 */
#ifndef TEST_CONTROL_FIXTURE_H
#define TEST_CONTROL_FIXTURE_H

#include "control/qmp.h"
#include "machine/machine.h"

struct test_vm {
	char dir[64], image[80];
	struct hv_config config;
	struct hv_chardev *chardev;
	struct hv_machine *machine;
};

/* A fresh XDG_RUNTIME_DIR; its path. test_runtime_gone removes it, which shows that nothing is left in it. */
const char *test_runtime(void);
void test_runtime_gone(void);

/* A machine that is made and not started. */
void test_vm_make(struct test_vm *vm, unsigned cpus);
void test_vm_end(struct test_vm *vm);

#endif
