/*
 * hvmigrate import: a machine as another system hands it over, to disks that are read anywhere and a
 * description that hvrun reads. Order of things: read the description, compare the digests, look whether
 * everything is there and nothing is in the way, convert disk by disk, write the description last. Unless
 * told to salvage, nothing is converted of an appliance that is not whole.
 */
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/parse.h"
#include "import.h"

static int status_of(const struct hv_error *err)
{
	return err->status ? (int)err->status : HV_EXIT_FAILED;
}

/* Says what failed; the worst status is the tool's. */
static int fail(struct hvm_import *m, const struct hv_error *err)
{
	int status = status_of(err);

	hvm_complain("%s", err->text);
	if (m->events)
		hvm_json_event(m->events, "error",
			       json_pack("{s:i,s:o}", "status", status, "text", hvm_json_string(err->text)));
	if (status > m->status)
		m->status = status;
	return status;
}

static bool is_convertible(const struct hv_appliance_drive *d)
{
	return d->kind == HV_DRIVE_DISK && (d->file || d->capacity);
}

/* --- what there is --- */

static int list_disks(struct hvm_import *m, struct hv_error *err)
{
	unsigned count = 0;

	for (unsigned i = 0; i < m->info.vms; i++)
		count += m->info.vm[i].drives;
	m->disk = calloc(count + 1, sizeof(*m->disk));
	if (!m->disk)
		return hv_fail(err, ENOMEM, "out of memory");
	for (unsigned i = 0; i < m->info.vms; i++) {
		for (unsigned j = 0; j < m->info.vm[i].drives; j++) {
			const struct hv_appliance_drive *d = &m->info.vm[i].drive[j];
			struct hvm_imported *disk = &m->disk[m->disks];

			if (!is_convertible(d))
				continue;
			disk->vm = &m->info.vm[i];
			disk->drive = d;
			snprintf(disk->name, sizeof(disk->name), "%s.%s", d->name, m->extension);
			m->disks++;
		}
	}
	return 0;
}

static int choose_format(struct hvm_import *m, struct hv_error *err)
{
	struct hv_disk_about about;

	m->format = m->options->out_format ? m->options->out_format : "raw";
	if (!hv_disk_about(m->format, &about) || !about.creates)
		return hv_fail_usage(err, "%s can't be written", m->format);
	m->extension = strcmp(m->format, "raw") != 0 && about.extensions ? about.extensions[0] : "raw";
	return 0;
}

/* --- digests --- */

static int step_on(void *ctx, uint64_t done, uint64_t size)
{
	const struct hv_convert_progress step = {.size = size, .done = done, .copied = done};

	return hvm_progress_step(ctx, &step);
}

static unsigned count_notes(const struct hvm_import *m)
{
	unsigned n = 0;

	while (m->info.notes[n])
		n++;
	return n;
}

/* Notes that came since the last time. */
static void tell_new_notes(struct hvm_import *m)
{
	unsigned before = count_notes(m);

	hv_appliance_info(m->appliance, &m->info);
	hvm_import_tell_notes(m, before);
}

static void tell_wrong_files(struct hvm_import *m)
{
	for (unsigned i = 0; i < m->info.files; i++)
		if (m->info.file[i].digest == HV_DIGEST_WRONG)
			hvm_complain("%s: wrong digest", m->info.file[i].name);
		else if (m->info.file[i].digest == HV_DIGEST_ABSENT)
			hvm_complain("%s: listed in the manifest, and missing", m->info.file[i].name);
}

/* 0 to go on. */
static int check_digests(struct hvm_import *m)
{
	struct hv_error err = {0};
	int rc;

	if (!m->info.manifest)
		return 0;
	hvm_progress_begin(&m->progress, m->options, "checked", m->events);
	rc = hv_appliance_verify(m->appliance, step_on, &m->progress, &err);
	hvm_progress_end(&m->progress);
	tell_new_notes(m);
	if (!rc)
		return 0;
	tell_wrong_files(m);
	fail(m, &err);
	return rc == -EBADMSG && m->options->salvage ? 0 : m->status;
}

/* --- is all there, and nothing in the way --- */

static int check_troubles(struct hvm_import *m)
{
	bool any = false;

	for (unsigned i = 0; i < m->disks; i++) {
		const struct hv_appliance_drive *d = m->disk[i].drive;
		struct hv_error err = {0};

		if (!d->trouble)
			continue;
		any = true;
		if (d->trouble == HV_DRIVE_UNSUPPORTED)
			hv_fail(&err, ENOTSUP, "%s", d->why);
		else
			hv_fail_unsafe(&err, "%s", d->why);
		fail(m, &err);
	}
	if (any && !m->options->salvage) {
		hvm_say(m->options, "note: nothing was converted; --salvage takes the other disks");
		return m->status;
	}
	return 0;
}

