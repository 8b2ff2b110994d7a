/*
 * Inside core/disk: the parts of a conversion. convert.c puts one together; convert_plan.c walks the map and
 * cuts it into items; convert_pipe.c runs them on threads; convert_read.c brings an item's bytes into memory;
 * convert_sink.c puts them where they belong.
 *
 * An item passes three stages. `fetch` reads, decodes, scans, encodes: any number of items at once. `ordered`
 * is one item at a time in the order of the disk: room in the destination is given out there, and whatever
 * goes out in order is written, so that no result depends on the threads' timing. `store` writes into that
 * room: again in parallel.
 */
#ifndef HV_DISK_CONVERT_IMPL_H
#define HV_DISK_CONVERT_IMPL_H

#include <nettle/sha2.h>
#include <pthread.h>

#include "disk/claims.h"
#include "disk/convert.h"
#include "disk/format.h"
#include "disk/convert/journal.h"

#define HV_ITEM_RUNS   64 /* of an item that may end anywhere */
#define HV_RING        16 /* items between dispatcher and workers */
#define HV_WORKERS_MAX 8
#define HV_SUM_BLOCK   (64U << 10) /* verify: hashed piece by piece of this size */
#define HV_SUM_SLOTS   65536       /* verify: sums at most */
#define HV_LOSS_TEXTS  1000        /* losses whose reason is kept */

struct hv_pipe;
struct hv_worker;

/* A piece of the source in the order of the disk: its runs lie side by side and fill it. */
struct hv_item {
	uint64_t seq, offset, length;
	enum { HV_ITEM_FREE, HV_ITEM_READY, HV_ITEM_TAKEN } state;
	bool move;   /* data is plain and nobody needs to see it: the kernel moves it */
	bool hole;   /* nothing but zeros */
	bool replay; /* was written by an earlier run: only looked at */
	unsigned runs, run_room;
	struct hv_run *run; /* owned by the slot */
};

/* Data of an item: where it comes from, and, once there is room, where it goes. */
struct hv_piece {
	uint64_t offset, length;
	const struct hv_disk_file *from; /* a move; NULL: the worker's bytes */
	uint64_t from_at;
	struct hv_disk_file *to;
	uint64_t to_at;
};

/* Where items go. Any stage may be NULL. Errors are -errno with w->err filled. */
struct hv_sink {
	bool zeros; /* they are to be written, too: hole items take part */
	int (*fetch)(struct hv_worker *w, struct hv_item *item);
	int (*ordered)(struct hv_worker *w, struct hv_item *item);
	int (*store)(struct hv_worker *w, struct hv_item *item);
};

extern const struct hv_sink hv_sink_place, hv_sink_append, hv_sink_stream, hv_sink_target, hv_sink_none;

struct hv_used { /* an encoded unit that was decoded: what it took in its file */
	const struct hv_run *run;
	uint64_t length;
};

struct hv_worker {
	struct hv_pipe *pipe;
	pthread_t thread;
	struct hv_disk_io *io;
	uint8_t *bytes;  /* the item's, pipe->chunk and one unit of the sink */
	uint8_t *stored; /* encoded units as they stand in their file */
	size_t stored_size;
	uint8_t *unit; /* one decoded unit of which only a part is wanted */
	size_t unit_size;
	uint8_t *out; /* encoded for the destination */
	size_t *out_length;
	struct hv_piece *piece; /* data of the item, in order */
	unsigned pieces, piece_room;
	struct hv_piece *room; /* the same, cut where the destination is not in one piece */
	unsigned rooms, room_room;
	struct hv_used *used;
	unsigned useds, used_room;
	struct hv_convert_loss *loss; /* of this item, in rising order */
	unsigned losses, loss_room;
	struct hv_error err;
};

/* A layer's files' claims, and the encoded unit that was claimed last: two runs may speak for parts of it. */
struct hv_layer_claims {
	struct hv_claims **file;
	uint64_t last_unit;
	bool any_unit;
};

