/*
 * hvmigrate convert: what goes where, and what is told of it on the way. The copying is hv_convert's.
 */
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/parse.h"
#include "hvmigrate.h"

struct conversion {
	const struct hvm_options *options;
	const char *from, *to;
	struct hv_disk *source,
		*target; /* target: a destination that is there already, a device or a server */
	struct hv_convert convert;
	struct hvm_progress progress;
	FILE *events;               /* with --json */
	struct hv_disk_about about; /* the written format */
};

/* --- where it goes ---------------------------------------------------------------------------------------- */

static bool is_stdout(const char *to)
{
	return strcmp(to, "-") == 0;
}

static bool has_extension(const char *name, const struct hv_disk_about *about)
{
	const char *slash = strrchr(name, '/'), *dot = strrchr(slash ? slash : name, '.');

	for (const char *const *e = about->extensions; dot && e && *e; e++)
		if (!strcasecmp(dot + 1, *e))
			return true;
	return false;
}

/* -O, or the name's extension, or raw. */
static int choose_format(struct conversion *c, struct hv_error *err)
{
	const struct hvm_options *o = c->options;

	hv_disk_about("raw", &c->about);
	if (o->out_format) {
		hv_disk_about(o->out_format, &c->about);
	} else if (!is_stdout(c->to) && !hvm_is_uri(c->to)) {
		for (const char *const *name = hv_disk_formats(); *name; name++) {
			struct hv_disk_about about;

			if (!hv_disk_about(*name, &about) || !has_extension(c->to, &about))
				continue;
			if (!about.creates)
				return hv_fail_usage(err,
						     "%s: %s is read only; choose what to write with -O, or "
						     "another name",
						     c->to, about.name);
			c->about = about;
			break;
		}
	}
	if (strcmp(c->about.name, "raw") != 0 && (is_stdout(c->to) || hvm_is_uri(c->to)))
		return hv_fail_usage(err, "%s: only raw can go there, not %s",
				     is_stdout(c->to) ? "standard output" : c->to, c->about.name);
	return 0;
}

/* A flat VMDK has its data in a second file. */
static bool is_in_the_way(struct conversion *c, const char *path, struct hv_error *err)
{
	struct stat st;

	if (lstat(path, &st) < 0)
		return false;
	if (hvm_is_part_of(c->source, path)) {
		hv_fail_usage(err, "%s is a part of the source; give another destination", path);
		return true;
	}
	if (S_ISREG(st.st_mode) && hv_disk_lock_probe(path, err))
		return true;
	if (S_ISREG(st.st_mode) && !c->options->force) {
		hv_fail(err, EEXIST, "%s exists already; --force replaces it", path);
		return true;
	}
	return false;
}

static bool flat_is_in_the_way(struct conversion *c, struct hv_error *err)
{
	const char *dot = strrchr(c->to, '.');
	size_t stem = dot && !strchr(dot, '/') ? (size_t)(dot - c->to) : strlen(c->to);
	char *flat;
	bool found;

	if (!c->options->out_subformat || !strstr(c->options->out_subformat, "Flat"))
		return false;
	if (asprintf(&flat, "%.*s-flat.vmdk", (int)stem, c->to) < 0)
		return false;
	found = is_in_the_way(c, flat, err);
	free(flat);
	return found;
}

/* A destination that is there already is opened as a raw disk of its own size, which must suffice. */
static int open_target(struct conversion *c, struct hv_error *err)
{
	struct hv_disk_options options = {
		.format = "raw", .writable = true, .timeout_ms = c->options->timeout_ms};
	uint64_t size = hv_disk_size(c->source), room;
	char have[HVM_SIZE_MAX], need[HVM_SIZE_MAX];
	int rc = hvm_open(c->options, c->to, &options, &c->target, err);

	if (rc)
		return rc;
	room = hv_disk_size(c->target);
	if (room < size)
		return hv_fail(err, ENOSPC, "%s: holds %s, and the disk needs %s", c->to,
			       hvm_size(room, have), hvm_size(size, need));
	if (room > size)
		hvm_say(c->options, "note: %s is larger than the disk; what lies behind it becomes zeros",
			c->to);
	c->convert.target = c->target;
	c->convert.path = NULL;
	return 0;
}

static int open_device(struct conversion *c, struct hv_error *err)
{
	if (!c->options->overwrite_device)
		return hv_fail(err, EEXIST,
			       "%s is a block device; --overwrite-device writes over what it holds", c->to);
	if (strcmp(c->about.name, "raw") != 0)
		return hv_fail_usage(err, "%s: only raw can go onto a block device, not %s", c->to,
				     c->about.name);
	if (hvm_is_part_of(c->source, c->to))
		return hv_fail_usage(err, "%s is a part of the source; give another destination", c->to);
	return open_target(c, err);
}

