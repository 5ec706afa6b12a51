from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest

from stemma.access.permissions import Role
from stemma.access.principal import Principal, local_principal
from stemma.errors import Forbidden, NotFound
from stemma.ledger.service import Ledger
from stemma.papers.kid import keeping
from stemma.papers.reports import checks, publishing
from stemma.papers.reports.catalog import newest_reports
from stemma.papers.reports.leaderboard import leaderboard_bytes, rank, read_leaderboard
from stemma.papers.reports.model import Report
from stemma.papers.reports.verdicts import Verdict


@pytest.fixture
def taken(settings: Any, database: Any, reproduce: Any) -> dict[str, Any]:
    """Both sheets that the demonstration takes to a verdict."""
    return {name: reproduce(settings, database, name) for name in ("s1_wine_loo", "s2_fisher_iris")}


def report(database: Any, paper: Any) -> Report:
    return database.read(lambda connection: publishing.report_of(connection, paper.paper.id)).report


def publish(settings: Any, database: Any, made: Report) -> Any:
    with Ledger(database.urls, settings) as ledger:
        change = database.read(lambda connection: publishing.publish(connection, made, actor="test"))
        return ledger.commit(change).result(20)


def made_of(database: Any, paper: Any) -> Report:
    return database.read(lambda connection: publishing.make_report(connection, paper.run, ()))


def test_the_sheets_have_the_verdicts_that_they_deserve(database: Any, taken: Any) -> None:
    wine, iris = report(database, taken["s1_wine_loo"]), report(database, taken["s2_fisher_iris"])
    verdicts = {one.metric: one.verdict for one in (*wine.findings, *iris.findings)}
    assert verdicts == {
        "lda.accuracy": Verdict.REPRODUCED,
        "qda.accuracy": Verdict.REPRODUCED,
        "1nn.accuracy": Verdict.NOT_REPRODUCED,
        "coef.sepal-width": Verdict.REPRODUCED,
        "coef.petal-length": Verdict.REPRODUCED,
        "coef.petal-width": Verdict.REPRODUCED,
    }
    assert (wine.claimed, wine.verdict) == (98.9, Verdict.REPRODUCED)
    assert wine.gap_percent == pytest.approx((98.87640449438202 - 98.9) / 98.9 * 100)
    assert wine.citations[0].page == 2 and "98.9" in wine.citations[0].quote
    assert iris.attempts == () and iris.to_try == ()


def test_alternatives_are_tried_in_turn_until_one_closes_the_gap(
    settings: Any, database: Any, taken: Any, measure: Any
) -> None:
    wine = taken["s1_wine_loo"]
    before = report(database, wine)
    assert [one.metric for one in before.gaps] == ["1nn.accuracy"]
    first, second, *others = before.to_try
    assert others and before.closed_by("1nn.accuracy") is None
    measure(settings, database, wine.plan, {"1nn.accuracy": 76.9}, first)
    assert made_of(database, wine).to_try == (second, *others)
    measure(settings, database, wine.plan, {"1nn.accuracy": 96.0674}, second)
    after = made_of(database, wine)
    assert after.closed_by("1nn.accuracy") == second
    assert after.to_try == ()
    tried = {one.name: [found.verdict for found in one.findings] for one in after.attempts if one.findings}
    assert tried == {first: [Verdict.NOT_REPRODUCED], second: [Verdict.REPRODUCED]}
    assert after.verdict is before.verdict
    publish(settings, database, after)
    standing = database.read(read_leaderboard)[1]
    assert (standing.paper_id, standing.closed, standing.not_reproduced) == (wine.paper.id, 1, 1)


def test_a_report_follows_the_latest_run_and_its_story_too(
    settings: Any, database: Any, taken: Any, measure: Any
) -> None:
    wine = taken["s1_wine_loo"]
    told = database.read(lambda connection: keeping.get_storyboard(connection, wine.paper.id))
    assert told.run_id == wine.run.id and "They match!" in told.storyboard.pages[-1].body
    run = measure(settings, database, wine.plan, {"lda.accuracy": 90.0})
    assert database.read(lambda connection: publishing.reported_run(connection, wine.paper.id)).id == run.id
    made = database.read(lambda connection: publishing.make_report(connection, run, ()))
    assert made.verdict is Verdict.NOT_REPRODUCED
    assert [one.verdict for one in made.findings[1:]] == [Verdict.INCONCLUSIVE] * 2
    publish(settings, database, made)
    again = database.read(lambda connection: keeping.get_storyboard(connection, wine.paper.id))
    assert (again.id, again.run_id) == (told.id, run.id)
    assert again.storyboard.pages[:-1] == told.storyboard.pages[:-1]
    assert "do not match" in again.storyboard.pages[-1].body
    assert again.storyboard.score is not None and again.storyboard.score.ours == 90.0


