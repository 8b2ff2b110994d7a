/*
 * Going on with a conversion that was cut off. At a checkpoint nothing is in flight: the data is on the disk,
 * then the tables that lead to it, then the journal that speaks of both. What a killed run wrote after its
 * last checkpoint is cut off again or written once more, to the same places, as places are given out in the
 * order of the disk.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "disk/convert/convert_impl.h"

static int note_request(struct hv_conversion *v, const struct hv_disk_create *create, struct hv_error *err)
{
	struct hv_journal *j = &v->journal;
	const char *backing = create->backing ? create->backing : "";

	snprintf(j->format, sizeof(j->format), "%s", create->format ? create->format : "raw");
	snprintf(j->subformat, sizeof(j->subformat), "%s", create->subformat ? create->subformat : "");
	snprintf(j->backing, sizeof(j->backing), "%s", backing);
	j->size = create->size;
	j->sector_size = create->sector_size;
	j->block_size = create->block_size;
	j->holes = v->c->holes;
	j->full = create->full;
	j->salvage = v->c->salvage;
	return hv_journal_identify(j, v->c->source, err);
}

static bool can_be_journalled(const struct hv_conversion *v, const struct hv_disk_create *create)
{
	const struct hv_disk_format *f = hv_disk_format_named(create->format ? create->format : "raw");

	for (const struct hv_disk *d = v->c->source; d; d = d->parent)
		if (d->files == 0)
			return false;
	return f && f->resume;
}

int hv_resume_look(struct hv_conversion *v, const struct hv_disk_create *create, struct hv_error *err)
{
	int rc;

	if (asprintf(&v->journal_path, "%s.partial.journal", v->c->path) < 0) {
		v->journal_path = NULL;
		return hv_fail(err, ENOMEM, "%s: no memory to begin it", v->c->path);
	}
	v->can_journal = !v->c->no_journal && can_be_journalled(v, create);
	if (!can_be_journalled(v, create))
		return 0;
	rc = note_request(v, create, err);
	if (rc || !v->c->resume)
		return rc;
	rc = hv_journal_hash(&v->journal, v->c->source, err);
	v->hashed = rc == 0;
	if (rc == 0)
		rc = hv_journal_read(v->journal_path, &v->saved, err);
	if (rc == -ENOENT || rc == -EBADMSG) /* none, or none that could be trusted: from the start */
		return 0;
	if (rc == 0)
		rc = hv_journal_match(&v->saved, &v->journal, err);
	return rc;
}

int hv_resume_begin(struct hv_conversion *v, const struct hv_disk_create *create, struct hv_error *err)
{
	struct hv_output *output;
	int rc;

	if (v->saved.sources == 0)
		return 0;
	rc = hv_output_begin(v->c->path, true, &output, err);
	if (rc == -ENOENT)
		return 0;
	if (rc)
		return rc;
	rc = hv_output_expect(output, v->saved.mark, v->saved.marks, err);
	if (rc) {
		hv_output_keep(output, true); /* begun anew, they are emptied */
		hv_output_free(output);
		return rc == -ESTALE ? 0 : rc;
	}
	rc = hv_disk_create_on(output, create, true, &v->made, err);
	if (rc) {
		v->made = NULL;
		return rc == -ESTALE || rc == -EBADMSG || rc == -ENOENT || rc == -ENOTSUP ? 0 : rc;
	}
	v->resumed = v->journalled = true;
	hv_output_keep(v->made->output, true);
	return 0;
}

int hv_resume_pipe(struct hv_conversion *v, struct hv_error *err)
{
	const struct hv_journal *j = &v->saved;
	struct hv_pipe *p = v->pipe;
	bool sums = j->stretch == v->stretch && j->sum_count == p->end / (v->stretch ? v->stretch : 1) + 1;

	if (j->watermark > p->end)
		return hv_fail_unsafe(err,
				      "%s: the journal is of a larger disk; start anew, without --resume",
				      v->journal_path);
	for (unsigned i = 0; i < j->losses; i++)
		if (hv_pipe_lose(p, j->loss[i].offset, j->loss[i].length,
				 j->loss[i].why ? j->loss[i].why : "can't be read"))
			return hv_fail(err, ENOMEM, "no memory for the list of lost ranges");
	v->watermark = v->c->resumed_from = j->watermark;
	p->count.copied = j->copied;
	p->count.skipped = j->skipped;
	if (v->sums && sums)
		memcpy(v->sums, j->sums, (size_t)j->sum_count * sizeof(*v->sums));
	p->replay_sums = v->sums && !sums;
	if (p->digest || p->replay_sums) {
		p->until = j->watermark;
		return 0;
	}
	p->pos = p->count.done = j->watermark;
	return hv_plan_claim_until(p, j->watermark, err);
}

static int take_marks(struct hv_conversion *v, struct hv_error *err)
{
	struct hv_journal *j = &v->journal;
	int rc = 0;

	free(j->mark);
	j->marks = v->made->files;
	j->mark = calloc(j->marks, sizeof(*j->mark));
	if (!j->mark)
		return hv_fail(err, ENOMEM, "%s: no memory for the journal", v->journal_path);
	for (unsigned i = 0; i < j->marks && rc == 0; i++)
		rc = hv_output_mark(v->made->output, i, &j->mark[i], err);
	return rc;
}

/* The pipe's losses are lent to the journal for as long as it is being written. */
static int write_journal(struct hv_conversion *v, struct hv_error *err)
{
	struct hv_journal *j = &v->journal;
	struct hv_pipe *p = v->pipe;
	int rc;

	j->watermark = p->pos;
	j->copied = p->count.copied;
	j->skipped = p->count.skipped;
	j->loss = p->loss;
	j->losses = p->losses;
	j->stretch = v->sums ? v->stretch : 0;
	j->sums = v->sums;
	j->sum_count = v->sums ? p->end / v->stretch + 1 : 0;
	rc = hv_journal_write(v->journal_path, j, err);
	j->loss = NULL;
	j->losses = 0;
	j->sums = NULL;
	return rc;
}

int hv_resume_checkpoint(struct hv_conversion *v, struct hv_error *err)
{
	int rc = 0;

	if (!v->can_journal)
		return 0;
	if (!v->hashed)
		rc = hv_journal_hash(&v->journal, v->c->source, err);
	v->hashed = rc == 0;
	if (rc == 0)
		rc = hv_disk_flush(v->made, err);
	if (rc == 0)
		rc = take_marks(v, err);
	if (rc)
		return rc;
	/* A journal that can't be written is no reason to give up: the conversion may well come to its end.
	 */
	if (write_journal(v, NULL) == 0) {
		v->journalled = true;
		v->watermark = v->pipe->pos;
		hv_output_keep(v->made->output, true);
	}
	return 0;
}

void hv_resume_forget(struct hv_conversion *v)
{
	char temp[4200];

	if (!v->journal_path)
		return;
	unlink(v->journal_path);
	snprintf(temp, sizeof(temp), "%s" HV_JOURNAL_NEW, v->journal_path);
	unlink(temp); /* of a run that was killed while it wrote one */
}
