/*
 * The board: which devices a VM has and where they answer, its memory, its vCPUs, and the image in them. The
 * only file that knows all devices. The layout is a PC's, as far as small guests look for it.
 */
#include <stdlib.h>
#include <string.h>
#include <stdio.h>
#include <unistd.h>

#include "base/io.h"
#include "base/parse.h"
#include "device/virtio/window.h"
#include "machine/internal.h"

/* --- interrupts: from a device's line to the guest --- */

static void irq_to_kernel(void *ctx, unsigned gsi, bool level)
{
	struct hv_machine *m = ctx;

	hv_irq_line(&m->vm, gsi, level); /* fails only for a pin that doesn't exist */
}

static void ioapic_send(void *ctx, uint64_t address, uint32_t data)
{
	struct hv_machine *m = ctx;

	hv_irq_msi(&m->vm, address, data);
}

/*
 * Called with the IOAPIC's lock held, so the table needs none of its own. A pin that is masked keeps its
 * route: the EOI of its last interrupt may still be due.
 */
static void ioapic_route(void *ctx, unsigned pin, uint64_t address, uint32_t data, bool masked)
{
	struct hv_machine *m = ctx;
	struct hv_error err;

	if (masked)
		return;
	m->routes[pin] = (struct hv_irq_route){.pin = pin, .address = address, .data = data};
	if (hv_irq_route_ioapic(&m->vm, m->routes, HV_IOAPIC_PINS, &err))
		hv_log(m->log, HV_LOG_WARN, "%s", err.text);
}

struct hv_irq_line hv_board_irq(struct hv_machine *m, unsigned gsi)
{
	struct hv_irq_line line = {.gsi = gsi};

	if (m->irqchip == HV_IRQCHIP_FULL) {
		line.set = irq_to_kernel;
		line.ctx = m;
	} else if (m->irqchip == HV_IRQCHIP_SPLIT) {
		line.set = hv_ioapic_set;
		line.ctx = m->ioapic;
	}
	return line;
}

/* --- devices --- */

#define SERIAL_PORT 0x3f8
#define SERIAL_GSI  4
#define RTC_PORT    0x70
#define PANIC_PORT  0x505
#define POWER_PORT  0x600

/* Takes the device that `rc` tells was made, and puts it on a bus. */
static int place(struct hv_machine *m, int rc, struct hv_device **dev, struct hv_bus *bus, uint64_t base,
		 uint64_t length, struct hv_error *err)
{
	if (rc)
		return rc;
	m->devices[m->device_count++] = *dev;
	return hv_bus_add(bus, base, length, 0, *dev, err);
}

static int create_devices(struct hv_machine *m, struct hv_error *err)
{
	struct hv_power power = {.request = hv_machine_power, .ctx = m};
	struct hv_ioapic_host ioapic = {.send = ioapic_send, .route = ioapic_route, .ctx = m};
	struct hv_device *dev = NULL;
	int rc = 0;

	if (m->irqchip == HV_IRQCHIP_SPLIT) {
		for (unsigned i = 0; i < HV_IOAPIC_PINS; i++)
			m->routes[i] = (struct hv_irq_route){.pin = i, .masked = true};
		rc = place(m, hv_ioapic_create(ioapic, &dev, err), &dev, &m->mmio, 0xfec00000, 0x1000, err);
		if (rc)
			return rc;
		m->ioapic = m->devices[0];
	}
	rc = place(m, hv_serial_create(m->chardev, hv_board_irq(m, SERIAL_GSI), &dev, err), &dev, &m->pio,
		   SERIAL_PORT, 8, err);
	if (!rc && m->chardev) {
		hv_chardev_connect(m->chardev, hv_serial_input, dev);
		hv_chardev_set_wanted(m->chardev, hv_smp_wanted, m);
	}
	if (!rc)
		rc = place(m, hv_debugcon_create(m->chardev, &dev, err), &dev, &m->pio, 0xe9, 1, err);
	if (!rc)
		rc = place(m, hv_debugexit_create(power, &dev, err), &dev, &m->pio, 0xf4, 4, err);
	if (!rc)
		rc = place(m, hv_post_create(&dev, err), &dev, &m->pio, 0x80, 1, err);
	if (!rc)
		rc = place(m, hv_rtc_create(m->config.mem, &dev, err), &dev, &m->pio, RTC_PORT, 2, err);
	if (!rc)
		rc = place(m, hv_fwcfg_create(m->cpu_count, m->config.mem, NULL, 0, &dev, err), &dev, &m->pio,
			   0x510, 2, err);
	if (!rc)
		rc = place(m, hv_power_create(power, &dev, err), &dev, &m->pio, POWER_PORT, 3, err);
	if (!rc)
		rc = place(m, hv_pvpanic_create(power, &dev, err), &dev, &m->pio, PANIC_PORT, 1, err);
	if (!rc)
		rc = place(m, hv_i8042_create(power, &dev, err), &dev, &m->pio, 0x60, 1, err);
	if (!rc)
		rc = hv_bus_add(&m->pio, 0x64, 1, 4, dev, err);
	if (!rc)
		rc = hv_bus_add(&m->pio, 0x92, 1, 0x32, dev, err);
	return rc ? rc : hv_board_create_virtio(m, err);
}

