/*
 * Appliances: what OVF, OVA and VMX describe, where their disks are, and what is refused in them.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "disk/appliance.h"
#include "make_appliance.h"
#include "tmp.h"

static struct tmp t;
static struct hv_error err;
static struct hv_appliance *a;
static struct hv_appliance_info info;

static void begin(void)
{
	tmp_make(&t);
	memset(&err, 0, sizeof(err));
	a = NULL;
}

static void end(void)
{
	hv_appliance_close(a);
	tmp_drop(&t);
}

TestSuite(appliance, .init = begin, .fini = end, .timeout = 60);

static int open_with(const char *name, const struct hv_appliance_options *options)
{
	char path[600];
	int rc;

	snprintf(path, sizeof(path), "%s", tmp_path(&t, name));
	rc = hv_appliance_open(path, options, &a, &err);
	if (!rc)
		hv_appliance_info(a, &info);
	return rc;
}

static int open_text(const char *name, const char *text)
{
	tmp_put(&t, name, text, strlen(text), 0);
	return open_with(name, NULL);
}

static void refused(int rc, const char *word)
{
	cr_assert_eq(rc, -EBADMSG, "%d: %s", rc, err.text);
	cr_assert_eq(err.status, HV_EXIT_UNSAFE);
	cr_assert_not_null(strstr(err.text, word), "'%s' is not in: %s", word, err.text);
}

static bool noted(const char *word)
{
	hv_appliance_info(a, &info);
	for (unsigned i = 0; info.notes[i]; i++)
		if (strstr(info.notes[i], word))
			return true;
	return false;
}

/* --- OVF --- */

#define HEAD                                                                                                 \
	"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"                                                       \
	"<Envelope xmlns=\"http://schemas.dmtf.org/ovf/envelope/1\" "                                        \
	"xmlns:ovf=\"http://schemas.dmtf.org/ovf/envelope/1\" "                                              \
	"xmlns:rasd=\"http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/"                                    \
	"CIM_ResourceAllocationSettingData\" "                                                               \
	"xmlns:vmw=\"http://www.vmware.com/schema/ovf\">"
#define TAIL           "</Envelope>"
#define ITEM(body)     "<Item>" body "</Item>"
#define F(name, value) "<rasd:" name ">" value "</rasd:" name ">"

