/*
 * OVF envelopes: DMTF DSP0243 1.x and 2.x, and what VMware (0.9 too) and VirtualBox add to them. The
 * envelope's parts are collected first, as they refer to each other, and put together at the end
 * (ovf_build.c). Elements are known by their local names: writers disagree on name spaces. This file calls
 * expat's wrapper.
 */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "disk/appliance/ovf_impl.h"

/* Which fields of an item are kept, and where. */
static const struct {
	const char *name;
	size_t at;
} item_fields[] = {
	{"ResourceType", offsetof(struct hv_ovf_item, type)},
	{"InstanceID", offsetof(struct hv_ovf_item, id)},
	{"InstanceId", offsetof(struct hv_ovf_item, id)},
	{"Parent", offsetof(struct hv_ovf_item, parent)},
	{"AddressOnParent", offsetof(struct hv_ovf_item, slot)},
	{"Address", offsetof(struct hv_ovf_item, address)},
	{"HostResource", offsetof(struct hv_ovf_item, host)},
	{"ResourceSubType", offsetof(struct hv_ovf_item, subtype)},
	{"ElementName", offsetof(struct hv_ovf_item, name)},
	{"Caption", offsetof(struct hv_ovf_item, caption)},
	{"VirtualQuantity", offsetof(struct hv_ovf_item, quantity)},
	{"AllocationUnits", offsetof(struct hv_ovf_item, units)},
	{"Connection", offsetof(struct hv_ovf_item, connection)},
};

static int no_memory(const struct hv_ovf *o)
{
	return hv_fail_unsafe(o->err, "%s: the envelope takes more than %u MiB, more than any real one",
			      o->path, HV_APPLIANCE_KEEP_MAX >> 20);
}

/* One more in a list, zeroed; NULL when there are too many. */
static void *add(struct hv_ovf *o, void **list, unsigned *count, size_t size, const char *what)
{
	void *grown;

	if (*count == HV_OVF_PARTS_MAX) {
		hv_fail_unsafe(o->err, "%s: the envelope has more than %u %s", o->path, HV_OVF_PARTS_MAX,
			       what);
		return NULL;
	}
	if ((*count & (*count - 1)) == 0) { /* a power of two: full */
		grown = reallocarray(*list, *count ? 2 * (size_t)*count : 1, size);
		if (!grown) {
			hv_fail(o->err, ENOMEM, "%s: no memory to read it", o->path);
			return NULL;
		}
		*list = grown;
	}
	memset((char *)*list + *count * size, 0, size);
	return (char *)*list + (*count)++ * size;
}

/* A string to keep, or NULL for none; *rc tells when memory was short. */
static const char *keep(struct hv_ovf *o, const char *text, int *rc)
{
	const char *copy = text && *text ? hv_appliance_keep(o->a, text) : NULL;

	if (text && *text && !copy)
		*rc = no_memory(o);
	return copy;
}

static int start_file(struct hv_ovf *o, const char **attributes)
{
	struct hv_ovf_file *f = add(o, (void **)&o->file, &o->files, sizeof(*f), "files");
	int rc = 0;

	if (!f)
		return o->err->code;
	f->id = keep(o, hv_xml_attribute(attributes, "id"), &rc);
	f->href = keep(o, hv_xml_attribute(attributes, "href"), &rc);
	f->size = keep(o, hv_xml_attribute(attributes, "size"), &rc);
	f->compression = keep(o, hv_xml_attribute(attributes, "compression"), &rc);
	f->chunk = keep(o, hv_xml_attribute(attributes, "chunkSize"), &rc);
	return rc;
}

