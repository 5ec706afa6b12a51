"""Outcomes: what came of a decision, as metrics, and what its node's reward makes of them.

`model` is what an outcome is, `recording` writes them and adds to what is known of the variants, `catalog` reads them.
What is learned from them belongs to `learning`.
"""
