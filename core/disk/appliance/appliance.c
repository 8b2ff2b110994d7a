/*
 * Appliances: which kind a file is, and opening it. What each kind says stands in its own file (ovf.c, ova.c,
 * vmx.c, hyperv_xml.c, vmcx.c); where its files are, in appliance_find.c; the lists that all fill, in
 * appliance_model.c; the disks, in appliance_disk.c.
 */
#include <ctype.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/io.h"
#include "disk/appliance/appliance_impl.h"
#include "disk/format.h"

/* --- files --- */

int hv_appliance_load_part(int fd, const char *path, uint64_t at, uint64_t length, size_t max, char **text,
			   struct hv_error *err)
{
	char *data;
	int rc;

	if (length > max)
		return hv_fail_unsafe(err,
				      "%s: its description is %llu bytes long, more than the %zu MiB of any "
				      "real machine's",
				      path, (unsigned long long)length, max >> 20);
	data = malloc((size_t)length + 1);
	if (!data)
		return hv_fail(err, ENOMEM, "%s: no memory to read it", path);
	rc = hv_pread_full(fd, data, (size_t)length, at);
	if (rc) {
		free(data);
		if (rc == -ENODATA)
			return hv_fail_unsafe(err,
					      "%s: the file ends before byte %llu, where its "
					      "description does",
					      path, (unsigned long long)at + length);
		errno = -rc;
		return hv_fail_errno(err, "%s: cannot read it", path);
	}
	data[length] = '\0';
	*text = data;
	return 0;
}

int hv_appliance_load(const char *path, size_t max, char **text, size_t *length, struct hv_error *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK), rc;
	struct stat st;

	if (fd < 0)
		return hv_fail_errno(err, "%s: cannot open it", path);
	if (fstat(fd, &st) || !S_ISREG(st.st_mode)) {
		close(fd);
		return hv_fail(err, EINVAL, "%s: this is no regular file", path);
	}
	rc = hv_appliance_load_part(fd, path, 0, (uint64_t)st.st_size, max, text, err);
	close(fd);
	if (!rc)
		*length = (size_t)st.st_size;
	return rc;
}

/* --- names of the converted disks --- */

static bool name_taken(const struct hv_appliance *a, const char *name)
{
	for (unsigned i = 0; i < a->machines; i++)
		for (unsigned j = 0; j < a->machine[i].vm.drives; j++)
			if (a->machine[i].drive[j].name && !strcasecmp(a->machine[i].drive[j].name, name))
				return true;
	return false;
}

/* The base name without what follows its last dot, of plain letters only, and no other drive's. */
static const char *safe_name(struct hv_appliance *a, const char *file)
{
	char name[112], unique[128];
	const char *base = hv_disk_base_name(file), *dot = strrchr(base, '.');
	size_t length = dot && dot != base ? (size_t)(dot - base) : strlen(base), n = 0;

	for (size_t i = 0; i < length && n < sizeof(name) - 1; i++) {
		unsigned char c = (unsigned char)base[i];
		bool plain = isalnum(c) || c == '_' || (n > 0 && (c == '.' || c == '-'));

		if (plain || (n > 0 && name[n - 1] != '_'))
			name[n++] = plain ? (char)c : '_';
	}
	while (n > 0 && (name[n - 1] == '_' || name[n - 1] == '.'))
		n--;
	name[n] = '\0';
	snprintf(unique, sizeof(unique), "%s", n ? name : "disk");
	for (unsigned i = 2; name_taken(a, unique) && i < 100000; i++)
		snprintf(unique, sizeof(unique), "%s-%u", n ? name : "disk", i);
	return hv_appliance_keep(a, unique);
}

/* --- opening --- */

/* The lists are complete: the public view of them. */
static int finish(struct hv_appliance *a, struct hv_error *err)
{
	for (unsigned i = 0; i < a->machines; i++) {
		struct hv_appliance_machine *m = &a->machine[i];

		for (unsigned j = 0; j < m->vm.drives; j++)
			if (m->drive[j].kind == HV_DRIVE_DISK && (m->drive[j].file || m->drive[j].capacity))
				m->drive[j].name =
					safe_name(a, m->drive[j].file ? m->drive[j].file : "empty");
	}
	for (unsigned i = 0; i < a->digests; i++) {
		struct hv_appliance_file *f = hv_appliance_file_named(a, a->digest[i].name);

		if (f)
			f->digest = HV_DIGEST_UNCHECKED;
	}
	if (!a->manifest && a->kind && (!strcmp(a->kind, "ova") || !strcmp(a->kind, "ovf")))
		hv_appliance_note(
			a,
			"%s: there is no manifest: nothing tells whether its files are as they were "
			"exported",
			a->path);
	a->vm = hv_appliance_alloc(a, (a->machines + 1) * sizeof(*a->vm));
	if (!a->note)
		a->note = hv_appliance_alloc(a, sizeof(*a->note));
	for (unsigned i = 0; a->vm && i < a->machines; i++) {
		struct hv_appliance_machine *m = &a->machine[i];

		if (!m->other)
			m->other = hv_appliance_alloc(a, sizeof(*m->other));
		m->vm.other = m->other;
		a->vm[i] = m->vm;
	}
	if (a->kept > HV_APPLIANCE_KEEP_MAX)
		return hv_appliance_too_big(a, err);
	if (a->machines == 0)
		return hv_fail_unsafe(err, "%s: it describes no machine", a->path);
	return 0;
}

