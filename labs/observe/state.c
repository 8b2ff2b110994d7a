/*
 * Which descriptor of the program is which part of KVM: the system's, a VM's, a vCPU's, a device's. They
 * become known as KVM hands them out, and one that came another way is asked for by its name in /proc. Each
 * vCPU's shared area (struct kvm_run) is mapped here a second time, through a borrowed descriptor, so that it
 * is read without a system call and whatever the program does to its own mapping.
 *
 * Rules: KVM API 2 and 4.5 (the descriptors, the shared area), 4.35 (slots), pidfd_getfd(2), proc(5).
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "observe.h"

#define FDS_MAX   65536
#define SLOTS_MAX 1024
#define KVM_MAJOR 10
#define KVM_MINOR 232

void state_ask_kvm(struct state *st, const char *device)
{
	int kvm = open(device, O_RDWR | O_CLOEXEC);
	int sync, size;

	if (kvm < 0)
		return;
	sync = ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_SYNC_REGS);
	size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	st->sync = sync > 0 ? (uint64_t)sync : 0;
	st->run_size = size > 0 ? (size_t)size : 0;
	close(kvm);
}

static void *grown(void *array, unsigned count, size_t size)
{
	void *more = realloc(array, (count + 1) * size);

	if (!more) {
		fprintf(stderr, "observe: out of memory\n");
		exit(1);
	}
	return more;
}

void state_free(struct state *st)
{
	for (unsigned i = 0; i < st->vcpu_count; i++) {
		if (st->vcpus[i]->run)
			munmap(st->vcpus[i]->run, st->vcpus[i]->run_size);
		free(st->vcpus[i]);
	}
	for (unsigned i = 0; i < st->vm_count; i++) {
		free(st->vms[i]->slots);
		free(st->vms[i]);
	}
	free(st->vcpus);
	free(st->vms);
	free(st->fds);
}

/* --- descriptors --- */

static void set_fd(struct session *s, int fd, struct object o)
{
	struct state *st = &s->state;

	if (fd < 0 || fd >= FDS_MAX)
		return;
	if ((unsigned)fd >= st->fd_count) {
		unsigned count = (unsigned)fd + 64;

		st->fds = grown(st->fds, count, sizeof(st->fds[0]));
		memset(st->fds + st->fd_count, 0, (count - st->fd_count) * sizeof(st->fds[0]));
		st->fd_count = count;
	}
	state_close(s, fd);
	st->fds[fd] = o;
	if (o.vm)
		o.vm->fds++;
	if (o.kind == KVM_VCPU)
		o.vcpu->fds++;
}

/* /dev/kvm under whatever name: a descriptor that KVM didn't hand out. */
static bool is_kvm_device(const struct session *s, int fd)
{
	char link[64];
	struct stat st;

	snprintf(link, sizeof(link), "/proc/%d/fd/%d", s->pid, fd);
	return stat(link, &st) == 0 && S_ISCHR(st.st_mode) && major(st.st_rdev) == KVM_MAJOR &&
	       minor(st.st_rdev) == KVM_MINOR;
}

struct object state_find(struct session *s, int fd)
{
	if (fd >= 0 && (unsigned)fd < s->state.fd_count && s->state.fds[fd].kind != NO_KVM)
		return s->state.fds[fd];
	if (fd >= 0 && is_kvm_device(s, fd))
		set_fd(s, fd, (struct object){.kind = KVM_SYSTEM});
	if (fd < 0 || (unsigned)fd >= s->state.fd_count)
		return (struct object){.kind = NO_KVM};
	return s->state.fds[fd];
}

void state_dup(struct session *s, int from, int to)
{
	struct object o = {.kind = NO_KVM};

	if (from >= 0 && (unsigned)from < s->state.fd_count)
		o = s->state.fds[from];
	if (from != to && to >= 0)
		set_fd(s, to, o);
}

static void vm_closed(struct session *s, struct vm *vm)
{
	for (unsigned i = 0; i < vm->slot_count; i++) {
		dump_slot(s, vm, &vm->slots[i]);
		vm->slots[i].gone = true;
	}
}

