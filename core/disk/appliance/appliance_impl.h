/*
 * Inside core/disk: what the kinds of appliances share. Each kind is one file that fills struct hv_appliance
 * by these; nothing here trusts what it is given. One thread.
 */
#ifndef HV_DISK_APPLIANCE_IMPL_H
#define HV_DISK_APPLIANCE_IMPL_H

#include "disk/appliance.h"

#define HV_APPLIANCE_TEXT_MAX   (8U << 20) /* bytes of a description file */
#define HV_APPLIANCE_KEEP_MAX   (8U << 20) /* bytes of all strings and tables of one appliance */
#define HV_APPLIANCE_VMS_MAX    64
#define HV_APPLIANCE_DRIVES_MAX 512 /* of a VM */
#define HV_APPLIANCE_NICS_MAX   64
#define HV_APPLIANCE_FILES_MAX  4096
#define HV_APPLIANCE_NOTES_MAX  1000

/* A machine while it is being read: the lists of the public struct, still growing. */
struct hv_appliance_machine {
	struct hv_appliance_vm vm;
	struct hv_appliance_drive *drive;
	struct hv_appliance_nic *nic;
	const char **other;
	unsigned others, drive_room, nic_room, other_room;
};

/* A line of the manifest: the file's digest as it should be. */
struct hv_appliance_digest {
	const char *algorithm, *name, *hex;
};

struct hv_appliance_block; /* of appliance_model.c's memory */

struct hv_appliance {
	struct hv_appliance_options options;
	const char *path, *kind;
	const char *folder; /* the tree that its files must lie in; resolved, without a slash at the end */
	int fd;             /* OVA: the archive */
	const char *archive_path;
	bool archive, manifest;
	const char *manifest_name;
	struct hv_appliance_machine *machine;
	struct hv_appliance_vm *vm; /* the public view of machine, made at the end */
	struct hv_appliance_file *file;
	struct hv_appliance_digest *digest;
	const char **note;
	unsigned machines, machine_room, files, file_room, digests, digest_room, notes, note_room;
	struct hv_appliance_block *memory;
	size_t kept; /* bytes of it */
};

/* --- memory: all of an appliance's goes at close, and never becomes more than HV_APPLIANCE_KEEP_MAX -------- */

/* Zeroed; NULL when there is no more. */
void *hv_appliance_alloc(struct hv_appliance *a, size_t size);
void hv_appliance_free_all(struct hv_appliance *a);
/* What to say once a->kept has passed the limit. */
int hv_appliance_too_big(const struct hv_appliance *a, struct hv_error *err);
/* A copy fit to be shown: control characters become '?', broken UTF-8 too. NULL stays NULL; NULL also when
 * memory is short, which the end of reading notices by a->kept. */
const char *hv_appliance_keep(struct hv_appliance *a, const char *text);
/* Byte for byte: a path. */
char *hv_appliance_copy(struct hv_appliance *a, const char *text, size_t length);
const char *hv_appliance_format(struct hv_appliance *a, const char *fmt, ...) HV_PRINTF(2, 3);
int hv_appliance_note(struct hv_appliance *a, const char *fmt, ...) HV_PRINTF(2, 3);

/* --- the description ---------------------------------------------------------------------------------------- */

/* Each adds an empty one; NULL when there are too many or memory is short (*err says which). The pointers are
 * good until the next of their kind is added. */
struct hv_appliance_machine *hv_appliance_add_machine(struct hv_appliance *a, struct hv_error *err);
struct hv_appliance_drive *hv_appliance_add_drive(struct hv_appliance *a, struct hv_appliance_machine *m,
						  struct hv_error *err);
struct hv_appliance_nic *hv_appliance_add_nic(struct hv_appliance *a, struct hv_appliance_machine *m,
					      struct hv_error *err);
struct hv_appliance_file *hv_appliance_add_file(struct hv_appliance *a, struct hv_error *err);
struct hv_appliance_digest *hv_appliance_add_digest(struct hv_appliance *a, struct hv_error *err);
int hv_appliance_add_other(struct hv_appliance *a, struct hv_appliance_machine *m, struct hv_error *err,
			   const char *fmt, ...) HV_PRINTF(4, 5);

/* "005056010203" or any of its spellings as "00:50:56:01:02:03"; NULL when it is none, or all zeros. */
const char *hv_appliance_mac(struct hv_appliance *a, const char *text);

/* Marks the drive: it won't be converted. */
void hv_appliance_trouble(struct hv_appliance *a, struct hv_appliance_drive *d, enum hv_drive_trouble trouble,
			  const char *fmt, ...) HV_PRINTF(4, 5);

/*
 * Where the file is that a description in `folder` (inside a->folder, or it) calls `name`: beside it by the
 * relative path; else, as a path of another host says nothing here, the one file of that base name in the
 * tree. Sets drive->path, or its trouble. Backslashes and drive letters are understood.
 */
