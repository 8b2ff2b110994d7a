/*
 * The data store, and its migration from one layout to another: a stand-in for any system whose upgrade
 * rewrites its data in place, and is lost when it stops half-way.
 *
 *   layout 1   slots of 128 bytes: key and value as zero-terminated text
 *   layout 2   a heap of packed records (key length, value length, both texts), and an index of their offsets
 *
 * The upgrade moves record by record from the slots into the heap and wipes the slot, so that between its
 * first and last step neither layout's reader finds all. store.state tells which it is; a half-migrated store
 * refuses to work.
 */
#include "console.h"
#include "memory.h"
#include "shell.h"

#define RECORD_MAX   (2 + KEY_MAX + 1 + VALUE_MAX + 1)
#define HEAP_SIZE    (STORE_SLOTS * RECORD_MAX) /* so that it is never too small */
#define STATE_MOVING 3                          /* besides 1 and 2, the layouts */

struct slot {
	char key[KEY_MAX + 1], value[VALUE_MAX + 1];
};

static struct {
	uint64_t state;
	uint64_t count; /* records */
	uint64_t moved; /* of them, how many are in the heap already */
	uint64_t heap_used;
	struct slot slots[STORE_SLOTS];
	uint16_t index[STORE_SLOTS]; /* offsets into the heap */
	char heap[HEAP_SIZE];
} store __attribute__((aligned(4096)));

void store_init(void)
{
	memset(&store, 0, sizeof(store));
	store.state = 1;
}

const char *store_layout(void)
{
	return store.state == 1 ? "1" : store.state == 2 ? "2" : "1 and 2, half migrated";
}

/* FNV-1a over 64-bit words. */
uint64_t store_sum(uint64_t *bytes)
{
	const uint64_t *word = (const uint64_t *)(const void *)&store;
	uint64_t sum = 0xcbf29ce484222325;
	for (uint64_t i = 0; i < sizeof(store) / sizeof(*word); i++)
		sum = (sum ^ word[i]) * 0x100000001b3;
	*bytes = sizeof(store);
	return sum;
}

/* Layout 2: a record is two length bytes, the key with its zero, the value with its zero. */
static char *heap_key(uint64_t i)
{
	return store.heap + store.index[i] + 2;
}

static char *heap_value(uint64_t i)
{
	return heap_key(i) + (uint8_t)store.heap[store.index[i]] + 1;
}

static void heap_append(uint64_t i, const char *key, const char *value)
{
	uint64_t key_length = strlen(key), value_length = strlen(value);
	char *at = store.heap + store.heap_used;
	at[0] = (char)key_length;
	at[1] = (char)value_length;
	memcpy(at + 2, key, key_length + 1);
	memcpy(at + 2 + key_length + 1, value, value_length + 1);
	store.index[i] = (uint16_t)store.heap_used;
	store.heap_used += 2 + key_length + 1 + value_length + 1;
}

/* Takes record i out of the heap; what lies behind it moves down. */
static void heap_remove(uint64_t i)
{
	uint64_t at = store.index[i], size = 4u + (uint8_t)store.heap[at] + (uint8_t)store.heap[at + 1];
	memmove(store.heap + at, store.heap + at + size, store.heap_used - at - size);
	store.heap_used -= size;
	for (uint64_t k = 0; k < store.count; k++)
		if (store.index[k] > at)
			store.index[k] = (uint16_t)(store.index[k] - size);
}

static const char *key_at(uint64_t i)
{
	return store.state == 1 ? store.slots[i].key : heap_key(i);
}

/* The record with this key, or store.count. */
static uint64_t find(const char *key)
{
	uint64_t i = 0;
	while (i < store.count && strcmp(key_at(i), key))
		i++;
	return i;
}

enum store_status store_set(const char *key, const char *value)
{
	if (store.state == STATE_MOVING)
		return STORE_BROKEN;
	if (strlen(key) > KEY_MAX || strlen(value) > VALUE_MAX)
		return STORE_TOO_LONG;
	uint64_t i = find(key);
	if (i == STORE_SLOTS)
		return STORE_FULL;
	if (store.state == 1) {
		memcpy(store.slots[i].key, key, strlen(key) + 1);
		memset(store.slots[i].value, 0, sizeof(store.slots[i].value));
		memcpy(store.slots[i].value, value, strlen(value) + 1);
	} else {
		if (i < store.count)
			heap_remove(i);
		heap_append(i, key, value);
	}
	store.count += i == store.count;
	return STORE_OK;
}

enum store_status store_get(const char *key, const char **value)
{
	if (store.state == STATE_MOVING)
		return STORE_BROKEN;
	uint64_t i = find(key);
	if (i == store.count)
		return STORE_NO_KEY;
	*value = store.state == 1 ? store.slots[i].value : heap_value(i);
	return STORE_OK;
}

enum store_status store_keys(void (*fn)(const char *key))
{
	if (store.state == STATE_MOVING)
		return STORE_BROKEN;
	for (uint64_t i = 0; i < store.count; i++)
		fn(key_at(i));
	return STORE_OK;
}

static void move_records(uint64_t until)
{
	for (; store.moved < until; store.moved++) {
		struct slot *slot = &store.slots[store.moved];
		heap_append(store.moved, slot->key, slot->value);
		memset(slot, 0, sizeof(*slot));
	}
}

bool store_upgrade(bool fail)
{
	if (store.state != 1) {
		con_printf("upgrade: the store has layout %s; only layout 1 can be upgraded\n",
			   store_layout());
		return false;
	}
	con_printf("upgrade 1/5: %lu records of layout 1 found\n", store.count);
	store.state = STATE_MOVING;
	store.moved = 0;
	store.heap_used = 0;
	con_printf("upgrade 2/5: store marked as migrating, heap of layout 2 made\n");
	move_records((store.count + 1) / 2);
	con_printf("upgrade 3/5: %lu of %lu records moved\n", store.moved, store.count);
	if (fail) {
		con_printf("upgrade FAILED in step 3 of 5: the store is half layout 1, half layout 2\n");
		return false;
	}
	move_records(store.count);
	con_printf("upgrade 4/5: %lu of %lu records moved\n", store.moved, store.count);
	store.state = 2;
	con_printf("upgrade 5/5: the store has layout 2\n");
	return true;
}
