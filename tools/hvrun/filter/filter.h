/*
 * What the filter's generator and sandbox.c agree on.
 */
#ifndef HVRUN_FILTER_H
#define HVRUN_FILTER_H

/* Stands for hvrun's own PID in the generated program; above any PID that Linux gives (2^22). */
#define HV_FILTER_PID 0x7e57f11du

#endif
