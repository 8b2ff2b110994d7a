/*
 * VHD: the parent of a differencing disk. The dynamic header has up to eight locators, each a name of one
 * kind, and the parent's bare name besides (specification 1.0, "Dynamic Disk Header Format"). They are tried
 * in a fixed order; the first file that bears the parent's unique id is the parent.
 *
 * The header also records when the parent was last modified. That is the time of the parent's file, which
 * each copy without its times changes, and which summer time breaks on Windows. Windows knows an error for it
 * (0xC03A000F); XenServer's tapdisk has given the check up, as marking a parent hidden or coalescing into it
 * broke it; 86Box did refuse, and was reported for it. So the id decides here, and another time is a note.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "base/bytes.h"
#include "disk/vhd/vhd.h"

#define NAME_MAX_BYTES (64U << 10) /* a Windows path in UTF-16 */

#define CODE(a, b, c, d) ((uint32_t)(a) << 24 | (uint32_t)(b) << 16 | (uint32_t)(c) << 8 | (uint32_t)(d))

enum encoding {
	UTF16_LE, /* in the locators */
	UTF16_BE, /* in the header itself */
	BYTES,    /* some Windows code page; names in ASCII or UTF-8 are found */
	FILE_URL,
};

static const struct kind {
	uint32_t code;
	enum encoding encoding;
	const char *name;
} kinds[] = {
	{CODE('W', '2', 'k', 'u'), UTF16_LE, "W2ku"}, /* absolute */
	{CODE('W', '2', 'r', 'u'), UTF16_LE, "W2ru"}, /* relative */
	{CODE('W', 'i', '2', 'r'), BYTES, "Wi2r"},    /* relative, deprecated */
	{CODE('W', 'i', '2', 'k'), BYTES, "Wi2k"},    /* absolute, deprecated */
	{CODE('M', 'a', 'c', 'X'), FILE_URL, "MacX"}, /* XenServer's, too */
};

/* --- names ------------------------------------------------------------------------------------------------ */

static size_t put_utf8(char *to, uint32_t c)
{
	if (c < 0x80) {
		to[0] = (char)c;
		return 1;
	}
	if (c < 0x800) {
		to[0] = (char)(0xc0 | c >> 6);
		to[1] = (char)(0x80 | (c & 0x3f));
		return 2;
	}
	if (c < 0x10000) {
		to[0] = (char)(0xe0 | c >> 12);
		to[1] = (char)(0x80 | (c >> 6 & 0x3f));
		to[2] = (char)(0x80 | (c & 0x3f));
		return 3;
	}
	to[0] = (char)(0xf0 | c >> 18);
	to[1] = (char)(0x80 | (c >> 12 & 0x3f));
	to[2] = (char)(0x80 | (c >> 6 & 0x3f));
	to[3] = (char)(0x80 | (c & 0x3f));
	return 4;
}

