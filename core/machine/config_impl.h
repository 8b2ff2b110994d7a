/*
 * What the files of the configuration share. For no one else.
 */
#ifndef HV_MACHINE_CONFIG_IMPL_H
#define HV_MACHINE_CONFIG_IMPL_H

#include "machine/config.h"

/* hv_config_set for a value whose relative paths count from folder: "" or a path that ends in a slash. */
int hv_config_set_from(struct hv_config *c, const char *key, const char *value, const char *folder,
		       struct hv_error *err);

/* One word of a value, up to a single comma, copied to out; a double comma is a comma in it. *text moves
 * behind it. key is for the sentence. */
int hv_config_take_word(const char *key, const char **text, char *out, size_t size, struct hv_error *err);

/* "auto", "none", "split", "full". */
const char *hv_irqchip_word(enum hv_irqchip kind);

#endif
