/*
 * The finished filters, and what its generator and its user agree on.
 */
#ifndef HVRUN_FILTER_H
#define HVRUN_FILTER_H

#include <linux/filter.h>

/* Stands for hvrun's own PID in the program; above any PID that Linux gives (2^22). */
#define HV_FILTER_PID 0x7e57f11du

/* What a running VM needs; and the same with what user networking needs on top. */
extern const struct sock_filter hvrun_filter[], hvrun_filter_user_net[];
extern const unsigned short hvrun_filter_length, hvrun_filter_user_net_length;

/* More than the program ever has: its user copies it. */
#define HV_FILTER_MAX 1024

#endif
