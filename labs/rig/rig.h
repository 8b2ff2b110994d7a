/*
 * The rig: a program that calls the student's functions as a script tells it to. It reads commands from
 * standard input, one a line, words apart by spaces, and answers each with one JSON object on the answers'
 * descriptor:
 *
 *   {"command":"mem_at","rc":0,"error":"","host":true,"offset":4096}
 *
 * rc is what the called function returned (0 or a negative errno). The rig judges nothing: what would be
 * right, only the grader knows.
 *
 * A lab that needs commands of its own has a file labNN.c with a table rig_labNN of them; vm.c and machine.c
 * hold the common ones.
 */
#ifndef HV_RIG_H
#define HV_RIG_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/error.h"
#include "boot/boot.h"
#include "device/bus.h"
#include "kvm/irq.h"
#include "kvm/memory.h"
#include "kvm/vcpu.h"
#include "machine/machine.h"

#define RIG_VCPUS 8
#define RIG_WORDS 64 /* of a command line */

struct rig {
	struct hv_kvm kvm;
	struct hv_vm vm;
	struct hv_memory memory;
	struct hv_vcpu vcpus[RIG_VCPUS]; /* vcpus[i].fd is -1 where there is none */
	struct hv_machine *machine;
	struct hv_chardev *chardev;
	void *lab[16];       /* what labNN.c keeps, by the lab's number */
	struct hv_error err; /* of the command under way */
	FILE *answer;        /* the object under way; use rig_number and its like */
};

struct rig_command {
	const char *name;
	const char *usage;
	/* words[0] is the name. Returns rc; rig->err tells the sentence. Wrong usage: rig_usage(rig). */
	int (*run)(struct rig *rig, int count, char **words);
};

#define RIG_USAGE (-10000) /* not an errno: the script is wrong, the rig ends with status 2 */

/* Adds a value to the answer. */
void rig_number(struct rig *rig, const char *key, uint64_t value);
void rig_signed(struct rig *rig, const char *key, int64_t value);
void rig_bool(struct rig *rig, const char *key, bool value);
void rig_text(struct rig *rig, const char *key, const char *text);
void rig_bytes(struct rig *rig, const char *key, const void *data, size_t size); /* hexadecimal */

/* A word as a number (0x or decimal, a leading - allowed); false when it is none. */
bool rig_parse(const char *word, uint64_t *out);
/* The word after "key=", or NULL; and the same as a number, with a default. */
const char *rig_option(int count, char **words, const char *key);
uint64_t rig_option_number(int count, char **words, const char *key, uint64_t otherwise);
/* A word of hexadecimal digits into bytes; returns how many, or -1. */
int rig_parse_bytes(const char *word, uint8_t *out, size_t max);

/* Why a machine ended, in a word that no new reason changes: "halt", "error". */
const char *rig_end_word(enum hv_end_reason reason);

/* Tables end with a NULL name. */
extern const struct rig_command rig_vm[], rig_machine[];

#endif
