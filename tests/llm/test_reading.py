"""What comes from a provider or a model: frames however they are cut, events of any form, calls told in words."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stemma.llm import shaping
from stemma.llm.circuit import FAILURES, Circuit
from stemma.llm.failures import ProviderFailed
from stemma.llm.model import Message, Prompt, ToolCall, ToolSpec
from stemma.llm.providers import chat, refusals, responses
from stemma.llm.providers.base import Ended
from stemma.llm.providers.frames import Frames, clean

STREAM = b': ping\n\ndata: {"a": "\xc3\xbc"}\r\n\r\nevent: x\ndata: 1\ndata:2\n\nid: 7\n\ndata: [DONE]\n\n'
EVENTS = [b'{"a": "\xc3\xbc"}', b"1\n2", b"[DONE]"]
LOOK = ToolSpec("look", "Looks.", {"type": "object", "properties": {"at": {"type": "integer"}}, "required": ["at"]})
STOP = Ended("stop", None)

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "delta", "content", "tool_calls", "usage", "prompt_tokens", "type", "response", "output"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_events_are_the_same_however_they_are_cut(cuts: list[int]) -> None:
    frames, places = Frames("local"), [0, *sorted(cuts), len(STREAM)]
    fed = [frames.feed(STREAM[begin:end]) for begin, end in itertools.pairwise(places)]
    assert [event for events in fed for event in events] == EVENTS
    frames.finish()


def test_half_an_event_and_one_without_end_are_told() -> None:
    frames = Frames("local")
    assert frames.feed(b'data: {"a"') == []
    with pytest.raises(ProviderFailed, match="half an event"):
        frames.finish()
    with pytest.raises(ProviderFailed, match="without end"):
        frames.feed(b"x" * (1 << 22))


@given(anything, st.sampled_from([chat.Reading, responses.Reading]))
def test_an_event_of_any_form_is_text_or_a_typed_error(document: Any, reading: Any) -> None:
    one = reading("local")
    try:
        assert isinstance(one.text_of(json.dumps(document).encode()), str)
        one.ended()
    except ProviderFailed as error:
        assert error.code in ("provider_garbage", "provider_unavailable")


MANY_CALLS = json.dumps({"choices": [{"delta": {"tool_calls": [{"index": index} for index in range(200)]}}]}).encode()
NO_INDEX = b'{"choices": [{"delta": {"tool_calls": [{"index": Infinity}]}}]}'


@pytest.mark.parametrize(
    "data",
    [b"[" * 100_000, b"\xff", b"7", b"", b'{"choices": [{"delta": {"content": 7}}]}', MANY_CALLS, NO_INDEX],
    ids=lambda data: data[:40],
)
def test_hostile_events_are_garbage(data: bytes) -> None:
    with pytest.raises(ProviderFailed) as refused:
        chat.Reading("local").text_of(data)
    assert refused.value.code == "provider_garbage"


def test_names_of_tools_can_be_stored_whatever_a_model_calls_them() -> None:
    said = {"id": "\ud800", "function": {"name": "look\0" + "x" * 1000, "arguments": "{}"}}
    reading = chat.Reading("local")
    reading.text_of(json.dumps({"choices": [{"delta": {"tool_calls": [said]}, "finish_reason": "stop"}]}).encode())
    (call,) = reading.ended().tool_calls
    assert call.id == "\ufffd" and call.name.startswith("look\ufffdx") and len(call.name) == 200


@given(st.text())
def test_cleaned_text_can_be_stored_and_is_else_unchanged(text: str) -> None:
    assert clean(text) == text.replace("\0", "\ufffd")
    assert "\0" not in clean(text + "\0\ud800") and clean(text + "\ud800").encode()


@given(st.lists(st.sampled_from(["a", " ", "\n", "`", "``", "```", "{", "}", "words "]), max_size=30))
def test_nothing_of_an_answer_is_lost_while_a_call_is_looked_for(pieces: list[str]) -> None:
    form = shaping.form_of(Prompt((Message("user", "Look."),), tools=(LOOK,)), own_tools=False, own_schema=True)
    passed, held = "", ""
    for piece in pieces:
        held += piece
        ready = form.passed_on(held)
        passed, held = passed + held[:ready], held[ready:]
        assert not any(line.lstrip(" ").startswith(("{", "```")) for line in passed.split("\n"))
    text, calls = form.read(held, STOP)
    assert passed + text == "".join(pieces) and calls == ()


def test_calls_in_words_are_read_and_unsound_ones_are_handed_back() -> None:
    form = shaping.form_of(Prompt((Message("user", "Look."),), tools=(LOOK,)), own_tools=False, own_schema=True)
    sound = '{"at": 7}'
    for said in (
        '{"tool": "look", "arguments": {"at": 7}}',
        '```json\n{"name": "look", "parameters": {"at": 7}}\n```',
        '[{"tool": "look", "arguments": {"at": 7}}]',
        '{"tool": "look", "arguments": {"at": 7}} and then I will answer.',
    ):
        assert form.read(said, STOP) == ("", (ToolCall("call_0", "look", sound),))
    for said in ('{"tool": "look", "arguments": {"at": "x"}}', '{"tool": "jump", "arguments": {}}', '{"tool": "look'):
        with pytest.raises(shaping.Unusable):
            form.read(said, STOP)
    for said in ('{"colour": "red"}', "{", "``` code ```"):
        assert form.read(said, STOP) == (said, ())


def test_a_refusal_says_when_to_come_back_and_repeats_no_words() -> None:
    assert refusals.retry_after({"retry-after": "7"}) == 7
    assert refusals.retry_after({"retry-after-ms": "250"}) == 0.25
    assert refusals.retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    assert refusals.retry_after({"retry-after": "soon"}) is None and refusals.retry_after({}) is None
    said = b'{"error": {"message": "secret", "code": "what secret was asked"}}'
    assert "secret" not in str(refusals.refusal("local", 400, {}, said))


def test_a_circuit_opens_lets_one_try_and_closes() -> None:
    now = [0.0]
    circuit = Circuit(lambda: now[0])
    for _ in range(FAILURES):
        assert circuit.admit()
        circuit.failed()
    # Those that were under way meanwhile say nothing new.
    circuit.failed()
    assert not circuit.admit() and circuit.resting == 10
    now[0] = 10
    assert circuit.admit() and not circuit.admit()
    circuit.failed()
    assert circuit.resting == 20
    now[0] = 30
    assert circuit.admit()
    circuit.left()
    assert circuit.admit()
    circuit.succeeded()
    assert circuit.admit() and circuit.admit() and circuit.resting == 0
    circuit.failed(retry_after=10_000)
    assert circuit.resting == 120
