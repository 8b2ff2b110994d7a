/*
 * An OVF package's manifest (DSP0243 5.1): a line "SHA256(name)= hex" for each file, and whether the files
 * are so. Digests by nettle. A wrong one is damage; a file that the manifest leaves out is told, no more:
 * the manifest itself and its signature always are.
 */
#include <ctype.h>
#include <fcntl.h>
#include <nettle/sha1.h>
#include <nettle/sha2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/io.h"
#include "disk/appliance/appliance_impl.h"

#define CHUNK (256U << 10)

/* --- reading --- */

/* "SHA1(file.vmdk)= 0123...", blanks allowed around each part. line is zero-ended. */
static int read_line(struct hv_appliance *a, char *line, struct hv_error *err)
{
	char *open = strchr(line, '('), *close = strrchr(line, ')'), *hex;
	struct hv_appliance_digest *d;

	line += strspn(line, " \t");
	line[strcspn(line, "\r")] = '\0';
	if (!*line || *line == '#')
		return 0;
	hex = close ? close + 1 + strspn(close + 1, " \t") : NULL;
	if (!open || !hex || close < open || *hex != '=')
		return hv_fail_unsafe(err, "'%.40s' is no line of the form SHA256(name)= digest", line);
	hex += 1 + strspn(hex + 1, " \t");
	hex[strcspn(hex, " \t")] = '\0';
	*close = '\0';
	for (char *end = open; end >= line && (end == open || isspace((unsigned char)*end)); end--)
		*end = '\0';
	d = hv_appliance_add_digest(a, err);
	if (!d)
		return err->code;
	open++;
	while (!strncmp(open, "./", 2))
		open += 2;
	d->algorithm = hv_appliance_keep(a, line);
	d->name = hv_appliance_keep(a, open);
	d->hex = hv_appliance_keep(a, hex);
	if (!d->algorithm || !d->name || !d->hex)
		return hv_fail_unsafe(err, "it takes more room than any real manifest");
	return 0;
}

int hv_manifest_read(struct hv_appliance *a, const char *name, const char *text, size_t length,
		     struct hv_error *err)
{
	char *copy = malloc(length + 1), *line = copy;
	unsigned number = 1;
	int rc = 0;

	if (!copy)
		return hv_fail(err, ENOMEM, "%s: no memory to read it", name);
	memcpy(copy, text, length);
	copy[length] = '\0';
	a->manifest = true;
	for (char *end = copy + length; line < end && !rc; number++) {
		size_t n = strcspn(line, "\n");

		line[n] = '\0';
		rc = read_line(a, line, err);
		if (rc)
			hv_error_prefix(err, "%s:%u", name, number);
		line += n + 1;
	}
	free(copy);
	return rc;
}

/* --- checking --- */

union context {
	struct sha1_ctx sha1;
	struct sha256_ctx sha256;
	struct sha512_ctx sha512;
};

static void sha1_start(union context *c)
{
	sha1_init(&c->sha1);
}
static void sha1_more(union context *c, size_t length, const uint8_t *data)
{
	sha1_update(&c->sha1, length, data);
}
static void sha1_end(union context *c, uint8_t *digest)
{
	sha1_digest(&c->sha1, SHA1_DIGEST_SIZE, digest);
}
static void sha256_start(union context *c)
{
	sha256_init(&c->sha256);
}
static void sha256_more(union context *c, size_t length, const uint8_t *data)
{
	sha256_update(&c->sha256, length, data);
}
static void sha256_end(union context *c, uint8_t *digest)
{
	sha256_digest(&c->sha256, SHA256_DIGEST_SIZE, digest);
}
static void sha384_start(union context *c)
{
	sha384_init(&c->sha512);
}
static void sha384_end(union context *c, uint8_t *digest)
{
	sha384_digest(&c->sha512, SHA384_DIGEST_SIZE, digest);
}
static void sha512_start(union context *c)
{
	sha512_init(&c->sha512);
}
static void sha512_more(union context *c, size_t length, const uint8_t *data)
{
	sha512_update(&c->sha512, length, data);
}
static void sha512_end(union context *c, uint8_t *digest)
{
	sha512_digest(&c->sha512, SHA512_DIGEST_SIZE, digest);
}

