"""The shapes of OpenAI's Chat Completions, as Ollama, llama.cpp and vLLM speak them: a request, and a stream's events.

Reference: https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from stemma.llm.failures import away, garbage
from stemma.llm.model import FinishReason, Message, ToolCall, Usage
from stemma.llm.providers.base import Ended, Request
from stemma.llm.providers.counting import count
from stemma.llm.providers.frames import clean, parse

_MOST_CALLS: Final = 128
_LONGEST_NAME: Final = 200
_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "stop",
}


def body(request: Request) -> dict[str, Any]:
    """The JSON of a request for a stream."""
    said: dict[str, Any] = {
        "model": request.model,
        "messages": [_turn(message) for message in request.messages],
        "max_tokens": request.max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if request.temperature is not None:
        said["temperature"] = request.temperature
    if request.tools:
        said["tools"] = [
            {
                "type": "function",
                "function": {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)},
            }
            for tool in request.tools
        ]
    if request.schema is not None:
        form = {"name": "answer", "schema": dict(request.schema)}
        said["response_format"] = {"type": "json_schema", "json_schema": form}
    return said


def _turn(message: Message) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": message.speaker, "content": message.text}
    if message.tool_calls:
        turn["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        turn["tool_call_id"] = message.tool_call_id
    return turn


@dataclass(slots=True)
class _Call:
    id: str
    name: str
    arguments: list[str] = field(default_factory=list)


class Reading:
    """One answer as its events come."""

    def __init__(self, provider: str) -> None:
        self._provider = provider
        self._reason: FinishReason | None = None
        self._usage: Usage | None = None
        self._calls: dict[int, _Call] = {}
        self.over = False
        self.held = 0

    def text_of(self, data: bytes) -> str:
        """The text that an event adds, which may be none; raises ProviderFailed."""
        if data == b"[DONE]":
            self.over = True
            return ""
        event = parse(self._provider, data)
        try:
            if choices := event.get("choices"):
                choice = choices[0]
                delta = choice.get("delta") or {}
                if calls := delta.get("tool_calls"):
                    self._add(calls)
                if (reason := choice.get("finish_reason")) is not None:
                    self._reason = _REASONS.get(reason, "stop")
                text = delta.get("content")
            else:
                text = None
                if "error" in event:
                    raise away(self._provider, "told of an error in the middle of its answer")
            if usage := event.get("usage"):
                details = usage.get("prompt_tokens_details") or {}
                self._usage = count(usage["prompt_tokens"], usage["completion_tokens"], details.get("cached_tokens"))
            return clean(text) if text else ""
        except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise garbage(self._provider, "an event of another form") from error

    def ended(self) -> Ended:
        """The end of the answer; raises ProviderFailed (`provider_unavailable`) where the stream ended before it."""
        if self._reason is None:
            raise away(self._provider, "broke off in the middle of its answer")
        calls = tuple(
            ToolCall(clean(call.id or f"call_{index}"), clean(call.name), clean("".join(call.arguments)))
            for index, call in sorted(self._calls.items())
        )
        # Some servers say `stop` for an answer that asks for tools.
        return Ended("tool_calls" if calls else self._reason, self._usage, calls)

    def _add(self, calls: list[dict[str, Any]]) -> None:
        for given in calls:
            function = given.get("function") or {}
            call = self._calls.setdefault(int(given.get("index", 0)), _Call("", ""))
            call.id = call.id or str(given.get("id") or "")[:_LONGEST_NAME]
            call.name = call.name or str(function.get("name") or "")[:_LONGEST_NAME]
            if part := function.get("arguments"):
                call.arguments.append(str(part))
                self.held += len(call.arguments[-1])
        if len(self._calls) > _MOST_CALLS:
            raise garbage(self._provider, "more calls of tools than anybody can mean")
