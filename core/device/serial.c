/*
 * Lab 6: a 16550A UART, the PC's serial port, as a state machine of eight registers. The guest moves it by
 * reading and writing them, the host by bringing input; after every move the machine asks itself one
 * question, "is there a reason to interrupt?", and drives its line by the answer. It may call the chardev,
 * the interrupt line and base.
 *
 * Rules: TI/National PC16550D data sheet, section 8 (each register, then FIFO operation).
 *
 *   offset  DLAB 0 read      DLAB 0 write     DLAB 1
 *   0       RBR receive      THR transmit     DLL divisor, low
 *   1       IER              IER              DLM divisor, high
 *   2       IIR cause        FCR FIFOs        as DLAB 0
 *   3 LCR   4 MCR   5 LSR (read only)   6 MSR (read only)   7 SCR
 *
 * Time is left out, which a guest can't tell from a very fast line: a byte has left as soon as it is written,
 * so the transmitter is always empty, and a receiver's timeout has passed as soon as there is something to
 * time out. Word length, parity and break are registers without an effect, as the host's end has no wire. The
 * host never overruns the receiver: what doesn't fit waits in the chardev. Only loopback can overrun.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device/devices.h"

enum { REG_DATA, REG_IER, REG_IIR_FCR, REG_LCR, REG_MCR, REG_LSR, REG_MSR, REG_SCR };

enum { /* IER: which reasons may interrupt */
       IER_RECEIVED = 0x01,
       IER_THR_EMPTY = 0x02,
       IER_LINE = 0x04,
       IER_MODEM = 0x08,
       IER_ALL = 0x0f,
};

enum { /* IIR: the reason of highest priority; bit 0 clear means that there is one */
       IIR_MODEM = 0x00,
       IIR_NONE = 0x01,
       IIR_THR_EMPTY = 0x02,
       IIR_RECEIVED = 0x04,
       IIR_LINE = 0x06,
       IIR_TIMEOUT = 0x0c,
       IIR_FIFOS_ON = 0xc0,
};

enum { /* FCR */
       FCR_ENABLE = 0x01,
       FCR_CLEAR_RECEIVER = 0x02,
       FCR_DMA_MODE = 0x08, /* kept; the pins that it moves lead nowhere on a PC */
       FCR_TRIGGER_SHIFT = 6,
       FCR_KEPT = 0xc9, /* the bits that are state and not commands */
};

enum { LCR_DLAB = 0x80 };

enum { /* MCR: what the UART tells the modem; OUT1 and OUT2 are free pins */
       MCR_DTR = 0x01,
       MCR_RTS = 0x02,
       MCR_OUT1 = 0x04,
       MCR_OUT2 = 0x08,
       MCR_LOOPBACK = 0x10,
       MCR_ALL = 0x1f,
};

enum { /* LSR */
       LSR_DATA_READY = 0x01,
       LSR_OVERRUN = 0x02,
       LSR_THR_EMPTY = 0x20,
       LSR_IDLE = 0x40,
};

enum { /* MSR: what the modem tells the UART, and in the low half what changed since the last read */
       MSR_CTS_CHANGED = 0x01,
       MSR_DSR_CHANGED = 0x02,
       MSR_RING_ENDED = 0x04,
       MSR_DCD_CHANGED = 0x08,
       MSR_CHANGES = 0x0f,
       MSR_CTS = 0x10,
       MSR_DSR = 0x20,
       MSR_RING = 0x40,
       MSR_DCD = 0x80,
};

#define FIFO_SIZE     16u
#define DIVISOR_RESET 12u /* 9600 baud, as a PC's firmware leaves it; the chip itself promises nothing */

struct hv_serial {
	struct hv_device dev;
	struct hv_chardev *chardev; /* borrowed, may be NULL */
	struct hv_irq_line irq;
	bool line_high; /* what irq was last told */

	uint8_t ier, lcr, mcr, fcr, scr;
	uint16_t divisor;
	uint8_t overrun;      /* LSR_OVERRUN or 0, until LSR is read */
	uint8_t modem_change; /* MSR's low half, until MSR is read */
	bool thr_empty_event; /* the transmitter became empty and IIR hasn't said so yet */

	uint8_t fifo[FIFO_SIZE]; /* received bytes, a ring; without FIFOs only one byte long: RBR itself */
	unsigned fifo_head, fifo_count;

