/*
 * What a VM is made of. One table names the options; hvrun's command line and a configuration file
 * (config_file.c) both go through hv_config_set, so that the two can't drift apart.
 *
 * This room calls base, the parsers of boot, kvm and device, and asks /dev/kvm one question (how many vCPUs).
 */
#include <assert.h>
#include <ctype.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/parse.h"
#include "device/net/backend.h"
#include "kvm/kvm.h"
#include "machine/config.h"
#include "machine/config_impl.h"

typedef int set_fn(struct hv_config *c, const char *key, const char *value, const char *folder,
		   struct hv_error *err);

void hv_config_init(struct hv_config *c)
{
	memset(c, 0, sizeof(*c));
	c->mem = HV_MEM_DEFAULT;
	c->cpus = 1;
	c->load_addr = 0x1000;
	c->serial.kind = HV_CHARDEV_STDIO;
	snprintf(c->agent_name, sizeof(c->agent_name), "%s", HV_CONSOLE_AGENT);
	c->sandbox = true;
}

void hv_config_free(struct hv_config *c)
{
	for (unsigned i = 0; i < c->initrd_count; i++)
		free(c->initrd[i]);
	for (unsigned i = 0; i < c->disk_count; i++)
		free(c->disks[i]);
	for (unsigned i = 0; i < c->net_count; i++)
		free(c->nets[i]);
	free(c->image);
	free(c->append);
	free(c->cpu_text);
	free(c->gdb);
	free(c->trace);
	free(c->vsock);
	memset(c, 0, sizeof(*c));
}

int hv_config_copy(struct hv_config *to, const struct hv_config *from, struct hv_error *err)
{
	char *const old[] = {from->image, from->append, from->cpu_text, from->gdb, from->trace, from->vsock};
	char **const new[] = {&to->image, &to->append, &to->cpu_text, &to->gdb, &to->trace, &to->vsock};
	bool whole = true;

	*to = *from;
	memset(to->initrd, 0, sizeof(to->initrd));
	memset(to->disks, 0, sizeof(to->disks));
	memset(to->nets, 0, sizeof(to->nets));
	for (size_t i = 0; i < HV_ARRAY_SIZE(new); i++) {
		*new[i] = old[i] ? strdup(old[i]) : NULL;
		whole = whole && (!old[i] || *new[i]);
	}
	for (unsigned i = 0; i < from->initrd_count; i++) {
		to->initrd[i] = strdup(from->initrd[i]);
		whole = whole && to->initrd[i];
	}
	for (unsigned i = 0; i < from->disk_count; i++) {
		to->disks[i] = strdup(from->disks[i]);
		whole = whole && to->disks[i];
	}
	for (unsigned i = 0; i < from->net_count; i++) {
		to->nets[i] = strdup(from->nets[i]);
		whole = whole && to->nets[i];
	}
	return whole ? 0 : hv_fail(err, ENOMEM, "no memory for a copy of the configuration");
}

/* --- values --- */

static int keep_string(char **where, const char *value, struct hv_error *err)
{
	char *copy = strdup(value);

	if (!copy)
		return hv_fail(err, ENOMEM, "no memory for the configuration");
	free(*where);
	*where = copy;
	return 0;
}

static int keep_path(char **where, const char *key, const char *value, const char *folder,
		     struct hv_error *err)
{
	char path[PATH_MAX];

	if (*value == '\0')
		return hv_fail_usage(err, "%s: the file name is empty", key);
	if ((size_t)snprintf(path, sizeof(path), "%s%s", *value == '/' ? "" : folder, value) >= sizeof(path))
		return hv_fail_usage(err, "%s: the path is longer than %zu characters", key,
				     sizeof(path) - 1);
	return keep_string(where, path, err);
}

static int parse_bool(const char *key, const char *value, bool *out, struct hv_error *err)
{
	static const char *const yes[] = {"yes", "on", "true", "1"};
	static const char *const no[] = {"no", "off", "false", "0"};

	for (size_t i = 0; i < HV_ARRAY_SIZE(yes); i++) {
		if (!strcasecmp(value, yes[i]) || !strcasecmp(value, no[i])) {
			*out = !strcasecmp(value, yes[i]);
			return 0;
		}
	}
	return hv_fail_usage(err, "%s: '%.64s' is neither on nor off", key, value);
}

