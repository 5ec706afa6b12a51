"""Failed runs reach the Historian, each once."""

from __future__ import annotations

import dagster as dg
import pytest

from sensors.journal import failed_runs
from stemma.ledger.feed import Filter, list_entries
from stemma.ledger.journal import HISTORIAN
from stemma.store.database import Database
from stemma.store.settings import Settings


@dg.op
def explode() -> None:
    raise dg.Failure("mail ada@example.org that it broke", allow_retries=False)


@dg.job
def exploding() -> None:
    explode()


def test_a_failed_run_is_recorded_once_and_redacted(settings: Settings, database: Database) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        result = exploding.execute_in_process(instance=instance, raise_on_error=False)
        context = dg.build_run_status_sensor_context(
            sensor_name="failed_runs",
            dagster_instance=instance,
            dagster_run=result.dagster_run,
            dagster_event=result.get_run_failure_event(),
        ).for_run_failure()
        failed_runs(context)
        failed_runs(context)
    with database.snapshot() as connection:
        (entry,) = list_entries(connection, HISTORIAN, Filter(kind="run.failed")).data
    assert entry.subject == f"run/{result.run_id}"
    assert (entry.data["job"], entry.data["step"]) == ("exploding", "explode")
    assert "example.org" not in entry.body.decode()


@pytest.mark.parametrize("reason", ["", "x" * 5000, "lone \udc80 surrogate"])
def test_any_reason_can_be_recorded(reason: str) -> None:
    from stemma.ledger.entries import draft
    from stemma.ledger.journal import run_failed

    entry = run_failed("1", job="j", assets=[], partition=None, step=None, reason=reason)
    assert draft(entry).entry.id == run_failed("1", job="j", assets=[], partition=None, step=None, reason=reason).id