	bool listening;     /* the guest has begun to wait for input; see hv_serial_input */
	bool polled;        /* the guest's last access was a read of LSR */
	bool input_refused; /* the chardev keeps input and waits for hv_chardev_input_ready */
};

static struct hv_serial *serial_of(struct hv_device *dev)
{
	return hv_container_of(dev, struct hv_serial, dev);
}

/* --- interrupts --- */

/* How many received bytes make an interrupt: FCR's top bits with FIFOs, one byte without. */
static unsigned trigger_level(const struct hv_serial *s)
{
	static const uint8_t levels[] = {1, 4, 8, 14};
	unsigned level = 1;

	/* hv:solution lab=6 task=4 */
	if (s->fcr & FCR_ENABLE)
		level = levels[s->fcr >> FCR_TRIGGER_SHIFT];
	/* hv:end */
	return level;
}

/* The enabled reason of highest priority, as IIR tells it (data sheet, interrupt control functions). */
static uint8_t interrupt_reason(const struct hv_serial *s)
{
	/* hv:solution lab=6 task=5 */
	if (s->ier & IER_LINE && s->overrun)
		return IIR_LINE;
	if (s->ier & IER_RECEIVED && s->fifo_count >= trigger_level(s))
		return IIR_RECEIVED;
	if (s->ier & IER_RECEIVED && s->fifo_count > 0)
		return IIR_TIMEOUT; /* fewer bytes than the trigger asks for, and no more have come */
	if (s->ier & IER_THR_EMPTY && s->thr_empty_event)
		return IIR_THR_EMPTY;
	if (s->ier & IER_MODEM && s->modem_change)
		return IIR_MODEM;
	/* hv:end */
	return IIR_NONE;
}

static void drive_line(struct hv_serial *s, bool high)
{
	if (s->line_high == high)
		return;
	s->line_high = high;
	hv_irq_set(&s->irq, high);
}

/*
 * After every move. A PC leads the chip's INTR pin to its interrupt controller through a gate that OUT2
 * opens, so a driver that forgets OUT2 gets no interrupt on hardware, nor here. In loopback the gate follows
 * MCR's bit too: the data sheet has interrupts "fully operational" then, and a self-test that waits for one
 * should see it.
 */
static void update_line(struct hv_serial *s)
{
	drive_line(s, s->mcr & MCR_OUT2 && interrupt_reason(s) != IIR_NONE);
}

/* --- receiver --- */

static unsigned receiver_size(const struct hv_serial *s)
{
	return s->fcr & FCR_ENABLE ? FIFO_SIZE : 1;
}

static void push(struct hv_serial *s, uint8_t byte)
{
	/* hv:solution lab=6 task=3 */
	s->fifo[(s->fifo_head + s->fifo_count++) % FIFO_SIZE] = byte;
	/* hv:end */
}

/* A byte from the transmitter in loopback. With a full FIFO the byte is lost; RBR alone is overwritten by it.
 */
static void receive_loopback(struct hv_serial *s, uint8_t byte)
{
	/* hv:solution lab=6 task=3 */
	if (s->fifo_count < receiver_size(s)) {
		push(s, byte);
		return;
	}
	s->overrun = LSR_OVERRUN;
	if (!(s->fcr & FCR_ENABLE))
		s->fifo[s->fifo_head] = byte;
	/* hv:end */
}

/*
 * Tells the chardev that there is room, if it waits for that. Only when the receiver is empty: the telling
 * costs a system call, which one byte in sixteen can bear.
 */
static void ask_for_input(struct hv_serial *s)
{
	if (!s->input_refused || s->fifo_count > 0 || !s->listening || s->mcr & MCR_LOOPBACK)
		return;
	s->input_refused = false;
	if (s->chardev)
		hv_chardev_input_ready(s->chardev);
}

static uint8_t read_received(struct hv_serial *s)
{
	bool timed_out = interrupt_reason(s) == IIR_TIMEOUT;
	uint8_t byte = 0;

	/* hv:solution lab=6 task=3 */
	if (s->fifo_count > 0) {
		byte = s->fifo[s->fifo_head];
		s->fifo_head = (s->fifo_head + 1) % FIFO_SIZE;
		s->fifo_count--;
	}
	/* hv:end */
	/* A read ends one timeout and starts the next, which an edge-triggered controller must see as a new
	 * edge. */
	if (timed_out)
		drive_line(s, false);
	return byte;
}