/* --- options --- */

static int set_name(struct hv_config *c, const char *key, const char *value, const char *folder,
		    struct hv_error *err)
{
	int rc = hv_name_check(value, err);

	if (!rc)
		snprintf(c->name, sizeof(c->name), "%s", value);
	return rc;
}

static int set_mem(struct hv_config *c, const char *key, const char *value, const char *folder,
		   struct hv_error *err)
{
	uint64_t mem;
	int rc = hv_parse_size(key, value, 1ull << 46, &mem, err);

	if (rc)
		return rc;
	if (mem < HV_PAGE_SIZE)
		return hv_fail_usage(err, "%s: %.64s is less than a page; give at least 4K", key, value);
	c->mem = hv_round_up(mem, HV_PAGE_SIZE);
	return 0;
}

static int set_cpus(struct hv_config *c, const char *key, const char *value, const char *folder,
		    struct hv_error *err)
{
	uint64_t cpus;
	int rc = hv_parse_u64(key, value, HV_CPUS_MAX, &cpus, err);

	if (rc)
		return rc;
	if (cpus == 0)
		return hv_fail_usage(err, "%s: a VM has at least 1 CPU, at most %d", key, HV_CPUS_MAX);
	c->cpus = (unsigned)cpus;
	return 0;
}

/* What the configuration file calls image, and the command line names last. */
static int set_kernel(struct hv_config *c, const char *key, const char *value, const char *folder,
		      struct hv_error *err)
{
	return keep_path(&c->image, key, value, folder, err);
}

static int set_boot(struct hv_config *c, const char *key, const char *value, const char *folder,
		    struct hv_error *err)
{
	return hv_boot_kind_parse(&c->boot, value, err);
}

static int set_load_addr(struct hv_config *c, const char *key, const char *value, const char *folder,
			 struct hv_error *err)
{
	return hv_parse_u64(key, value, UINT32_MAX, &c->load_addr, err);
}

/* "FILE" or "FILE command line": only the file is a path, and only the first blank parts the two. */
static int set_initrd(struct hv_config *c, const char *key, const char *value, const char *folder,
		      struct hv_error *err)
{
	char *kept = NULL;
	int rc;

	if (c->initrd_count == HV_MODULES_MAX)
		return hv_fail_usage(err, "%s: more than %d modules", key, HV_MODULES_MAX);
	rc = keep_path(&kept, key, value, folder, err);
	if (!rc)
		c->initrd[c->initrd_count++] = kept;
	return rc;
}

static int set_append(struct hv_config *c, const char *key, const char *value, const char *folder,
		      struct hv_error *err)
{
	if (strlen(value) >= HV_BOOT_CMDLINE_MAX)
		return hv_fail_usage(err, "%s: the command line is longer than %llu bytes", key,
				     (unsigned long long)HV_BOOT_CMDLINE_MAX - 1);
	return keep_string(&c->append, value, err);
}

/* The path comes first, so it is made to count from folder as any other. */
static int set_disk(struct hv_config *c, const char *key, const char *value, const char *folder,
		    struct hv_error *err)
{
	struct hv_disk_spec spec;
	char *kept = NULL;
	int rc;

	if (c->disk_count == HV_DISKS_MAX)
		return hv_fail_usage(err, "%s: more than %d disks", key, HV_DISKS_MAX);
	rc = hv_disk_spec_parse(&spec, value, err);
	if (!rc)
		rc = keep_path(&kept, key, value, folder, err);
	if (!rc)
		c->disks[c->disk_count++] = kept;
	return rc;
}

