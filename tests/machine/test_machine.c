/*
 * A machine's life: run, end, pause, resume, reset, calls, injected interrupts, and what is said when a guest
 * can't go on. The guests are a few bytes of real-mode code; every wait has a limit and an alarm stands
 * behind all.
 */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "device/virtio/window.h"
#include "machine/internal.h"
#include "machine/machine.h"

struct vm {
	char path[64];
	struct hv_config config;
	struct hv_chardev *chardev;
	struct hv_machine *m;
	struct hv_end end;
	int events[16];
	_Atomic unsigned event_count;
};

static void note_event(void *ctx, enum hv_event event, int detail)
{
	struct vm *vm = ctx;
	unsigned n = atomic_load(&vm->event_count);

	(void)detail;
	if (n < HV_ARRAY_SIZE(vm->events)) {
		vm->events[n] = (int)event;
		atomic_store(&vm->event_count, n + 1);
	}
}

static void make(struct vm *vm, const void *code, size_t size, const char *key, const char *value)
{
	struct hv_chardev_config none = {.kind = HV_CHARDEV_NONE};
	struct hv_error err = {0};
	int fd;

	alarm(60);
	memset(vm, 0, sizeof(*vm));
	strcpy(vm->path, "/tmp/hv-test-XXXXXX");
	fd = mkstemp(vm->path);
	cr_assert(fd >= 0);
	cr_assert_eq(write(fd, code, size), (ssize_t)size);
	close(fd);
	hv_config_init(&vm->config);
	cr_assert_eq(hv_config_set(&vm->config, "image", vm->path, &err), 0, "%s", err.text);
	cr_assert_eq(hv_config_set(&vm->config, "boot", "flat", &err), 0, "%s", err.text);
	cr_assert_eq(hv_config_set(&vm->config, "mem", "1M", &err), 0, "%s", err.text);
	if (key)
		cr_assert_eq(hv_config_set(&vm->config, key, value, &err), 0, "%s", err.text);
	cr_assert_eq(hv_config_finish(&vm->config, &err), 0, "%s", err.text);
	cr_assert_eq(hv_chardev_open(&none, NULL, &vm->chardev, &err), 0, "%s", err.text);
	cr_assert_eq(hv_machine_create(&vm->config, vm->chardev, NULL, &vm->m, &err), 0, "%s", err.text);
	cr_assert(hv_machine_subscribe(vm->m, note_event, vm, &err) >= 0);
}

static void start(struct vm *vm, bool paused)
{
	struct hv_error err = {0};

	cr_assert_eq(hv_machine_start(vm->m, paused, &err), 0, "%s", err.text);
}

static void finish(struct vm *vm)
{
	cr_assert_eq(hv_machine_wait(vm->m, 20000, &vm->end), 0, "the machine did not end");
}

static void unmake(struct vm *vm)
{
	hv_chardev_close(vm->chardev);
	hv_machine_destroy(vm->m);
	hv_config_free(&vm->config);
	unlink(vm->path);
	alarm(0);
}

static uint64_t exits(struct vm *vm, unsigned reason)
{
	return atomic_load(&hv_machine_recorder(vm->m, 0)->counters[reason].count);
}

/* Waits until the guest has made n port accesses. */
static void wait_exits(struct vm *vm, uint64_t n)
{
	while (exits(vm, KVM_EXIT_IO) < n)
		usleep(1000);
}

static const uint8_t spin[] = {0xeb, 0xfe};                            /* jmp . */
static const uint8_t count_up[] = {0x43, 0xe6, 0x80, 0xeb, 0xfb};      /* inc bx; out 0x80,al; again */
static const uint8_t leave_7[] = {0xb0, 0x03, 0xe6, 0xf4, 0xeb, 0xfe}; /* mov al,3; out 0xf4,al */
static const uint8_t halt[] = {0xe6, 0x80, 0xf4};

