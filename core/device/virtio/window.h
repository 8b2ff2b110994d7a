/*
 * Where virtio devices are: window n of MMIO registers, and the interrupt that belongs to it. The one place
 * that says so; what describes them to a guest (ACPI, `virtio_mmio.device=`) takes the numbers from here.
 */
#ifndef HV_DEVICE_VIRTIO_WINDOW_H
#define HV_DEVICE_VIRTIO_WINDOW_H

#define HV_VIRTIO_WINDOWS       8
#define HV_VIRTIO_WINDOW_BASE   0xd0000000ull /* GPA of window 0, above all RAM below 4 GiB */
#define HV_VIRTIO_WINDOW_STRIDE 0x1000ull
#define HV_VIRTIO_WINDOW_SIZE   0x200ull /* registers, and the device's configuration from 0x100 on */
#define HV_VIRTIO_GSI_BASE      16u      /* window n: IOAPIC pin 16 + n, edge-triggered, active high */

#endif
