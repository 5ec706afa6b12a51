"""The router over a provider that answers, breaks off, stalls, storms and babbles, with real metering."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
import structlog

from stemma.access.principal import local_principal
from stemma.errors import InvalidInput, TooLarge
from stemma.ledger.service import Ledger
from stemma.llm import switches
from stemma.llm.blocking import Models
from stemma.llm.failures import ProviderAway, ProviderFailed, ProviderSilent
from stemma.llm.model import Caller, Completion, Delta, Finished, Message, Part, Prompt, Restarted, ToolCall, ToolSpec
from stemma.store.database import Database
from stemma.store.settings import Settings
from tests.llm.upstream import MODEL, PRICES, Answer, Upstream, words

Ask = Callable[..., Prompt]
OpenModels = Callable[..., Models]
Rows = Callable[[int], list[dict[str, Any]]]

TEXT = Answer().text
CHAT, RESPONSES = "local", "openai"
BOTH = pytest.mark.parametrize("provider", [CHAT, RESPONSES])
SEARCH = ToolSpec("search", "Finds.", {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"]})
COUNTED = {"type": "object", "required": ["count"], "properties": {"count": {"type": "integer"}}}


def texts(parts: list[Part]) -> str:
    return "".join(part.text for part in parts if isinstance(part, Delta))


def dollars(tokens_in: int, tokens_out: int) -> Decimal:
    return (tokens_in * Decimal(PRICES[0]) + tokens_out * Decimal(PRICES[1])) / 1_000_000


@BOTH
@pytest.mark.parametrize("split", [False, True])
def test_an_answer_is_streamed_and_metered_as_the_provider_counts(
    provider: str, split: bool, upstream: Upstream, open_models: OpenModels, ask: Ask, caller: Caller, rows: Rows
) -> None:
    upstream.say(Answer("Zeichen, die größer sind: 😀.", split=split, cached=2))
    *deltas, finished = open_models().stream_sync(ask(providers=(provider,)), caller)
    assert texts(deltas) == "Zeichen, die größer sind: 😀."
    assert isinstance(finished, Finished)
    (served,) = upstream.served
    assert (finished.usage.tokens_in, finished.usage.tokens_out) == (served.tokens_in, served.tokens_out)
    assert (finished.provider, finished.model, finished.reason) == (provider, MODEL, "stop")
    assert (finished.usage.counted, finished.usage.tokens_cached) == ("provider", 2)
    assert finished.cost == dollars(served.tokens_in, served.tokens_out)
    assert rows(1) == [
        {
            "provider": provider,
            "model": MODEL,
            "status": "ok",
            "error_code": None,
            "tokens_in": served.tokens_in,
            "tokens_out": served.tokens_out,
            "counted": "provider",
            "cost_est": finished.cost,
        }
    ]


@BOTH
def test_a_provider_that_does_not_count_is_estimated_and_a_limit_is_told(
    provider: str, upstream: Upstream, open_models: OpenModels, ask: Ask, caller: Caller
) -> None:
    upstream.say(Answer(usage=False))
    whole = open_models().complete_sync(ask(providers=(provider,), max_tokens=3), caller)
    assert whole.text == "The quick brown" and whole.finished.reason == "length"
    assert whole.finished.usage.counted == "estimated" and whole.finished.usage.tokens_out > 0


@BOTH
@pytest.mark.parametrize(
    ("fails", "code"),
    [
        ("dies", "provider_unavailable"),
        ("ends", "provider_unavailable"),
        ("error", "provider_unavailable"),
        ("garbage", "provider_garbage"),
        ("half_frame", "provider_garbage"),
        ("stall", "provider_timeout"),
    ],
)
def test_another_provider_begins_anew_where_one_breaks_off(
    provider: str,
    fails: Any,
    code: str,
    upstream: Upstream,
    open_models: OpenModels,
    ask: Ask,
    caller: Caller,
    rows: Rows,
) -> None:
    other, seen = CHAT if provider == RESPONSES else RESPONSES, threading.Event()
    upstream.say(Answer(fails=fails, until=seen))
    # Only what stalls has to be waited for.
    models = open_models(llm_token_timeout=0.5 if fails == "stall" else 60.0)
    parts: list[Part] = []
    for part in models.stream_sync(ask(providers=(provider, other)), caller):
        parts.append(part)
        seen.set()
    at = parts.index(Restarted(provider, code))
    assert texts(parts[:at]) and TEXT.startswith(texts(parts[:at]))
    assert texts(parts[at:]) == TEXT
    assert isinstance(parts[-1], Finished) and parts[-1].provider == other
    assert [(row["provider"], row["status"], row["error_code"]) for row in rows(2)] == [
        (provider, "error", code),
        (other, "ok", None),
    ]
    assert rows(2)[0]["counted"] == "estimated" and rows(2)[0]["tokens_in"] > 0


def test_the_stream_ends_with_a_typed_error_where_nobody_is_left(
    upstream: Upstream, open_models: OpenModels, ask: Ask, caller: Caller, rows: Rows
) -> None:
    seen = threading.Event()
    upstream.say(Answer(fails="dies", until=seen))
    with pytest.raises(ProviderAway) as refused:
        for part in open_models().stream_sync(ask(providers=(CHAT,)), caller):
            assert isinstance(part, Delta)
            seen.set()
    assert refused.value.code == "provider_unavailable" and refused.value.status == 503
    assert [row["status"] for row in rows(1)] == ["error"]


@BOTH
def test_a_provider_that_says_nothing_is_given_up(
    provider: str, upstream: Upstream, open_models: OpenModels, ask: Ask, caller: Caller, wait_until: Any
) -> None:
    upstream.say(Answer(wait=3600))
    with pytest.raises(ProviderSilent) as refused:
        open_models(llm_first_token_timeout=0.5).complete_sync(ask(providers=(provider,)), caller)
    assert refused.value.code == "provider_timeout"
    wait_until(lambda: upstream.totals.open == 0)


@BOTH
def test_the_whole_call_has_a_deadline(
    provider: str, upstream: Upstream, open_models: OpenModels, ask: Ask, caller: Caller
) -> None:
    upstream.say(Answer("word " * 10_000, gap=0.05, keep_limit=False))
    with pytest.raises(ProviderSilent, match="did not end its answer in time"):
        open_models().complete_sync(ask(providers=(provider,), timeout=1.0, max_tokens=10_000), caller)


@BOTH
@pytest.mark.parametrize(("max_tokens", "largest"), [(20, 1_000_000), (100_000, 2000)])
def test_tokens_without_end_are_cut_off_and_the_provider_is_left(
    provider: str,
    max_tokens: int,
    largest: int,
    upstream: Upstream,
    open_models: OpenModels,
    ask: Ask,
    caller: Caller,
    rows: Rows,
    wait_until: Any,
) -> None:
    upstream.say(Answer(fails="endless", gap=0.001))
    with pytest.raises(ProviderFailed) as refused:
        models = open_models(llm_max_answer_bytes=largest)
        models.complete_sync(ask(providers=(provider, "offline"), max_tokens=max_tokens), caller)
    assert refused.value.code == "answer_too_long"
    wait_until(lambda: upstream.totals.open == 0)
    assert [(row["status"], row["error_code"]) for row in rows(1)] == [("error", "answer_too_long")]


def test_arguments_without_end_are_cut_off_too(
    upstream: Upstream, open_models: OpenModels, ask: Ask, caller: Caller, wait_until: Any
) -> None:
    upstream.say(Answer(tool_calls=(("search", "again " * 10_000),)))
    with pytest.raises(ProviderFailed) as refused:
        models = open_models(llm_max_answer_bytes=2000)
        models.complete_sync(ask(providers=(CHAT,), tools=(SEARCH,)), caller)
    assert refused.value.code == "answer_too_long"
    wait_until(lambda: upstream.totals.open == 0)


@BOTH
def test_a_storm_of_refusals_is_tried_again_and_then_left_to_another(
    provider: str, upstream: Upstream, open_models: OpenModels, ask: Ask, caller: Caller, rows: Rows
) -> None:
    busy = Answer(status=429, headers=(("Retry-After", "0"),))
    upstream.say(busy, "now")
    assert open_models().complete_sync(ask(providers=(provider,)), caller).text == "now"
    assert upstream.totals.calls == 2
    upstream.say(busy, Answer(status=503), busy)
    with pytest.raises(ProviderAway) as refused:
        open_models().complete_sync(ask(providers=(provider,)), caller)
    assert refused.value.code == "provider_rate_limited"
    assert upstream.totals.calls == 5
    assert [row["tokens_in"] for row in rows(5) if row["status"] == "error"] == [0, 0, 0, 0]


def test_a_provider_that_asks_for_a_long_pause_is_left_alone(
    upstream: Upstream, open_models: OpenModels, ask: Ask, caller: Caller
) -> None:
    models = open_models()
    upstream.say(Answer(status=429, headers=(("Retry-After", "3000"),)))
    first = models.complete_sync(ask(providers=(CHAT, RESPONSES)), caller)
    second = models.complete_sync(ask(providers=(CHAT, RESPONSES)), caller)
    assert [first.finished.provider, second.finished.provider] == [RESPONSES, RESPONSES]
    assert [one.asked.protocol for one in upstream.served] == ["chat", "responses", "responses"]
    assert models.look()[CHAT].state == "resting"


def test_a_provider_that_keeps_failing_is_not_called_any_more(
    upstream: Upstream, open_models: OpenModels, ask: Ask, caller: Caller
) -> None:
    models = open_models(llm_retries=0)
    upstream.say(*[Answer(status=500)] * 5)
    codes = []
    for _ in range(7):
        with pytest.raises(ProviderAway) as refused:
            models.complete_sync(ask(providers=(CHAT,)), caller)
        codes.append(refused.value.code)
    assert codes == ["provider_unavailable"] * 5 + ["provider_resting"] * 2
    assert upstream.totals.calls == 5


@BOTH
def test_a_refusal_is_told_without_what_the_provider_said(
    provider: str, upstream: Upstream, open_models: OpenModels, ask: Ask, caller: Caller, rows: Rows
) -> None:
    upstream.say(Answer(status=401, error="The key sk-loopback is wrong for: What is an HNSW index for?"))
    with pytest.raises(ProviderFailed) as refused:
        open_models().complete_sync(ask(providers=(provider,)), caller)
    assert refused.value.code == "provider_refused" and upstream.totals.calls == 1
    assert "HTTP 401, scripted" in str(refused.value) and "sk-loopback" not in str(refused.value)
    assert [row["error_code"] for row in rows(1)] == ["provider_refused"]


@BOTH
def test_a_caller_that_leaves_ends_the_call_at_the_provider(
    provider: str, upstream: Upstream, open_models: OpenModels, ask: Ask, caller: Caller, rows: Rows, wait_until: Any
) -> None:
    upstream.say(Answer(fails="endless", gap=0.01))
    parts = open_models().stream_sync(ask(providers=(provider,), max_tokens=100_000), caller)
    assert isinstance(next(iter(parts)), Delta)
    parts.close()  # type: ignore[attr-defined]
    wait_until(lambda: upstream.served[0].ended == "left")
    (row,) = rows(1)
    assert (row["status"], row["counted"]) == ("cancelled", "estimated") and row["tokens_out"] > 0


@BOTH
def test_tools_are_asked_for_in_the_model_s_own_way(
    provider: str, upstream: Upstream, open_models: OpenModels, ask: Ask, caller: Caller
) -> None:
    models = open_models()
    wrong = "{not json"
    upstream.say(Answer(tool_calls=(("search", '{"q": "hnsw"}'), ("search", wrong))))
    first = models.complete_sync(ask(providers=(provider,), tools=(SEARCH,)), caller).finished
    assert first.reason == "tool_calls"
    assert [(call.name, call.arguments) for call in first.tool_calls] == [
        ("search", '{"q": "hnsw"}'),
        ("search", wrong),
    ]
    assert upstream.asked[0].tools == ["search"]
    turns = (
        Message("user", "Find it."),
        Message("assistant", "", first.tool_calls[:1]),
        Message("tool", "Found: a graph.", tool_call_id=first.tool_calls[0].id),
    )
    assert models.complete_sync(Prompt(turns, providers=(provider,), tools=(SEARCH,)), caller).text == TEXT
    assert "Found: a graph." in upstream.asked[1].text


def test_a_model_without_tools_is_asked_in_words_and_mends_what_it_says(
    upstream: Upstream, open_models: OpenModels, ask: Ask, caller: Caller, rows: Rows
) -> None:
    upstream.say(
        Answer(status=400, error="this model does not support tools"),
        'Let me look.\n{"tool": "search", "arguments": {"q": 7}}',
        '```json\n{"tool": "search", "arguments": {"q": "hnsw"}}\n```',
        "In plain words: {it is a graph}.",
    )
    models = open_models()
    *said, again, finished = models.stream_sync(ask(providers=(CHAT,), tools=(SEARCH,)), caller)
    assert "".join(part.text for part in said if isinstance(part, Delta)) == "Let me look."
    assert again == Restarted(CHAT, "answer_invalid") and isinstance(finished, Finished)
    assert finished.tool_calls == (ToolCall("call_0", "search", '{"q": "hnsw"}'),)
    assert [asked.tools for asked in upstream.asked] == [["search"], [], []]
    assert "is not of type" in upstream.asked[2].text
    assert [row["error_code"] for row in rows(2)] == ["answer_invalid", None]
    turns = (
        Message("user", "Find it."),
        Message("assistant", "", finished.tool_calls),
        Message("tool", "Found: a graph.", tool_call_id="call_0"),
    )
    plain = models.complete_sync(Prompt(turns, providers=(CHAT,), tools=(SEARCH,)), caller)
    assert plain.text == "In plain words: {it is a graph}." and not plain.finished.tool_calls
    assert {turn["role"] for turn in upstream.asked[3].messages} == {"system", "user", "assistant"}
    with pytest.raises(ProviderFailed, match="no tools of its own"):
        upstream.say(Answer(status=400, error="this model does not support tools"))
        models.complete_sync(ask(providers=(CHAT,), tools=(SEARCH,), tools_mode="native"), caller)


@BOTH
def test_an_answer_satisfies_its_schema_or_is_mended(
    provider: str, upstream: Upstream, open_models: OpenModels, ask: Ask, caller: Caller
) -> None:
    upstream.say("Gladly!", '{"count": "two"}', 'Here it is: {"count": 2}')
    parts = list(open_models().stream_sync(ask(providers=(provider,), schema=COUNTED), caller))
    assert [json.loads(part.text) for part in parts if isinstance(part, Delta)] == [{"count": 2}]
    assert upstream.totals.calls == 3
    form = upstream.asked[0].body["response_format" if provider == CHAT else "text"]
    assert "count" in json.dumps(form)


def test_what_cannot_be_mended_is_left_to_another_and_then_an_error(
    upstream: Upstream, open_models: OpenModels, ask: Ask, caller: Caller
) -> None:
    upstream.say("no", "no", "no", '{"count": 1}')
    whole = open_models().complete_sync(ask(providers=(CHAT, RESPONSES), schema=COUNTED), caller)
    assert whole.text == '{"count": 1}' and whole.finished.provider == RESPONSES
    upstream.say("no", "no", "no")
    with pytest.raises(ProviderFailed) as refused:
        open_models().complete_sync(ask(providers=(CHAT, "offline"), schema=COUNTED), caller)
    assert refused.value.code == "answer_invalid"


def test_prompts_that_cannot_be_asked_are_refused_before_anybody_is(
    upstream: Upstream, open_models: OpenModels, ask: Ask, caller: Caller, rows: Rows
) -> None:
    models = open_models(llm_max_prompt_bytes=100)
    refused = {
        "prompt_empty": ask(" \n"),
        "prompt_too_large": ask("ü" * 51),
        "provider_unknown": ask(providers=("gemini",)),
        "max_tokens_out_of_range": ask(max_tokens=0),
        "timeout_out_of_range": ask(timeout=float("inf")),
        "schema_unusable": ask(schema={"type": "wrong"}),
        "schema_needs_model": ask(providers=("offline",), schema={"type": "object"}),
    }
    for code, prompt in refused.items():
        with pytest.raises(InvalidInput) as error:
            models.complete_sync(prompt, caller)
        assert error.value.code == code
    assert isinstance(error.value, InvalidInput) and issubclass(TooLarge, InvalidInput)
    with pytest.raises(InvalidInput) as error:
        open_models(openai_api_key=None).complete_sync(ask(providers=(RESPONSES,)), caller)
    assert error.value.code == "provider_not_configured"
    assert upstream.totals.calls == 0 and rows(0) == []


def test_who_is_asked_follows_settings_and_what_is_there(
    upstream: Upstream, open_models: OpenModels, ask: Ask, caller: Caller
) -> None:
    def answers(models: Models, **options: Any) -> str:
        return models.complete_sync(ask(**options), caller).finished.provider

    with socket.create_server(("127.0.0.1", 0)) as taken:
        nowhere = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
    assert answers(open_models()) == RESPONSES
    assert answers(open_models(ff_paid_providers=False)) == CHAT
    assert answers(open_models(llm_providers="local,openai")) == CHAT
    assert answers(open_models(ff_paid_providers=False, local_model_url=nowhere)) == "offline"
    assert answers(open_models(openai_api_key=None, use_mocks=True), providers=(RESPONSES,)) == "offline"
    other = open_models().complete_sync(ask(model="another"), caller)
    assert other.finished.model == "another" and upstream.asked[-1].body["model"] == "another"
    with pytest.raises(ProviderAway) as refused:
        open_models(local_model_url=nowhere).complete_sync(ask(providers=(CHAT,)), caller)
    assert refused.value.code == "provider_unavailable"


def test_switched_offline_no_connection_is_opened(
    studio: tuple[Settings, Database],
    upstream: Upstream,
    open_models: OpenModels,
    ask: Ask,
    caller: Caller,
    board: switches.SwitchBoard,
    monkeypatch: pytest.MonkeyPatch,
    wait_until: Any,
) -> None:
    settings, database = studio
    tried: list[Any] = []

    def refuse(_: socket.socket, address: Any) -> None:
        tried.append(address)
        raise AssertionError(f"connects to {address}")

    def throw(*, on: bool) -> None:
        with Ledger(database.urls, settings) as ledger:
            ledger.commit(database.read(lambda c: switches.throw(c, local_principal(), "offline", on=on))).result(20)
        wait_until(lambda: board.now().offline is on)

    throw(on=True)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(socket.socket, "connect", refuse)
            patch.setattr(socket.socket, "connect_ex", refuse)
            patch.setattr(socket, "getaddrinfo", refuse)
            models = open_models()
            whole = models.complete_sync(ask(providers=(RESPONSES, CHAT)), caller)
            assert whole.finished.provider == "offline" and whole.text.startswith("Offline: ")
            assert models.look()[RESPONSES].state == "disabled"
    finally:
        throw(on=False)
    assert tried == [] and upstream.totals.calls == 0


def test_a_founder_s_failed_call_is_not_logged(upstream: Upstream, open_models: OpenModels, ask: Ask) -> None:
    models = open_models(llm_retries=0)
    upstream.say(Answer(status=500), Answer(status=500))
    with structlog.testing.capture_logs() as logs:
        for founder in (True, False):
            with pytest.raises(ProviderAway):
                models.complete_sync(
                    ask(providers=(CHAT,)), Caller("test", "test", "run", f"founder-{founder}", founder=founder)
                )
    assert [line["request_id"] for line in logs] == ["founder-False"]


def test_a_thousand_calls_at_once_are_metered_as_the_provider_counts(
    studio: tuple[Settings, Database], upstream: Upstream, open_models: OpenModels, ask: Ask, caller: Caller
) -> None:
    # However slow the machine: what is asked again would be counted twice.
    models, count = open_models(llm_connect_timeout=600.0, llm_first_token_timeout=600.0, llm_token_timeout=600.0), 1000
    said = [" ".join(["word"] * (1 + number % 7)) for number in range(count)]
    prompts = [ask(one, providers=(CHAT,), timeout=600.0) for one in said]

    async def all_at_once() -> list[Completion]:
        return await asyncio.gather(*(models._router.complete(prompt, caller) for prompt in prompts))

    assert {one.text for one in models._portal.call(all_at_once)} == {TEXT}
    totals = upstream.totals
    assert (totals.calls, totals.tokens_out) == (count, count * len(words(TEXT)))
    with studio[1].snapshot() as connection:
        kept = connection.execute(
            "SELECT count(*), sum(tokens_in), sum(tokens_out), sum(cost_est) FROM provider_usage WHERE request_id = %s",
            (caller.request_id,),
        ).fetchone()
    assert kept == (count, totals.tokens_in, totals.tokens_out, dollars(totals.tokens_in, totals.tokens_out))
