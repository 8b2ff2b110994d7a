# hvkit: every entry point. `make help` lists them.
#
# One set of objects, position-independent, goes into the static and the shared libraries alike. What a build was
# made with stands in $(BUILD)/flags: another compiler or another flag rebuilds, the same ones don't.

VERSION := 0.1.0
SOVER   := 0

SAN     ?=
WERROR  ?=
comma   := ,
BUILD   ?= build$(if $(SAN),-$(subst $(comma),-,$(SAN)))
PREFIX  ?= /usr/local
BINDIR  ?= $(PREFIX)/bin
LIBDIR  ?= $(PREFIX)/lib
INCDIR  ?= $(PREFIX)/include/hvkit
MANDIR  ?= $(PREFIX)/share/man
DESTDIR ?=
V       ?=
Q       := $(if $(V),,@)
say      = $(if $(V),,@echo "  $(1)")

.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

# --- what everything is compiled with ------------------------------------------------------------------------------
CFLAGS ?= -O2 -g
# KVM's structs end in flexible arrays, and an array of entries belongs behind them.
NOWARN_clang := $(if $(findstring clang,$(CC)),-Wno-gnu-variable-sized-type-not-at-end -Wno-missing-field-initializers)
WARN   := -Wall -Wextra -Wshadow -Wconversion -Wsign-conversion -Wstrict-prototypes -Wmissing-prototypes \
          -Wpointer-arith -Wvla -Wformat=2 -Wno-unused-parameter \
          $(NOWARN_clang) $(if $(WERROR),-Werror)
HARD   := -fstack-protector-strong $(if $(SAN),,-U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2)
SANF   := $(if $(SAN),-fsanitize=$(SAN) -fno-omit-frame-pointer -fno-sanitize-recover=all)
ALL_CFLAGS  := -std=gnu17 -pthread -fPIC -fno-semantic-interposition -fvisibility=hidden -Icore -D_GNU_SOURCE \
               -DHV_VERSION='"$(VERSION)"' $(WARN) $(HARD) $(SANF) $(CFLAGS)
ALL_LDFLAGS := -pthread $(SANF) -Wl,-z,relro,-z,now -Wl,--as-needed $(LDFLAGS)

# What the rooms of core stand on, by its pkg-config name.
PKGS      := libelf capstone jansson liburing
DISK_PKGS := libdeflate libzstd libxxhash nettle libnbd libarchive expat
PKG_CFLAGS := $(shell pkg-config --cflags $(PKGS) $(DISK_PKGS) 2>/dev/null)
PKG_LIBS   := $(shell pkg-config --libs $(PKGS) 2>/dev/null)
# What a VM's disks need of them: no network disks, no appliances.
VMM_DISK_PKGS := libdeflate libzstd libxxhash nettle expat
VMM_DISK_LIBS := $(shell pkg-config --libs $(VMM_DISK_PKGS) 2>/dev/null)
DISK_LIBS  := $(shell pkg-config --libs $(DISK_PKGS) 2>/dev/null)
# libslirp's module asks for glib's development files, which nobody needs: it is loaded at run time.
PKG_OK     := $(shell pkg-config --exists $(PKGS) $(DISK_PKGS) 2>/dev/null && \
                echo '\#include <slirp/libslirp.h>' | $(CC) -E - >/dev/null 2>&1 && echo yes)

# Stamps that change only when what they hold does: flags rebuild objects, sources relink (a file may have gone).
$(BUILD)/flags: export STAMP = $(CC) $(ALL_CFLAGS) $(PKG_CFLAGS) $(ALL_LDFLAGS) $(PKG_LIBS) $(DISK_LIBS)
$(BUILD)/sources: export STAMP = $(sort $(wildcard core/*/*.c core/*/*/*.c tools/*/*.c tests/*/*.c labs/*/*.c))
$(BUILD)/flags $(BUILD)/sources: FORCE
	@mkdir -p $(@D)
	@printf '%s\n' "$$STAMP" | cmp -s - $@ || printf '%s\n' "$$STAMP" >$@

.PHONY: FORCE
FORCE: ;
$(if $(PKG_OK),,$(BUILD)/flags: need-packages)
.PHONY: need-packages
need-packages:
	@echo "hvkit needs the development packages of $(PKGS) $(DISK_PKGS) and libslirp: 'make deps' installs them, 'tests/deps --check build' lists them" >&2
	@false

$(BUILD)/obj/%.o: %.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(call say,CC    $<)
	$(Q)$(CC) $(ALL_CFLAGS) $(PKG_CFLAGS) -MMD -MP -c -o $@ $<

