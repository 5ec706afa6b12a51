"""Dagster's storage on our server: the URL names psycopg2, and a run completes with it."""

from __future__ import annotations

import dagster as dg
import sqlalchemy

from resources.instance import open_instance
from stemma.store.database import Database
from stemma.store.settings import Settings


def test_the_driver_is_named_because_sqlalchemy_would_pick_another(database: Database) -> None:
    url = sqlalchemy.make_url(database.urls.dagster_sqlalchemy)
    assert url.get_driver_name() == "psycopg2"
    assert sqlalchemy.make_url(database.urls.dagster).get_driver_name() == "psycopg"


def test_a_run_completes_and_is_found_again(settings: Settings, database: Database) -> None:

    @dg.asset
    def proof() -> dg.MaterializeResult:
        return dg.MaterializeResult(data_version=dg.DataVersion("42"))

    with open_instance(settings, database.urls) as instance:
        run_id = dg.materialize([proof], instance=instance).run_id
    with open_instance(settings, database.urls) as instance:
        assert instance.get_run_by_id(run_id).status == dg.DagsterRunStatus.SUCCESS
        event = instance.get_latest_materialization_event(proof.key)
        assert event.asset_materialization.tags["dagster/data_version"] == "42"
