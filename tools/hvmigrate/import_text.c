/*
 * What an appliance holds, told: as a list for a person, as JSON for a program; and what of it stays behind.
 */
#include <stdarg.h>
#include <string.h>

#include "base/parse.h"
#include "import.h"

#define CPUS_MAX 64 /* hvrun's */

static const char *const kinds[] = {
	[HV_DRIVE_DISK] = "disk",
	[HV_DRIVE_CD] = "CD drive",
	[HV_DRIVE_FLOPPY] = "floppy drive",
};

static const char *const troubles[] = {
	[HV_DRIVE_FINE] = NULL,
	[HV_DRIVE_MISSING] = "missing",
	[HV_DRIVE_OUTSIDE] = "outside",
	[HV_DRIVE_UNSUPPORTED] = "unsupported",
};

static const char *const digests[] = {
	[HV_DIGEST_NONE] = "none",   [HV_DIGEST_UNCHECKED] = "unchecked", [HV_DIGEST_GOOD] = "good",
	[HV_DIGEST_WRONG] = "wrong", [HV_DIGEST_UNKNOWN] = "unknown",     [HV_DIGEST_ABSENT] = "absent",
};

/* "scsi0:1 (pvscsi)" */
static const char *place(const struct hv_appliance_drive *d, char *buf, size_t size)
{
	if (!d->bus)
		snprintf(buf, size, "no controller");
	else
		snprintf(buf, size, "%s%u:%u%s%.64s%s", d->bus, d->controller, d->slot, d->model ? " (" : "",
			 d->model ? d->model : "", d->model ? ")" : "");
	return buf;
}

/* --- what stays behind --- */

struct teller {
	void (*tell)(void *ctx, const char *text);
	void *ctx;
};

