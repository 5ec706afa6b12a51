"""What reads a paper by itself after it was taken in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dagster as dg

from definitions import defs
from sensors.papers import papers_taken_in
from stemma.access.principal import local_principal
from stemma.errors import InvalidInput
from stemma.ledger.change import Change
from stemma.papers import intake, steps
from stemma.store.database import Database
from stemma.store.settings import REPOSITORY, Settings

SHEETS = REPOSITORY / "samples" / "papers"


def tick(instance: dg.DagsterInstance) -> dg.SensorResult | dg.SkipReason:
    repository = defs.get_repository_def()
    return papers_taken_in(
        dg.build_sensor_context(instance=instance, repository_def=repository, sensor_name="papers_taken_in")
    )


def test_a_paper_is_asked_for_by_one_key_until_it_was_read_or_cannot_be(
    settings: Settings, database: Database, commit: Callable[[Change[Any]], Any]
) -> None:
    def take_in(name: str) -> Any:
        received = intake.receive_file(SHEETS / name, settings)
        key = intake.store(received, settings)
        return commit(database.read(lambda c: intake.record(c, local_principal(), received, key))).paper

    with dg.DagsterInstance.ephemeral() as instance:
        assert isinstance(tick(instance), dg.SkipReason)
        wine, iris = take_in("s1_wine_loo.pdf"), take_in("s2_fisher_iris.pdf")
        asked, again = tick(instance), tick(instance)
        assert {one.partition_key for one in asked.run_requests} == {str(wine.id), str(iris.id)}
        assert [one.run_key for one in asked.run_requests] == [one.run_key for one in again.run_requests]
        assert set(asked.dynamic_partitions_requests[0].partition_keys) == {str(wine.id), str(iris.id)}
        commit(database.read(lambda c: steps.pages_read(c, wine, "papers/wine/pages.json", 2)))
        assert [one.partition_key for one in tick(instance).run_requests] == [str(iris.id)]
        gone = InvalidInput("file_not_found", "The PDF is gone.")
        commit(database.read(lambda c: steps.step_failed(c, iris, "pages", gone)))
        assert isinstance(tick(instance), dg.SkipReason)