/* As VMware writes them. */
#define VMWARE                                                                                               \
	HEAD "<References><File ovf:href=\"web-disk1.vmdk\" ovf:id=\"file1\" ovf:size=\"1024\"/>"            \
	     "<File ovf:href=\"data%20two.raw\" ovf:id=\"file2\" ovf:size=\"2048\"/></References>"           \
	     "<DiskSection><Info>disks</Info>"                                                               \
	     "<Disk ovf:capacity=\"1\" ovf:capacityAllocationUnits=\"byte * 2^10\" ovf:diskId=\"vmdisk1\" "  \
	     "ovf:fileRef=\"file1\" ovf:format=\"http://www.vmware.com/interfaces/specifications/"           \
	     "vmdk.html#streamOptimized\"/>"                                                                 \
	     "<Disk ovf:capacity=\"2048\" ovf:diskId=\"vmdisk2\" ovf:fileRef=\"file2\"/>"                    \
	     "<Disk ovf:capacity=\"3\" ovf:capacityAllocationUnits=\"GigaBytes\" ovf:diskId=\"vmdisk3\"/>"   \
	     "</DiskSection>"                                                                                \
	     "<VirtualSystem ovf:id=\"vm\"><Info>a vm</Info><Name>web</Name>"                                \
	     "<OperatingSystemSection ovf:id=\"96\" vmw:osType=\"debian10_64Guest\"><Info>os</Info>"         \
	     "<Description>Debian</Description></OperatingSystemSection>"                                    \
	     "<VirtualHardwareSection><Info>hw</Info>" ITEM(                                                 \
		     F("AllocationUnits", "hertz * 10^6") F("InstanceID", "1") F("ResourceType", "3") F(     \
			     "VirtualQuantity",                                                              \
			     "4")) ITEM(F("AllocationUnits", "byte * 2^20") F("InstanceID",                  \
									      "2") F("ResourceType", "4")    \
						F("VirtualQuantity",                                         \
						  "4096")) ITEM(F("Address", "0") F("InstanceID", "3")       \
									F("ResourceSubType", "VirtualSCSI")  \
										F("ResourceType", "6"))      \
		     ITEM(F("AddressOnParent", "0") F("HostResource", "ovf:/disk/vmdisk1") F(                \
			     "InstanceID", "8") F("Parent", "3")                                             \
				  F("ResourceType",                                                          \
				    "17")) ITEM(F("AddressOnParent",                                         \
						  "1") F("HostResource",                                     \
							 "/disk/vmdisk2") F("InstanceID", "9")               \
							F("Parent", "3") F("ResourceType", "17"))            \
			     ITEM(F("AddressOnParent", "2") F("HostResource", "ovf:/disk/vmdisk3") F(        \
				     "InstanceID", "10") F("Parent", "3")                                    \
					  F("ResourceType",                                                  \
					    "17")) ITEM(F("Connection", "VM Network") F("InstanceID", "11")  \
								F("ResourceSubType", "VmxNet3") F(           \
									"ResourceType",                      \
									"10")                                \
									F("Address", "00:50:56:AB:01:02"))   \
				     ITEM(F("InstanceID", "12") F("ResourceType", "15")                      \
						  F("AddressOnParent", "0"))                                 \
					     ITEM(F("ElementName", "sound card") F("InstanceID", "13") F(    \
						     "ResourceType",                                         \
						     "35")) "<vmw:Config ovf:required=\"false\" "            \
							    "vmw:key=\"firmware\" vmw:value=\"efi\"/>"       \
							    "<vmw:Config ovf:required=\"false\" "            \
							    "vmw:key=\"bootOptions.efiSecureBootEnabled\" "  \
							    "vmw:value=\"true\"/>"                           \
							    "</VirtualHardwareSection></VirtualSystem>" TAIL

static uint8_t one[1024], two[2048];

static void fill(void)
{
	for (unsigned i = 0; i < sizeof(one); i++)
		one[i] = (uint8_t)(i * 7 + 1);
	for (unsigned i = 0; i < sizeof(two); i++)
		two[i] = (uint8_t)(i * 11 + 3);
}

static void check_vmware(void)
{
	const struct hv_appliance_vm *vm = &info.vm[0];

	cr_assert_eq(info.vms, 1);
	cr_assert_str_eq(vm->name, "web");
	cr_assert_str_eq(vm->os, "debian10_64Guest");
	cr_assert_eq(vm->cpus, 4);
	cr_assert_eq(vm->memory, 4096ull << 20);
	cr_assert_str_eq(vm->firmware, "efi");
	cr_assert(vm->secure_boot);
	cr_assert_not(vm->tpm);
	cr_assert_eq(vm->drives, 4);
	cr_assert_str_eq(vm->drive[0].name, "web-disk1");
	cr_assert_str_eq(vm->drive[0].bus, "scsi");
	cr_assert_str_eq(vm->drive[0].model, "VirtualSCSI");
	cr_assert_eq(vm->drive[0].capacity, 1024);
	cr_assert_str_eq(vm->drive[1].name, "data_20two");
	cr_assert_eq(vm->drive[1].slot, 1);
	cr_assert_null(vm->drive[2].file);
	cr_assert_eq(vm->drive[2].capacity, 3ull << 30);
	cr_assert_eq(vm->drive[3].kind, HV_DRIVE_CD);
	cr_assert_eq(vm->nics, 1);
	cr_assert_str_eq(vm->nic[0].mac, "00:50:56:ab:01:02");
	cr_assert_str_eq(vm->nic[0].model, "VmxNet3");
	cr_assert_str_eq(vm->nic[0].network, "VM Network");
	cr_assert_str_eq(vm->other[0], "sound card");
	cr_assert_null(vm->other[1]);
}

