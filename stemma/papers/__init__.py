"""From a paper to a verdict: its claims, a plan to reproduce them, a notebook, runs in a sandbox, and the report.

The tables are in the schema `p2n`.
"""
