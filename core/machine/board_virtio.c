/*
 * The board's virtio devices: each in the next free window of MMIO, with the IOAPIC pin that belongs to it.
 * Disks come first, in the order in which they were given, so the first one is always in window 0.
 *
 * A disk's image is the one hostile file that is looked at before the sandbox closes: its tables lead to more
 * files (backing file, extents), and these have to be open by then. Networks are opened then, too.
 */
#include <stdio.h>
#include <string.h>

#include "device/virtio/balloon.h"
#include "device/virtio/blk.h"
#include "device/virtio/console.h"
#include "device/virtio/net.h"
#include "device/virtio/types.h"
#include "device/virtio/window.h"
#include "machine/internal.h"

static int open_disk(const struct hv_machine *m, const struct hv_disk_spec *spec, struct hv_blk_image **image,
		     struct hv_error *err)
{
	struct hv_blk_options options = {
		.format = spec->format[0] ? spec->format : NULL,
		.readonly = spec->readonly,
		.direct = spec->direct,
		.log = m->log,
	};

	return hv_blk_open(spec->path, &options, image, err);
}

int hv_board_open_disks(struct hv_machine *m, struct hv_error *err)
{
	int rc = 0;

	for (unsigned i = 0; i < m->config.disk_count && !rc; i++) {
		struct hv_disk_spec spec;

		rc = hv_disk_spec_parse(&spec, m->config.disks[i], err);
		if (!rc)
			rc = open_disk(m, &spec, &m->disks[i], err);
		if (rc)
			hv_error_prefix(err, "--disk");
	}
	return rc;
}

void hv_board_close_disks(struct hv_machine *m)
{
	for (unsigned i = 0; i < HV_DISKS_MAX; i++) {
		hv_blk_close(m->disks[i]);
		m->disks[i] = NULL;
	}
}

int hv_board_open_nets(struct hv_machine *m, struct hv_error *err)
{
	int rc = 0;

	for (unsigned i = 0; i < m->config.net_count && !rc; i++) {
		struct hv_net_spec spec;

		rc = hv_net_spec_parse(&spec, m->config.nets[i], err);
		if (!rc)
			rc = hv_netback_open(&spec, m->log, &m->netbacks[i], err);
	}
	return rc;
}

void hv_board_close_nets(struct hv_machine *m)
{
	for (unsigned i = 0; i < HV_NETS_MAX; i++) {
		hv_netback_close(m->netbacks[i]);
		m->netbacks[i] = NULL;
	}
}

int hv_board_open_vsock(struct hv_machine *m, struct hv_error *err)
{
	struct hv_vsock_spec spec;
	int rc = hv_vsock_spec_parse(&spec, m->config.vsock, err);

	return rc ? rc : hv_vsock_open(spec.path, &m->vsock, err);
}

void hv_board_close_vsock(struct hv_machine *m)
{
	hv_vsock_close(m->vsock);
	m->vsock = NULL;
}

static struct hv_virtio_host host_of(struct hv_machine *m)
{
	unsigned window = m->virtio_windows;

	return (struct hv_virtio_host){
		.window = window,
		.mem = &m->memory,
		.irq = hv_board_irq(m, hv_virtio_gsi(window)),
		.log = m->log,
		.vm = &m->vm,
		.full = hv_machine_stop_full,
		.full_ctx = m,
	};
}

/* Takes the device that was made for host_of's window, and puts it there. */
static int place(struct hv_machine *m, struct hv_device *dev, struct hv_error *err)
{
	uint64_t base = HV_VIRTIO_WINDOW_BASE + m->virtio_windows++ * HV_VIRTIO_WINDOW_STRIDE;

	m->devices[m->device_count++] = dev;
	return hv_bus_add(&m->mmio, base, HV_VIRTIO_WINDOW_SIZE, 0, dev, err);
}

static int create_disk(struct hv_machine *m, unsigned i, struct hv_error *err)
{
	struct hv_virtio_host host = host_of(m);
	struct hv_disk_spec spec;
	struct hv_device *dev;
	int rc = hv_disk_spec_parse(&spec, m->config.disks[i], err);

	if (!rc)
		rc = hv_virtio_blk_create(&host, m->disks[i], spec.serial, m->cpu_count, &dev, err);
	if (rc)
		return rc;
	m->disks[i] = NULL; /* the device has it */
	m->disk_devices[i] = dev;
	return place(m, dev, err);
}