/* --- the machine --- */

static int create_cpus(struct hv_machine *m, struct hv_error *err)
{
	int rc = 0;

	m->cpus = calloc(m->cpu_count, sizeof(*m->cpus));
	if (!m->cpus)
		return hv_fail(err, ENOMEM, "no memory for %u vCPUs", m->cpu_count);
	for (unsigned i = 0; i < m->cpu_count; i++) {
		m->cpus[i].machine = m;
		m->cpus[i].vcpu.fd = -1;
		m->cpus[i].vcpu.index = i;
		hv_recorder_init(&m->cpus[i].recorder);
		atomic_store(&m->cpus[i].recorder.timed, m->config.stats);
	}
	for (unsigned i = 0; i < m->cpu_count && !rc; i++)
		rc = hv_vcpu_create(&m->cpus[i].vcpu, &m->vm, i, err);
	if (!rc)
		rc = hv_board_cpuid(m, err);
	for (unsigned i = 0; i < m->cpu_count && !rc; i++)
		rc = hv_cpuid_apply(&m->kvm, &m->cpus[i].vcpu, &m->config.cpu, m->cpu_count, m->query.leaves,
				    err);
	return rc;
}

int hv_board_create(struct hv_machine *m, struct hv_error *err)
{
	char size[32];
	int rc;

	rc = hv_board_probe(m, err);
	if (!rc)
		rc = hv_vm_create(&m->vm, &m->kvm, err);
	if (rc)
		return rc;
	/* Memory before the controllers: KVM_SET_USER_MEMORY_REGION waits for readers of KVM's buses, and
	 * just after a controller was registered there that takes 4 to 10 ms. */
	hv_memory_init(&m->memory, &m->vm);
	rc = hv_memory_add_ram(&m->memory, m->config.mem, err);
	if (rc)
		hv_error_prefix(err, "--mem %s", hv_format_size(m->config.mem, size, sizeof(size)));
	if (!rc)
		rc = hv_irqchip_create(&m->vm, m->irqchip, err);
	if (!rc)
		rc = create_devices(m, err);
	if (!rc)
		rc = create_cpus(m, err);
	return rc;
}

/* Where the virtio devices are, for ACPI; how many. */
static unsigned windows_of(const struct hv_machine *m, struct hv_acpi_virtio virtio[HV_VIRTIO_WINDOWS])
{
	for (unsigned i = 0; i < m->virtio_windows; i++)
		virtio[i] = (struct hv_acpi_virtio){
			.gpa = (uint32_t)(HV_VIRTIO_WINDOW_BASE + i * HV_VIRTIO_WINDOW_STRIDE),
			.size = (uint32_t)HV_VIRTIO_WINDOW_SIZE,
			.gsi = hv_virtio_gsi(i),
		};
	return m->virtio_windows;
}

/* The board in the words of ACPI; virtio: windows of virtio-mmio. */
static struct hv_acpi acpi_of(const struct hv_machine *m, const struct hv_acpi_virtio *virtio, unsigned count)
{
	return (struct hv_acpi){
		.cpus = m->cpu_count,
		.legacy = m->irqchip == HV_IRQCHIP_FULL,
		.sleep_port = POWER_PORT,
		.sleep_off = HV_POWER_SLEEP_OFF,
		.reset_port = POWER_PORT + 2,
		.reset_value = HV_POWER_RESET_VALUE,
		.serial_port = SERIAL_PORT,
		.serial_gsi = SERIAL_GSI,
		.rtc_port = RTC_PORT,
		.panic_port = PANIC_PORT,
		.virtio = virtio,
		.virtio_count = count,
	};
}

/*
 * The guest's command line; where it is told of no virtio devices by ACPI, Linux is told of them here
 * (Documentation/admin-guide/kernel-parameters, virtio_mmio.device=).
 */
static int command_line(const struct hv_machine *m, char **line, struct hv_error *err)
{
	const char *append = m->config.append ? m->config.append : "";
	size_t size = strlen(append) + 1 + m->virtio_windows * 64u, used;

	*line = malloc(size);
	if (!*line)
		return hv_fail(err, ENOMEM, "no memory for the command line");
	used = (size_t)snprintf(*line, size, "%s", append);
	for (unsigned i = 0; m->config.no_acpi && i < m->virtio_windows; i++)
		used += (size_t)snprintf(*line + used, size - used, "%svirtio_mmio.device=%llu@0x%llx:%u",
					 used ? " " : "", HV_VIRTIO_WINDOW_SIZE,
					 HV_VIRTIO_WINDOW_BASE + i * HV_VIRTIO_WINDOW_STRIDE,
					 hv_virtio_gsi(i));
	if (used < HV_BOOT_CMDLINE_MAX)
		return 0;
	return hv_fail_usage(
		err,
		"append: with the virtio devices, which --acpi off adds, the command line is longer "
		"than %llu bytes",
		(unsigned long long)HV_BOOT_CMDLINE_MAX - 1);
}