static void clear_receiver(struct hv_serial *s)
{
	s->fifo_head = s->fifo_count = 0;
}

/*
 * Input from the host. The line is dead until the guest has begun to wait for input: a program piped into the
 * VM types at once, and its first bytes would be lost to the FIFO resets and test reads with which drivers
 * begin. A guest waits when it enables the receiver's interrupt, or reads LSR twice in a row: who looks there
 * in order to send finds an empty transmitter at the first look, and writes THR next.
 */
size_t hv_serial_input(void *dev, const uint8_t *data, size_t count)
{
	struct hv_device *device = dev;
	struct hv_serial *s = serial_of(device);
	size_t taken = 0;

	pthread_mutex_lock(&device->lock);
	if (s->listening && !(s->mcr & MCR_LOOPBACK))
		while (taken < count && s->fifo_count < receiver_size(s))
			push(s, data[taken++]);
	s->input_refused |= taken < count;
	update_line(s);
	pthread_mutex_unlock(&device->lock);
	return taken;
}

/* --- transmitter and modem --- */

/*
 * Writing THR takes its interrupt back; sending the byte raises it anew. The line has to fall in between: an
 * edge-triggered controller would miss a driver's second byte otherwise.
 */
static void transmit(struct hv_serial *s, uint8_t byte)
{
	/* hv:solution lab=6 task=2 */
	s->thr_empty_event = false;
	update_line(s);
	if (s->mcr & MCR_LOOPBACK)
		receive_loopback(s, byte);
	else
		hv_device_output(&s->dev, s->chardev, byte);
	s->thr_empty_event = true;
	/* hv:end */
}

/* The modem's lines: in loopback MCR's own outputs (RTS to CTS, DTR to DSR, OUT1 to RI, OUT2 to DCD), else
 * those of a host that is always there and always ready. */
static uint8_t modem_lines(const struct hv_serial *s)
{
	/* hv:solution lab=6 task=6 */
	if (!(s->mcr & MCR_LOOPBACK))
		return MSR_CTS | MSR_DSR | MSR_DCD;
	return (uint8_t)((s->mcr & MCR_RTS ? MSR_CTS : 0) | (s->mcr & MCR_DTR ? MSR_DSR : 0) |
			 (s->mcr & MCR_OUT1 ? MSR_RING : 0) | (s->mcr & MCR_OUT2 ? MSR_DCD : 0));
	/* hv:end */
}

/* MSR's low half for lines that went from `before` to `now`. Of the ring only its end counts. */
static uint8_t modem_changes(uint8_t before, uint8_t now)
{
	/* hv:solution lab=6 task=6 */
	uint8_t changed = before ^ now;

	return (uint8_t)((changed & MSR_CTS ? MSR_CTS_CHANGED : 0) |
			 (changed & MSR_DSR ? MSR_DSR_CHANGED : 0) |
			 (changed & before & MSR_RING ? MSR_RING_ENDED : 0) |
			 (changed & MSR_DCD ? MSR_DCD_CHANGED : 0));
	/* hv:end */
}

static void write_mcr(struct hv_serial *s, uint8_t value)
{
	uint8_t before = modem_lines(s);

	s->mcr = value & MCR_ALL;
	s->modem_change |= modem_changes(before, modem_lines(s));
}

static void enable_interrupts(struct hv_serial *s, uint8_t value)
{
	/* hv:solution lab=6 task=5 */
	/* Enabling the transmitter's interrupt while THR is empty interrupts at once: how drivers start to
	 * send. */
	if (value & ~s->ier & IER_THR_EMPTY)
		s->thr_empty_event = true;
	/* hv:end */
	s->ier = value & IER_ALL;
	s->listening |= s->ier & IER_RECEIVED;
}

/* The other bits of FCR are programmed only together with the enable bit; changing that one empties the
 * FIFOs. */
static void write_fcr(struct hv_serial *s, uint8_t value)
{
	/* hv:solution lab=6 task=4 */
	if ((value ^ s->fcr) & FCR_ENABLE || (value & FCR_ENABLE && value & FCR_CLEAR_RECEIVER))
		clear_receiver(s);
	s->fcr = value & FCR_ENABLE ? value & FCR_KEPT : 0;
	/* hv:end */
}

/* --- the registers --- */

static bool dlab(const struct hv_serial *s)
{
	return s->lcr & LCR_DLAB;
}

