"""Notebooks: made of a plan, executed cell by cell in a sandbox, and compared by what they put out.

`building` makes one, `kernel` starts its kernel with `variables`, `execution` executes it under limits, `telling` reads
what it tells of itself, and `canonical` says what counts of its output.
"""
