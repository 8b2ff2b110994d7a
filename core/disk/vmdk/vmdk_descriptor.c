/*
 * A VMDK's descriptor: lines of text, KEY=VALUE or an extent, in any order that VMware's tools and others
 * have been seen to write ("Virtual Disk Format 5.0", the section on the descriptor). A hostile text may name
 * any file; what is opened is decided in disk.c. What can't be understood is refused rather than skipped: a
 * line less is a disk that is shorter, or another one.
 */
#include <ctype.h>
#include <iconv.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "disk/vmdk/vmdk_impl.h"

#define VERSION_MAX 4

/* A piece of the text. */
struct span {
	const char *at;
	size_t length;
};

struct parser {
	const char *path, *text;
	struct hv_vmdk_descriptor *d;
	unsigned number; /* of the line, from 1 */
	bool salvage, ddb, create_type, parent_cid, ended;
};

static bool is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\v' || c == '\f';
}

static struct span trim(struct span s)
{
	while (s.length && is_blank(s.at[0])) {
		s.at++;
		s.length--;
	}
	while (s.length && is_blank(s.at[s.length - 1]))
		s.length--;
	return s;
}

static bool same(struct span s, const char *word)
{
	return s.length == strlen(word) && strncasecmp(s.at, word, s.length) == 0;
}

static bool starts(struct span s, const char *word)
{
	return s.length >= strlen(word) && strncasecmp(s.at, word, strlen(word)) == 0;
}

/* The next word of *rest, which goes on behind it. */
static struct span next_word(struct span *rest)
{
	struct span s = trim(*rest), word = {s.at, 0};

	while (word.length < s.length && !is_blank(s.at[word.length]))
		word.length++;
	*rest = trim((struct span){s.at + word.length, s.length - word.length});
	return word;
}

static int bad_line(const struct parser *p, struct span line, const char *why, struct hv_error *err)
{
	return hv_fail_unsafe(err, "%s: line %u of the descriptor, \"%.*s\", %s", p->path, p->number,
			      line.length > 100 ? 100 : (int)line.length, line.at, why);
}

/* Only digits, no sign, no overflow. */
static bool number(struct span s, uint64_t max, uint64_t *out)
{
	uint64_t v = 0;

	if (s.length == 0)
		return false;
	for (size_t i = 0; i < s.length; i++) {
		unsigned digit = (unsigned)(s.at[i] - '0');

		if (digit > 9 || v > (max - digit) / 10)
			return false;
		v = v * 10 + digit;
	}
	*out = v;
	return true;
}

static bool hex32(struct span s, uint32_t *out)
{
	uint32_t v = 0;

	if (s.length == 0 || s.length > 8)
		return false;
	for (size_t i = 0; i < s.length; i++) {
		int c = tolower((unsigned char)s.at[i]);

		if (!isxdigit(c))
			return false;
		v = v << 4 | (uint32_t)(c <= '9' ? c - '0' : c - 'a' + 10);
	}
	*out = v;
	return true;
}

static struct span unquote(struct span s)
{
	if (s.length >= 2 && s.at[0] == '"' && s.at[s.length - 1] == '"')
		return (struct span){s.at + 1, s.length - 2};
	return s;
}

static void copy(char *to, size_t size, struct span s)
{
	size_t n = s.length < size - 1 ? s.length : size - 1;

	memcpy(to, s.at, n);
	to[n] = '\0';
}

/* --- KEY=VALUE -------------------------------------------------------------------------------------------- */

static int set_cid(struct parser *p, struct span line, struct span value, uint32_t *cid, bool *seen,
		   struct hv_error *err)
{
	uint32_t v;

	if (!hex32(value, &v))
		return bad_line(p, line, "has no number of up to eight hexadecimal digits", err);
	if (*seen && v != *cid)
		return bad_line(p, line, "contradicts an earlier one", err);
	*cid = v;
	*seen = true;
	return 0;
}

