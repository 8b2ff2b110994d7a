/*
 * Looking into a machine: the half that draws hv_inspect_*'s JSON for a person. It needs no machine and
 * trusts nothing: the JSON may come over a socket, so what is missing is left out, and what is printed is
 * printable. The forms follow QEMU's monitor where it has one.
 */
#include "control/inspect.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/parse.h"

static const char *text_of(const json_t *object, const char *key)
{
	const char *s = json_string_value(json_object_get(object, key));

	return s ? s : "";
}

static bool true_of(const json_t *object, const char *key)
{
	return json_is_true(json_object_get(object, key));
}

static json_int_t number_of(const json_t *object, const char *key)
{
	return json_integer_value(json_object_get(object, key));
}

static uint64_t hex_of(const json_t *object, const char *key)
{
	return strtoull(text_of(object, key), NULL, 16);
}

/* A foreign string, with nothing in it that would move a terminal's cursor. */
static void put_clean(FILE *out, const char *s)
{
	for (; *s; s++)
		fputc(isprint((unsigned char)*s) ? *s : '?', out);
}

static void put_hex(FILE *out, const char *before, uint64_t v, const char *after)
{
	fprintf(out, "%s%016llx%s", before, (unsigned long long)v, after);
}

static char *done(FILE *out, char **text)
{
	if (fclose(out) == 0)
		return *text;
	free(*text);
	return NULL;
}

static void upper(FILE *out, const char *key, unsigned width)
{
	const size_t length = strlen(key);

	for (const char *s = key; *s; s++)
		fputc(toupper((unsigned char)*s), out);
	for (size_t i = length; i < width; i++)
		fputc(' ', out);
	fputc('=', out);
}

char *hv_inspect_regs_text(const json_t *regs)
{
	static const char *const rows[][4] = {
		{"rax", "rbx", "rcx", "rdx"}, {"rsi", "rdi", "rbp", "rsp"},  {"r8", "r9", "r10", "r11"},
		{"r12", "r13", "r14", "r15"}, {"rip", "rflags", NULL, NULL},
	};
	static const struct {
		unsigned bit;
		const char *name;
	} flags[] = {{0, "CF"},  {2, "PF"},  {4, "AF"},  {6, "ZF"},  {7, "SF"},  {8, "TF"},  {9, "IF"},
		     {10, "DF"}, {11, "OF"}, {14, "NT"}, {16, "RF"}, {17, "VM"}, {18, "AC"}, {21, "ID"}};
	char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	if (!out)
		return NULL;
	fprintf(out, "CPU#%lld  ", (long long)number_of(regs, "cpu"));
	put_clean(out, text_of(regs, "mode"));
	fprintf(out, " mode, CPL %lld\n", (long long)number_of(regs, "cpl"));
	for (size_t r = 0; r < HV_ARRAY_SIZE(rows); r++) {
		for (size_t c = 0; c < 4 && rows[r][c]; c++) {
			if (!json_object_get(regs, rows[r][c]))
				continue;
			fputs(c ? " " : "", out);
			upper(out, rows[r][c], 3);
			put_hex(out, "", hex_of(regs, rows[r][c]), "");
		}
		if (r + 1 < HV_ARRAY_SIZE(rows))
			fputc('\n', out);
	}
	const uint64_t rflags = hex_of(regs, "rflags");
	fputs(" [", out);
	const char *gap = "";
	for (size_t i = 0; i < HV_ARRAY_SIZE(flags); i++) {
		if (rflags >> flags[i].bit & 1) {
			fprintf(out, "%s%s", gap, flags[i].name);
			gap = " ";
		}
	}
	fprintf(out, "] IOPL %u\n", (unsigned)(rflags >> 12 & 3));
	return done(out, &text);
}

static void put_segment(FILE *out, const char *name, const json_t *s)
{
	upper(out, name, 3);
	fprintf(out, "%04llx ", (unsigned long long)hex_of(s, "selector"));
	put_hex(out, "base ", hex_of(s, "base"), "");
	fprintf(out, " limit %08llx ", (unsigned long long)hex_of(s, "limit"));
	if (true_of(s, "unusable")) {
		fputs("unusable\n", out);
		return;
	}
	fprintf(out, "DPL %lld type 0x%llx%s%s%s%s%s\n", (long long)number_of(s, "dpl"),
		(unsigned long long)number_of(s, "type"), true_of(s, "present") ? "" : " absent",
		true_of(s, "system") ? " system" : "", true_of(s, "long") ? " 64-bit" : "",
		true_of(s, "db") ? " 32-bit" : "", true_of(s, "granularity") ? " pages" : "");
}

