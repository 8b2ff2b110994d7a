#!/usr/bin/env python3
"""Mistakes that a processor or a kernel judges, and each kind of KVM may judge in its own way, have the same names on all."""
# limit: 600
# once
# box: intel
# box: long
import os

import labs_mutants_lib

if not os.environ.get("HVLAB_BOX"):
    labs_mutants_lib.skip("labs_mutants_01 to _10 try these and all others on this machine's KVM")

labs_mutants_lib.some({
    1: ("cs_base_not_reset", "mode_left_on", "segment_not_real", "tss_misplaced"),
    2: ("shutdown_ignored", "fail_entry_ignored", "hlt_ends_waiting"),
    4: ("l-and-db", "tr-missing", "tss-not-busy", "ldt-of-data", "no-granularity", "not-accessed", "no-pae", "paging-without-protection",
        "reserved-in-cr4", "data-in-cs", "large-pml4"),
    7: ("irqchip_after_vcpu", "pit_missing", "inject_if0", "window_not_requested", "level_always_one"),
})