static void ddb_number(struct span value, uint32_t *out)
{
	uint64_t v;

	if (number(value, UINT32_MAX, &v))
		*out = (uint32_t)v;
}

/* The disk database: nothing that changes the disk's bytes, but for the mark of an encrypted one. */
static void set_ddb(struct parser *p, struct span key, struct span value)
{
	struct hv_vmdk_descriptor *d = p->d;

	p->ddb = true;
	if (same(key, "ddb.adapterType"))
		copy(d->adapter, sizeof(d->adapter), value);
	else if (same(key, "ddb.virtualHWVersion"))
		copy(d->hardware, sizeof(d->hardware), value);
	else if (same(key, "ddb.geometry.cylinders"))
		ddb_number(value, &d->cylinders);
	else if (same(key, "ddb.geometry.heads"))
		ddb_number(value, &d->heads);
	else if (same(key, "ddb.geometry.sectors"))
		ddb_number(value, &d->sectors);
	else if (same(key, "ddb.iofilters"))
		d->encrypted = d->encrypted || memmem(value.at, value.length, "crypt", 5);
}

static int set_parent_hint(struct parser *p, struct span line, struct span value, struct hv_error *err)
{
	char *hint = strndup(value.at, value.length);

	if (!hint)
		return hv_fail(err, ENOMEM, "%s: out of memory", p->path);
	if (p->d->parent_hint && strcmp(p->d->parent_hint, hint) != 0) {
		free(hint);
		return bad_line(p, line, "contradicts an earlier one", err);
	}
	free(p->d->parent_hint);
	p->d->parent_hint = hint;
	return 0;
}

static int set_create_type(struct parser *p, struct span line, struct span value, struct hv_error *err)
{
	if (p->create_type && !same(value, p->d->create_type))
		return bad_line(p, line, "contradicts an earlier one", err);
	copy(p->d->create_type, sizeof(p->d->create_type), value);
	p->create_type = true;
	return 0;
}

static int set_version(struct parser *p, struct span line, struct span value, struct hv_error *err)
{
	uint64_t v;

	if (!number(value, UINT32_MAX, &v))
		return bad_line(p, line, "has no number", err);
	if (v > VERSION_MAX)
		return hv_fail(err, ENOTSUP, "%s: a descriptor of version %llu; up to %d are known", p->path,
			       (unsigned long long)v, VERSION_MAX);
	return 0;
}

static int parse_pair(struct parser *p, struct span line, const char *equals, struct hv_error *err)
{
	struct hv_vmdk_descriptor *d = p->d;
	struct span key = trim((struct span){line.at, (size_t)(equals - line.at)});
	struct span value =
		unquote(trim((struct span){equals + 1, line.length - (size_t)(equals + 1 - line.at)}));

	if (starts(key, "ddb."))
		set_ddb(p, key, value);
	else if (same(key, "version"))
		return set_version(p, line, value, err);
	else if (same(key, "encoding"))
		copy(d->encoding, sizeof(d->encoding), value);
	else if (same(key, "CID")) {
		d->cid_at = (size_t)(value.at - p->text);
		d->cid_digits = (unsigned)value.length;
		return set_cid(p, line, value, &d->cid, &d->has_cid, err);
	} else if (same(key, "parentCID"))
		return set_cid(p, line, value, &d->parent_cid, &p->parent_cid, err);
	else if (same(key, "createType"))
		return set_create_type(p, line, value, err);
	else if (same(key, "parentFileNameHint"))
		return set_parent_hint(p, line, value, err);
	else if (same(key, "changeTrackPath"))
		d->change_tracking = true;
	else if (same(key, "encryptionKeys"))
		d->encrypted = true;
	return 0;
}

/* --- extents ---------------------------------------------------------------------------------------------- */

static bool access_of(struct span word, enum hv_vmdk_access *access)
{
	static const char *const names[] = {"NOACCESS", "RDONLY", "RW"};

	for (unsigned i = 0; i < HV_ARRAY_SIZE(names); i++)
		if (same(word, names[i])) {
			*access = (enum hv_vmdk_access)i;
			return true;
		}
	return false;
}

