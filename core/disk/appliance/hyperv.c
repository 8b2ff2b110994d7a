/*
 * A Hyper-V machine's configuration: one tree of keys, which XML (until 2012 R2) and VMCX (since 2016) both
 * hold, here as paths. There is no specification; the keys are those that Microsoft's and others' tools read
 * (Vagrant's import of XML, editors of VMCX). Devices have a node called by their instance's GUID; which
 * device it is, and in which order they come, the manifest tells. This file calls libc.
 */
#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "disk/appliance/appliance_impl.h"
#include "disk/format.h"

#define IDE_CONTROLLER    "83f8638b-8dca-4152-9eda-2ca8b33039b4"
#define FLOPPY_CONTROLLER "8f0d2762-0b00-4e04-af4f-19010527cb93"
#define VIRTUAL_TPM       "736e6aa9-a3f8-49c0-9550-a963214d259a"
#define DEVICES_MAX       512

struct device {
	char node[48];    /* "_83f8638b-..._", as its keys have it */
	const char *type; /* GUID, or NULL */
	unsigned of_kind; /* which one of its bus it is */
	const char *bus;  /* of those with drives */
	bool channel;     /* it talks over the VMBus: a synthetic one */
};

struct hyperv {
	struct hv_appliance *a;
	const char *path;
	const char *folder; /* where the description stands */
	struct hv_keys *k;
	struct hv_appliance_machine *m;
	struct hv_error *err;
	struct device *device;
	unsigned devices;
};

/* --- devices --- */

static const char *bare(const char *guid, char out[40])
{
	size_t n = 0;

	for (; guid && *guid && n < 36; guid++)
		if (*guid != '{' && *guid != '}' && *guid != '_')
			out[n++] = *guid;
	out[n] = '\0';
	return out;
}

static struct device *device_of(struct hyperv *h, const char *node)
{
	for (unsigned i = 0; i < h->devices; i++)
		if (!strcasecmp(h->device[i].node, node))
			return &h->device[i];
	return NULL;
}

static struct device *add_device(struct hyperv *h, const char *node)
{
	struct device *d = device_of(h, node);

	if (d || h->devices == DEVICES_MAX)
		return d;
	d = &h->device[h->devices++];
	snprintf(d->node, sizeof(d->node), "%s", node);
	return d;
}

/* "configuration/manifest/vdev007/instance": the numbers have three digits, so names' order is theirs. */
static void list_manifest(struct hyperv *h)
{
	static const char prefix[] = "configuration/manifest/vdev";
	unsigned count, first = hv_keys_under(h->k, prefix, &count);

	for (unsigned i = first; i < first + count; i++) {
		const char *name = h->k->item[i].name, *slash = strrchr(name, '/');
		char guid[40], node[48];
		struct device *d;

		if (strcasecmp(slash, "/instance") != 0)
			continue;
		snprintf(node, sizeof(node), "_%s_", bare(h->k->item[i].value, guid));
		d = add_device(h, node);
		if (d)
			d->type = hv_keys_get(h->k, "%.*s/device", (int)(slash - name), name);
	}
}

/* The part of a key's path behind its device ("MacAddress"), and the device; NULL when it is none's. */
static const char *of_device(struct hyperv *h, const char *name, struct device **d)
{
	const char *node = name + strlen("configuration/"), *slash = strchr(node, '/');
	char copy[48];

	if (!slash || slash[-1] != '_' || (size_t)(slash - node) >= sizeof(copy))
		return NULL;
	snprintf(copy, sizeof(copy), "%.*s", (int)(slash - node), node);
	*d = add_device(h, copy);
	return *d ? slash + 1 : NULL;
}

/* "{36 digits}" and the like, without letters' case. */
static bool is_type(const struct device *d, const char *guid)
{
	char type[40];

	return !strcasecmp(bare(d->type, type), guid) || !strncasecmp(d->node + 1, guid, 36);
}

static void set_bus(struct hyperv *h, struct device *d)
{
	d->bus = is_type(d, IDE_CONTROLLER) ? "ide" : is_type(d, FLOPPY_CONTROLLER) ? "floppy" : "scsi";
	for (struct device *o = h->device; o < d; o++)
		d->of_kind += o->bus == d->bus;
}

/* --- drives --- */

/* What the path of a drive's key says: "controller0/drive1/pathname". */
static bool drive_key(const char *rest, unsigned *controller, unsigned *drive, const char **what)
{
	int end = 0;

	if (sscanf(rest, "%*10[Cc]ontroller%3u/%*1[Dd]rive%3u/%n", controller, drive, &end) != 2 || end == 0)
		return false;
	*what = rest + end;
	return true;
}

