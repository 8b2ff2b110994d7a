/*
 * Interrupt controllers: the two 8259A PICs, the IOAPIC, the local APIC with its timer.
 */
#ifndef GUEST_APIC_H
#define GUEST_APIC_H

#include <stdbool.h>
#include <stdint.h>

/* The PICs' lines become vectors VECTOR_PIC..+15; all lines are masked. */
void pic_init(void);
void pic_mask(unsigned line, bool masked);
void pic_eoi(unsigned line);

/* Enables this CPU's local APIC; extint: lets the PIC's interrupts through LINT0 (virtual wire mode). */
void lapic_init(bool extint);
uint32_t lapic_id(void);
void lapic_eoi(void);
/* Interrupts every `count` units on VECTOR_TIMER; 0 stops it. The timer divides its clock by one. */
void lapic_timer_start(uint32_t count);
uint32_t lapic_timer_count(void); /* units until the next one */

/* INIT, and start-up at page (physical address >> 12), to the CPU with this APIC id (SDM vol. 3A, 11.4.4). */
void lapic_send_init(uint32_t id);
void lapic_send_startup(uint32_t id, uint8_t page);

/* Pin as edge-triggered, active-high interrupt `vector` of the CPU with APIC id cpu. */
void ioapic_route(unsigned pin, uint8_t vector, uint32_t cpu, bool masked);
/* Makes a routed pin level- or edge-triggered, and leaves the rest of its entry as it is. */
void ioapic_trigger(unsigned pin, bool level);
/* Whether a level-triggered pin has sent an interrupt whose EOI the IOAPIC has not heard yet. */
bool ioapic_remote_irr(unsigned pin);

#endif