static int start_disk(struct hv_ovf *o, const char **attributes)
{
	struct hv_ovf_disk *d = add(o, (void **)&o->disk, &o->disks, sizeof(*d), "disks");
	int rc = 0;

	if (!d)
		return o->err->code;
	d->id = keep(o, hv_xml_attribute(attributes, "diskId"), &rc);
	d->file = keep(o, hv_xml_attribute(attributes, "fileRef"), &rc);
	d->capacity = keep(o, hv_xml_attribute(attributes, "capacity"), &rc);
	d->units = keep(o, hv_xml_attribute(attributes, "capacityAllocationUnits"), &rc);
	d->parent = keep(o, hv_xml_attribute(attributes, "parentRef"), &rc);
	d->format = keep(o, hv_xml_attribute(attributes, "format"), &rc);
	return rc;
}

static int start_machine(struct hv_ovf *o, unsigned depth, const char **attributes)
{
	struct hv_appliance_machine *m = hv_appliance_add_machine(o->a, o->err);
	int rc = 0;

	if (!m)
		return o->err->code;
	o->machine_depth = depth;
	m->vm.name = keep(o, hv_xml_attribute(attributes, "id"), &rc);
	return rc;
}

static int start_item(struct hv_ovf *o, unsigned depth, const char **attributes)
{
	struct hv_ovf_item *i = add(o, (void **)&o->item, &o->items, sizeof(*i), "items");
	int rc = 0;

	if (!i)
		return o->err->code;
	o->item_depth = depth;
	i->machine = o->a->machines - 1;
	i->configuration = keep(o, hv_xml_attribute(attributes, "configuration"), &rc);
	i->bound = keep(o, hv_xml_attribute(attributes, "bound"), &rc);
	return rc;
}

static int start_configuration(struct hv_ovf *o, const char **attributes)
{
	const char *id = hv_xml_attribute(attributes, "id");
	int rc = 0;

	if (!o->configuration || hv_keys_true(hv_xml_attribute(attributes, "default")))
		o->configuration = keep(o, id, &rc);
	return rc;
}

/* VMware's: <vmw:Config vmw:key="firmware" vmw:value="efi"/>, in the hardware section. */
static int start_config(struct hv_ovf *o, const char **attributes)
{
	struct hv_appliance_vm *vm = &o->a->machine[o->a->machines - 1].vm;
	const char *key = hv_xml_attribute(attributes, "key"), *value = hv_xml_attribute(attributes, "value");
	int rc = 0;

	if (!key || !value)
		return 0;
	if (!strcasecmp(key, "firmware"))
		vm->firmware = keep(o, value, &rc);
	else if (!strcasecmp(key, "bootOptions.efiSecureBootEnabled") ||
		 !strcasecmp(key, "uefi.secureBoot.enabled"))
		vm->secure_boot = hv_keys_true(value);
	return rc;
}

/* VirtualBox's own description of the machine, which goes along in its envelopes. */
static int in_vbox(struct hv_ovf *o, unsigned depth, const char *name, const char **attributes)
{
	struct hv_appliance_vm *vm = &o->a->machine[o->a->machines - 1].vm;
	const char *type = hv_xml_attribute(attributes, "type");

	if (!strcmp(name, "Snapshot")) {
		vm->snapshots++;
		o->snapshot_depth = o->snapshot_depth ? o->snapshot_depth : depth;
	}
	if (o->snapshot_depth)
		return 0;
	if (!strcmp(name, "Firmware") && type)
		vm->firmware = !strncasecmp(type, "EFI", 3) ? "efi" : "bios";
	else if (!strcmp(name, "TrustedPlatformModule"))
		vm->tpm = type && strcasecmp(type, "None") != 0;
	else if (!strcmp(name, "SecureBoot"))
		vm->secure_boot = hv_keys_true(hv_xml_attribute(attributes, "enabled"));
	return 0;
}

static bool is_item(const char *name)
{
	return !strcmp(name, "Item") || !strcmp(name, "StorageItem") || !strcmp(name, "EthernetPortItem");
}

/* OVF 0.9 calls every section "Section" and says in xsi:type which it is. */
static const char *section(const char *name, const char **attributes)
{
	const char *type = !strcmp(name, "Section") ? hv_xml_attribute(attributes, "type") : NULL;

	if (!strcmp(name, "Content"))
		return "VirtualSystem";
	if (type && strstr(type, "OperatingSystemSection_Type"))
		return "OperatingSystemSection";
	return name;
}

