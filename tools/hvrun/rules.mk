# hvrun: its seccomp filter is made by a program of the build machine, and it is linked statically where it can be.

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

# Where the static archives are, all of hvrun is one file without a dynamic linker. Measured from exec to the first byte
# of --version, medians of 101: static 0.97 ms (an empty program: 0.85), static-pie 1.99 ms, shared 2.28 ms. The difference
# is relocations: capstone's tables for all its architectures are 1.3 MiB of pointers, which a PIE has to patch, and so to
# own as private memory, before main. So no PIE: heap, stacks and mappings are randomised still, and the sandbox stands
# behind them.
# What the archives need beside them (zlib, zstd with newer libelf) pkg-config knows; one that is not there, and it is shared.
ifndef SAN
hvrun_static_libs := $(shell pkg-config --static --libs $(PKGS) $(VMM_DISK_PKGS) libseccomp 2>/dev/null)
hvrun_archives    := $(foreach l,$(filter -l%,$(hvrun_static_libs) $(if $(hvrun_static_libs),-lc)),\
	$(shell $(CC) $(filter -L%,$(hvrun_static_libs)) -print-file-name=lib$(l:-l%=%).a))
hvrun_is_static   := $(if $(hvrun_archives),$(if $(filter-out /%,$(hvrun_archives)),,yes))
endif
hvrun_LDFLAGS = $(if $(hvrun_is_static),-static)
hvrun_LIBS    = $(if $(hvrun_is_static),$(hvrun_static_libs),$(VMM_DISK_LIBS))
