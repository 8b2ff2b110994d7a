/*
 * The devices of one port, and what all devices promise: they say what they are, refuse state that is cut,
 * too long or of another version, and bear any access.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "drive.h"

static struct power_log power;
static struct hv_device *all[10];

static void set_up(void)
{
	struct hv_power p = {power_log_request, &power};
	static const struct hv_fwcfg_item file = {.file = "f", .data = "x", .size = 1};
	int rc = 0;

	power = (struct power_log){0};
	rc |= hv_serial_create(NULL, (struct hv_irq_line){0}, &all[0], NULL);
	rc |= hv_debugcon_create(NULL, &all[1], NULL);
	rc |= hv_debugexit_create(p, &all[2], NULL);
	rc |= hv_i8042_create(p, &all[3], NULL);
	rc |= hv_rtc_create(64 << 20, &all[4], NULL);
	rc |= hv_fwcfg_create(2, 64 << 20, &file, 1, &all[5], NULL);
	rc |= hv_post_create(&all[6], NULL);
	rc |= hv_ioapic_create((struct hv_ioapic_host){0}, &all[7], NULL);
	rc |= hv_power_create(p, &all[8], NULL);
	rc |= hv_pvpanic_create(p, &all[9], NULL);
	cr_assert_eq(rc, 0);
}

static void tear_down(void)
{
	for (unsigned i = 0; i < HV_ARRAY_SIZE(all); i++)
		hv_device_destroy(all[i]);
	hv_device_destroy(NULL);
}

TestSuite(devices, .init = set_up, .fini = tear_down, .timeout = 60);

Test(devices, post_gives_back_the_last_code)
{
	out8(all[6], 0, 0x42);
	cr_assert_eq(in8(all[6], 0), 0x42);
	drive_reset(all[6]);
	cr_assert_eq(in8(all[6], 0), 0);
}

Test(devices, debugcon_can_be_found)
{
	cr_assert_eq(in8(all[1], 0), 0xe9);
	out8(all[1], 0, 'x'); /* nothing is plugged in */
}

Test(devices, debugcon_writes_to_its_chardev)
{
	char dir[] = "/tmp/hv-debugcon-XXXXXX", text[8] = "";
	struct hv_chardev_config config = {.kind = HV_CHARDEV_FILE};
	struct hv_chardev *chardev;
	struct hv_device *dev;
	struct hv_error err;
	FILE *f;

	cr_assert(mkdtemp(dir));
	snprintf(config.path, sizeof(config.path), "%s/out", dir);
	cr_assert_eq(hv_chardev_open(&config, NULL, &chardev, &err), 0, "%s", err.text);
	cr_assert_eq(hv_chardev_start(chardev, &err), 0, "%s", err.text);
	cr_assert_eq(hv_debugcon_create(chardev, &dev, &err), 0);
	out8(dev, 0, 'h');
	out8(dev, 0, 'i');
	hv_chardev_close(chardev);
	hv_device_destroy(dev);
	f = fopen(config.path, "r");
	cr_assert(f);
	cr_assert_eq(fread(text, 1, 7, f), 2);
	cr_assert_str_eq(text, "hi");
	fclose(f);
	unlink(config.path);
	rmdir(dir);
}

Test(devices, debugexit_asks_for_an_end_with_an_odd_status)
{
	static const struct {
		uint64_t value;
		int code;
	} writes[] = {{0, 1}, {1, 3}, {0x2a, 0x55}, {0x7f, 0xff}, {0x80, 1}, {0xffffffff, 0xff}};

	for (unsigned i = 0; i < HV_ARRAY_SIZE(writes); i++) {
		drive_write(all[2], 0, writes[i].value, 4);
		cr_assert_eq(power.count, i + 1);
		cr_assert_eq(power.what, HV_POWER_EXIT);
		cr_assert_eq(power.code, writes[i].code);
	}
	cr_assert_eq(drive_read(all[2], 0, 4), 0);
	cr_assert_eq(power.count, HV_ARRAY_SIZE(writes), "a read ends nothing");
}

