"""What the quick way rests on: a few threads, and looks that are shared by whoever asks before they begin."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Iterator, Sequence

import pytest

from api.quick import Shared, Together, Workers

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


async def work_together(workers: Workers) -> None:
    begun, go_on = threading.Event(), threading.Event()
    seen: list[list[int]] = []

    def work(asked: Sequence[int]) -> list[str | Exception]:
        seen.append([*asked])
        begun.set()
        assert go_on.wait(PATIENCE)
        return [LookupError(str(one)) if one % 2 else f"{named.get()} {one}" for one in asked]

    named.set("ada")
    together = Together(workers, work, at_most=2)
    first = asyncio.ensure_future(together(0))
    assert await asyncio.to_thread(begun.wait, PATIENCE)
    others = [asyncio.ensure_future(together(number)) for number in (1, 2, 4)]
    await asyncio.sleep(0)
    first.cancel()
    go_on.set()
    told = await asyncio.gather(*others, return_exceptions=True)
    assert [str(one) for one in told] == ["1", "nobody 2", "nobody 4"] and isinstance(told[0], LookupError)
    assert seen == [[0], [1, 2], [4]] and first.cancelled()


async def share_what_failed_all(workers: Workers) -> None:
    def work(asked: Sequence[int]) -> list[str | Exception]:
        raise LookupError("all")

    together = Together(workers, work, at_most=2)
    told = await asyncio.gather(*(together(number) for number in range(3)), return_exceptions=True)
    assert [str(error) for error in told] == ["all"] * 3


def test_who_asks_meanwhile_is_worked_for_together(workers: Workers) -> None:
    asyncio.run(work_together(workers))


def test_work_that_fails_fails_for_all_of_it(workers: Workers) -> None:
    asyncio.run(share_what_failed_all(workers))


def test_who_asks_before_a_look_begins_shares_it_and_who_comes_later_looks_anew(workers: Workers) -> None:
    asyncio.run(share_and_look_anew(workers))


def test_one_after_the_other_each_looks_anew(workers: Workers) -> None:
    asyncio.run(look_anew_each_time(workers))


def test_each_who_shares_a_look_is_told_why_it_failed(workers: Workers) -> None:
    asyncio.run(share_a_failure(workers))


def test_work_sees_who_asked(workers: Workers) -> None:
    asyncio.run(see_who_asked(workers))
