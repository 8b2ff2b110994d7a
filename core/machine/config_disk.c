/*
 * The words of --disk. They may come from a file that someone else wrote, so lengths and characters are
 * checked; what a file or a format name stands for is found when the disk is opened. This room calls base.
 */
#include <ctype.h>
#include <string.h>

#include "machine/config_impl.h"

int hv_config_take_word(const char *key, const char **text, char *out, size_t size, struct hv_error *err)
{
	const char *p = *text;
	size_t n = 0;

	for (; *p && !(*p == ',' && p[1] != ','); p++) {
		if (*p == ',')
			p++;
		if (n + 1 >= size)
			return hv_fail_usage(err, "%s: a word of it is longer than %zu characters", key,
					     size - 1);
		out[n++] = *p;
	}
	out[n] = '\0';
	*text = p;
	return 0;
}

static int take_value(char *out, size_t size, const char *key, const char *value, struct hv_error *err)
{
	if (*value == '\0')
		return hv_fail_usage(err, "disk: %s= has no value", key);
	if (strlen(value) >= size)
		return hv_fail_usage(err, "disk: %s '%.64s' is longer than %zu characters", key, value,
				     size - 1);
	for (const char *p = value; *p; p++)
		if (!isgraph((unsigned char)*p))
			return hv_fail_usage(err, "disk: %s may only have printable characters", key);
	strcpy(out, value);
	return 0;
}

static int take_option(struct hv_disk_spec *spec, const char *word, struct hv_error *err)
{
	if (!strcmp(word, "ro")) {
		spec->readonly = true;
		return 0;
	}
	if (!strncmp(word, "format=", 7))
		return take_value(spec->format, sizeof(spec->format), "format", word + 7, err);
	if (!strcmp(word, "cache=none") || !strcmp(word, "cache=writeback")) {
		spec->direct = word[6] == 'n';
		return 0;
	}
	if (!strncmp(word, "cache=", 6))
		return hv_fail_usage(err, "disk: cache '%.64s' is neither none nor writeback", word + 6);
	if (!strncmp(word, "serial=", 7))
		return take_value(spec->serial, sizeof(spec->serial), "serial", word + 7, err);
	return hv_fail_usage(
		err,
		"disk: '%.64s' is none of ro, format=F, cache=C, serial=S; a comma in a file's name is "
		"written twice",
		word);
}

int hv_disk_spec_parse(struct hv_disk_spec *spec, const char *text, struct hv_error *err)
{
	char word[64] = "";
	int rc;

	memset(spec, 0, sizeof(*spec));
	rc = hv_config_take_word("disk", &text, spec->path, sizeof(spec->path), err);
	if (!rc && spec->path[0] == '\0')
		rc = hv_fail_usage(err, "disk: the file name is empty");
	while (!rc && *text == ',') {
		text++;
		rc = hv_config_take_word("disk", &text, word, sizeof(word), err);
		if (!rc)
			rc = take_option(spec, word, err);
	}
	return rc;
}