static void check_bytes(const struct hv_appliance_drive *drive, const uint8_t *bytes, size_t length)
{
	const struct hv_disk_options raw = {.format = "raw"};
	struct hv_disk_io *io = hv_disk_io_new();
	struct hv_disk *d = NULL;
	uint8_t buf[4096];

	cr_assert_eq(drive->trouble, HV_DRIVE_FINE, "%s", drive->why);
	cr_assert_eq(hv_appliance_disk_open(a, drive, &raw, &d, &err), 0, "%s", err.text);
	cr_assert_eq(hv_disk_size(d), length);
	cr_assert_eq(hv_disk_read(d, io, buf, length, 0, &err), 0, "%s", err.text);
	cr_assert_arr_eq(buf, bytes, length);
	hv_disk_close(d);
	hv_disk_io_free(io);
}

Test(appliance, an_envelope_as_vmware_writes_it_is_understood)
{
	fill();
	tmp_put(&t, "web-disk1.vmdk", one, sizeof(one), 0);
	tmp_put(&t, "data two.raw", two, sizeof(two), 0);
	cr_assert_eq(open_text("web.ovf", VMWARE), 0, "%s", err.text);
	cr_assert_str_eq(info.kind, "ovf");
	check_vmware();
	check_bytes(&info.vm[0].drive[0], one, sizeof(one));
	check_bytes(&info.vm[0].drive[1], two, sizeof(two));
	cr_assert(noted("no manifest"));
}

Test(appliance, virtualbox_s_own_part_of_an_envelope_tells_firmware_and_tpm)
{
	cr_assert_eq(open_text("v.ovf", HEAD
			       "<VirtualSystem ovf:id=\"v\"><OperatingSystemSection ovf:id=\"1\">"
			       "<Description>Ubuntu_64</Description></OperatingSystemSection>"
			       "<VirtualHardwareSection>" ITEM(F("InstanceID", "4") F("ResourceType", "20") F(
				       "ResourceSubType", "AHCI")) ITEM(F("AllocationUnits",
									  "MegaBytes") F("ResourceType", "4")
										F("VirtualQuantity", "512"))
				       ITEM(F("Parent", "4") F("AddressOnParent", "2") F(
					       "ResourceType",
					       "15")) "</VirtualHardwareSection>"
						      "<vbox:Machine "
						      "xmlns:vbox=\"http://www.virtualbox.org/ovf/machine\">"
						      "<Snapshot><Hardware><Firmware "
						      "type=\"BIOS\"/></Hardware></Snapshot>"
						      "<Hardware><Firmware type=\"EFI64\"/>"
						      "<TrustedPlatformModule "
						      "type=\"v2_0\"/></Hardware></vbox:Machine>"
						      "</VirtualSystem>" TAIL),
		     0, "%s", err.text);
	cr_assert_str_eq(info.vm[0].firmware, "efi");
	cr_assert(info.vm[0].tpm);
	cr_assert_eq(info.vm[0].snapshots, 1);
	cr_assert_eq(info.vm[0].memory, 512u << 20);
	cr_assert_str_eq(info.vm[0].os, "Ubuntu_64");
	cr_assert_str_eq(info.vm[0].drive[0].bus, "sata");
	cr_assert_eq(info.vm[0].drive[0].slot, 2);
}

Test(appliance, of_several_configurations_only_the_default_one_s_items_count)
{
	cr_assert_eq(
		open_text("c.ovf", HEAD
			  "<DeploymentOptionSection><Configuration ovf:id=\"small\"/>"
			  "<Configuration ovf:id=\"big\" ovf:default=\"true\"/></DeploymentOptionSection>"
			  "<VirtualSystem ovf:id=\"v\"><VirtualHardwareSection>"
			  "<Item ovf:configuration=\"small\">" F("ResourceType", "3")
				  F("VirtualQuantity",
				    "1") "</Item>"
					 "<Item ovf:configuration=\"medium big\">" F("ResourceType", "3")
						 F("VirtualQuantity",
						   "8") "</Item>"
							"<Item ovf:bound=\"max\">" F("ResourceType", "3")
								F("VirtualQuantity",
								  "64") "</Item></VirtualHardwareSection></"
									"VirtualSystem>" TAIL),
		0, "%s", err.text);
	cr_assert_eq(info.vm[0].cpus, 8);
}