int hv_board_boot(struct hv_machine *m, struct hv_error *err)
{
	const struct hv_config *c = &m->config;
	struct hv_acpi_virtio virtio[HV_VIRTIO_WINDOWS];
	const struct hv_acpi acpi = acpi_of(m, virtio, windows_of(m, virtio));
	char *cmdline = NULL;
	struct hv_boot_request request = {
		.kind = c->boot,
		.path = c->image,
		.load_addr = c->load_addr,
		.acpi = m->irqchip == HV_IRQCHIP_NONE ? NULL : &acpi, /* its CPUs have APICs */
		.without_acpi = c->no_acpi,
	};
	struct hv_module modules[HV_MODULES_MAX] = {0};
	void *image = NULL, *data[HV_MODULES_MAX] = {0};
	int rc;

	rc = command_line(m, &cmdline, err);
	request.cmdline = cmdline;
	if (!rc)
		rc = hv_load_fd(m->image_fd, c->image, HV_IMAGE_MAX, &image, &request.size, err);
	request.data = image;
	request.modules = modules;
	for (; !rc && request.module_count < c->initrd_count; request.module_count++) {
		unsigned i = request.module_count;
		size_t path = strcspn(c->initrd[i], " ");

		rc = hv_load_fd(m->initrd_fds[i], c->initrd[i], HV_IMAGE_MAX, &data[i], &modules[i].size,
				err);
		modules[i].data = data[i];
		modules[i].name = c->initrd[i][path] ? c->initrd[i] + path + 1 : "";
	}
	if (!rc)
		rc = hv_boot_load(&request, &m->memory, &m->entry, err);
	if (!rc)
		rc = hv_entry_apply(&m->entry, &m->cpus[0].vcpu, &m->memory, err);
	for (unsigned i = 0; i < c->initrd_count; i++)
		hv_unload(data[i], modules[i].size);
	free(cmdline);
	hv_unload(image, request.size);
	return rc;
}

/*
 * KVM has no "reset": a vCPU and the kernel's interrupt controllers get the state of fresh ones, which a
 * spare VM of the same kind has. It is made only now, so that no start pays for it.
 */
static int reset_kvm_state(struct hv_machine *m, struct hv_error *err)
{
	struct hv_vcpu_state *state = malloc(sizeof(*state));
	struct hv_irqchip_state chips;
	struct hv_vm spare = {.fd = -1};
	int rc = state ? 0 : hv_fail(err, ENOMEM, "no memory for a vCPU's state");

	if (!rc)
		rc = hv_vm_create(&spare, &m->kvm, err);
	if (!rc)
		rc = hv_irqchip_create(&spare, m->irqchip, err);
	if (!rc && m->irqchip == HV_IRQCHIP_FULL) {
		rc = hv_irqchip_get_state(&spare, &chips, err);
		if (!rc)
			rc = hv_irqchip_set_state(&m->vm, &chips, err);
	}
	for (unsigned i = 0; i < m->cpu_count && !rc; i++) {
		struct hv_vcpu fresh;

		rc = hv_vcpu_create(&fresh, &spare, i, err);
		if (rc)
			break;
		rc = hv_vcpu_get_state(&spare, &fresh, state, err);
		if (!rc) {
			rc = hv_vcpu_set_state(&m->vm, &m->cpus[i].vcpu, state, err);
			hv_vcpu_state_free(state);
		}
		hv_vcpu_destroy(&fresh);
		atomic_store(&m->cpus[i].vector_count, 0);
		m->cpus[i].unfinished = false;
	}
	hv_vm_destroy(&spare);
	free(state);
	return rc;
}

int hv_board_reset(struct hv_machine *m, struct hv_error *err)
{
	int rc;

	for (unsigned i = 0; i < m->device_count; i++) {
		pthread_mutex_lock(&m->devices[i]->lock);
		m->devices[i]->ops->reset(m->devices[i]);
		pthread_mutex_unlock(&m->devices[i]->lock);
	}
	rc = reset_kvm_state(m, err);
	if (!rc)
		rc = hv_memory_clear(&m->memory, err);
	if (!rc)
		rc = hv_board_boot(m, err);
	if (rc)
		hv_error_prefix(err, "reset");
	return rc;
}

void hv_board_hold(struct hv_machine *m, bool held)
{
	for (unsigned i = 0; i < m->device_count; i++)
		hv_device_hold(m->devices[i], held);
}

void hv_board_destroy(struct hv_machine *m)
{
	hv_board_close(m);
	hv_board_hold(m, true); /* none uses another, or memory, on its way */
	hv_chardev_close(m->console_chardev);
	hv_chardev_close(m->agent_chardev);
	for (unsigned i = 0; i < m->cpu_count && m->cpus; i++) {
		hv_vcpu_destroy(&m->cpus[i].vcpu);
		hv_recorder_free(&m->cpus[i].recorder);
	}
	free(m->cpus);
	for (unsigned i = 0; i < m->device_count; i++)
		hv_device_destroy(m->devices[i]);
	hv_memory_free(&m->memory);
	hv_vm_destroy(&m->vm);
}
