/*
 * What a person reads: the answers of QMP as lines of text. The JSON may have come over a socket, so nothing
 * is taken for granted: what is missing or of another type shows as a dash or a zero. It calls base only.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/parse.h"
#include "control/inspect.h"
#include "control/monitor.h"

static const char *str(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s ? s : "-";
}

static long long num(const json_t *o, const char *key)
{
	return json_integer_value(json_object_get(o, key));
}

static bool yes(const json_t *o, const char *key)
{
	return json_is_true(json_object_get(o, key));
}

static char *finish(FILE *out, char **text)
{
	if (fclose(out) == 0)
		return *text;
	free(*text);
	return NULL;
}

char *hv_text_done(const struct hv_monitor_request *r, const json_t *result)
{
	static const char *const words[][2] = {
		{"pause", "paused"},
		{"resume", "running"},
		{"stop", "the VM ends"},
		{"quit", "the VM ends"},
		{"reset", "reset"},
		{"inject", "injected"},
		{"balloon", "the guest is asked"},
		{"block_resize", "resized"},
		{"set_link", "set"},
	};
	char *text = NULL;

	if (r->file)
		return asprintf(&text, "wrote %s\n", r->file) < 0 ? NULL : text;
	for (size_t i = 0; i < HV_ARRAY_SIZE(words); i++) {
		if (strcmp(words[i][0], r->command->name) == 0)
			return asprintf(&text, "%s\n", words[i][1]) < 0 ? NULL : text;
	}
	return strdup("");
}

/* A line of text for a member that may not be there: three strings for "%s%s%s". */
#define LINE(object, key, label)                                                                             \
	json_object_get(object, key) ? (label) : "", json_object_get(object, key) ? str(object, key) : "",   \
		json_object_get(object, key) ? "\n" : ""

char *hv_text_status(const struct hv_monitor_request *r, const json_t *s)
{
	char *text = NULL, memory[32];

	hv_format_size((uint64_t)num(s, "memory"), memory, sizeof(memory));
	if (asprintf(&text,
		     "%s: %s, pid %lld, up %.1f s\n"
		     "  vCPUs     %lld\n"
		     "  memory    %s\n"
		     "  image     %s (%s)\n"
		     "  irqchip   %s\n"
		     "  serial    %s\n"
		     "%s%s%s%s%s%s"
		     "  tracing   %s\n"
		     "  sandbox   %s\n",
		     str(s, "name"), str(s, "status"), num(s, "pid"), (double)num(s, "uptime-ns") / 1e9,
		     num(s, "cpus"), memory, str(s, "image"), str(s, "boot"), str(s, "irqchip"),
		     str(s, "serial"), LINE(s, "console", "  console   "), LINE(s, "agent", "  agent     "),
		     yes(s, "tracing") ? "on" : "off", yes(s, "sandbox") ? "on" : "off") < 0)
		return NULL;
	return text;
}

static void print_size(FILE *out, const char *name, long long bytes)
{
	char text[32];

	fprintf(out, "  %-24s  %s\n", name,
		hv_format_size((uint64_t)(bytes > 0 ? bytes : 0), text, sizeof(text)));
}

/* Those of QEMU's names that count bytes; the others count events. */
static bool is_size(const char *name)
{
	static const char *const sizes[] = {
		"stat-swap-in",      "stat-swap-out",         "stat-free-memory",
		"stat-total-memory", "stat-available-memory", "stat-disk-caches",
	};

	for (size_t i = 0; i < HV_ARRAY_SIZE(sizes); i++)
		if (strcmp(sizes[i], name) == 0)
			return true;
	return false;
}