struct hv_chain_claims {
	struct hv_disk *source;
	pthread_mutex_t lock;
	uint32_t unit;
	struct hv_layer_claims layer[HV_DISK_CHAIN_MAX];
};

struct hv_pipe {
	struct hv_disk *source;
	uint64_t end;   /* of the walk: the source's size or the destination's, whichever is larger */
	uint64_t pos;   /* the next item starts here; the dispatcher's */
	uint64_t until; /* replay: what lies before was written by an earlier run */
	uint32_t chunk; /* bytes of an item in memory, a power of two */
	uint32_t unit;  /* the sink's: a divisor of chunk */
	uint32_t grain; /* zeros are looked for in pieces of this size; 0: not at all */
	const struct hv_sink *sink;
	struct hv_run ahead; /* what the last look at the map showed behind the last item */

	struct hv_disk *dest;       /* place, append, target */
	struct hv_run last_room;    /* place: blocks can be larger than items */
	pthread_mutex_t write_lock; /* one writer at a time: two would spin on the inode's lock */
	uint64_t unsynced;          /* (atomic) bytes written since write-back was last started */

	int fd;                   /* stream */
	struct hv_disk_file *out; /* stream: standard output as a file, when it is one; base is its position
				   */

	struct hv_chain_claims claims;

	uint64_t *sums; /* verify: by stretch; (atomic) */
	uint64_t stretch;
	struct sha256_ctx sha;

	struct hv_journal_loss *loss; /* in rising order, neighbours merged; under lock */
	unsigned losses, loss_room, losses_told;
	uint64_t lost;

	/* the ring; all under lock */
	pthread_mutex_t lock;
	pthread_cond_t work, room, turned;
	struct hv_item item[HV_RING];
	uint64_t next;    /* seq of the next item to come */
	uint64_t turn;    /* seq whose ordered stage is next */
	unsigned flights; /* items ready or taken */
	unsigned waiting; /* for their turn */
	uint64_t failed_seq;
	struct hv_error err;
	struct hv_convert_progress count;

	unsigned threads, started;
	struct hv_worker worker[HV_WORKERS_MAX];

	/* what is set up once, then what is under lock */
	bool see;  /* every byte is to be seen, and items begin and end with units */
	bool fill; /* the zeros between, too */
	bool salvage, digest;
	bool replay_sums; /* an earlier run kept none */
	bool have_ahead;
	bool no_kernel_copy; /* (atomic) copy_file_range doesn't work between these */
	bool out_fresh;      /* `out` has nothing yet behind its position */
	bool plain_write;    /* `fd` doesn't know RWF_NOWAIT */
	bool full;           /* target: zeros are written as bytes */
	bool cancelled;      /* (atomic) */
	bool moving;         /* one worker moves; more would only fight for the file's lock */
	bool stopped;
	bool failed;
};

/* One call of hv_convert. */
struct hv_conversion {
	struct hv_convert *c;
	struct hv_pipe *pipe;
	struct hv_disk *dest; /* target, or `made` */
	struct hv_disk *made; /* owned: its partial files go when it is closed without commit */
	struct hv_disk_file out;
	uint64_t *sums, *sums_back, stretch; /* verify */
	uint64_t next_tick;
	bool cancelled;

	char *journal_path; /* NULL: there can be none */
	bool can_journal;
	struct hv_journal journal;        /* what this conversion is */
	struct hv_journal saved;          /* resume: what the last one was and how far it came */
	bool resumed, hashed, journalled; /* journalled: there is one, from this run or the last */
	uint64_t next_checkpoint, watermark;
};

/* --- convert.c --- */
uint64_t hv_now_ns(void);
struct hv_pipe *hv_pipe_new(struct hv_disk *source);
/* Threads and buffers inside the memory that was given (0: the usual). */
void hv_pipe_sizes(struct hv_pipe *p, unsigned threads, uint64_t memory);
/* Walks the source to its end, or to where the conversion is stopped; nothing is in flight afterwards. */
int hv_conversion_walk(struct hv_conversion *v, bool verifying, struct hv_error *err);