/* UTF-16 up to its end or a zero; a fresh string. An unpaired surrogate becomes U+FFFD, which no file has. */
static char *from_utf16(const uint8_t *in, size_t length, bool big_endian)
{
	char *out = malloc(length / 2 * 3 + 1);
	size_t n = 0;

	for (size_t i = 0; out && i + 1 < length; i += 2) {
		uint32_t c = big_endian ? hv_be16(in + i) : hv_le16(in + i), low = 0;

		if (c == 0)
			break;
		if (c >= 0xd800 && c < 0xdc00 && i + 3 < length)
			low = big_endian ? hv_be16(in + i + 2) : hv_le16(in + i + 2);
		if (low >= 0xdc00 && low < 0xe000) {
			c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
			i += 2;
		} else if (c >= 0xd800 && c < 0xe000) {
			c = 0xfffd;
		}
		n += put_utf8(out + n, c);
	}
	if (out)
		out[n] = '\0';
	return out;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* "file://[localhost]/a%20b" or XenServer's "file://./b" -> a path, in place. */
static char *from_url(char *url)
{
	char *from = url, *to = url;

	if (strncasecmp(from, "file://", 7) == 0)
		from += 7;
	if (strncasecmp(from, "localhost/", 10) == 0)
		from += 9;
	for (; *from; from++) {
		int high = *from == '%' ? hex_digit(from[1]) : -1;
		int low = high >= 0 ? hex_digit(from[2]) : -1;

		if (low >= 0 && (high | low)) {
			*to++ = (char)(high << 4 | low);
			from += 2;
		} else {
			*to++ = *from;
		}
	}
	*to = '\0';
	return url;
}

/* Some writers took the other byte order: an ASCII letter, '.' or '\' at the start shows which it is. */
static char *decode_name(const uint8_t *in, size_t length, enum encoding encoding)
{
	bool big_endian = encoding == UTF16_BE;
	char *name;

	if (encoding == UTF16_LE || encoding == UTF16_BE) {
		if (length >= 2 && (in[0] == 0) != (in[1] == 0))
			big_endian = in[0] == 0;
		return from_utf16(in, length, big_endian);
	}
	name = strndup((const char *)in, length);
	return name && encoding == FILE_URL ? from_url(name) : name;
}

/* The name in the locator of that kind; *name stays NULL when there is none that can be read. */
static int read_locator(struct hv_disk *d, const struct vhd *v, const struct kind *kind, char **name,
			struct hv_error *err)
{
	for (unsigned i = 0; i < VHD_LOCATORS; i++) {
		const uint8_t *l = v->header + HEADER_LOCATORS + (size_t)i * 24;
		uint32_t length = hv_be32(l + 8);
		uint8_t *bytes;
		int rc;

		if (hv_be32(l) != kind->code || length == 0)
			continue;
		if (length > NAME_MAX_BYTES)
			return hv_fail_unsafe(
				err,
				"%s: parent locator %u (dynamic header, offset %llu) is %u bytes long; "
				"at most 65536 are expected",
				d->path, i, (unsigned long long)(v->header_at + HEADER_LOCATORS + i * 24ULL),
				length);
		bytes = malloc(length);
		if (!bytes)
			return hv_fail(err, ENOMEM, "%s: out of memory", d->path);
		rc = hv_disk_file_read(d->file[0], "parent locator", bytes, length, hv_be64(l + 16), err);
		if (rc == 0 && !(*name = decode_name(bytes, length, kind->encoding)))
			rc = hv_fail(err, ENOMEM, "%s: out of memory", d->path);
		free(bytes);
		return rc;
	}
	return 0;
}

/* --- is it the parent? ------------------------------------------------------------------------------------ */

static int check_id(struct hv_disk *d, const struct vhd *v, struct hv_error *err)
{
	const struct vhd *parent = d->parent->state;
	char want[37], has[37];

	if (memcmp(v->header + HEADER_PARENT_ID, parent->footer + FOOTER_ID, 16) == 0)
		return 0;
	hv_vhd_id(v->header + HEADER_PARENT_ID, want);
	hv_vhd_id(parent->footer + FOOTER_ID, has);
	return hv_fail_unsafe(err, "%s: its parent has the unique id %s; %s, at that place, has %s", d->path,
			      want, d->parent->path, has);
}

/* Hyper-V refuses such a pair (0xC03A0017). XenServer lengthens a disk that has snapshots: its new end is
 * zeros. */
static int check_size(struct hv_disk *d, const struct vhd *v, struct hv_error *err)
{
	const struct vhd *parent = d->parent->state;
	bool lengthened = v->size > parent->size && memcmp(v->footer + FOOTER_CREATOR, "tap\0", 4) == 0;

	if (parent->size == v->size)
		return 0;
	if (d->salvage || lengthened)
		return hv_disk_note(d,
				    "the disk has %llu bytes, its parent %llu: one of them was resized since",
				    (unsigned long long)v->size, (unsigned long long)parent->size);
	return hv_fail_unsafe(
		err,
		"%s: the disk has %llu bytes and its parent %s %llu: one of them was resized since, and "
		"they don't fit together any more",
		d->path, (unsigned long long)v->size, d->parent->path, (unsigned long long)parent->size);
}

/* Two seconds are what a FAT file system rounds to. */
static int check_time(struct hv_disk *d, const struct vhd *v)
{
	uint32_t want = hv_be32(v->header + HEADER_PARENT_TIME);
	struct stat st;
	long long off;

	if (want == 0 || fstat(d->parent->file[0]->fd, &st) < 0)
		return 0;
	off = (long long)st.st_mtime - VHD_EPOCH - (long long)want;
	if (off >= -2 && off <= 2)
		return 0;
	return hv_disk_note(
		d,
		"its parent's file %s was last modified %lld s %s than recorded when this disk was made: if "
		"it "
		"was not only copied or touched but written to, this disk's contents can't be trusted",
		d->parent->path, off < 0 ? -off : off, off < 0 ? "earlier" : "later");
}

/* --- the search ------------------------------------------------------------------------------------------- */

struct search {
	struct hv_disk *d;
	const struct vhd *v;
	struct hv_error worst; /* what to say when no candidate will do: a wrong file before a missing one */
	char *name;            /* the first name found, for sentences; owned */
	unsigned tried;
};

static bool is_there(const struct hv_error *err)
{
	return err->code != -ENOENT && err->code != -ENOTDIR && err->code != -ENAMETOOLONG;
}

/* 1: it is the parent; 0: look further. */
static int try_name(struct search *s, const char *name)
{
	struct hv_error err = {0};
	int rc;

	if (!name[0])
		return 0;
	s->tried++;
	rc = hv_disk_open_parent(s->d, name, "vhd", &err);
	if (rc == 0)
		rc = check_id(s->d, s->v, &err);
	if (rc == 0)
		return 1;
	if (s->d->parent)
		hv_disk_drop_parent(s->d);
	if (s->worst.code == 0 || (is_there(&err) && !is_there(&s->worst)))
		s->worst = err;
	return rc == -ENOMEM ? rc : 0;
}

/* A name of Windows; one that is absolute there may still be right here. */
static int try_windows(struct search *s, const char *windows)
{
	bool relative;
	char *name = hv_disk_windows_name(windows, &relative);
	int rc;

	if (!name)
		return -ENOMEM;
	rc = try_name(s, name);
	free(name);
	return rc;
}

static int try_kind(struct search *s, const struct kind *kind, bool base_only)
{
	struct hv_error err = {0};
	char *name = NULL;
	int rc = read_locator(s->d, s->v, kind, &name, &err);

	if (rc < 0) {
		if (s->worst.code == 0 || !is_there(&s->worst))
			s->worst = err;
		return rc == -ENOMEM ? rc : 0;
	}
	if (!name)
		return 0;
	if (base_only)
		rc = strcmp(hv_disk_base_name(name), name) == 0 ? 0 : try_name(s, hv_disk_base_name(name));
	else
		rc = try_windows(s, name);
	if (s->name)
		free(name);
	else
		s->name = name;
	return rc;
}

static int try_header(struct search *s)
{
	char *name = decode_name(s->v->header + HEADER_PARENT_NAME, HEADER_LOCATORS - HEADER_PARENT_NAME,
				 UTF16_BE);
	int rc;

	if (!name)
		return -ENOMEM;
	rc = try_windows(s, name);
	if (rc == 0 && strcmp(hv_disk_base_name(name), name) != 0)
		rc = try_name(s, hv_disk_base_name(name));
	if (s->name)
		free(name);
	else
		s->name = name;
	return rc;
}

/*
 * All locators, then the name in the header; and as chains are mostly moved as a whole, out of the folders
 * that their names tell: the bare file names, beside this image. The id says whether such a guess was right.
 */
static int search(struct search *s)
{
	int rc = 0;

	for (unsigned i = 0; i < HV_ARRAY_SIZE(kinds) && rc == 0; i++)
		rc = try_kind(s, &kinds[i], false);
	if (rc == 0)
		rc = try_header(s);
	for (unsigned i = 0; i < HV_ARRAY_SIZE(kinds) && rc == 0; i++)
		rc = try_kind(s, &kinds[i], true);
	return rc;
}

static int not_found(struct search *s, struct hv_error *err)
{
	struct hv_disk *d = s->d;

	if (d->salvage) {
		((struct vhd *)d->state)->orphan = true;
		return hv_disk_note(d, "its parent can't be used; what it holds is lost (%s)", s->worst.text);
	}
	if (s->worst.code && is_there(&s->worst)) {
		if (err)
			*err = s->worst;
		return s->worst.code;
	}
	if (!s->tried)
		return hv_fail_unsafe(err, "%s: a differencing disk that names no parent", d->path);
	return hv_fail_unsafe(
		err,
		"%s: its parent \"%.200s\" is not there (%u names were tried); bring it into the folder of "
		"this image",
		d->path, s->name ? s->name : "", s->tried);
}

static int tell_parent(struct hv_disk *d, const struct vhd *v, const char *name)
{
	char id[37];
	int rc;

	hv_vhd_id(v->header + HEADER_PARENT_ID, id);
	rc = hv_disk_property(d, "parent id", "%s", id);
	return rc == 0 && name ? hv_disk_property(d, "parent", "%s", name) : rc;
}

/* With options.alone the first name ends the search, and nothing was opened. */
static int found(struct search *s, struct hv_error *err)
{
	int rc = 0;

	if (s->d->parent)
		rc = check_size(s->d, s->v, err);
	if (rc == 0 && s->d->parent)
		rc = check_time(s->d, s->v);
	return rc;
}

/* The name to tell of an image that is looked at alone. */
static int name_alone(struct search *s)
{
	struct hv_error err;

	for (unsigned i = 0; i < HV_ARRAY_SIZE(kinds) && !s->name; i++)
		if (read_locator(s->d, s->v, &kinds[i], &s->name, &err) == -ENOMEM)
			return -ENOMEM;
	if (!s->name)
		s->name = decode_name(s->v->header + HEADER_PARENT_NAME, HEADER_LOCATORS - HEADER_PARENT_NAME,
				      UTF16_BE);
	return s->name ? 0 : -ENOMEM;
}

int hv_vhd_open_parent(struct hv_disk *d, struct vhd *v, struct hv_error *err)
{
	struct search s = {.d = d, .v = v};
	int rc;

	d->has_parent = true;
	rc = d->options.alone ? name_alone(&s) : search(&s);
	if (rc == 0 && !d->options.alone)
		rc = not_found(&s, err);
	else if (rc > 0)
		rc = found(&s, err);
	if (rc == 0)
		rc = tell_parent(d, v, s.name);
	free(s.name);
	return rc == -ENOMEM ? hv_fail(err, ENOMEM, "%s: out of memory", d->path) : rc;
}
