"""How many tokens a text has where the provider does not say: an estimate, and called one wherever it is kept."""

from __future__ import annotations

from stemma.llm.model import Prompt, Usage

_PER_MESSAGE = 4


def estimate(text: str) -> int:
    """Tokens of a text: one for four characters of ASCII, as in English prose, and one for each other character."""
    ascii_characters = sum(map(str.isascii, text))
    return -(-ascii_characters // 4) + len(text) - ascii_characters


def estimate_prompt(prompt: Prompt) -> int:
    """Tokens of all that a prompt sends."""
    texts = [message.text for message in prompt.messages]
    texts += [f"{call.name}{call.arguments}" for message in prompt.messages for call in message.tool_calls]
    texts += [f"{tool.name}{tool.description}{tool.parameters}" for tool in prompt.tools]
    texts += [str(prompt.schema)] if prompt.schema is not None else []
    return sum(map(estimate, texts)) + _PER_MESSAGE * len(prompt.messages)


def estimated(prompt: Prompt, answer: str) -> Usage:
    """What a call used, by these estimates; `answer` is what came of it so far."""
    return Usage(estimate_prompt(prompt), estimate(answer), counted="estimated")
