/*
 * Packets of the gdb remote serial protocol: finding them in a stream of bytes, and writing replies. Private
 * to the gdb stub. Rules: "Debugging with GDB", E.1 (overview) and E.9 (packet acknowledgment).
 */
#ifndef HV_CONTROL_GDB_PACKET_H
#define HV_CONTROL_GDB_PACKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What qSupported promises as PacketSize: the longest packet that is taken. The longest reply stays below it
 * too. */
#define HV_GDB_PACKET_MAX 16384

enum hv_gdb_token {
	HV_GDB_NOTHING, /* more bytes are needed */
	HV_GDB_PACKET,  /* data[0..length) is a packet's content, unescaped, followed by a zero byte */
	HV_GDB_BAD,     /* a packet with a wrong checksum, or too long */
	HV_GDB_ACK,
	HV_GDB_NAK,
	HV_GDB_INTERRUPT, /* Ctrl-C */
};

struct hv_gdb_parser {
	enum { HV_GDB_IDLE, HV_GDB_DATA, HV_GDB_ESCAPED, HV_GDB_SUM1, HV_GDB_SUM2 } state;
	uint8_t sum, told; /* counted, and as the sender says */
	bool broken;       /* too long, or a checksum that is no number */
	size_t length;
	char data[HV_GDB_PACKET_MAX + 1];
};

/* Takes one byte. Zero-initialise the parser. */
enum hv_gdb_token hv_gdb_parse(struct hv_gdb_parser *p, uint8_t byte);

/* Bytes that grow; a failed allocation latches `failed` and drops what follows. */
struct hv_gdb_text {
	char *data; /* not terminated */
	size_t length, capacity;
	bool failed;
};

void hv_gdb_text_free(struct hv_gdb_text *t);
void hv_gdb_put(struct hv_gdb_text *t, const void *data, size_t length);
void hv_gdb_puts(struct hv_gdb_text *t, const char *s);
void hv_gdb_printf(struct hv_gdb_text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void hv_gdb_put_hex(struct hv_gdb_text *t, const void *data, size_t length);

/* Appends $content#sum to out, escaping what must be. */
void hv_gdb_frame(struct hv_gdb_text *out, const struct hv_gdb_text *content);

/* Exactly count bytes from 2 * count hex digits at *at, which moves on. False when they aren't there. */
bool hv_gdb_get_hex(const char **at, void *out, size_t count);
/* A hex number of 1 to 16 digits at *at, which moves on. */
bool hv_gdb_get_number(const char **at, uint64_t *out);
/* "address,length". */
bool hv_gdb_get_range(const char **at, uint64_t *addr, uint64_t *length);
/* True, and *at moves behind it, when *at starts with text. */
bool hv_gdb_skip(const char **at, const char *text);

#endif
