/*
 * hvmigrate compare: whether two disks hold the same bytes, whatever the formats; if not, where the first
 * difference is and how much differs.
 */
#include "hvmigrate.h"

/* Which one is longer, and by how much; one with only zeros behind the other's end is the same. */
static void say_sizes(const struct hvm_options *o, const struct hv_compare *c)
{
	bool b = c->b_size > c->a_size;
	char size[HVM_SIZE_MAX];

	if (c->a_size == c->b_size)
		return;
	hvm_put(stdout, o->args[b]);
	printf(" is longer by %s%s\n", hvm_size(b ? c->b_size - c->a_size : c->a_size - c->b_size, size),
	       c->same ? ", all of it zeros" : "");
}

static void print_text(const struct hvm_options *o, const struct hv_compare *c)
{
	char a[HVM_SIZE_MAX], b[HVM_SIZE_MAX];

	if (c->same) {
		printf("same: %s\n", hvm_size(c->a_size < c->b_size ? c->a_size : c->b_size, a));
	} else {
		printf("differ: first at offset %llu (0x%llx), for %s; %s in all\n",
		       (unsigned long long)c->first, (unsigned long long)c->first,
		       hvm_size(c->first_length, a), hvm_size(c->differing, b));
	}
	say_sizes(o, c);
}

static void print_json(const struct hv_compare *c)
{
	json_t *j = json_pack("{s:b,s:[I,I]}", "same", c->same, "sizes", (json_int_t)c->a_size,
			      (json_int_t)c->b_size);

	if (!c->same) {
		json_object_set_new(j, "offset", hvm_json_size(c->first));
		json_object_set_new(j, "length", hvm_json_size(c->first_length));
		json_object_set_new(j, "differing", hvm_json_size(c->differing));
	}
	hvm_json_print(j);
}

static int compare(const struct hvm_options *o, struct hv_disk *a, struct hv_disk *b)
{
	struct hvm_progress progress;
	struct hv_compare c = {.threads = o->threads, .progress = hvm_progress_step, .ctx = &progress};
	struct hv_error err = {0};
	int rc;

	hvm_tell_notes(o, a);
	hvm_tell_notes(o, b);
	hvm_signals_catch();
	hvm_progress_begin(&progress, o, "compared", NULL);
	rc = hv_compare(a, b, &c, &err);
	hvm_progress_end(&progress);
	if (rc && hvm_signals_asked()) {
		hvm_say(o, "stopped");
		return HV_EXIT_FAILED;
	}
	if (rc)
		return hvm_fail(o, &err);
	if (o->json)
		print_json(&c);
	else
		print_text(o, &c);
	return c.same ? HV_EXIT_OK : HV_EXIT_FAILED;
}

int hvm_compare(const struct hvm_options *o)
{
	struct hv_disk_options options = hvm_disk_options(o, o->format);
	struct hv_error err = {0};
	struct hv_disk *a = NULL, *b = NULL;
	int rc, status;

	rc = hvm_sandbox(o, &(struct hvm_reach){.image = {o->args[0], o->args[1]}}, &err);
	if (!rc)
		rc = hvm_open(o, o->args[0], &options, &a, &err);
	options.format = o->second_format;
	if (!rc)
		rc = hvm_open(o, o->args[1], &options, &b, &err);
	status = rc ? hvm_fail(o, &err) : compare(o, a, b);
	hv_disk_close(a);
	hv_disk_close(b);
	return status;
}