static void put_bits(FILE *out, uint64_t value, const char *const names[], unsigned count)
{
	const char *gap = " [";

	for (unsigned i = 0; i < count; i++) {
		if (names[i] && (value >> i & 1)) {
			fprintf(out, "%s%s", gap, names[i]);
			gap = " ";
		}
	}
	fputs(gap[1] ? "\n" : "]\n", out);
}

char *hv_inspect_sregs_text(const json_t *sregs)
{
	static const char *const cr0[32] = {
		[0] = "PE",  [1] = "MP",  [2] = "EM",  [3] = "TS",  [4] = "ET", [5] = "NE",
		[16] = "WP", [18] = "AM", [29] = "NW", [30] = "CD", [31] = "PG"};
	static const char *const cr4[32] = {
		[0] = "VME",         [1] = "PVI",      [2] = "TSD",   [3] = "DE",    [4] = "PSE",
		[5] = "PAE",         [6] = "MCE",      [7] = "PGE",   [8] = "PCE",   [9] = "OSFXSR",
		[10] = "OSXMMEXCPT", [11] = "UMIP",    [12] = "LA57", [13] = "VMXE", [16] = "FSGSBASE",
		[17] = "PCIDE",      [18] = "OSXSAVE", [20] = "SMEP", [21] = "SMAP", [22] = "PKE"};
	static const char *const efer[32] = {
		[0] = "SCE", [8] = "LME", [10] = "LMA", [11] = "NXE", [12] = "SVME"};
	static const struct {
		const char *name;
		const char *const *bits;
	} list[] = {{"cr0", cr0},  {"cr2", NULL},  {"cr3", NULL},      {"cr4", cr4},
		    {"cr8", NULL}, {"efer", efer}, {"apic-base", NULL}};
	static const char *const segs[] = {"cs", "ss", "ds", "es", "fs", "gs", "tr", "ldt"};
	char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	if (!out)
		return NULL;
	fprintf(out, "CPU#%lld  ", (long long)number_of(sregs, "cpu"));
	put_clean(out, text_of(sregs, "mode"));
	fputs(" mode\n", out);
	const json_t *segments = json_object_get(sregs, "segments");
	for (size_t i = 0; i < HV_ARRAY_SIZE(segs); i++) {
		if (json_object_get(segments, segs[i]))
			put_segment(out, segs[i], json_object_get(segments, segs[i]));
	}
	for (int i = 0; i < 2; i++) {
		const char *name = i ? "idt" : "gdt";
		const json_t *table = json_object_get(sregs, name);

		if (!table)
			continue;
		upper(out, name, 3);
		put_hex(out, "     base ", hex_of(table, "base"), "");
		fprintf(out, " limit %08llx\n", (unsigned long long)hex_of(table, "limit"));
	}
	for (size_t i = 0; i < HV_ARRAY_SIZE(list); i++) {
		if (!json_object_get(sregs, list[i].name))
			continue;
		const uint64_t value = hex_of(sregs, list[i].name);
		upper(out, list[i].name, 4);
		put_hex(out, "", value, "");
		if (list[i].bits)
			put_bits(out, value, list[i].bits, 32);
		else
			fputc('\n', out);
	}
	return done(out, &text);
}

char *hv_inspect_memory_text(const json_t *memory)
{
	char *text = NULL, total[32], used[32];
	size_t size, i;
	json_t *item;
	FILE *out = open_memstream(&text, &size);

	if (!out)
		return NULL;
	json_array_foreach(json_object_get(memory, "slots"), i, item)
	{
		const uint64_t base = hex_of(item, "base"), length = (uint64_t)number_of(item, "size");

		put_hex(out, "", base, "-");
		put_hex(out, "", base + length - 1, "  ");
		fprintf(out, "%s  %s, %s touched\n", true_of(item, "readonly") ? "ROM" : "RAM",
			hv_format_size(length, total, sizeof(total)),
			hv_format_size((uint64_t)number_of(item, "resident"), used, sizeof(used)));
	}
	json_array_foreach(json_object_get(memory, "devices"), i, item)
	{
		const uint64_t base = hex_of(item, "base"), length = (uint64_t)number_of(item, "size");

		put_hex(out, "", base, "-");
		put_hex(out, "", base + length - 1, "  I/O  ");
		put_clean(out, text_of(item, "name"));
		fputc('\n', out);
	}
	fprintf(out, "%s in all\n",
		hv_format_size((uint64_t)number_of(memory, "size"), total, sizeof(total)));
	return done(out, &text);
}

