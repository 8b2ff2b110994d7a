# hvkit: every entry point. `make help` lists them.
#
#   make demo     install what is missing, build, show real VMs     make test     all tests
#
# Variables: CC, CFLAGS, BUILD (output folder), SAN=address,undefined or SAN=thread, WERROR=1, PREFIX, DESTDIR.

VERSION := 0.1.0
BUILD   ?= build
PREFIX  ?= /usr/local
SAN     ?=
WERROR  ?=
Q       ?= @

.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

CFLAGS ?= -O2 -g
WARN   := -Wall -Wextra -Wshadow -Wconversion -Wsign-conversion -Wstrict-prototypes -Wmissing-prototypes \
          -Wpointer-arith -Wvla -Wformat=2 -Wno-unused-parameter $(if $(WERROR),-Werror)
HARD   := -fstack-protector-strong $(if $(SAN),,-U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2)
SANF   := $(if $(SAN),-fsanitize=$(SAN) -fno-omit-frame-pointer -fno-sanitize-recover=undefined)
ALL_CFLAGS := -std=gnu17 -pthread -fvisibility=hidden -Icore -D_GNU_SOURCE -DHV_VERSION='"$(VERSION)"' \
              $(WARN) $(HARD) $(SANF) $(CFLAGS)

PKGS := libelf capstone jansson
# Private flags for what each room stands on; the tools link the static libraries where the distribution has them.
PKG_CFLAGS := $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
PKG_LIBS    = $(shell pkg-config --libs $(PKGS) 2>/dev/null)

# --- libraries -----------------------------------------------------------------------------------------------------
# libhvdisk: base and disk, no KVM. libhv: kvm to control, on top of libhvdisk.
DISK_ROOMS := base disk
HV_ROOMS   := kvm device boot machine snapshot migrate control
src = $(sort $(wildcard $(foreach r,$(1),core/$(r)/*.c core/$(r)/*/*.c)))
DISK_SRC := $(call src,$(DISK_ROOMS))
HV_SRC   := $(call src,$(HV_ROOMS))
obj  = $(patsubst %.c,$(BUILD)/$(2)/%.o,$(1))
LIBS := $(BUILD)/libhv.a $(BUILD)/libhvdisk.a

$(BUILD)/obj/%.o: %.c
	@mkdir -p $(@D)
	$(if $(Q),@echo "  CC    $<")
	$(Q)$(CC) $(ALL_CFLAGS) $(PKG_CFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/pic/%.o: %.c
	@mkdir -p $(@D)
	$(if $(Q),@echo "  CC    $< (shared)")
	$(Q)$(CC) $(ALL_CFLAGS) $(PKG_CFLAGS) -fPIC -MMD -MP -c -o $@ $<

$(BUILD)/libhvdisk.a: $(call obj,$(DISK_SRC),obj)
$(BUILD)/libhv.a: $(call obj,$(HV_SRC),obj)
$(LIBS):
	$(if $(Q),@echo "  AR    $@")
	$(Q)rm -f $@ && $(AR) rcs $@ $^

$(BUILD)/libhvdisk.so: $(call obj,$(DISK_SRC),pic)
	$(if $(Q),@echo "  LD    $@")
	$(Q)$(CC) $(ALL_CFLAGS) -shared -Wl,-soname,libhvdisk.so.0 -Wl,-z,defs -o $@ $^
	$(Q)ln -sf libhvdisk.so $(BUILD)/libhvdisk.so.0
$(BUILD)/libhv.so: $(call obj,$(HV_SRC),pic) $(BUILD)/libhvdisk.so
	$(if $(Q),@echo "  LD    $@")
	$(Q)$(CC) $(ALL_CFLAGS) -shared -Wl,-soname,libhv.so.0 -Wl,-z,defs -o $@ $(filter %.o,$^) -L$(BUILD) -lhvdisk $(PKG_LIBS)
	$(Q)ln -sf libhv.so $(BUILD)/libhv.so.0

# --- tools ---------------------------------------------------------------------------------------------------------
TOOLS := $(notdir $(patsubst %/,%,$(wildcard tools/*/)))
TOOL_BINS := $(addprefix $(BUILD)/bin/,$(TOOLS))
hvctl_LIBS := -lreadline
-include tools/*/rules.mk

define tool_rules
$(BUILD)/bin/$(1): $(call obj,$(sort $(wildcard tools/$(1)/*.c)),obj) $(LIBS)
	@mkdir -p $$(@D)
	$$(if $$(Q),@echo "  LD    $$@")
	$$(Q)$$(CC) $$(ALL_CFLAGS) $$($(1)_LDFLAGS) -o $$@ $$(filter %.o,$$^) $(LIBS) $$(or $$($(1)_PKG_LIBS),$$(PKG_LIBS)) $$($(1)_LIBS)
endef
$(foreach t,$(TOOLS),$(eval $(call tool_rules,$(t))))

# --- guests --------------------------------------------------------------------------------------------------------
include guests/rules.mk

# --- tests ---------------------------------------------------------------------------------------------------------
include tests/rules.mk

.PHONY: all libs tools help clean
all: tools libs guests
libs: $(LIBS) $(BUILD)/libhvdisk.so $(BUILD)/libhv.so
tools: $(TOOL_BINS)

clean:
	rm -rf $(BUILD)

-include $(shell [ -d $(BUILD) ] && find $(BUILD) -name '*.d' 2>/dev/null)
