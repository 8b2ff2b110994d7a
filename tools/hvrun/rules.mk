# hvrun: its seccomp filter is made by a program of the build machine, and it carries its libraries where it can.

CC_FOR_BUILD ?= $(CC)
HVRUN_GEN    := $(BUILD)/gen/hvrun

$(HVRUN_GEN)/mkfilter: tools/hvrun/filter/mkfilter.c tools/hvrun/filter/filter.h $(BUILD)/flags
	@mkdir -p $(@D)
	$(call say,CC    $<)
	$(Q)$(CC_FOR_BUILD) -std=gnu17 -O1 -D_GNU_SOURCE -Wall -Wextra $(NOWARN_clang) $(if $(WERROR),-Werror) \
		$(if $(SAN),-DHV_FILTER_SANITIZED) -o $@ $< -lseccomp
$(HVRUN_GEN)/filter.c: $(HVRUN_GEN)/mkfilter
	$(call say,GEN   $@)
	$(Q)$< >$@
$(HVRUN_GEN)/filter.o: $(HVRUN_GEN)/filter.c tools/hvrun/filter/filter.h
	$(Q)$(CC) $(ALL_CFLAGS) -Itools/hvrun/filter -c -o $@ $<

$(BUILD)/bin/hvrun: $(HVRUN_GEN)/filter.o
$(BUILD)/obj/tools/hvrun/signals.o: private ALL_CFLAGS += $(if $(SAN),-DHV_FILTER_SANITIZED)
$(BUILD)/tests/unit-hvrun: $(BUILD)/obj/tools/hvrun/sandbox.o $(HVRUN_GEN)/filter.o
$(BUILD)/obj/tests/hvrun/%.o: private ALL_CFLAGS += -Itools/hvrun $(if $(SAN),-DHV_FILTER_SANITIZED)

# Where the static archives are, hvrun carries all of its libraries but the C library, and has a fixed address (no PIE).
# Measured from exec to the first byte of --version, medians of 301 interleaved runs: all static 0.61 ms (an empty program:
# 0.51), so 0.75 ms, all shared 2.34 ms. The difference is relocations: capstone's tables for all its architectures are
# 1.3 MiB of pointers, which a PIE has to patch, and so to own as private memory, before main. Heap, stacks, mappings and
# the C library are at random addresses still, and the sandbox stands behind them. The C library is shared, as a static
# program can't load a library later: user networking is libslirp's, which comes as a shared library only, and is loaded
# when --net user asks for it; with glib behind it that takes 0.4 ms.
# What the archives need beside them (zlib, zstd with newer libelf) pkg-config knows; one that is not there, and all are
# shared.
ifndef SAN
hvrun_carried_libs := $(shell pkg-config --static --libs $(PKGS) $(VMM_DISK_PKGS) libseccomp 2>/dev/null)
hvrun_archives     := $(foreach l,$(filter -l%,$(hvrun_carried_libs)),\
	$(shell $(CC) $(filter -L%,$(hvrun_carried_libs)) -print-file-name=lib$(l:-l%=%).a))
hvrun_carries      := $(if $(hvrun_archives),$(if $(filter-out /%,$(hvrun_archives)),,yes))
endif
hvrun_LDFLAGS = $(if $(hvrun_carries),-no-pie -Wl$(comma)-Bstatic)
hvrun_LIBS    = $(if $(hvrun_carries),$(hvrun_carried_libs) -Wl$(comma)-Bdynamic,$(VMM_DISK_LIBS))
