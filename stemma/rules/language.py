"""What a condition may be: the types of its variables, the operations of CEL that it may use, and what each costs.

cel-cpp counts iterations and nothing else, holds the GIL while it works and cannot be interrupted: a regular
expression, a list that doubles in each of thirty `map`s, or a long text compared in a loop would stop the process.
So only operations whose work is bounded by the sizes below are let through, and a condition whose work at worst is
beyond `MAX_COST` is refused when it is compiled. A unit of cost is less than 0.2 µs (benchmarks/policy_rules.py).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from stemma.errors import InvalidInput

MAX_EXPRESSION: Final = 1_000
"""Characters of a condition."""
MAX_TEXT: Final = 1_000
"""Characters of a text."""
MAX_ITEMS: Final = 200
"""Items of a list."""
MAX_COST: Final = 50_000
"""Units of work of one evaluation, at worst."""
MAX_NUMBER: Final = 2**53 - 1
"""The largest number, and the smallest with a minus: all whole numbers up to it are exact (I-JSON)."""


class Type(StrEnum):
    """The type of a variable. Every number is a double: `amount > 3.0`, never `amount > 3`."""

    NUMBER = "number"
    BOOLEAN = "boolean"
    TEXT = "text"
    NUMBERS = "numbers"
    TEXTS = "texts"


LISTS: Final = frozenset({Type.NUMBERS, Type.TEXTS})

# A text is compared or searched within MAX_TEXT characters, a list within MAX_ITEMS items.
_COMPARING: Final = 8
_SEARCHING: Final = 64
OVERLOADS: Final[dict[str, int]] = {
    # logic
    "logical_and": 1,
    "logical_or": 1,
    "logical_not": 1,
    "not_strictly_false": 1,
    "conditional": 1,
    "equals": _COMPARING,
    "not_equals": _COMPARING,
    # order
    **{
        f"{order}_{kind}": _COMPARING if kind == "string" else 1
        for order in ("less", "less_equals", "greater", "greater_equals")
        for kind in ("bool", "int64", "double", "string")
    },
    # arithmetic
    **{f"{operation}_{kind}": 1 for operation in ("add", "subtract", "multiply") for kind in ("int64", "double")},
    "divide_double": 1,
    "negate_int64": 1,
    "negate_double": 1,
    "int64_to_double": 1,
    # text
    "contains_string": _SEARCHING,
    "starts_with_string": _COMPARING,
    "ends_with_string": _COMPARING,
    "size_string": _SEARCHING,
    "string_size": _SEARCHING,
    # lists
    "in_list": _COMPARING,
    "size_list": 1,
    "list_size": 1,
    "index_list": 1,
}
"""The overloads of CEL's functions that a condition may use, with their cost beside that of their arguments; `in` and
`==` over a list cost as much for each item."""


def holds_nul() -> InvalidInput:
    """The error for a condition with U+0000 in it."""
    hint = "Remove that character."
    return InvalidInput("rule_holds_nul", "The condition holds the character U+0000.", field="when", hint=hint)
