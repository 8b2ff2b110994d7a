/*
 * Requests of the block device that the host has no room for. The guest isn't told of an error that it could
 * do nothing about: the request is kept, the machine stops, and when someone has made room and lets it go on,
 * the request is done again. Until then no new one is taken. A VM may be saved in that state, so what is kept
 * is saved, too.
 */
#include <string.h>

#include "base/bytes.h"
#include "device/virtio/blk_impl.h"

/* hv_blk_move leaves one free for the request in hand; the others that may come have room of their own, which
 * they have just given up or are about to. */
void hv_blk_keep(struct blk *b, const struct hv_virtq_chain *chain, unsigned queue)
{
	struct hv_blk_out *out = hv_blk_out_get(b);

	hv_blk_chain_copy(&out->chain, chain);
	out->queue = queue;
	out->next = NULL;
	*b->kept_end = out;
	b->kept_end = &out->next;
	b->retry = false;
}

bool hv_blk_has_kept(const struct blk *b)
{
	return b->kept != NULL;
}

bool hv_blk_take_kept(struct blk *b)
{
	struct hv_blk_out *out = b->kept;

	if (!out || !b->retry)
		return false;
	hv_blk_chain_copy(&b->chain, &out->chain);
	b->queue = out->queue;
	b->kept = out->next;
	if (!b->kept)
		b->kept_end = &b->kept;
	hv_blk_out_put(b, out);
	return true;
}

void hv_blk_let_go(struct blk *b)
{
	b->retry = true;
	if (b->kept)
		hv_virtio_worker_wake(&b->worker);
}

void hv_blk_rested(struct hv_virtio *v)
{
	struct blk *b = blk_of(v);
	struct hv_virtio_full what = {.device = v->name, .error = b->full};

	if (!b->full)
		return;
	b->full = 0;
	pthread_mutex_unlock(&v->dev.lock);
	v->host.full(v->host.full_ctx, &what);
	pthread_mutex_lock(&v->dev.lock);
}

void hv_blk_drop_kept(struct hv_virtio *v)
{
	struct blk *b = blk_of(v);

	while (b->kept) {
		struct hv_blk_out *out = b->kept;

		b->kept = out->next;
		hv_blk_out_put(b, out);
	}
	b->kept_end = &b->kept;
	b->full = 0;
}

unsigned hv_blk_kept(const struct hv_virtio *v, unsigned queue)
{
	const struct blk *b = hv_container_of(v, const struct blk, v);
	unsigned count = 0;

	for (const struct hv_blk_out *out = b->kept; out; out = out->next)
		count += out->queue == queue;
	return count;
}

/* A chain is saved by its name: its descriptors are in the guest's memory, and stand as long as it is out. */
void hv_blk_save(struct hv_virtio *v, struct hv_encoder *e)
{
	const struct blk *b = blk_of(v);
	uint16_t count = 0;

	for (const struct hv_blk_out *out = b->kept; out; out = out->next)
		count++;
	hv_enc_u8(e, v->config[BLK_CONFIG_WRITEBACK]);
	hv_enc_u16(e, count);
	for (const struct hv_blk_out *out = b->kept; out; out = out->next) {
		hv_enc_u8(e, (uint8_t)out->queue);
		hv_enc_u16(e, out->chain.head);
		hv_enc_u16(e, out->chain.place);
	}
}

static int load_kept(struct blk *b, struct hv_decoder *d, struct hv_error *err)
{
	unsigned queue = hv_dec_u8(d);
	uint16_t head = hv_dec_u16(d), place = hv_dec_u16(d);

	/* The chain is a stranger's word, too. */
	if (queue >= b->v.queue_count || hv_virtq_again(&b->v.queues[queue], head, place, &b->chain) ||
	    b->chain.read_length < 16 || b->chain.write_length == 0)
		return hv_fail_unsafe(err,
				      "saved state: device '%s' has kept a request that no driver can make; "
				      "the data is damaged",
				      b->v.name);
	hv_blk_keep(b, &b->chain, queue);
	return 0;
}

int hv_blk_load(struct hv_virtio *v, struct hv_decoder *d, struct hv_error *err)
{
	struct blk *b = blk_of(v);
	uint8_t writeback = hv_dec_u8(d);
	unsigned count = hv_dec_u16(d);
	int rc = 0;

	v->config[BLK_CONFIG_WRITEBACK] = writeback & 1;
	if (count >= HV_BLK_OUT_MAX)
		return hv_fail_unsafe(
			err,
			"saved state: device '%s' has kept %u requests, of at most %u; the data "
			"is damaged",
			v->name, count, HV_BLK_OUT_MAX - 1);
	for (unsigned i = 0; i < count && !rc; i++)
		rc = load_kept(b, d, err);
	return rc;
}
