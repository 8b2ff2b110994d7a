/*
 * Writers of what the tests of appliances read: tar archives member by member (POSIX ustar), and VMCX stores
 * (the layout as dissect.hypervisor documents it). They share no code with the readers but base/bytes.h, and
 * write what no good program would as willingly.
 */
#ifndef HV_TESTS_MAKE_APPLIANCE_H
#define HV_TESTS_MAKE_APPLIANCE_H

#include <stddef.h>
#include <stdint.h>

/* Bytes that grow; free(data). */
struct bytes {
	uint8_t *data;
	size_t length, room;
};
void bytes_put(struct bytes *b, const void *data, size_t length);
void bytes_zero(struct bytes *b, size_t length);

/* A member with its header; type is '0' for a file, '2' for a symbolic link to target, '1' a hard link. */
void tar_add(struct bytes *tar, const char *name, const void *data, size_t length);
void tar_add_type(struct bytes *tar, const char *name, const void *data, size_t length, char type,
		  const char *target);
void tar_end(struct bytes *tar);

/* "SHA256(name)= hex\n" appended; algorithm is SHA1, SHA256 or SHA512. */
void manifest_add(struct bytes *manifest, const char *algorithm, const char *name, const void *data,
		  size_t length);

/* A key's place: 0, 0 is the root. */
struct vmcx_key {
	uint16_t table;
	uint32_t at;
};

struct vmcx_writer {
	struct bytes table[8]; /* key tables 1 to 8 */
	struct bytes file[4];  /* file objects */
	uint64_t file_at[4];
	unsigned current, tables, files;
	uint32_t pending; /* entries of the replay log */
	uint32_t version;
};

void vmcx_begin(struct vmcx_writer *w);
struct vmcx_key vmcx_node(struct vmcx_writer *w, struct vmcx_key parent, const char *name);
void vmcx_string(struct vmcx_writer *w, struct vmcx_key parent, const char *name, const char *value);
void vmcx_int(struct vmcx_writer *w, struct vmcx_key parent, const char *name, int64_t value);
void vmcx_bool(struct vmcx_writer *w, struct vmcx_key parent, const char *name, int value);
/* "configuration/settings/processors", its nodes made as needed. */
struct vmcx_key vmcx_path(struct vmcx_writer *w, const char *path);
struct bytes vmcx_end(struct vmcx_writer *w);

#endif