# --- libraries -----------------------------------------------------------------------------------------------------
# libhvdisk: base and disk, no KVM. libhv: kvm to control, on top of libhvdisk.
DISK_ROOMS := base disk
HV_ROOMS   := kvm device boot machine snapshot migrate control
src  = $(sort $(wildcard $(foreach r,$(1),core/$(r)/*.c core/$(r)/*/*.c)))
obj  = $(patsubst %.c,$(BUILD)/obj/%.o,$(1))
DISK_SRC := $(call src,$(DISK_ROOMS))
HV_SRC   := $(call src,$(HV_ROOMS))
LIBS     := $(BUILD)/libhv.a $(BUILD)/libhvdisk.a
SHARED   := $(BUILD)/libhv.so $(BUILD)/libhvdisk.so

$(BUILD)/libhvdisk.a: $(call obj,$(DISK_SRC))
$(BUILD)/libhv.a: $(call obj,$(HV_SRC))
$(LIBS): $(BUILD)/sources
	$(call say,AR    $@)
	$(Q)rm -f $@ && $(AR) rcs $@ $(filter %.o,$^)

# Shared: the file carries the full version, two links the soname and the name that -l looks for.
$(BUILD)/libhvdisk.so: $(call obj,$(DISK_SRC))
$(BUILD)/libhvdisk.so: private SO_LIBS = $(DISK_LIBS)
$(BUILD)/libhv.so: $(call obj,$(HV_SRC)) $(BUILD)/libhvdisk.so
$(BUILD)/libhv.so: private SO_LIBS = -L$(BUILD) -lhvdisk $(PKG_LIBS)
$(SHARED): $(BUILD)/sources
	$(call say,LD    $@)
	$(Q)$(CC) $(ALL_LDFLAGS) -shared $(if $(SAN),,-Wl$(comma)-z$(comma)defs) -Wl,-soname,$(@F).$(SOVER) \
		-o $@.$(VERSION) $(filter %.o,$^) $(SO_LIBS)
	$(Q)ln -sf $(@F).$(VERSION) $@.$(SOVER) && ln -sf $(@F).$(SOVER) $@