Test(appliance, an_entity_bomb_is_refused_before_it_goes_off)
{
	refused(open_text("b.ovf", "<?xml version=\"1.0\"?><!DOCTYPE Envelope [<!ENTITY a \"aaaaaaaaaa\">"
				   "<!ENTITY b \"&a;&a;&a;&a;&a;&a;&a;&a;\">]><Envelope>&b;</Envelope>"),
		"DOCTYPE");
}

Test(appliance, elements_that_are_nested_without_end_are_refused)
{
	struct bytes b = {0};

	bytes_put(&b, "<Envelope>", 10);
	for (unsigned i = 0; i < 300; i++)
		bytes_put(&b, "<a>", 3);
	bytes_put(&b, "", 1);
	refused(open_text("n.ovf", (char *)b.data), "nested");
	free(b.data);
}

Test(appliance, a_cut_envelope_is_refused_with_its_line)
{
	refused(open_text("cut.ovf", HEAD "<References>\n\n<File"), "cut.ovf:");
}

Test(appliance, a_capacity_beyond_all_numbers_is_refused)
{
	refused(open_text("g.ovf", HEAD "<References><File ovf:id=\"f\" ovf:href=\"x\"/></References>"
					"<DiskSection><Disk ovf:diskId=\"d\" ovf:fileRef=\"f\" "
					"ovf:capacity=\"18446744073709551615\" "
					"ovf:capacityAllocationUnits=\"byte * 2^30\"/></DiskSection>"
					"<VirtualSystem ovf:id=\"v\"/>" TAIL),
		"capacity");
}

Test(appliance, references_to_nothing_and_out_of_the_folder_are_troubles_of_their_drives)
{
	static const struct {
		const char *href;
		enum hv_drive_trouble trouble;
		const char *word;
	} cases[] = {
		{"gone.vmdk", HV_DRIVE_MISSING, "missing"},
		{"/etc/passwd", HV_DRIVE_OUTSIDE, "outside"},
		{"../../../../../../../../etc/passwd", HV_DRIVE_OUTSIDE, "outside"},
		{"link.raw", HV_DRIVE_OUTSIDE, "outside"},
		{"http://example.org/d.vmdk", HV_DRIVE_UNSUPPORTED, "another host"},
	};

	cr_assert_eq(symlink("/etc/passwd", tmp_path(&t, "link.raw")), 0);
	for (unsigned i = 0; i < HV_ARRAY_SIZE(cases); i++) {
		char text[2048];

		snprintf(text, sizeof(text),
			 HEAD "<References><File ovf:id=\"f\" ovf:href=\"%s\"/></References><DiskSection>"
			      "<Disk ovf:diskId=\"d\" ovf:fileRef=\"f\"/></DiskSection>"
			      "<VirtualSystem ovf:id=\"v\"/>" TAIL,
			 cases[i].href);
		unlink(tmp_path(&t, "r.ovf"));
		cr_assert_eq(open_text("r.ovf", text), 0, "%s", err.text);
		cr_assert_eq(info.vm[0].drive[0].trouble, cases[i].trouble, "%s: %s", cases[i].href,
			     info.vm[0].drive[0].why);
		cr_assert_not_null(strstr(info.vm[0].drive[0].why, cases[i].word), "%s",
				   info.vm[0].drive[0].why);
		cr_assert_null(info.vm[0].drive[0].path);
		hv_appliance_close(a);
		a = NULL;
	}
}

Test(appliance, what_is_stored_in_a_way_that_is_not_read_is_named)
{
	static const char *const cases[][3] = {
		{"ovf:chunkSize=\"x\"", "", "pieces"},
		{"ovf:compression=\"bzip2\"", "", "compressed"},
		{"", "ovf:parentRef=\"x\"", "changes"},
	};

	for (unsigned i = 0; i < HV_ARRAY_SIZE(cases); i++) {
		char text[2048];

		snprintf(text, sizeof(text),
			 HEAD
			 "<References><File ovf:id=\"f\" ovf:href=\"d.raw\" %s/></References><DiskSection>"
			 "<Disk ovf:diskId=\"d\" ovf:fileRef=\"f\" %s/></DiskSection>"
			 "<VirtualSystem ovf:id=\"v\"/>" TAIL,
			 cases[i][0], cases[i][1]);
		tmp_put(&t, "d.raw", one, sizeof(one), 0);
		unlink(tmp_path(&t, "p.ovf"));
		cr_assert_eq(open_text("p.ovf", text), 0, "%s", err.text);
		cr_assert_eq(info.vm[0].drive[0].trouble, HV_DRIVE_UNSUPPORTED);
		cr_assert_not_null(strstr(info.vm[0].drive[0].why, cases[i][2]), "%s",
				   info.vm[0].drive[0].why);
		hv_appliance_close(a);
		a = NULL;
	}
}

