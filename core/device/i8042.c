/*
 * The i8042, a PC's keyboard controller, with nothing plugged in: so much of it that a guest finds it, is
 * told that it works, sees no keyboard and no second port, and can reset the machine. It also answers at port
 * 0x92, which does two of the controller's odd jobs faster. It may call the machine's power request.
 *
 * Rules: IBM PS/2 Hardware Interface Technical Reference, keyboard and auxiliary device controller; for port
 * 0x92 the same book's system control port A. Linux' drivers/input/serio/i8042.c is the most demanding guest.
 *
 * A20, the gate that once made addresses wrap at 1 MiB, reads back as written and moves nothing: KVM has no
 * such gate, and every guest since 1990 wants it open.
 */
#include <stdio.h>
#include <stdlib.h>

#include "device/devices.h"

enum { PORT_DATA = 0x00, PORT_COMMAND = 0x04, PORT_FAST = 0x32 }; /* offsets from 0x60 */

enum { /* status, read at the command port */
       STATUS_OUTPUT_FULL = 0x01,
       STATUS_SYSTEM = 0x04,
       STATUS_COMMAND = 0x08,  /* the last write went to the command port */
       STATUS_UNLOCKED = 0x10, /* the key in the front panel's lock */
};

enum { /* the configuration byte: byte 0 of the controller's RAM */
       CONFIG_SYSTEM = 0x04,
       CONFIG_KEYBOARD_OFF = 0x10,
       CONFIG_AUX_OFF = 0x20,
       CONFIG_TRANSLATE = 0x40,
};

enum {                         /* the output port's pins */
       OUTPUT_NO_RESET = 0x01, /* low pulls the CPU's reset */
       OUTPUT_A20 = 0x02,
};

enum { FAST_RESET = 0x01, FAST_A20 = 0x02 }; /* port 0x92 */

enum { /* commands; 0x20-0x3f and 0x60-0x7f read and write the RAM, 0xf0-0xff pulse output pins */
       CMD_READ_RAM = 0x20,
       CMD_WRITE_RAM = 0x60,
       CMD_AUX_OFF = 0xa7,
       CMD_AUX_ON = 0xa8,
       CMD_AUX_TEST = 0xa9,
       CMD_SELF_TEST = 0xaa,
       CMD_KEYBOARD_TEST = 0xab,
       CMD_KEYBOARD_OFF = 0xad,
       CMD_KEYBOARD_ON = 0xae,
       CMD_READ_INPUT = 0xc0,
       CMD_READ_OUTPUT = 0xd0,
       CMD_WRITE_OUTPUT = 0xd1,
       CMD_LOOP_KEYBOARD = 0xd2,
       CMD_LOOP_AUX = 0xd3,
       CMD_WRITE_AUX = 0xd4,
       CMD_PULSE = 0xf0,
};

#define SELF_TEST_PASSED 0x55
#define LINE_TEST_PASSED 0x00
#define LINE_STUCK       0x02 /* what a test of the absent second port finds: its clock line is stuck high */
#define INPUT_PORT       0x80 /* the front panel's lock is open */
#define RAM_SIZE         32

struct hv_i8042 {
	struct hv_device dev;
	struct hv_power power;
	uint8_t ram[RAM_SIZE]; /* [0] is the configuration byte */
	uint8_t output_port;
	uint8_t fast;     /* port 0x92's reset bit, as last written */
	uint8_t data;     /* the output buffer: the byte that the guest will read at the data port */
	bool full;        /* data hasn't been read yet */
	bool command;     /* the last write went to the command port */
	uint8_t expected; /* the command that the next byte at the data port belongs to, 0 for none */
};

static struct hv_i8042 *i8042_of(struct hv_device *dev)
{
	return hv_container_of(dev, struct hv_i8042, dev);
}

static void ask_reset(const struct hv_i8042 *k)
{
	if (k->power.request)
		k->power.request(k->power.ctx, HV_POWER_RESET, 0);
}

static void reply(struct hv_i8042 *k, uint8_t byte)
{
	k->data = byte;
	k->full = true;
}

/* There is no second port: its "off" bit is stuck, by which guests tell, after 0xa8 has tried to switch it
 * on. */
static void set_config(struct hv_i8042 *k, uint8_t value)
{
	k->ram[0] = value | CONFIG_AUX_OFF;
}

