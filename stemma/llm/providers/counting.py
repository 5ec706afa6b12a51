"""What providers say they used, as far as it can be believed."""

from __future__ import annotations

from typing import Any

from stemma.llm.model import Usage

_MOST = 1 << 40


def count(tokens_in: Any, tokens_out: Any, cached: Any) -> Usage:
    """The usage by these counts; raises ValueError for what no count is."""
    given = (tokens_in, tokens_out, cached or 0)
    if not all(type(number) is int and 0 <= number < _MOST for number in given):
        raise ValueError("no counts of tokens")
    return Usage(tokens_in, tokens_out, min(cached or 0, tokens_in))