Test(devices, power_turns_off_by_sleep_type_5_and_resets_by_its_value)
{
	struct hv_device *dev = all[8];

	out8(dev, 0, 5 << 2);
	cr_assert_eq(power.count, 0, "without SLP_EN it is only a type");
	cr_assert_eq(in8(dev, 0), 5 << 2);
	out8(dev, 0, 3 << 2 | 1 << 5);
	out8(dev, 1, 0x80);
	out8(dev, 2, 0x41);
	cr_assert_eq(power.count, 0, "no such state, wake status, another value");
	cr_assert_eq(in8(dev, 0), 3 << 2, "SLP_EN reads as 0");
	cr_assert_eq(in8(dev, 1), 0);
	cr_assert_eq(in8(dev, 2), 0);
	out8(dev, 0, 5 << 2 | 1 << 5);
	cr_assert_eq(power.count, 1);
	cr_assert_eq(power.what, HV_POWER_OFF);
	out8(dev, 2, 0x42);
	cr_assert_eq(power.count, 2);
	cr_assert_eq(power.what, HV_POWER_RESET);
	drive_refused(dev, 0, 0x20);
	out8(dev, 0, 5 << 2);
	drive_reset(dev);
	cr_assert_eq(in8(dev, 0), 0);
}

Test(devices, pvpanic_takes_a_panic_and_nothing_else)
{
	cr_assert_eq(in8(all[9], 0), 1);
	out8(all[9], 0, 0xfe);
	cr_assert_eq(power.count, 0);
	out8(all[9], 0, 1);
	cr_assert_eq(power.count, 1);
	cr_assert_eq(power.what, HV_POWER_PANIC);
}

Test(devices, every_device_describes_itself_in_any_room)
{
	for (unsigned i = 0; i < HV_ARRAY_SIZE(all); i++) {
		char line[256], tiny[4] = "###";

		pthread_mutex_lock(&all[i]->lock);
		all[i]->ops->describe(all[i], line, sizeof(line));
		all[i]->ops->describe(all[i], tiny, 2);
		pthread_mutex_unlock(&all[i]->lock);
		cr_assert_gt(strlen(line), 0, "%s", all[i]->ops->name);
		cr_assert_null(strchr(line, '\n'), "%s", all[i]->ops->name);
		cr_assert_eq(tiny[1], '\0', "%s", all[i]->ops->name);
		cr_assert_eq(tiny[2], '#', "%s", all[i]->ops->name);
	}
}

Test(devices, state_cut_short_too_long_or_of_another_version_is_refused)
{
	for (unsigned i = 0; i < HV_ARRAY_SIZE(all); i++) {
		struct hv_device *dev = all[i];
		struct hv_error err;
		struct hv_encoder e;

		drive_save(dev, &e);
		for (size_t cut = 0; cut < e.length; cut++)
			cr_assert_eq(drive_load(dev, e.data, cut, 1, &err), -EBADMSG, "%s, %zu bytes",
				     dev->ops->name, cut);
		cr_assert_eq(drive_load(dev, e.data, e.length, 2, &err), -EBADMSG, "%s", dev->ops->name);
		cr_assert(strstr(err.text, "version 2"), "%s", err.text);
		hv_enc_u8(&e, 0);
		cr_assert_eq(drive_load(dev, e.data, e.length, 1, &err), -EBADMSG, "%s", dev->ops->name);
		hv_enc_free(&e);
	}
}

Test(devices, a_fresh_devices_state_loads_and_saves_the_same)
{
	for (unsigned i = 0; i < HV_ARRAY_SIZE(all); i++)
		drive_move(all[i], all[i]);
}

Test(devices, any_access_is_borne_and_the_state_after_it_loads)
{
	uint32_t random = 1;

	for (unsigned i = 0; i < HV_ARRAY_SIZE(all); i++) {
		struct hv_device *dev = all[i];

		for (unsigned n = 0; n < 20000; n++) {
			unsigned size = 1u << (random >> 30);

			random = random * 1664525 + 1013904223;
			if (size > dev->ops->max_access)
				size = dev->ops->max_access;
			if (random >> 13 & 1)
				drive_write(dev, random >> 24 & 0x33, random >> 5 & 0xff, size);
			else
				drive_read(dev, random >> 24 & 0x33, size);
			if (n % 1000 == 0)
				drive_move(dev, dev);
		}
	}
}