static void set_output_port(struct hv_i8042 *k, uint8_t value)
{
	k->output_port = value | OUTPUT_NO_RESET;
	if (!(value & OUTPUT_NO_RESET))
		ask_reset(k);
}

static void run_command(struct hv_i8042 *k, uint8_t command)
{
	k->expected = 0;
	switch (command) {
	case CMD_READ_RAM ... CMD_READ_RAM + RAM_SIZE - 1:
		reply(k, k->ram[command - CMD_READ_RAM]);
		break;
	case CMD_WRITE_RAM ... CMD_WRITE_RAM + RAM_SIZE - 1:
	case CMD_WRITE_OUTPUT:
	case CMD_LOOP_KEYBOARD:
	case CMD_LOOP_AUX:
	case CMD_WRITE_AUX:
		k->expected = command;
		break;
	case CMD_AUX_TEST:
		reply(k, LINE_STUCK);
		break;
	case CMD_SELF_TEST:
		set_config(k, k->ram[0] | CONFIG_SYSTEM);
		reply(k, SELF_TEST_PASSED);
		break;
	case CMD_KEYBOARD_TEST:
		reply(k, LINE_TEST_PASSED);
		break;
	case CMD_KEYBOARD_OFF:
		set_config(k, k->ram[0] | CONFIG_KEYBOARD_OFF);
		break;
	case CMD_KEYBOARD_ON:
		set_config(k, k->ram[0] & (uint8_t)~CONFIG_KEYBOARD_OFF);
		break;
	case CMD_READ_INPUT:
		reply(k, INPUT_PORT);
		break;
	case CMD_READ_OUTPUT:
		reply(k, k->output_port);
		break;
	case CMD_PULSE ... CMD_PULSE +
		0x0f: /* the pins whose bits are clear go low for 6 us: 0xfe is the reset */
		if (!(command & OUTPUT_NO_RESET))
			ask_reset(k);
		break;
	case CMD_AUX_OFF: /* nothing there to switch */
	case CMD_AUX_ON:
	default: /* the controller ignores what it doesn't know */
		break;
	}
}

/*
 * A byte at the data port. It belongs to the command before it, else it is for the keyboard, which isn't
 * there to acknowledge it. LOOP_AUX comes back without the mark of the second port, as on controllers that
 * have one port only; so Linux need not wait for its timeout to know.
 */
static void write_data(struct hv_i8042 *k, uint8_t value)
{
	uint8_t command = k->expected;

	k->expected = 0;
	if (command == CMD_WRITE_OUTPUT)
		set_output_port(k, value);
	else if (command == CMD_LOOP_KEYBOARD || command == CMD_LOOP_AUX)
		reply(k, value);
	else if (command == CMD_WRITE_RAM)
		set_config(k, value);
	else if (command > CMD_WRITE_RAM && command < CMD_WRITE_RAM + RAM_SIZE)
		k->ram[command - CMD_WRITE_RAM] = value;
}

/* Port 0x92: its A20 bit is the output port's, its reset bit acts when it goes from 0 to 1. */
static void write_fast(struct hv_i8042 *k, uint8_t value)
{
	bool reset = value & ~k->fast & FAST_RESET;

	k->fast = value & FAST_RESET;
	k->output_port = (uint8_t)((k->output_port & ~OUTPUT_A20) | (value & FAST_A20 ? OUTPUT_A20 : 0));
	if (reset)
		ask_reset(k);
}

static uint8_t status(const struct hv_i8042 *k)
{
	return (uint8_t)(STATUS_UNLOCKED | (k->full ? STATUS_OUTPUT_FULL : 0) |
			 (k->command ? STATUS_COMMAND : 0) | (k->ram[0] & CONFIG_SYSTEM ? STATUS_SYSTEM : 0));
}

static uint64_t i8042_read(struct hv_device *dev, uint64_t offset, unsigned size)
{
	struct hv_i8042 *k = i8042_of(dev);

	switch (offset) {
	case PORT_DATA: /* an empty buffer gives the last byte once more */
		k->full = false;
		return k->data;
	case PORT_COMMAND:
		return status(k);
	case PORT_FAST:
		return (uint64_t)(k->fast | (k->output_port & OUTPUT_A20 ? FAST_A20 : 0));
	}
	return 0xff;
}

