/*
 * What the files of hvmigrate share. main.c is the order of things, options.c the command line, screen.c what
 * is written and how, progress.c the bar and its kin, signals.c being asked to stop, source.c opens what is
 * read, sandbox.c locks us in before; each command has a file of its own.
 */
#ifndef HVMIGRATE_H
#define HVMIGRATE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/error.h"
#include "disk/convert.h"
#include "disk/disk.h"

/* --- options.c: the command line -------------------------------------------------------------------------- */

enum hvm_progress_style { HVM_PROGRESS_AUTO, HVM_PROGRESS_BAR, HVM_PROGRESS_LINES, HVM_PROGRESS_NONE };

struct hvm_options;
struct hvm_progress;

/* A command; run returns the tool's exit status, and has said what was wrong. */
struct hvm_command {
	const char *name;
	const char *synopsis; /* without "hvmigrate NAME" */
	const char *help;     /* one line */
	unsigned min, max;    /* arguments */
	int (*run)(const struct hvm_options *o);
};

struct hvm_options {
	const struct hvm_command *command;
	bool help, version;
	bool json, quiet;
	enum hvm_progress_style progress;

	/* how sources are read */
	const char *format, *second_format; /* -f, -F; NULL: found out by content */
	bool salvage, raw_devices, force_share, no_sandbox;
	const char **external; /* owned array of argv's strings */
	unsigned externals;
	uint32_t timeout_ms; /* for an NBD server's answer; 0: the library's own */

	/* info, check */
	bool chain, replay_log;

	/* convert, import */
	const char *out_format; /* NULL: by the destination's name */
	const char *out_subformat;
	uint32_t block_size, sector_size;
	enum hv_convert_holes holes;
	bool verify, digest, resume, force, overwrite_device;
	bool list; /* import */
	unsigned threads;

	const char **args; /* owned array: what the command works on, ends with NULL */
	unsigned count;
};

/* Fills o from argv; freed by hvm_options_free in any case. getopt has told what where err->text is empty. */
int hvm_options_parse(struct hvm_options *o, int argc, char **argv, struct hv_error *err);
void hvm_options_free(struct hvm_options *o);
void hvm_options_help(const struct hvm_command *command); /* NULL: of all */

/* --- the commands ----------------------------------------------------------------------------------------- */

int hvm_info(const struct hvm_options *o);
int hvm_map(const struct hvm_options *o);
int hvm_check(const struct hvm_options *o);
int hvm_compare(const struct hvm_options *o);
int hvm_convert(const struct hvm_options *o);
int hvm_formats(const struct hvm_options *o);
/* args[0]: the appliance, args[1]: the folder (none with --list). */
int hvm_import(const struct hvm_options *o);

/* --- source.c: what is read ------------------------------------------------------------------------------- */

/* nbd://, nbds://, nbd+unix://... */
bool hvm_is_uri(const char *name);
/* What the options say of opening a disk of that format (may be NULL). Borrows o. */
struct hv_disk_options hvm_disk_options(const struct hvm_options *o, const char *format);
/* Opens an image, or a disk on the network, and locks it unless --force-share is given. */
int hvm_open(const struct hvm_options *o, const char *name, const struct hv_disk_options *options,
	     struct hv_disk **disk, struct hv_error *err);
/* The lock alone: -EBUSY when a VM has it open for writing, or has it open and it is to be written. */
int hvm_lock(const struct hvm_options *o, struct hv_disk *disk, struct hv_error *err);
/* The notes of a disk and of its chain to stderr, unless --quiet or --json. */
void hvm_tell_notes(const struct hvm_options *o, const struct hv_disk *disk);
/* "vmdk streamOptimized", in buf. */
const char *hvm_format_words(const struct hv_disk_info *info, char *buf, size_t size);
/* Whether path is a file of the disk or of its chain. */
bool hvm_is_part_of(const struct hv_disk *disk, const char *path);

/* --- sandbox.c: locking ourselves in ---------------------------------------------------------------------- */

