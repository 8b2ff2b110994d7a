# hvrun: its seccomp filter is made by a program of the build machine, and it is linked statically where it can be.

CC_FOR_BUILD ?= $(CC)
HVRUN_FILTER := $(BUILD)/gen/hvrun/filter.inc

$(BUILD)/gen/hvrun/mkfilter: tools/hvrun/filter/mkfilter.c tools/hvrun/filter/filter.h
	@mkdir -p $(@D)
	$(if $(Q),@echo "  HOSTCC $<")
	$(Q)$(CC_FOR_BUILD) -std=gnu17 -O1 -D_GNU_SOURCE -Wall -Wextra $(if $(WERROR),-Werror) \
		$(if $(SAN),-DHV_FILTER_SANITIZED) -o $@ $< -lseccomp
$(HVRUN_FILTER): $(BUILD)/gen/hvrun/mkfilter
	$(if $(Q),@echo "  GEN   $@")
	$(Q)$< > $@

$(BUILD)/obj/tools/hvrun/sandbox.o $(BUILD)/obj/tests/hvrun/test_sandbox.o: $(HVRUN_FILTER)
$(BUILD)/obj/tools/hvrun/sandbox.o $(BUILD)/obj/tests/hvrun/test_sandbox.o: \
	ALL_CFLAGS += -I$(BUILD)/gen/hvrun $(if $(SAN),-DHV_FILTER_SANITIZED)
