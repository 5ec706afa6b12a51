"""Telling the Historian, and who subscribed to it, of runs that failed, wherever they were started."""

from typing import TYPE_CHECKING

import dagster as dg

if TYPE_CHECKING:
    from stemma.ledger.entries import NewEntry
    from stemma.notify.messages import Message


@dg.run_failure_sensor(
    name="failed_runs",
    description="Records each failed run in the Historian, once",
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
    # Also runs of the command line, which belong to no code location.
    monitor_all_code_locations=True,
)
def failed_runs(context: dg.RunFailureSensorContext) -> None:
    """Append an entry for the run; the same entry as before when the sensor sees it again."""
    from stemma.ledger.journal import run_failed
    from stemma.ledger.service import Ledger
    from stemma.notify.outbox import enqueue
    from stemma.store.database import resolve_urls
    from stemma.store.settings import load_settings

    run, steps = context.dagster_run, context.get_step_failure_events()
    settings = load_settings()
    entry = run_failed(
        run.run_id,
        job=run.job_name,
        assets=sorted(key.to_user_string() for key in run.asset_selection or ()),
        partition=run.tags.get("dagster/partition"),
        step=steps[0].step_key if steps else None,
        reason=context.failure_event.message or "",
    )
    with Ledger(resolve_urls(settings), settings) as ledger:
        ledger.append([entry], [enqueue(_news(run.job_name, entry))]).result()


def _news(job: str, entry: "NewEntry") -> "Message":
    from stemma.notify.messages import Message

    data = {"run": entry.subject, **entry.data}
    return Message(entry.kind, f"Run failed: {job}", str(entry.data["reason"]), data, id=entry.id)