Test(machine, hlt_without_an_irqchip_is_an_orderly_end)
{
	struct vm vm;

	make(&vm, halt, sizeof(halt), NULL, NULL);
	start(&vm, false);
	finish(&vm);
	cr_assert_eq(vm.end.reason, HV_END_HALT, "%s", vm.end.text);
	cr_assert_eq(vm.end.status, 0);
	cr_assert_eq(exits(&vm, KVM_EXIT_IO), 1);
	cr_assert_eq(exits(&vm, KVM_EXIT_HLT), 1);
	cr_assert_eq(vm.events[0], HV_EVENT_SHUTDOWN);
	unmake(&vm);
}

Test(machine, the_debug_exit_gives_the_guests_own_status)
{
	struct vm vm;

	make(&vm, leave_7, sizeof(leave_7), NULL, NULL);
	start(&vm, false);
	finish(&vm);
	cr_assert_eq(vm.end.reason, HV_END_GUEST_EXIT);
	cr_assert_eq(vm.end.status, 7);
	unmake(&vm);
}

Test(machine, acpi_power_off_is_an_orderly_end)
{
	/* mov dx,0x600; mov al,0x34 (sleep type 5, go); out dx,al; jmp . */
	static const uint8_t off[] = {0xba, 0x00, 0x06, 0xb0, 0x34, 0xee, 0xeb, 0xfe};
	struct vm vm;

	make(&vm, off, sizeof(off), NULL, NULL);
	start(&vm, false);
	finish(&vm);
	cr_assert_eq(vm.end.reason, HV_END_HALT);
	cr_assert_eq(vm.end.status, 0);
	unmake(&vm);
}

Test(machine, a_guests_panic_is_told_and_fails)
{
	/* mov dx,0x505; mov al,1; out dx,al; jmp . */
	static const uint8_t panic[] = {0xba, 0x05, 0x05, 0xb0, 0x01, 0xee, 0xeb, 0xfe};
	struct vm vm;

	make(&vm, panic, sizeof(panic), NULL, NULL);
	start(&vm, false);
	finish(&vm);
	cr_assert_eq(vm.end.reason, HV_END_PANIC);
	cr_assert_eq(vm.end.status, 1);
	cr_assert(strstr(vm.end.text, "panicked"), "%s", vm.end.text);
	cr_assert_str_eq(hv_state_name(HV_STATE_ENDED, vm.end.reason), "guest-panicked");
	unmake(&vm);
}

Test(machine, a_spinning_guest_is_paused_resumed_and_ended)
{
	struct hv_error err = {0};
	struct vm vm;

	make(&vm, spin, sizeof(spin), NULL, NULL);
	start(&vm, false);
	for (int i = 0; i < 50; i++) {
		cr_assert_eq(hv_machine_pause(vm.m, &err), 0, "%s", err.text);
		cr_assert_eq(hv_machine_state(vm.m), HV_STATE_PAUSED);
		cr_assert_eq(hv_machine_resume(vm.m, &err), 0, "%s", err.text);
	}
	hv_machine_end(vm.m, HV_END_QUIT);
	finish(&vm);
	cr_assert_eq(vm.end.reason, HV_END_QUIT);
	unmake(&vm);
}

Test(machine, a_paused_guest_does_nothing)
{
	struct hv_error err = {0};
	struct vm vm;
	uint64_t n;

	make(&vm, count_up, sizeof(count_up), NULL, NULL);
	start(&vm, true);
	usleep(20000);
	cr_assert_eq(exits(&vm, KVM_EXIT_IO), 0);
	cr_assert_eq(hv_machine_state(vm.m), HV_STATE_PRELAUNCH);
	cr_assert_eq(hv_machine_resume(vm.m, &err), 0);
	wait_exits(&vm, 10);
	cr_assert_eq(hv_machine_pause(vm.m, &err), 0, "%s", err.text);
	n = exits(&vm, KVM_EXIT_IO);
	usleep(20000);
	cr_assert_eq(exits(&vm, KVM_EXIT_IO), n);
	hv_machine_end(vm.m, HV_END_QUIT);
	finish(&vm);
	unmake(&vm);
}

