#!/usr/bin/env python3
"""Lab 8: each mistake that is known by name is made, named, and marked down, and nothing beside it."""
# limit: 600
# once
# box: long
# alone
import labs_mutants_lib

labs_mutants_lib.main(8, at_once=1)  # vCPUs that spin beside each other look as if they didn't answer
