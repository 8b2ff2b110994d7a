/*
 * What the files of `hvmigrate import` share: import.c is the order of things, import_text.c what is told of
 * an appliance, import_config.c the description that hvrun reads.
 */
#ifndef HVMIGRATE_IMPORT_H
#define HVMIGRATE_IMPORT_H

#include "base/io.h"
#include "disk/appliance.h"
#include "hvmigrate.h"

/* A disk that became a file of ours. */
struct hvm_imported {
	const struct hv_appliance_vm *vm;
	const struct hv_appliance_drive *drive;
	char name[256]; /* of the file in the folder */
	bool exists;    /* a file of its name is in the folder already */
	bool failed;    /* it can't be opened */
	bool done, losses;
	char sha256[65]; /* "" without --digest */
	uint64_t size;
};

struct hvm_import {
	const struct hvm_options *options;
	struct hv_appliance *appliance;
	struct hv_appliance_info info;
	const char *format, *extension; /* of the written disks */
	struct hvm_imported *disk;
	unsigned disks;
	FILE *events; /* with --json */
	int status;   /* the worst so far */
	struct hvm_progress progress;
};

/* import_text.c */
void hvm_import_list(const struct hvm_import *m); /* to stdout, for a person */
json_t *hvm_import_json(const struct hvm_import *m);
void hvm_import_tell_notes(const struct hvm_import *m, unsigned from);
/*
 * What of a machine hvrun can't take over, sentence by sentence: calls tell for each.
 */
void hvm_import_left(const struct hvm_import *m, const struct hv_appliance_vm *vm,
		     void (*tell)(void *ctx, const char *text), void *ctx);

/* import_config.c */
/* A VM's name as hvrun takes it, into out; whether it is another one than the machine had. */
bool hvm_import_name(const struct hvm_import *m, unsigned vm, char out[static 65]);
/* Writes DIR/NAME.conf for each machine. */
int hvm_import_write_configs(const struct hvm_import *m, const char *folder, struct hv_error *err);

#endif
