"""The relay without an API, as commands open it: falling back, waiting in vain, being stopped, and its streams."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from stemma.access.principal import local_principal
from stemma.agents import roster
from stemma.agents.logs import KEPT, AgentLogs
from stemma.agents.model import Call, ModelPreference, Recollection
from stemma.agents.opening import open_relay
from stemma.agents.relay import Outside, Relay
from stemma.agents.replaying import Replay
from stemma.agents.roster import parse
from stemma.agents.running import Running
from stemma.agents.stream import Stream, cleaned, decoded
from stemma.errors import InvalidInput, StemmaError
from stemma.store.database import Database, DatabaseUrls
from stemma.store.settings import Settings
from tests.llm.upstream import Answer, Upstream

Place = tuple[Settings, Database, Upstream]


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory,
    new_database: Callable[[], DatabaseUrls],
    drop_database: Callable[[DatabaseUrls], None],
) -> Iterator[Place]:
    urls = new_database()
    with Upstream() as upstream, Database(urls) as database:
        settings = Settings(home=tmp_path_factory.mktemp("alone"), local_model_url=upstream.url, llm_retries=0)
        yield settings, database, upstream
    drop_database(urls)


def call(**preference: Any) -> Call:
    agent = roster.load().find("nova").model_copy(update={"model": ModelPreference(**preference)})
    return Call(agent, local_principal(), "request-1", "test", "What is known?", memory=False)


def relayed(place: Place, wanted: Call, then: Callable[[Relay, Running], Any] | None = None) -> list[Any]:
    """Every event of a call; `then` is called once when its first token has come."""
    settings, database, _ = place

    async def follow() -> list[Any]:
        async with open_relay(settings, database) as (relay, _router):
            running = await relay.begin(wanted)
            events: list[Any] = []
            async for kind, data in running.stream.follow():
                if kind == "token" and then is not None and not any(one == "token" for one, _ in events):
                    await then(relay, running)
                events.append((kind, data))
            return events

    return asyncio.run(follow())


def test_the_next_provider_answers_anew(place: Place) -> None:
    place[2].say(Answer("Lost words of the first.", fails="dies", after=3))
    events = relayed(place, call(providers=("local", "offline")))
    restarts = [index for index, (kind, _) in enumerate(events) if kind == "restarted"]
    (at,) = restarts
    void_from = events[at][1]["void_from"]
    assert all(kind == "token" for kind, _ in events[void_from - 1 : at]) and at >= void_from
    kind, said = events[-1]
    assert (kind, said["provider"]) == ("done", "offline")
    text = "".join(data["text"] for kind, data in events[at:] if kind == "token")
    assert "Lost" not in text and text


def test_a_provider_that_falls_silent_is_not_waited_for(place: Place) -> None:
    place[2].say(Answer(fails="stall"))
    events = relayed(place, call(providers=("local",), timeout=1.0))
    assert (events[-1][0], events[-1][1]["code"]) == ("error", "provider_timeout")


def test_a_relay_that_stops_ends_its_calls(place: Place) -> None:
    async def stop(relay: Relay, _running: Running) -> None:
        await relay.stop()
        with pytest.raises(StemmaError, match="No more calls"):
            await relay.begin(call())

    place[2].say(Answer(fails="endless", gap=0.02))
    events = relayed(place, call(providers=("local",)), stop)
    assert (events[-1][0], events[-1][1]["code"]) == ("error", "studio_stopped")


class Forgetful:
    """A memory that fails in a way that nobody has thought of."""

    def recall(self, *_: Any) -> list[Recollection]:
        return []

    def remember(self, *_: Any) -> None:
        raise RuntimeError("What was it?")


def test_a_fault_at_the_end_of_a_call_is_told_and_the_next_one_is_answered(place: Place) -> None:
    settings, database, upstream = place
    upstream.say("One.", "Two.")

    async def two() -> list[Any]:
        async with open_relay(settings, database) as (relay, _router):
            relay._outside = Outside(memory=Forgetful())
            asked = call(providers=("local",))
            first = await relay.begin(replace(asked, memory=True))
            failed = [event async for event in first.stream.follow()][-1]
            with pytest.raises(StemmaError, match="unexpected"):
                await first.answer()
            second = await relay.begin(asked)
            return [failed, (await second.answer()).text, relay.find(first.job_id), relay.find(second.job_id)]

    failed, *rest = asyncio.run(two())
    assert (failed[0], failed[1]["code"], rest) == ("error", "internal_error", ["Two.", None, None])


def test_another_process_follows_what_is_written_down(place: Place) -> None:
    seen: list[Any] = []

    async def follow(_relay: Relay, running: Running) -> None:
        assert running.job_id is not None
        replay = Replay(place[1], running.job_id)
        await replay.begin()
        seen.extend([event async for event in replay.stream.follow()])

    place[2].say(Answer("word " * 50, gap=0.02))
    events = relayed(place, call(providers=("local",)), follow)
    assert seen == events


SAID = st.text(min_size=1) | st.dictionaries(st.text(), st.text() | st.integers() | st.none(), max_size=3)


@hypothesis_settings(max_examples=40)
@given(st.lists(SAID, max_size=12))
def test_a_stream_is_read_as_it_was_written_from_every_event_on(said: list[Any]) -> None:
    async def write() -> Stream:
        stream = Stream(None)
        for one in said:
            if isinstance(one, str):
                stream.token(one)
            else:
                stream.tell("told", one)
        return stream

    stream = asyncio.run(write())
    for after in range(len(said) + 1):
        found = list(decoded(bytes(stream.sent[stream.after(after) :])))
        assert len(found) == len(said) - after
        for (kind, data), one in zip(found, said[after:], strict=True):
            assert data == ({"text": one} if kind == "token" else data)
    assert stream.seq == len(said)


def test_what_is_no_number_in_json_is_null() -> None:
    assert cleaned({"facts": [float("nan"), float("-inf"), 1.5, True]}) == {"facts": [None, None, 1.5, True]}


def test_full_logs_are_moved_aside_and_the_oldest_dropped(settings: Settings) -> None:
    logs = AgentLogs(settings, max_bytes=500)
    for number in range(100):
        logs.write("nova", "call_done", number=number)
    lines = logs.tail("nova", 5)
    assert [line["number"] for line in lines] == list(range(95, 100))
    kept = sorted(logs.path("nova").parent.glob("nova.jsonl*"))
    # The last line may have filled the file.
    assert len(kept) in (KEPT, KEPT + 1)
    assert all(path.stat().st_size < 1000 for path in kept)


BROKEN = {
    "name: nova\ntitle: Nova\n": "purpose",
    "name: Nova!\ntitle: Nova\npurpose: x\nprompt: {version: 1.0.0, changelog: x, text: x}\n": "line 1",
    "name: nova\ntitle: Nova\npurpose: x\nprompt: {version: one, changelog: x, text: x}\n": "no version",
    "name: nova\ntitle: Nova\npurpose: x\nprompt: {version: 1.0.0, changelog: x, text: x}\nroles: [KING]\n": "line 5",
}


@pytest.mark.parametrize(("text", "said"), BROKEN.items())
def test_a_file_that_is_no_agent_is_refused_with_its_place(text: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        parse(text, file="nova.yaml")
