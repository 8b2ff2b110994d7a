/*
 * The plan of a conversion: the source's map cut into items, and each byte of the source's files claimed by
 * one run only. The calling thread does this; a look at the map costs little, and what it showed beyond an
 * item's end is kept for the next.
 */
#include <stdlib.h>

#include "disk/convert/convert_impl.h"

#define MOVE_MAX    (4ULL << 20)  /* of plain data in an item that is moved */
#define ZEROS_MAX   (64ULL << 20) /* of zeros in an item that takes part in order */
#define LOST_STEP   (64ULL << 10) /* salvage: what is given up when the map itself can't be read */
#define LOST_BLOCKS 65536         /* of them in one go */

/* --- the map ---------------------------------------------------------------------------------------------- */

/* Drops the first `length` bytes of a run. */
static void advance(struct hv_run *run, uint64_t length)
{
	run->offset += length;
	run->length -= length;
	if (run->kind == HV_RUN_DATA && run->stored == HV_STORED_PLAIN)
		run->at += length;
}

static struct hv_run hole(uint64_t offset, uint64_t length)
{
	return (struct hv_run){.offset = offset, .length = length, .kind = HV_RUN_HOLE};
}

/* What an earlier run has lost stays lost, so that what is seen now is what was written then. */
static bool lost_before(struct hv_pipe *p, uint64_t offset, struct hv_run *run)
{
	bool inside = false;

	pthread_mutex_lock(&p->lock);
	for (unsigned i = 0; i < p->losses && !inside; i++) {
		const struct hv_journal_loss *l = &p->loss[i];
		if (offset < l->offset && l->offset - offset < run->length)
			run->length = l->offset - offset;
		inside = offset >= l->offset && offset - l->offset < l->length;
		if (inside)
			*run = hole(offset, l->offset + l->length - offset);
	}
	pthread_mutex_unlock(&p->lock);
	return inside;
}

/* Where the block behind the one at `at` starts, or the disk ends. */
static uint64_t next_block(const struct hv_disk *d, uint64_t at)
{
	uint64_t step = d->block_size ? d->block_size : LOST_STEP, left = step - at % step;

	return left < d->size - at ? at + left : d->size;
}

/*
 * The map can't be read here: salvage gives up one block, and those behind it that can't be read either. A
 * lost tail has millions of blocks, so that nobody puts their failures into words.
 */
static int lose_map(struct hv_pipe *p, uint64_t offset, struct hv_run *run, struct hv_error *err)
{
	uint64_t until = offset < p->until ? p->until : p->source->size;
	uint64_t end = next_block(p->source, offset);

	for (unsigned i = 0; i < LOST_BLOCKS && end < until; i++) {
		struct hv_run next;
		if (hv_disk_map(p->source, end, next_block(p->source, end) - end, &next, NULL) != -EBADMSG)
			break;
		end = next_block(p->source, end);
	}
	if (hv_pipe_lose(p, offset, end - offset, err->text))
		return hv_fail(err, ENOMEM, "no memory for the list of lost ranges");
	*run = hole(offset, end - offset);
	return 0;
}

static int look(struct hv_pipe *p, uint64_t offset, struct hv_run *run, struct hv_error *err)
{
	int rc;

	if (p->have_ahead && p->ahead.offset == offset) {
		*run = p->ahead;
		return 0;
	}
	if (offset >= p->source->size) {
		*run = hole(offset, p->end - offset);
		return 0;
	}
	*run = hole(offset, p->until > offset ? p->until - offset : UINT64_MAX);
	if (p->until > offset && lost_before(p, offset, run))
		return 0;
	rc = hv_disk_map(p->source, offset,
			 run->length < p->source->size - offset ? run->length : p->source->size - offset, run,
			 err);
	if (rc == 0 && run->kind == HV_RUN_DATA && run->stored == HV_STORED_PLAIN)
		rc = hv_chain_claim(&p->claims, run, run->length, err);
	if (rc == -EBADMSG && p->salvage)
		rc = lose_map(p, offset, run, err);
	return rc;
}

/* --- items ------------------------------------------------------------------------------------------------ */

static bool movable(const struct hv_pipe *p, const struct hv_run *run)
{
	return !p->see && run->stored == HV_STORED_PLAIN;
}

/*
 * Zeros that reach over a whole unit or more are an item of their own. It ends where a unit ends, so that
 * the next item begins with one.
 */
