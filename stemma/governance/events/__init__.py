"""Events: facts from outside, each of a published type, kept as they came and never changed.

`schemas` says what an event type's JSON Schema may be, `types` publishes event types and finds them, `model` is what an
event is, `recording` writes them, `catalog` reads them, `importing` takes them from files, and `superstore` reads the
orders that ship with a package. What is decided of events belongs to `decisions`.
"""
