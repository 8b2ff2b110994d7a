/*
 * What a machine needs from outside: its files and /dev/kvm. Opened before anything else, so that a tool can
 * lock itself in before the first byte of a hostile image is looked at. The question for KVM's CPUID leaves
 * is asked here too: it needs nothing but /dev/kvm, takes a while, and goes on beside the rest.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/io.h"
#include "kvm/backend.h"
#include "machine/internal.h"

static int open_file(const char *path, int *fd, struct hv_error *err)
{
	/* O_NONBLOCK: opening a FIFO must not wait for a writer. */
	*fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	return *fd < 0 ? hv_fail_errno(err, "%s: cannot open it", path) : 0;
}

static int open_initrd(const char *text, int *fd, struct hv_error *err)
{
	char *path = strndup(text, strcspn(text, " ")); /* what follows the blank is its command line */
	int rc = path ? open_file(path, fd, err) : hv_fail(err, ENOMEM, "no memory for a path");

	free(path);
	return rc;
}

static void *ask_cpuid(void *machine)
{
	struct hv_machine *m = machine;

	m->query.rc = hv_cpuid_supported(&m->kvm, &m->query.leaves, &m->query.err);
	return NULL;
}

static void start_query(struct hv_machine *m)
{
	pthread_attr_t attr;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 64u << 10);
	m->query.asked = m->query.running = pthread_create(&m->query.thread, &attr, ask_cpuid, m) == 0;
	pthread_attr_destroy(&attr);
}

int hv_board_cpuid(struct hv_machine *m, struct hv_error *err)
{
	if (m->query.running)
		pthread_join(m->query.thread, NULL);
	else if (!m->query.asked)
		ask_cpuid(m);
	m->query.asked = true;
	m->query.running = false;
	if (m->query.rc && err)
		*err = m->query.err;
	return m->query.rc;
}

int hv_board_open(struct hv_machine *m, struct hv_error *err)
{
	const struct hv_config *c = &m->config;
	int rc = open_file(c->image, &m->image_fd, err);

	for (unsigned i = 0; i < c->initrd_count && !rc; i++)
		rc = open_initrd(c->initrd[i], &m->initrd_fds[i], err);
	if (!rc)
		rc = hv_board_open_disks(m, err);
	if (!rc && c->vsock)
		rc = hv_board_open_vsock(m, err);
	if (!rc)
		rc = hv_board_open_nets(m, err);
	if (!rc)
		rc = hv_kvm_open(&m->kvm, err);
	if (rc)
		return rc;
	if (!hv_kvm_has(&m->kvm, KVM_CAP_IMMEDIATE_EXIT))
		return hv_fail(err, ENOTSUP,
			       "this kernel's KVM lacks immediate exits (Linux 4.13); use a newer kernel");
	m->assist = hv_backend() == HV_BACKEND_SOFTWARE;
	start_query(m);
	return 0;
}

int hv_board_probe(struct hv_machine *m, struct hv_error *err)
{
	const struct hv_config *c = &m->config;
	enum hv_irqchip wanted = HV_IRQCHIP_NONE;
	enum hv_boot_kind kind = HV_BOOT_AUTO;
	size_t size;
	void *data;
	int rc;

	m->irqchip = c->irqchip;
	if (m->irqchip != HV_IRQCHIP_AUTO)
		return 0;
	rc = hv_load_fd(m->image_fd, c->image, HV_IMAGE_MAX, &data, &size, err);
	if (rc)
		return rc;
	if (c->boot == HV_BOOT_FLAT)
		wanted = HV_IRQCHIP_NONE;
	else
		rc = hv_boot_probe(c->image, data, size, &kind, &wanted, err);
	hv_unload(data, size);
	/* The second CPU is started by an interrupt. */
	m->irqchip = m->cpu_count > 1 && wanted == HV_IRQCHIP_NONE ? HV_IRQCHIP_FULL : wanted;
	return rc;
}

void hv_board_close(struct hv_machine *m)
{
	if (m->query.running)
		hv_board_cpuid(m, NULL);
	free(m->query.leaves);
	hv_board_close_disks(m);
	hv_board_close_nets(m);
	hv_board_close_vsock(m);
	hv_kvm_close(&m->kvm);
	if (m->image_fd >= 0)
		close(m->image_fd);
	for (unsigned i = 0; i < HV_MODULES_MAX; i++)
		if (m->initrd_fds[i] >= 0)
			close(m->initrd_fds[i]);
}
