/*
 * Reading for a conversion: an item's runs into one buffer. Encoded units that are neighbours in their file
 * come with one read and are decoded from there, each into its place; what can't be read is damage, or, in
 * salvage, zeros and a line in the list of losses.
 */
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/bytes.h"
#include "disk/convert/convert_impl.h"

#define GAP_MAX (64U << 10) /* between encoded units that are read together */
#define RETRY   4096U       /* salvage: what is given up of plain data that can't be read */

bool hv_is_zero(const void *data, size_t length)
{
	const uint8_t *p = data;

	while (length > 0 && ((uintptr_t)p & 15 || length < 16)) {
		if (*p++)
			return false;
		length--;
	}
	if (length == 0)
		return true;
	/* The first 16 bytes are zeros, and each byte is as the one 16 before it. */
	return hv_le64(p) == 0 && hv_le64(p + 8) == 0 && memcmp(p, p + 16, length - 16) == 0;
}

static int need(struct hv_worker *w, uint8_t **buf, size_t *size, size_t want)
{
	uint8_t *more;

	if (*size >= want)
		return 0;
	more = realloc(*buf, want);
	if (!more)
		return hv_fail(&w->err, ENOMEM, "%s: no memory to read %zu bytes", w->pipe->source->path,
			       want);
	*buf = more;
	*size = want;
	return 0;
}

static uint8_t *place_of(const struct hv_worker *w, const struct hv_item *item, uint64_t offset)
{
	return w->bytes + (offset - item->offset);
}

/* Which failures salvage goes on from: the medium's and the image's, not the system's. */
static bool can_lose(const struct hv_pipe *p, int rc)
{
	return p->salvage && (rc == -EBADMSG || rc == -EIO);
}

/* --- plain data ------------------------------------------------------------------------------------------- */

static int read_part(struct hv_worker *w, const struct hv_run *run, uint64_t skip, size_t length,
		     uint8_t *out)
{
	struct hv_disk *d = run->layer;

	if (run->stored == HV_STORED_CALL)
		return d->format->read(d, out, length, run->offset + skip, &w->err);
	return hv_disk_file_read(d->file[run->file], "data", out, length, run->at + skip, &w->err);
}

static int read_plain(struct hv_worker *w, const struct hv_item *item, const struct hv_run *run)
{
	uint8_t *out = place_of(w, item, run->offset);
	int rc = read_part(w, run, 0, (size_t)run->length, out);

	if (!can_lose(w->pipe, rc))
		return rc;
	for (uint64_t done = 0; done < run->length;) { /* as much of it as there is */
		size_t n = RETRY - (size_t)((run->offset + done) % RETRY);
		n = n < run->length - done ? n : (size_t)(run->length - done);
		rc = read_part(w, run, done, n, out + done);
		if (rc && !can_lose(w->pipe, rc))
			return rc;
		if (rc) {
			memset(out + done, 0, n);
			rc = hv_worker_lose(w, run->offset + done, n, w->err.text);
		}
		if (rc)
			return rc;
		done += n;
	}
	return 0;
}

/* --- encoded units ---------------------------------------------------------------------------------------- */

/* How many runs from the first on can be read together, and how many bytes of the file that takes. */
static unsigned group(const struct hv_item *item, unsigned first, uint64_t most, size_t *span)
{
	const struct hv_run *a = &item->run[first];
	uint64_t end = a->at + a->stored_length;
	unsigned n = 1;

	for (; first + n < item->runs; n++) {
		const struct hv_run *b = &item->run[first + n];
		if (b->kind != HV_RUN_DATA || b->stored != HV_STORED_ENCODED || b->layer != a->layer ||
		    b->file != a->file || b->at < a->at || b->at > end + GAP_MAX ||
		    b->at + b->stored_length - a->at > most)
			break;
		if (b->at + b->stored_length > end)
			end = b->at + b->stored_length;
	}
	*span = (size_t)(end - a->at);
	return n;
}

static int decode(struct hv_worker *w, const struct hv_item *item, const struct hv_run *run,
		  const uint8_t *stored, size_t length)
{
	struct hv_disk *d = run->layer;
	uint8_t *out = place_of(w, item, run->offset);
	bool whole = run->offset == run->unit && run->length == run->unit_length;
	size_t used = 0;
	int rc;

	if (!whole && need(w, &w->unit, &w->unit_size, run->unit_length))
		return -ENOMEM;
	rc = d->format->decode(d, w->io, run, stored, length, whole ? out : w->unit, &used, &w->err);
	if (rc == 0 && !whole)
		memcpy(out, w->unit + (run->offset - run->unit), run->length);
	if (rc == 0)
		w->used[w->useds++] = (struct hv_used){run, used};
	if (!can_lose(w->pipe, rc))
		return rc;
	memset(out, 0, run->length);
	return hv_worker_lose(w, run->offset, run->length, w->err.text);
}

/* A read that failed as a whole, unit by unit: salvage loses no more than what can't be read. */
static int read_units(struct hv_worker *w, const struct hv_item *item, unsigned first, unsigned count)
{
	for (unsigned i = first; i < first + count; i++) {
		const struct hv_run *run = &item->run[i];
		int64_t n = hv_disk_file_read_some(run->layer->file[run->file], w->stored, run->stored_length,
						   run->at, &w->err);
		int rc = n < 0 ? (int)n : decode(w, item, run, w->stored, (size_t)n);
		if (n < 0 && can_lose(w->pipe, rc)) {
			memset(place_of(w, item, run->offset), 0, run->length);
			rc = hv_worker_lose(w, run->offset, run->length, w->err.text);
		}
		if (rc)
			return rc;
	}
	return 0;
}

