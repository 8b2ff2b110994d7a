/*
 * One gdb's conversation: packets in, replies out. Knows no sockets, so that tests and fuzzers can feed it.
 * Private to the gdb stub.
 */
#ifndef HV_CONTROL_GDB_SESSION_H
#define HV_CONTROL_GDB_SESSION_H

#include "control/gdb_packet.h"
#include "control/gdb_target.h"

struct hv_gdb_session {
	struct hv_gdb_target target;
	struct hv_gdb_parser parser;
	struct hv_gdb_text out;  /* bytes for the client; the caller sends and empties it */
	struct hv_gdb_text last; /* the last packet, for a client that says '-' */
	bool no_ack, swbreak, hwbreak;
	unsigned refused;        /* '-' in a row */
	unsigned cpu;            /* of g, m and the like (Hg) */
	unsigned run_cpu;        /* of c and s (Hc) */
	struct hv_gdb_stop stop; /* what was last told */
	bool closing;            /* the conversation is over: send out, then hang up */
	bool go_on;              /* the client asked for the guest to go on (D) */
};

void hv_gdb_session_init(struct hv_gdb_session *s, struct hv_machine *machine);
/* Detaches, and is ready for the next client. */
void hv_gdb_session_reset(struct hv_gdb_session *s);
void hv_gdb_session_free(struct hv_gdb_session *s);
/* One byte from the client. */
void hv_gdb_session_byte(struct hv_gdb_session *s, uint8_t byte);
/* Something happened to the machine: tells the client when it waits for that. */
void hv_gdb_session_event(struct hv_gdb_session *s);

/* Between gdb_session.c and gdb_query.c. */
#define HV_GDB_BYTES_MAX ((HV_GDB_PACKET_MAX - 8) / 2) /* what fits one reply in hex, or escaped */

enum hv_gdb_which { HV_GDB_NONE, HV_GDB_ONE, HV_GDB_ALL };

void hv_gdb_send(struct hv_gdb_session *s, const struct hv_gdb_text *content);
void hv_gdb_send_text(struct hv_gdb_session *s, const char *text);
void hv_gdb_send_error(struct hv_gdb_session *s, int code);
/* A thread id at *at: "-1" is all, "0" any (*cpu stays), else a vCPU plus one. NONE when it is no thread of
 * ours. */
enum hv_gdb_which hv_gdb_thread_id(const struct hv_gdb_session *s, const char **at, unsigned *cpu);
/* A packet that starts with q; at is behind the q. */
void hv_gdb_query(struct hv_gdb_session *s, const char *at);

#endif