static void print_balloon(FILE *out, const json_t *b)
{
	json_t *stats = json_object_get(b, "stats");

	fprintf(out, "balloon: %s\n", yes(b, "in-use") ? "in use" : "the guest has no driver for it yet");
	print_size(out, "memory", num(b, "memory"));
	print_size(out, "the guest has", num(b, "actual"));
	print_size(out, "it shall have", num(b, "target"));
	print_size(out, "given back so far", num(b, "given-back"));
	if (yes(b, "reporting"))
		print_size(out, "reported free so far", num(b, "reported"));
	if (json_object_size(stats))
		fprintf(out, "what the guest says of its memory:\n");
	for (void *it = json_object_iter(stats); it; it = json_object_iter_next(stats, it)) {
		const char *name = json_object_iter_key(it);
		const char *shown = strncmp(name, "stat-", 5) == 0 ? name + 5 : name;

		if (is_size(name))
			print_size(out, shown, json_integer_value(json_object_iter_value(it)));
		else
			fprintf(out, "  %-24s  %lld\n", shown,
				(long long)json_integer_value(json_object_iter_value(it)));
	}
}

char *hv_text_trace(const struct hv_monitor_request *r, const json_t *result)
{
	if (r->file)
		return hv_text_done(r, result);
	return strdup(yes(result, "tracing") ? "tracing is on\n" : "tracing is off\n");
}

char *hv_text_send(const struct hv_monitor_request *r, const json_t *result)
{
	char *text = NULL;

	return asprintf(&text, "sent %lld bytes\n", num(result, "sent")) < 0 ? NULL : text;
}

char *hv_text_examine(const struct hv_monitor_request *r, const json_t *result)
{
	return hv_inspect_examine_text(result);
}

char *hv_text_translate(const struct hv_monitor_request *r, const json_t *result)
{
	return hv_inspect_translate_text(result);
}

/* --- info --- */

static void print_devices(FILE *out, const json_t *list)
{
	const json_t *d;
	size_t i;

	fprintf(out, "%-4s  %-21s  %-10s  %s\n", "BUS", "ADDRESS", "DEVICE", "STATE");
	json_array_foreach(list, i, d)
	{
		unsigned long long base = strtoull(str(d, "base"), NULL, 16);
		unsigned long long last = base + (unsigned long long)num(d, "length") - 1;
		char range[48];

		snprintf(range, sizeof(range), "0x%04llx-0x%04llx", base, last);
		fprintf(out, "%-4s  %-21s  %-10s  %s\n", str(d, "bus"), range, str(d, "device"),
			str(d, "state"));
	}
}

static void print_vectors(FILE *out, const char *label, const json_t *list)
{
	const json_t *v;
	size_t i;

	fprintf(out, ", %s", label);
	json_array_foreach(list, i, v) fprintf(out, " 0x%02llx", (unsigned long long)json_integer_value(v));
	if (!json_array_size(list))
		fprintf(out, " none");
}

static void print_lapic(FILE *out, const json_t *l)
{
	const json_t *timer = json_object_get(l, "timer");

	fprintf(out, "local APIC of vCPU %lld: id %lld, %s, tpr 0x%02llx", num(l, "cpu-index"), num(l, "id"),
		yes(l, "enabled") ? "enabled" : "disabled", (unsigned long long)num(l, "tpr"));
	print_vectors(out, "requested", json_object_get(l, "requested"));
	print_vectors(out, "in service", json_object_get(l, "in-service"));
	fprintf(out, "\n  timer: %s, vector 0x%02llx, %s, count %lld of %lld\n", str(timer, "mode"),
		(unsigned long long)num(timer, "vector"), yes(timer, "masked") ? "masked" : "open",
		num(timer, "current"), num(timer, "initial"));
}