/* Offsets 0 and 1, behind which DLAB puts the divisor. */
static uint8_t read_data(struct hv_serial *s)
{
	/* hv:solution lab=6 task=1 */
	return dlab(s) ? (uint8_t)s->divisor : read_received(s);
	/* hv:end */
}

static uint8_t read_ier(const struct hv_serial *s)
{
	/* hv:solution lab=6 task=1 */
	return dlab(s) ? (uint8_t)(s->divisor >> 8) : s->ier;
	/* hv:end */
}

static void write_data(struct hv_serial *s, uint8_t value)
{
	/* hv:solution lab=6 task=1 */
	if (dlab(s))
		s->divisor = (uint16_t)((s->divisor & 0xff00) | value);
	else
		transmit(s, value);
	/* hv:end */
}

static void write_ier(struct hv_serial *s, uint8_t value)
{
	/* hv:solution lab=6 task=1 */
	if (dlab(s))
		s->divisor = (uint16_t)((s->divisor & 0x00ff) | value << 8);
	else
		enable_interrupts(s, value);
	/* hv:end */
}

static uint8_t read_iir(struct hv_serial *s)
{
	uint8_t reason = interrupt_reason(s);

	/* hv:solution lab=6 task=5 */
	if (reason == IIR_THR_EMPTY)
		s->thr_empty_event = false; /* having been told is what ends this one */
	/* hv:end */
	return reason | (s->fcr & FCR_ENABLE ? IIR_FIFOS_ON : 0);
}

static uint8_t read_lsr(struct hv_serial *s)
{
	uint8_t lsr = 0;

	/* hv:solution lab=6 task=2 */
	lsr = (uint8_t)(LSR_THR_EMPTY | LSR_IDLE | s->overrun | (s->fifo_count ? LSR_DATA_READY : 0));
	s->overrun = 0;
	/* hv:end */
	s->listening |= s->polled; /* see hv_serial_input */
	return lsr;
}

static uint8_t read_msr(struct hv_serial *s)
{
	uint8_t msr = modem_lines(s) | s->modem_change;

	s->modem_change = 0;
	return msr;
}

static uint8_t read_register(struct hv_serial *s, uint64_t offset)
{
	switch (offset) {
	case REG_DATA:
		return read_data(s);
	case REG_IER:
		return read_ier(s);
	case REG_IIR_FCR:
		return read_iir(s);
	case REG_LCR:
		return s->lcr;
	case REG_MCR:
		return s->mcr;
	case REG_LSR:
		return read_lsr(s);
	case REG_MSR:
		return read_msr(s);
	case REG_SCR:
		return s->scr;
	}
	return 0xff;
}

static void write_register(struct hv_serial *s, uint64_t offset, uint8_t value)
{
	switch (offset) {
	case REG_DATA:
		write_data(s, value);
		break;
	case REG_IER:
		write_ier(s, value);
		break;
	case REG_IIR_FCR:
		write_fcr(s, value);
		break;
	case REG_LCR:
		s->lcr = value;
		break;
	case REG_MCR:
		write_mcr(s, value);
		break;
	case REG_LSR: /* writing these two is for the chip's factory test */
	case REG_MSR:
		break;
	case REG_SCR:
		s->scr = value;
		break;
	}
}

static uint64_t serial_read(struct hv_device *dev, uint64_t offset, unsigned size)
{
	struct hv_serial *s = serial_of(dev);
	uint8_t value = read_register(s, offset);

	s->polled = offset == REG_LSR;
	update_line(s);
	ask_for_input(s);
	return value;
}

static void serial_write(struct hv_device *dev, uint64_t offset, uint64_t value, unsigned size)
{
	struct hv_serial *s = serial_of(dev);

	s->polled = false;
	write_register(s, offset, (uint8_t)value);
	update_line(s);
	ask_for_input(s);
}

/* --- life --- */

static void serial_reset(struct hv_device *dev)
{
	struct hv_serial *s = serial_of(dev);

	drive_line(s, false);
	s->ier = s->lcr = s->mcr = s->fcr = s->scr = 0;
	s->divisor = DIVISOR_RESET;
	s->overrun = s->modem_change = 0;
	s->thr_empty_event = false;
	clear_receiver(s);
	s->listening = s->polled = false;
	s->input_refused =
		true; /* the chardev may well keep something: ask once too often rather than never */
}

