# hvmigrate: its unit tests are linked with all of it but main.
$(BUILD)/tests/unit-hvmigrate: $(call obj,$(filter-out %/main.c,$(sort $(wildcard tools/hvmigrate/*.c))))
$(BUILD)/obj/tests/hvmigrate/%.o: private ALL_CFLAGS += -Itools/hvmigrate
