/*
 * VMware's configuration file: lines of name = "value". There is no specification; the names are those that
 * VMware's products write and document one by one. A disk's file is the one that is current: of a machine
 * with snapshots the newest delta, whose chain the disk's own format follows. This file calls libc's iconv.
 */
#include <ctype.h>
#include <iconv.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "disk/appliance/appliance_impl.h"
#include "disk/format.h"

/* What a ".encoding" may say: no other name reaches iconv, which would load a module by it. */
static const char *const encodings[] = {
	"UTF-8",        "US-ASCII",     "windows-1250", "windows-1251", "windows-1252", "windows-1253",
	"windows-1254", "windows-1255", "windows-1256", "windows-1257", "windows-1258", "ISO-8859-1",
	"ISO-8859-2",   "ISO-8859-5",   "ISO-8859-15",  "Shift_JIS",    "EUC-JP",       "GBK",
	"GB18030",      "Big5",         "EUC-KR",
};

static int hex(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c = (char)tolower((unsigned char)c);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* |22 stands for a quote, |7C for the bar, |0A for a new line. In place; the new length. */
static size_t unescape(char *text, size_t length)
{
	size_t n = 0;

	for (size_t i = 0; i < length; i++) {
		int high = text[i] == '|' && i + 2 < length ? hex(text[i + 1]) : -1;
		int low = high >= 0 ? hex(text[i + 2]) : -1;

		if (low >= 0 && (high || low)) {
			text[n++] = (char)(high << 4 | low);
			i += 2;
		} else {
			text[n++] = text[i];
		}
	}
	return n;
}

/* name = "value", or value without quotes; # and nothing are no keys. line is cut up. */
static int read_line(struct hv_keys *k, char *line, size_t length, struct hv_error *err)
{
	char *end = line + length, *name, *equals, *value, *stop;
	size_t name_length;

	while (line < end && isspace((unsigned char)*line))
		line++;
	while (end > line && isspace((unsigned char)end[-1]))
		end--;
	if (line == end || *line == '#')
		return 0;
	name = line;
	equals = memchr(line, '=', (size_t)(end - line));
	if (!equals || equals == name)
		return hv_fail_unsafe(err, "'%.*s' is no line of the form name = \"value\"",
				      (int)(end - line > 40 ? 40 : end - line), line);
	name_length = (size_t)(equals - name);
	while (name_length && isspace((unsigned char)name[name_length - 1]))
		name_length--;
	value = equals + 1;
	while (value < end && isspace((unsigned char)*value))
		value++;
	stop = end;
	if (value < end && *value == '"') {
		value++;
		stop = memchr(value, '"', (size_t)(end - value));
		if (!stop)
			return hv_fail_unsafe(err, "the value of %.*s lacks its closing quote",
					      (int)(name_length > 80 ? 80 : name_length), name);
	}
	return hv_keys_add(k, name, name_length, value, unescape(value, (size_t)(stop - value)), err);
}

static int read_lines(struct hv_keys *k, const char *path, char *text, size_t length, struct hv_error *err)
{
	unsigned number = 1;
	int rc = 0;

	if (length >= 3 && !memcmp(text, "\xef\xbb\xbf", 3)) {
		text += 3;
		length -= 3;
	}
	for (char *p = text, *end = text + length; p < end && !rc; number++) {
		char *stop = memchr(p, '\n', (size_t)(end - p));
		char *next = stop ? stop + 1 : end;

		stop = stop ? stop : end;
		rc = memchr(p, '\0', (size_t)(stop - p)) ? hv_fail_unsafe(err, "it holds a zero byte")
							 : read_line(k, p, (size_t)(stop - p), err);
		if (rc)
			hv_error_prefix(err, "%s:%u", path, number);
		p = next;
	}
	if (!rc) {
		rc = hv_keys_sort(k, err);
		if (rc)
			hv_error_prefix(err, "%s", path);
	}
	return rc;
}

/* The same name twice with two values: VMware refuses such a machine; which of them counted nobody can say.
 */
static int check_twice(const struct hv_keys *k, const char *path, struct hv_error *err)
{
	for (unsigned i = 1; i < k->count; i++)
		if (!strcasecmp(k->item[i - 1].name, k->item[i].name) &&
		    strcmp(k->item[i - 1].value, k->item[i].value) != 0)
			return hv_fail_unsafe(err, "%s: %.80s is given twice, with two values", path,
					      k->item[i].name);
	return 0;
}

/* --- what is in it --- */

struct vmx {
	struct hv_appliance *a;
	struct hv_appliance_machine *m;
	struct hv_keys *k;
	bool foreign; /* the text is no UTF-8: convert is open */
	iconv_t convert;
	struct hv_error *err;
};

/* A value as UTF-8, for the eye and for file names; buf is size bytes. */
static const char *text_of(struct vmx *v, const char *value, char *buf, size_t size)
{
	union { /* iconv doesn't say that it only reads there */
		const char *from;
		char *in;
	} text = {value};
	char *out = buf;
	size_t in_left = value ? strlen(value) : 0, out_left = size - 1;

	if (!value || !v->foreign)
		return value;
	iconv(v->convert, NULL, NULL, NULL, NULL);
	if (iconv(v->convert, &text.in, &in_left, &out, &out_left) == (size_t)-1)
		return value;
	*out = '\0';
	return buf;
}

static const char *kept(struct vmx *v, const char *value)
{
	char buf[4096];

	return value && *value ? hv_appliance_keep(v->a, text_of(v, value, buf, sizeof(buf))) : NULL;
}

static enum hv_drive_kind kind_of(const char *bus, const char *type)
{
	if (!strcmp(bus, "floppy"))
		return HV_DRIVE_FLOPPY;
	if (type && (strcasestr(type, "cdrom") || strcasestr(type, "dvd")))
		return HV_DRIVE_CD;
	return HV_DRIVE_DISK;
}

/* Disks that are no files: the sentence's middle; NULL for an ordinary one. */
static const char *physical(const char *type, const char *file)
{
	if (type && (strcasestr(type, "rawDisk") || strcasestr(type, "passthru")))
		return "is a physical disk of its host";
	if (!strncasecmp(file, "\\\\.\\", 4) || !strncmp(file, "/dev/", 5))
		return "is a device of its host";
	return NULL;
}

static int find_disk(struct vmx *v, struct hv_appliance_drive *d, const char *folder, const char *type,
		     const char *value)
{
	char buf[4096];
	const char *name = text_of(v, value, buf, sizeof(buf));
	const char *why = physical(type, name);

	if (why) {
		hv_appliance_trouble(v->a, d, HV_DRIVE_UNSUPPORTED,
				     "%s: %s %s; copy it there into a file first", v->a->path, d->file, why);
		return 0;
	}
	return hv_appliance_find(v->a, d, folder, name, v->err);
}

/* "scsi0:1" */
static int add_drive(struct vmx *v, const char *folder, const char *bus, unsigned controller, unsigned slot,
		     const char *id)
{
	const char *type = hv_keys_get(v->k, "%s.deviceType", id);
	const char *file = hv_keys_get(v->k, "%s.fileName", id);
	const char *mode = hv_keys_get(v->k, "%s.mode", id);
	struct hv_appliance_drive *d;

	if (!hv_keys_true(hv_keys_get(v->k, "%s.present", id)))
		return 0;
	d = hv_appliance_add_drive(v->a, v->m, v->err);
	if (!d)
		return v->err->code;
	d->kind = kind_of(bus, type);
	d->bus = bus;
	d->controller = controller;
	d->slot = slot;
	d->model = kept(v, hv_keys_get(v->k, "%s%u.virtualDev", bus, controller));
	d->nonpersistent = mode && strcasestr(mode, "nonpersistent");
	d->file = kept(v, file);
	if (!d->file || !strcasecmp(d->file, "emptyBackingString") || !strcasecmp(d->file, "auto detect"))
		d->file = NULL;
	if (d->kind != HV_DRIVE_DISK || !d->file)
		return 0;
	return find_disk(v, d, folder, type, file);
}

static int add_bus(struct vmx *v, const char *folder, const char *bus, unsigned controllers, unsigned slots)
{
	for (unsigned c = 0; c < controllers; c++) {
		const char *present = hv_keys_get(v->k, "%s%u.present", bus, c);

		/* IDE needs no such line; a controller that was taken out keeps its drives' lines. */
		if (present ? !hv_keys_true(present) : strcmp(bus, "ide") != 0)
			continue;
		for (unsigned s = 0; s < slots; s++) {
			char id[32];
			int rc;

			snprintf(id, sizeof(id), "%s%u:%u", bus, c, s);
			rc = add_drive(v, folder, bus, c, s, id);
			if (rc)
				return rc;
		}
	}
	return 0;
}

static int add_drives(struct vmx *v, const char *folder)
{
	static const struct {
		const char *bus;
		unsigned controllers, slots;
	} buses[] = {{"ide", 2, 2}, {"scsi", 4, 65}, {"sata", 4, 30}, {"nvme", 4, 64}};
	int rc = 0;

	for (unsigned i = 0; i < HV_ARRAY_SIZE(buses) && !rc; i++)
		rc = add_bus(v, folder, buses[i].bus, buses[i].controllers, buses[i].slots);
	for (unsigned i = 0; i < 2 && !rc; i++) {
		char id[16];

		snprintf(id, sizeof(id), "floppy%u", i);
		rc = add_drive(v, folder, "floppy", 0, i, id);
	}
	return rc;
}

static int add_nics(struct vmx *v)
{
	for (unsigned i = 0; i < 10; i++) {
		const char *mac = hv_keys_get(v->k, "ethernet%u.address", i), *network, *model;
		struct hv_appliance_nic *n;

		if (!hv_keys_true(hv_keys_get(v->k, "ethernet%u.present", i)))
			continue;
		n = hv_appliance_add_nic(v->a, v->m, v->err);
		if (!n)
			return v->err->code;
		if (!mac || !*mac)
			mac = hv_keys_get(v->k, "ethernet%u.generatedAddress", i);
		network = hv_keys_get(v->k, "ethernet%u.networkName", i);
		model = hv_keys_get(v->k, "ethernet%u.virtualDev", i);
		n->mac = hv_appliance_mac(v->a, mac);
		n->model = model ? kept(v, model) : "vlance"; /* the oldest, which needs no line */
		n->network = kept(v, network ? network : hv_keys_get(v->k, "ethernet%u.connectionType", i));
	}
	return 0;
}

/* Devices that no field has, by the key that says they are there. */
static int add_others(struct vmx *v)
{
	static const struct {
		const char *key, *what;
	} devices[] = {
		{"sound.present", "sound card"},          {"usb.present", "USB controller"},
		{"usb_xhci.present", "USB 3 controller"}, {"ehci.present", "USB 2 controller"},
		{"serial0.present", "serial port 0"},     {"serial1.present", "serial port 1"},
		{"parallel0.present", "parallel port"},   {"pciPassthru0.present", "PCI device of the host"},
	};
	const char *saved = hv_keys_get(v->k, "checkpoint.vmState");
	int rc = 0;

	for (unsigned i = 0; i < HV_ARRAY_SIZE(devices) && !rc; i++)
		if (hv_keys_true(hv_keys_get(v->k, "%s", devices[i].key)))
			rc = hv_appliance_add_other(v->a, v->m, v->err, "%s", devices[i].what);
	if (!rc && saved && *saved)
		rc = hv_appliance_add_other(
			v->a, v->m, v->err,
			"the machine is suspended: its memory (%.200s) stays behind, and its "
			"file systems are as after a power cut",
			saved);
	return rc;
}

/* Snapshots are listed in the file beside it whose name ends in .vmsd. */
static unsigned count_snapshots(const char *path)
{
	struct hv_keys k = {0};
	size_t length, n = strlen(path);
	char *name = malloc(n + 6), *text = NULL;
	uint64_t count = 0;
	struct hv_error err;

	if (!name)
		return 0;
	memcpy(name, path, n + 1);
	snprintf(n > 4 && !strcasecmp(path + n - 4, ".vmx") ? name + n - 4 : name + n, 6, ".vmsd");
	if (!hv_appliance_load(name, HV_APPLIANCE_TEXT_MAX, &text, &length, &err) &&
	    !read_lines(&k, name, text, length, &err))
		hv_keys_number(hv_keys_get(&k, "snapshot.numSnapshots"), 10000, &count);
	hv_keys_free(&k);
	free(text);
	free(name);
	return (unsigned)count;
}

static void describe_machine(struct vmx *v, const char *path)
{
	struct hv_appliance_vm *vm = &v->m->vm;
	uint64_t number;

	vm->name = kept(v, hv_keys_get(v->k, "displayName"));
	vm->os = kept(v, hv_keys_get(v->k, "guestOS"));
	vm->cpus = 1; /* what VMware takes when the line is not there */
	if (hv_keys_number(hv_keys_get(v->k, "numvcpus"), 65536, &number))
		vm->cpus = (unsigned)number;
	if (hv_keys_number(hv_keys_get(v->k, "memsize"), 1U << 30, &number))
		vm->memory = number << 20;
	vm->firmware = hv_keys_get(v->k, "firmware") ? kept(v, hv_keys_get(v->k, "firmware")) : "bios";
	vm->secure_boot = hv_keys_true(hv_keys_get(v->k, "uefi.secureBoot.enabled"));
	vm->tpm = hv_keys_true(hv_keys_get(v->k, "vtpm.present"));
	vm->snapshots = count_snapshots(path);
}

static int open_encoding(struct vmx *v, const char *path)
{
	const char *name = hv_keys_get(v->k, ".encoding");

	if (!name || !strcasecmp(name, "UTF-8"))
		return 0;
	for (unsigned i = 0; i < HV_ARRAY_SIZE(encodings) && !v->foreign; i++) {
		if (strcasecmp(name, encodings[i]) != 0)
			continue;
		v->convert = iconv_open("UTF-8", encodings[i]);
		v->foreign = (intptr_t)v->convert != -1;
	}
	if (v->foreign)
		return 0;
	return hv_appliance_note(v->a, "%s: its encoding %.40s is not known here; names may look odd", path,
				 name)
		       ? hv_fail(v->err, ENOMEM, "%s: no memory to read it", path)
		       : 0;
}

static int describe(struct vmx *v, const char *path)
{
	int rc;

	if (hv_keys_get(v->k, "encryption.keySafe") || hv_keys_get(v->k, "encryption.data"))
		return hv_fail(v->err, ENOTSUP,
			       "%s: this machine is encrypted; take its encryption off in VMware first",
			       path);
	if (!hv_keys_get(v->k, "config.version") && !hv_keys_get(v->k, "virtualHW.version") &&
	    !hv_keys_get(v->k, "displayName"))
		return hv_fail(v->err, EINVAL,
			       "%s: this is no VMware configuration: it has neither config.version nor "
			       "displayName",
			       path);
	rc = check_twice(v->k, path, v->err);
	if (rc)
		return rc;
	v->m = hv_appliance_add_machine(v->a, v->err);
	if (!v->m)
		return v->err->code;
	rc = open_encoding(v, path);
	if (rc)
		return rc;
	describe_machine(v, path);
	rc = add_drives(v, v->a->folder);
	if (!rc)
		rc = add_nics(v);
	if (!rc)
		rc = add_others(v);
	if (v->foreign)
		iconv_close(v->convert);
	return rc;
}

int hv_vmx_read(struct hv_appliance *a, const char *path, const char *text, size_t length,
		struct hv_error *err)
{
	struct hv_keys k = {0};
	struct vmx v = {.a = a, .k = &k, .err = err};
	char *copy = malloc(length + 1);
	int rc;

	if (!copy)
		return hv_fail(err, ENOMEM, "%s: no memory to read it", path);
	memcpy(copy, text, length);
	a->kind = "vmx";
	rc = read_lines(&k, path, copy, length, v.err);
	if (!rc)
		rc = describe(&v, path);
	hv_keys_free(&k);
	free(copy);
	return rc;
}