int hv_appliance_find(struct hv_appliance *a, struct hv_appliance_drive *drive, const char *folder,
		      const char *name, struct hv_error *err);
/* The description in the folder of an exported Hyper-V machine: the one file in its "Virtual Machines". */
int hv_appliance_in_folder(const char *path, char *found, size_t size, struct hv_error *err);
/* The same for any file: 0 with *path (the appliance's memory), or *trouble and *path the sentence. */
int hv_appliance_find_file(struct hv_appliance *a, const char *folder, const char *name,
			   enum hv_drive_trouble *trouble, const char **path, struct hv_error *err);

/* A whole small file, with a zero byte behind it; free with free(). */
int hv_appliance_load(const char *path, size_t max, char **text, size_t *length, struct hv_error *err);
int hv_appliance_load_part(int fd, const char *path, uint64_t at, uint64_t length, size_t max, char **text,
			   struct hv_error *err);

/* --- keys: what VMX and Hyper-V's two forms are, a list of names with values ------------------------------ */

struct hv_key {
	char *name, *value;
};

struct hv_keys {
	struct hv_key *item;
	unsigned count, room;
	size_t bytes;
};

void hv_keys_free(struct hv_keys *k);
/* Both are copied. -E2BIG and a sentence when there are more than any real machine has. */
int hv_keys_add(struct hv_keys *k, const char *name, size_t name_length, const char *value,
		size_t value_length, struct hv_error *err);
/* By name, letters' case aside; equal names stay in the order in which they came. */
int hv_keys_sort(struct hv_keys *k, struct hv_error *err);
/* The first of that name, or NULL. k is sorted. */
const char *hv_keys_get(const struct hv_keys *k, const char *fmt, ...) HV_PRINTF(2, 3);
/* The index of the first whose name starts with prefix, and how many do. */
unsigned hv_keys_under(const struct hv_keys *k, const char *prefix, unsigned *count);
bool hv_keys_true(const char *value); /* "TRUE", "1", "yes"... */
/* A decimal number, false when it is none or above max. NULL is none. */
bool hv_keys_number(const char *value, uint64_t max, uint64_t *number);

/* --- XML: expat with a leash -------------------------------------------------------------------------------- */

#define HV_XML_DEPTH_MAX 256
#define HV_XML_NAME_MAX  128
#define HV_XML_TEXT_MAX  (64U << 10) /* of one element */

struct hv_xml {
	/*
	 * name and attributes ("name", "value", ..., NULL) are without their name spaces' prefixes. text is
	 * what stood directly in the element, blanks at its ends cut. A return other than 0 ends the parsing.
	 */
	int (*start)(void *ctx, unsigned depth, const char *name, const char **attributes,
		     struct hv_error *err);
	int (*end)(void *ctx, unsigned depth, const char *name, const char *text, struct hv_error *err);
	void *ctx;
};

/* path is for sentences. A document type is refused: with it go entities, and what can be done with them. */
int hv_xml_parse(const struct hv_xml *x, const char *path, const char *data, size_t length,
		 struct hv_error *err);
const char *hv_xml_attribute(const char **attributes, const char *name); /* NULL when it isn't there */

/* A drive that has parts, as one file: *fd is the caller's. */
int hv_appliance_unpack(struct hv_appliance *a, const struct hv_appliance_drive *d, int *fd,
			struct hv_error *err);

/* --- kinds ---------------------------------------------------------------------------------------------------- */

/* text is the whole file, with a zero byte behind it; folder is where it stands. */
int hv_ovf_read(struct hv_appliance *a, const char *path, const char *text, size_t length,
		struct hv_error *err);
int hv_vmx_read(struct hv_appliance *a, const char *path, const char *text, size_t length,
		struct hv_error *err);
int hv_hyperv_xml_read(struct hv_appliance *a, const char *path, const char *text, size_t length,
		       struct hv_error *err);
int hv_vmcx_read(struct hv_appliance *a, const char *path, const char *data, size_t length,
		 struct hv_error *err);
bool hv_vmcx_probe(const char *data, size_t length);
/* The tree of keys that both Hyper-V's forms hold, into a machine. */
int hv_hyperv_describe(struct hv_appliance *a, const char *path, struct hv_keys *keys, struct hv_error *err);
/* Lists the archive's members into a->file and reads its envelope. a->fd is open. */
int hv_ova_read(struct hv_appliance *a, struct hv_error *err);
/* A line each "SHA256(name)= hex". */
int hv_manifest_read(struct hv_appliance *a, const char *name, const char *text, size_t length,
		     struct hv_error *err);
/* Where an OVF's file is: a member, or a file beside it. */
struct hv_appliance_file *hv_appliance_file_named(struct hv_appliance *a, const char *name);

#endif