static int check_free(const struct hvm_import *m, const char *folder, const char *name, bool *exists,
		      struct hv_error *err)
{
	char path[PATH_MAX];
	struct stat st;

	if ((size_t)snprintf(path, sizeof(path), "%s/%s", folder, name) >= sizeof(path))
		return hv_fail_usage(err, "%.256s: the path is too long", folder);
	*exists = lstat(path, &st) == 0;
	if (!*exists)
		return 0;
	if (!m->options->force)
		return hv_fail(err, EEXIST, "%s exists already; --force replaces it, another folder is safer",
			       path);
	if (!S_ISREG(st.st_mode))
		return hv_fail(err, EEXIST, "%s exists already and is no regular file", path);
	return 0;
}

static int check_folder(struct hvm_import *m, const char *folder, struct hv_error *err)
{
	bool exists;
	int rc = 0;

	for (unsigned i = 0; i < m->disks && !rc; i++)
		if (!m->disk[i].drive->trouble)
			rc = check_free(m, folder, m->disk[i].name, &m->disk[i].exists, err);
	for (unsigned i = 0; i < m->info.vms && !rc; i++) {
		char name[80], plain[65];

		hvm_import_name(m, i, plain);
		snprintf(name, sizeof(name), "%s.conf", plain);
		rc = check_free(m, folder, name, &exists, err);
	}
	return rc;
}

static int open_disk(struct hvm_import *m, const struct hvm_imported *disk, struct hv_disk **source,
		     struct hv_error *err)
{
	const struct hv_disk_options options = {.salvage = m->options->salvage,
						.raw_devices = m->options->raw_devices};
	int rc;

	if (disk->drive->parts) {
		hvm_say(m->options, "%s is %s: putting it together in a temporary file first",
			disk->drive->file, disk->drive->gzip ? "compressed" : "cut into pieces");
		hvm_progress_begin(&m->progress, m->options, "unpacked", m->events);
	}
	rc = hv_appliance_disk_open(m->appliance, disk->drive, &options, source, err);
	if (!rc && hvm_lock(m->options, *source, err)) {
		hv_disk_close(*source);
		*source = NULL;
		rc = err->code;
	}
	if (disk->drive->parts)
		hvm_progress_end(&m->progress);
	if (rc && disk->drive->length) /* a member: the sentence has only the archive's name */
		hv_error_prefix(err, "%s", disk->drive->file);
	return rc;
}

/* What --force would replace may be what a disk is read from. */
static int check_source(const struct hvm_import *m, const struct hv_disk *source, const char *folder,
			struct hv_error *err)
{
	for (unsigned i = 0; i < m->disks; i++) {
		char path[PATH_MAX];

		if (!m->disk[i].exists)
			continue;
		snprintf(path, sizeof(path), "%s/%s", folder, m->disk[i].name);
		if (hvm_is_part_of(source, path))
			return hv_fail_usage(err, "%s is a part of the appliance; give another folder", path);
	}
	return 0;
}

/* Every disk can be opened, before the first is converted; but those that take long to open. 0 to go on. */
static int check_disks(struct hvm_import *m, const char *folder)
{
	for (unsigned i = 0; i < m->disks; i++) {
		struct hvm_imported *disk = &m->disk[i];
		struct hv_disk *source = NULL;
		struct hv_error err = {0};
		int rc;

		if (disk->drive->trouble || !disk->drive->file || disk->drive->parts)
			continue;
		rc = open_disk(m, disk, &source, &err);
		if (!rc)
			rc = check_source(m, source, folder, &err);
		hv_disk_close(source);
		if (!rc)
			continue;
		disk->failed = true;
		fail(m, &err);
		if (!m->options->salvage || rc == -EINVAL)
			return m->status;
	}
	return 0;
}

/* --- the disks --- */

static void lost(void *ctx, const struct hv_convert_loss *loss)
{
	struct hvm_progress *p = ctx;
	struct hvm_import *m = hv_container_of(p, struct hvm_import, progress);
	char size[HVM_SIZE_MAX];

	hvm_complain("lost: %s at offset %llu: %s", hvm_size(loss->length, size),
		     (unsigned long long)loss->offset, loss->why);
	if (m->events)
		hvm_json_event(m->events, "lost",
			       json_pack("{s:I,s:I,s:o}", "offset", (json_int_t)loss->offset, "length",
					 (json_int_t)loss->length, "why", hvm_json_string(loss->why)));
}