static int read_bx(struct hv_vcpu *vcpu, void *out, struct hv_error *err)
{
	return hv_vcpu_get_regs(vcpu, out, err);
}

Test(machine, what_a_call_sees_is_complete)
{
	/* in al,0x80 gives back what out wrote: whenever one looks, the pair of counters must fit. */
	static const uint8_t code[] = {0x43, 0x88, 0xd8, 0xe6, 0x80, 0xe4, 0x80, 0xeb, 0xf7};
	struct hv_error err = {0};
	struct vm vm;

	make(&vm, code, sizeof(code), NULL, NULL);
	start(&vm, false);
	for (int i = 0; i < 200; i++) {
		struct kvm_regs regs;

		cr_assert_eq(hv_machine_call(vm.m, 0, read_bx, &regs, &err), 0, "%s", err.text);
		/* After `in` at +5 has completed (rip at +7), al must be what the device gave: bl. */
		if (regs.rip == 0x1007)
			cr_assert_eq(regs.rax & 0xff, regs.rbx & 0xff);
		cr_assert(regs.rip >= 0x1000 && regs.rip < 0x1009);
	}
	hv_machine_end(vm.m, HV_END_QUIT);
	finish(&vm);
	unmake(&vm);
}

Test(machine, reset_starts_the_image_again)
{
	struct hv_error err = {0};
	struct kvm_regs regs;
	struct vm vm;
	uint64_t n;

	make(&vm, count_up, sizeof(count_up), NULL, NULL);
	start(&vm, false);
	wait_exits(&vm, 100);
	*(uint8_t *)hv_memory_at(hv_machine_memory(vm.m), 0x5000, 1) = 1;
	cr_assert_eq(hv_machine_pause(vm.m, &err), 0);
	cr_assert_eq(hv_machine_reset(vm.m, &err), 0, "%s", err.text);
	cr_assert_eq(hv_machine_state(vm.m), HV_STATE_PAUSED);
	cr_assert_eq(hv_machine_call(vm.m, 0, read_bx, &regs, &err), 0);
	cr_assert_eq(regs.rbx, 0);
	cr_assert_eq(regs.rip, 0x1000);
	cr_assert_eq(*(uint8_t *)hv_memory_at(hv_machine_memory(vm.m), 0x5000, 1), 0);
	cr_assert_eq(hv_machine_resume(vm.m, &err), 0);
	n = exits(&vm, KVM_EXIT_IO);
	wait_exits(&vm, n + 10);
	cr_assert_eq(hv_machine_reset(vm.m, &err), 0, "running: %s", err.text);
	n = exits(&vm, KVM_EXIT_IO);
	wait_exits(&vm, n + 10);
	hv_machine_end(vm.m, HV_END_QUIT);
	finish(&vm);
	unmake(&vm);
}

Test(machine, a_guest_may_reset_itself)
{
	/* in al,0x80 (post.c: 0 at power-on); the first time: write the keyboard controller's reset; there is
	 * no second memory of the first, so the test ends the machine after some rounds. */
	static const uint8_t code[] = {0xe6, 0x80, 0xb0, 0xfe, 0xe6, 0x64, 0xeb, 0xfe};
	struct vm vm;

	make(&vm, code, sizeof(code), NULL, NULL);
	start(&vm, false);
	while (atomic_load(&vm.event_count) < 3)
		usleep(1000);
	hv_machine_end(vm.m, HV_END_QUIT);
	finish(&vm);
	for (int i = 0; i < 3; i++)
		cr_assert_eq(vm.events[i], HV_EVENT_RESET);
	unmake(&vm);
}