static bool has_suffix(const char *name, const char *suffix)
{
	size_t n = strlen(name), m = strlen(suffix);

	return n >= m && !strcasecmp(name + n - m, suffix);
}

static enum hv_drive_kind kind_of(const struct device *d, const char *type, const char *file)
{
	if (!strcmp(d->bus, "floppy") || has_suffix(file, ".vfd"))
		return HV_DRIVE_FLOPPY;
	if (!strcasecmp(type, "ISO") || !strcasecmp(type, "DVD") || has_suffix(file, ".iso"))
		return HV_DRIVE_CD;
	return HV_DRIVE_DISK;
}

static int find_disk(struct hyperv *h, struct hv_appliance_drive *d, const char *type, const char *file)
{
	if (strcasestr(type, "physical") || !strncasecmp(file, "\\\\.\\", 4)) {
		hv_appliance_trouble(h->a, d, HV_DRIVE_UNSUPPORTED,
				     "%s: %s is a physical disk of its host; copy it there into a file first",
				     h->a->path, d->file);
		return 0;
	}
	return hv_appliance_find(h->a, d, h->folder, file, h->err);
}

static int add_drive(struct hyperv *h, struct device *device, unsigned controller, unsigned slot,
		     const char *file, const char *type)
{
	struct hv_appliance_drive *d;

	if (!device->bus)
		set_bus(h, device);
	if (!strcasecmp(type, "NONE"))
		return 0;
	d = hv_appliance_add_drive(h->a, h->m, h->err);
	if (!d)
		return h->err->code;
	d->kind = kind_of(device, type, file);
	d->bus = device->bus;
	d->model = !strcmp(d->bus, "scsi") ? "hyperv-storvsc" : NULL;
	d->controller = !strcmp(d->bus, "scsi") ? device->of_kind : controller;
	d->slot = slot;
	d->file = *file ? hv_appliance_keep(h->a, file) : NULL;
	if (d->kind != HV_DRIVE_DISK || !d->file)
		return 0;
	return find_disk(h, d, type, file);
}

/* The key is a drive's pathname, or stands for a drive without one: then it becomes a drive. */
static int look_for_drive(struct hyperv *h, const char *name, const char *value)
{
	struct device *d;
	const char *rest = of_device(h, name, &d), *what, *type;
	unsigned controller, slot;
	size_t stem;

	if (!rest || !drive_key(rest, &controller, &slot, &what))
		return 0;
	stem = (size_t)(what - name);
	type = hv_keys_get(h->k, "%.*stype", (int)stem, name);
	type = type ? type : "";
	if (!strcasecmp(what, "pathname"))
		return add_drive(h, d, controller, slot, value, type);
	if (!strcasecmp(what, "type") && !hv_keys_get(h->k, "%.*spathname", (int)stem, name))
		return add_drive(h, d, controller, slot, "", type);
	return 0;
}

/* --- network cards --- */

static int look_for_nic(struct hyperv *h, const char *name, const char *value)
{
	struct device *d;
	const char *rest = of_device(h, name, &d), *network, *label;
	struct hv_appliance_nic *n;
	char stem[64];

	if (!rest || strcasecmp(rest, "MacAddress") != 0)
		return 0;
	snprintf(stem, sizeof(stem), "configuration/%s", d->node);
	n = hv_appliance_add_nic(h->a, h->m, h->err);
	if (!n)
		return h->err->code;
	n->mac = hv_appliance_mac(h->a, value);
	n->model = hv_keys_get(h->k, "%s/ChannelInstanceGuid", stem) ? "hyperv-netvsc" : "tulip";
	network = hv_keys_get(h->k, "%s/Connection/AltSwitchName", stem);
	label = network && *network ? network : hv_keys_get(h->k, "%s/SwitchName", stem);
	n->network = label && *label ? hv_appliance_keep(h->a, label) : NULL;
	return 0;
}

/* All keys of devices, in the order of the manifest's list. */
static int add_devices(struct hyperv *h, int (*look)(struct hyperv *h, const char *name, const char *value))
{
	unsigned listed = h->devices, count;
	int rc = 0;

	for (unsigned i = 0; i <= listed && !rc; i++) {
		char prefix[64];
		unsigned first;

		/* at last those that the manifest has not: their keys come in their names' order */
		snprintf(prefix, sizeof(prefix), "configuration/%s", i < listed ? h->device[i].node : "_");
		first = hv_keys_under(h->k, prefix, &count);
		for (unsigned j = first; j < first + count && !rc; j++) {
			struct device *d;

			if (i == listed && of_device(h, h->k->item[j].name, &d) &&
			    (unsigned)(d - h->device) < listed)
				continue;
			rc = look(h, h->k->item[j].name, h->k->item[j].value);
		}
	}
	return rc;
}