static int choose_target(struct conversion *c, struct hv_error *err)
{
	const struct hvm_options *o = c->options;
	struct stat st;
	int rc = choose_format(c, err);

	if (rc)
		return rc;
	c->convert.path = c->to;
	if (is_stdout(c->to)) {
		if (isatty(STDOUT_FILENO))
			return hv_fail_usage(err, "standard output is a terminal; send the disk into a file "
						  "or a pipe");
		return o->resume ? hv_fail_usage(err, "standard output can't be resumed") : 0;
	}
	if (hvm_is_uri(c->to))
		return !strcmp(c->from, c->to) ? hv_fail_usage(err, "%s is the source itself", c->to)
					       : open_target(c, err);
	if (stat(c->to, &st) == 0 && S_ISBLK(st.st_mode))
		return open_device(c, err);
	if (o->overwrite_device)
		return hv_fail_usage(err, "%s is no block device; leave --overwrite-device out", c->to);
	if (is_in_the_way(c, c->to, err) || flat_is_in_the_way(c, err))
		return err->code;
	return 0;
}

/* --- telling ---------------------------------------------------------------------------------------------- */

static const char *target_words(const struct conversion *c, char *buf, size_t size)
{
	const char *sub = c->options->out_subformat;

	if (!sub && c->about.subformats)
		sub = c->about.subformats[0];
	snprintf(buf, size, "%s%s%s", c->about.name, sub ? " " : "", sub ? sub : "");
	return buf;
}

static void tell_start(struct conversion *c)
{
	struct hv_disk_info info;
	char from[64], to[64], size[24];

	hv_disk_info(c->source, &info);
	hvm_format_words(&info, from, sizeof(from));
	target_words(c, to, sizeof(to));
	if (c->events)
		hvm_json_event(c->events, "start",
			       json_pack("{s:o,s:s,s:o,s:s,s:I}", "source", hvm_json_string(c->from),
					 "source-format", from, "destination", hvm_json_string(c->to),
					 "destination-format", to, "size", (json_int_t)info.size));
	else
		hvm_say(c->options, "%s (%s, %s) to %s (%s)", c->from, from,
			hv_format_size(info.size, size, sizeof(size)),
			is_stdout(c->to) ? "standard output" : c->to, to);
}

static void tell_note_events(const struct conversion *c)
{
	struct hv_disk_info info;

	for (const struct hv_disk *d = c->source; d && c->events; d = hv_disk_parent(d)) {
		hv_disk_info(d, &info);
		for (const char *const *n = info.notes; n && *n; n++)
			hvm_json_event(c->events, "note", json_pack("{s:o}", "text", hvm_json_string(*n)));
	}
}

static void lost(void *ctx, const struct hv_convert_loss *loss)
{
	struct hvm_progress *p = ctx;
	struct conversion *c = hv_container_of(p, struct conversion, progress);
	char size[HVM_SIZE_MAX];

	hvm_complain("lost: %s at offset %llu: %s", hvm_size(loss->length, size),
		     (unsigned long long)loss->offset, loss->why);
	if (c->events)
		hvm_json_event(c->events, "lost",
			       json_pack("{s:I,s:I,s:o}", "offset", (json_int_t)loss->offset, "length",
					 (json_int_t)loss->length, "why", hvm_json_string(loss->why)));
}

static void hex(const uint8_t digest[static 32], char text[static 65])
{
	for (int i = 0; i < 32; i++)
		snprintf(text + 2 * i, 3, "%02x", digest[i]);
}

/* The digest as sha256sum(1) has it, on standard output unless the disk itself goes there. */
static void tell_digest(const struct conversion *c)
{
	FILE *to = is_stdout(c->to) ? stderr : stdout;
	char text[65];

	hex(c->convert.sha256, text);
	fprintf(to, "%s  ", text);
	hvm_put(to, c->to);
	fputc('\n', to);
}

static void tell_done_event(const struct conversion *c, double seconds)
{
	const struct hv_convert_progress *r = &c->convert.result;
	json_t *j = json_pack(
		"{s:I,s:I,s:I,s:I,s:f,s:I,s:b}", "size", (json_int_t)r->size, "copied", (json_int_t)r->copied,
		"skipped", (json_int_t)r->skipped, "lost", (json_int_t)r->lost, "seconds", seconds, "rate",
		(json_int_t)(seconds > 0 ? (double)r->copied / seconds : 0), "verified", c->options->verify);
	char text[65];

	if (c->convert.resumed_from)
		json_object_set_new(j, "resumed-from", hvm_json_size(c->convert.resumed_from));
	if (c->options->digest) {
		hex(c->convert.sha256, text);
		json_object_set_new(j, "sha256", json_string(text));
	}
	hvm_json_event(c->events, "done", j);
}

