"""Governance: what is decided by rule, by whom, and how far it may be decided alone.

`policy` is what a policy says, `yaml_text` reads it from YAML with the place of each part, `checking` finds what is
wrong with it, `evaluation` applies it to an event, `golden` has the cases that it must satisfy, `policies` publishes
and finds versions.
"""