/* --- the whole --- */

/* The first key whose last part is `last`, wherever it is. */
static const char *anywhere(const struct hyperv *h, const char *last)
{
	for (unsigned i = 0; i < h->k->count; i++) {
		const char *slash = strrchr(h->k->item[i].name, '/');

		if (slash && !strcasecmp(slash + 1, last))
			return h->k->item[i].value;
	}
	return NULL;
}

static bool has_tpm(const struct hyperv *h)
{
	const char *enabled = anywhere(h, "tpm_enabled");

	for (unsigned i = 0; i < h->devices && !enabled; i++)
		if (is_type(&h->device[i], VIRTUAL_TPM))
			return true;
	return hv_keys_true(enabled);
}

/* Checkpoints have descriptions of their own, in the export's folder "Snapshots". */
static unsigned count_snapshots(const struct hyperv *h)
{
	char folder[PATH_MAX];
	struct dirent *e;
	unsigned count = 0;
	DIR *dir;

	if ((size_t)snprintf(folder, sizeof(folder), "%s/Snapshots", h->a->folder) >= sizeof(folder))
		return 0;
	dir = opendir(folder);
	while (dir && count < 10000 && (e = readdir(dir)))
		count += has_suffix(e->d_name, ".vmcx") || has_suffix(e->d_name, ".xml");
	if (dir)
		closedir(dir);
	return count;
}

static int describe_memory(struct hyperv *h)
{
	static const char bank[] = "configuration/settings/memory/bank";
	struct hv_appliance_vm *vm = &h->m->vm;
	const char *limit = hv_keys_get(h->k, "%s/limit", bank);
	uint64_t mib;

	if (hv_keys_number(hv_keys_get(h->k, "%s/size", bank), 1U << 30, &mib))
		vm->memory = mib << 20;
	if (!hv_keys_true(hv_keys_get(h->k, "%s/dynamic_memory_enabled", bank)))
		return 0;
	return hv_appliance_add_other(h->a, h->m, h->err, "memory that grows and shrinks (at most %.20s MiB)",
				      limit ? limit : "?");
}

static int describe_machine(struct hyperv *h)
{
	struct hv_appliance_vm *vm = &h->m->vm;
	const char *name = hv_keys_get(h->k, "configuration/properties/name");
	const char *secure = anywhere(h, "secure_boot_enabled");
	uint64_t number;

	vm->name = hv_appliance_keep(h->a, name && *name ? name : hv_disk_base_name(h->path));
	if (hv_keys_number(hv_keys_get(h->k, "configuration/properties/subtype"), 1, &number))
		vm->generation = (unsigned)number + 1;
	else
		vm->generation = secure ? 2 : 1;
	vm->firmware = vm->generation == 2 ? "efi" : "bios";
	vm->secure_boot = vm->generation == 2 && hv_keys_true(secure);
	if (hv_keys_number(hv_keys_get(h->k, "configuration/settings/processors/count"), 65536, &number))
		vm->cpus = (unsigned)number;
	vm->snapshots = count_snapshots(h);
	vm->tpm = has_tpm(h);
	return describe_memory(h);
}

static int describe(struct hyperv *h)
{
	int rc;

	list_manifest(h);
	rc = add_devices(h, look_for_drive);
	if (!rc)
		rc = add_devices(h, look_for_nic);
	return rc ? rc : describe_machine(h);
}

int hv_hyperv_describe(struct hv_appliance *a, const char *path, struct hv_keys *keys, struct hv_error *err)
{
	struct hyperv h = {.a = a, .path = path, .k = keys, .err = err};
	const char *slash = strrchr(path, '/');
	int rc = hv_keys_sort(keys, err);

	if (rc)
		return rc;
	if (!hv_keys_get(keys, "configuration/properties/name") &&
	    !hv_keys_get(keys, "configuration/settings/processors/count"))
		return hv_fail(err, EINVAL,
			       "%s: this is no Hyper-V machine: it has neither a name nor processors", path);
	h.folder = slash ? hv_appliance_copy(a, path, (size_t)(slash - path)) : ".";
	h.device = calloc(DEVICES_MAX, sizeof(*h.device));
	h.m = hv_appliance_add_machine(a, err);
	if (!h.m)
		rc = err->code;
	else if (!h.device || !h.folder)
		rc = hv_fail(err, ENOMEM, "%s: no memory to read it", path);
	else
		rc = describe(&h);
	free(h.device);
	return rc;
}
