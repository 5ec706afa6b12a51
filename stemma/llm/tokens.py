"""How many tokens a text has where the provider does not say: an estimate, and called one wherever it is kept."""

from __future__ import annotations

import json
from collections.abc import Iterator

from stemma.llm.model import Prompt, Usage

_PER_MESSAGE = 4
_MOST_PER_MESSAGE = 16


def estimate(text: str) -> int:
    """Tokens of a text: one for four characters of ASCII, as in English prose, and one for each other character."""
    plain = len(text.encode("ascii", "ignore"))
    return -(-plain // 4) + len(text) - plain


def estimate_prompt(prompt: Prompt) -> int:
    """Tokens of all that a prompt sends."""
    return sum(map(estimate, _texts(prompt))) + _PER_MESSAGE * len(prompt.messages)


def estimated(prompt: Prompt, answer: str) -> Usage:
    """What a call used, by these estimates; `answer` is what came of it so far."""
    return Usage(estimate_prompt(prompt), estimate(answer), counted="estimated")


def most(prompt: Prompt) -> Usage:
    """What a call can use at most: no token is shorter than a byte, and no answer longer than it may be."""
    sent = sum(len(text.encode(errors="replace")) for text in _texts(prompt))
    return Usage(sent + _MOST_PER_MESSAGE * (len(prompt.messages) + len(prompt.tools)), prompt.max_tokens)


def _texts(prompt: Prompt) -> Iterator[str]:
    for message in prompt.messages:
        yield message.text
        for call in message.tool_calls:
            yield call.name
            yield call.arguments
    for tool in prompt.tools:
        yield f"{tool.name} {tool.description} {json.dumps(tool.parameters)}"
    if prompt.schema is not None:
        yield json.dumps(prompt.schema)