# --- tools ---------------------------------------------------------------------------------------------------------
# A folder of tools/ is a tool. tools/NAME/rules.mk may add to NAME_LIBS or say what else it needs.
TOOLS     := $(notdir $(patsubst %/,%,$(sort $(dir $(wildcard tools/*/*.c)))))
TOOL_BINS := $(addprefix $(BUILD)/bin/,$(TOOLS))
hvctl_LIBS := -lreadline $(VMM_DISK_LIBS)
hvrun_LIBS := -lseccomp
hvmigrate_LIBS := $(DISK_LIBS)
-include $(wildcard tools/*/rules.mk)

define tool_rules
$(BUILD)/bin/$(1): $(call obj,$(sort $(wildcard tools/$(1)/*.c))) $(LIBS) $(BUILD)/sources
	@mkdir -p $$(@D)
	$$(call say,LD    $$@)
	$$(Q)$$(CC) $$(ALL_LDFLAGS) $$($(1)_LDFLAGS) -o $$@ $$(filter %.o,$$^) $(LIBS) $$(PKG_LIBS) $$($(1)_LIBS)
endef
$(foreach t,$(TOOLS),$(eval $(call tool_rules,$(t))))

# --- guests and tests ----------------------------------------------------------------------------------------------
include guests/rules.mk guests/linux/rules.mk
$(sort $(foreach g,$(GUEST_FLAT) $(GUEST_ELF),$(call guest_objs,$(g)))): $(BUILD)/flags
include tests/rules.mk
include docs/rules.mk
include labs/rules.mk labs/staff/rules.mk

.PHONY: all libs tools deps demo install uninstall clean help
all: tools libs guests ## Build the libraries, the tools and the guests
libs: $(LIBS) $(SHARED) ## Build libhv and libhvdisk, static and shared
tools: $(TOOL_BINS)

deps: ## Install the packages that building and testing need
	@tests/deps build test

# Who types `make demo` wants to see it soon: as many jobs as there are CPUs, where -j said nothing. In recipes only.
ALL_CPUS = $(if $(filter -j%,$(MAKEFLAGS)),,-j$(shell nproc))

# The packages come first and make starts anew after them: what pkg-config says is read when make starts.
demo: ## Install what is missing, build, and tell a story on real VMs
	@tests/deps build $(if $(wildcard /dev/kvm),shell $(if $(wildcard /sys/module/kvm_pvm),box),box)
	@$(MAKE) --no-print-directory $(ALL_CPUS) tools guests
	@BUILD=$(abspath $(BUILD)) docs/demo.sh

# --- installation --------------------------------------------------------------------------------------------------
# A room's own headers, which no other room includes, stay at home.
PRIVATE_H := %/internal.h %_impl.h boot/elf.h boot/layout.h boot/aml.h control/gdb_% control/qmp_dispatch.h control/qmp_scan.h
DISK_H    := $(wildcard $(addprefix core/disk/,disk.h convert.h appliance.h nbd.h))
HEADERS   := $(filter-out $(PRIVATE_H),$(patsubst core/%,%,$(sort $(DISK_H) \
             $(filter-out core/disk/%,$(wildcard core/*/*.h core/*/*/*.h)))))
# hvlab lies in the tree that a course hands out, not among the installed tools.
MAN_PAGES := $(filter-out docs/man/hvlab.1,$(sort $(wildcard docs/man/*.[1-8])))

define libhv_PC
Name: libhv
Description: KVM virtual machines: one VM put together, its devices, boot and control
Version: $(VERSION)
Cflags: -I$(INCDIR)
Libs: -L$(LIBDIR) -lhv
Libs.private: -pthread
Requires: libhvdisk = $(VERSION)
Requires.private: $(PKGS)
endef
define libhvdisk_PC
Name: libhvdisk
Description: hvkit's base: errors, exact I/O, the state codec, disk images
Version: $(VERSION)
Cflags: -I$(INCDIR)
Libs: -L$(LIBDIR) -lhvdisk
Libs.private: -pthread
Requires.private: $(DISK_PKGS)
endef
$(BUILD)/libhv.pc: export TEXT = $(libhv_PC)
$(BUILD)/libhvdisk.pc: export TEXT = $(libhvdisk_PC)
$(BUILD)/%.pc: FORCE
	@mkdir -p $(@D)
	@printf '%s\n' "$$TEXT" >$@

install: all ## Install under PREFIX (below DESTDIR)
	@$(MAKE) --no-print-directory install-files

# What is there already is installed, nothing is built: root need not compile, nor know how the build was made.
.PHONY: install-files
install-files: $(BUILD)/libhv.pc $(BUILD)/libhvdisk.pc
	install -d $(addprefix $(DESTDIR),$(BINDIR) $(LIBDIR)/pkgconfig $(sort $(dir $(addprefix $(INCDIR)/,$(HEADERS)))))
	$(if $(TOOL_BINS),install -m 755 $(TOOL_BINS) $(DESTDIR)$(BINDIR))
	install -m 644 $(LIBS) $(DESTDIR)$(LIBDIR)
	install -m 644 $(BUILD)/libhv.pc $(BUILD)/libhvdisk.pc $(DESTDIR)$(LIBDIR)/pkgconfig
	for l in libhv libhvdisk; do \
		install -m 755 $(BUILD)/$$l.so.$(VERSION) $(DESTDIR)$(LIBDIR) && \
		ln -sf $$l.so.$(VERSION) $(DESTDIR)$(LIBDIR)/$$l.so.$(SOVER) && \
		ln -sf $$l.so.$(SOVER) $(DESTDIR)$(LIBDIR)/$$l.so || exit 1; \
	done
	for h in $(HEADERS); do install -m 644 core/$$h $(DESTDIR)$(INCDIR)/$$h || exit 1; done
	for m in $(MAN_PAGES); do install -D -m 644 $$m $(DESTDIR)$(MANDIR)/man$${m##*.}/$${m##*/} || exit 1; done

uninstall: ## Remove what install put there
	rm -f $(addprefix $(DESTDIR)$(BINDIR)/,$(TOOLS)) $(addprefix $(DESTDIR)$(LIBDIR)/pkgconfig/,libhv.pc libhvdisk.pc)
	for l in libhv libhvdisk; do \
		rm -f $(DESTDIR)$(LIBDIR)/$$l.a $(DESTDIR)$(LIBDIR)/$$l.so $(DESTDIR)$(LIBDIR)/$$l.so.$(SOVER) \
			$(DESTDIR)$(LIBDIR)/$$l.so.$(VERSION) || exit 1; \
	done
	for m in $(MAN_PAGES); do rm -f $(DESTDIR)$(MANDIR)/man$${m##*.}/$${m##*/}; done
	rm -f $(addprefix $(DESTDIR)$(INCDIR)/,$(HEADERS))
	-for d in $(sort $(dir $(HEADERS))); do rmdir $(DESTDIR)$(INCDIR)/$$d; done 2>/dev/null
	-rmdir $(DESTDIR)$(INCDIR) 2>/dev/null

clean: ## Remove what was built (build/; SAN builds have folders of their own)
	rm -rf $(BUILD)

help: ## List the targets
	@echo "hvkit $(VERSION). Targets:"
	@sed -n 's/^\([a-z][a-z0-9-]*\):[^#]*## /\1\t/p' Makefile tests/rules.mk guests/rules.mk guests/linux/rules.mk docs/rules.mk labs/rules.mk labs/staff/rules.mk | sort -u | \
		awk -F'\t' '{ printf "  make %-10s %s\n", $$1, $$2 }'
	@echo "Variables: CC, CFLAGS, LDFLAGS, BUILD (folder), WERROR=1, SAN=address,undefined or SAN=thread, PREFIX, DESTDIR,"
	@echo "  V=1 (show commands), T=PATTERN (only these tests), FUZZ_SECONDS (each target of make fuzz)"

-include $(shell find $(BUILD)/obj $(BUILD)/guests/obj -name '*.d' 2>/dev/null)
