/*
 * The gdb remote serial protocol: a stub that a stock gdb attaches to ("target remote"). vCPUs are
 * threads 1..N of process 1. Rules: "Debugging with GDB", appendix E (Remote Protocol); target descriptions
 * org.gnu.gdb.i386.core.
 */
#ifndef HV_CONTROL_GDB_H
#define HV_CONTROL_GDB_H

#include "base/error.h"
#include "base/log.h"
#include "machine/machine.h"

struct hv_gdb;

HV_API_BEGIN
/* Listens on "tcp:PORT" (loopback only) or "unix:PATH", serves one gdb at a time on its own thread. The
 * machine goes on until a gdb attaches. `where` is bound now, so that a taken port is an error now. */
int hv_gdb_start(struct hv_gdb **out, struct hv_machine *machine, const char *where, const struct hv_log *log,
		 struct hv_error *err);
/* Detaches (breakpoints out, the guest goes on), joins the thread, removes the socket. NULL is fine. */
void hv_gdb_stop(struct hv_gdb *g);
HV_API_END

#endif