static void print_irqs(FILE *out, const json_t *irqs)
{
	const json_t *e, *ioapic = json_object_get(irqs, "ioapic");
	size_t i;

	fprintf(out, "interrupt controllers: %s\n", str(irqs, "irqchip"));
	json_array_foreach(json_object_get(irqs, "pic"), i, e)
		fprintf(out, "PIC %-6s  base 0x%02llx, requested %s, in service %s, masked %s\n",
			str(e, "name"), (unsigned long long)num(e, "base"), str(e, "requested"),
			str(e, "in-service"), str(e, "masked"));
	if (json_object_get(irqs, "ioapic-state"))
		fprintf(out, "IOAPIC: %s\n", str(irqs, "ioapic-state"));
	if (ioapic && !json_array_size(ioapic))
		fprintf(out, "IOAPIC: all pins masked\n");
	json_array_foreach(ioapic, i, e)
		fprintf(out, "IOAPIC pin %-2lld  vector 0x%02llx, %s, %s%s%s, to 0x%02llx\n", num(e, "pin"),
			(unsigned long long)num(e, "vector"), str(e, "mode"), str(e, "trigger"),
			yes(e, "masked") ? ", masked" : "", yes(e, "pending") ? ", pending" : "",
			(unsigned long long)num(e, "destination"));
	json_array_foreach(json_object_get(irqs, "lapic"), i, e) print_lapic(out, e);
}

static void print_exits(FILE *out, const json_t *cpus)
{
	const json_t *c, *e;
	const char *kind;
	size_t i, k;

	json_array_foreach(cpus, i, c)
	{
		fprintf(out, "vCPU %lld: %lld exits, %lld signals\n", num(c, "cpu-index"), num(c, "total"),
			num(c, "signals"));
		json_array_foreach(json_object_get(c, "exits"), k, e)
		{
			fprintf(out, "  %-16s %12lld", str(e, "reason"), num(e, "count"));
			if (num(e, "timed") > 0)
				fprintf(out, "  %9.2f us each outside the guest",
					(double)num(e, "user-ns") / 1e3 / (double)num(e, "timed"));
			fprintf(out, "\n");
		}
		json_object_foreach(json_object_get(c, "assisted"), kind, e)
			fprintf(out, "  %s completed for the back end %lld times\n", kind,
				(long long)json_integer_value(e));
		if (json_array_size(json_object_get(c, "last")))
			fprintf(out, "  the last of them:\n");
		json_array_foreach(json_object_get(c, "last"), k, e)
			fprintf(out, "    %s\n", json_is_string(e) ? json_string_value(e) : "-");
	}
}

static void print_cpus(FILE *out, const json_t *cpus)
{
	const json_t *c;
	size_t i;

	fprintf(out, "%-4s  %-8s  %-14s  %-16s  %-3s  %-18s  %s\n", "CPU", "THREAD", "STATE", "MODE", "CPL",
		"RIP", "EXITS");
	json_array_foreach(cpus, i, c) fprintf(out, "%-4lld  %-8lld  %-14s  %-16s  %-3lld  %-18s  %lld\n",
					       num(c, "cpu-index"), num(c, "thread-id"), str(c, "state"),
					       str(c, "mode"), num(c, "cpl"), str(c, "rip"), num(c, "exits"));
}

char *hv_text_info(const struct hv_monitor_request *r, const json_t *result)
{
	const char *what = str(r->arguments, "what");
	char *text = NULL;
	size_t size;
	FILE *out;

	if (strcmp(what, "regs") == 0)
		return hv_inspect_regs_text(result);
	if (strcmp(what, "sregs") == 0)
		return hv_inspect_sregs_text(result);
	if (strcmp(what, "memory") == 0)
		return hv_inspect_memory_text(result);
	if (strcmp(what, "status") == 0)
		return hv_text_status(r, result);
	out = open_memstream(&text, &size);
	if (!out)
		return NULL;
	if (strcmp(what, "devices") == 0)
		print_devices(out, result);
	else if (strcmp(what, "irqs") == 0)
		print_irqs(out, result);
	else if (strcmp(what, "exits") == 0)
		print_exits(out, result);
	else if (strcmp(what, "balloon") == 0)
		print_balloon(out, result);
	else
		print_cpus(out, result);
	return finish(out, &text);
}