int hv_machine_resize_disk(struct hv_machine *m, const char *name, uint64_t size, struct hv_error *err)
{
	for (unsigned i = 0; i < m->config.disk_count; i++)
		if (m->disk_devices[i] && !strcmp(m->disk_devices[i]->ops->name, name))
			return hv_virtio_blk_resize(m->disk_devices[i], size, err);
	return hv_fail(err, ENODEV, "there is no disk '%.64s'; `info devices` lists the devices", name);
}

static int create_rng(struct hv_machine *m, struct hv_error *err)
{
	struct hv_virtio_host host = host_of(m);
	struct hv_device *dev;
	int rc = hv_virtio_rng_create(&host, &dev, err);

	return rc ? rc : place(m, dev, err);
}

static int create_console(struct hv_machine *m, struct hv_error *err)
{
	const struct hv_config *c = &m->config;
	struct hv_virtio_host host = host_of(m);
	const struct hv_console_port ports[HV_CONSOLE_PORTS] = {
		{.there = c->has_console, .chardev = m->console_chardev},
		{.there = c->has_agent, .chardev = m->agent_chardev, .name = c->agent_name},
	};
	int rc = hv_virtio_console_create(&host, ports, &m->console, err);

	return rc ? rc : place(m, m->console, err);
}

/* hv_balloon_change_fn */
static void balloon_changed(void *machine, uint64_t actual)
{
	struct hv_machine *m = machine;

	atomic_store(&m->balloon_actual, actual);
	hv_machine_fire(m, HV_EVENT_BALLOON, 0);
}

static int create_balloon(struct hv_machine *m, struct hv_error *err)
{
	struct hv_virtio_host host = host_of(m);
	int rc = hv_virtio_balloon_create(&host, balloon_changed, m, &m->balloon, err);

	atomic_store(&m->balloon_actual, hv_memory_size(&m->memory));
	return rc ? rc : place(m, m->balloon, err);
}

static int create_net(struct hv_machine *m, unsigned i, struct hv_error *err)
{
	struct hv_virtio_host host = host_of(m);
	struct hv_net_spec spec;
	struct hv_device *dev;
	int rc = hv_net_spec_parse(&spec, m->config.nets[i], err);

	if (!rc && !spec.has_mac)
		hv_net_mac(spec.mac, m->config.name, i);
	if (!rc)
		rc = hv_virtio_net_create(&host, m->netbacks[i], spec.mac, &dev, err);
	if (rc)
		return rc;
	m->netbacks[i] = NULL; /* the device has it */
	m->nets[i] = dev;
	return place(m, dev, err);
}

int hv_machine_set_link(struct hv_machine *m, const char *name, bool up, struct hv_error *err)
{
	char number[16];

	for (unsigned i = 0; i < m->config.net_count && m->nets[i]; i++) {
		snprintf(number, sizeof(number), "net%u", i);
		if (strcmp(name, number) != 0 && strcmp(name, m->nets[i]->ops->name) != 0)
			continue;
		hv_virtio_net_set_link(m->nets[i], up);
		return 0;
	}
	return hv_fail(err, ENODEV,
		       "there is no network device '%.60s'; the first one is net0, and `info devices` lists "
		       "them all",
		       name);
}

static int create_vsock(struct hv_machine *m, struct hv_error *err)
{
	struct hv_virtio_host host = host_of(m);
	struct hv_vsock_spec spec;
	struct hv_device *dev;
	int rc = hv_vsock_spec_parse(&spec, m->config.vsock, err);

	if (!rc)
		rc = hv_virtio_vsock_create(&host, m->vsock, spec.cid, &dev, err);
	if (rc)
		return rc;
	m->vsock = NULL; /* the device has it */
	return place(m, dev, err);
}

int hv_board_create_virtio(struct hv_machine *m, struct hv_error *err)
{
	int rc = 0;

	_Static_assert(HV_DISKS_MAX + 4 + HV_NETS_MAX <= HV_VIRTIO_WINDOWS, "each device has a window");
	for (unsigned i = 0; i < m->config.disk_count && !rc; i++)
		rc = create_disk(m, i, err);
	if (!rc && m->config.rng)
		rc = create_rng(m, err);
	if (!rc && (m->config.has_console || m->config.has_agent))
		rc = create_console(m, err);
	if (!rc && m->config.balloon)
		rc = create_balloon(m, err);
	for (unsigned i = 0; i < m->config.net_count && !rc; i++)
		rc = create_net(m, i, err);
	if (!rc && m->config.vsock)
		rc = create_vsock(m, err);
	return rc;
}