Test(appliance, an_allowed_file_outside_is_read)
{
	char other[300], text[2048];
	const char *external[1] = {other};
	const struct hv_appliance_options options = {.external = external, .externals = 1};

	fill();
	cr_assert_eq(mkdir(tmp_path(&t, "in"), 0700), 0);
	tmp_put(&t, "out.raw", one, sizeof(one), 0);
	snprintf(other, sizeof(other), "%s/out.raw", t.dir);
	snprintf(text, sizeof(text),
		 HEAD "<References><File ovf:id=\"f\" ovf:href=\"../out.raw\"/></References><DiskSection>"
		      "<Disk ovf:diskId=\"d\" ovf:fileRef=\"f\"/></DiskSection>"
		      "<VirtualSystem ovf:id=\"v\"/>" TAIL);
	tmp_put(&t, "in/x.ovf", text, strlen(text), 0);
	cr_assert_eq(open_with("in/x.ovf", &options), 0, "%s", err.text);
	check_bytes(&info.vm[0].drive[0], one, sizeof(one));
}

Test(appliance, a_size_that_disagrees_is_told_when_the_disk_is_opened)
{
	struct hv_disk *d = NULL;

	tmp_put(&t, "d.raw", one, sizeof(one), 0);
	cr_assert_eq(open_text("s.ovf",
			       HEAD "<References><File ovf:id=\"f\" ovf:href=\"d.raw\"/></References>"
				    "<DiskSection><Disk ovf:diskId=\"d\" ovf:fileRef=\"f\" "
				    "ovf:capacity=\"4096\"/></DiskSection>"
				    "<VirtualSystem ovf:id=\"v\"/>" TAIL),
		     0, "%s", err.text);
	cr_assert_eq(hv_appliance_disk_open(a, &info.vm[0].drive[0], NULL, &d, &err), 0, "%s", err.text);
	hv_disk_close(d);
	cr_assert(noted("4096"));
	cr_assert(noted("no machine of the envelope has the disk"));
}

Test(appliance, a_disk_whose_header_is_lost_is_not_taken_for_a_raw_one)
{
	struct hv_disk *d = NULL;

	fill();
	tmp_put(&t, "web-disk1.vmdk", one, sizeof(one), 0);
	tmp_put(&t, "data two.raw", two, sizeof(two), 0);
	cr_assert_eq(open_text("web.ovf", VMWARE), 0, "%s", err.text);
	refused(hv_appliance_disk_open(a, &info.vm[0].drive[0], NULL, &d, &err), "its name says vmdk");
	cr_assert_null(d);
	cr_assert_eq(hv_appliance_disk_open(a, &info.vm[0].drive[1], NULL, &d, &err), 0, "%s", err.text);
	hv_disk_close(d);
}

/* --- OVA --- */

static void put_tar(struct bytes *tar)
{
	tar_end(tar);
	tmp_put(&t, "a.ova", tar->data, tar->length, 0);
	free(tar->data);
}

/* The appliance above with a manifest whose digest of the first disk is of `as`. */
static void make_ova(const char *algorithm, const void *as, size_t length)
{
	struct bytes tar = {0}, mf = {0};

	fill();
	manifest_add(&mf, algorithm, "web.ovf", VMWARE, strlen(VMWARE));
	manifest_add(&mf, algorithm, "web-disk1.vmdk", as, length);
	tar_add(&tar, "web.ovf", VMWARE, strlen(VMWARE));
	tar_add(&tar, "web.mf", mf.data, mf.length);
	tar_add(&tar, "web-disk1.vmdk", one, sizeof(one));
	tar_add(&tar, "data two.raw", two, sizeof(two));
	free(mf.data);
	put_tar(&tar);
}

