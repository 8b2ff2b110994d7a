/*
 * OVA: an OVF package in one tar file (DSP0243 5.3: USTAR, the envelope first). libarchive reads the headers;
 * members are stored as they are, so that a disk is read where it stands: its place is checked against the
 * header right before it and against the bytes that libarchive gives. Nothing is ever unpacked, but a name
 * that would leave the archive's folder, a link or a member that comes twice marks an archive that somebody
 * made up to deceive another program, and it is refused.
 */
#include <archive.h>
#include <archive_entry.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/io.h"
#include "disk/appliance/appliance_impl.h"

#define BLOCK 512u

struct hv_appliance_file *hv_appliance_file_named(struct hv_appliance *a, const char *name)
{
	while (!strncmp(name, "./", 2))
		name += 2;
	for (unsigned i = 0; i < a->files; i++)
		if (!strcmp(a->file[i].name, name))
			return &a->file[i];
	return NULL;
}

/* Where the entry's bytes begin: a whole number of blocks into the file, right behind a header whose checksum
 * is right. */
static int find_data(struct hv_appliance *a, struct archive *tar, const char *name, uint64_t *at,
		     struct hv_error *err)
{
	int64_t position = archive_filter_bytes(tar, 0);
	uint8_t header[BLOCK];
	unsigned long said, sum = 8 * ' ';
	char digits[9] = "";

	if (position < (int64_t)BLOCK || position % BLOCK)
		return hv_fail_unsafe(err, "%s: member %s starts at byte %lld, which is no tar block's start",
				      a->path, name, (long long)position);
	if (hv_pread_full(a->fd, header, sizeof(header), (uint64_t)position - BLOCK))
		return hv_fail_unsafe(err, "%s: the header of member %s can't be read", a->path, name);
	for (unsigned i = 0; i < BLOCK; i++)
		sum += i >= 148 && i < 156 ? 0 : header[i];
	memcpy(digits, header + 148, 8);
	said = strtoul(digits, NULL, 8);
	if (said != sum || (header[156] != '0' && header[156] != '\0' && header[156] != '7'))
		return hv_fail_unsafe(
			err,
			"%s: no header of a plain file with a right checksum stands before member "
			"%s, at byte %lld",
			a->path, name, (long long)position - BLOCK);
	*at = (uint64_t)position;
	return 0;
}

/* The member's first bytes as libarchive gives them are those that stand at its place. */
static int compare_data(struct hv_appliance *a, struct archive *tar, const struct hv_appliance_file *f,
			struct hv_error *err)
{
	uint8_t here[BLOCK];
	const void *there;
	size_t length;
	la_int64_t offset;

	if (f->length == 0)
		return 0;
	if (archive_read_data_block(tar, &there, &length, &offset) != ARCHIVE_OK || offset != 0)
		return hv_fail_unsafe(err, "%s: member %s can't be read: %s", a->path, f->name,
				      archive_error_string(tar) ? archive_error_string(tar) : "it has holes");
	length = length < sizeof(here) ? length : sizeof(here);
	if (hv_pread_full(a->fd, here, length, f->at) || memcmp(here, there, length) != 0)
		return hv_fail_unsafe(err, "%s: member %s does not stand where its header says, at byte %llu",
				      a->path, f->name, (unsigned long long)f->at);
	return 0;
}

/* A name that stays in the folder it would be unpacked to, and looks like what it is. */
static bool good_name(const char *name)
{
	if (!*name || *name == '/' || strlen(name) > 1023 || strchr(name, '\\'))
		return false;
	for (const char *p = name; *p; p += strcspn(p, "/"), p += *p == '/')
		if (!strncmp(p, "..", 2) && (p[2] == '/' || !p[2]))
			return false;
	return true;
}

static const char *entry_name(struct hv_appliance *a, struct archive_entry *e)
{
	const char *raw = archive_entry_pathname_utf8(e), *clean;

	raw = raw ? raw : archive_entry_pathname(e);
	if (!raw)
		return NULL;
	while (!strncmp(raw, "./", 2))
		raw += 2;
	if (!good_name(raw))
		return NULL;
	clean = hv_appliance_keep(a, raw);
	return clean && !strcmp(clean, raw) ? clean : NULL;
}

static int check_entry(struct hv_appliance *a, struct archive_entry *e, uint64_t at, struct hv_error *err)
{
	const char *name = archive_entry_pathname(e);

	name = name ? hv_appliance_keep(a, name) : NULL;
	name = name ? name : "?";
	if (archive_entry_filetype(e) != AE_IFREG || archive_entry_hardlink(e) || archive_entry_symlink(e))
		return hv_fail_unsafe(
			err,
			"%s: member %.256s (before byte %llu) is no plain file but a link, a folder "
			"or a device; an OVA has only files",
			a->path, name, (unsigned long long)at);
	if (!archive_entry_size_is_set(e) || archive_entry_size(e) < 0 || archive_entry_sparse_count(e) > 0)
		return hv_fail_unsafe(
			err,
			"%s: member %.256s is stored with holes or without a size; an OVA has its "
			"members as they are",
			a->path, name);
	return 0;
}

