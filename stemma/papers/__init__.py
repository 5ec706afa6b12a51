"""Papers: what they claim, a plan to reproduce it, and what became of it.

`model` is what the tables of the schema `p2n` hold, `plan` the document that a run follows. Nothing here believes a
claim because it is printed, or a value because a model says that it is.
"""
