"""Dagster's storage on our server: its driver, its connections, a run that completes, and runs that were killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable

import dagster as dg
import psutil
import psycopg
import pytest
import sqlalchemy

from resources.instance import fail_interrupted_runs, open_instance, process_tag
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


@pytest.fixture
def interrupt(settings: Settings, database: Database) -> Callable[..., str]:
    """Record a run as a process leaves it that is killed while the run is under way."""

    def record(**tags: str) -> str:
        with open_instance(settings, database.urls) as instance:
            run = dg.DagsterRun(job_name="killed", status=dg.DagsterRunStatus.STARTED, tags=tags)
            return instance.add_run(run).run_id

    return record


def status(settings: Settings, database: Database, run_id: str) -> dg.DagsterRunStatus:
    with open_instance(settings, database.urls) as instance:
        return instance.get_run_by_id(run_id).status


def test_a_run_whose_process_was_killed_is_reported_failed(
    settings: Settings, database: Database, interrupt: Callable[..., str]
) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    created = psutil.Process(process.pid).create_time()
    runs = {
        "killed": interrupt(**{"stemma/process": f"{process.pid}:{created:.2f}"}),
        "of a reused pid": interrupt(**{"stemma/process": f"{os.getpid()}:1.00"}),
        "of a service": interrupt(),
        "with a broken tag": interrupt(**{"stemma/process": "nobody"}),
    }
    living = interrupt(**process_tag())
    process.kill()
    process.wait()

    assert fail_interrupted_runs(settings, database.urls, before=time.time()) == len(runs)
    assert {status(settings, database, run) for run in runs.values()} == {dg.DagsterRunStatus.FAILURE}
    assert status(settings, database, living) == dg.DagsterRunStatus.STARTED
    assert fail_interrupted_runs(settings, database.urls, before=time.time()) == 0


def test_a_run_that_began_meanwhile_is_left_alone(
    settings: Settings, database: Database, interrupt: Callable[..., str]
) -> None:
    before = time.time()
    run = interrupt()
    assert fail_interrupted_runs(settings, database.urls, before=before) == 0
    assert status(settings, database, run) == dg.DagsterRunStatus.STARTED


def test_connections_are_kept_and_replaced_when_the_server_cut_them(settings: Settings, database: Database) -> None:
    """Dagster would open one for every query."""
    mine = (
        "SELECT count(*), min(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    with (
        open_instance(settings, database.urls) as instance,
        psycopg.connect(database.urls.dagster, autocommit=True) as watcher,
    ):
        instance.get_runs_count()
        first = watcher.execute(mine).fetchone()
        instance.all_instigator_state()
        instance.get_run_records(limit=1)
        assert watcher.execute(mine).fetchone() == first and first[0] == 1
        watcher.execute(mine.replace("count(*), min(pid)", "count(pg_terminate_backend(pid))"))
        assert instance.get_runs_count() == 0