Test(machine, an_injected_line_reaches_a_guest_without_irqchip)
{
	/* sti; jmp .   vector 0x21's handler at 0x1080: mov al,3; out 0xf4,al */
	uint8_t code[0x100] = {0};
	struct hv_error err = {0};
	struct vm vm;

	/* mov word [0x84],0x1080; mov word [0x86],0; out 0x80,al; sti; jmp . */
	static const uint8_t head[] = {0xc7, 0x06, 0x84, 0x00, 0x80, 0x10, 0xc7, 0x06, 0x86,
				       0x00, 0x00, 0x00, 0xe6, 0x80, 0xfb, 0x90, 0xeb, 0xfe};
	memcpy(code, head, sizeof(head));
	memcpy(code + 0x80, leave_7, sizeof(leave_7));
	make(&vm, code, sizeof(code), NULL, NULL);
	start(&vm, false);
	wait_exits(&vm, 1);
	cr_assert_eq(hv_machine_irq(vm.m, 1, &err), 0, "%s", err.text);
	finish(&vm);
	cr_assert_eq(vm.end.status, 7);
	unmake(&vm);
}

Test(machine, an_interrupt_before_the_start_keeps_nobody_from_running)
{
	/* mov al,3; out 0xf4,al */
	struct hv_error err = {0};
	struct vm vm;

	make(&vm, leave_7, sizeof(leave_7), NULL, NULL);
	cr_assert_eq(hv_machine_irq(vm.m, 1, &err), 0, "%s", err.text);
	start(&vm, false);
	finish(&vm);
	cr_assert_eq(vm.end.status, 7);
	unmake(&vm);
}

Test(machine, a_triple_fault_tells_registers_and_last_exits)
{
	/* out 0x80,al; lidt of an empty table in protected mode; then ud2 */
	static const uint8_t code[] = {0xe6, 0x80, 0x0f, 0x01, 0x1e, 0x20, 0x10, 0x0f, 0x20,
				       0xc0, 0x0c, 0x01, 0x0f, 0x22, 0xc0, 0x0f, 0x0b, 0x00,
				       0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
				       0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00};
	struct vm vm;

	make(&vm, code, sizeof(code), NULL, NULL);
	start(&vm, false);
	finish(&vm);
	cr_assert_eq(vm.end.reason, HV_END_TRIPLE_FAULT);
	cr_assert_eq(vm.end.status, 1);
	cr_assert(strstr(vm.end.text, "triple fault"), "%s", vm.end.text);
	cr_assert(strstr(vm.end.text, "rip"), "%s", vm.end.text);
	cr_assert(strstr(vm.end.text, "0x80"), "%s", vm.end.text);
	unmake(&vm);
}

/* What the processor must refuse, on the vCPU before its start; a software back end may take it. */
static int long_mode_with_l_and_db(struct hv_vcpu *vcpu, void *ctx, struct hv_error *err)
{
	struct kvm_sregs s;

	(void)ctx;
	if (hv_vcpu_get_sregs(vcpu, &s, err))
		return -EIO;
	s.cr0 |= 0x80000001; /* PG, PE */
	s.cr3 = 0x20000;
	s.cr4 |= 0x20;   /* PAE */
	s.efer |= 0x500; /* LME, LMA */
	s.cs = (struct kvm_segment){.limit = 0xffffffff,
				    .selector = 8,
				    .type = 11,
				    .present = 1,
				    .s = 1,
				    .g = 1,
				    .l = 1,
				    .db = 1};
	s.tr.type = 11;
	return hv_vcpu_set_sregs(vcpu, &s, err);
}

static int unusable_tr(struct hv_vcpu *vcpu, void *ctx, struct hv_error *err)
{
	struct kvm_sregs s;

	(void)ctx;
	if (hv_vcpu_get_sregs(vcpu, &s, err))
		return -EIO;
	s.tr.unusable = 1;
	s.tr.present = 0;
	return hv_vcpu_set_sregs(vcpu, &s, err);
}

