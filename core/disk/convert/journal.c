/*
 * The journal: see journal.h. Everything read back is hostile like an image: counts are checked against the
 * bytes that are there before anything is allocated for them.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/codec.h"
#include "base/io.h"
#include "disk/format.h"
#include "disk/convert/journal.h"

#define EDGE       (64U << 10)   /* of each end of a source file that is hashed */
#define LENGTH_MAX (64ULL << 20) /* of a journal */
#define WHY_MAX    256
#define PATH_BYTES 4096

/* --- identity --------------------------------------------------------------------------------------------- */

static int identify_file(struct hv_journal_source *s, const struct hv_disk_file *f, struct hv_error *err)
{
	struct stat st;

	if (fstat(f->fd, &st) < 0)
		return hv_fail_errno(err, "%s: cannot look at it", f->path);
	*s = (struct hv_journal_source){
		.path = strdup(f->path),
		.device = f->device,
		.inode = f->inode,
		.base = f->base,
		.size = hv_disk_file_size(f),
		.mtime_ns = S_ISREG(st.st_mode) ? (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec
						: 0,
	};
	return s->path ? 0 : hv_fail(err, ENOMEM, "%s: no memory to note what it is", f->path);
}

int hv_journal_identify(struct hv_journal *j, const struct hv_disk *source, struct hv_error *err)
{
	unsigned count = 0;
	int rc = 0;

	for (const struct hv_disk *d = source; d; d = d->parent) {
		if (d->files == 0)
			return hv_fail(err, ENOTSUP, "%s: can't be known again later", d->path);
		count += d->files;
	}
	if (count == 0)
		return hv_fail(err, ENOTSUP, "a disk without files can't be known again later");
	j->source = calloc(count, sizeof(*j->source));
	if (!j->source)
		return hv_fail(err, ENOMEM, "%s: no memory to note what it is", source->path);
	for (const struct hv_disk *d = source; d && rc == 0; d = d->parent)
		for (unsigned i = 0; i < d->files && rc == 0; i++)
			rc = identify_file(&j->source[j->sources++], d->file[i], err);
	return rc;
}

static int hash_file(struct hv_journal_source *s, const struct hv_disk_file *f, uint8_t *buf,
		     struct hv_error *err)
{
	size_t n = s->size < EDGE ? (size_t)s->size : EDGE;
	int rc = hv_disk_file_read(f, "first bytes", buf, n, 0, err);

	s->head = XXH3_64bits(buf, n);
	if (rc == 0)
		rc = hv_disk_file_read(f, "last bytes", buf, n, s->size - n, err);
	s->tail = XXH3_64bits(buf, n);
	return rc;
}

int hv_journal_hash(struct hv_journal *j, const struct hv_disk *source, struct hv_error *err)
{
	uint8_t *buf = malloc(EDGE);
	unsigned n = 0;
	int rc = 0;

	if (!buf)
		return hv_fail(err, ENOMEM, "%s: no memory to note what it is", source->path);
	for (const struct hv_disk *d = source; d && rc == 0; d = d->parent)
		for (unsigned i = 0; i < d->files && rc == 0; i++)
			rc = hash_file(&j->source[n++], d->file[i], buf, err);
	free(buf);
	return rc;
}

static int stale(struct hv_error *err, const char *path, const char *what)
{
	return hv_fail(err, ESTALE, "%s: %s since the conversion was begun; start anew, without --resume",
		       path, what);
}

static int match_source(const struct hv_journal_source *a, const struct hv_journal_source *b,
			struct hv_error *err)
{
	if (a->device != b->device || a->inode != b->inode || a->base != b->base)
		return stale(err, b->path, "is another file than the one that was read");
	if (a->size != b->size)
		return stale(err, b->path, "has another size than it had");
	if (a->mtime_ns != b->mtime_ns)
		return stale(err, b->path, "was written to");
	if (a->head != b->head || a->tail != b->tail)
		return stale(err, b->path, "has other bytes than it had");
	return 0;
}

int hv_journal_match(const struct hv_journal *saved, const struct hv_journal *now, struct hv_error *err)
{
	const char *what = strcmp(saved->format, now->format) != 0                  ? "format"
			   : strcmp(saved->subformat, now->subformat) != 0          ? "subformat"
			   : strcmp(saved->backing, now->backing) != 0              ? "backing file"
			   : saved->size != now->size                               ? "size"
			   : saved->sector_size != now->sector_size                 ? "sector size"
			   : saved->block_size != now->block_size                   ? "block size"
			   : saved->holes != now->holes || saved->full != now->full ? "treatment of holes"
			   : saved->salvage != now->salvage                         ? "choice of --salvage"
										    : NULL;

	if (saved->sources != now->sources)
		return stale(err, now->source[0].path, "has another number of files");
	for (unsigned i = 0; i < now->sources; i++) {
		int rc = match_source(&saved->source[i], &now->source[i], err);
		if (rc)
			return rc;
	}
	if (what)
		return hv_fail(err, ESTALE,
			       "the %s asked for is another one than that of the conversion to be resumed; "
			       "ask for the same, or start anew, without --resume",
			       what);
	return 0;
}

void hv_journal_free(struct hv_journal *j)
{
	for (unsigned i = 0; j->source && i < j->sources; i++)
		free(j->source[i].path);
	for (unsigned i = 0; j->loss && i < j->losses; i++)
		free(j->loss[i].why);
	free(j->source);
	free(j->loss);
	free(j->mark);
	free(j->sums);
	memset(j, 0, sizeof(*j));
}

/* --- writing ---------------------------------------------------------------------------------------------- */

static void put_source(struct hv_encoder *e, const struct hv_journal *j)
{
	hv_enc_begin(e, "convert.source", 1, true);
	hv_enc_u32(e, j->sources);
	for (unsigned i = 0; i < j->sources; i++) {
		const struct hv_journal_source *s = &j->source[i];
		hv_enc_string(e, s->path);
		hv_enc_u64(e, s->device);
		hv_enc_u64(e, s->inode);
		hv_enc_u64(e, s->base);
		hv_enc_u64(e, s->size);
		hv_enc_u64(e, (uint64_t)s->mtime_ns);
		hv_enc_u64(e, s->head);
		hv_enc_u64(e, s->tail);
	}
	hv_enc_end(e);
}

static void put_request(struct hv_encoder *e, const struct hv_journal *j)
{
	hv_enc_begin(e, "convert.request", 1, true);
	hv_enc_string(e, j->format);
	hv_enc_string(e, j->subformat);
	hv_enc_string(e, j->backing);
	hv_enc_u64(e, j->size);
	hv_enc_u32(e, j->sector_size);
	hv_enc_u32(e, j->block_size);
	hv_enc_u32(e, j->holes);
	hv_enc_u8(e, j->full);
	hv_enc_u8(e, j->salvage);
	hv_enc_end(e);
}

static void put_state(struct hv_encoder *e, const struct hv_journal *j)
{
	hv_enc_begin(e, "convert.state", 1, true);
	hv_enc_u64(e, j->watermark);
	hv_enc_u64(e, j->copied);
	hv_enc_u64(e, j->skipped);
	hv_enc_u32(e, j->marks);
	for (unsigned i = 0; i < j->marks; i++) {
		hv_enc_u64(e, j->mark[i].device);
		hv_enc_u64(e, j->mark[i].inode);
		hv_enc_u64(e, j->mark[i].length);
	}
	hv_enc_end(e);
}

static void put_losses(struct hv_encoder *e, const struct hv_journal *j)
{
	hv_enc_begin(e, "convert.losses", 1, true);
	hv_enc_u32(e, j->losses);
	for (unsigned i = 0; i < j->losses; i++) {
		hv_enc_u64(e, j->loss[i].offset);
		hv_enc_u64(e, j->loss[i].length);
		hv_enc_string(e, j->loss[i].why ? j->loss[i].why : "");
	}
	hv_enc_end(e);
}

static void put_sums(struct hv_encoder *e, const struct hv_journal *j)
{
	hv_enc_begin(e, "convert.sums", 1, true);
	hv_enc_u64(e, j->stretch);
	hv_enc_u64(e, j->stretch ? j->sum_count : 0);
	for (uint64_t i = 0; j->stretch && i < j->sum_count; i++)
		hv_enc_u64(e, j->sums[i]);
	hv_enc_end(e);
}

static void encode(struct hv_encoder *e, const struct hv_journal *j)
{
	uint64_t hash;

	put_source(e, j);
	put_request(e, j);
	put_state(e, j);
	put_losses(e, j);
	put_sums(e, j);
	hash = e->failed ? 0 : XXH3_64bits(e->data, e->length);
	hv_enc_begin(e, "convert.end", 1, true);
	hv_enc_u64(e, hash);
	hv_enc_end(e);
}

static int write_file(const char *path, const char *temp, const struct hv_encoder *e, struct hv_error *err)
{
	int fd = open(temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666), rc;

	if (fd < 0)
		return hv_fail_errno(err, "%s: cannot write there", temp);
	rc = hv_write_full(fd, e->data, e->length);
	if (rc == 0 && fdatasync(fd) < 0)
		rc = -errno;
	close(fd);
	if (rc == 0 && rename(temp, path) < 0)
		rc = -errno;
	if (rc)
		unlink(temp);
	return rc ? hv_fail(err, -rc, "%s: cannot write the journal: %s", path, strerror(-rc)) : 0;
}

int hv_journal_write(const char *path, const struct hv_journal *j, struct hv_error *err)
{
	struct hv_encoder e;
	char *temp;
	int rc;

	if (asprintf(&temp, "%s" HV_JOURNAL_NEW, path) < 0)
		return hv_fail(err, ENOMEM, "%s: no memory for the journal", path);
	hv_enc_init(&e);
	encode(&e, j);
	rc = e.failed ? hv_fail(err, -e.failed, "%s: no memory for the journal", path)
		      : write_file(path, temp, &e, err);
	hv_enc_free(&e);
	free(temp);
	return rc;
}

/* --- reading ---------------------------------------------------------------------------------------------- */

/* Room for `count` things, each of which takes `least` bytes of what is left to read; NULL: that can't be. */
static void *room_for(struct hv_decoder *d, uint64_t count, size_t least, size_t size)
{
	if (d->failed || count > (d->length - d->at) / least) {
		d->failed = d->failed ? d->failed : -EBADMSG;
		return NULL;
	}
	void *p = calloc(count ? (size_t)count : 1, size);
	if (!p)
		d->failed = -ENOMEM;
	return p;
}

static void get_source(struct hv_decoder *d, struct hv_journal *j)
{
	char path[PATH_BYTES];
	uint32_t count = hv_dec_u32(d);

	j->source = room_for(d, count, 60, sizeof(*j->source));
	for (; j->source && j->sources < count && !d->failed; j->sources++) {
		struct hv_journal_source *s = &j->source[j->sources];
		hv_dec_string(d, path, sizeof(path));
		s->path = strdup(path);
		s->device = hv_dec_u64(d);
		s->inode = hv_dec_u64(d);
		s->base = hv_dec_u64(d);
		s->size = hv_dec_u64(d);
		s->mtime_ns = (int64_t)hv_dec_u64(d);
		s->head = hv_dec_u64(d);
		s->tail = hv_dec_u64(d);
	}
}

static void get_request(struct hv_decoder *d, struct hv_journal *j)
{
	hv_dec_string(d, j->format, sizeof(j->format));
	hv_dec_string(d, j->subformat, sizeof(j->subformat));
	hv_dec_string(d, j->backing, sizeof(j->backing));
	j->size = hv_dec_u64(d);
	j->sector_size = hv_dec_u32(d);
	j->block_size = hv_dec_u32(d);
	j->holes = hv_dec_u32(d);
	j->full = hv_dec_u8(d) != 0;
	j->salvage = hv_dec_u8(d) != 0;
}

static void get_state(struct hv_decoder *d, struct hv_journal *j)
{
	uint32_t count;

	j->watermark = hv_dec_u64(d);
	j->copied = hv_dec_u64(d);
	j->skipped = hv_dec_u64(d);
	count = hv_dec_u32(d);
	j->mark = room_for(d, count, 24, sizeof(*j->mark));
	for (; j->mark && j->marks < count && !d->failed; j->marks++) {
		j->mark[j->marks].device = hv_dec_u64(d);
		j->mark[j->marks].inode = hv_dec_u64(d);
		j->mark[j->marks].length = hv_dec_u64(d);
	}
}

static void get_losses(struct hv_decoder *d, struct hv_journal *j)
{
	char why[WHY_MAX];
	uint32_t count = hv_dec_u32(d);

	j->loss = room_for(d, count, 20, sizeof(*j->loss));
	for (; j->loss && j->losses < count && !d->failed; j->losses++) {
		struct hv_journal_loss *l = &j->loss[j->losses];
		l->offset = hv_dec_u64(d);
		l->length = hv_dec_u64(d);
		hv_dec_string(d, why, sizeof(why));
		l->why = why[0] ? strdup(why) : NULL;
		if (l->length > HV_DISK_SIZE_MAX || l->offset > HV_DISK_SIZE_MAX)
			d->failed = -EBADMSG;
	}
}

static void get_sums(struct hv_decoder *d, struct hv_journal *j)
{
	uint64_t count;

	j->stretch = hv_dec_u64(d);
	count = hv_dec_u64(d);
	j->sums = room_for(d, count, 8, sizeof(*j->sums));
	for (; j->sums && j->sum_count < count && !d->failed; j->sum_count++)
		j->sums[j->sum_count] = hv_dec_u64(d);
}

static const struct {
	const char *name;
	void (*get)(struct hv_decoder *d, struct hv_journal *j);
} sections[] = {
	{"convert.source", get_source}, {"convert.request", get_request}, {"convert.state", get_state},
	{"convert.losses", get_losses}, {"convert.sums", get_sums},
};

static int parse(const void *data, size_t length, struct hv_journal *j, struct hv_error *err)
{
	struct hv_decoder d;
	struct hv_section s;

	hv_dec_init(&d, data, length);
	for (unsigned i = 0; i < HV_ARRAY_SIZE(sections); i++) {
		int rc = hv_dec_next(&d, &s, err);
		if (rc < 0)
			return rc;
		if (rc == 0 || strcmp(s.name, sections[i].name) != 0 || s.version != 1)
			return hv_fail_unsafe(err, "no section %s of version 1", sections[i].name);
		sections[i].get(&s.body, j);
		rc = hv_dec_finish(&s.body, s.name, err);
		if (rc)
			return rc;
	}
	size_t hashed = d.at;
	int rc = hv_dec_next(&d, &s, err);
	if (rc < 0)
		return rc;
	if (rc == 0 || strcmp(s.name, "convert.end") != 0 || s.version != 1 || !s.required ||
	    hv_dec_u64(&s.body) != XXH3_64bits(data, hashed) || s.body.failed || d.at != length)
		return hv_fail_unsafe(err, "its hash is not that of its bytes");
	if (j->sources == 0 || j->marks == 0 || j->watermark > HV_DISK_SIZE_MAX)
		return hv_fail_unsafe(err, "it names no files, or a place on no disk");
	return 0;
}

int hv_journal_parse(const void *data, size_t length, struct hv_journal *j, struct hv_error *err)
{
	int rc;

	memset(j, 0, sizeof(*j));
	rc = parse(data, length, j, err);
	for (unsigned i = 0; rc == 0 && i < j->sources; i++)
		if (!j->source[i].path)
			rc = hv_fail(err, ENOMEM, "no memory for it");
	if (rc)
		hv_journal_free(j);
	return rc;
}

int hv_journal_read(const char *path, struct hv_journal *j, struct hv_error *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY), rc;
	size_t size;
	void *data;

	memset(j, 0, sizeof(*j));
	if (fd < 0)
		return hv_fail_errno(err, "%s: cannot open it", path);
	rc = hv_load_fd(fd, path, LENGTH_MAX, &data, &size, err);
	close(fd);
	if (rc)
		return rc;
	rc = hv_journal_parse(data, size, j, err);
	if (rc)
		hv_error_prefix(err, "%s: the journal is damaged", path);
	hv_unload(data, size);
	return rc;
}
