/*
 * The finished filters, and what its generator and its user agree on.
 */
#ifndef HVRUN_FILTER_H
#define HVRUN_FILTER_H

#include <linux/filter.h>

/* Stands for hvrun's own PID in the program; above any PID that Linux gives (2^22). */
#define HV_FILTER_PID 0x7e57f11du

/* What a VM may need beyond what every VM does, as bits; there is a program for each set of them. */
enum {
	HV_FILTER_CONNECT = 1,  /* --vsock: to Unix sockets */
	HV_FILTER_USER_NET = 2, /* --net user: internet sockets */
	HV_FILTER_SETS = 4,
};

struct hv_filter {
	const struct sock_filter *program;
	unsigned short length;
};

extern const struct hv_filter hvrun_filters[HV_FILTER_SETS];

/* More than a program ever has: its user copies it. */
#define HV_FILTER_MAX 1024

#endif