static void tell_done(const struct conversion *c)
{
	const struct hv_convert_progress *r = &c->convert.result;
	double seconds = hvm_progress_seconds(&c->progress);
	char copied[24], skipped[24], rate[24], went_on[24];

	if (c->events) {
		tell_done_event(c, seconds);
		return;
	}
	if (c->convert.resumed_from)
		hvm_say(c->options, "went on from %s",
			hv_format_size(c->convert.resumed_from, went_on, sizeof(went_on)));
	hvm_say(c->options, "%s copied, %s holes in %.1f s, %s/s%s",
		hv_format_size(r->copied, copied, sizeof(copied)),
		hv_format_size(r->skipped, skipped, sizeof(skipped)), seconds,
		hv_format_size((uint64_t)((double)r->copied / (seconds > 0.001 ? seconds : 0.001)), rate,
			       sizeof(rate)),
		c->options->verify ? ", read back and equal" : "");
	if (c->options->digest)
		tell_digest(c);
}

/* --- the run ---------------------------------------------------------------------------------------------- */

static int fail(const struct conversion *c, const struct hv_error *err)
{
	int status = err->status ? (int)err->status : HV_EXIT_FAILED;

	hvm_complain("%s", err->text);
	if (c->events)
		hvm_json_event(c->events, "error",
			       json_pack("{s:i,s:o,s:b}", "status", status, "text",
					 hvm_json_string(err->text), "resumable", c->convert.resumable));
	return status;
}

static int stopped(const struct conversion *c, const struct hv_error *err)
{
	const struct hv_convert_progress *p = &c->progress.last;
	unsigned percent = p->size ? (unsigned)((double)p->done * 100 / (double)p->size) : 0;
	struct hv_error told = {.status = HV_EXIT_FAILED};

	if (!hvm_signals_asked())
		return fail(c, err);
	hv_fail(&told, ECANCELED, "stopped at %u%%%s", percent,
		c->convert.resumable ? "; the same command with --resume goes on from there"
				     : "; nothing of it was kept");
	return fail(c, &told);
}

/* A test that kills conversions can't wait seconds for a checkpoint. */
static uint64_t journal_every(void)
{
	const char *ms = getenv("HVMIGRATE_JOURNAL_MS");

	return ms ? strtoull(ms, NULL, 10) * 1000000 : 0;
}

static void fill_in(struct conversion *c)
{
	const struct hvm_options *o = c->options;

	c->convert.source = c->source;
	c->convert.create = (struct hv_disk_create){
		.format = c->about.name,
		.subformat = o->out_subformat,
		.sector_size = o->sector_size,
		.block_size = o->block_size,
		.full = o->holes == HV_HOLES_FULL,
	};
	c->convert.holes = o->holes;
	c->convert.threads = o->threads;
	c->convert.verify = o->verify;
	c->convert.digest = o->digest;
	c->convert.resume = o->resume;
	c->convert.no_replace = !o->force;
	c->convert.journal_every_ns = journal_every();
	c->convert.salvage = o->salvage;
	c->convert.progress = hvm_progress_step;
	c->convert.lost = lost;
	c->convert.ctx = &c->progress;
}

static int run(struct conversion *c)
{
	struct hv_error err = {0};
	int rc = choose_target(c, &err);

	if (rc)
		return fail(c, &err);
	fill_in(c);
	hvm_tell_notes(c->options, c->source);
	tell_start(c);
	tell_note_events(c);
	hvm_signals_catch();
	hvm_progress_begin(&c->progress, c->options, "copied", c->events);
	rc = hv_convert(&c->convert, &err);
	hvm_progress_end(&c->progress);
	if (rc == -ECANCELED || (rc && hvm_signals_asked())) /* Ctrl-C reaches a server beside us as well */
		return stopped(c, &err);
	if (rc && !c->convert.complete)
		return fail(c, &err);
	tell_done(c);
	return rc ? fail(c, &err) : HV_EXIT_OK;
}

/* What is there already is written in place only when that was said; else the folder gets a new file. */
static int lock_in(const struct conversion *c, struct hv_error *err)
{
	struct hvm_reach reach = {.image = {c->from}};

	if (c->options->overwrite_device)
		reach.in_place = c->to;
	else if (!is_stdout(c->to))
		reach.result = c->to;
	return hvm_sandbox(c->options, &reach, err);
}

int hvm_convert(const struct hvm_options *o)
{
	struct conversion c = {.options = o, .from = o->args[0], .to = o->args[1]};
	struct hv_disk_options options = hvm_disk_options(o, o->format);
	struct hv_error err = {0};
	int status;

	if (o->json)
		c.events = is_stdout(c.to) ? stderr : stdout;
	if (lock_in(&c, &err) || hvm_open(c.options, c.from, &options, &c.source, &err))
		status = fail(&c, &err);
	else
		status = run(&c);
	hv_disk_close(c.target);
	hv_disk_close(c.source);
	return status;
}
