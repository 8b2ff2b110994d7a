# hvmigrate: its unit tests are linked with all of it but main.
$(BUILD)/tests/unit-hvmigrate: $(call obj,$(filter-out %/main.c,$(sort $(wildcard tools/hvmigrate/*.c))))
$(BUILD)/obj/tests/hvmigrate/%.o: private ALL_CFLAGS += -Itools/hvmigrate $(if $(SAN),-DHVM_SANITIZED)
$(BUILD)/obj/tools/hvmigrate/sandbox.o: private ALL_CFLAGS += $(if $(SAN),-DHVM_SANITIZED)