static void expect_refusal(hv_vcpu_fn *spoil, bool refused_here, const char *word)
{
	struct hv_error err = {0};
	struct vm vm;

	make(&vm, halt, sizeof(halt), NULL, NULL);
	cr_assert_eq(hv_machine_call(vm.m, 0, spoil, NULL, &err), 0, "%s", err.text);
	start(&vm, false);
	finish(&vm);
	cr_expect(!refused_here || exits(&vm, KVM_EXIT_FAIL_ENTRY) == 1, "%s", vm.end.text);
	if (exits(&vm, KVM_EXIT_FAIL_ENTRY) > 0) {
		cr_expect_eq(vm.end.reason, HV_END_ERROR);
		cr_expect(strstr(vm.end.text, "refuses to enter the guest (hardware reason"), "%s",
			  vm.end.text);
		cr_expect(strstr(vm.end.text, word), "%s", vm.end.text);
	}
	unmake(&vm);
}

static bool module_loaded(const char *name)
{
	char path[64];

	snprintf(path, sizeof(path), "/sys/module/%s", name);
	return access(path, F_OK) == 0;
}

Test(machine, a_code_segment_that_no_processor_takes_is_told)
{
	expect_refusal(long_mode_with_l_and_db, module_loaded("kvm_intel") || module_loaded("kvm_amd"),
		       "CS has L and D/B both set");
}

Test(machine, a_task_register_that_vt_x_refuses_is_told)
{
	expect_refusal(unusable_tr, module_loaded("kvm_intel"), "TR is unusable");
}

Test(machine, an_instruction_that_the_kernel_cannot_emulate_is_told)
{
	/* out 0x80,al; mov ax,0xffff; mov ds,ax; fld dword [0x20]: at 0x100010, where this VM's RAM has ended
	 */
	static const uint8_t code[] = {0xe6, 0x80, 0xb8, 0xff, 0xff, 0x8e,
				       0xd8, 0xd9, 0x06, 0x20, 0x00, 0xf4};
	struct vm vm;

	make(&vm, code, sizeof(code), NULL, NULL);
	start(&vm, false);
	finish(&vm);
	cr_assert_eq(vm.end.reason, HV_END_ERROR, "%s", vm.end.text);
	cr_assert(strstr(vm.end.text, "emulation failure"), "%s", vm.end.text);
	cr_assert(strstr(vm.end.text, "fld"), "%s", vm.end.text);
	cr_assert(strstr(vm.end.text, "where no RAM is"), "%s", vm.end.text);
	unmake(&vm);
}

Test(machine, four_cpus_are_paused_while_the_others_wait_for_their_start)
{
	struct hv_error err = {0};
	struct vm vm;

	make(&vm, spin, sizeof(spin), "cpus", "4");
	start(&vm, false);
	for (int i = 0; i < 50; i++) {
		cr_assert_eq(hv_machine_pause(vm.m, &err), 0, "%s", err.text);
		cr_assert_eq(hv_machine_resume(vm.m, &err), 0, "%s", err.text);
	}
	for (unsigned i = 0; i < 4; i++) {
		struct kvm_regs regs;

		cr_assert_eq(hv_machine_call(vm.m, i, read_bx, &regs, &err), 0, "%s", err.text);
	}
	hv_machine_end(vm.m, HV_END_QUIT);
	finish(&vm);
	unmake(&vm);
}

static void *pause_and_resume(void *arg)
{
	struct vm *vm = arg;

	for (int i = 0; i < 100; i++) {
		hv_machine_pause(vm->m, NULL);
		hv_machine_resume(vm->m, NULL);
	}
	return NULL;
}

