"""What ends runs of papers that nobody works on any more: their process was killed together with what watches over it,
or the job that they waited for has ended without them.
"""

import contextlib

import dagster as dg

from stemma.errors import Conflict


@dg.sensor(
    name="paper_runs_lost",
    description="Ends runs of papers whose process is dead, and those whose job has ended without them",
    minimum_interval_seconds=15,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def paper_runs_lost(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Close what is lost; it never asks for a run."""
    from stemma.ledger.service import Ledger
    from stemma.papers.runs import lifecycle, lost
    from stemma.store.database import Database
    from stemma.store.settings import load_settings

    settings = load_settings()
    with Database.open(settings) as database:
        dead, forsaken = database.read(lifecycle.lost), database.read(lifecycle.forsaken)
        if not dead and not forsaken:
            return dg.SkipReason("No run of a paper is lost.")
        for run_id in dead:
            lost.close(settings, database, run_id)
        with Ledger(database.urls, settings) as ledger:
            for run_id in forsaken:
                with contextlib.suppress(Conflict):
                    change = database.read(lambda connection, run_id=run_id: lifecycle.abandon(connection, run_id))
                    ledger.commit(change).result()
    return dg.SkipReason(f"Runs of papers that were lost: {len(dead) + len(forsaken)}.")
