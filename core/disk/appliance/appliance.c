/*
 * Appliances: which kind a file is, the memory and lists that all kinds share, and the disks. What each kind
 * says stands in its own file (ovf.c, ova.c, vmx.c, hyperv_xml.c, vmcx.c); where its files are, in
 * appliance_find.c. Strings go through hv_appliance_keep, so that nobody who shows them is steered by them.
 */
#include <ctype.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
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

#define TEXT_MAX 4096 /* bytes of one string */

/* --- memory --- */

struct hv_appliance_block {
	struct hv_appliance_block *next;
	max_align_t data[];
};

void *hv_appliance_alloc(struct hv_appliance *a, size_t size)
{
	struct hv_appliance_block *b;

	if (size > HV_APPLIANCE_KEEP_MAX || a->kept > HV_APPLIANCE_KEEP_MAX - size) {
		a->kept = HV_APPLIANCE_KEEP_MAX + 1;
		return NULL;
	}
	b = calloc(1, sizeof(*b) + size);
	if (!b) {
		a->kept = HV_APPLIANCE_KEEP_MAX + 1;
		return NULL;
	}
	a->kept += size + sizeof(*b);
	b->next = a->memory;
	a->memory = b;
	return b->data;
}

char *hv_appliance_copy(struct hv_appliance *a, const char *text, size_t length)
{
	char *copy = hv_appliance_alloc(a, length + 1);

	if (copy)
		memcpy(copy, text, length);
	return copy;
}

/* The length of the UTF-8 sequence at p, whose code point *point is; 0 when there is none. p ends with a zero
 * byte, which is no continuation. */
static unsigned sequence(const unsigned char *p, uint32_t *point)
{
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
	unsigned n = *p < 0x80                 ? 1
		     : *p >= 0xc2 && *p < 0xe0 ? 2
		     : *p >= 0xe0 && *p < 0xf0 ? 3
		     : *p >= 0xf0 && *p < 0xf5 ? 4
					       : 0;

	*point = n == 1 ? *p : *p & (0x7fU >> n);
	for (unsigned i = 1; i < n; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
		*point = *point << 6 | (p[i] & 0x3f);
	}
	if (n && (*point < least[n] || *point > 0x10ffff || (*point >= 0xd800 && *point < 0xe000)))
		return 0;
	return n;
}

/* Steers a terminal, or turns the direction in which the rest is shown. */
static bool steers(uint32_t c)
{
	return c < 0x20 || (c >= 0x7f && c < 0xa0) || (c >= 0x200b && c < 0x2010) ||
	       (c >= 0x2028 && c < 0x202f) || (c >= 0x2060 && c < 0x2070) || c == 0xfeff;
}

const char *hv_appliance_keep(struct hv_appliance *a, const char *text)
{
	size_t length = text ? strnlen(text, TEXT_MAX) : 0, n = 0;
	const unsigned char *p = (const unsigned char *)text, *end;
	char *copy = text ? hv_appliance_alloc(a, length + 1) : NULL;

	if (!copy)
		return NULL;
	end = p + length;
	while (p < end) {
		uint32_t point;
		unsigned used = sequence(p, &point);

		if (!used || used > (size_t)(end - p) || steers(point)) {
			copy[n++] = '?';
			p += used && used <= (size_t)(end - p) ? used : 1;
			continue;
		}
		memcpy(copy + n, p, used);
		n += used;
		p += used;
	}
	copy[n] = '\0';
	return copy;
}

const char *hv_appliance_format(struct hv_appliance *a, const char *fmt, ...)
{
	char text[TEXT_MAX];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	return hv_appliance_keep(a, text);
}

/* Room for one more in a list that lives in the appliance's memory: doubling keeps what is left behind small.
 */
static void *grow(struct hv_appliance *a, void *list, unsigned count, unsigned *room, size_t size)
{
	unsigned more = *room ? 2 * *room : 4;
	void *grown;

	if (count < *room)
		return list;
	grown = hv_appliance_alloc(a, more * size);
	if (!grown)
		return NULL;
	if (*room)
		memcpy(grown, list, *room * size);
	*room = more;
	return grown;
}

static int too_many(const struct hv_appliance *a, unsigned most, const char *what, struct hv_error *err)
{
	return hv_fail_unsafe(err, "%s: it describes more than %u %s", a->path, most, what);
}

static int too_big(const struct hv_appliance *a, struct hv_error *err)
{
	return hv_fail_unsafe(err, "%s: its description takes more than %u MiB, more than any real machine's",
			      a->path, HV_APPLIANCE_KEEP_MAX >> 20);
}