static void serial_save(struct hv_device *dev, struct hv_encoder *e)
{
	const struct hv_serial *s = serial_of(dev);
	uint8_t received[FIFO_SIZE];

	for (unsigned i = 0; i < s->fifo_count; i++)
		received[i] = s->fifo[(s->fifo_head + i) % FIFO_SIZE];
	hv_enc_u8(e, s->ier);
	hv_enc_u8(e, s->lcr);
	hv_enc_u8(e, s->mcr);
	hv_enc_u8(e, s->fcr);
	hv_enc_u8(e, s->scr);
	hv_enc_u16(e, s->divisor);
	hv_enc_u8(e, s->overrun);
	hv_enc_u8(e, s->modem_change);
	hv_enc_u8(e, s->thr_empty_event);
	hv_enc_u8(e, s->listening);
	hv_enc_blob(e, received, s->fifo_count);
}

/* Whether the registers could have come from a guest's writes. The others take any value. */
static bool plausible(const struct hv_serial *s, uint8_t thr_empty_event, uint8_t listening, size_t received)
{
	return !(s->ier & ~IER_ALL) && !(s->mcr & ~MCR_ALL) && !(s->fcr & ~FCR_KEPT) &&
	       (s->fcr == 0 || s->fcr & FCR_ENABLE) && !(s->overrun & ~LSR_OVERRUN) &&
	       !(s->modem_change & ~MSR_CHANGES) && thr_empty_event <= 1 && listening <= 1 &&
	       received <= receiver_size(s);
}

static int serial_load(struct hv_device *dev, struct hv_decoder *d, uint16_t version, struct hv_error *err)
{
	struct hv_serial *s = serial_of(dev);
	uint8_t thr_empty_event, listening;
	const void *received;
	size_t count;
	int rc;

	serial_reset(dev);
	rc = hv_device_load_begin(dev, version, err);
	if (rc)
		return rc;
	s->ier = hv_dec_u8(d);
	s->lcr = hv_dec_u8(d);
	s->mcr = hv_dec_u8(d);
	s->fcr = hv_dec_u8(d);
	s->scr = hv_dec_u8(d);
	s->divisor = hv_dec_u16(d);
	s->overrun = hv_dec_u8(d);
	s->modem_change = hv_dec_u8(d);
	thr_empty_event = hv_dec_u8(d);
	listening = hv_dec_u8(d);
	received = hv_dec_blob(d, &count);
	rc = hv_device_load_end(dev, d, err);
	if (!rc && !plausible(s, thr_empty_event, listening, count))
		rc = hv_fail_unsafe(
			err,
			"saved state: device '%s' has registers that no UART can hold; the data is "
			"damaged",
			dev->ops->name);
	if (rc) {
		serial_reset(dev);
		return rc;
	}
	s->thr_empty_event = thr_empty_event;
	s->listening = listening;
	if (count > 0)
		memcpy(s->fifo, received, count);
	s->fifo_count = (unsigned)count;
	update_line(s);
	ask_for_input(s);
	return 0;
}

static void serial_describe(struct hv_device *dev, char *buf, size_t size)
{
	const struct hv_serial *s = serial_of(dev);

	snprintf(
		buf, size,
		"LCR 0x%02x, divisor %u, IER 0x%02x, MCR 0x%02x, FCR 0x%02x, IIR 0x%02x, %u received, IRQ %s",
		s->lcr, s->divisor, s->ier, s->mcr, s->fcr, interrupt_reason(s), s->fifo_count,
		s->line_high ? "high" : "low");
}

static void serial_destroy(struct hv_device *dev)
{
	free(serial_of(dev));
}

static const struct hv_device_ops serial_ops = {
	.name = "serial0",
	.version = 1,
	.max_access = 1,
	.read = serial_read,
	.write = serial_write,
	.reset = serial_reset,
	.save = serial_save,
	.load = serial_load,
	.describe = serial_describe,
	.destroy = serial_destroy,
};

int hv_serial_create(struct hv_chardev *chardev, struct hv_irq_line irq, struct hv_device **out,
		     struct hv_error *err)
{
	struct hv_serial *s = calloc(1, sizeof(*s));

	if (!s)
		return hv_fail(err, ENOMEM, "serial0: no memory for the device; close other programs");
	hv_device_init(&s->dev, &serial_ops);
	s->chardev = chardev;
	s->irq = irq;
	serial_reset(&s->dev);
	*out = &s->dev;
	return 0;
}