void state_close(struct session *s, int fd)
{
	struct object o;

	if (fd < 0 || (unsigned)fd >= s->state.fd_count)
		return;
	o = s->state.fds[fd];
	s->state.fds[fd] = (struct object){.kind = NO_KVM};
	/* Our view would keep the vCPU, and with it the VM, from going. */
	if (o.kind == KVM_VCPU && --o.vcpu->fds == 0 && o.vcpu->run) {
		munmap(o.vcpu->run, o.vcpu->run_size);
		o.vcpu->run = NULL;
	}
	if (o.vm && --o.vm->fds == 0)
		vm_closed(s, o.vm);
}

/* --- what KVM hands out --- */

void state_new_vm(struct session *s, int fd)
{
	struct state *st = &s->state;
	struct vm *vm = grown(NULL, 0, sizeof(*vm));

	*vm = (struct vm){.index = st->vm_count};
	st->vms = grown(st->vms, st->vm_count, sizeof(struct vm *));
	st->vms[st->vm_count++] = vm;
	set_fd(s, fd, (struct object){.kind = KVM_VM, .vm = vm});
}

static void map_run(struct session *s, struct vcpu *vcpu, int fd)
{
	int process = (int)syscall(SYS_pidfd_open, s->pid, 0);
	int borrowed = (int)syscall(SYS_pidfd_getfd, process, fd, 0);
	void *run = MAP_FAILED;

	if (borrowed >= 0 && s->state.run_size >= sizeof(struct kvm_run))
		run = mmap(NULL, s->state.run_size, PROT_READ | PROT_WRITE, MAP_SHARED, borrowed, 0);
	if (run == MAP_FAILED)
		fprintf(stderr,
			"observe: vCPU %llu's exits can't be seen: its shared area can't be borrowed\n",
			(unsigned long long)vcpu->id);
	else
		vcpu->run = run, vcpu->run_size = s->state.run_size;
	close(borrowed);
	close(process);
}

void state_new_vcpu(struct session *s, int fd, struct vm *vm, uint64_t id)
{
	struct state *st = &s->state;
	struct vcpu *vcpu = grown(NULL, 0, sizeof(*vcpu));

	*vcpu = (struct vcpu){.vm = vm, .id = id};
	st->vcpus = grown(st->vcpus, st->vcpu_count, sizeof(struct vcpu *));
	st->vcpus[st->vcpu_count++] = vcpu;
	set_fd(s, fd, (struct object){.kind = KVM_VCPU, .vm = vm, .vcpu = vcpu});
	map_run(s, vcpu, fd);
}

void state_new_device(struct session *s, int fd, struct vm *vm)
{
	set_fd(s, fd, (struct object){.kind = KVM_DEVICE, .vm = vm});
}

uint8_t state_immediate(const struct vcpu *vcpu)
{
	return vcpu->run ? __atomic_load_n(&vcpu->run->immediate_exit, __ATOMIC_SEQ_CST) : 0;
}

/* --- slots --- */

void state_set_slot(struct session *s, struct vm *vm, uint32_t id, uint32_t flags, uint64_t gpa,
		    uint64_t size, uint64_t host)
{
	struct slot fresh = {.id = id, .flags = flags, .gpa = gpa, .size = size, .host = host};
	unsigned i = 0;

	while (i < vm->slot_count && vm->slots[i].id != id)
		i++;
	if (i < vm->slot_count && (size == 0 || gpa != vm->slots[i].gpa || host != vm->slots[i].host))
		dump_slot(s, vm, &vm->slots[i]);
	if (size == 0) {
		if (i < vm->slot_count)
			vm->slots[i] = vm->slots[--vm->slot_count];
		return;
	}
	if (i == vm->slot_count) {
		if (i == SLOTS_MAX)
			return;
		vm->slots = grown(vm->slots, i, sizeof(vm->slots[0]));
		vm->slot_count++;
	}
	vm->slots[i] = fresh;
}

void state_unmapped(struct session *s, uint64_t from, uint64_t length)
{
	for (unsigned v = 0; v < s->state.vm_count; v++)
		for (unsigned i = 0; i < s->state.vms[v]->slot_count; i++) {
			struct slot *slot = &s->state.vms[v]->slots[i];

			if (slot->gone || from >= slot->host + slot->size || slot->host >= from + length)
				continue;
			dump_slot(s, s->state.vms[v], slot);
			slot->gone = true;
		}
}
