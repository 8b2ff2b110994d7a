# Tests. tests/ROOM/*.c make one Criterion program a room; tests/e2e holds scripts that drive the tools;
# tests/check_* look at the tree and at what was built; tests/fuzz/NAME.c are fuzz targets with their seeds in
# tests/fuzz/seeds/NAME/; tests/bench measures. tests/run runs them all.
UNIT_ROOMS := $(filter-out fuzz bench e2e shim,$(notdir $(patsubst %/,%,$(sort $(dir $(wildcard tests/*/*.c))))))
UNIT_BINS  := $(addprefix $(BUILD)/tests/unit-,$(UNIT_ROOMS))

# ThreadSanitizer forbids the addresses that Criterion's sandbox wants: a shim takes Criterion's place then.
CRITERION := $(if $(findstring thread,$(SAN)),$(BUILD)/obj/tests/shim/shim.o,-lcriterion)
$(BUILD)/obj/tests/%.o: private PKG_CFLAGS += $(if $(findstring thread,$(SAN)),-Itests/shim)

define unit_rules
$(BUILD)/tests/unit-$(1): $(call obj,$(sort $(wildcard tests/$(1)/*.c))) $(LIBS) $(BUILD)/sources $(filter %.o,$(CRITERION))
	@mkdir -p $$(@D)
	$$(call say,LD    $$@)
	$$(Q)$$(CC) $$(ALL_LDFLAGS) -o $$@ $$(filter %.o,$$^) $(LIBS) $$(PKG_LIBS) $$(DISK_LIBS) $(filter -l%,$(CRITERION)) $$(unit-$(1)_LIBS)
endef
$(foreach r,$(UNIT_ROOMS),$(eval $(call unit_rules,$(r))))

# Each fuzz target twice: with a driver that replays the seeds (any compiler, part of `make test`), and with libFuzzer.
FUZZ_NAMES   := $(basename $(notdir $(wildcard tests/fuzz/*.c)))
FUZZ_SECONDS ?= 60
FUZZ_BUILD   := build-fuzz
FUZZ_FLAGS   := -fsanitize=fuzzer-no-link,address,undefined -fno-omit-frame-pointer -fno-sanitize-recover=all -O1 -g

$(BUILD)/tests/replay-%: $(BUILD)/obj/tests/fuzz/%.o $(BUILD)/obj/tests/fuzz/driver/replay.o $(LIBS)
	@mkdir -p $(@D)
	$(call say,LD    $@)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $(filter %.o,$^) $(LIBS) $(PKG_LIBS) $(DISK_LIBS)
$(BUILD)/tests/fuzz-%: $(BUILD)/obj/tests/fuzz/%.o $(LIBS)
	@mkdir -p $(@D)
	$(call say,LD    $@)
	$(Q)$(CC) $(ALL_LDFLAGS) -fsanitize=fuzzer -o $@ $(filter %.o,$^) $(LIBS) $(PKG_LIBS) $(DISK_LIBS)
.SECONDARY: $(foreach f,$(FUZZ_NAMES),$(BUILD)/obj/tests/fuzz/$(f).o) $(BUILD)/obj/tests/fuzz/driver/replay.o
FUZZ_BINS   := $(addprefix $(BUILD)/tests/fuzz-,$(FUZZ_NAMES))
REPLAY_BINS := $(addprefix $(BUILD)/tests/replay-,$(FUZZ_NAMES))

# Programs that end-to-end scripts use to do a thing thousands of times.
E2E_BINS := $(patsubst tests/e2e/%.c,$(BUILD)/tests/%,$(wildcard tests/e2e/*.c))
$(E2E_BINS): $(BUILD)/tests/%: $(BUILD)/obj/tests/e2e/%.o $(BUILD)/libhvdisk.a
	@mkdir -p $(@D)
	$(call say,LD    $@)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $(filter %.o,$^) $(BUILD)/libhvdisk.a $(DISK_LIBS)

# The bare programs that bench compares with, and the tiny images that both run.
BENCH_BINS   := $(addprefix $(BUILD)/bench/,$(basename $(notdir $(wildcard tests/bench/*.c))))
BENCH_IMAGES := $(patsubst tests/bench/%.S,$(BUILD)/bench/%.bin,$(wildcard tests/bench/*.S))
$(BENCH_BINS): $(BUILD)/bench/%: tests/bench/%.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(call say,CC    $@)
	$(Q)$(CC) $(ALL_CFLAGS) $(ALL_LDFLAGS) -o $@ $<
$(BENCH_IMAGES): $(BUILD)/bench/%.bin: tests/bench/%.S $(BUILD)/flags
	@mkdir -p $(@D)
	$(call say,AS    $@)
	$(Q)$(CC) -m32 -c -o $(@:.bin=.o) $<
	$(Q)ld -m elf_i386 -Ttext 0x1000 --oformat binary -e 0x1000 -o $@ $(@:.bin=.o)

# IN_BOX: where there is no KVM, which of the tests that need it run on the emulated PC (tests/run --help).
IN_BOX ?=
# NOT_ONCE=1: without the tests that another build has shown already.
NOT_ONCE ?=
RUN = tests/run --build $(BUILD) $(if $(SAN),--san $(SAN)) $(if $(IN_BOX),--box $(IN_BOX)) $(if $(NOT_ONCE),--not-once) $(addprefix --only ,$(T))

.PHONY: unit replay fuzz fuzz-bins e2e check test test-box test-box-intel test-bins bench bench-bins lint format
unit: $(UNIT_BINS) ## Build the unit tests (build/tests/unit-ROOM)
replay: $(REPLAY_BINS)
test-bins: tools guests labs unit replay $(E2E_BINS) $(if $(SAN),,libs)

# `make test` may have to install packages first; what pkg-config says is read when make starts, so it starts anew.
test: ## Install what is missing, build, and run all tests in parallel
	@tests/deps build test $(if $(wildcard /dev/kvm),,box)
	@$(MAKE) --no-print-directory $(ALL_CPUS) test-bins
	@CC="$(CC)" $(RUN)

test-box: ## Run all tests with KVM's on an emulated PC with AMD-V (hours; T=PATTERN: only these)
	@tests/deps build test box
	@$(MAKE) --no-print-directory $(ALL_CPUS) test-bins
	@CC="$(CC)" $(RUN) --no-kvm --box all

test-box-intel: ## Run what meets the processor on an emulated PC with VT-x (an hour or two; T=PATTERN: only these)
	@tests/deps build test bochs
	@$(MAKE) --no-print-directory $(ALL_CPUS) test-bins
	@CC="$(CC)" $(RUN) --cpu intel

e2e: tools guests labs $(E2E_BINS) ## Run the end-to-end tests only
	@CC="$(CC)" $(RUN) --kind e2e
check: libs ## Run the checks of tree, symbols and headers only
	@CC="$(CC)" $(RUN) --kind check

fuzz: ## Fuzz each target of tests/fuzz for FUZZ_SECONDS (needs clang)
	@$(MAKE) --no-print-directory fuzz-bins CC=clang BUILD=$(FUZZ_BUILD) SAN= CFLAGS='$(FUZZ_FLAGS)' LDFLAGS='$(FUZZ_FLAGS)'
	@tests/fuzz/driver/run $(FUZZ_BUILD) $(FUZZ_SECONDS) $(FUZZ_NAMES)
fuzz-bins: $(FUZZ_BINS)

bench-bins: tools guests labs $(BENCH_BINS) $(BENCH_IMAGES)
bench: ## Measure the figures of README.md beside the peers found (BENCH_ARGS=disks, labs or virtio: only those)
	@tests/deps build
	@$(MAKE) --no-print-directory bench-bins
	@tests/bench/bench --build $(BUILD) $(BENCH_ARGS)

C_FILES = $(shell git ls-files '*.c' '*.h' 2>/dev/null || find core tools guests tests labs -name '*.[ch]')
lint: ## Check layout (clang-format), clang-tidy, cppcheck, shell scripts, man pages
	@CC="$(CC)" tests/lint $(BUILD)
format: ## Lay out all C files by .clang-format
	clang-format -i $(C_FILES)
