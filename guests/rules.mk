# Guests: one folder each, no OS below them. $(BUILD)/guests/NAME is an ELF image, NAME.bin a flat one; README.md
# tells what each does. They use the project's compiler, but none of its user-space flags: no sanitizer, no libc, no
# FPU, and no red zone, which an interrupt would overwrite.
GUEST_FLAT := hello exits
GUEST_ELF  := longmode ticks smp dirty shell virtio
GUEST_LIB  := bootinfo.c console.c memory.c trap.c trap.S tables.S clock.c apic.c

# What each one is made of beside its own folder: the start code decides by which protocols it can be booted.
hello_PARTS    :=
exits_PARTS    := start16.S console.c memory.c
longmode_PARTS := start64.S $(GUEST_LIB)
ticks_PARTS    := start64.S start32.S $(GUEST_LIB)
smp_PARTS      := start64.S $(GUEST_LIB)
dirty_PARTS    := start64.S $(GUEST_LIB)
virtio_PARTS   := start64.S start32.S $(GUEST_LIB)
shell_PARTS    := multiboot.S start32.S $(GUEST_LIB)

GUEST_CFLAGS := -std=gnu17 -O2 -g -m64 -ffreestanding -fno-builtin -fno-pic -static -mno-red-zone -mgeneral-regs-only \
                -fno-stack-protector -fcf-protection=none -fno-asynchronous-unwind-tables -fno-strict-aliasing \
                -fno-omit-frame-pointer -Iguests/lib -DGUEST_VERSION='"$(VERSION)"' $(WARN)
GUEST_LDFLAGS := -nostdlib -static -Wl,--build-id=none -Wl,-z,noexecstack -Wl,-z,max-page-size=4096

$(BUILD)/guests/obj/%.c.o: guests/%.c $(BUILD)/flags guests/rules.mk
	@mkdir -p $(@D)
	$(call say,GUEST $<)
	$(Q)$(CC) $(GUEST_CFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/guests/obj/%.S.o: guests/%.S $(BUILD)/flags guests/rules.mk
	@mkdir -p $(@D)
	$(call say,GUEST $<)
	$(Q)$(CC) $(GUEST_CFLAGS) -MMD -MP -c -o $@ $<

guest_objs = $(patsubst guests/%,$(BUILD)/guests/obj/%.o,$(sort $(wildcard guests/$(1)/*.[cS])) \
               $(addprefix guests/lib/,$($(1)_PARTS)))

define guest_rules
$(BUILD)/guests/obj/$(1).elf: $(call guest_objs,$(1)) guests/lib/$(2).ld
	$$(Q)$$(CC) $$(GUEST_LDFLAGS) -Wl,-T,guests/lib/$(2).ld -Wl,-e,$(3) -o $$@ $$(filter %.o,$$^)
endef
$(foreach g,$(GUEST_FLAT),$(eval $(call guest_rules,$(g),flat,start16)))
$(foreach g,$(GUEST_ELF),$(eval $(call guest_rules,$(g),elf,$(if $(filter start64.S,$($(g)_PARTS)),start64,start32))))

$(GUEST_FLAT:%=$(BUILD)/guests/%.bin): $(BUILD)/guests/%.bin: $(BUILD)/guests/obj/%.elf
	$(Q)$(OBJCOPY) -O binary $< $@

# Multiboot 1 knows 32-bit ELF files only, so the 64-bit code of `shell` is put into one.
$(BUILD)/guests/shell: $(BUILD)/guests/obj/shell.elf
	$(Q)$(OBJCOPY) -O elf32-i386 $< $@

$(patsubst %,$(BUILD)/guests/%,$(filter-out shell,$(GUEST_ELF))): $(BUILD)/guests/%: $(BUILD)/guests/obj/%.elf
	$(Q)cp $< $@

OBJCOPY ?= objcopy
GUESTS := $(GUEST_FLAT:%=$(BUILD)/guests/%.bin) $(GUEST_ELF:%=$(BUILD)/guests/%)

.PHONY: guests
guests: $(GUESTS)
