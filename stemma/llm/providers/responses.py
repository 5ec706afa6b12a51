"""The shapes of OpenAI's Responses API: a request, and a stream's events.

Reference: https://platform.openai.com/docs/api-reference/responses
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from stemma.llm.failures import away, garbage
from stemma.llm.model import FinishReason, Message, ToolCall, Usage
from stemma.llm.providers.base import Ended, Request
from stemma.llm.providers.counting import count
from stemma.llm.providers.frames import clean, parse

_DELTA: Final = "response.output_text.delta"
_REFUSAL: Final = "response.refusal.delta"


def body(request: Request) -> dict[str, Any]:
    """The arguments of a request for a stream. The provider is asked to keep nothing of it."""
    said: dict[str, Any] = {
        "model": request.model,
        "input": [item for message in request.messages for item in _items(message)],
        "max_output_tokens": request.max_tokens,
        "store": False,
        "stream": True,
    }
    if request.temperature is not None:
        said["temperature"] = request.temperature
    if request.tools:
        said["tools"] = [
            {
                "type": "function",
                "name": tool.name,
                "description": tool.description,
                "parameters": dict(tool.parameters),
                "strict": False,
            }
            for tool in request.tools
        ]
    if request.schema is not None:
        strict = _is_strict(request.schema)
        form = {"type": "json_schema", "name": "answer", "schema": dict(request.schema), "strict": strict}
        said["text"] = {"format": form}
    return said


def _is_strict(schema: Any) -> bool:
    """Whether the provider can be held to a schema: every object in it is closed, and all that it names is required."""
    if isinstance(schema, Mapping):
        named = schema.get("properties")
        if isinstance(named, Mapping) or schema.get("type") == "object":
            closed = schema.get("additionalProperties") is False
            if not closed or set(named or ()) != set(schema.get("required") or ()):
                return False
        return all(map(_is_strict, schema.values()))
    return not isinstance(schema, (list, tuple)) or all(map(_is_strict, schema))


def _items(message: Message) -> Iterator[dict[str, Any]]:
    if message.speaker == "tool":
        yield {"type": "function_call_output", "call_id": message.tool_call_id, "output": message.text}
        return
    if message.text or not message.tool_calls:
        yield {"role": message.speaker, "content": message.text}
    for call in message.tool_calls:
        yield {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": call.arguments}


class Reading:
    """One answer as its events come."""

    def __init__(self, provider: str) -> None:
        self._provider = provider
        self._ended: Ended | None = None
        self.over = False
        # The calls of tools come whole, in the last event.
        self.held = 0

    def text_of(self, data: bytes) -> str:
        """The text that an event adds, which may be none; raises ProviderFailed."""
        event = parse(self._provider, data)
        kind = event.get("type")
        try:
            if kind in (_DELTA, _REFUSAL):
                return clean(event["delta"])
            if kind in ("response.completed", "response.incomplete"):
                self._ended = _ended(event["response"])
                self.over = True
            elif kind in ("error", "response.failed"):
                raise away(self._provider, "told of an error in the middle of its answer")
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise garbage(self._provider, "an event of another form") from error
        return ""

    def ended(self) -> Ended:
        """The end of the answer; raises ProviderFailed (`provider_unavailable`) where the stream ended before it."""
        if self._ended is None:
            raise away(self._provider, "broke off in the middle of its answer")
        return self._ended


def _ended(response: dict[str, Any]) -> Ended:
    calls = tuple(
        ToolCall(clean(str(item["call_id"])), clean(str(item["name"])), clean(item["arguments"]))
        for item in response["output"]
        if item["type"] == "function_call"
    )
    reason: FinishReason = "tool_calls" if calls else "length" if response["status"] == "incomplete" else "stop"
    return Ended(reason, _usage(response.get("usage")), calls)


def _usage(said: dict[str, Any] | None) -> Usage | None:
    if said is None:
        return None
    details = said.get("input_tokens_details") or {}
    return count(said["input_tokens"], said["output_tokens"], details.get("cached_tokens"))
