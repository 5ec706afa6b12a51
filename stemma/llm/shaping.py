"""Tools and forms of answers for models that have no way of their own for them: told in words, read back as JSON.

What is read back is validated against the tool's or the answer's JSON Schema; what does not satisfy it is handed back
to the model with the reason.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from stemma.errors import InvalidInput
from stemma.llm.model import Message, Prompt, ToolCall, ToolSpec
from stemma.llm.providers.base import Ended

if TYPE_CHECKING:
    import jsonschema_rs

REPAIRS: Final = 2
"""How often a model is asked to mend an answer."""

_LARGEST_SCHEMA: Final = 1 << 16
_PATTERN_BYTES: Final = 1 << 15
_MAX_WHY: Final = 300
_CALL_BEGINS: Final = re.compile(r"(?:^|\n)[ \t]*(?=[{]|```)")
_MIGHT_BEGIN: Final = re.compile(r"(?:^|\n)[ \t]*`{0,2}\Z")
_FENCE: Final = re.compile(r"```[a-zA-Z]*\s*\n(.*?)\n?\s*```", re.DOTALL)
_TOOLS: Final = """\
You can use tools. To use one, answer with nothing but one JSON object, no words around it:
{"tool": "<name>", "arguments": {…}}
You will be told the result, and can then use another one or answer in plain words. Never make up a result.
The tools, each with the JSON Schema of its arguments:
"""
_SCHEMA: Final = """\
Answer with nothing but one JSON document, no words around it, that satisfies this JSON Schema:
"""


class Unusable(Exception):
    """An answer that is not of the form that was asked for; `why` is what the model is told."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


@dataclass(frozen=True, slots=True)
class Form:
    """What a model is asked, and how its answer is read. `tools` and `schema` are those told in its own way."""

    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...]
    schema: Mapping[str, Any] | None
    described: tuple[ToolSpec, ...]
    wanted: Mapping[str, Any] | None

    @property
    def plain(self) -> bool:
        """Whether the answer is passed on as it comes."""
        return not self.described and self.wanted is None

    def passed_on(self, held: str) -> int:
        """How much of the text that is held can be passed on already: what cannot be the beginning of a tool's call."""
        if self.wanted is not None:
            return 0
        begins = _CALL_BEGINS.search(held) or _MIGHT_BEGIN.search(held)
        return begins.start() if begins else len(held)

    def read(self, held: str, ended: Ended) -> tuple[str, tuple[ToolCall, ...]]:
        """The text and the calls of tools in what was held to the end; raises Unusable."""
        if ended.tool_calls or not held.strip():
            if self.wanted is not None and not ended.tool_calls:
                raise Unusable("The answer is empty.")
            return held, ended.tool_calls
        if self.described and (calls := _calls(held, self.described)):
            return "", calls
        return (_document(held, self.wanted) if self.wanted is not None else held), ()

    def again(self, said: str, why: str) -> tuple[Message, ...]:
        """The turns by which the model is asked to mend what it said."""
        asked = f"That cannot be used: {why} Answer again, with nothing but the corrected JSON."
        return (*self.messages, Message("assistant", said), Message("user", asked))


def form_of(prompt: Prompt, *, own_tools: bool, own_schema: bool) -> Form:
    """The form of a prompt for a model that has tools or schemas of its own, or has not."""
    words = []
    described: tuple[ToolSpec, ...] = ()
    if prompt.tools and not own_tools:
        described = prompt.tools
        words.append(_TOOLS + "\n".join(map(_described, described)))
    if prompt.schema is not None and not own_schema:
        words.append(_SCHEMA + json.dumps(prompt.schema))
    messages = tuple(map(_in_words, prompt.messages)) if described else prompt.messages
    if words:
        messages = _told(messages, "\n\n".join(words))
    return Form(
        messages=messages,
        tools=prompt.tools if own_tools else (),
        schema=prompt.schema if own_schema else None,
        described=described,
        wanted=prompt.schema,
    )


