"""What the quick way rests on: a few threads, and looks that are shared by whoever asks before they begin."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Iterator

import pytest

from api.quick import Shared, Workers

PATIENCE = 20
named: contextvars.ContextVar[str] = contextvars.ContextVar("named", default="nobody")


@pytest.fixture
def workers() -> Iterator[Workers]:
    one = Workers(1)
    yield one
    one.close()


async def share_and_look_anew(workers: Workers) -> None:
    begun, go_on = threading.Event(), threading.Event()
    looks: list[str] = []

    def look(name: str) -> int:
        looks.append(name)
        begun.set()
        assert go_on.wait(PATIENCE)
        return len(looks)

    shared = Shared(workers, look)
    gate = threading.Event()
    busy = workers.run(gate.wait, PATIENCE)
    early = [asyncio.ensure_future(shared("ada")) for _ in range(3)]
    other = asyncio.ensure_future(shared("bob"))
    await asyncio.sleep(0)
    gate.set()
    assert await busy
    assert await asyncio.to_thread(begun.wait, PATIENCE)
    late = asyncio.ensure_future(shared("ada"))
    early[0].cancel()
    go_on.set()
    assert [await one for one in (*early[1:], other, late)] == [1, 1, 2, 3] and looks == ["ada", "bob", "ada"]
    assert early[0].cancelled()


async def look_anew_each_time(workers: Workers) -> None:
    looks: list[str] = []
    shared = Shared(workers, looks.append)
    for number in range(1, 101):
        await shared("ada")
        assert len(looks) == number


async def share_a_failure(workers: Workers) -> None:
    def look(name: str) -> None:
        raise LookupError(name)

    shared = Shared(workers, look)
    gate = threading.Event()
    busy = workers.run(gate.wait, PATIENCE)
    told = asyncio.gather(shared("ada"), shared("ada"), return_exceptions=True)
    await asyncio.sleep(0)
    gate.set()
    await busy
    assert [str(error) for error in await told] == ["ada", "ada"]


async def see_who_asked(workers: Workers) -> None:
    token = named.set("ada")
    try:
        assert await workers.run(named.get) == "ada"
    finally:
        named.reset(token)


def test_who_asks_before_a_look_begins_shares_it_and_who_comes_later_looks_anew(workers: Workers) -> None:
    asyncio.run(share_and_look_anew(workers))


def test_one_after_the_other_each_looks_anew(workers: Workers) -> None:
    asyncio.run(look_anew_each_time(workers))


def test_each_who_shares_a_look_is_told_why_it_failed(workers: Workers) -> None:
    asyncio.run(share_a_failure(workers))


def test_work_sees_who_asked(workers: Workers) -> None:
    asyncio.run(see_who_asked(workers))