/* --- convert_verify.c --- */
int hv_verify_begin(struct hv_conversion *v, struct hv_error *err);
int hv_verify(struct hv_conversion *v, uint64_t end, struct hv_error *err);

/* --- convert_resume.c --- */
/* What the journal would say of this conversion; with resume, what it says. -ESTALE: another conversion. */
int hv_resume_look(struct hv_conversion *v, const struct hv_disk_create *create, struct hv_error *err);
/* Takes the partial files up again: v->made and v->resumed are set. 0 without them: begin anew. */
int hv_resume_begin(struct hv_conversion *v, const struct hv_disk_create *create, struct hv_error *err);
/* The pipe's state as it was at the checkpoint. Before the pipe is started. */
int hv_resume_pipe(struct hv_conversion *v, struct hv_error *err);
/* Nothing is in flight: makes it durable and writes the journal. */
int hv_resume_checkpoint(struct hv_conversion *v, struct hv_error *err);
void hv_resume_forget(struct hv_conversion *v); /* removes the journal */

/* --- convert_pipe.c --- */
void hv_pipe_init(struct hv_pipe *p);
int hv_pipe_start(struct hv_pipe *p, struct hv_error *err);
void hv_pipe_free(struct hv_pipe *p); /* joins what was started; p itself is the caller's */
/*
 * A slot for the next item, or NULL: when none is free within `ms` milliseconds, or the pipe failed. Filled,
 * it is handed over by hv_pipe_push.
 */
struct hv_item *hv_pipe_slot(struct hv_pipe *p, int ms);
void hv_pipe_push(struct hv_pipe *p, struct hv_item *item);
bool hv_pipe_idle(struct hv_pipe *p, int ms); /* true: every item is done */
bool hv_pipe_failed(struct hv_pipe *p);
void hv_pipe_fail(struct hv_pipe *p, uint64_t seq, const struct hv_error *err);
void hv_pipe_count(struct hv_pipe *p, uint64_t copied, uint64_t skipped);
/* A pipe's number of threads for what a caller asked. */
unsigned hv_pipe_threads(unsigned asked);

/* --- convert_plan.c --- */
/* Fills the item that starts at p->pos and moves p->pos behind it. An error is in *err. */
int hv_plan_next(struct hv_pipe *p, struct hv_item *item, struct hv_error *err);
/* Claims what an earlier run has converted, so that what comes can't share bytes with it unseen. */
int hv_plan_claim_until(struct hv_pipe *p, uint64_t until, struct hv_error *err);

/* --- chain_claims.c --- */
void hv_chain_claims_init(struct hv_chain_claims *c, struct hv_disk *source);
void hv_chain_claims_free(struct hv_chain_claims *c);
/* The first `length` bytes of the file from run->at on are this run's: -EBADMSG when they have an owner. Any
 * thread. */
int hv_chain_claim(struct hv_chain_claims *c, const struct hv_run *run, uint64_t length,
		   struct hv_error *err);
/* The chain's tables first, so that no block can be one. salvage: tables that overlap are not a failure. */
int hv_chain_claim_tables(struct hv_chain_claims *c, bool salvage, struct hv_error *err);

/* --- convert_read.c --- */
/* The bytes of an item into w->bytes, and its data into w->piece. */
int hv_item_read(struct hv_worker *w, struct hv_item *item);
/* The pieces of a move. */
int hv_item_pieces(struct hv_worker *w, const struct hv_item *item);
int hv_worker_lose(struct hv_worker *w, uint64_t offset, uint64_t length, const char *why);
int hv_pipe_lose(struct hv_pipe *p, uint64_t offset, uint64_t length, const char *why);
bool hv_is_zero(const void *data, size_t length);
/* Sums of an item's bytes for verify. */
void hv_item_sum(struct hv_worker *w, const struct hv_item *item);

/* --- convert_sink.c --- */
int hv_add_piece(struct hv_piece **list, unsigned *count, unsigned *room, const struct hv_piece *piece,
		 struct hv_error *err);

#endif
