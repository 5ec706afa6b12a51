"""Decisions: a policy applied to an event in a context, written to the ledger with what it rests on.

`deciding` makes one, out of the event's `context` with its `similar` cases; `judging` is the pure part of it, which
`replaying` does again. `flags` stops nodes and steers them, `review` is what a person decides and what holds when
nobody does, `model` says what is kept and `catalog` reads it.
"""