/* What a command needs once it is locked in: names as the user gave them, NULL for none. */
struct hvm_reach {
	const char *image[2];  /* their folders are read */
	const char *appliance; /* the tree of its files is read; what is external to it are images too */
	const char *in_place;  /* a file or device that is there and is written */
	const char *result;    /* its folder is written */
	const char *folder;    /* is written, and may be removed */
};
/* no_new_privs, Landlock where the kernel has it, a system call filter. For good; before any thread starts.
 */
int hvm_sandbox(const struct hvm_options *o, const struct hvm_reach *reach, struct hv_error *err);

/* --- screen.c: what is written ---------------------------------------------------------------------------- */

/* Text from images and file names: what could steer a terminal comes out as '?'. */
void hvm_put(FILE *to, const char *text);
/* A line on stderr, "hvmigrate: ..."; hvm_say not with --quiet. A bar on the screen is taken away before. */
void hvm_complain(const char *fmt, ...) HV_PRINTF(1, 2);
void hvm_say(const struct hvm_options *o, const char *fmt, ...) HV_PRINTF(2, 3);
/* The failure on stderr, with --json also as an object on stdout; the exit status. */
int hvm_fail(const struct hvm_options *o, const struct hv_error *err);

#define HVM_SIZE_MAX 64
/* "1.5 GiB (1610612736 bytes)" or "512 bytes", in buf. */
const char *hvm_size(uint64_t bytes, char buf[static HVM_SIZE_MAX]);

/* Which bar is on the screen; NULL: none. progress.c tells. */
void hvm_screen_bar(struct hvm_progress *p);

/* A string of any bytes; those that are no UTF-8 become U+FFFD. Never NULL but for want of memory. */
json_t *hvm_json_string(const char *text);
json_t *hvm_json_size(uint64_t value);
/* Writes an object, many lines; or an event, one line, flushed. Both take the reference. */
void hvm_json_print(json_t *value);
void hvm_json_event(FILE *to, const char *event, json_t *value);

/* --- progress.c: how far a long run is -------------------------------------------------------------------- */

#define HVM_SAMPLES  32
#define HVM_LINE_MAX 1024

struct hvm_progress {
	const struct hvm_options *options;
	const char *doing; /* "copied", "compared" */
	FILE *events;      /* where events go; NULL: none */
	enum hvm_progress_style style;
	bool utf8, shown;
	uint64_t began_ns, drawn_ns, told_ns;
	struct { /* of the last seconds, for rate and time left: a ring */
		uint64_t ns, done, copied;
	} sample[HVM_SAMPLES];
	unsigned samples; /* ever taken */
	struct hv_convert_progress last;
};

/* Decides on the style and starts the clock. events: with --json, where they go; may be NULL. */
void hvm_progress_begin(struct hvm_progress *p, const struct hvm_options *o, const char *doing, FILE *events);
/* For struct hv_convert and hv_compare: ctx is the struct hvm_progress. Not 0 once a signal asked to stop. */
int hvm_progress_step(void *ctx, const struct hv_convert_progress *step);
/* Takes the bar away, so that a line can be written; the next step draws it anew. */
void hvm_progress_clear(struct hvm_progress *p);
void hvm_progress_end(struct hvm_progress *p);
double hvm_progress_seconds(const struct hvm_progress *p); /* since begin */
/* Remembers a step for rates; what step does before it shows anything. */
void hvm_progress_note(struct hvm_progress *p, const struct hv_convert_progress *step, uint64_t now_ns);
/* The bar as text of at most `width` columns, into buf of HVM_LINE_MAX bytes. */
void hvm_progress_bar(const struct hvm_progress *p, unsigned width, char *buf);

/* --- signals.c: being asked to stop ----------------------------------------------------------------------- */

/* From now on the first SIGINT, SIGTERM or SIGHUP only asks to stop; the second ends us at once. */
void hvm_signals_catch(void);
int hvm_signals_asked(void); /* the signal's number; 0: none yet */
/* Ends the process by the signal that asked, as whoever waits for us expects; status when there was none. */
int hvm_signals_leave(int status);

#endif