/* One descriptor is one tap: two devices would take each other's frames. */
static int check_fd(const struct hv_config *c, const char *key, int fd, struct hv_error *err)
{
	for (unsigned i = 0; i < c->net_count && fd >= 0; i++) {
		struct hv_net_spec other;

		if (hv_net_spec_parse(&other, c->nets[i], NULL) == 0 && other.fd == fd)
			return hv_fail_usage(err, "%s: descriptor %d is given twice", key, fd);
	}
	return 0;
}

/* "none" takes back what was given before: a configuration file's, for one. */
static int set_net(struct hv_config *c, const char *key, const char *value, const char *folder,
		   struct hv_error *err)
{
	struct hv_net_spec spec;
	int rc = hv_net_spec_parse(&spec, value, err);

	if (rc)
		return rc;
	if (spec.kind == HV_NET_NONE) {
		while (c->net_count > 0)
			free(c->nets[--c->net_count]);
		return 0;
	}
	if (c->net_count == HV_NETS_MAX)
		return hv_fail_usage(err, "%s: more than %d network devices", key, HV_NETS_MAX);
	rc = check_fd(c, key, spec.fd, err);
	if (!rc) {
		c->nets[c->net_count] = NULL;
		rc = keep_string(&c->nets[c->net_count], value, err);
	}
	c->net_count += rc == 0;
	return rc;
}

/* Where a line leads, for sentences that name it `line`, a constant. */
static int set_line(struct hv_chardev_config *where, const char *line, const char *value, const char *folder,
		    struct hv_error *err)
{
	struct hv_chardev_config config = {0};
	int rc = hv_chardev_parse(&config, line, value, err);

	if (rc)
		return rc;
	if (config.path[0] && config.path[0] != '/' && *folder) {
		char *path = NULL;

		rc = keep_path(&path, line, config.path, folder, err);
		if (rc || !path)
			return rc;
		if (strlen(path) >= sizeof(config.path))
			rc = hv_fail_usage(err, "%s: the path is longer than %zu characters", line,
					   sizeof(config.path) - 1);
		else
			snprintf(config.path, sizeof(config.path), "%s", path);
		free(path);
		if (rc)
			return rc;
	}
	*where = config;
	return 0;
}

static int set_serial(struct hv_config *c, const char *key, const char *value, const char *folder,
		      struct hv_error *err)
{
	c->serial_given = true;
	return set_line(&c->serial, "serial", value, folder, err);
}

static int set_console(struct hv_config *c, const char *key, const char *value, const char *folder,
		       struct hv_error *err)
{
	c->has_console = true;
	return set_line(&c->console, "console", value, folder, err);
}

/* "WHERE" or "WHERE,name=NAME": the last ",name=" parts them, as no name has a comma. */
static int set_agent(struct hv_config *c, const char *key, const char *value, const char *folder,
		     struct hv_error *err)
{
	const char *name = NULL;
	char where[HV_CHARDEV_PATH_MAX + 8];
	size_t length = strlen(value);

	for (const char *at = value; (at = strstr(at, ",name=")); at++) {
		name = at + strlen(",name=");
		length = (size_t)(at - value);
	}
	if (length >= sizeof(where))
		return hv_fail_usage(err, "%s: the path is longer than %d characters", key,
				     HV_CHARDEV_PATH_MAX - 1);
	if (name && (*name == '\0' || strlen(name) > HV_CONSOLE_NAME_MAX))
		return hv_fail_usage(err, "%s: a name has 1 to %d characters", key, HV_CONSOLE_NAME_MAX);
	for (const char *p = name; p && *p; p++)
		if (!isgraph((unsigned char)*p) || *p == ',' || *p == '/')
			return hv_fail_usage(
				err, "%s: the name may only have printable characters but comma and slash",
				key);
	snprintf(where, sizeof(where), "%.*s", (int)length, value);
	snprintf(c->agent_name, sizeof(c->agent_name), "%s", name ? name : HV_CONSOLE_AGENT);
	c->has_agent = true;
	return set_line(&c->agent, "agent", where, folder, err);
}

static int set_cpu(struct hv_config *c, const char *key, const char *value, const char *folder,
		   struct hv_error *err)
{
	int rc = hv_cpu_model_parse(&c->cpu, value, err);