static int read_group(struct hv_worker *w, const struct hv_item *item, unsigned first, unsigned count,
		      size_t span)
{
	const struct hv_run *a = &item->run[first];
	int64_t n;
	int rc = need(w, &w->stored, &w->stored_size, span);

	if (rc)
		return rc;
	n = hv_disk_file_read_some(a->layer->file[a->file], w->stored, span, a->at, &w->err);
	if (n < 0)
		return can_lose(w->pipe, (int)n) ? read_units(w, item, first, count) : (int)n;
	for (unsigned i = first; i < first + count && rc == 0; i++) {
		const struct hv_run *run = &item->run[i];
		uint64_t skip = run->at - a->at, left = (uint64_t)n > skip ? (uint64_t)n - skip : 0;
		rc = decode(w, item, run, w->stored + skip,
			    left < run->stored_length ? (size_t)left : run->stored_length);
	}
	return rc;
}

/* --- items ------------------------------------------------------------------------------------------------ */

int hv_add_piece(struct hv_piece **list, unsigned *count, unsigned *room, const struct hv_piece *piece,
		 struct hv_error *err)
{
	struct hv_piece *last = *count ? &(*list)[*count - 1] : NULL;

	if (last && last->offset + last->length == piece->offset && last->from == piece->from &&
	    last->to == piece->to && (!piece->from || last->from_at + last->length == piece->from_at) &&
	    (!piece->to || last->to_at + last->length == piece->to_at)) {
		last->length += piece->length;
		return 0;
	}
	if (!*list || *count == *room) {
		unsigned more = *room ? *room * 2 : 32;
		struct hv_piece *grown = realloc(*list, more * sizeof(*grown));
		if (!grown)
			return hv_fail(err, ENOMEM, "no memory for the pieces of a block");
		*list = grown;
		*room = more;
	}
	(*list)[(*count)++] = *piece;
	return 0;
}

static int piece_of_bytes(struct hv_worker *w, uint64_t offset, uint64_t length)
{
	struct hv_piece piece = {.offset = offset, .length = length};

	return hv_add_piece(&w->piece, &w->pieces, &w->piece_room, &piece, &w->err);
}

/* Data that holds something else than zeros, looked at a grain at a time. */
static int sparse_pieces(struct hv_worker *w, const struct hv_item *item, const struct hv_run *run)
{
	uint64_t grain = w->pipe->grain, at = run->offset, end = run->offset + run->length;

	while (at < end) {
		uint64_t next = at - at % grain + grain;
		next = next < end ? next : end;
		if (!hv_is_zero(place_of(w, item, at), (size_t)(next - at)) &&
		    piece_of_bytes(w, at, next - at))
			return -ENOMEM;
		at = next;
	}
	return 0;
}

int hv_item_read(struct hv_worker *w, struct hv_item *item)
{
	struct hv_pipe *p = w->pipe;
	int rc = 0;

	if (w->used_room < item->runs) {
		struct hv_used *more = realloc(w->used, item->runs * sizeof(*more));
		if (!more)
			return hv_fail(&w->err, ENOMEM, "%s: no memory for a piece of its map",
				       p->source->path);
		w->used = more;
		w->used_room = item->runs;
	}
	for (unsigned i = 0, n; i < item->runs && rc == 0; i += n) {
		struct hv_run *run = &item->run[i];
		size_t span;
		n = 1;
		if (run->kind != HV_RUN_DATA) {
			if (p->fill)
				memset(place_of(w, item, run->offset), 0, run->length);
			continue;
		}
		if (run->stored == HV_STORED_ENCODED) {
			n = group(item, i, p->chunk, &span);
			rc = read_group(w, item, i, n, span);
		} else {
			rc = read_plain(w, item, run);
		}
		for (unsigned k = i; k < i + n && rc == 0; k++)
			rc = p->grain ? sparse_pieces(w, item, &item->run[k])
				      : piece_of_bytes(w, item->run[k].offset, item->run[k].length);
	}
	return rc;
}

int hv_item_pieces(struct hv_worker *w, const struct hv_item *item)
{
	for (unsigned i = 0; i < item->runs; i++) {
		const struct hv_run *run = &item->run[i];
		if (run->kind != HV_RUN_DATA)
			continue;
		struct hv_piece piece = {
			.offset = run->offset,
			.length = run->length,
			.from = run->layer->file[run->file],
			.from_at = run->at,
		};
		if (hv_add_piece(&w->piece, &w->pieces, &w->piece_room, &piece, &w->err))
			return -ENOMEM;
	}
	return 0;
}

/*
 * Each block of the disk that isn't all zeros adds its hash to the sum of its stretch. A sum doesn't care for
 * the order of its parts, and zeros add nothing, whether they are a hole or were written.
 */
void hv_item_sum(struct hv_worker *w, const struct hv_item *item)
{
	struct hv_pipe *p = w->pipe;

	for (uint64_t done = 0; done < item->length; done += HV_SUM_BLOCK) {
		size_t n = item->length - done < HV_SUM_BLOCK ? (size_t)(item->length - done) : HV_SUM_BLOCK;
		const uint8_t *block = w->bytes + done;
		if (hv_is_zero(block, n))
			continue;
		uint64_t sum = XXH3_64bits_withSeed(block, n, item->offset + done);
		__atomic_fetch_add(&p->sums[(item->offset + done) / p->stretch], sum, __ATOMIC_RELAXED);
	}
}
