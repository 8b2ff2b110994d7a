/*
 * Appliances: virtual machines as other systems hand them over, and the disks in them. An OVA or OVF (DMTF
 * DSP0243), a VMware configuration (.vmx), an exported Hyper-V machine (XML until 2012 R2, binary .vmcx since
 * 2016) is read into one description: what the machine has, and where its disks' bytes are.
 *
 * Everything in an appliance is hostile. A file that it names must lie inside the appliance's own folder, or
 * be one of its archive's members; other places are the caller's to allow. Nothing is unpacked: a member of
 * an archive is read where it stands.
 *
 * Threads: one at a time, as for struct hv_disk's open; what hv_appliance_info gives may be read by any.
 */
#ifndef HV_DISK_APPLIANCE_H
#define HV_DISK_APPLIANCE_H

#include "disk/disk.h"

struct hv_appliance;

/* All strings are UTF-8 without control characters, as they are meant to be shown; NULL where not said. */

enum hv_drive_kind {
	HV_DRIVE_DISK,
	HV_DRIVE_CD,
	HV_DRIVE_FLOPPY,
};

/* Why a disk can't be converted; the drive's `why` is the sentence. */
enum hv_drive_trouble {
	HV_DRIVE_FINE,
	HV_DRIVE_MISSING,     /* there is no such file */
	HV_DRIVE_OUTSIDE,     /* the file is not inside the appliance, and not allowed */
	HV_DRIVE_UNSUPPORTED, /* known, and not read here: a host's physical disk, a compressed member */
};

/* A stretch of a file; several after another are the disk's own file. */
struct hv_appliance_part {
	const char *path;
	uint64_t at, length; /* bytes */
};

struct hv_appliance_drive {
	enum hv_drive_kind kind;
	const char *name; /* disks: of the converted file, without a suffix; safe, and no other's */
	const char
		*file; /* as the appliance names it; NULL: an empty drive, or with a capacity an empty disk */
	const char *path; /* disks: where it is; of a member, the archive's. NULL with trouble */
	uint64_t at;      /* of a member: its first byte in the archive; 0 */
	uint64_t length;  /* and how many; 0 when path is the disk's own file */
	const struct hv_appliance_part *part; /* when it is cut or compressed: what it is put together of */
	unsigned parts;
	bool gzip;
	uint64_t capacity; /* of the virtual disk as the appliance says it, bytes; 0 when it doesn't */
	uint64_t unit;     /* that number's precision, bytes */
	const char *bus;   /* "ide", "scsi", "sata", "nvme", "floppy", "usb" */
	const char *model; /* of its controller ("lsilogic") */
	unsigned controller, slot;
	bool nonpersistent; /* its changes were to be dropped at power-off */
	enum hv_drive_trouble trouble;
	const char *why;
};

struct hv_appliance_nic {
	const char *model;   /* "vmxnet3" */
	const char *mac;     /* "00:50:56:01:02:03"; NULL: to be made up */
	const char *network; /* the switch's or network's name there */
};

struct hv_appliance_vm {
	const char *name;
	const char *os;
	unsigned cpus;        /* 0: not said */
	uint64_t memory;      /* bytes; 0: not said */
	const char *firmware; /* "bios" or "efi" */
	unsigned generation;  /* Hyper-V: 1 or 2; 0 */
	bool secure_boot, tpm;
	unsigned snapshots; /* checkpoints that stand beside the current state */
	const struct hv_appliance_drive *drive;
	const struct hv_appliance_nic *nic;
	const char *const *other; /* devices and settings that no field has; the list ends with NULL */
	unsigned drives, nics;
};

enum hv_digest_state {
	HV_DIGEST_NONE,      /* the manifest does not list it */
	HV_DIGEST_UNCHECKED, /* listed; hv_appliance_verify has not been called */
	HV_DIGEST_GOOD,
	HV_DIGEST_WRONG,
	HV_DIGEST_UNKNOWN, /* listed with an algorithm that isn't known here */
	HV_DIGEST_ABSENT,  /* listed, and there is no such file */
};

/* A file that belongs to the appliance: OVA's members, or what an OVF and its manifest name. */
struct hv_appliance_file {
	const char *name;
	uint64_t at, length; /* in the archive; at is 0 for a file beside an .ovf */
	enum hv_digest_state digest;
	const char *algorithm; /* "SHA256" */
};

struct hv_appliance_info {
	const char *path;
	const char *kind; /* "ova", "ovf", "vmx", "hyperv-xml", "vmcx" */
	const struct hv_appliance_vm *vm;
	const struct hv_appliance_file *file;
	const char *const *notes; /* sentences on what is odd but not wrong; the list ends with NULL */
	unsigned vms, files;
	bool manifest; /* there is one, whether it was verified or not */
};

struct hv_appliance_options {
	const char *const *external; /* as in struct hv_disk_options; borrowed until close */
	unsigned externals;
	bool salvage; /* go on where the description can still be read; each concession is a note */
	/*
	 * A disk that is cut or compressed is put together when it is opened: in a file without a name in
	 * this folder (borrowed until close), which goes when the disk is closed. NULL: such a disk can't be
	 * opened. progress may be NULL; it gets packed bytes, and a return other than 0 stops (-ECANCELED).
	 */
	const char *spool;
	int (*progress)(void *ctx, uint64_t done, uint64_t size);
	void *ctx;
};

HV_API_BEGIN
/*
 * The folder tree that the files of the appliance at path must lie in, resolved: its own folder, or, for a
 * Hyper-V machine that stands in "Virtual Machines", the one above. Looks at names only, so that a caller can
 * lock itself in before the appliance is read. folder has `size` bytes, PATH_MAX are always enough.
 */
int hv_appliance_folder(const char *path, char *folder, size_t size, struct hv_error *err);

/*
 * Reads what path describes: a file of one of the kinds (found out by content), or the folder of an exported
 * Hyper-V machine. *appliance is the caller's, to be closed. A disk that is missing is no error here, but its
 * drive's trouble. Errors as for hv_disk_open.
 */
int hv_appliance_open(const char *path, const struct hv_appliance_options *options,
		      struct hv_appliance **appliance, struct hv_error *err);
void hv_appliance_close(struct hv_appliance *a); /* NULL is fine */
void hv_appliance_info(const struct hv_appliance *a, struct hv_appliance_info *info);

/*
 * Reads every file that the manifest lists and compares its digest. progress may be NULL; a return other than
 * 0 stops it (-ECANCELED). 0: all are right, or there is no manifest; -EBADMSG: *err names the first that is
 * not, and the files' `digest` tells of each.
 */
int hv_appliance_verify(struct hv_appliance *a, int (*progress)(void *ctx, uint64_t done, uint64_t size),
			void *ctx, struct hv_error *err);

/*
 * Opens one of the appliance's disks, its window and what may lie outside of it set; of `options` format,
 * alone, salvage and raw_devices count (NULL: none). A member that leads to other files is refused: an
 * archive has no neighbours. Adds a note when the disk's size is another one than the appliance says.
 */
int hv_appliance_disk_open(struct hv_appliance *a, const struct hv_appliance_drive *drive,
			   const struct hv_disk_options *options, struct hv_disk **disk,
			   struct hv_error *err);
HV_API_END

#endif