static bool starts_with(const char *text, size_t length, const char *mark, size_t at)
{
	size_t n = strlen(mark);

	return hv_inside(at, n, length) && !memcmp(text + at, mark, n);
}

/* "<" in UTF-8 or UTF-16, blanks and a byte order mark before it aside. */
static bool looks_like_xml(const char *text, size_t length)
{
	for (size_t i = 0; i < length && i < 256; i++) {
		unsigned char c = (unsigned char)text[i];

		if (c == '<')
			return true;
		if (c != 0 && c != 0xef && c != 0xbb && c != 0xbf && c != 0xff && c != 0xfe && !isspace(c))
			return false;
	}
	return false;
}

/* Which XML it is, its root element tells. */
struct root {
	char name[32];
};

static int see_root(void *ctx, unsigned depth, const char *name, const char **attributes,
		    struct hv_error *err)
{
	struct root *r = ctx;

	snprintf(r->name, sizeof(r->name), "%s", name);
	return -ECANCELED;
}

/* "name.ovf" has its manifest in "name.mf" beside it, or has none. */
static int read_manifest(struct hv_appliance *a, const char *path, struct hv_error *err)
{
	size_t n = strlen(path), length = 0;
	char name[PATH_MAX], *text = NULL;
	int rc;

	if (n < 5 || n + 1 > sizeof(name) || strcasecmp(path + n - 4, ".ovf") != 0)
		return 0;
	snprintf(name, sizeof(name), "%.*s.mf", (int)(n - 4), path);
	if (access(name, F_OK))
		return 0;
	rc = hv_appliance_load(name, HV_APPLIANCE_TEXT_MAX, &text, &length, err);
	if (rc)
		return rc;
	rc = hv_manifest_read(a, name, text, length, err);
	free(text);
	return rc;
}

static int read_ovf(struct hv_appliance *a, const char *path, const char *text, size_t length,
		    struct hv_error *err)
{
	struct hv_appliance_file *f = hv_appliance_add_file(a, err);
	int rc;

	if (!f)
		return err->code;
	f->name = hv_appliance_keep(a, hv_disk_base_name(path));
	f->length = length;
	rc = read_manifest(a, path, err);
	return rc ? rc : hv_ovf_read(a, path, text, length, err);
}

static int read_xml(struct hv_appliance *a, const char *path, const char *text, size_t length,
		    struct hv_error *err)
{
	struct root r = {""};
	const struct hv_xml x = {.start = see_root, .ctx = &r};
	int rc = hv_xml_parse(&x, path, text, length, err);

	if (rc && rc != -ECANCELED)
		return rc;
	if (!strcmp(r.name, "Envelope"))
		return read_ovf(a, path, text, length, err);
	if (!strcmp(r.name, "configuration"))
		return hv_hyperv_xml_read(a, path, text, length, err);
	return hv_fail(err, EINVAL,
		       "%s: an XML file that starts with <%.31s> is no appliance; give an OVF envelope or an "
		       "exported Hyper-V machine",
		       path, r.name);
}

static int read_text(struct hv_appliance *a, const char *path, const char *text, size_t length,
		     struct hv_error *err)
{
	if (hv_vmcx_probe(text, length))
		return hv_vmcx_read(a, path, text, length, err);
	if (looks_like_xml(text, length))
		return read_xml(a, path, text, length, err);
	if (memchr(text, '\0', length))
		return hv_fail(err, EINVAL,
			       "%s: this is no appliance; give an .ova, .ovf, .vmx, or the folder of an "
			       "exported Hyper-V machine",
			       path);
	return hv_vmx_read(a, path, text, length, err);
}

/* An export puts a machine's description into "Virtual Machines", its disks beside that folder. */
static bool in_export(const char *folder)
{
	const char *base = hv_disk_base_name(folder);

	return !strcasecmp(base, "Virtual Machines") || !strcasecmp(base, "Snapshots");
}

int hv_appliance_folder(const char *path, char *folder, size_t size, struct hv_error *err)
{
	char real[PATH_MAX];
	struct stat st;

	if (!realpath(path, real) || stat(real, &st))
		return hv_fail_errno(err, "%s: cannot open it", path);
	if (!S_ISDIR(st.st_mode))
		*strrchr(real, '/') = '\0';
	if (in_export(real))
		*strrchr(real, '/') = '\0';
	if ((size_t)snprintf(folder, size, "%s", *real ? real : "/") >= size)
		return hv_fail(err, ENAMETOOLONG, "%s: the path is too long", path);
	return 0;
}