Test(appliance, an_ova_s_disks_are_read_where_they_stand_and_its_digests_are_right)
{
	static const char *const algorithms[] = {"SHA1", "SHA256", "SHA512"};

	for (unsigned i = 0; i < HV_ARRAY_SIZE(algorithms); i++) {
		make_ova(algorithms[i], one, sizeof(one));
		cr_assert_eq(open_with("a.ova", NULL), 0, "%s", err.text);
		cr_assert_str_eq(info.kind, "ova");
		check_vmware();
		check_bytes(&info.vm[0].drive[0], one, sizeof(one));
		check_bytes(&info.vm[0].drive[1], two, sizeof(two));
		cr_assert_eq(hv_appliance_verify(a, NULL, NULL, &err), 0, "%s", err.text);
		hv_appliance_info(a, &info);
		cr_assert_eq(info.file[0].digest, HV_DIGEST_GOOD);
		cr_assert_eq(info.file[2].digest, HV_DIGEST_GOOD);
		cr_assert(noted("no digest of data two.raw"));
		hv_appliance_close(a);
		a = NULL;
		unlink(tmp_path(&t, "a.ova"));
	}
}

Test(appliance, a_wrong_digest_is_damage_and_names_the_member)
{
	make_ova("SHA256", two, sizeof(two));
	cr_assert_eq(open_with("a.ova", NULL), 0, "%s", err.text);
	refused(hv_appliance_verify(a, NULL, NULL, &err), "web-disk1.vmdk");
	hv_appliance_info(a, &info);
	cr_assert_eq(info.file[2].digest, HV_DIGEST_WRONG);
}

Test(appliance, a_manifest_beside_an_envelope_is_checked_too)
{
	struct bytes mf = {0};

	fill();
	tmp_put(&t, "web-disk1.vmdk", one, sizeof(one), 0);
	manifest_add(&mf, "SHA256", "web.ovf", VMWARE, strlen(VMWARE));
	manifest_add(&mf, "SHA256", "web-disk1.vmdk", one, sizeof(one));
	manifest_add(&mf, "SHA256", "gone.nvram", one, sizeof(one));
	tmp_put(&t, "web.mf", mf.data, mf.length, 0);
	free(mf.data);
	cr_assert_eq(open_text("web.ovf", VMWARE), 0, "%s", err.text);
	refused(hv_appliance_verify(a, NULL, NULL, &err), "gone.nvram");
	hv_appliance_info(a, &info);
	cr_assert_eq(info.file[0].digest, HV_DIGEST_GOOD);
}

Test(appliance, archives_made_to_deceive_are_refused)
{
	static const struct {
		const char *name;
		char type;
		const char *word;
	} cases[] = {
		{"../evil.raw", '0', "leads out"},  {"/etc/cron.d/evil", '0', "leads out"},
		{"x/../../evil", '0', "leads out"}, {"..\\evil", '0', "leads out"},
		{"evil\033[2J", '0', "control"},    {"link", '2', "plain file"},
		{"hard", '1', "plain file"},        {"folder/", '5', "plain file"},
		{"pipe", '6', "plain file"},        {"web-disk1.vmdk", '0', "twice"},
		{"./web-disk1.vmdk", '0', "twice"}, {"second.ovf", '0', "exactly one"},
	};

	fill();
	for (unsigned i = 0; i < HV_ARRAY_SIZE(cases); i++) {
		struct bytes tar = {0};

		tar_add(&tar, "web.ovf", VMWARE, strlen(VMWARE));
		tar_add(&tar, "web-disk1.vmdk", one, sizeof(one));
		tar_add_type(&tar, cases[i].name, "", 0, cases[i].type, "/etc/passwd");
		put_tar(&tar);
		refused(open_with("a.ova", NULL), cases[i].word);
		unlink(tmp_path(&t, "a.ova"));
	}
}

