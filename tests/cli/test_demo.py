"""The year of decisions in the demonstration, on a slice of it: it adds up, comes out again, and is lived once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple

import pytest

from cli.governance import Governed, govern, print_governed
from cli.output import print_json
from stemma.access.principal import local_principal
from stemma.governance.decisions.deciding import Decider
from stemma.governance.decisions.replaying import replay_all
from stemma.governance.demonstration import living
from stemma.governance.demonstration.happenings import FINANCE, Happening, happenings, profits
from stemma.governance.samples import publish_samples
from stemma.knowledge.embedding import Embedder
from stemma.ledger.service import Ledger
from stemma.ledger.verification import verify
from stemma.progress import Progress
from stemma.store.database import Database
from stemma.store.settings import Settings

ORDERS = 240
DAYS = 50
FOUND = happenings(orders=ORDERS, days=DAYS)
DECIDED = [one for one in FOUND if one.node]
BROKEN_AT = 70


class Killed(BaseException):
    """Ends it where it is, as a signal does."""


@contextmanager
def killed_at(stage: str, done: int) -> Iterator[Callable[[Progress], None]]:
    def report(step: Progress) -> None:
        if (step.stage, step.done) == (stage, done):
            raise Killed

    with pytest.raises(Killed):
        yield report


def count(database: Database, table: str) -> int:
    row = database.read(lambda c: c.execute(f"SELECT count(*) FROM {table}").fetchone())
    assert row is not None
    return int(row[0])


@pytest.fixture(scope="module")
def broken(studio: tuple[Settings, Database], equip: Callable[[Settings], Embedder]) -> tuple[int, int]:
    """A first month that was broken off while it was decided, and again once it was; how many decisions there were."""
    settings, database = studio
    equip(settings)
    first = living.months(FOUND)[0]
    with Ledger(database.urls, settings) as ledger:
        publish_samples(database, ledger, local_principal())
        year = living.Year(database, ledger, Decider(database, settings), local_principal())
        with killed_at("decide", BROKEN_AT) as report:
            year.live(first, report)
        then = count(database, "decisions")
        with killed_at("settle as people", 1) as report:
            year.live(first, report)
    return then, count(database, "decisions")


@pytest.fixture(scope="module")
def governed(studio: tuple[Settings, Database], broken: tuple[int, int]) -> Governed:
    """The rest of it."""
    return govern(*studio, FOUND)


def test_it_goes_on_where_it_was_broken_off(
    studio: tuple[Settings, Database], broken: tuple[int, int], governed: Governed
) -> None:
    first = [one for one in living.months(FOUND)[0].happenings if one.node]
    assert BROKEN_AT <= broken[0] < broken[1] == len(first)
    assert governed.lived.decisions == len(DECIDED) - len(first)
    assert governed.lived.events == len(FOUND) - len(living.months(FOUND)[0].happenings)
    twice = "(SELECT event_id FROM decisions GROUP BY event_id HAVING count(*) > 1) AS twice"
    assert count(studio[1], twice) == 0
    assert verify(studio[1], studio[0]).clean


def test_its_numbers_add_up(studio: tuple[Settings, Database], governed: Governed) -> None:
    finance, people = governed.summary.desks
    assert finance.events == {"DiscountRequested": ORDERS}
    assert sum(people.events.values()) == len(FOUND) - ORDERS
    for desk, asked in ((finance, ORDERS), (people, len(DECIDED) - ORDERS)):
        assert sum(one.decisions for one in desk.decided) == asked == sum(one.rate.draws for one in desk.variants)
        assert all(one.decisions == one.alone + one.by_people + one.waiting for one in desk.decided)
        assert desk.outcomes.told == desk.outcomes.successes + desk.outcomes.failures
        assert desk.outcomes.counted == sum(one.rate.successes + one.rate.failures for one in desk.variants)
        assert sum(one.propensity for one in desk.variants) == pytest.approx(1.0)
    # What the first month taught let some of the second take effect alone.
    assert sum(one.alone for one in finance.decided) > 0 < finance.outcomes.counted
    left_open = [one for one in DECIDED if one.node == FINANCE and living.months(FOUND)[-1].is_left_open(one)]
    assert 0 < sum(one.waiting for one in finance.decided) <= len(left_open)


def test_what_was_saved_stands_beside_what_is_known(governed: Governed) -> None:
    saved, known = governed.summary.saved, profits(FOUND)
    assert saved is not None
    assert saved.all == pytest.approx(sum(known.values()))
    waiting = sum(one.waiting for one in governed.summary.desks[0].decided)
    assert saved.given + saved.refused + waiting == ORDERS
    assert saved.refused_known < 0.0
    modelled = [one for one in saved.estimates if one.of.startswith("refused")]
    assert {one.how for one in modelled} == {"modelled, nearest", "modelled, regression"}
    assert all(one.estimated is not None and one.estimated.low <= one.estimated.high for one in modelled)
    assert [one.known for one in modelled] == pytest.approx([saved.refused_known] * 2)


def test_every_decision_comes_out_again(governed: Governed) -> None:
    assert (governed.summary.replayed, governed.summary.differing) == (len(DECIDED), ())


def test_a_second_time_adds_nothing(studio: tuple[Settings, Database], governed: Governed) -> None:
    settings, database = studio
    tables = ("events", "decisions", "outcomes", "ledger", "decision_embeddings", "knowledge_snapshots")
    before = [count(database, table) for table in tables]
    again = govern(settings, database, FOUND)
    assert set(astuple(again.lived)) == {0} and again.made is None
    assert [count(database, table) for table in tables] == before
    assert again.summary == governed.summary


def test_it_is_told(governed: Governed, capsys: pytest.CaptureFixture[str]) -> None:
    assert governed.summary.saved is not None
    print_governed(governed)
    told = " ".join(capsys.readouterr().out.split())
    assert f"finance: {ORDERS} DiscountRequested" in told
    assert "No promotion was proposed." in told and f"{governed.summary.saved.refused} refused requests" in told
    assert f"Replay: {len(DECIDED)} decisions made again" in told and "0 differ" in told
    print_json(governed)
    assert json.loads(capsys.readouterr().out)["summary"]["desks"][0]["events"] == {"DiscountRequested": ORDERS}


def test_another_policy_than_the_recorded_one_differs(studio: tuple[Settings, Database], governed: Governed) -> None:
    _, database = studio
    with database.owner() as connection:
        connection.execute("ALTER TABLE decisions DISABLE TRIGGER frozen")
        connection.execute(
            "UPDATE decisions SET policy_sha256 = sha256('another')"
            " WHERE id = (SELECT id FROM decisions WHERE node = 'finance' ORDER BY position LIMIT 1)"
        )
        connection.execute("ALTER TABLE decisions ENABLE TRIGGER frozen")
    assert len(database.read(lambda c: replay_all(c, node=FINANCE)).differing) == 1


def test_the_samples_are_the_same_every_time() -> None:
    again: tuple[Happening, ...] = happenings(orders=ORDERS, days=DAYS)
    assert again == FOUND and [one.at for one in FOUND] == sorted(one.at for one in FOUND)