int hv_appliance_note(struct hv_appliance *a, const char *fmt, ...)
{
	char text[TEXT_MAX];
	const char **grown;
	va_list ap;

	if (a->notes >= HV_APPLIANCE_NOTES_MAX)
		return 0;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	for (unsigned i = 0; i < a->notes; i++)
		if (!strcmp(a->note[i], text))
			return 0;                                                /* said already */
	grown = grow(a, a->note, a->notes + 1, &a->note_room, sizeof(*a->note)); /* a NULL stays behind it */
	if (!grown)
		return -ENOMEM;
	a->note = grown;
	a->note[a->notes] = hv_appliance_keep(a, text);
	if (!a->note[a->notes])
		return -ENOMEM;
	a->note[++a->notes] = NULL;
	return 0;
}

/* --- lists --- */

struct hv_appliance_machine *hv_appliance_add_machine(struct hv_appliance *a, struct hv_error *err)
{
	struct hv_appliance_machine *grown;

	if (a->machines == HV_APPLIANCE_VMS_MAX) {
		too_many(a, HV_APPLIANCE_VMS_MAX, "machines", err);
		return NULL;
	}
	grown = grow(a, a->machine, a->machines, &a->machine_room, sizeof(*grown));
	if (!grown) {
		too_big(a, err);
		return NULL;
	}
	a->machine = grown;
	return &a->machine[a->machines++];
}

struct hv_appliance_drive *hv_appliance_add_drive(struct hv_appliance *a, struct hv_appliance_machine *m,
						  struct hv_error *err)
{
	struct hv_appliance_drive *grown;

	if (m->vm.drives == HV_APPLIANCE_DRIVES_MAX) {
		too_many(a, HV_APPLIANCE_DRIVES_MAX, "drives of one machine", err);
		return NULL;
	}
	grown = grow(a, m->drive, m->vm.drives, &m->drive_room, sizeof(*grown));
	if (!grown) {
		too_big(a, err);
		return NULL;
	}
	m->drive = grown;
	m->vm.drive = grown;
	return &m->drive[m->vm.drives++];
}

struct hv_appliance_nic *hv_appliance_add_nic(struct hv_appliance *a, struct hv_appliance_machine *m,
					      struct hv_error *err)
{
	struct hv_appliance_nic *grown;

	if (m->vm.nics == HV_APPLIANCE_NICS_MAX) {
		too_many(a, HV_APPLIANCE_NICS_MAX, "network cards of one machine", err);
		return NULL;
	}
	grown = grow(a, m->nic, m->vm.nics, &m->nic_room, sizeof(*grown));
	if (!grown) {
		too_big(a, err);
		return NULL;
	}
	m->nic = grown;
	m->vm.nic = grown;
	return &m->nic[m->vm.nics++];
}

struct hv_appliance_file *hv_appliance_add_file(struct hv_appliance *a, struct hv_error *err)
{
	struct hv_appliance_file *grown;

	if (a->files == HV_APPLIANCE_FILES_MAX) {
		too_many(a, HV_APPLIANCE_FILES_MAX, "files", err);
		return NULL;
	}
	grown = grow(a, a->file, a->files, &a->file_room, sizeof(*grown));
	if (!grown) {
		too_big(a, err);
		return NULL;
	}
	a->file = grown;
	return &a->file[a->files++];
}

struct hv_appliance_digest *hv_appliance_add_digest(struct hv_appliance *a, struct hv_error *err)
{
	struct hv_appliance_digest *grown;

	if (a->digests == HV_APPLIANCE_FILES_MAX) {
		too_many(a, HV_APPLIANCE_FILES_MAX, "lines of a manifest", err);
		return NULL;
	}
	grown = grow(a, a->digest, a->digests, &a->digest_room, sizeof(*grown));
	if (!grown) {
		too_big(a, err);
		return NULL;
	}
	a->digest = grown;
	return &a->digest[a->digests++];
}

int hv_appliance_add_other(struct hv_appliance *a, struct hv_appliance_machine *m, struct hv_error *err,
			   const char *fmt, ...)
{
	char text[TEXT_MAX];
	const char **grown;
	va_list ap;

	if (m->others >= HV_APPLIANCE_NOTES_MAX)
		return 0;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	grown = grow(a, m->other, m->others + 1, &m->other_room, sizeof(*m->other));
	if (!grown)
		return too_big(a, err);
	m->other = grown;
	m->other[m->others] = hv_appliance_keep(a, text);
	if (!m->other[m->others])
		return too_big(a, err);
	m->other[++m->others] = NULL;
	return 0;
}

const char *hv_appliance_mac(struct hv_appliance *a, const char *text)
{
	char digits[12];
	unsigned n = 0;
	bool any = false;

	for (const char *p = text ? text : ""; *p; p++) {
		if (*p == ':' || *p == '-' || *p == '.' || *p == ' ')
			continue;
		if (!isxdigit((unsigned char)*p) || n == sizeof(digits))
			return NULL;
		any = any || *p != '0';
		digits[n++] = (char)tolower((unsigned char)*p);
	}
	if (n != sizeof(digits) || !any)
		return NULL;
	return hv_appliance_format(a, "%.2s:%.2s:%.2s:%.2s:%.2s:%.2s", digits, digits + 2, digits + 4,
				   digits + 6, digits + 8, digits + 10);
}