Test(appliance, an_ova_cut_anywhere_is_refused_or_its_last_disk_missing)
{
	struct stat st;

	make_ova("SHA1", one, sizeof(one));
	cr_assert_eq(stat(tmp_path(&t, "a.ova"), &st), 0);
	for (off_t size = st.st_size - 1024 - 512; size > 0; size -= 512) {
		int rc;

		cr_assert_eq(truncate(tmp_path(&t, "a.ova"), size), 0);
		rc = open_with("a.ova", NULL);
		if (rc == 0)
			cr_assert_neq(info.vm[0].drive[1].trouble, HV_DRIVE_FINE, "cut to %ld", (long)size);
		else
			cr_assert_eq(rc, -EBADMSG, "%s", err.text);
		hv_appliance_close(a);
		a = NULL;
	}
}

Test(appliance, a_compressed_archive_is_named_as_such)
{
	tmp_put(&t, "z.ova", "\x1f\x8b\x08", 3, 0);
	cr_assert_eq(open_with("z.ova", NULL), -ENOTSUP);
	cr_assert_not_null(strstr(err.text, "unpack"));
}

/* --- VMX --- */

#define VMX                                                                                                  \
	"#!/usr/bin/vmware\n.encoding = \"windows-1252\"\nconfig.version = \"8\"\nvirtualHW.version = "      \
	"\"14\"\r\n"                                                                                         \
	"displayName = \"Caf\xe9 |22one|22\"\nguestOS = \"debian10-64\"\nmemsize = \"2048\"\n"               \
	"numvcpus = \"2\"\nfirmware = \"efi\"\nuefi.secureBoot.enabled = \"TRUE\"\nvtpm.present = "          \
	"\"TRUE\"\n"                                                                                         \
	"scsi0.present = \"TRUE\"\nscsi0.virtualDev = \"pvscsi\"\nscsi0:0.present = \"TRUE\"\n"              \
	"SCSI0:0.fileName = \"disk-000002.raw\"\nscsi0:0.deviceType = \"scsi-hardDisk\"\n"                   \
	"scsi0:1.present = \"FALSE\"\nscsi0:1.fileName = \"off.vmdk\"\n"                                     \
	"scsi1:0.present = \"TRUE\"\nscsi1:0.fileName = \"no-controller.vmdk\"\n"                            \
	"sata0.present = \"TRUE\"\nsata0:3.present = \"TRUE\"\n"                                             \
	"sata0:3.fileName = \"D:\\VMs\\caf\xe9\\second.raw\"\n"                                              \
	"ide1:0.present = \"TRUE\"\nide1:0.deviceType = \"cdrom-image\"\nide1:0.fileName = \"x.iso\"\n"      \
	"ide0:0.present = \"TRUE\"\nide0:0.deviceType = \"rawDisk\"\nide0:0.fileName = \"p.vmdk\"\n"         \
	"ethernet0.present = \"TRUE\"\nethernet0.virtualDev = \"vmxnet3\"\n"                                 \
	"ethernet0.generatedAddress = \"00:0c:29:01:02:03\"\nethernet0.networkName = \"LAN\"\n"              \
	"ethernet1.present = \"FALSE\"\nsound.present = \"TRUE\"\n"

