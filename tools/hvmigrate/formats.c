/*
 * hvmigrate formats: what is read and what is written.
 */
#include "hvmigrate.h"

static json_t *list_of(const char *const *words)
{
	json_t *list = json_array();

	for (; words && *words; words++)
		json_array_append_new(list, json_string(*words));
	return list;
}

static void print_words(const char *const *words, const char *before, const char *between)
{
	for (size_t i = 0; words && words[i]; i++)
		printf("%s%s", i ? between : before, words[i]);
}

static void print_row(const struct hv_disk_about *a)
{
	printf("%-10s  %-6s", a->name, a->creates ? "yes" : "no");
	if (a->creates && !(a->subformats && a->subformats[0]))
		printf("  -");
	print_words(a->subformats, "  ", ", ");
	putchar('\n');
}

int hvm_formats(const struct hvm_options *o)
{
	json_t *all = json_array();

	if (!o->json)
		printf("format      written  as (the first is the default)\n");
	for (const char *const *name = hv_disk_formats(); *name; name++) {
		struct hv_disk_about a;

		if (!hv_disk_about(*name, &a))
			continue;
		if (!o->json)
			print_row(&a);
		json_array_append_new(all, json_pack("{s:s,s:b,s:o,s:o}", "format", a.name, "writes",
						     a.creates, "subformats", list_of(a.subformats),
						     "extensions", list_of(a.extensions)));
	}
	if (o->json) {
		hvm_json_print(all);
		return HV_EXIT_OK;
	}
	json_decref(all);
	printf("\nAll are read; vpc is another name of vhd. NBD servers (nbd://...) are read and written as "
	       "raw.\n");
	return HV_EXIT_OK;
}
