/*
 * Exported Hyper-V machines: XML and VMCX, whose trees are the same, and the export's folders.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/bytes.h"
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
	mkdir(tmp_path(&t, "Virtual Machines"), 0700);
	mkdir(tmp_path(&t, "Virtual Hard Disks"), 0700);
	mkdir(tmp_path(&t, "Snapshots"), 0700);
	tmp_put(&t, "Virtual Hard Disks/Server.vhdx", "disk one", 8, 0);
	tmp_put(&t, "Virtual Hard Disks/data.avhdx", "disk two", 8, 0);
	tmp_put(&t, "Snapshots/1.vmcx", "", 0, 0);
}

static void end(void)
{
	hv_appliance_close(a);
	tmp_drop(&t);
}

TestSuite(hyperv, .init = begin, .fini = end, .timeout = 60);

static int open_path(const char *name, bool salvage)
{
	const struct hv_appliance_options options = {.salvage = salvage};
	char path[600];
	int rc;

	snprintf(path, sizeof(path), "%s", tmp_path(&t, name));
	rc = hv_appliance_open(path, &options, &a, &err);
	if (!rc)
		hv_appliance_info(a, &info);
	return rc;
}

/* One Hyper-V machine as keys and values, for both forms. */
#define SCSI "configuration/_11111111-2222-3333-4444-555555555555_"
#define NIC  "configuration/_99999999-2222-3333-4444-555555555555_"
static const struct {
	const char *node, *key, *type, *value;
} keys[] = {
	{"configuration/properties", "name", "string", "Server & friends"},
	{"configuration/properties", "subtype", "integer", "1"},
	{"configuration/settings/processors", "count", "integer", "4"},
	{"configuration/settings/memory/bank", "size", "integer", "2048"},
	{"configuration/settings/memory/bank", "dynamic_memory_enabled", "bool", "1"},
	{"configuration/settings/memory/bank", "limit", "integer", "8192"},
	{"configuration/_ac6b8dc1-3257-4a70-b1b2-a9c9215659ad_", "secure_boot_enabled", "bool", "1"},
	{"configuration/manifest/vdev001", "device", "string", "d422512d-2bf2-4752-809d-7b82b5fcb1b4"},
	{"configuration/manifest/vdev001", "instance", "string", "{11111111-2222-3333-4444-555555555555}"},
	{"configuration/manifest/vdev002", "device", "string", "736E6AA9-A3F8-49C0-9550-A963214D259A"},
	{"configuration/manifest/vdev002", "instance", "string", "77777777-2222-3333-4444-555555555555"},
	{SCSI, "ChannelInstanceGuid", "string", "{aa}"},
	{SCSI "/controller0/drive0", "pathname", "string",
	 "D:\\Export\\Server\\Virtual Hard Disks\\Server.vhdx"},
	{SCSI "/controller0/drive0", "type", "string", "VHD"},
	{SCSI "/controller0/drive1", "pathname", "string", "..\\Virtual Hard Disks\\data.avhdx"},
	{SCSI "/controller0/drive1", "type", "string", "VHD"},
	{SCSI "/controller0/drive2", "pathname", "string", ""},
	{SCSI "/controller0/drive2", "type", "string", "ISO"},
	{SCSI "/controller0/drive3", "pathname", "string", "\\\\.\\PhysicalDrive2"},
	{SCSI "/controller0/drive3", "type", "string", "VHD"},
	{NIC, "ChannelInstanceGuid", "string", "{bb}"},
	{NIC, "MacAddress", "string", "00155D010203"},
	{NIC "/Connection", "AltSwitchName", "string", "LAN"},
};

static void make_vmcx(const char *name, struct vmcx_writer *w)
{
	struct bytes out;

	for (unsigned i = 0; i < HV_ARRAY_SIZE(keys); i++) {
		struct vmcx_key node = vmcx_path(w, keys[i].node);

		if (!strcmp(keys[i].type, "integer"))
			vmcx_int(w, node, keys[i].key, atoll(keys[i].value));
		else if (!strcmp(keys[i].type, "bool"))
			vmcx_bool(w, node, keys[i].key, atoi(keys[i].value));
		else
			vmcx_string(w, node, keys[i].key, keys[i].value);
	}
	out = vmcx_end(w);
	tmp_put(&t, name, out.data, out.length, 0);
	free(out.data);
}