static uint64_t hole_length(const struct hv_pipe *p, const struct hv_run *run)
{
	uint64_t end = run->offset + run->length, unit = p->see ? p->chunk : 1;

	if (end < p->end)
		end -= end % unit;
	if (end <= run->offset)
		return 0;
	if ((p->digest || p->sink->zeros) && end - run->offset > ZEROS_MAX)
		end = run->offset - run->offset % ZEROS_MAX + ZEROS_MAX;
	return end - run->offset;
}

/* Where an item ends at the latest that begins with data of this kind. */
static uint64_t item_limit(const struct hv_pipe *p, uint64_t offset, bool move)
{
	uint64_t step = move ? MOVE_MAX : p->chunk, limit = offset - offset % step + step;

	return limit < p->end ? limit : p->end;
}

static int add_run(struct hv_pipe *p, struct hv_item *item, struct hv_run *run, uint64_t limit,
		   struct hv_error *err)
{
	uint64_t end = item->offset + item->length, take = run->length;

	if (item->runs == item->run_room) {
		unsigned room = item->run_room ? item->run_room * 2 : HV_ITEM_RUNS;
		struct hv_run *more = realloc(item->run, room * sizeof(*more));
		if (!more)
			return hv_fail(err, ENOMEM, "%s: no memory for a piece of its map", p->source->path);
		item->run = more;
		item->run_room = room;
	}
	if (take > limit - end)
		take = limit - end;
	item->run[item->runs] = *run;
	item->run[item->runs++].length = take;
	item->length += take;
	advance(run, take);
	return 0;
}

/*
 * Whether an item ends before this run: it is of the other kind, or would be cut (a unit decoded twice), or
 * the item is long enough. Where units must be kept (see), it doesn't.
 */
static bool ends_item(const struct hv_pipe *p, const struct hv_item *item, const struct hv_run *run,
		      bool any_data, uint64_t limit)
{
	if (p->see || item->runs == 0)
		return false;
	if (item->runs >= HV_ITEM_RUNS)
		return true;
	if (run->kind != HV_RUN_DATA)
		return run->length >= p->chunk;
	return (any_data && item->move != movable(p, run)) ||
	       (run->stored == HV_STORED_ENCODED && run->offset + run->length > limit);
}

int hv_plan_next(struct hv_pipe *p, struct hv_item *item, struct hv_error *err)
{
	uint64_t until = p->pos < p->until ? p->until : p->end, limit = item_limit(p, p->pos, false);
	bool any_data = false;
	int rc = 0;

	item->offset = p->pos;
	item->length = 0;
	item->runs = 0;
	item->move = item->hole = false;
	item->replay = p->pos < p->until;
	while (rc == 0 && !item->hole && p->pos < (limit < until ? limit : until)) {
		struct hv_run run;
		rc = look(p, p->pos, &run, err);
		if (rc)
			return rc;
		p->ahead = run;
		p->have_ahead = true;
		if (ends_item(p, item, &run, any_data, limit))
			break;
		if (run.kind == HV_RUN_DATA && !any_data) {
			any_data = true;
			item->move = movable(p, &run);
			limit = item_limit(p, item->offset, item->move);
		} else if (run.kind != HV_RUN_DATA && item->runs == 0 && hole_length(p, &run) > 0) {
			item->hole = true;
			limit = p->pos + hole_length(p, &run);
		}
		rc = add_run(p, item, &p->ahead, limit < until ? limit : until, err);
		p->have_ahead = p->ahead.length > 0;
		p->pos = item->offset + item->length;
	}
	return rc;
}

int hv_plan_claim_until(struct hv_pipe *p, uint64_t until, struct hv_error *err)
{
	for (uint64_t pos = 0; pos < until;) {
		struct hv_run run;
		int rc = 0;
		if (pos >= p->source->size)
			break;
		run = hole(pos, until - pos);
		if (!lost_before(p, pos, &run)) {
			uint64_t rest = p->source->size - pos;
			rc = hv_disk_map(p->source, pos, run.length < rest ? run.length : rest, &run, err);
			/* How long an encoded unit is shows only when it is decoded; where it starts is
			 * claimed. */
			if (rc == 0 && run.kind == HV_RUN_DATA && run.stored != HV_STORED_CALL)
				rc = hv_chain_claim(&p->claims, &run,
						    run.stored == HV_STORED_ENCODED ? 1 : run.length, err);
		}
		if (rc)
			return rc;
		pos = run.offset + run.length;
	}
	return 0;
}