static void tell_start(const struct hvm_import *m, const struct hvm_imported *disk, struct hv_disk *source)
{
	struct hv_disk_info info;
	char words[64], size[24];

	hv_disk_info(source, &info);
	hvm_format_words(&info, words, sizeof(words));
	if (m->events)
		hvm_json_event(m->events, "disk",
			       json_pack("{s:o,s:s,s:o,s:s,s:I}", "source",
					 hvm_json_string(disk->drive->file), "source-format", words,
					 "destination", hvm_json_string(disk->name), "destination-format",
					 m->format, "size", (json_int_t)info.size));
	else
		hvm_say(m->options, "%s (%s, %s) to %s", disk->drive->file, words,
			hv_format_size(info.size, size, sizeof(size)), disk->name);
}

static void note_result(struct hvm_imported *disk, const struct hv_convert *c)
{
	disk->done = true;
	disk->losses = c->losses > 0;
	disk->size = c->result.size;
	for (unsigned i = 0; c->digest && i < sizeof(c->sha256); i++)
		snprintf(disk->sha256 + 2UL * i, 3, "%02x", c->sha256[i]);
}

static void tell_result(const struct hvm_import *m, const struct hv_convert *c)
{
	char copied[24], skipped[24];

	if (!m->events)
		hvm_say(m->options, "%s copied, %s holes in %.1f s%s",
			hv_format_size(c->result.copied, copied, sizeof(copied)),
			hv_format_size(c->result.skipped, skipped, sizeof(skipped)),
			hvm_progress_seconds(&m->progress), c->verify ? ", read back and equal" : "");
}

static int convert(struct hvm_import *m, struct hvm_imported *disk, struct hv_disk *source, const char *path,
		   struct hv_error *err)
{
	const struct hvm_options *o = m->options;
	struct hv_convert c = {
		.source = source,
		.path = path,
		.create = {.format = m->format,
			   .subformat = o->out_subformat,
			   .full = o->holes == HV_HOLES_FULL},
		.holes = o->holes,
		.threads = o->threads,
		.verify = o->verify,
		.digest = o->digest,
		.salvage = o->salvage,
		.no_replace = !o->force,
		.no_journal = true, /* import starts anew */
		.progress = hvm_progress_step,
		.lost = lost,
		.ctx = &m->progress,
	};
	int rc;

	hvm_progress_begin(&m->progress, o, "copied", m->events);
	rc = hv_convert(&c, err);
	hvm_progress_end(&m->progress);
	if (c.complete)
		note_result(disk, &c);
	if (!rc)
		tell_result(m, &c);
	if (!rc && o->digest && !m->events)
		printf("%s  %s\n", disk->sha256, path);
	return rc;
}

/* A disk that the envelope only gives a size for: there is nothing to read. */
static int make_empty(struct hvm_import *m, struct hvm_imported *disk, const char *path, struct hv_error *err)
{
	const struct hv_disk_create create = {
		.format = m->format, .subformat = m->options->out_subformat, .size = disk->drive->capacity};
	struct hv_disk *d;
	int rc = hv_disk_create(path, &create, &d, err);

	if (rc)
		return rc;
	rc = hv_disk_commit(d, err);
	disk->done = rc == 0;
	disk->size = hv_disk_size(d);
	hv_disk_close(d);
	return rc;
}

static int import_disk(struct hvm_import *m, struct hvm_imported *disk, const char *folder,
		       struct hv_error *err)
{
	struct hv_disk *source;
	char path[PATH_MAX];
	int rc;

	snprintf(path, sizeof(path), "%s/%s", folder, disk->name); /* check_free saw that it fits */
	if (!disk->drive->file)
		return make_empty(m, disk, path, err);
	rc = open_disk(m, disk, &source, err);
	if (rc)
		return rc;
	tell_new_notes(m);
	hvm_tell_notes(m->options, source);
	rc = check_source(m, source, folder, err); /* again: what was put together is open only now */
	if (!rc)
		tell_start(m, disk, source);
	rc = rc ? rc : convert(m, disk, source, path, err);
	hv_disk_close(source);
	return rc;
}