	return rc ? rc : keep_string(&c->cpu_text, value, err);
}

static const char *const irqchips[] = {
	[HV_IRQCHIP_AUTO] = "auto",
	[HV_IRQCHIP_NONE] = "none",
	[HV_IRQCHIP_SPLIT] = "split",
	[HV_IRQCHIP_FULL] = "full",
};

const char *hv_irqchip_word(enum hv_irqchip kind)
{
	return irqchips[kind];
}

static int set_irqchip(struct hv_config *c, const char *key, const char *value, const char *folder,
		       struct hv_error *err)
{
	for (unsigned i = 0; i < HV_ARRAY_SIZE(irqchips); i++) {
		if (!strcmp(value, irqchips[i])) {
			c->irqchip = (enum hv_irqchip)i;
			return 0;
		}
	}
	return hv_fail_usage(err, "%s: '%.64s' is none of auto, none, split, full", key, value);
}

static int set_gdb(struct hv_config *c, const char *key, const char *value, const char *folder,
		   struct hv_error *err)
{
	char where[PATH_MAX + 8];
	char *path = NULL;
	uint64_t port;
	int rc;

	if (!strncmp(value, "tcp:", 4)) {
		rc = hv_parse_u64(key, value + 4, 65535, &port, err);
		if (!rc && port == 0)
			rc = hv_fail_usage(err, "%s: ports count from 1 to 65535", key);
		return rc ? rc : keep_string(&c->gdb, value, err);
	}
	if (strncmp(value, "unix:", 5) != 0)
		return hv_fail_usage(err, "%s: '%.64s' is neither tcp:PORT nor unix:PATH", key, value);
	rc = keep_path(&path, key, value + 5, folder, err);
	if (rc)
		return rc;
	snprintf(where, sizeof(where), "unix:%s", path);
	free(path);
	return keep_string(&c->gdb, where, err);
}

static int set_trace(struct hv_config *c, const char *key, const char *value, const char *folder,
		     struct hv_error *err)
{
	return keep_path(&c->trace, key, value, folder, err);
}

static int set_timeout(struct hv_config *c, const char *key, const char *value, const char *folder,
		       struct hv_error *err)
{
	return hv_parse_seconds(key, value, &c->timeout_ns, err);
}

static int set_paused(struct hv_config *c, const char *key, const char *value, const char *folder,
		      struct hv_error *err)
{
	return parse_bool(key, value, &c->paused, err);
}

static int set_rng(struct hv_config *c, const char *key, const char *value, const char *folder,
		   struct hv_error *err)
{
	return parse_bool(key, value, &c->rng, err);
}

static int set_balloon(struct hv_config *c, const char *key, const char *value, const char *folder,
		       struct hv_error *err)
{
	return parse_bool(key, value, &c->balloon, err);
}

static int set_acpi(struct hv_config *c, const char *key, const char *value, const char *folder,
		    struct hv_error *err)
{
	bool acpi;
	int rc = parse_bool(key, value, &acpi, err);

	if (!rc)
		c->no_acpi = !acpi;
	return rc;
}

/* The path comes first, as a disk's. */
static int set_vsock(struct hv_config *c, const char *key, const char *value, const char *folder,
		     struct hv_error *err)
{
	struct hv_vsock_spec spec;
	char *kept = NULL;
	int rc = keep_path(&kept, key, value, folder, err);

	if (!rc && kept)
		rc = hv_vsock_spec_parse(&spec, kept, err);
	if (rc) {
		free(kept);
		return rc;
	}
	free(c->vsock);
	c->vsock = kept;
	return 0;
}

static int set_stats(struct hv_config *c, const char *key, const char *value, const char *folder,
		     struct hv_error *err)
{
	return parse_bool(key, value, &c->stats, err);
}

static int set_verbose(struct hv_config *c, const char *key, const char *value, const char *folder,
		       struct hv_error *err)
{
	return parse_bool(key, value, &c->verbose, err);
}