static void i8042_write(struct hv_device *dev, uint64_t offset, uint64_t value, unsigned size)
{
	struct hv_i8042 *k = i8042_of(dev);

	switch (offset) {
	case PORT_DATA:
		k->command = false;
		write_data(k, (uint8_t)value);
		break;
	case PORT_COMMAND:
		k->command = true;
		run_command(k, (uint8_t)value);
		break;
	case PORT_FAST:
		write_fast(k, (uint8_t)value);
		break;
	}
}

/* As a PC's firmware hands the controller over: tested, keyboard on, scan codes translated, A20 open. */
static void i8042_reset(struct hv_device *dev)
{
	struct hv_i8042 *k = i8042_of(dev);

	for (unsigned i = 0; i < RAM_SIZE; i++)
		k->ram[i] = 0;
	set_config(k, CONFIG_SYSTEM | CONFIG_TRANSLATE);
	k->output_port = OUTPUT_NO_RESET | OUTPUT_A20;
	k->fast = k->data = k->expected = 0;
	k->full = k->command = false;
}

static void i8042_save(struct hv_device *dev, struct hv_encoder *e)
{
	const struct hv_i8042 *k = i8042_of(dev);

	hv_enc_blob(e, k->ram, sizeof(k->ram));
	hv_enc_u8(e, k->output_port);
	hv_enc_u8(e, k->fast);
	hv_enc_u8(e, k->data);
	hv_enc_u8(e, k->full);
	hv_enc_u8(e, k->command);
	hv_enc_u8(e, k->expected);
}

/* Whether a command is one that waits for a byte, or 0. */
static bool awaits_data(uint8_t command)
{
	return command == 0 || (command >= CMD_WRITE_RAM && command < CMD_WRITE_RAM + RAM_SIZE) ||
	       (command >= CMD_WRITE_OUTPUT && command <= CMD_WRITE_AUX);
}

static int i8042_load(struct hv_device *dev, struct hv_decoder *d, uint16_t version, struct hv_error *err)
{
	struct hv_i8042 *k = i8042_of(dev);
	uint8_t full, command;
	int rc;

	i8042_reset(dev);
	rc = hv_device_load_begin(dev, version, err);
	if (rc)
		return rc;
	hv_dec_blob_exact(d, k->ram, sizeof(k->ram));
	k->output_port = hv_dec_u8(d);
	k->fast = hv_dec_u8(d);
	k->data = hv_dec_u8(d);
	full = hv_dec_u8(d);
	command = hv_dec_u8(d);
	k->expected = hv_dec_u8(d);
	rc = hv_device_load_end(dev, d, err);
	if (!rc && (!(k->ram[0] & CONFIG_AUX_OFF) || !(k->output_port & OUTPUT_NO_RESET) ||
		    k->fast & ~FAST_RESET || full > 1 || command > 1 || !awaits_data(k->expected)))
		rc = hv_fail_unsafe(
			err,
			"saved state: device '%s' is in a state that no guest can bring it to; the "
			"data is damaged",
			dev->ops->name);
	if (rc) {
		i8042_reset(dev);
		return rc;
	}
	k->full = full;
	k->command = command;
	return 0;
}

static void i8042_describe(struct hv_device *dev, char *buf, size_t size)
{
	const struct hv_i8042 *k = i8042_of(dev);

	snprintf(buf, size, "status 0x%02x, configuration 0x%02x, output port 0x%02x, no keyboard", status(k),
		 k->ram[0], k->output_port);
}

static void i8042_destroy(struct hv_device *dev)
{
	free(i8042_of(dev));
}

static const struct hv_device_ops i8042_ops = {
	.name = "i8042",
	.version = 1,
	.max_access = 1,
	.read = i8042_read,
	.write = i8042_write,
	.reset = i8042_reset,
	.save = i8042_save,
	.load = i8042_load,
	.describe = i8042_describe,
	.destroy = i8042_destroy,
};

int hv_i8042_create(struct hv_power power, struct hv_device **out, struct hv_error *err)
{
	struct hv_i8042 *k = calloc(1, sizeof(*k));

	if (!k)
		return hv_fail(err, ENOMEM, "i8042: no memory for the device; close other programs");
	hv_device_init(&k->dev, &i8042_ops);
	k->power = power;
	i8042_reset(&k->dev);
	*out = &k->dev;
	return 0;
}