struct algorithm {
	const char *name;
	unsigned size;
	void (*start)(union context *c);
	void (*more)(union context *c, size_t length, const uint8_t *data);
	void (*end)(union context *c, uint8_t *digest);
};

static const struct algorithm algorithms[] = {
	{"SHA1", SHA1_DIGEST_SIZE, sha1_start, sha1_more, sha1_end},
	{"SHA256", SHA256_DIGEST_SIZE, sha256_start, sha256_more, sha256_end},
	{"SHA384", SHA384_DIGEST_SIZE, sha384_start, sha512_more, sha384_end},
	{"SHA512", SHA512_DIGEST_SIZE, sha512_start, sha512_more, sha512_end},
};

static const struct algorithm *algorithm_named(const char *name)
{
	char plain[16];
	unsigned n = 0;

	for (; *name && n < sizeof(plain) - 1; name++) /* "SHA-256" as well */
		if (*name != '-')
			plain[n++] = *name;
	plain[n] = '\0';
	for (unsigned i = 0; i < HV_ARRAY_SIZE(algorithms); i++)
		if (!strcasecmp(plain, algorithms[i].name))
			return &algorithms[i];
	return NULL;
}

struct verify {
	struct hv_appliance *a;
	int (*progress)(void *ctx, uint64_t done, uint64_t size);
	void *ctx;
	uint64_t done, size;
	uint8_t *chunk;
	struct hv_error *err;
};

static int digest_of(struct verify *v, int fd, const struct hv_appliance_file *f, const struct algorithm *alg,
		     char *hex)
{
	uint8_t digest[SHA512_DIGEST_SIZE];
	union context c;
	int rc;

	alg->start(&c);
	for (uint64_t at = 0; at < f->length; at += CHUNK) {
		size_t n = f->length - at < CHUNK ? (size_t)(f->length - at) : CHUNK;

		if (v->progress && v->progress(v->ctx, v->done, v->size))
			return hv_fail(v->err, ECANCELED, "%s: stopped", v->a->path);
		rc = hv_pread_full(fd, v->chunk, n, f->at + at);
		if (rc) {
			errno = rc == -ENODATA ? EIO : -rc;
			return hv_fail_errno(v->err, "%s: cannot read %s for its digest", v->a->path,
					     f->name);
		}
		alg->more(&c, n, v->chunk);
		v->done += n;
	}
	alg->end(&c, digest);
	for (unsigned i = 0; i < alg->size; i++)
		snprintf(hex + 2UL * i, 3, "%02x", digest[i]);
	return 0;
}

/* The file that a line of the manifest means: of an archive its member; else one beside the envelope. */
static int open_listed(struct verify *v, struct hv_appliance_file *f)
{
	enum hv_drive_trouble trouble;
	const char *path;
	struct stat st;
	int fd, rc;

	if (v->a->archive)
		return dup(v->a->fd);
	rc = hv_appliance_find_file(v->a, v->a->folder, f->name, &trouble, &path, v->err);
	if (rc || trouble)
		return -1;
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd >= 0 && (fstat(fd, &st) || !S_ISREG(st.st_mode))) {
		close(fd);
		return -1;
	}
	if (fd >= 0)
		f->length = (uint64_t)st.st_size;
	return fd;
}

/* The first trouble is the sentence; the rest is in the files' states. */
static void complain(struct verify *v, const struct hv_appliance_file *f, const char *how)
{
	if (!v->err->code)
		hv_fail_unsafe(v->err, "%s: %s %s", v->a->path, f->name, how);
}