static int set_sandbox(struct hv_config *c, const char *key, const char *value, const char *folder,
		       struct hv_error *err)
{
	return parse_bool(key, value, &c->sandbox, err);
}

/* Which function sets which option, in the order of hv_config_options. */
static set_fn *const setters[] = {
	set_name,    set_mem,     set_cpus,  set_kernel,  set_boot,    set_load_addr, set_initrd,
	set_append,  set_disk,    set_rng,   set_balloon, set_net,     set_vsock,     set_serial,
	set_console, set_agent,   set_cpu,   set_irqchip, set_acpi,    set_paused,    set_gdb,
	set_trace,   set_timeout, set_stats, set_verbose, set_sandbox,
};

const struct hv_config_option hv_config_options[] = {
	{"name", "NAME", "the VM's name, by which hvctl finds it"},
	{"mem", "SIZE", "memory, with K, M or G (64M)"},
	{"cpus", "N", "CPUs (1)"},
	{"kernel", "FILE", "the same as IMAGE: the kernel to boot"},
	{"boot", "KIND", "auto, flat, elf, multiboot, pvh or linux (auto)"},
	{"load-addr", "ADDR", "where a flat image goes and starts (0x1000)"},
	{"initrd", "FILE", "Linux's initrd, or a module for multiboot or PVH; may be given again"},
	{"append", "STRING", "the guest's command line"},
	{"disk", "FILE", "a virtio disk; FILE[,format=F][,ro][,cache=C][,serial=S]; may be given again"},
	{"rng", NULL, "a virtio device that gives random bytes"},
	{"balloon", NULL, "a virtio device that takes memory from the guest and gives it back"},
	{"net", "KIND", "a virtio network card: user[,hostfwd=...] or tap[,ifname=N]; may be given again"},
	{"vsock", "PATH", "sockets between host and guest, at a Unix socket; PATH[,cid=N]"},
	{"serial", "WHERE", "stdio, none, pty, file:PATH or unix:PATH (stdio)"},
	{"console", "WHERE", "a virtio console (hvc0) there; stdio takes it from the serial line"},
	{"agent", "WHERE", "a virtio channel for a guest agent there; WHERE[,name=NAME]"},
	{"cpu", "MODEL", "host or baseline, and ,-feature to take one away (host)"},
	{"irqchip", "KIND", "none, split or full (what the image needs)"},
	{"acpi", "on|off", "off: describe the VM by an MP table and virtio_mmio.device= (on)"},
	{"paused", NULL, "don't start the CPUs; hvctl resume does"},
	{"gdb", "WHERE", "let gdb attach at tcp:PORT or unix:PATH"},
	{"trace", "FILE", "write the last exits as a Chrome trace"},
	{"timeout", "SECONDS", "end after so long, with status 124"},
	{"stats", NULL, "print a table of exits at the end"},
	{"verbose", NULL, "say what is done"},
	{"sandbox", "on|off", "lock the process in once the VM is set up (on)"},
	{NULL, NULL, NULL},
};

static_assert(HV_ARRAY_SIZE(setters) + 1 == HV_ARRAY_SIZE(hv_config_options), "each option has its setter");

int hv_config_set_from(struct hv_config *c, const char *key, const char *value, const char *folder,
		       struct hv_error *err)
{
	if (!strcmp(key, "image")) {
		if (!value)
			return hv_fail_usage(err, "image: a file name is missing");
		return keep_path(&c->image, key, value, folder, err);
	}
	for (size_t i = 0; hv_config_options[i].key; i++) {
		if (strcmp(key, hv_config_options[i].key) != 0)
			continue;
		if (!value && hv_config_options[i].arg)
			return hv_fail_usage(err, "%s: a value is missing: %s %s", key, key,
					     hv_config_options[i].arg);
		return setters[i](c, key, value ? value : "yes", folder, err);
	}
	return hv_fail_usage(err, "there is no option '%.64s'; hvrun --help lists them", key);
}

int hv_config_set(struct hv_config *c, const char *key, const char *value, struct hv_error *err)
{
	return hv_config_set_from(c, key, value, "", err);
}