static bool type_of(struct span word, enum hv_vmdk_type *type)
{
	static const struct {
		const char *name;
		enum hv_vmdk_type type;
	} known[] = {{"FLAT", VMDK_FLAT},      {"VMFS", VMDK_FLAT},       {"ZERO", VMDK_ZERO},
		     {"SPARSE", VMDK_HOSTED},  {"VMFSSPARSE", VMDK_COWD}, {"SESPARSE", VMDK_SESPARSE},
		     {"VMFSRDM", VMDK_DEVICE}, {"VMFSRAW", VMDK_DEVICE}};

	for (unsigned i = 0; i < HV_ARRAY_SIZE(known); i++)
		if (same(word, known[i].name)) {
			*type = known[i].type;
			return true;
		}
	return false;
}

/*
 * The name is quoted, and nothing in it is escaped, so a name with a quote in it ends at the last quote of
 * the line; but behind the name of a partition may stand more quoted words.
 */
static bool take_name(struct span *rest, struct span *name)
{
	static const char *const more[] = {"\" 0 partitionUUID", "\" 0 deviceIdentifier"};
	const char *end = NULL;

	if (rest->length < 2 || rest->at[0] != '"')
		return false;
	for (unsigned i = 0; i < HV_ARRAY_SIZE(more) && !end; i++)
		end = memmem(rest->at + 1, rest->length - 1, more[i], strlen(more[i]));
	if (!end)
		end = memrchr(rest->at + 1, '"', rest->length - 1);
	if (!end || end == rest->at + 1)
		return false;
	*name = (struct span){rest->at + 1, (size_t)(end - rest->at) - 1};
	*rest = trim((struct span){end + 1, rest->length - (size_t)(end + 1 - rest->at)});
	return true;
}

/* \\.\PhysicalDrive0, /dev/sda, /vmfs/devices/disks/naa... */
static bool is_device(struct span name)
{
	return starts(name, "\\\\.\\") || starts(name, "/dev/") || starts(name, "/vmfs/devices/");
}

static int add_line(struct parser *p, const struct hv_vmdk_line *line, struct span name, struct hv_error *err)
{
	struct hv_vmdk_descriptor *d = p->d;
	struct hv_vmdk_line *more;

	if (d->lines >= HV_DISK_FILES_MAX)
		return hv_fail_unsafe(err, "%s: more than %u extents", p->path, HV_DISK_FILES_MAX);
	more = realloc(d->line, (d->lines + 1) * sizeof(*more));
	if (!more)
		return hv_fail(err, ENOMEM, "%s: out of memory", p->path);
	d->line = more;
	more[d->lines] = *line;
	if (name.length && !(more[d->lines].name = strndup(name.at, name.length)))
		return hv_fail(err, ENOMEM, "%s: out of memory", p->path);
	d->lines++;
	d->total += line->sectors;
	return 0;
}

static int parse_extent(struct parser *p, struct span line, enum hv_vmdk_access access, struct span rest,
			struct hv_error *err)
{
	struct hv_vmdk_line extent = {.access = access};
	struct span word = next_word(&rest), name = {NULL, 0};

