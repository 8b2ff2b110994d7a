#!/usr/bin/env python3
"""Lab 10: each mistake that is known by name is made, named, and marked down, and nothing beside it."""
# limit: 600
# once
# box: long
import labs_mutants_lib

labs_mutants_lib.main(10)