Test(machine, several_threads_may_pause_and_call_at_once)
{
	struct hv_error err = {0};
	pthread_t threads[3];
	struct vm vm;

	make(&vm, count_up, sizeof(count_up), NULL, NULL);
	start(&vm, false);
	for (int i = 0; i < 3; i++)
		cr_assert_eq(pthread_create(&threads[i], NULL, pause_and_resume, &vm), 0);
	for (int i = 0; i < 100; i++) {
		struct kvm_regs regs;

		cr_assert_eq(hv_machine_call(vm.m, 0, read_bx, &regs, &err), 0, "%s", err.text);
	}
	for (int i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	cr_assert_eq(hv_machine_resume(vm.m, &err), 0);
	cr_assert_eq(hv_machine_reset(vm.m, &err), 0, "%s", err.text);
	hv_machine_end(vm.m, HV_END_QUIT);
	finish(&vm);
	cr_assert_eq(hv_machine_pause(vm.m, &err), -ESHUTDOWN);
	unmake(&vm);
}

Test(machine, no_kick_is_lost)
{
	/* The kick meets the vCPU at every point of its loop: a guest that exits all the time, and calls
	 * without pause. */
	struct hv_error err = {0};
	struct kvm_regs regs;
	struct vm vm;

	make(&vm, count_up, sizeof(count_up), NULL, NULL);
	start(&vm, false);
	for (int i = 0; i < 5000; i++)
		cr_assert_eq(hv_machine_call(vm.m, 0, read_bx, &regs, &err), 0, "call %d: %s", i, err.text);
	hv_machine_end(vm.m, HV_END_QUIT);
	finish(&vm);
	unmake(&vm);
}

Test(machine, tracing_keeps_the_last_records_and_can_be_saved)
{
	struct hv_error err = {0};
	char path[] = "/tmp/hv-trace-XXXXXX", head[64] = "";
	int fd = mkstemp(path);
	struct stat st;
	struct vm vm;

	make(&vm, count_up, sizeof(count_up), NULL, NULL);
	start(&vm, false);
	wait_exits(&vm, 50);
	cr_assert_eq(hv_machine_trace(vm.m, true, &err), 0, "%s", err.text);
	cr_assert(hv_machine_tracing(vm.m));
	wait_exits(&vm, exits(&vm, KVM_EXIT_IO) + 100);
	cr_assert_eq(hv_machine_trace_save(vm.m, fd, &err), 0, "%s", err.text);
	cr_assert_eq(hv_machine_trace(vm.m, false, &err), 0, "%s", err.text);
	wait_exits(&vm, exits(&vm, KVM_EXIT_IO) + 100);
	hv_machine_end(vm.m, HV_END_QUIT);
	finish(&vm);
	cr_assert_eq(fstat(fd, &st), 0);
	cr_assert_gt(st.st_size, 1000);
	cr_assert_gt(pread(fd, head, sizeof(head) - 1, 0), 0);
	cr_assert_eq(head[0], '{');
	close(fd);
	unlink(path);
	unmake(&vm);
}

/* --- a serial line that nobody reads --- */

/* mov dx,0x3f8; inc al; out dx,al; again: each byte is one more than the last. */
static const uint8_t flood[] = {0xba, 0xf8, 0x03, 0xfe, 0xc0, 0xee, 0xeb, 0xfb};

/* A machine whose serial line ends in a FIFO; returns the FIFO's other end, which nobody reads yet. */
static int make_flood(struct vm *vm, char *fifo, size_t size)
{
	struct hv_chardev_config file = {.kind = HV_CHARDEV_FILE};
	struct hv_error err = {0};
	int fd;

	snprintf(fifo, size, "/tmp/hv-flood-%d", (int)getpid());
	cr_assert_eq(mkfifo(fifo, 0600), 0);
	fd = open(fifo, O_RDONLY | O_NONBLOCK);
	cr_assert(fd >= 0);
	make(vm, flood, sizeof(flood), NULL, NULL);
	hv_machine_destroy(vm->m);
	hv_chardev_close(vm->chardev);
	snprintf(file.path, sizeof(file.path), "%s", fifo);
	cr_assert_eq(hv_chardev_open(&file, NULL, &vm->chardev, &err), 0, "%s", err.text);
	cr_assert_eq(hv_machine_create(&vm->config, vm->chardev, NULL, &vm->m, &err), 0, "%s", err.text);
	cr_assert_eq(hv_chardev_start(vm->chardev, &err), 0, "%s", err.text);
	return fd;
}

/* Until the guest's vCPU waits for the reader: its exits stand still. */
static void await_stuck(struct vm *vm)
{
	uint64_t before;

	do {
		before = exits(vm, KVM_EXIT_IO);
		usleep(300000);
	} while (before < 65536 || exits(vm, KVM_EXIT_IO) != before);
}

Test(machine, a_vcpu_that_waits_for_the_serial_lines_reader_parks_at_once_and_loses_nothing)
{
	struct hv_error err = {0};
	uint8_t next = 1, buf[4096];
	size_t total = 0;
	struct kvm_regs regs;
	char fifo[64];
	struct vm vm;
	int fd = make_flood(&vm, fifo, sizeof(fifo));

	start(&vm, false);
	await_stuck(&vm);
	for (int i = 0; i < 50; i++) { /* each takes 5 s and fails when the vCPU is left waiting */
		cr_assert_eq(hv_machine_pause(vm.m, &err), 0, "pause %d: %s", i, err.text);
		cr_assert_eq(hv_machine_resume(vm.m, &err), 0, "resume %d: %s", i, err.text);
		cr_assert_eq(hv_machine_call(vm.m, 0, read_bx, &regs, &err), 0, "call %d: %s", i, err.text);
	}
	cr_assert_leq(exits(&vm, KVM_EXIT_IO), 65536 * 2 + 1000, "it still waits for the reader in between");
	cr_assert_eq(hv_machine_pause(vm.m, &err), 0, "%s", err.text);
	hv_machine_end(vm.m, HV_END_QUIT);
	finish(&vm);
	while (total < exits(&vm, KVM_EXIT_IO)) {
		ssize_t n = read(fd, buf, sizeof(buf));

		if (n < 0) {
			usleep(1000);
			continue;
		}
		cr_assert(n > 0, "the line ended after %zu bytes", total);
		for (ssize_t i = 0; i < n; i++, next++)
			cr_assert_eq(buf[i], next, "byte %zu", total + (size_t)i);
		total += (size_t)n;
	}
	close(fd);
	unlink(fifo);
	unmake(&vm);
}

Test(machine, a_vcpu_that_waits_for_the_serial_lines_reader_can_be_reset_and_ended)
{
	struct hv_error err = {0};
	char fifo[64];
	struct vm vm;
	int fd = make_flood(&vm, fifo, sizeof(fifo));

	start(&vm, false);
	await_stuck(&vm);
	for (int i = 0; i < 3; i++)
		cr_assert_eq(hv_machine_reset(vm.m, &err), 0, "%s", err.text);
	hv_machine_end(vm.m, HV_END_TIMEOUT);
	finish(&vm);
	cr_assert_eq(vm.end.status, HV_EXIT_TIMEOUT);
	close(fd);
	unlink(fifo);
	unmake(&vm);
}

/* --- everything at once --- */

struct meddler {
	struct vm *vm;
	unsigned seed;
	_Atomic bool *over;
};

/* Any of the calls, in any order, until the machine has ended. What they return is one of few things. */
static void *meddle(void *arg)
{
	struct meddler *my = arg;
	struct hv_machine *m = my->vm->m;

	while (!atomic_load(my->over)) {
		struct hv_error err = {0};
		struct kvm_regs regs;
		int rc = 0;

		my->seed = my->seed * 1103515245 + 12345;
		switch (my->seed >> 16 & 7) {
		case 0:
			rc = hv_machine_pause(m, &err);
			break;
		case 1:
		case 2:
			rc = hv_machine_resume(m, &err);
			break;
		case 3:
			rc = hv_machine_call(m, my->seed >> 20 & 1, read_bx, &regs, &err);
			break;
		case 4:
			rc = hv_machine_reset(m, &err);
			break;
		case 5:
			rc = hv_machine_debug_stop(m, &err);
			break;
		case 6:
			rc = hv_machine_resume_mask(m, 1 + (my->seed >> 20 & 1), &err);
			break;
		case 7:
			rc = hv_machine_trace(m, my->seed >> 20 & 1, &err);
			break;
		}
		cr_assert(rc == 0 || rc == -ESHUTDOWN, "%u: %d %s", my->seed >> 16 & 7, rc, err.text);
	}
	return NULL;
}

/* --- devices with threads of their own --- */

static uint32_t mmio(struct vm *vm, uint64_t gpa)
{
	uint8_t bytes[4];

	cr_assert_eq(hv_bus_read(hv_machine_mmio(vm->m), gpa, bytes, 4), 0);
	return hv_le32(bytes);
}

Test(machine, virtio_devices_lie_in_their_windows_disks_first)
{
	char path[] = "/tmp/hv-disk-XXXXXX", words[64];
	struct hv_error err = {0};
	struct vm vm;
	int fd = mkstemp(path);

	cr_assert(fd >= 0);
	cr_assert_eq(ftruncate(fd, 8192), 0);
	close(fd);
	snprintf(words, sizeof(words), "%s,format=raw", path);
	make(&vm, count_up, sizeof(count_up), "disk", words);
	cr_assert_eq(mmio(&vm, HV_VIRTIO_WINDOW_BASE), 0x74726976);
	cr_assert_eq(mmio(&vm, HV_VIRTIO_WINDOW_BASE + 8), 2, "a block device");
	cr_assert_eq(mmio(&vm, HV_VIRTIO_WINDOW_BASE + 0x100), 16, "sectors");
	cr_assert_null(hv_bus_find(hv_machine_mmio(vm.m), HV_VIRTIO_WINDOW_BASE + HV_VIRTIO_WINDOW_STRIDE));
	start(&vm, false);
	for (unsigned i = 0; i < 3; i++) {
		cr_assert_eq(hv_machine_pause(vm.m, &err), 0, "%s", err.text);
		cr_assert(vm.m->devices_held);
		cr_assert_eq(hv_machine_pause(vm.m, &err), 0, "%s", err.text);
		cr_assert_eq(hv_machine_reset(vm.m, &err), 0, "%s", err.text);
		cr_assert(vm.m->devices_held, "a reset while it is paused doesn't let them go");
		cr_assert_eq(hv_machine_resume(vm.m, &err), 0, "%s", err.text);
		cr_assert_not(vm.m->devices_held);
	}
	hv_machine_end(vm.m, HV_END_QUIT);
	finish(&vm);
	unmake(&vm);
	unlink(path);
}

Test(machine, a_disk_that_cannot_be_opened_is_told_before_the_vm_is_made)
{
	struct hv_config config;
	struct hv_machine *m;
	struct hv_error err = {0};

	hv_config_init(&config);
	cr_assert_eq(hv_config_set(&config, "image", "/dev/null", &err), 0);
	cr_assert_eq(hv_config_set(&config, "disk", "/nonexistent/disk,ro", &err), 0);
	cr_assert_eq(hv_config_finish(&config, &err), 0);
	cr_assert_eq(hv_machine_open(&config, NULL, NULL, &m, &err), -ENOENT);
	cr_assert(strstr(err.text, "--disk: /nonexistent/disk"), "%s", err.text);
	cr_assert_null(m);
	hv_config_free(&config);
}

Test(machine, whatever_several_threads_ask_for_at_once_is_done_and_the_end_comes)
{
	for (unsigned round = 0; round < 8; round++) {
		struct meddler meddlers[4];
		_Atomic bool over = false;
		pthread_t threads[4];
		struct vm vm;

		make(&vm, count_up, sizeof(count_up), "cpus", "2");
		start(&vm, round & 1);
		for (unsigned i = 0; i < 4; i++) {
			meddlers[i] = (struct meddler){&vm, round * 4 + i, &over};
			cr_assert_eq(pthread_create(&threads[i], NULL, meddle, &meddlers[i]), 0);
		}
		usleep(100000);
		hv_machine_end(vm.m, HV_END_QUIT); /* in the middle of it */
		finish(&vm);
		cr_assert_eq(vm.end.status, 0, "%s", vm.end.text);
		atomic_store(&over, true);
		for (unsigned i = 0; i < 4; i++)
			pthread_join(threads[i], NULL);
		unmake(&vm);
	}
}