static int verify_one(struct verify *v, const struct hv_appliance_digest *d, struct hv_appliance_file *f)
{
	const struct algorithm *alg = algorithm_named(d->algorithm);
	char hex[2 * SHA512_DIGEST_SIZE + 1];
	int fd, rc;

	f->algorithm = d->algorithm;
	if (f->digest == HV_DIGEST_WRONG)
		return 0; /* listed twice, and wrong already */
	if (!alg) {
		f->digest = HV_DIGEST_UNKNOWN;
		return hv_appliance_note(
			v->a,
			"%s: the manifest gives %s a digest of the kind '%.40s', which is not "
			"known here",
			v->a->path, f->name, d->algorithm);
	}
	fd = open_listed(v, f);
	if (fd < 0) {
		f->digest = HV_DIGEST_ABSENT;
		complain(v, f, "is listed in the manifest and missing");
		return 0;
	}
	rc = digest_of(v, fd, f, alg, hex);
	close(fd);
	if (rc)
		return rc;
	f->digest = strcasecmp(hex, d->hex) ? HV_DIGEST_WRONG : HV_DIGEST_GOOD;
	if (f->digest == HV_DIGEST_WRONG)
		complain(v, f, "does not have the digest that the manifest says: it was damaged or changed");
	return 0;
}

/* Beside an envelope the files are what the manifest lists. */
static struct hv_appliance_file *listed(struct verify *v, const struct hv_appliance_digest *d)
{
	struct hv_appliance_file *f = hv_appliance_file_named(v->a, d->name);

	if (f)
		return f;
	f = hv_appliance_add_file(v->a, v->err);
	if (!f)
		return NULL;
	f->name = d->name;
	f->digest = v->a->archive ? HV_DIGEST_ABSENT : HV_DIGEST_UNCHECKED;
	return f;
}

static int verify_all(struct verify *v)
{
	for (unsigned i = 0; i < v->a->digests; i++) {
		struct hv_appliance_file *f = listed(v, &v->a->digest[i]);
		int rc;

		if (!f)
			return v->err->code;
		if (v->a->archive && f->digest == HV_DIGEST_ABSENT) {
			complain(v, f, "is listed in the manifest and missing");
			continue;
		}
		rc = verify_one(v, &v->a->digest[i], f);
		if (rc)
			return rc;
	}
	return v->err->code;
}

/* Signatures sign the manifest; neither can be in it. */
static bool may_be_unlisted(const char *name)
{
	const char *dot = strrchr(name, '.');

	return dot && (!strcasecmp(dot, ".mf") || !strcasecmp(dot, ".cert"));
}

static int note_unlisted(struct hv_appliance *a)
{
	for (unsigned i = 0; i < a->files; i++)
		if (a->file[i].digest == HV_DIGEST_NONE && !may_be_unlisted(a->file[i].name) &&
		    hv_appliance_note(a, "%s: the manifest has no digest of %s; nothing vouches for it",
				      a->path, a->file[i].name))
			return -ENOMEM;
	return 0;
}

int hv_appliance_verify(struct hv_appliance *a, int (*progress)(void *ctx, uint64_t done, uint64_t size),
			void *ctx, struct hv_error *err)
{
	struct hv_error unseen = {0};
	struct verify v = {.a = a, .progress = progress, .ctx = ctx, .err = err ? err : &unseen};
	int rc;

	if (!a->manifest)
		return 0;
	*v.err = (struct hv_error){0};
	for (unsigned i = 0; i < a->digests && a->archive; i++) {
		const struct hv_appliance_file *f = hv_appliance_file_named(a, a->digest[i].name);

		v.size += f ? f->length : 0;
	}
	v.chunk = malloc(CHUNK);
	if (!v.chunk)
		return hv_fail(v.err, ENOMEM, "%s: no memory to read it", a->path);
	rc = verify_all(&v);
	free(v.chunk);
	if (rc != -ENOMEM && note_unlisted(a))
		rc = hv_fail(v.err, ENOMEM, "%s: no memory for a note", a->path);
	return rc;
}