/* --- the whole --- */

static bool name_char(char ch)
{
	return isalnum((unsigned char)ch) || ch == '.' || ch == '_' || ch == '-';
}

int hv_name_check(const char *name, struct hv_error *err)
{
	size_t n = strlen(name);

	if (n == 0)
		return hv_fail_usage(err, "name: it is empty; give 1 to %d characters", HV_NAME_MAX);
	if (n > HV_NAME_MAX)
		return hv_fail_usage(err, "name: '%.64s...' is longer than %d characters", name, HV_NAME_MAX);
	if (*name == '.' || *name == '-')
		return hv_fail_usage(err, "name: '%s' starts with '%c'; start with a letter or a digit", name,
				     *name);
	for (const char *p = name; *p; p++)
		if (!name_char(*p))
			return hv_fail_usage(
				err, "name: '%s' may only have letters, digits, '.', '_' and '-'", name);
	return 0;
}

/* The image's file name without what follows its last dot, and the PID: unique among the living. */
static void invent_name(struct hv_config *c)
{
	const char *slash = strrchr(c->image, '/');
	const char *base = slash ? slash + 1 : c->image;
	const char *dot = strrchr(base, '.');
	size_t length = dot && dot != base ? (size_t)(dot - base) : strlen(base), n = 0;

	for (size_t i = 0; i < length && n < HV_NAME_MAX - 12; i++)
		if (name_char(base[i]) && (n > 0 || isalnum((unsigned char)base[i])))
			c->name[n++] = base[i];
	snprintf(c->name + n, sizeof(c->name) - n, "%s%d", n ? "-" : "vm-", (int)getpid());
}

/* One CPU every KVM has; more are asked for. Without /dev/kvm the machine tells why, better than we could
 * here. */
static int check_cpus(const struct hv_config *c, struct hv_error *err)
{
	struct hv_kvm kvm;
	int max;

	if (c->cpus == 1)
		return 0;
	if (c->irqchip == HV_IRQCHIP_NONE)
		return hv_fail_usage(err,
				     "cpus: %u CPUs need an interrupt controller to start each other; "
				     "give --irqchip split or full",
				     c->cpus);
	if (hv_kvm_open(&kvm, NULL))
		return 0;
	max = hv_kvm_has(&kvm, KVM_CAP_MAX_VCPUS);
	hv_kvm_close(&kvm);
	if (max > 0 && c->cpus > (unsigned)max)
		return hv_fail_usage(err, "cpus: this host's KVM has at most %d CPUs in a VM, not %u", max,
				     c->cpus);
	return 0;
}

/* Standard input and output go to one line. The serial line has them unless it is told otherwise. */
static int share_stdio(struct hv_config *c, struct hv_error *err)
{
	bool console = c->has_console && c->console.kind == HV_CHARDEV_STDIO;
	bool agent = c->has_agent && c->agent.kind == HV_CHARDEV_STDIO;

	if ((console || agent) && !c->serial_given)
		c->serial.kind = HV_CHARDEV_NONE;
	if (console + agent + (c->serial.kind == HV_CHARDEV_STDIO) > 1)
		return hv_fail_usage(err,
				     "stdio can be only one of serial, console and agent; give the others "
				     "none, pty, file:PATH or unix:PATH");
	return 0;
}

int hv_config_finish(struct hv_config *c, struct hv_error *err)
{
	int rc;

	struct sysinfo host;
	char want[16], have[16];

	if (!c->image)
		return hv_fail_usage(err, "no image is given; hvrun [options] IMAGE");
	if (sysinfo(&host) == 0 && c->mem > (uint64_t)host.totalram * host.mem_unit)
		return hv_fail_usage(
			err, "mem: %s is more than this host's %s of memory",
			hv_format_size(c->mem, want, sizeof(want)),
			hv_format_size((uint64_t)host.totalram * host.mem_unit, have, sizeof(have)));
	rc = share_stdio(c, err);
	if (rc)
		return rc;
	if (!c->name[0])
		invent_name(c);
	return check_cpus(c, err);
}
