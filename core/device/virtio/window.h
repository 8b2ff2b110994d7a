/*
 * Where virtio devices are: window n of MMIO registers, and the interrupt that belongs to it. The one place
 * that says so; what describes them to a guest (ACPI, `virtio_mmio.device=`) takes the numbers from here.
 */
#ifndef HV_DEVICE_VIRTIO_WINDOW_H
#define HV_DEVICE_VIRTIO_WINDOW_H

#define HV_VIRTIO_WINDOWS       12
#define HV_VIRTIO_WINDOW_BASE   0xd0000000ull /* GPA of window 0, above all RAM below 4 GiB */
#define HV_VIRTIO_WINDOW_STRIDE 0x1000ull
#define HV_VIRTIO_WINDOW_SIZE   0x200ull /* registers, and the device's configuration from 0x100 on */

/* The IOAPIC pin of a window, edge-triggered and active high: those that no device of a PC has, from 16 on;
 * then the four that a PC leaves free among the ISA bus's. */
static inline unsigned hv_virtio_gsi(unsigned window)
{
	static const unsigned char more[] = {5, 9, 10, 11};

	return window < 8 ? 16 + window : more[(window - 8) % sizeof(more)];
}

#endif
