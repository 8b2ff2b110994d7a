/*
 * The devices of a small PC, each in its own file. Every _create returns a device that the caller destroys
 * with hv_device_destroy after its bus is no longer used; chardev, log and callbacks are borrowed and must
 * outlive it. A chardev may be NULL: nothing is plugged in. -ENOMEM is every _create's failure, others are
 * named beside it.
 */
#ifndef HV_DEVICE_DEVICES_H
#define HV_DEVICE_DEVICES_H

#include <stdbool.h>

#include "base/log.h"
#include "device/chardev.h"
#include "device/device.h"
#include "kvm/irq.h"

HV_API_BEGIN
/* serial.c: a 16550A UART, 8 registers (ports 0x3f8-0x3ff, IRQ 4). TI PC16550D data sheet. */
int hv_serial_create(struct hv_chardev *chardev, struct hv_irq_line irq, struct hv_device **out,
		     struct hv_error *err);
/* Input from the host: an hv_chardev_input_fn whose ctx is the device. Takes the lock itself. Takes nothing
 * before the guest waits for input for the first time (interrupt enabled, or LSR polled), nor while the UART
 * is in loopback. */
size_t hv_serial_input(void *dev, const uint8_t *data, size_t count);

/* debugcon.c: port 0xe9; a byte written is a byte of output; a read gives 0xe9, so that guests find it. */
int hv_debugcon_create(struct hv_chardev *chardev, struct hv_device **out, struct hv_error *err);

/* debugexit.c: port 0xf4, 4 bytes; a write of v asks for HV_POWER_EXIT with code (v << 1 | 1) & 0xff. */
int hv_debugexit_create(struct hv_power power, struct hv_device **out, struct hv_error *err);

/* i8042.c: ports 0x60 (offset 0) and 0x64 (offset 4), so much of a keyboard controller that guests can probe
 * it and reset the machine by command 0xfe; also port 0x92 (offset 0x32): fast A20 and reset. */
int hv_i8042_create(struct hv_power power, struct hv_device **out, struct hv_error *err);

/* rtc.c: an MC146818 at ports 0x70-0x71: time of day (UTC), CMOS memory sizes; no interrupts. mem_size in
 * bytes. */
int hv_rtc_create(uint64_t mem_size, struct hv_device **out, struct hv_error *err);

/* fwcfg.c: QEMU's firmware configuration at 0x510 (selector, 16 bit) and 0x511 (data, 8 bit): signature, id,
 * CPU count, RAM size, and the file directory with what the caller adds. -EINVAL: a name that is empty,
 * longer than 55 bytes or given twice, too many items, an item of 4 GiB or more. */
struct hv_fwcfg_item {
	const char *file; /* "opt/org.hvkit/cmdline"; copied */
	const void *data; /* copied */
	size_t size;
};
int hv_fwcfg_create(unsigned cpus, uint64_t mem_size, const struct hv_fwcfg_item *items, unsigned count,
		    struct hv_device **out, struct hv_error *err);

/*
 * power.c: ACPI's sleep control (offset 0), sleep status (1) and reset register (2) at ports 0x600-0x602.
 * Sleep type HV_POWER_SLEEP_OFF asks for HV_POWER_OFF, HV_POWER_RESET_VALUE in the reset register for
 * HV_POWER_RESET.
 */
#define HV_POWER_SLEEP_OFF   5u
#define HV_POWER_RESET_VALUE 0x42u
int hv_power_create(struct hv_power power, struct hv_device **out, struct hv_error *err);

/* pvpanic.c: port 0x505; a guest's panic asks for HV_POWER_PANIC. */
int hv_pvpanic_create(struct hv_power power, struct hv_device **out, struct hv_error *err);

/* post.c: port 0x80: the last code written, and a read that gives it back. */
int hv_post_create(struct hv_device **out, struct hv_error *err);

/*
 * ioapic.c: an 82093AA IOAPIC with 24 pins at 0xfec00000 for HV_IRQCHIP_SPLIT. send delivers a message to the
 * local APICs and may be called with the device's lock held. hv_ioapic_set is an hv_irq_line's set (ctx: the
 * device), hv_ioapic_eoi is called for KVM_EXIT_IOAPIC_EOI; both take the lock themselves.
 *
 * route, when not NULL, tells KVM of a changed pin (KVM_SET_GSI_ROUTING), so that it knows whose EOI to
 * report. It is called with the device's lock held. A masked pin's route should stay: the EOI of its last
 * interrupt may be due.
 */
struct hv_ioapic_host {
	void (*send)(void *ctx, uint64_t address, uint32_t data);
	void (*route)(void *ctx, unsigned pin, uint64_t address, uint32_t data, bool masked);
	void *ctx;
};
int hv_ioapic_create(struct hv_ioapic_host host, struct hv_device **out, struct hv_error *err);
void hv_ioapic_set(void *dev, unsigned pin, bool level);
void hv_ioapic_eoi(struct hv_device *dev, uint8_t vector);
HV_API_END

#endif