static int add_member(struct hv_appliance *a, struct archive *tar, struct archive_entry *e, uint64_t size,
		      struct hv_error *err)
{
	struct hv_appliance_file *f;
	const char *name;
	uint64_t at = (uint64_t)archive_filter_bytes(tar, 0);
	int rc = check_entry(a, e, at, err);

	if (rc)
		return rc;
	name = entry_name(a, e);
	if (!name)
		return hv_fail_unsafe(
			err,
			"%s: the member before byte %llu has a name that leads out of the archive, or "
			"one with control characters",
			a->path, (unsigned long long)at);
	if (hv_appliance_file_named(a, name))
		return hv_fail_unsafe(err, "%s: member %s is there twice, the second time before byte %llu",
				      a->path, name, (unsigned long long)at);
	rc = find_data(a, tar, name, &at, err);
	if (rc)
		return rc;
	f = hv_appliance_add_file(a, err);
	if (!f)
		return err->code;
	f->name = name;
	f->at = at;
	f->length = (uint64_t)archive_entry_size(e);
	if (!hv_inside(f->at, f->length, size))
		return hv_fail_unsafe(
			err,
			"%s: the archive is cut: member %s should end at byte %llu, and the file has %llu",
			a->path, name, (unsigned long long)f->at + f->length, (unsigned long long)size);
	return compare_data(a, tar, f, err);
}

static int read_headers(struct hv_appliance *a, struct archive *tar, uint64_t size, struct hv_error *err)
{
	struct archive_entry *e;
	int rc = 0, got;

	while (!rc && (got = archive_read_next_header(tar, &e)) != ARCHIVE_EOF) {
		if (got != ARCHIVE_OK && got != ARCHIVE_WARN)
			return hv_fail_unsafe(err, "%s: the tar header near byte %lld can't be read: %s",
					      a->path, (long long)archive_filter_bytes(tar, 0),
					      archive_error_string(tar) ? archive_error_string(tar)
									: "damage");
		rc = add_member(a, tar, e, size, err);
	}
	return rc;
}

static int list_members(struct hv_appliance *a, struct hv_error *err)
{
	struct archive *tar = archive_read_new();
	struct stat st;
	int rc;

	if (!tar)
		return hv_fail(err, ENOMEM, "%s: no memory to read it", a->path);
	if (fstat(a->fd, &st) || lseek(a->fd, 0, SEEK_SET) < 0)
		rc = hv_fail_errno(err, "%s: cannot read it", a->path);
	else if (archive_read_support_format_tar(tar) != ARCHIVE_OK ||
		 archive_read_open_fd(tar, a->fd, 64 << 10) != ARCHIVE_OK)
		rc = hv_fail_unsafe(err, "%s: this is no tar archive: %s", a->path,
				    archive_error_string(tar));
	else
		rc = read_headers(a, tar, (uint64_t)st.st_size, err);
	archive_read_free(tar);
	return rc;
}

static bool has_suffix(const char *name, const char *suffix)
{
	size_t n = strlen(name), m = strlen(suffix);

	return n > m && !strcasecmp(name + n - m, suffix);
}

/* The one member of that suffix; NULL for none, and *count tells how many there are. */
static const struct hv_appliance_file *only(const struct hv_appliance *a, const char *suffix, unsigned *count)
{
	const struct hv_appliance_file *found = NULL;

	*count = 0;
	for (unsigned i = 0; i < a->files; i++) {
		if (has_suffix(a->file[i].name, suffix)) {
			found = &a->file[i];
			(*count)++;
		}
	}
	return found;
}

typedef int reader(struct hv_appliance *a, const char *name, const char *text, size_t length,
		   struct hv_error *err);

static int read_member(struct hv_appliance *a, const struct hv_appliance_file *f, reader *read,
		       struct hv_error *err)
{
	const char *path = hv_appliance_format(a, "%s(%s)", a->path, f->name);
	uint64_t length = f->length;
	char *text;
	int rc;

	if (!path)
		return hv_fail(err, ENOMEM, "%s: no memory to read it", a->path);
	rc = hv_appliance_load_part(a->fd, path, f->at, length, HV_APPLIANCE_TEXT_MAX, &text, err);
	if (rc)
		return rc;
	rc = read(a, path, text, (size_t)length, err);
	free(text);
	return rc;
}

int hv_ova_read(struct hv_appliance *a, struct hv_error *err)
{
	const struct hv_appliance_file *envelope, *manifest;
	unsigned count;
	int rc = list_members(a, err);

	a->kind = "ova";
	if (rc)
		return rc;
	envelope = only(a, ".ovf", &count);
	if (count != 1)
		return hv_fail_unsafe(err, "%s: the archive has %u .ovf members; an OVA has exactly one",
				      a->path, count);
	manifest = only(a, ".mf", &count);
	if (count > 1)
		return hv_fail_unsafe(err, "%s: the archive has %u manifests (.mf); an OVA has at most one",
				      a->path, count);
	if (manifest) {
		a->manifest_name = manifest->name;
		rc = read_member(a, manifest, hv_manifest_read, err);
	}
	only(a, ".cert", &count);
	if (!rc && count &&
	    hv_appliance_note(a, "%s: it is signed (.cert); the signature is not checked", a->path))
		rc = hv_fail(err, ENOMEM, "%s: no memory for a note", a->path);
	return rc ? rc : read_member(a, envelope, hv_ovf_read, err);
}
