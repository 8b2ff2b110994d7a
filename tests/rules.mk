# Tests. tests/ROOM/*.c make one Criterion program a room.
UNIT_ROOMS := $(filter-out fuzz bench e2e,$(notdir $(patsubst %/,%,$(wildcard tests/*/))))
UNIT_ROOMS := $(foreach r,$(UNIT_ROOMS),$(if $(wildcard tests/$(r)/*.c),$(r)))
UNIT_BINS  := $(addprefix $(BUILD)/tests/unit-,$(UNIT_ROOMS))

define unit_rules
$(BUILD)/tests/unit-$(1): $(call obj,$(sort $(wildcard tests/$(1)/*.c)),obj) $(LIBS)
	@mkdir -p $$(@D)
	$$(if $$(Q),@echo "  LD    $$@")
	$$(Q)$$(CC) $$(ALL_CFLAGS) -o $$@ $$(filter %.o,$$^) $(LIBS) $$(PKG_LIBS) -lcriterion
endef
$(foreach r,$(UNIT_ROOMS),$(eval $(call unit_rules,$(r))))

.PHONY: unit
unit: $(UNIT_BINS)