static void put_escaped(struct bytes *b, const char *text)
{
	for (; *text; text++)
		*text == '&' ? bytes_put(b, "&amp;", 5) : bytes_put(b, text, 1);
}

/* Elements are opened and closed anew for each key: a tree with the same paths. */
static void make_xml(const char *name, bool wide)
{
	struct bytes b = {0}, w = {0};
	const char *head = "<?xml version=\"1.0\" encoding=\"UTF-16\" standalone=\"yes\"?>\n<configuration>";

	bytes_put(&b, wide ? head : "<configuration>", strlen(wide ? head : "<configuration>"));
	for (unsigned i = 0; i < HV_ARRAY_SIZE(keys); i++) {
		char path[256], part[512], *save = NULL, *names[8];
		unsigned n = 0;

		snprintf(path, sizeof(path), "%s/%s", strchr(keys[i].node, '/') + 1, keys[i].key);
		for (char *p = strtok_r(path, "/", &save); p; p = strtok_r(NULL, "/", &save)) {
			names[n++] = p;
			snprintf(part, sizeof(part), "\n<%s type=\"%s\">", p, keys[i].type);
			bytes_put(&b, part, strlen(part));
		}
		put_escaped(&b, !strcmp(keys[i].type, "bool") ? "True" : keys[i].value);
		while (n > 0) {
			snprintf(part, sizeof(part), "</%s>", names[--n]);
			bytes_put(&b, part, strlen(part));
		}
	}
	bytes_put(&b, "</configuration>", 16);
	if (wide) {
		bytes_put(&w, "\xff\xfe", 2);
		for (size_t i = 0; i < b.length; i++) {
			bytes_put(&w, &b.data[i], 1);
			bytes_put(&w, "", 1);
		}
	}
	tmp_put(&t, name, wide ? w.data : b.data, wide ? w.length : b.length, 0);
	free(b.data);
	free(w.data);
}

static void check(const char *kind)
{
	const struct hv_appliance_vm *vm = &info.vm[0];

	cr_assert_str_eq(info.kind, kind);
	cr_assert_eq(info.vms, 1);
	cr_assert_str_eq(vm->name, "Server & friends");
	cr_assert_eq(vm->generation, 2);
	cr_assert_str_eq(vm->firmware, "efi");
	cr_assert(vm->secure_boot);
	cr_assert(vm->tpm);
	cr_assert_eq(vm->cpus, 4);
	cr_assert_eq(vm->memory, 2048ull << 20);
	cr_assert_eq(vm->snapshots, 1);
	cr_assert_not_null(strstr(vm->other[0], "8192 MiB"));
	cr_assert_eq(vm->drives, 4);
	cr_assert_str_eq(vm->drive[0].bus, "scsi");
	cr_assert_eq(vm->drive[0].trouble, HV_DRIVE_FINE, "%s", vm->drive[0].why);
	cr_assert_not_null(strstr(vm->drive[0].path, "Virtual Hard Disks/Server.vhdx"));
	cr_assert_str_eq(vm->drive[0].name, "Server");
	cr_assert_eq(vm->drive[1].slot, 1);
	cr_assert_not_null(strstr(vm->drive[1].path, "data.avhdx"));
	cr_assert_eq(vm->drive[2].kind, HV_DRIVE_CD);
	cr_assert_null(vm->drive[2].file);
	cr_assert_eq(vm->drive[3].trouble, HV_DRIVE_UNSUPPORTED);
	cr_assert_eq(vm->nics, 1);
	cr_assert_str_eq(vm->nic[0].mac, "00:15:5d:01:02:03");
	cr_assert_str_eq(vm->nic[0].network, "LAN");
}

Test(hyperv, a_vmcx_is_understood_from_the_export_s_folder)
{
	struct vmcx_writer w;

	vmcx_begin(&w);
	make_vmcx("Virtual Machines/G.vmcx", &w);
	cr_assert_eq(open_path(".", false), 0, "%s", err.text);
	check("vmcx");
}

