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
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $(filter %.o,$^) $(LIBS) $(PKG_LIBS)

# A lab's part of the rig may look at what only the file's own room sees (machine/internal.h), and at other labs' parts.
$(BUILD)/obj/labs/%.o: private ALL_CFLAGS += -Ilabs

.PHONY: labs
labs: $(LAB_BINS) ## Build the lab kit's programs (build/labs/)