def test_the_same_report_is_known_and_its_bytes_are_the_same(database: Any, taken: Any) -> None:
    wine = taken["s1_wine_loo"]
    kept = database.read(lambda connection: publishing.report_of(connection, wine.paper.id))
    assert database.read(lambda connection: publishing.published(connection, kept.report)) == kept
    other = kept.report.model_copy(update={"reason": "Another one."})
    assert database.read(lambda connection: publishing.published(connection, other)) is None
    assert Report.model_validate_json(publishing.report_bytes(kept.report)) == kept.report


def test_what_there_is_not_is_said(settings: Any, database: Any, reproduce: Any) -> None:
    unreported = reproduce(settings, database, "s1_wine_loo", reported=False)
    for read, code in (
        (lambda c: publishing.report_of(c, unreported.paper.id), "report_missing"),
        (lambda c: publishing.report_of(c, uuid4()), "paper_unknown"),
        (lambda c: keeping.get_storyboard(c, unreported.paper.id), "storyboard_missing"),
    ):
        with pytest.raises(NotFound) as raised:
            database.read(read)
        assert raised.value.code == code
    with database.transaction() as connection:
        connection.execute("UPDATE p2n.runs SET status = 'failed'")
    with pytest.raises(NotFound) as raised:
        database.read(lambda c: publishing.reported_run(c, unreported.paper.id))
    assert raised.value.code == "paper_not_run"


def test_a_storyboard_is_told_before_a_run_by_who_may(settings: Any, database: Any, reproduce: Any) -> None:
    paper = reproduce(settings, database, "s2_fisher_iris", reported=False).paper
    with Ledger(database.urls, settings) as ledger:
        told = ledger.commit(database.read(lambda c: keeping.explain(c, local_principal(), paper.id))).result(20)
    assert told.run_id is None and told.storyboard.score is None and told.grade <= 3.9
    viewer = Principal("key:viewer", Role.VIEWER, frozenset({"papers:*"}), None)
    with pytest.raises(Forbidden):
        database.read(lambda c: keeping.explain(c, viewer, paper.id))


def test_the_leaderboard_ranks_what_is_reproduced_first(database: Any, taken: Any) -> None:
    standings = database.read(read_leaderboard)
    assert [(one.place, one.reproduced, one.targets) for one in standings] == [(1, 3, 3), (2, 2, 3)]
    reports = [kept.report for kept in database.read(newest_reports)]
    twice = reports[0].model_copy(update={"paper_id": uuid4()})
    places = [one.place for one in rank([*reports, twice])]
    assert sorted(places) in ([1, 1, 3], [1, 2, 2])
    assert rank(reversed(reports)) == rank(reports) and rank([]) == ()


def test_the_checks_find_what_does_not_follow(database: Any, taken: Any) -> None:
    right = report(database, taken["s1_wine_loo"])
    assert database.read(lambda c: checks.differences(c, right)) == []
    first = right.findings[0]
    for field, value, said in (
        ("claimed", 90.0, "the paper claims"),
        ("observed", 90.0, "the run measured"),
        ("gap_percent", 1.0, "the gap is"),
    ):
        wrong = right.model_copy(
            update={"findings": (first.model_copy(update={field: value}), *right.findings[1:])},
        )
        found = database.read(lambda c, wrong=wrong: checks.differences(c, wrong))
        assert any(said in problem for problem in found), field
    reports = [kept.report for kept in database.read(newest_reports)]
    board = leaderboard_bytes(rank(reports))
    assert checks.missing_from(board, reports) == []
    assert len(checks.missing_from(board, reports[:1])) == 1
    assert len(checks.missing_from(json.dumps(json.loads(board)[:1]).encode(), reports)) == 1