	if (!number(word, HV_DISK_SIZE_MAX / VMDK_SECTOR, &extent.sectors) || extent.sectors == 0)
		return bad_line(p, line, "has no size in sectors that can be", err);
	if (extent.sectors > HV_DISK_SIZE_MAX / VMDK_SECTOR - p->d->total)
		return bad_line(p, line, "makes the disk larger than a disk can be", err);
	word = next_word(&rest);
	if (!word.length)
		return bad_line(p, line, "is cut off before the extent's type", err);
	if (!type_of(word, &extent.type))
		return hv_fail(err, ENOTSUP,
			       "%s: line %u of the descriptor has an extent of the type "
			       "\"%.*s\", which is not known",
			       p->path, p->number, word.length > 40 ? 40 : (int)word.length, word.at);
	if (extent.type == VMDK_ZERO || (access == VMDK_NOACCESS && rest.length == 0))
		return add_line(p, &extent, name, err);
	if (!take_name(&rest, &name))
		return bad_line(p, line, "has no file name in quotes", err);
	if (memchr(name.at, '\0', name.length))
		return bad_line(p, line, "has a file name that can't be", err);
	word = next_word(&rest);
	if (word.length && !number(word, HV_DISK_SIZE_MAX / VMDK_SECTOR, &extent.offset))
		return bad_line(p, line, "has something else than an offset behind the file name", err);
	if (extent.type == VMDK_FLAT && is_device(name))
		extent.type = VMDK_DEVICE;
	return add_line(p, &extent, name, err);
}

/* --- the whole -------------------------------------------------------------------------------------------- */

static int parse_line(struct parser *p, struct span line, struct hv_error *err)
{
	enum hv_vmdk_access access;
	struct span rest = line, word;
	const char *equals;

	if (line.length == 0 || line.at[0] == '#')
		return 0;
	word = next_word(&rest);
	if (access_of(word, &access))
		return parse_extent(p, line, access, rest, err);
	equals = memchr(line.at, '=', line.length);
	if (equals)
		return parse_pair(p, line, equals, err);
	return p->salvage ? 0 : bad_line(p, line, "is neither KEY=VALUE nor an extent", err);
}

/* Lines end with LF, CR LF or, from old Macs, CR. */
static int parse_lines(struct parser *p, size_t length, struct hv_error *err)
{
	size_t at = 0;

	if (length >= 3 && memcmp(p->text, "\xef\xbb\xbf", 3) == 0)
		at = 3;
	while (at < length) {
		size_t end = at;
		int rc;

		while (end < length && p->text[end] != '\n' && p->text[end] != '\r')
			end++;
		p->number++;
		p->ended = end < length;
		rc = parse_line(p, trim((struct span){p->text + at, end - at}), err);
		if (rc < 0)
			return rc;
		at = end + 1;
		if (end + 1 < length && p->text[end] == '\r' && p->text[end + 1] == '\n')
			at++;
	}
	return 0;
}

/*
 * A text that was cut off between two extents looks whole, and its disk is too short. Everything writes the
 * disk database behind the extents, so its absence tells; a monolithic disk's single extent needs no more.
 */
static int check_not_cut(const struct parser *p, struct hv_error *err)
{
	const struct hv_vmdk_descriptor *d = p->d;
	bool monolithic = strncasecmp(d->create_type, "monolithic", 10) == 0 && d->lines == 1 && p->ended;

	if (p->ddb || monolithic || p->salvage)
		return 0;
	return hv_fail_unsafe(err,
			      "%s: the descriptor ends without the disk database (lines \"ddb...\") behind "
			      "its %u extents; it is probably cut off",
			      p->path, d->lines);
}

static int check_whole(const struct parser *p, bool whole, struct hv_error *err)
{
	const struct hv_vmdk_descriptor *d = p->d;

	if (!p->create_type)
		return hv_fail_unsafe(err, "%s: the descriptor has no createType; it is cut off or damaged",
				      p->path);
	if (d->encrypted)
		return hv_fail(err, ENOTSUP,
			       "%s: the disk is encrypted; remove the encryption with VMware's tools first",
			       p->path);
	if (d->lines == 0)
		return hv_fail_unsafe(err, "%s: the descriptor lists no extent; it is cut off or damaged",
				      p->path);
	if (d->parent_cid != VMDK_NO_PARENT && !d->parent_hint)
		return hv_fail_unsafe(err,
				      "%s: the descriptor has a parent (parentCID=%08x) and no "
				      "parentFileNameHint that names it",
				      p->path, d->parent_cid);
	return whole ? check_not_cut(p, err) : 0;
}

