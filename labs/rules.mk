# The lab kit: its two C programs, a student's tree, and grading in the repository.
#
# observe runs and records a student's program; the rig calls the student's functions. The handout is made of what was
# built here, so that a student's file can take the place of its own object when hvrun or the rig is linked anew.
OBSERVE_OBJ := $(call obj,$(sort $(wildcard labs/observe/*.c)))
RIG_OBJ     := $(call obj,$(sort $(wildcard labs/rig/*.c)))
LAB_BINS    := $(if $(OBSERVE_OBJ),$(BUILD)/labs/observe) $(if $(RIG_OBJ),$(BUILD)/labs/rig)
HANDOUT     ?= $(BUILD)/handout

$(BUILD)/labs/observe: $(OBSERVE_OBJ) $(BUILD)/sources
	@mkdir -p $(@D)
	$(call say,LD    $@)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $(filter %.o,$^) -lseccomp

$(BUILD)/labs/rig: $(RIG_OBJ) $(LIBS) $(BUILD)/sources
	@mkdir -p $(@D)
	$(call say,LD    $@)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $(filter %.o,$^) $(LIBS) $(PKG_LIBS) $(VMM_DISK_LIBS)

# A lab's part of the rig may look at what only the file's own room sees (machine/internal.h), and at other labs' parts.
$(BUILD)/obj/labs/%.o: private ALL_CFLAGS += -Ilabs

# What a student's file is built with: as here, but for what belongs to libraries. Machine-specific paths stay out.
LAB_CFLAGS = -std=gnu17 -pthread -D_GNU_SOURCE -DHV_VERSION='"$(VERSION)"' -O1 -g -fno-omit-frame-pointer -U_FORTIFY_SOURCE \
             -D_FORTIFY_SOURCE=2 -fstack-protector-strong $(SANF)
LAB_CORE   = $(call obj,$(filter-out core/disk/nbd/% core/disk/appliance/%,$(DISK_SRC)) $(HV_SRC))
LAB_HVRUN  = $(call obj,$(sort $(wildcard tools/hvrun/*.c))) $(HVRUN_GEN)/filter.o
LAB_TEXTS  = $(filter-out %.pyc,$(shell find labs docs/labs guests -type f 2>/dev/null)) $(wildcard core/*/*.h)

.PHONY: labs handout grade
labs: $(LAB_BINS) $(BUILD)/handout.stamp ## Build the lab kit's programs and, in build/handout, a student's tree

# Only what is missing or older is done again: tests need the tree, and need it soon.
$(BUILD)/handout.stamp: $(LAB_BINS) $(LAB_CORE) $(LAB_HVRUN) $(BUILD)/bin/hvrun $(GUESTS) $(LAB_TEXTS) $(BUILD)/sources
	$(call say,TREE  $(BUILD)/handout)
	$(call write_handout,$(BUILD)/handout)
	@touch $@

handout: $(LAB_BINS) $(LAB_CORE) $(LAB_HVRUN) $(BUILD)/bin/hvrun guests ## Write a student's tree (HANDOUT=DIR)
	@rm -rf $(BUILD)/docs/labs-site; if command -v pandoc >/dev/null; then docs/site/build $(BUILD)/docs/labs-site $(VERSION) docs/labs; fi
	$(call write_handout,$(HANDOUT))

# The version's quotes are in the words: a shell takes them off once.
define write_handout
@cd labs && python3 -m kit.handout --out $(abspath $(1)) --kit-version $(VERSION) --objcopy $(OBJCOPY) \
	$(if $(filter handout,$@),--html=$(abspath $(BUILD)/docs/labs-site)) --cflags='$(subst ','\'',$(LAB_CFLAGS))' --warnings='$(filter-out $(NOWARN_clang) -Werror,$(WARN))' \
	--clang-only='-Wno-gnu-variable-sized-type-not-at-end -Wno-missing-field-initializers' \
	--libs='$(PKG_LIBS) $(VMM_DISK_LIBS) -lseccomp $(SANF)' --core-objects $(abspath $(LAB_CORE)) --rig-objects $(abspath $(RIG_OBJ)) \
	--hvrun-objects $(abspath $(LAB_HVRUN)) --programs $(abspath $(LAB_BINS) $(BUILD)/bin/hvrun) --guests $(abspath $(GUESTS))
endef

grade: labs ## Grade labs: LAB=N or all; WORK=DIR, or the solutions themselves
	@BUILD=$(BUILD) $(if $(WORK),HVLAB_WORK=$(abspath $(WORK))) labs/hvlab grade $(or $(LAB),all)

.PHONY: box
box: ## A shell on an emulated PC with AMD-V (BOX="COMMAND": only that)
	@tests/deps box
	@labs/hvlab box $(if $(BOX),-- sh -c '$(BOX)')