/* 0, or not when the rest is not to be tried either. */
static int import_disks(struct hvm_import *m, const char *folder)
{
	for (unsigned i = 0; i < m->disks; i++) {
		struct hv_error err = {0};

		if (m->disk[i].drive->trouble || m->disk[i].failed ||
		    !import_disk(m, &m->disk[i], folder, &err))
			continue;
		if (hvm_signals_asked())
			hv_fail(&err, ECANCELED, "stopped; the disks that were complete stay in %s", folder);
		fail(m, &err);
		if (!m->options->salvage || hvm_signals_asked())
			return m->status;
	}
	return 0;
}

/* --- the end --- */

static void tell_left(void *ctx, const char *text)
{
	const struct hvm_import *m = *(const struct hvm_import *const *)ctx;

	hvm_say(m->options, "not carried over: %s", text);
}

static void tell_done(const struct hvm_import *m, const char *folder)
{
	if (m->events) {
		json_t *j = hvm_import_json(m);

		json_object_set_new(j, "status", json_integer(m->status));
		hvm_json_event(m->events, "done", j);
		return;
	}
	for (unsigned i = 0; i < m->info.vms; i++) {
		char name[65];

		hvm_import_name(m, i, name);
		hvm_say(m->options, "%s/%s.conf describes '%s' for hvrun --config", folder, name,
			m->info.vm[i].name ? m->info.vm[i].name : name);
		hvm_import_left(m, &m->info.vm[i], tell_left, &m);
	}
}

static int run(struct hvm_import *m, const char *folder)
{
	struct hv_error err = {0};

	hvm_signals_catch();
	hvm_import_tell_notes(m, 0);
	if (check_digests(m) || check_troubles(m))
		return m->status;
	if (check_folder(m, folder, &err))
		return fail(m, &err);
	if (check_disks(m, folder))
		return m->status;
	if (import_disks(m, folder))
		return m->status;
	if (hvm_import_write_configs(m, folder, &err))
		return fail(m, &err);
	tell_done(m, folder);
	return m->status;
}

static int list(struct hvm_import *m)
{
	if (m->options->json)
		hvm_json_print(hvm_import_json(m));
	else
		hvm_import_list(m);
	if (!m->options->json)
		hvm_import_tell_notes(m, 0);
	return m->status;
}

/* Made before the lock shuts, so that only this folder need be written; *made tells whether it was. */
static int make_folder(const char *folder, bool *made, struct hv_error *err)
{
	struct stat st;

	*made = mkdir(folder, 0777) == 0;
	if (*made)
		return 0;
	if (errno != EEXIST)
		return hv_fail_errno(err, "%s: cannot make the folder", folder);
	if (stat(folder, &st) == 0 && !S_ISDIR(st.st_mode))
		return hv_fail_usage(err, "%s: this is no folder; import writes several files", folder);
	return 0;
}

/* From here on an appliance's bytes are looked at. */
static int open_locked(struct hvm_import *m, const char *folder, struct hv_error *err)
{
	const struct hvm_options *o = m->options;
	const struct hvm_reach reach = {.appliance = o->args[0], .folder = folder};
	const struct hv_appliance_options options = {.external = (const char *const *)o->external,
						     .externals = o->externals,
						     .salvage = o->salvage,
						     .spool = folder,
						     .progress = step_on,
						     .ctx = &m->progress};
	int rc = hvm_sandbox(o, &reach, err);

	return rc ? rc : hv_appliance_open(o->args[0], &options, &m->appliance, err);
}

static int import(struct hvm_import *m, const char *folder)
{
	struct hv_error err = {0};
	int status;

	if (open_locked(m, folder, &err))
		return hvm_fail(m->options, &err);
	hv_appliance_info(m->appliance, &m->info);
	if (choose_format(m, &err) || list_disks(m, &err))
		status = fail(m, &err);
	else
		status = folder ? run(m, folder) : list(m);
	hv_appliance_close(m->appliance);
	free(m->disk);
	return status;
}

int hvm_import(const struct hvm_options *o)
{
	const char *folder = o->list ? NULL : o->args[1];
	struct hvm_import m = {.options = o};
	struct hv_error err = {0};
	bool made = false;
	int status;

	if (!o->list && o->count < 2) {
		hv_fail_usage(&err, "usage: hvmigrate import %s (or --list, without DIR)",
			      o->command->synopsis);
		return hvm_fail(o, &err);
	}
	m.events = o->json && !o->list ? stdout : NULL;
	if (folder && make_folder(folder, &made, &err))
		return hvm_fail(o, &err);
	status = import(&m, folder);
	if (made && status)
		(void)rmdir(folder); /* when there is nothing in it */
	return status;
}