void hv_appliance_trouble(struct hv_appliance *a, struct hv_appliance_drive *d, enum hv_drive_trouble trouble,
			  const char *fmt, ...)
{
	char text[TEXT_MAX];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	d->trouble = trouble;
	d->why = hv_appliance_keep(a, text);
	d->path = NULL;
}

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
		return too_big(a, err);
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
	for (struct hv_appliance_block *b = a->memory, *next; b; b = next) {
		next = b->next;
		free(b);
	}
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

/* --- disks --- */

static int check_size(struct hv_appliance *a, const struct hv_appliance_drive *d, struct hv_disk *disk)
{
	uint64_t size = hv_disk_size(disk), unit = d->unit ? d->unit : 1;
	uint64_t apart = size > d->capacity ? size - d->capacity : d->capacity - size;

	if (d->capacity == 0 || apart < unit)
		return 0;
	return hv_appliance_note(a, "%s: the description says that this disk has %llu bytes; it has %llu",
				 d->file, (unsigned long long)d->capacity, (unsigned long long)size);
}

/* A member stands alone: what another file holds of it is not in the archive, or not found by its name. */
static int check_alone(const struct hv_appliance_drive *d, struct hv_disk *disk, struct hv_error *err)
{
	struct hv_disk_info info;

	hv_disk_info(disk, &info);
	if (info.files <= 1 && !info.has_parent)
		return 0;
	return hv_fail_unsafe(err,
			      "%s: %s is only a part of a disk (%s); a disk in an archive, or one that is "
			      "cut or compressed, has "
			      "to be whole",
			      d->path, d->file,
			      info.has_parent ? "it builds on another image" : "it names other files");
}

/* The format that a file's extension stands for; NULL for raw and for what no format has. */
static const char *format_called(const char *file)
{
	const char *dot = strrchr(hv_disk_base_name(file), '.');
	struct hv_disk_about about;

	for (const char *const *name = hv_disk_formats(); dot && *name; name++) {
		if (!strcmp(*name, "raw") || !hv_disk_about(*name, &about))
			continue;
		for (const char *const *e = about.extensions; e && *e; e++)
			if (!strcasecmp(dot + 1, *e))
				return about.name;
	}
	return NULL;
}

/* An image whose header is lost looks like a raw disk; its bytes are not the disk's. */
static int check_called(const struct hv_appliance_drive *d, struct hv_disk *disk, struct hv_error *err)
{
	const char *called = d->file ? format_called(d->file) : NULL;
	struct hv_disk_info info;

	hv_disk_info(disk, &info);
	if (!called || strcmp(info.format, "raw") != 0)
		return 0;
	return hv_fail_unsafe(err,
			      "%s: by its name %s is a %s image, and its content is none: it is damaged, or "
			      "something else",
			      d->path, d->file, called);
}

static int open_packed(struct hv_appliance *a, const struct hv_appliance_drive *drive,
		       const struct hv_disk_options *options, struct hv_disk **disk, struct hv_error *err)
{
	struct hv_disk_options o = *options;
	int fd, rc = hv_appliance_unpack(a, drive, &fd, err);

	o.at = o.length = 0;
	return rc ? rc : hv_disk_open_fd(fd, drive->path, &o, disk, err);
}

int hv_appliance_disk_open(struct hv_appliance *a, const struct hv_appliance_drive *drive,
			   const struct hv_disk_options *options, struct hv_disk **disk, struct hv_error *err)
{
	struct hv_disk_options o = {.external = a->options.external, .externals = a->options.externals};
	int rc;

	if (drive->trouble == HV_DRIVE_UNSUPPORTED)
		return hv_fail(err, ENOTSUP, "%s", drive->why);
	if (drive->trouble || !drive->path)
		return hv_fail_unsafe(err, "%s", drive->why ? drive->why : "this drive holds no disk");
	if (options) {
		o.format = options->format;
		o.salvage = options->salvage;
		o.raw_devices = options->raw_devices;
		o.alone = options->alone;
	}
	o.at = drive->at;
	o.length = drive->length;
	rc = drive->parts ? open_packed(a, drive, &o, disk, err) : hv_disk_open(drive->path, &o, disk, err);
	if (rc)
		return rc;
	rc = a->archive || drive->parts ? check_alone(drive, *disk, err) : 0;
	if (!rc && !o.format)
		rc = check_called(drive, *disk, err);
	if (!rc && check_size(a, drive, *disk))
		rc = hv_fail(err, ENOMEM, "%s: no memory for a note", a->path);
	if (rc) {
		hv_disk_close(*disk);
		*disk = NULL;
	}
	return rc;
}