def require_schema(schema: Mapping[str, Any], field: str) -> None:
    """Raises InvalidInput (`schema_unusable`) unless answers can be validated against it."""
    import jsonschema_rs

    try:
        if len(json.dumps(schema)) > _LARGEST_SCHEMA:
            raise InvalidInput("schema_unusable", f"It has more than {_LARGEST_SCHEMA:,} characters.", field=field)
        _validator(schema)
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError, RecursionError) as error:
        what = f"It is no JSON Schema that can be used: {str(error).splitlines()[0][:_MAX_WHY]}."
        raise InvalidInput("schema_unusable", what, field=field) from error


def _told(messages: Sequence[Message], words: str) -> tuple[Message, ...]:
    """The messages with these words at the end of the first system message."""
    if messages and messages[0].speaker == "system":
        return (Message("system", f"{messages[0].text}\n\n{words}"), *messages[1:])
    return (Message("system", words), *messages)


def _described(tool: ToolSpec) -> str:
    return f"- {tool.name}: {tool.description}\n  {json.dumps(dict(tool.parameters))}"


def _in_words(message: Message) -> Message:
    """A turn about tools as a model without tools of its own can read it."""
    if message.speaker == "tool":
        return Message("user", f"Result of the tool call {message.tool_call_id}:\n{message.text}")
    if not message.tool_calls:
        return message
    calls = [json.dumps({"tool": call.name, "arguments": _loaded(call.arguments)}) for call in message.tool_calls]
    return Message(message.speaker, "\n".join(filter(None, (message.text, *calls))))


def _loaded(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _calls(held: str, tools: Sequence[ToolSpec]) -> tuple[ToolCall, ...]:
    """The calls that an answer consists of; none where it is something else. Raises Unusable for unsound ones."""
    try:
        document = _found(held)
    except Unusable:
        if '"tool"' in held:
            raise
        return ()
    given = document if isinstance(document, list) else [document]
    calls = [one for one in given if isinstance(one, dict) and isinstance(one.get("tool", one.get("name")), str)]
    if not calls or len(calls) < len(given):
        return ()
    return tuple(_call(number, one, tools) for number, one in enumerate(calls))


def _call(number: int, given: dict[str, Any], tools: Sequence[ToolSpec]) -> ToolCall:
    name = given.get("tool", given.get("name"))
    arguments = given.get("arguments", given.get("parameters", {}))
    tool = next((tool for tool in tools if tool.name == name), None)
    if tool is None:
        raise Unusable(f"There is no tool of that name; there are {', '.join(tool.name for tool in tools)}.")
    _require(tool.parameters, arguments, "The arguments are wrong")
    return ToolCall(f"call_{number}", tool.name, json.dumps(arguments, ensure_ascii=False))


def _document(held: str, schema: Mapping[str, Any]) -> str:
    document = _found(held)
    _require(schema, document, "The document does not satisfy the schema")
    return json.dumps(document, ensure_ascii=False)


def _found(held: str) -> Any:
    """The JSON in an answer: all of it, what stands in its fence, or what begins at its first bracket."""
    fenced = _FENCE.search(held)
    text = (fenced[1] if fenced else held).strip()
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    begins = min((at for at in (text.find("{"), text.find("[")) if at >= 0), default=-1)
    if begins < 0:
        raise Unusable("There is no JSON in it.")
    try:
        return json.JSONDecoder().raw_decode(text, begins)[0]
    except (ValueError, RecursionError) as error:
        why = error.msg if isinstance(error, json.JSONDecodeError) else "it is nested too deeply"
        raise Unusable(f"It is no sound JSON ({why}).") from error


def _require(schema: Mapping[str, Any], value: Any, what: str) -> None:
    import jsonschema_rs

    try:
        flaw = next(_validator(schema).iter_errors(value), None)
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
        raise Unusable(f"{what}: the schema itself cannot be used.") from error
    if flaw is not None:
        place = "".join(f"/{part}" for part in flaw.instance_path)
        raise Unusable(f"{what}{f', at {place}' if place else ''}: {flaw.message[:_MAX_WHY]}.")


def _validator(schema: Mapping[str, Any]) -> jsonschema_rs.Draft202012Validator:
    import jsonschema_rs

    engine = jsonschema_rs.RegexOptions(size_limit=_PATTERN_BYTES)
    return jsonschema_rs.Draft202012Validator(dict(schema), validate_formats=True, pattern_options=engine, offline=True)