/* One value as x/FMT shows it, padded so that columns stand under each other (as QEMU's monitor does). */
static void put_value(FILE *out, const char *raw, char format, unsigned size)
{
	static const int decimal[] = {0, 3, 5, 0, 10, 0, 0, 0, 20}, octal[] = {0, 3, 6, 0, 11, 0, 0, 0, 22};
	const uint64_t v = strtoull(raw, NULL, 16);
	const unsigned unused = 64 - size * 8;

	switch (format) {
	case 'd':
		fprintf(out, " %*lld", decimal[size] + 1, (long long)((int64_t)(v << unused) >> unused));
		break;
	case 'u':
		fprintf(out, " %*llu", decimal[size], (unsigned long long)v);
		break;
	case 'o':
		fprintf(out, " 0%0*llo", octal[size], (unsigned long long)v);
		break;
	case 'c':
		if ((v & 0xff) >= ' ' && (v & 0xff) < 0x7f)
			fprintf(out, " '%c'   ", (int)(v & 0xff));
		else
			fprintf(out, " '\\x%02x'", (unsigned)(v & 0xff));
		break;
	default:
		fprintf(out, " 0x%0*llx", (int)size * 2, (unsigned long long)v);
		break;
	}
}

static void put_values(FILE *out, const json_t *items, uint64_t address, char format, unsigned size)
{
	const size_t line = format == 'c' ? 8 : 16 / size;
	size_t i;
	json_t *item;

	json_array_foreach(items, i, item)
	{
		if (i % line == 0) {
			fputs(i ? "\n" : "", out);
			put_hex(out, "", address + i * size, ":");
		}
		put_value(out, json_is_string(item) ? json_string_value(item) : "0", format, size);
	}
	if (i)
		fputc('\n', out);
}

char *hv_inspect_examine_text(const json_t *examined)
{
	const json_t *items = json_object_get(examined, "items");
	const char format = text_of(examined, "format")[0];
	const json_int_t width = number_of(examined, "size");
	char *text = NULL;
	size_t size, i;
	json_t *item;
	FILE *out = open_memstream(&text, &size);

	if (!out)
		return NULL;
	if (format == 'i' || format == 's') {
		json_array_foreach(items, i, item)
		{
			put_hex(out, "", hex_of(item, "address"), ":  ");
			if (format == 'i')
				fprintf(out, "%-20.30s  ", text_of(item, "bytes"));
			fputs(format == 's' ? "\"" : "", out);
			put_clean(out, text_of(item, "text"));
			fputs(format == 's' ? true_of(item, "cut") ? "\"...\n" : "\"\n" : "\n", out);
		}
	} else {
		const bool sane = width == 1 || width == 2 || width == 4 || width == 8;

		put_values(out, items, hex_of(examined, "address"), format, sane ? (unsigned)width : 8);
	}
	if (json_object_get(examined, "error")) {
		put_clean(out, text_of(examined, "error"));
		fputc('\n', out);
	}
	return done(out, &text);
}

/* A tree that grows to the right: each table hangs below the entry that points to it. */
static void branch(FILE *out, size_t depth)
{
	for (size_t i = 0; i < depth; i++)
		fputs("   ", out);
	fputs("+- ", out);
}

char *hv_inspect_translate_text(const json_t *walk)
{
	char *text = NULL, page[32];
	size_t size, i, depth = 0;
	json_t *step;
	FILE *out = open_memstream(&text, &size);

	if (!out)
		return NULL;
	put_hex(out, "GVA ", hex_of(walk, "gva"), "");
	if (strcmp(text_of(walk, "paging"), "none") == 0) {
		fputs(", paging is off\n", out);
	} else {
		fputs(", ", out);
		put_clean(out, text_of(walk, "paging"));
		put_hex(out, " paging, CR3 ", hex_of(walk, "cr3"), "\n");
	}
	json_array_foreach(json_object_get(walk, "steps"), i, step)
	{
		char where[32];

		branch(out, depth++);
		snprintf(where, sizeof(where), "%.8s[%lld]", text_of(step, "table"),
			 (long long)number_of(step, "index"));
		put_clean(out, where);
		put_hex(out, " at ", hex_of(step, "entry-address"), ": ");
		put_hex(out, "", hex_of(step, "entry"), "  ");
		put_clean(out, text_of(step, "flags"));
		fputc('\n', out);
	}
	branch(out, depth);
	if (!true_of(walk, "mapped")) {
		fputs("not mapped: ", out);
		put_clean(out, text_of(walk, "why"));
		fputc('\n', out);
		return done(out, &text);
	}
	const uint64_t gpa = hex_of(walk, "gpa"), page_size = (uint64_t)number_of(walk, "page-size");
	put_hex(out, "GPA ", gpa, "");
	if (depth && page_size)
		fprintf(out, ", offset 0x%llx in a page of %s", (unsigned long long)(gpa & (page_size - 1)),
			hv_format_size(page_size, page, sizeof(page)));
	fprintf(out, ": %s, %s, %s%s\n", true_of(walk, "writable") ? "writable" : "read-only",
		true_of(walk, "user") ? "user" : "supervisor",
		true_of(walk, "executable") ? "executable" : "no code",
		true_of(walk, "memory") ? "" : "; no memory there");
	return done(out, &text);
}