static int set_folder(struct hv_appliance *a, const char *path, struct hv_error *err)
{
	char folder[PATH_MAX];
	int rc = hv_appliance_folder(path, folder, sizeof(folder), err);

	if (rc)
		return rc;
	a->folder = hv_appliance_copy(a, folder, strlen(folder));
	return a->folder ? 0 : hv_fail(err, ENOMEM, "%s: no memory to read it", path);
}

static int read_file(struct hv_appliance *a, const char *path, struct hv_error *err)
{
	size_t length = 0;
	char *text = NULL;
	int rc = set_folder(a, path, err);

	if (rc)
		return rc;
	rc = hv_appliance_load(path, HV_APPLIANCE_TEXT_MAX, &text, &length, err);
	if (rc || !text)
		return rc;
	rc = read_text(a, path, text, length, err);
	free(text);
	return rc;
}

/* An archive has its mark at 257; what is too long for a description is tried as one too, for its sentence.
 */
static int is_archive(const char *path, bool *archive, struct hv_error *err)
{
	char head[512];
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	ssize_t n;

	if (fd < 0)
		return hv_fail_errno(err, "%s: cannot open it", path);
	if (fstat(fd, &st) || !S_ISREG(st.st_mode)) {
		close(fd);
		return hv_fail(err, EINVAL, "%s: this is neither a regular file nor a folder", path);
	}
	n = pread(fd, head, sizeof(head), 0);
	close(fd);
	if (n < 0)
		return hv_fail_errno(err, "%s: cannot read it", path);
	if (starts_with(head, (size_t)n, "\x1f\x8b", 0) ||
	    starts_with(head, (size_t)n,
			"\xfd"
			"7zXZ",
			0) ||
	    starts_with(head, (size_t)n, "PK\x03\x04", 0))
		return hv_fail(err, ENOTSUP,
			       "%s: a compressed archive can't be read where it stands; unpack it first",
			       path);
	*archive = starts_with(head, (size_t)n, "ustar", 257);
	return 0;
}

static int read_any(struct hv_appliance *a, const char *path, struct hv_error *err)
{
	bool archive = false;
	int rc = is_archive(path, &archive, err);

	if (rc)
		return rc;
	if (!archive)
		return read_file(a, path, err);
	rc = set_folder(a, path, err);
	if (rc)
		return rc;
	a->archive = true;
	a->archive_path = hv_appliance_copy(a, path, strlen(path));
	if (!a->archive_path)
		return hv_fail(err, ENOMEM, "%s: no memory to read it", path);
	a->fd = open(path, O_RDONLY | O_CLOEXEC);
	if (a->fd < 0)
		return hv_fail_errno(err, "%s: cannot open it", path);
	return hv_ova_read(a, err);
}

static int open_path(struct hv_appliance *a, const char *path, struct hv_error *err)
{
	char found[PATH_MAX];
	struct stat st;
	int rc;

	a->path = hv_appliance_keep(a, path);
	if (!a->path)
		return hv_fail(err, ENOMEM, "%.256s: the name is too long", path);
	if (stat(path, &st))
		return hv_fail_errno(err, "%s: cannot open it", path);
	if (!S_ISDIR(st.st_mode))
		return read_any(a, path, err);
	rc = hv_appliance_in_folder(path, found, sizeof(found), err);
	return rc ? rc : read_any(a, found, err);
}

int hv_appliance_open(const char *path, const struct hv_appliance_options *options,
		      struct hv_appliance **appliance, struct hv_error *err)
{
	struct hv_appliance *a = calloc(1, sizeof(*a));
	struct hv_error unseen = {0};
	int rc;

	err = err ? err : &unseen; /* from here on there always is one: its code is what some return */
	if (!a)
		return hv_fail(err, ENOMEM, "%s: no memory to read it", path);
	a->fd = -1;
	if (options)
		a->options = *options;
	rc = open_path(a, path, err);
	if (!rc)
		rc = finish(a, err);
	if (rc) {
		hv_appliance_close(a);
		return rc;
	}
	*appliance = a;
	return 0;
}

void hv_appliance_close(struct hv_appliance *a)
{
	if (!a)
		return;
	hv_appliance_free_all(a);
	if (a->fd >= 0)
		close(a->fd);
	free(a);
}

void hv_appliance_info(const struct hv_appliance *a, struct hv_appliance_info *info)
{
	*info = (struct hv_appliance_info){
		.path = a->path,
		.kind = a->kind,
		.vm = a->vm,
		.vms = a->machines,
		.file = a->file,
		.files = a->files,
		.notes = a->note,
		.manifest = a->manifest,
	};
}