static int in_machine(struct hv_ovf *o, unsigned depth, const char *name, const char **attributes)
{
	const char *type;
	int rc = 0;

	if (o->vbox_depth)
		return in_vbox(o, depth, name, attributes);
	if (o->item_depth)
		return 0;
	if (is_item(name))
		return start_item(o, depth, attributes);
	if (!strcmp(name, "Machine"))
		o->vbox_depth = depth;
	else if (!strcmp(name, "Config") || !strcmp(name, "ExtraConfig"))
		return start_config(o, attributes);
	else if (!strcmp(name, "OperatingSystemSection")) {
		o->os_depth = depth;
		type = hv_xml_attribute(attributes, "osType");
		o->a->machine[o->a->machines - 1].vm.os = keep(o, type, &rc);
	}
	return rc;
}

static int on_start(void *ctx, unsigned depth, const char *name, const char **attributes,
		    struct hv_error *err)
{
	struct hv_ovf *o = ctx;

	name = section(name, attributes);
	if (o->machine_depth)
		return in_machine(o, depth, name, attributes);
	if (!strcmp(name, "EncryptionSection"))
		return hv_fail(err, ENOTSUP, "%s: the appliance is encrypted; export it without", o->path);
	if (!strcmp(name, "File"))
		return start_file(o, attributes);
	if (!strcmp(name, "Disk"))
		return start_disk(o, attributes);
	if (!strcmp(name, "VirtualSystem"))
		return start_machine(o, depth, attributes);
	if (!strcmp(name, "Configuration"))
		return start_configuration(o, attributes);
	return 0;
}

/* A field of an item; of one that comes twice the first counts, as for HostResource's alternatives. */
static int end_field(struct hv_ovf *o, const char *name, const char *text)
{
	char *item = (char *)&o->item[o->items - 1];
	int rc = 0;

	for (unsigned i = 0; i < HV_ARRAY_SIZE(item_fields); i++) {
		const char **field = (const char **)(void *)(item + item_fields[i].at);

		if (!strcmp(name, item_fields[i].name) && !*field)
			*field = keep(o, text, &rc);
	}
	return rc;
}

static int on_end(void *ctx, unsigned depth, const char *name, const char *text, struct hv_error *err)
{
	struct hv_ovf *o = ctx;
	struct hv_appliance_vm *vm = o->machine_depth ? &o->a->machine[o->a->machines - 1].vm : NULL;
	int rc = 0;

	if (!vm)
		return 0;
	if (depth == o->machine_depth)
		o->machine_depth = 0;
	else if (depth == o->vbox_depth)
		o->vbox_depth = 0;
	else if (depth == o->snapshot_depth)
		o->snapshot_depth = 0;
	else if (depth == o->item_depth)
		o->item_depth = 0;
	else if (depth == o->os_depth)
		o->os_depth = 0;
	else if (o->item_depth && depth == o->item_depth + 1)
		rc = end_field(o, name, text);
	else if (o->os_depth && depth == o->os_depth + 1 && !strcmp(name, "Description") && !vm->os)
		vm->os = keep(o, text, &rc);
	else if (depth == o->machine_depth + 1 && !strcmp(name, "Name") && *text)
		vm->name = keep(o, text, &rc);
	return rc;
}

int hv_ovf_read(struct hv_appliance *a, const char *path, const char *text, size_t length,
		struct hv_error *err)
{
	struct hv_ovf o = {.a = a, .path = path, .err = err};
	const struct hv_xml x = {.start = on_start, .end = on_end, .ctx = &o};
	int rc;

	if (!a->archive)
		a->kind = "ovf";
	rc = hv_xml_parse(&x, path, text, length, err);
	if (!rc)
		rc = hv_ovf_build(&o);
	free(o.file);
	free(o.disk);
	free(o.item);
	return rc;
}