Test(hyperv, a_long_value_in_an_object_of_its_own_is_read)
{
	struct vmcx_writer w;
	char name[1501];

	memset(name, 'n', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	vmcx_begin(&w);
	vmcx_string(&w, vmcx_path(&w, "configuration/properties"), "Name", name); /* letters' case aside */
	make_vmcx("Virtual Machines/G.vmcx", &w);
	cr_assert_eq(open_path("Virtual Machines/G.vmcx", false), 0, "%s", err.text);
	cr_assert_str_eq(info.vm[0].name, name);
}

Test(hyperv, an_xml_in_utf_16_or_utf_8_is_understood)
{
	make_xml("Virtual Machines/G.xml", true);
	cr_assert_eq(open_path(".", false), 0, "%s", err.text);
	check("hyperv-xml");
	hv_appliance_close(a);
	a = NULL;
	unlink(tmp_path(&t, "Virtual Machines/G.xml"));
	make_xml("Virtual Machines/H.xml", false);
	cr_assert_eq(open_path("Virtual Machines/H.xml", false), 0, "%s", err.text);
	check("hyperv-xml");
}

Test(hyperv, a_folder_with_two_machines_wants_to_know_which)
{
	make_xml("Virtual Machines/G.xml", true);
	make_xml("Virtual Machines/H.xml", true);
	cr_assert_eq(open_path(".", false), -EINVAL);
	cr_assert_eq(err.status, HV_EXIT_USAGE);
}

Test(hyperv, a_vmcx_with_a_log_to_replay_is_refused_unless_salvaged)
{
	struct vmcx_writer w;

	vmcx_begin(&w);
	w.pending = 3;
	make_vmcx("Virtual Machines/G.vmcx", &w);
	cr_assert_eq(open_path(".", false), -ENOTSUP);
	cr_assert_not_null(strstr(err.text, "3 changes"));
	cr_assert_eq(open_path(".", true), 0, "%s", err.text);
	check("vmcx");
	cr_assert_not_null(strstr(info.notes[0], "left out"));
}

Test(hyperv, a_vmcx_of_another_version_is_named)
{
	struct vmcx_writer w;

	vmcx_begin(&w);
	w.version = 0x300;
	make_vmcx("Virtual Machines/G.vmcx", &w);
	cr_assert_eq(open_path(".", false), -ENOTSUP);
	cr_assert_not_null(strstr(err.text, "0x300"));
}

/* A byte of the file at `at` becomes value: refused, or understood as before; never a crash. */
static void poke(uint64_t at, uint32_t value, unsigned size, const char *word)
{
	struct vmcx_writer w;
	uint8_t v[4];

	vmcx_begin(&w);
	make_vmcx("Virtual Machines/G.vmcx", &w);
	hv_put_le32(v, value);
	tmp_put(&t, "Virtual Machines/G.vmcx", v, size, at);
	cr_assert_eq(open_path("Virtual Machines/G.vmcx", false), -EBADMSG, "byte %llu: %s",
		     (unsigned long long)at, err.text);
	cr_assert_not_null(strstr(err.text, word), "'%s' is not in: %s", word, err.text);
}

Test(hyperv, damage_in_a_vmcx_is_named)
{
	poke(0x3000, 0, 4, "replay log");
	poke(0x2000, 0, 4, "object table");
	poke(0x2004, 0xffffffff, 4, "object table");
	poke(0x2008 + 5, 0xfffffff0, 4, "key table");
	poke(0x2008 + 13, 0xffffffff, 4, "key table");
	poke(0x2008, 1, 1, "object table"); /* the key table taken for one of objects */
	poke(0x400a, 99, 1, "type");
	poke(0x400a + 2, 0xffffff, 4, "fit");
	poke(0x400a + 2, 5, 4, "fit");
	poke(0x400a + 20, 0, 1, "name");
	poke(0x400a + 20, 255, 1, "name");
	poke(0x400a + 6, 1 | 10 << 16, 4, "parents do not end"); /* the root is its own parent */
}

Test(hyperv, a_vmcx_cut_anywhere_is_refused_or_read)
{
	struct vmcx_writer w;
	struct stat st;

	vmcx_begin(&w);
	make_vmcx("Virtual Machines/G.vmcx", &w);
	cr_assert_eq(stat(tmp_path(&t, "Virtual Machines/G.vmcx"), &st), 0);
	for (off_t size = st.st_size - 1; size >= 0; size -= 97) {
		int rc;

		cr_assert_eq(truncate(tmp_path(&t, "Virtual Machines/G.vmcx"), size), 0);
		rc = open_path("Virtual Machines/G.vmcx", false);
		if (rc == 0)
			check("vmcx"); /* what was cut held nothing */
		else
			cr_assert_neq(err.text[0], '\0');
		hv_appliance_close(a);
		a = NULL;
	}
}