static void HV_PRINTF(2, 3) say(const struct teller *t, const char *fmt, ...)
{
	char text[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	t->tell(t->ctx, text);
}

static const char *file_name(const struct hvm_import *m, const struct hv_appliance_drive *d)
{
	for (unsigned i = 0; i < m->disks; i++)
		if (m->disk[i].drive == d)
			return m->disk[i].name;
	return d->file ? d->file : "?";
}

static void left_drives(const struct hvm_import *m, const struct hv_appliance_vm *vm, const struct teller *t)
{
	char where[128];

	for (unsigned i = 0; i < vm->drives; i++) {
		const struct hv_appliance_drive *d = &vm->drive[i];

		place(d, where, sizeof(where));
		if (d->kind == HV_DRIVE_DISK && d->trouble)
			say(t, "disk %.256s at %s: not converted: %.512s", d->file ? d->file : "?", where,
			    d->why);
		else if (d->kind == HV_DRIVE_DISK && (d->file || d->capacity))
			say(t, "disk %s was at %s; hvrun has no disks yet%s", file_name(m, d), where,
			    d->nonpersistent ? "; its changes were dropped at power-off there" : "");
		else
			say(t, "%s at %s%s%.256s", kinds[d->kind], where, d->file ? ": " : ", empty",
			    d->file ? d->file : "");
	}
}

static void left_nics(const struct hv_appliance_vm *vm, const struct teller *t)
{
	for (unsigned i = 0; i < vm->nics; i++) {
		const struct hv_appliance_nic *n = &vm->nic[i];

		say(t, "network card %u: %.64s, MAC %s%s%.256s%s", i, n->model ? n->model : "of unsaid kind",
		    n->mac ? n->mac : "not said", n->network ? ", on '" : "", n->network ? n->network : "",
		    n->network ? "'" : "");
	}
}

void hvm_import_left(const struct hvm_import *m, const struct hv_appliance_vm *vm,
		     void (*tell)(void *ctx, const char *text), void *ctx)
{
	const struct teller t = {tell, ctx};

	if (vm->firmware)
		say(&t, "firmware %.32s: hvrun starts an image itself and has none", vm->firmware);
	if (vm->generation)
		say(&t, "Hyper-V generation %u", vm->generation);
	if (vm->secure_boot)
		say(&t, "secure boot was on");
	if (vm->tpm)
		say(&t, "a TPM; what is sealed to it (BitLocker's keys) needs its recovery key");
	if (vm->cpus > CPUS_MAX)
		say(&t, "%u CPUs: hvrun has at most %d", vm->cpus, CPUS_MAX);
	left_drives(m, vm, &t);
	left_nics(vm, &t);
	if (vm->snapshots)
		say(&t, "%u snapshot%s: the current state was taken, they stay behind", vm->snapshots,
		    vm->snapshots == 1 ? "" : "s");
	for (const char *const *o = vm->other; *o; o++)
		say(&t, "%.512s", *o);
}

/* --- the list --- */

static void list_drive(const struct hv_appliance_drive *d)
{
	char where[128], size[24];

	printf("  %-12s ", kinds[d->kind]);
	hvm_put(stdout, place(d, where, sizeof(where)));
	printf(": ");
	hvm_put(stdout, d->file ? d->file : d->capacity ? "a new, empty disk" : "empty");
	if (d->capacity)
		printf(", %s", hv_format_size(d->capacity, size, sizeof(size)));
	if (d->parts > 1)
		printf(", in %u pieces", d->parts);
	if (d->gzip)
		printf(", compressed");
	putchar('\n');
	if (d->trouble) {
		printf("               ");
		hvm_put(stdout, d->why);
		putchar('\n');
	}
}

static void list_machine(const struct hv_appliance_vm *vm)
{
	char size[24];

	hvm_put(stdout, vm->name ? vm->name : "(no name)");
	printf(":");
	if (vm->os) {
		printf(" ");
		hvm_put(stdout, vm->os);
		printf(",");
	}
	if (vm->cpus)
		printf(" %u CPU%s,", vm->cpus, vm->cpus == 1 ? "" : "s");
	printf(" %s", vm->memory ? hv_format_size(vm->memory, size, sizeof(size)) : "memory not said");
	if (vm->firmware) {
		printf(", ");
		hvm_put(stdout, vm->firmware);
	}
	printf("%s%s", vm->secure_boot ? ", secure boot" : "", vm->tpm ? ", TPM" : "");
	if (vm->snapshots)
		printf(", %u snapshot%s", vm->snapshots, vm->snapshots == 1 ? "" : "s");
	putchar('\n');
	for (unsigned i = 0; i < vm->drives; i++)
		list_drive(&vm->drive[i]);
	for (unsigned i = 0; i < vm->nics; i++) {
		printf("  network card ");
		hvm_put(stdout, vm->nic[i].model ? vm->nic[i].model : "?");
		printf(", MAC %s, ", vm->nic[i].mac ? vm->nic[i].mac : "not said");
		hvm_put(stdout, vm->nic[i].network ? vm->nic[i].network : "no network");
		putchar('\n');
	}
	for (const char *const *o = vm->other; *o; o++) {
		printf("  also         ");
		hvm_put(stdout, *o);
		putchar('\n');
	}
}

void hvm_import_list(const struct hvm_import *m)
{
	hvm_put(stdout, m->info.path);
	printf(" (%s)\n", m->info.kind);
	for (unsigned i = 0; i < m->info.vms; i++)
		list_machine(&m->info.vm[i]);
}

void hvm_import_tell_notes(const struct hvm_import *m, unsigned from)
{
	for (const char *const *n = m->info.notes + from; *n; n++) {
		if (m->events)
			hvm_json_event(m->events, "note", json_pack("{s:o}", "text", hvm_json_string(*n)));
		else if (!m->options->json)
			hvm_say(m->options, "note: %s", *n);
	}
}

/* --- JSON --- */

static json_t *text_or_null(const char *text)
{
	return text ? hvm_json_string(text) : json_null();
}

static json_t *json_drive(const struct hvm_import *m, const struct hv_appliance_drive *d)
{
	json_t *j = json_pack("{s:s,s:o,s:o,s:o,s:I,s:I,s:I,s:b,s:I,s:b,s:o,s:o}", "kind", kinds[d->kind],
			      "file", text_or_null(d->file), "bus", text_or_null(d->bus), "model",
			      text_or_null(d->model), "controller", (json_int_t)d->controller, "slot",
			      (json_int_t)d->slot, "capacity", (json_int_t)d->capacity, "nonpersistent",
			      d->nonpersistent, "pieces", (json_int_t)d->parts, "compressed", d->gzip,
			      "trouble", text_or_null(troubles[d->trouble]), "why", text_or_null(d->why));

	for (unsigned i = 0; i < m->disks; i++) {
		const struct hvm_imported *disk = &m->disk[i];

		if (disk->drive != d || !disk->done)
			continue;
		json_object_set_new(j, "imported", hvm_json_string(disk->name));
		json_object_set_new(j, "size", hvm_json_size(disk->size));
		json_object_set_new(j, "losses", json_boolean(disk->losses));
		if (disk->sha256[0])
			json_object_set_new(j, "sha256", json_string(disk->sha256));
	}
	return j;
}

static void append_text(void *ctx, const char *text)
{
	json_array_append_new(ctx, hvm_json_string(text));
}

static json_t *json_machine(const struct hvm_import *m, unsigned index)
{
	const struct hv_appliance_vm *vm = &m->info.vm[index];
	json_t *drives = json_array(), *nics = json_array(), *left = json_array();
	char name[65];

	for (unsigned i = 0; i < vm->drives; i++)
		json_array_append_new(drives, json_drive(m, &vm->drive[i]));
	for (unsigned i = 0; i < vm->nics; i++)
		json_array_append_new(nics,
				      json_pack("{s:o,s:o,s:o}", "model", text_or_null(vm->nic[i].model),
						"mac", text_or_null(vm->nic[i].mac), "network",
						text_or_null(vm->nic[i].network)));
	hvm_import_left(m, vm, append_text, left);
	hvm_import_name(m, index, name);
	return json_pack("{s:o,s:s,s:o,s:I,s:o,s:o,s:I,s:b,s:b,s:I,s:o,s:o,s:o}", "name",
			 text_or_null(vm->name), "hvrun-name", name, "os", text_or_null(vm->os), "cpus",
			 (json_int_t)vm->cpus, "memory", hvm_json_size(vm->memory), "firmware",
			 text_or_null(vm->firmware), "generation", (json_int_t)vm->generation, "secure-boot",
			 vm->secure_boot, "tpm", vm->tpm, "snapshots", (json_int_t)vm->snapshots, "drives",
			 drives, "network-cards", nics, "not-carried-over", left);
}

json_t *hvm_import_json(const struct hvm_import *m)
{
	json_t *machines = json_array(), *files = json_array(), *notes = json_array();

	for (unsigned i = 0; i < m->info.vms; i++)
		json_array_append_new(machines, json_machine(m, i));
	for (unsigned i = 0; i < m->info.files; i++)
		json_array_append_new(files,
				      json_pack("{s:o,s:s}", "name", hvm_json_string(m->info.file[i].name),
						"digest", digests[m->info.file[i].digest]));
	for (const char *const *n = m->info.notes; *n; n++)
		json_array_append_new(notes, hvm_json_string(*n));
	return json_pack("{s:o,s:s,s:b,s:o,s:o,s:o}", "appliance", hvm_json_string(m->info.path), "kind",
			 m->info.kind, "manifest", m->info.manifest, "machines", machines, "files", files,
			 "notes", notes);
}
