/*
 * The configuration: each option's good and bad values, files, and what only the whole can show.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "machine/config.h"

static struct hv_config c;
static struct hv_error err;

static void begin(void)
{
	hv_config_init(&c);
	memset(&err, 0, sizeof(err));
}

static void end(void)
{
	hv_config_free(&c);
}

TestSuite(config, .init = begin, .fini = end, .timeout = 20);

static void load(const char *text)
{
	char path[] = "/tmp/hv-config-XXXXXX";
	int fd = mkstemp(path);

	cr_assert(fd >= 0);
	cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	close(fd);
	hv_config_load(&c, path, &err);
	unlink(path);
}

Test(config, has_the_documented_defaults)
{
	cr_assert_eq(c.mem, 64u << 20);
	cr_assert_eq(c.cpus, 1);
	cr_assert_eq(c.load_addr, 0x1000);
	cr_assert_eq(c.serial.kind, HV_CHARDEV_STDIO);
	cr_assert_eq(c.irqchip, HV_IRQCHIP_AUTO);
	cr_assert(c.sandbox);
	cr_assert_not(c.paused);
}

Test(config, every_option_of_the_table_is_known)
{
	for (size_t i = 0; hv_config_options[i].key; i++) {
		memset(&err, 0, sizeof(err));
		hv_config_set(&c, hv_config_options[i].key, "x", &err);
		cr_assert_null(strstr(err.text, "there is no option"), "%s", err.text);
	}
	cr_assert_eq(hv_config_set(&c, "color", "red", &err), -EINVAL);
	cr_assert_eq(err.status, HV_EXIT_USAGE);
}

Test(config, takes_good_values)
{
	static const char *const good[][2] = {
		{"name", "a-b.c_9"},
		{"mem", "128M"},
		{"mem", "4096"},
		{"cpus", "64"},
		{"boot", "elf"},
		{"load-addr", "0x7c00"},
		{"initrd", "/m a b"},
		{"append", ""},
		{"serial", "unix:/tmp/x"},
		{"serial", "file:out"},
		{"console", "pty"},
		{"agent", "unix:/tmp/a"},
		{"agent", "unix:/tmp/a,name=org.example.1"},
		{"balloon", "on"},
		{"cpu", "baseline"},
		{"irqchip", "split"},
		{"acpi", "off"},
		{"gdb", "tcp:1234"},
		{"gdb", "unix:/tmp/g"},
		{"trace", "t.json"},
		{"timeout", "2.5"},
		{"sandbox", "off"},
		{"paused", "no"},
		{"disk", "d"},
		{"disk", "/a,,b,ro"},
		{"rng", "on"},
		{"vsock", "v"},
		{"vsock", "/tmp/a,,b,cid=4294967294"},
		{"disk", "d,format=qcow2,serial=a-1,ro"},
		{"net", "none"},
		{"net", "user,hostfwd=tcp::2222-:22,restrict=on"},
		{"net", "tap,ifname=hv0,mac=52:54:00:12:34:56"},
		{"kernel", "vmlinuz"},
		{"boot", "linux"},
	};

	for (size_t i = 0; i < HV_ARRAY_SIZE(good); i++)
		cr_assert_eq(hv_config_set(&c, good[i][0], good[i][1], &err), 0, "%s %s: %s", good[i][0],
			     good[i][1], err.text);
	cr_assert_eq(hv_config_set(&c, "stats", NULL, &err), 0);
	cr_assert(c.stats);
	cr_assert_str_eq(c.image, "vmlinuz");
	cr_assert_eq(c.timeout_ns, 2500000000u);
	cr_assert_not(c.sandbox);
}

Test(config, refuses_bad_values_with_a_sentence_and_changes_nothing)
{
	static const char *const bad[][2] = {
		{"name", ""},
		{"name", "a/b"},
		{"name", ".hidden"},
		{"name", "-x"},
		{"mem", "0"},
		{"mem", "12Q"},
		{"mem", "-1"},
		{"mem", "99999999999G"},
		{"cpus", "0"},
		{"cpus", "65"},
		{"cpus", "1e3"},
		{"boot", "bios"},
		{"serial", "tty"},
		{"serial", "unix:"},
		{"serial", "stdiox"},
		{"irqchip", "maybe"},
		{"gdb", "tcp:0"},
		{"gdb", "tcp:65536"},
		{"gdb", "1234"},
		{"gdb", "unix:"},
		{"timeout", "-1"},
		{"timeout", "soon"},
		{"sandbox", "perhaps"},
		{"load-addr", "0x100000000"},
		{"cpu", "pentium"},
		{"trace", ""},
		{"image", ""},
		{"console", "tty"},
		{"agent", "unix:"},
		{"agent", "none,name="},
		{"agent", "none,name=a b"},
		{"agent", "none,name=a/b"},
		{"agent", "none,name=01234567890123456789012345678901234567890123456789012345678901234"},
		{"balloon", "maybe"},
		{"vsock", ""},
		{"vsock", ",cid=3"},
		{"vsock", "v,cid=2"},
		{"vsock", "v,cid="},
		{"vsock", "v,cid=4294967295"},
		{"vsock", "v,cid=-3"},
		{"vsock", "v,cid=x"},
		{"vsock", "v,ro"},
		{"vsock", "v,"},
	};

	for (size_t i = 0; i < HV_ARRAY_SIZE(bad); i++) {
		memset(&err, 0, sizeof(err));
		cr_assert_lt(hv_config_set(&c, bad[i][0], bad[i][1], &err), 0, "%s %s", bad[i][0], bad[i][1]);
		cr_assert_neq(err.text[0], '\0');
		cr_assert_eq(err.status, HV_EXIT_USAGE, "%s", err.text);
	}
	cr_assert_eq(c.mem, 64u << 20);
	cr_assert_eq(c.cpus, 1);
	cr_assert_eq(c.name[0], '\0');
}

Test(config, an_option_that_needs_a_value_says_so)
{
	cr_assert_eq(hv_config_set(&c, "mem", NULL, &err), -EINVAL);
	cr_assert_not_null(strstr(err.text, "SIZE"));
}

Test(config, takes_sixteen_modules_and_no_more)
{
	for (int i = 0; i < HV_MODULES_MAX; i++)
		cr_assert_eq(hv_config_set(&c, "initrd", "m", &err), 0);
	cr_assert_eq(hv_config_set(&c, "initrd", "m", &err), -EINVAL);
	cr_assert_eq(c.initrd_count, HV_MODULES_MAX);
}

Test(config, a_disks_words_are_parted_at_single_commas)
{
	struct hv_disk_spec spec;

	cr_assert_eq(hv_disk_spec_parse(&spec, "/a,,b,format=raw,ro,serial=s,,1", &err), 0, "%s", err.text);
	cr_assert_str_eq(spec.path, "/a,b");
	cr_assert_str_eq(spec.format, "raw");
	cr_assert_str_eq(spec.serial, "s,1");
	cr_assert(spec.readonly);
	cr_assert_eq(hv_disk_spec_parse(&spec, "x,,", &err), 0);
	cr_assert_str_eq(spec.path, "x,");
	cr_assert_not(spec.readonly);
	cr_assert_str_eq(spec.format, "");
}

Test(config, there_are_at_most_two_networks_and_none_takes_them_back)
{
	cr_assert_eq(hv_config_set(&c, "net", "bridge", &err), -EINVAL);
	cr_assert_eq(hv_config_set(&c, "net", NULL, &err), -EINVAL);
	cr_assert_eq(c.net_count, 0);
	cr_assert_eq(hv_config_set(&c, "net", "tap,fd=9", &err), 0, "%s", err.text);
	cr_assert_eq(hv_config_set(&c, "net", "tap,fd=9", &err), -EINVAL);
	cr_assert(strstr(err.text, "given twice"), "%s", err.text);
	cr_assert_eq(hv_config_set(&c, "net", "user", &err), 0, "%s", err.text);
	cr_assert_eq(hv_config_set(&c, "net", "user", &err), -EINVAL);
	cr_assert_eq(c.net_count, 2);
	cr_assert_eq(hv_config_set(&c, "net", "none", &err), 0, "%s", err.text);
	cr_assert_eq(c.net_count, 0);
}

Test(config, a_disk_that_makes_no_sense_is_refused)
{
	static const char *const bad[] = {
		"",
		",ro",
		"d,",
		"d,rw",
		"d,ro,",
		"d,ro=1",
		"d,format=",
		"d,serial=",
		"d,serial=a b",
		"d,format=0123456789abcdef",
		"d,serial=012345678901234567890",
		"d,serial=0123456789012345678901234567890123456789012345678901234567890123456789",
	};

	for (size_t i = 0; i < HV_ARRAY_SIZE(bad); i++) {
		cr_assert_eq(hv_config_set(&c, "disk", bad[i], &err), -EINVAL, "'%s'", bad[i]);
		cr_assert_eq(err.status, HV_EXIT_USAGE);
	}
	cr_assert_eq(c.disk_count, 0);
	for (int i = 0; i < HV_DISKS_MAX; i++)
		cr_assert_eq(hv_config_set(&c, "disk", "d", &err), 0);
	cr_assert_eq(hv_config_set(&c, "disk", "d", &err), -EINVAL);
}

Test(config, a_file_has_keys_values_quotes_and_comments)
{
	load("# a VM\n\nname = box # its name\n  mem 32M\r\ncpus=2\nappend \"a \\\"b\\\" # c\\n\" # real "
	     "comment\n"
	     "paused\nstats no\nsandbox off\nimage guest.bin");
	cr_assert_str_empty(err.text);
	cr_assert_str_eq(c.name, "box");
	cr_assert_eq(c.mem, 32u << 20);
	cr_assert_eq(c.cpus, 2);
	cr_assert_str_eq(c.append, "a \"b\" # c\n");
	cr_assert(c.paused);
	cr_assert_not(c.stats);
	cr_assert_str_eq(c.image, "/tmp/guest.bin", "relative to the file's folder, not to ours");
}

Test(config, relative_paths_in_a_file_count_from_it_everywhere)
{
	load("agent unix:b.sock,name=x\nserial unix:a.sock\ngdb unix:g.sock\ntrace t.json\ninitrd 'm.bin one "
	     "two'\n");
	cr_assert_str_empty(err.text);
	cr_assert_str_eq(c.serial.path, "/tmp/a.sock");
	cr_assert_str_eq(c.agent.path, "/tmp/b.sock");
	cr_assert_str_eq(c.gdb, "unix:/tmp/g.sock");
	cr_assert_str_eq(c.trace, "/tmp/t.json");
	cr_assert_str_eq(c.initrd[0], "/tmp/m.bin one two");
}

Test(config, mistakes_in_a_file_name_file_and_line)
{
	static const char *const bad[] = {
		"\n\ncpus none\n", "\n\nname \"open\n", "\n\nname 'a' b\n", "\n\ncolour red\n",
		"\n\nmem\n",       "\n\nimage\n",       "\n\nmem = \n",
	};

	for (size_t i = 0; i < HV_ARRAY_SIZE(bad); i++) {
		memset(&err, 0, sizeof(err));
		load(bad[i]);
		cr_assert_eq(err.status, HV_EXIT_USAGE, "%zu", i);
		cr_assert_not_null(strstr(err.text, ":3: "), "%s", err.text);
	}
}

Test(config, a_file_that_is_none_is_refused)
{
	cr_assert_eq(hv_config_load(&c, "/nonexistent/x", &err), -ENOENT);
	cr_assert_eq(hv_config_load(&c, "/tmp", &err), -EINVAL);
	cr_assert_eq(hv_config_load(&c, "/dev/zero", &err), -EINVAL);
}

Test(config, what_is_written_is_read_back)
{
	char path[] = "/tmp/hv-config-XXXXXX";
	struct hv_config back;
	FILE *f = fdopen(mkstemp(path), "w");

	cr_assert_not_null(f);
	hv_config_set(&c, "image", "/a b/\"c\"", NULL);
	hv_config_set(&c, "name", "twin", NULL);
	hv_config_set(&c, "append", "x='1' \\ # \"q\"\nsecond", NULL);
	hv_config_set(&c, "initrd", "/m1 one two", NULL);
	hv_config_set(&c, "initrd", "/m2", NULL);
	hv_config_set(&c, "disk", "/d,,1,ro,serial=\"x\"", NULL);
	hv_config_set(&c, "disk", "/e", NULL);
	hv_config_set(&c, "net", "user,hostfwd=tcp::1-:2", NULL);
	hv_config_set(&c, "net", "tap,fd=9", NULL);
	hv_config_set(&c, "rng", NULL, NULL);
	hv_config_set(&c, "vsock", "/v,,1,cid=7", NULL);
	hv_config_set(&c, "serial", "unix:/s", NULL);
	hv_config_set(&c, "console", "pty", NULL);
	hv_config_set(&c, "agent", "unix:/a,b,name=agent.0", NULL);
	hv_config_set(&c, "balloon", NULL, NULL);
	hv_config_set(&c, "gdb", "unix:/g", NULL);
	hv_config_set(&c, "trace", "/t", NULL);
	hv_config_set(&c, "cpu", "baseline", NULL);
	hv_config_set(&c, "irqchip", "full", NULL);
	hv_config_set(&c, "acpi", "off", NULL);
	hv_config_set(&c, "timeout", "1.000000007", NULL);
	hv_config_set(&c, "paused", NULL, NULL);
	hv_config_set(&c, "sandbox", "off", NULL);
	hv_config_write(&c, f);
	fclose(f);
	hv_config_init(&back);
	cr_assert_eq(hv_config_load(&back, path, &err), 0, "%s", err.text);
	unlink(path);
	cr_assert_str_eq(back.image, c.image);
	cr_assert_str_eq(back.name, "twin");
	cr_assert_str_eq(back.append, c.append);
	cr_assert_eq(back.initrd_count, 2);
	cr_assert_str_eq(back.initrd[0], "/m1 one two");
	cr_assert_eq(back.disk_count, 2);
	cr_assert_str_eq(back.disks[0], "/d,,1,ro,serial=\"x\"");
	cr_assert_str_eq(back.disks[1], "/e");
	cr_assert_eq(back.net_count, 2);
	cr_assert_str_eq(back.nets[0], "user,hostfwd=tcp::1-:2");
	cr_assert_str_eq(back.nets[1], "tap,fd=9");
	cr_assert(back.rng);
	cr_assert_str_eq(back.vsock, "/v,,1,cid=7");
	cr_assert_str_eq(back.serial.path, "/s");
	cr_assert_eq(back.console.kind, HV_CHARDEV_PTY);
	cr_assert_eq(back.agent.kind, HV_CHARDEV_UNIX);
	cr_assert_str_eq(back.agent.path, "/a,b");
	cr_assert_str_eq(back.agent_name, "agent.0");
	cr_assert(back.balloon);
	cr_assert_str_eq(back.gdb, "unix:/g");
	cr_assert_str_eq(back.trace, "/t");
	cr_assert_str_eq(back.cpu_text, "baseline");
	cr_assert_eq(back.irqchip, HV_IRQCHIP_FULL);
	cr_assert(back.no_acpi);
	cr_assert_eq(back.timeout_ns, 1000000007u);
	cr_assert(back.paused);
	cr_assert_not(back.sandbox);
	hv_config_free(&back);
}

Test(config, standard_input_goes_to_one_line)
{
	hv_config_set(&c, "image", "/i", NULL);
	hv_config_set(&c, "console", "stdio", NULL);
	cr_assert_eq(hv_config_finish(&c, &err), 0, "%s", err.text);
	cr_assert_eq(c.serial.kind, HV_CHARDEV_NONE, "the console takes it");
	hv_config_set(&c, "serial", "file:/s", NULL);
	cr_assert_eq(hv_config_finish(&c, &err), 0);
	cr_assert_eq(c.serial.kind, HV_CHARDEV_FILE);
	hv_config_set(&c, "serial", "stdio", NULL);
	cr_assert_eq(hv_config_finish(&c, &err), -EINVAL);
	cr_assert(strstr(err.text, "only one of"), "%s", err.text);
	hv_config_set(&c, "serial", "none", NULL);
	hv_config_set(&c, "agent", "stdio", NULL);
	cr_assert_eq(hv_config_finish(&c, &err), -EINVAL);
	hv_config_set(&c, "console", "none", NULL);
	cr_assert_eq(hv_config_finish(&c, &err), 0, "%s", err.text);
}

Test(config, a_copy_shares_nothing)
{
	struct hv_config copy;

	hv_config_set(&c, "image", "/i", NULL);
	hv_config_set(&c, "initrd", "/m", NULL);
	hv_config_set(&c, "disk", "/d", NULL);
	hv_config_set(&c, "net", "user", NULL);
	hv_config_set(&c, "vsock", "/v", NULL);
	cr_assert_eq(hv_config_copy(&copy, &c, &err), 0);
	cr_assert_neq(copy.image, c.image);
	cr_assert_neq(copy.initrd[0], c.initrd[0]);
	cr_assert_neq(copy.disks[0], c.disks[0]);
	cr_assert_str_eq(copy.disks[0], "/d");
	cr_assert_neq(copy.nets[0], c.nets[0]);
	cr_assert_str_eq(copy.nets[0], "user");
	cr_assert_neq(copy.vsock, c.vsock);
	cr_assert_str_eq(copy.vsock, "/v");
	cr_assert_str_eq(copy.image, "/i");
	hv_config_free(&copy);
	cr_assert_str_eq(c.image, "/i");
}

Test(config, finishing_needs_an_image_and_invents_a_name)
{
	cr_assert_eq(hv_config_finish(&c, &err), -EINVAL);
	hv_config_set(&c, "image", "/x/my guest!.bin", NULL);
	cr_assert_eq(hv_config_finish(&c, &err), 0, "%s", err.text);
	cr_assert_eq(strncmp(c.name, "myguest-", 8), 0, "%s", c.name);
	cr_assert_eq(hv_name_check(c.name, &err), 0);
}

Test(config, an_invented_name_is_always_a_good_one)
{
	static const char *const images[] = {
		"/",
		"...",
		"-",
		"/x/..",
		"/x/---.elf",
		"/\xff\xfe",
		"\n",
		"/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};

	for (size_t i = 0; i < HV_ARRAY_SIZE(images); i++) {
		c.name[0] = '\0';
		cr_assert_eq(hv_config_set(&c, "image", images[i], &err), 0);
		cr_assert_eq(hv_config_finish(&c, &err), 0);
		cr_assert_eq(hv_name_check(c.name, &err), 0, "%s", c.name);
	}
}

Test(config, more_memory_than_the_host_has_is_refused)
{
	hv_config_set(&c, "image", "/x", NULL);
	cr_assert_eq(hv_config_set(&c, "mem", "30T", &err), 0);
	cr_assert_eq(hv_config_finish(&c, &err), -EINVAL);
	cr_assert_not_null(strstr(err.text, "this host's"), "%s", err.text);
}

Test(config, several_cpus_need_an_interrupt_controller)
{
	hv_config_set(&c, "image", "/x", NULL);
	hv_config_set(&c, "cpus", "2", NULL);
	hv_config_set(&c, "irqchip", "none", NULL);
	cr_assert_eq(hv_config_finish(&c, &err), -EINVAL);
	hv_config_set(&c, "irqchip", "full", NULL);
	cr_assert_eq(hv_config_finish(&c, &err), 0, "%s", err.text);
}

Test(config, a_vsocks_words_are_a_path_and_a_cid)
{
	struct hv_vsock_spec spec;
	char path[2 * HV_VSOCK_PATH_MAX];

	cr_assert_eq(hv_vsock_spec_parse(&spec, "/run/v", &err), 0);
	cr_assert_str_eq(spec.path, "/run/v");
	cr_assert_eq(spec.cid, 3);
	cr_assert_eq(hv_vsock_spec_parse(&spec, "a,,b,cid=0x10,cid=42", &err), 0);
	cr_assert_str_eq(spec.path, "a,b");
	cr_assert_eq(spec.cid, 42);
	memset(path, 'p', sizeof(path));
	path[HV_VSOCK_PATH_MAX] = '\0';
	cr_assert_eq(hv_vsock_spec_parse(&spec, path, &err), 0);
	path[HV_VSOCK_PATH_MAX] = 'p';
	path[HV_VSOCK_PATH_MAX + 1] = '\0';
	cr_assert_eq(hv_vsock_spec_parse(&spec, path, &err), -EINVAL);
	cr_assert(strstr(err.text, "vsock") && strstr(err.text, "longer"), "%s", err.text);
	cr_assert_eq(hv_config_set(&c, "vsock", "v", &err), 0);
	cr_assert_lt(hv_config_set(&c, "vsock", "w,cid=1", &err), 0);
	cr_assert(strstr(err.text, "from 3 on"), "%s", err.text);
	cr_assert_str_eq(c.vsock, "v", "what was wrong changes nothing");
}
