/*
 * What KVM itself costs: the shortest honest program that runs a flat image, with nothing of hvkit in it.
 * bench runs it beside hvrun: bare none|split|full CPUS IMAGE. The image is entered at 0x1000 in real mode;
 * port 0x3f8 is standard output, port 0xf4 and hlt are the end, other ports are ignored.
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define RAM            (64ul << 20)
#define MUST(rc, what) ((rc) < 0 ? err(1, "%s", what) : (void)0)

static int fds[64], run_size;

static void *run_vcpu(void *index)
{
	int fd = fds[(long)index];
	struct kvm_run *run = mmap(NULL, (size_t)run_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	struct kvm_regs regs = {.rip = 0x1000, .rflags = 2};
	struct kvm_sregs sregs;

	MUST(ioctl(fd, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
	sregs.cs.base = sregs.cs.selector = 0;
	if (!index && (ioctl(fd, KVM_SET_SREGS, &sregs) < 0 || ioctl(fd, KVM_SET_REGS, &regs) < 0))
		err(1, "KVM_SET_REGS");
	for (;;) {
		if (ioctl(fd, KVM_RUN, 0) < 0) {
			if (errno != EAGAIN && errno != EINTR) /* EAGAIN: woken, but not yet by a SIPI */
				err(1, "KVM_RUN");
			continue;
		}
		if (run->exit_reason != KVM_EXIT_IO || run->io.port == 0xf4)
			_exit(run->exit_reason != KVM_EXIT_IO && run->exit_reason != KVM_EXIT_HLT);
		if (run->io.port == 0x3f8)
			MUST(write(1, (char *)run + run->io.data_offset, 1), "write");
	}
}

int main(int argc, char **argv)
{
	struct kvm_enable_cap split = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args = {24}};
	struct kvm_pit_config pit = {0};
	char *ram = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct kvm_userspace_memory_region slot = {.memory_size = RAM, .userspace_addr = (unsigned long)ram};
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), image = argc == 4 ? open(argv[3], O_RDONLY) : -1;
	pthread_t thread;
	int vm;

	MUST(image, "bare none|split|full CPUS IMAGE");
	MUST(vm = ioctl(kvm, KVM_CREATE_VM, 0), "/dev/kvm");
	MUST(run_size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), "KVM_GET_VCPU_MMAP_SIZE");
	MUST(ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000ul), "KVM_SET_TSS_ADDR");
	/* Before the controllers: behind their registrations on KVM's buses it would wait for milliseconds
	 * (SRCU). */
	MUST(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot), "KVM_SET_USER_MEMORY_REGION");
	if (*argv[1] == 'f') {
		MUST(ioctl(vm, KVM_CREATE_IRQCHIP, 0), "KVM_CREATE_IRQCHIP");
		MUST(ioctl(vm, KVM_CREATE_PIT2, &pit), "KVM_CREATE_PIT2");
	} else if (*argv[1] == 's') {
		MUST(ioctl(vm, KVM_ENABLE_CAP, &split), "KVM_CAP_SPLIT_IRQCHIP");
	}
	MUST(read(image, ram + 0x1000, 0x10000), argv[3]);
	for (int i = 0; i < atoi(argv[2]);
	     i++) /* all of them first: a SIPI to a CPU that isn't there is lost */
		MUST(fds[i] = ioctl(vm, KVM_CREATE_VCPU, i), "KVM_CREATE_VCPU");
	for (long i = 1; i < atoi(argv[2]); i++)
		MUST(-pthread_create(&thread, NULL, run_vcpu, (void *)i), "pthread_create");
	run_vcpu(NULL);
}