Test(appliance, a_vmx_is_understood_and_names_its_current_disks)
{
	const struct hv_appliance_vm *vm;
	const char vmsd[] = ".encoding = \"UTF-8\"\nsnapshot.numSnapshots = \"2\"\n";

	fill();
	tmp_put(&t, "disk-000002.raw", one, sizeof(one), 0);
	cr_assert_eq(mkdir(tmp_path(&t, "sub"), 0700), 0);
	tmp_put(&t, "sub/SECOND.raw", two, sizeof(two), 0);
	tmp_put(&t, "m.vmsd", vmsd, strlen(vmsd), 0);
	cr_assert_eq(open_text("m.vmx", VMX), 0, "%s", err.text);
	vm = &info.vm[0];
	cr_assert_str_eq(info.kind, "vmx");
	cr_assert_str_eq(vm->name, "Caf\xc3\xa9 \"one\"");
	cr_assert_eq(vm->cpus, 2);
	cr_assert_eq(vm->memory, 2048u << 20);
	cr_assert_str_eq(vm->firmware, "efi");
	cr_assert(vm->secure_boot && vm->tpm);
	cr_assert_eq(vm->snapshots, 2);
	cr_assert_eq(vm->drives, 4);
	cr_assert_eq(vm->drive[0].trouble, HV_DRIVE_UNSUPPORTED);
	cr_assert_eq(vm->drive[1].kind, HV_DRIVE_CD);
	check_bytes(&vm->drive[2], one, sizeof(one));
	cr_assert_str_eq(vm->drive[2].model, "pvscsi");
	check_bytes(&vm->drive[3], two, sizeof(two));
	cr_assert_str_eq(vm->drive[3].name, "second");
	cr_assert_eq(vm->drive[3].slot, 3);
	cr_assert_eq(vm->nics, 1);
	cr_assert_str_eq(vm->nic[0].mac, "00:0c:29:01:02:03");
	cr_assert_str_eq(vm->other[0], "sound card");
}

Test(appliance, a_vmx_with_a_key_twice_or_no_form_is_refused)
{
	refused(open_text("a.vmx",
			  "displayName = \"a\"\nscsi0:0.fileName = \"a\"\nscsi0:0.filename = \"b\"\n"),
		"twice");
	refused(open_text("b.vmx", "displayName = \"a\"\nno form here\n"), "b.vmx:2");
	refused(open_text("c.vmx", "displayName = \"a\n"), "quote");
	cr_assert_eq(open_text("d.vmx", "x = \"1\"\n"), -EINVAL);
	cr_assert_eq(open_text("e.vmx", "displayName = \"a\"\nencryption.keySafe = \"x\"\n"), -ENOTSUP);
}

Test(appliance, names_of_converted_disks_are_safe_and_no_two_are_alike)
{
	cr_assert_eq(open_text("n.vmx", "displayName = \"n\"\n"
					"ide0:0.present = \"TRUE\"\nide0:0.fileName = \"a/disk.vmdk\"\n"
					"ide0:1.present = \"TRUE\"\nide0:1.fileName = \"b/DISK.vmdk\"\n"
					"ide1:0.present = \"TRUE\"\nide1:0.fileName = \"..\"\n"
					"ide1:1.present = \"TRUE\"\nide1:1.fileName = \"-x $(y); z.vmdk\"\n"),
		     0, "%s", err.text);
	cr_assert_str_eq(info.vm[0].drive[0].name, "disk");
	cr_assert_str_eq(info.vm[0].drive[1].name, "DISK-2");
	cr_assert_str_eq(info.vm[0].drive[2].name, "disk-3");
	cr_assert_str_eq(info.vm[0].drive[3].name, "x_y_z");
}

Test(appliance, two_files_of_one_name_are_not_guessed_between)
{
	cr_assert_eq(mkdir(tmp_path(&t, "a"), 0700), 0);
	cr_assert_eq(mkdir(tmp_path(&t, "b"), 0700), 0);
	tmp_put(&t, "a/d.raw", one, sizeof(one), 0);
	tmp_put(&t, "b/d.raw", two, sizeof(two), 0);
	cr_assert_eq(open_text("g.vmx", "displayName = \"g\"\nide0:0.present = \"TRUE\"\n"
					"ide0:0.fileName = \"C:\\d.raw\"\n"),
		     0, "%s", err.text);
	cr_assert_eq(info.vm[0].drive[0].trouble, HV_DRIVE_MISSING);
	cr_assert_not_null(strstr(info.vm[0].drive[0].why, "2 files"));
}

Test(appliance, what_is_no_appliance_is_said_so)
{
	cr_assert_eq(open_text("x.xml", "<html/>"), -EINVAL);
	tmp_put(&t, "zero", one, sizeof(one), 0);
	cr_assert_eq(open_with("zero", NULL), -EINVAL);
	cr_assert_eq(open_with("nothing", NULL), -ENOENT);
	cr_assert_eq(mkdir(tmp_path(&t, "empty"), 0700), 0);
	cr_assert_eq(open_with("empty", NULL), -ENOENT);
}
