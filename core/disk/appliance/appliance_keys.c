/*
 * A list of names with values: a VMX file's lines, a Hyper-V machine's tree as paths. Sorted once, then
 * looked up by name; letters' case does not count, as it doesn't there. This file calls libc.
 */
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "disk/appliance/appliance_impl.h"

#define KEYS_MAX  65536
#define BYTES_MAX (4U << 20)

void hv_keys_free(struct hv_keys *k)
{
	for (unsigned i = 0; i < k->count; i++)
		free(k->item[i].name);
	free(k->item);
	*k = (struct hv_keys){0};
}

static int make_room(struct hv_keys *k, struct hv_error *err)
{
	unsigned room = k->room ? 2 * k->room : 64;
	struct hv_key *grown;

	if (k->count < k->room)
		return 0;
	grown = reallocarray(k->item, room, sizeof(*grown));
	if (!grown)
		return hv_fail(err, ENOMEM, "no memory for %u keys", room);
	k->item = grown;
	k->room = room;
	return 0;
}

int hv_keys_add(struct hv_keys *k, const char *name, size_t name_length, const char *value,
		size_t value_length, struct hv_error *err)
{
	size_t bytes = name_length + value_length + 2;
	char *text;
	int rc;

	if (k->count == KEYS_MAX || bytes > BYTES_MAX - k->bytes)
		return hv_fail_unsafe(
			err, "it has more than %u keys, or %u MiB of them: more than any real machine",
			KEYS_MAX, BYTES_MAX >> 20);
	rc = make_room(k, err);
	if (rc)
		return rc;
	text = malloc(bytes);
	if (!text)
		return hv_fail(err, ENOMEM, "no memory for its keys");
	memcpy(text, name, name_length);
	text[name_length] = '\0';
	if (value_length)
		memcpy(text + name_length + 1, value, value_length);
	text[bytes - 1] = '\0';
	k->item[k->count++] = (struct hv_key){.name = text, .value = text + name_length + 1};
	k->bytes += bytes;
	return 0;
}

/* Two sorted halves into one, equal names in the order in which they came (which qsort doesn't promise). */
static void merge(struct hv_key *item, struct hv_key *spare, size_t half, size_t count)
{
	size_t a = 0, b = half, n = 0;

	while (a < half && b < count)
		spare[n++] = strcasecmp(item[b].name, item[a].name) < 0 ? item[b++] : item[a++];
	while (a < half)
		spare[n++] = item[a++];
	while (b < count)
		spare[n++] = item[b++];
	memcpy(item, spare, count * sizeof(*item));
}

int hv_keys_sort(struct hv_keys *k, struct hv_error *err)
{
	struct hv_key *spare = reallocarray(NULL, k->count + 1, sizeof(*spare));

	if (!spare)
		return hv_fail(err, ENOMEM, "no memory to sort its keys");
	for (size_t width = 1; width < k->count; width *= 2) {
		for (size_t i = 0; i + width < k->count; i += 2 * width) {
			size_t left = k->count - i;

			merge(k->item + i, spare, width, left < 2 * width ? left : 2 * width);
		}
	}
	free(spare);
	return 0;
}

/* The first item not before name. */
static unsigned lower_bound(const struct hv_keys *k, const char *name, size_t length)
{
	unsigned low = 0, high = k->count;

	while (low < high) {
		unsigned middle = low + (high - low) / 2;

		if (strncasecmp(k->item[middle].name, name, length) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

const char *hv_keys_get(const struct hv_keys *k, const char *fmt, ...)
{
	char name[512];
	unsigned i;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(name, sizeof(name), fmt, ap);
	va_end(ap);
	if (n < 0 || (size_t)n >= sizeof(name))
		return NULL;
	i = lower_bound(k, name, (size_t)n + 1); /* its zero byte too: the whole name */
	return i < k->count && !strcasecmp(k->item[i].name, name) ? k->item[i].value : NULL;
}

unsigned hv_keys_under(const struct hv_keys *k, const char *prefix, unsigned *count)
{
	size_t length = strlen(prefix);
	unsigned first = lower_bound(k, prefix, length), n = 0;

	while (first + n < k->count && !strncasecmp(k->item[first + n].name, prefix, length))
		n++;
	*count = n;
	return first;
}

bool hv_keys_true(const char *value)
{
	return value && (!strcasecmp(value, "true") || !strcasecmp(value, "yes") ||
			 !strcasecmp(value, "on") || !strcmp(value, "1"));
}

bool hv_keys_number(const char *value, uint64_t max, uint64_t *number)
{
	uint64_t n = 0;

	if (!value || !*value)
		return false;
	for (; *value; value++) {
		if (!isdigit((unsigned char)*value) || __builtin_mul_overflow(n, 10, &n) ||
		    __builtin_add_overflow(n, (uint64_t)(*value - '0'), &n) || n > max)
			return false;
	}
	*number = n;
	return true;
}
