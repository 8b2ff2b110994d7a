/*
 * What a VM is made of: the options of hvrun, a configuration file, and what a snapshot carries.
 */
#ifndef HV_MACHINE_CONFIG_H
#define HV_MACHINE_CONFIG_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/error.h"
#include "boot/boot.h"
#include "device/chardev.h"
#include "device/virtio/console.h"
#include "device/virtio/vsock.h"
#include "kvm/cpuid.h"
#include "kvm/irq.h"

#define HV_NAME_MAX    64 /* characters of a VM's name */
#define HV_CPUS_MAX    64
#define HV_MODULES_MAX 16
#define HV_MEM_DEFAULT (64ull << 20)
#define HV_DISKS_MAX   6
#define HV_NETS_MAX    2

struct hv_config {
	char name[HV_NAME_MAX + 1]; /* "" until hv_config_finish gives one */
	char *image;                /* owned, as all pointers here */
	uint64_t mem;               /* bytes */
	unsigned cpus;
	enum hv_boot_kind boot;
	uint64_t load_addr;
	char *initrd[HV_MODULES_MAX]; /* "FILE" or "FILE command line" */
	unsigned initrd_count;
	char *append;              /* guest's command line, NULL for none */
	char *disks[HV_DISKS_MAX]; /* as hv_disk_spec_parse reads them, paths resolved */
	unsigned disk_count;
	bool rng, balloon;
	bool no_acpi;            /* an MP table and virtio_mmio.device= on the command line instead */
	char *nets[HV_NETS_MAX]; /* as hv_net_spec_parse reads them */
	unsigned net_count;
	char *vsock; /* as hv_vsock_spec_parse reads it, path resolved; NULL: none */
	struct hv_chardev_config serial, console, agent; /* console, agent: the virtio console's ports */
	bool serial_given, has_console, has_agent;
	char agent_name[HV_CONSOLE_NAME_MAX + 1];
	struct hv_cpu_model cpu;
	char *cpu_text; /* what cpu was parsed from, NULL: host */
	enum hv_irqchip irqchip;
	bool paused;
	char *gdb;           /* "tcp:PORT" or "unix:PATH" */
	char *trace;         /* file */
	uint64_t timeout_ns; /* 0: none */
	bool stats, verbose, sandbox;
};

/* A disk's words: "FILE[,format=F][,ro][,cache=C][,serial=S]"; a comma in a value is written twice. */
struct hv_disk_spec {
	char path[HV_CHARDEV_PATH_MAX];
	char format[16]; /* "": found out by content */
	char serial[21]; /* at most 20 characters */
	bool readonly;
	bool direct; /* cache=none */
};

/* A socket device's words: "PATH[,cid=N]"; a comma in the path is written twice. */
struct hv_vsock_spec {
	char path[HV_VSOCK_PATH_MAX + 1];
	uint64_t cid;
};

/* One option, as `hvrun --help` and hv_config_set know it. */
struct hv_config_option {
	const char *key;  /* "mem" */
	const char *arg;  /* "SIZE"; NULL for a switch */
	const char *help; /* one line */
};

HV_API_BEGIN
void hv_config_init(struct hv_config *c); /* defaults; always followed by hv_config_free */
void hv_config_free(struct hv_config *c);

/* The table of options, ended by a NULL key. */
extern const struct hv_config_option hv_config_options[];

/* Sets one option by its name without dashes. value is NULL for a switch ("paused"); a file may say "paused
 * yes". */
int hv_config_set(struct hv_config *c, const char *key, const char *value, struct hv_error *err);

/*
 * A configuration file: one "key value" or "key = value" a line, # comments, quotes around a value kept off.
 * "image" is a key too; relative paths in it count from the file's directory. Sentences name file and line.
 */
int hv_config_load(struct hv_config *c, const char *path, struct hv_error *err);

/* Writes the configuration in the form that hv_config_load reads. */
void hv_config_write(const struct hv_config *c, FILE *out);

/* A copy of all of it; to is freed by hv_config_free whatever the outcome. */
int hv_config_copy(struct hv_config *to, const struct hv_config *from, struct hv_error *err);

/* Checks what only the whole can show (memory against the host's, CPUs against KVM's, a name for the
 * nameless: the image's file name and the PID), and that an image is given. */
int hv_config_finish(struct hv_config *c, struct hv_error *err);

/* The words of --disk. Whether there is such a format or file is found when it is opened. */
int hv_disk_spec_parse(struct hv_disk_spec *spec, const char *text, struct hv_error *err);

/* The words of --vsock. */
int hv_vsock_spec_parse(struct hv_vsock_spec *spec, const char *text, struct hv_error *err);

/* 1 to 64 characters of letters, digits, '.', '_', '-', not starting with '.' or '-'. */
int hv_name_check(const char *name, struct hv_error *err);
HV_API_END

#endif