int hv_vmdk_descriptor_parse(const char *path, const char *text, size_t length, bool whole, bool salvage,
			     struct hv_vmdk_descriptor *d, struct hv_error *err)
{
	struct parser p = {.path = path, .text = text, .d = d, .salvage = salvage};
	int rc;

	*d = (struct hv_vmdk_descriptor){.parent_cid = VMDK_NO_PARENT};
	rc = parse_lines(&p, strnlen(text, length), err);
	return rc < 0 ? rc : check_whole(&p, whole, err);
}

void hv_vmdk_descriptor_free(struct hv_vmdk_descriptor *d)
{
	for (unsigned i = 0; i < d->lines; i++)
		free(d->line[i].name);
	free(d->line);
	free(d->parent_hint);
	*d = (struct hv_vmdk_descriptor){0};
}

int hv_vmdk_descriptor_probe(const char *text, size_t length)
{
	static const char first[] = "# Disk DescriptorFile", key[] = "createType";
	size_t at = length >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;

	while (at < length && (is_blank(text[at]) || text[at] == '\n' || text[at] == '\r'))
		at++;
	if (starts((struct span){text + at, length - at}, first))
		return 2;
	/* Comments and then a version: other tools' descriptors. */
	while (at < length && text[at] != '\0' && starts((struct span){text + at, length - at}, "#")) {
		while (at < length && text[at] != '\n' && text[at] != '\r')
			at++;
		while (at < length && (is_blank(text[at]) || text[at] == '\n' || text[at] == '\r'))
			at++;
	}
	return starts((struct span){text + at, length - at}, "version") &&
	       memmem(text + at, length - at, key, strlen(key)) != NULL;
}

/* --- names ------------------------------------------------------------------------------------------------ */

/* VMware's names of encodings that glibc calls otherwise; anything else than these is not tried. */
static bool encoding_name(const char *encoding, char name[16])
{
	static const char *const as_they_are[] = {"Shift_JIS", "GBK", "GB18030", "Big5", "EUC-JP", "EUC-KR"};

	if (strncasecmp(encoding, "windows-", 8) == 0 && strlen(encoding + 8) <= 4 &&
	    strspn(encoding + 8, "0123456789") == strlen(encoding + 8)) {
		snprintf(name, 16, "CP%s", encoding + 8);
		return true;
	}
	if (strncasecmp(encoding, "ISO-8859-", 9) == 0 && strlen(encoding) <= 11 &&
	    strspn(encoding + 9, "0123456789") == strlen(encoding + 9)) {
		strcpy(name, encoding);
		return true;
	}
	for (unsigned i = 0; i < HV_ARRAY_SIZE(as_they_are); i++)
		if (strcasecmp(encoding, as_they_are[i]) == 0) {
			strcpy(name, as_they_are[i]);
			return true;
		}
	return false;
}

char *hv_vmdk_utf8(const char *name, const char *encoding)
{
	size_t in = strlen(name), room = in * 4, out = room;
	char from[16], *result, *to, *source = (char *)name;
	iconv_t cd;

	if (!encoding_name(encoding, from) || (intptr_t)(cd = iconv_open("UTF-8", from)) == -1)
		return NULL;
	result = to = malloc(room + 1);
	if (result && (iconv(cd, &source, &in, &to, &out) == (size_t)-1 || in)) {
		free(result);
		result = NULL;
	}
	iconv_close(cd);
	if (!result)
		return NULL;
	*to = '\0';
	if (strcmp(result, name) == 0) {
		free(result);
		return NULL;
	}
	return result;
}

char *hv_vmdk_unescape(const char *name)
{
	char *result, *to;
	uint32_t byte;

	if (!strchr(name, '|') || !(result = to = malloc(strlen(name) + 1)))
		return NULL;
	for (const char *p = name; *p; p++) {
		if (*p == '|' && p[1] && p[2] && hex32((struct span){p + 1, 2}, &byte) && byte) {
			*to++ = (char)byte;
			p += 2;
		} else {
			*to++ = *p;
		}
	}
	*to = '\0';
	return result;
}
